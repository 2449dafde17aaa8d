//! The seam between the engines and the places that keep chunks and snapshots: this disk, another device, a test's memory.
//!
//! A vault answers for one repository. `backup` and `restore` know only this trait, so one engine backs up to a folder and to
//! a device, restores from both, and copies between any two.
//!
//! The rule that every implementation keeps: when [`Vault::commit`] has returned, the snapshot and everything it needs survive
//! a power cut; before that, nothing of it shows in [`Vault::snapshots`].

pub mod memory;

use crate::model::{Block, ChunkId, RepositoryParameters, SignedRecord, SnapshotId, SnapshotInfo};
use std::collections::HashSet;
use std::fmt;
use std::future::Future;

pub use memory::MemoryVault;

/// Chunks asked for at once by who does not know how large they are: 48 MiB at the most.
const UNKNOWN_SIZES: usize = 24;

/// What went wrong in a vault, by kind; the engine decides by the kind and shows the rest.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Chunks that the record needs are not there; they must be sent (again) before the commit.
    #[error("{} chunks that the snapshot needs are not there", .0.len())]
    Missing(Vec<ChunkId>),
    /// Somebody else committed to the same set first. Carries the head that a new record must follow.
    #[error("another snapshot of this set was committed meanwhile")]
    Stale(Option<Box<SnapshotInfo>>),
    /// There is no such thing there.
    #[error("{0} is not there")]
    NotFound(String),
    /// What is there does not match its hash or cannot be read.
    #[error("{0} is damaged")]
    Corrupt(String),
    /// Not allowed, or not in this state; says why in a sentence. The cause is kept whole: it may know more than its sentence.
    #[error("{0}")]
    Refused(Box<dyn std::error::Error + Send + Sync>),
    /// No space, or the quota is used up; says which. Nothing old was touched.
    #[error("{0}")]
    Full(String),
    /// The other device does not answer (any more).
    #[error("the other device cannot be reached")]
    Offline(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The disk or the system failed.
    #[error("{0}")]
    Failed(String, #[source] Option<Box<dyn std::error::Error + Send + Sync>>),
}

/// What vaults answer.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A place that keeps the chunks and snapshots of one repository.
pub trait Vault: Send + Sync + fmt::Debug + 'static {
    /// Which repository, and where to cut.
    fn parameters(&self) -> RepositoryParameters;

    /// Those of `ids` (any number) that are not there yet.
    fn missing(&self, ids: Vec<ChunkId>) -> impl Future<Output = Result<Vec<ChunkId>>> + Send;

    /// Keeps blocks: at most [`MAX_UPLOAD_BYTES`](crate::model::limits::MAX_UPLOAD_BYTES) encoded. Each is checked on arrival:
    /// nothing is kept under an id that it does not hash to. Durable only after the next commit. Returns bytes sent.
    fn put(&self, blocks: Vec<Block>) -> impl Future<Output = Result<u64>> + Send;

    /// Blocks that together hold all of `ids` (at most [`MAX_FETCH_IDS`](crate::model::limits::MAX_FETCH_IDS)), in an order
    /// that is kind to the packs; they may hold other chunks, too. Not checked: the caller decodes, and so checks, them.
    fn get(&self, ids: Vec<ChunkId>) -> impl Future<Output = Result<Vec<Block>>> + Send;

    /// The same for who knows that `ids` are `bytes` together: what is not to be trusted must not bring much more than that.
    fn get_sized(&self, ids: Vec<ChunkId>, _bytes: u64) -> impl Future<Output = Result<Vec<Block>>> + Send {
        self.get(ids)
    }

    /// Blocks that hold some of `ids`, at least one, and not much more than `bytes` encoded: for those who do not know how much
    /// they ask for. Not checked either.
    fn get_some(&self, ids: Vec<ChunkId>, _bytes: u64) -> impl Future<Output = Result<Vec<Block>>> + Send {
        let few = ids.into_iter().take(UNKNOWN_SIZES).collect();
        async move { self.get(few).await }
    }

    /// All snapshots of the repository, by set and sequence.
    fn snapshots(&self) -> impl Future<Output = Result<Vec<SnapshotInfo>>> + Send;

    /// Commits a record whose chunks were put: checks its signature, its place in the chain and every ref, makes everything
    /// durable, then answers. The one step that makes a snapshot exist.
    fn commit(&self, record: SignedRecord) -> impl Future<Output = Result<SnapshotId>> + Send;

    /// Keeps a record whose chunks are not there, marked as forgotten because it was not copied: so that the chain can be checked
    /// and go on. A commit of the same record later, when everything is there, ends that.
    fn commit_without_data(&self, record: SignedRecord) -> impl Future<Output = Result<SnapshotId>> + Send;

    /// Commits a record of which `lost` chunks are lost where it is copied from, marked as damaged; a record that is here already
    /// gets its mark brought up to date. [`Error::Missing`] when others are missing, too. `None` from a vault that takes whole
    /// snapshots only.
    fn commit_damaged(
        &self,
        _record: SignedRecord,
        _lost: HashSet<ChunkId>,
    ) -> impl Future<Output = Result<Option<SnapshotId>>> + Send {
        async { Ok(None) }
    }

    /// Snapshots that are listed and are known to have lost something, of a vault that takes such.
    fn damaged(&self) -> impl Future<Output = Result<HashSet<SnapshotId>>> + Send {
        async { Ok(HashSet::new()) }
    }
}
