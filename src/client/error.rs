//! What can go wrong when another device is called: facts for programs, a sentence and a hint for people.

use crate::identity::{self, WrongFingerprint};
use crate::model::text::clean;
use crate::model::{ChunkId, Fingerprint};
use crate::protocol::localsend::Trouble;
use crate::protocol::{ErrorBody, ErrorCode};
use crate::vault;
use http::StatusCode;

/// Characters of a stranger's sentence that are kept.
const MAX_SENTENCE_CHARS: usize = 500;

/// Any error, from whatever library.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Why a call to another device failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It answered, and the answer is no. The sentence was cleaned and cut.
    #[error("{}", body.message)]
    Answer {
        /// The status of the answer.
        status: StatusCode,
        /// What it says.
        body: Box<ErrorBody>,
    },
    /// Another device answered at that address; nothing was sent to it.
    #[error("another device answered: its fingerprint is {found} instead of {expected}")]
    WrongFingerprint {
        /// Whom we wanted.
        expected: Fingerprint,
        /// Who answered.
        found: Fingerprint,
    },
    /// No connection could be made.
    #[error("the other device cannot be reached")]
    Offline(#[source] BoxError),
    /// The connection broke while it was used.
    #[error("the connection to the other device broke")]
    Broken(#[source] BoxError),
    /// The other device stopped moving.
    #[error("the other device took too long to {0}")]
    TimedOut(&'static str),
    /// The answer is not what the protocol says.
    #[error("the other device answered {0}")]
    NotUnderstood(String),
    /// Chunks came with more beside them, or unpack to more, than an honest answer has.
    #[error("the other device sends more than was asked for: over {0} bytes")]
    TooMuch(u64),
    /// The answer was whole, and chunks that were asked for are not in it.
    #[error("{} chunks that were asked for are not there", .0.len())]
    ChunksMissing(Vec<ChunkId>),
    /// This end could not go on.
    #[error("{0}")]
    Failed(&'static str, #[source] BoxError),
    /// The other device's person said no, or did not answer in time.
    #[error("the other device declined to be paired")]
    PairingDeclined,
    /// The PIN was wrong.
    #[error("the PIN was wrong; {}", tries(*attempts_left))]
    WrongPin {
        /// Tries left in this window.
        attempts_left: u8,
    },
    /// The PIN was not typed in time, or the other side took it back.
    #[error("the PIN is no longer valid")]
    PinExpired,
    /// The person (or the file) gave no PIN.
    #[error("no PIN was given")]
    NoPin(#[source] BoxError),
    /// Somebody sits between the two devices: the other side sees another certificate than ours.
    #[error("somebody sits between the two devices")]
    Intercepted,
    /// The exchange or the identity failed.
    #[error(transparent)]
    Identity(#[from] identity::Error),
}

/// What [`Error`] is for.
pub type Result<T, E = Error> = std::result::Result<T, E>;

fn tries(left: u8) -> String {
    match left {
        0 => "no try is left".to_owned(),
        1 => "one try is left".to_owned(),
        n => format!("{n} tries are left"),
    }
}

impl Error {
    /// An answer that is not a success, from the parts that were read of it. Bodies of other programs become a sentence too.
    pub(crate) fn from_answer(status: StatusCode, body: &[u8]) -> Self {
        let body = serde_json::from_slice::<ErrorBody>(body).unwrap_or_else(|_| ErrorBody {
            code: code_of(status),
            // LocalSend apps give a message and no code.
            message: match serde_json::from_slice::<Trouble>(body) {
                Ok(trouble) if !trouble.message.is_empty() => {
                    format!("the other device answered {status}: {}", trouble.message)
                }
                _ => format!("the other device answered {status}"),
            },
            hint: None,
            missing: Vec::new(),
            head: None,
        });
        let shorten = |text: &str| clean(text).chars().take(MAX_SENTENCE_CHARS).collect::<String>();
        let body = ErrorBody { message: shorten(&body.message), hint: body.hint.as_deref().map(shorten), ..body };
        Self::Answer { status, body: Box::new(body) }
    }

    /// Sorts an error of the connection: a wrong certificate, never connected, or broken on the way.
    pub(crate) fn from_connection(error: impl Into<BoxError>, connecting: Connecting) -> Self {
        let error: BoxError = error.into();
        match (WrongFingerprint::find(error.as_ref()), connecting) {
            (Some(WrongFingerprint { expected, found }), _) => Self::WrongFingerprint { expected, found },
            (None, Connecting::Yes) => Self::Offline(error),
            (None, Connecting::No) => Self::Broken(error),
        }
    }

    /// Whether the same call may work a little later.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Offline(_) | Self::Broken(_) | Self::TimedOut(_) => true,
            Self::Answer { status, body } => {
                // The other side has cut off a body that stood still on the way, while this end still thought that it moved.
                let cut = *status == StatusCode::REQUEST_TIMEOUT;
                cut || body.code == ErrorCode::Busy
                    || matches!(*status, StatusCode::BAD_GATEWAY | StatusCode::SERVICE_UNAVAILABLE)
            }
            _ => false,
        }
    }

    /// Whether the line is to blame: smaller pieces are less in danger.
    pub(crate) fn is_the_lines_fault(&self) -> bool {
        match self {
            Self::Broken(_) | Self::TimedOut(_) => true,
            Self::Answer { status, .. } => *status == StatusCode::REQUEST_TIMEOUT,
            _ => false,
        }
    }

    /// Whether no connection came about, so that nothing of the call has arrived.
    pub(crate) fn is_unconnected(&self) -> bool {
        matches!(self, Self::Offline(_) | Self::WrongFingerprint { .. })
    }

    /// The code in the other device's answer, when it gave one.
    pub fn answer(&self) -> Option<ErrorCode> {
        match self {
            Self::Answer { body, .. } => Some(body.code),
            _ => None,
        }
    }

    /// A stable name for programs (`--json`): that of the answer, or one of our own.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Answer { body, .. } => body.code.name(),
            Self::WrongFingerprint { .. } => "wrong-fingerprint",
            Self::Offline(_) | Self::Broken(_) => "offline",
            Self::TimedOut(_) => "timed-out",
            Self::NotUnderstood(_) | Self::TooMuch(_) => "not-understood",
            Self::ChunksMissing(_) => ErrorCode::MissingChunks.name(),
            Self::Failed(..) => ErrorCode::Failed.name(),
            Self::PairingDeclined => ErrorCode::Declined.name(),
            Self::WrongPin { .. } | Self::Identity(identity::Error::Pairing) => ErrorCode::PairingFailed.name(),
            Self::PinExpired => "pin-expired",
            Self::NoPin(_) => "no-pin",
            Self::Intercepted => "intercepted",
            Self::Identity(_) => "identity",
        }
    }

    /// What a person can do about it.
    pub fn hint(&self) -> Option<String> {
        let hint = match self {
            Self::Answer { body, .. } => return body.hint.clone().or_else(|| hint_for(body.code).map(str::to_owned)),
            Self::Identity(error) => return error.hint(),
            Self::WrongFingerprint { .. } => {
                "if that device was set up anew, unpair it here and pair it again; otherwise look for it under another address"
            }
            Self::Offline(_) | Self::Broken(_) | Self::TimedOut(_) => {
                "is it switched on, in the same network, and does `lan-backup serve` run there?"
            }
            Self::NotUnderstood(_) | Self::TooMuch(_) => {
                "is it lan-backup that answers there, and is it the same version?"
            }
            Self::PairingDeclined | Self::WrongPin { attempts_left: 0 } | Self::PinExpired => "start the pairing again",
            Self::WrongPin { .. } => "look at the digits on the other screen and try again",
            Self::Intercepted => "do not type the PIN; find out which device relays this connection",
            Self::ChunksMissing(_) => "look after the store on the other device: `lan-backup verify` there",
            Self::NoPin(_) => "the other screen shows six digits; where nobody can type them, give --pin-file FILE",
            Self::Failed(..) => return None,
        };
        Some(hint.to_owned())
    }
}

/// Whether a connection was still being made when it failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Connecting {
    Yes,
    No,
}

fn code_of(status: StatusCode) -> ErrorCode {
    match status.as_u16() {
        400 => ErrorCode::BadRequest,
        401 => ErrorCode::NotPaired,
        403 => ErrorCode::NotAllowed,
        404 => ErrorCode::NotFound,
        410 => ErrorCode::SessionGone,
        413 => ErrorCode::TooLarge,
        429 => ErrorCode::TooMany,
        502 | 503 => ErrorCode::Busy,
        507 => ErrorCode::Full,
        _ => ErrorCode::Failed,
    }
}

fn hint_for(code: ErrorCode) -> Option<&'static str> {
    match code {
        ErrorCode::NotPaired => Some("pair the two devices first: `lan-backup pair DEVICE`"),
        ErrorCode::SessionGone => Some("run the command again: what has arrived is not sent twice"),
        ErrorCode::NotAllowed => Some("the rights are given on the other device: `lan-backup trust`"),
        ErrorCode::Full => Some("make space on the other device: `lan-backup prune` there"),
        _ => None,
    }
}

impl From<Error> for vault::Error {
    fn from(error: Error) -> Self {
        match error {
            Error::Answer { status, body } => {
                let ErrorBody { code, message, hint, missing, head } = *body;
                match code {
                    ErrorCode::MissingChunks => Self::Missing(missing),
                    ErrorCode::StalePrevious => Self::Stale(head),
                    ErrorCode::Full => Self::Full(message),
                    // The vault's own sentence goes on with these words.
                    ErrorCode::NotFound => match message.strip_suffix(" is not there") {
                        Some(what) => Self::NotFound(what.to_owned()),
                        None => Self::NotFound(format!("what was asked for ({message})")),
                    },
                    // The other device's sentence speaks of "here", and says no more than that.
                    ErrorCode::Corrupt => Self::Corrupt("what the other device keeps of it".to_owned()),
                    ErrorCode::Busy => Self::Offline(message.into()),
                    ErrorCode::Failed => Self::Failed(message, None),
                    _ => {
                        let body = Box::new(ErrorBody { code, message, hint, missing, head });
                        Self::Refused(Box::new(Error::Answer { status, body }))
                    }
                }
            }
            Error::Offline(_) | Error::Broken(_) | Error::TimedOut(_) => Self::Offline(Box::new(error)),
            Error::ChunksMissing(ids) if ids.len() == 1 => Self::NotFound(format!("chunk {}", ids[0])),
            Error::ChunksMissing(ids) => Self::NotFound(format!("one of {} chunks", ids.len())),
            // A length in the snapshot may be what is wrong: chunk by chunk the rest may come.
            Error::TooMuch(_) => Self::Corrupt(format!("a part of the backup ({error})")),
            Error::Failed(what, source) => Self::Failed(what.to_owned(), Some(source)),
            other => Self::Refused(Box::new(other)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(status: u16, body: &str) -> Error {
        Error::from_answer(StatusCode::from_u16(status).unwrap(), body.as_bytes())
    }

    #[test]
    fn a_strangers_sentence_is_cleaned_and_cut() {
        let long = "x".repeat(10_000);
        let body = format!(r#"{{"code":"declined","message":"\u001b[31mno{long}","hint":"\u202e{long}"}}"#);
        let error = answer(403, &body);
        assert!(error.to_string().chars().count() <= MAX_SENTENCE_CHARS);
        assert!(!error.to_string().contains('\u{1b}'));
        assert!(!error.hint().unwrap().contains('\u{202e}'));
        assert_eq!(error.answer(), Some(ErrorCode::Declined));
    }

    #[test]
    fn answers_of_other_programs_become_a_code_and_a_sentence() {
        let error = answer(404, "<html>");
        assert_eq!(
            (error.code(), error.to_string().as_str()),
            ("not-found", "the other device answered 404 Not Found")
        );
        assert!(answer(503, "").is_transient() && !answer(500, "").is_transient());
        assert!(!answer(429, "").is_transient());
        assert!(answer(408, "").is_transient() && answer(408, "").is_the_lines_fault());
    }

    #[test]
    fn a_code_of_a_later_version_is_a_failure() {
        assert_eq!(answer(418, r#"{"code":"teapot","message":"short and stout"}"#).answer(), Some(ErrorCode::Failed));
    }

    #[test]
    fn the_vault_learns_the_kind_and_what_is_missing() {
        let id = ChunkId::from_bytes([7; 32]);
        let body = format!(r#"{{"code":"missing-chunks","message":"m","missing":["{id}"]}}"#);
        assert!(matches!(answer(409, &body).into(), vault::Error::Missing(ids) if ids == [id]));
        let say = |code: &str| vault::Error::from(answer(400, &format!(r#"{{"code":"{code}","message":"m"}}"#)));
        assert!(matches!(say("stale-previous"), vault::Error::Stale(None)));
        assert!(matches!(say("full"), vault::Error::Full(_)));
        assert!(matches!(say("not-found"), vault::Error::NotFound(_)));
        let absent = r#"{"code":"not-found","message":"snapshot 12 is not there"}"#;
        assert_eq!(vault::Error::from(answer(404, absent)).to_string(), "snapshot 12 is not there");
        assert_eq!(say("corrupt").to_string(), "what the other device keeps of it is damaged");
        assert!(matches!(say("busy"), vault::Error::Offline(_)));
        for code in ["session-gone", "declined", "not-allowed", "not-paired", "too-large"] {
            assert!(matches!(say(code), vault::Error::Refused(_)), "{code}");
        }
    }
}
