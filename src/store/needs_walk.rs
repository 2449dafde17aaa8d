//! Walks the lists of snapshots, one after the other, without reading any list twice, and names every chunk that one needs.
//!
//! Snapshots that follow each other share nearly all chunks of their lists, so a list's chunk is read once. An id may lie across two
//! chunks, so what is remembered of one is where its first whole id begins, and what stands before and behind its whole ids.
//!
//! Whoever walks does so in ranks: what was read for a rank is read again only for a higher one.

use crate::model::{ChunkId, Record, Stream};
use crate::store::error::{Error, Result};
use crate::store::packs::{Packs, PlainReader};
use std::collections::HashMap;
use std::hash::Hasher;

/// The first eight bytes of an id. Two chunks that begin alike are taken for one; ids are hashes, so of a million chunks none do.
pub(crate) type ShortId = u64;

/// The short form of an id.
pub(crate) fn short(id: &[u8]) -> ShortId {
    id.first_chunk::<8>().map_or(0, |bytes| u64::from_le_bytes(*bytes))
}

/// Ids are hashes already.
#[derive(Default)]
pub(crate) struct FirstBytes(u64);

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

/// What was read of the lists so far.
#[derive(Debug)]
pub(crate) struct NeedsWalk<R> {
    leaves: HashMap<(ChunkId, u8), Leaf<R>>,
}

/// What a chunk of a list of references holds beside its whole ids.
#[derive(Debug)]
struct Leaf<R> {
    rank: R,
    head: Vec<u8>,
    tail: Vec<u8>,
}

impl<R> Default for NeedsWalk<R> {
    fn default() -> Self {
        Self { leaves: HashMap::new() }
    }
}

impl<R: Copy + Ord> NeedsWalk<R> {
    /// Tells `each` every chunk that a snapshot needs, but for those that it was told of for another one of this rank or a higher one;
    /// perhaps with repeats. `false` when the lists cannot be read to the end: then it is not known what the snapshot needs.
    ///
    /// # Errors
    /// The disk's, or the index's.
    pub(crate) fn add(
        &mut self,
        packs: &Packs,
        record: &Record,
        rank: R,
        each: &mut dyn FnMut(ShortId),
    ) -> Result<bool> {
        let mut walk = Walk { known: self, reader: PlainReader::new(packs), rank, each };
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
}

struct Walk<'a, R> {
    known: &'a mut NeedsWalk<R>,
    reader: PlainReader<'a>,
    rank: R,
    each: &'a mut dyn FnMut(ShortId),
}

impl<R: Copy + Ord> Walk<'_, R> {
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
        (self.each)(short(id));
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
        if let Some(leaf) = self.known.leaves.get(&key).filter(|leaf| leaf.rank >= self.rank) {
            let first = [carry.as_slice(), &leaf.head].concat();
            carry.clone_from(&leaf.tail);
            if !first.is_empty() {
                (self.each)(short(&first));
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
            (self.each)(short(&[carry.as_slice(), head].concat()));
        }
        let (ids, tail) = rest.as_chunks::<{ ChunkId::LENGTH }>();
        for id in ids {
            (self.each)(short(id));
        }
        *carry = tail.to_vec();
        let leaf = Leaf { rank: self.rank, head: head.to_vec(), tail: tail.to_vec() };
        self.known.leaves.insert(key, leaf);
        Ok(true)
    }

    fn read(&mut self, id: &[u8]) -> Result<Option<bytes::Bytes>> {
        let Ok(id) = <[u8; 32]>::try_from(id) else { return Ok(None) };
        self.reader.read(ChunkId::from_bytes(id))
    }
}
