//! A worker of thread mode: a thread with functions of its own.

use super::{blocking, interpreter::Interpreter, queue::Queue, stacks, table::Handle};
use crate::{
    batch::Batch,
    error::{Code, Error, Result, WorkerLoss},
    metrics,
    worker::{BoxFuture, Control, Cost, FromWorker, KillCause, Lost, ToWorker, Worker},
};
use arrow_array::RecordBatch;
use arrow_schema::SchemaRef;
use pillion_wire::{
    bundle::Layout,
    ipc::{Decoder, schema_from_ipc},
    proto,
    shm::Spin,
};
use std::{
    collections::HashMap,
    hint,
    os::unix::thread::JoinHandleExt,
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, ready},
    thread,
    time::{Duration, Instant},
};
use tokio::sync::{mpsc, oneshot, watch};

/// What holds for every worker of an engine.
#[derive(Clone, Copy, Debug)]
pub struct ThreadSettings {
    /// The largest result that is handed on: bytes of its arrays.
    pub result_bytes: u64,
    /// Its rows.
    pub result_rows: u64,
    /// How long both ends watch for the next message before they sleep; zero is not at all.
    pub spin: Duration,
}

/// Starts a worker and waits until it is ready.
pub async fn start(id: String, interpreter: &'static Interpreter, settings: ThreadSettings) -> Result<ThreadWorker> {
    // Asked on a thread that may wait for the GIL; the answer is remembered by Python.
    let environment = blocking(move || interpreter.calls().environment()).await?;
    let (answers, received) = mpsc::unbounded_channel();
    let (tell, ready) = oneshot::channel();
    let (ended, _) = watch::channel(None);
    let shared = Arc::new(Shared {
        id: id.clone(),
        interpreter,
        queue: Queue::default(),
        number: OnceLock::new(),
        elsewhere: AtomicBool::new(false),
        answers: Mutex::new(Some(answers)),
        busy: AtomicBool::new(false),
        abandoned: AtomicBool::new(false),
        ended,
    });
    let spawned = thread::Builder::new().name(format!("pillion-{id}")).spawn({
        let shared = shared.clone();
        move || serve(&shared, settings, tell)
    });
    let thread = spawned.map_err(|error| {
        Error::new(Code::WorkerStartFailed, "the system refuses a thread for a worker").detail(error.to_string()).retryable()
    })?;
    shared.number.get_or_init(|| thread.as_pthread_t() as u64);
    // If nobody waits any more, the thread ends by itself.
    let runner = ready.await.unwrap_or_else(|_| Err(Error::new(Code::InvariantBroken, "a worker thread ended before it was ready")))?;
    let control = Arc::new(ThreadControl { shared, runner: runner.clone(), environment });
    let spin = Spin::new(settings.spin);
    Ok(ThreadWorker { id, received, spin, waiting: None, runner, control })
}

/// The life of the thread.
fn serve(shared: &Shared, settings: ThreadSettings, ready: oneshot::Sender<Result<Arc<Runner>>>) {
    let runner = match shared.interpreter.calls().create(&shared.id) {
        Ok(handle) => Arc::new(Runner { handle: Arc::new(handle), plans: Mutex::default(), settings }),
        Err(error) => return drop(ready.send(Err(error))),
    };
    // Also if this thread panics: whoever waits for its answers must hear of it.
    let _ending = Ending(shared);
    let mut spin = Spin::new(settings.spin);
    if ready.send(Ok(runner.clone())).is_ok() {
        while let Some(message) = shared.queue.pop(&mut spin) {
            shared.busy.store(true, Ordering::SeqCst);
            let answer = runner.answer(message);
            shared.busy.store(false, Ordering::SeqCst);
            if let Some(answer) = answer {
                shared.send(Ok(answer));
            }
        }
    }
    runner.handle.close();
    if shared.abandoned.load(Ordering::SeqCst) {
        metrics::thread_came_back();
        tracing::info!(worker = shared.id, "the thread of an abandoned function has come free");
    }
}

/// The thread has ended, however it did.
struct Ending<'a>(&'a Shared);

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        self.0.end("exit", false);
    }
}

/// What a worker's thread shares with those who hold the worker.
struct Shared {
    id: String,
    interpreter: &'static Interpreter,
    queue: Queue,
    /// Its thread's number, as Python and `faulthandler` have it.
    number: OnceLock<u64>,
    /// A call runs on a thread of the host.
    elsewhere: AtomicBool,
    /// `None` once the worker is lost.
    answers: Mutex<Option<mpsc::UnboundedSender<Result<FromWorker, Lost>>>>,
    /// A call runs on the thread.
    busy: AtomicBool,
    /// Nobody waits for that call any more.
    abandoned: AtomicBool,
    ended: watch::Sender<Option<Lost>>,
}

impl Shared {
    fn send(&self, answer: Result<FromWorker, Lost>) {
        if let Some(answers) = &*self.answers.lock().unwrap_or_else(PoisonError::into_inner) {
            // The worker's holder may be gone.
            let _ = answers.send(answer);
        }
    }

    /// The worker is lost, for this cause if it is the first. True if it was.
    fn end(&self, cause: &str, outside: bool) -> bool {
        let loss = WorkerLoss { worker_id: self.id.clone(), cause: cause.to_owned(), ..Default::default() };
        let lost = Lost { loss, outside };
        let first = self.ended.send_if_modified(|ended| {
            let first = ended.is_none();
            ended.get_or_insert_with(|| lost.clone());
            first
        });
        if first {
            self.send(Err(lost));
            *self.answers.lock().unwrap_or_else(PoisonError::into_inner) = None;
        }
        first
    }
}

/// The worker's functions and plans, on whatever thread calls them.
struct Runner {
    handle: Arc<Handle>,
    plans: Mutex<HashMap<u64, Arc<Plan>>>,
    settings: ThreadSettings,
}

/// A plan that the runtime has prepared.
struct Plan {
    /// For batches that crossed a wire.
    decoder: Decoder,
    output: SchemaRef,
}

impl Runner {
    /// Does what the message asks.
    fn answer(&self, message: ToWorker) -> Option<FromWorker> {
        Some(match message {
            ToWorker::Prepare { plan_id, prepare } => {
                self.forget(plan_id);
                match self.prepare(plan_id, &prepare) {
                    Ok(prepared) => FromWorker::Prepared(prepared),
                    Err(error) => FromWorker::Refused(error),
                }
            }
            ToWorker::Describe { function } => match self.handle.describe(&function) {
                Ok(described) => FromWorker::Described(Box::new(described)),
                Err(error) => FromWorker::Refused(error),
            },
            ToWorker::Batch { plan_id, seq, batch } => {
                let (result, cost) = self.execute(plan_id, batch);
                let (result, metrics) =
                    result.map(|(batch, metrics)| (Ok(Batch::Arrow(batch)), metrics)).unwrap_or_else(|error| (Err(error), Vec::new()));
                FromWorker::Answer { seq, result, cost, metrics }
            }
            ToWorker::Release { plan_id } => {
                self.forget(plan_id);
                self.handle.release(plan_id);
                return None;
            }
        })
    }

    fn prepare(&self, plan_id: u64, prepare: &proto::Prepare) -> Result<proto::Prepared> {
        let prepared = self.handle.prepare(plan_id, prepare)?;
        let damaged =
            |error: arrow_schema::ArrowError| Error::new(Code::ProtocolViolation, "a schema is damaged").detail(error.to_string());
        let (mut input, mut output) =
            (schema_from_ipc(&prepare.input_schema).map_err(damaged)?, schema_from_ipc(&prepared.output_schema).map_err(damaged)?);
        if let (Some(keyed), Some(function)) = (&prepare.keyed, prepared.functions.first()) {
            let layout = Layout::new(keyed, &output, function).map_err(damaged)?;
            (input, output) = (layout.bundle, layout.effects);
        }
        let plan = Plan { decoder: Decoder::new(&input).map_err(damaged)?, output };
        self.plans.lock().unwrap_or_else(PoisonError::into_inner).insert(plan_id, Arc::new(plan));
        Ok(prepared)
    }

    fn forget(&self, plan_id: u64) {
        self.plans.lock().unwrap_or_else(PoisonError::into_inner).remove(&plan_id);
    }

    fn execute(&self, plan_id: u64, batch: Batch) -> (Result<(RecordBatch, Vec<proto::MetricDelta>)>, Cost) {
        let began = Instant::now();
        let plan = self.plans.lock().unwrap_or_else(PoisonError::into_inner).get(&plan_id).cloned();
        let batch = match (batch, &plan) {
            (Batch::Arrow(batch), _) => batch,
            (Batch::Frame(frame), Some(plan)) => match plan.decoder.decode(&frame) {
                Ok(batch) => batch,
                Err(error) => {
                    let error = Error::new(Code::ProtocolViolation, format!("the batch cannot be decoded: {error}"));
                    return (Err(error), Cost::default());
                }
            },
            // The runtime answers with what was wrong with the plan, and looks at no rows.
            (Batch::Frame(_), None) => RecordBatch::new_empty(Arc::new(arrow_schema::Schema::empty())),
        };
        let empty = || Arc::new(arrow_schema::Schema::empty());
        let output = plan.map_or_else(empty, |plan| plan.output.clone());
        let (result, mut cost) = self.handle.execute(plan_id, batch, &output);
        cost.convert_ns = u64::try_from(began.elapsed().as_nanos()).unwrap_or(u64::MAX).saturating_sub(cost.user_ns);
        (result.and_then(|(result, metrics)| Ok((self.check_size(result)?, metrics))), cost)
    }

    /// What a worker process checks before it sends.
    fn check_size(&self, result: RecordBatch) -> Result<RecordBatch> {
        let (rows, bytes) = (result.num_rows() as u64, Batch::Arrow(result.clone()).bytes());
        let (what, value, limit) = if rows > self.settings.result_rows {
            ("rows", rows, self.settings.result_rows)
        } else if bytes > self.settings.result_bytes {
            ("bytes", bytes, self.settings.result_bytes)
        } else {
            return Ok(result);
        };
        Err(Error::new(Code::BatchTooLarge, format!("the result of {value} {what} is above the limit of {limit}"))
            .hint("send smaller batches, or return less for each"))
    }
}

/// A worker as its lease holds it.
pub struct ThreadWorker {
    id: String,
    received: mpsc::UnboundedReceiver<Result<FromWorker, Lost>>,
    spin: Spin,
    /// Since when there was nothing to receive, and whether this end has slept since.
    waiting: Option<(Instant, bool)>,
    runner: Arc<Runner>,
    control: Arc<ThreadControl>,
}

impl ThreadWorker {
    fn take(&mut self, received: Result<FromWorker, Lost>) -> Result<FromWorker, Lost> {
        if let Some((since, slept)) = self.waiting.take() {
            self.spin.learn(since.elapsed(), !slept);
        }
        received
    }
}

impl Worker for ThreadWorker {
    fn id(&self) -> &str {
        &self.id
    }

    fn send(&mut self, message: ToWorker) {
        self.control.shared.queue.push(message);
    }

    fn poll_recv(&mut self, cx: &mut Context<'_>) -> Poll<Result<FromWorker, Lost>> {
        // The channel is told of this task only when it sleeps, since waking costs the worker's thread time.
        if let Ok(received) = self.received.try_recv() {
            return Poll::Ready(self.take(received));
        }
        if self.waiting.is_none() {
            let began = Instant::now();
            self.waiting = Some((began, false));
            let limit = self.spin.limit();
            while began.elapsed() < limit {
                for _ in 0..32 {
                    hint::spin_loop();
                }
                if let Ok(received) = self.received.try_recv() {
                    return Poll::Ready(self.take(received));
                }
            }
        }
        if let Some((_, slept)) = &mut self.waiting {
            *slept = true;
        }
        match ready!(self.received.poll_recv(cx)) {
            Some(received) => Poll::Ready(self.take(received)),
            // The channel closes behind a loss that was taken before.
            None => Poll::Ready(Err(self.control.shared.ended.borrow().clone().unwrap_or_else(lost))),
        }
    }

    fn call_here(&mut self, message: ToWorker) -> Result<Option<FromWorker>, Box<ToWorker>> {
        self.control.shared.elsewhere.store(true, Ordering::SeqCst);
        let answer = self.runner.answer(message);
        self.control.shared.elsewhere.store(false, Ordering::SeqCst);
        Ok(answer)
    }

    fn control(&self) -> Arc<dyn Control> {
        self.control.clone()
    }
}

impl Drop for ThreadWorker {
    fn drop(&mut self) {
        self.control.kill(KillCause::Dropped);
    }
}

fn lost() -> Lost {
    Lost { loss: WorkerLoss::default(), outside: false }
}

/// A worker seen from outside its lease.
struct ThreadControl {
    shared: Arc<Shared>,
    runner: Arc<Runner>,
    environment: proto::EnvironmentDescription,
}

impl Control for ThreadControl {
    fn pid(&self) -> i32 {
        0
    }

    /// A thread cannot be ended from outside: it is abandoned, together with the call that runs on it. Its function gets an exception, which it notices when it
    /// runs Python code again.
    fn kill(&self, cause: KillCause) {
        let shared = &self.shared;
        if !shared.end(cause.as_str(), matches!(cause, KillCause::Shutdown | KillCause::Dropped)) {
            return;
        }
        if shared.busy.load(Ordering::SeqCst) && !shared.abandoned.swap(true, Ordering::SeqCst) {
            metrics::thread_abandoned();
            tracing::warn!(worker = shared.id, cause = cause.as_str(), "a function is abandoned with its thread, which cannot be ended");
            shared.interpreter.interrupt(self.runner.handle.clone());
        }
        shared.queue.close();
    }

    fn shutdown(&self) {
        self.shared.queue.close();
    }

    fn gone(&self) -> BoxFuture<'static, Lost> {
        let mut ended = self.shared.ended.subscribe();
        Box::pin(async move { ended.wait_for(Option::is_some).await.ok().and_then(|ended| ended.clone()).unwrap_or_else(lost) })
    }

    fn stacks(&self) -> BoxFuture<'_, Option<String>> {
        let interpreter = self.shared.interpreter;
        Box::pin(async move {
            let text = tokio::task::spawn_blocking(move || interpreter.stacks()).await.ok().flatten()?;
            // Which of the host's threads it is nobody knows.
            let number = self.shared.number.get().filter(|_| !self.shared.elsewhere.load(Ordering::SeqCst));
            Some(number.map_or(text.clone(), |number| stacks::of_thread(&text, *number)))
        })
    }

    fn is_stopped(&self) -> bool {
        false
    }

    fn private_bytes(&self) -> Option<u64> {
        None
    }

    fn environment(&self) -> &proto::EnvironmentDescription {
        &self.environment
    }
}
