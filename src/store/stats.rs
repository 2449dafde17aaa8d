//! What a repository takes and why: how much its snapshots say they hold (*raw*), how much of that is different (*plain*), what it takes
//! in packs (*stored*), and which snapshot brought it.
//!
//! A chunk counts for the first snapshot that needs it, by the receiver's clock; one that only forgotten snapshots need counts for the first
//! of those. So the shares add up, and those of a set are what it added to what was there. Snapshots that were pruned are not counted
//! any more: what they brought and others still need counts for the first of the others.
//!
//! Lists and packs' trailers are read one at a time. Held are eight bytes of each chunk's id and four that say whose it is: 19 to 38 MB for
//! a million chunks.

use crate::model::{PackId, SetName, SnapshotId};
use crate::store::error::{Error, Result};
use crate::store::layout;
use crate::store::needs_walk::{FirstBytes, NeedsWalk, ShortId, short};
use crate::store::pack::Trailer;
use crate::store::prune::{Amount, trash};
use crate::store::records::Kept;
use crate::store::repository::Repository;
use jiff::Timestamp;
use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};
use std::hash::BuildHasherDefault;
use std::sync::Arc;

/// Chunks, and what they take.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Volume {
    /// How many.
    pub chunks: u64,
    /// Their own bytes.
    pub plain: u64,
    /// Their share of the packs, compressed.
    pub stored: u64,
}

impl Volume {
    /// Both together.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self { chunks: self.chunks + other.chunks, plain: self.plain + other.plain, stored: self.stored + other.stored }
    }
}

/// How often packs are listed while chunks are missing: prune and backups write new ones meanwhile.
const MAX_ROUNDS: u32 = 8;

/// One snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotStats {
    /// Which.
    pub id: SnapshotId,
    /// Of which set.
    pub set: SetName,
    /// When it came, by the receiver's clock.
    pub received_at: Timestamp,
    /// Files that it says it holds.
    pub files: u64,
    /// Bytes that it says it holds.
    pub raw: u64,
    /// What it needs and none before it does.
    pub added: Volume,
    /// It is forgotten, and can be brought back.
    pub forgotten: bool,
    /// All its lists could be read; otherwise it added more than that.
    pub whole: bool,
}

/// One repository.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// By the time at which they came; the forgotten ones last.
    pub snapshots: Vec<SnapshotStats>,
    /// All packs.
    pub packs: Amount,
    /// What no snapshot needs, second copies included.
    pub unneeded: Volume,
    /// Packs in the trash.
    pub trash: Amount,
    /// Chunks that a snapshot needs and no pack that can be read holds.
    pub missing: u64,
    /// Packs whose trailer cannot be read.
    pub unreadable: Vec<(PackId, String)>,
}

impl Stats {
    /// What the snapshots that are kept need.
    pub fn kept(&self) -> Volume {
        self.sum(|snapshot| !snapshot.forgotten)
    }

    /// What only forgotten ones need.
    pub fn forgotten(&self) -> Volume {
        self.sum(|snapshot| snapshot.forgotten)
    }

    /// What these snapshots added.
    pub fn sum(&self, of: impl Fn(&SnapshotStats) -> bool) -> Volume {
        self.snapshots.iter().filter(|snapshot| of(snapshot)).fold(Volume::default(), |sum, one| sum.and(one.added))
    }

    /// What packs take beside chunks: where they begin and end, and their trailers.
    pub fn overhead(&self) -> u64 {
        let chunks = self.kept().and(self.forgotten()).and(self.unneeded).stored;
        self.packs.bytes.saturating_sub(chunks)
    }
}

/// Which snapshot brought a chunk: its place in the list.
type Bringers = HashMap<ShortId, u32, BuildHasherDefault<FirstBytes>>;

/// Looks at all lists and all packs' trailers.
///
/// # Errors
/// The disk's, and [`Error::Stopped`]. What is damaged is no error, and is told.
pub fn stats(repository: &Repository, stopped: &dyn Fn() -> bool) -> Result<Stats> {
    let packs = &repository.packs;
    packs.index.reconcile()?;
    let mut stats = Stats::default();
    let mut bringers = Bringers::default();
    let mut walk = NeedsWalk::default();
    for (kept, forgotten) in snapshots(repository)? {
        if stopped() {
            return Err(Error::Stopped);
        }
        let number = stats.snapshots.len() as u32;
        let whole = walk.add(packs, &kept.record, (), &mut |id| {
            if let Entry::Vacant(place) = bringers.entry(id) {
                place.insert(number);
            }
        })?;
        stats.snapshots.push(SnapshotStats {
            id: kept.info.id,
            set: kept.record.set.clone(),
            received_at: kept.info.receipt.received_at,
            files: kept.record.totals.files,
            raw: kept.record.totals.bytes,
            added: Volume::default(),
            forgotten,
            whole,
        });
    }
    drop(walk);
    let mut weighed = HashSet::new();
    for _ in 0..MAX_ROUNDS {
        let mut ids: Vec<PackId> = packs.index.packs()?.iter().map(|row| row.id).collect();
        ids.retain(|id| weighed.insert(*id));
        ids.sort();
        for id in &ids {
            if stopped() {
                return Err(Error::Stopped);
            }
            let object = match packs.shelf.open(&layout::pack(id)) {
                // Prune works beside this.
                Err(error) if error.is_not_found() => continue,
                other => other?,
            };
            match Trailer::of(*id, &*object) {
                Ok((trailer, length)) => {
                    stats.packs.add(length);
                    stats.weigh(&trailer, &mut bringers);
                }
                Err(error) if error.is_damage() => stats.unreadable.push((*id, error.to_string())),
                Err(error) => return Err(error),
            }
        }
        if bringers.is_empty() || ids.is_empty() {
            break;
        }
        // What is not there may have been written into another pack since they were listed.
        packs.index.reconcile()?;
    }
    stats.missing = bringers.len() as u64;
    for trashed in trash::list(&*packs.shelf)? {
        match packs.shelf.open(&trashed.name) {
            Err(error) if error.is_not_found() => {}
            other => stats.trash.add(other?.length()?),
        }
    }
    Ok(stats)
}

/// Those that are kept, by the time at which they came, then those that can be brought back.
fn snapshots(repository: &Repository) -> Result<Vec<(Arc<Kept>, bool)>> {
    let now = repository.packs.clock.now();
    let marks = repository.forgotten.all()?;
    let all = repository.records.all()?.good;
    let mut snapshots: Vec<_> = all
        .into_iter()
        .filter(|kept| marks.get(&kept.info.id).is_none_or(|mark| mark.until > now))
        .map(|kept| (marks.contains_key(&kept.info.id), kept))
        .collect();
    snapshots.sort_by_key(|(forgotten, kept)| (*forgotten, kept.info.receipt.received_at));
    Ok(snapshots.into_iter().map(|(forgotten, kept)| (kept, forgotten)).collect())
}

impl Stats {
    /// A pack's chunks count for whoever brought them; each one once.
    fn weigh(&mut self, trailer: &Trailer, bringers: &mut Bringers) {
        for block in &trailer.blocks {
            let plain = u64::from(block.header.plain_length()).max(1);
            for chunk in &block.header.chunks {
                let bytes = u64::from(chunk.length);
                let volume = Volume { chunks: 1, plain: bytes, stored: block.length() * bytes / plain };
                let bringer = bringers.remove(&short(chunk.id.as_bytes()));
                let bringer = bringer.and_then(|number| self.snapshots.get_mut(number as usize));
                let sum = bringer.map_or(&mut self.unneeded, |snapshot| &mut snapshot.added);
                *sum = sum.and(volume);
            }
        }
    }
}
