//! What becomes of files that come from LocalSend apps.

use crate::model::ParseError;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// The set that a phone's files are backed up in, in the phone's own repository.
pub const INBOX_SET: &str = "inbox";

/// Where files from LocalSend apps go.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum InboxKeep {
    /// Into the store, as a snapshot of the phone's own.
    #[default]
    Backup,
    /// Into the inbox folder, as plain files.
    Save,
    /// Both.
    Both,
}

impl InboxKeep {
    /// A snapshot is made.
    pub fn backs_up(self) -> bool {
        self != Self::Save
    }

    /// Plain files are written.
    pub fn saves(self) -> bool {
        self != Self::Backup
    }
}

impl fmt::Display for InboxKeep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Backup => "backup",
            Self::Save => "save",
            Self::Both => "both",
        })
    }
}

impl FromStr for InboxKeep {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        match text {
            "backup" => Ok(Self::Backup),
            "save" => Ok(Self::Save),
            "both" => Ok(Self::Both),
            _ => Err(ParseError::new("choice", text, "is none of backup, save, both")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_choice_is_its_word_and_does_what_it_says() {
        for (keep, backs_up, saves) in
            [(InboxKeep::Backup, true, false), (InboxKeep::Save, false, true), (InboxKeep::Both, true, true)]
        {
            assert_eq!(keep.to_string().parse::<InboxKeep>().unwrap(), keep);
            assert_eq!((keep.backs_up(), keep.saves()), (backs_up, saves));
        }
        assert!("store".parse::<InboxKeep>().is_err());
    }
}
