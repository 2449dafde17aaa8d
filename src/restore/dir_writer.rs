//! Writes files into a folder, through [`RootDir`] only: one checked name at a time, never through a link.
//!
//! A file is written under a temporary name beside its place, gets its metadata through the open handle, and is renamed. Several writers
//! may work in one folder at once, each with its own way to where it is; what they must agree on is [`Common`] to them.

use crate::model::{EntryKind, Metadata, Name, RelPath};
use crate::monitor::{Fault, Monitor};
use crate::platform::attributes::{self, OwnerNumbers};
use crate::platform::fs::File;
use crate::platform::random;
use crate::platform::root_dir::{self, Replace, RootDir, WriteBack};
use crate::restore::action::Planned;
use crate::restore::folder_stack::FolderStack;
use crate::restore::links::Existing;
use crate::restore::target::FileWriter;
use std::collections::{HashMap, HashSet};
use std::io::{self, Seek, SeekFrom, Write};
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Set-user-id and set-group-id.
const SET_ID_BITS: u32 = 0o6000;

/// What happens to set-user-id, set-group-id and file capabilities.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SetIds {
    /// They are left off, and that is told.
    #[default]
    LeaveOff,
    /// They are put back, as far as this user may.
    PutBack,
}

/// What all writers of one restore share.
#[derive(Debug)]
pub(crate) struct Common {
    monitor: Arc<dyn Monitor>,
    owners: Option<Mutex<OwnerNumbers>>,
    // The files that are in their place and may get further names: only these do, whatever else has come to lie there.
    firsts: Mutex<HashMap<RelPath, Existing>>,
    set_ids: SetIds,
    // Kinds of metadata of which it was told that they cannot be put back.
    told: Mutex<HashSet<String>>,
}

impl Common {
    pub(crate) fn new(set_ids: SetIds, monitor: Arc<dyn Monitor>) -> Self {
        let owners = attributes::may_change_owners().then(Mutex::default);
        Self { monitor, owners, firsts: Mutex::default(), set_ids, told: Mutex::default() }
    }

    /// A file that is in its place and may get further names.
    pub(crate) fn is_first(&self, path: RelPath, file: Existing) {
        lock(&self.firsts).insert(path, file);
    }

    /// The file that lies at `path`, as it was when it came there.
    pub(crate) fn first(&self, path: &RelPath) -> Option<Existing> {
        lock(&self.firsts).get(path).copied()
    }

    /// Something that stopped nothing but `path`.
    pub(crate) fn fault(&self, path: &RelPath, error: &io::Error) {
        self.monitor.fault(Fault::new(path.to_string(), error));
    }

    pub(crate) fn owner(&self, metadata: &Metadata) -> Option<(u32, u32)> {
        let owner = metadata.owner.as_ref()?;
        Some(lock(self.owners.as_ref()?).numbers(owner))
    }

    /// Puts metadata on an open file or folder. What cannot be put back is told; the content stays, whatever happens.
    pub(crate) fn apply(&self, path: &RelPath, file: impl AsFd + Copy, metadata: &Metadata) {
        let owner = self.owner(metadata);
        if let Some((uid, gid)) = owner {
            self.tell("its owner", path, root_dir::set_owner(file, uid, gid));
        }
        // Before the mode: a file that its owner may not write takes no attributes from anybody but root.
        for (name, value) in &metadata.xattrs {
            let namespace = name.split('.').next().unwrap_or_default();
            let privileged = namespace == "security" && self.set_ids == SetIds::LeaveOff;
            if !privileged {
                let set = attributes::set_extended_attribute(file, name, value);
                self.tell(&format!("its `{namespace}` attributes"), path, set);
            }
        }
        if let Some(mode) = metadata.mode {
            let mode = self.mode(path, mode);
            self.tell("its mode", path, root_dir::set_permissions(file, mode));
        }
        if let Some(time) = metadata.mtime {
            self.tell("its time", path, root_dir::set_modified(file, time));
        }
    }

    /// The mode that is put back: a program that runs as somebody else is only made when that was asked for, because whoever keeps
    /// a backup could have put it there.
    fn mode(&self, path: &RelPath, mode: u32) -> u32 {
        if mode & SET_ID_BITS == 0 || self.set_ids == SetIds::PutBack {
            return mode;
        }
        if lock(&self.told).insert("set-id".to_owned()) {
            self.monitor.notice(format!(
                "set-user-id and set-group-id are left off (`{path}` and others); --set-id puts them back"
            ));
        }
        mode & !SET_ID_BITS
    }

    /// One file system refuses the same thing for every file, and says so once: what a target cannot hold is a fault the first
    /// time, and the same word fifty thousand times would hide all others.
    pub(crate) fn tell(&self, what: &str, path: &RelPath, result: io::Result<()>) {
        if let Err(error) = result
            && lock(&self.told).insert(what.to_owned())
        {
            let problem = format!("{what} could not be put back here: {error} (told once, for the first file)");
            self.monitor.fault(Fault { subject: path.to_string(), problem });
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Writes files below one folder.
#[derive(Debug)]
pub(crate) struct DirWriter {
    pub(crate) folders: FolderStack,
    pub(crate) common: Arc<Common>,
    current: Option<Current>,
}

#[derive(Debug)]
struct Current {
    file: File,
    temporary: Name,
    path: RelPath,
    metadata: Metadata,
    replace: Replace,
    in_group: bool,
    // Bytes so far, holes at the end included.
    length: u64,
    write_back: WriteBack,
}

impl DirWriter {
    pub(crate) fn new(root: RootDir, common: Arc<Common>) -> Self {
        Self { folders: FolderStack::new(root), common, current: None }
    }

    /// One more in the same folder.
    pub(crate) fn further(&self) -> io::Result<Self> {
        Ok(Self::new(RootDir::open_again(self.folders.root())?, self.common.clone()))
    }
}

impl FileWriter for DirWriter {
    fn begin(&mut self, planned: &Planned) -> io::Result<()> {
        let path = planned.entry.path.clone();
        let temporary = temporary_name();
        let file = self.folders.enter_parent(&path)?.create_file(&temporary)?;
        // Held while it is written; what nobody holds was left by a restore that was killed.
        let _ = file.try_lock();
        let (metadata, replace) = (planned.entry.metadata.clone(), planned.action.replace());
        let in_group = is_in_group(planned);
        self.current = Some(Current {
            file,
            temporary,
            path,
            metadata,
            replace,
            in_group,
            length: 0,
            write_back: WriteBack::default(),
        });
        Ok(())
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        let Some(current) = &mut self.current else { return Ok(()) };
        current.length += bytes.len() as u64;
        current.file.write_all(bytes)?;
        current.write_back.grown(&current.file, current.length);
        Ok(())
    }

    fn hole(&mut self, length: u64) -> io::Result<()> {
        let Some(current) = &mut self.current else { return Ok(()) };
        current.length += length;
        current.file.seek(SeekFrom::Start(current.length)).map(|_| ())
    }

    fn end(&mut self) -> io::Result<()> {
        let Some(current) = self.current.take() else { return Ok(()) };
        let Current { file, temporary, path, metadata, replace, in_group, length, .. } = current;
        // A hole at the end was only skipped.
        let grown = file.metadata().and_then(|m| if m.len() < length { file.set_len(length) } else { Ok(()) });
        if grown.is_ok() {
            self.common.apply(&path, &file, &metadata);
        }
        let folder = self.folders.enter_parent(&path)?;
        let renamed = grown.and_then(|()| folder.rename(&temporary, &path.name(), replace));
        if renamed.is_err() {
            let _ = folder.remove_file(&temporary);
        } else if in_group {
            self.common.is_first(path, Existing::new(&file.metadata()?));
        }
        renamed
    }

    fn abandon(&mut self) {
        if let Some(current) = self.current.take()
            && let Ok(folder) = self.folders.enter_parent(&current.path)
        {
            let _ = folder.remove_file(&current.temporary);
        }
    }
}

impl Drop for DirWriter {
    fn drop(&mut self) {
        self.abandon();
    }
}

pub(crate) fn is_in_group(planned: &Planned) -> bool {
    matches!(planned.entry.kind, EntryKind::File { link_group: Some(_), .. })
}

const TEMPORARY_START: &[u8] = b".lan-backup-";
const TEMPORARY_END: &[u8] = b".part";

/// Deletes what a restore that was killed has left in a folder.
pub(crate) fn sweep(folder: &RootDir) {
    for name in folder.names().unwrap_or_default() {
        let bytes = name.as_bytes();
        let ours = bytes.starts_with(TEMPORARY_START) && bytes.ends_with(TEMPORARY_END);
        if ours && folder.open_file(&name).is_ok_and(|file| file.try_lock().is_ok()) {
            let _ = folder.remove_file(&name);
        }
    }
}

pub(crate) fn temporary_name() -> Name {
    let unique = u64::from_le_bytes(random::bytes());
    Name::new(format!(".lan-backup-{unique:016x}.part").into_bytes()).expect("letters, digits and dashes make a name")
}
