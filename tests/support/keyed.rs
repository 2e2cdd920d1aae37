//! Keyed sessions in the suites: what is sent and seen, and how.

use super::{Rig, Setup, function_in, worker_pids};
use arrow_array::{Array, ArrayRef, Int64Array, RecordBatch, cast::AsArray, types::Int64Type};
use pillion::{
    Checkpoint, Config, Error, Event, KeyedOptions, Pillion, Plan, Session, Store,
    host::{SessionBuilder, SessionOutput},
    state::host::Maps,
};
use rustix::process::{Pid, Signal, kill_process};
use std::{
    collections::{BTreeMap, VecDeque},
    path::PathBuf,
    sync::Arc,
};

/// Key, value, event time.
pub type Row = (i64, i64, i64);

/// Rows of (key, value, event time).
pub fn rows(rows: &[Row]) -> RecordBatch {
    let column = |values: Vec<i64>| Arc::new(Int64Array::from(values)) as ArrayRef;
    let at = |pick: fn(&Row) -> i64| column(rows.iter().map(pick).collect());
    RecordBatch::try_from_iter_with_nullable([
        ("key", at(|row| row.0), true),
        ("value", at(|row| row.1), true),
        ("time", at(|row| row.2), true),
    ])
    .unwrap()
}

pub fn keyed_in(file: &str, rig: &Rig, name: &str, options: KeyedOptions) -> SessionBuilder {
    rig.pillion.session(Plan::map(function_in(file, name))).input(rows(&[]).schema()).keyed(options)
}

pub fn keyed(rig: &Rig, name: &str, options: KeyedOptions) -> SessionBuilder {
    keyed_in("stateful.py", rig, name, options)
}

pub async fn open(rig: &Rig, name: &str, options: KeyedOptions) -> Session {
    keyed(rig, name, options).open().await.unwrap_or_else(|error| panic!("`{name}` did not open: {error:?}"))
}

pub fn by_key() -> KeyedOptions {
    KeyedOptions::by(["key"]).event_time("time")
}

/// The rows of a batch of integers; null is the least.
pub fn table(batch: &RecordBatch) -> Vec<Vec<i64>> {
    let columns: Vec<_> = batch.columns().iter().map(|column| column.as_primitive::<Int64Type>()).collect();
    let value = |column: &Int64Array, row| if column.is_null(row) { i64::MIN } else { column.value(row) };
    (0..batch.num_rows()).map(|row| columns.iter().map(|column| value(column, row)).collect()).collect()
}

/// What is sent.
#[derive(Clone, Debug)]
pub enum Step {
    Rows(Vec<Row>),
    Watermark(i64),
    Clock(i64),
    /// All workers are killed.
    Kill,
}

/// What comes out: rows of (output, row), and marks.
#[derive(Clone, Debug, PartialEq)]
pub enum Seen {
    Row(String, Vec<i64>),
    Watermark(i64),
}

/// Kills all workers that are processes.
pub async fn kill_workers(pillion: &Pillion) {
    for pid in worker_pids(pillion).await {
        // A pid of 0 is a thread's.
        if let Some(pid) = Pid::from_raw(pid) {
            let _ = kill_process(pid, Signal::KILL);
        }
    }
}

/// Sends the steps, and gives all that comes out.
pub async fn run(rig: &Rig, session: Session, steps: &[Step]) -> Result<Vec<Seen>, Error> {
    run_and(rig, session, steps, |_, _| {}).await
}

/// The same of a session whose state `maps` keep, which apply a bundle when so many later ones have come.
pub async fn run_at_host(rig: &Rig, session: Session, steps: &[Step], maps: &Maps, lag: usize) -> Result<Vec<Seen>, Error> {
    let mut committed = VecDeque::new();
    let apply = |output: &SessionOutput, bundle| {
        maps.apply(bundle).unwrap();
        output.applied(bundle).unwrap();
    };
    let seen = run_and(rig, session, steps, |output, event| {
        let Event::Committed { bundle, .. } = event else { return };
        committed.push_back(*bundle);
        if committed.len() > lag {
            apply(output, committed.pop_front().unwrap());
        }
    })
    .await;
    committed.into_iter().for_each(|bundle| maps.apply(bundle).unwrap());
    seen
}

async fn run_and(rig: &Rig, session: Session, steps: &[Step], mut on: impl FnMut(&SessionOutput, &Event)) -> Result<Vec<Seen>, Error> {
    let (mut input, mut output) = session.split();
    let sending = async {
        for step in steps {
            let sent = match step {
                Step::Rows(given) => input.send(rows(given)).await,
                Step::Watermark(timestamp_ms) => input.watermark(*timestamp_ms).await,
                Step::Clock(now_ms) => input.processing_time(*now_ms).await,
                Step::Kill => {
                    kill_workers(&rig.pillion).await;
                    Ok(0)
                }
            };
            if sent.is_err() {
                return;
            }
        }
        let _ = input.finish().await;
    };
    let receiving = async {
        let mut seen = Vec::new();
        while let Some(event) = output.next().await {
            let event = event?;
            on(&output, &event);
            match event {
                Event::Output(result) => {
                    let tag = result.tag.map(|tag| tag.to_string()).unwrap_or_default();
                    seen.extend(table(&result.batch).into_iter().map(|row| Seen::Row(tag.clone(), row)));
                }
                Event::Watermark { timestamp_ms, .. } => seen.push(Seen::Watermark(timestamp_ms)),
                _ => {}
            }
        }
        Ok(seen)
    };
    tokio::join!(sending, receiving).1
}

pub fn main_rows(seen: &[Seen]) -> Vec<Vec<i64>> {
    let row = |seen: &Seen| match seen {
        Seen::Row(tag, row) if tag.is_empty() => Some(row.clone()),
        _ => None,
    };
    seen.iter().filter_map(row).collect()
}

/// By key, in the order in which they came.
pub fn per_key(rows: &[Vec<i64>]) -> BTreeMap<i64, Vec<Vec<i64>>> {
    let mut found: BTreeMap<i64, Vec<Vec<i64>>> = BTreeMap::new();
    for row in rows {
        found.entry(row[0]).or_default().push(row[1..].to_vec());
    }
    found
}

/// The running sums of a model.
pub fn sums(steps: &[Step]) -> BTreeMap<i64, Vec<Vec<i64>>> {
    let mut totals: BTreeMap<i64, i64> = BTreeMap::new();
    let mut found: BTreeMap<i64, Vec<Vec<i64>>> = BTreeMap::new();
    for step in steps {
        let Step::Rows(rows) = step else { continue };
        for (key, value, _) in rows {
            let total = totals.entry(*key).or_default();
            *total += value;
            found.entry(*key).or_default().push(vec![*total]);
        }
    }
    found
}

/// All stores.
pub const STORES: [Store; 2] = [Store::Memory, Store::Disk];

/// An engine with a place for stores and checkpoints. The variable `PILLION_TEST_CHECKPOINTS` moves checkpoints to another one: a folder, or `s3://BUCKET/PREFIX` with what the `AWS_` variables say.
pub async fn rig_with_places(setup: impl Into<Setup>) -> Rig {
    rig_with_places_and(setup, |_| {}).await
}

/// The same with another configuration.
pub async fn rig_with_places_and(setup: impl Into<Setup>, change: impl FnOnce(&mut Config)) -> Rig {
    rig_with(setup, std::env::var("PILLION_TEST_CHECKPOINTS").ok(), change).await.0
}

/// The same with checkpoints in a folder, for tests that look into it.
pub async fn rig_with_folders(setup: impl Into<Setup>) -> (Rig, PathBuf) {
    rig_with(setup, None, |_| {}).await
}

async fn rig_with(setup: impl Into<Setup>, elsewhere: Option<String>, change: impl FnOnce(&mut Config)) -> (Rig, PathBuf) {
    let mut place = PathBuf::new();
    let rig = Rig::with(setup, |config| {
        let folder = config.runtime_dir.parent().unwrap();
        place = folder.join("checkpoints");
        config.state.dir = folder.join("state");
        config.state.checkpoints = Some(elsewhere.unwrap_or_else(|| place.display().to_string()));
        change(config);
    })
    .await;
    (rig, place)
}

/// Keyed by `key`, with this store.
pub fn with(store: Store) -> KeyedOptions {
    KeyedOptions { store, ..by_key() }
}

/// The same, from checkpoints.
pub fn restoring(store: Store, handles: &[&str]) -> KeyedOptions {
    KeyedOptions { restore: handles.iter().map(|&handle| handle.to_owned()).collect(), ..with(store) }
}

/// Sends the steps and then a barrier; gives what came out before it, and the checkpoint. The session stays open.
pub async fn up_to_barrier(session: &mut Session, id: u64, steps: &[Step]) -> (Vec<Seen>, Result<Checkpoint, Error>) {
    let (input, output) = session.halves();
    for step in steps {
        match step {
            Step::Rows(given) => input.send(rows(given)).await.unwrap(),
            Step::Watermark(timestamp_ms) => input.watermark(*timestamp_ms).await.unwrap(),
            other => panic!("{other:?} has no place here"),
        };
    }
    input.barrier(id).await.unwrap();
    let mut seen = Vec::new();
    let mut passed = false;
    loop {
        match output.next().await.unwrap().unwrap() {
            Event::Output(result) => {
                assert!(!passed, "a result of what came before the barrier stands behind it");
                seen.extend(table(&result.batch).into_iter().map(|row| Seen::Row(String::new(), row)));
            }
            Event::Snapshotted { checkpoint_id, .. } => {
                assert_eq!(checkpoint_id, id);
                passed = true;
            }
            Event::Checkpointed { checkpoint_id, result } => {
                assert!(passed && checkpoint_id == id);
                return (seen, result);
            }
            _ => {}
        }
    }
}

pub async fn checkpointed(session: &mut Session, id: u64, steps: &[Step]) -> (Vec<Seen>, Checkpoint) {
    let (seen, result) = up_to_barrier(session, id, steps).await;
    (seen, result.unwrap())
}
