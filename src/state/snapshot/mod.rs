//! Checkpoints: state and timers as Arrow files and a manifest, in a folder or an object store (DESIGN D9, `docs/state-format.md`).
//!
//! A checkpoint appears with its manifest, which is written last and at once: whoever dies before leaves files that nobody refers to ([`Checkpoints::sweep`]). Files never change; a
//! later checkpoint refers to those of an earlier one whose key groups saw no commit in between.

pub mod manifest;
mod restore;
pub mod table;
#[cfg(test)]
mod tests;
mod write;

pub use manifest::{FileEntry, Manifest, Origin};
pub use restore::{Restore, Restored};
pub use write::{Base, Take};

use crate::error::{Code, Error, Result};
use bytes::Bytes;
use object_store::{ObjectStore, ObjectStoreExt, PutMode, PutOptions, PutPayload, local::LocalFileSystem, path::Path};
use std::{collections::HashSet, sync::Arc};
use tokio_stream::StreamExt;

/// Folder of the files with rows, beside the manifests.
const DATA: &str = "data";

/// A place with checkpoints.
#[derive(Clone, Debug)]
pub struct Checkpoints {
    store: Arc<dyn ObjectStore>,
    root: Path,
}

impl Checkpoints {
    /// The checkpoints in a folder, which is made if need be: a path, or a URL `file:///...`.
    ///
    /// # Errors
    /// [`Code::SnapshotFailed`] if the folder cannot be used, [`Code::Unsupported`] for URLs of other schemes.
    pub fn open(place: &str) -> Result<Self> {
        let folder = match place.split_once("://") {
            None => place,
            Some(("file", path)) => path,
            Some((scheme, _)) => {
                return Err(Error::new(Code::Unsupported, format!("checkpoints cannot go to `{scheme}://`"))
                    .hint("use a folder that every node mounts; a Rust host can give any object store to `Checkpoints::with_store`"));
            }
        };
        let failed = |error: String| {
            Error::new(Code::SnapshotFailed, format!("cannot keep checkpoints in `{folder}`: {error}"))
                .hint("name a folder that exists or can be made, and can be written")
        };
        std::fs::create_dir_all(folder).map_err(|error| failed(error.to_string()))?;
        let store = LocalFileSystem::new_with_prefix(folder).map_err(|error| failed(error.to_string()))?;
        Ok(Checkpoints::with_store(Arc::new(store.with_fsync(true)), Path::default()))
    }

    /// The checkpoints under a path of an object store.
    pub fn with_store(store: Arc<dyn ObjectStore>, root: Path) -> Self {
        Checkpoints { store, root }
    }

    fn at(&self, relative: &str) -> Path {
        self.root.parts().chain(Path::from(relative).parts()).collect()
    }

    fn manifest_at(&self, handle: &str) -> Result<Path> {
        let plain = !handle.is_empty() && handle.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_');
        if !plain {
            return Err(unknown(handle));
        }
        Ok(self.at(&format!("{handle}.json")))
    }

    /// Reads a manifest.
    ///
    /// # Errors
    /// [`Code::SnapshotUnknown`], [`Code::SnapshotDamaged`], [`Code::SnapshotVersion`]; [`Code::SnapshotFailed`] if the store does not answer.
    pub async fn manifest(&self, handle: &str) -> Result<Manifest> {
        let bytes = match self.fetch(&self.manifest_at(handle)?).await {
            Err(object_store::Error::NotFound { .. }) => return Err(unknown(handle)),
            other => other.map_err(|error| failed("read", handle, &error))?,
        };
        let manifest = Manifest::from_json(&bytes).map_err(|error| error.within(format_args!("`{handle}`")))?;
        if manifest.handle != handle {
            return Err(manifest::damaged("its manifest has another name").within(format_args!("`{handle}`")));
        }
        Ok(manifest)
    }

    async fn fetch(&self, path: &Path) -> Result<Bytes, object_store::Error> {
        self.store.get(path).await?.bytes().await
    }

    /// A file of a checkpoint, checked.
    ///
    /// # Errors
    /// [`Code::SnapshotDamaged`] if it is missing or differs from what was written; [`Code::SnapshotFailed`] if the store does not answer.
    pub async fn file(&self, file: &FileEntry) -> Result<Bytes> {
        let bytes = match self.fetch(&self.at(&file.path)).await {
            Err(object_store::Error::NotFound { .. }) => return Err(manifest::damaged(format_args!("`{}` is missing", file.path))),
            other => other.map_err(|error| failed("read", &file.path, &error))?,
        };
        if bytes.len() as u64 != file.bytes || write::checksum(&bytes) != file.xxh3 {
            return Err(manifest::damaged(format_args!("`{}` is not what was written", file.path)));
        }
        Ok(bytes)
    }

    /// The tables in a file of a checkpoint, as they can be shown or exported.
    ///
    /// # Errors
    /// As [`Self::file`].
    pub async fn tables(&self, file: &FileEntry) -> Result<Vec<arrow_array::RecordBatch>> {
        restore::tables(self.file(file).await?, file)
    }

    async fn put(&self, path: &Path, bytes: Bytes) -> Result<()> {
        let options = PutOptions::from(PutMode::Create);
        let put = self.store.put_opts(path, PutPayload::from_bytes(bytes), options).await;
        put.map(drop).map_err(|error| failed("write", path.as_ref(), &error))
    }

    /// The names of all checkpoints, in the order of their numbers, also of those whose manifest cannot be read.
    ///
    /// # Errors
    /// [`Code::SnapshotFailed`] if the store does not answer.
    pub async fn handles(&self) -> Result<Vec<String>> {
        let prefix = (!self.root.is_root()).then_some(&self.root);
        let found = self.store.list_with_delimiter(prefix).await.map_err(|error| failed("list", self.root.as_ref(), &error))?;
        let names = found.objects.iter().filter_map(|object| object.location.filename()?.strip_suffix(".json").map(str::to_owned));
        let mut names: Vec<String> = names.collect();
        names.sort();
        Ok(names)
    }

    /// The manifests of all checkpoints, the oldest first. Those that cannot be read are left out, with a warning in the log.
    ///
    /// # Errors
    /// [`Code::SnapshotFailed`] if the store does not answer.
    pub async fn list(&self) -> Result<Vec<Manifest>> {
        let mut manifests = Vec::new();
        for handle in self.handles().await? {
            match self.manifest(&handle).await {
                Ok(manifest) => manifests.push(manifest),
                Err(error) => tracing::warn!(handle, %error, "a checkpoint cannot be read"),
            }
        }
        manifests.sort_by(|a, b| (a.origin.id, a.origin.created_ms, &a.handle).cmp(&(b.origin.id, b.origin.created_ms, &b.handle)));
        Ok(manifests)
    }

    /// Deletes a checkpoint, and the files that no other one refers to; none if another one cannot be read ([`Self::sweep`] finds them once it can be, or is gone). Not while one
    /// that is based on it is being written.
    ///
    /// # Errors
    /// [`Code::SnapshotUnknown`]; [`Code::SnapshotFailed`] if the store refuses, with the checkpoint gone or whole.
    pub async fn delete(&self, handle: &str) -> Result<()> {
        let path = self.manifest_at(handle)?;
        let files: Vec<FileEntry> = match self.manifest(handle).await {
            Ok(manifest) => manifest.files,
            // What its manifest cannot say any more `sweep` finds.
            Err(error) if matches!(error.code(), Code::SnapshotDamaged | Code::SnapshotVersion) => Vec::new(),
            Err(error) => return Err(error),
        };
        self.store.delete(&path).await.map_err(|error| failed("delete", handle, &error))?;
        let others = self.list().await?;
        if others.len() < self.handles().await?.len() {
            return Ok(());
        }
        let kept: HashSet<&String> = others.iter().flat_map(|manifest| &manifest.files).map(|file| &file.path).collect();
        for file in files.iter().filter(|file| !kept.contains(&file.path)) {
            self.remove(&self.at(&file.path)).await?;
        }
        Ok(())
    }

    async fn remove(&self, path: &Path) -> Result<()> {
        match self.store.delete(path).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(failed("delete", path.as_ref(), &error)),
        }
    }

    /// Deletes files that no checkpoint refers to and that were written before `before_ms`: what died while it wrote left them. How many.
    ///
    /// # Errors
    /// [`Code::SnapshotFailed`] if the store refuses; and if a manifest cannot be read, since nobody knows then what it refers to.
    pub async fn sweep(&self, before_ms: i64) -> Result<usize> {
        let manifests = self.handles().await?;
        let readable = self.list().await?;
        if readable.len() != manifests.len() {
            return Err(Error::new(Code::SnapshotDamaged, "a manifest cannot be read, so nobody knows which files are still needed")
                .hint("delete that checkpoint first"));
        }
        let kept: HashSet<Path> = readable.iter().flat_map(|manifest| &manifest.files).map(|file| self.at(&file.path)).collect();
        let folder = self.at(DATA);
        let mut stale = Vec::new();
        let mut objects = self.store.list(Some(&folder));
        while let Some(object) = objects.next().await {
            let object = object.map_err(|error| failed("list", DATA, &error))?;
            if !kept.contains(&object.location) && object.last_modified.timestamp_millis() < before_ms {
                stale.push(object.location);
            }
        }
        for path in &stale {
            self.remove(path).await?;
        }
        Ok(stale.len())
    }
}

fn unknown(handle: &str) -> Error {
    Error::new(Code::SnapshotUnknown, format!("there is no checkpoint `{handle}`"))
        .hint("`pillion state ls` lists the checkpoints of a folder")
}

fn failed(what: &str, path: &str, error: &object_store::Error) -> Error {
    Error::new(Code::SnapshotFailed, format!("cannot {what} `{path}`: {error}"))
        .hint("check that the place for checkpoints can be reached, is writable and has room")
        .retryable()
}
