//! A host that keeps the state of its session, connected: the sidecar's questions go to its [`StateHost`].

use crate::{
    error::{Error, Result},
    state::host::{
        StateHost,
        wire::{self, Questions},
    },
};
use pillion_wire::proto::{self, host_client::HostClient, host_state_message as message};
use std::sync::Arc;
use tokio::{
    sync::mpsc,
    task::{AbortHandle, spawn},
};
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::{Streaming, transport::Channel};

/// Answers until the stream ends; dropped, it ends the stream.
pub(super) struct StateTask(AbortHandle);

impl Drop for StateTask {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl StateTask {
    /// Opens the state stream of a session.
    pub async fn start(mut client: HostClient<Channel>, session_id: &str, host: Arc<dyn StateHost>) -> Result<Self> {
        // Answers to questions, of which the sidecar asks one or two at a time.
        let (out, outgoing) = mpsc::unbounded_channel();
        let hello = proto::HostStateMessage { message: Some(message::Message::SessionId(session_id.to_owned())) };
        // Cannot fail: the receiver is right here.
        let _ = out.send(hello);
        let asked = client.state(UnboundedReceiverStream::new(outgoing)).await.map_err(|status| Error::from_status(&status))?;
        let task = spawn(async move {
            if let Err(error) = serve(asked.into_inner(), &out, &*host).await {
                tracing::debug!(%error, "the state stream ended");
            }
        });
        Ok(StateTask(task.abort_handle()))
    }
}

/// One question after the other, so that a commit is received before what comes after it is read.
async fn serve(
    mut asked: Streaming<proto::SidecarStateMessage>,
    out: &mpsc::UnboundedSender<proto::HostStateMessage>,
    host: &dyn StateHost,
) -> Result<()> {
    let mut questions = Questions::new();
    while let Some(message) = asked.message().await.map_err(|status| Error::from_status(&status))? {
        let Some(request) = message.request else { continue };
        let Some((id, question)) = questions.push(request)? else { continue };
        for response in wire::answer(host, id, question).await {
            if out.send(proto::HostStateMessage { message: Some(message::Message::Response(response)) }).is_err() {
                return Ok(());
            }
        }
    }
    Ok(())
}
