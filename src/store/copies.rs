//! Repositories that were copied from another store: the same id, the same owner log, the same records, so that signatures and
//! chains can be checked here as there. Receipts are this device's own.
//!
//! A copy that another device brings is marked as one. Its owner may not write to it, and it is not what its owner means by its
//! own backup here: otherwise whoever may bring copies could lay one out for a device to fall into. The mark goes when a person
//! here lets a device take the repository over.

use crate::model::{
    ChunkId, Fingerprint, Forgotten, OwnerEvent, Record, RepositoryParameters, SignedRecord, SnapshotInfo,
};
use crate::platform::lock::Lock;
use crate::signer;
use crate::store::Store;
use crate::store::error::{Error, Result};
use crate::store::layout::{self, FORMAT, STORE_LOCK};
use crate::store::owner_log::OwnerLog;
use crate::store::recovery::RecoveryReport;
use crate::store::repository::{Config, Repository};
use crate::store::sealed::{seal, unseal};
use crate::store::shelf::Shelf;
use crate::store::verify::reach::Reach;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use std::collections::HashSet;
use std::sync::{Arc, PoisonError};

/// No mark is larger.
const MAX_MARK_BYTES: u64 = 4 << 10;

/// `copy.json`.
#[derive(Debug, Serialize, Deserialize)]
struct CopyMark {
    format: u32,
    from: Fingerprint,
    at: Timestamp,
}

/// The device that brings this copy; `None` for a repository that is no copy.
pub(crate) fn load(shelf: &dyn Shelf) -> Result<Option<Fingerprint>> {
    let name = layout::copy_mark();
    let object = match shelf.open(&name) {
        Err(error) if error.is_not_found() => return Ok(None),
        other => other?,
    };
    let length = object.length()?;
    if length > MAX_MARK_BYTES {
        return Err(Error::damaged(&name, &"it is larger than any mark"));
    }
    let bytes = object.read_at(0, length as usize)?;
    let json = unseal(&bytes).map_err(|problem| Error::damaged(&name, &problem))?;
    let mark: CopyMark = serde_json::from_str(json).map_err(|error| Error::damaged(&name, &error))?;
    Ok(Some(mark.from))
}

/// Marks a repository as a copy that `from` brings.
pub(crate) fn save(shelf: &dyn Shelf, from: Fingerprint, at: Timestamp) -> Result<()> {
    let mark = CopyMark { format: FORMAT, from, at };
    let json = serde_json::to_string(&mark).map_err(|error| Error::Refused(error.to_string()))?;
    Ok(shelf.put(&layout::copy_mark(), seal(&json).as_bytes())?)
}

/// Adds what `events` have beyond those of the log. Logs that differ belong to copies that went different ways.
pub(crate) fn extend(log: &OwnerLog, events: &[OwnerEvent]) -> Result<()> {
    let there = log.events();
    let shorter = there.len().min(events.len());
    if there[..shorter] != events[..shorter] {
        return Err(Error::OwnerEvent("the two copies of this repository were taken over by different devices"));
    }
    events[shorter..].iter().try_for_each(|event| log.append(event.clone()))
}

impl Store {
    /// The repository with this id, for a copy from another store: made when it is not here, its owner log brought up to
    /// `events`. `copied_from` is the device that brings it, unless a person at this device copies between two stores of his own.
    ///
    /// # Errors
    /// [`Error::Refused`] when the repository here is no copy of that kind; [`Error::OwnerEvent`] when the logs differ. It is here,
    /// and is damaged, or cannot be read at the moment.
    pub fn open_copy(
        &self,
        parameters: RepositoryParameters,
        events: &[OwnerEvent],
        copied_from: Option<Fingerprint>,
    ) -> Result<Arc<Repository>> {
        self.mend_where_it_can();
        let _locked = Lock::exclusive(&self.inner.folder.join(STORE_LOCK))?;
        let mut known = self.inner.known();
        self.inner.scan(&mut known, &mut RecoveryReport::default())?;
        if let Some(unusable) = known.unusable.get(&parameters.id) {
            return Err(unusable.error());
        }
        // Nor is one that cannot be opened at the moment made anew: it may be no copy any more, or another device's.
        if let Some(at) = known.failing.iter().position(|(failing, _)| *failing == parameters.id) {
            return Err(known.failing.swap_remove(at).1);
        }
        let Some(repository) = known.open.get(&parameters.id).cloned() else {
            let config = Config { chunker: parameters.chunker, ..Config::new(parameters.id, self.inner.clock.now()) };
            return self.inner.make(&mut known, config, events, copied_from);
        };
        if copied_from.is_some() && repository.read_copy_mark()? != copied_from {
            let text = "this device keeps that backup itself, or gets its copy from another device";
            return Err(Error::Refused(text.to_owned()));
        }
        if repository.parameters() != parameters {
            return Err(Error::Refused("the repository of this id is cut in another way".to_owned()));
        }
        let _commit = Lock::exclusive(&repository.lock("commit"))?;
        extend(&repository.owners, events)?;
        Ok(repository)
    }
}

impl Repository {
    /// The device that brings this copy; `None` for a repository that is no copy.
    pub fn copied_from(&self) -> Option<Fingerprint> {
        *self.copied_from.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The same, read from the disk: another process may have changed it.
    fn read_copy_mark(&self) -> Result<Option<Fingerprint>> {
        let mut copied_from = self.copied_from.lock().unwrap_or_else(PoisonError::into_inner);
        *copied_from = load(&*self.packs.shelf)?;
        Ok(*copied_from)
    }

    /// The device that brings this copy has a new certificate. Nothing else of the copy changes.
    ///
    /// # Errors
    /// The shelf's.
    pub fn is_copied_by_now(&self, new: Fingerprint) -> Result<()> {
        let _commit = Lock::exclusive(&self.lock("commit"))?;
        // Taken over meanwhile, it stays so.
        if self.read_copy_mark()?.is_some() {
            save(&*self.packs.shelf, new, self.packs.clock.now())?;
            self.read_copy_mark()?;
        }
        Ok(())
    }

    /// From now on it is no copy any more. The caller holds the commit lock.
    pub(crate) fn end_copy(&self) -> Result<()> {
        let mut copied_from = self.copied_from.lock().unwrap_or_else(PoisonError::into_inner);
        if copied_from.is_some() {
            self.packs.shelf.delete(&layout::copy_mark())?;
            *copied_from = None;
        }
        Ok(())
    }

    /// Keeps a record whose data is not here, marked as not copied, so that those after it have what they follow.
    pub fn commit_without_data(&self, signed: &SignedRecord, from: Fingerprint) -> Result<SnapshotInfo> {
        let record = self.check_record(signed)?;
        let id = signer::snapshot_id(signed);
        let _commit = Lock::exclusive(&self.lock("commit"))?;
        if let Some(there) = self.follows(&record, id)? {
            return Ok(there);
        }
        let receipt = self.receipt(id, from)?;
        let (when, rule) = (receipt.received_at, Forgotten::NOT_COPIED.to_owned());
        let mark = Forgotten { record: id, rule, when, until: when };
        // The mark first: a record without it would promise what is not here.
        self.forgotten.put(&mark)?;
        let kept = self.records.save(record, signed.clone(), receipt)?;
        Ok(SnapshotInfo { forgotten: Some(mark), ..kept.info.clone() })
    }

    /// Keeps a record of which some chunks are lost where it comes from, and only those, with everything else; marked as damaged.
    /// One that is here already, with its data or without, gets what came meanwhile: its mark says what is still lost, or that
    /// nothing is.
    ///
    /// # Errors
    /// [`Error::Missing`] when other chunks than `lost` are not here, or a list is lost, so that nobody can tell.
    pub fn commit_damaged(
        &self,
        signed: &SignedRecord,
        from: Fingerprint,
        lost: &HashSet<ChunkId>,
    ) -> Result<SnapshotInfo> {
        let record = self.check_record(signed)?;
        let id = signer::snapshot_id(signed);
        let _prune = Lock::shared(&self.lock("prune"))?;
        match self.require(&record) {
            Ok(()) | Err(Error::Missing(_)) => {}
            Err(error) => return Err(error),
        }
        let lack = Reach::new(&self.packs, &HashSet::new()).look(&record)?;
        if lack.refs || !lack.chunks.iter().all(|chunk| lost.contains(chunk)) {
            return Err(Error::Missing(lack.chunks.into_iter().filter(|chunk| !lost.contains(chunk)).collect()));
        }
        let _commit = Lock::exclusive(&self.lock("commit"))?;
        let there = self.follows(&record, id)?;
        let receipt = self.receipt(id, from)?;
        // The mark first: a record without it would promise what is not here.
        self.mark_lack(id, &record, &lack)?;
        match there {
            Some(there) => {
                if self.forgotten.all()?.get(&id).is_some_and(Forgotten::is_not_copied) {
                    self.forgotten.bring_back(&id, self.packs.clock.now())?;
                }
                Ok(there)
            }
            None => Ok(self.records.save(record, signed.clone(), receipt)?.info.clone()),
        }
    }

    /// A record that is here already is committed again: when its data was not copied then and is here now, the mark goes.
    pub(crate) fn settle_copy(&self, record: &Record, there: SnapshotInfo) -> Result<SnapshotInfo> {
        let marks = self.forgotten.all()?;
        if marks.get(&there.id).is_some_and(Forgotten::is_not_copied) {
            let _prune = Lock::shared(&self.lock("prune"))?;
            self.require(record)?;
            self.forgotten.bring_back(&there.id, self.packs.clock.now())?;
        }
        Ok(there)
    }
}
