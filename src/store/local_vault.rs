//! A repository on this disk as a [`Vault`]: the only place where the blocking store meets async code.

use crate::model::{Block, ChunkId, Fingerprint, RepositoryParameters, SignedRecord, SnapshotId, SnapshotInfo};
use crate::store::error::Result;
use crate::store::repository::Repository;
use crate::vault::{self, Vault};
use std::collections::HashSet;
use std::ops::ControlFlow;
use std::sync::Arc;

/// A repository on this disk, written to in the name of one device.
#[derive(Clone, Debug)]
pub struct LocalVault {
    repository: Arc<Repository>,
    from: Fingerprint,
}

impl LocalVault {
    /// The vault of `repository`; receipts say that `from` brought what is committed.
    pub fn new(repository: Arc<Repository>, from: Fingerprint) -> Self {
        Self { repository, from }
    }

    /// The repository behind it.
    pub fn repository(&self) -> &Arc<Repository> {
        &self.repository
    }

    /// Runs `work` where it may block. Dropped meanwhile, the work still runs to its end.
    async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Repository) -> Result<T> + Send + 'static,
    ) -> vault::Result<T> {
        let repository = Arc::clone(&self.repository);
        match tokio::task::spawn_blocking(move || work(&repository)).await {
            Ok(result) => Ok(result?),
            Err(error) => Err(vault::Error::Failed("the store failed".to_owned(), Some(Box::new(error)))),
        }
    }
}

impl Vault for LocalVault {
    fn parameters(&self) -> RepositoryParameters {
        self.repository.parameters()
    }

    async fn missing(&self, ids: Vec<ChunkId>) -> vault::Result<Vec<ChunkId>> {
        self.run(move |repository| repository.missing(&ids)).await
    }

    async fn put(&self, blocks: Vec<Block>) -> vault::Result<u64> {
        self.run(move |repository| {
            let mut writer = repository.begin_pack()?;
            for block in &blocks {
                writer.append(block)?;
            }
            writer.finish()?;
            Ok(blocks.iter().map(Block::encoded_length).sum())
        })
        .await
    }

    async fn get(&self, ids: Vec<ChunkId>) -> vault::Result<Vec<Block>> {
        self.run(move |repository| {
            let mut blocks = Vec::new();
            repository.read_blocks(&ids, &mut |block| {
                blocks.push(block);
                ControlFlow::Continue(())
            })?;
            Ok(blocks)
        })
        .await
    }

    async fn get_some(&self, ids: Vec<ChunkId>, bytes: u64) -> vault::Result<Vec<Block>> {
        self.run(move |repository| {
            let (mut blocks, mut held) = (Vec::new(), 0);
            repository.read_blocks(&ids, &mut |block| {
                held += block.encoded_length();
                blocks.push(block);
                if held < bytes { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
            })?;
            Ok(blocks)
        })
        .await
    }

    async fn snapshots(&self) -> vault::Result<Vec<SnapshotInfo>> {
        self.run(Repository::snapshots).await
    }

    async fn commit(&self, record: SignedRecord) -> vault::Result<SnapshotId> {
        let from = self.from;
        self.run(move |repository| Ok(repository.commit(&record, from)?.id)).await
    }

    async fn commit_without_data(&self, record: SignedRecord) -> vault::Result<SnapshotId> {
        let from = self.from;
        self.run(move |repository| Ok(repository.commit_without_data(&record, from)?.id)).await
    }

    async fn commit_damaged(&self, record: SignedRecord, lost: HashSet<ChunkId>) -> vault::Result<Option<SnapshotId>> {
        let from = self.from;
        self.run(move |repository| Ok(Some(repository.commit_damaged(&record, from, &lost)?.id))).await
    }

    async fn damaged(&self) -> vault::Result<HashSet<SnapshotId>> {
        self.run(|repository| Ok(repository.advertised_marks()?.into_iter().map(|mark| mark.snapshot).collect())).await
    }
}
