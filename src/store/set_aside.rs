//! Takes damaged files out of the way, so that what they hide is asked for again: never deletes, and saves first what is good.
//!
//! The order: whatever is still good of a pack is durable in a new pack **before** the old one is moved; the old one is moved to
//! `quarantine/`; then the index forgets it. Cut anywhere between, nothing that was there is gone, and the next opening brings the
//! index up to what lies on disk. While a pack is moved nobody commits, so no commit relies on it.
//!
//! A pack of which nothing is lost (its trailer or a header was hit, which stand there twice) is written anew under its own name,
//! which is the hash of everything in it.

use crate::model::{Block, ChunkId, PackId};
use crate::platform::lock::Lock;
use crate::store::error::{Error, Result};
use crate::store::index::IndexedPack;
use crate::store::layout::{self, ObjectName, PACK_MAGIC};
use crate::store::mend::mend;
use crate::store::pack::{PackedBlock, Trailer};
use crate::store::pack_look;
use crate::store::repository::Repository;
use crate::store::shelf::{Draft, Shelf};
use std::collections::BTreeSet;

/// What became of a damaged file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It is not damaged (any more).
    Whole,
    /// It is as it was: nothing is lost.
    Mended,
    /// It lies there now, and so many chunks of it live on in a new pack.
    SetAside {
        /// Its name in the repository.
        to: String,
        /// Chunks that were saved.
        saved_chunks: u64,
        /// Chunks that are lost with it.
        lost_chunks: u64,
    },
}

/// A pack that is made of what is good of another.
#[derive(Debug)]
struct Rescue {
    draft: Box<dyn Draft>,
    trailer: Trailer,
    position: u64,
}

impl Rescue {
    fn begin(shelf: &dyn Shelf) -> Result<Self> {
        let mut draft = shelf.draft()?;
        draft.append(PACK_MAGIC)?;
        Ok(Self { draft, trailer: Trailer { blocks: Vec::new() }, position: PACK_MAGIC.len() as u64 })
    }

    fn append(&mut self, block: &Block) -> Result<()> {
        let mut header = Vec::new();
        block.header.encode(&mut header);
        self.draft.append(&header)?;
        self.draft.append(&block.stored)?;
        self.trailer.blocks.push(PackedBlock { offset: self.position, header: block.header.clone() });
        self.position += block.encoded_length();
        Ok(())
    }

    fn keep(mut self) -> Result<IndexedPack> {
        let (end, id) = self.trailer.finish();
        self.draft.append(&end)?;
        let pack = IndexedPack::of(id, self.position + end.len() as u64, &self.trailer);
        self.draft.keep(&layout::pack(&id))?;
        Ok(pack)
    }
}

impl Repository {
    /// Looks at a pack that is said to be damaged; when it is, saves what is good of it and sets it aside.
    pub(crate) fn set_pack_aside(&self, id: PackId) -> Result<Fate> {
        let packs = &*self.packs;
        let name = layout::pack(&id);
        let object = match packs.shelf.open(&name) {
            Err(error) if error.is_not_found() => {
                packs.index.remove(&[id])?;
                return Ok(Fate::Whole);
            }
            other => other?,
        };
        let mut rescue = Rescue::begin(&*packs.shelf)?;
        let look = pack_look::whole(id, &*object, &mut |_| Ok(()), &mut |block| rescue.append(&block))?;
        if look.is_whole() {
            return Ok(Fate::Whole);
        }
        let saved: BTreeSet<ChunkId> =
            rescue.trailer.blocks.iter().flat_map(|block| block.header.chunks.iter().map(|chunk| chunk.id)).collect();
        let mut lost = look.lost;
        lost.extend(packs.index.chunks_of(id)?.into_iter().filter(|chunk| !saved.contains(chunk)));
        if rescue.trailer.finish().1 == id {
            // The name is the hash of the trailer, and that holds the hashes of all else: this is the pack as it was.
            let pack = rescue.keep()?;
            packs.index.remove(&[id])?;
            packs.index.add(&[pack])?;
            tracing::warn!(pack = %id, "a pack was damaged where it says things twice; it is whole again");
            return Ok(Fate::Mended);
        }
        let rescued = if saved.is_empty() { None } else { Some(rescue.keep()?) };
        let to = {
            let _nobody_commits = Lock::exclusive(&self.lock("prune"))?;
            self.move_aside(&name)?
        };
        packs.index.remove(&[id])?;
        packs.index.add(&rescued.into_iter().collect::<Vec<_>>())?;
        let (saved_chunks, lost_chunks) = (saved.len() as u64, lost.len() as u64);
        tracing::error!(pack = %id, %to, saved_chunks, lost_chunks, "a damaged pack was set aside");
        self.worry();
        Ok(Fate::SetAside { to: to.to_string(), saved_chunks, lost_chunks })
    }

    /// Mends a damaged record, or sets it aside, so that its set can go on: the one before it is the newest then, and a source
    /// that still has the record brings it again.
    pub(crate) fn set_record_aside(&self, name: &ObjectName) -> Result<Fate> {
        let shelf = &*self.packs.shelf;
        let _commit = Lock::exclusive(&self.lock("commit"))?;
        if self.records.load(name).is_ok() {
            return Ok(Fate::Whole);
        }
        let mended = shelf.get(name).ok().and_then(|bytes| mend(&bytes));
        if let Some(bytes) = mended {
            shelf.put(name, &bytes)?;
            if self.records.load(name).is_ok() {
                tracing::warn!(%name, "a record had a flipped bit; it is whole again");
                return Ok(Fate::Mended);
            }
        }
        let to = self.move_aside(name)?;
        tracing::error!(%name, %to, "a damaged record was set aside");
        self.worry();
        Ok(Fate::SetAside { to: to.to_string(), saved_chunks: 0, lost_chunks: 0 })
    }

    /// Sets all records aside that are damaged for certain. Returns how many could not be mended.
    pub fn set_damaged_records_aside(&self) -> Result<u64> {
        let mut count = 0;
        for (name, error) in self.records.all()?.bad {
            if error.is_damage() && matches!(self.set_record_aside(&name)?, Fate::SetAside { .. }) {
                count += 1;
            }
        }
        Ok(count)
    }

    /// Mends another small file of which a bit has flipped. Returns whether that was enough.
    pub(crate) fn mend_small(&self, name: &ObjectName) -> Result<bool> {
        let shelf = &*self.packs.shelf;
        let Some(bytes) = shelf.get(name).ok().and_then(|bytes| mend(&bytes)) else { return Ok(false) };
        shelf.put(name, &bytes)?;
        Ok(true)
    }

    fn move_aside(&self, name: &ObjectName) -> Result<ObjectName> {
        let shelf = &*self.packs.shelf;
        let taken: BTreeSet<ObjectName> = shelf.list(&layout::quarantine())?.into_iter().collect();
        let free = (0..u32::MAX).map(|copy| layout::quarantined(name, copy)).find(|to| !taken.contains(to));
        let to = free.ok_or(Error::Closed)?;
        shelf.rename(name, &to)?;
        Ok(to)
    }
}
