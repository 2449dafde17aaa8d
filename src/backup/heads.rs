//! The snapshots this source has committed last, so that a receiver that lost or rolled one back is caught.

use crate::model::snapshot::Root;
use crate::model::{Fingerprint, RepositoryId, SetName, SignedRecord, SnapshotId, SnapshotInfo};
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
    /// Of which set.
    pub set: SetName,
    /// The roots that it was made of.
    pub roots: Vec<Root>,
    /// Its record: a receiver whose disk has damaged it gets it again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signed: Option<SignedRecord>,
}

/// What the receiver's list says about the head that is remembered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is there.
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

impl Verdict {
    /// The alarm, in a sentence; `None` when all is fine.
    pub fn alarm(&self) -> Option<String> {
        match self {
            Self::Fine => None,
            Self::RolledBack { remembered, newest } => Some(format!(
                "set `{}`: the receiver has lost snapshots it had acknowledged: this device remembers number {}, there it ends at {newest}",
                remembered.set, remembered.sequence
            )),
            Self::Replaced { remembered } => Some(format!(
                "set `{}`: the receiver has another snapshot in the place of number {}",
                remembered.set, remembered.sequence
            )),
        }
    }
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

    /// The repository that this device writes to at another device, as far as remembered.
    pub fn repository_at(&self, device: &Fingerprint) -> Result<Option<RepositoryId>> {
        let bytes = fs::read_if_there(&self.folder.join(format!("{device}.repository")))?;
        Ok(bytes.and_then(|bytes| std::str::from_utf8(&bytes).ok()?.parse().ok()))
    }

    /// Remembers the repository at another device.
    pub fn save_repository_at(&self, device: &Fingerprint, repository: RepositoryId) -> Result<()> {
        let path = self.folder.join(format!("{device}.repository"));
        durable::save(&path, Access::Private, repository.to_string().as_bytes())
    }

    /// Forgets the repository at another device; what was committed there stays remembered.
    pub fn forget(&self, device: &Fingerprint) -> Result<()> {
        fs::remove_file(&self.folder.join(format!("{device}.repository")))
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

    /// What is remembered of all sets of a repository.
    pub fn of_repository(&self, repository: RepositoryId) -> Result<Vec<Head>> {
        let prefix = format!("{repository}-");
        let mut heads = Vec::new();
        for name in fs::read_dir(&self.folder)? {
            if name.to_str().is_some_and(|name| name.starts_with(&prefix)) {
                let bytes = fs::read(&self.folder.join(&name))?;
                heads.extend(serde_json::from_slice::<Head>(&bytes));
            }
        }
        Ok(heads)
    }

    /// Remembers that a snapshot was acknowledged; durable when it returns.
    pub fn save(&self, repository: RepositoryId, head: &Head) -> Result<()> {
        let bytes = serde_json::to_vec(head).expect("a head has only string keys");
        durable::save(&self.path(repository, &head.set), Access::Private, &bytes)
    }
}

/// Compares a head that is remembered with what the receiver lists of its repository.
pub fn check(remembered: &Head, listed: &[SnapshotInfo]) -> Verdict {
    if listed.iter().any(|info| info.id == remembered.snapshot) {
        return Verdict::Fine;
    }
    let sequence = |info: &SnapshotInfo| {
        let record = signer::open_record(&info.signed).ok()?;
        (record.set == remembered.set).then_some(record.sequence)
    };
    let newest = listed.iter().filter_map(sequence).max().unwrap_or(0);
    let remembered = remembered.clone();
    if newest < remembered.sequence {
        Verdict::RolledBack { remembered, newest }
    } else {
        Verdict::Replaced { remembered }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Alias, Changes, Receipt, Record, Stream, Totals};
    use crate::signer::SigningKey;
    use jiff::Timestamp;

    fn listed(sequences: std::ops::RangeInclusive<u64>) -> Vec<SnapshotInfo> {
        let key = SigningKey::from_bytes(&[1; 32]);
        let snapshot = |sequence| {
            let empty = Stream { length: 0, depth: 0, ids: Vec::new() };
            let record = Record {
                format: 1,
                repository: RepositoryId::from_random([1; 16]),
                set: "docs".parse().unwrap(),
                roots: Vec::new(),
                sequence,
                previous: None,
                manifest: empty.clone(),
                refs: empty,
                totals: Totals::default(),
                changes: Changes::default(),
                source_time: Timestamp::UNIX_EPOCH,
                device: Alias::new("x"),
                signer: key.public(),
                tag: None,
            };
            let signed = key.sign_record(&record);
            let id = signer::snapshot_id(&signed);
            let from = Fingerprint::from_bytes([0; 32]);
            let receipt = Receipt { record: id, received_at: Timestamp::UNIX_EPOCH, from };
            SnapshotInfo { id, signed, receipt, forgotten: None }
        };
        sequences.map(snapshot).collect()
    }

    #[test]
    fn a_head_that_is_gone_or_replaced_is_noticed() {
        let all = listed(1..=5);
        let head =
            Head { snapshot: all[3].id, sequence: 4, set: "docs".parse().unwrap(), roots: Vec::new(), signed: None };
        assert_eq!(check(&head, &all), Verdict::Fine);
        let rolled = Verdict::RolledBack { remembered: head.clone(), newest: 3 };
        assert_eq!(check(&head, &all[..3]), rolled);
        let mut without = all.clone();
        without.remove(3);
        assert_eq!(check(&head, &without), Verdict::Replaced { remembered: head });
    }

    #[test]
    fn heads_and_repositories_are_remembered() {
        let folder = tempfile::tempdir().unwrap();
        let heads = Heads::new(folder.path()).unwrap();
        let (repository, set) = (RepositoryId::from_random([1; 16]), "docs".parse().unwrap());
        let device = Fingerprint::from_bytes([2; 32]);
        assert_eq!(heads.load(repository, &set).unwrap(), None);
        let set: SetName = set;
        let head =
            Head { snapshot: listed(1..=1)[0].id, sequence: 1, set: set.clone(), roots: Vec::new(), signed: None };
        heads.save(repository, &head).unwrap();
        assert_eq!(heads.of_repository(repository).unwrap(), std::slice::from_ref(&head));
        heads.save_repository_at(&device, repository).unwrap();
        assert_eq!(heads.load(repository, &set).unwrap(), Some(head));
        assert_eq!(heads.repository_at(&device).unwrap(), Some(repository));
        heads.forget(&device).unwrap();
        assert_eq!(heads.repository_at(&device).unwrap(), None);
    }
}
