//! Forgetting and throwing away, against a real store with a clock that tests move.

use crate::store_support::{Made, OWNER, assert_whole, files, noise, put, read, receiver_key, source_key};
use bytes::Bytes;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use lan_backup::codec;
use lan_backup::model::{Alias, Keep, SetName, SnapshotId};
use lan_backup::platform::clock::ManualClock;
use lan_backup::signer::snapshot_id;
use lan_backup::store::prune::{Prune, PruneOptions, PruneReport, Purpose};
use lan_backup::store::{Error, Repository, Store};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

const DAY: Duration = Duration::from_hours(24);

/// A store whose clock begins now, as the times of its files do.
pub(crate) fn store_now(folder: &Path) -> (Store, Arc<Repository>, Arc<ManualClock>) {
    let clock = Arc::new(ManualClock::new(Timestamp::now()));
    let (store, _) = Store::open_or_create(folder, clock.clone(), receiver_key()).unwrap();
    let repository = store.create_repository(OWNER, &source_key().public(), Alias::new("laptop")).unwrap();
    (store, repository, clock)
}

pub(crate) fn options() -> PruneOptions {
    PruneOptions { zone: TimeZone::UTC, trash: SignedDuration::from_hours(24 * 7) }
}

fn last(count: u32) -> Keep {
    Keep { last: count, ..Keep::default() }
}

pub(crate) fn prune(repository: &Repository, keep: &Keep) -> PruneReport {
    let rules = |_: &SetName| Some(keep.clone());
    Prune::prepare(repository, &rules, &options(), Purpose::Run, &|| false).unwrap().run().unwrap()
}

pub(crate) fn chunks(seed: u64, count: u64) -> Vec<Bytes> {
    (0..count).map(|n| noise(seed * 1000 + n, 3000 + n as usize)).collect()
}

pub(crate) fn back_up(repository: &Repository, set: &str, files: Vec<Bytes>) -> Made {
    let made = Made::new(repository, set, files);
    for chunks in [&made.files, &made.streams] {
        put_missing(repository, chunks);
    }
    repository.commit(&made.signed(), OWNER).unwrap();
    made
}

/// Puts what is not there, as a source does.
pub(crate) fn put_missing(repository: &Repository, chunks: &[Bytes]) {
    let ids: Vec<_> = chunks.iter().map(|bytes| codec::chunk_id(bytes)).collect();
    let missing = repository.missing(&ids).unwrap();
    let chunks: Vec<_> = chunks.iter().filter(|bytes| missing.contains(&codec::chunk_id(bytes))).cloned().collect();
    put(repository, &chunks).unwrap();
}

pub(crate) fn id(made: &Made) -> SnapshotId {
    snapshot_id(&made.signed())
}

fn present(repository: &Repository) -> Vec<SnapshotId> {
    let all = repository.snapshots().unwrap();
    all.iter().filter(|info| info.forgotten.is_none()).map(|info| info.id).collect()
}

pub(crate) fn count(folder: &Path, part: &str) -> usize {
    files(folder).iter().filter(|path| path.to_string_lossy().contains(part)).count()
}

#[test]
fn what_the_rules_do_not_want_is_forgotten_then_thrown_away_then_deleted_and_the_chain_stays() {
    let folder = tempfile::tempdir().unwrap();
    let (store, repository, clock) = store_now(folder.path());
    let old = back_up(&repository, "documents", chunks(1, 40));
    let shared = chunks(2, 40);
    let middle = back_up(&repository, "documents", shared.clone());
    let new = back_up(&repository, "documents", [shared, chunks(3, 5)].concat());
    let stored = repository.stored_bytes().unwrap();

    // A week has not gone by: the floor holds.
    assert!(prune(&repository, &last(1)).forgotten.is_empty());
    clock.advance(8 * DAY);
    let rules = |_: &SetName| Some(last(1));
    let shown = Prune::prepare(&repository, &rules, &options(), Purpose::Show, &|| false).unwrap();
    assert_eq!((shown.plan.sets[0].unwanted().count(), shown.plan.later.packs, shown.plan.dead.packs), (2, 2, 0));
    assert_eq!(present(&repository).len(), 3, "a plan changes nothing");

    let report = prune(&repository, &last(1));
    assert_eq!(report.forgotten.iter().map(|(_, id)| *id).collect::<Vec<_>>(), [id(&old), id(&middle)]);
    assert_eq!(present(&repository), [id(&new)]);
    assert_eq!((report.thrown_away.packs, report.obstacle), (0, None), "for a week it can be brought back");
    for made in [&old, &middle, &new] {
        assert_whole_whatever_its_mark(&repository, made);
    }
    assert_eq!(repository.snapshots().unwrap().len(), 3, "records stay for ever");

    clock.advance(8 * DAY);
    let report = prune(&repository, &last(1));
    // The files and the streams of the first; the streams of the second are shared with the third.
    assert_eq!((report.forgotten.len(), report.thrown_away.packs), (0, 2));
    assert!(repository.stored_bytes().unwrap() < stored - 100_000);
    assert_eq!(count(folder.path(), "/trash/"), 2);
    assert_whole(&repository, &new);

    // They lie in the trash for a day.
    assert_eq!(prune(&repository, &last(1)).waiting.packs, 2);
    clock.advance(DAY);
    let report = prune(&repository, &last(1));
    assert_eq!((report.deleted.packs, report.waiting.packs), (2, 0));
    assert_eq!(count(folder.path(), "/trash/"), 0);
    assert_whole(&repository, &new);
    drop((store, repository));

    let (_, report) = Store::open_or_create(folder.path(), clock.clone(), receiver_key()).unwrap();
    assert_eq!(report.to_string(), "", "nothing is said to have vanished");
    let (_store, repository, _) = store_now(folder.path());
    let all = repository.snapshots().unwrap();
    assert_eq!(all.iter().map(|info| info.forgotten.is_some()).collect::<Vec<_>>(), [true, true, false]);
    assert_eq!(all[0].forgotten.as_ref().unwrap().rule, "last 1");
    assert!(matches!(repository.bring_back(&id(&old)), Err(Error::Gone { .. })));
}

fn assert_whole_whatever_its_mark(repository: &Repository, made: &Made) {
    let all: Vec<_> = made.files.iter().chain(&made.streams).map(|bytes| codec::chunk_id(bytes)).collect();
    let found = read(repository, &all).unwrap();
    assert!(all.iter().all(|id| found.contains_key(id)));
}

#[test]
fn without_rules_nothing_is_ever_forgotten() {
    let folder = tempfile::tempdir().unwrap();
    let (_store, repository, clock) = store_now(folder.path());
    let made: Vec<_> = (0..3).map(|n| back_up(&repository, "documents", chunks(n, 5))).collect();
    clock.advance(5000 * DAY);
    for keep in [Keep::default(), Keep { all: true, last: 1, ..Keep::default() }] {
        let report = prune(&repository, &keep);
        assert_eq!((report.forgotten.len(), report.thrown_away.packs), (0, 0));
    }
    for made in &made {
        assert_whole(&repository, made);
    }
}

#[test]
fn what_was_forgotten_can_be_brought_back_and_stays_then() {
    let folder = tempfile::tempdir().unwrap();
    let (_store, repository, clock) = store_now(folder.path());
    let old = back_up(&repository, "documents", chunks(1, 40));
    let new = back_up(&repository, "documents", chunks(2, 40));
    clock.advance(8 * DAY);
    prune(&repository, &last(1));
    clock.advance(6 * DAY);
    assert_eq!(prune(&repository, &last(1)).thrown_away.packs, 0);
    repository.bring_back(&id(&old)).unwrap();
    assert!(matches!(repository.bring_back(&id(&old)), Err(Error::Refused(_))));
    assert_eq!(present(&repository), [id(&old), id(&new)]);
    for _ in 0..8 {
        clock.advance(10 * DAY);
        let report = prune(&repository, &last(1));
        assert_eq!((report.forgotten.len(), report.thrown_away.packs), (0, 0));
    }
    assert_whole(&repository, &old);
    clock.advance(20 * DAY);
    assert_eq!(prune(&repository, &last(1)).forgotten.len(), 1);
}

#[test]
fn what_is_forgotten_comes_back_from_the_trash_too() {
    let folder = tempfile::tempdir().unwrap();
    let (_store, repository, clock) = store_now(folder.path());
    let old = back_up(&repository, "documents", chunks(1, 40));
    back_up(&repository, "documents", chunks(2, 40));
    clock.advance(8 * DAY);
    prune(&repository, &last(1));
    clock.advance(8 * DAY);
    assert_eq!(prune(&repository, &last(1)).thrown_away.packs, 2);
    repository.bring_back(&id(&old)).unwrap();
    assert_whole(&repository, &old);
    clock.advance(3 * DAY);
    assert_eq!(prune(&repository, &last(1)).deleted.packs, 0);
    assert_whole(&repository, &old);
}

#[test]
fn packs_with_much_dead_weight_are_written_anew_and_little_is_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let (_store, repository, clock) = store_now(folder.path());
    // One pack of 60 chunks of which 20 stay, and one of which 50 stay.
    let (heavy, light) = (chunks(1, 60), chunks(2, 60));
    put(&repository, &heavy).unwrap();
    put(&repository, &light).unwrap();
    back_up(&repository, "documents", [heavy.clone(), light.clone()].concat());
    let some: Vec<Bytes> = heavy.iter().skip(1).step_by(3).cloned().collect();
    let new = back_up(&repository, "documents", [some, light[10..].to_vec()].concat());
    clock.advance(8 * DAY);
    prune(&repository, &last(1));
    clock.advance(8 * DAY);
    let rules = |_: &SetName| Some(last(1));
    let shown = Prune::prepare(&repository, &rules, &options(), Purpose::Show, &|| false).unwrap();
    assert_eq!((shown.plan.heavy.packs, shown.plan.dead.packs), (1, 1));
    let before = repository.stored_bytes().unwrap();
    let report = prune(&repository, &last(1));
    assert_eq!((report.repacked.packs, report.thrown_away.packs), (1, 2));
    let freed = before - repository.stored_bytes().unwrap();
    assert!(freed > 110_000 && freed < 160_000, "{freed}");
    assert_whole(&repository, &new);
    // It is not heavy any more.
    clock.advance(30 * DAY);
    assert_eq!(prune(&repository, &last(1)).repacked.packs, 0);
    assert_whole(&repository, &new);
}

#[test]
fn what_a_backup_that_broke_off_has_left_goes_when_it_is_old() {
    let folder = tempfile::tempdir().unwrap();
    let (_store, repository, clock) = store_now(folder.path());
    let made = back_up(&repository, "documents", chunks(1, 10));
    put(&repository, &chunks(2, 40)).unwrap();
    repository.sync().unwrap();
    clock.advance(6 * DAY);
    assert_eq!(prune(&repository, &Keep::default()).thrown_away.packs, 0, "the next try finds it");
    clock.advance(2 * DAY);
    assert_eq!(prune(&repository, &Keep::default()).thrown_away.packs, 1);
    assert_whole(&repository, &made);
}

#[test]
fn a_backup_that_was_told_that_chunks_are_there_finds_them_in_the_trash() {
    let folder = tempfile::tempdir().unwrap();
    let (_store, repository, clock) = store_now(folder.path());
    back_up(&repository, "documents", chunks(1, 10));
    let left = chunks(2, 40);
    put(&repository, &left).unwrap();
    repository.sync().unwrap();
    clock.advance(8 * DAY);
    // Told that all is there, so it sends its lists only.
    let made = Made::new(&repository, "documents", left.clone());
    let ids: Vec<_> = left.iter().map(|bytes| codec::chunk_id(bytes)).collect();
    assert_eq!(repository.missing(&ids).unwrap(), []);
    assert_eq!(prune(&repository, &Keep::default()).thrown_away.packs, 1);
    assert_eq!(repository.missing(&ids).unwrap(), ids, "whoever asks now sends them");
    put(&repository, &made.streams).unwrap();
    repository.commit(&made.signed(), OWNER).unwrap();
    assert_whole(&repository, &made);
    clock.advance(3 * DAY);
    assert_eq!(prune(&repository, &Keep::default()).deleted.packs, 0);
    assert_whole(&repository, &made);
}

#[test]
fn a_copy_counts_only_when_it_was_read_and_is_right() {
    let folder = tempfile::tempdir().unwrap();
    let (_store, repository, clock) = store_now(folder.path());
    // One block of eight chunks, and the same eight once more with one beside them, so that the second pack is kept.
    let all = chunks(1, 8);
    put(&repository, &all).unwrap();
    repository.sync().unwrap();
    let first = files(folder.path()).into_iter().find(|path| path.to_string_lossy().contains("/packs/")).unwrap();
    put(&repository, &[all.clone(), chunks(2, 1)].concat()).unwrap();
    let made = back_up(&repository, "documents", [all, chunks(2, 1)].concat());
    let mut bytes = std::fs::read(&first).unwrap();
    bytes[10_000] ^= 1;
    std::fs::write(&first, bytes).unwrap();
    clock.advance(8 * DAY);
    for _ in 0..3 {
        clock.advance(2 * DAY);
        assert_eq!(prune(&repository, &Keep::default()).obstacle, None);
    }
    // Without the rotten one, everything is read from the other, or from what took its place.
    std::fs::remove_file(&first).unwrap();
    assert_whole(&repository, &made);
}

#[test]
fn two_copies_of_everything_become_one() {
    let folder = tempfile::tempdir().unwrap();
    let (_store, repository, clock) = store_now(folder.path());
    let all = chunks(1, 24);
    put(&repository, &all).unwrap();
    put(&repository, &[all.clone(), chunks(2, 1)].concat()).unwrap();
    let made = back_up(&repository, "documents", [all, chunks(2, 1)].concat());
    clock.advance(8 * DAY);
    let before = repository.stored_bytes().unwrap();
    prune(&repository, &Keep::default());
    assert!(repository.stored_bytes().unwrap() < before - 24 * 3000);
    assert_whole(&repository, &made);
    clock.advance(2 * DAY);
    prune(&repository, &Keep::default());
    assert_whole(&repository, &made);
}

#[test]
fn nothing_is_thrown_away_while_it_is_not_known_what_a_snapshot_needs() {
    let folder = tempfile::tempdir().unwrap();
    let (store, repository, clock) = store_now(folder.path());
    back_up(&repository, "documents", chunks(1, 40));
    let new = back_up(&repository, "documents", chunks(2, 40));
    put(&repository, &chunks(3, 40)).unwrap();
    repository.sync().unwrap();
    clock.advance(8 * DAY);
    let record = files(folder.path()).into_iter().find(|path| path.to_string_lossy().contains("/records/")).unwrap();
    let good = std::fs::read(&record).unwrap();
    std::fs::write(&record, &good[1..]).unwrap();
    drop((store, repository));
    let (store, _) = Store::open_or_create(folder.path(), clock.clone(), receiver_key()).unwrap();
    let repository = store.owned_by(&OWNER).unwrap();
    let report = prune(&repository, &Keep::default());
    assert_eq!(report.thrown_away.packs, 0);
    let told = report.obstacle.unwrap().to_string();
    assert!(told.contains("nothing was thrown away") && told.contains("records/"), "{told}");
    std::fs::write(&record, good).unwrap();
    assert_eq!(prune(&repository, &Keep::default()).thrown_away.packs, 1);
    assert_whole(&repository, &new);
}

#[test]
fn what_a_record_that_was_set_aside_needs_stays_until_a_person_gives_it_up() {
    let folder = tempfile::tempdir().unwrap();
    let (store, repository, clock) = store_now(folder.path());
    let old = back_up(&repository, "documents", chunks(1, 40));
    let new = back_up(&repository, "documents", chunks(2, 40));
    clock.advance(8 * DAY);
    let record = files(folder.path()).into_iter().find(|path| path.to_string_lossy().contains("/records/")).unwrap();
    let good = std::fs::read(&record).unwrap();
    let mut torn = good.clone();
    torn[100..200].fill(0);
    std::fs::write(&record, torn).unwrap();
    drop((store, repository));
    let (store, _) = Store::open_or_create(folder.path(), clock.clone(), receiver_key()).unwrap();
    let repository = store.owned_by(&OWNER).unwrap();
    // It goes aside by itself: by the daily look, or when its source calls.
    assert_eq!(repository.set_damaged_records_aside().unwrap(), 1);
    assert!(!record.exists());
    for _ in 0..4 {
        let report = prune(&repository, &Keep::default());
        assert_eq!((report.thrown_away.packs, report.deleted.packs), (0, 0));
        let obstacle = report.obstacle.unwrap();
        let (told, hint) = (obstacle.to_string(), obstacle.hint().unwrap());
        assert!(told.contains("quarantine") && told.contains("nothing was thrown away"), "{told}");
        assert!(hint.contains(&format!("prune --give-up {}", id(&old).short())), "{hint}");
        clock.advance(8 * DAY);
    }
    // Put back from elsewhere, it is whole.
    std::fs::write(&record, good).unwrap();
    assert_eq!(prune(&repository, &Keep::default()).obstacle, None);
    assert_whole(&repository, &old);
    std::fs::remove_file(&record).unwrap();
    let [lost] = &repository.lost_records().unwrap()[..] else { panic!("one is lost") };
    assert_eq!((lost.id, lost.sequence), (id(&old), 1));
    repository.give_up(lost, SignedDuration::ZERO).unwrap();
    let report = prune(&repository, &Keep::default());
    assert_eq!((report.obstacle, report.thrown_away.packs > 0), (None, true));
    assert_whole(&repository, &new);
}

#[test]
fn one_prunes_at_a_time() {
    let folder = tempfile::tempdir().unwrap();
    let (_store, repository, _clock) = store_now(folder.path());
    let rules = |_: &SetName| Some(Keep::default());
    let first = Prune::prepare(&repository, &rules, &options(), Purpose::Run, &|| false).unwrap();
    assert!(matches!(Prune::prepare(&repository, &rules, &options(), Purpose::Run, &|| false), Err(Error::Pruning)));
    Prune::prepare(&repository, &rules, &options(), Purpose::Show, &|| false).unwrap();
    drop(first);
    Prune::prepare(&repository, &rules, &options(), Purpose::Run, &|| false).unwrap();
}
