//! The snapshots this source has committed last, so that a receiver that lost or rolled one back is caught.

use crate::model::{RepositoryId, SetName, SnapshotId, SnapshotInfo};
use crate::platform::durable::{self, Access};
use crate::platform::{Context, Result, fs};
use crate::signer;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// The last snapshot this source knows was acknowledged.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Head {
    /// Which one.
    pub snapshot: SnapshotId,
    /// Its place in the chain.
    pub sequence: u64,
}

/// What the receiver's list says about the head that is remembered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is there, or nothing is remembered.
    Fine,
    /// The list ends before it: snapshots were acknowledged and are gone.
    RolledBack {
        /// What is remembered.
        remembered: Head,
        /// How far the list goes.
        newest: u64,
    },
    /// The list goes on, but another snapshot stands in its place.
    Replaced {
        /// What is remembered.
        remembered: Head,
    },
}

/// Where the heads are kept: one small file a set.
#[derive(Clone, Debug)]
pub struct Heads {
    folder: PathBuf,
}

impl Heads {
    /// Heads in a folder, which is made when it is not there.
    pub fn new(folder: &Path) -> Result<Self> {
        fs::create_private_dir_all(folder)?;
        Ok(Self { folder: folder.to_owned() })
    }

    fn path(&self, repository: RepositoryId, set: &SetName) -> PathBuf {
        let set = &blake3::hash(set.as_str().as_bytes()).to_hex()[..16];
        self.folder.join(format!("{repository}-{set}.json"))
    }

    /// What is remembered of a set.
    pub fn load(&self, repository: RepositoryId, set: &SetName) -> Result<Option<Head>> {
        let path = self.path(repository, set);
        let Some(bytes) = fs::read_if_there(&path)? else { return Ok(None) };
        let invalid = |error| std::io::Error::new(std::io::ErrorKind::InvalidData, error);
        serde_json::from_slice(&bytes).map(Some).map_err(invalid).context("read", path)
    }

    /// Remembers that a snapshot was acknowledged; durable when it returns.
    pub fn save(&self, repository: RepositoryId, set: &SetName, head: &Head) -> Result<()> {
        let bytes = serde_json::to_vec(head).expect("a head has only string keys");
        durable::save(&self.path(repository, set), Access::Private, &bytes)
    }
}

/// Compares what is remembered of `set` with what the receiver lists of its repository.
pub fn check(remembered: Option<Head>, set: &SetName, listed: &[SnapshotInfo]) -> Verdict {
    let Some(remembered) = remembered else { return Verdict::Fine };
    if listed.iter().any(|info| info.id == remembered.snapshot) {
        return Verdict::Fine;
    }
    let sequence = |info: &SnapshotInfo| {
        let record = signer::open_record(&info.signed).ok()?;
        (record.set == *set).then_some(record.sequence)
    };
    let newest = listed.iter().filter_map(sequence).max().unwrap_or(0);
    if newest < remembered.sequence {
        Verdict::RolledBack { remembered, newest }
    } else {
        Verdict::Replaced { remembered }
    }
}
