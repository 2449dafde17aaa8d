//! A disk that fails and a disk that is full: nothing is acknowledged that is not safe, and nothing old is lost.

use crate::support::dice::Dice;
use crate::support::life::{Index, Life};
use crate::support::scratch::long;
use crate::support::simulated_disk::{End, Faults};
use lan_backup::store::Error;

/// Three processes on a disk that fails now and then, with the power gone after each: what a failed sync has dropped is lost only
/// then. How many snapshots were promised and how many calls failed, or what was lost.
fn live_on(faults: Faults, seed: u64) -> Result<(usize, u64), String> {
    let mut life = Life::new(seed, faults);
    let mut failed = 0;
    for round in 0..3 {
        life.live(8);
        failed += life.disk.calls().1;
        life.end(End::PowerCut, if round == 1 { Index::Lost } else { Index::Kept });
        life.check().map_err(|lost| format!("seed {seed}, round {round}: {lost}"))?;
        life.disk.set_faults(faults);
    }
    Ok((life.promised(), failed))
}

#[test]
fn a_disk_that_fails_in_one_call_of_a_hundred_costs_no_acknowledged_snapshot() {
    let (mut promised, mut failed) = (0, 0);
    let seeds = if long() { 500 } else { 50 };
    for seed in 0..seeds {
        let (more, failures) = live_on(Faults { errors_per_mille: 10, ..Faults::default() }, seed).unwrap();
        (promised, failed) = (promised + more, failed + failures);
    }
    assert!(promised as u64 > 5 * seeds && failed > 5 * seeds, "{promised} promised, {failed} calls failed");
}

/// The protection is that a failed sync is believed.
#[test]
fn a_failed_sync_that_is_taken_for_a_good_one_costs_acknowledged_snapshots() {
    let faults = Faults { errors_per_mille: 10, failed_syncs_lie: true, ..Faults::default() };
    let lost = (0..20).filter(|seed| live_on(faults, *seed).is_err()).count();
    assert!(lost >= 5, "something was lost in {lost} of 20 lives only");
}

#[test]
fn a_disk_that_runs_full_at_any_byte_keeps_the_old_and_takes_more_when_there_is_room() {
    let mut full = 0;
    for seed in 0..if long() { 200 } else { 40 } {
        let mut life = Life::new(seed, Faults::default());
        let before = life.live(3);
        assert!(before.errors.is_empty(), "{:?}", before.errors);
        let capacity = life.disk.used() + Dice::new(seed).below(30_000);
        life.disk.set_faults(Faults { capacity: Some(capacity), ..Faults::default() });
        let during = life.live(8);
        assert!(during.report.is_harmless(), "{}", during.report);
        for error in &during.errors {
            assert!(error.is_full() || matches!(error, Error::Missing(_)), "seed {seed}: {error:?}");
        }
        full += u64::from(!during.errors.is_empty());
        life.check().unwrap_or_else(|lost| panic!("seed {seed}, full: {lost}"));
        life.end(End::PowerCut, Index::Kept);
        life.check().unwrap_or_else(|lost| panic!("seed {seed}, after the end: {lost}"));
        let after = life.live(3);
        assert!(after.errors.is_empty(), "seed {seed}: {:?}", after.errors);
        life.check().unwrap_or_else(|lost| panic!("seed {seed}, with room again: {lost}"));
    }
    assert!(full > 20, "only {full} disks ran full");
}
