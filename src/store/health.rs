//! What is known about the health of a repository without looking at it anew: marks, what was set aside, when it was read last.

use crate::model::{Mark, PackId};
use crate::store::doubts;
use crate::store::error::Result;
use crate::store::layout;
use crate::store::marks;
use crate::store::scrub::ScrubState;
use crate::store::shelf::Shelf;
use jiff::Timestamp;
use std::collections::{BTreeSet, HashSet};

/// How a repository is, as far as it is known. Cheap: a few small objects are read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Health {
    /// Snapshots that have lost something.
    pub damaged: Vec<Mark>,
    /// Snapshots that had lost something lately and are whole again.
    pub healed: Vec<Mark>,
    /// Damaged packs that were set aside.
    pub packs_set_aside: u64,
    /// Damaged records and other small files that were set aside.
    pub files_set_aside: u64,
    /// Packs that could not give what they should; they are looked into.
    pub in_doubt: Vec<PackId>,
    /// Packs that are gone, and whether anything lacks what they held is not known yet or known to be so.
    pub gone: Vec<PackId>,
    /// Packs.
    pub packs: u64,
    /// Packs that were never read since they came.
    pub packs_never_read: u64,
    /// When the pack that waits longest was read and found whole; `None` while there is one that never was.
    pub oldest_read: Option<Timestamp>,
    /// When lists and records were looked at last.
    pub looked_at: Option<Timestamp>,
}

impl Health {
    /// Nothing is lost, or in doubt.
    pub fn is_well(&self) -> bool {
        self.damaged.is_empty() && self.in_doubt.is_empty() && self.gone.is_empty()
    }

    pub(crate) fn load(shelf: &dyn Shelf) -> Result<Self> {
        let (healed, damaged) = marks::load(shelf)?.into_iter().partition(|mark: &Mark| mark.healed_at.is_some());
        let mut health = Self { damaged, healed, ..Self::default() };
        let aside = format!("{}/{}/", layout::quarantine(), layout::packs());
        for name in shelf.list(&layout::quarantine())? {
            let count = if name.as_str().starts_with(&aside) {
                &mut health.packs_set_aside
            } else {
                &mut health.files_set_aside
            };
            *count += 1;
        }
        let state = ScrubState::load(shelf)?;
        health.looked_at = state.looked_at;
        let packs: BTreeSet<PackId> = shelf.list(&layout::packs())?.iter().filter_map(layout::pack_id).collect();
        let doubts = doubts::load(shelf)?;
        let elsewhere = if doubts.is_empty() { HashSet::new() } else { doubts::elsewhere(shelf)? };
        let doubted = doubts.into_keys().filter(|pack| packs.contains(pack) || !elsewhere.contains(pack));
        (health.in_doubt, health.gone) = doubted.partition(|pack| packs.contains(pack));
        for pack in packs {
            health.packs += 1;
            match state.last(&pack) {
                None => health.packs_never_read += 1,
                Some(at) => health.oldest_read = Some(health.oldest_read.map_or(at, |oldest| oldest.min(at))),
            }
        }
        if health.packs_never_read > 0 {
            health.oldest_read = None;
        }
        Ok(health)
    }
}
