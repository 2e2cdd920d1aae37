use super::*;
use crate::{
    config::{Limits, PoolConfig, ShmConfig},
    host::session::Session,
    pool::{Pool, PoolLimits},
    session::{Ids, OpenRequest, Stores, open},
    worker::{
        fake::{Act, FakeFactory},
        process::ring_door::Memory,
    },
};
use arrow_array::{ArrayRef, Int64Array, cast::AsArray, types::Int64Type};
use arrow_schema::{DataType, Field, Schema, SchemaRef};
use pillion_wire::ipc;
use proptest::prelude::*;

/// Makes its row fail.
const BAD: i64 = -1;
/// Makes its worker crash.
const DEADLY: i64 = -2;

fn schema() -> SchemaRef {
    Arc::new(Schema::new(vec![Field::new("a", DataType::Int64, false)]))
}

fn numbers(values: &[i64]) -> RecordBatch {
    RecordBatch::try_new(schema(), vec![Arc::new(Int64Array::from(values.to_vec())) as ArrayRef]).unwrap()
}

fn values(batch: &RecordBatch) -> Vec<i64> {
    batch.column(0).as_primitive::<Int64Type>().values().to_vec()
}

/// Fails on bad rows, crashes on deadly ones, takes a millisecond for every ten.
fn judge(batch: &Batch) -> Act {
    let Batch::Frame(frame) = batch else { unreachable!("workers that are processes get frames") };
    let values = values(&ipc::Decoder::new(&schema()).unwrap().decode(frame).unwrap());
    if values.contains(&DEADLY) {
        return Act::Crash;
    }
    match values.iter().position(|&value| value == BAD) {
        Some(row) => Act::FailAt(row as u64),
        None => Act::EchoAfter(Duration::from_millis(values.len() as u64 / 10)),
    }
}

struct Bench {
    factory: Arc<FakeFactory>,
    session: Session,
}

async fn bench(kind: &str, workers: usize, limits: Limits, act: Act, allowance: Option<Allowance>) -> Bench {
    let factory = FakeFactory::new(move |_, _| act.clone());
    let function = proto::FunctionDescription { kind: kind.into(), ..Default::default() };
    *factory.prepared.lock().unwrap() = proto::Prepared { output_schema: ipc::schema_to_ipc(&schema()).into(), functions: vec![function] };
    let pool_limits = PoolLimits { pool: PoolConfig { max: workers, ..Default::default() }, shutdown_grace: Duration::from_millis(100) };
    let pool = Pool::new("test".into(), factory.clone(), pool_limits);
    let source = proto::function_spec::Source::Module(proto::ModuleFunction { module: "m".into(), name: "f".into() });
    let call = proto::Call { function: Some(proto::FunctionSpec { source: Some(source), ..Default::default() }), arguments: vec![] };
    let request = OpenRequest {
        plan: proto::Plan { calls: vec![call], outputs: vec![] },
        input_schema: ipc::schema_to_ipc(&schema()),
        options: proto::SessionOptions { unordered: allowance.is_some_and(|allowance| !allowance.ordered), ..Default::default() },
        ..Default::default()
    };
    let opened = open(pool, request, Ids { session: "s-1".into(), plan: 1 }, ("test", false), &limits, &Stores::default()).await.unwrap();
    let session = Session::embedded(opened, &Memory::new(ShmConfig::default(), &Limits::default()), vec![schema()]).unwrap();
    let session = match allowance {
        Some(allowance) => session.coalesce(allowance),
        None => session,
    };
    Bench { factory, session }
}

fn allow(millis: u64, max_rows: u64) -> Option<Allowance> {
    Some(Allowance { max_delay: Duration::from_millis(millis), max_rows, ordered: true })
}

/// What an operator does.
#[derive(Clone, Debug)]
enum Step {
    Send(Vec<i64>),
    Watermark,
    Pause(u64),
}

/// An answer: the number of its batch, and the values or the code and row of the failure.
type Seen = (u64, Result<Vec<i64>, (Code, Option<u64>)>);

/// Does all steps, and gives the numbers of what was sent, the answers, and the engine's totals (batches and failed).
async fn run(session: Session, steps: Vec<Step>) -> (Vec<u64>, Vec<Seen>, (u64, u64)) {
    let (mut input, mut output) = session.split();
    let sending = async move {
        let mut sent = Vec::new();
        for step in steps {
            match step {
                Step::Send(values) => sent.push(input.send(numbers(&values)).await.unwrap()),
                Step::Watermark => sent.push(input.watermark(0).await.unwrap()),
                Step::Pause(millis) => tokio::time::sleep(Duration::from_millis(millis)).await,
            }
        }
        input.finish().await.unwrap();
        sent
    };
    let receiving = async move {
        let mut seen = Vec::new();
        while let Some(answer) = output.recv().await {
            seen.push(match answer {
                Ok(Output { seq, batch, .. }) => (seq, Ok(values(&batch))),
                Err(error) => {
                    let row = error.exception().and_then(|exception| exception.row.as_ref()).map(|row| row.index);
                    (error.seq().unwrap_or_else(|| panic!("the session ended: {error:?}")), Err((error.code(), row)))
                }
            });
        }
        let ended = output.ended().unwrap();
        (seen, (ended.batches, ended.failed))
    };
    let (sent, (seen, totals)) = tokio::join!(sending, receiving);
    (sent, seen, totals)
}

fn step() -> impl Strategy<Value = Step> {
    let value = prop_oneof![60 => 0..1000i64, 1 => Just(BAD)];
    prop_oneof![
        12 => prop::collection::vec(value, 0..8).prop_map(Step::Send),
        2 => prop::collection::vec(0..1000i64, 20..60).prop_map(Step::Send),
        1 => Just(Step::Send(vec![7, DEADLY])),
        2 => Just(Step::Watermark),
        3 => (0..20u64).prop_map(Step::Pause),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    /// Whatever is sent and fails, the operator sees what it would see without coalescing.
    #[test]
    fn answers_are_those_of_batches_sent_alone(
        steps in prop::collection::vec(step(), 1..80),
        workers in 1..4usize,
        delay in 0..8u64,
        max_rows in 1..40u64,
        credit in prop_oneof![Just(4u64 << 20), 1..60u64],
        ordered: bool,
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
        runtime.block_on(async {
            let limits = Limits { session_input_rows: credit, ..Default::default() };
            let alone = run(bench("scalar", workers, limits.clone(), Act::By(judge), None).await.session, steps.clone()).await;
            let allowance = Allowance { max_delay: Duration::from_millis(delay), max_rows, ordered };
            let bench = bench("scalar", workers, limits, Act::By(judge), Some(allowance)).await;
            let mut together = run(bench.session, steps).await;
            if !ordered {
                together.1.sort_by_key(|(seq, _)| *seq);
            }
            assert_eq!(alone, together);
        });
    }
}

#[tokio::test(start_paused = true)]
async fn many_small_batches_are_few_large_ones() {
    let slow = Act::EchoAfter(Duration::from_millis(5));
    let bench = bench("scalar", 1, Limits::default(), slow, allow(3, 100)).await;
    assert!(bench.session.is_coalescing());
    let (_, seen, totals) = run(bench.session, (0..1000).map(|value| Step::Send(vec![value])).collect()).await;
    assert_eq!(seen, (0..1000).map(|value| (value as u64 + 1, Ok(vec![value]))).collect::<Vec<_>>());
    assert_eq!(totals, (1000, 0), "counted as the operator counts");
    // The first goes at once, the rest by the hundred.
    assert_eq!(bench.factory.executed.lock().unwrap().len(), 11);
}

#[tokio::test(start_paused = true)]
async fn a_batch_that_is_alone_does_not_wait() {
    let mut session = bench("scalar", 1, Limits::default(), Act::Echo, allow(1000, 100)).await.session;
    let begun = Instant::now();
    for value in 0..10 {
        session.send(numbers(&[value])).await.unwrap();
        assert_eq!(values(&session.recv().await.unwrap().unwrap().batch), [value]);
    }
    assert!(begun.elapsed() < Duration::from_millis(10), "{:?}", begun.elapsed());
}

#[tokio::test(start_paused = true)]
async fn no_batch_waits_longer_than_allowed() {
    let slow = Act::EchoAfter(Duration::from_secs(1));
    let bench = bench("scalar", 2, Limits::default(), slow, allow(20, 100)).await;
    let (mut input, mut output) = bench.session.split();
    for value in 0..3 {
        input.send(numbers(&[value])).await.unwrap();
    }
    let begun = Instant::now();
    for value in 0..3 {
        let Output { batch, timing, .. } = output.recv().await.unwrap().unwrap();
        assert_eq!(values(&batch), [value]);
        let waited = Duration::from_nanos(timing.queue_ns);
        assert!(if value == 0 { waited < Duration::from_millis(2) } else { waited >= Duration::from_millis(20) }, "{waited:?}");
    }
    // The first ran for a second, the others began on the other worker after they had waited.
    assert!((1020..1030).contains(&begun.elapsed().as_millis()), "{:?}", begun.elapsed());
}

#[tokio::test(start_paused = true)]
async fn an_emptied_pipeline_takes_what_was_gathered() {
    let slow = Act::EchoAfter(Duration::from_millis(50));
    let session = bench("scalar", 1, Limits::default(), slow, allow(3_600_000, 100)).await.session;
    let (mut input, mut output) = session.split();
    for value in 0..3 {
        input.send(numbers(&[value])).await.unwrap();
    }
    let begun = Instant::now();
    for value in 0..3 {
        assert_eq!(values(&output.recv().await.unwrap().unwrap().batch), [value]);
    }
    assert!(begun.elapsed() < Duration::from_millis(110), "{:?}", begun.elapsed());
}

#[tokio::test(start_paused = true)]
async fn the_time_of_a_joint_batch_is_shared_out() {
    let whole = proto::Timing { queue_ns: 5, wire_ns: 100, convert_ns: 7, user_ns: 1_000_003, state_ns: 0 };
    let sizes = [3, 0, 1, 7, 2];
    let (mut done, mut sum) = (0, proto::Timing::default());
    for size in sizes {
        let part = shared_out(&whole, (done, size, 13), Duration::from_nanos(2));
        assert_eq!(part.queue_ns, 7);
        done += size;
        sum.wire_ns += part.wire_ns;
        sum.convert_ns += part.convert_ns;
        sum.user_ns += part.user_ns;
    }
    assert_eq!(sum, proto::Timing { queue_ns: 0, ..whole });
}

#[tokio::test(start_paused = true)]
async fn map_functions_see_batches_as_they_were_sent() {
    let bench = bench("map", 1, Limits::default(), Act::Echo, allow(20, 100)).await;
    assert!(!bench.session.is_coalescing());
    run(bench.session, (0..10).map(|value| Step::Send(vec![value])).collect()).await;
    assert_eq!(bench.factory.executed.lock().unwrap().len(), 10);
}

#[tokio::test(start_paused = true)]
async fn dropping_the_receiving_half_lets_the_sender_go() {
    let Bench { session, .. } = bench("scalar", 1, Limits::default(), Act::Hang, allow(5, 100)).await;
    let (mut input, output) = session.split();
    input.send(numbers(&[1])).await.unwrap();
    input.send(numbers(&[2])).await.unwrap();
    drop(output);
    assert_eq!(input.send(numbers(&[3])).await.unwrap_err().code(), Code::SessionClosed);
}
