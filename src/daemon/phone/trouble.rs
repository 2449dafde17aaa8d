//! Why a LocalSend app took nothing, or no more, in the words of its own world: it has no rights, no pairing and no `lan-backup` to run.

use crate::client;
use http::StatusCode;
use std::error::Error as StdError;

/// What stopped a transfer to an app.
#[derive(Debug, thiserror::Error)]
pub enum Trouble {
    /// 403 to the offer.
    #[error("the person at the other device declined, or its app takes nothing now")]
    Declined,
    /// 409 to the offer.
    #[error("the app on the other device is busy with another transfer, or waits for an answer about one")]
    Busy,
    /// 429 to the offer.
    #[error("the app on the other device has seen too many wrong PINs")]
    TooManyPins,
    /// Another PIN than that was wanted.
    #[error("the PIN was wrong")]
    WrongPin,
    /// A PIN is wanted, and nobody gave one.
    #[error("the app on the other device asks for a PIN, and none was given")]
    NoPin(#[source] Box<dyn StdError + Send + Sync>),
    /// It agreed, and then refused one file after the other.
    #[error("the app on the other device has ended the transfer: {arrived} of {wanted} files had arrived")]
    Ended {
        /// Files that are there.
        arrived: u64,
        /// Files that it had agreed to.
        wanted: u64,
    },
    /// A call failed in another way.
    #[error(transparent)]
    Call(client::Error),
}

impl Trouble {
    /// What the answer to an offer means.
    pub(crate) fn of_offer(error: client::Error) -> Self {
        match status(&error) {
            Some(StatusCode::FORBIDDEN) => Self::Declined,
            Some(StatusCode::CONFLICT) => Self::Busy,
            Some(StatusCode::TOO_MANY_REQUESTS) => Self::TooManyPins,
            _ => Self::Call(error),
        }
    }

    /// A stable name for programs.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Declined => "declined",
            Self::Busy => "busy",
            Self::TooManyPins => "too-many",
            Self::WrongPin => "wrong-pin",
            Self::NoPin(_) => "no-pin",
            Self::Ended { .. } => "session-gone",
            Self::Call(error) => error.code(),
        }
    }

    /// What a person can do about it.
    pub fn hint(&self) -> Option<String> {
        let hint = match self {
            Self::Declined => "run the same command again and say yes on the screen there",
            Self::Busy => "let that transfer end, or close it on the screen there; then run the same command again",
            Self::TooManyPins => {
                "wait a few minutes, or close the app there and open it again; then run the same command again"
            }
            Self::WrongPin => {
                "it is the one that the settings of the LocalSend app there show under \"Require PIN\"; run the same command again"
            }
            Self::NoPin(_) => {
                "it is the one that the settings of the LocalSend app there show; where nobody can type it, give --pin-file FILE"
            }
            Self::Ended { .. } => {
                "was it cancelled there, or the app closed? Run the same command again for the rest: LocalSend apps take whole \
                 transfers, and what has arrived may be offered again"
            }
            Self::Call(client::Error::Answer { body, .. }) => {
                let first = "the app there could not go on: is there room, and may it write to its folder? Then run the same command again";
                return Some(body.hint.clone().unwrap_or_else(|| first.to_owned()));
            }
            Self::Call(client::Error::Offline(_) | client::Error::Broken(_) | client::Error::TimedOut(_)) => {
                "is the LocalSend app open there, the screen on, and the device in the same network?"
            }
            Self::Call(client::Error::WrongFingerprint { .. }) => {
                "an app that was installed anew has another certificate: look with `lan-backup devices`, and run the same command again"
            }
            Self::Call(client::Error::NotUnderstood(_) | client::Error::TooMuch(_)) => {
                "is it a LocalSend app of the last years (protocol 2) that answers there?"
            }
            Self::Call(error) => return error.hint(),
        };
        Some(hint.to_owned())
    }
}

/// Whether an upload that failed so may be tried again: a line that broke, a hash that does not match, and 500, which apps answer to a
/// body that came short.
pub(crate) fn may_pass(error: &client::Error) -> bool {
    let of_its_own = [StatusCode::UNPROCESSABLE_ENTITY, StatusCode::INTERNAL_SERVER_ERROR];
    error.is_transient() || status(error).is_some_and(|status| of_its_own.contains(&status))
}

/// Whether an upload was refused as apps do it when its session is none any more; some refuse a single file so, too.
pub(crate) fn is_refusal(error: &client::Error) -> bool {
    matches!(status(error), Some(StatusCode::FORBIDDEN | StatusCode::CONFLICT | StatusCode::NOT_FOUND))
}

fn status(error: &client::Error) -> Option<StatusCode> {
    match error {
        client::Error::Answer { status, .. } => Some(*status),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_phone_answers_has_hints_for_phones() {
        let answer = |status: u16| {
            let status = StatusCode::from_u16(status).unwrap();
            Trouble::of_offer(client::Error::from_answer(status, br#"{"message":"no"}"#))
        };
        for (trouble, code) in [
            (answer(403), "declined"),
            (answer(409), "busy"),
            (answer(429), "too-many"),
            (answer(500), "failed"),
            (Trouble::WrongPin, "wrong-pin"),
            (Trouble::NoPin("no terminal".into()), "no-pin"),
            (Trouble::Ended { arrived: 1, wanted: 3 }, "session-gone"),
            (Trouble::Call(client::Error::Offline("no".into())), "offline"),
            (Trouble::Call(client::Error::NotUnderstood("nothing".to_owned())), "not-understood"),
        ] {
            let hint = trouble.hint().unwrap();
            assert_eq!(trouble.code(), code, "{trouble}");
            for ours in ["lan-backup trust", "lan-backup serve", "pairing", "six digits", "unpair"] {
                assert!(!hint.contains(ours) && !trouble.to_string().contains(ours), "{trouble}: {hint}");
            }
        }
        let ours = br#"{"code":"full","message":"full","hint":"make space"}"#;
        let ours = client::Error::from_answer(StatusCode::INTERNAL_SERVER_ERROR, ours);
        assert_eq!(Trouble::of_offer(ours).hint().unwrap(), "make space");
    }
}
