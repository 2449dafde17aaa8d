//! The signed head of a snapshot, and what is said about it.

use crate::model::{Alias, Fingerprint, RepositoryId, SetName, SnapshotId, Stream};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// The record format this version writes; a higher one is refused with a sentence.
pub const RECORD_FORMAT: u32 = 1;

/// The head of a snapshot, as its source signed it. All streams it names lie in the same repository.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Record {
    /// [`RECORD_FORMAT`].
    pub format: u32,
    /// Where it belongs; a record copied elsewhere does not verify there.
    pub repository: RepositoryId,
    /// Which set.
    pub set: SetName,
    /// The absolute root paths, cleaned for people, in the order of the snapshot's top entries.
    pub roots: Vec<Root>,
    /// 1 for the first of its (repository, set), then one more each time.
    pub sequence: u64,
    /// The snapshot before it in the chain.
    pub previous: Option<SnapshotId>,
    /// The manifest: one [`Entry`](crate::model::Entry) as JSON a line, sorted by path.
    pub manifest: Stream,
    /// The 32-byte ids of all chunks the snapshot needs but the refs' own, in manifest order; repeats are allowed.
    pub refs: Stream,
    /// What is in it.
    pub totals: Totals,
    /// What changed since `previous`.
    pub changes: Changes,
    /// When the source began to look, by its own clock: a label, no rule goes by it.
    pub source_time: Timestamp,
    /// The alias of the device that made it.
    pub device: Alias,
    /// The Ed25519 public key that signed it, as 64 hex digits.
    pub signer: String,
    /// A label that a person gave.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub tag: Option<String>,
}

/// One root of a set: where it lay on the source, and what its top entry is called.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Root {
    /// The absolute path on the source, as text (what is not UTF-8 is shown as `�`).
    pub source: String,
    /// The name of its top entry in the snapshot.
    pub top: String,
}

/// What is in a snapshot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Totals {
    /// Lines of the manifest.
    pub entries: u64,
    /// Regular files among them.
    pub files: u64,
    /// Plain bytes of all files, holes counted.
    pub bytes: u64,
}

/// What is different from the snapshot before, in files.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Changes {
    /// Not there before.
    pub new_files: u64,
    /// There before, with other content or metadata.
    pub changed_files: u64,
    /// No longer there.
    pub deleted_files: u64,
}

/// A record as exact bytes with its signature. Kept and sent as bytes, because only those were signed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignedRecord {
    /// The JSON of a [`Record`], byte for byte as it was signed, on one line.
    pub record: String,
    /// Ed25519 over `"lan-backup/record/1\n"` and the bytes of `record`, as 128 hex digits.
    pub signature: String,
}

/// What the receiver adds when it has committed a record. Retention goes by `received_at` only.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Receipt {
    /// Which snapshot.
    pub record: SnapshotId,
    /// `max(now, last + 1 s)` by the receiver's clock.
    pub received_at: Timestamp,
    /// The device that brought it.
    pub from: Fingerprint,
}

/// The mark of a snapshot that its receiver's rules keep no longer. Its record stays for ever, so that the chain can be checked;
/// its data stays until `until`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Forgotten {
    /// Which snapshot.
    pub record: SnapshotId,
    /// The rules that did not want it, in words.
    pub rule: String,
    /// When it was forgotten, by the receiver's clock.
    pub when: Timestamp,
    /// Until then it can be brought back.
    pub until: Timestamp,
}

impl Forgotten {
    /// The rule of a snapshot whose record was copied without its data.
    pub const NOT_COPIED: &str = "not copied";

    /// Whether its data was never here.
    pub fn is_not_copied(&self) -> bool {
        self.rule == Self::NOT_COPIED
    }
}

/// A snapshot as it is advertised: everything a list or a chain check needs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SnapshotInfo {
    /// What it is called.
    pub id: SnapshotId,
    /// The record as it was signed.
    pub signed: SignedRecord,
    /// When and from whom it came.
    pub receipt: Receipt,
    /// It was forgotten: it is listed for the chain's sake and not offered any more.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub forgotten: Option<Forgotten>,
}
