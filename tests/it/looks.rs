//! What looks at a store find beside bits that have flipped: packs that are gone, a disk that is full, damage in the trash.

use crate::bit_rot::{flip, look};
use crate::prune::{chunks, store_now};
use crate::store_support::{Made, OWNER, back_up, controlled, files, new_repository, open, source_key};
use jiff::{SignedDuration, Timestamp};
use lan_backup::model::{Alias, Fingerprint};
use lan_backup::monitor::Silent;
use lan_backup::platform::clock::Clock;
use lan_backup::platform::shutdown::Shutdown;
use lan_backup::store::repair::repair;
use lan_backup::store::scrubber::{News, Scrubber};
use lan_backup::store::set_aside::Fate;
use lan_backup::store::verify::Share;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

fn packs(folder: &Path) -> Vec<PathBuf> {
    let mut packs = files(folder);
    packs.retain(|path| path.to_string_lossy().contains("/packs/") && !path.to_string_lossy().contains("/quarantine/"));
    packs.sort_by_key(|path| std::cmp::Reverse(fs::metadata(path).unwrap().len()));
    packs
}

fn flip_middle(path: &Path) {
    flip(path, fs::metadata(path).unwrap().len() * 4);
}

/// Steps until there is nothing to do for a while.
fn scrub(scrubber: &mut Scrubber, now: Timestamp) -> Vec<News> {
    let mut news = Vec::new();
    for _ in 0..1000 {
        let step = scrubber.step(now, &Shutdown::new()).unwrap();
        news.extend(step.news);
        if step.rest_until.is_some() {
            return news;
        }
    }
    panic!("it never rests: {news:#?}")
}

#[test]
fn a_pack_that_vanishes_while_the_store_is_in_use_is_told_by_the_next_look() {
    let folder = tempfile::tempdir().unwrap();
    let (store, repository) = new_repository(folder.path());
    let made = back_up(&repository, "documents", chunks(1, 40));
    assert!(look(&store, Share::None).is_clean());
    let now = Timestamp::from_second(1_800_000_000).unwrap();
    let mut scrubber = Scrubber::new(store.clone());
    assert_eq!(scrub(&mut scrubber, now), []);
    let pack = packs(folder.path()).remove(0);
    let whole = fs::read(&pack).unwrap();
    fs::remove_file(&pack).unwrap();
    let found = look(&store, Share::None);
    assert!(found.files.iter().any(|file| pack.ends_with(&file.path) && file.problem.contains("gone")), "{found:#?}");
    assert_eq!(found.snapshots.iter().map(|hit| hit.snapshot).collect::<Vec<_>>(), [made.id()]);
    // It was put back, and goes once more: the daily look tells it, too, and marks what that has hit.
    fs::write(&pack, &whole).unwrap();
    assert!(look(&store, Share::None).is_clean());
    fs::remove_file(&pack).unwrap();
    let news = scrub(&mut scrubber, now + SignedDuration::from_hours(25));
    let gone = |news: &News| matches!(news, News::File { path, fate: Fate::Gone, .. } if pack.ends_with(path));
    assert!(news.iter().any(gone) && news.iter().any(|news| matches!(news, News::Damaged(_))), "{news:#?}");
    assert_eq!(repository.health().unwrap().damaged.len(), 1);
}

fn doubts(folder: &Path) -> usize {
    files(folder).iter().filter(|path| path.to_string_lossy().contains("/doubts/")).count()
}

#[test]
fn what_a_look_finds_is_known_to_whoever_looks_next_and_to_the_scrub_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let (store, repository) = new_repository(folder.path());
    let made = back_up(&repository, "documents", chunks(1, 40));
    let now = crate::store_support::clock().now();
    // Everything was read just now.
    assert_eq!(scrub(&mut Scrubber::new(store.clone()), now), []);
    let month = Share::NotReadFor(SignedDuration::from_hours(30 * 24));
    assert!(look(&store, month).is_clean() && repository.health().unwrap().is_well());
    let bad = packs(folder.path()).remove(0);
    flip_middle(&bad);
    let found = look(&store, Share::All);
    assert_eq!((found.files.len(), found.snapshots.len()), (1, 1), "{found:#?}");
    drop((repository, store));
    let (store, _) = open(folder.path());
    let repository = store.repositories().remove(0);
    for share in [month, Share::None, Share::Percent(1)] {
        assert_eq!(look(&store, share).files, found.files, "{share:?}");
    }
    let health = repository.health().unwrap();
    let marked: Vec<_> = health.damaged.iter().map(|mark| mark.snapshot).collect();
    assert_eq!((health.in_doubt.len(), marked, health.is_well()), (1, vec![made.id()], false));
    let news = scrub(&mut Scrubber::new(store.clone()), now);
    assert!(news.iter().any(|news| matches!(news, News::File { fate: Fate::SetAside { .. }, .. })), "{news:#?}");
    assert!(!bad.exists() && doubts(folder.path()) == 0);
}

#[test]
fn damage_that_a_restore_meets_is_not_forgotten_when_the_process_ends() {
    let folder = tempfile::tempdir().unwrap();
    let (store, repository) = new_repository(folder.path());
    let made = back_up(&repository, "documents", chunks(1, 40));
    let now = crate::store_support::clock().now();
    assert_eq!(scrub(&mut Scrubber::new(store.clone()), now), []);
    let bad = packs(folder.path()).remove(0);
    flip_middle(&bad);
    let ids: Vec<_> = made.files.iter().map(|bytes| lan_backup::codec::chunk_id(bytes)).collect();
    assert!(ids.iter().any(|id| crate::store_support::read(&repository, &[*id]).is_err()));
    drop((repository, store));
    let (store, _) = open(folder.path());
    let news = scrub(&mut Scrubber::new(store.clone()), now);
    assert!(news.iter().any(|news| matches!(news, News::File { fate: Fate::SetAside { .. }, .. })), "{news:#?}");
}

#[test]
fn a_pack_that_is_gone_is_named_whoever_opened_the_store_first_and_until_nothing_lacks_what_it_held() {
    let folder = tempfile::tempdir().unwrap();
    let (store, repository) = new_repository(folder.path());
    let made = back_up(&repository, "documents", chunks(1, 40));
    let now = crate::store_support::clock().now();
    assert_eq!(scrub(&mut Scrubber::new(store.clone()), now), []);
    drop((repository, store));
    let pack = packs(folder.path()).remove(0);
    let whole = fs::read(&pack).unwrap();
    fs::remove_file(&pack).unwrap();
    // Any command at all; the index agrees with the packs from now on.
    assert_eq!(open(folder.path()).1.vanished_packs.len(), 1);
    let (store, report) = open(folder.path());
    assert!(report.is_harmless());
    let repository = store.repositories().remove(0);
    let health = repository.health().unwrap();
    assert_eq!((health.gone.len(), health.is_well()), (1, false));
    // The scrub tells it at once, once.
    let gone = |news: &News| matches!(news, News::File { path, fate: Fate::Gone, .. } if pack.ends_with(path));
    let mut scrubber = Scrubber::new(store.clone());
    let news = scrub(&mut scrubber, now);
    assert!(news.iter().any(gone) && news.iter().any(|news| matches!(news, News::Damaged(_))), "{news:#?}");
    assert_eq!(scrub(&mut scrubber, now + SignedDuration::from_hours(25)), []);
    // A look names it each time, with what it held, and so does a repair.
    for _ in 0..2 {
        let found = look(&store, Share::None);
        let [file] = &found.files[..] else { panic!("{found:#?}") };
        assert!(pack.ends_with(&file.path) && file.problem.contains("gone"), "{file:?}");
        assert_eq!(file.chunks.len() as u64 + file.more_chunks, 40);
    }
    let report = repair(&store, &Silent, &Shutdown::new()).unwrap();
    assert!(
        matches!(&report.repaired[..], [one] if one.fate == Fate::Gone && pack.ends_with(&one.path)),
        "{report:#?}"
    );
    assert!(report.left.is_empty() && report.damaged.len() == 1, "{report:#?}");
    // What it held comes again, in another pack; or it comes back itself.
    let other = tempfile::tempdir().unwrap();
    crate::store_support::copy(folder.path(), other.path());
    fs::write(other.path().join(pack.strip_prefix(folder.path()).unwrap()), whole).unwrap();
    let (other_store, _) = open(other.path());
    assert!(look(&other_store, Share::None).is_clean() && doubts(other.path()) == 0);
    crate::store_support::put(&repository, &made.files).unwrap();
    repository.sync().unwrap();
    assert!(look(&store, Share::None).is_clean() && doubts(folder.path()) == 0);
    assert!(repository.health().unwrap().is_well());
}

#[test]
fn a_full_disk_keeps_no_damage_from_being_told_and_the_pack_goes_aside_when_there_is_room() {
    let folder = tempfile::tempdir().unwrap();
    let (store, repository, control) = controlled(folder.path());
    back_up(&repository, "documents", chunks(1, 40));
    let bad = packs(folder.path()).remove(0);
    let other = Fingerprint::from_bytes([7; 32]);
    let other = store.create_repository(other, &source_key().public(), Alias::new("desk")).unwrap();
    back_up(&other, "pictures", chunks(2, 40));
    let of_other =
        packs(folder.path()).into_iter().find(|pack| pack.to_string_lossy().contains(&other.id().to_string()));
    let of_other = of_other.unwrap();
    for pack in [&bad, &of_other] {
        flip_middle(pack);
    }
    // No pack can be written.
    control.fail("packs/", u64::MAX, ErrorKind::StorageFull);
    let now = Timestamp::from_second(1_800_000_000).unwrap();
    let mut scrubber = Scrubber::new(store.clone());
    let news = scrub(&mut scrubber, now);
    for pack in [&bad, &of_other] {
        let left =
            |news: &&News| matches!(news, News::File { path, fate: Fate::Left { .. }, .. } if pack.ends_with(path));
        assert_eq!(news.iter().filter(left).count(), 1, "{news:#?}");
        assert!(pack.exists());
    }
    let damaged = news.iter().filter(|news| matches!(news, News::Damaged(_))).count();
    let marked = repository.health().unwrap().damaged.len() + other.health().unwrap().damaged.len();
    assert_eq!((damaged, marked), (2, 2), "{news:#?}");
    // It is tried again after a while, and not told again.
    let later = now + SignedDuration::from_hours(2);
    assert_eq!(scrub(&mut scrubber, later), []);
    assert_eq!(scrub(&mut scrubber, now + SignedDuration::from_hours(25)), []);
    assert_eq!(repository.health().unwrap().damaged.len(), 1, "it stays known what is lost");
    control.fail("packs/", 0, ErrorKind::StorageFull);
    let news = scrub(&mut scrubber, now + SignedDuration::from_hours(27));
    let aside = news.iter().filter(|news| matches!(news, News::File { fate: Fate::SetAside { .. }, .. })).count();
    assert_eq!((aside, bad.exists(), of_other.exists()), (2, false, false), "{news:#?}");
}

#[test]
fn what_comes_back_from_the_trash_damaged_heals_nothing_and_is_told_once() {
    let folder = tempfile::tempdir().unwrap();
    let (store, repository, clock) = store_now(folder.path());
    let made = Made::new(&repository, "documents", chunks(1, 40));
    made.put(&repository);
    repository.commit(&made.signed(), OWNER).unwrap();
    let pack = packs(folder.path()).remove(0);
    let id = pack.file_name().unwrap().to_str().unwrap().to_owned();
    let trash = pack.ancestors().nth(3).unwrap().join("trash");
    fs::create_dir_all(&trash).unwrap();
    let second = Clock::now(&*clock).as_second();
    let trashed = trash.join(format!("{second:012}-{id}"));
    fs::rename(&pack, &trashed).unwrap();
    flip_middle(&trashed);
    let found = look(&store, Share::All);
    let notes: Vec<_> = found.notes.iter().filter(|note| note.contains(&id)).collect();
    assert!(
        matches!(&notes[..], [note] if note.contains("damaged") && note.contains("`lan-backup repair` puts back")),
        "{notes:?}"
    );
    let report = repair(&store, &Silent, &Shutdown::new()).unwrap();
    assert!(report.repaired.iter().any(|one| matches!(one.fate, Fate::SetAside { .. })), "{report:#?}");
    assert_eq!((report.is_whole(), report.damaged.len(), report.healed.len()), (false, 1, 0), "{report:#?}");
    // What was good of it is back.
    assert!(report.damaged[0].lost_chunks < 9, "{report:#?}");
    assert_eq!(look(&store, Share::All).snapshots, report.damaged);
}
