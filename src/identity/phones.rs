//! LocalSend devices that a person said *always* to: by certificate, apart from paired devices, and with no right but to send
//! files to the inbox.
//!
//! One JSON file, read anew for each question, so that what one process forgets is forgotten in all. A file that cannot be read
//! knows nobody: then a person is asked again.

use crate::identity::{Error, Result};
use crate::model::{Alias, Fingerprint, InboxKeep};
use crate::platform::durable::{self, Access};
use crate::platform::fs;
use crate::platform::lock::Lock;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

const FORMAT: u32 = 1;
/// More than a household has; the oldest goes first.
const MAX_PHONES: usize = 1000;
const COST: &str = "a person is asked again about each phone";

/// A device that need not be asked about.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Phone {
    /// Its certificate.
    pub fingerprint: Fingerprint,
    /// What it called itself then.
    pub alias: Alias,
    /// What becomes of its files.
    pub keep: InboxKeep,
    /// Since when, by this device's clock.
    pub since: Timestamp,
}

#[derive(Debug, Serialize, Deserialize)]
struct Content {
    format: u32,
    phones: Vec<Phone>,
}

/// The phones of one home. Cheap to clone.
#[derive(Clone, Debug)]
pub struct PhoneBook {
    path: PathBuf,
}

impl PhoneBook {
    /// The book kept in `path`; a file that is not there means nobody.
    pub fn new(path: PathBuf) -> Self {
        Self { path }
    }

    /// All, oldest first; nobody when the file cannot be read, which the log says.
    pub fn list(&self) -> Vec<Phone> {
        self.load().unwrap_or_else(|error| {
            tracing::error!(error = &error as &dyn std::error::Error, "the list of phones cannot be read");
            Vec::new()
        })
    }

    /// One.
    pub fn find(&self, fingerprint: &Fingerprint) -> Option<Phone> {
        self.list().into_iter().find(|phone| phone.fingerprint == *fingerprint)
    }

    /// Remembers a phone.
    pub fn insert(&self, phone: Phone) -> Result<()> {
        self.change(|phones| {
            phones.retain(|known| known.fingerprint != phone.fingerprint);
            let surplus = (phones.len() + 1).saturating_sub(MAX_PHONES);
            phones.drain(..surplus);
            phones.push(phone);
        })
    }

    /// Forgets a phone; `false` when it was not known.
    pub fn remove(&self, fingerprint: &Fingerprint) -> Result<bool> {
        let mut known = false;
        self.change(|phones| {
            known = phones.iter().any(|phone| phone.fingerprint == *fingerprint);
            phones.retain(|phone| phone.fingerprint != *fingerprint);
        })?;
        Ok(known)
    }

    fn change(&self, change: impl FnOnce(&mut Vec<Phone>)) -> Result<()> {
        if let Some(folder) = self.path.parent() {
            fs::create_private_dir_all(folder)?;
        }
        let mut lock = self.path.clone().into_os_string();
        lock.push(".lock");
        let _locked = Lock::exclusive(&PathBuf::from(lock))?;
        let mut phones = self.load()?;
        change(&mut phones);
        let content = Content { format: FORMAT, phones };
        let bytes = serde_json::to_vec_pretty(&content).expect("phones have only string keys");
        Ok(durable::save(&self.path, Access::Private, &bytes)?)
    }

    fn load(&self) -> Result<Vec<Phone>> {
        let Some(bytes) = fs::read_if_there(&self.path)? else { return Ok(Vec::new()) };
        let damaged = |problem: String| Error::Damaged { path: self.path.clone(), problem, cost: COST };
        let content: Content = serde_json::from_slice(&bytes).map_err(|error| damaged(error.to_string()))?;
        if content.format != FORMAT {
            return Err(Error::Newer { path: self.path.clone(), format: content.format });
        }
        Ok(content.phones)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn phone(n: u8, keep: InboxKeep) -> Phone {
        let since = Timestamp::UNIX_EPOCH;
        Phone { fingerprint: Fingerprint::from_bytes([n; 32]), alias: Alias::new("pixel"), keep, since }
    }

    #[test]
    fn a_phone_is_known_in_every_process_until_it_is_forgotten() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state").join("phones.json");
        let (one, other) = (PhoneBook::new(path.clone()), PhoneBook::new(path));
        assert!(one.list().is_empty());
        one.insert(phone(1, InboxKeep::Backup)).unwrap();
        other.insert(phone(2, InboxKeep::Both)).unwrap();
        other.insert(phone(1, InboxKeep::Save)).unwrap();
        assert_eq!(one.list(), [phone(2, InboxKeep::Both), phone(1, InboxKeep::Save)]);
        assert!(one.remove(&phone(1, InboxKeep::Save).fingerprint).unwrap());
        assert!(other.find(&phone(1, InboxKeep::Save).fingerprint).is_none());
        assert!(!other.remove(&phone(1, InboxKeep::Save).fingerprint).unwrap());
    }

    #[test]
    fn a_damaged_book_knows_nobody_and_is_not_overwritten() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("phones.json");
        std::fs::write(&path, "{\"format\":1,\"phones\":[").unwrap();
        let book = PhoneBook::new(path.clone());
        assert!(book.list().is_empty());
        assert!(book.insert(phone(1, InboxKeep::Backup)).is_err());
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "{\"format\":1,\"phones\":[");
    }
}
