//! The backup engine: walk, compare, read what changed, cut, ask what is missing, send, commit.
//!
//! It runs in two steps with a person in between. [`scan()`] walks the tree once, in path order, merged with the source's cache
//! of the last snapshot, and writes a [`Plan`] to a temporary file: what is the same, what has to be read, and the totals that
//! a person is asked about. [`run()`] follows the plan and never walks again.
//!
//! Memory is bounded whatever the sizes: the names of one folder (per level), at most [`pipeline`]'s queues (about 100 MiB
//! together), one line of the manifest, and 100 bytes for each group of hard links. Plan and cache are on disk.
//!
//! | file | what |
//! |---|---|
//! | [`roots`] | what a person named, and what its top entries are called |
//! | [`walk`] | the tree in path order |
//! | [`filter`] | what is left out |
//! | [`inspect`] | an entry from what the file system says |
//! | [`cache`] | what the source knows about the last snapshot, one line an entry |
//! | [`lists`] | the extents of large files, beside the cache |
//! | [`mod@scan`] | walk merged with cache gives the plan |
//! | [`plan`] | the plan on disk |
//! | [`read`] | one file into chunks and holes |
//! | [`zero_runs`] | where its long runs of zeros are |
//! | [`collect`] | chunks into extents, entries into the manifest |
//! | [`pipeline`] | the threads and queues between reading and sending |
//! | [`send`] | ask `missing`, compress, `put` |
//! | [`effort`] | how hard to compress |
//! | [`heads`] | the snapshots this source has committed, and the alarm when one is gone |

pub mod cache;
pub mod collect;
pub mod effort;
pub mod filter;
pub mod heads;
pub mod inspect;
pub mod lists;
pub mod pipeline;
pub mod plan;
pub mod read;
pub mod roots;
pub mod run;
pub mod scan;
pub mod send;
pub mod walk;
pub mod zero_runs;

pub use effort::Effort;
pub use plan::Plan;
pub use roots::Roots;
pub use run::{Report, RunOptions, run};
pub use scan::{ScanOptions, scan};

/// What stopped a backup.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A path that was named cannot be backed up.
    #[error("{0}")]
    Roots(String),
    /// A pattern is not one.
    #[error("exclude pattern `{pattern}` is not valid")]
    Pattern {
        /// As typed.
        pattern: String,
        /// What is wrong with it.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The disk that holds the plan or the cache failed.
    #[error(transparent)]
    Platform(#[from] crate::platform::Error),
    /// The vault failed.
    #[error(transparent)]
    Vault(#[from] crate::vault::Error),
    /// The last snapshot's manifest cannot be read.
    #[error("the last snapshot of this set cannot be read")]
    Manifest(#[from] crate::manifest::Error),
    /// More entries than a snapshot may have.
    #[error("the tree has more than 5,000,000 entries")]
    TooManyEntries,
    /// What is remembered of a large file is damaged; the caller clears the cache and begins again.
    #[error("what was remembered of the last backup is damaged")]
    List,
    /// A thread of the engine ended by a panic: a defect of this program.
    #[error("the backup failed inside; this is a defect of lan-backup")]
    Internal,
    /// The shutdown was given.
    #[error("stopped")]
    Stopped,
}

/// What backing up gives.
pub type Result<T, E = Error> = std::result::Result<T, E>;
