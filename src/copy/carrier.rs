//! Chunks from one vault to the other: fetched a few megabytes at a time, every one checked, sent as they lie where all of a block
//! is wanted, and in a new block where only a part is.

use crate::codec::{self, Compression, Decoder, Encoder};
use crate::copy::{Error, Result, is_damage};
use crate::model::{Block, ChunkId};
use crate::monitor::{Counter, Monitor};
use crate::vault::{self, Vault};
use std::collections::HashSet;
use std::sync::Arc;
use tokio::task::JoinHandle;

/// Bytes fetched in one call, and sent in one: half of what a put may have, so that a block more is not too much.
const LOAD_BYTES: u64 = 8 << 20;

/// What cannot be brought, because it is lost at the source.
#[derive(Debug, Default)]
pub struct Lost {
    /// Which chunks.
    pub chunks: HashSet<ChunkId>,
    /// What was wrong with the first one.
    pub why: Option<vault::Error>,
}

/// Brings chunks.
#[derive(Debug)]
pub struct Carrier<A, B> {
    from: Arc<A>,
    to: Arc<B>,
    monitor: Arc<dyn Monitor>,
    ready: Vec<Block>,
    ready_bytes: u64,
    // The put under way: one load is sent while the next is fetched.
    sending: Option<JoinHandle<vault::Result<u64>>>,
    chunks: u64,
    bytes: u64,
    // What the last call of `bring` was asked for and did not get.
    left: Vec<ChunkId>,
}

impl<A: Vault, B: Vault> Carrier<A, B> {
    /// Has brought nothing yet.
    pub fn new(from: Arc<A>, to: Arc<B>, monitor: Arc<dyn Monitor>) -> Self {
        Self {
            from,
            to,
            monitor,
            ready: Vec::new(),
            ready_bytes: 0,
            sending: None,
            chunks: 0,
            bytes: 0,
            left: Vec::new(),
        }
    }

    /// Chunks and stored bytes so far.
    pub fn moved(&self) -> (u64, u64) {
        (self.chunks, self.bytes)
    }

    /// Brings these chunks; some of them may wait for [`Carrier::flush`].
    ///
    /// # Errors
    /// [`Error::From`] when one of them is damaged or not there; the target's.
    pub async fn bring(&mut self, ids: Vec<ChunkId>) -> Result<()> {
        let mut left: HashSet<ChunkId> = ids.iter().copied().collect();
        let mut order = ids;
        while !left.is_empty() {
            order.retain(|id| left.contains(id));
            self.left.clone_from(&order);
            let blocks = self.from.get_some(order.clone(), LOAD_BYTES).await.map_err(Error::From)?;
            let wanted = std::mem::take(&mut left);
            let checked = tokio::task::spawn_blocking(move || check(&blocks, wanted));
            let (blocks, rest, chunks) = checked.await.map_err(|_| Error::Internal)?.map_err(Error::From)?;
            if chunks == 0 {
                let absent = order.first().map(|id| format!("chunk {id}")).unwrap_or_default();
                return Err(Error::From(vault::Error::NotFound(absent)));
            }
            (left, self.chunks) = (rest, self.chunks + chunks);
            for block in blocks {
                let bytes = block.encoded_length();
                self.monitor.count(Counter::BytesFetched, bytes);
                if self.ready_bytes + bytes > LOAD_BYTES {
                    self.send().await?;
                }
                self.ready.push(block);
                self.ready_bytes += bytes;
            }
        }
        self.left.clear();
        Ok(())
    }

    /// Brings what of these chunks can be brought, and tells `lost` the others, with the first thing that was wrong.
    ///
    /// # Errors
    /// The source's, but for damage; the target's.
    pub async fn bring_what_is_there(&mut self, ids: Vec<ChunkId>, lost: &mut Lost) -> Result<()> {
        let mut parts = vec![ids];
        while let Some(part) = parts.pop() {
            let error = match self.bring(part).await {
                Err(Error::From(error)) if is_damage(&error) => error,
                Ok(()) => continue,
                Err(error) => return Err(error),
            };
            let mut part = std::mem::take(&mut self.left);
            // Those of packs that are gone are known at once, where that can be asked.
            let told = match (self.from.missing(part.clone()).await, &error) {
                (Ok(ids), _) => ids,
                (Err(_), vault::Error::Missing(ids)) => ids.clone(),
                (Err(_), _) => Vec::new(),
            };
            let gone: HashSet<ChunkId> = told.into_iter().collect();
            let before = part.len();
            lost.chunks.extend(part.extract_if(.., |id| gone.contains(id)));
            if part.len() < before {
                lost.why.get_or_insert(error);
                parts.push(part);
            } else if let [one] = part[..] {
                lost.chunks.insert(one);
                lost.why.get_or_insert(error);
            } else {
                // One of them is at fault: halves find out which.
                parts.push(part.split_off(part.len() / 2));
                parts.push(part);
            }
        }
        Ok(())
    }

    /// Waits until everything has been taken.
    ///
    /// # Errors
    /// The target's.
    pub async fn flush(&mut self) -> Result<()> {
        self.send().await?;
        self.sent().await
    }

    async fn send(&mut self) -> Result<()> {
        self.sent().await?;
        if self.ready.is_empty() {
            return Ok(());
        }
        let (to, blocks) = (self.to.clone(), std::mem::take(&mut self.ready));
        self.ready_bytes = 0;
        self.sending = Some(tokio::spawn(async move { to.put(blocks).await }));
        Ok(())
    }

    async fn sent(&mut self) -> Result<()> {
        let Some(sending) = self.sending.take() else { return Ok(()) };
        let bytes = sending.await.map_err(|_| Error::Internal)?.map_err(Error::To)?;
        self.bytes += bytes;
        self.monitor.count(Counter::BytesSent, bytes);
        Ok(())
    }
}

/// Checks every chunk of `blocks`, and leaves out what is not wanted. Also what is still wanted then, and how many came.
fn check(blocks: &[Block], mut wanted: HashSet<ChunkId>) -> vault::Result<(Vec<Block>, HashSet<ChunkId>, u64)> {
    let mut decoder = Decoder::new();
    let mut encoder = Encoder::new(Compression::default());
    let (mut kept, mut chunks) = (Vec::with_capacity(blocks.len()), 0);
    for block in blocks {
        let plain =
            decoder.decode(block).map_err(|error| vault::Error::Corrupt(format!("a piece of its data ({error})")))?;
        let mut part = Vec::new();
        for (chunk, bytes) in codec::chunks(&block.header, &plain) {
            if wanted.remove(&chunk.id) {
                part.push((chunk.id, plain.slice_ref(bytes)));
            }
        }
        chunks += part.len() as u64;
        if part.len() == block.header.chunks.len() {
            kept.push(block.clone());
        } else if !part.is_empty() {
            kept.push(encoder.encode(&part));
        }
    }
    Ok((kept, wanted, chunks))
}
