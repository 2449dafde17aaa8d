//! The seam below the store: where objects lie. A folder is the first shelf; an object store can be the second.
//!
//! Above this seam there are names, never paths. The rule that every shelf keeps: an object appears whole or not at all, and
//! when [`Draft::keep`] has returned it survives a power cut. A draft whose `keep` failed is gone, and nothing is left under
//! its name: a sync that failed is never tried again on the same bytes, because the system reports such a failure only once.

use crate::platform::Result;
use crate::store::layout::ObjectName;
use jiff::Timestamp;
use std::fmt;
use std::sync::Arc;

/// An object open for reading.
pub use crate::platform::disk::ReadAt as Object;

/// A place for whole objects.
pub trait Shelf: Send + Sync + fmt::Debug {
    /// Begins an object that gets its name when it is done. Dropped before, nothing is left of it.
    fn draft(&self) -> Result<Box<dyn Draft>>;

    /// Saves a small object in one go.
    fn put(&self, name: &ObjectName, bytes: &[u8]) -> Result<()> {
        let mut draft = self.draft()?;
        draft.append(bytes)?;
        draft.keep(name)
    }

    /// Opens an object for reading.
    fn open(&self, name: &ObjectName) -> Result<Arc<dyn Object>>;

    /// The whole of a small object.
    fn get(&self, name: &ObjectName) -> Result<Vec<u8>> {
        let object = self.open(name)?;
        let length = object.length()?;
        object.read_at(0, length as usize)
    }

    /// The names of all objects below `folder`, sorted; none when there is no such folder.
    fn list(&self, folder: &ObjectName) -> Result<Vec<ObjectName>>;

    /// Makes sure that objects that are seen survive a power cut: another process may have given them their names and died
    /// before it knew.
    fn confirm(&self, names: &[ObjectName]) -> Result<()>;

    /// Deletes an object; fine when there is none.
    fn delete(&self, name: &ObjectName) -> Result<()>;

    /// Gives an object another name, replacing what has that; when this has returned, it survives a power cut. At no moment
    /// has it neither name.
    fn rename(&self, from: &ObjectName, to: &ObjectName) -> Result<()> {
        let bytes = self.get(from)?;
        self.put(to, &bytes)?;
        self.delete(from)
    }

    /// When an object was written, where the shelf knows. For a guess at its age; nothing that must hold rests on it.
    fn written_at(&self, _name: &ObjectName) -> Result<Option<Timestamp>> {
        Ok(None)
    }
}

/// An object being written.
pub trait Draft: Send + fmt::Debug {
    /// Adds bytes at the end.
    fn append(&mut self, bytes: &[u8]) -> Result<()>;

    /// What was written so far, for reading; stays good after `keep`, and after a failure.
    fn object(&self) -> Result<Arc<dyn Object>>;

    /// Gives it its name and makes it durable, replacing what was there. After an error nothing is left of it.
    fn keep(self: Box<Self>, name: &ObjectName) -> Result<()>;
}
