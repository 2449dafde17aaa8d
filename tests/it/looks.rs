//! What looks at a store find beside bits that have flipped: packs that are gone, a disk that is full, damage in the trash.

use crate::bit_rot::{flip, look};
use crate::prune::{chunks, store_now};
use crate::store_support::{Made, OWNER, back_up, controlled, files, new_repository, source_key};
use jiff::{SignedDuration, Timestamp};
use lan_backup::model::{Alias, Fingerprint};
use lan_backup::monitor::Silent;
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
    let second = lan_backup::platform::clock::Clock::now(&*clock).as_second();
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
