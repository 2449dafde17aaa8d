//! Snapshots of which nobody knows any more what they need: they stop throwing away until they are back, or a person lets them go.

use crate::bit_rot::look;
use crate::prune::{back_up, chunks, id, prune, store_now};
use crate::store_support::{Made, OWNER, assert_whole, files, receiver_key};
use jiff::SignedDuration;
use lan_backup::model::Keep;
use lan_backup::store::prune::Obstacle;
use lan_backup::store::verify::Share;
use lan_backup::store::{Error, Store};
use std::path::Path;
use std::time::Duration;

const DAY: Duration = Duration::from_hours(24);

/// Nobody can read this record any more.
fn tear(record: &Path) {
    let mut bytes = std::fs::read(record).unwrap();
    bytes[100..200].fill(0);
    std::fs::write(record, bytes).unwrap();
}

#[test]
fn what_a_person_gave_up_is_no_damage_any_more_and_that_ends_when_it_is_here_again() {
    let folder = tempfile::tempdir().unwrap();
    let (store, repository, clock) = store_now(folder.path());
    back_up(&repository, "documents", chunks(1, 40));
    let new = back_up(&repository, "documents", chunks(2, 40));
    clock.advance(8 * DAY);
    let record = files(folder.path()).into_iter().find(|path| path.to_string_lossy().contains("/0000000002-")).unwrap();
    tear(&record);
    drop((store, repository));
    let (store, _) = Store::open_or_create(folder.path(), clock.clone(), receiver_key()).unwrap();
    let repository = store.owned_by(&OWNER).unwrap();
    assert_eq!(repository.set_damaged_records_aside().unwrap(), 1);
    assert_eq!(look(&store, Share::None).snapshots.len(), 1);
    assert!(!repository.health().unwrap().is_well());
    let [lost] = &repository.can_be_given_up(&id(&new).to_string()[..8]).unwrap()[..] else { panic!("one is lost") };
    repository.give_up(lost, SignedDuration::ZERO).unwrap();
    assert!(repository.health().unwrap().is_well());
    assert!(look(&store, Share::None).is_clean() && repository.health().unwrap().healed.is_empty());
    // Its source brings it once more, and it is damaged once more: a person is asked once more.
    new.put(&repository);
    repository.commit(&new.signed(), OWNER).unwrap();
    tear(&record);
    drop((store, repository));
    let (store, _) = Store::open_or_create(folder.path(), clock, receiver_key()).unwrap();
    let repository = store.owned_by(&OWNER).unwrap();
    assert_eq!(repository.set_damaged_records_aside().unwrap(), 1);
    let report = prune(&repository, &Keep::default());
    assert!(matches!(report.obstacle, Some(Obstacle::SetAside { .. })), "{:?}", report.obstacle);
    assert_eq!(report.thrown_away.packs, 0);
}

#[test]
fn a_snapshot_whose_lists_are_damaged_stops_throwing_away_until_a_person_lets_it_go() {
    let folder = tempfile::tempdir().unwrap();
    let (store, repository, clock) = store_now(folder.path());
    let old = back_up(&repository, "documents", chunks(1, 40));
    let lists = files(folder.path()).into_iter().filter(|path| path.to_string_lossy().contains("/packs/"));
    // The ids take less room than what they stand for.
    let lists = lists.min_by_key(|path| std::fs::metadata(path).unwrap().len()).unwrap();
    let new = back_up(&repository, "documents", chunks(2, 40));
    clock.advance(8 * DAY);
    let length = std::fs::metadata(&lists).unwrap().len();
    for part in 1..200 {
        crate::bit_rot::flip(&lists, length * 8 / 201 * part);
    }
    let obstacle = prune(&repository, &Keep::default()).obstacle.unwrap();
    let hint = obstacle.hint().unwrap();
    assert!(matches!(obstacle, Obstacle::Snapshot { newest: false, .. }), "{obstacle:?}");
    assert!(hint.contains(&format!("prune --give-up {}", id(&old).short())) && !hint.contains("next backup"), "{hint}");
    // Only what nobody can read can be let go.
    assert_eq!(repository.can_be_given_up(&id(&new).to_string()).unwrap(), []);
    let [lost] = &repository.can_be_given_up(&id(&old).to_string()[..8]).unwrap()[..] else { panic!("one is lost") };
    assert!(lost.by_lists);
    repository.give_up(lost, SignedDuration::from_hours(7 * 24)).unwrap();
    assert_eq!(prune(&repository, &Keep::default()).obstacle, None);
    assert_eq!(look(&store, Share::None).snapshots, []);
    assert_whole(&repository, &new);
}

#[test]
fn a_record_that_is_gone_is_told_by_its_number_and_the_one_behind_it_is_blamed_for_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let (store, repository, _clock) = store_now(folder.path());
    let made: Vec<_> = (1..4).map(|n| back_up(&repository, "documents", chunks(n, 10))).collect();
    let record = files(folder.path()).into_iter().find(|path| path.to_string_lossy().contains("/0000000002-")).unwrap();
    let whole = std::fs::read(&record).unwrap();
    std::fs::remove_file(&record).unwrap();
    let found = look(&store, Share::None);
    let [file] = &found.files[..] else { panic!("{found:#?}") };
    assert!(record.ends_with(&file.path) && !file.repairable, "{file:?}");
    assert!(file.problem.starts_with("number 2 of `documents` is missing (removed or lost)"), "{file:?}");
    let [hit] = &found.snapshots[..] else { panic!("{found:#?}") };
    assert_eq!((hit.snapshot, hit.sequence, hit.record_lost, hit.newest), (id(&made[1]), 2, true, false));
    assert_eq!(repository.health().unwrap().damaged.len(), 1);
    std::fs::write(&record, whole).unwrap();
    assert!(look(&store, Share::None).is_clean());
    assert_eq!(repository.health().unwrap().healed.len(), 1);
    // Gone for good, a person lets it go.
    std::fs::remove_file(&record).unwrap();
    drop((store, repository));
    let (store, _) = Store::open_or_create(folder.path(), crate::store_support::clock(), receiver_key()).unwrap();
    let repository = store.owned_by(&OWNER).unwrap();
    let [lost] = &repository.can_be_given_up(&id(&made[1]).to_string()[..8]).unwrap()[..] else {
        panic!("one is gone")
    };
    repository.give_up(lost, SignedDuration::ZERO).unwrap();
    assert!(look(&store, Share::None).is_clean() && repository.health().unwrap().is_well());
}

#[test]
fn what_lies_damaged_in_the_trash_is_not_put_back_for_a_commit_but_asked_for_again() {
    let folder = tempfile::tempdir().unwrap();
    let (store, repository, clock) = store_now(folder.path());
    let made = Made::new(&repository, "documents", chunks(1, 40));
    made.put(&repository);
    repository.sync().unwrap();
    clock.advance(8 * DAY);
    assert_eq!(prune(&repository, &Keep::default()).thrown_away.packs, 2);
    let trashed = files(folder.path()).into_iter().filter(|path| path.to_string_lossy().contains("/trash/"));
    let trashed = trashed.max_by_key(|path| std::fs::metadata(path).unwrap().len()).unwrap();
    crate::bit_rot::flip(&trashed, std::fs::metadata(&trashed).unwrap().len() * 4);
    let missing = repository.commit(&made.signed(), OWNER).unwrap_err();
    assert!(matches!(&missing, Error::Missing(ids) if ids.len() == 40), "{missing:?}");
    made.put(&repository);
    repository.commit(&made.signed(), OWNER).unwrap();
    assert_whole(&repository, &made);
    assert!(look(&store, Share::All).is_clean());
}
