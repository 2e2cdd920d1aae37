//! What a function asks for in the middle of its bundle, answered from the store. Until the bundle commits its lane's state stays as it is, so every try sees the same.
//!
//! An answer is bounded: rows of which there was no room for all are asked for again, each with the bytes that `next` has for it.

use super::executor::everybody;
use crate::{
    batch::Batch,
    error::{Code, Error, Result},
    session::fetch::{Fetcher, Unanswered},
    state::{
        Addresses, CellId, Entries, Get, Lookup, Page, PageRequest, Prefetch, StateBackend,
        codec::{deferred, typed},
        encoding::encode_map_keys,
    },
    worker::BoxFuture,
};
use arrow_array::{Array, ArrayRef, BinaryArray, BooleanArray, ListArray, RecordBatch, UInt32Array, cast::AsArray, new_null_array, types};
use arrow_buffer::OffsetBuffer;
use arrow_schema::{ArrowError, Field};
use arrow_select::{concat::concat, take::take};
use pillion_wire::{
    bundle::{CellLayout, Fetched, Layout, Shape},
    ipc::Decoder,
};
use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// Most bytes of stored values in one answer, and the share of the largest message that they may have: typed they may take more room.
const ANSWER_BYTES: usize = 8 << 20;
const ANSWER_SHARE: usize = 4;

/// A list or map with more bytes than this comes in pages.
const WHOLE_BYTES: usize = 1 << 20;

/// Addresses that are read in one step, so that values of any size leave an answer bounded before many of them are in memory.
const READ_AT_ONCE: usize = 16_384;

/// As `next`: there was no room, ask again; it is large, and comes in pages from its start; it goes on behind these bytes of the store.
const AGAIN: u8 = 0;
const PAGES: u8 = 1;
const BEHIND: u8 = 2;

/// The questions of a session.
pub(super) struct Fetches {
    backend: Arc<dyn StateBackend>,
    layout: Layout,
    decoder: Decoder,
    /// The largest message.
    most: u64,
    /// The bundles that execute, by their number in the inner session.
    open: Mutex<HashMap<u64, Arc<Subject>>>,
}

/// What a bundle may ask about.
struct Subject {
    /// Of its keys, at the empty namespace.
    keys: Arc<Addresses>,
    now_ms: i64,
}

/// A bundle that executes.
pub(super) struct Asking {
    fetches: Arc<Fetches>,
    seq: u64,
}

impl Drop for Asking {
    fn drop(&mut self) {
        self.fetches.open().remove(&self.seq);
    }
}

impl Fetches {
    /// Answers within `most` bytes.
    pub fn new(backend: Arc<dyn StateBackend>, layout: &Layout, most: u64) -> Result<Arc<Self>, ArrowError> {
        let decoder = Decoder::new(&layout.fetch)?;
        Ok(Arc::new(Fetches { backend, layout: layout.clone(), decoder, most, open: Mutex::default() }))
    }

    /// Bundle `seq` may ask about these keys, from now until what this gives is dropped.
    pub fn begin(self: &Arc<Self>, seq: u64, keys: Arc<Addresses>, now_ms: i64) -> Asking {
        self.open().insert(seq, Arc::new(Subject { keys, now_ms }));
        Asking { fetches: self.clone(), seq }
    }

    fn open(&self) -> MutexGuard<'_, HashMap<u64, Arc<Subject>>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn answer(&self, seq: u64, asked: Batch) -> Result<Batch, Unanswered> {
        let breach = |error: ArrowError| Unanswered::Breach(error.to_string());
        let subject = self.open().get(&seq).cloned().ok_or_else(|| Unanswered::Breach("its bundle is over".into()))?;
        let asked = match asked {
            Batch::Arrow(batch) => batch,
            // Copied and validated: a worker could write to it until now.
            Batch::Frame(frame) => self.decoder.decode(&frame).map_err(breach)?,
        };
        let asked = self.layout.unpack_fetch(&asked, subject.keys.len()).map_err(breach)?;
        let room = usize::try_from(self.most).unwrap_or(usize::MAX) / ANSWER_SHARE;
        let mut room = Room { left: room.min(ANSWER_BYTES), untouched: true };
        let mut found = Vec::with_capacity(asked.len());
        for (cell, rows) in (0..).zip(asked) {
            found.push(match rows {
                Some(rows) => Some(Cell { fetches: self, subject: &subject, cell, rows }.read(&mut room).await?),
                None => None,
            });
        }
        self.check(&found)?;
        let packed = self.layout.pack_fetched(found).map_err(|error| unfit(&error))?;
        Ok(packed.into())
    }

    /// A single value may be too large for any message.
    fn check(&self, found: &[Option<Fetched>]) -> Result<()> {
        for (found, cell) in found.iter().zip(&self.layout.cells) {
            let Some(found) = found else { continue };
            let bytes = found.values.to_data().get_slice_memory_size().unwrap_or_else(|_| found.values.get_buffer_memory_size()) as u64;
            if bytes > self.most {
                let message = format!("a value of the cell `{}` takes {bytes} bytes, and a message holds {}", cell.name, self.most);
                let hint = "keep smaller values, for example in a list or a map, or raise `limits.max_batch_bytes`";
                return Err(Error::new(Code::StateTooLarge, message).hint(hint));
            }
        }
        Ok(())
    }
}

impl Fetcher for Fetches {
    fn fetch(self: Arc<Self>, seq: u64, asked: Batch) -> BoxFuture<'static, Result<Batch, Unanswered>> {
        Box::pin(async move { self.answer(seq, asked).await })
    }
}

/// What an answer still takes.
struct Room {
    left: usize,
    /// Nothing is in it yet: the first value has room, whatever its size.
    untouched: bool,
}

impl Room {
    fn is_full(&self) -> bool {
        self.left == 0 && !self.untouched
    }

    /// Whether so many bytes more have room, which they then take.
    fn take(&mut self, bytes: usize) -> bool {
        let fits = self.untouched || bytes <= self.left;
        self.left = if fits { self.left.saturating_sub(bytes) } else { 0 };
        self.untouched &= bytes == 0;
        fits
    }
}

/// What is asked of one cell.
struct Cell<'a> {
    fetches: &'a Fetches,
    subject: &'a Subject,
    cell: CellId,
    /// [`pillion_wire::bundle::CellLayout::fetch`].
    rows: RecordBatch,
}

/// The answer, part by part.
#[derive(Default)]
struct Found {
    parts: Vec<ArrayRef>,
    /// Of the parts one after the other, which row of the question each is.
    rows: Vec<u32>,
    next: HashMap<u32, Vec<u8>>,
}

impl Found {
    fn add(&mut self, rows: &[u32], values: ArrayRef) {
        self.rows.extend(rows);
        self.parts.push(values);
    }
}

impl Cell<'_> {
    async fn read(&self, room: &mut Room) -> Result<Fetched, Unanswered> {
        let (sub, after) = (self.rows.column(2), self.rows.column(3).as_binary::<i32>());
        let (broadcast, shape) = (self.layout().broadcast, self.layout().shape);
        if broadcast && (0..self.rows.num_rows()).any(|row| !self.at(row as u32).1.is_empty()) {
            return Err(Unanswered::Breach("it asks for broadcast state at a namespace".into()));
        }
        let mut found = Found::default();
        let (mut whole, mut entries) = (Vec::new(), Vec::new());
        for row in 0..self.rows.num_rows() {
            // What is not of a map has no entries: its column is of type null.
            let entry = shape == Shape::Map && sub.is_valid(row);
            let token = if after.is_valid(row) { after.value(row) } else { &[AGAIN] };
            let row = row as u32;
            match token {
                [AGAIN] if entry => entries.push(row),
                [AGAIN] => whole.push(row),
                [PAGES] if shape != Shape::Value && !entry => self.page(row, None, room, &mut found).await?,
                [BEHIND, behind @ ..] if shape != Shape::Value && !entry => self.page(row, Some(behind), room, &mut found).await?,
                _ => return Err(Unanswered::Breach("it goes on where no answer has ended".into())),
            }
        }
        self.distinct(&whole, None)?;
        self.distinct(&entries, Some(sub))?;
        self.whole(&whole, room, &mut found).await?;
        self.entries(&entries, room, &mut found).await?;
        self.put_together(found).map_err(|error| unfit(&error).into())
    }

    fn layout(&self) -> &CellLayout {
        &self.fetches.layout.cells[usize::from(self.cell)]
    }

    fn typed(&self, entries: &Entries) -> Result<ArrayRef> {
        typed(self.fetches.backend.cells().at(self.cell)?, entries)
    }

    /// Nothing is asked for twice: an answer must not be larger than the state.
    fn distinct(&self, rows: &[u32], sub: Option<&ArrayRef>) -> Result<(), Unanswered> {
        let twice = || Err(Unanswered::Breach("it asks for the same twice".into()));
        let subs = match sub.filter(|_| !rows.is_empty()) {
            Some(sub) => Some(encode_map_keys(&take(sub, &UInt32Array::from(rows.to_vec()), None).map_err(|error| unfit(&error))?)?),
            None => None,
        };
        let mut seen = HashSet::with_capacity(rows.len());
        for (at, &row) in rows.iter().enumerate() {
            let (key, space) = self.at(row);
            if !seen.insert((key, space, subs.as_ref().map(|subs| subs.value(at)))) {
                return twice();
            }
        }
        Ok(())
    }

    /// Key and namespace of a row.
    fn at(&self, row: u32) -> (u32, &[u8]) {
        let (keys, spaces) = (self.rows.column(0).as_primitive::<types::UInt32Type>(), self.rows.column(1).as_binary::<i32>());
        (keys.value(row as usize), spaces.value(row as usize))
    }

    /// Where the values of some rows live.
    fn addresses(&self, rows: &[u32]) -> Result<Arc<Addresses>> {
        if self.layout().broadcast {
            return Ok(Arc::new(everybody()?));
        }
        let keys = &self.subject.keys;
        let places = || rows.iter().map(|&row| self.at(row).0 as usize);
        let groups = places().map(|key| keys.groups[key]).collect();
        let spaces = BinaryArray::from_iter_values(rows.iter().map(|&row| self.at(row).1));
        let keys = BinaryArray::from_iter_values(places().map(|key| keys.keys.value(key)));
        Ok(Arc::new(Addresses::new(groups, keys, Some(spaces))?))
    }

    /// All that is at the addresses of some rows.
    async fn whole(&self, rows: &[u32], room: &mut Room, found: &mut Found) -> Result<()> {
        let mut rows = rows;
        while !rows.is_empty() && !room.is_full() {
            let (now, later) = rows.split_at(rows.len().min(READ_AT_ONCE));
            let prefetch = Prefetch { entry_bytes: WHOLE_BYTES.min(room.left), total_bytes: room.left };
            let request = Get { cells: vec![self.cell], addresses: self.addresses(now)?, now_ms: self.subject.now_ms, prefetch };
            let entries = self.fetches.backend.get(&request).await?.into_iter().next();
            let entries = entries.ok_or_else(|| Error::new(Code::InvariantBroken, "a store has read no cell where one was asked for"))?;
            for (at, &row) in now.iter().enumerate() {
                if deferred(&entries).is_some_and(|deferred| deferred.value(at)) {
                    found.next.insert(row, vec![PAGES]);
                }
            }
            let fitting = (0..now.len()).take_while(|&at| room.take(size(&entries, at))).count();
            let values = self.typed(&entries)?;
            found.add(&now[..fitting], values.slice(0, fitting));
            if fitting < now.len() {
                rows = &rows[fitting..];
                break;
            }
            rows = later;
        }
        self.leave(rows, found);
        Ok(())
    }

    /// There was no room for these rows: nothing comes of them now.
    fn leave(&self, rows: &[u32], found: &mut Found) {
        if !rows.is_empty() {
            found.add(rows, new_null_array(&self.layout().column(), rows.len()));
            found.next.extend(rows.iter().map(|&row| (row, vec![AGAIN])));
        }
    }

    /// Single entries of maps.
    async fn entries(&self, rows: &[u32], room: &mut Room, found: &mut Found) -> Result<()> {
        let (now, later) = rows.split_at(rows.len().min(READ_AT_ONCE));
        if !now.is_empty() {
            let subs = take(self.rows.column(2), &UInt32Array::from(now.to_vec()), None).map_err(|error| unfit(&error))?;
            let map_keys = encode_map_keys(&subs)?;
            let (addresses, at) = self.shared(now)?;
            let now_ms = self.subject.now_ms;
            let lookup = Lookup { cell: self.cell, at, addresses, map_keys: map_keys.clone(), now_ms };
            let values = self.fetches.backend.lookup(&lookup).await?;
            let fitting = (0..now.len()).take_while(|&at| room.take(map_keys.value(at).len() + values.value(at).len())).count();
            let there: Vec<usize> = (0..fitting).filter(|&at| values.is_valid(at)).collect();
            let pick = |from: &BinaryArray| BinaryArray::from_iter_values(there.iter().map(|&at| from.value(at)));
            let entries = Entries::Maps {
                offsets: OffsetBuffer::from_lengths((0..fitting).map(|at| usize::from(values.is_valid(at)))),
                keys: pick(&map_keys),
                values: pick(&values),
                deferred: BooleanArray::new_null(0),
            };
            found.add(&now[..fitting], self.typed(&entries)?);
            self.leave(&now[fitting..], found);
        }
        self.leave(later, found);
        Ok(())
    }

    /// The distinct addresses of rows, and the place of each row among them.
    fn shared(&self, rows: &[u32]) -> Result<(Arc<Addresses>, Vec<u32>)> {
        let (mut seen, mut first) = (HashMap::with_capacity(rows.len()), Vec::new());
        let place = |&row| {
            *seen.entry(self.at(row)).or_insert_with(|| {
                first.push(row);
                first.len() as u32 - 1
            })
        };
        let at = rows.iter().map(place).collect();
        Ok((self.addresses(&first)?, at))
    }

    /// A part of the list or map at the address of a row, from its start or behind what the store said.
    async fn page(&self, row: u32, behind: Option<&[u8]>, room: &mut Room, found: &mut Found) -> Result<()> {
        let token = |behind: Option<&[u8]>| behind.map_or_else(|| vec![PAGES], |behind| [&[BEHIND], behind].concat());
        if room.is_full() {
            self.leave(&[row], found);
            found.next.insert(row, token(behind));
            return Ok(());
        }
        let addresses = self.addresses(&[row])?;
        let (key, namespace) = addresses.at(0);
        let request = PageRequest {
            cell: self.cell,
            group: addresses.groups[0],
            key: key.to_vec(),
            namespace: namespace.to_vec(),
            prefix: Vec::new(),
            after: behind.map(<[u8]>::to_vec),
            max_bytes: room.left,
            now_ms: self.subject.now_ms,
        };
        let Page { keys, values, next } = self.fetches.backend.page(&request).await?;
        room.take(keys.value_data().len() + values.value_data().len());
        if let Some(next) = &next {
            found.next.insert(row, token(Some(next)));
        }
        let offsets = OffsetBuffer::from_lengths([values.len()]);
        let entries = match self.layout().shape {
            Shape::Map => Entries::Maps { offsets, keys, values, deferred: BooleanArray::new_null(0) },
            _ => {
                let field = Arc::new(Field::new_list_field(values.data_type().clone(), true));
                let lists = ListArray::try_new(field, offsets, Arc::new(values), None).map_err(|error| unfit(&error))?;
                Entries::Lists { lists, deferred: BooleanArray::new_null(0) }
            }
        };
        found.add(&[row], self.typed(&entries)?);
        Ok(())
    }

    fn put_together(&self, found: Found) -> Result<Fetched, ArrowError> {
        let rows = self.rows.num_rows();
        let parts: Vec<&dyn Array> = found.parts.iter().map(AsRef::as_ref).collect();
        let joined = match &parts[..] {
            [] => new_null_array(&self.layout().column(), 0),
            [_] => found.parts[0].clone(),
            _ => concat(&parts)?,
        };
        let in_order = found.rows.iter().copied().eq(0..rows as u32);
        let values = if in_order {
            joined
        } else {
            let mut places = vec![0; rows];
            found.rows.iter().enumerate().for_each(|(place, &row)| places[row as usize] = place as u32);
            take(&joined, &UInt32Array::from(places), None)?
        };
        let next = (0..rows as u32).map(|row| found.next.get(&row).map(Vec::as_slice));
        Ok(Fetched { values, next: (!found.next.is_empty()).then(|| BinaryArray::from_iter(next)) })
    }
}

/// Bytes of what a store has at an address.
fn size(entries: &Entries, at: usize) -> usize {
    match entries {
        Entries::Values(values) => values.value(at).len(),
        Entries::Lists { lists, .. } => {
            let (offsets, values) = (lists.value_offsets(), lists.values().as_binary::<i32>());
            span(values, offsets[at], offsets[at + 1])
        }
        Entries::Maps { offsets, keys, values, .. } => {
            span(keys, offsets[at], offsets[at + 1]) + span(values, offsets[at], offsets[at + 1])
        }
    }
}

fn span(values: &BinaryArray, from: i32, to: i32) -> usize {
    let offsets = values.value_offsets();
    (offsets[to as usize] - offsets[from as usize]) as usize
}

fn unfit(error: &ArrowError) -> Error {
    Error::new(Code::InvariantBroken, "the columns of an answer do not fit together").detail(error.to_string())
}

#[cfg(test)]
#[path = "fetch_tests.rs"]
mod tests;
