//! Restoring: checkpoints of one or several sessions into a store of any kind, for any of their key groups.

use super::{Checkpoints, FileEntry, Manifest, manifest::damaged, table::Layout};
use crate::{
    error::{Code, Error, Result},
    state::{BROADCAST_GROUP, Cell, Cells, StateBackend, encoding::KeyEncoder},
};
use arrow_array::{Array, RecordBatch};
use arrow_ipc::reader::FileReader;
use bytes::Bytes;
use std::{io::Cursor, sync::Arc};

/// What is restored.
#[derive(Clone)]
pub struct Restore {
    /// Checkpoints that together cover the groups.
    pub handles: Vec<String>,
    /// The key groups of the session.
    pub groups: Vec<u16>,
    /// The function of the session.
    pub function: String,
    /// Its max parallelism.
    pub max_parallelism: u16,
    /// Its key columns. Their names may differ from those in the checkpoint, their types not.
    pub keys: KeyEncoder,
    /// The last access of entries whose cell had no time to live and has one now.
    pub now_ms: i64,
}

/// What came of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Restored {
    /// Entries of cells.
    pub entries: u64,
    /// Timers.
    pub timers: u64,
    /// Cells of the checkpoint that the function does not have any more.
    pub dropped: Vec<String>,
    /// Cells that the checkpoint does not have: they begin empty.
    pub added: Vec<String>,
}

impl Checkpoints {
    /// Restores into an empty store.
    ///
    /// # Errors
    /// [`Code::SnapshotUnknown`], [`Code::SnapshotVersion`] or [`Code::SnapshotDamaged`] of the checkpoints; [`Code::SnapshotMismatch`] if they are of another function or max parallelism, do
    /// not cover the groups, or cover one twice; [`Code::KeyType`] and [`Code::StateTypeChanged`] if types differ.
    pub async fn restore(&self, restore: Restore, into: Arc<dyn StateBackend>) -> Result<Restored> {
        let mut manifests = Vec::new();
        for handle in &restore.handles {
            let manifest = self.manifest(handle).await?;
            check(&manifest, &restore).map_err(|error| error.within(format_args!("`{handle}`")))?;
            manifests.push(manifest);
        }
        cover(&manifests, &restore)?;
        let mut restored = Restored::default();
        for (place, manifest) in manifests.iter().enumerate() {
            let stored = manifest.cells()?;
            let plans = plans(&stored, into.cells(), &restore).map_err(|error| error.within(format_args!("`{}`", manifest.handle)))?;
            note(&stored, into.cells(), &mut restored);
            for file in &manifest.files {
                // Broadcast state is the same in all of them.
                let wanted = match file.groups {
                    (BROADCAST_GROUP, _) => place == 0,
                    (first, last) => restore.groups.iter().any(|group| (first..=last).contains(group)),
                };
                let plan = plans.iter().find(|plan| plan.name == file.cell);
                let Some(plan) = plan.filter(|_| wanted) else { continue };
                let bytes = self.file(file).await?;
                let (plan, file, into, restore) = (plan.clone(), file.clone(), Arc::clone(&into), restore.clone());
                let loading = tokio::task::spawn_blocking(move || load(bytes, &file, &plan, &restore, &*into));
                let loaded = loading
                    .await
                    .map_err(|error| Error::new(Code::InvariantBroken, "restoring a checkpoint ended early").detail(error.to_string()))??;
                restored.entries += loaded.entries;
                restored.timers += loaded.timers;
            }
        }
        Ok(restored)
    }
}

/// How one part of a checkpoint becomes one of the store.
#[derive(Clone)]
struct Plan {
    /// The cell's name; `None` for timers.
    name: Option<String>,
    /// As it is in the files.
    stored: Layout,
}

fn check(manifest: &Manifest, restore: &Restore) -> Result<()> {
    let origin = &manifest.origin;
    let mismatch = |message: String| Err(Error::new(Code::SnapshotMismatch, message));
    if origin.function != restore.function {
        return mismatch(format!("the checkpoint is of the function `{}`, not of `{}`", origin.function, restore.function));
    }
    if origin.max_parallelism != restore.max_parallelism {
        return mismatch(format!(
            "the checkpoint has a max parallelism of {}, the session of {}: it cannot be changed",
            origin.max_parallelism, restore.max_parallelism
        ));
    }
    let stored = manifest.key_columns()?;
    let types = |columns: &[(String, arrow_schema::DataType)]| columns.iter().map(|(_, data_type)| data_type.clone()).collect::<Vec<_>>();
    let (before, now) = (types(&stored), types(restore.keys.columns()));
    if before != now {
        let shown = |types: &[arrow_schema::DataType]| types.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        let message = format!("the keys of the checkpoint have type `{}`, those of the session `{}`", shown(&before), shown(&now));
        return Err(Error::new(Code::KeyType, message).hint("keys cannot change: their groups would, too"));
    }
    Ok(())
}

/// Checks that each group stands in one checkpoint, and only one.
fn cover(manifests: &[Manifest], restore: &Restore) -> Result<()> {
    for &group in restore.groups.iter().filter(|&&group| group != BROADCAST_GROUP) {
        let mut covering = manifests.iter().filter(|manifest| manifest.covers(group));
        let message = match (covering.next(), covering.next()) {
            (Some(_), None) => continue,
            (None, _) => format!("no checkpoint covers key group {group}"),
            (Some(one), Some(other)) => format!("both `{}` and `{}` cover key group {group}", one.handle, other.handle),
        };
        return Err(Error::new(Code::SnapshotMismatch, message).hint("give the handles of all sessions of one checkpoint, each once"));
    }
    Ok(())
}

fn plans(stored: &Cells, declared: &Cells, restore: &Restore) -> Result<Vec<Plan>> {
    let keys = || restore.keys.clone();
    let mut plans = vec![Plan { name: None, stored: Layout::new(keys(), None) }];
    for before in stored.iter() {
        let Some(id) = declared.find(&before.name) else { continue };
        let now = declared.at(id)?;
        let shown = |cell: &Cell| {
            let pickled = if cell.pickled { "pickled " } else { "" };
            match &cell.key {
                Some(key) => format!("{} of {key} to {pickled}{}", cell.kind.as_str(), cell.value),
                None => format!("{} of {pickled}{}", cell.kind.as_str(), cell.value),
            }
        };
        if (before.kind, &before.key, &before.value, before.pickled) != (now.kind, &now.key, &now.value, now.pickled) {
            let message = format!("the cell `{}` is a {} in the checkpoint, and a {} now", now.name, shown(before), shown(now));
            return Err(Error::new(Code::StateTypeChanged, message).hint(
                "give the cell another name: it begins empty, and `pillion state export` gives what the checkpoint has under the old one",
            ));
        }
        // The time to live is that of now; the types are those of the file.
        let in_file = Cell { ttl: now.ttl, ..before.clone() };
        plans.push(Plan { name: Some(before.name.clone()), stored: Layout::new(keys(), Some((id, in_file))) });
    }
    Ok(plans)
}

fn note(stored: &Cells, declared: &Cells, restored: &mut Restored) {
    let add = |names: &mut Vec<String>, name: &str| {
        if !names.iter().any(|known| known == name) {
            names.push(name.into());
        }
    };
    stored.iter().filter(|cell| declared.find(&cell.name).is_none()).for_each(|cell| add(&mut restored.dropped, &cell.name));
    declared.iter().filter(|cell| stored.find(&cell.name).is_none()).for_each(|cell| add(&mut restored.added, &cell.name));
}

/// The tables in the bytes of a file.
pub fn tables(bytes: Bytes, file: &FileEntry) -> Result<Vec<RecordBatch>> {
    let unreadable = |error: arrow_schema::ArrowError| damaged(format_args!("`{}` is no Arrow file: {error}", file.path));
    let reader = FileReader::try_new(Cursor::new(bytes), None).map_err(unreadable)?;
    reader.map(|batch| batch.map_err(unreadable)).collect()
}

/// Loads the wanted rows of a file.
fn load(bytes: Bytes, file: &FileEntry, plan: &Plan, restore: &Restore, into: &dyn StateBackend) -> Result<Restored> {
    let mut loaded = Restored::default();
    for batch in tables(bytes, file)? {
        for rows in plan.stored.rows(&batch, restore.now_ms)? {
            if rows.group == BROADCAST_GROUP || restore.groups.contains(&rows.group) {
                *if plan.name.is_some() { &mut loaded.entries } else { &mut loaded.timers } += rows.keys.len() as u64;
                into.load(rows)?;
            }
        }
    }
    Ok(loaded)
}
