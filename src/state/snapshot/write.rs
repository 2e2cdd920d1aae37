//! Writing a checkpoint: a view is read and encoded on a thread of its own, files are put one after the other, then the manifest.

use super::{
    Checkpoints, DATA,
    manifest::{Column, FORMAT, FileEntry, Manifest, Origin, StoredCell, ranges},
    table::Layout,
};
use crate::{
    error::{Code, Error, Result},
    fault::{Point, reach},
    state::{
        BROADCAST_GROUP, CellId, Kind, View,
        columns::broken,
        encoding::{KEY_VERSION, KeyEncoder},
    },
};
use arrow_ipc::{
    CompressionType,
    writer::{FileWriter, IpcWriteOptions},
};
use bytes::Bytes;
use std::{collections::HashMap, sync::Arc};
use tokio::sync::mpsc;
use xxhash_rust::xxh3::xxh3_128;

/// A file ends when it has grown beyond this, so that nobody needs much memory to write or read one.
const FILE_BYTES: usize = 32 << 20;
/// The key groups of a session are cut into this many ranges. Of the same groups the ranges are always the same: unchanged ones are not written again.
const RANGES: usize = 16;

/// A checkpoint to be taken.
#[derive(Clone)]
pub struct Take {
    /// What it is of.
    pub origin: Origin,
    /// The key columns.
    pub keys: KeyEncoder,
    /// The key groups; with broadcast cells [`BROADCAST_GROUP`] is added.
    pub groups: Vec<u16>,
    /// The state at the barrier.
    pub view: Arc<dyn View>,
}

/// A cell, or `None` for timers, and a range of key groups: first and last.
type Stretch = (Option<CellId>, (u16, u16));

/// Groups with their versions, and the files with their rows.
type Was = (Vec<(u16, u64)>, Vec<FileEntry>);

/// What the next checkpoint of the same store may refer to.
#[derive(Clone, Debug, Default)]
pub struct Base {
    /// By part and range: its groups with their versions, and its files.
    written: HashMap<Stretch, Was>,
}

/// The checksum of a file, in digits.
pub fn checksum(bytes: &[u8]) -> String {
    format!("{:032x}", xxh3_128(bytes))
}

/// A file on its way from the thread that encodes.
struct Made {
    part: Option<CellId>,
    range: (u16, u16),
    entry: FileEntry,
    bytes: Bytes,
}

impl Checkpoints {
    /// Writes a checkpoint. With a [`Base`], from the checkpoint before of the same store, what has not changed since is referred to.
    ///
    /// # Errors
    /// [`Code::SnapshotFailed`] if the store refuses; then nothing refers to what was written, and earlier checkpoints are whole.
    pub async fn write(&self, take: Take, base: &Base) -> Result<(Manifest, Base)> {
        let mut nonce = [0; 8];
        getrandom::fill(&mut nonce).map_err(|error| Error::new(Code::SystemRefused, format!("no random numbers: {error}")))?;
        let Origin { id, attempt, .. } = take.origin;
        let handle = format!("chk-{id:08}-a{attempt}-g{}-{:016x}", take.groups.iter().min().unwrap_or(&0), u64::from_ne_bytes(nonce));
        let mut next = Base::default();
        let mut parts = Vec::new();
        for ((part, range), groups) in plan(&take)? {
            let versions: Vec<(u16, u64)> = groups.iter().map(|&group| (group, take.view.version(group, part))).collect();
            match base.written.get(&(part, range)) {
                Some((known, files)) if *known == versions => drop(next.written.insert((part, range), (versions, files.clone()))),
                _ => {
                    next.written.insert((part, range), (versions, Vec::new()));
                    parts.push(((part, range), groups));
                }
            }
        }
        let (sender, mut made) = mpsc::channel(2);
        let (encoding, name) = (take.clone(), handle.clone());
        let encoder = tokio::task::spawn_blocking(move || encode(&encoding, &name, parts, &sender));
        while let Some(Made { part, range, entry, bytes }) = made.recv().await {
            self.put(&self.at(&entry.path), bytes).await?;
            reach(Point::Checkpointing);
            if let Some((_, files)) = next.written.get_mut(&(part, range)) {
                files.push(entry);
            }
        }
        encoder
            .await
            .map_err(|error| Error::new(Code::InvariantBroken, "writing a checkpoint ended early").detail(error.to_string()))??;
        let manifest = describe(&take, handle, &next)?;
        self.put(&self.manifest_at(&manifest.handle)?, manifest.to_json()?.into()).await?;
        reach(Point::Checkpointed);
        Ok((manifest, next))
    }
}

/// Parts and ranges of key groups, in the order of the files.
fn plan(take: &Take) -> Result<Vec<(Stretch, Vec<u16>)>> {
    let mut groups: Vec<u16> = take.groups.iter().copied().filter(|&group| group != BROADCAST_GROUP).collect();
    groups.sort_unstable();
    groups.dedup();
    let pieces: Vec<&[u16]> = groups.chunks(groups.len().div_ceil(RANGES).max(1)).collect();
    let mut plan = Vec::new();
    for part in (0..take.view.cells().len()).map(|id| CellId::try_from(id).ok()).chain([None]) {
        let broadcast = part.map(|id| take.view.cells().at(id)).transpose()?.is_some_and(|cell| cell.kind == Kind::Broadcast);
        if broadcast {
            plan.push(((part, (BROADCAST_GROUP, BROADCAST_GROUP)), vec![BROADCAST_GROUP]));
        } else {
            plan.extend(pieces.iter().map(|piece| ((part, (piece[0], piece[piece.len() - 1])), piece.to_vec())));
        }
    }
    Ok(plan)
}

fn describe(take: &Take, handle: String, written: &Base) -> Result<Manifest> {
    let mut groups = take.groups.clone();
    groups.sort_unstable();
    groups.retain(|&group| group != BROADCAST_GROUP);
    let mut files: Vec<FileEntry> = written.written.values().flat_map(|(_, files)| files).cloned().collect();
    files.sort_by(|a, b| (&a.cell, a.groups, &a.path).cmp(&(&b.cell, b.groups, &b.path)));
    Ok(Manifest {
        format: FORMAT,
        key_encoding: KEY_VERSION,
        origin: take.origin.clone(),
        handle,
        groups: ranges(&groups),
        key: take.keys.columns().iter().map(|(name, data_type)| Column::new(name, data_type)).collect::<Result<_>>()?,
        cells: take.view.cells().iter().map(StoredCell::new).collect::<Result<_>>()?,
        files,
    })
}

/// Reads and encodes parts, and sends their files.
fn encode(take: &Take, handle: &str, parts: Vec<(Stretch, Vec<u16>)>, sender: &mpsc::Sender<Made>) -> Result<()> {
    for ((part, range), groups) in parts {
        let cell = part.map(|id| take.view.cells().at(id).map(|cell| (id, cell.clone()))).transpose()?;
        let mut files = Files { layout: Layout::new(take.keys.clone(), cell), part, range, handle, open: None, rows: 0, number: 0, sender };
        for group in groups {
            take.view.read(group, part, &mut |rows| files.add(&rows))?;
        }
        files.end()?;
    }
    Ok(())
}

/// The files of one part and range.
struct Files<'a> {
    layout: Layout,
    part: Option<CellId>,
    range: (u16, u16),
    handle: &'a str,
    open: Option<FileWriter<Vec<u8>>>,
    rows: u64,
    number: u32,
    sender: &'a mpsc::Sender<Made>,
}

impl Files<'_> {
    fn add(&mut self, rows: &crate::state::Rows) -> Result<()> {
        let batch = self.layout.to_batch(rows)?;
        let writer = match &mut self.open {
            Some(writer) => writer,
            None => {
                let options = IpcWriteOptions::default().try_with_compression(Some(CompressionType::LZ4_FRAME)).map_err(broken)?;
                self.open.insert(FileWriter::try_new_with_options(Vec::new(), &self.layout.schema(), options).map_err(broken)?)
            }
        };
        writer.write(&batch).map_err(broken)?;
        self.rows += batch.num_rows() as u64;
        if writer.get_mut().len() >= FILE_BYTES { self.end() } else { Ok(()) }
    }

    /// Ends the open file, if there is one.
    fn end(&mut self) -> Result<()> {
        let Some(writer) = self.open.take() else { return Ok(()) };
        let bytes = writer.into_inner().map_err(broken)?;
        let part = self.part.map_or_else(|| "timers".into(), |id| format!("cell{id}"));
        let path = format!("{DATA}/{}/{part}-{}-{}-{}.arrow", self.handle, self.range.0, self.range.1, self.number);
        let cell = self.layout.cell.as_ref().map(|(_, cell)| cell.name.clone());
        let entry = FileEntry {
            path,
            cell,
            groups: self.range,
            rows: std::mem::take(&mut self.rows),
            bytes: bytes.len() as u64,
            xxh3: checksum(&bytes),
        };
        self.number += 1;
        let made = Made { part: self.part, range: self.range, entry, bytes: bytes.into() };
        // Whoever received was refused by the store, and has an error of its own.
        self.sender.blocking_send(made).map_err(|_| Error::new(Code::Cancelled, "the checkpoint was given up"))
    }
}
