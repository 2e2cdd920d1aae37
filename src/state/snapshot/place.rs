//! Where checkpoints are: a folder, or a bucket of an object store that speaks S3.

use super::Checkpoints;
use crate::error::{Code, Error, Result};
use object_store::{aws::AmazonS3Builder, local::LocalFileSystem, path::Path};
use std::sync::Arc;

/// A place as it stands in the configuration and on the command line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place<'a> {
    /// A folder of this machine, or one that it mounts: a path, or `file:///...`.
    Folder(&'a str),
    /// `s3://BUCKET` or `s3://BUCKET/PREFIX`.
    Bucket {
        /// As it was written.
        url: &'a str,
        /// What stands before the names of all objects.
        prefix: Path,
    },
}

impl<'a> Place<'a> {
    /// Reads what was written; looks at nothing that it names.
    ///
    /// # Errors
    /// [`Code::Unsupported`] for URLs of other schemes, [`Code::SnapshotFailed`] for an `s3://` that names no bucket or no path in it.
    pub fn parse(text: &'a str) -> Result<Self> {
        match text.split_once("://") {
            None => Ok(Place::Folder(text)),
            Some(("file", path)) => Ok(Place::Folder(path)),
            Some(("s3" | "s3a", rest)) => {
                let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
                let plain = !bucket.is_empty() && bucket.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-_".contains(&byte));
                let prefix = Path::from_url_path(prefix).ok().filter(|_| plain);
                // Neither the text nor the parser's error is shown: who puts a secret before the bucket must not find it in a log.
                let invalid = || Error::new(Code::SnapshotFailed, "a place for checkpoints in S3 is not `s3://BUCKET/PREFIX`");
                let prefix = prefix.ok_or_else(|| invalid().hint("credentials and endpoints stand in the `AWS_` variables"))?;
                Ok(Place::Bucket { url: text, prefix })
            }
            Some((scheme, _)) => Err(Error::new(Code::Unsupported, format!("checkpoints cannot go to `{scheme}://`"))
                .hint("name a folder, `file:///FOLDER` or `s3://BUCKET/PREFIX`")),
        }
    }

    /// The checkpoints there. A folder is made if need be; a bucket is not asked for anything yet.
    ///
    /// # Errors
    /// [`Code::SnapshotFailed`] if the folder cannot be used, or the variables contradict each other.
    pub fn open(self) -> Result<Checkpoints> {
        match self {
            Place::Folder(folder) => {
                let unusable = |error: String| unusable(folder, &error, "name a folder that exists or can be made, and can be written");
                std::fs::create_dir_all(folder).map_err(|error| unusable(error.to_string()))?;
                let store = LocalFileSystem::new_with_prefix(folder).map_err(|error| unusable(error.to_string()))?;
                Ok(Checkpoints::with_store(Arc::new(store.with_fsync(true)), Path::default()))
            }
            Place::Bucket { url, prefix } => {
                // The library's HTTP client takes its TLS from the process; a host that has chosen one keeps it.
                let _ = rustls::crypto::ring::default_provider().install_default();
                let store = AmazonS3Builder::from_env().with_url(url).build();
                let store = store.map_err(|error| unusable(url, &error.to_string(), "check the `AWS_` variables"))?;
                Ok(Checkpoints::with_store(Arc::new(store), prefix))
            }
        }
    }
}

fn unusable(place: &str, error: &str, hint: &str) -> Error {
    Error::new(Code::SnapshotFailed, format!("cannot keep checkpoints in `{place}`: {error}")).hint(hint)
}
