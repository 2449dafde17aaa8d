//! Which chunks snapshots need: the union of their lists of references.
//!
//! Held are the first eight bytes of each id. Two chunks that begin alike make one that nobody needs seem needed, never the other
//! way round, and ids are hashes: of a million chunks none does. So a million chunks cost 19 MB: a table with room for 1.8
//! million numbers of eight bytes and a byte beside each.

use crate::model::{ChunkId, Record};
use crate::store::error::Result;
use crate::store::needs_walk::{FirstBytes, NeedsWalk, ShortId, short};
use crate::store::packs::Packs;
use std::collections::HashSet;
use std::hash::BuildHasherDefault;

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
    ids: Ids,
    lists: NeedsWalk<Need>,
}

#[derive(Debug, Default)]
struct Ids {
    present: ShortIds,
    forgotten: ShortIds,
}

type ShortIds = HashSet<ShortId, BuildHasherDefault<FirstBytes>>;

impl Needed {
    /// Who needs a chunk.
    pub(crate) fn of(&self, id: &ChunkId) -> Need {
        let id = short(id.as_bytes());
        if self.ids.present.contains(&id) {
            Need::Present
        } else if self.ids.forgotten.contains(&id) {
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
        let ids = &mut self.ids;
        self.lists.add(packs, record, need, &mut |id| ids.insert(id, need))
    }
}

impl Ids {
    fn insert(&mut self, id: ShortId, need: Need) {
        if need == Need::Present {
            self.present.insert(id);
        } else if !self.present.contains(&id) {
            self.forgotten.insert(id);
        }
    }
}
