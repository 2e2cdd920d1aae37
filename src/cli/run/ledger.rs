//! The ledger of a run with checkpoints: which checkpoint, which part of the input and which parts of the output belong together.
//!
//! Each commit is one record, a file that appears at once: `DIR/run/00000007.json`. Before it nothing of commit 7 counts, however much of it was written; after it everything does, and whoever
//! goes on brings to its place what a crash kept from it. A run holds a lock on its folder while it lives.

use std::fs::{self, File, TryLockError};
use std::io::Write;
use std::path::{Path, PathBuf};

use pillion::fault::{Point, reach};
use pillion::state::snapshot::Checkpoints;
use serde::{Deserialize, Serialize};

use crate::cli::failure::Failure;
use crate::cli::io::Folder;

/// The version of the records that this build writes, and the newest that it reads.
const FORMAT: u32 = 1;

/// One commit.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// The version of this format.
    pub format: u32,
    /// Counts commits; 0 = nothing has been done yet.
    pub number: u64,
    /// Counts starts and restarts.
    pub attempt: u64,
    /// The checkpoint; none at number 0, and at the end, when no state is left to go on from.
    pub checkpoint: Option<String>,
    /// Rows of the input that it covers.
    pub rows: u64,
    /// The watermark behind them, in milliseconds since 1970, if there is one.
    pub watermark_ms: Option<i64>,
    /// The whole input has been worked off.
    pub finished: bool,
    /// What the run is of.
    pub job: Job,
    /// All parts of its outputs, the main one first.
    pub outputs: Vec<Parts>,
}

/// What a run is of: who goes on with it must not change this.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Job {
    /// The path of the input, or `-`.
    pub input: PathBuf,
    /// Its size in bytes; none of a stream.
    pub input_bytes: Option<u64>,
    /// Key columns.
    pub key_by: Vec<String>,
    /// Column with the event time.
    pub event_time: Option<String>,
}

/// The parts of an output.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Parts {
    /// The side output; none of the main one.
    pub tag: Option<String>,
    /// The folder.
    pub path: PathBuf,
    /// Numbers of its parts.
    pub parts: Vec<u64>,
}

impl Record {
    fn file(dir: &Path, number: u64) -> PathBuf {
        dir.join(format!("{number:08}.json"))
    }

    fn read(path: &Path) -> Result<Self, Failure> {
        let damaged = |what: String| {
            Failure::data(format!("the commit record `{}` is damaged: {what}", path.display()))
                .hint("remove it to go on from the one before, or start anew with other folders for output and checkpoints")
        };
        let text = fs::read_to_string(path).map_err(|error| damaged(error.to_string()))?;
        let json: serde_json::Value = serde_json::from_str(&text).map_err(|error| damaged(error.to_string()))?;
        match json.get("format").and_then(serde_json::Value::as_u64) {
            Some(format) if format > u64::from(FORMAT) => {
                let text = format!("the commit record `{}` has `format` {format}; this build reads up to {FORMAT}", path.display());
                Err(Failure::data(text).hint("use the version of pillion that wrote it, or a later one"))
            }
            _ => serde_json::from_value(json).map_err(|error| damaged(error.to_string())),
        }
    }
}

/// Where a run goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Restore<'a> {
    /// Nowhere: it begins.
    No,
    /// Behind its last commit.
    Latest,
    /// Behind the commit with this checkpoint.
    Handle(&'a str),
}

/// The records of a run, in its folder.
pub struct Ledger {
    /// `DIR/run`.
    dir: PathBuf,
    checkpoints: Checkpoints,
    keep: usize,
    /// The oldest first.
    records: Vec<Record>,
    /// Held while the run lives.
    _lock: File,
}

impl Ledger {
    /// Opens the ledger in a folder for checkpoints, which is made if need be. At most `keep` checkpoints are kept.
    ///
    /// # Errors
    /// Another run that uses the folder, a damaged record, a folder that cannot be used.
    pub fn open(checkpoint_dir: &Path, keep: usize) -> Result<Self, Failure> {
        let checkpoints = Checkpoints::open(&checkpoint_dir.to_string_lossy())?;
        let dir = checkpoint_dir.join("run");
        let unusable = |error: std::io::Error| Failure::data(format!("the folder `{}` cannot be used: {error}", dir.display()));
        fs::create_dir_all(&dir).map_err(unusable)?;
        let lock = File::create(dir.join("lock")).map_err(unusable)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let text = format!("another run keeps its checkpoints in `{}`", checkpoint_dir.display());
                return Err(Failure::data(text).hint("wait for its end, or name another folder"));
            }
            Err(TryLockError::Error(error)) => return Err(unusable(error)),
        }
        let mut records = Vec::new();
        for entry in fs::read_dir(&dir).map_err(unusable)? {
            let path = entry.map_err(unusable)?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            if name.strip_suffix(".json").is_some_and(|number| number.bytes().all(|byte| byte.is_ascii_digit())) {
                records.push(Record::read(&path)?);
            }
        }
        records.sort_by_key(|record| record.number);
        Ok(Self { dir, checkpoints, keep, records, _lock: lock })
    }

    /// The record behind which a run goes on, or what its first one will be. Changes nothing.
    ///
    /// # Errors
    /// A run that has begun and is not to be restored; a checkpoint that no run has committed; another job; outputs that are not empty.
    pub async fn choose(&self, restore: Restore<'_>, job: Job, outputs: &[(Option<String>, Folder)]) -> Result<Record, Failure> {
        let dir = self.dir.parent().unwrap_or(&self.dir).display();
        let chosen = match (self.records.last(), restore) {
            (Some(latest), Restore::Latest) => latest.clone(),
            (Some(latest), Restore::No) if latest.number == 0 => latest.clone(),
            (Some(_), Restore::No) => {
                let text = format!("`{dir}` holds the checkpoints of a run that has begun");
                return Err(Failure::data(text).hint("go on with it: `--restore latest`; or name another folder"));
            }
            (_, Restore::Handle(handle)) => {
                let found = self.records.iter().find(|record| record.checkpoint.as_deref() == Some(handle));
                found.cloned().ok_or_else(|| self.unknown(handle))?
            }
            (None, Restore::No | Restore::Latest) => return self.first(job, outputs).await,
        };
        let changed = |what: &str, before: String, now: String| {
            let text = format!("the run whose checkpoints are in `{dir}` has {what} {before}, not {now}");
            Err(Failure::data(text).hint("go on with what it began with, or start anew with other folders for output and checkpoints"))
        };
        let (was, path) = (&chosen.job, |path: &Path| format!("`{}`", path.display()));
        if was.input != job.input {
            return changed("the input", path(&was.input), path(&job.input));
        }
        if was.input_bytes != job.input_bytes {
            let bytes = |bytes: Option<u64>| format!("of {} bytes", bytes.unwrap_or_default());
            return changed(&format!("read {}", path(&job.input)), bytes(was.input_bytes), bytes(job.input_bytes));
        }
        let names = |names: &[String]| format!("`{}`", names.join(","));
        if was.key_by != job.key_by {
            return changed("the keys", names(&was.key_by), names(&job.key_by));
        }
        if was.event_time != job.event_time {
            let shown = |name: &Option<String>| name.as_ref().map_or_else(|| "none".to_owned(), |name| format!("`{name}`"));
            return changed("the event time", shown(&was.event_time), shown(&job.event_time));
        }
        let list = |outputs: Vec<&Path>| outputs.into_iter().map(path).collect::<Vec<_>>().join(", ");
        let (before, now): (Vec<_>, Vec<_>) = (
            chosen.outputs.iter().map(|output| (&output.tag, &*output.path)).collect(),
            outputs.iter().map(|(tag, folder)| (tag, folder.path())).collect(),
        );
        if before != now {
            let paths = |outputs: Vec<(&Option<String>, _)>| list(outputs.into_iter().map(|(_, path)| path).collect());
            return changed("the outputs", paths(before), paths(now));
        }
        Ok(chosen)
    }

    async fn first(&self, job: Job, outputs: &[(Option<String>, Folder)]) -> Result<Record, Failure> {
        let dir = self.dir.parent().unwrap_or(&self.dir).display();
        if !self.checkpoints.handles().await?.is_empty() {
            let text = format!("`{dir}` holds checkpoints that no `pillion run` has committed");
            return Err(Failure::data(text).hint("name another folder"));
        }
        if let Some((_, folder)) = outputs.iter().find(|(_, folder)| !folder.is_empty()) {
            let text = format!("the output folder `{}` is not empty", folder.path().display());
            return Err(Failure::data(text).hint("remove what is in it, or name another one"));
        }
        let outputs = outputs.iter().map(|(tag, folder)| Parts { tag: tag.clone(), path: folder.path().to_owned(), parts: Vec::new() });
        Ok(Record {
            format: FORMAT,
            number: 0,
            attempt: 0,
            checkpoint: None,
            rows: 0,
            watermark_ms: None,
            finished: false,
            job,
            outputs: outputs.collect(),
        })
    }

    fn unknown(&self, handle: &str) -> Failure {
        let known: Vec<_> =
            self.records.iter().filter_map(|record| record.checkpoint.as_ref()).map(|handle| format!("`{handle}`")).collect();
        let hint = if known.is_empty() { "it has committed none".to_owned() } else { format!("it has committed {}", known.join(", ")) };
        Failure::data(format!("the run has no checkpoint `{handle}`")).hint(hint)
    }

    /// The number of this start: higher than that of all before.
    pub fn next_attempt(&self) -> u64 {
        self.records.iter().map(|record| record.attempt).max().unwrap_or_default() + 1
    }

    /// Makes `record` the last one: later commits are undone, and what has no commit goes.
    ///
    /// # Errors
    /// What keeps files from being removed; a part that is missing.
    pub async fn begin(&mut self, record: &Record, outputs: &[(Option<String>, Folder)]) -> Result<(), Failure> {
        while let Some(later) = self.records.pop_if(|last| last.number > record.number) {
            self.remove(&later)?;
        }
        if self.records.is_empty() {
            self.write(record)?;
            self.records.push(record.clone());
        }
        for ((_, folder), output) in outputs.iter().zip(&record.outputs) {
            folder.settle(&output.parts)?;
        }
        let kept: Vec<_> = self.records.iter().filter_map(|record| record.checkpoint.clone()).collect();
        for handle in self.checkpoints.handles().await?.into_iter().filter(|handle| !kept.contains(handle)) {
            self.checkpoints.delete(&handle).await?;
        }
        Ok(())
    }

    /// Commits, and deletes the checkpoints beyond those that are kept.
    ///
    /// # Errors
    /// The record cannot be written: then nothing was committed. A checkpoint cannot be deleted.
    pub async fn commit(&mut self, record: Record) -> Result<(), Failure> {
        reach(Point::Recording);
        self.write(&record)?;
        reach(Point::Recorded);
        self.records.push(record);
        while self.records.iter().filter(|record| record.checkpoint.is_some()).count() > self.keep
            || self.records.first().is_some_and(|first| first.number == 0)
        {
            let oldest = self.records.remove(0);
            self.remove(&oldest)?;
            if let Some(handle) = &oldest.checkpoint {
                self.checkpoints.delete(handle).await?;
            }
        }
        Ok(())
    }

    fn write(&self, record: &Record) -> Result<(), Failure> {
        let unwritable =
            |error: std::io::Error| Failure::data(format!("a commit record cannot be written to `{}`: {error}", self.dir.display()));
        let text = serde_json::to_string_pretty(record).map_err(|error| unwritable(error.into()))?;
        let mut file = tempfile::Builder::new().prefix(".record-").tempfile_in(&self.dir).map_err(unwritable)?;
        file.write_all(text.as_bytes()).and_then(|()| file.as_file().sync_all()).map_err(unwritable)?;
        file.persist(Record::file(&self.dir, record.number)).map_err(|error| unwritable(error.error))?;
        self.sync().map_err(unwritable)
    }

    fn remove(&self, record: &Record) -> Result<(), Failure> {
        let path = Record::file(&self.dir, record.number);
        let removed = fs::remove_file(&path).and_then(|()| self.sync());
        removed.map_err(|error| Failure::data(format!("the commit record `{}` cannot be removed: {error}", path.display())))
    }

    fn sync(&self) -> std::io::Result<()> {
        File::open(&self.dir)?.sync_all()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job(bytes: u64) -> Job {
        Job { input: "/in.csv".into(), input_bytes: Some(bytes), key_by: vec!["key".into()], event_time: None }
    }

    fn fails<T>(outcome: Result<T, Failure>, part: &str) {
        let report = outcome.err().map(|failure| failure.report()).unwrap_or_default();
        assert!(report.contains(part), "no `{part}`: {report}");
    }

    #[tokio::test]
    async fn records_say_where_a_run_goes_on() {
        let place = tempfile::tempdir().unwrap();
        let (dir, outputs) = (place.path().join("chk"), [(None, Folder::new(&place.path().join("out.csv")).unwrap())]);
        let open = || Ledger::open(&dir, 2).unwrap();
        let mut ledger = open();
        fails(Ledger::open(&dir, 2), "another run keeps its checkpoints in");
        fails(ledger.choose(Restore::Handle("chk-1"), job(1), &outputs).await, "no checkpoint `chk-1`");
        let first = ledger.choose(Restore::Latest, job(1), &outputs).await.unwrap();
        ledger.begin(&first, &outputs).await.unwrap();
        // One that has not come far begins again; its lock went with it.
        drop(ledger);
        let mut ledger = open();
        assert_eq!(ledger.choose(Restore::No, job(1), &outputs).await.unwrap(), first);
        for number in 1..=4 {
            let mut record = Record { number, rows: number * 10, attempt: ledger.next_attempt(), ..first.clone() };
            fs::write(dir.join(format!("chk-{number}.json")), "{}").unwrap();
            record.checkpoint = Some(format!("chk-{number}"));
            ledger.commit(record).await.unwrap();
        }
        let kept = |ledger: &Ledger| ledger.records.iter().map(|record| record.number).collect::<Vec<_>>();
        assert_eq!(kept(&ledger), [3, 4]);
        fails(ledger.choose(Restore::No, job(1), &outputs).await, "`--restore latest`");
        fails(ledger.choose(Restore::Latest, job(2), &outputs).await, "of 1 bytes, not of 2 bytes");
        fails(ledger.choose(Restore::Latest, Job { key_by: vec![], ..job(1) }, &outputs).await, "has the keys `key`");
        fails(ledger.choose(Restore::Handle("chk-1"), job(1), &outputs).await, "it has committed `chk-3`, `chk-4`");
        drop(ledger);
        let mut ledger = open();
        let third = ledger.choose(Restore::Handle("chk-3"), job(1), &outputs).await.unwrap();
        assert_eq!((third.rows, ledger.next_attempt()), (30, 5));
        ledger.begin(&third, &outputs).await.unwrap();
        assert_eq!(kept(&ledger), [3]);
        assert_eq!(ledger.checkpoints.handles().await.unwrap(), ["chk-3"]);
        fs::write(dir.join("run/00000009.json"), "{\"format\": 1}").unwrap();
        drop(ledger);
        fails(Ledger::open(&dir, 2), "00000009.json` is damaged: missing field");
    }

    #[tokio::test]
    async fn folders_that_others_use_are_refused() {
        let place = tempfile::tempdir().unwrap();
        let (dir, outputs) = (place.path().join("chk"), [(None, Folder::new(&place.path().join("out.csv")).unwrap())]);
        let ledger = Ledger::open(&dir, 1).unwrap();
        fs::create_dir(place.path().join("out.csv")).unwrap();
        fs::write(place.path().join("out.csv/mine.csv"), "x").unwrap();
        fails(ledger.choose(Restore::Latest, job(1), &outputs).await, "is not empty");
        fs::write(dir.join("chk-7.json"), "{}").unwrap();
        fails(ledger.choose(Restore::Latest, job(1), &outputs).await, "that no `pillion run` has committed");
    }
}
