//! The owner log: whose a repository is and how that came about. Append-only, chained by hashes, signed by the receiver.
//!
//! One sealed object for each event:
//!
//! ```text
//! {"entry": "<JSON of an Entry, as text>", "key": "<the receiver's public key>", "signature": "<over the text>"}
//! ```
//!
//! The key stands in the file, so that a store outlives the identity of the device that kept it; a log that is signed by
//! another key than this device's is good, but reported.

use crate::model::digest::to_hex;
use crate::model::{Alias, Fingerprint, OwnerEvent, RepositoryId};
use crate::signer::{self, Purpose, SigningKey};
use crate::store::error::{Error, Result};
use crate::store::layout::{self, FORMAT, ObjectName};
use crate::store::sealed::{seal, unseal};
use crate::store::shelf::Shelf;
use serde::{Deserialize, Serialize};
use std::sync::{Arc, Mutex, PoisonError};

/// Events of one log: a device changes its key or its owner now and then, not ten thousand times.
const MAX_EVENTS: u64 = 10_000;
/// One event; the parts are bounded, this is about what is damaged.
const MAX_EVENT_BYTES: u64 = 64 << 10;

/// What is signed.
#[derive(Debug, Serialize, Deserialize)]
struct Entry {
    format: u32,
    /// A log that was copied to another repository does not verify there.
    repository: RepositoryId,
    number: u64,
    /// BLAKE3 of the text of the entry before.
    previous: Option<String>,
    event: OwnerEvent,
}

#[derive(Debug, Serialize, Deserialize)]
struct Envelope {
    entry: String,
    key: String,
    signature: String,
}

/// The owner log of one repository.
#[derive(Debug)]
pub(crate) struct OwnerLog {
    repository: RepositoryId,
    shelf: Arc<dyn Shelf>,
    key: SigningKey,
    state: Mutex<State>,
}

#[derive(Clone, Debug, Default)]
struct State {
    events: Vec<OwnerEvent>,
    /// Hash of the last entry's text.
    last: Option<String>,
    foreign: bool,
    /// The first event names as signer the key that it is itself signed by: the receiver signs the records here.
    by_receiver: bool,
}

impl OwnerLog {
    /// The log as it is on the shelf.
    pub(crate) fn open(repository: RepositoryId, shelf: Arc<dyn Shelf>, key: SigningKey) -> Result<Self> {
        let log = Self { repository, shelf, key, state: Mutex::default() };
        log.refresh()?;
        Ok(log)
    }

    /// Reads and checks the whole log again, from the disk.
    pub(crate) fn read_anew(&self) -> Result<()> {
        let log = Self::open(self.repository, Arc::clone(&self.shelf), self.key.clone())?;
        let now = log.state.into_inner().unwrap_or_else(PoisonError::into_inner).events;
        let known = self.state.lock().unwrap_or_else(PoisonError::into_inner).events.clone();
        // Events are only ever added.
        if now.starts_with(&known) { Ok(()) } else { Err(Error::damaged(&layout::owners(), &"events of it are gone")) }
    }

    /// All events, first to last, those of other processes included.
    pub(crate) fn events(&self) -> Vec<OwnerEvent> {
        if let Err(error) = self.refresh() {
            let repository = self.repository;
            tracing::error!(%repository, error = &error as &dyn std::error::Error, "the owner log cannot be read on");
        }
        self.state.lock().unwrap_or_else(PoisonError::into_inner).events.clone()
    }

    /// Some entries are signed by another key than this device's.
    pub(crate) fn is_foreign(&self) -> bool {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).foreign
    }

    /// The records here are signed by the device that keeps them, for one that cannot sign: a phone.
    pub(crate) fn is_signed_by_receiver(&self) -> bool {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).by_receiver
    }

    /// Adds an event. The caller holds the commit lock.
    pub(crate) fn append(&self, event: OwnerEvent) -> Result<()> {
        self.refresh()?;
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        check(&state.events, &event).map_err(Error::OwnerEvent)?;
        let number = state.events.len() as u64 + 1;
        let previous = state.last.clone();
        let entry = Entry { format: FORMAT, repository: self.repository, number, previous, event };
        let text = serde_json::to_string(&entry).map_err(|error| Error::Refused(error.to_string()))?;
        let signature = self.key.sign(Purpose::OwnerLog, text.as_bytes());
        let last = hash(&text);
        let envelope = Envelope { entry: text, key: self.key.public(), signature };
        let json = serde_json::to_string(&envelope).map_err(|error| Error::Refused(error.to_string()))?;
        self.shelf.put(&layout::owner(number), seal(&json).as_bytes())?;
        state.by_receiver |= number == 1 && entry.event.signer() == self.key.public();
        state.events.push(entry.event);
        state.last = Some(last);
        Ok(())
    }

    /// Reads what was added since the last time.
    fn refresh(&self) -> Result<()> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let names = self.shelf.list(&layout::owners())?;
        for (index, name) in names.iter().enumerate().skip(state.events.len()) {
            let number = index as u64 + 1;
            if *name != layout::owner(number) || number > MAX_EVENTS {
                return Err(Error::damaged(name, &"an event of the owner log before it is missing"));
            }
            self.load(name, number, &mut state)?;
        }
        Ok(())
    }

    fn load(&self, name: &ObjectName, number: u64, state: &mut State) -> Result<()> {
        let damaged = |problem: &str| Error::damaged(name, &problem);
        let object = self.shelf.open(name)?;
        let length = object.length()?;
        if length > MAX_EVENT_BYTES {
            return Err(damaged("it is larger than any event"));
        }
        let bytes = object.read_at(0, length as usize)?;
        let json = unseal(&bytes).map_err(damaged)?;
        let envelope: Envelope = serde_json::from_str(json).map_err(|error| Error::damaged(name, &error))?;
        signer::verify(&envelope.key, Purpose::OwnerLog, envelope.entry.as_bytes(), &envelope.signature)
            .map_err(|error| Error::damaged(name, &error))?;
        let entry: Entry = serde_json::from_str(&envelope.entry).map_err(|error| Error::damaged(name, &error))?;
        if entry.format != FORMAT || entry.repository != self.repository || entry.number != number {
            return Err(damaged("it belongs to another log"));
        }
        if entry.previous != state.last {
            return Err(damaged("it does not follow the event before it"));
        }
        check(&state.events, &entry.event).map_err(damaged)?;
        state.foreign |= envelope.key != self.key.public();
        state.by_receiver |= number == 1 && entry.event.signer() == envelope.key;
        state.last = Some(hash(&envelope.entry));
        state.events.push(entry.event);
        Ok(())
    }
}

/// The certificate that a repository belongs to.
pub(crate) fn owner(events: &[OwnerEvent]) -> Option<Fingerprint> {
    events.last().map(OwnerEvent::fingerprint)
}

/// What its owner calls itself.
pub(crate) fn alias(events: &[OwnerEvent]) -> Option<Alias> {
    events.iter().rev().find_map(|event| event.alias().cloned())
}

/// Whether `event` may follow `events`.
fn check(events: &[OwnerEvent], event: &OwnerEvent) -> Result<(), &'static str> {
    match (events.last(), event) {
        (None, OwnerEvent::Create { .. }) | (Some(_), OwnerEvent::Adopt { .. }) => Ok(()),
        (None, _) => Err("it must begin with the repository's creation"),
        (Some(_), OwnerEvent::Create { .. }) => Err("a repository is created once"),
        (Some(last), OwnerEvent::Rotate { fingerprint, signer, signature, .. }) => {
            let text = signer::rotation_text(&last.fingerprint(), fingerprint, signer);
            signer::verify(last.signer(), Purpose::Rotation, text.as_bytes(), signature)
                .map_err(|_| "the new key is not signed by the old one")
        }
    }
}

fn hash(text: &str) -> String {
    to_hex(blake3::hash(text.as_bytes()).as_bytes())
}
