//! Restores into a folder, through [`RootDir`] only: one checked name at a time, never through a link.
//!
//! A file is written under a temporary name beside its place, gets its metadata through the open handle, and is renamed. Links are
//! made last, when nothing is written any more that could walk through them.

use crate::model::{EntryKind, Metadata, Name, RelPath};
use crate::monitor::{Fault, Monitor};
use crate::platform::attributes::{self, OwnerNumbers};
use crate::platform::fs::File;
use crate::platform::root_dir::{self, Replace, RootDir};
use crate::platform::{fs, random};
use crate::restore::action::{Action, Planned};
use crate::restore::folder_stack::FolderStack;
use crate::restore::links::Existing;
use crate::restore::target::Target;
use crate::restore::{Error, Result};
use std::collections::{HashMap, HashSet};
use std::io::{self, Seek, SeekFrom, Write};
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::Arc;

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

/// Writes into one folder.
#[derive(Debug)]
pub struct DirTarget {
    folders: FolderStack,
    monitor: Arc<dyn Monitor>,
    owners: Option<OwnerNumbers>,
    current: Option<Current>,
    // Folders whose metadata waits until all that is in them is settled, outermost first.
    leaving: Vec<(RelPath, Metadata)>,
    // The files that are in their place and may get further names: only these do, whatever else has come to lie there.
    firsts: HashMap<RelPath, Existing>,
    set_ids: SetIds,
    // Kinds of metadata of which it was told that they cannot be put back.
    told: HashSet<String>,
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
}

impl DirTarget {
    /// Writes into the folder at `path`, which is made when it is not there.
    ///
    /// # Errors
    /// It cannot be made or opened.
    pub fn new(path: &Path, set_ids: SetIds, monitor: Arc<dyn Monitor>) -> Result<Self> {
        fs::create_dir_all(path)?;
        let root = RootDir::open(path).map_err(Error::Target)?;
        sweep(&root);
        let owners = attributes::may_change_owners().then(OwnerNumbers::default);
        Ok(Self {
            folders: FolderStack::new(root),
            monitor,
            owners,
            current: None,
            leaving: Vec::new(),
            firsts: HashMap::new(),
            set_ids,
            told: HashSet::new(),
        })
    }

    fn owner(&mut self, metadata: &Metadata) -> Option<(u32, u32)> {
        let owner = metadata.owner.as_ref()?;
        Some(self.owners.as_mut()?.numbers(owner))
    }

    /// Puts metadata on an open file or folder. What cannot be put back is told; the content stays, whatever happens.
    fn apply(&mut self, path: &RelPath, file: impl AsFd + Copy, metadata: &Metadata) {
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
    fn mode(&mut self, path: &RelPath, mode: u32) -> u32 {
        if mode & SET_ID_BITS == 0 || self.set_ids == SetIds::PutBack {
            return mode;
        }
        if self.told.insert("set-id".to_owned()) {
            self.monitor.notice(format!(
                "set-user-id and set-group-id are left off (`{path}` and others); --set-id puts them back"
            ));
        }
        mode & !SET_ID_BITS
    }

    /// One file system refuses the same thing for every file, and says so once: what a target cannot hold is a fault the first
    /// time, and the same word fifty thousand times would hide all others.
    fn tell(&mut self, what: &str, path: &RelPath, result: io::Result<()>) {
        if let Err(error) = result
            && self.told.insert(what.to_owned())
        {
            let problem = format!("{what} could not be put back here: {error} (told once, for the first file)");
            self.monitor.fault(Fault { subject: path.to_string(), problem });
        }
    }

    fn leave(&mut self) {
        let Some((path, metadata)) = self.leaving.pop() else { return };
        let folder = match self.folders.enter(&path) {
            Ok(folder) => folder.as_fd().as_fd().try_clone_to_owned(),
            Err(error) => Err(error),
        };
        match folder {
            Ok(folder) => self.apply(&path, &folder, &metadata),
            Err(error) => self.monitor.fault(Fault::new(path.to_string(), &error)),
        }
    }

    fn settle_file(&mut self, planned: &Planned) -> io::Result<()> {
        let path = &planned.entry.path;
        if planned.action == Action::Keep {
            let file = self.folders.enter_parent(path)?.open_file(&path.name())?;
            if is_in_group(planned) {
                self.firsts.insert(path.clone(), Existing::new(&file.metadata()?));
            }
            self.apply(path, &file, &planned.entry.metadata);
            return Ok(());
        }
        let Some(first) = planned.action.first_name() else { return Ok(()) };
        let Some(file) = self.firsts.get(&first) else {
            return Err(io::Error::other(format!("its first name, {first}, was not restored")));
        };
        let from = FolderStack::new(RootDir::open_again(self.folders.root())?).into_parent(&first)?;
        let temporary = temporary_name();
        let folder = self.folders.enter_parent(path)?;
        from.hard_link(&first.name(), folder, &temporary)?;
        let renamed = match folder.open_file(&temporary).and_then(|linked| linked.metadata()) {
            Ok(linked) if Existing::new(&linked).is_same_file(file) => {
                folder.rename(&temporary, &path.name(), planned.action.replace())
            }
            Ok(_) => Err(io::Error::other(format!("its first name, {first}, was replaced meanwhile"))),
            Err(error) => Err(error),
        };
        if renamed.is_err() {
            let _ = folder.remove_file(&temporary);
        }
        renamed
    }

    fn settle_link(&mut self, planned: &Planned, target: &[u8]) -> io::Result<()> {
        let owner = self.owner(&planned.entry.metadata);
        let (path, action) = (&planned.entry.path, &planned.action);
        let folder = self.folders.enter_parent(path)?;
        let temporary = if *action == Action::Keep { path.name() } else { temporary_name() };
        if *action != Action::Keep {
            folder.create_link(target, &temporary)?;
        }
        let settled = folder.set_link_attributes(&temporary, owner, planned.entry.metadata.mtime);
        let renamed = match action {
            Action::Keep => Ok(()),
            action => folder.rename(&temporary, &path.name(), action.replace()),
        };
        if renamed.is_err() {
            let _ = folder.remove_file(&temporary);
        }
        self.tell("a link's owner or time", path, settled);
        renamed
    }
}

fn is_in_group(planned: &Planned) -> bool {
    matches!(planned.entry.kind, EntryKind::File { link_group: Some(_), .. })
}

const TEMPORARY_START: &[u8] = b".lan-backup-";
const TEMPORARY_END: &[u8] = b".part";

/// Deletes what a restore that was killed has left in a folder.
fn sweep(folder: &RootDir) {
    for name in folder.names().unwrap_or_default() {
        let bytes = name.as_bytes();
        let ours = bytes.starts_with(TEMPORARY_START) && bytes.ends_with(TEMPORARY_END);
        if ours && folder.open_file(&name).is_ok_and(|file| file.try_lock().is_ok()) {
            let _ = folder.remove_file(&name);
        }
    }
}

fn temporary_name() -> Name {
    let unique = u64::from_le_bytes(random::bytes());
    Name::new(format!(".lan-backup-{unique:016x}.part").into_bytes()).expect("letters, digits and dashes make a name")
}

impl Target for DirTarget {
    fn folder(&mut self, planned: &Planned) -> io::Result<()> {
        let path = &planned.entry.path;
        match planned.action {
            Action::Create | Action::Beside => self.folders.enter_parent(path)?.create_folder(&path.name()),
            Action::Replace => {
                let folder = self.folders.enter_parent(path)?;
                folder.remove_file(&path.name())?;
                folder.create_folder(&path.name())
            }
            Action::Keep => {
                sweep(self.folders.enter(path)?);
                Ok(())
            }
            Action::Skip | Action::HardLink { .. } => Ok(()),
        }
    }

    fn begin(&mut self, planned: &Planned) -> io::Result<()> {
        let path = planned.entry.path.clone();
        let temporary = temporary_name();
        let file = self.folders.enter_parent(&path)?.create_file(&temporary)?;
        // Held while it is written; what nobody holds was left by a restore that was killed.
        let _ = file.try_lock();
        let (metadata, replace) = (planned.entry.metadata.clone(), planned.action.replace());
        let in_group = is_in_group(planned);
        self.current = Some(Current { file, temporary, path, metadata, replace, in_group, length: 0 });
        Ok(())
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        let Some(current) = &mut self.current else { return Ok(()) };
        current.length += bytes.len() as u64;
        current.file.write_all(bytes)
    }

    fn hole(&mut self, length: u64) -> io::Result<()> {
        let Some(current) = &mut self.current else { return Ok(()) };
        current.length += length;
        current.file.seek(SeekFrom::Start(current.length)).map(|_| ())
    }

    fn end(&mut self) -> io::Result<()> {
        let Some(current) = self.current.take() else { return Ok(()) };
        let Current { file, temporary, path, metadata, replace, in_group, length } = current;
        // A hole at the end was only skipped.
        let grown = file.metadata().and_then(|m| if m.len() < length { file.set_len(length) } else { Ok(()) });
        if grown.is_ok() {
            self.apply(&path, &file, &metadata);
        }
        let folder = self.folders.enter_parent(&path)?;
        let renamed = grown.and_then(|()| folder.rename(&temporary, &path.name(), replace));
        if renamed.is_err() {
            let _ = folder.remove_file(&temporary);
        } else if in_group {
            self.firsts.insert(path, Existing::new(&file.metadata()?));
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

    fn settle(&mut self, planned: &Planned) -> io::Result<()> {
        while self.leaving.last().is_some_and(|(folder, _)| planned.entry.path.strip_prefix(folder).is_none()) {
            self.leave();
        }
        if planned.action == Action::Skip {
            return Ok(());
        }
        match &planned.entry.kind {
            EntryKind::Folder => {
                self.leaving.push((planned.entry.path.clone(), planned.entry.metadata.clone()));
                Ok(())
            }
            EntryKind::File { .. } => self.settle_file(planned),
            EntryKind::Link { target } => self.settle_link(planned, target),
        }
    }

    fn finish(&mut self) -> io::Result<()> {
        while !self.leaving.is_empty() {
            self.leave();
        }
        self.folders.root().sync_file_system()
    }
}

impl Drop for DirTarget {
    fn drop(&mut self) {
        self.abandon();
    }
}
