//! Identifiers that are hashes: 32 bytes, shown as 64 lower-case hex digits.

use crate::model::ParseError;
use crate::model::json_text::JsonText;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;
use std::str::FromStr;

const DIGITS: &[u8; 16] = b"0123456789abcdef";

/// Lower-case hex of `bytes`.
pub fn to_hex(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        text.push(char::from(DIGITS[usize::from(byte >> 4)]));
        text.push(char::from(DIGITS[usize::from(byte & 15)]));
    }
    text
}

/// The bytes behind `text`; `None` unless it is exactly `2 * N` hex digits of either case.
pub fn from_hex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let digits = text.as_bytes();
    if digits.len() != 2 * N {
        return None;
    }
    let value = |digit: u8| char::from(digit).to_digit(16).map(|v| v as u8);
    let mut bytes = [0; N];
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = value(pair[0])? << 4 | value(pair[1])?;
    }
    Some(bytes)
}

macro_rules! digest {
    ($(#[$doc:meta])* $name:ident, $what:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name([u8; 32]);

        impl $name {
            /// Length in bytes.
            pub const LENGTH: usize = 32;

            /// Takes the 32 bytes as they are; whether they are the hash of anything is for the caller to know.
            pub const fn from_bytes(bytes: [u8; 32]) -> Self {
                Self(bytes)
            }

            /// The raw bytes.
            pub const fn as_bytes(&self) -> &[u8; 32] {
                &self.0
            }

            /// The first eight hex digits: enough for a person to tell two apart, never enough to address by.
            pub fn short(&self) -> String {
                to_hex(&self.0[..4])
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&to_hex(&self.0))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({})", stringify!($name), self.short())
            }
        }

        impl FromStr for $name {
            type Err = ParseError;

            fn from_str(text: &str) -> Result<Self, ParseError> {
                from_hex(text).map(Self).ok_or_else(|| ParseError::new($what, text, "is not 64 hex digits"))
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&to_hex(&self.0))
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = JsonText::deserialize(deserializer)?;
                text.0.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}

digest!(
    /// What a chunk is called: BLAKE3 of its plain bytes (keyed in an encrypted repository, where it is opaque to the receiver).
    ChunkId,
    "chunk id"
);
digest!(
    /// What a pack is called: BLAKE3 of its trailer, which in turn holds the [`StoredHash`] of each of its blocks.
    PackId,
    "pack id"
);
digest!(
    /// What a snapshot is called: BLAKE3 of the exact bytes of its record.
    SnapshotId,
    "snapshot id"
);
digest!(
    /// BLAKE3 of a block's bytes as they are stored, so that bit rot is found without any key.
    StoredHash,
    "stored hash"
);
digest!(
    /// SHA-256 of a file's content, as LocalSend apps give it.
    ContentHash,
    "content hash"
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn display_and_parse_are_inverse() {
        let id = ChunkId::from_bytes(std::array::from_fn(|i| (i * 7) as u8));
        assert_eq!(id.to_string().parse::<ChunkId>().unwrap(), id);
        assert_eq!(serde_json::from_str::<ChunkId>(&serde_json::to_string(&id).unwrap()).unwrap(), id);
    }

    #[test]
    fn other_lengths_and_letters_are_refused() {
        for text in ["", "00", &"g".repeat(64), &"0".repeat(65), &"é".repeat(32)] {
            assert!(text.parse::<SnapshotId>().is_err(), "{text}");
        }
    }
}
