//! Checkpoints: state and timers as Arrow files and a manifest, in a folder or an object store (DESIGN D9, `docs/state-format.md`).
//!
//! A checkpoint appears with its manifest, which is written last and at once: whoever dies before leaves files that nobody refers to ([`Checkpoints::sweep`]). Files never change; a
//! later checkpoint refers to those of an earlier one whose key groups saw no commit in between.

#[cfg(test)]
mod fixture;
pub mod manifest;
mod place;
#[cfg(test)]
mod place_tests;
mod restore;
pub mod table;
#[cfg(test)]
mod tests;
mod write;

pub use manifest::{FileEntry, Manifest, Origin};
pub use place::Place;
pub use restore::{Restore, Restored};
pub use write::{Base, Take};

use crate::error::{Code, Error, Result};
use bytes::Bytes;
use object_store::{ObjectStore, ObjectStoreExt, PutPayload, path::Path};
use std::{collections::HashSet, sync::Arc};
use tokio_stream::StreamExt;

/// Folder of the files with rows, beside the manifests.
const DATA: &str = "data";

/// Names of checkpoints that cannot be read, each with the reason.
pub type Unreadable = Vec<(String, Error)>;

/// A place with checkpoints.
#[derive(Clone, Debug)]
pub struct Checkpoints {
    store: Arc<dyn ObjectStore>,
    root: Path,
}

impl Checkpoints {
    /// The checkpoints in a folder, which is made if need be, or in a bucket: what [`Place::parse`] reads. Credentials, region and endpoint of a bucket come from the `AWS_` variables.
    ///
    /// # Errors
    /// As [`Place::parse`] and [`Place::open`].
    pub fn open(place: &str) -> Result<Self> {
        Place::parse(place)?.open()
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

    /// Puts an object, which is there whole or not at all. Its name is nobody else's, so all that could be replaced is what an earlier try left whose answer was lost: to refuse that, as a
    /// conditional put would (which not every store has), would be a failure for nothing.
    async fn put(&self, path: &Path, bytes: Bytes) -> Result<()> {
        let put = self.store.put(path, PutPayload::from_bytes(bytes)).await;
        put.map(drop).map_err(|error| failed("write", path.as_ref(), &error))
    }

    /// The names of all checkpoints, in the order of their numbers, also of those whose manifest cannot be read.
    ///
    /// # Errors
    /// [`Code::SnapshotFailed`] if the store does not answer.
    pub async fn handles(&self) -> Result<Vec<String>> {
        let prefix = (!self.root.is_root()).then_some(&self.root);
        let found = self.store.list_with_delimiter(prefix).await.map_err(|error| failed("list", "*.json", &error))?;
        let names = found.objects.iter().filter_map(|object| object.location.filename()?.strip_suffix(".json").map(str::to_owned));
        let mut names: Vec<String> = names.collect();
        names.sort();
        Ok(names)
    }

    /// The manifests of all checkpoints, the oldest first, and by name those that cannot be read. One that is deleted meanwhile is neither.
    ///
    /// # Errors
    /// [`Code::SnapshotFailed`] if the store does not answer.
    pub async fn all(&self) -> Result<(Vec<Manifest>, Unreadable)> {
        let (mut manifests, mut unreadable) = (Vec::new(), Vec::new());
        for handle in self.handles().await? {
            match self.manifest(&handle).await {
                Ok(manifest) => manifests.push(manifest),
                Err(error) if error.code() == Code::SnapshotUnknown => {}
                Err(error) => unreadable.push((handle, error)),
            }
        }
        manifests.sort_by(|a, b| (a.origin.id, a.origin.created_ms, &a.handle).cmp(&(b.origin.id, b.origin.created_ms, &b.handle)));
        Ok((manifests, unreadable))
    }

    /// The manifests of all checkpoints, the oldest first. Those that cannot be read are left out, with a warning in the log.
    ///
    /// # Errors
    /// [`Code::SnapshotFailed`] if the store does not answer.
    pub async fn list(&self) -> Result<Vec<Manifest>> {
        let (manifests, unreadable) = self.all().await?;
        for (handle, error) in unreadable {
            tracing::warn!(handle, %error, "a checkpoint cannot be read");
        }
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
        let (others, unreadable) = self.all().await?;
        if let Some((other, error)) = unreadable.first() {
            tracing::warn!(handle, other, %error, "the files of a checkpoint stay, because another one cannot be read");
            return Ok(());
        }
        let kept: HashSet<&String> = others.iter().flat_map(|manifest| &manifest.files).map(|file| &file.path).collect();
        self.remove(files.iter().filter(|file| !kept.contains(&file.path)).map(|file| self.at(&file.path)).collect()).await
    }

    /// Removes objects that may be gone already; object stores take a thousand in one request.
    async fn remove(&self, paths: Vec<Path>) -> Result<()> {
        let mut removed = self.store.delete_stream(Box::pin(tokio_stream::iter(paths.into_iter().map(Ok))));
        while let Some(outcome) = removed.next().await {
            match outcome {
                Ok(_) | Err(object_store::Error::NotFound { .. }) => {}
                Err(error) => return Err(failed("delete", DATA, &error)),
            }
        }
        Ok(())
    }

    /// Deletes files that no checkpoint refers to and that were written before `before_ms`: what died while it wrote left them. How many.
    ///
    /// # Errors
    /// [`Code::SnapshotFailed`] if the store refuses; and if a manifest cannot be read, since nobody knows then what it refers to.
    pub async fn sweep(&self, before_ms: i64) -> Result<usize> {
        let (readable, unreadable) = self.all().await?;
        if let Some((handle, error)) = unreadable.first() {
            let message = format!("the manifest of `{handle}` cannot be read, so nobody knows which files are still needed");
            return Err(Error::new(Code::SnapshotDamaged, message).hint("delete that checkpoint first").detail(error.report()));
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
        let count = stale.len();
        self.remove(stale).await?;
        Ok(count)
    }
}

fn unknown(handle: &str) -> Error {
    Error::new(Code::SnapshotUnknown, format!("there is no checkpoint `{handle}`"))
        .hint("`pillion state ls` lists the checkpoints that there are")
}

fn failed(what: &str, path: &str, error: &object_store::Error) -> Error {
    use object_store::Error::{Generic, PermissionDenied, Unauthenticated};
    let hint = match error {
        PermissionDenied { .. } | Unauthenticated { .. } | Generic { store: "S3", .. } => {
            "check region, endpoint and credentials in the `AWS_` variables, and what these may do with the bucket"
        }
        _ => "check that the place for checkpoints can be reached, is writable and has room",
    };
    Error::new(Code::SnapshotFailed, format!("cannot {what} `{path}`: {error}")).hint(hint).retryable()
}
