//! The async half of a backup: ask what is missing, compress, put. Several batches and uploads under way at once, all bounded.

use crate::backup::collect::Batch;
use crate::backup::{Error, Result};
use crate::codec::{Compression, Encoder};
use crate::model::limits::{BLOCK_TARGET_BYTES, MAX_BLOCK_CHUNKS, MAX_UPLOAD_BYTES};
use crate::model::{Block, ChunkId};
use crate::monitor::{Counter, Monitor};
use crate::platform::resources;
use crate::vault::{self, Vault};
use bytes::Bytes;
use futures_util::stream::{self, FuturesUnordered, StreamExt};
use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;

/// Batches waiting between the collector and here.
pub const QUEUED_BATCHES: usize = 1;
/// Uploads under way at once: two keep-alive connections carry 1.5 times what one does; more gains nothing. Each holds 16 MiB.
const PARALLEL_UPLOADS: usize = 2;

/// Encoders that are not in use; each keeps its compression context.
#[derive(Debug)]
struct Encoders {
    compression: Compression,
    idle: Mutex<Vec<Encoder>>,
}

impl Encoders {
    fn encode(&self, chunks: Batch) -> Vec<Block> {
        let taken = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let mut encoder = taken.unwrap_or_else(|| Encoder::new(self.compression));
        let blocks = blocks(&mut encoder, chunks);
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(encoder);
        blocks
    }
}

fn blocks(encoder: &mut Encoder, chunks: Batch) -> Vec<Block> {
    let mut blocks = Vec::new();
    let mut open: Vec<(ChunkId, Bytes)> = Vec::new();
    let mut length = 0;
    for chunk in chunks {
        length += chunk.1.len();
        open.push(chunk);
        if length >= BLOCK_TARGET_BYTES as usize || open.len() == MAX_BLOCK_CHUNKS {
            encoder.encode_into(&open, &mut blocks);
            open.clear();
            length = 0;
        }
    }
    if !open.is_empty() {
        encoder.encode_into(&open, &mut blocks);
    }
    blocks
}

/// Sends what is missing of each batch until no more come. Returns bytes sent. Dropping it ends it; what arrived stays.
///
/// # Errors
/// The vault's first.
pub async fn send<V: Vault>(
    vault: Arc<V>,
    batches: mpsc::Receiver<Batch>,
    compression: Compression,
    monitor: Arc<dyn Monitor>,
) -> Result<u64> {
    let encoders = Arc::new(Encoders { compression, idle: Mutex::default() });
    let incoming = stream::unfold(batches, |mut batches| async { Some((batches.recv().await?, batches)) });
    // Tasks of their own: a future that nobody polls while uploads are waited for would keep its turn at the vault.
    let encoded = incoming.map(|batch| {
        let task = tokio::spawn(ask_and_encode(vault.clone(), batch, encoders.clone()));
        async { AbortOnDropHandle::new(task).await.unwrap_or(Err(Error::Internal)) }
    });
    let mut encoded = std::pin::pin!(encoded.buffered(resources::cores().clamp(2, 4)));
    let mut uploads = FuturesUnordered::new();
    let (mut sent, mut open, mut length) = (0, Vec::new(), 0);
    let mut more = true;
    while more || !uploads.is_empty() {
        tokio::select! {
            Some(done) = uploads.next(), if !uploads.is_empty() => sent += counted(&*monitor, done)?,
            blocks = encoded.next(), if more && uploads.len() < PARALLEL_UPLOADS => match blocks {
                None => {
                    more = false;
                    if !open.is_empty() {
                        uploads.push(put(vault.clone(), std::mem::take(&mut open)));
                    }
                }
                Some(blocks) => for block in blocks? {
                    if length + block.encoded_length() > MAX_UPLOAD_BYTES {
                        uploads.push(put(vault.clone(), std::mem::take(&mut open)));
                        length = 0;
                    }
                    length += block.encoded_length();
                    open.push(block);
                },
            },
        }
    }
    Ok(sent)
}

fn counted(monitor: &dyn Monitor, done: vault::Result<u64>) -> Result<u64> {
    let bytes = done?;
    monitor.count(Counter::BytesSent, bytes);
    Ok(bytes)
}

async fn put<V: Vault>(vault: Arc<V>, blocks: Vec<Block>) -> vault::Result<u64> {
    vault.put(blocks).await
}

async fn ask_and_encode<V: Vault>(vault: Arc<V>, mut batch: Batch, encoders: Arc<Encoders>) -> Result<Vec<Block>> {
    let ids = batch.iter().map(|(id, _)| *id).collect();
    let missing: HashSet<ChunkId> = vault.missing(ids).await?.into_iter().collect();
    batch.retain(|(id, _)| missing.contains(id));
    if batch.is_empty() {
        return Ok(Vec::new());
    }
    // A panic in the encoder ends the backup, it does not hang it.
    tokio::task::spawn_blocking(move || encoders.encode(batch)).await.map_err(|_| Error::Internal)
}
