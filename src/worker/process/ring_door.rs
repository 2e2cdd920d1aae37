//! Where workers ask for rings: a socket beside that of the Fn protocol (`RingPacket` in `fn.proto`).

use super::{registry::Registry, ring_link::RingLink};
use crate::config::{Limits, ShmConfig};
use pillion_wire::{
    MAX_MESSAGE_BYTES, PROTOCOL_VERSION,
    proto::{self, ring_packet::Packet},
    shm::{
        Endpoint,
        arena::{NONCE_FILE_BYTES, nonce_file},
        endpoint::NONCE_BYTES,
        packet::{listen_at, receive, send},
    },
};
use std::{
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
    path::Path,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::{io::Interest, net::UnixDatagram, task::AbortHandle, time::timeout};

/// A worker that asks has answered within this time.
const HANDSHAKE: Duration = Duration::from_secs(5);

/// Room for messages in each direction, in bytes; larger ones cross in pieces.
const RING_BYTES: usize = 256 * 1024;

/// Shared memory of one engine: its settings, and what its arenas take.
#[derive(Debug)]
pub struct Memory {
    /// As configured.
    pub config: ShmConfig,
    /// Largest batch, which an arena should have room for.
    pub max_batch_bytes: u64,
    used: AtomicU64,
    /// By which hosts prove that they see our memory.
    nonce: OnceLock<Option<(OwnedFd, [u8; NONCE_BYTES])>>,
}

impl Memory {
    /// Nothing used yet.
    pub fn new(config: ShmConfig, limits: &Limits) -> Arc<Self> {
        Arc::new(Memory { config, max_batch_bytes: limits.max_batch_bytes, used: AtomicU64::new(0), nonce: OnceLock::new() })
    }

    /// The file with the nonce, made when it is first needed; `None` if memory is not shared or cannot be.
    pub fn nonce(&self) -> Option<(BorrowedFd<'_>, &[u8])> {
        let made = self.nonce.get_or_init(|| {
            let mut nonce = [0; NONCE_BYTES];
            getrandom::fill(&mut nonce).ok().filter(|()| self.config.enabled)?;
            Some((nonce_file(&nonce).ok()?, nonce))
        });
        made.as_ref().map(|(file, nonce)| (file.as_fd(), nonce.as_slice()))
    }

    /// What hosts are told of it.
    pub fn offer(&self) -> Option<proto::ArenaOffer> {
        let (file, _) = self.nonce()?;
        let pid = std::process::id().cast_signed();
        Some(proto::ArenaOffer { pid, fd: file.as_raw_fd(), bytes: NONCE_FILE_BYTES, ..Default::default() })
    }

    /// Permission to make an arena of so many bytes, until it is dropped.
    pub fn reserve(self: &Arc<Self>, bytes: u64) -> Option<Reserved> {
        let fits = |used: u64| used.checked_add(bytes).filter(|&sum| sum <= self.config.max_bytes);
        self.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, fits).ok()?;
        Some(Reserved { memory: self.clone(), bytes })
    }

    /// Bytes of all arenas that the engine has made.
    pub fn used(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }
}

/// A share of the engine's shared memory.
#[derive(Debug)]
pub struct Reserved {
    memory: Arc<Memory>,
    bytes: u64,
}

impl Drop for Reserved {
    fn drop(&mut self) {
        self.memory.used.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// Listens until it is dropped.
pub struct RingDoor(AbortHandle);

impl Drop for RingDoor {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl RingDoor {
    /// Offers rings at `path` to the workers that `registry` expects.
    ///
    /// # Errors
    /// If the socket cannot be made; then workers use their data streams.
    pub fn open(path: &Path, registry: Arc<Registry>, memory: Arc<Memory>) -> io::Result<Self> {
        // tokio has no type for SOCK_SEQPACKET; of its datagram socket only the readiness is used.
        let listener = UnixDatagram::from_std(listen_at(path)?.into())?;
        let accepting = tokio::spawn(async move {
            loop {
                let flags = rustix::net::SocketFlags::CLOEXEC | rustix::net::SocketFlags::NONBLOCK;
                let accept = || Ok(rustix::net::accept_with(&listener, flags)?);
                match listener.async_io(Interest::READABLE, accept).await {
                    Ok(socket) => {
                        let (registry, memory) = (registry.clone(), memory.clone());
                        tokio::spawn(async move {
                            match timeout(HANDSHAKE, offer(socket, &registry, memory)).await {
                                Ok(Ok(())) => {}
                                Ok(Err(error)) => tracing::debug!("a worker gets no rings: {error}"),
                                Err(_) => tracing::debug!("a worker asked for rings and fell silent"),
                            }
                        });
                    }
                    Err(error) => {
                        tracing::warn!("no more rings for workers: {error}");
                        return;
                    }
                }
            }
        });
        Ok(RingDoor(accepting.abort_handle()))
    }
}

async fn offer(socket: OwnedFd, registry: &Registry, memory: Arc<Memory>) -> io::Result<()> {
    let socket = UnixDatagram::from_std(socket.into())?;
    let refused = |why: &str| io::Error::new(io::ErrorKind::PermissionDenied, why);
    let Packet::Join(join) = next(&socket).await? else { return Err(refused("it did not begin with `join`")) };
    if !registry.knows(&join.worker_id, &join.token) || join.protocol_version != PROTOCOL_VERSION {
        return Err(refused("only workers that this sidecar started may connect here"));
    }
    let mut nonce = [0; NONCE_BYTES];
    getrandom::fill(&mut nonce).map_err(|_| refused("no random numbers"))?;
    let (end, files) = Endpoint::offer(RING_BYTES, &nonce, MAX_MESSAGE_BYTES)?;
    let config = &memory.config;
    let offer = proto::RingOffer {
        capacity: files.capacity as u64,
        threshold_bytes: config.threshold,
        arena_bytes: config.arena_bytes,
        max_arena_bytes: config.max_bytes,
        spin_ns: u64::try_from(config.spin.limit().as_nanos()).unwrap_or_default(),
    };
    send(&socket, Packet::Offer(offer), &[files.memory.as_fd(), files.their_bell.as_fd(), files.our_bell.as_fd()])?;
    drop(files);
    let Packet::Proof(proof) = next(&socket).await? else { return Err(refused("it did not prove that it shares the memory")) };
    if proof.nonce != nonce {
        return Err(refused("it does not share the memory"));
    }
    let link = RingLink::new(end, socket.into_std()?.into(), memory)?;
    registry.connect_ring(&join.worker_id, link).ok_or_else(|| refused("it has a data stream already"))
}

async fn next(socket: &UnixDatagram) -> io::Result<Packet> {
    let packet = socket.async_io(Interest::READABLE, || receive(socket, true)).await?;
    packet.map(|(packet, _)| packet).ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
}
