//! The file system below the store, as a seam: [`RealDisk`] is the system's, tests bring one that loses its power, runs full or fails.
//!
//! What the store promises to survive it does through these calls and no others, so the code that is tested against power cuts is
//! the code that runs. One choice when a store is opened, one call through a pointer for each call of the system: nothing here
//! is done for every byte.
//!
//! Two things go past it, because nothing durable rests on them: locks, which end with their process, and the index, which is a cache.

use crate::platform::fs::{self, Kind, OpenFile};
use crate::platform::{Context, Result};
use jiff::Timestamp;
use std::ffi::OsString;
use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, Seek, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Arc;

/// Who may read a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// As the user's umask says.
    Usual,
    /// The owner only, from the moment it exists.
    Private,
}

/// A file system.
pub trait Disk: Send + Sync + fmt::Debug {
    /// Creates a file that must not exist yet.
    fn create_new(&self, path: &Path, access: Access) -> Result<Box<dyn DiskFile>>;

    /// Opens for reading.
    fn open(&self, path: &Path) -> Result<Arc<dyn ReadAt>>;

    /// Whether something is there.
    fn exists(&self, path: &Path) -> Result<bool>;

    /// The names in a folder, unsorted, with what they are.
    fn list(&self, folder: &Path) -> Result<Vec<(OsString, Kind)>>;

    /// Makes one folder, for this user only, that must not exist yet.
    fn create_dir(&self, path: &Path) -> Result<()>;

    /// Makes a folder and those above it, for this user only; fine when it is there.
    fn create_dir_all(&self, path: &Path) -> Result<()>;

    /// Renames, replacing what is there.
    fn rename(&self, from: &Path, to: &Path) -> Result<()>;

    /// Deletes a file; fine when there is none.
    fn remove_file(&self, path: &Path) -> Result<()>;

    /// Deletes an empty folder.
    fn remove_dir(&self, path: &Path) -> Result<()>;

    /// Deletes a folder with all that is in it; fine when there is none.
    fn remove_dir_all(&self, path: &Path) -> Result<()>;

    /// Makes what was created in, renamed into or removed from a folder survive a power cut.
    fn sync_dir(&self, path: &Path) -> Result<()>;

    /// Bytes that can still be written.
    fn free_bytes(&self, path: &Path) -> Result<u64>;

    /// When a file was written last, where that is known.
    fn written_at(&self, _path: &Path) -> Result<Option<Timestamp>> {
        Ok(None)
    }

    /// The whole of a small file.
    fn read(&self, path: &Path) -> Result<Vec<u8>> {
        let file = self.open(path)?;
        let length = file.length()?;
        file.read_at(0, length as usize)
    }
}

/// A file open for writing.
pub trait DiskFile: Write + Seek + Send + fmt::Debug {
    /// Makes all of it survive a power cut; its name does when the folder is synced, too.
    fn sync(&self) -> io::Result<()>;
}

/// A file open for reading at any place, from any thread.
pub trait ReadAt: Send + Sync + fmt::Debug {
    /// Number of bytes in it now.
    fn length(&self) -> Result<u64>;

    /// Exactly `length` bytes from `offset`; fewer are an error of the kind `UnexpectedEof`.
    fn read_at(&self, offset: u64, length: usize) -> Result<Vec<u8>>;
}

/// The system's file system.
#[derive(Clone, Copy, Debug, Default)]
pub struct RealDisk;

impl Disk for RealDisk {
    fn create_new(&self, path: &Path, access: Access) -> Result<Box<dyn DiskFile>> {
        let mode = if access == Access::Private { 0o600 } else { 0o666 };
        let file = OpenOptions::new().read(true).write(true).create_new(true).mode(mode).open(path);
        Ok(Box::new(file.context("create", path)?))
    }

    fn open(&self, path: &Path) -> Result<Arc<dyn ReadAt>> {
        Ok(Arc::new(OpenFile::open(path)?))
    }

    fn exists(&self, path: &Path) -> Result<bool> {
        Ok(fs::metadata_if_there(path)?.is_some())
    }

    fn list(&self, folder: &Path) -> Result<Vec<(OsString, Kind)>> {
        fs::read_dir_kinds(folder)
    }

    fn create_dir(&self, path: &Path) -> Result<()> {
        fs::create_private_dir(path)
    }

    fn create_dir_all(&self, path: &Path) -> Result<()> {
        fs::create_private_dir_all(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> Result<()> {
        fs::rename(from, to)
    }

    fn remove_file(&self, path: &Path) -> Result<()> {
        fs::remove_file(path)
    }

    fn remove_dir(&self, path: &Path) -> Result<()> {
        fs::remove_dir(path)
    }

    fn remove_dir_all(&self, path: &Path) -> Result<()> {
        fs::remove_dir_all(path)
    }

    fn sync_dir(&self, path: &Path) -> Result<()> {
        fs::sync_dir(path)
    }

    fn written_at(&self, path: &Path) -> Result<Option<Timestamp>> {
        let written = fs::metadata(path)?.modified().context("read the time of", path)?;
        Ok(Timestamp::try_from(written).ok())
    }

    fn free_bytes(&self, path: &Path) -> Result<u64> {
        fs::free_bytes(path)
    }
}

impl DiskFile for File {
    fn sync(&self) -> io::Result<()> {
        self.sync_all()
    }
}

impl ReadAt for OpenFile {
    fn length(&self) -> Result<u64> {
        Self::length(self)
    }

    fn read_at(&self, offset: u64, length: usize) -> Result<Vec<u8>> {
        Self::read_at(self, offset, length)
    }
}

/// Makes a folder and those above it, so that they survive a power cut. One that was there before is synced, too, for whoever made
/// it may have died before it was safe; one in a folder that this user may not read was made by somebody else, and is left to them.
pub fn ensure_dir(disk: &dyn Disk, path: &Path) -> Result<()> {
    let Some(above) = path.parent() else { return disk.create_dir_all(path) };
    let above = if above.as_os_str().is_empty() { Path::new(".") } else { above };
    let there = disk.exists(path)?;
    if !there {
        ensure_dir(disk, above)?;
        disk.create_dir_all(path)?;
    }
    match disk.sync_dir(above) {
        Err(error) if there && error.kind() == io::ErrorKind::PermissionDenied => Ok(()),
        Err(error) => {
            // The system may have forgotten it by the next time; then it is to be made anew.
            let _ = disk.remove_dir(path);
            Err(error)
        }
        Ok(()) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn the_real_disk_makes_files_and_folders_for_their_user_only() {
        let folder = tempfile::tempdir().unwrap();
        let deep = folder.path().join("a/b/c");
        ensure_dir(&RealDisk, &deep).unwrap();
        ensure_dir(&RealDisk, &deep).unwrap();
        RealDisk.create_dir(&deep.join("d")).unwrap();
        let mut file = RealDisk.create_new(&deep.join("f"), Access::Private).unwrap();
        file.write_all(b"bytes").unwrap();
        file.sync().unwrap();
        assert!(RealDisk.create_new(&deep.join("f"), Access::Private).is_err());
        assert_eq!(RealDisk.read(&deep.join("f")).unwrap(), b"bytes");
        let mode = |path: &str| fs::metadata(&folder.path().join(path)).unwrap().permissions().mode() & 0o777;
        assert_eq!(["a", "a/b/c", "a/b/c/d", "a/b/c/f"].map(mode), [0o700, 0o700, 0o700, 0o600]);
        let mut listed = RealDisk.list(&deep).unwrap();
        listed.sort();
        assert_eq!(listed, [("d".into(), Kind::Folder), ("f".into(), Kind::File)]);
    }
}
