//! All packs of a repository, durable and pending: where a chunk lies, reading blocks, and the syncer.
//!
//! A question goes to the pending packs first and to the index after: a pack enters the index before it stops being pending,
//! so in this order none is overlooked on its way.

use crate::codec::{self, Compression, Decoder, Encoder};
use crate::model::{Block, BlockHeader, ChunkId, ChunkRef, PackId};
use crate::platform::clock::Clock;
use crate::store::error::{Error, Result};
use crate::store::index::Index;
use crate::store::index::table::Place;
use crate::store::layout;
use crate::store::pack::{ReadError, read_block};
use crate::store::pending::{Pending, PendingPack};
use crate::store::shelf::{Object, Shelf};
use bytes::Bytes;
use std::collections::{BTreeMap, HashSet};
use std::ops::ControlFlow;
use std::sync::Arc;

/// Ids looked up in one transaction: long ones would keep the write-ahead log from being folded in.
pub(crate) const LOOKUP_BATCH: usize = 4096;

/// What a repository's writers, readers and syncer share.
#[derive(Debug)]
pub(crate) struct Packs {
    pub(crate) shelf: Arc<dyn Shelf>,
    pub(crate) index: Index,
    pub(crate) pending: Pending,
    pub(crate) clock: Arc<dyn Clock>,
}

/// A block that holds wanted chunks.
struct Wanted {
    length: u64,
    pending: Option<Arc<PendingPack>>,
    ids: Vec<ChunkId>,
}

impl Packs {
    /// Those of `ids` that neither a durable nor a pending pack holds, in their order.
    pub(crate) fn missing(&self, ids: &[ChunkId]) -> Result<Vec<ChunkId>> {
        let mut missing = Vec::new();
        for ids in ids.chunks(LOOKUP_BATCH) {
            let pending = self.pending.find(ids);
            let rest: Vec<_> = ids.iter().zip(pending).filter(|(_, p)| p.is_none()).map(|(id, _)| *id).collect();
            let places = self.index.find(&rest)?;
            missing.extend(rest.iter().zip(places).filter(|(_, place)| place.is_none()).map(|(id, _)| *id));
        }
        Ok(missing)
    }

    /// Delivers blocks that together hold all of `ids`, each once, in the order of packs and offsets. A block of which less
    /// than half is wanted is cut down to what is wanted. Not decoded, so not checked, unless it is cut down.
    ///
    /// A pack may have been replaced since its chunks were looked up; what it held is looked up once more.
    pub(crate) fn read_blocks(&self, ids: &[ChunkId], each: &mut dyn FnMut(Block) -> ControlFlow<()>) -> Result<()> {
        let (mut gone, mut left) = (HashSet::new(), None);
        let alone = ids.len() == 1;
        loop {
            let ids = left.as_deref().unwrap_or(ids);
            let wanted = match self.locate(ids, &gone) {
                Err(Error::NotFound(_)) if self.index.doubt(self.clock.instant())? => self.locate(ids, &gone)?,
                Err(Error::NotFound(chunk)) if let Some(pack) = gone.iter().next() => {
                    return Err(is_gone(chunk, *pack));
                }
                other => other?,
            };
            match self.deliver(wanted, alone, each)? {
                None => return Ok(()),
                Some((pack, rest)) => {
                    gone.insert(pack);
                    left = Some(rest);
                }
            }
        }
    }

    /// Delivers blocks. When a pack is not there, it is returned with what was not delivered.
    fn deliver(
        &self,
        wanted: BTreeMap<(PackId, u64), Wanted>,
        alone: bool,
        each: &mut dyn FnMut(Block) -> ControlFlow<()>,
    ) -> Result<Option<(PackId, Vec<ChunkId>)>> {
        let mut open: Option<(PackId, Arc<dyn Object>)> = None;
        let mut thinner = Thinner::default();
        let mut wanted = wanted.into_iter();
        while let Some(((pack, offset), block)) = wanted.next() {
            let object = match (&open, &block.pending) {
                (_, Some(pending)) => Arc::clone(&pending.object),
                (Some((id, object)), None) if *id == pack => Arc::clone(object),
                _ => match self.shelf.open(&layout::pack(&pack)) {
                    Err(error) if error.is_not_found() => {
                        let rest = wanted.flat_map(|(_, wanted)| wanted.ids);
                        return Ok(Some((pack, block.ids.into_iter().chain(rest).collect())));
                    }
                    other => other?,
                },
            };
            let ids = block.ids;
            let block = read(&*object, pack, offset, block.length, &ids)?;
            // One chunk alone is asked for by who could not use what came with others.
            if alone {
                codec::check_stored(&block).map_err(|error| damaged(pack, ids[0], &error))?;
            }
            let block = thinner.thin(block, &ids).map_err(|error| damaged(pack, ids[0], &error))?;
            open = Some((pack, object));
            if each(block).is_break() {
                break;
            }
        }
        Ok(None)
    }

    fn locate(&self, ids: &[ChunkId], gone: &HashSet<PackId>) -> Result<BTreeMap<(PackId, u64), Wanted>> {
        let mut wanted: BTreeMap<(PackId, u64), Wanted> = BTreeMap::new();
        let mut seen = HashSet::with_capacity(ids.len());
        let ids: Vec<_> = ids.iter().filter(|id| seen.insert(**id)).copied().collect();
        for ids in ids.chunks(LOOKUP_BATCH) {
            let pending = self.pending.find(ids);
            let durable = self.index.find_except(ids, gone)?;
            for ((id, pending), durable) in ids.iter().zip(pending).zip(durable) {
                let (place, pending) = match (pending, durable) {
                    (_, Some(place)) => (place, None),
                    (Some(place), None) => {
                        let pack = place.pack.pack.id;
                        (Place { pack, offset: place.offset, length: place.length }, Some(place.pack))
                    }
                    (None, None) => return Err(Error::NotFound(*id)),
                };
                let new = || Wanted { length: place.length, pending, ids: Vec::new() };
                wanted.entry((place.pack, place.offset)).or_insert_with(new).ids.push(*id);
            }
        }
        Ok(wanted)
    }

    /// Where a durable copy of a chunk lies, in any pack but these, with that pack open. An index may name packs that are not
    /// there any more; they are added to `gone`.
    pub(crate) fn find_open(
        &self,
        id: ChunkId,
        gone: &mut HashSet<PackId>,
    ) -> Result<Option<(Place, Arc<dyn Object>)>> {
        loop {
            let Some(place) = self.index.find_except(&[id], gone)?.into_iter().next().flatten() else {
                return Ok(None);
            };
            match self.shelf.open(&layout::pack(&place.pack)) {
                Err(error) if error.is_not_found() => gone.insert(place.pack),
                other => return Ok(Some((place, other?))),
            };
        }
    }

    /// Makes pending packs durable, one after the other, until the queue is closed. Runs in a thread of its own.
    pub(crate) fn sync_until_closed(&self) {
        let dying = AbandonOnPanic(&self.pending);
        while let Some((draft, pack)) = self.pending.next() {
            let id = pack.pack.id;
            let kept = draft.keep(&layout::pack(&id)).map_err(Error::from);
            let durable = kept.and_then(|()| self.index.add(std::slice::from_ref(&pack.pack)));
            if let Err(error) = &durable {
                tracing::error!(pack = %id, error = error as &dyn std::error::Error, "a pack was thrown away");
            }
            self.pending.leave(&pack, &durable);
        }
        std::mem::forget(dying);
    }
}

fn is_gone(chunk: ChunkId, pack: PackId) -> Error {
    Error::Chunk { chunk, pack, problem: "the pack is gone".to_owned() }
}

/// Tells those who wait that the syncer will not come back.
struct AbandonOnPanic<'a>(&'a Pending);

impl Drop for AbandonOnPanic<'_> {
    fn drop(&mut self) {
        self.0.abandon();
    }
}

fn damaged(pack: PackId, chunk: ChunkId, error: &codec::Error) -> Error {
    Error::Chunk { chunk, pack, problem: error.to_string() }
}

pub(crate) fn read(object: &dyn Object, pack: PackId, offset: u64, length: u64, wanted: &[ChunkId]) -> Result<Block> {
    let chunk = wanted[0];
    let block = read_block(object, offset, length).map_err(|error| match error {
        ReadError::Problem(problem) => Error::Chunk { chunk, pack, problem },
        platform @ ReadError::Platform(_) => platform.of(pack),
    })?;
    match wanted.iter().find(|id| block.header.chunks.iter().all(|chunk| chunk.id != **id)) {
        Some(chunk) => Err(Error::Chunk { chunk: *chunk, pack, problem: "its block does not name it".to_owned() }),
        None => Ok(block),
    }
}

/// Cuts blocks down to wanted chunks.
#[derive(Debug, Default)]
pub(crate) struct Thinner {
    tools: Option<(Decoder, Encoder)>,
}

impl Thinner {
    /// Cuts a block down when more than half of what it costs to hold was not asked for: who asks counts on that.
    fn thin(&mut self, block: Block, wanted: &[ChunkId]) -> Result<Block, codec::Error> {
        let wanted: HashSet<_> = wanted.iter().collect();
        let cost = |chunk: &ChunkRef| u64::from(chunk.length) + BlockHeader::CHUNK_LENGTH as u64;
        let all: u64 = block.header.chunks.iter().map(cost).sum();
        let mut counted = HashSet::with_capacity(wanted.len());
        let asked = block.header.chunks.iter().filter(|chunk| wanted.contains(&chunk.id) && counted.insert(chunk.id));
        // Packed, no block of ours is larger than its bytes; somebody else's may be.
        if asked.map(cost).sum::<u64>() * 2 >= all && block.header.stored_length <= block.header.plain_length() {
            return Ok(block);
        }
        self.cut(&block, &wanted)
    }

    /// A block of the wanted chunks alone.
    pub(crate) fn only(&mut self, block: Block, wanted: &[ChunkId]) -> Result<Block, codec::Error> {
        let wanted: HashSet<_> = wanted.iter().collect();
        if block.header.chunks.iter().all(|chunk| wanted.contains(&chunk.id)) {
            return Ok(block);
        }
        self.cut(&block, &wanted)
    }

    fn cut(&mut self, block: &Block, wanted: &HashSet<&ChunkId>) -> Result<Block, codec::Error> {
        let (decoder, encoder) =
            self.tools.get_or_insert_with(|| (Decoder::new(), Encoder::new(Compression::default())));
        let plain = decoder.decode(block)?;
        let mut kept = Vec::with_capacity(wanted.len());
        for (chunk, bytes) in codec::chunks(&block.header, &plain) {
            if wanted.contains(&chunk.id) && kept.iter().all(|(id, _)| *id != chunk.id) {
                kept.push((chunk.id, plain.slice_ref(bytes)));
            }
        }
        Ok(encoder.encode(&kept))
    }
}

/// Reads plain chunks from durable packs, keeping the last block and the last pack open: lists of ids lie side by side.
#[derive(Debug)]
pub(crate) struct PlainReader<'a> {
    packs: &'a Packs,
    decoder: Decoder,
    last: Option<(Place, Block, Bytes)>,
    /// The last chunk itself: a list may name the same one many times in a row.
    same: Option<(ChunkId, Bytes)>,
}

impl<'a> PlainReader<'a> {
    pub(crate) fn new(packs: &'a Packs) -> Self {
        Self { packs, decoder: Decoder::new(), last: None, same: None }
    }

    /// The bytes of a chunk, checked; `None` when no durable pack holds it.
    pub(crate) fn read(&mut self, id: ChunkId) -> Result<Option<Bytes>> {
        if let Some((_, bytes)) = self.same.as_ref().filter(|(same, _)| *same == id) {
            return Ok(Some(bytes.clone()));
        }
        let Some(place) = self.packs.index.find(&[id])?.into_iter().next().flatten() else { return Ok(None) };
        if self.last.as_ref().is_none_or(|(last, ..)| *last != place) {
            let mut gone = HashSet::new();
            let found = self.packs.find_open(id, &mut gone)?;
            let (place, object) = found.ok_or_else(|| is_gone(id, place.pack))?;
            let block = read(&*object, place.pack, place.offset, place.length, &[id])?;
            let plain = self.decoder.decode(&block).map_err(|error| Error::Chunk {
                chunk: id,
                pack: place.pack,
                problem: error.to_string(),
            })?;
            self.last = Some((place, block, plain));
        }
        let Some((place, block, plain)) = &self.last else { return Ok(None) };
        let found = codec::chunks(&block.header, plain).find(|(chunk, _)| chunk.id == id);
        match found {
            Some((_, bytes)) => {
                let bytes = plain.slice_ref(bytes);
                self.same = Some((id, bytes.clone()));
                Ok(Some(bytes))
            }
            None => Err(Error::Chunk { chunk: id, pack: place.pack, problem: "its block does not name it".to_owned() }),
        }
    }
}
