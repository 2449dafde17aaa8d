//! What a paired device may do here.

use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

/// One thing that a paired device may ask for. No right deletes, prunes or overwrites anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Right {
    /// Add snapshots to its own repository.
    Backup,
    /// See the snapshots of its own repository.
    List,
    /// Read its own repository.
    Restore,
    /// See and read other devices' repositories.
    RestoreOthers,
    /// Ask this device to run a backup of its own now.
    Trigger,
    /// Keep copies of whole repositories here.
    Replicate,
}

impl Right {
    /// All of them, in the order in which they are shown.
    pub const ALL: [Self; 6] =
        [Self::Backup, Self::List, Self::Restore, Self::RestoreOthers, Self::Trigger, Self::Replicate];

    /// The name on the command line and on the wire.
    pub fn name(self) -> &'static str {
        match self {
            Self::Backup => "backup",
            Self::List => "list",
            Self::Restore => "restore",
            Self::RestoreOthers => "restore-others",
            Self::Trigger => "trigger",
            Self::Replicate => "replicate",
        }
    }
}

impl fmt::Display for Right {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Right {
    type Err = crate::model::ParseError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let found = Self::ALL.into_iter().find(|right| right.name() == text);
        let problem = "is none of backup, list, restore, restore-others, trigger, replicate";
        found.ok_or_else(|| crate::model::ParseError::new("right", text, problem))
    }
}

/// A set of [`Right`]s.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Rights(BTreeSet<Right>);

impl Rights {
    /// What pairing gives: back up, list and restore one's own.
    pub fn of_a_paired_device() -> Self {
        Self([Right::Backup, Right::List, Right::Restore].into())
    }

    /// No right at all.
    pub fn none() -> Self {
        Self(BTreeSet::new())
    }

    /// Whether `right` is among them.
    pub fn allow(&self, right: Right) -> bool {
        self.0.contains(&right)
    }

    /// Adds a right.
    pub fn grant(&mut self, right: Right) {
        self.0.insert(right);
    }

    /// Takes a right away.
    pub fn revoke(&mut self, right: Right) {
        self.0.remove(&right);
    }

    /// The rights in both.
    pub fn intersection(&self, other: &Self) -> Self {
        Self(self.0.intersection(&other.0).copied().collect())
    }
}

impl FromIterator<Right> for Rights {
    fn from_iter<I: IntoIterator<Item = Right>>(rights: I) -> Self {
        Self(rights.into_iter().collect())
    }
}

impl fmt::Display for Rights {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = self.0.iter().map(|right| right.name()).collect();
        f.write_str(if names.is_empty() { "none".to_owned() } else { names.join(", ") }.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairing_never_gives_other_peoples_backups() {
        let rights = Rights::of_a_paired_device();
        assert!(rights.allow(Right::Backup) && rights.allow(Right::List) && rights.allow(Right::Restore));
        for right in [Right::RestoreOthers, Right::Trigger, Right::Replicate] {
            assert!(!rights.allow(right));
        }
    }

    #[test]
    fn names_are_the_inverse_of_parsing() {
        for right in Right::ALL {
            assert_eq!(right.name().parse::<Right>().unwrap(), right);
            assert_eq!(serde_json::to_string(&right).unwrap(), format!("\"{right}\""));
        }
    }
}
