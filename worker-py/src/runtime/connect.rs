//! Connections to the sidecar.

use std::io;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use hyper_util::rt::TokioIo;
use pillion_wire::proto::fn_client::FnClient;
use pillion_wire::{CONNECTION_WINDOW_BYTES, MAX_MESSAGE_BYTES, PROTOCOL_VERSION, STREAM_WINDOW_BYTES, metadata, proto};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::Notify;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status};

use super::Broken;

/// Largest HTTP/2 frame this end accepts, in bytes: a chunk with what stands around it travels in one.
const FRAME_BYTES: u32 = 512 * 1024;

/// Where the sidecar is, and the proof of who calls.
#[derive(Clone)]
pub struct Identity {
    endpoint: String,
    id: MetadataValue<Ascii>,
    token: MetadataValue<Ascii>,
}

impl Identity {
    /// What the worker was started with.
    pub fn new(endpoint: String, id: &str, token: &str) -> Result<Self, Broken> {
        let value =
            |name: &str, text: &str| MetadataValue::try_from(text).map_err(|error| Broken::new(&format!("the worker's {name}"), error));
        Ok(Self { endpoint, id: value("id", id)?, token: value("token", token)? })
    }

    /// The unix socket of the sidecar, if it has one.
    pub fn socket(&self) -> Option<&Path> {
        self.endpoint.strip_prefix("unix:").map(Path::new)
    }

    /// Id and token, as they are presented beside gRPC.
    pub fn join(&self) -> proto::RingJoin {
        let text = |value: &MetadataValue<Ascii>| value.to_str().unwrap_or_default().to_owned();
        proto::RingJoin { protocol_version: PROTOCOL_VERSION, worker_id: text(&self.id), token: text(&self.token) }
    }
}

impl Interceptor for Identity {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        request.metadata_mut().insert(metadata::WORKER_ID, self.id.clone());
        request.metadata_mut().insert(metadata::WORKER_TOKEN, self.token.clone());
        Ok(request)
    }
}

/// A client of the Fn protocol.
pub type Client = FnClient<InterceptedService<Channel, Identity>>;

/// Opens a connection. `pressure` learns when the kernel takes no more bytes.
pub async fn connect(identity: &Identity, pressure: Arc<Pressure>) -> Result<Client, Broken> {
    let broken = |error: &dyn std::error::Error| {
        // The source says what the system said; the outermost error only that there was one.
        let mut innermost = error;
        while let Some(source) = innermost.source() {
            innermost = source;
        }
        Broken::new(&format!("no connection to the sidecar at `{}`", identity.endpoint), innermost)
    };
    let address = identity.endpoint.clone();
    let connector = tower::service_fn(move |_| {
        let (address, pressure) = (address.clone(), pressure.clone());
        async move { Ok::<_, io::Error>(TokioIo::new(Watched { io: open(&address).await?, pressure })) }
    });
    let channel = Endpoint::from_static("http://sidecar.invalid")
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_frame_size(FRAME_BYTES)
        .connect_with_connector(connector)
        .await
        .map_err(|error| broken(&error))?;
    Ok(FnClient::with_interceptor(channel, identity.clone())
        .max_decoding_message_size(MAX_MESSAGE_BYTES)
        .max_encoding_message_size(MAX_MESSAGE_BYTES))
}

/// A byte stream of either kind.
trait Io: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

async fn open(endpoint: &str) -> io::Result<Box<dyn Io>> {
    if let Some(path) = endpoint.strip_prefix("unix:") {
        return Ok(Box::new(UnixStream::connect(path).await?));
    }
    let Some(address) = endpoint.strip_prefix("http://") else {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("`{endpoint}` is neither `unix:/path` nor `http://host:port`")));
    };
    let stream = TcpStream::connect(address.trim_end_matches('/')).await?;
    stream.set_nodelay(true)?;
    Ok(Box::new(stream))
}

/// Whether the kernel takes the bytes of a connection.
#[derive(Default)]
pub struct Pressure {
    blocked: AtomicBool,
    changed: Notify,
}

impl Pressure {
    /// True while written bytes wait for room in the socket.
    pub fn is_blocked(&self) -> bool {
        self.blocked.load(Ordering::Relaxed)
    }

    /// Waits for the next time that the socket takes bytes again.
    pub async fn changed(&self) {
        self.changed.notified().await;
    }

    fn set(&self, blocked: bool) {
        if self.blocked.swap(blocked, Ordering::Relaxed) && !blocked {
            self.changed.notify_one();
        }
    }
}

/// A connection that reports its [`Pressure`].
struct Watched {
    io: Box<dyn Io>,
    pressure: Arc<Pressure>,
}

impl Watched {
    fn watch<T>(&self, poll: Poll<T>) -> Poll<T> {
        self.pressure.set(poll.is_pending());
        poll
    }
}

impl AsyncRead for Watched {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(context, buffer)
    }
}

impl AsyncWrite for Watched {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let poll = Pin::new(&mut self.io).poll_write(context, bytes);
        self.watch(poll)
    }

    fn poll_write_vectored(mut self: Pin<&mut Self>, context: &mut Context<'_>, pieces: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let poll = Pin::new(&mut self.io).poll_write_vectored(context, pieces);
        self.watch(poll)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(context)
    }
}
