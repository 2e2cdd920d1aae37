//! A worker of thread mode: a thread with functions of its own.

use super::{blocking, interpreter::Interpreter, queue::Queue, runner::Runner, stacks};
use crate::{
    batch::Batch,
    error::{Code, Error, Result, WorkerLoss},
    metrics,
    worker::{BoxFuture, Control, FromWorker, KillCause, Lost, ToWorker, Worker},
};
use arrow_array::RecordBatch;
use pillion_wire::{proto, shm::Spin};
use std::{
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
        Ok(handle) => Arc::new(Runner::new(handle, settings)),
        Err(error) => return drop(ready.send(Err(error))),
    };
    // Also if this thread panics: whoever waits for its answers must hear of it.
    let _ending = Ending(shared);
    let mut spin = Spin::new(settings.spin);
    if ready.send(Ok(runner.clone())).is_ok() {
        while let Some(message) = shared.queue.pop(&mut spin) {
            shared.busy.store(true, Ordering::SeqCst);
            let answer = runner.answer(message, Some(&|plan_id, seq, asked| shared.fetch(plan_id, seq, asked)));
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

    /// Asks for state in the middle of a batch, and waits for the answer on the worker's thread.
    fn fetch(&self, plan_id: u64, seq: u64, asked: RecordBatch) -> Result<Batch> {
        tracing::trace!(worker = self.id, plan_id, seq, "a function asks for state");
        self.send(Ok(FromWorker::Fetch { seq, asked: asked.into() }));
        self.queue.pop_fetched(seq).unwrap_or_else(|| Err(Error::new(Code::SessionClosed, "nobody waits for this call any more")))
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
        // The functions of a keyed session run on the worker's own thread; others ask for no state.
        let answer = self.runner.answer(message, None);
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
