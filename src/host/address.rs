//! Where a sidecar listens, and connections to it.

use crate::error::{Code, Error, Result};
use hyper_util::rt::TokioIo;
use pillion_wire::{CONNECTION_WINDOW_BYTES, MAX_MESSAGE_BYTES, STREAM_WINDOW_BYTES, proto::host_client::HostClient};
use std::path::PathBuf;
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint, Uri};
use tower::service_fn;

/// Largest headers or trailers of a response, in bytes.
const HEADER_BYTES: u32 = 1 << 20;

/// Largest HTTP/2 frame on data connections, in bytes.
const HTTP2_FRAME_BYTES: u32 = 512 * 1024;

/// Where a sidecar listens.
#[derive(Clone)]
pub(super) enum Address {
    Unix(PathBuf),
    Http(Box<Endpoint>),
}

impl Address {
    pub fn parse(endpoint: &str) -> Result<Self> {
        if let Some(path) = endpoint.strip_prefix("unix:") {
            return Ok(Address::Unix(path.strip_prefix("//").unwrap_or(path).into()));
        }
        let invalid = || {
            Error::new(Code::ConnectFailed, format!("`{endpoint}` is no endpoint"))
                .hint("write `unix:/path/to.sock` or `http://127.0.0.1:port`")
        };
        let url = if endpoint.contains("://") { endpoint.to_owned() } else { format!("http://{endpoint}") };
        if !url.starts_with("http://") {
            return Err(invalid());
        }
        Endpoint::from_shared(url).map(|url| Address::Http(Box::new(url))).map_err(|_| invalid())
    }

    pub async fn connect(&self) -> Result<HostClient<Channel>, tonic::transport::Error> {
        let configure = |endpoint: Endpoint| {
            endpoint
                .initial_stream_window_size(STREAM_WINDOW_BYTES)
                .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
                .max_frame_size(HTTP2_FRAME_BYTES)
                // Room for errors, which travel in the trailers of a call.
                .http2_max_header_list_size(HEADER_BYTES)
                .tcp_nodelay(true)
        };
        let channel = match self {
            Address::Http(endpoint) => configure(*endpoint.clone()).connect().await?,
            Address::Unix(path) => {
                let path = path.clone();
                let connector = service_fn(move |_: Uri| {
                    let path = path.clone();
                    async move { UnixStream::connect(path).await.map(TokioIo::new) }
                });
                // The address is only the name in requests; the connector knows where to go.
                configure(Endpoint::from_static("http://sidecar")).connect_with_connector(connector).await?
            }
        };
        Ok(HostClient::new(channel).max_decoding_message_size(MAX_MESSAGE_BYTES).max_encoding_message_size(MAX_MESSAGE_BYTES))
    }
}
