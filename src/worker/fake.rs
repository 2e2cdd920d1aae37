//! A worker without a process, for tests of `pool` and `session`: it answers what its script says.

use super::{BoxFuture, Control, Cost, FromWorker, KillCause, Lost, ToWorker, Worker, WorkerFactory};
use crate::batch::Batch;
use crate::error::{Code, Error, Result, WorkerLoss};
use pillion_wire::proto;
use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};
use tokio::sync::{mpsc, watch};

/// What a fake worker does with a batch.
#[derive(Clone, Debug)]
pub enum Act {
    /// Answers with the input.
    Echo,
    /// Answers with the input after a while.
    EchoAfter(Duration),
    /// Answers with the input after as many milliseconds as it has rows.
    EchoByRows,
    /// Does what this says of the batch.
    By(fn(&Batch) -> Act),
    /// Answers with a failure.
    Fail,
    /// Answers with a failure of this row.
    FailAt(u64),
    /// Dies of its own fault.
    Crash,
    /// Is killed by a signal from outside.
    KilledOutside,
    /// Never answers.
    Hang,
    /// Answers another batch than it was asked.
    Lie,
    /// Asks for state, and does this once it has come, or is refused.
    AskThen(&'static Act),
    /// Asks for state of the batch that is so many further, so many times, and waits for ever.
    Ask { further: u64, times: usize },
    /// Asks for state, and dies before it comes.
    AskAndDie,
}

/// Decides what happens to batch `seq` on its nth execution (from 1).
pub type Script = dyn Fn(u64, usize) -> Act + Send + Sync;

/// Makes fake workers.
pub struct FakeFactory {
    script: Arc<Script>,
    /// How often each batch was executed, in order of execution.
    pub executed: Arc<Mutex<Vec<u64>>>,
    /// Workers started.
    pub started: AtomicUsize,
    /// Starts that fail, from the first.
    pub failing_starts: AtomicUsize,
    /// Kills by the engine, with their causes.
    pub kills: Arc<Mutex<Vec<KillCause>>>,
    /// Workers that live.
    pub alive: Arc<AtomicUsize>,
    /// How workers ended, as in `WorkerLoss.cause`.
    pub ends: Arc<Mutex<Vec<String>>>,
    /// Plans released by the engine.
    pub released: Arc<Mutex<Vec<u64>>>,
    /// What workers say of a plan.
    pub prepared: Mutex<proto::Prepared>,
    /// Private memory of every worker.
    pub private_bytes: Arc<AtomicU64>,
    /// Whether something outside has stopped the workers.
    pub stopped: Arc<AtomicBool>,
    /// How long a worker takes to end by itself, in milliseconds.
    pub closing: Arc<AtomicU64>,
}

impl FakeFactory {
    pub fn new(script: impl Fn(u64, usize) -> Act + Send + Sync + 'static) -> Arc<Self> {
        Arc::new(FakeFactory {
            script: Arc::new(script),
            executed: Arc::default(),
            started: AtomicUsize::new(0),
            failing_starts: AtomicUsize::new(0),
            kills: Arc::default(),
            alive: Arc::default(),
            ends: Arc::default(),
            released: Arc::default(),
            prepared: Mutex::default(),
            private_bytes: Arc::default(),
            stopped: Arc::default(),
            closing: Arc::new(AtomicU64::new(10)),
        })
    }
}

impl WorkerFactory for FakeFactory {
    fn launch(&self) -> BoxFuture<'_, Result<Box<dyn Worker>>> {
        Box::pin(async {
            tokio::task::yield_now().await;
            let number = self.started.fetch_add(1, Ordering::SeqCst) + 1;
            if number <= self.failing_starts.load(Ordering::SeqCst) {
                return Err(Error::new(Code::WorkerStartFailed, format!("start {number} fails")));
            }
            let id = format!("fake-{number}");
            let (end, _) = watch::channel(None);
            let control = Arc::new(FakeControl {
                id: id.clone(),
                end: Arc::new(end),
                kills: self.kills.clone(),
                alive: self.alive.clone(),
                ends: self.ends.clone(),
                environment: Default::default(),
                private_bytes: self.private_bytes.clone(),
                stopped: self.stopped.clone(),
                closing: self.closing.clone(),
            });
            self.alive.fetch_add(1, Ordering::SeqCst);
            let (work, queue) = mpsc::unbounded_channel();
            let (answer, answers) = mpsc::unbounded_channel();
            let prepared = self.prepared.lock().unwrap().clone();
            tokio::spawn(serve(
                queue,
                answer,
                self.script.clone(),
                self.executed.clone(),
                control.clone(),
                self.released.clone(),
                prepared,
            ));
            Ok(Box::new(FakeWorker { id, work, answers, control, gone: None }) as Box<dyn Worker>)
        })
    }

    fn shutdown(&self) -> BoxFuture<'_, ()> {
        Box::pin(async {})
    }
}

async fn serve(
    mut queue: mpsc::UnboundedReceiver<ToWorker>,
    answers: mpsc::UnboundedSender<FromWorker>,
    script: Arc<Script>,
    executed: Arc<Mutex<Vec<u64>>>,
    control: Arc<FakeControl>,
    released: Arc<Mutex<Vec<u64>>>,
    prepared: proto::Prepared,
) {
    let mut unread = VecDeque::new();
    loop {
        let message = match unread.pop_front() {
            Some(message) => message,
            None => match queue.recv().await {
                Some(message) => message,
                None => return,
            },
        };
        let answer = match message {
            ToWorker::Prepare { .. } => {
                // One that is stopped gets to it once it goes on.
                while control.stopped.load(Ordering::SeqCst) && control.end.borrow().is_none() {
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
                FromWorker::Prepared(prepared.clone())
            }
            ToWorker::Release { plan_id } => {
                released.lock().unwrap().push(plan_id);
                continue;
            }
            ToWorker::Describe { .. } => FromWorker::Described(Box::default()),
            // Nobody waits for it any more.
            ToWorker::Fetched { .. } => continue,
            ToWorker::Batch { seq, batch, .. } => {
                let times = {
                    let mut executed = executed.lock().unwrap();
                    executed.push(seq);
                    executed.iter().filter(|&&other| other == seq).count()
                };
                match act(&control, &*script, (seq, times), batch, (&answers, &mut queue, &mut unread)).await {
                    Some(answer) => answer,
                    None => return,
                }
            }
        };
        let mut end = control.end.subscribe();
        if end.borrow_and_update().is_some() || answers.send(answer).is_err() {
            return;
        }
        while let Ok(message) = queue.try_recv() {
            unread.push_back(message);
        }
    }
}

/// Both ways to a worker, and what it has not looked at.
type Line<'a> = (&'a mpsc::UnboundedSender<FromWorker>, &'a mut mpsc::UnboundedReceiver<ToWorker>, &'a mut VecDeque<ToWorker>);

/// Does what the script says of a batch; nothing if the worker ends over it.
async fn act(
    control: &FakeControl,
    script: &Script,
    (seq, times): (u64, usize),
    batch: Batch,
    (answers, queue, unread): Line<'_>,
) -> Option<FromWorker> {
    let mut act = script(seq, times);
    if let Act::By(judge) = act {
        act = judge(&batch);
    }
    let ask = |seq| drop(answers.send(FromWorker::Fetch { seq, asked: batch.clone() }));
    while let Act::AskThen(then) = act {
        ask(seq);
        loop {
            match queue.recv().await? {
                ToWorker::Fetched { seq: of, .. } if of == seq => break,
                other => unread.push_back(other),
            }
        }
        act = then.clone();
    }
    if let Act::Ask { further, times } = act {
        (0..times).for_each(|_| ask(seq + further));
        act = Act::Hang;
    }
    if let Act::AskAndDie = act {
        ask(seq);
        tokio::task::yield_now().await;
        act = Act::Crash;
    }
    let rows = batch.rows();
    let echo = |seq| Some(answer(seq, Ok(batch)));
    match act {
        Act::Echo => echo(seq),
        Act::Lie => echo(seq + 1000),
        Act::EchoAfter(pause) => {
            tokio::time::sleep(pause).await;
            echo(seq)
        }
        Act::EchoByRows => {
            tokio::time::sleep(Duration::from_millis(rows)).await;
            echo(seq)
        }
        Act::Fail => Some(answer(seq, Err(Error::new(Code::FunctionRaised, "it raised")))),
        Act::FailAt(row) => {
            let row = Some(proto::FailedRow { index: row, ..Default::default() });
            let exception = Some(proto::PythonException { row, ..Default::default() });
            let code = Code::FunctionRaised.as_str().to_owned();
            Some(answer(seq, Err(proto::Error { code, exception, ..Default::default() }.into())))
        }
        Act::By(_) | Act::AskThen(_) | Act::Ask { .. } | Act::AskAndDie => unreachable!("it was judged"),
        Act::Crash => {
            control.finish("exit", false);
            None
        }
        Act::KilledOutside => {
            control.finish("signal", true);
            None
        }
        Act::Hang => {
            control.end.subscribe().wait_for(Option::is_some).await.unwrap();
            None
        }
    }
}

fn answer(seq: u64, result: Result<Batch>) -> FromWorker {
    FromWorker::Answer { seq, result, cost: Cost::default(), metrics: vec![] }
}

struct FakeWorker {
    id: String,
    work: mpsc::UnboundedSender<ToWorker>,
    answers: mpsc::UnboundedReceiver<FromWorker>,
    control: Arc<FakeControl>,
    gone: Option<BoxFuture<'static, Lost>>,
}

impl Worker for FakeWorker {
    fn id(&self) -> &str {
        &self.id
    }

    fn send(&mut self, message: ToWorker) {
        let _ = self.work.send(message);
    }

    fn poll_recv(&mut self, cx: &mut Context<'_>) -> Poll<Result<FromWorker, Lost>> {
        if let Poll::Ready(Some(answer)) = self.answers.poll_recv(cx) {
            return Poll::Ready(Ok(answer));
        }
        let control = self.control.clone();
        self.gone.get_or_insert_with(|| control.gone()).as_mut().poll(cx).map(Err)
    }

    fn control(&self) -> Arc<dyn Control> {
        self.control.clone()
    }
}

impl Drop for FakeWorker {
    fn drop(&mut self) {
        self.control.finish("dropped", false);
    }
}

#[derive(Clone)]
struct FakeControl {
    id: String,
    end: Arc<watch::Sender<Option<Lost>>>,
    kills: Arc<Mutex<Vec<KillCause>>>,
    alive: Arc<AtomicUsize>,
    ends: Arc<Mutex<Vec<String>>>,
    environment: proto::EnvironmentDescription,
    private_bytes: Arc<AtomicU64>,
    stopped: Arc<AtomicBool>,
    closing: Arc<AtomicU64>,
}

impl FakeControl {
    fn finish(&self, cause: &str, outside: bool) {
        let loss = WorkerLoss { worker_id: self.id.clone(), cause: cause.into(), ..Default::default() };
        let first = self.end.send_if_modified(|end| end.replace(Lost { loss, outside }).is_none());
        if first {
            self.ends.lock().unwrap().push(cause.into());
            self.alive.fetch_sub(1, Ordering::SeqCst);
        }
    }
}

impl Control for FakeControl {
    fn pid(&self) -> i32 {
        0
    }

    fn kill(&self, cause: KillCause) {
        self.kills.lock().unwrap().push(cause);
        self.finish(cause.as_str(), false);
    }

    fn shutdown(&self) {
        let control = self.clone();
        tokio::spawn(async move {
            tokio::time::sleep(Duration::from_millis(control.closing.load(Ordering::SeqCst))).await;
            control.finish("exit", false);
        });
    }

    fn gone(&self) -> BoxFuture<'static, Lost> {
        let mut end = self.end.subscribe();
        Box::pin(async move {
            let lost = end.wait_for(Option::is_some).await.map(|lost| lost.clone());
            lost.ok().flatten().unwrap_or(Lost { loss: WorkerLoss::default(), outside: false })
        })
    }

    fn stacks(&self) -> BoxFuture<'_, Option<String>> {
        Box::pin(async { Some(format!("stacks of {}", self.id)) })
    }

    fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::SeqCst)
    }

    fn private_bytes(&self) -> Option<u64> {
        Some(self.private_bytes.load(Ordering::SeqCst))
    }

    fn environment(&self) -> &proto::EnvironmentDescription {
        &self.environment
    }
}
