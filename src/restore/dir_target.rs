//! Restores into a folder: folders are made first, files are written by [`DirWriter`]s, and links are made last, when nothing is written
//! any more that could walk through them.

use crate::model::{EntryKind, Metadata, RelPath};
use crate::monitor::Monitor;
use crate::platform::fs;
use crate::platform::root_dir::RootDir;
use crate::restore::action::{Action, Planned};
use crate::restore::dir_writer::{Common, DirWriter, SetIds, is_in_group, sweep, temporary_name};
use crate::restore::folder_stack::FolderStack;
use crate::restore::links::Existing;
use crate::restore::target::{FileWriter, Target};
use crate::restore::{Error, Result};
use std::io;
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::Arc;

/// Writes into one folder.
#[derive(Debug)]
pub struct DirTarget {
    writer: DirWriter,
    // Folders whose metadata waits until all that is in them is settled, outermost first.
    leaving: Vec<(RelPath, Metadata)>,
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
        let common = Arc::new(Common::new(set_ids, monitor));
        Ok(Self { writer: DirWriter::new(root, common), leaving: Vec::new() })
    }

    fn leave(&mut self) {
        let Some((path, metadata)) = self.leaving.pop() else { return };
        let folder = match self.writer.folders.enter(&path) {
            Ok(folder) => folder.as_fd().as_fd().try_clone_to_owned(),
            Err(error) => Err(error),
        };
        match folder {
            Ok(folder) => self.writer.common.apply(&path, &folder, &metadata),
            Err(error) => self.writer.common.fault(&path, &error),
        }
    }

    fn settle_file(&mut self, planned: &Planned) -> io::Result<()> {
        let path = &planned.entry.path;
        if planned.action == Action::Keep {
            let file = self.writer.folders.enter_parent(path)?.open_file(&path.name())?;
            if is_in_group(planned) {
                self.writer.common.is_first(path.clone(), Existing::new(&file.metadata()?));
            }
            self.writer.common.apply(path, &file, &planned.entry.metadata);
            return Ok(());
        }
        let Some(first) = planned.action.first_name() else { return Ok(()) };
        let Some(file) = self.writer.common.first(&first) else {
            return Err(io::Error::other(format!("its first name, {first}, was not restored")));
        };
        let from = FolderStack::new(RootDir::open_again(self.writer.folders.root())?).into_parent(&first)?;
        let temporary = temporary_name();
        let folder = self.writer.folders.enter_parent(path)?;
        from.hard_link(&first.name(), folder, &temporary)?;
        let renamed = match folder.open_file(&temporary).and_then(|linked| linked.metadata()) {
            Ok(linked) if Existing::new(&linked).is_same_file(&file) => {
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
        let owner = self.writer.common.owner(&planned.entry.metadata);
        let (path, action) = (&planned.entry.path, &planned.action);
        let folder = self.writer.folders.enter_parent(path)?;
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
        self.writer.common.tell("a link's owner or time", path, settled);
        renamed
    }
}

impl FileWriter for DirTarget {
    fn begin(&mut self, planned: &Planned) -> io::Result<()> {
        self.writer.begin(planned)
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.writer.write(bytes)
    }

    fn hole(&mut self, length: u64) -> io::Result<()> {
        self.writer.hole(length)
    }

    fn end(&mut self) -> io::Result<()> {
        self.writer.end()
    }

    fn abandon(&mut self) {
        self.writer.abandon();
    }
}

impl Target for DirTarget {
    fn further_writers(&self, count: usize) -> io::Result<Vec<Box<dyn FileWriter>>> {
        (0..count).map(|_| Ok(Box::new(self.writer.further()?) as Box<dyn FileWriter>)).collect()
    }

    fn folder(&mut self, planned: &Planned) -> io::Result<()> {
        let path = &planned.entry.path;
        match planned.action {
            Action::Create | Action::Beside => self.writer.folders.enter_parent(path)?.create_folder(&path.name()),
            Action::Replace => {
                let folder = self.writer.folders.enter_parent(path)?;
                folder.remove_file(&path.name())?;
                folder.create_folder(&path.name())
            }
            Action::Keep => {
                sweep(self.writer.folders.enter(path)?);
                Ok(())
            }
            Action::Skip | Action::HardLink { .. } => Ok(()),
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
        self.writer.folders.root().sync_file_system()
    }
}
