//! The owner log of a repository: who may continue it, and how that came about.

use crate::model::{Alias, Fingerprint};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// Who owns a repository and how that came about, as the receiver's owner log says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "event")]
pub enum OwnerEvent {
    /// The first device.
    #[serde(rename_all = "camelCase")]
    Create {
        /// Its certificate.
        fingerprint: Fingerprint,
        /// Its signing key, hex.
        signer: String,
        /// What it called itself.
        alias: Alias,
        /// By the receiver's clock.
        at: Timestamp,
    },
    /// The receiver's person let a new device continue a lost one's repository; shown for ever.
    #[serde(rename_all = "camelCase")]
    Adopt {
        /// The new device's certificate.
        fingerprint: Fingerprint,
        /// The new device's signing key, hex.
        signer: String,
        /// What the new device calls itself.
        alias: Alias,
        /// By the receiver's clock.
        at: Timestamp,
    },
    /// The same device with a new certificate or signing key, signed by the old key.
    #[serde(rename_all = "camelCase")]
    Rotate {
        /// The new certificate.
        fingerprint: Fingerprint,
        /// The new signing key, hex.
        signer: String,
        /// By the old key, over the new fingerprint and the new key.
        signature: String,
        /// By the receiver's clock.
        at: Timestamp,
    },
}

impl OwnerEvent {
    /// The certificate that the repository belongs to from this event on.
    pub fn fingerprint(&self) -> Fingerprint {
        match self {
            Self::Create { fingerprint, .. } | Self::Adopt { fingerprint, .. } | Self::Rotate { fingerprint, .. } => {
                *fingerprint
            }
        }
    }

    /// The signing key (hex) whose records count from this event on.
    pub fn signer(&self) -> &str {
        match self {
            Self::Create { signer, .. } | Self::Adopt { signer, .. } | Self::Rotate { signer, .. } => signer,
        }
    }

    /// When it happened, by the receiver's clock.
    pub fn at(&self) -> Timestamp {
        match self {
            Self::Create { at, .. } | Self::Adopt { at, .. } | Self::Rotate { at, .. } => *at,
        }
    }

    /// What the owner called itself then; a rotation keeps the name.
    pub fn alias(&self) -> Option<&Alias> {
        match self {
            Self::Create { alias, .. } | Self::Adopt { alias, .. } => Some(alias),
            Self::Rotate { .. } => None,
        }
    }
}
