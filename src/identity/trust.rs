//! The remembered devices: whom this device trusts, and with what.
//!
//! One JSON file, shared by all processes of a home. Every change is a read, a change and a durable save under a lock
//! between processes; every question looks whether the file is still the one that was read, so that what one process
//! removes is gone in all others with their next question. A file that cannot be read trusts nobody.

use crate::identity::{Error, Result};
use crate::model::{Alias, Fingerprint, RepositoryId, Rights, SetName};
use crate::platform::clock::{Clock, SystemClock};
use crate::platform::durable::{self, Access};
use crate::platform::fs;
use crate::platform::lock::Lock;
use crate::platform::watched::{Seen, Watched};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The format this version writes and reads.
const FORMAT: u32 = 1;
/// Tombstones kept; the oldest go first. A home meets far fewer devices in its life.
const MAX_TOMBSTONES: usize = 1000;
const COST: &str = "this device then knows no other one and must be paired again with each";

/// A device that was paired.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Trust {
    /// Who it is.
    pub fingerprint: Fingerprint,
    /// Its Ed25519 public key (hex), as proved in the pairing exchange.
    pub signing_key: String,
    /// What it called itself.
    pub alias: Alias,
    /// What it may do here.
    pub rights: Rights,
    /// When it was paired, by this device's clock.
    pub paired_at: Timestamp,
    /// Sets that it may back up without asking again.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub sets: BTreeSet<SetName>,
    /// Others' repositories that a person let it read.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub restore_from: BTreeSet<RepositoryId>,
    /// Where it answered last; tried first the next time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<SocketAddr>,
}

/// A device that was unpaired.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Removed {
    /// Which one.
    pub fingerprint: Fingerprint,
    /// When, by this device's clock.
    pub at: Timestamp,
    /// The certificate that it has instead since then; it was not unpaired but changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub became: Option<Fingerprint>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Content {
    format: u32,
    devices: Vec<Trust>,
    #[serde(default)]
    removed: Vec<Removed>,
}

impl Default for Content {
    fn default() -> Self {
        Self { format: FORMAT, devices: Vec::new(), removed: Vec::new() }
    }
}

impl Content {
    fn bury(&mut self, removed: Removed) {
        self.removed.push(removed);
        let surplus = self.removed.len().saturating_sub(MAX_TOMBSTONES);
        self.removed.drain(..surplus);
    }

    fn parse(path: &Path, bytes: &[u8]) -> Result<Self> {
        #[derive(Deserialize)]
        struct Format {
            format: u32,
        }
        let damaged =
            |error: serde_json::Error| Error::Damaged { path: path.to_owned(), problem: error.to_string(), cost: COST };
        // The format first: a later one may have changed everything else.
        let Format { format } = serde_json::from_slice(bytes).map_err(damaged)?;
        if format != FORMAT {
            return Err(Error::Newer { path: path.to_owned(), format });
        }
        serde_json::from_slice(bytes).map_err(damaged)
    }
}

/// The remembered devices. Cheap to clone; clones and other processes see each other's changes.
#[derive(Clone)]
pub struct TrustStore {
    inner: Arc<Inner>,
}

struct Inner {
    path: PathBuf,
    lock: PathBuf,
    clock: Arc<dyn Clock>,
    cache: Mutex<Cache>,
}

struct Cache {
    watched: Watched,
    content: Content,
}

impl fmt::Debug for TrustStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TrustStore({})", self.inner.path.display())
    }
}

impl TrustStore {
    /// Opens the store kept in `path`; a file that is not there means that nobody is trusted yet.
    pub fn open(path: PathBuf) -> Result<Self> {
        Self::open_with_clock(path, Arc::new(SystemClock))
    }

    /// The same with another clock, which dates the tombstones.
    pub fn open_with_clock(path: PathBuf, clock: Arc<dyn Clock>) -> Result<Self> {
        let mut lock = path.clone().into_os_string();
        lock.push(".lock");
        let cache = Cache { watched: Watched::new(path.clone()), content: Content::default() };
        let store = Self { inner: Arc::new(Inner { path, lock: lock.into(), clock, cache: Mutex::new(cache) }) };
        drop(store.fresh()?);
        Ok(store)
    }

    /// The trust in a device; `None` when there is none (any more, in any process), or when the file cannot be read.
    pub fn find(&self, fingerprint: &Fingerprint) -> Option<Trust> {
        let cache = self.fresh_or_empty()?;
        cache.content.devices.iter().find(|trust| trust.fingerprint == *fingerprint).cloned()
    }

    /// All trusted devices, by alias.
    pub fn list(&self) -> Vec<Trust> {
        let mut devices = self.fresh_or_empty().map(|cache| cache.content.devices.clone()).unwrap_or_default();
        devices.sort_by(|a, b| (&a.alias, a.fingerprint).cmp(&(&b.alias, b.fingerprint)));
        devices
    }

    /// The devices that were unpaired and not paired again, oldest first.
    pub fn removed(&self) -> Vec<Removed> {
        self.fresh_or_empty().map(|cache| cache.content.removed.clone()).unwrap_or_default()
    }

    /// Trusts a device from now on, replacing what was remembered of it.
    pub fn insert(&self, trust: Trust) -> Result<()> {
        self.change(|content| {
            content.removed.retain(|removed| removed.fingerprint != trust.fingerprint);
            content.devices.retain(|known| known.fingerprint != trust.fingerprint);
            content.devices.push(trust);
            Some(())
        })?;
        Ok(())
    }

    /// Ends the trust in a device and leaves a tombstone. Returns what was remembered.
    pub fn remove(&self, fingerprint: &Fingerprint) -> Result<Option<Trust>> {
        let at = self.inner.clock.now();
        self.change(|content| {
            let index = content.devices.iter().position(|trust| trust.fingerprint == *fingerprint)?;
            content.bury(Removed { fingerprint: *fingerprint, at, became: None });
            Some(content.devices.remove(index))
        })
    }

    /// A device has a new certificate, and whoever calls has checked the proof: all that is remembered of the old one holds for
    /// the new one, in one step. `false` when the old one is not trusted.
    pub fn rotate(&self, old: &Fingerprint, new: Fingerprint) -> Result<bool> {
        let at = self.inner.clock.now();
        let changed = self.change(|content| {
            let index = content.devices.iter().position(|trust| trust.fingerprint == *old)?;
            let mut trust = content.devices.remove(index);
            trust.fingerprint = new;
            content.bury(Removed { fingerprint: *old, at, became: Some(new) });
            content.removed.retain(|removed| removed.fingerprint != new);
            content.devices.retain(|known| known.fingerprint != new);
            content.devices.push(trust);
            Some(())
        })?;
        Ok(changed.is_some())
    }

    /// Changes what is remembered of a device; false when it is not trusted. A change of its fingerprint is not taken.
    pub fn update(&self, fingerprint: &Fingerprint, change: impl FnOnce(&mut Trust)) -> Result<bool> {
        let changed = self.change(|content| {
            let trust = content.devices.iter_mut().find(|trust| trust.fingerprint == *fingerprint)?;
            change(trust);
            trust.fingerprint = *fingerprint;
            Some(())
        })?;
        Ok(changed.is_some())
    }

    /// Read, change, save, under both locks; `None` from `change` means that there is nothing to save.
    fn change<T>(&self, change: impl FnOnce(&mut Content) -> Option<T>) -> Result<Option<T>> {
        if let Some(folder) = self.inner.path.parent() {
            fs::create_private_dir_all(folder)?;
        }
        let _lock = Lock::exclusive(&self.inner.lock)?;
        let mut cache = self.fresh()?;
        let mut content = cache.content.clone();
        let Some(result) = change(&mut content) else { return Ok(None) };
        let mut text = serde_json::to_vec_pretty(&content).expect("a trust store has only string keys");
        text.push(b'\n');
        // Whatever the save did, the next look finds out: after a failed folder sync the new file may be there.
        cache.watched.forget();
        durable::save(&self.inner.path, Access::Private, &text)?;
        Ok(Some(result))
    }

    fn fresh(&self) -> Result<MutexGuard<'_, Cache>> {
        let mut cache = self.inner.cache.lock().unwrap_or_else(PoisonError::into_inner);
        match cache.watched.look() {
            Ok(Seen::Same) => {}
            Ok(Seen::Gone) => cache.content = Content::default(),
            Ok(Seen::Content(bytes)) => match Content::parse(&self.inner.path, &bytes) {
                Ok(content) => cache.content = content,
                Err(error) => {
                    cache.content = Content::default();
                    cache.watched.forget();
                    return Err(error);
                }
            },
            Err(error) => {
                cache.content = Content::default();
                cache.watched.forget();
                return Err(error.into());
            }
        }
        Ok(cache)
    }

    fn fresh_or_empty(&self) -> Option<MutexGuard<'_, Cache>> {
        let fresh = self.fresh();
        if let Err(error) = &fresh {
            tracing::error!(path = %self.inner.path.display(), %error, "nobody is trusted: the trust store is unreadable");
        }
        fresh.ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Right;

    fn trust(n: u8) -> Trust {
        Trust {
            fingerprint: Fingerprint::from_bytes([n; 32]),
            signing_key: "ab".repeat(32),
            alias: Alias::new(&format!("device {n}")),
            rights: Rights::of_a_paired_device(),
            paired_at: Timestamp::UNIX_EPOCH,
            sets: BTreeSet::from(["Documents".parse().unwrap()]),
            restore_from: BTreeSet::from([RepositoryId::from_random([n; 16])]),
            address: Some("[fe80::1%3]:53317".parse().unwrap()),
        }
    }

    /// Two stores on one file behave as two processes do: they share nothing but the file.
    fn two() -> (tempfile::TempDir, TrustStore, TrustStore) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("home/trust.json");
        let (one, other) = (TrustStore::open(path.clone()).unwrap(), TrustStore::open(path).unwrap());
        (folder, one, other)
    }

    #[test]
    fn what_one_process_changes_every_other_sees_with_its_next_question() {
        let (_folder, one, other) = two();
        let id = trust(1).fingerprint;
        for _ in 0..20 {
            assert_eq!(other.find(&id), None);
            one.insert(trust(1)).unwrap();
            assert_eq!(other.find(&id), Some(trust(1)));
            assert!(one.update(&id, |trust| trust.rights.grant(Right::Trigger)).unwrap());
            assert!(other.find(&id).unwrap().rights.allow(Right::Trigger));
            assert!(one.update(&id, |trust| trust.rights.revoke(Right::Trigger)).unwrap());
            assert!(!other.find(&id).unwrap().rights.allow(Right::Trigger));
            assert_eq!(other.remove(&id).unwrap(), Some(trust(1)));
            assert_eq!(one.find(&id), None);
        }
    }

    #[test]
    fn changes_made_at_once_are_all_kept() {
        let (_folder, one, other) = two();
        std::thread::scope(|scope| {
            for n in 0..16 {
                let store = if n % 2 == 0 { &one } else { &other };
                scope.spawn(move || store.insert(trust(n)).unwrap());
            }
        });
        assert_eq!(one.list().len(), 16);
        assert_eq!(one.list(), other.list());
    }

    #[test]
    fn a_removed_device_leaves_a_tombstone_until_it_is_paired_again() {
        let (_folder, one, other) = two();
        assert_eq!(one.remove(&trust(1).fingerprint).unwrap(), None);
        assert!(!one.update(&trust(1).fingerprint, |_| ()).unwrap());
        one.insert(trust(1)).unwrap();
        one.insert(trust(1)).unwrap();
        assert_eq!(one.list().len(), 1);
        one.remove(&trust(1).fingerprint).unwrap();
        assert_eq!(other.removed().iter().map(|r| r.fingerprint).collect::<Vec<_>>(), [trust(1).fingerprint]);
        other.insert(trust(1)).unwrap();
        assert!(one.removed().is_empty());
    }

    #[test]
    fn a_new_certificate_takes_over_everything_and_the_old_one_is_out() {
        let (_folder, one, other) = two();
        let (old, new) = (trust(1).fingerprint, trust(2).fingerprint);
        assert!(!one.rotate(&old, new).unwrap(), "nobody knows it");
        one.insert(trust(1)).unwrap();
        assert!(one.rotate(&old, new).unwrap());
        assert_eq!(other.find(&old), None);
        assert_eq!(other.find(&new), Some(Trust { fingerprint: new, ..trust(1) }));
        assert_eq!(other.removed()[0].became, Some(new));
        assert!(!other.rotate(&old, trust(3).fingerprint).unwrap(), "once is enough");
    }

    #[test]
    fn a_damaged_file_trusts_nobody_and_is_not_overwritten() {
        let (_folder, one, _) = two();
        one.insert(trust(1)).unwrap();
        let path = one.inner.path.clone();
        durable::save(&path, Access::Private, b"{\"format\":1,\"dev").unwrap();
        assert_eq!(one.find(&trust(1).fingerprint), None);
        assert!(matches!(one.insert(trust(2)), Err(Error::Damaged { .. })));
        assert!(TrustStore::open(path.clone()).unwrap_err().hint().unwrap().contains("paired again"));
        assert_eq!(fs::read(&path).unwrap(), b"{\"format\":1,\"dev");
    }

    #[test]
    fn a_newer_format_is_refused_with_a_sentence() {
        let (_folder, one, _) = two();
        one.insert(trust(1)).unwrap();
        durable::save(&one.inner.path, Access::Private, b"{\"format\":2,\"people\":{}}").unwrap();
        let error = one.insert(trust(2)).unwrap_err();
        assert!(error.to_string().contains("format 2"), "{error}");
        assert_eq!(one.list(), []);
    }
}
