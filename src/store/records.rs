//! Records with their receipts: one object each, whose appearance is the moment in which a snapshot begins to exist.
//!
//! ```text
//! line 1: the record, byte for byte as it was signed
//! line 2: its signature, 128 hex digits
//! line 3: the receipt, JSON
//! line 4: the seal
//! ```
//!
//! Objects never change, so what was read once and found good is remembered.

use crate::model::limits::MAX_RECORD_BYTES;
use crate::model::{Receipt, Record, RepositoryId, SetName, SignedRecord, SnapshotId, SnapshotInfo};
use crate::signer;
use crate::store::error::{Error, Result};
use crate::store::layout::{self, ObjectName};
use crate::store::sealed::{seal, unseal};
use crate::store::shelf::Shelf;
use jiff::Timestamp;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

/// A record that was read and checked.
#[derive(Clone, Debug)]
pub(crate) struct Kept {
    pub(crate) record: Record,
    pub(crate) info: SnapshotInfo,
}

/// All records of a repository at one moment.
#[derive(Debug, Default)]
pub(crate) struct All {
    /// By set and sequence.
    pub(crate) good: Vec<Arc<Kept>>,
    /// What cannot be read, and why.
    pub(crate) bad: Vec<(ObjectName, Error)>,
}

impl All {
    pub(crate) fn find(&self, id: &SnapshotId) -> Option<&Arc<Kept>> {
        self.good.iter().find(|kept| kept.info.id == *id)
    }

    /// The newest of a set. A damaged one that is newer than every good one is an error: nothing may follow what cannot be
    /// read.
    pub(crate) fn head(self, set: &SetName) -> Result<Option<Arc<Kept>>> {
        let good = self.good.into_iter().rfind(|kept| kept.record.set == *set);
        let folder = format!("{}/", layout::records_of(set));
        let newest = good.as_ref().map_or(0, |kept| kept.record.sequence);
        let newer = |name: &ObjectName| {
            let sequence = layout::record_parts(name).map(|(sequence, _)| sequence);
            name.as_str().starts_with(&folder) && sequence.is_some_and(|sequence| sequence > newest)
        };
        match self.bad.into_iter().find(|(name, _)| newer(name)) {
            Some((_, error)) => Err(error),
            None => Ok(good),
        }
    }

    /// When the last record of any set came.
    pub(crate) fn last_receipt(&self) -> Option<Timestamp> {
        self.good.iter().map(|kept| kept.info.receipt.received_at).max()
    }
}

/// The records of one repository.
#[derive(Debug)]
pub(crate) struct Records {
    repository: RepositoryId,
    shelf: Arc<dyn Shelf>,
    known: Mutex<HashMap<ObjectName, Arc<Kept>>>,
}

impl Records {
    pub(crate) fn new(repository: RepositoryId, shelf: Arc<dyn Shelf>) -> Self {
        Self { repository, shelf, known: Mutex::default() }
    }

    /// Lists and reads; only what is new since the last time is read from disk.
    pub(crate) fn all(&self) -> Result<All> {
        let mut all = All::default();
        for name in self.shelf.list(&layout::records())? {
            let known = self.known.lock().unwrap_or_else(PoisonError::into_inner).get(&name).cloned();
            let kept = match known {
                Some(kept) => kept,
                None => match self.load(&name) {
                    Ok(kept) => self.remember(name, kept),
                    Err(error) => {
                        all.bad.push((name, error));
                        continue;
                    }
                },
            };
            all.good.push(kept);
        }
        all.good.sort_by(|a, b| (&a.record.set, a.record.sequence).cmp(&(&b.record.set, b.record.sequence)));
        Ok(all)
    }

    /// Makes a record exist. The caller holds the commit lock and has checked everything.
    pub(crate) fn save(&self, record: Record, signed: SignedRecord, receipt: Receipt) -> Result<Arc<Kept>> {
        let name = layout::record(&record.set, record.sequence, &receipt.record);
        let json = serde_json::to_string(&receipt).map_err(|error| Error::Refused(error.to_string()))?;
        let text = seal(&format!("{}\n{}\n{json}", signed.record, signed.signature));
        self.shelf.put(&name, text.as_bytes())?;
        let info = SnapshotInfo { id: receipt.record, signed, receipt, forgotten: None };
        Ok(self.remember(name, Kept { record, info }))
    }

    /// Makes sure that a record that is there survives a power cut: its committer may have died before it knew.
    pub(crate) fn confirm(&self, kept: &Kept) -> Result<()> {
        let name = layout::record(&kept.record.set, kept.record.sequence, &kept.info.id);
        Ok(self.shelf.confirm(&[name])?)
    }

    fn remember(&self, name: ObjectName, kept: Kept) -> Arc<Kept> {
        let kept = Arc::new(kept);
        self.known.lock().unwrap_or_else(PoisonError::into_inner).insert(name, Arc::clone(&kept));
        kept
    }

    /// One record, read from the disk.
    pub(crate) fn load(&self, name: &ObjectName) -> Result<Kept> {
        let damaged = |problem: &str| Error::damaged(name, &problem);
        let object = self.shelf.open(name)?;
        let length = object.length()?;
        if length > MAX_RECORD_BYTES as u64 {
            return Err(damaged("it is larger than any record"));
        }
        let bytes = object.read_at(0, length as usize)?;
        let lines: Vec<_> = unseal(&bytes).map_err(damaged)?.split('\n').collect();
        let [record, signature, receipt] = lines[..] else { return Err(damaged("it does not have three lines")) };
        let signed = SignedRecord { record: record.to_owned(), signature: signature.to_owned() };
        let record = signer::open_record(&signed).map_err(|error| Error::damaged(name, &error))?;
        let receipt: Receipt = serde_json::from_str(receipt).map_err(|error| Error::damaged(name, &error))?;
        let id = signer::snapshot_id(&signed);
        if layout::record(&record.set, record.sequence, &id) != *name || receipt.record != id {
            return Err(damaged("it holds another record"));
        }
        if record.repository != self.repository {
            return Err(damaged("it belongs to another repository"));
        }
        Ok(Kept { record, info: SnapshotInfo { id, signed, receipt, forgotten: None } })
    }
}
