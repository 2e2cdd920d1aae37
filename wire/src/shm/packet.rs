//! The socket beside the rings: packets that carry file descriptors, between the sidecar and its workers.

use crate::proto;
use prost::Message;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
    SocketAddrUnix, SocketFlags, SocketType, bind, connect, listen, recvmsg, sendmsg, socket_with,
};
use std::{
    io::{self, IoSlice, IoSliceMut},
    mem::MaybeUninit,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::Path,
};

/// Largest packet, in bytes.
const PACKET_BYTES: usize = 4096;

/// Most descriptors beside one packet.
const DESCRIPTORS: usize = 3;

/// Connections that may wait to be accepted.
const BACKLOG: i32 = 64;

/// Where the rings of a sidecar are offered, given where its Fn protocol is served on a unix socket.
pub fn ring_address(fn_socket: &Path) -> std::path::PathBuf {
    let mut path = fn_socket.as_os_str().to_owned();
    path.push(".shm");
    path.into()
}

/// A listening socket at `path`.
///
/// # Errors
/// Whatever the system says.
pub fn listen_at(path: &Path) -> io::Result<OwnedFd> {
    let socket = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK, None)?;
    bind(&socket, &SocketAddrUnix::new(path)?)?;
    listen(&socket, BACKLOG)?;
    Ok(socket)
}

/// A connection to the socket at `path`.
///
/// # Errors
/// If nobody listens there.
pub fn connect_to(path: &Path) -> io::Result<OwnedFd> {
    let socket = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
    connect(&socket, &SocketAddrUnix::new(path)?)?;
    Ok(socket)
}

/// Sends one packet.
///
/// # Errors
/// [`io::ErrorKind::WouldBlock`] if the socket does not wait and is full; whatever else the system says.
pub fn send(socket: impl AsFd, packet: proto::ring_packet::Packet, files: &[BorrowedFd<'_>]) -> io::Result<()> {
    let data = proto::RingPacket { packet: Some(packet) }.encode_to_vec();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if data.len() > PACKET_BYTES || !files.is_empty() && !control.push(SendAncillaryMessage::ScmRights(files)) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    sendmsg(socket, &[IoSlice::new(&data)], &mut control, SendFlags::NOSIGNAL)?;
    Ok(())
}

/// The next packet and what came with it; `None` once the other end is closed.
///
/// # Errors
/// [`io::ErrorKind::WouldBlock`] if there is none yet and the socket or `now` does not wait; [`io::ErrorKind::InvalidData`] for what is no packet.
pub fn receive(socket: impl AsFd, now: bool) -> io::Result<Option<(proto::ring_packet::Packet, Vec<OwnedFd>)>> {
    let mut data = [0; PACKET_BYTES];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let flags = if now { RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT } else { RecvFlags::CMSG_CLOEXEC };
    let received = recvmsg(socket, &mut [IoSliceMut::new(&mut data)], &mut control, flags)?;
    let rights = |message| match message {
        RecvAncillaryMessage::ScmRights(files) => Some(files),
        _ => None,
    };
    let files: Vec<OwnedFd> = control.drain().filter_map(rights).flatten().collect();
    if received.flags.intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC) {
        return Err(io::ErrorKind::InvalidData.into());
    }
    if received.bytes == 0 {
        return Ok(None);
    }
    let packet = proto::RingPacket::decode(&data[..received.bytes]).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
    let packet = packet.packet.ok_or(io::ErrorKind::InvalidData)?;
    Ok(Some((packet, files)))
}
