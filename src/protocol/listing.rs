//! What a device advertises to one peer.

use crate::model::{Alias, Fingerprint, Mark, OwnerEvent, RepositoryParameters, SnapshotInfo};
use serde::{Deserialize, Serialize};

/// Answer to `GET snapshots`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listing {
    /// The repositories that the caller may see.
    pub repositories: Vec<RepositoryListing>,
}

/// One repository and its snapshots.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RepositoryListing {
    /// Which one, and where it is cut.
    pub repository: RepositoryParameters,
    /// The device that owns it now.
    pub owner: Fingerprint,
    /// What its owner calls itself.
    pub alias: Alias,
    /// How it came to its owner; the keys in here are the ones whose signatures count.
    pub owner_log: Vec<OwnerEvent>,
    /// By set and sequence.
    pub snapshots: Vec<SnapshotInfo>,
    /// Those that lack something, as far as the holder knows. Each names ten files at most and no chunks.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub damaged: Vec<Mark>,
}
