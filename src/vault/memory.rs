//! A vault in memory, for tests: counts calls and fails when told to.

use crate::codec::{self, Decoder, Encoder};
use crate::model::{
    Block, ChunkId, ChunkerParameters, Fingerprint, Receipt, RepositoryId, RepositoryParameters, SignedRecord,
    SnapshotId, SnapshotInfo, Stream,
};
use crate::signer;
use crate::vault::{Error, Result, Vault};
use bytes::Bytes;
use jiff::Timestamp;
use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Keeps everything in memory.
#[derive(Debug)]
pub struct MemoryVault {
    parameters: RepositoryParameters,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    chunks: HashMap<ChunkId, Bytes>,
    snapshots: Vec<SnapshotInfo>,
    puts_until_failure: Option<u64>,
    asked: u64,
    put: u64,
    got: u64,
}

impl Default for MemoryVault {
    fn default() -> Self {
        Self::new()
    }
}

impl MemoryVault {
    /// An empty vault with the standard parameters.
    pub fn new() -> Self {
        let id = RepositoryId::from_random([7; 16]);
        let parameters = RepositoryParameters { id, chunker: ChunkerParameters::STANDARD };
        Self { parameters, state: Mutex::default() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets `puts` more puts through, then answers [`Error::Offline`] to every one.
    pub fn fail_after(&self, puts: u64) {
        self.state().puts_until_failure = Some(puts);
    }

    /// Ends the failing.
    pub fn recover(&self) {
        self.state().puts_until_failure = None;
    }

    /// Chunks put since the start, repeats counted.
    pub fn chunks_put(&self) -> u64 {
        self.state().put
    }

    /// Chunks given by `get` since the start, repeats counted.
    pub fn chunks_got(&self) -> u64 {
        self.state().got
    }

    /// Ids asked for by `missing` since the start.
    pub fn ids_asked(&self) -> u64 {
        self.state().asked
    }

    /// Forgets a chunk, as a bad disk would.
    pub fn lose(&self, id: &ChunkId) {
        self.state().chunks.remove(id);
    }

    /// Replaces a chunk's bytes, as a bad disk would.
    pub fn corrupt(&self, id: &ChunkId, bytes: &'static [u8]) {
        self.state().chunks.insert(*id, Bytes::from_static(bytes));
    }

    /// The ids of everything kept, unsorted.
    pub fn chunk_ids(&self) -> Vec<ChunkId> {
        self.state().chunks.keys().copied().collect()
    }
}

impl State {
    fn bytes_of(&self, stream: &Stream) -> Result<Vec<u8>> {
        let mut ids = stream.ids.clone();
        for level in (0..=stream.depth).rev() {
            let absent: Vec<_> = ids.iter().filter(|id| !self.chunks.contains_key(id)).copied().collect();
            if !absent.is_empty() {
                return Err(Error::Missing(absent));
            }
            let bytes: Vec<u8> = ids.iter().flat_map(|id| self.chunks[id].iter().copied()).collect();
            if level == 0 {
                return Ok(bytes);
            }
            ids = bytes.chunks_exact(32).filter_map(|b| b.try_into().ok().map(ChunkId::from_bytes)).collect();
        }
        Ok(Vec::new())
    }
}

impl Vault for MemoryVault {
    fn parameters(&self) -> RepositoryParameters {
        self.parameters
    }

    async fn missing(&self, ids: Vec<ChunkId>) -> Result<Vec<ChunkId>> {
        let mut state = self.state();
        state.asked += ids.len() as u64;
        Ok(ids.into_iter().filter(|id| !state.chunks.contains_key(id)).collect())
    }

    async fn put(&self, blocks: Vec<Block>) -> Result<u64> {
        let mut state = self.state();
        match &mut state.puts_until_failure {
            Some(0) => return Err(Error::Offline("the test says so".into())),
            Some(left) => *left -= 1,
            None => {}
        }
        let mut decoder = Decoder::new();
        let mut sent = 0;
        for block in blocks {
            let plain = decoder.decode(&block).map_err(|error| Error::Refused(error.into()))?;
            for (chunk, bytes) in codec::chunks(&block.header, &plain) {
                state.chunks.insert(chunk.id, Bytes::copy_from_slice(bytes));
                state.put += 1;
            }
            sent += block.encoded_length();
        }
        Ok(sent)
    }

    async fn get(&self, ids: Vec<ChunkId>) -> Result<Vec<Block>> {
        let mut state = self.state();
        state.got += ids.len() as u64;
        let mut encoder = Encoder::new(codec::Compression::None);
        let find = |id: &ChunkId| state.chunks.get(id).cloned().ok_or_else(|| Error::NotFound(format!("chunk {id}")));
        ids.iter().map(|id| Ok(encoder.encode(&[(*id, find(id)?)]))).collect()
    }

    async fn snapshots(&self) -> Result<Vec<SnapshotInfo>> {
        Ok(self.state().snapshots.clone())
    }

    async fn commit_without_data(&self, _: SignedRecord) -> Result<SnapshotId> {
        Err(Error::Refused("no copies are kept in memory".into()))
    }

    async fn commit(&self, signed: SignedRecord) -> Result<SnapshotId> {
        let record = signer::open_record(&signed).map_err(|error| Error::Refused(error.into()))?;
        let mut state = self.state();
        let of_set =
            |info: &&SnapshotInfo| signer::open_record(&info.signed).is_ok_and(|other| other.set == record.set);
        let head = state.snapshots.iter().rfind(of_set).cloned();
        if head.as_ref().map(|head| head.id) != record.previous {
            return Err(Error::Stale(head.map(Box::new)));
        }
        let refs = state.bytes_of(&record.refs)?;
        let ids = refs.chunks_exact(32).filter_map(|b| b.try_into().ok().map(ChunkId::from_bytes));
        let absent: Vec<_> = ids.filter(|id| !state.chunks.contains_key(id)).collect();
        if !absent.is_empty() {
            return Err(Error::Missing(absent));
        }
        let id = signer::snapshot_id(&signed);
        let received_at = Timestamp::from_second(state.snapshots.len() as i64).unwrap_or(Timestamp::UNIX_EPOCH);
        let receipt = Receipt { record: id, received_at, from: Fingerprint::from_bytes([0; 32]) };
        state.snapshots.push(SnapshotInfo { id, signed, receipt, forgotten: None });
        Ok(id)
    }
}
