//! The chunks that snapshots need, out of their refs. Refs are cut like files, so those of two snapshots are the same chunks but for
//! few; a chunk of refs that was read once, for an earlier snapshot, is passed over.
//!
//! Ids do not care about cuts: one may begin in one chunk and end in the next. So of a chunk that is passed over its first and last
//! bytes are remembered, and how far its first id begins before it; only the same chunk in the same place of an id counts as known.

use crate::copy::{Error, Result};
use crate::manifest;
use crate::manifest::stream_reader::fetch;
use crate::model::limits::{MAX_STREAM_DEPTH, MAX_STREAM_IDS};
use crate::model::{ChunkId, Record};
use crate::vault::{self, Vault};
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

/// Chunks of the refs of one snapshot, lists included, as the store allows.
const MAX_REFS_CHUNKS: usize = 1 << 20;
/// Lists fetched in one call.
const FETCH_LISTS: usize = 8;
const ID: usize = ChunkId::LENGTH;

/// A chunk of refs that was read.
#[derive(Clone, Copy, Debug)]
struct Known {
    length: u64,
    head: [u8; ID],
    tail: [u8; ID],
}

/// Goes through the refs of one snapshot after the other.
#[derive(Debug)]
pub struct Needs<V> {
    vault: Arc<V>,
    // By chunk, and how many bytes of its first id lie before it.
    known: HashMap<(ChunkId, usize), Known>,
    own: Vec<ChunkId>,
    leaves: VecDeque<ChunkId>,
    carry: Vec<u8>,
    left: u64,
}

impl<V: Vault> Needs<V> {
    /// Knows nothing yet.
    pub fn new(vault: Arc<V>) -> Self {
        let (known, own, leaves, carry) = (HashMap::new(), Vec::new(), VecDeque::new(), Vec::new());
        Self { vault, known, own, leaves, carry, left: 0 }
    }

    /// Begins with a snapshot.
    ///
    /// # Errors
    /// The vault's, or a record that breaks the rules of streams.
    pub async fn begin(&mut self, record: &Record) -> Result<()> {
        let refs = &record.refs;
        if refs.ids.len() > MAX_STREAM_IDS || refs.depth > MAX_STREAM_DEPTH {
            return Err(form("the head of the refs is not one"));
        }
        // The refs do not name their own chunks.
        let mut own = refs.ids.clone();
        let mut level = refs.ids.clone();
        for _ in 0..refs.depth {
            let mut bytes = Vec::new();
            for ids in level.chunks(FETCH_LISTS) {
                let lists = fetch(&*self.vault, ids.to_vec()).await.map_err(from)?;
                for list in &lists {
                    bytes.extend_from_slice(list);
                }
                if bytes.len() / ID + own.len() > MAX_REFS_CHUNKS {
                    return Err(form("the refs have more chunks than this version handles"));
                }
            }
            let (ids, rest) = bytes.as_chunks::<ID>();
            if !rest.is_empty() {
                return Err(form("a list of the refs ends within an id"));
            }
            level = ids.iter().copied().map(ChunkId::from_bytes).collect();
            own.extend_from_slice(&level);
        }
        (self.own, self.leaves, self.left) = (own, level.into(), refs.length);
        self.carry.clear();
        Ok(())
    }

    /// The next ids, perhaps with repeats; `None` after the last.
    ///
    /// # Errors
    /// The vault's, or refs that are not as long as the record says.
    pub async fn next(&mut self) -> Result<Option<Vec<ChunkId>>> {
        let mut ids = std::mem::take(&mut self.own);
        while ids.is_empty() {
            let Some(leaf) = self.leaves.pop_front() else {
                return if self.left == 0 && self.carry.is_empty() {
                    Ok(None)
                } else {
                    Err(form("the refs are shorter than the record says"))
                };
            };
            self.leaf(leaf, &mut ids).await?;
        }
        Ok(Some(ids))
    }

    /// Takes everything that a snapshot needs as known.
    ///
    /// # Errors
    /// As [`Needs::begin`] and [`Needs::next`].
    pub async fn pass_over(&mut self, record: &Record) -> Result<()> {
        self.begin(record).await?;
        while self.next().await?.is_some() {}
        Ok(())
    }

    async fn leaf(&mut self, leaf: ChunkId, ids: &mut Vec<ChunkId>) -> Result<()> {
        let before = self.carry.len();
        if let Some(known) = self.known.get(&(leaf, before)).copied() {
            self.take(known.length)?;
            // The id that lies across its beginning may be another one than the last time.
            if before > 0 {
                self.carry.extend_from_slice(&known.head[..ID - before]);
                ids.extend(id(&self.carry));
            }
            let rest = (before + known.length as usize) % ID;
            self.carry.clear();
            self.carry.extend_from_slice(&known.tail[ID - rest..]);
            return Ok(());
        }
        let fetched = fetch(&*self.vault, vec![leaf]).await.map_err(from)?;
        let bytes = fetched.first().ok_or_else(|| form("a chunk of the refs did not come"))?;
        self.take(bytes.len() as u64)?;
        if let (Some(head), Some(tail), true) = (bytes.first_chunk(), bytes.last_chunk(), bytes.len() >= 2 * ID) {
            let known = Known { length: bytes.len() as u64, head: *head, tail: *tail };
            self.known.insert((leaf, before), known);
        }
        self.carry.extend_from_slice(bytes);
        let (whole, rest) = self.carry.as_chunks::<ID>();
        ids.extend(whole.iter().copied().map(ChunkId::from_bytes));
        self.carry = rest.to_vec();
        Ok(())
    }

    fn take(&mut self, length: u64) -> Result<()> {
        let left = self.left.checked_sub(length);
        self.left = left.ok_or_else(|| form("the refs are longer than the record says"))?;
        Ok(())
    }
}

fn id(bytes: &[u8]) -> Option<ChunkId> {
    bytes.first_chunk().copied().map(ChunkId::from_bytes)
}

fn form(problem: &str) -> Error {
    Error::From(vault::Error::Corrupt(format!("the list of what it needs ({problem})")))
}

fn from(error: manifest::Error) -> Error {
    Error::From(match error {
        manifest::Error::Vault(error) => error,
        error => vault::Error::Corrupt(format!("the list of what it needs ({error})")),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::{Compression, Encoder, chunk_id};
    use crate::manifest::StreamWriter;
    use crate::model::{Alias, Changes, ChunkerParameters, RepositoryId, Stream, Totals};
    use crate::vault::MemoryVault;
    use bytes::Bytes;
    use std::collections::HashSet;

    fn ids(range: std::ops::Range<u64>) -> Vec<ChunkId> {
        range.map(|n| chunk_id(&n.to_le_bytes())).collect()
    }

    /// A record that needs these chunks, its refs cut small.
    async fn needing(vault: &MemoryVault, ids: &[ChunkId]) -> Record {
        let small: ChunkerParameters =
            serde_json::from_str(r#"{"min":4096,"average":8192,"max":16384,"seed":0}"#).unwrap();
        let mut chunks: Vec<(ChunkId, Bytes)> = Vec::new();
        let mut sink = |id, bytes| {
            chunks.push((id, bytes));
            Ok::<_, std::convert::Infallible>(())
        };
        let mut writer = StreamWriter::new(&small);
        for id in ids {
            writer.write(id.as_bytes(), &mut sink).unwrap();
        }
        let refs = writer.finish(&mut sink).unwrap();
        for chunk in chunks {
            vault.put(vec![Encoder::new(Compression::default()).encode(&[chunk])]).await.unwrap();
        }
        Record {
            format: 1,
            repository: RepositoryId::from_random([1; 16]),
            set: "docs".parse().unwrap(),
            roots: Vec::new(),
            sequence: 1,
            previous: None,
            manifest: Stream { length: 0, depth: 0, ids: Vec::new() },
            refs,
            totals: Totals::default(),
            changes: Changes::default(),
            source_time: jiff::Timestamp::UNIX_EPOCH,
            device: Alias::new("laptop"),
            signer: String::new(),
            tag: None,
        }
    }

    async fn all<V: Vault>(needs: &mut Needs<V>, record: &Record) -> HashSet<ChunkId> {
        needs.begin(record).await.unwrap();
        let mut found = HashSet::new();
        while let Some(ids) = needs.next().await.unwrap() {
            found.extend(ids);
        }
        found
    }

    #[tokio::test]
    async fn nothing_new_is_overlooked_and_what_is_known_is_not_read_again() {
        let vault = Arc::new(MemoryVault::new());
        let mut state = ids(0..20_000);
        let first = needing(&vault, &state).await;
        let own: HashSet<ChunkId> = vault.chunk_ids().into_iter().collect();
        let mut needs = Needs::new(vault.clone());
        let found = all(&mut needs, &first).await;
        assert_eq!(found, state.iter().copied().chain(own).collect());
        let once = vault.chunks_got();
        // Each state takes some out and puts some in, in many places: cuts move, and the ids in the chunks behind them, too.
        for round in 1..20_u64 {
            let known: HashSet<ChunkId> = state.iter().copied().collect();
            for edit in 0..3 {
                let at = (round * 977 + edit * 6007) as usize % state.len();
                let new = ids(round * 100_000 + edit * 1000..round * 100_000 + edit * 1000 + round % 4);
                state.splice(at..at + (edit as usize), new);
            }
            let record = needing(&vault, &state).await;
            let before = vault.chunks_got();
            let found = all(&mut needs, &record).await;
            let new = state.iter().filter(|id| !known.contains(id));
            let overlooked: Vec<_> = new.filter(|id| !found.contains(id)).collect();
            assert!(overlooked.is_empty(), "round {round}: {overlooked:?}");
            assert!(vault.chunks_got() - before < once / 2, "round {round}: most of the refs are known");
        }
    }

    #[tokio::test]
    async fn refs_of_another_length_are_refused() {
        let vault = Arc::new(MemoryVault::new());
        let record = needing(&vault, &ids(0..1000)).await;
        for length in [31_999, 32_032, 0] {
            let mut lie = record.clone();
            lie.refs.length = length;
            let mut needs = Needs::new(vault.clone());
            let read = async {
                needs.begin(&lie).await?;
                while needs.next().await?.is_some() {}
                Ok::<_, Error>(())
            };
            assert!(matches!(read.await, Err(Error::From(vault::Error::Corrupt(_)))), "{length}");
        }
    }
}
