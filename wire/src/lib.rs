//! What the Pillion sidecar and its workers share: the generated protocols, frames, Arrow IPC and error codes.
//!
//! This crate knows neither servers nor Python. See `proto/pillion/v1` for the contract itself.

pub mod bundle;
pub mod error;
pub mod frame;
pub mod ipc;
pub mod metrics;
pub mod shm;
pub mod table;

/// The messages and service traits generated from `proto/pillion/v1`.
pub mod proto {
    #![allow(clippy::all, clippy::pedantic, clippy::allow_attributes_without_reason, missing_docs, reason = "generated")]
    tonic::include_proto!("pillion.v1");

    /// The encoded descriptors of all protos, for gRPC reflection.
    pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
}

/// Version of both protocols that this build speaks.
pub const PROTOCOL_VERSION: u32 = 1;

/// Largest piece of a body in one message (DESIGN D2), in bytes.
pub const CHUNK_BYTES: usize = 256 * 1024;

/// Largest gRPC message either end accepts, in bytes: a chunk, or the headers of a very wide batch.
pub const MAX_MESSAGE_BYTES: usize = 4 * 1024 * 1024;

/// Largest sum of a frame's headers, in bytes: they travel in one message, which may hold a chunk and metrics beside them.
pub const MAX_HEADERS_BYTES: u64 = (MAX_MESSAGE_BYTES - 2 * CHUNK_BYTES) as u64;

/// HTTP/2 flow-control window of a stream, in bytes. Credits are the back-pressure; windows only must not get in their way.
pub const STREAM_WINDOW_BYTES: u32 = 16 * 1024 * 1024;

/// HTTP/2 flow-control window of a connection, in bytes.
pub const CONNECTION_WINDOW_BYTES: u32 = 32 * 1024 * 1024;

/// The capability of sharing memory.
pub const CAPABILITY_SHM: &str = "shm";

/// gRPC metadata keys by which a worker proves who it is.
pub mod metadata {
    /// The id the sidecar gave the worker.
    pub const WORKER_ID: &str = "pillion-worker-id";
    /// The secret the sidecar started the worker with.
    pub const WORKER_TOKEN: &str = "pillion-worker-token";
    /// A serialized `Error` in the trailers of a failed call.
    pub const ERROR: &str = "pillion-error-bin";
}
