//! The messages of a session: manifest first, then chunks, then the record.

use crate::model::snapshot::Root;
use crate::model::{
    Changes, IdempotencyKey, OwnerEvent, RepositoryId, RepositoryParameters, SessionId, SetName, SignedRecord,
    SnapshotId, SnapshotInfo, Totals,
};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// The first line of the body of `prepare-upload`. The body is a zstd stream of lines: this, then one
/// [`Entry`](crate::model::Entry) without content for each entry whose content will be sent, in path order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PrepareUpload {
    /// [`API_VERSION`](crate::protocol::API_VERSION).
    pub api: u32,
    /// Features without which the source cannot go on; an unknown one is refused.
    #[serde(default)]
    pub required_features: Vec<String>,
    /// The same for every repeat of one request.
    pub idempotency_key: IdempotencyKey,
    /// Which repository; without one, the caller's own, which is made when there is none yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repository: Option<RepositoryId>,
    /// Which set.
    pub set: SetName,
    /// Its roots on the source.
    pub roots: Vec<Root>,
    /// The snapshot that it was compared with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<SnapshotId>,
    /// The whole of what the snapshot will hold.
    pub totals: Totals,
    /// Compared with `parent`.
    pub changes: Changes,
    /// Plain bytes of the files whose content will be read; at most this much arrives, and usually far less.
    pub bytes_to_send: u64,
}

/// `prepare-download`: asks to read a repository.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PrepareDownload {
    /// Whose backup: an alias or the beginning of a fingerprint or of a repository id; without it, the caller's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub of: Option<String>,
    /// The person at the caller says that this device takes the place of the other one (it may then continue its backups).
    #[serde(default)]
    pub adopt: bool,
    /// The same for every repeat of one request.
    pub idempotency_key: Option<IdempotencyKey>,
}

/// `prepare-copy`: asks to bring a copy of a repository, or to bring one that is there up to date.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PrepareCopy {
    /// Its id, and where it is cut.
    pub repository: RepositoryParameters,
    /// Whose it was and is, as its holder's owner log says.
    pub owner_log: Vec<OwnerEvent>,
}

/// Body of `finish`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Finish {
    /// What is committed.
    #[serde(flatten)]
    pub signed: SignedRecord,
    /// Of a copy: only the record is kept; its chunks are not there.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub without_data: bool,
}

/// Answer to `prepare-upload`, `prepare-copy`, `prepare-download` (200 when open, 202 when waiting) and `GET sessions/{id}`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SessionAnswer {
    /// Names the session in the header of later calls.
    pub session: SessionId,
    /// Whether it may be used yet.
    pub state: SessionState,
    /// [`API_VERSION`](crate::protocol::API_VERSION) of the receiver.
    pub api: u32,
    /// What both sides can do.
    #[serde(default)]
    pub features: Vec<String>,
    /// Numbers of the receiver that the source keeps to.
    pub limits: SessionLimits,
    /// Once open: the repository.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repository: Option<RepositoryParameters>,
    /// Once open, for a backup: the newest snapshot of the set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub head: Option<SnapshotInfo>,
}

/// Whether a session may be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SessionState {
    /// A person has not answered yet.
    Waiting,
    /// Go on.
    Open,
}

/// Numbers of the receiver that the source keeps to; the smaller of both sides' holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SessionLimits {
    /// Bytes of one upload.
    pub max_upload_bytes: u64,
    /// Ids of one `missing` or `chunks` call.
    pub max_ids: usize,
    /// Calls under way at once.
    pub parallel_calls: usize,
}

/// Answer to `upload`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Uploaded {
    /// Chunks that were new.
    pub chunks: u64,
}

/// Answer to `finish`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Finished {
    /// The snapshot exists from now on.
    pub snapshot: SnapshotId,
    /// By the receiver's clock.
    pub received_at: Timestamp,
}

/// Query of `GET sessions/{id}`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct WaitQuery {
    /// Seconds to wait for a decision, at most 30.
    #[serde(default)]
    pub wait: u8,
}
