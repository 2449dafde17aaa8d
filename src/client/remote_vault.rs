//! A repository on another device, as a [`Vault`].
//!
//! All calls here do no harm when they are made twice, so those that break are tried again: an upload whose answer was lost
//! brings nothing new the second time, and a commit whose answer was lost is answered with the same snapshot. Sizes and numbers
//! of calls keep to what the receiver asked for.

use crate::client::error::{Error, Result};
use crate::client::retry::{self, UploadSize, retry};
use crate::client::{Client, Traffic};
use crate::model::limits::{MAX_FETCH_IDS, MAX_MISSING_IDS};
use crate::model::{Block, ChunkId, RepositoryParameters, SessionId, SignedRecord, SnapshotId, SnapshotInfo};
use crate::protocol::session::{SessionAnswer, SessionLimits};
use crate::signer;
use crate::vault::{self, Vault};
use std::sync::Arc;
use tokio::sync::{Semaphore, SemaphorePermit};

/// Calls under way at once at the most, whatever the receiver would allow: each holds up to one upload in memory.
const MAX_PARALLEL_CALLS: usize = 16;

/// A repository on another device, within one session.
#[derive(Debug)]
pub struct RemoteVault {
    client: Client,
    session: SessionId,
    parameters: RepositoryParameters,
    max_ids: usize,
    size: UploadSize,
    calls: Arc<Semaphore>,
}

impl RemoteVault {
    /// The repository that an open session gives access to.
    ///
    /// # Errors
    /// [`Error::NotUnderstood`] when the session is not open or its limits cannot be kept.
    pub fn new(client: Client, answer: &SessionAnswer) -> Result<Self> {
        let parameters = answer.repository.ok_or_else(|| Error::NotUnderstood("without a repository".to_owned()))?;
        let SessionLimits { max_upload_bytes, max_ids, parallel_calls } = answer.limits;
        if max_upload_bytes == 0 || max_ids == 0 {
            return Err(Error::NotUnderstood("with limits that let nothing through".to_owned()));
        }
        Ok(Self {
            client,
            session: answer.session,
            parameters,
            max_ids: max_ids.min(MAX_MISSING_IDS).min(MAX_FETCH_IDS),
            size: UploadSize::new(max_upload_bytes),
            calls: Arc::new(Semaphore::new(parallel_calls.clamp(1, MAX_PARALLEL_CALLS))),
        })
    }

    /// Bytes sent and received by this vault's client.
    pub fn traffic(&self) -> &Traffic {
        self.client.traffic()
    }

    /// The session, for ending it.
    pub fn session(&self) -> SessionId {
        self.session
    }

    /// The client that it calls with.
    pub fn client(&self) -> &Client {
        &self.client
    }

    async fn turn(&self) -> SemaphorePermit<'_> {
        self.calls.acquire().await.expect("the semaphore is never closed")
    }

    /// Sends blocks in as few uploads as the receiver and the line allow. What has arrived is not sent again when a later
    /// upload breaks.
    async fn upload(&self, blocks: &[Block]) -> Result<()> {
        let (mut at, mut failed) = (0, 0);
        while at < blocks.len() {
            let count = batch(&blocks[at..], self.size.current());
            let sent = &blocks[at..at + count];
            if let Some(block) = sent.iter().find(|block| block.encoded_length() > self.size.max()) {
                let length = block.encoded_length();
                return Err(Error::NotUnderstood(format!("that it takes no block of {length} bytes")));
            }
            match self.client.upload(self.session, sent).await {
                Ok(_) => {
                    self.size.arrived();
                    (at, failed) = (at + count, 0);
                }
                Err(error) if error.is_transient() => {
                    if matches!(error, Error::Broken(_) | Error::TimedOut(_)) {
                        self.size.broke();
                    }
                    failed += 1;
                    retry::wait_after(failed, error).await?;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

/// How many of `blocks`, at least one, go into an upload of at most `size` bytes.
fn batch(blocks: &[Block], size: u64) -> usize {
    let mut total = 0;
    let fits = blocks.iter().take_while(|block| {
        total += block.encoded_length();
        total <= size
    });
    fits.count().max(1)
}

impl Vault for RemoteVault {
    fn parameters(&self) -> RepositoryParameters {
        self.parameters
    }

    async fn missing(&self, ids: Vec<ChunkId>) -> vault::Result<Vec<ChunkId>> {
        let mut missing = Vec::new();
        for ids in ids.chunks(self.max_ids) {
            let _turn = self.turn().await;
            missing.extend(retry(|| self.client.missing(self.session, ids)).await?);
        }
        Ok(missing)
    }

    async fn put(&self, blocks: Vec<Block>) -> vault::Result<u64> {
        let _turn = self.turn().await;
        self.upload(&blocks).await?;
        Ok(blocks.iter().map(Block::encoded_length).sum())
    }

    async fn get(&self, ids: Vec<ChunkId>) -> vault::Result<Vec<Block>> {
        let mut blocks = Vec::new();
        for ids in ids.chunks(self.max_ids) {
            let _turn = self.turn().await;
            blocks.extend(retry(|| self.client.chunks(self.session, ids)).await?);
        }
        Ok(blocks)
    }

    async fn snapshots(&self) -> vault::Result<Vec<SnapshotInfo>> {
        let _turn = self.turn().await;
        let listing = retry(|| self.client.listing(Some(self.session))).await?;
        let ours = listing.repositories.into_iter().find(|listed| listed.repository.id == self.parameters.id);
        let ours = ours.ok_or_else(|| vault::Error::NotFound(format!("repository {}", self.parameters.id)))?;
        Ok(ours.snapshots)
    }

    async fn commit(&self, record: SignedRecord) -> vault::Result<SnapshotId> {
        let _turn = self.turn().await;
        let finished = retry(|| self.client.finish(self.session, &record)).await?;
        if finished.snapshot == signer::snapshot_id(&record) {
            Ok(finished.snapshot)
        } else {
            Err(Error::NotUnderstood("for another snapshot than the one that was sent".to_owned()).into())
        }
    }
}
