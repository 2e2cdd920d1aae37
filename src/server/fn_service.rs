//! The Fn protocol, sidecar side: workers connect here with the id and token they were started with.

use crate::{
    config::{Limits, session_dir},
    error::{Code, Error, Result},
    worker::process::{
        registry::{ControlOut, DataOut, Registry},
        ring_door::{Memory, RingDoor},
    },
};
use pillion_wire::{
    CONNECTION_WINDOW_BYTES, MAX_MESSAGE_BYTES, PROTOCOL_VERSION, STREAM_WINDOW_BYTES, metadata, proto, shm::packet::ring_address,
};
use std::{fs::Permissions, os::unix::fs::PermissionsExt, path::Path, pin::Pin, sync::Arc};
use tempfile::TempDir;
use tokio::{net::UnixListener, task::AbortHandle};
use tokio_stream::{
    Stream, StreamExt,
    wrappers::{UnboundedReceiverStream, UnixListenerStream},
};
use tonic::{Request, Response, Status, Streaming, transport::Server};

/// Largest HTTP/2 frame on data connections, in bytes: a chunk with its message fits in one, so that it is not cut up again.
pub(super) const HTTP2_FRAME_BYTES: u32 = 512 * 1024;

/// The socket that the workers of one engine connect to, in a private folder.
pub struct FnEndpoint {
    /// Removed with the endpoint.
    _folder: TempDir,
    address: String,
    registry: Arc<Registry>,
    server: AbortHandle,
    _rings: Option<RingDoor>,
}

impl FnEndpoint {
    /// Listens on a fresh socket below `runtime_dir`, and offers rings beside it if `memory` says so.
    ///
    /// # Errors
    /// [`Code::ListenFailed`].
    pub fn bind(runtime_dir: &Path, limits: &Limits, memory: &Arc<Memory>) -> Result<Self> {
        let folder = session_dir(runtime_dir)?;
        let failed = |what: &Path, error: std::io::Error| {
            Error::new(Code::ListenFailed, format!("`{}` cannot be made: {error}", what.display()))
                .hint("set `runtime_dir` to a folder of your own")
        };
        let path = folder.path().join("fn.sock");
        let listener = UnixListener::bind(&path).map_err(|error| failed(&path, error))?;
        std::fs::set_permissions(&path, Permissions::from_mode(0o600)).map_err(|error| failed(&path, error))?;
        let registry = Arc::new(Registry::new(limits, memory.config.enabled));
        let rings = memory.config.enabled.then(|| RingDoor::open(&ring_address(&path), registry.clone(), memory.clone()));
        // Without them the workers use their data streams.
        let rings = rings.and_then(|rings| rings.inspect_err(|error| tracing::warn!("no shared memory for workers: {error}")).ok());
        let service = proto::fn_server::FnServer::new(FnService { registry: registry.clone() })
            .max_decoding_message_size(MAX_MESSAGE_BYTES)
            .max_encoding_message_size(MAX_MESSAGE_BYTES);
        let serving = Server::builder()
            .initial_stream_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
            .max_frame_size(HTTP2_FRAME_BYTES)
            .add_service(service)
            .serve_with_incoming(UnixListenerStream::new(listener));
        let server = tokio::spawn(async move {
            if let Err(error) = serving.await {
                tracing::error!("the endpoint for workers failed: {error}");
            }
        });
        Ok(FnEndpoint {
            address: format!("unix:{}", path.display()),
            _folder: folder,
            registry,
            server: server.abort_handle(),
            _rings: rings,
        })
    }

    /// What workers are told to connect to.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// The workers that may connect.
    pub fn registry(&self) -> &Arc<Registry> {
        &self.registry
    }

    /// Stops listening. Idempotent.
    pub fn close(&self) {
        self.server.abort();
    }
}

impl Drop for FnEndpoint {
    fn drop(&mut self) {
        self.close();
    }
}

struct FnService {
    registry: Arc<Registry>,
}

impl FnService {
    /// The id of the worker that calls.
    fn worker<T>(&self, request: &Request<T>) -> Result<String, Status> {
        let text = |key| request.metadata().get(key).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let (id, token) = (text(metadata::WORKER_ID), text(metadata::WORKER_TOKEN));
        if self.registry.knows(id, token) {
            return Ok(id.to_owned());
        }
        Err(Error::new(Code::Unauthenticated, "only workers that this sidecar started may connect here").to_status())
    }
}

fn again() -> Status {
    Error::new(Code::ProtocolViolation, "the worker has opened this stream before").to_status()
}

type Out<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl proto::fn_server::Fn for FnService {
    async fn get_provision_info(&self, request: Request<proto::ProvisionRequest>) -> Result<Response<proto::ProvisionInfo>, Status> {
        self.worker(&request)?;
        let version = request.get_ref().protocol_version;
        if version != PROTOCOL_VERSION {
            let message = format!("the worker speaks version {version} of the protocol, this sidecar {PROTOCOL_VERSION}");
            return Err(Error::new(Code::ProtocolVersion, message).hint("run workers of the same release as the sidecar").to_status());
        }
        let limits = self.registry.limits();
        Ok(Response::new(proto::ProvisionInfo {
            protocol_version: PROTOCOL_VERSION,
            capabilities: self.registry.capabilities(),
            max_batch_bytes: limits.bytes,
            max_batch_rows: limits.rows,
            min_log_level: 0,
        }))
    }

    type ControlStream = Out<proto::SidecarControl>;

    async fn control(&self, request: Request<Streaming<proto::WorkerControl>>) -> Result<Response<Self::ControlStream>, Status> {
        let id = self.worker(&request)?;
        let out: ControlOut = self.registry.connect_control(&id, request.into_inner()).ok_or_else(again)?;
        Ok(Response::new(Box::pin(UnboundedReceiverStream::new(out).map(Ok))))
    }

    type DataStream = Out<proto::SidecarData>;

    async fn data(&self, request: Request<Streaming<proto::WorkerData>>) -> Result<Response<Self::DataStream>, Status> {
        let id = self.worker(&request)?;
        let out: DataOut = self.registry.connect_data(&id, request.into_inner()).ok_or_else(again)?;
        Ok(Response::new(Box::pin(UnboundedReceiverStream::new(out).map(Ok))))
    }

    async fn logging(&self, request: Request<Streaming<proto::LogBatch>>) -> Result<Response<proto::LogAck>, Status> {
        let id = self.worker(&request)?;
        let mut stream = request.into_inner();
        while let Some(batch) = stream.message().await? {
            crate::worker::log::emit(&id, &batch);
        }
        Ok(Response::new(proto::LogAck {}))
    }
}
