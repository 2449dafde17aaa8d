//! What a repository takes, and which snapshot brought it.

use crate::prune::{back_up, chunks, id, options, prune, store_now};
use crate::store_support::{Made, files, noise, put};
use bytes::Bytes;
use lan_backup::codec;
use lan_backup::model::{Keep, SetName};
use lan_backup::store::prune::{Prune, Purpose};
use lan_backup::store::stats::{Stats, Volume, stats};
use lan_backup::store::{Error, Repository};
use std::cell::Cell;
use std::collections::HashSet;
use std::time::Duration;

const DAY: Duration = Duration::from_hours(24);

fn look(repository: &Repository) -> Stats {
    stats(repository, &|| false).unwrap()
}

/// Chunks and plain bytes of what was not there before.
fn new_in(made: &Made, seen: &mut HashSet<lan_backup::model::ChunkId>) -> (u64, u64) {
    let all = made.files.iter().chain(&made.streams);
    let new = all.filter(|bytes| seen.insert(codec::chunk_id(bytes)));
    new.fold((0, 0), |(count, sum), bytes| (count + 1, sum + bytes.len() as u64))
}

fn plain(volume: Volume) -> (u64, u64) {
    (volume.chunks, volume.plain)
}

#[test]
fn what_each_snapshot_added_is_counted_once_and_adds_up_to_what_the_packs_take() {
    let folder = tempfile::tempdir().unwrap();
    let (_store, repository, clock) = store_now(folder.path());
    let shared = chunks(2, 30);
    let mut seen = HashSet::new();
    let mut expected = Vec::new();
    for (set, files) in [
        ("documents", [chunks(1, 10), shared.clone()].concat()),
        ("documents", [shared.clone(), chunks(3, 5)].concat()),
        // Another set with much of the same.
        ("photos", [shared.clone(), chunks(4, 7)].concat()),
        ("documents", [shared, chunks(3, 5)].concat()),
    ] {
        clock.advance(DAY);
        let one = back_up(&repository, set, files);
        expected.push((id(&one), new_in(&one, &mut seen)));
    }
    // What a backup left that broke off.
    let left: Vec<Bytes> = (0..3).map(|n| noise(77_000 + n, 2000)).collect();
    put(&repository, &left).unwrap();
    repository.sync().unwrap();

    let found = look(&repository);
    let added: Vec<_> = found.snapshots.iter().map(|snapshot| (snapshot.id, plain(snapshot.added))).collect();
    assert_eq!(added, expected);
    assert!(found.snapshots.iter().all(|snapshot| snapshot.whole && !snapshot.forgotten));
    assert_eq!((expected[3].1, found.snapshots[3].added.stored), ((0, 0), 0), "the last one brought nothing");
    assert_eq!(plain(found.unneeded), (3, 6000));
    assert_eq!(found.packs.bytes, repository.stored_bytes().unwrap());
    let noise_of = |found: &Stats| found.kept().and(found.forgotten()).and(found.unneeded);
    let sum = noise_of(&found);
    assert_eq!(sum.stored + found.overhead(), found.packs.bytes);
    // Noise does not compress: what it takes is what it is, and headers.
    assert!(sum.stored > sum.plain * 9 / 10 && found.overhead() < found.packs.bytes / 20, "{found:?}");
    assert_eq!((found.missing, found.trash.packs), (0, 0));

    // Forgotten ones come last: what others need as well counts for those.
    clock.advance(8 * DAY);
    prune(&repository, &Keep { last: 1, ..Keep::default() });
    let after = look(&repository);
    assert_eq!(after.snapshots.iter().filter(|snapshot| snapshot.forgotten).count(), 2);
    assert_eq!(
        after.snapshots.iter().map(|snapshot| snapshot.id).collect::<Vec<_>>()[2..],
        [expected[0].0, expected[1].0]
    );
    assert!(after.forgotten().chunks >= 10 && after.kept().chunks >= 42);
    assert_eq!(noise_of(&after).chunks, sum.chunks - 3, "what a backup had left is in the trash");

    // Nothing is forgotten for ever: what only they needed goes to the trash, and is seen there.
    clock.advance(8 * DAY);
    let rules = |_: &SetName| Some(Keep { last: 1, ..Keep::default() });
    let report = Prune::prepare(&repository, &rules, &options(), Purpose::Run, &|| false).unwrap().run().unwrap();
    let end = look(&repository);
    assert_eq!(end.snapshots.len(), 2);
    assert!(report.thrown_away.packs > 0);
    assert_eq!(end.trash, report.thrown_away);
    assert_eq!(end.kept().chunks, after.kept().chunks);
}

#[test]
fn what_is_damaged_or_gone_is_said_and_the_rest_is_counted() {
    let folder = tempfile::tempdir().unwrap();
    let (_store, repository, _) = store_now(folder.path());
    let first = back_up(&repository, "documents", chunks(1, 10));
    let before: HashSet<_> = files(folder.path()).into_iter().collect();
    let whole = back_up(&repository, "documents", chunks(2, 10));
    let packs = files(folder.path()).into_iter().filter(|path| path.to_string_lossy().contains("/packs/"));
    let of_first: Vec<_> = packs.filter(|path| before.contains(path)).collect();
    // The pack of its files loses its end, that of its lists goes.
    let mut sizes: Vec<_> = of_first.iter().map(|path| (std::fs::metadata(path).unwrap().len(), path)).collect();
    sizes.sort();
    std::fs::remove_file(sizes[0].1).unwrap();
    let bytes = std::fs::read(sizes[1].1).unwrap();
    std::fs::write(sizes[1].1, &bytes[..bytes.len() - 9]).unwrap();

    let found = look(&repository);
    let is_whole: Vec<_> = found.snapshots.iter().map(|snapshot| (snapshot.id, snapshot.whole)).collect();
    assert_eq!(is_whole, [(id(&first), false), (id(&whole), true)]);
    assert_eq!(found.unreadable.len(), 1, "{found:?}");
    assert!(found.missing > 0);
    assert_eq!(found.snapshots[1].added.chunks as usize, whole.files.len() + whole.streams.len());
    assert!(matches!(stats(&repository, &|| true), Err(Error::Stopped)));
}

#[test]
fn what_a_prune_beside_it_writes_into_another_pack_is_not_said_to_be_gone() {
    let folder = tempfile::tempdir().unwrap();
    let (_store, repository, clock) = store_now(folder.path());
    let heavy = chunks(1, 60);
    put(&repository, &heavy).unwrap();
    back_up(&repository, "documents", heavy.clone());
    back_up(&repository, "documents", heavy.into_iter().skip(1).step_by(3).collect());
    let keep = Keep { last: 1, ..Keep::default() };
    clock.advance(8 * DAY);
    prune(&repository, &keep);
    clock.advance(8 * DAY);
    let (asked, repacked) = (Cell::new(0), Cell::new(0));
    let found = stats(&repository, &|| {
        asked.set(asked.get() + 1);
        // Once for the snapshot, and now the packs are listed.
        if asked.get() == 2 {
            repacked.set(prune(&repository, &keep).repacked.packs);
        }
        false
    });
    assert_eq!((found.unwrap().missing, repacked.get()), (0, 1));
}
