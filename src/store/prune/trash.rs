//! The trash: packs that nothing needed when they were put there. A pack that turns out to be needed goes back to the others.
//!
//! It keeps a promise. A backup that runs is told which chunks are there; when they lie in a pack that nothing needs yet, prune may
//! put that pack into the trash meanwhile. From then on its chunks are missing for whoever asks anew, and the commit of
//! the one who was told finds them here.

use crate::model::{ChunkId, PackId};
use crate::store::error::Result;
use crate::store::index::IndexedPack;
use crate::store::layout::{self, ObjectName};
use crate::store::pack::Trailer;
use crate::store::pack_look;
use crate::store::packs::Packs;
use crate::store::shelf::{Object, Shelf};
use jiff::Timestamp;
use std::collections::HashSet;

/// A pack in the trash.
#[derive(Clone, Debug)]
pub(crate) struct Trashed {
    pub(crate) name: ObjectName,
    pub(crate) pack: PackId,
    /// Since when it lies there.
    pub(crate) since: Timestamp,
}

/// Everything in the trash, oldest first.
pub(crate) fn list(shelf: &dyn Shelf) -> Result<Vec<Trashed>> {
    let trashed = |name: ObjectName| {
        let (pack, since) = layout::trashed_parts(&name)?;
        Some(Trashed { name, pack, since })
    };
    Ok(shelf.list(&layout::trash())?.into_iter().filter_map(trashed).collect())
}

/// Puts back every pack that holds one of `wanted` and is whole: nobody has read it since it came there, and a commit is about to rely on it.
/// Returns how many. The caller holds the prune lock, shared or not.
pub(crate) fn rescue(packs: &Packs, wanted: &[ChunkId]) -> Result<u64> {
    let is_whole = |pack: PackId, object: &dyn Object| {
        let look = pack_look::whole(pack, object, &mut |_| Ok(()), &mut |_| Ok(()))?;
        if !look.is_whole() {
            tracing::error!(%pack, problem = look.problems.join("; "), "a pack in the trash is damaged: what it holds is asked for again");
        }
        Ok(look.is_whole())
    };
    Ok(put_back_all(packs, wanted, &is_whole)?.len() as u64)
}

/// The same, whole or not, for who reads them next. Returns which.
pub(crate) fn rescue_packs(packs: &Packs, wanted: &[ChunkId]) -> Result<Vec<PackId>> {
    put_back_all(packs, wanted, &|_, _| Ok(true))
}

fn put_back_all(
    packs: &Packs,
    wanted: &[ChunkId],
    is_good: &dyn Fn(PackId, &dyn Object) -> Result<bool>,
) -> Result<Vec<PackId>> {
    let wanted: HashSet<_> = wanted.iter().collect();
    let mut rescued = Vec::new();
    for trashed in list(&*packs.shelf)? {
        let object = match packs.shelf.open(&trashed.name) {
            // Somebody else has put it back.
            Err(error) if error.is_not_found() => continue,
            other => other?,
        };
        let Ok((trailer, length)) = Trailer::of(trashed.pack, &*object) else { continue };
        let pack = IndexedPack::of(trashed.pack, length, &trailer);
        if pack.chunks.keys().any(|id| wanted.contains(id)) && is_good(trashed.pack, &*object)? {
            put_back(packs, &trashed, pack)?;
            rescued.push(trashed.pack);
        }
    }
    Ok(rescued)
}

/// Puts one pack back: on the shelf first, then into the index.
pub(crate) fn put_back(packs: &Packs, trashed: &Trashed, pack: IndexedPack) -> Result<()> {
    match packs.shelf.rename(&trashed.name, &layout::pack(&trashed.pack)) {
        Err(error) if error.is_not_found() => {}
        other => other?,
    }
    tracing::info!(pack = %trashed.pack, "a pack was put back from the trash");
    packs.index.add(&[pack])
}
