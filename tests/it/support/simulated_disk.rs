//! A disk in memory that loses its power, runs full and fails, by seed; the store's own code runs on it.
//!
//! What it knows that a real one hides: for each file and each name whether it is on the platter. [`SimulatedDisk::restart`] is what
//! is there afterwards. Locks and SQLite's files go past it into real folders of the same names, which it makes and removes
//! along; nothing durable rests on those.
//!
//! After a call that the disk died in, every further one fails.

mod open_file;
mod tree;

use crate::support::dice::Dice;
use lan_backup::platform::disk::{Access, Disk, DiskFile, ReadAt};
use lan_backup::platform::fs::Kind;
use lan_backup::platform::{Context, Result};
use open_file::Open;
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};
use tree::{Journal, Number, ROOT, Tree};

/// What goes wrong.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Faults {
    /// All ends in this call, counted from 1.
    pub(crate) end_in: Option<u64>,
    /// So many of a thousand calls fail.
    pub(crate) errors_per_mille: u64,
    /// A sync that failed says that it worked. For a control.
    pub(crate) failed_syncs_lie: bool,
    /// No more bytes fit.
    pub(crate) capacity: Option<u64>,
    /// Syncing a folder says that it was done. For controls: something must be lost then.
    pub(crate) folder_syncs_lie: bool,
    /// Syncing a file says that it was done.
    pub(crate) file_syncs_lie: bool,
}

/// How it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// The process died: the system still knows everything.
    Killed,
    /// The power went: only the platter does.
    PowerCut,
}

/// Below one real folder.
pub(crate) struct SimulatedDisk {
    root: PathBuf,
    state: Arc<Mutex<State>>,
}

struct State {
    tree: Tree,
    dice: Dice,
    faults: Faults,
    calls: u64,
    failed: u64,
    over: bool,
    used: u64,
}

/// What becomes of a call.
enum Fate {
    Done,
    Failed,
    /// The last one, done or half done; nobody will know.
    Last,
}

fn over() -> io::Error {
    io::Error::other("the power is off")
}

fn failed() -> io::Error {
    io::Error::other("the simulated disk failed")
}

impl State {
    fn fate(&mut self) -> io::Result<Fate> {
        if self.over {
            return Err(over());
        }
        self.calls += 1;
        if self.faults.end_in == Some(self.calls) {
            self.over = true;
            return Ok(Fate::Last);
        }
        if self.faults.errors_per_mille > 0 && self.dice.below(1000) < self.faults.errors_per_mille {
            self.failed += 1;
            return Ok(Fate::Failed);
        }
        Ok(Fate::Done)
    }

    fn room(&self) -> u64 {
        self.faults.capacity.map_or(u64::MAX / 2, |capacity| capacity.saturating_sub(self.used))
    }

    fn forget(&mut self, number: Number) {
        let bytes = self.tree.file(number).map_or(0, |file| file.shown.len() as u64);
        self.used = self.used.saturating_sub(bytes);
    }

    fn remove_all(&mut self, folder: Number, name: &OsStr) -> io::Result<()> {
        let Some(number) = self.tree.find(folder, name)? else { return Ok(()) };
        if self.tree.is_folder(number) {
            for (name, _) in self.tree.list(number)? {
                self.remove_all(number, &name)?;
            }
        } else {
            self.forget(number);
        }
        self.tree.remove(folder, name);
        Ok(())
    }
}

impl fmt::Debug for SimulatedDisk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SimulatedDisk({})", self.root.display())
    }
}

impl SimulatedDisk {
    /// An empty one whose locks and indexes go to `root`, a real folder.
    pub(crate) fn new(root: &Path, seed: u64, faults: Faults) -> Arc<Self> {
        let mut dice = Dice::new(seed);
        let tree = Tree::new(if dice.coin() { Journal::Ordered } else { Journal::Any });
        let state = State { tree, dice, faults, calls: 0, failed: 0, over: false, used: 0 };
        Arc::new(Self { root: root.to_owned(), state: Arc::new(Mutex::new(state)) })
    }

    /// What is there after the end. Nobody may use the old one any more.
    pub(crate) fn restart(&self, end: End, faults: Faults) -> Arc<Self> {
        let mut state = self.state();
        state.over = true;
        let mut dice = Dice::new(state.dice.next());
        let tree = std::mem::replace(&mut state.tree, Tree::new(Journal::Any));
        let tree = if end == End::PowerCut { tree.after_power_cut(&mut dice) } else { tree };
        let used = tree.used();
        mirror(&tree, ROOT, &self.root);
        let state = State { tree, dice, faults, calls: 0, failed: 0, over: false, used };
        Arc::new(Self { root: self.root.clone(), state: Arc::new(Mutex::new(state)) })
    }

    /// Other faults from now on.
    pub(crate) fn set_faults(&self, faults: Faults) {
        let mut state = self.state();
        (state.faults, state.calls) = (faults, 0);
    }

    /// Calls so far, and how many of them failed.
    pub(crate) fn calls(&self) -> (u64, u64) {
        let state = self.state();
        (state.calls, state.failed)
    }

    /// Whether it has come to its end.
    pub(crate) fn is_over(&self) -> bool {
        self.state().over
    }

    /// Bytes in it.
    pub(crate) fn used(&self) -> u64 {
        self.state().used
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// Something that either happens as a whole or not at all.
    fn act<T>(&self, action: &'static str, path: &Path, work: impl FnOnce(&mut State) -> io::Result<T>) -> Result<T> {
        let mut state = self.state();
        let result = match state.fate() {
            Ok(Fate::Done) => work(&mut state),
            Ok(Fate::Failed) => Err(failed()),
            Ok(Fate::Last) => {
                if state.dice.coin() {
                    let _ = work(&mut state);
                }
                Err(over())
            }
            Err(error) => Err(error),
        };
        result.context(action, path)
    }

    fn find(&self, state: &State, path: &Path) -> io::Result<Number> {
        let below = path.strip_prefix(&self.root).map_err(|_| ErrorKind::InvalidInput)?;
        below.iter().try_fold(ROOT, |folder, name| Ok(state.tree.find(folder, name)?.ok_or(ErrorKind::NotFound)?))
    }

    fn parent<'a>(&self, state: &State, path: &'a Path) -> io::Result<(Number, &'a OsStr)> {
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
            return Err(ErrorKind::InvalidInput.into());
        };
        Ok((self.find(state, parent)?, name))
    }

    /// What only the real folders are asked for.
    fn is_outside(&self, path: &Path) -> bool {
        path.strip_prefix(&self.root).is_err()
    }
}

/// `None` for what is not there.
fn there<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        other => other.map(Some),
    }
}

/// Makes the real folders those of the tree.
fn mirror(tree: &Tree, folder: Number, path: &Path) {
    std::fs::create_dir_all(path).unwrap();
    let folders: Vec<_> =
        tree.list(folder).unwrap().into_iter().filter(|(_, number)| tree.is_folder(*number)).collect();
    for entry in std::fs::read_dir(path).unwrap().map(io::Result::unwrap) {
        if entry.file_type().unwrap().is_dir() && folders.iter().all(|(name, _)| *name != entry.file_name()) {
            std::fs::remove_dir_all(entry.path()).unwrap();
        }
    }
    for (name, number) in folders {
        mirror(tree, number, &path.join(name));
    }
}

impl Disk for SimulatedDisk {
    fn create_new(&self, path: &Path, _: Access) -> Result<Box<dyn DiskFile>> {
        let number = self.act("create", path, |state| {
            let (folder, name) = self.parent(state, path)?;
            if state.room() == 0 {
                return Err(ErrorKind::StorageFull.into());
            }
            state.tree.create(folder, name, false)
        })?;
        Ok(Box::new(Open { state: Arc::clone(&self.state), number, path: path.to_owned(), position: 0 }))
    }

    fn open(&self, path: &Path) -> Result<Arc<dyn ReadAt>> {
        let number = self.act("open", path, |state| {
            let number = self.find(state, path)?;
            state.tree.file(number)?;
            Ok(number)
        })?;
        Ok(Arc::new(Open { state: Arc::clone(&self.state), number, path: path.to_owned(), position: 0 }))
    }

    fn exists(&self, path: &Path) -> Result<bool> {
        if self.is_outside(path) {
            return Ok(true);
        }
        self.act("look at", path, |state| match self.find(state, path) {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
            other => other.map(|_| true),
        })
    }

    fn list(&self, folder: &Path) -> Result<Vec<(OsString, Kind)>> {
        self.act("list", folder, |state| {
            let entries = state.tree.list(self.find(state, folder)?)?;
            let kind = |number| if state.tree.is_folder(number) { Kind::Folder } else { Kind::File };
            Ok(entries.into_iter().map(|(name, number)| (name, kind(number))).collect())
        })
    }

    fn create_dir(&self, path: &Path) -> Result<()> {
        self.act("create folder", path, |state| {
            let (folder, name) = self.parent(state, path)?;
            state.tree.create(folder, name, true)?;
            std::fs::create_dir_all(path)
        })
    }

    fn create_dir_all(&self, path: &Path) -> Result<()> {
        if self.is_outside(path) || self.exists(path)? {
            return Ok(());
        }
        self.create_dir_all(path.parent().unwrap())?;
        self.create_dir(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> Result<()> {
        self.act("rename", from, |state| {
            let (from, to) = (self.parent(state, from)?, self.parent(state, to)?);
            let replaced = state.tree.find(to.0, to.1)?;
            state.tree.rename(from, to)?;
            if let Some(number) = replaced {
                state.forget(number);
            }
            Ok(())
        })
    }

    fn remove_file(&self, path: &Path) -> Result<()> {
        self.act("delete", path, |state| {
            let Some((folder, name)) = there(self.parent(state, path))? else { return Ok(()) };
            state.remove_all(folder, name)
        })
    }

    fn remove_dir(&self, path: &Path) -> Result<()> {
        self.act("delete folder", path, |state| {
            let (folder, name) = self.parent(state, path)?;
            let number = state.tree.find(folder, name)?.ok_or(ErrorKind::NotFound)?;
            if !state.tree.list(number)?.is_empty() {
                return Err(ErrorKind::DirectoryNotEmpty.into());
            }
            state.tree.remove(folder, name);
            std::fs::remove_dir_all(path)
        })
    }

    fn remove_dir_all(&self, path: &Path) -> Result<()> {
        self.act("delete folder", path, |state| {
            let Some((folder, name)) = there(self.parent(state, path))? else { return Ok(()) };
            state.remove_all(folder, name)?;
            match std::fs::remove_dir_all(path) {
                Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
                other => other,
            }
        })
    }

    fn sync_dir(&self, path: &Path) -> Result<()> {
        if self.is_outside(path) {
            return Ok(());
        }
        let mut state = self.state();
        let folder = self.find(&state, path).context("sync folder", path)?;
        let lies = state.faults.folder_syncs_lie;
        let result = match state.fate() {
            Ok(Fate::Failed) => {
                state.tree.fail_to_sync_folder(folder);
                if state.faults.failed_syncs_lie { Ok(()) } else { Err(failed()) }
            }
            Ok(fate) => {
                let last = matches!(fate, Fate::Last);
                if !lies && (!last || state.dice.coin()) {
                    state.tree.sync_folder(folder);
                }
                if last { Err(over()) } else { Ok(()) }
            }
            Err(error) => Err(error),
        };
        result.context("sync folder", path)
    }

    fn free_bytes(&self, path: &Path) -> Result<u64> {
        self.act("ask for free space of", path, |state| Ok(state.room()))
    }
}
