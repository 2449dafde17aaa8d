//! A new certificate for the same device: the signing key, which stays, vouches for it.
//!
//! Whoever paired with the device knows its signing key from the pairing, so a statement by that key (this certificate was mine,
//! that one is) is all it takes; nobody types a PIN again. A statement names the *old* certificate, too: one that was made for an
//! earlier change cannot be used for a later one.
//!
//! Order: the old fingerprint is remembered first, then the new certificate takes its place in one rename. A crash in between
//! leaves the old certificate, listed as its own predecessor, which is left out when the list is read.

use crate::identity::certificate::{self, IDENTITY_FILE};
use crate::identity::{Error, Result, fingerprint_of};
use crate::model::Fingerprint;
use crate::platform::durable::{self, Access};
use crate::platform::fs;
use crate::signer::{self, Purpose, SigningKey};
use serde::{Deserialize, Serialize};
use std::path::Path;

/// The certificates that this device had.
pub const FORMER_FILE: &str = "former.json";

const COST: &str = "devices that have not heard of the present certificate yet must be paired again";

#[derive(Debug, Default, Serialize, Deserialize)]
struct Former {
    /// Oldest first.
    fingerprints: Vec<Fingerprint>,
}

/// The certificates that the device kept in `folder` had before `present`, the newest first.
pub(crate) fn load(folder: &Path, present: Fingerprint) -> Result<Vec<Fingerprint>> {
    let path = folder.join(FORMER_FILE);
    let Some(bytes) = fs::read_if_there(&path)? else { return Ok(Vec::new()) };
    let damaged = |error: serde_json::Error| Error::Damaged { path, problem: error.to_string(), cost: COST };
    let mut former: Vec<_> = serde_json::from_slice::<Former>(&bytes).map_err(damaged)?.fingerprints;
    former.retain(|fingerprint| *fingerprint != present);
    former.reverse();
    Ok(former)
}

/// Makes a new certificate. The caller holds the lock of the identity.
pub(crate) fn replace(folder: &Path) -> Result<()> {
    let keys = certificate::load(folder)?;
    let present = fingerprint_of(&keys.certificate);
    let mut fingerprints = load(folder, present)?;
    fingerprints.reverse();
    fingerprints.push(present);
    let json = serde_json::to_vec(&Former { fingerprints }).expect("a list of texts has no keys");
    durable::save(&folder.join(FORMER_FILE), Access::Private, &json)?;
    durable::save(&folder.join(IDENTITY_FILE), Access::Private, certificate::generate()?.as_bytes())?;
    Ok(())
}

/// The proof that `old` was the certificate of the device that now has `new`; hex.
pub(crate) fn prove(key: &SigningKey, old: &Fingerprint, new: &Fingerprint) -> String {
    key.sign(Purpose::Rotation, signer::rotation_text(old, new, &key.public()).as_bytes())
}

/// Whether the device with this signing key says that its certificate `old` is `new` now.
pub fn is_proved(signing_key: &str, old: &Fingerprint, new: &Fingerprint, signature: &str) -> bool {
    let text = signer::rotation_text(old, new, signing_key);
    old != new && signer::verify(signing_key, Purpose::Rotation, text.as_bytes(), signature).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::Identity;

    #[test]
    fn a_new_certificate_keeps_the_signing_key_and_remembers_the_old_one() {
        let folder = tempfile::tempdir().unwrap();
        let first = Identity::load_or_generate(folder.path()).unwrap();
        let second = Identity::rotate(folder.path()).unwrap();
        let third = Identity::rotate(folder.path()).unwrap();
        assert_eq!(first.signing_key().public(), third.signing_key().public());
        assert_eq!(third.former(), [second.fingerprint(), first.fingerprint()]);
        let loaded = Identity::load_or_generate(folder.path()).unwrap();
        assert_eq!((loaded.fingerprint(), loaded.former()), (third.fingerprint(), third.former()));
    }

    #[test]
    fn a_crash_before_the_new_certificate_leaves_the_old_one_as_it_was() {
        let folder = tempfile::tempdir().unwrap();
        let first = Identity::load_or_generate(folder.path()).unwrap();
        let json = serde_json::to_vec(&Former { fingerprints: vec![first.fingerprint()] }).unwrap();
        durable::save(&folder.path().join(FORMER_FILE), Access::Private, &json).unwrap();
        let loaded = Identity::load_or_generate(folder.path()).unwrap();
        assert_eq!((loaded.fingerprint(), loaded.former()), (first.fingerprint(), &[][..]));
    }

    #[test]
    fn a_statement_is_good_for_its_two_certificates_and_its_key_alone() {
        let folder = tempfile::tempdir().unwrap();
        let old = Identity::load_or_generate(folder.path()).unwrap();
        let new = Identity::rotate(folder.path()).unwrap();
        let stranger = Identity::load_or_generate(&folder.path().join("stranger")).unwrap();
        let key = new.signing_key().public();
        let (was, is, other) = (old.fingerprint(), new.fingerprint(), stranger.fingerprint());
        let signature = new.proof_of_former(&was).unwrap();
        assert!(is_proved(&key, &was, &is, &signature));
        assert!(!is_proved(&key, &was, &other, &signature), "a thief's certificate");
        assert!(!is_proved(&key, &other, &is, &signature), "an earlier statement used again");
        assert!(!is_proved(&key, &is, &was, &signature), "back again");
        assert!(!is_proved(&stranger.signing_key().public(), &was, &is, &signature));
        let forged = prove(stranger.signing_key(), &was, &other);
        assert!(!is_proved(&key, &was, &other, &forged), "signed by somebody else");
        assert_eq!(new.proof_of_former(&other), None, "nothing is signed that was not so");
    }
}
