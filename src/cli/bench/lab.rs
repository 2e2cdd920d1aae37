//! Starts the variants, checks that they agree, and measures them in turn.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow_array::RecordBatch;
use pillion::host::Described;
use pillion::{Config, EnvironmentSpec, Error, FunctionRef};
use tokio::time::timeout;

use super::data::{self, Data, SIZES};
use super::measure::{Rounds, Subject, Way, Work};
use super::report::{Absent, Latency, Measured, Size, Throughput, Trips};
use super::variant::{Running, Variant};
use crate::cli::failure::Failure;
use crate::cli::progress::{Progress, short};
use crate::cli::run::plan::{Binding, Wish};

/// How often each figure is taken; the variants take turns, so that a disturbance meets all of them.
const ROUNDS: u32 = 3;
/// Parts of the time for round trips of one row, where each size has one: high percentiles need many.
const LATENCY_PARTS: u32 = 3;
/// A batch that takes more than this many slices of time is not measured.
const MOST_SLICES: u32 = 4;
/// Beyond its slice, a measurement is given up after this time.
const STUCK: Duration = Duration::from_secs(60);

/// What is compared, and with what.
pub struct Task<'a> {
    pub function: FunctionRef,
    pub environment: EnvironmentSpec,
    pub args: Option<&'a [String]>,
    pub data: Data,
    pub config: Config,
    pub program: &'a Path,
    pub variants: Vec<Variant>,
    pub time: Duration,
}

/// Everything that was started, and what is known of it.
#[derive(Default)]
pub struct Lab {
    running: Vec<Running>,
    subjects: Vec<Subject>,
    works: Vec<Arc<Work>>,
    pub absent: Vec<Absent>,
    pub described: Option<Described>,
    pub notes: Vec<String>,
}

/// Why a variant has no row.
enum Lack {
    Error(Error),
    Differs(String),
    /// Asked for over shared memory, and in truth inline.
    Inline(&'static str),
}

impl From<Error> for Lack {
    fn from(error: Error) -> Self {
        Lack::Error(error)
    }
}

impl Lab {
    /// Does everything; what cannot be measured is among the absent.
    ///
    /// # Errors
    /// If the function fails, its arguments cannot be bound, or no variant works.
    pub async fn work(&mut self, task: &Task<'_>, progress: &mut Progress) -> Result<Vec<Measured>, Failure> {
        let begun = Instant::now();
        let slice = task.time / (task.variants.len().max(1) as u32 * ROUNDS * (LATENCY_PARTS + SIZES.len() as u32));
        let mut first_error = None;
        for (index, &variant) in task.variants.iter().enumerate() {
            progress.step(0.3 * index as f64 / task.variants.len() as f64, &format!("starting {}", variant.name()));
            match self.open(task, variant, slice).await {
                Ok(subject) => self.subjects.push(subject),
                Err(Refusal::Lack(lack)) => {
                    if let Lack::Error(error) = &lack {
                        // What the function raised it would raise everywhere.
                        if error.exception().is_some() {
                            return Err(error.clone().into());
                        }
                        first_error.get_or_insert_with(|| error.clone());
                    }
                    self.absent.push(absent(variant, lack));
                }
                Err(Refusal::Failure(failure)) => return Err(failure),
            }
        }
        if self.subjects.is_empty() {
            let none = || Failure::usage("no variant was chosen");
            return Err(first_error.map_or_else(none, Failure::from));
        }
        // Starting has taken its part of the time; a third is left for measuring in any case.
        let left = task.time.saturating_sub(begun.elapsed()).max(task.time / 3);
        self.measure(left, progress).await;
        if self.subjects.is_empty() {
            return Err(first_error.map_or_else(|| Failure::data("every variant failed while it was measured"), Failure::from));
        }
        Ok(self.subjects.iter().map(|subject| measured(subject, &self.works)).collect())
    }

    /// Ends all engines.
    pub async fn stop(self) {
        drop(self.subjects);
        for running in self.running {
            running.stop().await;
        }
    }

    async fn open(&mut self, task: &Task<'_>, variant: Variant, slice: Duration) -> Result<Subject, Refusal> {
        let begun = Instant::now();
        let running = variant.start(&task.config, &task.environment, task.program).await?;
        let (pillion, environment) = (running.pillion.clone(), running.environment.clone());
        // Kept from here on, so that it is ended in order whatever happens.
        self.running.push(running);
        let described = pillion.describe(&task.function, &environment).await?;
        let wish = Wish { args: task.args, ..Wish::default() };
        let binding = Binding::new(task.function.clone(), &described.function, &task.data.schema(), wish)?;
        let opening = pillion.session(binding.plan()).environment(environment).input(binding.sent_schema()).name("bench").open();
        let session = opening.await?;
        let (start, shared) = (begun.elapsed(), session.shares_memory());
        let (Some(latency), Some(sizes)) = (Trips::new(), rounds()) else {
            return Err(Refusal::Failure(Failure::data("the histogram cannot be made")));
        };
        let mut subject = Subject { variant, start, way: Way::new(variant, session), latency, sizes };
        if self.works.is_empty() {
            let works = self.answers(&mut subject, task, &binding, &described, slice).await?;
            self.works = works.into_iter().map(Arc::new).collect();
            self.described = Some(described);
        } else {
            check(&mut subject, &self.works).await?;
        }
        // Headers and rounding apart, such a body goes into shared memory if there is some.
        let threshold = task.config.shm.threshold.saturating_mul(2);
        let large = self.works.iter().any(|work| work.batches.first().is_some_and(|batch| data::bytes(batch) > threshold));
        if let Some(running) = self.running.last()
            && let Some(why) = running.unshared(shared, large).await?
        {
            return Err(Lack::Inline(why).into());
        }
        Ok(subject)
    }

    /// Runs every batch once, on the first variant: its answers are what the others are compared with.
    async fn answers(
        &mut self,
        subject: &mut Subject,
        task: &Task<'_>,
        binding: &Binding,
        described: &Described,
        slice: Duration,
    ) -> Result<Vec<Work>, Refusal> {
        let mut works = Vec::new();
        let mut per_row = 0.0;
        let mut comparable = described.function.deterministic;
        for rows in SIZES {
            let expected = Duration::from_secs_f64(per_row * rows as f64);
            if expected > slice * MOST_SLICES {
                let skipped = Some(format!("a batch takes about {}", short(expected)));
                works.push(Work { rows, batches: Vec::new(), answers: Vec::new(), bytes: 0, skipped });
                continue;
            }
            let mut batches = task.data.batches(rows);
            let fitting = slice.as_secs_f64() / expected.as_secs_f64().max(f64::MIN_POSITIVE);
            batches.truncate((fitting as usize).max(1));
            let sent = batches.iter().map(|batch| binding.sent(batch)).collect::<Result<Vec<_>, _>>();
            let batches = sent.map_err(|error| Failure::data(format!("the arguments cannot be taken from the data: {error}")))?;
            match first_answers(subject, batches, &mut comparable).await {
                Ok((work, took)) => {
                    // Small batches say little about rows, so they are not asked.
                    per_row = if rows == 1 { 0.0 } else { took.as_secs_f64() / (work.batches.len() * rows) as f64 };
                    works.push(work);
                }
                // Too large for the limits in force: the others are measured.
                Err(error) if error.exception().is_none() && rows > 1 && error.code() == pillion::Code::BatchTooLarge => {
                    works.push(Work {
                        rows,
                        batches: Vec::new(),
                        answers: Vec::new(),
                        bytes: 0,
                        skipped: Some(error.message().to_owned()),
                    });
                }
                Err(error) => return Err(error.into()),
            }
        }
        if !comparable {
            works.iter_mut().for_each(|work| work.answers.clear());
            self.notes
                .push("the function does not give equal answers to equal arguments, so the variants' answers were not compared".to_owned());
        }
        Ok(works)
    }

    /// Measures every subject in turn, `ROUNDS` times; who fails is absent.
    async fn measure(&mut self, time: Duration, progress: &mut Progress) {
        let sizes = self.works.iter().filter(|work| work.skipped.is_none()).count() as u32;
        let slice = time / (self.subjects.len() as u32 * ROUNDS * (LATENCY_PARTS + sizes)).max(1);
        let steps = self.subjects.len() * ROUNDS as usize;
        let mut done = 0;
        for _ in 0..ROUNDS {
            for subject in std::mem::take(&mut self.subjects) {
                let variant = subject.variant;
                progress.step(0.3 + 0.7 * done as f64 / steps as f64, &format!("measuring {}", variant.name()));
                done += 1;
                match round(subject, &self.works, slice).await {
                    Ok(subject) => self.subjects.push(subject),
                    Err(error) => self.absent.push(absent(variant, Lack::Error(error))),
                }
            }
        }
    }
}

/// Why [`Lab::open`] gives no subject: a reason for this variant, or for the whole command.
enum Refusal {
    Lack(Lack),
    Failure(Failure),
}

impl<E: Into<Lack>> From<E> for Refusal {
    fn from(lack: E) -> Self {
        Refusal::Lack(lack.into())
    }
}

impl From<Failure> for Refusal {
    fn from(failure: Failure) -> Self {
        Refusal::Failure(failure)
    }
}

fn rounds() -> Option<Vec<Rounds>> {
    SIZES.iter().map(|_| Some(Rounds { trips: Trips::new()?, rates: Vec::new() })).collect()
}

/// One round of one subject.
async fn round(mut subject: Subject, works: &[Arc<Work>], slice: Duration) -> Result<Subject, Error> {
    let stuck = |_| Error::new(pillion::Code::DeadlineExceeded, "the measurement did not end in time");
    if let Some(work) = works.first() {
        subject = timeout(slice + STUCK, subject.latency(Arc::clone(work), slice * LATENCY_PARTS)).await.map_err(stuck)??;
    }
    for (index, work) in works.iter().enumerate().filter(|(_, work)| work.skipped.is_none()) {
        subject = timeout(slice + STUCK, subject.throughput(index, Arc::clone(work), slice)).await.map_err(stuck)??;
    }
    Ok(subject)
}

async fn first_answers(subject: &mut Subject, batches: Vec<RecordBatch>, comparable: &mut bool) -> Result<(Work, Duration), Error> {
    let mut answers = Vec::with_capacity(batches.len());
    let begun = Instant::now();
    for batch in &batches {
        answers.push(subject.way.ask(batch).await?.batch);
    }
    let took = begun.elapsed();
    let rows = batches.first().map_or(0, RecordBatch::num_rows);
    if let (Some(batch), Some(answer)) = (batches.first(), answers.first())
        && *comparable
    {
        *comparable = subject.way.ask(batch).await?.batch == *answer;
    }
    let bytes = batches.first().map_or(0, data::bytes) + answers.first().map_or(0, data::bytes);
    Ok((Work { rows, batches, answers, bytes, skipped: None }, took))
}

/// Whether a variant gives the answers of the first.
async fn check(subject: &mut Subject, works: &[Arc<Work>]) -> Result<(), Lack> {
    for work in works {
        for (index, batch) in work.batches.iter().enumerate() {
            let answer = subject.way.ask(batch).await?.batch;
            if work.answers.get(index).is_some_and(|expected| *expected != answer) {
                return Err(Lack::Differs(format!("its answer to a batch of {} rows is not that of the first variant", work.rows)));
            }
        }
    }
    Ok(())
}

fn absent(variant: Variant, lack: Lack) -> Absent {
    let name = variant.name();
    match lack {
        Lack::Error(error) => Absent {
            name,
            code: error.code().as_str().to_owned(),
            reason: error.message().to_owned(),
            hint: error.hint_text().map(str::to_owned),
        },
        Lack::Inline(why) => Absent {
            name,
            code: "not_shared".to_owned(),
            reason: format!("{why}: it would have been measured inline"),
            hint: Some("see \"When bodies go inline all the same\" in docs/modes.md, and `shm.max_bytes`".to_owned()),
        },
        Lack::Differs(reason) => Absent { name, code: "answers_differ".to_owned(), reason, hint: None },
    }
}

fn measured(subject: &Subject, works: &[Arc<Work>]) -> Measured {
    let latency: Latency = subject.latency.latency();
    let sizes = works.iter().zip(&subject.sizes).map(|(work, rounds)| {
        let result = work.skipped.is_none().then(|| throughput(rounds, work));
        Size { rows: work.rows, skipped: work.skipped.clone(), result }
    });
    Measured {
        name: subject.variant.name(),
        variant: subject.variant,
        start_ms: subject.start.as_secs_f64() * 1e3,
        latency,
        sizes: sizes.collect(),
    }
}

fn throughput(rounds: &Rounds, work: &Work) -> Throughput {
    let mut rates = rounds.rates.clone();
    rates.sort_by(f64::total_cmp);
    let at = |index: usize| rates.get(index).copied().unwrap_or_default();
    let rows_per_second = at(rates.len() / 2);
    Throughput {
        rows_per_second,
        low: at(0),
        high: at(rates.len().saturating_sub(1)),
        bytes_per_second: rows_per_second * work.bytes as f64 / work.rows as f64,
        round_trip_us: rounds.trips.mean_us(),
        stages: rounds.trips.stages(),
    }
}
