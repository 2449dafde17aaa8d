//! Takes damaged files out of the way, so that what they hide is asked for again: never deletes, and saves first what is good.
//!
//! The order: whatever is still good of a pack is durable in a new pack **before** the old one is moved; the old one is moved to
//! `quarantine/`; then the index forgets it. Cut anywhere between, nothing that was there is gone, and the next opening brings the
//! index up to what lies on disk. While a pack is moved nobody commits, so no commit relies on it.
//!
//! A pack of which nothing is lost (its trailer or a header was hit, which stand there twice) is written anew under its own name,
//! which is the hash of everything in it.

use crate::model::{Block, ChunkId, PackId, Receipt, Record, SignedRecord};
use crate::platform::lock::Lock;
use crate::signer;
use crate::store::doubts;
use crate::store::error::{Error, Result};
use crate::store::index::IndexedPack;
use crate::store::layout::{self, ObjectName, PACK_MAGIC};
use crate::store::mend::mend;
use crate::store::pack::{PackedBlock, Trailer};
use crate::store::pack_look;
use crate::store::repository::Repository;
use crate::store::shelf::{Draft, Shelf};
use jiff::{SignedDuration, Timestamp};
use std::collections::BTreeSet;

/// What became of a damaged file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It is not damaged (any more).
    Whole,
    /// It is as it was: nothing is lost.
    Mended,
    /// Of a record the receipt was damaged, and nothing else: it has a new one.
    NewReceipt {
        /// The latest time at which it can have come.
        received_at: Timestamp,
    },
    /// It is nowhere any more.
    Gone,
    /// It lies where it lay: it could not be set aside yet.
    Left {
        /// What stood in the way.
        why: String,
    },
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

/// What lies there is wrong, or the medium cannot give it.
fn is_damage(error: &Error) -> bool {
    error.is_damage() || matches!(error, Error::Platform(error) if error.is_bad_medium())
}

/// A record that gets another receipt.
struct Renewed {
    record: Record,
    signed: SignedRecord,
    receipt: Receipt,
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
                // What needs it is told that it is missing; unless somebody has put it back at this moment, which the index sees.
                let _nobody_puts_back = Lock::exclusive(&self.lock("prune"))?;
                packs.index.reconcile()?;
                return Ok(Fate::Gone);
            }
            Err(error) if error.is_bad_medium() => return self.set_unread_aside(id),
            other => other?,
        };
        let mut rescue = Rescue::begin(&*packs.shelf)?;
        let look = pack_look::whole(id, &*object, &mut |_| Ok(()), &mut |block| rescue.append(&block))?;
        if look.is_whole() {
            doubts::settle(&*packs.shelf, &id);
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
            doubts::settle(&*packs.shelf, &id);
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
        doubts::settle(&*packs.shelf, &id);
        let (saved_chunks, lost_chunks) = (saved.len() as u64, lost.len() as u64);
        tracing::error!(pack = %id, %to, saved_chunks, lost_chunks, "a damaged pack was set aside");
        self.worry();
        Ok(Fate::SetAside { to: to.to_string(), saved_chunks, lost_chunks })
    }

    /// Sets a pack aside that the medium does not even let open: nothing of it can be saved.
    fn set_unread_aside(&self, id: PackId) -> Result<Fate> {
        let packs = &*self.packs;
        let lost_chunks = packs.index.chunks_of(id)?.len() as u64;
        let to = {
            let _nobody_commits = Lock::exclusive(&self.lock("prune"))?;
            self.move_aside(&layout::pack(&id))?
        };
        packs.index.remove(&[id])?;
        doubts::settle(&*packs.shelf, &id);
        tracing::error!(pack = %id, %to, lost_chunks, "a pack that the disk cannot read was set aside");
        self.worry();
        Ok(Fate::SetAside { to: to.to_string(), saved_chunks: 0, lost_chunks })
    }

    /// Mends a damaged record, or sets it aside, so that its set can go on: the one before it is the newest then, and a source
    /// that still has the record brings it again.
    pub(crate) fn set_record_aside(&self, name: &ObjectName) -> Result<Fate> {
        let shelf = &*self.packs.shelf;
        let _commit = Lock::exclusive(&self.lock("commit"))?;
        match self.records.load(name) {
            Ok(_) => return Ok(Fate::Whole),
            Err(error) if is_damage(&error) => {}
            // A disk that was away for a moment makes no record a damaged one.
            Err(error) => return Err(error),
        }
        let bytes = match shelf.get(name) {
            Err(error) if !error.is_bad_medium() => return Err(error.into()),
            read => read.ok(),
        };
        if let Some(bytes) = bytes.as_deref().and_then(mend) {
            shelf.put(name, &bytes)?;
            if self.records.load(name).is_ok() {
                tracing::warn!(%name, "a record had a flipped bit; it is whole again");
                return Ok(Fate::Mended);
            }
        }
        if let Some(bytes) = bytes
            && let Some(Renewed { record, signed, receipt }) = self.with_new_receipt(name, &bytes)?
        {
            // What the damaged one says is kept; the name never stands for nothing.
            shelf.put(&self.free_name(name)?, &bytes)?;
            let received_at = receipt.received_at;
            self.records.save(record, signed, receipt)?;
            tracing::warn!(%name, %received_at, "the receipt of a record was damaged; it has a new one");
            return Ok(Fate::NewReceipt { received_at });
        }
        let to = self.move_aside(name)?;
        tracing::error!(%name, %to, "a damaged record was set aside");
        self.worry();
        Ok(Fate::SetAside { to: to.to_string(), saved_chunks: 0, lost_chunks: 0 })
    }

    /// A record whose text and signature are whole and whose receipt is not, with a new receipt. When it came is known within bounds only: the
    /// latest time that fits, so that no rule lets it go too early.
    fn with_new_receipt(&self, name: &ObjectName, bytes: &[u8]) -> Result<Option<Renewed>> {
        let mut lines = bytes.split(|byte| *byte == b'\n').map(std::str::from_utf8);
        let (Some(Ok(record)), Some(Ok(signature))) = (lines.next(), lines.next()) else { return Ok(None) };
        let signed = SignedRecord { record: record.to_owned(), signature: signature.to_owned() };
        let Ok(record) = self.check_record(&signed) else { return Ok(None) };
        let id = signer::snapshot_id(&signed);
        if layout::record(&record.set, record.sequence, &id) != *name {
            return Ok(None);
        }
        let signer = self.owner_log().into_iter().find(|event| event.signer() == record.signer);
        let from = self.copied_from().or(signer.map(|event| event.fingerprint())).unwrap_or_else(|| self.owner());
        let good = self.records.all()?.good;
        let mut chain = good.iter().filter(|kept| kept.record.set == record.set);
        let after = chain.find(|kept| kept.record.sequence > record.sequence);
        let Some(after) = after.map(|kept| kept.info.receipt.received_at) else {
            // The newest of its set: it counts as having come now.
            return Ok(Some(Renewed { receipt: self.receipt(id, from)?, record, signed }));
        };
        let before = good.iter().rfind(|kept| kept.record.set == record.set && kept.record.sequence < record.sequence);
        let latest = after.saturating_sub(SignedDuration::from_secs(1)).unwrap_or(Timestamp::MIN);
        let received_at = before.map_or(latest, |before| latest.max(before.info.receipt.received_at));
        Ok(Some(Renewed { receipt: Receipt { record: id, received_at, from }, record, signed }))
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
        let to = self.free_name(name)?;
        self.packs.shelf.rename(name, &to)?;
        Ok(to)
    }

    /// A name in the quarantine that nothing has.
    fn free_name(&self, name: &ObjectName) -> Result<ObjectName> {
        let shelf = &*self.packs.shelf;
        let taken: BTreeSet<ObjectName> = shelf.list(&layout::quarantine())?.into_iter().collect();
        let free = (0..u32::MAX).map(|copy| layout::quarantined(name, copy)).find(|to| !taken.contains(to));
        free.ok_or(Error::Closed)
    }
}
