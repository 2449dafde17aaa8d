//! What can go wrong in a store, and how a vault's user hears of it.

use crate::codec;
use crate::model::text::clean;
use crate::model::{ChunkId, PackId, RepositoryId, SnapshotId, SnapshotInfo};
use crate::platform;
use crate::signer;
use crate::vault;
use std::fmt;
use std::path::PathBuf;

/// What went wrong in a store.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Written by a newer version of the program.
    #[error("`{}` has format {found}, and this version knows format {known}: update lan-backup on this device", path.display())]
    NewerFormat {
        /// The file that says so.
        path: PathBuf,
        /// Its format.
        found: u32,
        /// The newest format this version knows.
        known: u32,
    },
    /// An object cannot be read as what its name says it is.
    #[error("`{name}` is damaged: {problem}")]
    Damaged {
        /// The object's name.
        name: String,
        /// What is wrong with it.
        problem: String,
    },
    /// A repository is here, and a file that says whose it is, or what it is, is damaged.
    #[error("{holds} cannot be used, because `{path}` is damaged: {problem}; what was backed up lies there still")]
    Unusable {
        /// What it is, for people.
        holds: String,
        /// The file at fault; its path in the store.
        path: String,
        /// What is wrong with it.
        problem: String,
    },
    /// A pack does not hold what its trailer or the index says.
    #[error("pack {pack} is damaged: {problem}")]
    Pack {
        /// Which pack.
        pack: PackId,
        /// What is wrong with it.
        problem: String,
    },
    /// One chunk cannot be read from its pack.
    #[error("chunk {chunk} cannot be read from pack {pack}: {problem}")]
    Chunk {
        /// Which chunk.
        chunk: ChunkId,
        /// Where it should be.
        pack: PackId,
        /// What is wrong with it.
        problem: String,
    },
    /// No pack holds this chunk.
    #[error("chunk {0} is not there")]
    NotFound(ChunkId),
    /// There is no such repository here.
    #[error("repository {0} is not there")]
    NoRepository(RepositoryId),
    /// A block that was sent is not what it says; nothing of it is kept.
    #[error("a block was refused")]
    Block(#[from] codec::Error),
    /// A record that was sent cannot be read or is not signed by the key it names.
    #[error("the record was refused")]
    Record(#[from] signer::Error),
    /// A record that was sent breaks a rule; says which.
    #[error("the record was refused: {0}")]
    Refused(String),
    /// The record is signed by a key that is nobody's who may write here.
    #[error("the record is signed by a key that does not belong to this repository")]
    UnknownSigner,
    /// An event does not fit at the end of the owner log; says why.
    #[error("the owner log was not changed: {0}")]
    OwnerEvent(&'static str),
    /// More than fits; says what and how much would.
    #[error("{what} is larger than {limit} bytes")]
    TooLarge {
        /// What was too large.
        what: &'static str,
        /// How much would have fitted.
        limit: u64,
    },
    /// Chunks that a snapshot needs are not durably there; at most [`MAX_MISSING_IDS`](crate::model::limits::MAX_MISSING_IDS)
    /// of them.
    #[error("{} chunks that the snapshot needs are not there", .0.len())]
    Missing(Vec<ChunkId>),
    /// The record does not follow the head of its set, which is this one.
    #[error("another snapshot of this set was committed meanwhile")]
    Stale(Option<Box<SnapshotInfo>>),
    /// No space is left. Nothing old was touched.
    #[error("the disk of the store is full")]
    Full,
    /// Packs that were taken could not be made durable and were thrown away; their chunks must be sent again.
    #[error("{0} packs could not be written to disk and were thrown away")]
    NotDurable(u64),
    /// The writer failed earlier, or the repository is being closed.
    #[error("nothing more can be written here")]
    Closed,
    /// Somebody else prunes this repository, or brings something back.
    #[error("another prune of this repository is running")]
    Pruning,
    /// What a forgotten snapshot needs has been deleted.
    #[error("snapshot {} cannot be brought back any more: {missing} pieces of its data are gone", id.short())]
    Gone {
        /// Which.
        id: SnapshotId,
        /// How many chunks are missing, at least.
        missing: usize,
    },
    /// The shutdown was given.
    #[error("stopped")]
    Stopped,
    /// The index, which is only a cache, can neither be used nor rebuilt.
    #[error("the index cannot be used")]
    Index(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The disk or the system failed.
    #[error(transparent)]
    Platform(#[from] platform::Error),
}

impl Error {
    pub(crate) fn damaged(name: &dyn fmt::Display, problem: &dyn fmt::Display) -> Self {
        Self::Damaged { name: name.to_string(), problem: clean(&problem.to_string()) }
    }

    /// What a full disk keeps from being written down, where nothing but a memory is lost by it.
    pub(crate) fn unless_full(result: Result<()>) -> Result<()> {
        result.or_else(|error| if error.is_full() { Ok(()) } else { Err(error) })
    }

    /// No space is left on the disk.
    pub fn is_full(&self) -> bool {
        match self {
            Self::Full => true,
            Self::Platform(error) => error.is_full(),
            _ => false,
        }
    }

    /// What stands on disk is wrong, as opposed to what was asked for.
    pub fn is_damage(&self) -> bool {
        matches!(self, Self::Damaged { .. } | Self::Unusable { .. } | Self::Pack { .. } | Self::Chunk { .. })
    }
}

/// What stores answer.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl From<Error> for vault::Error {
    fn from(error: Error) -> Self {
        match error {
            Error::Missing(ids) => Self::Missing(ids),
            Error::Stale(head) => Self::Stale(head),
            Error::NotFound(id) => Self::NotFound(format!("chunk {id}")),
            Error::NoRepository(id) => Self::NotFound(format!("repository {id}")),
            Error::Damaged { name, .. } => Self::Corrupt(format!("`{name}`")),
            Error::Unusable { path, .. } => Self::Corrupt(format!("`{path}`")),
            Error::Pack { pack, .. } => Self::Corrupt(format!("pack {pack}")),
            Error::Chunk { chunk, pack, .. } => Self::Corrupt(format!("chunk {chunk} in pack {pack}")),
            Error::Block(source) => Self::Refused(format!("a block was refused: {source}").into()),
            Error::Record(source) => Self::Refused(format!("the record was refused: {source}").into()),
            Error::Refused(_)
            | Error::UnknownSigner
            | Error::OwnerEvent(_)
            | Error::TooLarge { .. }
            | Error::Closed
            | Error::Pruning
            | Error::Gone { .. }
            | Error::Stopped
            | Error::NewerFormat { .. } => Self::Refused(error.to_string().into()),
            full if full.is_full() => Self::Full("the disk of the store is full".to_owned()),
            Error::NotDurable(_) | Error::Index(_) | Error::Platform(_) | Error::Full => {
                Self::Failed("the store failed".to_owned(), Some(Box::new(error)))
            }
        }
    }
}
