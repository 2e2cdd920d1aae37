use super::*;
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, ftruncate, memfd_create};

/// The arena of an owner as a borrower sees it, and where its returns go.
fn pair(bytes: u64) -> (Arc<OwnArena>, Arc<PeerArena>, Arc<Returns>) {
    let own = OwnArena::new("pillion-test", bytes).unwrap();
    let returns = Arc::new(Returns::default());
    let file = own.arena().file().try_clone_to_owned().unwrap();
    let peer = PeerArena::new(file, own.arena().id(), bytes, returns.clone()).unwrap();
    (own, peer, returns)
}

#[test]
fn a_body_crosses_and_its_slot_comes_back() {
    let (own, peer, returns) = pair(1 << 20);
    let slot = own.allocate(11).unwrap();
    slot.fill(&[Bytes::from_static(b"hello "), Bytes::from_static(b"world")]).unwrap();
    let theirs = peer.borrow(&slot.reference()).unwrap();
    assert_eq!(theirs.copy().unwrap().as_slice(), b"hello world");
    let view = theirs.view().unwrap();
    assert_eq!(view.as_slice(), b"hello world");
    assert_eq!(view.as_ptr().addr(), theirs.address().unwrap());
    drop(theirs);
    assert_eq!(returns.take(), [], "the view still uses the slot");
    drop(view);
    assert_eq!(returns.take(), [slot.reference()]);
    assert_eq!((own.live(), peer.live()), (1, 0));
    drop(slot);
    assert_eq!(own.live(), 0);
}

#[test]
fn a_slot_takes_no_more_than_it_has() {
    let (own, _, _) = pair(4096);
    let slot = own.allocate(5).unwrap();
    assert!(slot.fill(&[Bytes::from_static(b"123"), Bytes::from_static(b"456")]).is_err());
    assert!(own.allocate(4096).is_none(), "no room");
}

#[test]
fn stale_and_wild_references_are_refused() {
    let (own, peer, _) = pair(1 << 20);
    let slot = own.allocate(1000).unwrap();
    let reference = slot.reference();
    let borrowed = peer.borrow(&reference).unwrap();
    assert!(peer.borrow(&reference).is_none(), "lent twice");
    assert!(peer.borrow(&proto::SlotRef { generation: 9, ..reference }).is_none(), "overlaps");
    assert!(peer.borrow(&proto::SlotRef { offset: 64, ..reference }).is_none(), "overlaps");
    drop(borrowed);
    assert!(peer.borrow(&reference).is_none(), "stale");
    for wild in [
        proto::SlotRef { arena: reference.arena + 1, generation: 10, ..reference },
        proto::SlotRef { offset: 1 << 20, generation: 10, ..reference },
        proto::SlotRef { offset: (1 << 20) - 64, length: 65, generation: 10, ..reference },
        proto::SlotRef { offset: u64::MAX - 63, length: 64, generation: 10, ..reference },
        proto::SlotRef { offset: 1, generation: 10, ..reference },
    ] {
        assert!(peer.borrow(&wild).is_none(), "{wild:?}");
    }
    assert_eq!(peer.live(), 0);
}

#[test]
fn nobody_can_resize_an_arena_or_map_it_for_writing() {
    let (own, peer, _) = pair(8192);
    for file in [own.arena().file(), peer.arena().file()] {
        assert!(ftruncate(file, 0).is_err());
        assert!(ftruncate(file, 1 << 20).is_err());
    }
    assert!(Map::shared(peer.arena().file(), 8192, true).is_err(), "a second writer");
    let slot = own.allocate(8).unwrap();
    let borrowed = peer.borrow(&slot.reference()).unwrap();
    assert!(borrowed.fill(&[Bytes::from_static(b"x")]).is_err(), "a borrower does not write");
}

#[test]
fn an_unsealed_or_short_file_is_refused() {
    let file = memfd_create("pillion-test", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).unwrap();
    ftruncate(&file, 4096).unwrap();
    let returns: Arc<dyn Release> = Arc::new(Returns::default());
    let take = |file: &OwnedFd, bytes| PeerArena::new(file.try_clone().unwrap(), 1, bytes, returns.clone()).is_ok();
    assert!(!take(&file, 4096), "not sealed");
    fcntl_add_seals(&file, SealFlags::SHRINK).unwrap();
    assert!(take(&file, 4096));
    assert!(!take(&file, 4097));
    assert!(!take(&file, 0));
    assert!(!take(&OwnedFd::from(tempfile()), 1), "no memory file");
}

fn tempfile() -> std::fs::File {
    std::fs::File::open("/proc/self/exe").unwrap()
}

#[test]
fn what_changes_after_the_copy_does_not_change_the_copy() {
    let (own, peer, _) = pair(4096);
    let slot = own.allocate(4).unwrap();
    slot.fill(&[Bytes::from_static(b"good")]).unwrap();
    let copy = peer.borrow(&slot.reference()).unwrap().copy().unwrap();
    slot.fill(&[Bytes::from_static(b"evil")]).unwrap();
    assert_eq!(copy.as_slice(), b"good");
}
