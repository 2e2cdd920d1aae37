//! What a host answered, checked, with the overlay on top.

use super::{
    HostRows, HostTimers,
    overlay::{Merged, Overlay, Pending},
};
use crate::{
    error::{Code, Error, Result},
    state::{
        Addresses, Cell, CellId, Entries, Get, Lookup, Page, PageRequest, Shape,
        columns::{self, Bytes, Offsets},
        small::Small,
    },
    timer::{DueRequest, DueTimers, due, identity},
};
use arrow_array::{Array, BinaryArray};
use std::collections::{BTreeMap, BTreeSet};

fn wrong(what: &str) -> Error {
    Error::new(Code::ProtocolViolation, format!("the host that keeps the state answered with {what}"))
}

/// Checks the shape of an answer: nothing of it is used to index before.
pub fn check(rows: &HostRows, expected: usize) -> Result<()> {
    let entries = rows.values.len();
    let ends = rows.offsets.first() == 0 && usize::try_from(rows.offsets.last()) == Ok(entries);
    let nulls = rows.keys.null_count() + rows.values.null_count();
    if rows.offsets.len() != expected + 1
        || rows.deferred.len() != expected
        || !ends
        || rows.keys.len() != entries
        || rows.access.len() != entries
        || nulls > 0
    {
        return Err(wrong("columns that do not fit the question"));
    }
    Ok(())
}

/// The entries of one row with the overlay on top.
fn merged(rows: &HostRows, row: usize) -> Merged {
    let range = rows.offsets[row] as usize..rows.offsets[row + 1] as usize;
    range.map(|at| (Small::from(rows.keys.value(at)), (Small::from(rows.values.value(at)), rows.access[at]))).collect()
}

/// Rows as what a multi-get gives.
pub fn entries(cell: &Cell, id: CellId, rows: &HostRows, overlay: &Overlay, request: &Get) -> Result<Entries> {
    let (hidden, addresses) = (cell.hidden(request.now_ms), &request.addresses);
    let mut deferred = rows.deferred.clone();
    let seen = |access: i64| hidden == i64::MIN || access > hidden;
    let (mut offsets, mut keys, mut values) = (Offsets::new(addresses.len()), Bytes::new(0, 0), Bytes::new(addresses.len(), 0));
    for (row, deferred) in deferred.iter_mut().enumerate() {
        let (key, namespace) = addresses.at(row);
        let before = values.len();
        if !rows.deferred[row] && overlay.touches(rows.applied_bundle, id, addresses.groups[row], key, namespace) {
            let mut entries = merged(rows, row);
            overlay.merge(rows.applied_bundle, id, addresses.groups[row], key, namespace, |_| true, &mut entries);
            let bytes: usize = entries.iter().map(|(key, (value, _))| key.as_slice().len() + value.as_slice().len()).sum();
            let full = bytes > request.prefetch.entry_bytes || keys.bytes() + values.bytes() > request.prefetch.total_bytes;
            *deferred = full && bytes > 0 && cell.shape() != Shape::Single;
            for (key, (value, _)) in entries.iter().filter(|(_, (_, access))| !*deferred && seen(*access)) {
                keys.push(key.as_slice())?;
                values.push(value.as_slice())?;
            }
        } else {
            for at in (rows.offsets[row] as usize..rows.offsets[row + 1] as usize).filter(|&at| seen(rows.access[at])) {
                keys.push(rows.keys.value(at))?;
                values.push(rows.values.value(at))?;
            }
        }
        match (cell.shape(), values.len() - before) {
            (Shape::Single, 0) => values.push_null(),
            (Shape::Single, 1) => {}
            (Shape::Single, _) => return Err(wrong(&format!("several values of the cell `{}` for one key", cell.name))),
            _ => offsets.push(values.len())?,
        }
    }
    let deferred = columns::flags(deferred);
    Ok(match cell.shape() {
        Shape::Single => Entries::Values(values.finish()),
        Shape::List => Entries::Lists { lists: columns::lists(offsets.finish(), values.finish())?, deferred },
        Shape::Map => Entries::Maps { offsets: offsets.finish(), keys: keys.finish(), values: values.finish(), deferred },
    })
}

/// Rows as what a lookup of single entries gives.
pub fn single(cell: &Cell, request: &Lookup, rows: &HostRows, overlay: &Overlay, addresses: &Addresses) -> Result<BinaryArray> {
    let hidden = cell.hidden(request.now_ms);
    let mut values = Bytes::new(addresses.len(), 0);
    for row in 0..addresses.len() {
        let (key, namespace) = addresses.at(row);
        let wanted = request.map_keys.value(row);
        let mut entries = merged(rows, row);
        overlay.merge(rows.applied_bundle, request.cell, addresses.groups[row], key, namespace, |sub| sub == wanted, &mut entries);
        let found = entries.get(&Small::from(wanted)).filter(|(_, access)| hidden == i64::MIN || *access > hidden);
        values.push_option(found.map(|(value, _)| value.as_slice()))?;
    }
    Ok(values.finish())
}

/// A row as a page. The host's answer covers the sub-keys up to its last one, or all if nothing is left; the overlay is laid over just these.
pub fn page(cell: &Cell, request: &PageRequest, rows: &HostRows, overlay: &Overlay) -> Result<Page> {
    let hidden = cell.hidden(request.now_ms);
    let mut entries = merged(rows, 0);
    let last = entries.keys().next_back().cloned();
    if rows.deferred[0] && last.is_none() {
        return Err(wrong("an empty page that is not the last"));
    }
    let covered = |sub: &[u8]| {
        let after = request.after.as_deref().is_none_or(|after| sub > after);
        let before = !rows.deferred[0] || last.as_ref().is_some_and(|last| sub <= last.as_slice());
        after && before && sub.starts_with(&request.prefix)
    };
    if entries.keys().any(|key| !covered(key.as_slice())) {
        return Err(wrong("entries that the page should not have"));
    }
    overlay.merge(rows.applied_bundle, request.cell, request.group, &request.key, &request.namespace, covered, &mut entries);
    let (mut keys, mut values) = (Bytes::new(0, 0), Bytes::new(0, 0));
    let mut next = last.filter(|_| rows.deferred[0]).map(|last| last.as_slice().to_vec());
    for (key, (value, access)) in &entries {
        if hidden != i64::MIN && *access <= hidden {
            continue;
        }
        if keys.len() > 0 && keys.bytes() + values.bytes() + key.as_slice().len() + value.as_slice().len() > request.max_bytes {
            let keys = keys.finish();
            next = Some(keys.value(keys.len() - 1).to_vec());
            return Ok(Page { keys, values: values.finish(), next });
        }
        keys.push(key.as_slice())?;
        values.push(value.as_slice())?;
    }
    Ok(Page { keys: keys.finish(), values: values.finish(), next: next.take() })
}

/// A timestamp and a packed identity.
type Packed = (i64, Vec<u8>);

/// Timers with the overlay on top, cut as those of the other backends.
pub fn due(request: &DueRequest, timers: &HostTimers, overlay: &Overlay) -> Result<DueTimers> {
    let rows = timers.timestamps.len();
    let sorted = timers.timestamps.is_sorted() && timers.timestamps.last().is_none_or(|&last| last <= request.up_to_ms);
    if timers.addresses.len() != rows || timers.names.len() != rows || !sorted || (timers.more && rows == 0) {
        return Err(wrong("timers that do not fit the question"));
    }
    let pending = |row: usize| -> Pending {
        let (key, namespace) = timers.addresses.at(row);
        let name = if timers.names.is_valid(row) { timers.names.value(row) } else { "" };
        (timers.timestamps[row], timers.addresses.groups[row], Small::from(key), Small::from(namespace), Small::from(name.as_bytes()))
    };
    let mut all: BTreeSet<Pending> = (0..rows).map(pending).collect();
    // As with pages: the answer covers the timestamps up to its last one.
    let bound = timers.timestamps.last().copied().filter(|_| timers.more);
    let covered = |timer: &Pending| timer.0 <= bound.unwrap_or(request.up_to_ms) && request.groups.contains(&timer.1);
    overlay.merge_timers(timers.applied_bundle, request.domain, covered, &mut all);
    let mut queues: BTreeMap<u16, Vec<Result<Packed>>> = BTreeMap::new();
    for (timestamp, group, key, namespace, name) in &all {
        let mut packed = Vec::new();
        let name = std::str::from_utf8(name.as_slice()).map_err(|_| wrong("a name that is not valid UTF-8"))?;
        identity::pack(&mut packed, key.as_slice(), namespace.as_slice(), name);
        queues.entry(*group).or_default().push(Ok((*timestamp, packed)));
    }
    let mut due = due::merge(queues.into_iter().map(|(group, queue)| (group, queue.into_iter())).collect(), request.limit, request.order)?;
    due.remaining_from = [due.remaining_from, bound].into_iter().flatten().min();
    Ok(due)
}
