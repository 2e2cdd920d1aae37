//! A host at the other end of a state stream.

use super::{
    HostCommit, HostDue, HostGet, HostPage, HostRows, HostTimers, StateHost,
    wire::{self, Replies, Reply},
};
use crate::{
    error::{Code, Error, Result},
    worker::BoxFuture,
};
use pillion_wire::{frame::FrameLimits, proto};
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};
use tokio::sync::{mpsc, oneshot};

/// Asks by messages, whatever carries them. What is asked before somebody does waits for them.
pub struct RemoteHost {
    waiting: Mutex<Waiting>,
    limits: FrameLimits,
}

struct Waiting {
    /// A question or two at a time, so nothing bounds it; taken to end the stream.
    outgoing: Option<mpsc::UnboundedSender<proto::StateRequest>>,
    /// Until the stream is there.
    requests: Option<mpsc::UnboundedReceiver<proto::StateRequest>>,
    last_id: u64,
    answers: HashMap<u64, oneshot::Sender<Result<Reply>>>,
    /// Why nothing is answered any more.
    over: Option<Error>,
}

impl RemoteHost {
    /// Refuses answers above `limits`.
    pub fn new(limits: FrameLimits) -> Arc<Self> {
        let (outgoing, requests) = mpsc::unbounded_channel();
        let waiting = Waiting { outgoing: Some(outgoing), requests: Some(requests), last_id: 0, answers: HashMap::new(), over: None };
        Arc::new(RemoteHost { waiting: Mutex::new(waiting), limits })
    }

    /// The two directions of the stream, once: what is asked, and who takes the answers. Dropping the latter ends everything that waits.
    pub fn attach(self: &Arc<Self>) -> Option<(mpsc::UnboundedReceiver<proto::StateRequest>, Answers)> {
        let requests = self.lock().requests.take()?;
        Some((requests, Answers { host: self.clone(), replies: Replies::new(self.limits) }))
    }

    /// Nothing is asked or answered any more.
    pub fn close(&self, why: &Error) {
        let mut waiting = self.lock();
        waiting.over.get_or_insert_with(|| why.clone());
        waiting.outgoing = None;
        for (_, answer) in waiting.answers.drain() {
            // Whoever asked may have given up.
            let _ = answer.send(Err(why.clone()));
        }
    }

    async fn ask(&self, messages: impl FnOnce(u64) -> Result<Vec<proto::StateRequest>>) -> Result<Reply> {
        let answer = {
            let mut waiting = self.lock();
            if let Some(why) = &waiting.over {
                return Err(why.clone());
            }
            waiting.last_id += 1;
            let id = waiting.last_id;
            let (tell, answer) = oneshot::channel();
            // Within the lock, so that nothing comes between the messages of a question.
            for message in messages(id)? {
                let sent = waiting.outgoing.as_ref().is_some_and(|outgoing| outgoing.send(message).is_ok());
                if !sent {
                    return Err(gone());
                }
            }
            waiting.answers.insert(id, tell);
            answer
        };
        answer.await.unwrap_or_else(|_| Err(gone()))
    }

    async fn rows(&self, messages: impl FnOnce(u64) -> Result<Vec<proto::StateRequest>>) -> Result<HostRows> {
        match self.ask(messages).await? {
            Reply::Rows(rows) => Ok(rows),
            _ => Err(unasked()),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn gone() -> Error {
    Error::new(Code::StateHostFailed, "the host that keeps the state has closed its stream")
        .hint("keep the `State` stream open as long as its session; the host opens the session again from its own checkpoint")
}

fn unasked() -> Error {
    Error::new(Code::ProtocolViolation, "the host that keeps the state answered something else than it was asked")
}

impl StateHost for RemoteHost {
    fn get<'a>(&'a self, request: &'a HostGet) -> BoxFuture<'a, Result<HostRows>> {
        Box::pin(self.rows(|id| wire::get(id, request)))
    }

    fn page<'a>(&'a self, request: &'a HostPage) -> BoxFuture<'a, Result<HostRows>> {
        Box::pin(self.rows(|id| wire::page(id, request)))
    }

    fn commit(&self, commit: HostCommit) -> BoxFuture<'_, Result<()>> {
        Box::pin(async move {
            match self.ask(|id| wire::commit(id, &commit)).await? {
                Reply::Done => Ok(()),
                _ => Err(unasked()),
            }
        })
    }

    fn timers<'a>(&'a self, request: &'a HostDue) -> BoxFuture<'a, Result<HostTimers>> {
        Box::pin(async move {
            match self.ask(|id| wire::timers(id, request)).await? {
                Reply::Timers(timers) => Ok(timers),
                _ => Err(unasked()),
            }
        })
    }
}

/// Takes what the host says.
pub struct Answers {
    host: Arc<RemoteHost>,
    replies: Replies,
}

impl Answers {
    /// Takes a message.
    ///
    /// # Errors
    /// [`Code::ProtocolViolation`] for a message that breaks the rules; the stream is over then.
    pub fn take(&mut self, message: proto::StateResponse) -> Result<()> {
        let taken = self.replies.push(message).and_then(|taken| match taken {
            Some((id, _)) if id > self.host.lock().last_id => Err(unasked()),
            taken => Ok(taken),
        });
        match taken {
            Ok(Some((id, reply))) => {
                // Whoever asked may have given up.
                if let Some(answer) = self.host.lock().answers.remove(&id) {
                    let _ = answer.send(reply);
                }
                Ok(())
            }
            Ok(None) => Ok(()),
            Err(error) => {
                self.host.close(&error);
                Err(error)
            }
        }
    }
}

impl Drop for Answers {
    fn drop(&mut self) {
        self.host.close(&gone());
    }
}
