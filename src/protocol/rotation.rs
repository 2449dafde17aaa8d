//! `rotated`: a device that made itself a new certificate says who it was, and learns who the other one was.

use crate::model::Fingerprint;
use serde::{Deserialize, Serialize};

/// The version of this call.
pub const ROTATION_VERSION: u8 = 1;
/// Former certificates that one call names, the newest: a device makes a new one now and then, not every day.
pub const MAX_FORMER: usize = 16;

/// A certificate that the sender had, and the proof that it was its own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Former {
    /// The former certificate.
    pub fingerprint: Fingerprint,
    /// By the device's signing key, over the former and the present certificate; hex.
    pub signature: String,
}

/// What the caller says and wants to know.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rotated {
    /// [`ROTATION_VERSION`].
    pub v: u8,
    /// Who the caller was, the newest first; its present certificate is the one of the connection.
    #[serde(default)]
    pub formerly: Vec<Former>,
    /// The certificate that the caller expected here; it found another.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expected: Option<Fingerprint>,
}

/// The answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RotatedAnswer {
    /// Whether the caller is known here under its present certificate now.
    pub accepted: bool,
    /// The proof that the expected certificate was this device's, when it was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub was: Option<Former>,
}
