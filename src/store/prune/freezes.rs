//! Which sets the brake has stopped, and why: what records say, what was measured, and the clock, put together.

use crate::model::{SetName, SnapshotId};
use crate::store::error::{Error, Result};
use crate::store::prune::brake::{self, Freeze};
use crate::store::prune::clock_watch::ClockWatch;
use crate::store::prune::rewritten::BrakeState;
use crate::store::repository::Repository;
use jiff::Timestamp;
use std::collections::BTreeMap;

/// How closely to look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Look {
    /// What is known: reads some small files.
    Known,
    /// What came since the last time is measured, and nothing is written.
    Measure,
    /// The same, and it is written down.
    Keep,
}

/// The sets that are stopped, by name.
pub type Freezes = BTreeMap<SetName, Vec<Freeze>>;

impl Repository {
    /// Why nothing is forgotten of which sets.
    ///
    /// # Errors
    /// The disk's.
    pub fn freezes(&self, look: Look, stopped: &dyn Fn() -> bool) -> Result<Freezes> {
        let shelf = &*self.packs.shelf;
        let now = self.packs.clock.now();
        let watch = match look {
            Look::Keep => ClockWatch::observe(shelf, &*self.packs.clock)?,
            Look::Known | Look::Measure => ClockWatch::look(shelf, &*self.packs.clock)?,
        };
        let good = self.records.all()?.good;
        let mut state = BrakeState::load(shelf)?;
        if look != Look::Known {
            let marks = self.forgotten.all()?;
            let gone = |id: &SnapshotId| marks.get(id).is_some_and(|mark| mark.until <= now);
            if state.measure(&self.packs, &good, &gone, stopped)? && look == Look::Keep {
                Error::unless_full(state.save(shelf))?;
            }
        }
        let released = self.forgotten.released()?;
        let mut freezes = Freezes::new();
        for chain in good.chunk_by(|one, next| one.record.set == next.record.set) {
            let mut frozen: Vec<Freeze> = chain
                .windows(2)
                .filter_map(|pair| {
                    let (before, record, id) = (&pair[0].record, &pair[1].record, pair[1].info.id);
                    brake::look(&before.totals, id, &record.totals, &record.changes, state.of(&id))
                })
                .collect();
            let Some(newest) = chain.last() else { continue };
            let (id, set) = (newest.info.id, &newest.record.set);
            frozen.extend(brake::clock(id, newest.info.receipt.received_at, now));
            frozen.retain(|freeze| !released.contains_key(&freeze.snapshot()));
            frozen.extend(brake::jump(id, set, watch.jump()));
            if !frozen.is_empty() {
                freezes.insert(set.clone(), frozen);
            }
        }
        Ok(freezes)
    }

    /// A person has looked at what stopped a set: it goes on.
    ///
    /// # Errors
    /// The disk's.
    pub fn release(&self, set: &SetName, freeze: &Freeze) -> Result<()> {
        let shelf = &*self.packs.shelf;
        match freeze {
            Freeze::Jump { .. } => {
                let all = self.records.all()?.good.iter().map(|kept| kept.record.set.clone()).collect();
                ClockWatch::look(shelf, &*self.packs.clock)?.release(shelf, set, &all)
            }
            _ => self.forgotten.release(&freeze.snapshot(), self.packs.clock.now()),
        }
    }
}

/// The jump of the clock that stops a set: while there is one, everything that goes by the clock is stopped.
pub(crate) fn clock_jump(freezes: &Freezes) -> Option<(Timestamp, Timestamp)> {
    freezes.values().flatten().find_map(|freeze| match freeze {
        Freeze::Jump { from, to, .. } => Some((*from, *to)),
        _ => None,
    })
}
