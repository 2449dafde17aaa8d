//! Devices: who they are (a fingerprint) and what they say about themselves (everything else).

use crate::model::ParseError;
use crate::model::digest::from_hex;
use crate::model::limits::MAX_ALIAS_CHARS;
use crate::model::text::is_printable;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;

/// The identity of a device: SHA-256 of its certificate (DER), shown as 64 upper-case hex digits as LocalSend does.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Fingerprint([u8; 32]);

impl Fingerprint {
    /// Takes a SHA-256 digest.
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The digest.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The short code that two people compare on two screens.
    pub fn short_code(&self) -> ShortCode {
        // Crockford's base 32: no letter that is mistaken for a digit.
        const LETTERS: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";
        let bits = self.0[..5].iter().fold(0_u64, |bits, byte| bits << 8 | u64::from(*byte));
        ShortCode(std::array::from_fn(|i| LETTERS[(bits >> (35 - 5 * i) & 31) as usize]))
    }

    /// Whether `prefix` (hex digits of either case, at least four) begins this fingerprint.
    pub fn begins_with(&self, prefix: &str) -> bool {
        prefix.len() >= 4 && self.to_string().starts_with(&prefix.to_ascii_uppercase())
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02X}"))
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Fingerprint({})", self.short_code())
    }
}

impl FromStr for Fingerprint {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        from_hex(text).map(Self).ok_or_else(|| ParseError::new("fingerprint", text, "is not 64 hex digits"))
    }
}

impl TryFrom<String> for Fingerprint {
    type Error = ParseError;

    fn try_from(text: String) -> Result<Self, ParseError> {
        text.parse()
    }
}

impl From<Fingerprint> for String {
    fn from(fingerprint: Fingerprint) -> Self {
        fingerprint.to_string()
    }
}

/// The first 40 bits of a fingerprint as eight letters in two groups (`K7QM-2XRT`), for people to compare.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ShortCode([u8; 8]);

impl fmt::Display for ShortCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let letters: String = self.0.iter().map(|b| char::from(*b)).collect();
        write!(f, "{}-{}", &letters[..4], &letters[4..])
    }
}

impl fmt::Debug for ShortCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ShortCode({self})")
    }
}

impl FromStr for ShortCode {
    type Err = ParseError;

    /// Eight letters of Crockford's base 32 in either case, dashes and blanks ignored.
    fn from_str(text: &str) -> Result<Self, ParseError> {
        let letters: Vec<u8> = text.trim().to_ascii_uppercase().bytes().filter(|b| !matches!(b, b'-' | b' ')).collect();
        let valid = |b: &u8| b.is_ascii_digit() || (b.is_ascii_uppercase() && !b"ILOU".contains(b));
        match <[u8; 8]>::try_from(letters) {
            Ok(letters) if letters.iter().all(valid) => Ok(Self(letters)),
            _ => Err(ParseError::new("short code", text, "is not of the form `K7QM-2XRT`")),
        }
    }
}

impl TryFrom<String> for ShortCode {
    type Error = ParseError;

    fn try_from(text: String) -> Result<Self, ParseError> {
        text.parse()
    }
}

impl From<ShortCode> for String {
    fn from(code: ShortCode) -> Self {
        code.to_string()
    }
}

/// What a device calls itself: 1 to 64 printable characters. Decoration only; never a key to anything.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(from = "String", into = "String")]
pub struct Alias(String);

impl Alias {
    /// Makes an alias of whatever was said: strips what cannot be shown, cuts to 64 characters, and says `unnamed` when
    /// nothing is left. Never fails, because an alias is not worth losing a device over.
    pub fn new(text: &str) -> Self {
        let kept: String = text.chars().filter(|c| is_printable(*c)).take(MAX_ALIAS_CHARS).collect();
        match kept.trim() {
            "" => Self("unnamed".to_owned()),
            trimmed => Self(trimmed.to_owned()),
        }
    }

    /// The alias as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl From<String> for Alias {
    fn from(text: String) -> Self {
        Self::new(&text)
    }
}

impl From<Alias> for String {
    fn from(alias: Alias) -> Self {
        alias.0
    }
}

impl fmt::Display for Alias {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Alias {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Alias({})", self.0)
    }
}

/// Which program a device runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DeviceKind {
    /// This program: backups, restores.
    LanBackup,
    /// A stock LocalSend app.
    #[serde(rename = "localsend")]
    LocalSend,
}

impl fmt::Display for DeviceKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::LanBackup => "lan-backup",
            Self::LocalSend => "localsend",
        })
    }
}

/// A device as it was last seen or as a person named it. Only a handshake proves the fingerprint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    /// What it calls itself.
    pub alias: Alias,
    /// Who it claims to be; `None` for an address that a person typed and nobody has asked yet.
    pub fingerprint: Option<Fingerprint>,
    /// Which program it runs, as far as known.
    pub kind: DeviceKind,
    /// Where it answers HTTPS, newest first.
    pub addresses: Vec<SocketAddr>,
    /// Listens only while one command runs: shown, never remembered.
    pub transient: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_short_code_is_the_first_forty_bits() {
        let fingerprint = Fingerprint::from_bytes(std::array::from_fn(|i| if i < 5 { 0xff } else { 0 }));
        assert_eq!(fingerprint.short_code().to_string(), "ZZZZ-ZZZZ");
        let code = Fingerprint::from_bytes([0x12; 32]).short_code();
        assert_eq!(code.to_string().to_lowercase().parse::<ShortCode>().unwrap(), code);
        assert!("K7QM-2XR".parse::<ShortCode>().is_err());
        assert!("K7QM-2XRL".parse::<ShortCode>().is_err());
    }

    #[test]
    fn fingerprints_are_upper_case_and_found_by_prefix() {
        let fingerprint: Fingerprint = "ab".repeat(32).parse().unwrap();
        assert_eq!(fingerprint.to_string(), "AB".repeat(32));
        assert!(fingerprint.begins_with("abab") && !fingerprint.begins_with("aba0") && !fingerprint.begins_with("ab"));
    }

    #[test]
    fn an_alias_is_clean_short_and_never_empty() {
        assert_eq!(Alias::new("na\u{1b}[31ms\n").as_str(), "na[31ms");
        assert_eq!(Alias::new(" \u{202e} ").as_str(), "unnamed");
        assert_eq!(Alias::new(&"x".repeat(1000)).as_str().len(), 64);
    }
}
