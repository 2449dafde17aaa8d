//! The time of a file, to the nanosecond.

use crate::model::ParseError;
use crate::model::json_text::JsonText;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

const BILLION: u32 = 1_000_000_000;

/// Seconds since 1970 (negative before) plus 0 to 999,999,999 nanoseconds, as `stat` gives them. Written as
/// `-12.000000500`: the whole seconds, then always nine digits of nanoseconds that count forward.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "JsonText<'_>", into = "String")]
pub struct FileTime {
    seconds: i64,
    nanos: u32,
}

impl FileTime {
    /// Takes whole seconds and nanoseconds; nanoseconds beyond a second (a broken file system) are cut.
    pub fn new(seconds: i64, nanos: u32) -> Self {
        Self { seconds, nanos: nanos.min(BILLION - 1) }
    }

    /// Whole seconds since 1970, rounded down.
    pub fn seconds(self) -> i64 {
        self.seconds
    }

    /// The nanoseconds after [`FileTime::seconds`].
    pub fn nanos(self) -> u32 {
        self.nanos
    }

    /// Nanoseconds since 1970.
    pub fn as_nanos(self) -> i128 {
        i128::from(self.seconds) * i128::from(BILLION) + i128::from(self.nanos)
    }
}

impl fmt::Display for FileTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:09}", self.seconds, self.nanos)
    }
}

impl FromStr for FileTime {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let parts = || {
            let (seconds, nanos) = text.split_once('.')?;
            if nanos.len() != 9 || !nanos.bytes().all(|b| b.is_ascii_digit()) {
                return None;
            }
            Some(Self { seconds: seconds.parse().ok()?, nanos: nanos.parse().ok()? })
        };
        parts().ok_or_else(|| ParseError::new("file time", text, "is not of the form `1700000000.123456789`"))
    }
}

impl TryFrom<JsonText<'_>> for FileTime {
    type Error = ParseError;

    fn try_from(text: JsonText<'_>) -> Result<Self, ParseError> {
        text.0.parse()
    }
}

impl From<FileTime> for String {
    fn from(time: FileTime) -> Self {
        time.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn display_and_parse_are_inverse(seconds: i64, nanos in 0..BILLION) {
            let time = FileTime::new(seconds, nanos);
            prop_assert_eq!(time.to_string().parse::<FileTime>().unwrap(), time);
        }
    }

    #[test]
    fn half_a_number_is_refused() {
        for bad in ["", "1", "1.", "1.5", "1.+00000000", "x.000000000"] {
            assert!(bad.parse::<FileTime>().is_err(), "{bad}");
        }
    }
}
