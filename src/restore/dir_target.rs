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
use crate::restore::folder_stack::FolderStack;
use crate::restore::plan::{Action, Planned};
use crate::restore::target::Target;
use crate::restore::{Error, Result};
use std::io::{self, Seek, SeekFrom, Write};
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::Arc;

/// Set-user-id and set-group-id: only put back by root, who restores owners, too.
const SET_ID_BITS: u32 = 0o6000;

/// Writes into one folder.
#[derive(Debug)]
pub struct DirTarget {
    folders: FolderStack,
    monitor: Arc<dyn Monitor>,
    owners: Option<OwnerNumbers>,
    current: Option<Current>,
    // Folders whose metadata waits until all that is in them is settled, outermost first.
    leaving: Vec<(RelPath, Metadata)>,
}

#[derive(Debug)]
struct Current {
    file: File,
    temporary: Name,
    path: RelPath,
    metadata: Metadata,
    replace: Replace,
    // Bytes so far, holes at the end included.
    length: u64,
}

impl DirTarget {
    /// Writes into the folder at `path`, which is made when it is not there.
    ///
    /// # Errors
    /// It cannot be made or opened.
    pub fn new(path: &Path, monitor: Arc<dyn Monitor>) -> Result<Self> {
        fs::create_dir_all(path)?;
        let root = RootDir::open(path).map_err(Error::Target)?;
        let owners = attributes::may_change_owners().then(OwnerNumbers::default);
        Ok(Self { folders: FolderStack::new(root), monitor, owners, current: None, leaving: Vec::new() })
    }

    fn owner(&mut self, metadata: &Metadata) -> Option<(u32, u32)> {
        let owner = metadata.owner.as_ref()?;
        Some(self.owners.as_mut()?.numbers(owner))
    }

    /// Puts metadata on an open file or folder. What cannot be put back is a fault; the content stays.
    fn apply(&mut self, path: &RelPath, file: impl AsFd + Copy, metadata: &Metadata) -> io::Result<()> {
        let owner = self.owner(metadata);
        if let Some((uid, gid)) = owner {
            root_dir::set_owner(file, uid, gid)?;
        }
        if let Some(mode) = metadata.mode {
            let mode = if owner.is_some() { mode } else { mode & !SET_ID_BITS };
            root_dir::set_permissions(file, mode)?;
        }
        for (name, value) in &metadata.xattrs {
            // Namespaces that only root may write, or that this file system does not have.
            if let Err(error) = attributes::set_extended_attribute(file, name, value) {
                self.monitor.fault(Fault::new(format!("{path} (extended attribute {name})"), &error));
            }
        }
        if let Some(time) = metadata.mtime {
            root_dir::set_modified(file, time)?;
        }
        Ok(())
    }

    fn leave(&mut self) {
        let Some((path, metadata)) = self.leaving.pop() else { return };
        let folder = match self.folders.enter(&path) {
            Ok(folder) => folder.as_fd().as_fd().try_clone_to_owned(),
            Err(error) => Err(error),
        };
        if let Err(error) = folder.and_then(|folder| self.apply(&path, &folder, &metadata)) {
            self.monitor.fault(Fault::new(path.to_string(), &error));
        }
    }

    fn settle_file(&mut self, planned: &Planned) -> io::Result<()> {
        let path = &planned.entry.path;
        if planned.action == Action::Keep {
            let file = self.folders.enter_parent(path)?.open_file(&path.name())?;
            return self.apply(path, &file, &planned.entry.metadata);
        }
        let Some(first) = planned.action.first_name() else { return Ok(()) };
        let from = FolderStack::new(RootDir::open_again(self.folders.root())?).into_parent(&first)?;
        let temporary = temporary_name();
        let folder = self.folders.enter_parent(path)?;
        from.hard_link(&first.name(), folder, &temporary)?;
        let renamed = folder.rename(&temporary, &path.name(), planned.action.replace());
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
        if *action == Action::Keep {
            return settled;
        }
        let renamed = settled.and_then(|()| folder.rename(&temporary, &path.name(), action.replace()));
        if renamed.is_err() {
            let _ = folder.remove_file(&temporary);
        }
        renamed
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
            Action::Keep | Action::Skip | Action::HardLink(_) => Ok(()),
        }
    }

    fn begin(&mut self, planned: &Planned) -> io::Result<()> {
        let path = planned.entry.path.clone();
        let temporary = temporary_name();
        let file = self.folders.enter_parent(&path)?.create_file(&temporary)?;
        let (metadata, replace) = (planned.entry.metadata.clone(), planned.action.replace());
        self.current = Some(Current { file, temporary, path, metadata, replace, length: 0 });
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
        let Current { file, temporary, path, metadata, replace, length } = current;
        // A hole at the end was only skipped.
        let grown = file.metadata().and_then(|m| if m.len() < length { file.set_len(length) } else { Ok(()) });
        let ready = grown.and_then(|()| self.apply(&path, &file, &metadata));
        let folder = self.folders.enter_parent(&path)?;
        let renamed = ready.and_then(|()| folder.rename(&temporary, &path.name(), replace));
        if renamed.is_err() {
            let _ = folder.remove_file(&temporary);
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
