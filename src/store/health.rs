//! What is known about the health of a repository without looking at it anew: marks, what was set aside, when it was read last.

use crate::model::Mark;
use crate::store::error::Result;
use crate::store::layout;
use crate::store::marks;
use crate::store::scrub::ScrubState;
use crate::store::shelf::Shelf;
use jiff::Timestamp;

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
    pub(crate) fn load(shelf: &dyn Shelf) -> Result<Self> {
        let (healed, damaged) = marks::load(shelf)?.into_iter().partition(|mark: &Mark| mark.healed_at.is_some());
        let mut health = Self { damaged, healed, ..Self::default() };
        let packs = format!("{}/{}/", layout::quarantine(), layout::packs());
        for name in shelf.list(&layout::quarantine())? {
            let count = if name.as_str().starts_with(&packs) {
                &mut health.packs_set_aside
            } else {
                &mut health.files_set_aside
            };
            *count += 1;
        }
        let state = ScrubState::load(shelf)?;
        health.looked_at = state.looked_at;
        for pack in shelf.list(&layout::packs())?.iter().filter_map(layout::pack_id) {
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
