//! Reads packs on all cores, a block at a time: memory is a block and its plain bytes for each core, whatever the store.

use crate::model::{ChunkId, PackId};
use crate::monitor::{Counter, Monitor};
use crate::platform::resources;
use crate::platform::shutdown::Shutdown;
use crate::store::error::{Error, Result};
use crate::store::index::table::Summary;
use crate::store::layout;
use crate::store::pack_look;
use crate::store::packs::Packs;
use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

/// A pack that is not what it should be.
#[derive(Debug)]
pub(crate) struct BadPack {
    pub(crate) id: PackId,
    pub(crate) problems: Vec<String>,
    /// Chunks that are lost from it.
    pub(crate) lost: BTreeSet<ChunkId>,
}

/// What a pass over packs has found.
#[derive(Debug, Default)]
pub(crate) struct Pass {
    pub(crate) bad: Vec<BadPack>,
    /// Packs that cannot be read at the moment, and why: nothing is known of them.
    pub(crate) unread: Vec<(PackId, String)>,
    /// What each pack says that can be read, to be compared with the index.
    pub(crate) summaries: HashMap<PackId, Summary>,
    /// Packs whose every byte was read and is right.
    pub(crate) whole: Vec<PackId>,
    /// Bytes of them all, and those that were read.
    pub(crate) bytes: u64,
    pub(crate) read: u64,
}

impl Pass {
    fn merge(&mut self, other: Self) {
        self.bad.extend(other.bad);
        self.unread.extend(other.unread);
        self.summaries.extend(other.summaries);
        self.whole.extend(other.whole);
        self.bytes += other.bytes;
        self.read += other.read;
    }
}

/// How closely a pack is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Depth {
    /// Its trailer.
    Trailer,
    /// Every byte.
    Data,
}

/// Looks at packs, each as closely as it says. A trailer that is damaged makes the whole pack be read.
pub(crate) fn pass(
    packs: &Packs,
    work: &[(PackId, Depth)],
    monitor: &dyn Monitor,
    shutdown: &Shutdown,
) -> Result<Pass> {
    let (next, result) = (AtomicUsize::new(0), Mutex::new(Ok(Pass::default())));
    std::thread::scope(|scope| {
        for _ in 0..resources::cores().min(work.len()) {
            scope.spawn(|| {
                let mut own = Pass::default();
                let ended = loop {
                    let Some((id, depth)) = work.get(next.fetch_add(1, Ordering::Relaxed)) else { break Ok(()) };
                    if let Err(error) = look(packs, *id, *depth, &mut own, monitor, shutdown) {
                        break Err(error);
                    }
                    monitor.count(Counter::Files, 1);
                };
                let mut all = result.lock().unwrap_or_else(PoisonError::into_inner);
                match (ended, &mut *all) {
                    (Ok(()), Ok(all)) => all.merge(own),
                    (Err(error), Ok(_)) => *all = Err(error),
                    (_, Err(_)) => {}
                }
            });
        }
    });
    let mut pass = result.into_inner().unwrap_or_else(PoisonError::into_inner)?;
    pass.bad.sort_by_key(|bad| bad.id);
    Ok(pass)
}

fn look(
    packs: &Packs,
    id: PackId,
    depth: Depth,
    pass: &mut Pass,
    monitor: &dyn Monitor,
    shutdown: &Shutdown,
) -> Result<()> {
    if shutdown.is_stopped() {
        return Err(Error::Stopped);
    }
    let object = match packs.shelf.open(&layout::pack(&id)) {
        // Pruned or set aside since the list was made.
        Err(error) if error.is_not_found() => return Ok(()),
        Err(error) if !error.is_bad_medium() => {
            pass.unread.push((id, format!("{error}: {}", error.source)));
            return Ok(());
        }
        Err(error) => {
            let problems = vec![format!("{error}: {}", error.source)];
            let lost = packs.index.chunks_of(id)?.into_iter().collect();
            pass.bad.push(BadPack { id, problems, lost });
            return Ok(());
        }
        Ok(object) => object,
    };
    if depth == Depth::Trailer
        && let Ok(indexed) = pack_look::trailer(id, &*object)
    {
        pass.summaries.insert(id, indexed.summary());
        pass.bytes += indexed.bytes;
        return Ok(());
    }
    let mut saved: BTreeSet<ChunkId> = BTreeSet::new();
    let mut read = |bytes| {
        monitor.count(Counter::Bytes, bytes);
        pass.read += bytes;
        if shutdown.is_stopped() { Err(Error::Stopped) } else { Ok(()) }
    };
    let mut damaged_trailer = false;
    let look = pack_look::whole(id, &*object, &mut read, &mut |block| {
        saved.extend(block.header.chunks.iter().map(|chunk| chunk.id));
        Ok(())
    });
    let look = match look {
        Err(Error::Platform(error)) => {
            pass.unread.push((id, format!("{error}: {}", error.source)));
            return Ok(());
        }
        other => other?,
    };
    pass.bytes += look.bytes;
    match &look.indexed {
        Some(indexed) => drop(pass.summaries.insert(id, indexed.summary())),
        None => damaged_trailer = true,
    }
    if look.is_whole() {
        pass.whole.push(id);
        return Ok(());
    }
    let mut lost = look.lost;
    if damaged_trailer {
        // What it should hold, only the index knows.
        lost.extend(packs.index.chunks_of(id)?.into_iter().filter(|chunk| !saved.contains(chunk)));
    }
    pass.bad.push(BadPack { id, problems: look.problems, lost });
    Ok(())
}
