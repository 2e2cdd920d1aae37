//! What the two halves of a session share: the way to its engine, and what opening found out.

use super::{FunctionDescription, Limits, allocate::Allocator, remote::RemoteSession};
use crate::{
    error::{Code, Error},
    session::{
        self,
        credit::{Amount, Gate},
    },
};
use arrow_schema::SchemaRef;
use pillion_wire::proto;
use std::sync::Arc;

/// The way to the engine of one session.
#[derive(Clone)]
pub(super) enum Link {
    Embedded(Arc<session::Session>),
    Remote(Arc<RemoteSession>),
}

/// What opening found out, from either door.
pub(super) struct Opened {
    pub id: String,
    pub output_schema: SchemaRef,
    pub functions: Vec<FunctionDescription>,
    pub environment: proto::EnvironmentDescription,
    /// Results may be read in place.
    pub trusted: bool,
    pub limits: Limits,
}

/// Of both halves.
pub(super) struct Shared {
    pub opened: Opened,
    /// Room for inputs at the engine.
    pub gate: Gate,
    pub link: Link,
    /// For batches that the host builds in place.
    pub allocator: Arc<Allocator>,
}

impl Shared {
    /// Waits for credit; false if the session ended meanwhile.
    pub async fn admitted(&self, cost: Amount) -> bool {
        match &self.link {
            Link::Embedded(session) => tokio::select! {
                biased;
                taken = self.gate.take(cost) => taken,
                () = session.ended() => false,
            },
            // The end of a remote session is heard by whoever reads its answers, who then closes the gate.
            Link::Remote(_) => self.gate.take(cost).await,
        }
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        match &self.link {
            Link::Embedded(session) => session.cancel(Error::new(Code::Cancelled, "the host dropped the session")),
            Link::Remote(remote) => remote.close(),
        }
    }
}
