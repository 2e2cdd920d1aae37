//! What is known of a worker process that is gone.

use super::{Child, ExitCause};
use crate::{
    error::WorkerLoss,
    worker::{KillCause, Lost},
};
use std::{sync::Arc, time::Duration};
use tokio::time::timeout;

/// How long a worker whose connection broke may take to end by itself, so that its own exit status is what is reported.
pub(super) const LAST_WORDS: Duration = Duration::from_millis(500);

/// The stream ended: either the process is about to be reaped, or it lives without a connection and is of no use.
pub(super) async fn disconnected(child: Arc<Child>) -> Lost {
    if timeout(LAST_WORDS, child.wait()).await.is_err() {
        child.kill(KillCause::Connection);
    }
    let exit = child.wait().await;
    loss(&child, &exit)
}

/// How the worker was lost, as it is told to the host.
pub(super) fn loss(child: &Child, exit: &super::Exit) -> Lost {
    let cause = match exit.cause {
        ExitCause::Killed(cause) => cause.as_str(),
        ExitCause::Exited => "exit",
        ExitCause::Unknown => "connection",
        _ => "signal",
    };
    let loss = WorkerLoss {
        worker_id: child.id().to_owned(),
        pid: child.pid(),
        cause: cause.to_owned(),
        exit_status: exit.status.unwrap_or_default(),
        signal: exit.signal.unwrap_or_default(),
        stderr_tail: child.stderr_tail(),
        ..Default::default()
    };
    // A process that the kernel killed for lack of memory counts as the bundle's own fault; what nobody can explain does not.
    let outside = matches!(exit.cause, ExitCause::OutsideSignal | ExitCause::Unknown | ExitCause::Killed(KillCause::Shutdown));
    Lost { loss, outside }
}
