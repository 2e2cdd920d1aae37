//! The signals that end a command.

use tokio::signal::unix::{Signal, SignalKind, signal};

use super::failure::Failure;

/// Interrupt, terminate and hang-up, caught from when this is made.
pub struct Signals([(Signal, i32); 3]);

impl Signals {
    /// # Errors
    /// The operating system refuses handlers.
    pub fn catch() -> Result<Self, Failure> {
        let one = |kind: SignalKind| match signal(kind) {
            Ok(signal) => Ok((signal, kind.as_raw_value())),
            Err(error) => Err(Failure::data(format!("signals cannot be handled: {error}"))),
        };
        Ok(Self([one(SignalKind::interrupt())?, one(SignalKind::terminate())?, one(SignalKind::hangup())?]))
    }

    /// Waits for one of them; gives [`Failure::Interrupted`].
    pub async fn caught(&mut self) -> Failure {
        let [(interrupt, int), (terminate, term), (hangup, hup)] = &mut self.0;
        let number = tokio::select! {
            _ = interrupt.recv() => *int,
            _ = terminate.recv() => *term,
            _ = hangup.recv() => *hup,
        };
        Failure::Interrupted(number)
    }
}
