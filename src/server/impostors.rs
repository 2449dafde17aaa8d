//! Devices that carry the name of a paired one and are not it: worth a loud word, once each.
//!
//! A name proves nothing and may be given twice by honest people; but whoever wants a laptop's backups calls itself like the nas.
//! What is told is bounded, so that a stranger with a thousand certificates cannot bury the first word under a thousand others.

use crate::identity::TrustStore;
use crate::model::{Alias, Fingerprint};
use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

/// Impostors that are told of in the life of a server; a person who has seen so many knows.
const MAX_TOLD: usize = 16;

/// Who was told of already.
#[derive(Debug, Default)]
pub(crate) struct Impostors {
    told: Mutex<BTreeSet<Fingerprint>>,
}

impl Impostors {
    /// The paired device whose name this one carries, when that has not been told yet.
    pub(crate) fn notice(&self, trust: &TrustStore, alias: &Alias, found: Fingerprint) -> Option<Fingerprint> {
        let paired = namesake(trust, alias, found)?;
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        (told.len() < MAX_TOLD && told.insert(found)).then_some(paired)
    }
}

/// The paired device whose name a device carries that is not paired itself.
pub(crate) fn namesake(trust: &TrustStore, alias: &Alias, found: Fingerprint) -> Option<Fingerprint> {
    let name = alias.as_str().to_lowercase();
    let paired = trust.list();
    if paired.iter().any(|known| known.fingerprint == found) {
        return None;
    }
    paired.into_iter().find(|known| known.alias.as_str().to_lowercase() == name).map(|known| known.fingerprint)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::Trust;
    use crate::model::Rights;

    fn print(n: u8) -> Fingerprint {
        Fingerprint::from_bytes([n; 32])
    }

    #[test]
    fn each_is_told_once_and_a_flood_of_them_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let trust = TrustStore::open(folder.path().join("trust.json")).unwrap();
        let nas = Trust {
            fingerprint: print(1),
            signing_key: "ab".repeat(32),
            alias: Alias::new("nas"),
            rights: Rights::none(),
            paired_at: jiff::Timestamp::UNIX_EPOCH,
            sets: BTreeSet::new(),
            restore_from: BTreeSet::new(),
            address: None,
        };
        trust.insert(nas).unwrap();
        let impostors = Impostors::default();
        let notice = |name: &str, n: u8| impostors.notice(&trust, &Alias::new(name), print(n));
        assert_eq!(notice("nas", 1), None, "itself");
        assert_eq!(notice("laptop", 2), None);
        assert_eq!(notice("NAS", 2), Some(print(1)));
        assert_eq!(notice("nas", 2), None, "told already");
        assert_eq!((3..=255).filter(|n| notice("nas", *n).is_some()).count(), MAX_TOLD - 1);
    }
}
