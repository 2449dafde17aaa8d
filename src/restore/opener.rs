//! Makes folders and begins files a little ahead of the one that is being written, on a thread of its own: making 50,000 files
//! takes longer than filling them.

use crate::model::{Name, RelPath};
use crate::platform::fs::File;
use crate::platform::random;
use crate::platform::root_dir::RootDir;
use crate::restore::action::{Action, Planned};
use crate::restore::folder_stack::FolderStack;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel, sync_channel};

/// Files that are open and wait to be written.
const AHEAD: usize = 64;

const TEMPORARY_START: &[u8] = b".lan-backup-";
const TEMPORARY_END: &[u8] = b".part";

/// A file under its temporary name.
#[derive(Debug)]
pub struct Begun {
    /// Empty, open for writing, and locked while it is.
    pub file: File,
    /// What it is called until it is whole.
    pub temporary: Name,
}

/// A folder or file that comes next.
#[derive(Clone, Debug)]
pub struct Coming {
    path: RelPath,
    action: Action,
    is_folder: bool,
}

impl From<&Planned> for Coming {
    fn from(planned: &Planned) -> Self {
        let is_folder = matches!(planned.entry.kind, crate::model::EntryKind::Folder);
        Self { path: planned.entry.path.clone(), action: planned.action.clone(), is_folder }
    }
}

/// The thread.
#[derive(Debug)]
pub struct Opener {
    coming: Sender<Coming>,
    stopped: Arc<AtomicBool>,
    made: Receiver<(RelPath, io::Result<Option<Begun>>)>,
}

impl Opener {
    /// Starts below `root`.
    ///
    /// # Errors
    /// The root cannot be opened again.
    pub fn start(root: &RootDir) -> io::Result<Self> {
        let mut folders = FolderStack::new(RootDir::open_again(root)?);
        let (coming, list) = channel::<Coming>();
        let (sender, made) = sync_channel(AHEAD);
        let stopped = Arc::new(AtomicBool::new(false));
        let told = stopped.clone();
        std::thread::spawn(move || {
            for coming in list.into_iter().take_while(|_| !told.load(Ordering::Relaxed)) {
                let result = if coming.is_folder {
                    make_folder(&mut folders, &coming).map(|()| None)
                } else {
                    begin_file(&mut folders, &coming.path).map(Some)
                };
                // Nobody takes any more only when the restore has panicked: as after a kill, the next one sweeps.
                if sender.send((coming.path, result)).is_err() {
                    break;
                }
            }
        });
        Ok(Self { coming, stopped, made })
    }

    /// Says what comes next, in the order in which it will be asked for. As many may be said as a load has entries.
    pub fn announce(&self, coming: Coming) {
        // A thread that is gone is noticed when its work is asked for.
        let _ = self.coming.send(coming);
    }

    /// What was announced first and not asked for yet: a file, or nothing for a folder.
    ///
    /// # Errors
    /// It could not be made.
    pub fn take(&self, path: &RelPath) -> io::Result<Option<Begun>> {
        match self.made.recv() {
            Ok((made, result)) if made == *path => result,
            _ => Err(io::Error::other("what was begun ahead is out of order; this is a defect of lan-backup")),
        }
    }

    /// Ends the thread. Gives the files that were begun and will not be written.
    pub fn stop(self) -> impl Iterator<Item = (RelPath, Begun)> {
        self.stopped.store(true, Ordering::Relaxed);
        drop(self.coming);
        self.made.into_iter().filter_map(|(path, result)| Some((path, result.ok()??)))
    }
}

/// Makes a folder, or finds that it is there.
pub fn make_folder(folders: &mut FolderStack, coming: &Coming) -> io::Result<()> {
    let path = &coming.path;
    match coming.action {
        Action::Create | Action::Beside => folders.enter_parent(path)?.create_folder(&path.name()),
        Action::Replace => {
            let folder = folders.enter_parent(path)?;
            folder.remove_file(&path.name())?;
            folder.create_folder(&path.name())
        }
        Action::Keep => {
            sweep(folders.enter(path)?);
            Ok(())
        }
        Action::Skip | Action::HardLink { .. } => Ok(()),
    }
}

/// Begins a file beside its place.
pub fn begin_file(folders: &mut FolderStack, path: &RelPath) -> io::Result<Begun> {
    let temporary = temporary_name();
    let file = folders.enter_parent(path)?.create_file(&temporary)?;
    // Held while it is written; what nobody holds was left by a restore that was killed.
    let _ = file.try_lock();
    Ok(Begun { file, temporary })
}

/// Deletes what a restore that was killed has left in a folder.
pub fn sweep(folder: &RootDir) {
    for name in folder.names().unwrap_or_default() {
        let bytes = name.as_bytes();
        let ours = bytes.starts_with(TEMPORARY_START) && bytes.ends_with(TEMPORARY_END);
        if ours && folder.open_file(&name).is_ok_and(|file| file.try_lock().is_ok()) {
            let _ = folder.remove_file(&name);
        }
    }
}

/// A name that nothing else has.
pub fn temporary_name() -> Name {
    let unique = u64::from_le_bytes(random::bytes());
    Name::new(format!(".lan-backup-{unique:016x}.part").into_bytes()).expect("letters, digits and dashes make a name")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn coming(path: &str, is_folder: bool) -> Coming {
        Coming { path: RelPath::new(path.as_bytes()).unwrap(), action: Action::Create, is_folder }
    }

    #[test]
    fn what_was_announced_comes_in_order_and_what_is_not_wanted_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let root = RootDir::open(folder.path()).unwrap();
        let opener = Opener::start(&root).unwrap();
        opener.announce(coming("d", true));
        for number in 0..3 * AHEAD {
            opener.announce(coming(&format!("d/{number}"), false));
        }
        opener.announce(coming("not/there", false));
        let path = |text: &str| RelPath::new(text.as_bytes()).unwrap();
        assert!(opener.take(&path("d")).unwrap().is_none());
        assert!(opener.take(&path("d/0")).unwrap().is_some());
        assert!(opener.take(&path("d/2")).is_err(), "1 comes next");
        let mut folders = FolderStack::new(root);
        for (path, begun) in opener.stop() {
            folders.enter_parent(&path).unwrap().remove_file(&begun.temporary).unwrap();
        }
        assert_eq!(std::fs::read_dir(folder.path().join("d")).unwrap().count(), 2, "the two that were taken");
    }
}
