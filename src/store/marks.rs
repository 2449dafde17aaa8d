//! Marks: what is known about snapshots that have lost something. One small sealed object each, beside the records.
//!
//! A snapshot that lost data is not hidden, and the loss is not forgotten when the damaged pack is set aside: its mark is shown
//! wherever the snapshot is. The mark says only what can be found out again ([`verify`](crate::store::verify) walks the same
//! lists), so it may be deleted, and one that is damaged itself is written anew. When everything is there again the mark says
//! so for a while, and goes.

use crate::model::Mark;
use crate::store::error::{Error, Result};
use crate::store::layout::{self, FORMAT};
use crate::store::sealed::{seal, unseal};
use crate::store::shelf::Shelf;
use jiff::{SignedDuration, Timestamp};

/// Files that a mark names; of the others it knows the number. A page for a person, and a bound for the object.
pub const MAX_MARK_FILES: usize = 100;
/// Lost chunks that a mark names: while one of them is missing, nothing else has to be looked at.
pub const MAX_WITNESSES: usize = 64;
/// How long it is told that a snapshot was healed.
const HEALED_SHOWN: SignedDuration = SignedDuration::from_hours(30 * 24);
/// No mark is larger: a hundred paths of 4 KiB, escaped.
const MAX_MARK_BYTES: u64 = 4 << 20;

/// Reads all marks; a damaged one is left out and logged.
pub fn load(shelf: &dyn Shelf) -> Result<Vec<Mark>> {
    let mut marks = Vec::new();
    for name in shelf.list(&layout::marks())? {
        match load_one(shelf, &name) {
            Ok(mark) if layout::mark(&mark.snapshot) == name => marks.push(mark),
            Ok(_) => tracing::warn!(%name, "a mark of damage lies under another's name"),
            Err(error) => {
                tracing::warn!(%name, error = &error as &dyn std::error::Error, "a mark of damage cannot be read");
            }
        }
    }
    marks.sort_by(|a, b| (&a.set, a.sequence).cmp(&(&b.set, b.sequence)));
    Ok(marks)
}

pub(crate) fn load_one(shelf: &dyn Shelf, name: &layout::ObjectName) -> Result<Mark> {
    let object = shelf.open(name)?;
    let length = object.length()?;
    if length > MAX_MARK_BYTES {
        return Err(Error::damaged(name, &"it is larger than any mark"));
    }
    let bytes = object.read_at(0, length as usize)?;
    let json = unseal(&bytes).map_err(|problem| Error::damaged(name, &problem))?;
    let mark: Mark = serde_json::from_str(json).map_err(|error| Error::damaged(name, &error))?;
    if mark.format > FORMAT {
        return Err(Error::damaged(name, &"a newer version wrote it"));
    }
    Ok(mark)
}

/// Writes a mark, in the place of an older one of the same snapshot.
pub fn save(shelf: &dyn Shelf, mark: &Mark) -> Result<()> {
    let json = serde_json::to_string_pretty(mark).map_err(|error| Error::Refused(error.to_string()))?;
    Ok(shelf.put(&layout::mark(&mark.snapshot), seal(&json).as_bytes())?)
}

/// Everything is there again: the mark says so, and goes after some weeks.
pub fn heal(shelf: &dyn Shelf, mark: &Mark, now: Timestamp) -> Result<()> {
    save(shelf, &Mark { healed_at: Some(mark.healed_at.unwrap_or(now)), ..mark.clone() })
}

/// Deletes a small object whose folder may never have been made.
pub(crate) fn delete_if_there(shelf: &dyn Shelf, name: &layout::ObjectName) -> Result<()> {
    match shelf.open(name) {
        Err(error) if error.is_not_found() => Ok(()),
        _ => Ok(shelf.delete(name)?),
    }
}

/// Takes away what has been told for long enough.
pub fn forget_healed(shelf: &dyn Shelf, marks: &[Mark], now: Timestamp) -> Result<()> {
    for mark in marks {
        if mark.healed_at.is_some_and(|at| now.duration_since(at) > HEALED_SHOWN) {
            shelf.delete(&layout::mark(&mark.snapshot))?;
        }
    }
    Ok(())
}
