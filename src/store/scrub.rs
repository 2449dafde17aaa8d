//! The scrub: which pack is read next to see whether the disk still holds what was written, and when. Bit rot that is found while
//! the source still has the file costs nothing; found at the restore it costs the file.
//!
//! The rule is pure and takes `now`: the pack that was read longest ago comes first, those that were never read before all others,
//! and none sooner than a period after the last time. What was read when is kept in one small sealed object; losing it costs a
//! round of reading and nothing else.

use crate::model::PackId;
use crate::store::error::{Error, Result};
use crate::store::layout::{self, FORMAT};
use crate::store::sealed::{seal, unseal};
use crate::store::shelf::Shelf;
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Each pack is read about this often.
pub const PERIOD: SignedDuration = SignedDuration::from_hours(30 * 24);
/// Lists, records and the presence of what they name are looked at about this often: no content is read for that.
pub const LOOK_PERIOD: SignedDuration = SignedDuration::from_hours(24);

/// When what was looked at.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ScrubState {
    /// [`FORMAT`].
    format: u32,
    /// When everything but the content of packs was looked at last.
    #[serde(default)]
    pub looked_at: Option<Timestamp>,
    /// When each pack was read and found whole, in seconds since 1970: packs that are not here never were.
    #[serde(default)]
    packs: BTreeMap<PackId, i64>,
}

/// What to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Read this pack now.
    Pack(PackId),
    /// Nothing before then.
    At(Timestamp),
}

impl ScrubState {
    /// What is kept on the shelf; an empty state when there is none or it is damaged.
    pub fn load(shelf: &dyn Shelf) -> Result<Self> {
        let state = Self::read(shelf)?;
        if state.is_none() {
            tracing::warn!("what the scrub has read is not known any more; it begins anew");
        }
        Ok(state.unwrap_or_default())
    }

    /// The same; `None` when it is damaged.
    pub(crate) fn read(shelf: &dyn Shelf) -> Result<Option<Self>> {
        let bytes = match shelf.get(&layout::scrub()) {
            Err(error) if error.is_not_found() => return Ok(Some(Self::default())),
            Err(error) if error.is_bad_medium() => return Ok(None),
            other => other?,
        };
        let state = unseal(&bytes).ok().and_then(|json| serde_json::from_str::<Self>(json).ok());
        Ok(state.filter(|state| state.format <= FORMAT))
    }

    /// Keeps it.
    pub fn save(&self, shelf: &dyn Shelf) -> Result<()> {
        let state = Self { format: FORMAT, ..self.clone() };
        let json = serde_json::to_string(&state).map_err(|error| Error::Refused(error.to_string()))?;
        Ok(shelf.put(&layout::scrub(), seal(&json).as_bytes())?)
    }

    /// A pack was read and is whole.
    pub fn passed(&mut self, pack: PackId, now: Timestamp) {
        self.packs.insert(pack, now.as_second());
    }

    /// Whether a pack is whole is not known any more.
    pub fn doubt(&mut self, pack: &PackId) {
        self.packs.remove(pack);
    }

    /// When a pack was found whole last.
    pub fn last(&self, pack: &PackId) -> Option<Timestamp> {
        Timestamp::from_second(*self.packs.get(pack)?).ok()
    }

    /// Forgets packs that are not there any more.
    pub fn keep_only(&mut self, there: &std::collections::BTreeSet<PackId>) {
        self.packs.retain(|pack, _| there.contains(pack));
    }

    /// Whether a pack was found whole within `period` before `now`. A time to come is the mistake of a clock, and none.
    pub fn is_fresh(&self, pack: &PackId, now: Timestamp, period: SignedDuration) -> bool {
        self.last(pack).is_some_and(|at| at <= now && now.duration_since(at) < period)
    }

    /// What to read at `now`, of these packs; `None` when there are none.
    pub fn next<'a>(&self, packs: impl IntoIterator<Item = &'a PackId>, now: Timestamp) -> Option<Next> {
        // A time to come counts as never.
        let read = |pack: &PackId| self.last(pack).filter(|at| *at <= now);
        let (at, pack) = packs.into_iter().map(|pack| (read(pack), *pack)).min()?;
        Some(match at.map(|at| at.saturating_add(PERIOD).unwrap_or(Timestamp::MAX)) {
            Some(due) if due > now => Next::At(due),
            _ => Next::Pack(pack),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pack(n: u8) -> PackId {
        PackId::from_bytes([n; 32])
    }

    fn at(day: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + day * 86_400).unwrap()
    }

    #[test]
    fn what_was_never_read_comes_first_then_what_was_read_longest_ago_and_nothing_too_soon() {
        let packs = [pack(1), pack(2), pack(3)];
        let mut state = ScrubState::default();
        assert_eq!(state.next(&[], at(0)), None);
        state.passed(pack(1), at(0));
        state.passed(pack(3), at(5));
        assert_eq!(state.next(&packs, at(5)), Some(Next::Pack(pack(2))));
        state.passed(pack(2), at(6));
        assert_eq!(state.next(&packs, at(6)), Some(Next::At(at(30))));
        assert_eq!(state.next(&packs, at(30)), Some(Next::Pack(pack(1))));
        state.passed(pack(1), at(30));
        assert_eq!(state.next(&packs, at(36)), Some(Next::Pack(pack(3))));
    }

    #[test]
    fn a_clock_that_was_ahead_delays_nothing() {
        let mut state = ScrubState::default();
        state.passed(pack(1), at(5000));
        assert_eq!(state.next(&[pack(1)], at(0)), Some(Next::Pack(pack(1))));
        assert!(!state.is_fresh(&pack(1), at(0), PERIOD));
        state.passed(pack(1), at(0));
        assert!(state.is_fresh(&pack(1), at(29), PERIOD) && !state.is_fresh(&pack(1), at(30), PERIOD));
    }

    #[test]
    fn the_state_survives_and_damage_to_it_costs_a_round_of_reading() {
        let folder = tempfile::tempdir().unwrap();
        let (shelf, _) = crate::store::FolderShelf::open(folder.path()).unwrap();
        assert_eq!(ScrubState::load(&shelf).unwrap(), ScrubState::default());
        let mut state = ScrubState::default();
        state.passed(pack(1), at(1));
        state.passed(pack(2), at(2));
        state.keep_only(&[pack(1)].into());
        state.looked_at = Some(at(3));
        state.save(&shelf).unwrap();
        let loaded = ScrubState::load(&shelf).unwrap();
        assert_eq!((loaded.last(&pack(1)), loaded.last(&pack(2)), loaded.looked_at), (Some(at(1)), None, Some(at(3))));
        let mut bytes = shelf.get(&layout::scrub()).unwrap();
        bytes[20] ^= 1;
        shelf.put(&layout::scrub(), &bytes).unwrap();
        assert_eq!(ScrubState::load(&shelf).unwrap(), ScrubState::default());
    }
}
