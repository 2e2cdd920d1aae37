use super::*;
use crate::state::{
    columns::{Bytes, Offsets, value},
    conformance::{self, Subject, address, cells, commit, now, writes},
    small::Small,
};
use overlay::{Merged, Pending};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

type At = (u16, u16, Vec<u8>, Vec<u8>);

/// A host with maps, which applies what it was sent when it is told to.
#[derive(Default)]
struct MapHost {
    entries: BTreeMap<At, Merged>,
    timers: BTreeSet<(Domain, Pending)>,
    waiting: VecDeque<HostCommit>,
    applied: u64,
    fails: bool,
}

struct Shared(Mutex<MapHost>);

impl MapHost {
    fn apply_up_to(&mut self, seq: u64) {
        while self.waiting.front().is_some_and(|commit| commit.seq <= seq) {
            let commit = self.waiting.pop_front().unwrap();
            self.applied = commit.seq;
            for columns in &commit.writes {
                for row in 0..columns.writes.at.len() {
                    self.write(&commit, columns, row);
                }
            }
            for row in 0..commit.timers.len() {
                let change = commit.timers.change(row, &commit.addresses);
                let group = commit.addresses.groups[commit.timers.at[row] as usize];
                let pending = (change.timestamp, group, change.key.into(), change.namespace.into(), change.name.as_bytes().into());
                let (domain, key) = (change.domain, |timer: &Pending| (timer.1, timer.2.clone(), timer.3.clone()));
                let mine = key(&pending);
                use crate::timer::TimerOp::*;
                match change.op {
                    Set => drop(self.timers.insert((domain, pending))),
                    Delete => drop(self.timers.remove(&(domain, pending))),
                    DeleteAll => self.timers.retain(|(d, timer)| *d != domain || key(timer) != mine),
                    Replace | DeleteName => {
                        self.timers.retain(|(d, timer)| *d != domain || key(timer) != mine || timer.4 != pending.4);
                        if change.op == Replace {
                            self.timers.insert((domain, pending));
                        }
                    }
                }
            }
        }
    }

    fn write(&mut self, commit: &HostCommit, columns: &HostWrites, row: usize) {
        let at = columns.writes.at[row] as usize;
        let (key, namespace) = commit.addresses.at(at);
        let map = self.entries.entry((columns.writes.cell, commit.addresses.groups[at], key.to_vec(), namespace.to_vec())).or_default();
        let sub = columns.writes.map_keys.as_ref().and_then(|keys| value(keys, row)).map(Small::from);
        let of_sub = sub.clone().unwrap_or(Small::EMPTY);
        match columns.writes.ops[row] {
            Op::Put => drop(map.insert(of_sub, (columns.writes.values.value(row).into(), commit.now_ms))),
            Op::Append => panic!("the engine makes sub-keys"),
            Op::Remove => drop(map.remove(&of_sub)),
            Op::Clear => map.clear(),
            Op::ClearPrefix => map.retain(|key, _| !key.as_slice().starts_with(of_sub.as_slice())),
            Op::Touch => map.retain(|key, (_, access)| {
                let chosen = sub.as_ref().is_none_or(|sub| sub == key);
                let stays = !chosen || *access > columns.cutoff;
                if chosen && stays && columns.renew {
                    *access = commit.now_ms;
                }
                stays
            }),
        }
    }

    fn rows(&self, chosen: impl Iterator<Item = (Vec<(Small, (Small, i64))>, bool)>) -> Result<HostRows> {
        let (mut offsets, mut keys, mut values, mut access, mut deferred) =
            (Offsets::new(0), Bytes::new(0, 0), Bytes::new(0, 0), vec![], vec![]);
        for (entries, more) in chosen {
            for (key, (value, at)) in entries {
                keys.push(key.as_slice())?;
                values.push(value.as_slice())?;
                access.push(at);
            }
            offsets.push(values.len())?;
            deferred.push(more);
        }
        Ok(HostRows {
            applied_seq: self.applied,
            offsets: offsets.finish(),
            keys: keys.finish(),
            values: values.finish(),
            access,
            deferred,
        })
    }

    fn answer(&self, request: &HostGet) -> Result<HostRows> {
        self.rows((0..request.addresses.len()).map(|row| {
            let (key, namespace) = request.addresses.at(row);
            let here = self.entries.get(&(request.cell, request.addresses.groups[row], key.to_vec(), namespace.to_vec()));
            let only = |key: &Small| request.map_keys.as_ref().is_none_or(|keys| keys.value(row) == key.as_slice());
            let found: Vec<_> =
                here.into_iter().flatten().filter(|(key, _)| only(key)).map(|(key, item)| (key.clone(), item.clone())).collect();
            let bytes: usize = found.iter().map(|(key, (value, _))| key.as_slice().len() + value.as_slice().len()).sum();
            if bytes > request.prefetch.entry_bytes { (vec![], true) } else { (found, false) }
        }))
    }

    fn part(&self, request: &PageRequest) -> Result<HostRows> {
        let here = self.entries.get(&(request.cell, request.group, request.key.clone(), request.namespace.clone()));
        let (mut found, mut bytes, mut more) = (Vec::new(), 0, false);
        for (key, item) in here.into_iter().flatten() {
            if !key.as_slice().starts_with(&request.prefix) || request.after.as_deref().is_some_and(|after| key.as_slice() <= after) {
                continue;
            }
            bytes += key.as_slice().len() + item.0.as_slice().len();
            if !found.is_empty() && bytes > request.max_bytes {
                more = true;
                break;
            }
            found.push((key.clone(), item.clone()));
        }
        self.rows([(found, more)].into_iter())
    }

    fn pending(&self, request: &HostDue) -> Result<HostTimers> {
        let of = |(domain, timer): &&(Domain, Pending)| {
            *domain == request.domain && timer.0 <= request.up_to_ms && request.groups.contains(&timer.1)
        };
        let mut all: Vec<Pending> = self.timers.iter().filter(of).map(|(_, timer)| timer.clone()).collect();
        let more = all.len() > request.limit;
        all.truncate(request.limit);
        let column = |of: fn(&Pending) -> &Small| BinaryArray::from_iter_values(all.iter().map(of));
        let addresses =
            Addresses::new(all.iter().map(|timer| timer.1).collect(), column(|timer| &timer.2), Some(column(|timer| &timer.3)))?;
        let names = crate::state::columns::strings(column(|timer| &timer.4))?;
        Ok(HostTimers { applied_seq: self.applied, addresses, names, timestamps: all.iter().map(|timer| timer.0).collect(), more })
    }
}

impl Shared {
    fn ask<T: Send + 'static>(&self, question: impl FnOnce(&mut MapHost) -> Result<T>) -> BoxFuture<'_, Result<T>> {
        let mut host = self.0.lock().unwrap();
        let answer = match host.fails {
            true => Err(Error::new(Code::ConnectionLost, "gone")),
            false => question(&mut host),
        };
        drop(host);
        Box::pin(async { answer })
    }
}

impl StateHost for Shared {
    fn get<'a>(&'a self, request: &'a HostGet) -> BoxFuture<'a, Result<HostRows>> {
        self.ask(|host| host.answer(request))
    }

    fn page<'a>(&'a self, request: &'a PageRequest) -> BoxFuture<'a, Result<HostRows>> {
        self.ask(|host| host.part(request))
    }

    fn commit(&self, commit: HostCommit) -> BoxFuture<'_, Result<()>> {
        self.ask(|host| {
            host.waiting.push_back(commit);
            Ok(())
        })
    }

    fn timers<'a>(&'a self, request: &'a HostDue) -> BoxFuture<'a, Result<HostTimers>> {
        self.ask(|host| host.pending(request))
    }
}

fn subject(cells: Cells, tell: bool) -> (Subject, Arc<Shared>) {
    let host = Arc::new(Shared(Mutex::default()));
    let backend = Arc::new(Host::new(Arc::clone(&host) as Arc<dyn StateHost>, cells, conformance::GROUPS, 1).unwrap());
    let settle = {
        let (host, backend) = (Arc::clone(&host), Arc::clone(&backend));
        Box::new(move |seq| {
            host.0.lock().unwrap().apply_up_to(seq);
            if tell {
                backend.applied(seq);
            }
        })
    };
    (Subject { backend, settle, snapshots: false }, host)
}

#[test]
fn conforms() {
    conformance::run(&|cells| subject(cells, true).0, 300);
}

/// The host has applied what the engine still overlays.
#[test]
fn conforms_while_the_word_that_it_applied_is_on_its_way() {
    conformance::run(&|cells| subject(cells, false).0, 300);
}

#[test]
fn the_overlay_goes_when_the_host_has_applied() {
    let (subject, _) = subject(cells(), true);
    for seq in 1..=3 {
        now(subject.backend.apply(commit(seq, &[address(0, "a")], vec![writes(0, &[(0, Op::Put, None, Some(b"x"))])], 0))).unwrap();
    }
    assert_eq!(subject.backend.sizes().overlay, 3);
    (subject.settle)(2);
    assert_eq!(subject.backend.sizes().overlay, 1);
}

#[test]
fn a_host_that_fails_is_named_and_nothing_took_effect() {
    let (subject, host) = subject(cells(), true);
    host.0.lock().unwrap().fails = true;
    let put = || commit(1, &[address(0, "a")], vec![writes(0, &[(0, Op::Put, None, Some(b"x"))])], 0);
    let error = now(subject.backend.apply(put())).unwrap_err();
    assert_eq!((error.code(), error.message()), (Code::StateHostFailed, "the host that keeps the state failed: gone"));
    host.0.lock().unwrap().fails = false;
    assert_eq!(conformance::value(&*subject.backend, 0, &address(0, "a"), 0), None);
    assert_eq!(subject.backend.view(&[0], 0).err().unwrap().code(), Code::Unsupported);
}

#[test]
fn answers_that_do_not_fit_are_refused() {
    let rows = |offsets: Vec<i32>, deferred: usize| HostRows {
        applied_seq: 0,
        offsets: OffsetBuffer::new(offsets.into()),
        keys: BinaryArray::from_iter_values([b"", b""]),
        values: BinaryArray::from_iter_values([b"a", b"b"]),
        access: vec![0; 2],
        deferred: vec![false; deferred],
    };
    rows::check(&rows(vec![0, 1, 2], 2), 2).unwrap();
    for (offsets, deferred) in [(vec![0, 1], 1), (vec![0, 1, 3], 2), (vec![1, 1, 2], 2), (vec![0, 1, 2], 1)] {
        assert_eq!(rows::check(&rows(offsets, deferred), 2).unwrap_err().code(), Code::ProtocolViolation);
    }
    let overlay = Overlay::default();
    let two = rows(vec![0, 2], 1);
    let one = conformance::addresses(&[address(0, "a")]);
    let error =
        rows::entries(&cells()[0], 0, &two, &overlay, &Get { cells: vec![0], addresses: one, now_ms: 0, prefetch: Prefetch::default() })
            .unwrap_err();
    assert_eq!(error.message(), "the host that keeps the state answered with several values of the cell `value` for one key");
}
