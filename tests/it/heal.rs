//! Damage, repair, and the way back: what is good is saved, what is lost is named and marked, and the next backup brings it.

use crate::bit_rot::{flip, look, stored, two_snapshots};
use crate::store_support::{Made, OWNER, assert_whole, back_up, files, new_repository, noise, open};
use crate::support::bench::{Bench, head, restore};
use crate::support::scratch::scratch;
use crate::support::tree::assert_same;
use jiff::Timestamp;
use lan_backup::monitor::Counter;
use lan_backup::monitor::Silent;
use lan_backup::platform::shutdown::Shutdown;
use lan_backup::restore::Conflict;
use lan_backup::store::repair::{RepairReport, repair};
use lan_backup::store::scrubber::{News, Scrubber};
use lan_backup::store::set_aside::Fate;
use lan_backup::store::verify::{DamagedSnapshot, Share};
use lan_backup::store::{Error, LocalVault, Store};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

fn mend(store: &Store) -> RepairReport {
    repair(store, &Silent, &Shutdown::new()).unwrap()
}

fn vault(store: &Store) -> Arc<LocalVault> {
    Arc::new(LocalVault::new(store.repositories().pop().unwrap(), OWNER))
}

fn below(store: &Path, part: &str) -> Vec<PathBuf> {
    let prefix = format!("/{part}/");
    let fits = |path: &PathBuf| {
        let path = path.strip_prefix(store).unwrap().to_string_lossy().into_owned();
        path.contains(&prefix) && (part == "quarantine" || !path.contains("/quarantine/"))
    };
    stored(store).into_iter().filter(fits).collect()
}

fn length(path: &Path) -> u64 {
    fs::metadata(path).unwrap().len()
}

/// Restores the newest snapshot; what was lost, and that everything else is right.
async fn restored(store: &Store, bench: &Bench) -> BTreeSet<String> {
    let vault = vault(store);
    let out = scratch();
    let newest = head(&vault).await.unwrap();
    let faults = restore(&vault, &newest, out.path(), Conflict::KeepBoth).await.unwrap().faults;
    let lost: BTreeSet<String> = faults.iter().map(|fault| fault.subject.clone()).collect();
    for file in files(out.path()) {
        let original = bench.path(file.strip_prefix(out.path()).unwrap().to_str().unwrap());
        assert!(fs::read(&file).unwrap() == fs::read(original).unwrap(), "{file:?}");
    }
    assert_eq!(files(out.path()).len() + lost.len(), files(&bench.tree()).len());
    if lost.is_empty() {
        assert_same(&bench.tree(), &out.path().join("tree"));
    }
    lost
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_good_of_a_damaged_pack_is_saved_the_rest_is_marked_and_the_next_backup_heals_it() {
    let folder = scratch();
    let (mut bench, _) = two_snapshots(folder.path()).await;
    let bad = below(folder.path(), "packs").into_iter().max_by_key(|path| length(path)).unwrap();
    flip(&bad, length(&bad) * 4);
    let (store, _) = open(folder.path());
    let repository = store.repositories().pop().unwrap();
    let found = look(&store, Share::All);
    let report = mend(&store);
    let [one] = &report.repaired[..] else { panic!("{report:#?}") };
    let Fate::SetAside { to, saved_chunks, lost_chunks } = &one.fate else { panic!("{report:#?}") };
    assert!(*saved_chunks > 3 && *lost_chunks == 1 && bad.ends_with(&one.path), "{report:#?}");
    assert!(bad.to_str().unwrap().contains("packs/") && !bad.exists());
    let [aside] = &below(folder.path(), "quarantine")[..] else { panic!("one file lies aside") };
    assert!(aside.ends_with(to));
    // The snapshots that need what is lost are named as before, and marked.
    assert_eq!(report.damaged, found.snapshots);
    let health = repository.health().unwrap();
    let marked: Vec<_> = health.damaged.iter().map(|mark| (mark.snapshot, mark.files.clone())).collect();
    assert_eq!(marked, found.snapshots.iter().map(|hit| (hit.snapshot, hit.files.clone())).collect::<Vec<_>>());
    assert_eq!((health.packs_set_aside, marked.len(), marked[0].1.len()), (1, 2, 1));
    let lost = restored(&store, &bench).await;
    assert_eq!(lost, marked[1].1.iter().cloned().collect());
    // Repaired again, there is nothing to do, and what is lost stays known.
    let again = mend(&store);
    assert_eq!((again.repaired.len(), &again.damaged), (0, &report.damaged));
    assert!(!look(&store, Share::None).is_clean());
    // Nothing has changed at the source, so nothing would be read; but what the receiver lacks is, and nothing else.
    let vault = vault(&store);
    bench.back_up(&vault).await.unwrap();
    let size = fs::metadata(bench.path(lost.first().unwrap())).unwrap().len();
    assert_eq!((bench.monitor.faults(), bench.monitor.counted(Counter::BytesRead)), (vec![], size));
    let health = repository.health().unwrap();
    assert_eq!((health.damaged.len(), health.healed.len()), (0, 2));
    assert!(look(&store, Share::All).is_clean());
    assert!(restored(&store, &bench).await.is_empty());
    drop((vault, repository, store));
    assert!(look(&open(folder.path()).0, Share::All).is_clean(), "also for a process that starts now");
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_bit_is_flipped_repair_and_one_backup_make_the_newest_tree_whole_again() {
    let folder = scratch();
    let (mut bench, _) = two_snapshots(folder.path()).await;
    let (mut mended, mut aside, mut hurt) = (0, 0, BTreeMap::<_, u64>::new());
    for round in 0..24_u64 {
        let names = ["packs", "records", "packs", "owners"];
        let all = below(folder.path(), names[round as usize % names.len()]);
        let path = &all[round as usize / 2 % all.len()];
        flip(path, (round * 7919 * 8 + round) * length(path) / 3 % (length(path) * 8));
        let (store, _) = open(folder.path());
        let report = mend(&store);
        assert_eq!((report.repaired.len(), &report.left), (1, &vec![]), "round {round}, {path:?}: {report:#?}");
        match &report.repaired[0].fate {
            Fate::Mended => {
                // What an earlier round has lost of the older snapshot for good is not mended with it.
                let known =
                    |hit: &DamagedSnapshot| hurt.get(&hit.snapshot).is_some_and(|lost| hit.lost_chunks <= *lost);
                assert!(report.damaged.iter().all(known), "round {round}: {hurt:?}, {report:#?}");
                mended += 1;
            }
            Fate::SetAside { .. } => aside += 1,
            fate => panic!("round {round}: {fate:?}, {report:#?}"),
        }
        bench.back_up(&vault(&store)).await.unwrap();
        assert!(restored(&store, &bench).await.is_empty(), "round {round}");
        let left = look(&store, Share::All);
        assert!(left.files.is_empty(), "round {round}: {left:#?}");
        let marks = store.repositories().pop().unwrap().health().unwrap().damaged;
        hurt = marks.iter().map(|mark| (mark.snapshot, mark.lost_chunks)).collect();
    }
    assert!(mended >= 8 && aside >= 6, "{mended} mended, {aside} set aside");
}

#[test]
fn a_list_that_rots_unseen_stops_no_backup() {
    let folder = scratch();
    let (store, repository) = new_repository(folder.path());
    let first = back_up(&repository, "documents", (0..200).map(|n| noise(n, 500)).collect());
    // The lists of the first snapshot lie in a pack of their own; nobody has looked at the store since.
    let pack = below(folder.path(), "packs").into_iter().min_by_key(|path| length(path)).unwrap();
    for part in 1..40 {
        flip(&pack, length(&pack) * 8 / 41 * part);
    }
    // The next one needs the same lists, which are said to be there, and cannot be read.
    let second = Made::new(&repository, "documents", first.files.clone());
    let missing = repository.commit(&second.signed(), OWNER).unwrap_err();
    assert!(matches!(&missing, Error::Missing(ids) if !ids.is_empty()), "{missing:?}");
    assert_eq!(repository.health().unwrap().packs_set_aside, 1);
    second.put(&repository);
    repository.commit(&second.signed(), OWNER).unwrap();
    assert_whole(&repository, &first);
    assert!(look(&store, Share::All).is_clean());
}

#[test]
fn a_pack_that_is_hit_where_it_says_things_twice_is_whole_again_under_its_own_name() {
    let folder = scratch();
    let (store, repository) = new_repository(folder.path());
    let made = back_up(&repository, "documents", (0..40).map(|n| noise(n, 5000)).collect());
    let packs = below(folder.path(), "packs");
    let pack = packs.iter().max_by_key(|path| length(path)).unwrap();
    let whole = fs::read(pack).unwrap();
    let end = whole.len() as u64 * 8;
    // The magic at its beginning, a block's header, the trailer, the footer and the magic at the end.
    for bit in [3, 8 * 8 + 100, end - 8 * 300, end - 8 * 45, end - 8 * 20, end - 1] {
        flip(pack, bit);
        let report = mend(&store);
        assert_eq!((&report.repaired[0].fate, report.is_whole()), (&Fate::Mended, true), "bit {bit}: {report:#?}");
        assert!(fs::read(pack).unwrap() == whole, "bit {bit}");
        assert_whole(&repository, &made);
    }
    assert!(below(folder.path(), "quarantine").is_empty());
}

#[test]
fn a_record_beyond_mending_is_set_aside_its_set_goes_on_and_its_source_can_bring_it_again() {
    let folder = scratch();
    let (store, repository) = new_repository(folder.path());
    let first = back_up(&repository, "documents", vec![noise(1, 500)]);
    let second = back_up(&repository, "documents", vec![noise(2, 500)]);
    drop((repository, store));
    let record = below(folder.path(), "records").into_iter().find(|path| path.to_string_lossy().contains("0000000002"));
    let record = record.unwrap();
    // A torn sector: no single bit.
    let mut bytes = fs::read(&record).unwrap();
    bytes[100..200].fill(0);
    fs::write(&record, bytes).unwrap();
    let (store, _) = open(folder.path());
    let repository = store.repositories().pop().unwrap();
    let set = "documents".parse().unwrap();
    assert!(repository.head(&set).unwrap_err().is_damage());
    let report = mend(&store);
    assert!(matches!(report.repaired[0].fate, Fate::SetAside { .. }) && report.left.is_empty(), "{report:#?}");
    let [lost] = &report.damaged[..] else { panic!("{report:#?}") };
    assert_eq!((lost.record_lost, lost.sequence, lost.set.as_ref()), (true, 2, Some(&set)));
    let health = repository.health().unwrap();
    assert_eq!((health.damaged.len(), health.files_set_aside), (1, 1));
    assert_eq!(repository.head(&set).unwrap().map(|head| head.id), Some(first.id()));
    // The source still has what it signed.
    repository.commit(&second.signed(), OWNER).unwrap();
    assert_whole(&repository, &second);
    let health = repository.health().unwrap();
    assert_eq!((health.damaged.len(), health.healed.len()), (0, 1));
    assert!(look(&store, Share::All).is_clean());
    // And a source that has it no more goes on from the one before.
    let third = back_up(&repository, "documents", vec![noise(3, 500)]);
    assert_eq!(third.record.sequence, 3);
}

#[test]
fn a_record_of_which_only_the_receipt_is_damaged_gets_a_new_one_that_is_not_too_early() {
    let folder = scratch();
    let (store, repository) = new_repository(folder.path());
    let made: Vec<_> = (0..3).map(|n| back_up(&repository, "documents", vec![noise(n, 500)])).collect();
    let came = |repository: &lan_backup::store::Repository| -> Vec<_> {
        repository.snapshots().unwrap().iter().map(|info| info.receipt.received_at).collect()
    };
    let before = came(&repository);
    drop((repository, store));
    // One in the middle and the newest, hit so that it is no text any more.
    for (record, newest) in below(folder.path(), "records")[1..].iter().zip([false, true]) {
        let whole = fs::read(record).unwrap();
        let receipt = whole.iter().enumerate().filter(|(_, b)| **b == b'\n').nth(1).unwrap().0 + 1;
        flip(record, (receipt as u64 + 20) * 8 + 7);
        flip(record, (receipt as u64 + 150) * 8 + 1);
        let (store, _) = open(folder.path());
        let report = mend(&store);
        assert!(matches!(report.repaired[0].fate, Fate::NewReceipt { .. }) && report.is_whole(), "{report:#?}");
        let repository = store.repositories().pop().unwrap();
        let now = came(&repository);
        assert!(now.is_sorted() && before.iter().zip(&now).all(|(before, now)| before <= now), "{before:?} {now:?}");
        assert!(newest || now[2] == before[2], "{before:?} {now:?}");
        for made in &made {
            assert_whole(&repository, made);
        }
        assert!(look(&store, Share::All).is_clean());
    }
    assert_eq!(below(folder.path(), "quarantine").len(), 2, "what they said is kept");
}

#[test]
fn nothing_is_moved_before_what_is_good_of_it_is_kept() {
    let folder = scratch();
    let (store, repository, control) = crate::store_support::controlled(folder.path());
    let made = Made::new(&repository, "documents", (0..40).map(|n| noise(n, 5000)).collect());
    made.put(&repository);
    repository.commit(&made.signed(), OWNER).unwrap();
    let pack = below(folder.path(), "packs").into_iter().max_by_key(|path| length(path)).unwrap();
    flip(&pack, length(&pack) * 4);
    // The new pack cannot be kept: the disk is full. Then the old one stays where it is.
    control.fail("packs/", 1, std::io::ErrorKind::StorageFull);
    // It is named and marked all the same.
    let report = mend(&store);
    assert!(matches!(&report.repaired[..], [one] if matches!(one.fate, Fate::Left { .. })), "{report:#?}");
    assert!(!report.is_whole() && report.damaged.len() == 1, "{report:#?}");
    assert_eq!(repository.health().unwrap().damaged.len(), 1);
    assert!(pack.exists() && below(folder.path(), "quarantine").is_empty());
    let report = mend(&store);
    assert!(matches!(report.repaired[0].fate, Fate::SetAside { saved_chunks, .. } if saved_chunks > 30), "{report:#?}");
    assert!(!pack.exists());
    made.put(&repository);
    repository.sync().unwrap();
    assert_whole(&repository, &made);
}

/// Steps until there is nothing to do; bytes read, and what was found.
fn scrub_all(scrubber: &mut Scrubber, now: Timestamp) -> (u64, Vec<News>) {
    let (mut read, mut news) = (0, Vec::new());
    loop {
        let step = scrubber.step(now, &Shutdown::new()).unwrap();
        read += step.read;
        news.extend(step.news);
        if step.rest_until.is_some() {
            assert!(step.rest_until > Some(now));
            return (read, news);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_scrub_reads_every_pack_once_a_period_finds_what_has_rotted_and_the_healing_begins() {
    let folder = scratch();
    let (mut bench, _) = two_snapshots(folder.path()).await;
    let (store, _) = open(folder.path());
    let repository = store.repositories().pop().unwrap();
    let day = |n: i64| Timestamp::from_second(1_800_000_000 + n * 86_400).unwrap();
    let mut scrubber = Scrubber::new(store.clone());
    let (read, news) = scrub_all(&mut scrubber, day(0));
    let whole = repository.stored_bytes().unwrap();
    assert!(read > whole * 9 / 10 && read <= whole && news.is_empty(), "{read} of {whole}: {news:?}");
    let health = repository.health().unwrap();
    assert_eq!((health.packs_never_read, health.oldest_read, health.looked_at), (0, Some(day(0)), Some(day(0))));
    // Each day everything but content is looked at; that content rots meanwhile is found when its time has come.
    let bad = below(folder.path(), "packs").into_iter().max_by_key(|path| length(path)).unwrap();
    flip(&bad, length(&bad) * 4);
    let mut scrubber = Scrubber::new(store.clone());
    assert_eq!(scrub_all(&mut scrubber, day(29)), (0, vec![]));
    assert_eq!(repository.health().unwrap().looked_at, Some(day(29)));
    let (read, news) = scrub_all(&mut scrubber, day(31));
    assert!(read > whole * 9 / 10, "{read}");
    let [News::File { path, fate: Fate::SetAside { .. }, .. }, News::Damaged(first), News::Damaged(second)] = &news[..]
    else {
        panic!("{news:#?}")
    };
    assert!(bad.ends_with(path) && first.files == second.files && first.sequence == 1, "{news:#?}");
    assert_eq!(repository.health().unwrap().damaged.len(), 2);
    assert_eq!(scrub_all(&mut scrubber, day(32)).1, [], "what was told is not told again");
    bench.back_up(&vault(&store)).await.unwrap();
    let health = repository.health().unwrap();
    assert_eq!((health.damaged.len(), health.healed.len()), (0, 2));
    assert!(restored(&store, &bench).await.is_empty() && look(&store, Share::All).is_clean());
    // The stop is heard in the middle of a pack.
    let stopped = Shutdown::new();
    stopped.stop();
    assert!(matches!(scrubber.step(day(90), &stopped), Err(Error::Stopped)));
}

#[tokio::test(flavor = "multi_thread")]
async fn damage_that_a_restore_meets_is_looked_into_at_once() {
    let folder = scratch();
    let (mut bench, _) = two_snapshots(folder.path()).await;
    let (store, _) = open(folder.path());
    let repository = store.repositories().pop().unwrap();
    let day = |n: i64| Timestamp::from_second(1_800_000_000 + n * 86_400).unwrap();
    let mut scrubber = Scrubber::new(store.clone());
    scrub_all(&mut scrubber, day(0));
    let bad = below(folder.path(), "packs").into_iter().max_by_key(|path| length(path)).unwrap();
    flip(&bad, length(&bad) * 4);
    // Until it is repaired, a damaged block is lost whole.
    assert!(!restored(&store, &bench).await.is_empty());
    let (_, news) = scrub_all(&mut scrubber, day(0));
    assert!(matches!(&news[..], [News::File { .. }, News::Damaged(_), News::Damaged(_)]), "{news:#?}");
    assert_eq!(repository.health().unwrap().packs_set_aside, 1);
    bench.back_up(&vault(&store)).await.unwrap();
    assert!(restored(&store, &bench).await.is_empty());
}
