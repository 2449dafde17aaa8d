//! The restore engine: read the manifest, look at what is there, plan, fetch, check, write aside, rename, put metadata back.
//!
//! It runs in two steps with a person in between, like a backup. [`plan()`] reads the manifest and compares it with the
//! target; [`run()`] carries the plan out. Nothing is ever written under a final name before every byte of it was
//! checked, and nothing that is there is replaced unless asked.
//!
//! Memory is bounded whatever the sizes: about 8 MiB for each fetch under way, at most 32 MiB of what repeats itself, one line of the
//! manifest, and 200 bytes for each group of hard links. The plan is on disk.
//!
//! | file | what |
//! |---|---|
//! | [`chain`] | are these snapshots whole, signed, and by whom |
//! | [`select`] | which snapshot, which part of it |
//! | [`conflict`] | what happens to what is there |
//! | [`mod@plan`] | the plan, and the dry run |
//! | [`action`] | what it says about one entry |
//! | [`links`] | names that are one file |
//! | [`compare`] | is what is there identical already |
//! | [`fetch`] | chunks for many files, a few requests ahead |
//! | `repeats` | chunks that occur again and again are not fetched each time |
//! | [`content`] | the bytes of one file, or a part of them, for those who write none |
//! | [`target`] | where files go: the seam |
//! | [`dir_target`] | into a folder |
//! | [`dir_writer`] | its files, by several threads |
//! | [`zip_target`] | into a zip file |
//! | [`mod@write`] | loads into a target, by several threads |
//! | [`mod@run`] | plan, fetch and target together |

pub mod action;
pub mod chain;
pub mod compare;
pub mod conflict;
pub mod content;
pub mod dir_target;
pub mod dir_writer;
pub mod fetch;
pub mod folder_stack;
pub mod links;
pub mod plan;
pub(crate) mod repeats;
pub mod run;
pub mod select;
pub mod target;
pub mod write;
pub mod zip_target;

pub use conflict::Conflict;
pub use plan::{Plan, PlanOptions, plan};
pub use run::{Report, run};

/// What stopped a restore.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No such snapshot, or the text fits several.
    #[error("{0}")]
    Selection(String),
    /// A pattern is not one.
    #[error("pattern `{pattern}` is not valid")]
    Pattern {
        /// As typed.
        pattern: String,
        /// What is wrong with it.
        #[source]
        source: globset::Error,
    },
    /// The disk that holds the plan or the target failed.
    #[error(transparent)]
    Platform(#[from] crate::platform::Error),
    /// The vault failed.
    #[error(transparent)]
    Vault(#[from] crate::vault::Error),
    /// The manifest cannot be read.
    #[error("the snapshot's list of files cannot be read")]
    Manifest(#[from] crate::manifest::Error),
    /// The target cannot be written at all.
    #[error("cannot write to the target")]
    Target(#[source] std::io::Error),
    /// A thread of the engine ended by a panic: a defect of this program.
    #[error("the restore failed inside; this is a defect of lan-backup")]
    Internal,
    /// The shutdown was given.
    #[error("stopped")]
    Stopped,
}

/// What restoring gives.
pub type Result<T, E = Error> = std::result::Result<T, E>;
