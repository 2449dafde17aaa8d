//! A disk that is full: nothing old is lost.

use crate::support::dice::Dice;
use crate::support::life::{Index, Life};
use crate::support::scratch::long;
use crate::support::simulated_disk::{End, Faults};
use lan_backup::store::Error;

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
