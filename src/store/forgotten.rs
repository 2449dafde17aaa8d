//! The marks of forgotten snapshots: one small sealed object for each, beside the records, which stay for ever.
//!
//! A mark says which rules did not want the snapshot, when, and until when it can be brought back. Bringing it back deletes the
//! mark. A mark that cannot be read hides its snapshot and never runs out: what is not known is kept.

use crate::model::{Forgotten, SnapshotId};
use crate::store::error::{Error, Result};
use crate::store::layout;
#[cfg(test)]
use crate::store::sealed::seal;
use crate::store::sealed::unseal;
use crate::store::shelf::Shelf;
use jiff::Timestamp;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

/// One mark; the rule in it is a line.
const MAX_MARK_BYTES: u64 = 16 << 10;

/// The marks of one repository.
#[derive(Debug)]
pub(crate) struct ForgottenMarks {
    shelf: Arc<dyn Shelf>,
    known: Mutex<HashMap<SnapshotId, Forgotten>>,
}

impl ForgottenMarks {
    pub(crate) fn new(shelf: Arc<dyn Shelf>) -> Self {
        Self { shelf, known: Mutex::default() }
    }

    /// All marks of this moment; only what is new since the last time is read from disk.
    pub(crate) fn all(&self) -> Result<HashMap<SnapshotId, Forgotten>> {
        let names = self.shelf.list(&layout::forgotten())?;
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let mut marks = HashMap::with_capacity(names.len());
        for id in names.iter().filter_map(layout::forgotten_id) {
            let mark = match known.get(&id) {
                Some(mark) => mark.clone(),
                None => match self.load(&id) {
                    Ok(Some(mark)) => mark,
                    // Taken away since the list was made.
                    Ok(None) => continue,
                    Err(error) => {
                        tracing::error!(snapshot = %id, %error, "the mark of a forgotten snapshot cannot be read");
                        unreadable(id)
                    }
                },
            };
            marks.insert(id, mark);
        }
        known.clone_from(&marks);
        Ok(marks)
    }

    #[cfg(test)]
    /// Marks a snapshot; durable when it returns.
    pub(crate) fn put(&self, mark: &Forgotten) -> Result<()> {
        let json = serde_json::to_string(mark).map_err(|error| Error::Refused(error.to_string()))?;
        Ok(self.shelf.put(&layout::forgotten_mark(&mark.record), seal(&json).as_bytes())?)
    }

    #[cfg(test)]
    /// Takes a mark away; durable when it returns.
    pub(crate) fn delete(&self, id: &SnapshotId) -> Result<()> {
        Ok(self.shelf.delete(&layout::forgotten_mark(id))?)
    }

    /// One mark, read from the disk.
    pub(crate) fn load(&self, id: &SnapshotId) -> Result<Option<Forgotten>> {
        let name = layout::forgotten_mark(id);
        let object = match self.shelf.open(&name) {
            Err(error) if error.is_not_found() => return Ok(None),
            other => other?,
        };
        let length = object.length()?;
        if length > MAX_MARK_BYTES {
            return Err(Error::damaged(&name, &"it is larger than any mark"));
        }
        let bytes = object.read_at(0, length as usize)?;
        let json = unseal(&bytes).map_err(|problem| Error::damaged(&name, &problem))?;
        let mark: Forgotten = serde_json::from_str(json).map_err(|error| Error::damaged(&name, &error))?;
        if mark.record != *id {
            return Err(Error::damaged(&name, &"it marks another snapshot"));
        }
        Ok(Some(mark))
    }
}

fn unreadable(record: SnapshotId) -> Forgotten {
    let rule = "its mark is damaged".to_owned();
    Forgotten { record, rule, when: Timestamp::UNIX_EPOCH, until: Timestamp::MAX }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::FolderShelf;

    #[test]
    fn marks_are_put_read_and_taken_away_and_a_damaged_one_never_runs_out() {
        let folder = tempfile::tempdir().unwrap();
        let shelf: Arc<dyn Shelf> = Arc::new(FolderShelf::open(folder.path()).unwrap().0);
        let marks = ForgottenMarks::new(Arc::clone(&shelf));
        assert!(marks.all().unwrap().is_empty());
        let mark = |n: u8| Forgotten {
            record: SnapshotId::from_bytes([n; 32]),
            rule: "last 3".to_owned(),
            when: "2026-05-01T12:00:00Z".parse().unwrap(),
            until: "2026-05-08T12:00:00Z".parse().unwrap(),
        };
        let (first, second) = (mark(1), mark(2));
        marks.put(&first).unwrap();
        marks.put(&second).unwrap();
        assert_eq!(
            marks.all().unwrap(),
            HashMap::from([(first.record, first.clone()), (second.record, second.clone())])
        );
        marks.delete(&first.record).unwrap();
        assert_eq!(marks.all().unwrap(), HashMap::from([(second.record, second.clone())]));
        let path = folder.path().join(layout::forgotten_mark(&second.record).as_str());
        let good = std::fs::read(&path).unwrap();
        for byte in 0..good.len() {
            let mut bad = good.clone();
            bad[byte] ^= 4;
            std::fs::write(&path, bad).unwrap();
            assert_eq!(ForgottenMarks::new(Arc::clone(&shelf)).all().unwrap()[&second.record].until, Timestamp::MAX);
        }
    }
}
