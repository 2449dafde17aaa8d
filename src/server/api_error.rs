//! What a caller gets to hear when a call fails: status, code and a sentence; the cause goes to the log only.

use crate::model::text::clean;
use crate::model::{ChunkId, SnapshotInfo};
use crate::protocol::{ErrorBody, ErrorCode};
use crate::server::limits::SESSION_IDLE;
use crate::server::sessions::Refusal;
use crate::store;
use axum::response::{IntoResponse, Response};
use http::{StatusCode, header};
use std::error::Error as StdError;

/// Ids that one [`ErrorCode::MissingChunks`] names.
const MAX_MISSING_NAMED: usize = 4096;

/// An answer that is not a success.
#[derive(Debug)]
pub(crate) struct ApiError {
    status: StatusCode,
    body: Box<ErrorBody>,
    cause: Option<Box<dyn StdError + Send + Sync>>,
}

impl ApiError {
    /// An answer with this status, code and sentence (lower case, no full stop).
    pub(crate) fn new(status: StatusCode, code: ErrorCode, message: impl Into<String>) -> Self {
        let body = ErrorBody { code, message: message.into(), hint: None, missing: Vec::new(), head: None };
        Self { status, body: Box::new(body), cause: None }
    }

    /// 400.
    pub(crate) fn bad_request(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, ErrorCode::BadRequest, message)
    }

    /// 401.
    pub(crate) fn not_paired() -> Self {
        Self::new(StatusCode::UNAUTHORIZED, ErrorCode::NotPaired, "this device is not paired here")
            .hint("pair the two devices first: `lan-backup pair`")
    }

    /// 403 after a person's no.
    pub(crate) fn declined() -> Self {
        Self::new(StatusCode::FORBIDDEN, ErrorCode::Declined, "the other device's person declined")
    }

    /// 403 for want of a right.
    pub(crate) fn not_allowed(message: impl Into<String>) -> Self {
        Self::new(StatusCode::FORBIDDEN, ErrorCode::NotAllowed, message)
    }

    /// 403, one text for every failed exchange.
    pub(crate) fn pairing_failed() -> Self {
        Self::new(StatusCode::FORBIDDEN, ErrorCode::PairingFailed, "pairing failed")
            .hint("look at the digits on the other screen and try again")
    }

    /// 404.
    pub(crate) fn not_found(message: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, ErrorCode::NotFound, message)
    }

    /// 409 with the chunks that are not there.
    pub(crate) fn missing(mut chunks: Vec<ChunkId>) -> Self {
        let message = format!("{} chunks that the snapshot needs are not there", chunks.len());
        chunks.truncate(MAX_MISSING_NAMED);
        let mut error = Self::new(StatusCode::CONFLICT, ErrorCode::MissingChunks, message);
        error.body.missing = chunks;
        error
    }

    /// 409 with the head that a record must follow.
    pub(crate) fn stale(head: Option<Box<SnapshotInfo>>) -> Self {
        let message = "another snapshot of this set was committed meanwhile";
        let mut error = Self::new(StatusCode::CONFLICT, ErrorCode::StalePrevious, message);
        error.body.head = head;
        error
    }

    /// 413.
    pub(crate) fn too_large(message: impl Into<String>) -> Self {
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, ErrorCode::TooLarge, message)
    }

    /// 422.
    pub(crate) fn corrupt(message: impl Into<String>) -> Self {
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, ErrorCode::Corrupt, message)
    }

    /// 429.
    pub(crate) fn too_many(message: impl Into<String>) -> Self {
        Self::new(StatusCode::TOO_MANY_REQUESTS, ErrorCode::TooMany, message)
    }

    /// 503.
    pub(crate) fn busy(message: impl Into<String>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, ErrorCode::Busy, message)
    }

    /// 507.
    pub(crate) fn full(message: impl Into<String>) -> Self {
        Self::new(StatusCode::INSUFFICIENT_STORAGE, ErrorCode::Full, message)
            .hint("nothing old was touched; make room on the receiving device")
    }

    /// 500; strangers learn no more than that.
    pub(crate) fn failed() -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, ErrorCode::Failed, "the receiving device failed")
            .hint("its log says more")
    }

    /// Adds what a person can do.
    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.body.hint = Some(hint.into());
        self
    }

    /// Adds what the log shall say.
    pub(crate) fn caused_by(mut self, cause: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        self.cause = Some(cause.into());
        self
    }

    /// The sentence.
    pub(crate) fn message(&self) -> &str {
        &self.body.message
    }

    /// The code.
    pub(crate) fn code(&self) -> ErrorCode {
        self.body.code
    }

    /// The same with another status.
    pub(crate) fn with_status(mut self, status: StatusCode) -> Self {
        self.status = status;
        self
    }

    /// The status.
    pub(crate) fn status(&self) -> StatusCode {
        self.status
    }
}

impl From<Refusal> for ApiError {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Gone => Self::new(StatusCode::GONE, ErrorCode::SessionGone, "there is no such session any more"),
            Refusal::NotDecided => {
                Self::new(StatusCode::CONFLICT, ErrorCode::NotDecided, "the session waits for a person still")
            }
            Refusal::Declined => Self::declined(),
            // Live ones never make room, and one whose device was switched off in the middle looks like them.
            Refusal::TooMany => Self::too_many("too many sessions at once").hint(format!(
                "what was cut off is forgotten {} minutes after it was heard of last: run the command again then",
                SESSION_IDLE.as_secs() / 60
            )),
            Refusal::Busy => Self::busy("too many calls at once"),
            Refusal::WrongKind => Self::bad_request("a restore session does not take this call"),
            Refusal::KeyReused => Self::bad_request("the idempotency key belongs to another request"),
        }
    }
}

impl From<store::Error> for ApiError {
    fn from(error: store::Error) -> Self {
        use store::Error as E;
        match error {
            E::Missing(chunks) => Self::missing(chunks),
            E::Stale(head) => Self::stale(head),
            E::NotFound(chunk) => Self::not_found(format!("chunk {chunk} is not there")),
            E::NoRepository(_) => Self::not_found("the repository is not there"),
            // What was sent is wrong.
            E::Block(source) => Self::corrupt("a block is not what it says it is").caused_by(source),
            E::Record(source) => Self::corrupt("the record or its signature is not valid").caused_by(source),
            E::Refused(why) => Self::bad_request(format!("the record was refused: {}", clean(&why))),
            E::UnknownSigner => {
                Self::not_allowed("the record is signed by a key that does not belong to this repository")
            }
            E::TooLarge { what, limit } => Self::too_large(format!("{what} is larger than {limit} bytes")),
            E::Unusable { .. } => {
                let message = "a backup that is, or may be, the one asked for is there, and a file of it is damaged, so that it cannot be used";
                let damaged = Self::new(StatusCode::INTERNAL_SERVER_ERROR, ErrorCode::Corrupt, message);
                damaged
                    .hint("run `lan-backup repair` on the receiving device; nothing of what was backed up is given up")
                    .caused_by(error)
            }
            // What lies here is wrong: not the caller's fault, but the caller must know that it is not a passing matter.
            error if error.is_damage() => {
                let (status, message) = (StatusCode::INTERNAL_SERVER_ERROR, "what is stored here is damaged");
                Self::new(status, ErrorCode::Corrupt, message).hint("run `lan-backup verify` there").caused_by(error)
            }
            E::Platform(source) if source.is_full() => {
                Self::full("the receiving device's disk is full").caused_by(source)
            }
            E::Closed | E::NotDurable(_) => {
                Self::busy("the receiving device could not keep what was sent; send it again").caused_by(error)
            }
            error => Self::failed().caused_by(error),
        }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let Self { status, body, cause } = self;
        let code = body.code;
        let error = cause.as_ref().map(|cause| chain(cause.as_ref()));
        // A full disk, a busy device and a body that came short are said elsewhere, and nothing here has failed.
        if status.is_server_error() && matches!(code, ErrorCode::Failed | ErrorCode::Corrupt) {
            tracing::error!(%code, error, "call failed");
        } else {
            tracing::debug!(%code, error, "call refused");
        }
        let json = serde_json::to_vec(&body).expect("an error body has only string keys");
        (status, [(header::CONTENT_TYPE, "application/json")], json).into_response()
    }
}

/// An error with its sources, cleaned for the log: some of it may be a peer's text.
fn chain(error: &(dyn StdError + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text.push_str(": ");
        text.push_str(&error.to_string());
        source = error.source();
    }
    clean(&text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_has_too_many_sessions_hears_when_there_is_room_again() {
        let hint = ApiError::from(Refusal::TooMany).body.hint.unwrap();
        assert!(hint.contains("forgotten 10 minutes after"), "{hint}");
    }
}
