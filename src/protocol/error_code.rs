//! The body of every answer that is not a success: a code for programs, a sentence for people.

use crate::model::{ChunkId, SnapshotInfo};
use serde::{Deserialize, Serialize};
use std::fmt;

/// Why a call failed. The names are stable; a reader treats an unknown one as [`ErrorCode::Failed`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ErrorCode {
    /// 400: the body or a parameter is not what `protocol.md` says.
    BadRequest,
    /// 400: a feature is required that is unknown here.
    UnknownFeature,
    /// 401: the caller's certificate is not that of a paired device (or there was none).
    NotPaired,
    /// 401: LocalSend's PIN is missing or wrong.
    WrongPin,
    /// 403: a person said no, or nobody answered in time.
    Declined,
    /// 403: paired, but without the right for this.
    NotAllowed,
    /// 403: browsers are not served here.
    BrowserRefused,
    /// 403: the exchange failed. One code and one text, whatever went wrong.
    PairingFailed,
    /// 404: no such route, snapshot or repository.
    NotFound,
    /// 409: chunks are missing; `missing` names up to 4,096 of them.
    MissingChunks,
    /// 409: the record does not follow the head; `head` is that head.
    StalePrevious,
    /// 409: somebody else is pairing, or no window is open for this certificate.
    PairingBusy,
    /// 409: the session waits for a person still.
    NotDecided,
    /// 410: there is no such session (any more), or it belongs to somebody else.
    SessionGone,
    /// 413: larger than a limit.
    TooLarge,
    /// 422: a block, an id or a signature does not match its content.
    Corrupt,
    /// 429: too many requests of this kind.
    TooMany,
    /// 503: shutting down, or too busy.
    Busy,
    /// 507: no space left, or the quota is used up. Nothing old was touched.
    Full,
    /// 500: the receiver's fault; its log says more.
    #[serde(other)]
    Failed,
}

impl ErrorCode {
    /// The name on the wire and in `--json`.
    pub fn name(self) -> &'static str {
        match self {
            Self::BadRequest => "bad-request",
            Self::UnknownFeature => "unknown-feature",
            Self::NotPaired => "not-paired",
            Self::WrongPin => "wrong-pin",
            Self::Declined => "declined",
            Self::NotAllowed => "not-allowed",
            Self::BrowserRefused => "browser-refused",
            Self::PairingFailed => "pairing-failed",
            Self::NotFound => "not-found",
            Self::MissingChunks => "missing-chunks",
            Self::StalePrevious => "stale-previous",
            Self::PairingBusy => "pairing-busy",
            Self::NotDecided => "not-decided",
            Self::SessionGone => "session-gone",
            Self::TooLarge => "too-large",
            Self::Corrupt => "corrupt",
            Self::TooMany => "too-many",
            Self::Failed => "failed",
            Self::Busy => "busy",
            Self::Full => "full",
        }
    }
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The body of every answer that is not a success.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorBody {
    /// For programs.
    pub code: ErrorCode,
    /// For people: what happened, lower case, no full stop.
    pub message: String,
    /// What a person can do about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
    /// With [`ErrorCode::MissingChunks`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub missing: Vec<ChunkId>,
    /// With [`ErrorCode::StalePrevious`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub head: Option<Box<SnapshotInfo>>,
}
