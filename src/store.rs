//! The store: where a receiver keeps the repositories of the devices that back up to it. Blocking; no async but in
//! [`local_vault`].
//!
//! The promise: when [`Repository::commit`] has returned, the snapshot and everything it needs survive a power cut; before
//! that, nothing of it shows. It rests on an order: packs, then index, then record, each durable before the next one names it.
//! `docs/store-format.md` is normative for what lies on disk.
//!
//! | file | what |
//! |---|---|
//! | [`shelf`], [`folder_shelf`], `durable_folders` | the seam below: whole objects under checked names |
//! | [`layout`] | what objects are called, numbers of the format |
//! | [`pack`], [`pack_writer`], `pending`, `packs` | packs: bytes, writing, waiting to be durable, reading |
//! | `index` | which chunk is in which pack: a cache |
//! | `records`, `stream` | snapshots, and whether everything is there that one needs |
//! | [`retention`], [`prune`], `forgotten` | which snapshots stay, what becomes of the others, and their marks |
//! | [`owner_log`] | whose a repository is |
//! | `copies` | repositories that were copied from another store |
//! | `sealed`, `sealed_file` | a checksum for small files, and such a file with a format |
//! | [`repository`] | all of that together |
//! | [`rhythm`], [`stats`] | which backups are overdue, and what they take |
//! | `needs_walk` | which chunks snapshots need, list by list |
//! | [`recovery`], `unusable` | what opening finds after a crash, and repositories that cannot be opened |
//! | [`local_vault`] | a repository for the engines |
//! | [`verify`], `lists`, `pack_look` | is everything here, and is it what it was |
//! | [`repair`], [`set_aside`], `mend`, `losses`, [`given_up`] | saving what is good, setting aside what is not, marks of what is lost, what a person lets go |
//! | [`marks`], [`doubts`], [`scrub`], [`scrubber`], [`health`] | what is known about damage, and when what was read last |

mod copies;
pub mod doubts;
mod durable_folders;
pub mod error;
pub mod folder_shelf;
mod forgotten;
pub mod given_up;
pub mod health;
mod index;
pub mod layout;
mod lists;
pub mod local_vault;
pub mod losses;
pub mod marks;
mod mend;
mod needs_walk;
pub mod owner_log;
pub mod pack;
mod pack_look;
pub mod pack_writer;
mod packs;
mod pending;
pub mod prune;
mod records;
pub mod recovery;
pub mod repair;
pub mod repository;
pub mod retention;
pub mod rhythm;
pub mod scrub;
pub mod scrubber;
mod sealed;
mod sealed_file;
pub mod set_aside;
pub mod shelf;
pub mod stats;
mod stream;
mod unusable;
pub mod verify;

use crate::model::{Alias, Fingerprint, OwnerEvent, RepositoryId};
use crate::platform::clock::Clock;
use crate::platform::disk::{self, Access, Disk, RealDisk};
use crate::platform::lock::Lock;
use crate::platform::{durable, random};
use crate::signer::SigningKey;
use crate::store::layout::{FORMAT, REPOSITORIES, STORE_FILE, STORE_LOCK};
use crate::store::repository::Config;
use crate::store::sealed_file::{load, to_sealed_json};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

pub use error::{Error, Result};
pub use folder_shelf::FolderShelf;
pub use health::Health;
pub use local_vault::LocalVault;
pub use pack_writer::PackWriter;
pub use recovery::RecoveryReport;
pub use repository::Repository;
pub use unusable::Unusable;

/// `store.json`.
#[derive(Debug, Serialize, Deserialize)]
struct StoreFile {
    format: u32,
    id: String,
}

/// Puts something between a repository and its folder; tests use it to watch and to break.
pub type Wrap = dyn Fn(FolderShelf) -> Arc<dyn shelf::Shelf> + Send + Sync;

/// A store, open. Clones belong together; several processes may have the same one open.
#[derive(Clone)]
pub struct Store {
    inner: Arc<Inner>,
}

struct Inner {
    disk: Arc<dyn Disk>,
    folder: PathBuf,
    id: uuid::Uuid,
    clock: Arc<dyn Clock>,
    signer: SigningKey,
    wrap: Box<Wrap>,
    repositories: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    open: BTreeMap<RepositoryId, Arc<Repository>>,
    /// Damaged, with what is wrong; tried again when their files are others.
    unusable: BTreeMap<RepositoryId, Unusable>,
    /// Why some could not be opened the last time, when that was the disk's or the system's fault.
    failing: Vec<(RepositoryId, Error)>,
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Store({})", self.inner.folder.display())
    }
}

impl Store {
    /// Opens the store in `folder`, or makes one there, and puts right what a crash has left. `signer` is this device's key,
    /// which signs owner logs.
    pub fn open_or_create(folder: &Path, clock: Arc<dyn Clock>, signer: SigningKey) -> Result<(Self, RecoveryReport)> {
        Self::open_wrapped(folder, clock, signer, Box::new(|shelf| Arc::new(shelf)))
    }

    /// The same with something between each repository and its folder.
    pub fn open_wrapped(
        folder: &Path,
        clock: Arc<dyn Clock>,
        signer: SigningKey,
        wrap: Box<Wrap>,
    ) -> Result<(Self, RecoveryReport)> {
        Self::open_on(Arc::new(RealDisk), folder, clock, signer, wrap)
    }

    /// The same on another disk than the real one. Locks and indexes lie in the real folder of that name, which must be there for
    /// each folder that the disk makes.
    pub fn open_on(
        disk: Arc<dyn Disk>,
        folder: &Path,
        clock: Arc<dyn Clock>,
        signer: SigningKey,
        wrap: Box<Wrap>,
    ) -> Result<(Self, RecoveryReport)> {
        disk::ensure_dir(&*disk, folder)?;
        disk.create_dir_all(&folder.join(REPOSITORIES))?;
        let _locked = Lock::exclusive(&folder.join(STORE_LOCK))?;
        let path = folder.join(STORE_FILE);
        let id = if disk.exists(&path)? {
            let text =
                load::<StoreFile>(&*disk, &path).map_err(|error| unusable::whole_store(&disk, folder, error))?.id;
            // Who made it may have died before it was safe.
            disk.sync_dir(folder)?;
            text.parse().map_err(|_| Error::damaged(&path.display(), &"its id is not one"))?
        } else {
            let id = uuid::Builder::from_random_bytes(random::bytes()).into_uuid();
            let file = to_sealed_json(&StoreFile { format: FORMAT, id: id.to_string() })?;
            let saved = durable::save_on(Arc::clone(&disk), &path, Access::Private, file.as_bytes());
            // It may have its name, and yet not survive: as if it had never been there.
            saved.inspect_err(|_| drop(disk.remove_file(&path)))?;
            id
        };
        let repositories = Mutex::default();
        let inner = Inner { disk, folder: folder.to_owned(), id, clock, signer, wrap, repositories };
        let mut report = RecoveryReport::default();
        inner.scan(&mut inner.known(), &mut report)?;
        Ok((Self { inner: Arc::new(inner) }, report))
    }

    /// Names this store for ever.
    pub fn id(&self) -> uuid::Uuid {
        self.inner.id
    }

    /// Mends `store.json` in `folder` where one bit has flipped. Returns whether there was anything to do.
    pub fn mend_file(folder: &Path) -> Result<bool> {
        let path = folder.join(STORE_FILE);
        let bytes = RealDisk.read(&path)?;
        if sealed::unseal(&bytes).is_ok() {
            return Ok(false);
        }
        let Some(bytes) = mend::mend(&bytes) else { return Ok(false) };
        durable::save(&path, Access::Private, &bytes)?;
        Ok(true)
    }

    /// Whether `store.json` is still what it was when the store was opened; what is wrong otherwise.
    pub(crate) fn check_file(&self) -> Result<()> {
        let path = self.inner.folder.join(STORE_FILE);
        let file: StoreFile = load(&*self.inner.disk, &path)?;
        if file.id == self.inner.id.to_string() {
            Ok(())
        } else {
            Err(Error::damaged(&path.display(), &"it is another's"))
        }
    }

    /// Where it lies.
    pub fn folder(&self) -> &Path {
        &self.inner.folder
    }

    /// Bytes that can still be written to the disk it lies on.
    pub fn free_bytes(&self) -> Result<u64> {
        Ok(self.inner.disk.free_bytes(&self.inner.folder)?)
    }

    /// All repositories, those that another process has made meanwhile included.
    pub fn repositories(&self) -> Vec<Arc<Repository>> {
        self.inner.refresh();
        self.inner.known().open.values().cloned().collect()
    }

    /// One repository.
    pub fn repository(&self, id: &RepositoryId) -> Option<Arc<Repository>> {
        if let Some(repository) = self.inner.known().open.get(id) {
            return Some(Arc::clone(repository));
        }
        self.inner.refresh();
        self.inner.known().open.get(id).cloned()
    }

    /// The repository that belongs to a device now; the one it came to own last, should there be several.
    pub fn owned_by(&self, owner: &Fingerprint) -> Option<Arc<Repository>> {
        newest_owned(self.repositories(), owner)
    }

    /// Makes a repository for a device, or returns the one it has.
    ///
    /// # Errors
    /// One that may be this device's is here, and cannot be read, or is damaged.
    pub fn create_repository(&self, owner: Fingerprint, signer: &str, alias: Alias) -> Result<Arc<Repository>> {
        let inner = &self.inner;
        self.mend_unusable()?;
        let _locked = Lock::exclusive(&inner.folder.join(STORE_LOCK))?;
        let mut known = inner.known();
        inner.scan(&mut known, &mut RecoveryReport::default())?;
        if let Some(repository) = newest_owned(known.open.values().cloned().collect(), &owner) {
            return Ok(repository);
        }
        if let Some((_, error)) = known.failing.pop() {
            // It may be this device's own: a second one would hide its history.
            return Err(error);
        }
        inner.check_unusable(&known, &owner)?;
        let id = RepositoryId::from_random(random::bytes());
        let at = inner.clock.now();
        let event = OwnerEvent::Create { fingerprint: owner, signer: signer.to_owned(), alias, at };
        inner.make(&mut known, Config::new(id, at), &[event], None)
    }

    /// The repositories that a person may have meant: by an alias of its owner (whatever the case), or by the beginning of
    /// its owner's fingerprint or of its own id (at least four digits). Former owners count, too.
    pub fn matching(&self, text: &str) -> Vec<Arc<Repository>> {
        self.repositories().into_iter().filter(|repository| repository.answers_to(text)).collect()
    }
}

fn newest_owned(repositories: Vec<Arc<Repository>>, owner: &Fingerprint) -> Option<Arc<Repository>> {
    let since = |repository: &Repository| match repository.owner_log().pop() {
        Some(OwnerEvent::Create { at, .. } | OwnerEvent::Adopt { at, .. } | OwnerEvent::Rotate { at, .. }) => Some(at),
        None => None,
    };
    repositories
        .into_iter()
        // What another device has copied here is not what its owner has backed up here.
        .filter(|repository| repository.owner() == *owner && repository.copied_from().is_none())
        .max_by_key(|repository| since(repository))
}

impl Inner {
    /// Makes a repository with this owner log; with a mark when it is a copy that another device brings.
    fn make(
        &self,
        known: &mut Known,
        config: Config,
        events: &[OwnerEvent],
        copied_from: Option<Fingerprint>,
    ) -> Result<Arc<Repository>> {
        let id = config.id;
        let folder = self.folder.join(REPOSITORIES).join(id.to_string());
        if self.disk.exists(&folder.join(layout::config().as_str()))? {
            return Err(Error::Refused(format!("repository {id} is here already")));
        }
        self.disk.create_dir_all(&folder)?;
        self.disk.sync_dir(&self.folder.join(REPOSITORIES))?;
        let (shelf, _) = FolderShelf::open_on(&self.disk, &folder)?;
        let shelf = (self.wrap)(shelf);
        // A copy of which the making was interrupted has a part of its log already.
        copies::extend(&owner_log::OwnerLog::open(id, Arc::clone(&shelf), self.signer.clone())?, events)?;
        if let Some(from) = copied_from {
            copies::save(&*shelf, from, self.clock.now())?;
        }
        // The config comes last: a folder without one is not a repository yet.
        shelf.put(&layout::config(), to_sealed_json(&config)?.as_bytes())?;
        let (clock, key) = (Arc::clone(&self.clock), self.signer.clone());
        let repository = Repository::open(&folder, config, shelf, clock, key, &mut RecoveryReport::default())?;
        let repository = Arc::new(repository);
        known.open.insert(id, Arc::clone(&repository));
        Ok(repository)
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.repositories.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Opens what another process has made meanwhile.
    fn refresh(&self) {
        let result = self.scan(&mut self.known(), &mut RecoveryReport::default());
        if let Err(error) = result {
            tracing::error!(error = &error as &dyn std::error::Error, "the repositories cannot be listed");
        }
    }

    /// Opens every repository that is not open yet.
    fn scan(&self, known: &mut Known, report: &mut RecoveryReport) -> Result<()> {
        let all = self.folder.join(REPOSITORIES);
        known.failing.clear();
        for (name, _) in self.disk.list(&all)? {
            let Some(id) = name.to_str().and_then(|name| name.parse::<RepositoryId>().ok()) else { continue };
            if known.open.contains_key(&id) || self.is_as_unusable_as_before(known, &id) {
                continue;
            }
            match self.open(&all.join(name), id, report) {
                Ok(repository) => {
                    known.unusable.remove(&id);
                    known.open.extend(repository.map(|repository| (id, Arc::new(repository))));
                }
                Err(error @ Error::NewerFormat { .. }) => return Err(error),
                // One bad repository does not hide the others.
                Err(error) => {
                    let passing = matches!(error, Error::Platform(_) | Error::Index(_) | Error::Full);
                    if passing || self.remember_unusable(known, id, &error) {
                        tracing::error!(repository = %id, error = &error as &dyn std::error::Error, "a repository cannot be used");
                    }
                    let unusable = known.unusable.get(&id).filter(|_| !passing);
                    let why = unusable.map_or_else(|| error.to_string(), Unusable::sentence);
                    report.unusable_repositories.push((id.to_string(), why));
                    if passing {
                        known.unusable.remove(&id);
                        known.failing.push((id, error));
                    }
                }
            }
        }
        Ok(())
    }

    /// `None` for a folder that is not a repository yet: its making was interrupted, or goes on in another process.
    fn open(&self, folder: &Path, id: RepositoryId, report: &mut RecoveryReport) -> Result<Option<Repository>> {
        let path = folder.join(layout::config().as_str());
        if !self.disk.exists(&path)? {
            let used = self.disk.exists(&folder.join(layout::packs().as_str()))?;
            return if used { Err(Error::damaged(&"config.json", &"it is gone")) } else { Ok(None) };
        }
        let config: Config = load(&*self.disk, &path)?;
        if config.id != id {
            return Err(Error::damaged(&"config.json", &"it belongs to another repository"));
        }
        let (shelf, stale) = FolderShelf::open_on(&self.disk, folder)?;
        let shelf = (self.wrap)(shelf);
        if let Err(error) = recovery::rescue(stale, &*shelf, report) {
            // Most likely the disk is full: reading must be possible all the same.
            tracing::error!(repository = %id, error = &error as &dyn std::error::Error, "what a crash left could not be saved");
        }
        let (clock, key) = (Arc::clone(&self.clock), self.signer.clone());
        Repository::open(folder, config, shelf, clock, key, report).map(Some)
    }
}
