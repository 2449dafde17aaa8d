//! Power cuts on a simulated disk: what was acknowledged is there afterwards, whatever the disk had kept back.

use crate::support::dice::Dice;
use crate::support::figures::figure;
use crate::support::life::{Index, Life};
use crate::support::scratch::long;
use crate::support::simulated_disk::{End, Faults};

/// Calls of the disk in a life of a few snapshots; the end comes in any of them.
const CALLS: u64 = 400;

fn index(dice: &mut Dice) -> Index {
    [Index::Kept, Index::Lost, Index::Old][dice.below(3) as usize]
}

/// Up to three processes one after the other, each of which dies or loses its power in the middle of something, recovery included.
/// How many snapshots were promised, how many packs were thrown away and deleted, or what was lost.
fn live_and_die(seed: u64, faults: Faults) -> Result<[u64; 3], String> {
    let mut dice = Dice::new(seed ^ 0xcafe);
    let mut life = Life::new(seed, Faults { end_in: Some(1 + dice.below(CALLS)), ..faults });
    for round in 0..=dice.below(2) {
        life.live(6);
        let end = if dice.below(4) == 0 { End::Killed } else { End::PowerCut };
        life.end(end, index(&mut dice));
        let report = life.check().map_err(|lost| format!("seed {seed}, round {round}: {lost}"))?;
        if end == End::PowerCut {
            // What was saved once is durable now.
            life.end(End::PowerCut, index(&mut dice));
            life.check().map_err(|lost| format!("seed {seed}, round {round}, again after {report}: {lost}"))?;
        }
        life.disk.set_faults(Faults { end_in: Some(1 + dice.below(CALLS)), ..faults });
    }
    Ok([life.promised() as u64, life.pruned.0, life.pruned.1])
}

#[test]
fn no_power_cut_loses_what_was_acknowledged() {
    let (mut promised, mut thrown_away, mut deleted) = (0, 0, 0);
    let seeds = if long() { 5000 } else { 500 };
    for seed in 0..seeds {
        let [snapshots, trashed, gone] = live_and_die(seed, Faults::default()).unwrap();
        (promised, thrown_away, deleted) = (promised + snapshots, thrown_away + trashed, deleted + gone);
    }
    assert!(promised > 2 * seeds, "only {promised} snapshots were ever promised");
    assert!(
        thrown_away > seeds / 8 && deleted > seeds / 40,
        "only {thrown_away} packs were thrown away, and {deleted} deleted"
    );
    figure(&format!(
        "row 1: {seeds} seeds, {promised} snapshots promised, {thrown_away} packs thrown away and {deleted} deleted, nothing lost"
    ));
}

/// The protection is the syncs, and nothing else.
#[test]
fn without_the_folders_sync_or_the_files_a_power_cut_loses_what_was_acknowledged() {
    let folders = Faults { folder_syncs_lie: true, ..Faults::default() };
    let files = Faults { file_syncs_lie: true, ..Faults::default() };
    for faults in [folders, files] {
        let lost = (0..50).filter(|seed| live_and_die(*seed, faults).is_err()).count();
        assert!(lost >= 10, "{faults:?} lost something in {lost} of 50 lives only");
    }
}
