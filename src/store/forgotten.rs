//! The marks of forgotten snapshots: one small sealed object for each, beside the records, which stay for ever.
//!
//! A mark says which rules did not want the snapshot, when, and until when it can be brought back. Bringing it back writes that
//! down and deletes the mark. A mark that cannot be read hides its snapshot and never runs out: what is not known is kept.

use crate::model::{Forgotten, SnapshotId};
use crate::store::error::{Error, Result};
use crate::store::layout::{self, ObjectName};
use crate::store::sealed::{seal, unseal};
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
    /// By name: a snapshot may be forgotten, brought back and forgotten again.
    known: Mutex<HashMap<ObjectName, Forgotten>>,
}

impl ForgottenMarks {
    pub(crate) fn new(shelf: Arc<dyn Shelf>) -> Self {
        Self { shelf, known: Mutex::default() }
    }

    /// All marks of this moment; only what is new since the last time is read from disk.
    pub(crate) fn all(&self) -> Result<HashMap<SnapshotId, Forgotten>> {
        let names = self.shelf.list(&layout::forgotten())?;
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let mut read = HashMap::with_capacity(names.len());
        let mut marks = HashMap::with_capacity(names.len());
        // By time: of several marks of one snapshot the last one counts.
        for name in names {
            let Some((_, id)) = layout::timed_parts(&name) else { continue };
            let mark = match known.remove(&name) {
                Some(mark) => mark,
                None => match self.load(&name, id) {
                    Ok(Some(mark)) => mark,
                    // Taken away since the list was made.
                    Ok(None) => continue,
                    Err(error) => {
                        tracing::error!(snapshot = %id, %error, "the mark of a forgotten snapshot cannot be read");
                        unreadable(id)
                    }
                },
            };
            marks.insert(id, mark.clone());
            read.insert(name, mark);
        }
        *known = read;
        Ok(marks)
    }

    /// When snapshots were brought back.
    pub(crate) fn brought_back(&self) -> Result<HashMap<SnapshotId, Timestamp>> {
        let names = self.shelf.list(&layout::brought_back())?;
        Ok(names.iter().filter_map(layout::timed_parts).map(|(when, id)| (id, when)).collect())
    }

    /// Marks a snapshot; durable when it returns.
    pub(crate) fn put(&self, mark: &Forgotten) -> Result<()> {
        let json = serde_json::to_string(mark).map_err(|error| Error::Refused(error.to_string()))?;
        Ok(self.shelf.put(&layout::forgotten_mark(&mark.record, mark.when), seal(&json).as_bytes())?)
    }

    /// Takes the marks of a snapshot away and writes down that it was brought back; durable when it returns.
    pub(crate) fn bring_back(&self, id: &SnapshotId, now: Timestamp) -> Result<()> {
        let json = serde_json::json!({ "record": id, "when": now }).to_string();
        self.shelf.put(&layout::brought_back_mark(id, now), seal(&json).as_bytes())?;
        for name in self.shelf.list(&layout::forgotten())? {
            if layout::timed_parts(&name).is_some_and(|(_, marked)| marked == *id) {
                self.shelf.delete(&name)?;
            }
        }
        Ok(())
    }

    /// When a person looked at snapshots that had stopped forgetting.
    pub(crate) fn released(&self) -> Result<HashMap<SnapshotId, Timestamp>> {
        let names = self.shelf.list(&layout::released())?;
        Ok(names.iter().filter_map(layout::timed_parts).map(|(when, id)| (id, when)).collect())
    }

    /// Writes down that a person has looked at a snapshot that had stopped forgetting; durable when it returns.
    pub(crate) fn release(&self, id: &SnapshotId, now: Timestamp) -> Result<()> {
        let json = serde_json::json!({ "record": id, "when": now }).to_string();
        Ok(self.shelf.put(&layout::released_mark(id, now), seal(&json).as_bytes())?)
    }

    /// When a person gave up snapshots whose records lie aside.
    pub(crate) fn given_up(&self) -> Result<HashMap<SnapshotId, Timestamp>> {
        let names = self.shelf.list(&layout::given_up())?;
        Ok(names.iter().filter_map(layout::timed_parts).map(|(when, id)| (id, when)).collect())
    }

    /// Writes down that a person gives up a snapshot whose record lies aside; durable when it returns.
    pub(crate) fn give_up(&self, id: &SnapshotId, now: Timestamp) -> Result<()> {
        let json = serde_json::json!({ "record": id, "when": now }).to_string();
        Ok(self.shelf.put(&layout::given_up_mark(id, now), seal(&json).as_bytes())?)
    }

    /// Takes that away again: its record is in its place.
    pub(crate) fn end_given_up(&self, id: &SnapshotId) -> Result<()> {
        for name in self.shelf.list(&layout::given_up())? {
            if layout::timed_parts(&name).is_some_and(|(_, marked)| marked == *id) {
                self.shelf.delete(&name)?;
            }
        }
        Ok(())
    }

    /// One mark, read from the disk.
    pub(crate) fn load(&self, name: &ObjectName, id: SnapshotId) -> Result<Option<Forgotten>> {
        let object = match self.shelf.open(name) {
            Err(error) if error.is_not_found() => return Ok(None),
            other => other?,
        };
        let length = object.length()?;
        if length > MAX_MARK_BYTES {
            return Err(Error::damaged(name, &"it is larger than any mark"));
        }
        let bytes = object.read_at(0, length as usize)?;
        let json = unseal(&bytes).map_err(|problem| Error::damaged(name, &problem))?;
        let mark: Forgotten = serde_json::from_str(json).map_err(|error| Error::damaged(name, &error))?;
        if mark.record != id {
            return Err(Error::damaged(name, &"it marks another snapshot"));
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
        let both = HashMap::from([(first.record, first.clone()), (second.record, second.clone())]);
        assert_eq!(marks.all().unwrap(), both);
        marks.bring_back(&first.record, first.until).unwrap();
        assert_eq!(marks.all().unwrap(), HashMap::from([(second.record, second.clone())]));
        assert_eq!(marks.brought_back().unwrap(), HashMap::from([(first.record, first.until)]));
        // Forgotten once more, it is not taken for what it was.
        let again = Forgotten { when: first.until, until: Timestamp::MAX, ..first.clone() };
        ForgottenMarks::new(Arc::clone(&shelf)).put(&again).unwrap();
        assert_eq!(marks.all().unwrap()[&first.record], again);
        let path = folder.path().join(layout::forgotten_mark(&second.record, second.when).as_str());
        let good = std::fs::read(&path).unwrap();
        for byte in 0..good.len() {
            let mut bad = good.clone();
            bad[byte] ^= 4;
            std::fs::write(&path, bad).unwrap();
            let marks = ForgottenMarks::new(Arc::clone(&shelf)).all().unwrap();
            assert_eq!(marks[&second.record].until, Timestamp::MAX, "byte {byte}");
        }
    }
}
