//! Repositories that are here and cannot be used, because a file that says whose they are, or what they are, is damaged.
//!
//! Such a repository must never look as if it were not there: its owner would take everything for lost and begin a second history. So
//! whoever asks for it, by id, as its owner or by a name, hears of the damage, no repository is made for a device to which it may
//! belong, one flipped bit is mended on the way, and it is opened again as soon as one of those files is another.

use crate::model::text::clean;
use crate::model::{Alias, Fingerprint, OwnerEvent, RepositoryId};
use crate::platform::disk::Disk;
use crate::store::error::{Error, Result};
use crate::store::folder_shelf::FolderShelf;
use crate::store::layout::{self, REPOSITORIES};
use crate::store::owner_log::OwnerLog;
use crate::store::records::Records;
use crate::store::recovery::RecoveryReport;
use crate::store::shelf::Shelf;
use crate::store::{Inner, Known, Repository, Store, copies, mend, newest_owned};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

/// Records that are tried for one that says who made it.
const MAX_TRIED_RECORDS: usize = 100;

/// What keeps a repository from being used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unusable {
    /// The file at fault, as far as it is one; its path in the store.
    pub path: String,
    /// What is wrong.
    pub problem: String,
    /// The device that made its newest snapshot, as far as one can be read.
    pub device: Option<Alias>,
    /// Records that lie in it, whole or not.
    pub snapshots: u64,
    /// No flipped bit is what is wrong: trying them all takes a second or two, and is not done again for the same files.
    beyond_mending: bool,
    /// The files that are read before anything else, as they were then; `None` when one could not be read.
    seen: Option<blake3::Hash>,
}

impl Unusable {
    fn new(inner: &Inner, id: &RepositoryId, error: &Error) -> Self {
        let folder = format!("{REPOSITORIES}/{id}");
        let (name, problem) = match error {
            Error::Damaged { name, problem } => (name.clone(), problem.clone()),
            other => (String::new(), other.to_string()),
        };
        // Names of objects lie in the repository; files that are read by path name all of it.
        let path = match Path::new(&name).strip_prefix(&inner.folder) {
            Ok(path) => path.display().to_string(),
            Err(_) if name.is_empty() => folder,
            Err(_) => format!("{folder}/{name}"),
        };
        let (device, snapshots) = shelf(inner, id).map(|shelf| held(*id, &shelf)).unwrap_or_default();
        Self { path, problem, device, snapshots, beyond_mending: false, seen: seen(inner, id) }
    }

    /// What it is, for people: whose backup, and how much of it lies there.
    pub fn holds(&self) -> String {
        let of = self.device.as_ref().map(|device| format!(" of `{device}`")).unwrap_or_default();
        format!("the backup{of} with {}", counted(self.snapshots, "snapshot"))
    }

    /// What is wrong, and what it keeps from being used.
    pub(crate) fn told(&self) -> String {
        format!(
            "{}; {} cannot be used until this file is whole again, and lies there still",
            self.problem,
            self.holds()
        )
    }

    /// The same with the name of the file.
    pub(crate) fn sentence(&self) -> String {
        format!("`{}` is damaged: {}", self.path, self.told())
    }

    pub(super) fn error(&self) -> Error {
        Error::Unusable { holds: self.holds(), path: self.path.clone(), problem: clean(&self.problem) }
    }
}

/// The folder of a repository that cannot be used.
fn shelf(inner: &Inner, id: &RepositoryId) -> Result<Arc<dyn Shelf>> {
    let folder = inner.folder.join(REPOSITORIES).join(id.to_string());
    let (shelf, _) = FolderShelf::open_on(&inner.disk, &folder)?;
    Ok((inner.wrap)(shelf))
}

/// What is wrong with `store.json`, and what it keeps from being used.
pub(super) fn whole_store(disk: &Arc<dyn Disk>, folder: &Path, error: Error) -> Error {
    let Error::Damaged { name: path, problem } = error else { return error };
    let (mut devices, mut backups, mut snapshots) = (BTreeSet::new(), 0_u64, 0);
    for (name, _) in disk.list(&folder.join(REPOSITORIES)).unwrap_or_default() {
        let id = name.to_str().and_then(|name| name.parse().ok());
        let shelf = FolderShelf::open_on(disk, &folder.join(REPOSITORIES).join(&name));
        if let (Some(id), Ok((shelf, _))) = (id, shelf) {
            let (device, records) = held(id, &(Arc::new(shelf) as Arc<dyn Shelf>));
            devices.extend(device.map(|device| format!("`{device}`")));
            (backups, snapshots) = (backups + 1, snapshots + records);
        }
    }
    let of = if devices.is_empty() { String::new() } else { format!(" of {}", Vec::from_iter(devices).join(", ")) };
    let holds = format!("the store with {}{of} ({})", counted(backups, "backup"), counted(snapshots, "snapshot"));
    Error::Unusable { holds, path, problem }
}

fn counted(number: u64, what: &str) -> String {
    if number == 1 { format!("1 {what}") } else { format!("{number} {what}s") }
}

/// Who made the newest record that can be read, and how many there are.
fn held(id: RepositoryId, shelf: &Arc<dyn Shelf>) -> (Option<Alias>, u64) {
    let names = shelf.list(&layout::records()).unwrap_or_default();
    let records = Records::new(id, Arc::clone(shelf));
    let device = names.iter().rev().take(MAX_TRIED_RECORDS).find_map(|name| records.load(name).ok());
    (device.map(|kept| kept.record.device), names.len() as u64)
}

/// Whether a person may mean a repository with this owner log by this text.
pub(crate) fn goes_by(id: RepositoryId, events: &[OwnerEvent], text: &str) -> bool {
    let lower = text.to_lowercase();
    let by_id = text.len() >= 4 && id.to_string().starts_with(&lower);
    by_id
        || events.iter().any(|event| {
            event.fingerprint().begins_with(text)
                || event.alias().is_some_and(|alias| alias.as_str().to_lowercase() == lower)
        })
}

/// A hash of all that decides whether a repository can be opened.
fn seen(inner: &Inner, id: &RepositoryId) -> Option<blake3::Hash> {
    let folder = inner.folder.join(REPOSITORIES).join(id.to_string());
    let mut files = vec![layout::config().to_string(), layout::copy_mark().to_string()];
    for (name, _) in inner.disk.list(&folder.join(layout::owners().as_str())).ok()? {
        files.push(format!("{}/{}", layout::owners(), name.to_str()?));
    }
    files.sort();
    let mut hash = blake3::Hasher::new();
    for name in files {
        let bytes = match inner.disk.read(&folder.join(&name)) {
            Err(error) if error.is_not_found() => Vec::new(),
            other => other.ok()?,
        };
        hash.update(name.as_bytes()).update(b"\n").update(blake3::hash(&bytes).as_bytes());
    }
    Some(hash.finalize())
}

impl Inner {
    /// Whether there is no reason to try again: the repository could not be used, and its files are what they were.
    pub(super) fn is_as_unusable_as_before(&self, known: &Known, id: &RepositoryId) -> bool {
        known.unusable.get(id).is_some_and(|before| before.seen.is_some() && before.seen == seen(self, id))
    }

    /// Remembers that a repository cannot be used. Returns whether that is new.
    pub(super) fn remember_unusable(&self, known: &mut Known, id: RepositoryId, error: &Error) -> bool {
        let unusable = Unusable::new(self, &id, error);
        let same = |before: &Unusable| (&before.path, &before.problem) == (&unusable.path, &unusable.problem);
        let is_new = !known.unusable.get(&id).is_some_and(same);
        known.unusable.insert(id, unusable);
        is_new
    }

    fn is_beyond_mending(&self, id: &RepositoryId, tried: &Unusable) {
        if let Some(unusable) = self.known().unusable.get_mut(id)
            && unusable.seen.is_some()
            && unusable.seen == tried.seen
        {
            unusable.beyond_mending = true;
        }
    }

    /// Fails while a repository that cannot be used may belong to a device, now or once: a second one would hide its history.
    pub(super) fn check_unusable(&self, known: &Known, owner: &Fingerprint) -> Result<()> {
        self.check_whose(known, |_, events| events.iter().any(|event| event.fingerprint() == *owner), Copies::PassOver)
    }

    /// Fails when `fits` says that a repository that cannot be used is meant, or when nobody can tell: its owner log is not readable.
    fn check_whose(
        &self,
        known: &Known,
        fits: impl Fn(&RepositoryId, &[OwnerEvent]) -> bool,
        copies: Copies,
    ) -> Result<()> {
        for (id, unusable) in &known.unusable {
            let (events, is_copy) = self.said_of(id);
            if copies == Copies::PassOver && is_copy {
                continue;
            }
            if events.is_empty() || fits(id, &events) {
                return Err(unusable.error());
            }
        }
        Ok(())
    }

    /// The owner log of a repository that cannot be used, empty when it is not readable, and whether it is surely a copy.
    fn said_of(&self, id: &RepositoryId) -> (Vec<OwnerEvent>, bool) {
        let Ok(shelf) = shelf(self, id) else { return (Vec::new(), false) };
        let is_copy = matches!(copies::load(&*shelf), Ok(Some(_)));
        let log = OwnerLog::open(*id, shelf, self.signer.clone());
        (log.map(|log| log.events()).unwrap_or_default(), is_copy)
    }
}

/// Whether copies that other devices bring count: they are not what their owners mean by their own backup here.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Copies {
    Count,
    PassOver,
}

impl Store {
    /// Repositories that cannot be used.
    pub fn unusable(&self) -> BTreeMap<RepositoryId, Unusable> {
        self.inner.refresh();
        self.inner.known().unusable.clone()
    }

    /// The repository that belongs to a device now, for whom it matters why it is not there. One flipped bit is mended.
    ///
    /// # Errors
    /// One that belongs, or may belong, to the device is damaged, or cannot be read at the moment.
    pub fn find_owned(&self, owner: &Fingerprint) -> Result<Option<Arc<Repository>>> {
        self.mend_where_it_can();
        let inner = &self.inner;
        let mut known = inner.known();
        let scanned = inner.scan(&mut known, &mut RecoveryReport::default());
        if let Some(own) = newest_owned(known.open.values().cloned().collect(), owner) {
            // An older one is no answer while the one that it continued with lies beside it.
            let owns_now = |events: &[OwnerEvent]| events.last().is_some_and(|event| event.fingerprint() == *owner);
            for (id, unusable) in &known.unusable {
                let (events, is_copy) = inner.said_of(id);
                if owns_now(&events) && !is_copy {
                    return Err(unusable.error());
                }
            }
            return Ok(Some(own));
        }
        scanned?;
        inner.check_unusable(&known, owner)?;
        known.failing.pop().map_or(Ok(None), |(_, error)| Err(error))
    }

    /// The repositories that a person may have meant, as [`Store::matching`], for whom it matters why there is none. One flipped
    /// bit is mended.
    ///
    /// # Errors
    /// None fits, and one that may be meant is damaged, or cannot be read at the moment.
    pub fn find_matching(&self, text: &str) -> Result<Vec<Arc<Repository>>> {
        self.find_those(|repository| repository.answers_to(text), |id, events| goes_by(*id, events, text))
    }

    /// All repositories, for whom it matters why there is none. One flipped bit is mended.
    ///
    /// # Errors
    /// There is none that can be used, and there is one that is damaged, or cannot be read at the moment.
    pub fn find_all(&self) -> Result<Vec<Arc<Repository>>> {
        self.find_those(|_| true, |_, _| true)
    }

    fn find_those(
        &self,
        fits: impl Fn(&Repository) -> bool,
        would_fit: impl Fn(&RepositoryId, &[OwnerEvent]) -> bool,
    ) -> Result<Vec<Arc<Repository>>> {
        self.mend_where_it_can();
        let mut known = self.inner.known();
        let scanned = self.inner.scan(&mut known, &mut RecoveryReport::default());
        let found: Vec<_> = known.open.values().filter(|repository| fits(repository)).cloned().collect();
        if !found.is_empty() {
            return Ok(found);
        }
        scanned?;
        self.inner.check_whose(&known, would_fit, Copies::Count)?;
        known.failing.pop().map_or(Ok(found), |(_, error)| Err(error))
    }

    /// Mends what it can; a disk that takes nothing does not keep anybody from reading the rest.
    pub(super) fn mend_where_it_can(&self) {
        if let Err(error) = self.mend_unusable() {
            tracing::error!(
                error = &error as &dyn std::error::Error,
                "what keeps a repository from being used could not be mended"
            );
        }
    }

    /// One repository, for whom it matters why it is not there. Where one flipped bit keeps it from being used, that is mended.
    ///
    /// # Errors
    /// It is there, and is damaged, or the disk or the system does not let it be read at the moment.
    pub fn find_repository(&self, id: &RepositoryId) -> Result<Option<Arc<Repository>>> {
        if let Some(repository) = self.repository(id) {
            return Ok(Some(repository));
        }
        if self.inner.known().unusable.contains_key(id) {
            self.mend_where_it_can();
            if let Some(repository) = self.repository(id) {
                return Ok(Some(repository));
            }
        }
        let mut known = self.inner.known();
        if let Some(unusable) = known.unusable.get(id) {
            return Err(unusable.error());
        }
        match known.failing.iter().position(|(failing, _)| failing == id) {
            Some(at) => Err(known.failing.swap_remove(at).1),
            None => Ok(None),
        }
    }

    /// Mends files that keep repositories from being used, where one bit has flipped. Returns which, and what was wrong.
    pub(crate) fn mend_unusable(&self) -> Result<Vec<(String, String)>> {
        let mut mended = Vec::new();
        loop {
            let before = mended.len();
            for (id, unusable) in self.unusable().into_iter().filter(|(_, unusable)| !unusable.beyond_mending) {
                let path = self.inner.folder.join(&unusable.path);
                let folder = self.inner.folder.join(REPOSITORIES).join(id.to_string());
                let Ok(damaged) = self.inner.disk.read(&path) else { continue };
                let bytes = mend::mend(&damaged);
                if bytes.is_none() {
                    self.inner.is_beyond_mending(&id, &unusable);
                }
                let name = path.strip_prefix(&folder).ok().and_then(|name| layout::ObjectName::parse(name.to_str()?));
                if let (Some(bytes), Some(name)) = (bytes, name) {
                    let (shelf, _) = FolderShelf::open_on(&self.inner.disk, &folder)?;
                    (self.inner.wrap)(shelf).put(&name, &bytes)?;
                    tracing::warn!(path = unusable.path, "a file had a flipped bit; it is whole again");
                    mended.push((unusable.path, unusable.problem));
                }
            }
            // With one file mended, the next one that is damaged comes to light.
            if mended.len() == before {
                return Ok(mended);
            }
        }
    }
}
