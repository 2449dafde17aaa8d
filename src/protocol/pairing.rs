//! The messages of pairing (`lan-backup/pair/1`); what they must hold stands in `protocol.md` under "Pairing".

use crate::model::{Alias, Fingerprint, Rights, SetName, ShortCode};
use serde::{Deserialize, Serialize};

/// The version byte of the exchange.
pub const PAIRING_VERSION: u8 = 1;
/// Every pairing body is smaller, in bytes.
pub const MAX_PAIRING_BYTES: usize = 8 << 10;

/// `pair/request`: asks the other device's person. Sent again on the same connection to learn what became of it; the answer
/// then waits up to `wait` seconds for a decision.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PairRequest {
    /// [`PAIRING_VERSION`].
    pub v: u8,
    /// What the asking device calls itself.
    pub alias: Alias,
    /// What it would like to be allowed.
    pub rights: Rights,
    /// What it wants to do right after, so that one prompt is enough.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub purpose: Option<Purpose>,
    /// Seconds to wait for the decision, at most 30.
    #[serde(default)]
    pub wait: u8,
}

/// What a device wants to back up once it is paired.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Purpose {
    /// The set.
    pub set: SetName,
    /// Files in it.
    pub files: u64,
    /// Bytes in it.
    pub bytes: u64,
}

/// Answer to [`PairRequest`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PairState {
    /// Made from the asking device's certificate; both screens show it.
    pub code: ShortCode,
    /// How far it is.
    pub state: WindowState,
    /// Once open: seconds until the window closes.
    #[serde(default)]
    pub expires_in: u32,
    /// Once open: tries left.
    #[serde(default)]
    pub attempts_left: u8,
}

/// How far a pairing request is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum WindowState {
    /// The person has not answered yet (or others are before us).
    Waiting,
    /// The PIN is on the other screen: type it.
    Open,
    /// The person said no, or nobody answered in time.
    Declined,
}

/// `pair/start`: S's half of the exchange.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PairStart {
    /// [`PAIRING_VERSION`].
    pub v: u8,
    /// S's SPAKE2 message, base64.
    pub message: String,
    /// S's Ed25519 public key, hex; part of the transcript.
    pub signing_key: String,
    /// The rights that S asked for, again; part of the transcript.
    pub rights: Rights,
}

/// Answer to [`PairStart`]: R's half.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PairStarted {
    /// R's SPAKE2 message, base64.
    pub message: String,
    /// R's Ed25519 public key, hex; part of the transcript.
    pub signing_key: String,
}

/// `pair/confirm`: S proves first that it knows the PIN.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PairConfirm {
    /// S's proof, base64.
    pub proof: String,
}

/// Answer to [`PairConfirm`]: R's proof, and what was agreed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PairConfirmed {
    /// R's proof, base64.
    pub proof: String,
    /// What R calls itself.
    pub alias: Alias,
    /// What S may do at R.
    pub rights: Rights,
    /// R's fingerprint, for S to compare with the handshake.
    pub fingerprint: Fingerprint,
}
