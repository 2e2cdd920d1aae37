//! Reading: values through the cache, lists and maps from the store.

use super::{Disk, Open, failed, keys};
use crate::{
    error::Result,
    state::{
        Cell, CellId, Entries, Get, Lookup, Page, PageRequest, Shape,
        address::slot,
        check,
        columns::{self, Bytes, Offsets},
        small::Small,
    },
};
use arrow_array::{Array, BinaryArray};
use std::ops::Bound;

impl Disk {
    /// The stored value of a key, with its last access before it.
    pub(super) fn stored(&self, open: &Open, key: &Small) -> Result<Option<Small>> {
        if let Some(known) = self.values.get(key) {
            return Ok(known);
        }
        let found = open.entries.get(key.as_slice()).map_err(|error| failed(&error))?.map(|value| Small::from(&value[..]));
        self.values.insert(key.clone(), found.clone());
        Ok(found)
    }

    pub(super) fn get_now(&self, request: &Get) -> Result<Vec<Entries>> {
        let opened = self.open();
        let open = opened.get()?;
        for &group in &request.addresses.groups {
            slot(group, self.slots)?;
        }
        let read = |&id: &CellId| {
            let cell = self.cells.at(id)?;
            match cell.shape() {
                Shape::Single => self.values(open, id, cell, request),
                Shape::List | Shape::Map => self.entries(open, id, cell, request),
            }
        };
        request.cells.iter().map(read).collect()
    }

    fn values(&self, open: &Open, id: CellId, cell: &Cell, request: &Get) -> Result<Entries> {
        let hidden = cell.hidden(request.now_ms);
        let mut values = Bytes::new(request.addresses.len(), request.addresses.len() * 9);
        let mut buffer = Vec::with_capacity(64);
        for row in 0..request.addresses.len() {
            let (key, namespace) = request.addresses.at(row);
            buffer.clear();
            keys::prefix(&mut buffer, id, request.addresses.groups[row], key, namespace);
            match self.stored(open, &Small::from(&buffer[..]))? {
                Some(stored) => {
                    let (access, value) = keys::value(stored.as_slice(), cell.ttl.is_some())?;
                    values.push_option((hidden == i64::MIN || access > hidden).then_some(value))?;
                }
                None => values.push_null(),
            }
        }
        Ok(Entries::Values(values.finish()))
    }

    fn entries(&self, open: &Open, id: CellId, cell: &Cell, request: &Get) -> Result<Entries> {
        let rows = request.addresses.len();
        let hidden = cell.hidden(request.now_ms);
        let (mut offsets, mut deferred) = (Offsets::new(rows), Vec::with_capacity(rows));
        let (mut map_keys, mut values) = (Bytes::new(0, 0), Bytes::new(rows, 0));
        let mut prefix = Vec::with_capacity(64);
        for row in 0..rows {
            let (key, namespace) = request.addresses.at(row);
            prefix.clear();
            keys::prefix(&mut prefix, id, request.addresses.groups[row], key, namespace);
            let mut found: Vec<(fjall::UserKey, fjall::UserValue)> = Vec::new();
            let full = map_keys.bytes() + values.bytes() > request.prefetch.total_bytes;
            let (mut bytes, mut later) = (0, false);
            for entry in open.entries.prefix(&prefix) {
                let (key, stored) = entry.into_inner().map_err(|error| failed(&error))?;
                bytes += key.len() - prefix.len() + stored.len();
                if bytes > request.prefetch.entry_bytes || full {
                    later = true;
                    break;
                }
                found.push((key, stored));
            }
            for (key, stored) in found.iter().filter(|_| !later) {
                let (access, value) = keys::value(stored, cell.ttl.is_some())?;
                if hidden == i64::MIN || access > hidden {
                    if cell.shape() == Shape::Map {
                        map_keys.push(&key[prefix.len()..])?;
                    }
                    values.push(value)?;
                }
            }
            deferred.push(later);
            offsets.push(values.len())?;
        }
        let (offsets, values, deferred) = (offsets.finish(), values.finish(), columns::flags(deferred));
        Ok(match cell.shape() {
            Shape::Map => Entries::Maps { offsets, keys: map_keys.finish(), values, deferred },
            _ => Entries::Lists { lists: columns::lists(offsets, values)?, deferred },
        })
    }

    pub(super) fn lookup_now(&self, request: &Lookup) -> Result<BinaryArray> {
        let cell = self.cells.at(request.cell)?;
        check::lookup(cell, request)?;
        let opened = self.open();
        let open = opened.get()?;
        let hidden = cell.hidden(request.now_ms);
        let mut values = Bytes::new(request.at.len(), 0);
        for (row, &at) in request.at.iter().enumerate() {
            let (key, namespace) = request.addresses.at(at as usize);
            let mut full = Vec::new();
            keys::prefix(&mut full, request.cell, request.addresses.groups[at as usize], key, namespace);
            full.extend_from_slice(request.map_keys.value(row));
            match open.entries.get(&full).map_err(|error| failed(&error))? {
                Some(stored) => {
                    let (access, value) = keys::value(&stored, cell.ttl.is_some())?;
                    values.push_option((hidden == i64::MIN || access > hidden).then_some(value))?;
                }
                None => values.push_null(),
            }
        }
        Ok(values.finish())
    }

    pub(super) fn page_now(&self, request: &PageRequest) -> Result<Page> {
        let cell = self.cells.at(request.cell)?;
        check::page(cell)?;
        slot(request.group, self.slots)?;
        let opened = self.open();
        let open = opened.get()?;
        let hidden = cell.hidden(request.now_ms);
        let mut prefix = Vec::new();
        keys::prefix(&mut prefix, request.cell, request.group, &request.key, &request.namespace);
        let sub = prefix.len();
        let wanted = [&prefix[..], &request.prefix].concat();
        let from = match &request.after {
            Some(after) => Bound::Excluded([&prefix[..], after].concat()),
            None => Bound::Included(wanted.clone()),
        };
        let (mut map_keys, mut values, mut more) = (Bytes::new(0, 0), Bytes::new(0, 0), false);
        for entry in open.entries.range::<Vec<u8>, _>((from, Bound::Unbounded)) {
            let (key, stored) = entry.into_inner().map_err(|error| failed(&error))?;
            if !key.starts_with(&wanted) {
                break;
            }
            let (access, value) = keys::value(&stored, cell.ttl.is_some())?;
            if hidden != i64::MIN && access <= hidden {
                continue;
            }
            if map_keys.len() > 0 && map_keys.bytes() + values.bytes() + key.len() - sub + value.len() > request.max_bytes {
                more = true;
                break;
            }
            map_keys.push(&key[sub..])?;
            values.push(value)?;
        }
        let map_keys = map_keys.finish();
        let next = more.then(|| map_keys.value(map_keys.len() - 1).to_vec());
        Ok(Page { keys: map_keys, values: values.finish(), next })
    }
}
