//! Reading: addresses are resolved group by group, values copied out, and put in the order that was asked for.

use super::{
    Memory,
    chunk::{Many, ROWS, Slot},
    group::{Group, NONE, Packed, on_its_way},
    known::Resolved,
};
use crate::{
    error::Result,
    state::{
        Cell, Entries, Get, Lookup, Page, PageRequest, Prefetch, Shape,
        address::{ByGroup, pack},
        check,
        columns::{self, Bytes, Offsets, Scattered},
    },
};
use arrow_array::{Array, BinaryArray};
use std::sync::Arc;

/// What a multi-get collects for one cell, in the order of groups.
enum Found {
    Values(Scattered),
    Many(Vec<Option<Arc<Many>>>),
}

impl Memory {
    pub(super) fn get_now(&self, request: &Get) -> Result<Vec<Entries>> {
        let rows = request.addresses.len();
        let mut found = Vec::with_capacity(request.cells.len());
        for &cell in &request.cells {
            found.push(match self.cells.at(cell)?.shape() {
                Shape::Single => Found::Values(Scattered::new(rows)),
                Shape::List | Shape::Map => Found::Many(vec![None; rows]),
            });
        }
        let by_group = ByGroup::of(&request.addresses, self.groups.len())?;
        let (mut all, mut moves) = (vec![NONE; rows], Vec::with_capacity(by_group.ends.len()));
        let (mut packed, mut resolved) = (Packed::default(), Vec::new());
        for (group, members) in by_group.iter() {
            let group = self.group(group)?;
            packed.fill(&request.addresses, members);
            group.find_all(&packed, &mut resolved);
            members.iter().zip(&resolved).for_each(|(&at, &row)| all[at as usize] = row);
            moves.push(group.moves);
            for (found, &cell) in found.iter_mut().zip(&request.cells) {
                let hidden = self.cells.at(cell)?.hidden(request.now_ms);
                collect(&group, usize::from(cell), hidden, members, &resolved, found)?;
            }
        }
        self.known.keep(&request.addresses, Resolved { by_group, rows: all, moves });
        let finished = found.into_iter().zip(&request.cells).map(|(found, &cell)| match found {
            Found::Values(values) => values.finish().map(Entries::Values),
            Found::Many(many) => entries(self.cells.at(cell)?, &many, request.now_ms, request.prefetch),
        });
        finished.collect()
    }

    pub(super) fn lookup_now(&self, request: &Lookup) -> Result<BinaryArray> {
        let Lookup { at, addresses, map_keys, .. } = request;
        let cell = self.cells.at(request.cell)?;
        check::lookup(cell, request)?;
        let hidden = cell.hidden(request.now_ms);
        let mut values = Scattered::new(at.len());
        let mut packed = Vec::new();
        let by_group = ByGroup::new(at.len(), self.groups.len(), |row| addresses.groups[at[row] as usize])?;
        for (group, members) in by_group.iter() {
            let group = self.group(group)?;
            for &row in members {
                let row = row as usize;
                let (key, namespace) = addresses.at(at[row] as usize);
                packed.clear();
                pack(&mut packed, key, namespace);
                let Some(found) = group.find(&packed) else { continue };
                let many = group.column(found, usize::from(request.cell)).many(found as usize % ROWS);
                let item = many.and_then(|many| many.items.get(|key| key.as_slice().cmp(map_keys.value(row))));
                if let Some((value, _)) = item.filter(|(_, access)| hidden == i64::MIN || *access > hidden) {
                    values.set(row, value.as_slice())?;
                }
            }
        }
        values.finish()
    }

    pub(super) fn page_now(&self, request: &PageRequest) -> Result<Page> {
        let cell = self.cells.at(request.cell)?;
        check::page(cell)?;
        let hidden = cell.hidden(request.now_ms);
        let mut packed = Vec::new();
        pack(&mut packed, &request.key, &request.namespace);
        let many = {
            let group = self.group(request.group)?;
            let row = group.find(&packed);
            row.and_then(|row| group.column(row, usize::from(request.cell)).many(row as usize % ROWS).cloned())
        };
        let (mut keys, mut values, mut next) = (Bytes::new(0, 0), Bytes::new(0, 0), None);
        if let Some(many) = many {
            let start = request.after.as_deref().unwrap_or(&request.prefix).max(&request.prefix);
            let (place, _) = many.items.seek(|key| key.as_slice().cmp(start));
            for (key, (value, access)) in many.items.from(place) {
                let (key, value) = (key.as_slice(), value.as_slice());
                if !key.starts_with(&request.prefix) {
                    break;
                }
                if hidden != i64::MIN && *access <= hidden || request.after.as_deref() == Some(key) {
                    continue;
                }
                if keys.len() > 0 && keys.bytes() + values.bytes() + key.len() + value.len() > request.max_bytes {
                    next = Some(());
                    break;
                }
                keys.push(key)?;
                values.push(value)?;
            }
        }
        let keys = keys.finish();
        let next = next.map(|()| keys.value(keys.len() - 1).to_vec());
        Ok(Page { keys, values: values.finish(), next })
    }
}

fn collect(group: &Group, cell: usize, hidden: i64, members: &[u32], resolved: &[u32], found: &mut Found) -> Result<()> {
    let slot = |row: u32| group.column(row, cell).slots.get(row as usize % ROWS);
    on_its_way(resolved.iter().filter(|row| **row != NONE).map(|&row| matches!(slot(row), Some(Slot::One(_)))));
    for (&at, &row) in members.iter().zip(resolved).filter(|(_, row)| **row != NONE) {
        let (column, in_chunk) = (group.column(row, cell), row as usize % ROWS);
        match found {
            Found::Values(values) => {
                if let Some(value) = column.one(in_chunk, hidden) {
                    values.set(at as usize, value.as_slice())?;
                }
            }
            Found::Many(many) => many[at as usize] = column.many(in_chunk).cloned(),
        }
    }
    Ok(())
}

/// Lists and maps as columns, as far as the limits go.
fn entries(cell: &Cell, many: &[Option<Arc<Many>>], now_ms: i64, prefetch: Prefetch) -> Result<Entries> {
    let hidden = cell.hidden(now_ms);
    let map = cell.shape() == Shape::Map;
    let (mut offsets, mut deferred) = (Offsets::new(many.len()), Vec::with_capacity(many.len()));
    let (mut keys, mut values, mut total) = (Bytes::new(0, 0), Bytes::new(many.len(), 0), 0usize);
    for many in many {
        let bytes = many.as_ref().map_or(0, |many| many.bytes);
        let later = bytes > prefetch.entry_bytes || total > prefetch.total_bytes;
        deferred.push(later && bytes > 0);
        if let Some(many) = many.as_ref().filter(|_| !later) {
            total += bytes;
            for (key, (value, access)) in many.items.iter() {
                if hidden == i64::MIN || *access > hidden {
                    if map {
                        keys.push(key.as_slice())?;
                    }
                    values.push(value.as_slice())?;
                }
            }
        }
        offsets.push(values.len())?;
    }
    let (offsets, values, deferred) = (offsets.finish(), values.finish(), columns::flags(deferred));
    Ok(match map {
        true => Entries::Maps { offsets, keys: keys.finish(), values, deferred },
        false => Entries::Lists { lists: columns::lists(offsets, values)?, deferred },
    })
}
