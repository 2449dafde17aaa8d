//! The shelf that is a folder: one file for each object, drafts in a staging folder of this process.
//!
//! Each process has a staging folder of its own, locked while it lives. What lies in one whose lock is free was left by a
//! crash, and [`recovery`](crate::store::recovery) looks through it. Making such a folder and looking for old ones happen
//! under one lock, so that a new folder is never taken for an old one.

use crate::platform::disk::{Access, Disk, RealDisk};
use crate::platform::durable::Staged;
use crate::platform::fs::Kind;
use crate::platform::lock::Lock;
use crate::platform::random;
use crate::platform::{Context, Result};
use crate::store::durable_folders::DurableFolders;
use crate::store::layout::{LOCKS, ObjectName, STAGING};
use crate::store::shelf::{Draft, Object, Shelf};
use jiff::Timestamp;
use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The file in a staging folder that its process holds locked.
const STAGING_LOCK: &str = "lock";

/// Objects as files below one folder.
#[derive(Debug)]
pub struct FolderShelf {
    disk: Arc<dyn Disk>,
    folder: PathBuf,
    staging: Staging,
    folders: Arc<DurableFolders>,
}

impl FolderShelf {
    /// A shelf in `folder`, which must exist, and the staging folders that dead processes left there.
    pub fn open(folder: &Path) -> Result<(Self, Vec<StaleStaging>)> {
        Self::open_on(&(Arc::new(RealDisk) as Arc<dyn Disk>), folder)
    }

    /// The same on any disk.
    pub fn open_on(disk: &Arc<dyn Disk>, folder: &Path) -> Result<(Self, Vec<StaleStaging>)> {
        let all = folder.join(STAGING);
        let locks = folder.join(LOCKS);
        disk.create_dir_all(&all)?;
        disk.create_dir_all(&locks)?;
        let _scanning = Lock::exclusive(&locks.join(STAGING))?;
        let mut stale = Vec::new();
        for (name, _) in disk.list(&all)? {
            let folder = all.join(name);
            // A process that ends deletes its own folder meanwhile; then there is no lock to take any more.
            let Ok(Some(lock)) = Lock::try_exclusive(&folder.join(STAGING_LOCK)) else { continue };
            stale.push(StaleStaging { disk: Arc::clone(disk), folder, _lock: lock });
        }
        let own = all.join(format!("{:016x}", u64::from_le_bytes(random::bytes())));
        disk.create_dir(&own)?;
        let lock = Lock::exclusive(&own.join(STAGING_LOCK))?;
        let staging = Staging { disk: Arc::clone(disk), folder: own, _lock: lock };
        let folders = Arc::new(DurableFolders::new(Arc::clone(disk), folder.to_owned()));
        Ok((Self { disk: Arc::clone(disk), folder: folder.to_owned(), staging, folders }, stale))
    }

    fn path(&self, name: &ObjectName) -> PathBuf {
        self.folder.join(name.as_str())
    }

    fn walk(&self, name: &str, found: &mut Vec<ObjectName>) -> Result<()> {
        let entries = match self.disk.list(&self.folder.join(name)) {
            Err(error) if error.is_not_found() => return Ok(()),
            other => other?,
        };
        for (entry, kind) in entries {
            // What no object can be called is not ours, and is left alone.
            let Some(child) = entry.to_str().and_then(|e| ObjectName::parse(&format!("{name}/{e}"))) else { continue };
            match kind {
                Kind::Folder => self.walk(child.as_str(), found)?,
                Kind::File => found.push(child),
                Kind::Other => {}
            }
        }
        Ok(())
    }
}

/// A staging folder that a dead process left; locked, so that only one process looks through it.
#[derive(Debug)]
pub struct StaleStaging {
    disk: Arc<dyn Disk>,
    folder: PathBuf,
    _lock: Lock,
}

impl StaleStaging {
    /// What was being written when the process died.
    pub fn drafts(&self) -> Result<Vec<Arc<dyn Object>>> {
        let mut names = self.disk.list(&self.folder)?;
        names.retain(|(name, _)| name != STAGING_LOCK);
        names.iter().map(|(name, _)| self.disk.open(&self.folder.join(name))).collect()
    }

    /// Deletes it with all that is in it.
    pub fn discard(self) -> Result<()> {
        self.disk.remove_dir_all(&self.folder)
    }
}

impl Shelf for FolderShelf {
    fn draft(&self) -> Result<Box<dyn Draft>> {
        let disk = Arc::clone(&self.disk);
        let staged = Staged::create_in(Arc::clone(&disk), &self.staging.folder, Access::Private)?;
        let (folder, folders) = (self.folder.clone(), Arc::clone(&self.folders));
        Ok(Box::new(FileDraft { disk, staged, folder, folders }))
    }

    fn open(&self, name: &ObjectName) -> Result<Arc<dyn Object>> {
        self.disk.open(&self.path(name))
    }

    fn list(&self, folder: &ObjectName) -> Result<Vec<ObjectName>> {
        let mut found = Vec::new();
        self.walk(folder.as_str(), &mut found)?;
        found.sort();
        Ok(found)
    }

    fn confirm(&self, names: &[ObjectName]) -> Result<()> {
        let mut by_folder: BTreeMap<PathBuf, Vec<&ObjectName>> = BTreeMap::new();
        for name in names {
            let folder = self.path(name).parent().map(Path::to_owned).unwrap_or_default();
            by_folder.entry(folder).or_default().push(name);
        }
        for (folder, names) in by_folder {
            self.folders.ensure(&folder)?;
            let before = self.folders.failures(&folder);
            if before.none() {
                self.folders.sync(&folder, before)?;
            } else {
                // Their names may be forgotten already, and another sync would not say so.
                names.into_iter().try_for_each(|name| self.put(name, &self.get(name)?))?;
            }
        }
        Ok(())
    }

    fn delete(&self, name: &ObjectName) -> Result<()> {
        let path = self.path(name);
        let folder = path.parent().unwrap_or(&self.folder);
        let before = self.folders.failures(folder);
        self.disk.remove_file(&path)?;
        self.folders.sync(folder, before)
    }

    /// Reads nothing, so that an object on a bad sector can be moved, too.
    fn rename(&self, from: &ObjectName, to: &ObjectName) -> Result<()> {
        let (from, to) = (self.path(from), self.path(to));
        let folders = [&to, &from].map(|path| path.parent().unwrap_or(&self.folder));
        self.folders.ensure(folders[0])?;
        let before = folders.map(|folder| self.folders.failures(folder));
        self.disk.rename(&from, &to)?;
        // The new name first: cut in between, the object has both or the old one.
        folders.into_iter().zip(before).try_for_each(|(folder, before)| self.folders.sync(folder, before))
    }

    fn written_at(&self, name: &ObjectName) -> Result<Option<Timestamp>> {
        self.disk.written_at(&self.path(name))
    }
}

#[derive(Debug)]
struct FileDraft {
    disk: Arc<dyn Disk>,
    staged: Staged,
    folder: PathBuf,
    folders: Arc<DurableFolders>,
}

impl Draft for FileDraft {
    fn append(&mut self, bytes: &[u8]) -> Result<()> {
        self.staged.write_all(bytes).context("write", self.staged.path())
    }

    fn object(&self) -> Result<Arc<dyn Object>> {
        self.staged.reader()
    }

    fn keep(self: Box<Self>, name: &ObjectName) -> Result<()> {
        let Self { disk, staged, folder, folders } = *self;
        let target = folder.join(name.as_str());
        let folder = target.parent().unwrap_or(&folder);
        folders.ensure(folder)?;
        let before = folders.failures(folder);
        let replaces = disk.exists(&target)?;
        let kept = staged.commit_through(&target, |folder| folders.sync(folder, before));
        if kept.is_err() && !replaces {
            // It may have its name already, with only the folder's sync failed: nobody may come to rely on it.
            let _ = disk.remove_file(&target);
        }
        kept
    }
}

/// This process's staging folder; gone when the last user is.
#[derive(Debug)]
struct Staging {
    disk: Arc<dyn Disk>,
    folder: PathBuf,
    _lock: Lock,
}

impl Drop for Staging {
    fn drop(&mut self) {
        // What cannot be deleted now is found by the next one who opens the store.
        let _ = self.disk.remove_dir_all(&self.folder);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::platform::durable::{Step, steps_below};
    use crate::platform::fs;

    fn name(text: &str) -> ObjectName {
        ObjectName::parse(text).unwrap()
    }

    #[test]
    fn an_object_is_synced_before_it_has_its_name_and_its_folder_before_it_is_acknowledged() {
        let folder = tempfile::tempdir().unwrap();
        let (shelf, stale) = FolderShelf::open(folder.path()).unwrap();
        assert!(stale.is_empty());
        let mut draft = shelf.draft().unwrap();
        draft.append(b"one").unwrap();
        draft.append(b"two").unwrap();
        let object = draft.object().unwrap();
        assert_eq!(steps_below(folder.path()), []);
        assert!(shelf.list(&name("packs")).unwrap().is_empty());
        draft.keep(&name("packs/ab/x")).unwrap();
        let target = folder.path().join("packs/ab/x");
        let expected = [Step::Synced, Step::Renamed, Step::FolderSynced].map(|step| (step, target.clone()));
        assert_eq!(steps_below(folder.path()), expected);
        assert_eq!((object.length().unwrap(), object.read_at(2, 2).unwrap()), (6, b"et".to_vec()));
        assert_eq!(shelf.get(&name("packs/ab/x")).unwrap(), b"onetwo");
        assert_eq!(shelf.list(&name("packs")).unwrap(), [name("packs/ab/x")]);
        shelf.delete(&name("packs/ab/x")).unwrap();
        assert!(shelf.open(&name("packs/ab/x")).unwrap_err().is_not_found());
    }

    #[test]
    fn a_draft_that_could_not_be_kept_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let (shelf, _) = FolderShelf::open(folder.path()).unwrap();
        // A folder stands where the object should: the rename fails.
        fs::create_private_dir_all(&folder.path().join("packs/ab/x/y")).unwrap();
        let mut draft = shelf.draft().unwrap();
        draft.append(b"bytes").unwrap();
        draft.keep(&name("packs/ab/x")).unwrap_err();
        assert_eq!(fs::read_dir(&shelf.staging.folder).unwrap(), [STAGING_LOCK]);
    }

    #[test]
    fn an_object_is_moved_whole_into_a_folder_that_was_not_there() {
        let folder = tempfile::tempdir().unwrap();
        let (shelf, _) = FolderShelf::open(folder.path()).unwrap();
        shelf.put(&name("packs/ab/x"), b"bytes").unwrap();
        shelf.put(&name("quarantine/packs/ab/y"), b"in the way").unwrap();
        for to in ["trash/packs/ab/x", "quarantine/packs/ab/y"] {
            shelf.rename(&name("packs/ab/x"), &name(to)).unwrap();
            assert!(shelf.list(&name("packs")).unwrap().is_empty());
            assert_eq!(shelf.get(&name(to)).unwrap(), b"bytes");
            shelf.rename(&name(to), &name("packs/ab/x")).unwrap();
        }
        assert!(shelf.rename(&name("packs/ab/z"), &name("packs/ab/q")).unwrap_err().is_not_found());
    }

    #[test]
    fn only_the_staging_folders_of_the_dead_are_stale() {
        let folder = tempfile::tempdir().unwrap();
        let (first, _) = FolderShelf::open(folder.path()).unwrap();
        let dead = folder.path().join(STAGING).join("dead");
        fs::create_dir(&dead).unwrap();
        let (_second, stale) = FolderShelf::open(folder.path()).unwrap();
        assert_eq!(stale.iter().map(|stale| &stale.folder).collect::<Vec<_>>(), [&dead]);
        // While one process looks through it, no other does.
        let (_third, none) = FolderShelf::open(folder.path()).unwrap();
        assert!(none.is_empty());
        let own = first.staging.folder.clone();
        drop(first);
        assert!(fs::metadata_if_there(&own).unwrap().is_none());
    }
}
