//! Owner, mode, times, extended attributes and holes: what a backup keeps of a file besides its bytes.

use crate::model::limits::MAX_XATTR_BYTES;
use crate::model::{FileTime, Owner};
use crate::platform::{Context, Result};
use nix::unistd::{Gid, Group, Uid, User};
use rustix::fs::{SeekFrom, XattrFlags};
use rustix::io::Errno;
use std::collections::{BTreeMap, HashMap};
use std::fs::{File, Metadata};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// The lower twelve bits of the mode.
pub fn permissions(metadata: &Metadata) -> u32 {
    metadata.mode() & 0o7777
}

/// Time of the last change of the content.
pub fn modified(metadata: &Metadata) -> FileTime {
    FileTime::new(metadata.mtime(), metadata.mtime_nsec() as u32)
}

/// Time of the last change of anything; nobody can set it, so it tells what an editor that puts mtimes back hides.
pub fn changed(metadata: &Metadata) -> FileTime {
    FileTime::new(metadata.ctime(), metadata.ctime_nsec() as u32)
}

/// The number of an inode: which file it is on its file system.
pub fn inode(metadata: &Metadata) -> u64 {
    metadata.ino()
}

/// File system and inode, for files that have several names; `None` for those with one.
pub fn hard_link_key(metadata: &Metadata) -> Option<(u64, u64)> {
    (metadata.is_file() && metadata.nlink() > 1).then(|| (metadata.dev(), metadata.ino()))
}

/// Looks up owners' names and remembers them, since a tree has few owners and a look-up may ask the network.
#[derive(Debug, Default)]
pub struct OwnerNames {
    users: HashMap<u32, Option<String>>,
    groups: HashMap<u32, Option<String>>,
}

impl OwnerNames {
    /// The owner of what `metadata` describes. Numbers without a name are no error.
    pub fn owner(&mut self, metadata: &Metadata) -> Owner {
        let (uid, gid) = (metadata.uid(), metadata.gid());
        let user = self.users.entry(uid).or_insert_with(|| Some(User::from_uid(Uid::from_raw(uid)).ok()??.name));
        let group = self.groups.entry(gid).or_insert_with(|| Some(Group::from_gid(Gid::from_raw(gid)).ok()??.name));
        Owner { uid, gid, user: user.clone(), group: group.clone() }
    }
}

/// The numbers on this machine for an owner kept elsewhere: by name where the name is known here, else the kept number.
#[derive(Debug, Default)]
pub struct OwnerNumbers {
    users: HashMap<String, Option<u32>>,
    groups: HashMap<String, Option<u32>>,
}

impl OwnerNumbers {
    /// User and group number to give a restored entry.
    pub fn numbers(&mut self, owner: &Owner) -> (u32, u32) {
        let user = |name: &String| {
            let find = |name: &String| Some(User::from_name(name).ok()??.uid.as_raw());
            *self.users.entry(name.clone()).or_insert_with(|| find(name))
        };
        let uid = owner.user.as_ref().and_then(user).unwrap_or(owner.uid);
        let group = |name: &String| {
            let find = |name: &String| Some(Group::from_name(name).ok()??.gid.as_raw());
            *self.groups.entry(name.clone()).or_insert_with(|| find(name))
        };
        let gid = owner.group.as_ref().and_then(group).unwrap_or(owner.gid);
        (uid, gid)
    }
}

/// Whether this process may give files away (and set what only root may).
pub fn may_change_owners() -> bool {
    rustix::process::geteuid().is_root()
}

/// The extended attributes of what is at `path`, a link itself not what it points to. Names that are not UTF-8 cannot be kept
/// and are left out; file systems without attributes have none.
///
/// # Errors
/// [`std::io::ErrorKind::FileTooLarge`] when they take more than [`MAX_XATTR_BYTES`] together.
pub fn extended_attributes(path: &Path) -> Result<BTreeMap<String, Vec<u8>>> {
    let list = match read_growing(|buffer| rustix::fs::llistxattr(path, buffer)) {
        Ok(list) => list,
        Err(Errno::NOTSUP | Errno::NOENT) => return Ok(BTreeMap::new()),
        Err(error) => return Err(error).context("list the extended attributes of", path),
    };
    let mut found = BTreeMap::new();
    let mut total = list.len();
    for name in list.split(|b| *b == 0).filter(|name| !name.is_empty()) {
        let Ok(name) = std::str::from_utf8(name) else { continue };
        match read_growing(|buffer| rustix::fs::lgetxattr(path, name, buffer)) {
            Ok(value) => {
                total += value.len();
                found.insert(name.to_owned(), value);
            }
            // Gone meanwhile, or not for us to read: what we may not see, we cannot keep.
            Err(Errno::NODATA | Errno::PERM | Errno::ACCESS | Errno::NOTSUP) => {}
            Err(error) => return Err(error).context("read the extended attributes of", path),
        }
    }
    if total > MAX_XATTR_BYTES {
        return Err(Errno::FBIG).context("keep the extended attributes of", path);
    }
    Ok(found)
}

// Asks with a small buffer first, since nearly every file has no attribute at all: one system call.
fn read_growing(ask: impl Fn(&mut [u8]) -> Result<usize, Errno>) -> Result<Vec<u8>, Errno> {
    let mut small = [0; 256];
    match ask(&mut small) {
        Ok(length) => return Ok(small[..length].to_vec()),
        Err(Errno::RANGE) => {}
        Err(error) => return Err(error),
    }
    // 64 KiB is the largest value and the longest list that Linux has.
    let mut large = vec![0; 64 << 10];
    let length = ask(&mut large)?;
    large.truncate(length);
    Ok(large)
}

/// Sets one extended attribute of an open file or folder.
pub fn set_extended_attribute(file: impl AsFd, name: &str, value: &[u8]) -> std::io::Result<()> {
    Ok(rustix::fs::fsetxattr(file, name, value, XattrFlags::empty())?)
}

/// Where the next data of an open file begins at or after `offset`, and where it ends. `None` when only a hole follows. On file
/// systems that do not tell, everything is data.
pub fn next_data(file: &File, offset: u64, size: u64) -> std::io::Result<Option<(u64, u64)>> {
    if offset >= size {
        return Ok(None);
    }
    let start = match rustix::fs::seek(file, SeekFrom::Data(offset)) {
        Ok(start) => start,
        Err(Errno::NXIO) => return Ok(None),
        Err(Errno::INVAL | Errno::NOTSUP) => return Ok(Some((offset, size))),
        Err(error) => return Err(error.into()),
    };
    let end = rustix::fs::seek(file, SeekFrom::Hole(start)).unwrap_or(size);
    rustix::fs::seek(file, SeekFrom::Start(start))?;
    Ok(Some((start, end.min(size).max(start))))
}

/// Whether a file has fewer blocks than its size asks for, so that looking for holes is worth two system calls.
pub fn may_have_holes(metadata: &Metadata) -> bool {
    metadata.blocks().saturating_mul(512) < metadata.size()
}

/// A path from bytes as the file system has them.
pub fn path_from_bytes(bytes: &[u8]) -> &Path {
    Path::new(std::ffi::OsStr::from_bytes(bytes))
}

/// The bytes of a path or name as the file system has them.
pub fn bytes_of(path: &(impl AsRef<std::ffi::OsStr> + ?Sized)) -> &[u8] {
    path.as_ref().as_bytes()
}
