//! How much of each pack is needed: one look at all rows of the index, in the order of ids, so that copies lie side by side.

use crate::model::{ChunkId, PackId};
use crate::store::error::Result;
use crate::store::pack::Trailer;
use crate::store::packs::Packs;
use crate::store::prune::needed::{Need, Needed};
use std::collections::{HashMap, HashSet};

/// A pack of which so much is dead weight is written anew: then at most as much is copied as becomes free, and at most half of
/// what lies in packs is dead weight.
pub const REPACK_DEAD_PERCENT: u64 = 50;

/// One pack, in numbers of chunks.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Weight {
    pub(crate) bytes: u64,
    pub(crate) chunks: u64,
    /// Needed by a snapshot that is kept, and not held by a pack with a lower number.
    pub(crate) present: u64,
    /// Needed by forgotten snapshots only, while they can be brought back.
    pub(crate) forgotten: u64,
    /// Lengths of the blocks of all others: at least the bytes that are dead weight.
    dead_blocks: u64,
}

impl Weight {
    /// Nothing in it is needed that another pack does not hold.
    pub(crate) fn is_dead(&self) -> bool {
        self.present + self.forgotten == 0
    }

    /// So much may be dead weight that an exact look is worth it.
    pub(crate) fn may_be_heavy(&self) -> bool {
        self.present + self.forgotten < self.chunks && is_heavy(self.dead_blocks, self.bytes)
    }
}

pub(crate) fn is_heavy(dead: u64, bytes: u64) -> bool {
    dead.saturating_mul(100) >= bytes.saturating_mul(REPACK_DEAD_PERCENT)
}

/// Weighs all packs of the index. `None` when it was stopped.
pub(crate) fn take(
    packs: &Packs,
    needed: &Needed,
    stopped: &dyn Fn() -> bool,
) -> Result<Option<HashMap<PackId, Weight>>> {
    let row = |row: crate::store::index::table::PackRow| {
        (row.id, Weight { bytes: row.bytes, chunks: row.chunk_count, ..Weight::default() })
    };
    let mut weights: HashMap<_, _> = packs.index.packs()?.into_iter().map(row).collect();
    let mut last: Option<(ChunkId, i64)> = None;
    loop {
        if stopped() {
            return Ok(None);
        }
        let page = packs.index.page(last)?;
        if page.is_empty() {
            return Ok(Some(weights));
        }
        for row in page {
            let is_copy = last.is_some_and(|(id, _)| id == row.id);
            last = Some((row.id, row.number));
            // Packs that came after the look began are not weighed.
            let Some(weight) = weights.get_mut(&row.place.pack) else { continue };
            match needed.of(&row.id) {
                Need::Present if !is_copy => weight.present += 1,
                Need::Forgotten if !is_copy => weight.forgotten += 1,
                _ => weight.dead_blocks += row.place.length,
            }
        }
    }
}

/// Bytes of a pack that nothing needs, or that another pack holds, too. A chunk counts as its share of its block.
pub(crate) fn dead_bytes(packs: &Packs, needed: &Needed, pack: PackId, trailer: &Trailer) -> Result<u64> {
    let itself = HashSet::from([pack]);
    let mut dead = 0;
    for block in &trailer.blocks {
        let ids: Vec<_> = block.header.chunks.iter().map(|chunk| chunk.id).collect();
        let copies = packs.index.find_except(&ids, &itself)?;
        let plain = u64::from(block.header.plain_length()).max(1);
        for (chunk, copy) in block.header.chunks.iter().zip(copies) {
            if needed.of(&chunk.id) == Need::Nobody || copy.is_some() {
                dead += block.length() * u64::from(chunk.length) / plain;
            }
        }
    }
    Ok(dead)
}
