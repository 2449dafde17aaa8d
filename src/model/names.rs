//! Names that people or devices choose: sets, repositories, sessions.

use crate::model::ParseError;
use crate::model::digest::{from_hex, to_hex};
use crate::model::limits::MAX_SET_NAME_BYTES;
use crate::model::text::is_printable;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// The name of a set: 1 to 100 bytes of UTF-8 without control, format or separator characters, `/` or `\`, and without
/// white space at its ends. It is shown to people and typed by them, so it is one clean line by construction.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SetName(String);

impl SetName {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for SetName {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let refuse = |problem| Err(ParseError::new("set name", text, problem));
        if text.is_empty() {
            return refuse("is empty");
        }
        if text.len() > MAX_SET_NAME_BYTES {
            return refuse("is longer than 100 bytes");
        }
        if text.trim() != text {
            return refuse("begins or ends with white space");
        }
        if !text.chars().all(|c| is_printable(c) && c != '/' && c != '\\') {
            return refuse("holds a slash or a character that cannot be shown");
        }
        Ok(Self(text.to_owned()))
    }
}

impl TryFrom<String> for SetName {
    type Error = ParseError;

    fn try_from(text: String) -> Result<Self, ParseError> {
        text.parse()
    }
}

impl From<SetName> for String {
    fn from(name: SetName) -> Self {
        name.0
    }
}

impl fmt::Display for SetName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

macro_rules! random_id {
    ($(#[$doc:meta])* $name:ident, $what:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name([u8; 16]);

        impl $name {
            /// Takes 16 bytes, which must come from the operating system's random source.
            pub const fn from_random(bytes: [u8; 16]) -> Self {
                Self(bytes)
            }
        }

        impl FromStr for $name {
            type Err = ParseError;

            fn from_str(text: &str) -> Result<Self, ParseError> {
                from_hex(text).map(Self).ok_or_else(|| ParseError::new($what, text, "is not 32 hex digits"))
            }
        }

        impl TryFrom<String> for $name {
            type Error = ParseError;

            fn try_from(text: String) -> Result<Self, ParseError> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> Self {
                to_hex(&id.0)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&to_hex(&self.0))
            }
        }
    };
}

random_id!(
    /// Names a repository for ever: 128 random bits, shown as 32 hex digits.
    RepositoryId,
    "repository id"
);
random_id!(
    /// Names a session: 128 random bits, worthless without the certificate it is bound to, and still not shown by `Debug`.
    SessionId,
    "session id"
);
random_id!(
    /// Chosen by the source for one `prepare-upload`, so that asking again after a lost answer does not prompt twice.
    IdempotencyKey,
    "idempotency key"
);

impl fmt::Debug for RepositoryId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RepositoryId({})", to_hex(&self.0[..4]))
    }
}

impl fmt::Debug for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SessionId(…)")
    }
}

impl fmt::Debug for IdempotencyKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("IdempotencyKey(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn set_names_are_one_clean_line() {
        for good in ["Documents", "my photos 2024", "été", "a.b"] {
            assert_eq!(good.parse::<SetName>().unwrap().to_string(), good);
        }
        for bad in ["", " x", "x ", "a/b", "a\\b", "a\nb", "a\u{1b}[2J", "a\u{202e}b", &"x".repeat(101)] {
            assert!(bad.parse::<SetName>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_session_id_is_never_formatted_for_debugging() {
        assert_eq!(format!("{:?}", SessionId::from_random([0xab; 16])), "SessionId(…)");
    }
}
