//! What a holder knows about a snapshot that has lost something: kept in its store, shown to its person, and told to whoever may
//! list the snapshot.

use crate::model::{ChunkId, SetName, SnapshotId};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// A snapshot that has lost something.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Mark {
    /// The layout of this JSON, as in a store: 1.
    pub format: u32,
    /// Which snapshot.
    pub snapshot: SnapshotId,
    /// Its set, as far as that is known.
    pub set: Option<SetName>,
    /// Its place in the chain.
    pub sequence: u64,
    /// When the loss was found, by this device's clock.
    pub found_at: Timestamp,
    /// The record itself was damaged and set aside: the snapshot cannot be listed any more.
    #[serde(default)]
    pub record_lost: bool,
    /// The list of its entries is hit: not every file that was lost is known, and a restore goes without the list's rest.
    #[serde(default)]
    pub manifest_hit: bool,
    /// Chunks that it needs and that are not there.
    pub lost_chunks: u64,
    /// The first files that need them, in path order.
    #[serde(default)]
    pub files: Vec<String>,
    /// How many more there are.
    #[serde(default)]
    pub more_files: u64,
    /// Some of the lost chunks; not told to other devices.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub witnesses: Vec<ChunkId>,
    /// When everything was there again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub healed_at: Option<Timestamp>,
}

impl Mark {
    /// Files that are hit, those that are not named included.
    pub fn file_count(&self) -> u64 {
        self.files.len() as u64 + self.more_files
    }
}
