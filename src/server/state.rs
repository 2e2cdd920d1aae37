//! State streams: the questions of sessions whose hosts keep the state.

use crate::{
    config::Limits,
    error::{Code, Error, Result},
    state::host::{Answers, RemoteHost},
};
use pillion_wire::{
    frame::FrameLimits,
    proto::{self, host_state_message as message},
};
use std::{
    collections::HashMap,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    task::{Context, Poll},
    time::Duration,
};
use tokio::{sync::mpsc, task::AbortHandle, time::timeout};
use tokio_stream::Stream;
use tonic::{Status, Streaming};

/// Sessions that wait for the state streams of their hosts.
#[derive(Clone, Default)]
pub(super) struct StateStreams(Arc<Mutex<HashMap<String, Weak<RemoteHost>>>>);

/// The host of one session, until the session is over.
pub(super) struct StateDoor {
    pub host: Arc<RemoteHost>,
}

impl Drop for StateDoor {
    fn drop(&mut self) {
        self.host.close(&Error::new(Code::SessionClosed, "the session is over"));
    }
}

impl StateDoor {
    /// Answers are bounded as batches are.
    pub fn new(limits: &Limits) -> Self {
        StateDoor { host: RemoteHost::new(FrameLimits { bytes: limits.max_batch_bytes, rows: limits.max_batch_rows }) }
    }
}

impl StateStreams {
    /// The host may open the stream of this session from now on.
    pub fn expect(&self, session_id: &str, door: &StateDoor) {
        let mut waiting = self.lock();
        waiting.retain(|_, host| host.strong_count() > 0);
        waiting.insert(session_id.to_owned(), Arc::downgrade(&door.host));
    }

    /// Begins to serve a state stream.
    ///
    /// # Errors
    /// [`Code::ProtocolViolation`] if the stream does not begin with the id of its session, [`Code::SessionClosed`] if no session waits for it.
    pub async fn begin(&self, mut answers: Streaming<proto::HostStateMessage>, deadline: Duration) -> Result<Questions> {
        let first = timeout(deadline, answers.message()).await;
        let first = first.map_err(|_| Error::new(Code::ProtocolViolation, format!("no session id came within {deadline:?}")))?;
        let first = first.map_err(|status| Error::from_status(&status))?.and_then(|first| first.message);
        let Some(message::Message::SessionId(id)) = first else {
            return Err(Error::new(Code::ProtocolViolation, "the first message of a state stream is the id of its session"));
        };
        let attached = self.lock().remove(&id).and_then(|host| host.upgrade()).and_then(|host| host.attach());
        let (questions, taking) = attached.ok_or_else(|| {
            Error::new(Code::SessionClosed, format!("no session `{id}` waits for a state stream"))
                .hint("open one stream per session, with the backend `host`, when `opened` has come")
        })?;
        let reader = tokio::spawn(take(answers, taking)).abort_handle();
        Ok(Questions { questions, reader })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Weak<RemoteHost>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Takes answers until the stream ends or breaks a rule; then nothing is answered any more.
async fn take(mut answers: Streaming<proto::HostStateMessage>, mut taking: Answers) {
    while let Ok(Some(message)) = answers.message().await {
        let taken = match message.message {
            Some(message::Message::Response(response)) => taking.take(response),
            _ => Err(Error::new(Code::ProtocolViolation, "a state stream carries answers only")),
        };
        if let Err(error) = taken {
            tracing::debug!(%error, "a state stream is ended");
            return;
        }
    }
}

/// What the host is asked.
pub struct Questions {
    questions: mpsc::UnboundedReceiver<proto::StateRequest>,
    reader: AbortHandle,
}

impl Stream for Questions {
    type Item = Result<proto::SidecarStateMessage, Status>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let question = std::task::ready!(self.questions.poll_recv(cx));
        Poll::Ready(question.map(|request| Ok(proto::SidecarStateMessage { request: Some(request) })))
    }
}

impl Drop for Questions {
    /// The host's connection is gone, or the session is over.
    fn drop(&mut self) {
        self.reader.abort();
    }
}
