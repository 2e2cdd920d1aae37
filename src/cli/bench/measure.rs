//! Measuring one variant: round trips one at a time, and batches in a row.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use arrow_array::RecordBatch;
use pillion::host::{SessionInput, SessionOutput};
use pillion::{Code, Error, Output, Session};
use tokio::sync::Semaphore;
use tokio::task::{block_in_place, spawn_blocking};

use super::report::Trips;
use super::variant::{Transport, Variant};

/// Batches that may be under way at once; the session's own credit is the narrower limit for large ones, the time there is for slow ones.
const UNDER_WAY: usize = 64;
/// Of the time for a size, so much goes to batches one at a time, of which the stages are told.
const ALONE: f64 = 0.25;
/// Round trips before those that count, in each round.
const WARM: usize = 3;

/// A variant with a session open.
pub struct Subject {
    pub variant: Variant,
    /// From nothing to an open session.
    pub start: Duration,
    pub way: Way,
    pub latency: Trips,
    pub sizes: Vec<Rounds>,
}

/// What the rounds of one size gave.
pub struct Rounds {
    pub trips: Trips,
    /// Rows per second of each round.
    pub rates: Vec<f64>,
}

/// Batches of one size with their answers.
pub struct Work {
    pub rows: usize,
    pub batches: Vec<RecordBatch>,
    /// As the first variant gave them; empty if they are not compared.
    pub answers: Vec<RecordBatch>,
    /// Arguments and results of one batch.
    pub bytes: u64,
    /// Why this size is not measured.
    pub skipped: Option<String>,
}

/// How batches go to an engine and come back.
pub enum Way {
    /// Sent by one task, received by another.
    Streams(Box<(SessionInput, SessionOutput)>),
    /// On the thread that asks.
    Here(Box<Session>),
}

impl Way {
    /// As the variant wants it.
    pub fn new(variant: Variant, session: Session) -> Self {
        match variant.transport {
            Transport::Here => Way::Here(Box::new(session)),
            _ => Way::Streams(Box::new(session.split())),
        }
    }

    /// Sends one batch and waits for its answer. May block the thread.
    ///
    /// # Errors
    /// Those of the session.
    pub async fn ask(&mut self, batch: &RecordBatch) -> Result<Output, Error> {
        match self {
            Way::Streams(halves) => {
                let (input, output) = &mut **halves;
                ask(input, output, batch).await
            }
            // Tasks that wait on this thread go on elsewhere.
            Way::Here(session) => block_in_place(|| session.call_here(batch.clone())),
        }
    }
}

async fn ask(input: &mut SessionInput, output: &mut SessionOutput, batch: &RecordBatch) -> Result<Output, Error> {
    // Both at once: an error of the session is said by its output.
    let (sent, received) = tokio::join!(input.send(batch.clone()), output.recv());
    match received {
        Some(Ok(answer)) => sent.map(|_| answer),
        Some(Err(error)) => Err(error),
        None => Err(sent.err().unwrap_or_else(|| Error::new(Code::SessionClosed, "the session ended early"))),
    }
}

impl Subject {
    /// Round trips of one row for `time`, one after the other. In a task, as an operator would be.
    ///
    /// # Errors
    /// Those of the session.
    pub async fn latency(mut self, work: Arc<Work>, time: Duration) -> Result<Self, Error> {
        if let Way::Here(_) = self.way {
            let blocking = spawn_blocking(move || {
                if let Way::Here(session) = &mut self.way {
                    here(session, &work, time, &mut self.latency)?;
                }
                Ok(self)
            });
            return joined(blocking.await);
        }
        let task = tokio::spawn(async move {
            if let Way::Streams(halves) = &mut self.way {
                alone(&mut halves.0, &mut halves.1, &work, time, &mut self.latency).await?;
            }
            Ok(self)
        });
        joined(task.await)
    }

    /// Batches of one size for `time`: first one at a time, then as many as credit allows.
    ///
    /// # Errors
    /// Those of the session.
    pub async fn throughput(mut self, index: usize, work: Arc<Work>, time: Duration) -> Result<Self, Error> {
        let (mut input, mut output) = match self.way {
            Way::Here(_) => return self.throughput_here(index, work, time).await,
            Way::Streams(halves) => *halves,
        };
        let Some(rounds) = self.sizes.get_mut(index) else {
            return Ok(Subject { way: Way::Streams(Box::new((input, output))), ..self });
        };
        alone(&mut input, &mut output, &work, time.mul_f64(ALONE), &mut rounds.trips).await?;
        let permits = Arc::new(Semaphore::new(under_way(time, rounds.trips.mean_us())));
        // How many will have been sent; told before the last is sent, so that whoever receives it knows.
        let last = Arc::new(AtomicU64::new(u64::MAX));
        let begun = Instant::now();
        let until = begun + time.mul_f64(1.0 - ALONE);
        let sending = tokio::spawn(send(input, Arc::clone(&work), Arc::clone(&permits), Arc::clone(&last), until));
        let receiving = tokio::spawn(async move {
            let mut received = 0;
            while received < last.load(Ordering::Acquire) {
                match output.recv().await {
                    Some(answer) => drop(answer?),
                    None => return Err(Error::new(Code::SessionClosed, "the session ended early")),
                }
                received += 1;
                permits.add_permits(1);
            }
            Ok((output, received, begun.elapsed()))
        });
        // What the output says is the reason for what the input says.
        let outcome = joined(receiving.await);
        if outcome.is_err() {
            sending.abort();
        }
        let (output, received, took) = outcome?;
        let input = joined(sending.await)?;
        rounds.rates.push((received * work.rows as u64) as f64 / took.as_secs_f64().max(f64::MIN_POSITIVE));
        Ok(Subject { way: Way::Streams(Box::new((input, output))), ..self })
    }

    /// The same on a thread that runs the function itself: always one batch at a time.
    async fn throughput_here(mut self, index: usize, work: Arc<Work>, time: Duration) -> Result<Self, Error> {
        let blocking = spawn_blocking(move || {
            if let (Way::Here(session), Some(rounds)) = (&mut self.way, self.sizes.get_mut(index)) {
                let begun = Instant::now();
                let done = here(session, &work, time, &mut rounds.trips)?;
                rounds.rates.push((done * work.rows) as f64 / begun.elapsed().as_secs_f64().max(f64::MIN_POSITIVE));
            }
            Ok(self)
        });
        joined(blocking.await)
    }
}

/// How many batches may be under way so that what is left at the end of `time` does not take as long again.
fn under_way(time: Duration, round_trip_us: f64) -> usize {
    let fitting = time.as_secs_f64() * 1e6 / round_trip_us.max(1.0);
    (fitting as usize).clamp(2, UNDER_WAY)
}

/// Round trips for `time`; at least one counts.
async fn alone(input: &mut SessionInput, output: &mut SessionOutput, work: &Work, time: Duration, trips: &mut Trips) -> Result<(), Error> {
    let begun = Instant::now();
    for batch in work.batches.iter().cycle().take(WARM) {
        if begun.elapsed() < time {
            ask(input, output, batch).await?;
        }
    }
    let begun = Instant::now();
    for batch in work.batches.iter().cycle() {
        let sent = Instant::now();
        let answer = ask(input, output, batch).await?;
        trips.add(sent.elapsed().as_nanos() as u64, &answer.timing);
        if begun.elapsed() >= time {
            break;
        }
    }
    Ok(())
}

/// The same on this thread; gives how many there were.
fn here(session: &mut Session, work: &Work, time: Duration, trips: &mut Trips) -> Result<usize, Error> {
    let begun = Instant::now();
    for (done, batch) in work.batches.iter().cycle().enumerate() {
        let sent = Instant::now();
        let answer = session.call_here(batch.clone())?;
        if done >= WARM || begun.elapsed() >= time {
            trips.add(sent.elapsed().as_nanos() as u64, &answer.timing);
        }
        if begun.elapsed() >= time {
            return Ok(done + 1);
        }
    }
    Ok(0)
}

async fn send(
    mut input: SessionInput,
    work: Arc<Work>,
    permits: Arc<Semaphore>,
    last: Arc<AtomicU64>,
    until: Instant,
) -> Result<SessionInput, Error> {
    for (sent, batch) in work.batches.iter().cycle().enumerate() {
        if let Ok(permit) = permits.acquire().await {
            permit.forget();
        }
        let over = Instant::now() >= until;
        if over {
            last.store(sent as u64 + 1, Ordering::Release);
        }
        input.send(batch.clone()).await?;
        if over {
            break;
        }
    }
    Ok(input)
}

/// The outcome of a task; a panic in it goes on here.
fn joined<T>(outcome: Result<Result<T, Error>, tokio::task::JoinError>) -> Result<T, Error> {
    match outcome {
        Ok(result) => result,
        Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
        Err(error) => Err(Error::new(Code::Cancelled, "the measurement was given up").detail(error.to_string())),
    }
}
