//! `[state]`: where keyed sessions keep their state and their checkpoints.

use super::{places, units};
use crate::state::snapshot::Place;
use serde::{Deserialize, Deserializer, Serialize, de::Error};
use std::{path::PathBuf, time::Duration};

/// `[state]`: stores and checkpoints of keyed sessions.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct StateConfig {
    /// Folder of the `disk` stores. Each session has a folder of its own in it, which goes with the session; what a dead process left is deleted by the next. Default: `state` in
    /// the default `cache_dir`.
    pub dir: PathBuf,
    /// Where checkpoints go: a folder, a URL `file:///...`, or `s3://BUCKET/PREFIX` with region, endpoint and credentials in the usual `AWS_` variables. To be restored elsewhere they must
    /// be where every node reaches them. Default: none, and a barrier saves nothing.
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "place")]
    pub checkpoints: Option<String>,
    /// Memory that the state and the timers of one session in the `memory` store may take. A bundle that would need more finds the store full; a checkpoint that has more is
    /// not restored (`state_full`). Default none.
    #[serde(with = "units::size_or_none")]
    pub memory_bytes: Option<u64>,
    /// Memory of one `disk` store for the values that were read or written last. Default 256MiB.
    #[serde(with = "units::size")]
    pub disk_cache_bytes: u64,
    /// A `disk` store refuses bundles that would leave less than this on the file system. Default 256MiB.
    #[serde(with = "units::size")]
    pub disk_reserve_bytes: u64,
    /// A bundle for which a store has no room waits for some, and its session with it; after this time the session ends with `state_full`. Default 1m.
    #[serde(with = "units::duration")]
    pub full_wait: Duration,
}

impl Default for StateConfig {
    fn default() -> Self {
        Self {
            dir: places::default_cache_dir().join("state"),
            checkpoints: None,
            memory_bytes: None,
            disk_cache_bytes: 256 << 20,
            disk_reserve_bytes: 256 << 20,
            full_wait: Duration::from_secs(60),
        }
    }
}

/// Refuses what no session could open.
fn place<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    let place = Option::<String>::deserialize(deserializer)?;
    let refused = place.as_deref().and_then(|place| Place::parse(place).err());
    refused.map_or(Ok(place), |error| Err(D::Error::custom(format!("{}; {}", error.message(), error.hint_text().unwrap_or_default()))))
}
