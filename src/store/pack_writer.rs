//! Writes one pack, block by block, verbatim, each checked on arrival: nothing is kept under an id that it does not hash to.

use crate::codec::Decoder;
use crate::model::{Block, PackId};
use crate::store::error::{Error, Result};
use crate::store::index::IndexedPack;
use crate::store::layout::{MAX_PACK_BLOCK_BYTES, PACK_MAGIC};
use crate::store::pack::{PackedBlock, Trailer};
use crate::store::packs::Packs;
use crate::store::pending::PendingPack;
use crate::store::shelf::Draft;
use std::sync::Arc;

/// A pack being written. Dropped without [`PackWriter::finish`], nothing of it is left.
#[derive(Debug)]
pub struct PackWriter {
    packs: Arc<Packs>,
    /// `None` after a write that failed: what lies in the file then is not known.
    draft: Option<Box<dyn Draft>>,
    trailer: Trailer,
    position: u64,
    decoder: Decoder,
}

impl PackWriter {
    pub(crate) fn begin(packs: Arc<Packs>) -> Result<Self> {
        let mut draft = packs.shelf.draft()?;
        draft.append(PACK_MAGIC)?;
        let (trailer, position) = (Trailer { blocks: Vec::new() }, PACK_MAGIC.len() as u64);
        Ok(Self { packs, draft: Some(draft), trailer, position, decoder: Decoder::new() })
    }

    /// Adds a block after checking all of it. A block that is refused leaves the pack as it was.
    pub fn append(&mut self, block: &Block) -> Result<()> {
        let length = block.encoded_length();
        if self.position + length > PACK_MAGIC.len() as u64 + MAX_PACK_BLOCK_BYTES {
            return Err(Error::TooLarge { what: "a pack", limit: MAX_PACK_BLOCK_BYTES });
        }
        self.decoder.decode(block)?;
        let mut draft = self.draft.take().ok_or(Error::Closed)?;
        let mut header = Vec::new();
        block.header.encode(&mut header);
        draft.append(&header)?;
        draft.append(&block.stored)?;
        self.draft = Some(draft);
        self.trailer.blocks.push(PackedBlock { offset: self.position, header: block.header.clone() });
        self.position += length;
        Ok(())
    }

    /// Hands the pack over to be made durable in the background; waits while too much is waiting for that. Returns how many of
    /// its chunks are new; when none is, there is nothing to keep.
    ///
    /// The pack is durable after the next [`Repository::sync`](crate::store::repository::Repository::sync) or commit that
    /// succeeds.
    pub fn finish(mut self) -> Result<u64> {
        let mut draft = self.draft.take().ok_or(Error::Closed)?;
        let (end, id) = self.trailer.finish();
        let pack = IndexedPack::of(id, self.position + end.len() as u64, &self.trailer);
        let ids: Vec<_> = pack.chunks.keys().copied().collect();
        let new = self.packs.missing(&ids)?.len() as u64;
        if new > 0 {
            draft.append(&end)?;
            let object = draft.object()?;
            self.packs.pending.push(draft, Arc::new(PendingPack { pack, object }))?;
        }
        Ok(new)
    }

    /// The same for a pack that is to replace others: it is kept although its chunks are there.
    pub(crate) fn finish_copy(mut self) -> Result<PackId> {
        let mut draft = self.draft.take().ok_or(Error::Closed)?;
        let (end, id) = self.trailer.finish();
        let pack = IndexedPack::of(id, self.position + end.len() as u64, &self.trailer);
        draft.append(&end)?;
        let object = draft.object()?;
        self.packs.pending.push(draft, Arc::new(PendingPack { pack, object }))?;
        Ok(id)
    }

    /// Bytes of the blocks so far.
    pub(crate) fn bytes(&self) -> u64 {
        self.position - PACK_MAGIC.len() as u64
    }
}
