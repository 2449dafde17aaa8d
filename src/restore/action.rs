//! What a plan says about one entry, and its numbers for people.

use crate::model::{Entry, RelPath};
use crate::platform::root_dir::Replace;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};

/// What happens to one entry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Action {
    /// Written where nothing is.
    Create,
    /// Written in the place of what is there.
    Replace,
    /// Written beside what is there, under a second name.
    Beside,
    /// There already with the same bytes (or a folder that is there); only metadata is put back.
    Keep,
    /// A further name for a file of this plan.
    HardLink {
        /// The path, base64, of the first name.
        first: String,
        /// It takes the place of what is there.
        replace: bool,
    },
    /// Left alone, as asked.
    Skip,
}

/// One entry of the plan.
#[derive(Clone, Debug)]
pub struct Planned {
    /// What happens.
    pub action: Action,
    /// The entry; its path is the one in the target.
    pub entry: Entry,
}

/// Numbers for people.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PlanStats {
    /// Files in the selection.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Files that are there already, identical.
    pub identical_files: u64,
    /// Files that get a second name.
    pub beside_files: u64,
    /// Files whose place is taken.
    pub replaced_files: u64,
    /// Files that are left alone.
    pub skipped_files: u64,
    /// Bytes to write.
    pub bytes_to_write: u64,
}

impl Action {
    /// A further name for the file at `first`, in the way that the name would have got a file of its own.
    pub fn link_to(first: &RelPath, instead_of: &Self) -> Self {
        Self::HardLink { first: STANDARD.encode(first.as_bytes()), replace: *instead_of == Self::Replace }
    }

    /// How a file comes to its final name.
    pub fn replace(&self) -> Replace {
        match self {
            Self::Replace | Self::HardLink { replace: true, .. } => Replace::Existing,
            _ => Replace::Nothing,
        }
    }

    /// For a further name of a file: the path of the first.
    pub fn first_name(&self) -> Option<RelPath> {
        let Self::HardLink { first, .. } = self else { return None };
        RelPath::new(STANDARD.decode(first).ok()?).ok()
    }
}

impl PlanStats {
    /// Counts a file of so many bytes. What a hostile manifest says may add up to anything.
    pub fn count(&mut self, action: &Action, size: u64) {
        self.files += 1;
        self.bytes = self.bytes.saturating_add(size);
        match action {
            Action::Replace | Action::HardLink { replace: true, .. } => self.replaced_files += 1,
            Action::Beside => self.beside_files += 1,
            Action::Keep => self.identical_files += 1,
            Action::Skip => self.skipped_files += 1,
            Action::Create | Action::HardLink { .. } => {}
        }
        if matches!(action, Action::Create | Action::Replace | Action::Beside) {
            self.bytes_to_write = self.bytes_to_write.saturating_add(size);
        }
    }
}
