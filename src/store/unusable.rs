//! Repositories that are here and cannot be used, because a file that says whose they are, or what they are, is damaged.
//!
//! Such a repository must never look as if it were not there: its owner would take everything for lost and begin a second history. So
//! whoever asks for it hears of the damage, no repository is made for a device to which it may belong, one flipped bit is mended on the
//! way, and it is opened again as soon as one of those files is another.

use crate::model::{Fingerprint, RepositoryId};
use crate::store::error::{Error, Result};
use crate::store::folder_shelf::FolderShelf;
use crate::store::layout::{self, REPOSITORIES};
use crate::store::owner_log::OwnerLog;
use crate::store::{Inner, Known, Repository, Store, mend};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

/// What keeps a repository from being used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unusable {
    /// The file at fault, as far as it is one; its path in the store.
    pub path: String,
    /// What is wrong.
    pub problem: String,
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
        Self { path, problem, seen: seen(inner, id) }
    }

    fn error(&self) -> Error {
        Error::damaged(&self.path, &self.problem)
    }
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

    /// Fails while a repository that cannot be used may belong to a device, now or once: a second one would hide its history.
    pub(super) fn check_unusable(&self, known: &Known, owner: &Fingerprint) -> Result<()> {
        for (id, unusable) in &known.unusable {
            let folder = self.folder.join(REPOSITORIES).join(id.to_string());
            let log = FolderShelf::open_on(&self.disk, &folder).map_err(Error::from);
            let log = log.and_then(|(shelf, _)| OwnerLog::open(*id, (self.wrap)(shelf), self.signer.clone()));
            let events = log.map(|log| log.events()).unwrap_or_default();
            if events.is_empty() || events.iter().any(|event| event.fingerprint() == *owner) {
                return Err(unusable.error());
            }
        }
        Ok(())
    }
}

impl Store {
    /// Repositories that cannot be used.
    pub fn unusable(&self) -> BTreeMap<RepositoryId, Unusable> {
        self.inner.refresh();
        self.inner.known().unusable.clone()
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
            self.mend_unusable()?;
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
            for (id, unusable) in self.unusable() {
                let path = self.inner.folder.join(&unusable.path);
                let folder = self.inner.folder.join(REPOSITORIES).join(id.to_string());
                let bytes = self.inner.disk.read(&path).ok().and_then(|bytes| mend::mend(&bytes));
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
