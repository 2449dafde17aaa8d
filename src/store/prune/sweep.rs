//! Throwing away: packs that nothing needs go to the trash, packs with much dead weight are written anew first, and what has lain
//! in the trash long enough is deleted.
//!
//! The order that makes it safe, whatever runs beside it and wherever it is cut off:
//!
//! 1. Everything that takes long (reading lists, looking for copies, writing packs anew) is done without a lock.
//! 2. For a few packs at a time the prune lock is taken alone: no commit checks or writes meanwhile. Snapshots that came since the
//!    last look are looked at. Then a pack goes only if each of its chunks is needed by nobody, or lies in another pack
//!    that is on the shelf and whose copy was read and found right.
//! 3. The pack leaves the index, then the shelf. Cut in between, the next opening finds it and adds it again.
//! 4. It is deleted a day later, and only after the same question was asked once more.

use crate::codec::Decoder;
use crate::model::{Block, ChunkId, PackId, SnapshotId};
use crate::platform::lock::Lock;
use crate::store::doubts;
use crate::store::error::{Error, Result};
use crate::store::given_up::is_newest;
use crate::store::index::IndexedPack;
use crate::store::index::table::Place;
use crate::store::layout::{self, MAX_PACK_BLOCK_BYTES};
use crate::store::pack::{self, Trailer};
use crate::store::pack_writer::PackWriter;
use crate::store::packs::{Packs, Thinner, read};
use crate::store::prune::census::{dead_bytes, is_heavy};
use crate::store::prune::needed::{Need, Needed};
use crate::store::prune::trash::{self, Trashed};
use crate::store::prune::{Obstacle, PruneReport};
use crate::store::repository::Repository;
use jiff::{SignedDuration, Timestamp};
use std::collections::{HashMap, HashSet};

/// Packs thrown away under one lock: commits wait some milliseconds for each.
const BATCH: usize = 8;
/// How long a pack lies in the trash at least. A backup that was told of its chunks can finish meanwhile.
pub const TRASH_STAY: SignedDuration = SignedDuration::from_hours(24);

/// What is needed, as far as it was looked at, and what has been done.
pub(crate) struct Sweep<'a> {
    pub(crate) repository: &'a Repository,
    pub(crate) needed: Needed,
    /// Snapshots that were looked at.
    pub(crate) walked: HashSet<SnapshotId>,
    pub(crate) now: Timestamp,
    pub(crate) stopped: &'a dyn Fn() -> bool,
    pub(crate) report: PruneReport,
    /// Packs written by this run.
    fresh: HashSet<PackId>,
    /// Blocks that were read and found right.
    good: HashSet<Place>,
    decoder: Decoder,
}

impl<'a> Sweep<'a> {
    pub(crate) fn new(repository: &'a Repository, now: Timestamp, stopped: &'a dyn Fn() -> bool) -> Self {
        Self {
            repository,
            needed: Needed::default(),
            walked: HashSet::new(),
            now,
            stopped,
            report: PruneReport::default(),
            fresh: HashSet::new(),
            good: HashSet::new(),
            decoder: Decoder::new(),
        }
    }

    fn packs(&self) -> &'a Packs {
        &self.repository.packs
    }

    /// Looks at all snapshots that were not looked at yet: those that are kept, and those that can be brought back (`also` the
    /// ones that are about to be forgotten).
    pub(crate) fn catch_up(&mut self, also: &HashSet<SnapshotId>) -> Result<Result<(), Obstacle>> {
        let all = self.repository.records.all()?;
        if let Some((name, error)) = all.bad.first() {
            return Ok(Err(Obstacle::Record { name: name.to_string(), problem: error.to_string() }));
        }
        let forgotten = self.repository.forgotten.all()?;
        // After the records: one that is moved aside at this moment was seen there, and could not be read.
        if let Some(lost) = self.repository.unknown_needs(&all, &forgotten, self.now)?.into_iter().next() {
            return Ok(Err(Obstacle::SetAside { id: lost.id, sequence: lost.sequence, name: lost.name.to_string() }));
        }
        // Those that are kept come first: what they share with others is read once.
        for need in [Need::Present, Need::Forgotten] {
            for kept in &all.good {
                let id = kept.info.id;
                let mark = forgotten.get(&id);
                let this = if mark.is_some() || also.contains(&id) { Need::Forgotten } else { Need::Present };
                if this != need || self.walked.contains(&id) || mark.is_some_and(|mark| mark.until <= self.now) {
                    continue;
                }
                if (self.stopped)() {
                    return Ok(Err(Obstacle::Stopped));
                }
                let whole = self.needed.add(self.packs(), &kept.record, need)?;
                if !whole && need == Need::Present {
                    let (set, sequence) = (kept.record.set.clone(), kept.record.sequence);
                    let newest = is_newest(&all, &set, sequence);
                    return Ok(Err(Obstacle::Snapshot { id, set, sequence, newest }));
                }
                self.walked.insert(id);
            }
        }
        Ok(Ok(()))
    }

    /// Takes the prune lock alone and looks at what came meanwhile.
    fn alone(&mut self) -> Result<Result<Lock, Obstacle>> {
        let lock = Lock::exclusive(&self.repository.lock("prune"))?;
        Ok(self.catch_up(&HashSet::new())?.map(|()| lock))
    }

    /// Puts packs into the trash that hold nothing that is needed and not held elsewhere.
    pub(crate) fn throw_away(&mut self, packs: &[PackId]) -> Result<Result<(), Obstacle>> {
        for packs in packs.chunks(BATCH) {
            if (self.stopped)() {
                return Ok(Err(Obstacle::Stopped));
            }
            let mut prepared = Vec::with_capacity(packs.len());
            for pack in packs {
                if let Some((trailer, length)) = self.trailer(*pack)? {
                    let ids: Vec<_> = IndexedPack::of(*pack, length, &trailer).chunks.into_keys().collect();
                    let copies = self.copies(*pack, &ids)?;
                    prepared.push((*pack, length, ids, copies));
                }
            }
            let lock = match self.alone()? {
                Ok(lock) => lock,
                Err(obstacle) => return Ok(Err(obstacle)),
            };
            for (pack, length, ids, copies) in prepared {
                let mut held = true;
                for id in ids.iter().filter(|id| self.needed.of(id) != Need::Nobody) {
                    // The pack with the copy may have gone to the trash itself, just before.
                    held &= match copies.get(id) {
                        Some(copy) => self.is_on_shelf(copy)?,
                        None => false,
                    };
                }
                if held {
                    self.packs().index.take_out(&[(pack, ids)])?;
                    match self.packs().shelf.rename(&layout::pack(&pack), &layout::trashed(&pack, self.now)) {
                        // It was set aside meanwhile.
                        Err(error) if error.is_not_found() => continue,
                        other => other?,
                    }
                    self.report.thrown_away.add(length);
                }
            }
            drop(lock);
        }
        Ok(Ok(()))
    }

    /// Writes the needed chunks of packs with much dead weight into new packs and throws the old ones away.
    pub(crate) fn repack(&mut self, packs: &[PackId]) -> Result<Result<(), Obstacle>> {
        let mut packs = packs.iter();
        loop {
            let mut copier =
                Copier { repository: self.repository, writer: None, finished: Vec::new(), ids: HashSet::new() };
            let mut old = Vec::new();
            while copier.bytes() < MAX_PACK_BLOCK_BYTES / 2 && copier.finished.is_empty() {
                if (self.stopped)() {
                    return Ok(Err(Obstacle::Stopped));
                }
                let Some(pack) = packs.next() else { break };
                let Some((trailer, length)) = self.trailer(*pack)? else { continue };
                let dead = dead_bytes(self.packs(), &self.needed, *pack, &trailer)?;
                if is_heavy(dead, length) && self.copy_needed(*pack, &trailer, &mut copier)? {
                    old.push(*pack);
                    self.report.repacked.add(dead);
                }
            }
            if old.is_empty() {
                return Ok(Ok(()));
            }
            self.fresh.extend(copier.finish()?);
            if let Err(obstacle) = self.throw_away(&old)? {
                return Ok(Err(obstacle));
            }
        }
    }

    /// Copies what is needed and lies nowhere else. `false` when the pack cannot be read: it stays as it is.
    fn copy_needed(&mut self, id: PackId, trailer: &Trailer, copier: &mut Copier<'_>) -> Result<bool> {
        let object = self.packs().shelf.open(&layout::pack(&id))?;
        let mut thinner = Thinner::default();
        for packed in &trailer.blocks {
            let mut ids: Vec<_> = packed.header.chunks.iter().map(|chunk| chunk.id).collect();
            ids.retain(|id| self.needed.of(id) != Need::Nobody && !copier.ids.contains(id));
            let copies = self.copies(id, &ids)?;
            ids.retain(|id| !copies.contains_key(id));
            if ids.is_empty() {
                continue;
            }
            let block = pack::read_block(&*object, packed.offset, packed.length()).map_err(|error| error.of(id));
            let block = block.and_then(|block| Ok(thinner.only(block, &ids)?));
            match block.and_then(|block| copier.append(&block)) {
                Err(error) if is_wrong(&error) => {
                    tracing::error!(pack = %id, %error, "a pack is damaged and is left as it is");
                    return Ok(false);
                }
                other => other?,
            }
            copier.ids.extend(ids);
        }
        Ok(true)
    }

    /// Deletes what has lain in the trash long enough, and puts back what is needed after all.
    pub(crate) fn empty_trash(&mut self) -> Result<Result<(), Obstacle>> {
        let trash = trash::list(&*self.packs().shelf)?;
        for batch in trash.chunks(BATCH) {
            if (self.stopped)() {
                return Ok(Err(Obstacle::Stopped));
            }
            let mut prepared = Vec::new();
            for trashed in batch {
                let object = match self.packs().shelf.open(&trashed.name) {
                    Err(error) if error.is_not_found() => continue,
                    other => other?,
                };
                let pack = match Trailer::of(trashed.pack, &*object) {
                    Err(error) if error.is_damage() => None,
                    // What could not be read may be needed.
                    other => Some(other?),
                };
                let pack = pack.map(|(trailer, length)| IndexedPack::of(trashed.pack, length, &trailer));
                let ids: Vec<_> = pack.iter().flat_map(|pack| pack.chunks.keys().copied()).collect();
                let copies = self.copies(trashed.pack, &ids)?;
                prepared.push((trashed, object.length()?, pack, copies));
            }
            let lock = match self.alone()? {
                Ok(lock) => lock,
                Err(obstacle) => return Ok(Err(obstacle)),
            };
            for (trashed, length, pack, copies) in prepared {
                let ids: Vec<_> = pack.iter().flat_map(|pack| pack.chunks.keys().copied()).collect();
                let wanted = |id: &&ChunkId| self.needed.of(id) != Need::Nobody && !copies.contains_key(*id);
                match pack {
                    Some(pack) if ids.iter().any(|id| wanted(&id)) => {
                        // Nobody has read it since it came here; the next look does.
                        doubts::raise(&*self.packs().shelf, trashed.pack);
                        trash::put_back(self.packs(), trashed, pack)?;
                        self.report.put_back.add(length);
                    }
                    _ => self.delete(trashed, length, ids)?,
                }
            }
            drop(lock);
        }
        Ok(Ok(()))
    }

    fn delete(&mut self, trashed: &Trashed, length: u64, ids: Vec<ChunkId>) -> Result<()> {
        let lain = self.now.duration_since(trashed.since);
        if lain >= TRASH_STAY {
            // Another process may have found it on the shelf in the moment in which it went, and added it once more.
            if !self.is_on_shelf(&trashed.pack)? {
                self.packs().index.take_out(&[(trashed.pack, ids)])?;
            }
            self.packs().shelf.delete(&trashed.name)?;
            self.report.deleted.add(length);
        } else {
            if lain < -TRASH_STAY {
                // The clock was wrong when it came.
                self.packs().shelf.rename(&trashed.name, &layout::trashed(&trashed.pack, self.now))?;
            }
            self.report.waiting.add(length);
        }
        Ok(())
    }

    fn is_on_shelf(&self, pack: &PackId) -> Result<bool> {
        match self.packs().shelf.open(&layout::pack(pack)) {
            Err(error) if error.is_not_found() => Ok(false),
            other => Ok(other.map(|_| true)?),
        }
    }

    /// `None` for a pack that is not there or cannot be read: it is left alone.
    fn trailer(&self, pack: PackId) -> Result<Option<(Trailer, u64)>> {
        match self.packs().shelf.open(&layout::pack(&pack)) {
            Err(error) if error.is_not_found() => Ok(None),
            other => match Trailer::of(pack, &*other?) {
                Err(error) if error.is_damage() => {
                    tracing::error!(%pack, %error, "a pack is damaged and is left as it is");
                    Ok(None)
                }
                other => other.map(Some),
            },
        }
    }

    /// For those of `ids` that are needed, a pack other than `pack` that holds it, too, where its block was read and is right.
    fn copies(&mut self, pack: PackId, ids: &[ChunkId]) -> Result<HashMap<ChunkId, PackId>> {
        let mut copies = HashMap::new();
        for id in ids.iter().filter(|id| self.needed.of(id) != Need::Nobody) {
            let mut not_there = HashSet::from([pack]);
            while let Some((place, object)) = self.repository.packs.find_open(*id, &mut not_there)? {
                if !self.fresh.contains(&place.pack) && !self.good.contains(&place) {
                    let block = read(&*object, place.pack, place.offset, place.length, &[*id]);
                    match block.and_then(|block| Ok(self.decoder.decode(&block)?)) {
                        Ok(_) => self.good.insert(place),
                        Err(error) if is_wrong(&error) => {
                            not_there.insert(place.pack);
                            continue;
                        }
                        Err(error) => return Err(error),
                    };
                }
                copies.insert(*id, place.pack);
                break;
            }
        }
        Ok(copies)
    }
}

/// What was read is not what it should be.
fn is_wrong(error: &Error) -> bool {
    error.is_damage() || matches!(error, Error::Block(_))
}

/// Writes blocks into new packs.
struct Copier<'a> {
    repository: &'a Repository,
    writer: Option<PackWriter>,
    finished: Vec<PackId>,
    /// What they hold.
    ids: HashSet<ChunkId>,
}

impl Copier<'_> {
    fn bytes(&self) -> u64 {
        self.writer.as_ref().map_or(0, PackWriter::bytes)
    }

    fn append(&mut self, block: &Block) -> Result<()> {
        let full = self.bytes() + block.encoded_length() > MAX_PACK_BLOCK_BYTES;
        if let Some(writer) = self.writer.take_if(|_| full) {
            self.finished.push(writer.finish_copy()?);
        }
        if self.writer.is_none() {
            self.writer = Some(self.repository.begin_pack()?);
        }
        self.writer.as_mut().map_or(Ok(()), |writer| writer.append(block))
    }

    /// Waits until all is durable.
    fn finish(mut self) -> Result<Vec<PackId>> {
        if let Some(writer) = self.writer.take() {
            self.finished.push(writer.finish_copy()?);
        }
        let packs = &self.repository.packs;
        packs.pending.drain();
        // The index names durable packs only; one that is not in it was thrown away, and nothing else may go for it.
        let durable: HashSet<PackId> = packs.index.packs()?.iter().map(|row| row.id).collect();
        match self.finished.iter().filter(|id| !durable.contains(id)).count() {
            0 => Ok(self.finished),
            _ if packs.pending.take_full() => Err(Error::Full),
            lost => Err(Error::NotDurable(lost as u64)),
        }
    }
}
