//! File system calls whose errors name the path. Nothing else in the program names `std::fs`; an open [`File`] and
//! [`Metadata`] go around under the names they have here.

use crate::platform::{Context, Result};
use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

pub use std::fs::{DirEntry, File, Metadata};

/// Opens for reading.
pub fn open(path: &Path) -> Result<File> {
    File::open(path).context("open", path)
}

/// Opens a regular file for reading without following a link in the last component and without waiting on a FIFO that took
/// its place.
pub fn open_no_follow(path: &Path) -> Result<File> {
    let flags = rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::NONBLOCK;
    OpenOptions::new().read(true).custom_flags(flags.bits() as i32).open(path).context("open", path)
}

/// Reads exactly `length` bytes on from where `file` is, in pieces of at most `piece` bytes, as long as `each` wants more: a file that
/// became shorter is an error, and never given as whole.
pub fn read_exactly(
    file: &mut impl Read,
    length: u64,
    piece: usize,
    mut each: impl FnMut(Vec<u8>) -> bool,
) -> io::Result<()> {
    let mut left = length;
    while left > 0 {
        let mut bytes = vec![0; piece.min(usize::try_from(left).unwrap_or(piece))];
        let count = match file.read(&mut bytes) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            other => other?,
        };
        if count == 0 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "it became shorter meanwhile"));
        }
        bytes.truncate(count);
        left -= count as u64;
        if !each(bytes) {
            return Ok(());
        }
    }
    Ok(())
}

/// Creates a file that must not exist yet, for reading and writing.
pub fn create_new(path: &Path) -> Result<File> {
    OpenOptions::new().read(true).write(true).create_new(true).open(path).context("create", path)
}

/// Opens for reading and writing, creating an empty file when there is none; the content stays.
pub fn open_or_create(path: &Path) -> Result<File> {
    OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path).context("open", path)
}

/// The whole of a small file.
pub fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).context("read", path)
}

/// The whole of a small file as text.
pub fn read_to_string(path: &Path) -> Result<String> {
    fs::read_to_string(path).context("read", path)
}

/// The whole of a small file; `None` when there is none.
pub fn read_if_there(path: &Path) -> Result<Option<Vec<u8>>> {
    match read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.is_not_found() => Ok(None),
        Err(error) => Err(error),
    }
}

/// Makes a folder and the ones above it; fine when it is there.
pub fn create_dir_all(path: &Path) -> Result<()> {
    fs::create_dir_all(path).context("create folder", path)
}

/// Makes a folder (and the ones above it) that only this user may look into; fine when it is there.
pub fn create_private_dir_all(path: &Path) -> Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path).context("create folder", path)
}

/// Makes one folder that must not exist yet.
pub fn create_dir(path: &Path) -> Result<()> {
    fs::create_dir(path).context("create folder", path)
}

/// Makes one folder that must not exist yet and that only this user may look into.
pub fn create_private_dir(path: &Path) -> Result<()> {
    DirBuilder::new().mode(0o700).create(path).context("create folder", path)
}

/// The names in a folder, unsorted.
pub fn read_dir(path: &Path) -> Result<Vec<std::ffi::OsString>> {
    let entries = fs::read_dir(path).context("list", path)?;
    entries.map(|entry| entry.map(|entry| entry.file_name()).context("list", path)).collect()
}

/// What is in a folder, unsorted. The folder stays open as long as one of them is there.
pub fn read_dir_entries(path: &Path) -> Result<Vec<DirEntry>> {
    let entries = fs::read_dir(path).context("list", path)?;
    entries.map(|entry| entry.context("list", path)).collect()
}

/// What an entry of a folder is, links not followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// A regular file.
    File,
    /// A folder.
    Folder,
    /// A link, a socket, a device.
    Other,
}

/// The names in a folder, unsorted, with what they are. Asks nothing of each entry where the folder itself knows, so a folder
/// of many thousand files is listed without reading their inodes.
pub fn read_dir_kinds(path: &Path) -> Result<Vec<(std::ffi::OsString, Kind)>> {
    let entries = fs::read_dir(path).context("list", path)?;
    let kind = |entry: DirEntry| {
        let kind = match entry.file_type()? {
            kind if kind.is_file() => Kind::File,
            kind if kind.is_dir() => Kind::Folder,
            _ => Kind::Other,
        };
        Ok((entry.file_name(), kind))
    };
    let kind = |entry: io::Result<DirEntry>| match entry.and_then(kind) {
        // Gone since the folder was read.
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        other => Some(other.context("list", path)),
    };
    entries.filter_map(kind).collect()
}

/// Metadata of what is there, links not followed.
pub fn metadata(path: &Path) -> Result<Metadata> {
    fs::symlink_metadata(path).context("look at", path)
}

/// Metadata of what is there, links not followed; `None` when nothing is.
pub fn metadata_if_there(path: &Path) -> Result<Option<Metadata>> {
    match metadata(path) {
        Ok(metadata) => Ok(Some(metadata)),
        Err(error) if error.is_not_found() => Ok(None),
        Err(error) => Err(error),
    }
}

/// The target of a symbolic link.
pub fn read_link(path: &Path) -> Result<PathBuf> {
    fs::read_link(path).context("read link", path)
}

/// The absolute path without links.
pub fn canonicalize(path: &Path) -> Result<PathBuf> {
    fs::canonicalize(path).context("find", path)
}

/// Renames, replacing what is there.
pub fn rename(from: &Path, to: &Path) -> Result<()> {
    fs::rename(from, to).context("rename", from)
}

/// Deletes a file; fine when there is none.
pub fn remove_file(path: &Path) -> Result<()> {
    match fs::remove_file(path).context("delete", path) {
        Err(error) if error.is_not_found() => Ok(()),
        other => other,
    }
}

/// Deletes an empty folder.
pub fn remove_dir(path: &Path) -> Result<()> {
    fs::remove_dir(path).context("delete folder", path)
}

/// Deletes a folder with all that is in it; fine when there is none.
pub fn remove_dir_all(path: &Path) -> Result<()> {
    match fs::remove_dir_all(path).context("delete folder", path) {
        Err(error) if error.is_not_found() => Ok(()),
        other => other,
    }
}

/// Makes a symbolic link.
pub fn symlink(target: &Path, link: &Path) -> Result<()> {
    std::os::unix::fs::symlink(target, link).context("make link", link)
}

/// Makes what was created in, renamed into or removed from a folder survive a power cut.
pub fn sync_dir(path: &Path) -> Result<()> {
    open(path)?.sync_all().context("sync folder", path)
}

/// Bytes that an ordinary user can still write to the file system that holds `path`.
pub fn free_bytes(path: &Path) -> Result<u64> {
    let stat = rustix::fs::statvfs(path).context("ask for free space of", path)?;
    Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
}

/// Which file stands under a name: it changes when the name is given to another file. `None` when there is none.
pub fn file_identity(path: &Path) -> Result<Option<(u64, u64)>> {
    Ok(metadata_if_there(path)?.map(|metadata| (metadata.dev(), metadata.ino())))
}

/// A file open for reading at any place, from any thread.
#[derive(Debug)]
pub struct OpenFile {
    file: File,
    path: PathBuf,
}

impl OpenFile {
    /// Opens for reading.
    pub fn open(path: &Path) -> Result<Self> {
        Ok(Self { file: open(path)?, path: path.to_owned() })
    }

    /// Number of bytes in it now.
    pub fn length(&self) -> Result<u64> {
        Ok(self.file.metadata().context("look at", &self.path)?.len())
    }

    /// Exactly `length` bytes from `offset`; fewer are an error of the kind `UnexpectedEof`.
    pub fn read_at(&self, offset: u64, length: usize) -> Result<Vec<u8>> {
        let mut bytes = vec![0; length];
        self.file.read_exact_at(&mut bytes, offset).context("read", &self.path)?;
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exactly_so_many_bytes_are_read_or_it_is_an_error() {
        let read = |length, stop_after: usize| {
            let mut pieces = Vec::new();
            let result = read_exactly(&mut &b"0123456789"[..], length, 4, |piece| {
                pieces.push(piece.len());
                pieces.len() < stop_after
            });
            (result.map_err(|error| error.kind()), pieces)
        };
        assert_eq!(read(9, 99), (Ok(()), vec![4, 4, 1]));
        assert_eq!(read(0, 99), (Ok(()), vec![]));
        assert_eq!(read(11, 99), (Err(io::ErrorKind::UnexpectedEof), vec![4, 4, 2]));
        assert_eq!(read(11, 1), (Ok(()), vec![4]), "nobody takes them any more");
    }
}
