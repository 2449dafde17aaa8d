//! Reads a [`Stream`] through a vault, a few chunks ahead, every chunk checked.

use crate::codec::{self, Decoder};
use crate::manifest::{Error, Result};
use crate::model::limits::{MAX_STREAM_DEPTH, MAX_STREAM_IDS};
use crate::model::{Block, ChunkId, Stream};
use crate::vault::Vault;
use bytes::Bytes;
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

/// Chunks fetched in one call: about 4 MiB of a cut stream.
const FETCH_CHUNKS: usize = 16;

/// Gives the bytes of one stream, chunk by chunk.
#[derive(Debug)]
pub struct StreamReader<V> {
    vault: Arc<V>,
    // `None` for a part of a stream, whose length nobody has said.
    length: Option<u64>,
    given: u64,
    chunks_given: usize,
    ahead: usize,
    // One queue of ids for each level of lists, the deepest (the bytes' own chunks) last.
    levels: Vec<Level>,
}

#[derive(Debug, Default)]
struct Level {
    ids: VecDeque<ChunkId>,
    fetched: VecDeque<Bytes>,
    // The last bytes of a list chunk that did not make a whole id: the cuts do not know about ids.
    half: Vec<u8>,
}

impl<V: Vault> StreamReader<V> {
    /// Begins to read; fetches nothing yet.
    ///
    /// # Errors
    /// [`Error::Form`] when the head names more ids or levels than a stream may have.
    pub fn new(vault: Arc<V>, stream: &Stream) -> Result<Self> {
        if stream.ids.len() > MAX_STREAM_IDS || stream.depth > MAX_STREAM_DEPTH {
            return Err(Error::Form);
        }
        let mut levels: Vec<Level> = (0..=stream.depth).map(|_| Level::default()).collect();
        levels[0].ids.extend(&stream.ids);
        Ok(Self { vault, length: Some(stream.length), given: 0, chunks_given: 0, ahead: FETCH_CHUNKS, levels })
    }

    /// The list of the chunks that hold the bytes of `stream`, which must be nested: what lies one level above them.
    pub(crate) fn of_list(vault: Arc<V>, stream: &Stream) -> Result<Self> {
        let list =
            Stream { length: 0, depth: stream.depth.checked_sub(1).ok_or(Error::Form)?, ids: stream.ids.clone() };
        Ok(Self { length: None, ..Self::new(vault, &list)? })
    }

    /// The bytes of these chunks, a part of a stream. Begins with few chunks at a time: whoever reads from the middle may want
    /// little.
    pub(crate) fn of_chunks(vault: Arc<V>, ids: &[ChunkId]) -> Self {
        let level = Level { ids: ids.iter().copied().collect(), ..Level::default() };
        Self { vault, length: None, given: 0, chunks_given: 0, ahead: 1, levels: vec![level] }
    }

    /// How many of the chunks that hold the bytes were given so far.
    pub(crate) fn chunks_given(&self) -> usize {
        self.chunks_given
    }

    /// The next bytes; `None` after the last.
    ///
    /// # Errors
    /// The vault's, or [`Error::Form`] when the bytes are more or fewer than the head says.
    pub async fn next(&mut self) -> Result<Option<Bytes>> {
        let deepest = self.levels.len() - 1;
        loop {
            if let Some(bytes) = self.levels[deepest].fetched.pop_front() {
                self.given += bytes.len() as u64;
                self.chunks_given += 1;
                let too_long = self.length.is_some_and(|length| self.given > length);
                return if too_long { Err(Error::Form) } else { Ok(Some(bytes)) };
            }
            // The deepest level that still has ids is fetched; what it gives is ids for the level below it.
            let Some(level) = (0..=deepest).rev().find(|level| !self.levels[*level].ids.is_empty()) else {
                let whole = self.length.is_none_or(|length| self.given == length)
                    && self.levels.iter().all(|level| level.half.is_empty());
                return if whole { Ok(None) } else { Err(Error::Form) };
            };
            // One list stands for thousands of chunks; more at once would only take memory.
            let count = self.levels[level].ids.len().min(if level == deepest { self.ahead } else { 1 });
            if level == deepest {
                self.ahead = (2 * self.ahead).min(FETCH_CHUNKS);
            }
            let ids: Vec<ChunkId> = self.levels[level].ids.drain(..count).collect();
            let chunks = fetch(&*self.vault, ids).await?;
            if level == deepest {
                self.levels[deepest].fetched.extend(chunks);
            } else {
                for chunk in chunks {
                    self.levels[level + 1].take_ids(&chunk);
                }
            }
        }
    }
}

impl Level {
    fn take_ids(&mut self, list: &[u8]) {
        self.half.extend_from_slice(list);
        let whole = self.half.len() / ChunkId::LENGTH * ChunkId::LENGTH;
        for id in self.half[..whole].chunks_exact(ChunkId::LENGTH) {
            let mut bytes = [0; ChunkId::LENGTH];
            bytes.copy_from_slice(id);
            self.ids.push_back(ChunkId::from_bytes(bytes));
        }
        self.half.drain(..whole);
    }
}

/// Fetches chunks and checks them; the result is in the order of `ids`.
pub(crate) async fn fetch<V: Vault>(vault: &V, ids: Vec<ChunkId>) -> Result<Vec<Bytes>> {
    let mut unique = ids.clone();
    unique.sort_unstable();
    unique.dedup();
    let blocks = vault.get(unique).await?;
    let found = open(&mut Decoder::new(), blocks, &ids)?;
    let find = |id: &ChunkId| {
        found.get(id).cloned().ok_or_else(|| crate::vault::Error::NotFound(format!("chunk {id}")).into())
    };
    ids.iter().map(find).collect()
}

/// The bytes of those chunks of `blocks` that are in `wanted`, all checked. Each block is gone when it was read, and the bytes that
/// nobody wants are, too, where they are the larger part.
///
/// # Errors
/// The first check that fails.
pub fn open(
    decoder: &mut Decoder,
    blocks: Vec<Block>,
    wanted: &[ChunkId],
) -> std::result::Result<HashMap<ChunkId, Bytes>, codec::Error> {
    let wanted: std::collections::HashSet<&ChunkId> = wanted.iter().collect();
    let mut found = HashMap::with_capacity(wanted.len());
    for block in blocks {
        let plain = decoder.decode(&block)?;
        let useful: usize = block
            .header
            .chunks
            .iter()
            .filter(|chunk| wanted.contains(&chunk.id))
            .map(|chunk| chunk.length as usize)
            .sum();
        let mostly_wanted = useful * 2 >= plain.len();
        for (chunk, bytes) in codec::chunks(&block.header, &plain) {
            if wanted.contains(&chunk.id) {
                let bytes = if mostly_wanted { plain.slice_ref(bytes) } else { Bytes::copy_from_slice(bytes) };
                found.insert(chunk.id, bytes);
            }
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::{Compression, Encoder};
    use crate::manifest::StreamWriter;
    use crate::model::ChunkerParameters;
    use crate::vault::MemoryVault;

    fn small() -> ChunkerParameters {
        serde_json::from_str(r#"{"min":4096,"average":8192,"max":16384,"seed":0}"#).unwrap()
    }

    async fn written(bytes: &[u8]) -> (Arc<MemoryVault>, Stream) {
        let vault = Arc::new(MemoryVault::new());
        let mut chunks = Vec::new();
        let mut sink = |id, bytes| {
            chunks.push((id, bytes));
            Ok::<_, std::convert::Infallible>(())
        };
        let mut writer = StreamWriter::new(&small());
        for part in bytes.chunks(10_000) {
            writer.write(part, &mut sink).unwrap();
        }
        let stream = writer.finish(&mut sink).unwrap();
        let mut encoder = Encoder::new(Compression::default());
        for chunk in chunks {
            vault.put(vec![encoder.encode(&[chunk])]).await.unwrap();
        }
        (vault, stream)
    }

    fn noise(length: usize) -> Vec<u8> {
        (0..=length as u64 / 32).flat_map(|i| *blake3::hash(&i.to_le_bytes()).as_bytes()).take(length).collect()
    }

    async fn read(vault: Arc<MemoryVault>, stream: &Stream) -> Result<Vec<u8>> {
        let mut reader = StreamReader::new(vault, stream)?;
        let mut bytes = Vec::new();
        while let Some(part) = reader.next().await? {
            bytes.extend_from_slice(&part);
        }
        Ok(bytes)
    }

    #[tokio::test]
    async fn streams_of_every_depth_are_read_as_written() {
        for (length, depth) in [(0, 0), (1, 0), (200_000, 0), (3_000_000, 1)] {
            let bytes = noise(length);
            let (vault, stream) = written(&bytes).await;
            assert_eq!((stream.length, stream.depth), (length as u64, depth), "{length}");
            assert!(read(vault, &stream).await.unwrap() == bytes, "{length}");
        }
    }

    /// The writer needs a petabyte for the deepest lists; here they are made by hand, in pieces that no id fits into evenly.
    #[tokio::test]
    async fn deep_lists_are_read_whatever_their_cuts() {
        let bytes = noise(20_000);
        let vault = Arc::new(MemoryVault::new());
        let mut encoder = Encoder::new(Compression::default());
        let (mut level, mut depth) = (bytes.clone(), 0);
        let ids = loop {
            let mut ids = Vec::new();
            for piece in level.chunks(100) {
                let chunk = (codec::chunk_id(piece), Bytes::copy_from_slice(piece));
                ids.push(chunk.0);
                vault.put(vec![encoder.encode(&[chunk])]).await.unwrap();
            }
            if depth == MAX_STREAM_DEPTH {
                break ids;
            }
            level = ids.iter().flat_map(|id| *id.as_bytes()).collect();
            depth += 1;
        };
        let stream = Stream { length: bytes.len() as u64, depth, ids };
        assert!(read(vault, &stream).await.unwrap() == bytes);
    }

    #[tokio::test]
    async fn a_stream_that_lies_about_its_length_is_refused() {
        let (vault, stream) = written(&noise(100_000)).await;
        for length in [99_999, 100_001] {
            let lie = Stream { length, ..stream.clone() };
            assert!(matches!(read(vault.clone(), &lie).await, Err(Error::Form)));
        }
        let lie = Stream { depth: 1, ..stream.clone() };
        assert!(read(vault.clone(), &lie).await.is_err());
        assert!(matches!(read(vault, &Stream { depth: 9, ..stream }).await, Err(Error::Form)));
    }

    #[tokio::test]
    async fn damage_is_found() {
        let (vault, stream) = written(&noise(100_000)).await;
        vault.corrupt(&stream.ids[1], b"rot");
        assert!(matches!(read(vault.clone(), &stream).await, Err(Error::Damaged(_))));
        vault.lose(&stream.ids[1]);
        assert!(matches!(read(vault, &stream).await, Err(Error::Vault(crate::vault::Error::NotFound(_)))));
    }
}
