//! Which chunks snapshots need: the union of their lists of references, walked without reading any list twice.
//!
//! Held are the first eight bytes of each id. Two chunks that begin alike make one that nobody needs seem needed, never the other
//! way round, and ids are hashes: of a million chunks none does. So a million chunks cost 19 MB: a table with room for 1.8
//! million numbers of eight bytes and a byte beside each.
//!
//! Snapshots that follow each other share nearly all chunks of their lists, so a list's chunk is read once. An id may lie across two
//! chunks, so what is remembered of one is where its first whole id begins, and what stands before and behind its whole ids.

use crate::model::{ChunkId, Record, Stream};
use crate::store::error::{Error, Result};
use crate::store::packs::{Packs, PlainReader};
use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasherDefault, Hasher};

/// Who needs a chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Need {
    /// Nobody.
    Nobody,
    /// Only snapshots that are forgotten and can still be brought back.
    Forgotten,
    /// A snapshot that is kept.
    Present,
}

/// The chunks that snapshots need.
#[derive(Debug, Default)]
pub(crate) struct Needed {
    present: Ids,
    forgotten: Ids,
    leaves: HashMap<(ChunkId, u8), Leaf>,
}

/// What a chunk of a list of references holds beside its whole ids.
#[derive(Debug)]
struct Leaf {
    need: Need,
    head: Vec<u8>,
    tail: Vec<u8>,
}

type Ids = HashSet<u64, BuildHasherDefault<FirstBytes>>;

/// Ids are hashes already.
#[derive(Default)]
struct FirstBytes(u64);

impl Hasher for FirstBytes {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }

    fn write_u64(&mut self, number: u64) {
        self.0 = number;
    }
}

fn first_bytes(id: &[u8]) -> u64 {
    id.first_chunk::<8>().map_or(0, |bytes| u64::from_le_bytes(*bytes))
}

impl Needed {
    /// Who needs a chunk.
    pub(crate) fn of(&self, id: &ChunkId) -> Need {
        let id = first_bytes(id.as_bytes());
        if self.present.contains(&id) {
            Need::Present
        } else if self.forgotten.contains(&id) {
            Need::Forgotten
        } else {
            Need::Nobody
        }
    }

    /// Adds everything that a snapshot needs. `false` when its lists cannot be read to the end: then it is not known what it needs.
    ///
    /// # Errors
    /// The disk's, or the index's.
    pub(crate) fn add(&mut self, packs: &Packs, record: &Record, need: Need) -> Result<bool> {
        let mut walk = Walk { needed: self, reader: PlainReader::new(packs), need };
        let walked =
            walk.stream(&record.manifest, false).and_then(|whole| Ok(whole && walk.stream(&record.refs, true)?));
        match walked {
            Err(error) if error.is_damage() || matches!(error, Error::NotFound(_) | Error::Block(_)) => {
                tracing::error!(set = %record.set, number = record.sequence, %error, "the lists of a snapshot cannot be read");
                Ok(false)
            }
            other => other,
        }
    }

    fn insert(&mut self, id: &[u8], need: Need) {
        let id = first_bytes(id);
        if need == Need::Present {
            self.present.insert(id);
        } else if !self.present.contains(&id) {
            self.forgotten.insert(id);
        }
    }
}

struct Walk<'a> {
    needed: &'a mut Needed,
    reader: PlainReader<'a>,
    need: Need,
}

impl Walk<'_> {
    /// Walks the lists of a stream; of references, what they say, too.
    fn stream(&mut self, stream: &Stream, references: bool) -> Result<bool> {
        let mut carry = vec![Vec::new(); usize::from(stream.depth) + 1];
        for id in &stream.ids {
            if !self.visit(stream.depth, id.as_bytes(), references, &mut carry)? {
                return Ok(false);
            }
        }
        Ok(!references || carry.iter().all(Vec::is_empty))
    }

    fn visit(&mut self, level: u8, id: &[u8], references: bool, carry: &mut [Vec<u8>]) -> Result<bool> {
        self.needed.insert(id, self.need);
        if level == 0 {
            return if references { self.leaf(id, &mut carry[0]) } else { Ok(true) };
        }
        let Some(bytes) = self.read(id)? else { return Ok(false) };
        let mut list = std::mem::take(&mut carry[usize::from(level)]);
        list.extend_from_slice(&bytes);
        let (ids, rest) = list.as_chunks::<{ ChunkId::LENGTH }>();
        for id in ids {
            if !self.visit(level - 1, id, references, carry)? {
                return Ok(false);
            }
        }
        carry[usize::from(level)] = rest.to_vec();
        Ok(true)
    }

    /// A chunk of the references: every id in it is needed.
    fn leaf(&mut self, id: &[u8], carry: &mut Vec<u8>) -> Result<bool> {
        let Ok(chunk) = <[u8; 32]>::try_from(id).map(ChunkId::from_bytes) else { return Ok(false) };
        let key = (chunk, carry.len() as u8);
        if let Some(leaf) = self.needed.leaves.get(&key).filter(|leaf| leaf.need >= self.need) {
            let first = [carry.as_slice(), &leaf.head].concat();
            carry.clone_from(&leaf.tail);
            if !first.is_empty() {
                self.needed.insert(&first, self.need);
            }
            return Ok(true);
        }
        let Some(bytes) = self.read(id)? else { return Ok(false) };
        let head = (ChunkId::LENGTH - carry.len()) % ChunkId::LENGTH;
        if bytes.len() < head {
            // Too short to end an id: not worth remembering.
            carry.extend_from_slice(&bytes);
            return Ok(true);
        }
        let (head, rest) = bytes.split_at(head);
        if !carry.is_empty() {
            self.needed.insert(&[carry.as_slice(), head].concat(), self.need);
        }
        let (ids, tail) = rest.as_chunks::<{ ChunkId::LENGTH }>();
        for id in ids {
            self.needed.insert(id, self.need);
        }
        *carry = tail.to_vec();
        let leaf = Leaf { need: self.need, head: head.to_vec(), tail: tail.to_vec() };
        self.needed.leaves.insert(key, leaf);
        Ok(true)
    }

    fn read(&mut self, id: &[u8]) -> Result<Option<bytes::Bytes>> {
        let Ok(id) = <[u8; 32]>::try_from(id) else { return Ok(None) };
        self.reader.read(ChunkId::from_bytes(id))
    }
}
