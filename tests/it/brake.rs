//! The brake: what looks like malware, or like a wrong clock, stops forgetting until a person has looked.

use crate::prune::{chunks, id, options, prune, put_missing, store_now};
use crate::store_support::{Made, OWNER, assert_whole, files, noise, receiver_key};
use bytes::Bytes;
use jiff::SignedDuration;
use lan_backup::model::{Keep, SetName};
use lan_backup::platform::clock::{Clock, ManualClock};
use lan_backup::platform::shutdown::Shutdown;
use lan_backup::store::Repository;
use lan_backup::store::prune::brake::Freeze;
use lan_backup::store::prune::freezes::{Freezes, Look};
use lan_backup::store::prune::{Obstacle, Prune, Purpose};
use lan_backup::store::scrubber::{News, Scrubber};
use std::time::Duration;

const DAY: Duration = Duration::from_hours(24);

fn newest() -> Keep {
    Keep { last: 1, ..Keep::default() }
}

fn set() -> SetName {
    "documents".parse().unwrap()
}

/// A snapshot that says that it holds so many files, and that so many of them have changed.
fn back_up(repository: &Repository, content: Vec<Bytes>, files: u64, changed: u64) -> Made {
    let mut made = Made::new(repository, "documents", content);
    made.record.totals.files = files;
    made.record.changes.changed_files = changed;
    put_missing(repository, &made.files);
    put_missing(repository, &made.streams);
    repository.commit(&made.signed(), OWNER).unwrap();
    made
}

fn freezes(repository: &Repository, look: Look) -> Freezes {
    repository.freezes(look, &|| false).unwrap()
}

#[test]
fn a_snapshot_that_lost_most_files_stops_forgetting_until_a_person_has_looked() {
    let folder = tempfile::tempdir().unwrap();
    let (_store, repository, clock) = store_now(folder.path());
    let shared = chunks(1, 20);
    for (number, files) in [(1, 100), (2, 100), (3, 20), (4, 20)] {
        back_up(&repository, [shared.clone(), chunks(10 + number, 2)].concat(), files, 0);
    }
    clock.advance(30 * DAY);
    let rules = |_: &SetName| Some(newest());
    let shown = Prune::prepare(&repository, &rules, &options(), Purpose::Show, &|| false).unwrap();
    let frozen = shown.plan.sets[0].frozen.clone();
    assert_eq!(frozen.len(), 1);
    assert!(frozen[0].to_string().contains("lacks 80 of the 100 files"), "{}", frozen[0]);
    assert_eq!(prune(&repository, &newest()).forgotten.len(), 0);
    repository.release(&set(), &frozen[0]).unwrap();
    assert_eq!(prune(&repository, &newest()).forgotten.len(), 3);
}

#[test]
fn a_snapshot_that_rewrites_most_bytes_stops_forgetting_whatever_its_source_says() {
    let folder = tempfile::tempdir().unwrap();
    let (store, repository, clock) = store_now(folder.path());
    let small = chunks(1, 30);
    let with = |large: u64| [small.clone(), (0..10).map(|n| noise(large * 100 + n, 60_000)).collect()].concat();
    // Another tenth of it is no reason, nor is another order of everything, which makes another list.
    let first = back_up(&repository, with(70), 31, 0);
    let mut content = with(70);
    content[35] = noise(1, 60_000);
    let second = back_up(&repository, content.clone(), 31, 1);
    content.reverse();
    back_up(&repository, content, 31, 0);
    assert!(freezes(&repository, Look::Measure).is_empty());
    // One large file of 31 has other content, and its source says nothing of that.
    let attack = back_up(&repository, with(71), 31, 0);
    clock.advance(30 * DAY);

    let expected = |freezes: &Freezes| match freezes.get(&set()).map(Vec::as_slice) {
        Some([Freeze::Bytes { id: found, rewrite }]) => *found == id(&attack) && rewrite.lost > rewrite.before * 8 / 10,
        _ => false,
    };
    assert!(freezes(&repository, Look::Known).is_empty(), "nobody has measured");
    assert!(expected(&freezes(&repository, Look::Measure)));
    assert!(freezes(&repository, Look::Known).is_empty(), "a plan changes nothing");
    let mut scrubber = Scrubber::new(store.clone());
    let news = scrubber.look_at_brake(&Shutdown::new()).unwrap();
    assert!(matches!(&news[..], [News::Frozen { freeze, .. }] if freeze.snapshot() == id(&attack)), "{news:?}");
    assert!(scrubber.look_at_brake(&Shutdown::new()).unwrap().is_empty(), "it is told once");
    assert!(expected(&freezes(&repository, Look::Known)), "what was measured is remembered");
    let report = prune(&repository, &newest());
    assert_eq!((report.forgotten.len(), report.thrown_away.packs), (0, 0));
    // Lost or damaged, it is measured again.
    let kept = files(folder.path()).into_iter().find(|path| path.ends_with("brake.json")).unwrap();
    let mut bytes = std::fs::read(&kept).unwrap();
    bytes[20] ^= 1;
    std::fs::write(&kept, bytes).unwrap();
    assert_eq!(prune(&repository, &newest()).forgotten.len(), 0);
    assert!(expected(&freezes(&repository, Look::Known)));
    // What came after it stops nothing, and hides nothing.
    back_up(&repository, with(71), 31, 0);
    clock.advance(30 * DAY);
    assert_eq!(prune(&repository, &newest()).forgotten.len(), 0);
    for made in [&first, &second, &attack] {
        assert_whole(&repository, made);
    }
    let frozen = freezes(&repository, Look::Known).remove(&set()).unwrap();
    repository.release(&set(), &frozen[0]).unwrap();
    assert_eq!(prune(&repository, &newest()).forgotten.len(), 4);
}

/// A store with three old snapshots, of which one is forgotten, and its pack is due to go.
fn looked_at(repository: &Repository, clock: &ManualClock) {
    for number in 0..3 {
        back_up(repository, chunks(number, 5), 1, 0);
        clock.advance(8 * DAY);
        prune(repository, &Keep { last: 2, ..Keep::default() });
    }
}

#[test]
fn a_clock_that_jumps_stops_forgetting_and_throwing_away_until_it_is_right_or_released() {
    let folder = tempfile::tempdir().unwrap();
    let (_store, repository, clock) = store_now(folder.path());
    looked_at(&repository, &clock);
    let right = clock.now();
    for days in [2, 400, -2, -400] {
        clock.set(right + SignedDuration::from_hours(24 * days));
        let report = prune(&repository, &newest());
        let moved = report.forgotten.len() as u64 + report.thrown_away.packs + report.deleted.packs;
        assert_eq!(moved, 0, "{days} days: {report:?}");
        assert!(matches!(report.obstacle, Some(Obstacle::Clock { .. })), "{days} days: {report:?}");
        let frozen = freezes(&repository, Look::Known).remove(&set()).unwrap();
        assert!(frozen.iter().any(|freeze| matches!(freeze, Freeze::Jump { .. })), "{days} days: {frozen:?}");
        // Put right, it is forgiven by the next look.
        clock.set(right);
        assert!(freezes(&repository, Look::Keep).is_empty(), "{days} days");
    }
    // A person says that it was wrong before, and is right now.
    clock.set(right + SignedDuration::from_hours(24 * 20));
    assert_eq!(prune(&repository, &newest()).forgotten.len(), 0);
    for freeze in freezes(&repository, Look::Known).remove(&set()).unwrap() {
        repository.release(&set(), &freeze).unwrap();
    }
    assert_eq!(prune(&repository, &newest()).obstacle, None);
    assert!(freezes(&repository, Look::Keep).is_empty());
}

/// What the look at the clock protects from: without it, what is due a year from now goes today.
#[test]
fn without_what_was_seen_of_the_clock_a_jump_makes_everything_old() {
    let folder = tempfile::tempdir().unwrap();
    let (_store, repository, clock) = store_now(folder.path());
    looked_at(&repository, &clock);
    for path in files(folder.path()).into_iter().filter(|path| path.ends_with("clock.json")) {
        std::fs::remove_file(path).unwrap();
    }
    clock.set(clock.now() + SignedDuration::from_hours(24 * 400));
    let report = prune(&repository, &newest());
    assert!(report.forgotten.len() as u64 + report.thrown_away.packs > 0, "{report:?}");
}

#[test]
fn that_there_are_few_files_is_only_said_and_many_bytes_are_looked_at_all_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let (_store, repository, clock) = store_now(folder.path());
    let image = |seed: u64| (0..10).map(|n| noise(seed * 100 + n, 200_000)).collect::<Vec<_>>();
    back_up(&repository, image(1), 1, 0);
    let attack = back_up(&repository, image(2), 1, 0);
    clock.advance(30 * DAY);
    assert_eq!(prune(&repository, &newest()).forgotten.len(), 0);
    let frozen = freezes(&repository, Look::Known).remove(&set()).unwrap();
    assert!(matches!(&frozen[..], [Freeze::Bytes { id: found, .. }] if *found == id(&attack)), "{frozen:?}");
}

#[test]
fn what_goes_in_two_small_steps_within_a_week_is_seen_beside_the_snapshot_from_before_it() {
    let folder = tempfile::tempdir().unwrap();
    let (_store, repository, clock) = store_now(folder.path());
    let (old, new) = (chunks(1, 31), chunks(2, 31));
    let first = back_up(&repository, old.clone(), 31, 0);
    clock.advance(8 * DAY);
    // Nothing is gone: what came is beside what was there.
    back_up(&repository, [old, new.clone()].concat(), 62, 0);
    clock.advance(DAY);
    assert!(freezes(&repository, Look::Keep).is_empty());
    // And of that just half is gone.
    let second = back_up(&repository, new.clone(), 31, 0);
    for _ in 0..2 {
        let frozen = freezes(&repository, Look::Keep).remove(&set()).unwrap();
        let [Freeze::Bytes { id: found, rewrite }] = &frozen[..] else { panic!("{frozen:?}") };
        assert_eq!((*found, rewrite.since), (id(&second), Some(id(&first))));
        assert!(rewrite.lost > rewrite.before * 9 / 10);
        let (told, hint) = (frozen[0].to_string(), frozen[0].hint("documents"));
        assert!(told.contains("a week before it"), "{told}");
        assert!(hint.contains(&id(&first).short()), "{hint}");
        // What comes after it is compared with what came since.
        clock.advance(DAY);
        back_up(&repository, new.clone(), 31, 0);
    }
    clock.advance(30 * DAY);
    assert_eq!(prune(&repository, &newest()).forgotten.len(), 0);
    let frozen = freezes(&repository, Look::Known).remove(&set()).unwrap();
    assert_eq!(frozen.len(), 1);
    repository.release(&set(), &frozen[0]).unwrap();
    assert_eq!(prune(&repository, &newest()).forgotten.len(), 4);
}

#[test]
fn another_record_in_the_place_of_one_that_was_set_aside_is_measured() {
    let folder = tempfile::tempdir().unwrap();
    let (store, repository, clock) = store_now(folder.path());
    back_up(&repository, chunks(1, 31), 31, 0);
    back_up(&repository, [chunks(1, 31), chunks(3, 1)].concat(), 32, 0);
    assert!(freezes(&repository, Look::Keep).is_empty());
    let records = files(folder.path()).into_iter().filter(|path| path.to_string_lossy().contains("/records/"));
    let newest = records.max().unwrap();
    std::fs::write(&newest, vec![0; 500]).unwrap();
    drop((repository, store));
    let (store, _) = lan_backup::store::Store::open_or_create(folder.path(), clock, receiver_key()).unwrap();
    let repository = store.owned_by(&OWNER).unwrap();
    assert_eq!(repository.set_damaged_records_aside().unwrap(), 1);
    let attack = back_up(&repository, chunks(2, 31), 31, 0);
    assert_eq!(attack.record.sequence, 2);
    let frozen = freezes(&repository, Look::Keep).remove(&set()).unwrap();
    assert!(matches!(&frozen[..], [Freeze::Bytes { id: found, .. }] if *found == id(&attack)), "{frozen:?}");
}

#[test]
fn a_jump_that_was_released_for_every_set_stops_no_later_one() {
    let folder = tempfile::tempdir().unwrap();
    let (_store, repository, clock) = store_now(folder.path());
    looked_at(&repository, &clock);
    let pictures: SetName = "pictures".parse().unwrap();
    crate::store_support::back_up(&repository, "pictures", chunks(50, 5));
    clock.set(clock.now() + SignedDuration::from_hours(24 * 400));
    assert_eq!(freezes(&repository, Look::Keep).len(), 2);
    for (released, set) in [&set(), &pictures].into_iter().enumerate() {
        let frozen = freezes(&repository, Look::Known);
        assert_eq!(frozen.len(), 2 - released);
        frozen[set].iter().for_each(|freeze| repository.release(set, freeze).unwrap());
    }
    crate::store_support::back_up(&repository, "music", chunks(60, 5));
    assert!(freezes(&repository, Look::Keep).is_empty());
    assert_eq!(prune(&repository, &Keep::default()).obstacle, None);
}
