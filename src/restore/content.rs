//! The bytes of one file, or a part of them, in order: for those who hand files on and write none.
//!
//! Every chunk is checked against its id, and one batch is fetched while the one before is taken, so memory is two batches whatever
//! the size of the file.

use crate::manifest::ExtentReader;
use crate::model::limits::MAX_FETCH_IDS;
use crate::model::{ChunkId, Content, Extent};
use crate::restore::fetch::checked_chunks;
use crate::restore::{Error, Result};
use crate::vault::{self, Vault};
use bytes::Bytes;
use std::collections::{HashMap, VecDeque};
use std::ops::Range;
use std::sync::Arc;
use tokio::sync::mpsc;

/// Plain bytes of a batch, and one chunk more at most.
const BATCH_BYTES: u64 = 4 << 20;
/// Zeros given at a time where a file has a hole.
static ZEROS: [u8; 64 << 10] = [0; 64 << 10];

/// The extents of a file, wherever they are listed.
#[derive(Debug)]
pub(crate) enum Extents<V> {
    /// In the entry itself.
    Inline(std::vec::IntoIter<Extent>),
    /// In chunks of their own.
    Indirect(Box<ExtentReader<V>>),
}

impl<V: Vault> Extents<V> {
    /// Begins to read them; fetches nothing yet.
    pub(crate) fn of(vault: &Arc<V>, content: Content) -> crate::manifest::Result<Self> {
        match content {
            Content::Inline(extents) => Ok(Self::Inline(extents.into_iter())),
            Content::Indirect(list) => Ok(Self::Indirect(Box::new(ExtentReader::new(vault.clone(), &list)?))),
        }
    }

    /// The next; `None` after the last.
    pub(crate) async fn next(&mut self) -> crate::manifest::Result<Option<Extent>> {
        match self {
            Self::Inline(list) => Ok(list.next()),
            Self::Indirect(reader) => reader.next().await,
        }
    }
}

/// A part of an extent that is asked for: its bytes from here to there.
#[derive(Debug)]
struct Part {
    extent: Extent,
    from: usize,
    to: usize,
}

/// Gives the bytes `range` of a file with this content to `sink`, in order. Returns early when nobody takes them any more.
///
/// # Errors
/// A chunk that is damaged or gone, or a content that does not reach that far: then what was given so far is not all.
pub async fn read_range<V: Vault>(
    vault: &Arc<V>,
    content: Content,
    range: Range<u64>,
    sink: &mpsc::Sender<Bytes>,
) -> Result<()> {
    let mut reader = Reader { extents: Extents::of(vault, content)?, at: 0, range };
    let mut ready = reader.batch(vault).await?;
    while !ready.0.is_empty() {
        let (next, taken) = tokio::join!(reader.batch(vault), give(ready, sink));
        if !taken? {
            return Ok(());
        }
        ready = next?;
    }
    if reader.at < reader.range.end { Err(damaged("its parts do not make up its size")) } else { Ok(()) }
}

struct Reader<V> {
    extents: Extents<V>,
    // How far the extents that were looked at reach.
    at: u64,
    range: Range<u64>,
}

type Batch = (VecDeque<Part>, HashMap<ChunkId, Bytes>);

impl<V: Vault> Reader<V> {
    /// The next parts with their chunks; empty at the end.
    async fn batch(&mut self, vault: &Arc<V>) -> Result<Batch> {
        let (mut parts, mut wanted, mut bytes) = (VecDeque::new(), HashMap::new(), 0);
        while self.at < self.range.end && bytes < BATCH_BYTES && parts.len() < MAX_FETCH_IDS {
            let Some(extent) = self.extents.next().await? else { break };
            let begin = self.at;
            if extent.length() == 0 {
                return Err(damaged("a part of it is empty"));
            }
            self.at = begin.checked_add(extent.length()).ok_or_else(|| damaged("its parts are too long"))?;
            let (from, to) = (self.range.start.max(begin), self.range.end.min(self.at));
            if from >= to {
                continue;
            }
            if let Extent::Chunk(id, length) = extent
                && wanted.insert(id, length).is_none()
            {
                bytes += length;
            }
            parts.push_back(Part { extent, from: (from - begin) as usize, to: (to - begin) as usize });
        }
        Ok((parts, checked_chunks(&**vault, wanted.into_keys().collect(), bytes).await?))
    }
}

/// `false` when nobody takes them any more.
async fn give((parts, chunks): Batch, sink: &mpsc::Sender<Bytes>) -> Result<bool> {
    for part in parts {
        let mut at = part.from;
        while at < part.to {
            let piece = match part.extent {
                Extent::Hole(_) => Bytes::from_static(&ZEROS[..ZEROS.len().min(part.to - at)]),
                Extent::Chunk(id, length) => {
                    let chunk = chunks.get(&id).filter(|chunk| chunk.len() as u64 == length);
                    chunk.ok_or_else(|| damaged("one of its parts is not what the list says"))?.slice(at..part.to)
                }
            };
            at += piece.len();
            if sink.send(piece).await.is_err() {
                return Ok(false);
            }
        }
    }
    Ok(true)
}

fn damaged(problem: &str) -> Error {
    vault::Error::Corrupt(format!("the file ({problem})")).into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::{Compression, Encoder, chunk_id};
    use crate::vault::MemoryVault;

    async fn vault_with(chunks: &[Vec<u8>]) -> (Arc<MemoryVault>, Vec<Extent>) {
        let vault = Arc::new(MemoryVault::new());
        let mut extents = Vec::new();
        for chunk in chunks {
            let id = chunk_id(chunk);
            extents.push(Extent::Chunk(id, chunk.len() as u64));
            vault
                .put(vec![Encoder::new(Compression::default()).encode(&[(id, Bytes::from(chunk.clone()))])])
                .await
                .unwrap();
        }
        (vault, extents)
    }

    async fn read(vault: &Arc<MemoryVault>, extents: &[Extent], range: Range<u64>) -> Result<Vec<u8>> {
        let (sink, mut pieces) = mpsc::channel(1);
        let content = Content::Inline(extents.to_vec());
        let reading = async {
            let result = read_range(vault, content, range, &sink).await;
            drop(sink);
            result
        };
        let taking = async {
            let mut all = Vec::new();
            while let Some(piece) = pieces.recv().await {
                all.extend_from_slice(&piece);
            }
            all
        };
        let (result, all) = tokio::join!(reading, taking);
        result.map(|()| all)
    }

    #[tokio::test]
    async fn any_range_gives_exactly_its_bytes_holes_and_repeated_chunks_too() {
        let chunks: Vec<Vec<u8>> = (0..40_u8).map(|n| vec![n; 1000 + usize::from(n) * 7]).collect();
        let (vault, mut extents) = vault_with(&chunks).await;
        extents.insert(3, Extent::Hole(200_000));
        extents.push(extents[0]);
        let mut plain = Vec::new();
        for extent in &extents {
            let chunk = chunks.iter().find(|chunk| extent.chunk() == Some(chunk_id(chunk)));
            plain.extend(chunk.cloned().unwrap_or_else(|| vec![0; extent.length() as usize]));
        }
        let end = plain.len() as u64;
        for range in [0..end, 0..1, 999..1001, 5..5, 3000..210_000, end - 1..end, 100_000..100_001] {
            let expected = &plain[range.start as usize..range.end as usize];
            assert_eq!(read(&vault, &extents, range.clone()).await.unwrap(), expected, "{range:?}");
        }
    }

    #[tokio::test]
    async fn what_is_gone_or_too_short_is_an_error_and_never_taken_for_all() {
        let (vault, mut extents) = vault_with(&[vec![1; 10], vec![2; 10]]).await;
        assert!(read(&vault, &extents, 0..21).await.is_err(), "shorter than it says");
        extents.push(Extent::Chunk(chunk_id(b"nowhere"), 7));
        assert!(read(&vault, &extents, 0..27).await.is_err(), "a chunk is gone");
        assert_eq!(read(&vault, &extents, 0..20).await.unwrap().len(), 20, "and not asked for without need");
        extents[0] = Extent::Chunk(extents[1].chunk().unwrap(), 9);
        assert!(read(&vault, &extents, 0..5).await.is_err(), "another length than the list says");
    }
}
