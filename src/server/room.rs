//! Whether there is room: the device's quota, and what must stay free on the disk. Full means that the new is refused; nothing
//! old is ever touched.
//!
//! What is on its way counts as if it were there: otherwise many calls at once would each find room for itself, and take it all.

use crate::model::Fingerprint;
use crate::server::api_error::ApiError;
use crate::server::state::Shared;
use crate::store::Repository;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Bytes on their way to the disk, by who sends them.
#[derive(Debug, Default)]
pub(crate) struct OnTheWay(Mutex<HashMap<Fingerprint, u64>>);

impl OnTheWay {
    /// Whether nothing is.
    #[cfg(test)]
    pub(crate) fn is_empty(&self) -> bool {
        self.table().is_empty()
    }

    fn table(&self) -> MutexGuard<'_, HashMap<Fingerprint, u64>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Room that a call was given; free again when it is dropped, since by then what came counts as stored.
#[derive(Debug)]
pub(crate) struct Claim {
    of: Arc<OnTheWay>,
    device: Fingerprint,
    bytes: u64,
}

impl Claim {
    /// So many bytes of it have come, and count where they are now.
    pub(crate) fn arrived(&mut self, bytes: u64) {
        let bytes = bytes.min(self.bytes);
        self.bytes -= bytes;
        let mut table = self.of.table();
        if let Some(on_the_way) = table.get_mut(&self.device) {
            *on_the_way = on_the_way.saturating_sub(bytes);
            if *on_the_way == 0 {
                table.remove(&self.device);
            }
        }
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.arrived(self.bytes);
    }
}

/// Refuses when `more` bytes that `device` sends for this repository would not fit, beside all that is on its way; else they
/// count until the claim is dropped. Blocking.
pub(crate) fn claim(
    shared: &Arc<Shared>,
    repository: &Repository,
    device: Fingerprint,
    more: u64,
) -> Result<Claim, ApiError> {
    claim_first(&shared.on_the_way, device, more, |own, all| check_beside(shared, Some(repository), more, own, all))
}

/// Claims, and takes the claim back when `check`, which hears what was on its way before, refuses.
///
/// Not the other way round: a check may have to build an index anew, which takes minutes, and nothing could arrive meanwhile if it held
/// the table. What arrives while it looks is counted twice, never not at all.
fn claim_first(
    of: &Arc<OnTheWay>,
    device: Fingerprint,
    more: u64,
    check: impl FnOnce(u64, u64) -> Result<(), ApiError>,
) -> Result<Claim, ApiError> {
    let (own, all, claim) = {
        let mut table = of.table();
        let own = table.get(&device).copied().unwrap_or(0);
        let all = table.values().fold(0_u64, |sum, bytes| sum.saturating_add(*bytes));
        table.insert(device, own.saturating_add(more));
        (own, all, Claim { of: of.clone(), device, bytes: more })
    };
    check(own, all)?;
    Ok(claim)
}

/// The same for a disk beside the store, of which `free` bytes are free, and which has no quota.
pub(crate) fn claim_on_disk(
    of: &Arc<OnTheWay>,
    free: u64,
    reserve: u64,
    device: Fingerprint,
    more: u64,
) -> Result<Claim, ApiError> {
    let mut table = of.table();
    let all = table.values().fold(0_u64, |sum, bytes| sum.saturating_add(*bytes));
    if free < reserve.saturating_add(more).saturating_add(all) {
        return Err(ApiError::full("the receiving device has too little free space for all of these files"));
    }
    let own = table.get(&device).copied().unwrap_or(0);
    table.insert(device, own.saturating_add(more));
    Ok(Claim { of: of.clone(), device, bytes: more })
}

/// Refuses when `more` bytes for this repository would not fit. Blocking.
pub(crate) fn check(shared: &Shared, repository: Option<&Repository>, more: u64) -> Result<(), ApiError> {
    check_beside(shared, repository, more, 0, 0)
}

/// The same beside what this device, and what all of them, have on the way.
fn check_beside(
    shared: &Shared,
    repository: Option<&Repository>,
    more: u64,
    own: u64,
    all: u64,
) -> Result<(), ApiError> {
    let free = shared.store()?.free_bytes()?;
    if free < shared.reserve_bytes.saturating_add(more).saturating_add(all) {
        let message =
            format!("the receiving device has {} free and keeps {} in reserve", size(free), size(shared.reserve_bytes));
        return Err(ApiError::full(message));
    }
    let Some(quota) = shared.quota else { return Ok(()) };
    let stored = match repository {
        None => 0,
        // Whoever brings copies has one quota for all of them.
        Some(repository) if repository.copied_from().is_some() => {
            let mut copies = shared.store()?.repositories();
            copies.retain(|copy| copy.copied_from() == repository.copied_from());
            copies.iter().map(|copy| bytes_of(copy)).sum::<Result<u64, _>>()?
        }
        Some(repository) => bytes_of(repository)?,
    };
    if stored.saturating_add(own).saturating_add(more) > quota {
        let message = format!("this device's quota of {} is used up: {} are stored", size(quota), size(stored));
        return Err(ApiError::full(message));
    }
    Ok(())
}

/// Packs, and records: those are small, but there may be any number of them.
fn bytes_of(repository: &Repository) -> Result<u64, ApiError> {
    Ok(repository.stored_bytes()?.saturating_add(repository.record_bytes()?))
}

/// A number of bytes as people read it.
fn size(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["bytes", "KiB", "MiB", "GiB", "TiB"];
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit < UNITS.len() - 1 {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 { format!("{bytes} bytes") } else { format!("{value:.1} {}", UNITS[unit]) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_on_its_way_to_a_disk_counts_until_it_has_come() {
        let (of, device) = (Arc::<OnTheWay>::default(), Fingerprint::from_bytes([1; 32]));
        let other = Fingerprint::from_bytes([2; 32]);
        let claim = |device, free, more| claim_on_disk(&of, free, 10, device, more);
        let mut first = claim(device, 100, 60).unwrap();
        assert!(claim(other, 100, 60).is_err(), "it is another sender's, and the same disk");
        let second = claim(device, 100, 30).unwrap();
        first.arrived(50);
        assert!(claim(other, 50, 1).is_err());
        drop(second);
        assert!(claim(other, 50, 30).is_ok());
        first.arrived(1000);
        drop(first);
        assert!(of.table().is_empty());
    }

    #[test]
    fn what_is_checked_counts_already_and_holds_up_nobody() {
        let (of, device) = (Arc::<OnTheWay>::default(), Fingerprint::from_bytes([1; 32]));
        let mut first = claim_first(&of, device, 60, |_, _| Ok(())).unwrap();
        let second = claim_first(&of, device, 30, |own, all| {
            assert_eq!((own, all), (60, 60));
            // Others go on meanwhile, and count this one.
            assert!(of.0.try_lock().is_ok(), "the table is held while the index is asked");
            first.arrived(60);
            let counted = |own: u64, _| if own == 30 { Ok(()) } else { Err(ApiError::full("it counts")) };
            assert!(claim_first(&of, device, 1, counted).is_ok());
            Err(ApiError::full("no"))
        });
        assert!(second.is_err());
        drop((first, second));
        assert!(of.is_empty(), "what was refused is not on its way");
    }

    #[test]
    fn sizes_are_short() {
        for (bytes, text) in [(0, "0 bytes"), (1023, "1023 bytes"), (1536, "1.5 KiB"), (5 << 30, "5.0 GiB")] {
            assert_eq!(size(bytes), text);
        }
    }
}
