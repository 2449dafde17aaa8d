//! Doubts: packs that could not give what they should, and packs that are nowhere any more. One small sealed object each, so that what one
//! process has met is looked into by whoever looks next, however long after.
//!
//! The index is a cache and agrees with the packs again as soon as anybody opens the store; from then on it cannot tell that a pack is missed.
//! So a doubt also says what the pack held, as far as that was known. It ends when the pack was read and is whole, when it was set aside, or when
//! nothing that is kept lacks what it held. Whether the pack is gone is not written down: its place says that.

use crate::model::{Block, ChunkId, PackId};
use crate::store::error::{Error, Result};
use crate::store::layout::{self, FORMAT};
use crate::store::marks;
use crate::store::repository::Repository;
use crate::store::sealed::{save_state, unseal};
use crate::store::shelf::Shelf;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::ops::ControlFlow;
use std::sync::PoisonError;

/// Chunks that a doubt names; of the others it knows the number.
const MAX_DOUBT_CHUNKS: usize = 64;
/// No doubt is larger.
const MAX_DOUBT_BYTES: u64 = 64 << 10;

/// A pack that is in doubt.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Doubt {
    /// [`FORMAT`].
    pub(crate) format: u32,
    /// Which.
    pub pack: PackId,
    /// What it held, as far as that is known.
    #[serde(default)]
    pub chunks: Vec<ChunkId>,
    /// How many chunks more it held.
    #[serde(default)]
    pub more_chunks: u64,
    /// A look has marked what is hit by its being gone.
    #[serde(default)]
    pub marked: bool,
}

impl Doubt {
    /// Nothing is known of what it held.
    pub(crate) fn of(pack: PackId) -> Self {
        Self { format: FORMAT, pack, chunks: Vec::new(), more_chunks: 0, marked: false }
    }

    /// A pack that is gone and held these.
    pub(crate) fn held(pack: PackId, mut chunks: Vec<ChunkId>) -> Self {
        let more_chunks = chunks.len().saturating_sub(MAX_DOUBT_CHUNKS) as u64;
        chunks.truncate(MAX_DOUBT_CHUNKS);
        Self { chunks, more_chunks, ..Self::of(pack) }
    }

    /// Whether its being gone may explain what is lacking.
    pub(crate) fn explains(&self, lacking: &HashSet<ChunkId>) -> bool {
        let known = self.more_chunks == 0 && !self.chunks.is_empty();
        self.chunks.iter().any(|id| lacking.contains(id)) || !known && !self.marked && !lacking.is_empty()
    }
}

/// What could not give what it should since the last time.
#[derive(Debug, Default)]
pub(crate) struct Worries {
    packs: BTreeSet<PackId>,
    worried: bool,
}

/// All doubts. One that is damaged still says which pack it is about.
pub(crate) fn load(shelf: &dyn Shelf) -> Result<BTreeMap<PackId, Doubt>> {
    let mut doubts = BTreeMap::new();
    for name in shelf.list(&layout::doubts())? {
        let Some(pack) = layout::doubted_pack(&name) else { continue };
        let doubt = match read(shelf, &name) {
            Err(Error::Platform(error)) if error.is_not_found() => continue,
            Ok(doubt) if doubt.pack == pack => doubt,
            _ => Doubt::of(pack),
        };
        doubts.insert(pack, doubt);
    }
    Ok(doubts)
}

fn read(shelf: &dyn Shelf, name: &layout::ObjectName) -> Result<Doubt> {
    let object = shelf.open(name)?;
    let length = object.length()?;
    if length > MAX_DOUBT_BYTES {
        return Err(Error::damaged(name, &"it is larger than any doubt"));
    }
    let bytes = object.read_at(0, length as usize)?;
    let json = unseal(&bytes).map_err(|problem| Error::damaged(name, &problem))?;
    serde_json::from_str(json).map_err(|error| Error::damaged(name, &error))
}

/// Writes a doubt down, in the place of an older one.
pub(crate) fn save(shelf: &dyn Shelf, doubt: &Doubt) -> Result<()> {
    save_state(shelf, &layout::doubt(&doubt.pack), doubt)
}

/// The same where it must not stop what is under way: then it is in the log only.
pub(crate) fn try_save(shelf: &dyn Shelf, doubt: &Doubt) {
    if let Err(error) = save(shelf, doubt) {
        tracing::warn!(pack = %doubt.pack, error = &error as &dyn std::error::Error, "a doubt cannot be written down");
    }
}

/// A pack could not give what it should. What was known of it stays known.
pub(crate) fn raise(shelf: &dyn Shelf, pack: PackId) {
    if !shelf.open(&layout::doubt(&pack)).is_ok_and(|object| object.length().is_ok_and(|length| length > 0)) {
        try_save(shelf, &Doubt::of(pack));
    }
}

/// A doubt has ended; fine when there was none.
pub(crate) fn settle(shelf: &dyn Shelf, pack: &PackId) {
    if let Err(error) = marks::delete_if_there(shelf, &layout::doubt(pack)) {
        tracing::warn!(%pack, error = &error as &dyn std::error::Error, "a doubt that has ended cannot be taken away");
    }
}

/// Packs that wait in the trash, or were set aside: they have not vanished.
pub(crate) fn elsewhere(shelf: &dyn Shelf) -> Result<HashSet<PackId>> {
    let mut packs: HashSet<PackId> =
        shelf.list(&layout::trash())?.iter().filter_map(layout::trashed_parts).map(|(pack, _)| pack).collect();
    // A second one of the same name has a number behind it.
    let id =
        |name: &layout::ObjectName| -> Option<PackId> { name.last().split('.').next().and_then(|id| id.parse().ok()) };
    packs.extend(shelf.list(&layout::quarantine())?.iter().filter_map(id));
    Ok(packs)
}

impl Repository {
    /// Delivers blocks that together hold all of `ids`, each once, in an order that is kind to the packs, until `each` says
    /// break. They may hold other chunks, too. Not checked: whoever decodes them checks them.
    ///
    /// # Errors
    /// [`Error::NotFound`] before the first block when a chunk is not here; [`Error::Chunk`] names what is damaged.
    pub fn read_blocks(&self, ids: &[ChunkId], each: &mut dyn FnMut(Block) -> ControlFlow<()>) -> Result<()> {
        let result = self.packs.read_blocks(ids, each);
        if let Err(Error::Chunk { pack, .. } | Error::Pack { pack, .. }) = &result {
            let new = self.worries.lock().unwrap_or_else(PoisonError::into_inner).packs.insert(*pack);
            if new {
                raise(&*self.packs.shelf, *pack);
            }
        }
        result
    }

    /// Packs in doubt whose being gone is not marked yet, whoever met them, and whether anything else was found that should be looked into soon.
    pub(crate) fn take_doubts(&self) -> Result<(BTreeSet<PackId>, bool)> {
        let Worries { mut packs, worried } =
            std::mem::take(&mut *self.worries.lock().unwrap_or_else(PoisonError::into_inner));
        let written = load(&*self.packs.shelf)?;
        packs.extend(written.into_values().filter(|doubt| !doubt.marked).map(|doubt| doubt.pack));
        Ok((packs, worried))
    }

    /// Something was set aside, or is gone: what that has hit should be looked for soon.
    pub(crate) fn worry(&self) {
        self.worries.lock().unwrap_or_else(PoisonError::into_inner).worried = true;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pack_that_is_gone_explains_what_it_held_and_what_is_not_known_until_it_is_marked() {
        let chunk = |n| ChunkId::from_bytes([n; 32]);
        let pack = PackId::from_bytes([1; 32]);
        let (held, other) = (HashSet::from([chunk(1)]), HashSet::from([chunk(9)]));
        let known = Doubt::held(pack, vec![chunk(1), chunk(2)]);
        assert!(known.explains(&held) && !known.explains(&other) && !known.explains(&HashSet::new()));
        let unknown = Doubt::of(pack);
        assert!(unknown.explains(&other) && !unknown.explains(&HashSet::new()));
        assert!(!Doubt { marked: true, ..unknown }.explains(&other));
        let many = Doubt::held(pack, (0..70).map(chunk).collect());
        assert_eq!((many.chunks.len(), many.more_chunks, many.explains(&HashSet::from([chunk(69)]))), (64, 6, true));
    }
}
