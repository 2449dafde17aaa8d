//! Ed25519: signs snapshot records and certificate rotations. A key of its own, so that history does not hang on the TLS key.

use crate::model::digest::{from_hex, to_hex};
use crate::model::text::clean;
use crate::model::{Fingerprint, Record, SignedRecord, SnapshotId};
use ed25519_dalek::{Signature, Signer as _, SigningKey as DalekKey, VerifyingKey};
use std::fmt;

/// What a signature is for: signed text begins with it, so that a signature made for one purpose is worthless for another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// A snapshot record.
    Record,
    /// An entry of a repository's owner log.
    OwnerLog,
    /// A new certificate for the same device.
    Rotation,
}

impl Purpose {
    fn prefix(self) -> &'static [u8] {
        match self {
            Self::Record => b"lan-backup/record/1\n",
            Self::OwnerLog => b"lan-backup/owner-log/1\n",
            Self::Rotation => b"lan-backup/rotation/1\n",
        }
    }

    fn text(self, message: &[u8]) -> Vec<u8> {
        [self.prefix(), message].concat()
    }
}

/// The text that a signing key signs when its device changes its certificate from `old` to `new`, and perhaps the key to `signer`.
/// The old certificate stands in it, so that a statement made for an earlier change is worthless for a later one.
pub fn rotation_text(old: &Fingerprint, new: &Fingerprint, signer: &str) -> String {
    format!("{old}\n{new}\n{signer}")
}

/// What is wrong with a signature or a record.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Not a key at all.
    #[error("`{0}` is not an Ed25519 public key")]
    Key(String),
    /// The signature does not fit.
    #[error("the signature does not match")]
    Signature,
    /// The signed text is not a record this version can read.
    #[error("the record cannot be read: {0}")]
    Record(String),
    /// Made by a newer version.
    #[error("the record has format {0}, and this version reads format 1")]
    Newer(u32),
}

/// A private signing key. `Debug` shows the public half only.
#[derive(Clone)]
pub struct SigningKey(DalekKey);

impl SigningKey {
    /// Takes 32 secret bytes, which must come from the operating system's random source.
    pub fn from_bytes(secret: &[u8; 32]) -> Self {
        Self(DalekKey::from_bytes(secret))
    }

    /// The public half as 64 hex digits.
    pub fn public(&self) -> String {
        to_hex(self.0.verifying_key().as_bytes())
    }

    /// Signs `message` for one purpose; 128 hex digits.
    pub fn sign(&self, purpose: Purpose, message: &[u8]) -> String {
        to_hex(&self.0.sign(&purpose.text(message)).to_bytes())
    }

    /// Signs a record whose `signer` is this key.
    pub fn sign_record(&self, record: &Record) -> SignedRecord {
        let record = serde_json::to_string(record).expect("a record has only string keys");
        let signature = self.sign(Purpose::Record, record.as_bytes());
        SignedRecord { record, signature }
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SigningKey({})", &self.public()[..8])
    }
}

/// Checks a signature by the public key `signer`: 64 lower-case hex digits, because keys are compared as they are written, and one
/// key in two spellings would be two.
pub fn verify(signer: &str, purpose: Purpose, message: &[u8], signature: &str) -> Result<(), Error> {
    let bytes = from_hex::<32>(signer).filter(|bytes| to_hex(bytes) == signer);
    let key = bytes.and_then(|bytes| VerifyingKey::from_bytes(&bytes).ok());
    let key = key.ok_or_else(|| Error::Key(clean(signer).chars().take(80).collect()))?;
    let signature = from_hex(signature).map(|bytes| Signature::from_bytes(&bytes)).ok_or(Error::Signature)?;
    key.verify_strict(&purpose.text(message), &signature).map_err(|_| Error::Signature)
}

/// The id of a record: the hash of its exact bytes.
pub fn snapshot_id(signed: &SignedRecord) -> SnapshotId {
    SnapshotId::from_bytes(*blake3::hash(signed.record.as_bytes()).as_bytes())
}

/// Reads a signed record and checks its signature by the key it names. Whether that key is anybody's we know is another
/// question, and the caller's.
pub fn open_record(signed: &SignedRecord) -> Result<Record, Error> {
    #[derive(serde::Deserialize)]
    struct Format {
        format: u32,
    }
    let unreadable = |error: serde_json::Error| Error::Record(error.to_string());
    let Format { format } = serde_json::from_str(&signed.record).map_err(unreadable)?;
    if format != crate::model::snapshot::RECORD_FORMAT {
        return Err(Error::Newer(format));
    }
    let record: Record = serde_json::from_str(&signed.record).map_err(unreadable)?;
    verify(&record.signer, Purpose::Record, signed.record.as_bytes(), &signed.signature)?;
    Ok(record)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signature_holds_for_one_text_one_key_and_one_purpose() {
        let key = SigningKey::from_bytes(&[1; 32]);
        let other = SigningKey::from_bytes(&[2; 32]);
        let signature = key.sign(Purpose::Rotation, b"text");
        assert_eq!(verify(&key.public(), Purpose::Rotation, b"text", &signature), Ok(()));
        assert_eq!(verify(&key.public(), Purpose::Rotation, b"texT", &signature), Err(Error::Signature));
        assert_eq!(verify(&other.public(), Purpose::Rotation, b"text", &signature), Err(Error::Signature));
        assert_eq!(verify(&key.public(), Purpose::Record, b"text", &signature), Err(Error::Signature));
        let shouted = key.public().to_uppercase();
        assert!(matches!(verify(&shouted, Purpose::Rotation, b"text", &signature), Err(Error::Key(_))), "one spelling");
        assert!(matches!(verify("zz", Purpose::Rotation, b"text", &signature), Err(Error::Key(_))));
    }

    #[test]
    fn the_secret_half_is_never_formatted() {
        let key = SigningKey::from_bytes(&[1; 32]);
        assert!(!format!("{key:?}").contains("0101"));
    }
}
