//! The host protocol's calls; the session's own stream is in [`super::execute`].

use super::{
    execute,
    state::{Questions, StateStreams},
};
use crate::{
    config::Config,
    engine::Engine,
    environment::{EnvironmentSpec, Mode},
    error::{Code, Error, Result},
};
use pillion_wire::{PROTOCOL_VERSION, proto};
use std::{sync::Arc, time::Duration};
use tonic::{Request, Response, Status, Streaming};

/// Serves one engine to hosts.
pub(super) struct HostService {
    engine: Arc<Engine>,
    states: StateStreams,
}

impl HostService {
    pub fn new(engine: Arc<Engine>) -> Self {
        HostService { engine, states: StateStreams::default() }
    }
}

/// Refuses a peer whose protocol this build does not know.
pub(super) fn check_version(version: u32) -> Result<()> {
    if version == PROTOCOL_VERSION {
        return Ok(());
    }
    let message = format!("the host speaks version {version} of the protocol, this sidecar version {PROTOCOL_VERSION}");
    Err(Error::new(Code::ProtocolVersion, message).hint("use a client and a sidecar of the same release"))
}

/// The environment of a request; none at all is the default.
pub(super) fn environment(config: &Config, spec: Option<proto::EnvironmentSpec>) -> Result<EnvironmentSpec> {
    let spec = spec.map_or_else(|| Ok(EnvironmentSpec::default()), EnvironmentSpec::try_from)?;
    if spec.mode == Some(Mode::Thread) && !config.allows_threads(&spec) {
        return Err(Error::new(Code::EnvironmentRefused, "this sidecar runs no functions in its own process because a host asks for it")
            .hint("configure an environment with `mode = \"thread\"`, or turn on `functions.allow_inline_threads`"));
    }
    Ok(spec)
}

#[tonic::async_trait]
impl proto::host_server::Host for HostService {
    async fn describe(&self, request: Request<proto::DescribeRequest>) -> Result<Response<proto::DescribeResponse>, Status> {
        let request = request.into_inner();
        let described = async {
            check_version(request.protocol_version)?;
            let function = request.function.ok_or_else(|| Error::new(Code::ProtocolViolation, "`function` is missing"))?;
            self.engine.describe(function, &environment(self.engine.config(), request.environment)?).await
        };
        described.await.map(Response::new).map_err(|error| error.to_status())
    }

    type ExecuteStream = execute::Responses;

    async fn execute(&self, request: Request<Streaming<proto::ExecuteRequest>>) -> Result<Response<Self::ExecuteStream>, Status> {
        Ok(Response::new(execute::begin(self.engine.clone(), self.states.clone(), request.into_inner())))
    }

    type StateStream = Questions;

    async fn state(&self, request: Request<Streaming<proto::HostStateMessage>>) -> Result<Response<Self::StateStream>, Status> {
        let deadline = self.engine.config().limits.open_deadline;
        let begun = self.states.begin(request.into_inner(), deadline).await;
        begun.map(Response::new).map_err(|error| error.to_status())
    }

    async fn cancel(&self, request: Request<proto::CancelRequest>) -> Result<Response<proto::CancelResponse>, Status> {
        Ok(Response::new(proto::CancelResponse { found: self.engine.cancel(&request.get_ref().session_id) }))
    }

    async fn drain(&self, request: Request<proto::DrainRequest>) -> Result<Response<proto::DrainResponse>, Status> {
        let deadline = match request.get_ref().deadline_ms {
            0 => self.engine.config().server.drain_deadline,
            ms => Duration::from_millis(ms),
        };
        let sessions = self.engine.begin_drain(deadline) as u32;
        Ok(Response::new(proto::DrainResponse { sessions }))
    }

    async fn status(&self, request: Request<proto::StatusRequest>) -> Result<Response<proto::StatusResponse>, Status> {
        Ok(Response::new(self.engine.status(request.get_ref().stacks).await))
    }
}
