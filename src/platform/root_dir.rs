//! A folder held open, and things in it opened by one checked name at a time: never outside, never through a link.
//!
//! Restores write only through this. A [`Name`] cannot be `..` or hold a slash, every folder is opened with `O_NOFOLLOW`
//! relative to the one above it, and files are made with `O_EXCL`; so another process that swaps a folder for a link while we
//! write gains nothing: we go on in the folder we hold, or get an error.

use crate::model::{FileTime, Name};
use crate::platform::attributes::{bytes_of, path_from_bytes};
use cap_std::fs::{Dir, Metadata, OpenOptions};
use rustix::fs::{AtFlags, Gid, Mode, OFlags, RenameFlags, Timespec, Timestamps, Uid};
use rustix::io::Errno;
use std::fs::File;
use std::io;
use std::num::NonZero;
use std::os::fd::AsFd;
use std::path::Path;

/// A folder held open.
#[derive(Debug)]
pub struct RootDir(Dir);

/// What a new name may do to one that is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Replace {
    /// Take its place.
    Existing,
    /// Fail with `AlreadyExists`.
    Nothing,
}

impl RootDir {
    /// Opens the folder that a person named. Links in this path are followed: it is theirs.
    pub fn open(path: &Path) -> io::Result<Self> {
        // `Dir::open_ambient_dir` gives a handle that cannot be synced or given a mode.
        let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC;
        let folder = rustix::fs::open(path, flags, Mode::empty())?;
        Ok(Self(Dir::from_std_file(File::from(folder))))
    }

    /// A second handle on the same folder.
    pub fn open_again(folder: &Self) -> io::Result<Self> {
        folder.0.try_clone().map(Self)
    }

    /// Opens a folder in here; a link is refused with `NotADirectory` or `FilesystemLoop`.
    pub fn open_folder(&self, name: &Name) -> io::Result<Self> {
        let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::RDONLY | OFlags::CLOEXEC;
        let folder = rustix::fs::openat(&self.0, at(name), flags, Mode::empty())?;
        Ok(Self(Dir::from_std_file(File::from(folder))))
    }

    /// Makes a folder in here, for the owner only until [`RootDir::set_permissions`].
    pub fn create_folder(&self, name: &Name) -> io::Result<()> {
        Ok(rustix::fs::mkdirat(&self.0, at(name), Mode::RWXU)?)
    }

    /// Makes a file in here that was not there, for the owner only, to write and read.
    pub fn create_file(&self, name: &Name) -> io::Result<File> {
        use cap_std::fs::OpenOptionsExt;
        let mut options = OpenOptions::new();
        options.read(true).write(true).create_new(true).mode(0o600);
        self.0.open_with(at(name), &options).map(cap_std::fs::File::into_std)
    }

    /// Opens a regular file in here for reading; links and anything else are refused.
    pub fn open_file(&self, name: &Name) -> io::Result<File> {
        let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::RDONLY | OFlags::CLOEXEC;
        let file = File::from(rustix::fs::openat(&self.0, at(name), flags, Mode::empty())?);
        if file.metadata()?.is_file() { Ok(file) } else { Err(io::ErrorKind::InvalidInput.into()) }
    }

    /// The names in here that can be one, unsorted; all of them, or an error.
    pub fn names(&self) -> io::Result<Vec<Name>> {
        let mut names = Vec::new();
        for entry in self.0.entries()? {
            names.extend(Name::new(bytes_of(&entry?.file_name())).ok());
        }
        Ok(names)
    }

    /// What is under a name, a link itself not what it points to; `None` when nothing is.
    pub fn look_at(&self, name: &Name) -> io::Result<Option<Metadata>> {
        match self.0.symlink_metadata(at(name)) {
            Ok(metadata) => Ok(Some(metadata)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The target of a link in here, as bytes.
    pub fn read_link(&self, name: &Name) -> io::Result<Vec<u8>> {
        Ok(rustix::fs::readlinkat(&self.0, at(name), Vec::new())?.into_bytes())
    }

    /// Makes a link in here. The target may be anything: nothing here ever follows it.
    pub fn create_link(&self, target: &[u8], name: &Name) -> io::Result<()> {
        Ok(rustix::fs::symlinkat(path_from_bytes(target), &self.0, at(name))?)
    }

    /// Gives the file `name` a second name in `folder`.
    pub fn hard_link(&self, name: &Name, folder: &Self, new_name: &Name) -> io::Result<()> {
        Ok(rustix::fs::linkat(&self.0, at(name), &folder.0, at(new_name), AtFlags::empty())?)
    }

    /// Renames within this folder.
    pub fn rename(&self, from: &Name, to: &Name, replace: Replace) -> io::Result<()> {
        if replace == Replace::Existing {
            return Ok(rustix::fs::renameat(&self.0, at(from), &self.0, at(to))?);
        }
        match rustix::fs::renameat_with(&self.0, at(from), &self.0, at(to), RenameFlags::NOREPLACE) {
            // File systems without the flag: a second name fails when there is one already, and then the first goes.
            Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) => {
                rustix::fs::linkat(&self.0, at(from), &self.0, at(to), AtFlags::empty())?;
                Ok(rustix::fs::unlinkat(&self.0, at(from), AtFlags::empty())?)
            }
            other => Ok(other?),
        }
    }

    /// Deletes a file or link in here.
    pub fn remove_file(&self, name: &Name) -> io::Result<()> {
        self.0.remove_file(at(name))
    }

    /// Gives the folder itself its mode.
    pub fn set_permissions(&self, mode: u32) -> io::Result<()> {
        set_permissions(&self.0, mode)
    }

    /// Gives the folder itself an owner.
    pub fn set_owner(&self, uid: u32, gid: u32) -> io::Result<()> {
        set_owner(&self.0, uid, gid)
    }

    /// Gives the folder itself a time.
    pub fn set_modified(&self, time: FileTime) -> io::Result<()> {
        set_modified(&self.0, time)
    }

    /// Gives a link in here an owner and a time.
    pub fn set_link_attributes(
        &self,
        name: &Name,
        owner: Option<(u32, u32)>,
        time: Option<FileTime>,
    ) -> io::Result<()> {
        if let Some((uid, gid)) = owner {
            let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
            rustix::fs::chownat(&self.0, at(name), Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?;
        }
        if let Some(time) = time {
            rustix::fs::utimensat(&self.0, at(name), &timestamps(time), AtFlags::SYMLINK_NOFOLLOW)?;
        }
        Ok(())
    }

    /// Makes the names in this folder survive a power cut.
    pub fn sync(&self) -> io::Result<()> {
        Ok(rustix::fs::fsync(&self.0)?)
    }

    /// Makes everything written to this file system so far survive a power cut.
    pub fn sync_file_system(&self) -> io::Result<()> {
        Ok(rustix::fs::syncfs(&self.0)?)
    }

    /// The handle, for calls on the folder itself.
    pub fn as_fd(&self) -> impl AsFd + '_ {
        self.0.as_fd()
    }
}

fn at(name: &Name) -> &Path {
    path_from_bytes(name.as_bytes())
}

fn timestamps(time: FileTime) -> Timestamps {
    let stamp = Timespec { tv_sec: time.seconds(), tv_nsec: i64::from(time.nanos()) };
    Timestamps { last_access: stamp, last_modification: stamp }
}

/// Whether an error only means that there is nothing that may be opened: nothing at all, a link, a socket, a folder that is a file.
pub fn is_absence(error: &io::Error) -> bool {
    use io::ErrorKind as K;
    matches!(error.kind(), K::NotFound | K::NotADirectory | K::InvalidInput)
        || [Errno::LOOP, Errno::NXIO].iter().any(|errno| error.raw_os_error() == Some(errno.raw_os_error()))
}

/// When something that was looked at was changed last.
pub fn modified(metadata: &Metadata) -> FileTime {
    use cap_std::fs::MetadataExt;
    FileTime::new(metadata.mtime(), metadata.mtime_nsec() as u32)
}

/// How far the disk was told to write a file that grows: of a large one it begins to write so many bytes at a time while the next ones
/// come, since all of it at the end would be waited for. A hint: it changes nothing about what is durable.
#[derive(Clone, Copy, Debug, Default)]
pub struct WriteBack {
    begun: u64,
}

impl WriteBack {
    const BYTES: u64 = 16 << 20;

    /// The file has so many bytes now. What the disk begins to write is not kept in memory afterwards.
    pub fn grown(&mut self, file: impl AsFd, length: u64) {
        if let Some(part) = NonZero::new(length.saturating_sub(self.begun)).filter(|part| part.get() >= Self::BYTES) {
            // A system that cannot do it does not.
            let _ = rustix::fs::fadvise(file, self.begun, Some(part), rustix::fs::Advice::DontNeed);
            self.begun = length;
        }
    }
}

/// Gives an open file its mode.
pub fn set_permissions(file: impl AsFd, mode: u32) -> io::Result<()> {
    Ok(rustix::fs::fchmod(file, Mode::from_raw_mode(mode & 0o7777))?)
}

/// Gives an open file an owner.
pub fn set_owner(file: impl AsFd, uid: u32, gid: u32) -> io::Result<()> {
    Ok(rustix::fs::fchown(file, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))?)
}

/// Gives an open file a time of last access and change.
pub fn set_modified(file: impl AsFd, time: FileTime) -> io::Result<()> {
    Ok(rustix::fs::futimens(file, &timestamps(time))?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> Name {
        Name::new(text.as_bytes()).unwrap()
    }

    #[test]
    fn a_link_is_never_walked_through() {
        let (root, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        std::os::unix::fs::symlink(outside.path(), root.path().join("door")).unwrap();
        std::fs::write(outside.path().join("secret"), "x").unwrap();
        std::os::unix::fs::symlink(outside.path().join("secret"), root.path().join("file")).unwrap();
        let folder = RootDir::open(root.path()).unwrap();
        assert!(folder.open_folder(&name("door")).is_err());
        assert!(folder.open_file(&name("file")).is_err());
        assert!(folder.create_file(&name("file")).is_err());
    }

    #[test]
    fn a_rename_that_may_replace_nothing_does_not() {
        let root = tempfile::tempdir().unwrap();
        std::fs::write(root.path().join("old"), "old").unwrap();
        std::fs::write(root.path().join("new"), "new").unwrap();
        let folder = RootDir::open(root.path()).unwrap();
        let error = folder.rename(&name("new"), &name("old"), Replace::Nothing).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(std::fs::read(root.path().join("old")).unwrap(), b"old");
        folder.rename(&name("new"), &name("old"), Replace::Existing).unwrap();
        assert_eq!(std::fs::read(root.path().join("old")).unwrap(), b"new");
    }

    #[test]
    fn link_targets_and_times_are_kept_as_they_are() {
        let root = tempfile::tempdir().unwrap();
        let folder = RootDir::open(root.path()).unwrap();
        folder.create_link(b"../\xff/nowhere", &name("link")).unwrap();
        folder.set_link_attributes(&name("link"), None, Some(FileTime::new(-5, 7))).unwrap();
        assert_eq!(folder.read_link(&name("link")).unwrap(), b"../\xff/nowhere");
        let metadata = std::fs::symlink_metadata(root.path().join("link")).unwrap();
        assert_eq!(crate::platform::attributes::modified(&metadata), FileTime::new(-5, 7));
    }
}
