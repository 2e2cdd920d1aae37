//! User metrics: what functions count reaches the host and Prometheus, once per batch that took effect.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod support;

use arrow_array::{ArrayRef, Int64Array, RecordBatch, StringArray};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use pillion::{
    Code, Event, FunctionRef, KeyedOptions, Plan, Session, SessionOptions, Store,
    host::{Output, SessionOutput},
    metrics::{MetricTotal, MetricTotals},
};
use pillion_wire::proto::{Distribution, Histogram};
use std::{
    collections::BTreeMap,
    sync::{
        Arc, LazyLock,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
use support::*;

/// The recorder of this process.
static PROMETHEUS: LazyLock<PrometheusHandle> = LazyLock::new(|| PrometheusBuilder::new().install_recorder().unwrap());

/// A function of `tests/functions/metrics.py`. Tests share a process, so each has a copy of the file, by whose name its series are found.
struct Functions(tempfile::TempDir, String);

impl Functions {
    fn new() -> Self {
        static COPIES: AtomicU64 = AtomicU64::new(0);
        let folder = tempfile::TempDir::new().unwrap();
        let name = format!("metrics_{}.py", COPIES.fetch_add(1, Ordering::SeqCst));
        let source = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/functions/metrics.py");
        std::fs::copy(source, folder.path().join(&name)).unwrap();
        LazyLock::force(&PROMETHEUS);
        Functions(folder, name)
    }

    fn plan(&self, name: &str) -> Plan {
        Plan::scalar(FunctionRef::file(self.0.path().join(&self.1), name), vec![0], "r")
    }

    async fn open(&self, rig: &Rig, name: &str) -> Session {
        rig.pillion.session(self.plan(name)).input(numbers([1]).schema()).open().await.unwrap()
    }

    /// User metrics of this file's functions.
    fn page(&self, name: &str) -> BTreeMap<String, f64> {
        self.page_of("pillion_user", name)
    }

    /// Lines of this file's functions on the page that begin so, without the label that names the function.
    fn page_of(&self, prefix: &str, name: &str) -> BTreeMap<String, f64> {
        let label = format!("function=\"{}:{name}\"", self.1);
        let lines = PROMETHEUS.render();
        let mine = lines.lines().filter(|line| line.starts_with(prefix) && line.contains(&label));
        mine.map(|line| {
            let (series, value) = line.rsplit_once(' ').unwrap();
            let series = series.replace(&format!("{label},"), "").replace(&format!(",{label}"), "").replace(&format!("{{{label}}}"), "");
            (series, value.parse().unwrap())
        })
        .collect()
    }
}

fn sum<'a>(outputs: impl IntoIterator<Item = &'a Output>) -> BTreeMap<String, MetricTotal> {
    let mut totals = MetricTotals::default();
    outputs.into_iter().for_each(|output| totals.add(&output.metrics));
    let key = |id: &pillion::metrics::MetricId| [&id.groups[..], std::slice::from_ref(&id.name)].concat().join(".");
    totals.iter().map(|(id, total)| (key(id), total.clone())).collect()
}

#[test]
fn every_kind_reaches_the_host_and_prometheus() {
    everywhere(async |setup| {
        let rig = Rig::with(setup, |config| config.pool.max = 1).await;
        let functions = Functions::new();
        let mut session = functions.open(&rig, "everything").await;
        let mut outputs = vec![ask(&mut session, numbers([1, 10, 11])).await.unwrap()];
        // What a failed batch has counted before its failure is not counted.
        assert_eq!(ask(&mut session, numbers([5, 0])).await.unwrap_err().code(), Code::FunctionRaised);
        outputs.push(ask(&mut session, numbers([200])).await.unwrap());
        if setup == (Setup { door: Door::Embedded, mode: Mode::Thread }) {
            outputs.push(session.call_here(numbers([])).unwrap());
        }
        let mut found = sum(&outputs);
        let Some(MetricTotal::Gauge(pid)) = found.remove("pid") else { panic!("{found:?}") };
        assert_eq!(pid.keys().collect::<Vec<_>>(), [&0]);
        let expected = [
            ("last", MetricTotal::Gauge([(0, 200.0)].into())),
            ("model.events", MetricTotal::Meter(8)),
            ("model.open rows", MetricTotal::Counter(4)),
            ("model.sizes", MetricTotal::Distribution(Distribution { count: 4, sum: 222.0, min: 1.0, max: 200.0 })),
            ("model.times", MetricTotal::Histogram(Histogram { bounds: vec![10.0, 100.0], counts: vec![2, 1, 1], sum: 222.0 })),
            ("opened", MetricTotal::Counter(1)),
            ("rows", MetricTotal::Counter(4)),
        ];
        assert_eq!(found, expected.map(|(name, total)| (name.to_owned(), total)).into());
        let label = &outputs[0].metrics.iter().find(|delta| delta.name == "sizes").unwrap().labels;
        assert_eq!(label, &[("version".to_owned(), "v1".to_owned())].into());

        let mut page = functions.page("everything");
        page.remove("pillion_user_pid{worker=\"0\"}").unwrap();
        let expected = [
            ("pillion_user_last{worker=\"0\"}", 200.0),
            ("pillion_user_events_total{group=\"model\",version=\"v1\"}", 8.0),
            ("pillion_user_open_rows_total{group=\"model\",version=\"v1\"}", 4.0),
            ("pillion_user_opened_total", 1.0),
            ("pillion_user_rows_total", 4.0),
            ("pillion_user_sizes_count{group=\"model\",version=\"v1\"}", 4.0),
            ("pillion_user_sizes_max{group=\"model\",version=\"v1\"}", 200.0),
            ("pillion_user_sizes_min{group=\"model\",version=\"v1\"}", 1.0),
            ("pillion_user_sizes_sum{group=\"model\",version=\"v1\"}", 222.0),
            ("pillion_user_times_bucket{group=\"model\",version=\"v1\",le=\"10\"}", 2.0),
            ("pillion_user_times_bucket{group=\"model\",version=\"v1\",le=\"100\"}", 3.0),
            ("pillion_user_times_bucket{group=\"model\",version=\"v1\",le=\"+Inf\"}", 4.0),
            ("pillion_user_times_count{group=\"model\",version=\"v1\"}", 4.0),
            ("pillion_user_times_sum{group=\"model\",version=\"v1\"}", 222.0),
        ];
        assert_eq!(page, expected.map(|(name, value)| (name.to_owned(), value)).into());
        rig.end().await;
    });
}

#[test]
fn a_batch_whose_worker_is_killed_counts_once() {
    both_doors(async |setup| {
        let rig = Rig::new(setup).await;
        let functions = Functions::new();
        let batch = |at: usize| {
            let marker = functions.0.path().join(format!("killed-{at}")).to_str().unwrap().to_owned();
            texts((0..10).map(move |row| if row == 5 && at.is_multiple_of(3) { marker.clone() } else { "row".into() }))
        };
        let batches: Vec<RecordBatch> = (0..10).map(batch).collect();
        let session = rig.pillion.session(functions.plan("killed_once")).input(batches[0].schema()).open().await.unwrap();
        let outputs: Vec<Output> = exchange(session, batches).await.into_iter().map(Result::unwrap).collect();
        assert!((0..10).step_by(3).all(|at| functions.0.path().join(format!("killed-{at}")).exists()), "a worker was not killed");
        assert_eq!(sum(&outputs)["rows"], MetricTotal::Counter(100));
        assert_eq!(functions.page("killed_once"), [("pillion_user_rows_total".to_owned(), 100.0)].into());
        for output in &outputs {
            assert_eq!(sum([output])["rows"], MetricTotal::Counter(10), "batch {}", output.seq);
        }
        rig.end().await;
    });
}

#[test]
fn a_result_over_the_limit_counts_nothing() {
    everywhere(async |setup| {
        let rig = Rig::with(setup, |config| {
            config.limits.max_batch_bytes = 100_000;
            config.pool.max = 1;
        })
        .await;
        let functions = Functions::new();
        let mut session = functions.open(&rig, "large").await;
        let outputs = [ask(&mut session, numbers([10, 10])).await.unwrap()];
        assert_eq!(ask(&mut session, numbers([200_000])).await.unwrap_err().code(), Code::BatchTooLarge);
        let outputs = outputs.into_iter().chain([ask(&mut session, numbers([10])).await.unwrap()]).collect::<Vec<_>>();
        assert_eq!(sum(&outputs)["rows"], MetricTotal::Counter(3));
        assert_eq!(functions.page("large"), [("pillion_user_rows_total".to_owned(), 3.0)].into());
        rig.end().await;
    });
}

#[test]
fn sessions_of_one_function_and_several_workers_add_up() {
    everywhere(async |setup| {
        let rig = Rig::new(setup).await;
        let functions = Functions::new();
        let sessions = [functions.open(&rig, "slow").await, functions.open(&rig, "slow").await];
        let [a, b] = sessions.map(|session| exchange(session, (0..20).map(|_| numbers([0, 1]))));
        let (a, b) = tokio::join!(a, b);
        let all = |answers: Vec<Result<Output, pillion::Error>>| answers.into_iter().map(Result::unwrap).collect::<Vec<_>>();
        let (a, b) = (all(a), all(b));
        assert_eq!((&sum(&a)["rows"], &sum(&b)["rows"]), (&MetricTotal::Counter(40), &MetricTotal::Counter(40)));
        assert_eq!(functions.page("slow"), [("pillion_user_rows_total".to_owned(), 80.0)].into());
        rig.end().await;
    });
}

#[test]
fn metrics_may_come_late_and_have_a_limit() {
    everywhere(async |setup| {
        let rig = Rig::with(setup, |config| {
            config.pool.max = 1;
            config.limits.metric_series = 3;
        })
        .await;
        let functions = Functions::new();
        let mut session = functions.open(&rig, "late").await;
        assert!(ask(&mut session, numbers([0])).await.unwrap().metrics.is_empty());
        let outputs = [ask(&mut session, numbers([1, 2])).await.unwrap(), ask(&mut session, numbers(1..10)).await.unwrap()];
        let mut totals = MetricTotals::default();
        outputs.iter().for_each(|output| totals.add(&output.metrics));
        let found: Vec<_> = totals.iter().map(|(id, total)| (id.labels["value"].as_str(), total.clone())).collect();
        assert_eq!(found, [("1", MetricTotal::Counter(2)), ("2", MetricTotal::Counter(2)), ("3", MetricTotal::Counter(1))]);
        assert_eq!(functions.page("late").len(), 3);
        rig.end().await;
    });
}

#[test]
fn keyed_functions_count_each_bundle_once() {
    everywhere(async |setup| {
        let rig = Rig::new(setup).await;
        let functions = Functions::new();
        let marker = |at: i64| functions.0.path().join(format!("killed-{at}")).to_str().unwrap().to_owned();
        let batch = |at: i64| {
            // Threads cannot be killed.
            let kills = |row: i64| setup.mode == Mode::Process && row == 5 && at % 3 == 0;
            let paths = (0..10).map(|row| if kills(row) { marker(at) } else { "row".to_owned() });
            let keys: ArrayRef = Arc::new(Int64Array::from_iter_values((0..10).map(|row| (row + at) % 4)));
            RecordBatch::try_from_iter([("key", keys), ("path", Arc::new(StringArray::from_iter_values(paths)))]).unwrap()
        };
        let plan = Plan::map(FunctionRef::file(functions.0.path().join(&functions.1), "Keyed"));
        let session = rig.pillion.session(plan).input(batch(0).schema()).keyed(KeyedOptions::by(["key"])).open().await.unwrap();
        let (mut input, mut output) = session.split();
        let sending = async {
            for at in 0..10 {
                input.send(batch(at)).await.unwrap();
            }
            input.finish().await.unwrap();
        };
        let mut totals = MetricTotals::default();
        let mut rows = 0;
        let receiving = async {
            while let Some(event) = output.next().await {
                if let Event::Output(result) = event.unwrap() {
                    rows += result.batch.num_rows();
                    totals.add(&result.metrics);
                }
            }
        };
        tokio::join!(sending, receiving);
        assert_eq!(rows, 50);
        let found: Vec<_> = totals.iter().map(|(id, total)| (id.name.as_str(), total.clone())).collect();
        // The four keys have 25, 26, 25 and 24 rows.
        let sizes = Distribution { count: 100, sum: 1301.0, min: 1.0, max: 26.0 };
        assert_eq!(found, [("rows", MetricTotal::Counter(100)), ("sizes", MetricTotal::Distribution(sizes))]);
        assert_eq!(functions.page("Keyed")["pillion_user_rows_total"], 100.0);
        if setup.mode == Mode::Process {
            assert!((0..10).step_by(3).all(|at| std::path::Path::new(&marker(at)).exists()), "a worker was not killed");
        }
        rig.end().await;
    });
}

/// Waits until the page shows this, as it is looked at from time to time.
async fn shown(what: &str, page: impl Fn() -> bool) {
    let seen = async {
        while !page() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), seen).await.unwrap_or_else(|_| panic!("{what} was not shown"));
}

#[test]
fn state_timers_and_checkpoints_are_measured() {
    for (store, hits) in [(Store::Memory, 0.0), (Store::Disk, 10.0)] {
        run(async {
            let mut place = std::path::PathBuf::new();
            let rig = Rig::with(Door::Embedded, |config| {
                place = config.runtime_dir.with_file_name("checkpoints");
                config.state.dir = config.runtime_dir.with_file_name("state");
                config.state.checkpoints = Some(place.display().to_string());
            })
            .await;
            let functions = Functions::new();
            let page = |prefix: &str| functions.page_of(prefix, "Kept");
            let batch = |what: &str| {
                let keys: ArrayRef = Arc::new(Int64Array::from_iter_values(0..10));
                RecordBatch::try_from_iter([("key", keys), ("path", Arc::new(StringArray::from_iter_values(vec![what; 10])))]).unwrap()
            };
            let plan = Plan::map(FunctionRef::file(functions.0.path().join(&functions.1), "Kept"));
            let options = KeyedOptions { store, host_clock: true, ..KeyedOptions::by(["key"]) };
            let mut session = rig.pillion.session(plan).input(batch("").schema()).keyed(options).open().await.unwrap();
            let (input, output) = session.halves();
            let checkpoint = async |output: &mut SessionOutput| loop {
                if let Event::Checkpointed { result, .. } = output.next().await.unwrap().unwrap() {
                    break result;
                }
            };
            input.send(batch("put")).await.unwrap();
            input.barrier(1).await.unwrap();
            let written = checkpoint(output).await.unwrap();
            shown("the state", || page("pillion_state_entries") == [("pillion_state_entries".to_owned(), 10.0)].into()).await;
            shown("its timers", || page("pillion_timers") == [("pillion_timers".to_owned(), 10.0)].into()).await;
            let bytes = |place: &str| page("pillion_state_bytes")[&format!("pillion_state_bytes{{place=\"{place}\"}}")];
            shown("its memory", || bytes("memory") > 0.0).await;
            shown("its place on disk", || (bytes("disk") > 0.0) == (store == Store::Disk)).await;
            // Nothing can be made in a file.
            std::fs::rename(&place, place.with_extension("aside")).unwrap();
            std::fs::write(&place, "").unwrap();
            input.send(batch("get")).await.unwrap();
            input.processing_time(1_000).await.unwrap();
            input.send(batch("get")).await.unwrap();
            input.barrier(2).await.unwrap();
            assert_eq!(checkpoint(output).await.unwrap_err().code(), Code::SnapshotFailed);
            let checkpoints = page("pillion_checkpoint");
            assert_eq!(checkpoints["pillion_checkpoints_total{outcome=\"ok\"}"], 1.0);
            assert_eq!(checkpoints["pillion_checkpoints_total{outcome=\"failed\"}"], 1.0);
            assert_eq!(checkpoints["pillion_checkpoint_seconds_count"], 1.0);
            assert!(checkpoints["pillion_checkpoint_seconds_sum"] > 0.0);
            assert_eq!(checkpoints["pillion_checkpoint_bytes_total"], written.new_bytes as f64);
            drop(session);
            // What a session had is taken out when it ends, and all that it did counts, however short it was.
            shown("the end", || page("pillion_state_entries")["pillion_state_entries"] == 0.0).await;
            shown("the end of the timers", || page("pillion_timers")["pillion_timers"] == 0.0).await;
            assert_eq!(page("pillion_state_expired")["pillion_state_expired_total"], 10.0, "found when they were read");
            let cache = page("pillion_state_cache");
            assert!(cache["pillion_state_cache_total{outcome=\"hit\"}"] >= hits, "{cache:?}");
            rig.end().await;
        });
    }
}

#[test]
fn joint_batches_count_once() {
    everywhere(async |setup| {
        let rig = Rig::with(setup, |config| config.pool.max = 1).await;
        let functions = Functions::new();
        let session = rig.pillion.session(functions.plan("everything")).input(numbers([1]).schema());
        let options = SessionOptions { max_delay: Some(Duration::from_millis(20)), ..Default::default() };
        let session = session.options(options).open().await.unwrap();
        // One of the parts fails, so the joint batch does, and each part is sent again by itself.
        let answers = exchange(session, [numbers([1, 2]), numbers([0]), numbers([3])]).await;
        assert_eq!(answers.iter().filter(|answer| answer.is_err()).count(), 1);
        let outputs: Vec<Output> = answers.into_iter().flatten().collect();
        assert_eq!(sum(&outputs)["rows"], MetricTotal::Counter(3));
        assert_eq!(functions.page("everything")["pillion_user_rows_total"], 3.0);
        rig.end().await;
    });
}
