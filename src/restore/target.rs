//! Where a restore goes: the seam between fetching and writing.

use crate::restore::action::Planned;
use std::io;

/// A place that files are restored to. Blocking. The calls come in path order, in two passes: first [`Target::folder`] for each
/// folder and `begin`, `write`, `hole`, `end` for each file; then [`Target::settle`] for every entry, then [`Target::finish`].
///
/// An error concerns one entry and becomes a fault, unless the disk is full.
pub trait Target: Send {
    /// Makes a folder, or finds that it is there.
    fn folder(&mut self, planned: &Planned) -> io::Result<()>;

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

    /// Second pass: links, and metadata of what is kept. Folders get theirs when all that is in them is settled.
    fn settle(&mut self, planned: &Planned) -> io::Result<()>;

    /// What is left to do when everything is settled; after it, the restore survives a power cut.
    fn finish(&mut self) -> io::Result<()>;
}
