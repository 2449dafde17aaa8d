//! Packs that are finished and not durable yet: they wait for the syncer, and meanwhile this process can read them.
//!
//! The queue is bounded; whoever finishes a pack while it is full waits, and so does the sender behind it. A pack leaves in
//! one of two ways: durable and in the index, or thrown away, and then its chunks are simply missing again. There is no third:
//! a sync that failed is never tried again on the same file.

use crate::model::ChunkId;
use crate::store::error::{Error, Result};
use crate::store::index::IndexedPack;
use crate::store::shelf::{Draft, Object};
use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

/// How far the disk may be behind: what a crash of the machine costs at most to send again.
pub(crate) const MAX_PENDING_BYTES: u64 = 256 << 20;
/// Packs that may be behind: each holds an open file.
pub(crate) const MAX_PENDING_PACKS: usize = 64;
/// Chunks in them: where each lies is in memory.
pub(crate) const MAX_PENDING_CHUNKS: usize = 1 << 16;

/// A pack that is not durable yet.
#[derive(Debug)]
pub(crate) struct PendingPack {
    /// What the index will know of it.
    pub(crate) pack: IndexedPack,
    /// Its bytes.
    pub(crate) object: Arc<dyn Object>,
}

/// Where a block lies in a pending pack.
#[derive(Clone, Debug)]
pub(crate) struct PendingPlace {
    pub(crate) pack: Arc<PendingPack>,
    pub(crate) offset: u64,
    pub(crate) length: u64,
}

/// The queue of one repository.
#[derive(Debug, Default)]
pub(crate) struct Pending {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    chunks: HashMap<ChunkId, Arc<PendingPack>>,
    queue: VecDeque<(Box<dyn Draft>, Arc<PendingPack>)>,
    /// Queued or being synced.
    bytes: u64,
    packs: usize,
    /// Packs that ever came, and that ever left; they leave in the order in which they came.
    came: u64,
    left: u64,
    /// Packs thrown away since somebody was told.
    lost: u64,
    /// The last one that left was thrown away for want of space.
    full: bool,
    closed: bool,
}

impl Pending {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(&self, state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        self.changed.wait(state).unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives a finished pack to the syncer; waits while the queue is full.
    pub(crate) fn push(&self, draft: Box<dyn Draft>, pack: Arc<PendingPack>) -> Result<()> {
        let bytes = pack.pack.bytes;
        let mut state = self.state();
        while !state.closed
            && state.packs > 0
            && (state.packs >= MAX_PENDING_PACKS
                || state.bytes + bytes > MAX_PENDING_BYTES
                || state.chunks.len() + pack.pack.chunks.len() > MAX_PENDING_CHUNKS)
        {
            state = self.wait(state);
        }
        if state.closed {
            return Err(Error::Closed);
        }
        for id in pack.pack.chunks.keys() {
            state.chunks.insert(*id, Arc::clone(&pack));
        }
        state.queue.push_back((draft, pack));
        state.bytes += bytes;
        state.packs += 1;
        state.came += 1;
        self.changed.notify_all();
        Ok(())
    }

    /// The next pack to sync; waits for one. `None` when the queue was closed and is empty.
    pub(crate) fn next(&self) -> Option<(Box<dyn Draft>, Arc<PendingPack>)> {
        let mut state = self.state();
        loop {
            if let Some(next) = state.queue.pop_front() {
                return Some(next);
            }
            if state.closed {
                return None;
            }
            state = self.wait(state);
        }
    }

    /// A pack leaves: durable and in the index, or lost.
    pub(crate) fn leave(&self, pack: &Arc<PendingPack>, durable: &Result<()>) {
        let mut state = self.state();
        for id in pack.pack.chunks.keys() {
            if state.chunks.get(id).is_some_and(|other| Arc::ptr_eq(other, pack)) {
                state.chunks.remove(id);
            }
        }
        state.bytes -= pack.pack.bytes;
        state.packs -= 1;
        state.left += 1;
        state.lost += u64::from(durable.is_err());
        state.full = durable.as_ref().is_err_and(Error::is_full);
        self.changed.notify_all();
    }

    /// Waits until every pack that is here now has left.
    pub(crate) fn drain(&self) {
        let mut state = self.state();
        let until = state.came;
        while state.left < until {
            state = self.wait(state);
        }
    }

    /// Packs thrown away since the last time somebody asked.
    pub(crate) fn take_lost(&self) -> u64 {
        std::mem::take(&mut self.state().lost)
    }

    /// Whether the last pack was thrown away for want of space; says so once.
    pub(crate) fn take_full(&self) -> bool {
        std::mem::take(&mut self.state().full)
    }

    /// Takes no more packs; those that are here are synced still.
    pub(crate) fn close(&self) {
        self.state().closed = true;
        self.changed.notify_all();
    }

    /// The syncer has died: everything that waits is lost, and nobody may wait for it.
    pub(crate) fn abandon(&self) {
        let mut state = self.state();
        state.closed = true;
        state.lost += state.came - state.left;
        state.left = state.came;
        (state.bytes, state.packs) = (0, 0);
        state.queue.clear();
        state.chunks.clear();
        self.changed.notify_all();
    }

    /// Where each of `ids` lies, in their order.
    pub(crate) fn find(&self, ids: &[ChunkId]) -> Vec<Option<PendingPlace>> {
        let state = self.state();
        let find = |id: &ChunkId| {
            let pack = state.chunks.get(id)?;
            let (offset, length) = pack.pack.chunks.get(id).copied()?;
            Some(PendingPlace { pack: Arc::clone(pack), offset, length })
        };
        ids.iter().map(find).collect()
    }

    /// Bytes that are here.
    pub(crate) fn bytes(&self) -> u64 {
        self.state().bytes
    }
}
