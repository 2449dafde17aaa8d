//! Walks the streams of a record, a chunk at a time, and collects what of all that it needs is not durably there.
//!
//! What comes from a record is hostile: depth, number of ids and lengths are bounded, and lists that repeat themselves run
//! into the bound on ids instead of running for ever.

use crate::model::limits::MAX_MISSING_IDS;
use crate::model::limits::{MAX_STREAM_DEPTH, MAX_STREAM_IDS};
use crate::model::{ChunkId, PackId, Record, Stream};
use crate::store::error::{Error, Result};
use crate::store::layout;
use crate::store::packs::{LOOKUP_BATCH, Packs, PlainReader};
use std::collections::{BTreeSet, HashSet};

/// Chunks of a manifest with all its lists: 4 Mi of the smallest cut are 256 GiB.
const MAX_MANIFEST_CHUNKS: u64 = 4 << 20;
/// Chunks of the refs with all their lists, each of which is read: 1 Mi of 4 KiB, the smallest cut of any repository, hold
/// [`MAX_REFS`].
const MAX_REFS_CHUNKS: u64 = 1 << 20;
/// Refs of one snapshot: 128 Mi of 256 KiB are 32 TiB.
const MAX_REFS: u64 = 128 << 20;

/// Checks shapes and limits of a record's streams, which needs no disk.
pub(crate) fn check_shape(record: &Record) -> Result<()> {
    let refuse = |what: &str| Err(Error::Refused(what.to_owned()));
    for stream in [&record.manifest, &record.refs] {
        if stream.ids.len() > MAX_STREAM_IDS {
            return refuse("a stream lists more than 64 chunks");
        }
        if stream.depth > MAX_STREAM_DEPTH {
            return refuse("a stream is nested deeper than four levels");
        }
    }
    if !record.refs.length.is_multiple_of(ChunkId::LENGTH as u64) {
        return refuse("the refs are not a whole number of ids");
    }
    if record.refs.length / ChunkId::LENGTH as u64 > MAX_REFS {
        return refuse("a snapshot needs more chunks than this version handles");
    }
    Ok(())
}

/// The chunks that a record needs and that no durable pack holds: the streams' own chunks and lists, and every ref. At most
/// [`MAX_MISSING_IDS`] of them, sorted.
pub(crate) fn missing(packs: &Packs, record: &Record) -> Result<Vec<ChunkId>> {
    let mut walk = Walk::new(packs, false);
    walk.stream(&record.manifest)?;
    let mut walk = Walk { read_leaves: true, visited: 0, broken: false, ..walk };
    walk.stream(&record.refs)?;
    walk.look_up()?;
    let mut missing: Vec<_> = walk.missing.into_iter().collect();
    missing.truncate(MAX_MISSING_IDS);
    Ok(missing)
}

struct Walk<'a> {
    packs: &'a Packs,
    reader: PlainReader<'a>,
    /// Whether the stream's bytes themselves are a list of ids that must be there.
    read_leaves: bool,
    /// Ids to be looked up together.
    batch: Vec<ChunkId>,
    missing: BTreeSet<ChunkId>,
    visited: u64,
    /// Plain bytes of the stream so far.
    bytes: u64,
    /// A list is missing: what comes after it cannot be told apart any more, and is looked at when the list is there.
    broken: bool,
    /// For each level, the beginning of an id whose end lies in the next chunk.
    carry: Vec<Vec<u8>>,
    /// Packs that were seen on the shelf, and such as the index names and that are not there.
    there: HashSet<PackId>,
    gone: HashSet<PackId>,
}

impl<'a> Walk<'a> {
    fn new(packs: &'a Packs, read_leaves: bool) -> Self {
        Self {
            packs,
            reader: PlainReader::new(packs),
            read_leaves,
            batch: Vec::with_capacity(LOOKUP_BATCH),
            missing: BTreeSet::new(),
            visited: 0,
            bytes: 0,
            broken: false,
            carry: Vec::new(),
            there: HashSet::new(),
            gone: HashSet::new(),
        }
    }

    fn stream(&mut self, stream: &Stream) -> Result<()> {
        self.bytes = 0;
        self.carry = vec![Vec::new(); usize::from(stream.depth) + 1];
        for id in &stream.ids {
            self.visit(stream, stream.depth, *id)?;
        }
        if self.broken || self.full() {
            return Ok(());
        }
        if self.carry.iter().any(|carry| !carry.is_empty()) {
            return Err(Error::Refused("a list of ids ends within an id".to_owned()));
        }
        if self.read_leaves && self.bytes != stream.length {
            return Err(Error::Refused("the refs are not as long as the record says".to_owned()));
        }
        Ok(())
    }

    fn visit(&mut self, stream: &Stream, level: u8, id: ChunkId) -> Result<()> {
        self.visited += 1;
        if self.visited > if self.read_leaves { MAX_REFS_CHUNKS } else { MAX_MANIFEST_CHUNKS } {
            return Err(Error::Refused("a stream has more chunks than this version handles".to_owned()));
        }
        self.need(id)?;
        if self.broken || self.full() || (level == 0 && !self.read_leaves) {
            return Ok(());
        }
        let Some(bytes) = self.reader.read(id)? else {
            self.missing.insert(id);
            self.broken = true;
            return Ok(());
        };
        if level == 0 {
            self.bytes += bytes.len() as u64;
            if self.bytes > stream.length {
                return Err(Error::Refused("the refs are longer than the record says".to_owned()));
            }
        }
        let mut list = std::mem::take(&mut self.carry[usize::from(level)]);
        list.extend_from_slice(&bytes);
        let (ids, rest) = list.as_chunks::<{ ChunkId::LENGTH }>();
        for id in ids {
            let id = ChunkId::from_bytes(*id);
            if level == 0 { self.need(id)? } else { self.visit(stream, level - 1, id)? }
        }
        self.carry[usize::from(level)] = rest.to_vec();
        Ok(())
    }

    fn full(&self) -> bool {
        self.missing.len() >= MAX_MISSING_IDS
    }

    fn need(&mut self, id: ChunkId) -> Result<()> {
        if self.full() || self.batch.last() == Some(&id) {
            return Ok(());
        }
        self.batch.push(id);
        if self.batch.len() >= LOOKUP_BATCH { self.look_up() } else { Ok(()) }
    }

    /// A pack that the index names counts only when it is on the shelf: another process may have thrown it away while this one
    /// brought the index up to date.
    fn look_up(&mut self) -> Result<()> {
        loop {
            let places = self.packs.index.find_except(&self.batch, &self.gone)?;
            let mut all_there = true;
            for pack in places.iter().flatten().map(|place| place.pack) {
                if self.there.contains(&pack) || self.gone.contains(&pack) {
                    continue;
                }
                match self.packs.shelf.open(&layout::pack(&pack)) {
                    Ok(_) => self.there.insert(pack),
                    Err(error) if error.is_not_found() => {
                        all_there = false;
                        self.gone.insert(pack)
                    }
                    Err(error) => return Err(error.into()),
                };
            }
            if all_there {
                let absent = self.batch.iter().zip(places).filter(|(_, place)| place.is_none()).map(|(id, _)| *id);
                self.missing.extend(absent);
                self.batch.clear();
                return Ok(());
            }
        }
    }
}
