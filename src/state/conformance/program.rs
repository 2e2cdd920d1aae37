//! Random programs, beside the model.

use super::{
    Address, GROUPS, Make, Subject, addresses, cells, get,
    model::{Model, Timer},
    now,
};
use crate::{
    state::*,
    timer::{Domain, DueOrder, DueRequest, TimerOp, TimerWrites},
};
use arrow_array::{Array, BinaryArray, StringArray, cast::AsArray};
use proptest::{prelude::*, test_runner::TestRunner};

#[derive(Clone, Debug)]
enum Step {
    Commit { writes: Vec<(u8, u8, u8, u8, u8)>, timers: Vec<(u8, bool, u8, u8, i8)>, wait: u8 },
    Fire { event: bool, up_to: i8, limit: u8, global: bool },
    Settle,
    Restore,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let writes = prop::collection::vec((0u8..8, 0u8..10, 0u8..6, 0u8..5, any::<u8>()), 0..12);
    let timers = prop::collection::vec((0u8..10, any::<bool>(), 0u8..9, 0u8..3, -20i8..20), 0..6);
    prop::collection::vec(
        prop_oneof![
            6 => (writes, timers, 0u8..6).prop_map(|(writes, timers, wait)| Step::Commit { writes, timers, wait }),
            2 => (any::<bool>(), -20i8..25, 1u8..8, any::<bool>()).prop_map(|(event, up_to, limit, global)| Step::Fire { event, up_to, limit, global }),
            2 => Just(Step::Settle),
            1 => Just(Step::Restore),
        ],
        1..25,
    )
}

/// Ten addresses in few groups, one of which has a namespace, and a long key.
fn places() -> Vec<Address> {
    let key = |i: u16| if i == 7 { vec![b'l'; 70] } else { vec![b'k', i as u8] };
    (0..10u16).map(|i| (i % GROUPS, key(i / 2 * 2), if i % 2 == 1 { vec![b'n', i as u8] } else { vec![] })).collect()
}

fn broadcast() -> Address {
    (BROADCAST_GROUP, vec![], vec![])
}

struct Run<'a> {
    make: Make<'a>,
    subject: Subject,
    model: Model,
    now_ms: i64,
    seq: u64,
}

pub fn run(make: Make<'_>, cases: u32) {
    let mut runner = TestRunner::new(ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() });
    let outcome = runner.run(&steps(), |steps| {
        let mut run = Run { make, subject: make(cells()), model: Model::new(cells()), now_ms: 1000, seq: 0 };
        for step in &steps {
            run.step(step);
            run.compare();
        }
        Ok(())
    });
    if let Err(failure) = outcome {
        panic!("{failure}");
    }
}

impl Run<'_> {
    fn step(&mut self, step: &Step) {
        match step {
            Step::Commit { writes, timers, wait } => self.commit(writes, timers, *wait),
            Step::Fire { event, up_to, limit, global } => self.fire(*event, i64::from(*up_to), usize::from(*limit), *global),
            Step::Settle => (self.subject.settle)(self.seq),
            Step::Restore if self.subject.snapshots => {
                let fresh = (self.make)(cells());
                let groups: Vec<u16> = (0..GROUPS).chain([BROADCAST_GROUP]).collect();
                let view = self.subject.backend.view(&groups, self.now_ms).unwrap();
                for &group in &groups {
                    for part in (0..8).map(Some).chain([None]) {
                        view.read(group, part, &mut |rows| fresh.backend.load(rows)).unwrap();
                    }
                }
                self.subject = fresh;
                // Snapshots leave expired entries out, also those that could still be seen.
                let (model, now_ms) = (&mut self.model, self.now_ms);
                model.entries.retain(|(cell, _, _), (_, access)| {
                    model.cells[usize::from(*cell)].ttl.is_none_or(|ttl| !ttl.expired(*access, now_ms))
                });
            }
            Step::Restore => {}
        }
    }

    fn commit(&mut self, rows: &[(u8, u8, u8, u8, u8)], timers: &[(u8, bool, u8, u8, i8)], wait: u8) {
        self.now_ms += i64::from(wait);
        self.seq += 1;
        let mut at = places();
        at.push(broadcast());
        let mut columns = Vec::new();
        for &(cell, place, op, sub, value) in rows {
            let (cell, position) = (u16::from(cell), if cell == 7 { 10 } else { u32::from(place) });
            let shape = self.model.cells[usize::from(cell)].shape();
            let op = match (shape, op) {
                (Shape::Single, 0..=2) | (Shape::Map, 0 | 1) => Op::Put,
                (Shape::List, 0..=2) => Op::Append,
                (Shape::Map, 2) => Op::Remove,
                (Shape::Map, 3) => Op::ClearPrefix,
                (_, 4 | 3) => Op::Touch,
                _ => Op::Clear,
            };
            let sub = match op {
                Op::Put | Op::Remove | Op::ClearPrefix if shape == Shape::Map => {
                    Some(vec![b's', sub][..if op == Op::ClearPrefix && sub == 0 { 1 } else { 2 }].to_vec())
                }
                Op::Touch if shape == Shape::Map && sub > 2 => Some(vec![b's', sub]),
                _ => None,
            };
            let value = matches!(op, Op::Put | Op::Append).then(|| vec![value; usize::from(value % 40)]);
            let address = at[position as usize].clone();
            self.model.write(cell, &address, op, sub.as_deref().unwrap_or_default(), value.as_deref().unwrap_or_default(), self.now_ms);
            columns.push(super::writes(cell, &[(position, op, sub.as_deref(), value.as_deref())]));
        }
        let mut changes: Vec<(u32, Domain, TimerOp, &str, i64)> = Vec::new();
        for &(place, event, op, name, timestamp) in timers {
            let op = [
                TimerOp::Set,
                TimerOp::Set,
                TimerOp::Set,
                TimerOp::Set,
                TimerOp::Replace,
                TimerOp::Replace,
                TimerOp::Delete,
                TimerOp::DeleteName,
                TimerOp::DeleteAll,
            ][usize::from(op)];
            // A name is single or not, always.
            let (name, op) = match (name, op) {
                (0, TimerOp::Replace) => ("", TimerOp::Set),
                (0, op) => ("", op),
                (1, TimerOp::Set) => ("single", TimerOp::Replace),
                (1, op) => ("single", op),
                (_, TimerOp::Replace) => ("many", TimerOp::Set),
                (_, op) => ("many", op),
            };
            changes.push((
                u32::from(place),
                if event { Domain::EventTime } else { Domain::ProcessingTime },
                op,
                name,
                i64::from(timestamp),
            ));
        }
        for (place, domain, op, name, timestamp) in &changes {
            self.model.timer(*domain, &at[*place as usize], *op, name, *timestamp);
        }
        self.apply(&at, columns, &changes);
    }

    fn apply(&mut self, at: &[Address], writes: Vec<Writes>, timers: &[(u32, Domain, TimerOp, &str, i64)]) {
        let timers = TimerWrites {
            at: timers.iter().map(|timer| timer.0).collect(),
            domains: timers.iter().map(|timer| timer.1).collect(),
            ops: timers.iter().map(|timer| timer.2).collect(),
            names: Some(StringArray::from_iter_values(timers.iter().map(|timer| timer.3))),
            timestamps: timers.iter().map(|timer| timer.4).collect(),
        };
        let commit = Commit { seq: self.seq, addresses: addresses(at), writes, timers, now_ms: self.now_ms };
        now(self.subject.backend.apply(&commit)).unwrap();
    }

    fn fire(&mut self, event: bool, up_to_ms: i64, limit: usize, global: bool) {
        let domain = if event { Domain::EventTime } else { Domain::ProcessingTime };
        let order = if global { DueOrder::Global } else { DueOrder::PerKey };
        let groups: Vec<u16> = (0..GROUPS).collect();
        let due = now(self.subject.backend.due(&DueRequest { domain, groups, up_to_ms, limit, order })).unwrap();
        let given: Vec<Timer> = (0..due.len())
            .map(|row| {
                (
                    domain,
                    (due.groups[row], due.keys.value(row).to_vec(), due.namespaces.value(row).to_vec()),
                    due.names.value(row).to_owned(),
                    due.timestamps[row],
                )
            })
            .collect();
        let expected: Vec<&Timer> = self.model.timers.iter().filter(|timer| timer.0 == domain && timer.3 <= up_to_ms).collect();
        assert!(due.timestamps.is_sorted() && given.len() <= limit);
        assert!(given.iter().all(|timer| expected.contains(&timer)));
        assert_eq!(given.is_empty(), expected.is_empty());
        let left = expected.iter().filter(|timer| !given.contains(timer)).map(|timer| timer.3).min();
        assert_eq!(due.remaining_from, left);
        for timer in &given {
            let earliest = expected.iter().filter(|other| (other.1.0, &other.1.1) == (timer.1.0, &timer.1.1)).map(|other| other.3).min();
            assert_eq!(earliest, Some(timer.3), "a key's timers fire in order, one timestamp at a time");
            assert!(order == DueOrder::PerKey || left.is_none_or(|left| timer.3 <= left));
        }
        self.seq += 1;
        let at = places();
        let fired: Vec<_> = given
            .iter()
            .map(|timer| {
                (at.iter().position(|place| *place == timer.1).unwrap() as u32, domain, TimerOp::Delete, timer.2.as_str(), timer.3)
            })
            .collect();
        for timer in &given {
            self.model.timers.remove(timer);
        }
        self.apply(&at, vec![], &fired);
    }

    fn compare(&self) {
        let (backend, now_ms) = (&*self.subject.backend, self.now_ms);
        for cell in 0..8u16 {
            let at = if cell == 7 { vec![broadcast()] } else { places() };
            let entries = get(backend, cell, &at, now_ms);
            for (row, address) in at.iter().enumerate() {
                let expected = self.model.read(cell, address, now_ms);
                let list = self.model.cells[usize::from(cell)].shape() == Shape::List;
                match &entries {
                    Entries::Values(values) => {
                        let found = values.is_valid(row).then(|| values.value(row));
                        match expected.first() {
                            None => assert_eq!(found, None, "cell {cell} at {address:?}"),
                            Some((_, value, may_miss)) => assert!(
                                found == Some(value) || found.is_none() && *may_miss,
                                "cell {cell} at {address:?}: {found:?}, not {value:?}"
                            ),
                        }
                    }
                    Entries::Lists { lists, .. } => {
                        let lists = lists.value(row);
                        same(None, lists.as_binary::<i32>(), &expected, list);
                    }
                    Entries::Maps { offsets, keys, values, .. } => {
                        let (start, len) = (offsets[row] as usize, (offsets[row + 1] - offsets[row]) as usize);
                        same(Some(&keys.slice(start, len)), &values.slice(start, len), &expected, list);
                    }
                }
                if self.model.cells[usize::from(cell)].shape() != Shape::Single {
                    self.compare_pages(cell, address, &expected, list);
                }
            }
        }
        for domain in [Domain::EventTime, Domain::ProcessingTime] {
            let groups: Vec<u16> = (0..GROUPS).collect();
            let expected = self.model.timers.iter().filter(|timer| timer.0 == domain).map(|timer| timer.3).min();
            assert_eq!(now(backend.next_timer(domain, &groups)).unwrap(), expected);
        }
    }

    fn compare_pages(&self, cell: u16, address: &Address, expected: &[(Vec<u8>, Vec<u8>, bool)], list: bool) {
        let (mut after, mut keys, mut values) = (None, Vec::new(), Vec::new());
        loop {
            let (group, key, namespace) = address.clone();
            let request = PageRequest { cell, group, key, namespace, prefix: vec![], after, max_bytes: 40, now_ms: self.now_ms };
            let page = now(self.subject.backend.page(&request)).unwrap();
            keys.extend(page.keys.iter().map(|key| key.unwrap().to_vec()));
            values.extend(page.values.iter().map(|value| value.unwrap().to_vec()));
            after = page.next;
            if after.is_none() {
                break;
            }
        }
        same(Some(&BinaryArray::from_iter_values(keys)), &BinaryArray::from_iter_values(values), expected, list);
    }
}

fn same(keys: Option<&BinaryArray>, values: &BinaryArray, expected: &[(Vec<u8>, Vec<u8>, bool)], list: bool) {
    assert_eq!(
        values.iter().map(|value| value.unwrap()).collect::<Vec<_>>(),
        expected.iter().map(|entry| &entry.1[..]).collect::<Vec<_>>()
    );
    if let Some(keys) = keys.filter(|_| !list) {
        assert_eq!(keys.iter().map(|key| key.unwrap()).collect::<Vec<_>>(), expected.iter().map(|entry| &entry.0[..]).collect::<Vec<_>>());
    }
}
