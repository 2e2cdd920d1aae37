//! The sidecar's door (hop 3): it listens, accepts, and speaks the host protocol; [`fn_service`] is the other side, for workers.

mod execute;
pub mod fn_service;
mod host_service;
mod requests;
mod sharing;
mod state;

use crate::{
    config::Listen,
    engine::Engine,
    error::{Code, Error, Result},
};
use fn_service::HTTP2_FRAME_BYTES;
use host_service::HostService;
use pillion_wire::{CONNECTION_WINDOW_BYTES, MAX_MESSAGE_BYTES, STREAM_WINDOW_BYTES, proto};
use std::{
    fs::{DirBuilder, Permissions},
    future::Future,
    io::ErrorKind,
    os::unix::{
        fs::{DirBuilderExt, FileTypeExt, PermissionsExt},
        net::UnixStream,
    },
    path::{Path, PathBuf},
    sync::Arc,
};
use tokio::net::{TcpListener, UnixListener};
use tokio_stream::wrappers::{TcpListenerStream, UnixListenerStream};
use tonic::transport::server::Router;

/// A sidecar that listens and is ready to serve.
pub struct Server {
    engine: Arc<Engine>,
    listener: Listener,
}

enum Listener {
    Unix(UnixListener, PathBuf),
    Tcp(TcpListener),
}

impl Server {
    /// Listens at the configured address. A socket file that nobody listens on any more is replaced.
    ///
    /// # Errors
    /// [`Code::ListenFailed`], also if another sidecar listens there.
    pub async fn bind(engine: Arc<Engine>) -> Result<Server> {
        let listener = match engine.config().listen() {
            Listen::Unix(path) => Listener::Unix(bind_unix(&path)?, path),
            Listen::Tcp(address) => {
                Listener::Tcp(TcpListener::bind(address).await.map_err(|error| listen_failed(&address.to_string(), &error))?)
            }
        };
        Ok(Server { engine, listener })
    }

    /// The endpoint for hosts, as [`crate::Pillion::connect`] takes it. With port 0 it names the port that was taken.
    pub fn endpoint(&self) -> String {
        match &self.listener {
            Listener::Unix(_, path) => format!("unix:{}", path.display()),
            Listener::Tcp(listener) => match listener.local_addr() {
                Ok(address) => format!("http://{address}"),
                Err(error) => format!("unknown ({error})"),
            },
        }
    }

    /// Serves until `stop` resolves, then lets calls in progress end. Drain the engine before: a session is a call.
    ///
    /// # Errors
    /// [`Code::ListenFailed`] if the listener breaks.
    pub async fn serve(self, stop: impl Future<Output = ()>) -> Result<()> {
        let endpoint = self.endpoint();
        let router = router(self.engine).await?;
        let served = match self.listener {
            Listener::Unix(listener, path) => {
                // Also if this is given up because a host does not close its connection.
                let _socket = SocketFile(path);
                router.serve_with_incoming_shutdown(UnixListenerStream::new(listener), stop).await
            }
            Listener::Tcp(listener) => router.serve_with_incoming_shutdown(TcpListenerStream::new(listener), stop).await,
        };
        served.map_err(|error| Error::new(Code::ListenFailed, format!("serving `{endpoint}` failed: {error}")))
    }
}

/// The socket's file, removed with its owner.
struct SocketFile(PathBuf);

impl Drop for SocketFile {
    fn drop(&mut self) {
        // Gone already if somebody cleaned up; the next sidecar replaces it anyway.
        let _ = std::fs::remove_file(&self.0);
    }
}

async fn router(engine: Arc<Engine>) -> Result<Router> {
    let (health_reporter, health) = tonic_health::server::health_reporter();
    type HostServer = proto::host_server::HostServer<HostService>;
    health_reporter.set_serving::<HostServer>().await;
    let mut draining = engine.draining();
    tokio::spawn(async move {
        // An error says that the engine is gone, which this task must not keep.
        if draining.wait_for(Option::is_some).await.is_ok() {
            health_reporter.set_not_serving::<HostServer>().await;
        }
    });
    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(proto::DESCRIPTORS)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        .build_v1()
        .map_err(|error| Error::new(Code::InvariantBroken, "the protos cannot be reflected").detail(error.to_string()))?;
    let host =
        HostServer::new(HostService::new(engine)).max_decoding_message_size(MAX_MESSAGE_BYTES).max_encoding_message_size(MAX_MESSAGE_BYTES);
    Ok(tonic::transport::Server::builder()
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_frame_size(HTTP2_FRAME_BYTES)
        .add_service(health)
        .add_service(reflection)
        .add_service(host))
}

fn bind_unix(path: &Path) -> Result<UnixListener> {
    let failed = |error: std::io::Error| listen_failed(&format!("unix:{}", path.display()), &error);
    if let Some(folder) = path.parent() {
        DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(failed)?;
    }
    if std::fs::symlink_metadata(path).is_ok_and(|metadata| metadata.file_type().is_socket()) {
        match UnixStream::connect(path) {
            Ok(_) => {
                return Err(failed(ErrorKind::AddrInUse.into()).hint("another sidecar listens there; stop it or choose another `--listen`"));
            }
            // Left by a sidecar that was killed.
            Err(_) => std::fs::remove_file(path).map_err(failed)?,
        }
    }
    let listener = UnixListener::bind(path).map_err(failed)?;
    std::fs::set_permissions(path, Permissions::from_mode(0o600)).map_err(failed)?;
    Ok(listener)
}

fn listen_failed(address: &str, error: &std::io::Error) -> Error {
    Error::new(Code::ListenFailed, format!("cannot listen on `{address}`: {error}")).hint("choose another address with `--listen`")
}
