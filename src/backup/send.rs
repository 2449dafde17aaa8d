//! The async half of a backup: ask what is missing, compress, put. Several batches and uploads under way at once, all bounded.

use crate::backup::collect::Batch;
use crate::backup::effort::{Ladder, WINDOW, Window};
use crate::backup::{Effort, Error, Result};
use crate::codec::{Compression, Encoder};
use crate::model::limits::{BLOCK_TARGET_BYTES, MAX_BLOCK_CHUNKS, MAX_UPLOAD_BYTES};
use crate::model::{Block, ChunkId};
use crate::monitor::{Counter, Monitor};
use crate::platform::clock::Clock;
use crate::platform::resources::{self, ProcessorTimes};
use crate::vault::{self, Vault};
use bytes::Bytes;
use futures_util::stream::{self, FuturesUnordered, StreamExt};
use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;

/// Batches waiting between the collector and here.
pub const QUEUED_BATCHES: usize = 1;
/// Uploads under way at once: two keep-alive connections carry 1.5 times what one does; more gains nothing. Each holds 16 MiB.
const PARALLEL_UPLOADS: usize = 2;

/// Encoders that are not in use; each keeps its compression context.
#[derive(Debug)]
struct Encoders {
    compression: Mutex<Compression>,
    idle: Mutex<Vec<Encoder>>,
}

impl Encoders {
    fn compression(&self) -> Compression {
        *self.compression.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set(&self, compression: Compression) {
        *self.compression.lock().unwrap_or_else(PoisonError::into_inner) = compression;
    }

    fn encode(&self, chunks: Batch) -> Vec<Block> {
        let taken = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let compression = self.compression();
        let mut encoder = taken.unwrap_or_else(|| Encoder::new(compression));
        encoder.set(compression);
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

/// Measures what limits the backup, for the rule in [`effort`](crate::backup::effort).
#[derive(Debug)]
struct Gauge {
    clock: Arc<dyn Clock>,
    /// `None` when the choice is fixed.
    ladder: Option<Ladder>,
    compression: Compression,
    began: Instant,
    processors: Option<ProcessorTimes>,
    line: Duration,
    plain: u64,
    stored: u64,
}

impl Gauge {
    fn new(effort: Effort, clock: Arc<dyn Clock>) -> Self {
        let (ladder, compression) = match effort {
            Effort::Adaptive => (Some(Ladder::default()), Ladder::default().compression()),
            Effort::Fixed(compression) => (None, compression),
        };
        let (began, processors) = (clock.instant(), ProcessorTimes::now());
        Self { clock, ladder, compression, began, processors, line: Duration::ZERO, plain: 0, stored: 0 }
    }

    /// Before a wait; `line`: whether only an upload that ends can let anything go on.
    fn wait(&self, line: bool) -> Option<Instant> {
        (line && self.ladder.is_some()).then(|| self.clock.instant())
    }

    /// After it: another compression, should it be time for one.
    fn waited(&mut self, since: Option<Instant>) -> Option<Compression> {
        let ladder = self.ladder.as_mut()?;
        let now = self.clock.instant();
        self.line += since.map_or(Duration::ZERO, |since| now.saturating_duration_since(since));
        let elapsed = now.saturating_duration_since(self.began);
        if elapsed < WINDOW || self.stored == 0 {
            return None;
        }
        let processors = ProcessorTimes::now();
        let idle = processors.zip(self.processors).and_then(|(now, before)| now.idle_since(&before));
        let window = Window { elapsed, line: self.line, idle, plain: self.plain, stored: self.stored };
        ladder.decide(&window);
        tracing::debug!(?window, ?ladder, "compression");
        (self.began, self.processors) = (now, processors);
        (self.line, self.plain, self.stored) = (Duration::ZERO, 0, 0);
        Some(ladder.compression())
    }

    fn encoded(&mut self, block: &Block) {
        self.plain += u64::from(block.header.plain_length());
        self.stored += u64::from(block.header.stored_length);
    }
}

/// Sends what is missing of each batch until no more come. Returns bytes sent. Dropping it ends it; what arrived stays.
///
/// # Errors
/// The vault's first.
pub async fn send<V: Vault>(
    vault: Arc<V>,
    batches: mpsc::Receiver<Batch>,
    effort: Effort,
    clock: Arc<dyn Clock>,
    monitor: Arc<dyn Monitor>,
) -> Result<u64> {
    let mut gauge = Gauge::new(effort, clock);
    let encoders = Arc::new(Encoders { compression: Mutex::new(gauge.compression), idle: Mutex::default() });
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
        let waiting = gauge.wait(uploads.len() == PARALLEL_UPLOADS);
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
                    gauge.encoded(&block);
                    if length + block.encoded_length() > MAX_UPLOAD_BYTES {
                        uploads.push(put(vault.clone(), std::mem::take(&mut open)));
                        length = 0;
                    }
                    length += block.encoded_length();
                    open.push(block);
                },
            },
        }
        if let Some(compression) = gauge.waited(waiting) {
            encoders.set(compression);
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
