//! The folders of a shelf: which of them survive a power cut, and of which that is in doubt because a sync has failed.
//!
//! The system reports a sync that failed once, and may then forget what it should have written. So a later sync that succeeds
//! says nothing about the names that stood in the folder before: it is the same rule as for files, which are thrown away.
//! Names cannot be, when they are another thread's or an earlier process's. Hence the count of failures: who gives a name remembers
//! it before, and his sync has worked only when no other has failed in between; and what is found in a folder with failures is
//! written anew before it is relied on.

use crate::platform::disk::Disk;
use crate::platform::{Context, Result};
use std::collections::{HashMap, HashSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// What one process knows of the folders below `root`.
#[derive(Debug)]
pub(crate) struct DurableFolders {
    disk: Arc<dyn Disk>,
    root: PathBuf,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// This process has synced the ones above them.
    safe: HashSet<PathBuf>,
    failures: HashMap<PathBuf, u64>,
}

/// How often the sync of a folder had failed at some moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Failures(u64);

impl Failures {
    /// It has never failed.
    pub(crate) fn none(self) -> bool {
        self.0 == 0
    }
}

impl DurableFolders {
    pub(crate) fn new(disk: Arc<dyn Disk>, root: PathBuf) -> Self {
        Self { disk, root, state: Mutex::default() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes `folder` and those above it, up to the root, and makes them survive a power cut; once for each in a process.
    pub(crate) fn ensure(&self, folder: &Path) -> Result<()> {
        let Some(above) = folder.parent().filter(|_| folder != self.root) else { return Ok(()) };
        if self.state().safe.contains(folder) {
            return Ok(());
        }
        self.ensure(above)?;
        let before = self.failures(above);
        if !before.none() {
            // Its name may be one that was forgotten. It is made anew, which works while the folder is empty.
            match self.disk.remove_dir(folder) {
                Err(error) if !error.is_not_found() => return Err(error),
                _ => {}
            }
        }
        self.disk.create_dir_all(folder)?;
        // Another process may have made it just now and not synced yet: so whoever uses it first, syncs.
        self.sync(above, before)?;
        self.state().safe.insert(folder.to_owned());
        Ok(())
    }

    /// How often the sync of `folder` has failed so far; asked for before a name is given in it.
    pub(crate) fn failures(&self, folder: &Path) -> Failures {
        Failures(self.state().failures.get(folder).copied().unwrap_or(0))
    }

    /// Makes the names in `folder` survive a power cut that were given since `before`.
    pub(crate) fn sync(&self, folder: &Path, before: Failures) -> Result<()> {
        let synced = self.disk.sync_dir(folder);
        if synced.is_err() {
            *self.state().failures.entry(folder.to_owned()).or_default() += 1;
        } else if self.failures(folder) != before {
            return Err(io::Error::other("another sync of it has just failed")).context("sync folder", folder);
        }
        synced
    }
}
