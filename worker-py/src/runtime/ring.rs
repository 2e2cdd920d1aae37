//! Data over rings and slots, in place of the data stream: requests in, answers out, all on the Python thread and without a runtime.

use std::collections::HashMap;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use pillion_wire::frame::{Body, Frame, FrameError};
use pillion_wire::proto::ring_packet::Packet;
use pillion_wire::proto::{self, SidecarData, WorkerData};
use pillion_wire::shm::endpoint::quiet;
use pillion_wire::shm::packet::{connect_to, receive, ring_address, send};
use pillion_wire::shm::{Endpoint, Offer, PeerArena, Returns, Slot, Spin};
use pillion_wire::{MAX_MESSAGE_BYTES, shm::ring};
use prost::Message;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use tokio::sync::oneshot;
use tokio::sync::oneshot::error::TryRecvError;

use super::Broken;
use super::control::End;
use super::outputs::Outputs;

/// The sidecar answers within this time, or there are no rings.
const HANDSHAKE: Duration = Duration::from_secs(5);

/// This end of the rings.
pub struct Ring {
    end: Endpoint,
    /// Carries the files of arenas.
    socket: Arc<OwnedFd>,
    spin: Spin,
    outputs: Arc<Outputs>,
    /// What the sidecar uses of them.
    lent: HashMap<(u32, u64), Slot>,
    /// What the sidecar gave, by its names.
    theirs: HashMap<u32, Arc<PeerArena>>,
    /// The sidecar's slots that are not used any more.
    returns: Arc<Returns>,
    stop: oneshot::Receiver<End>,
    stop_bell: Arc<OwnedFd>,
}

fn damaged(broken: ring::Broken) -> Broken {
    Broken::new("the connection to the sidecar", broken)
}

impl Ring {
    /// Asks the sidecar at `socket` for rings; `Err` with both ends of the conversation if there are none, so that the data stream is used instead.
    pub fn join(
        socket: &Path,
        join: proto::RingJoin,
        stop: oneshot::Receiver<End>,
        stop_bell: Arc<OwnedFd>,
    ) -> Result<Self, oneshot::Receiver<End>> {
        match handshake(socket, join) {
            Some((end, socket, offer)) => Ok(Self {
                end,
                outputs: Outputs::install(socket.clone(), offer),
                socket,
                spin: Spin::new(Duration::from_nanos(offer.spin_ns)),
                lent: HashMap::new(),
                theirs: HashMap::new(),
                returns: Arc::default(),
                stop,
                stop_bell,
            }),
            None => Err(stop),
        }
    }

    /// Waits for the next message; `None` when this worker is to stop.
    pub fn receive(&mut self) -> Result<Option<SidecarData>, Broken> {
        let mut waiting: Option<(Instant, bool)> = None;
        loop {
            if !matches!(self.stop.try_recv(), Err(TryRecvError::Empty)) {
                return Ok(None);
            }
            if let Some(bytes) = self.end.receive().map_err(damaged)? {
                if let Some((since, slept)) = waiting {
                    self.spin.learn(since.elapsed(), !slept);
                }
                let message = SidecarData::decode(bytes).map_err(|error| Broken::new("a message cannot be decoded", error))?;
                self.settle(&message)?;
                if message.message.is_some() {
                    return Ok(Some(message));
                }
                waiting = None;
                continue;
            }
            let (_, slept) = waiting.get_or_insert_with(|| (Instant::now(), false));
            let limit = self.spin.limit();
            if !*slept && limit > Duration::ZERO && self.end.spin(limit, || false).map_err(damaged)? {
                continue;
            }
            *slept = true;
            self.sleep()?;
        }
    }

    /// Waits for a bell, unless there is something to do.
    fn sleep(&mut self) -> Result<(), Broken> {
        self.wait_unless_done(Endpoint::doze)?;
        self.end.wake().map_err(damaged)
    }

    /// Waits for a bell, if `must_wait` still says so once a bell would be heard.
    fn wait_unless_done(&mut self, must_wait: impl FnOnce(&mut Endpoint) -> Result<bool, ring::Broken>) -> Result<(), Broken> {
        quiet(self.end.bell());
        if must_wait(&mut self.end).map_err(damaged)? {
            let bell = self.end.bell();
            let mut watched = [PollFd::new(&bell, PollFlags::IN), PollFd::new(&self.stop_bell, PollFlags::IN)];
            match poll(&mut watched, None) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(Broken::new("waiting for the sidecar", error)),
            }
        }
        Ok(())
    }

    /// Takes note of what the sidecar does not use any more.
    fn settle(&mut self, message: &SidecarData) -> Result<(), Broken> {
        for slot in &message.released {
            let key = (slot.arena, slot.offset);
            if self.lent.get(&key).is_none_or(|lent| lent.reference() != *slot) {
                return Err(Broken(String::from("the sidecar gave back a slot that it does not have")));
            }
            self.lent.remove(&key);
        }
        for arena in &message.closed_arenas {
            self.theirs.remove(arena);
        }
        Ok(())
    }

    /// The sidecar's slot that a reference names.
    pub fn resolve(&mut self, slot: &proto::SlotRef) -> Result<Slot, FrameError> {
        while !self.theirs.contains_key(&slot.arena) {
            // It was sent before the message that refers to it.
            let Ok(Some((Packet::Arena(grant), mut files))) = receive(&self.socket, true) else { return Err(FrameError::SlotInvalid) };
            let file = files.pop().ok_or(FrameError::SlotInvalid)?;
            let arena = PeerArena::new(file, grant.arena, grant.bytes, self.returns.clone()).map_err(|_| FrameError::SlotInvalid)?;
            self.theirs.insert(grant.arena, arena);
        }
        self.theirs.get(&slot.arena).and_then(|arena| arena.borrow(slot)).ok_or(FrameError::SlotInvalid)
    }

    /// Sends a message, and waits until all of it is in the ring. Slots that are not used any more go with it.
    pub fn send(&mut self, message: WorkerData) -> Result<(), Broken> {
        let released = self.returns.take();
        self.end.send(&WorkerData { released, ..message }).map_err(damaged)?;
        while !self.end.flush().map_err(damaged)? {
            if !matches!(self.stop.try_recv(), Err(TryRecvError::Empty)) {
                return Err(Broken(String::from("the worker was told to stop in the middle of an answer")));
            }
            self.wait_unless_done(Endpoint::must_wait_for_room)?;
        }
        Ok(())
    }

    /// Sends a frame, in a slot if that pays and can be had. `around` makes its messages.
    pub fn send_frame(&mut self, frame: Frame, around: impl FnMut(proto::Frame) -> WorkerData) -> Result<(), Broken> {
        let frame = self.place(frame);
        if let Body::Slot(slot) = &frame.body {
            let reference = slot.reference();
            self.lent.insert((reference.arena, reference.offset), slot.clone());
        }
        frame.into_messages().map(around).try_for_each(|message| self.send(message))
    }

    fn place(&self, frame: Frame) -> Frame {
        let bytes = frame.body_bytes();
        if let Some(slot) = self.outputs.built(frame.body.pieces(), bytes)
            && !self.lent.contains_key(&(slot.reference().arena, slot.reference().offset))
        {
            return Frame { body: Body::Slot(slot), ..frame };
        }
        if bytes < self.outputs.threshold() {
            return frame;
        }
        match self.outputs.allocate(bytes) {
            Some(slot) if slot.fill(frame.body.pieces()).is_ok() => Frame { body: Body::Slot(slot), ..frame },
            _ => frame,
        }
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        Outputs::uninstall();
    }
}

/// Both ends prove that they see the same memory.
fn handshake(path: &Path, join: proto::RingJoin) -> Option<(Endpoint, Arc<OwnedFd>, proto::RingOffer)> {
    let socket = connect_to(&ring_address(path)).ok()?;
    set_socket_timeout(&socket, Timeout::Recv, Some(HANDSHAKE)).ok()?;
    send(&socket, Packet::Join(join), &[]).ok()?;
    let (Packet::Offer(offer), files) = receive(&socket, false).ok()?? else { return None };
    let [memory, their_bell, our_bell] = <[OwnedFd; 3]>::try_from(files).ok()?;
    let capacity = usize::try_from(offer.capacity).ok()?;
    let (end, nonce) = Endpoint::join(Offer { memory, their_bell, our_bell, capacity }, MAX_MESSAGE_BYTES).ok()?;
    send(socket.as_fd(), Packet::Proof(proto::RingProof { nonce: nonce.to_vec() }), &[]).ok()?;
    matches!(receive(&socket, false).ok()??.0, Packet::Opened(_)).then(|| (end, Arc::new(socket), offer))
}
