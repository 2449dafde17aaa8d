//! Chunks of many files on their way into packs.
//!
//! A phone sends thousands of small files; one pack for each would cost an fsync for each. So the files of a session share one
//! lane, and whoever fills a batch writes it, while the others go on filling the next. Blocking.

use crate::codec::{Compression, Encoder};
use crate::model::limits::{BLOCK_TARGET_BYTES, MAX_BLOCK_CHUNKS};
use crate::model::{Block, ChunkId};
use crate::store::{Error, Repository, Result};
use bytes::Bytes;
use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

/// A batch is closed at this many plain bytes: with one more chunk of 2 MiB it fits into a pack whatever it compresses to.
const BATCH_BYTES: usize = 12 << 20;

#[derive(Debug, Default)]
struct Batch {
    chunks: Vec<(ChunkId, Bytes)>,
    ids: HashSet<ChunkId>,
    bytes: usize,
    // The last try to write it failed.
    stuck: bool,
}

/// Puts what is missing into one repository.
#[derive(Debug)]
pub(crate) struct Lane {
    repository: Arc<Repository>,
    open: Mutex<Batch>,
    // Shared while a batch is filled and written, exclusive while everything is flushed.
    writing: RwLock<()>,
}

impl Lane {
    /// An empty lane.
    pub(crate) fn new(repository: Arc<Repository>) -> Self {
        Self { repository, open: Mutex::default(), writing: RwLock::default() }
    }

    /// Takes a chunk; writes a batch when that is full.
    ///
    /// # Errors
    /// The store's. What could not be written is kept for [`Lane::flush`], and nothing more is taken.
    pub(crate) fn offer(&self, id: ChunkId, bytes: &[u8]) -> Result<()> {
        let _shared = self.writing.read().unwrap_or_else(PoisonError::into_inner);
        let full = {
            let mut open = self.open();
            if open.stuck {
                return Err(Error::Full);
            }
            if !open.ids.insert(id) {
                return Ok(());
            }
            open.bytes += bytes.len();
            open.chunks.push((id, Bytes::copy_from_slice(bytes)));
            (open.bytes >= BATCH_BYTES).then(|| std::mem::take(&mut *open))
        };
        full.map_or(Ok(()), |batch| self.write(batch))
    }

    /// Writes everything that was offered before; not durable yet.
    ///
    /// # Errors
    /// The store's.
    pub(crate) fn flush(&self) -> Result<()> {
        let _alone = self.writing.write().unwrap_or_else(PoisonError::into_inner);
        let batch = std::mem::take(&mut *self.open());
        self.write(batch)
    }

    fn write(&self, batch: Batch) -> Result<()> {
        self.try_write(&batch).inspect_err(|_| {
            // Other files' chunks are in it, too: they are tried once more before anything is said to be lost.
            let mut open = self.open();
            open.stuck = true;
            for (id, bytes) in batch.chunks {
                if open.ids.insert(id) {
                    open.bytes += bytes.len();
                    open.chunks.push((id, bytes));
                }
            }
        })
    }

    fn try_write(&self, batch: &Batch) -> Result<()> {
        let ids: Vec<_> = batch.chunks.iter().map(|(id, _)| *id).collect();
        if ids.is_empty() {
            return Ok(());
        }
        let missing: HashSet<_> = self.repository.missing(&ids)?.into_iter().collect();
        let missing: Vec<_> = batch.chunks.iter().filter(|(id, _)| missing.contains(id)).cloned().collect();
        // A stuck batch may hold more than one pack takes.
        for part in parts(missing) {
            let mut writer = self.repository.begin_pack()?;
            for block in blocks(&part) {
                writer.append(&block)?;
            }
            writer.finish()?;
        }
        Ok(())
    }

    fn open(&self) -> MutexGuard<'_, Batch> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

type Chunks = Vec<(ChunkId, Bytes)>;

fn parts(chunks: Chunks) -> Vec<Chunks> {
    split(chunks, BATCH_BYTES, usize::MAX)
}

fn blocks(chunks: &Chunks) -> impl Iterator<Item = Block> {
    let mut encoder = Encoder::new(Compression::default());
    split(chunks.clone(), BLOCK_TARGET_BYTES as usize, MAX_BLOCK_CHUNKS)
        .into_iter()
        .map(move |chunks| encoder.encode(&chunks))
}

/// Closes a part once it has `bytes` or `count`.
fn split(chunks: Chunks, bytes: usize, count: usize) -> Vec<Chunks> {
    let mut parts = Vec::new();
    let (mut open, mut length) = (Vec::new(), 0);
    for chunk in chunks {
        length += chunk.1.len();
        open.push(chunk);
        if length >= bytes || open.len() >= count {
            parts.push(std::mem::take(&mut open));
            length = 0;
        }
    }
    if !open.is_empty() {
        parts.push(open);
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_closed_by_bytes_and_by_count_and_nothing_is_lost() {
        let chunk = |n: u8, length| (ChunkId::from_bytes([n; 32]), Bytes::from(vec![n; length]));
        let chunks: Chunks = (0..10).map(|n| chunk(n, 10)).collect();
        let sizes = |parts: Vec<Chunks>| parts.iter().map(Vec::len).collect::<Vec<_>>();
        assert_eq!(sizes(split(chunks.clone(), 25, 100)), [3, 3, 3, 1]);
        assert_eq!(sizes(split(chunks.clone(), 1000, 4)), [4, 4, 2]);
        assert_eq!(split(chunks.clone(), 25, 4).concat(), chunks);
        assert!(split(Vec::new(), 25, 4).is_empty());
    }
}
