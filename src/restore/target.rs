//! Where a restore goes: the seam between fetching and writing.

use crate::restore::action::Planned;
use std::io;

/// Writes one file after the other. Blocking. Dropped in the middle of a file, it leaves nothing of it.
///
/// An error concerns one file and becomes a fault, unless the disk is full.
pub trait FileWriter: Send {
    /// Begins a file. Nothing shows under its final name before `end`.
    fn begin(&mut self, planned: &Planned) -> io::Result<()>;

    /// The next bytes of the file, checked.
    fn write(&mut self, bytes: &[u8]) -> io::Result<()>;

    /// So many zeros.
    fn hole(&mut self, length: u64) -> io::Result<()>;

    /// The file is whole: metadata on, then under its final name.
    fn end(&mut self) -> io::Result<()>;

    /// The file begun last is not to be; nothing is left of it.
    fn abandon(&mut self);
}

/// A place that files are restored to. Blocking. The calls come in two passes: first [`Target::folder`] for each folder, before
/// anything in it, and the files by this or by its further writers; then, in path order, [`Target::settle`] for every entry, then
/// [`Target::finish`].
///
/// An error concerns one entry and becomes a fault, unless the disk is full.
pub trait Target: FileWriter {
    /// Makes a folder, or finds that it is there.
    fn folder(&mut self, planned: &Planned) -> io::Result<()>;

    /// So many writers that write whole files beside this one, each on a thread of its own; none where files come one after the other.
    fn further_writers(&self, _count: usize) -> io::Result<Vec<Box<dyn FileWriter>>> {
        Ok(Vec::new())
    }

    /// Second pass: links, and metadata of what is kept. Folders get theirs when all that is in them is settled.
    fn settle(&mut self, planned: &Planned) -> io::Result<()>;

    /// What is left to do when everything is settled; after it, the restore survives a power cut.
    fn finish(&mut self) -> io::Result<()>;
}
