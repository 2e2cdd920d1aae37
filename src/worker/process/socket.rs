//! A SOCK_SEQPACKET socket whose messages carry file descriptors.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
    Shutdown, SocketFlags, SocketType,
};
use tokio::io::Interest;
use tokio::net::UnixDatagram;

/// The largest message either side sends, in bytes.
pub(super) const MESSAGE_LIMIT: usize = 64 << 10;

/// The most descriptors beside one message.
const DESCRIPTOR_LIMIT: usize = 4;

/// The engine's end of a socket pair. tokio has no type for SOCK_SEQPACKET; of its datagram socket only the readiness is used.
pub(super) struct Socket(UnixDatagram);

/// One message as it arrived.
pub(super) struct Message {
    pub data: Vec<u8>,
    pub descriptors: Vec<OwnedFd>,
}

impl Socket {
    /// Creates a pair: the engine's end, and a blocking one for the other process.
    pub fn pair() -> io::Result<(Self, OwnedFd)> {
        let (ours, theirs) = rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
        rustix::io::ioctl_fionbio(&ours, true)?;
        Ok((Self(UnixDatagram::from_std(ours.into())?), theirs))
    }

    /// Sends one message; waits while the socket is full.
    pub async fn send(&self, data: &[u8], descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
        if data.len() > MESSAGE_LIMIT {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("message of {} bytes, more than {MESSAGE_LIMIT}", data.len())));
        }
        let send = || {
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTOR_LIMIT))];
            let mut control = SendAncillaryBuffer::new(&mut space);
            if !descriptors.is_empty() && !control.push(SendAncillaryMessage::ScmRights(descriptors)) {
                return Err(io::Error::new(io::ErrorKind::InvalidInput, "too many descriptors beside a message"));
            }
            Ok(rustix::net::sendmsg(&self.0, &[IoSlice::new(data)], &mut control, SendFlags::NOSIGNAL)?)
        };
        self.0.async_io(Interest::WRITABLE, send).await.map(drop)
    }

    /// Waits for the next message; `None` when the other end is closed.
    pub async fn receive(&self) -> io::Result<Option<Message>> {
        self.0.async_io(Interest::READABLE, || receive(&self.0)).await
    }

    /// The next message if it is there already; `None` otherwise, or when the other end is closed.
    pub fn receive_now(&self) -> io::Result<Option<Message>> {
        match receive(&self.0) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            result => result,
        }
    }

    /// Ends the conversation: the other end reads an end of file.
    pub fn shutdown(&self) {
        // It fails only if the other end is gone already.
        _ = rustix::net::shutdown(&self.0, Shutdown::Both);
    }
}

fn receive(socket: impl AsFd) -> io::Result<Option<Message>> {
    let mut data = vec![0; MESSAGE_LIMIT];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTOR_LIMIT))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let received = rustix::net::recvmsg(socket, &mut [IoSliceMut::new(&mut data)], &mut control, RecvFlags::CMSG_CLOEXEC)?;
    let rights = |message| match message {
        RecvAncillaryMessage::ScmRights(descriptors) => Some(descriptors),
        _ => None,
    };
    let descriptors: Vec<OwnedFd> = control.drain().filter_map(rights).flatten().collect();
    if received.flags.intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC) {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "message larger than the limit"));
    }
    if received.bytes == 0 {
        return Ok(None);
    }
    data.truncate(received.bytes);
    data.shrink_to_fit();
    Ok(Some(Message { data, descriptors }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_message_arrives_whole_and_with_its_descriptors() {
        let (one, other) = Socket::pair().unwrap();
        let (reader, writer) = rustix::pipe::pipe().unwrap();
        one.send(b"hello", &[writer.as_fd()]).await.unwrap();
        drop(writer);
        let mut message = receive(&other).unwrap().unwrap();
        assert_eq!(message.data, b"hello");
        let writer = message.descriptors.pop().unwrap();
        assert_eq!(rustix::io::write(&writer, b"x").unwrap(), 1);
        assert_eq!(rustix::io::read(&reader, &mut [0; 4]).unwrap(), 1);
        one.shutdown();
        assert!(receive(&other).unwrap().is_none());
    }

    #[tokio::test]
    async fn a_message_over_the_limit_is_refused() {
        let (one, _other) = Socket::pair().unwrap();
        let error = one.send(&vec![0; MESSAGE_LIMIT + 1], &[]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
    }
}
