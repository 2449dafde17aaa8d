//! Row 5 of the bar: one flipped bit in every file of a store, and many at random. Each is found and named by `verify`, and a restore
//! says what it could not give back and leaves nothing wrong under a final name.

use crate::store_support::{OWNER, files, new_repository, open, source_key};
use crate::support::bench::{Bench, head, let_file_times_move_on, restore};
use crate::support::scratch::{long, scratch};
use crate::support::tree::{assert_same, noise};
use lan_backup::model::SnapshotInfo;
use lan_backup::monitor::Silent;
use lan_backup::platform::shutdown::Shutdown;
use lan_backup::restore::Conflict;
use lan_backup::store::verify::{Findings, Share, VerifyOptions, verify};
use lan_backup::store::{LocalVault, Store};
use lan_backup::vault::Vault;
use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Looks at a store that is open.
pub(crate) fn look(store: &Store, data: Share) -> Findings {
    verify(store, VerifyOptions { data }, &Silent, &Shutdown::new()).unwrap()
}

/// Flips a bit in place, as a bad disk does. Done twice, nothing has happened.
pub(crate) fn flip(path: &Path, bit: u64) {
    let file = fs::OpenOptions::new().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, bit / 8).unwrap();
    file.write_all_at(&[byte[0] ^ (1 << (bit % 8))], bit / 8).unwrap();
}

/// A closed store with two snapshots of a tree of all kinds of files, small enough to be read a thousand times.
pub(crate) async fn two_snapshots(store: &Path) -> (Bench, Vec<SnapshotInfo>) {
    let mut bench = Bench::new(source_key());
    let tree = bench.tree();
    fs::create_dir(tree.join("letters")).unwrap();
    for number in 0..30 {
        fs::write(tree.join(format!("letters/{number}")), format!("dear number {number}\n").repeat(50)).unwrap();
    }
    fs::write(tree.join("large"), noise(400_000, 1)).unwrap();
    fs::write(tree.join("larger"), noise(700_000, 2)).unwrap();
    let (_store, repository) = new_repository(store);
    let vault = Arc::new(LocalVault::new(repository, OWNER));
    bench.back_up(&vault).await.unwrap();
    let_file_times_move_on(&tree, &bench.path("probe"));
    fs::write(tree.join("letters/7"), "rewritten").unwrap();
    fs::write(tree.join("new"), noise(50_000, 3)).unwrap();
    bench.back_up(&vault).await.unwrap();
    let snapshots = vault.snapshots().await.unwrap();
    assert_eq!(snapshots.len(), 2);
    (bench, snapshots)
}

/// The files of a store that hold something, locks left out.
pub(crate) fn stored(store: &Path) -> Vec<PathBuf> {
    files(store).into_iter().filter(|path| fs::metadata(path).unwrap().len() > 0).collect()
}

/// What became of one flipped bit.
#[derive(Debug, Default, PartialEq, Eq)]
struct Outcome {
    found_by_structure: bool,
    snapshots_hit: usize,
    lost_files: usize,
}

/// Opens the store with a bit flipped and holds the rule: found and named, and nothing wrong restored.
async fn check(store: &Path, path: &Path, bit: u64, bench: &Bench, newest: &SnapshotInfo) -> Outcome {
    let named = path.strip_prefix(store).unwrap().to_str().unwrap().to_owned();
    let opened = Store::open_or_create(store, crate::store_support::clock(), crate::store_support::receiver_key());
    let store = match opened {
        Ok((store, _)) => store,
        // Only the file that says what the store is keeps it from being opened, and the error says so.
        Err(error) => {
            assert!(named == "store.json" && error.to_string().contains("store.json"), "bit {bit} of {named}: {error}");
            return Outcome { found_by_structure: true, ..Outcome::default() };
        }
    };
    let structure = look(&store, Share::None);
    let found = look(&store, Share::All);
    let is_cache = named.contains("index.sqlite");
    if is_cache {
        assert!(found.is_clean(), "bit {bit} of {named}: {found:#?}");
    } else {
        let paths: Vec<_> = found.files.iter().map(|file| file.path.as_str()).collect();
        assert_eq!(paths, [named.as_str()], "bit {bit} of {named}: {found:#?}");
    }
    let hit: Option<BTreeSet<String>> =
        found.snapshots.iter().find(|hit| hit.snapshot == newest.id).map(|hit| hit.files.iter().cloned().collect());
    let out = scratch();
    let outcome = Outcome {
        found_by_structure: !structure.is_clean(),
        snapshots_hit: found.snapshots.len(),
        lost_files: hit.as_ref().map_or(0, BTreeSet::len),
    };
    let Some(repository) = store.repositories().pop() else { return outcome };
    let vault = Arc::new(LocalVault::new(repository, OWNER));
    match restore(&vault, newest, out.path(), Conflict::KeepBoth).await {
        Err(_) => {
            assert!(hit.is_some(), "bit {bit} of {named}: a restore failed and verify knows nothing");
            assert_eq!(fs::read_dir(out.path()).unwrap().count(), 0);
        }
        Ok(restored) => {
            let lost: BTreeSet<String> = restored.faults.iter().map(|fault| fault.subject.clone()).collect();
            // The reader of a block goes by its own header, of which the trailer has a copy: what verify does not call lost, a
            // restore may miss until it is repaired, and never the other way round.
            let known = hit.unwrap_or_default();
            assert!(known.is_subset(&lost), "bit {bit} of {named}: {known:?} against {lost:?}");
            for file in files(out.path()) {
                let original = bench.path(file.strip_prefix(out.path()).unwrap().to_str().unwrap());
                assert!(fs::read(&file).unwrap() == fs::read(original).unwrap(), "bit {bit} of {named}: {file:?}");
            }
            let whole = files(&bench.tree()).len();
            assert_eq!(files(out.path()).len(), whole - lost.len(), "bit {bit} of {named}");
        }
    }
    outcome
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flipped_bit_in_any_file_of_a_store_is_found_and_named_and_never_restored() {
    let folder = scratch();
    let store = folder.path();
    let (bench, snapshots) = two_snapshots(store).await;
    let all = stored(store);
    let kinds = ["store.json", "config.json", "owners/", "records/", "packs/", "index.sqlite"];
    assert!(kinds.iter().all(|kind| all.iter().any(|path| path.to_string_lossy().contains(kind))), "{all:#?}");
    assert!(look(&open(store).0, Share::All).is_clean(), "nothing is wrong before the first bit");
    let mut outcomes = Vec::new();
    let mut run = async |path: &PathBuf, bit: u64| {
        flip(path, bit);
        let outcome = check(store, path, bit, &bench, &snapshots[1]).await;
        flip(path, bit);
        if path.to_string_lossy().contains("index.sqlite") {
            // It may have been built anew meanwhile, and the bit flipped in another file.
            files(store)
                .iter()
                .filter(|p| p.to_string_lossy().contains("index.sqlite"))
                .for_each(|p| fs::remove_file(p).unwrap());
            drop(open(store));
        }
        outcomes.push((path.clone(), outcome));
    };
    let random = |n: u64| u64::from_le_bytes(blake3::hash(&n.to_le_bytes()).as_bytes()[..8].try_into().unwrap());
    for (number, path) in all.iter().enumerate() {
        run(path, random(number as u64) % (fs::metadata(path).unwrap().len() * 8)).await;
    }
    // At random over all bytes but those of the cache, which has tests of its own.
    let kept: Vec<_> = all.iter().filter(|path| !path.to_string_lossy().contains("index.sqlite")).collect();
    let sizes: Vec<u64> = kept.iter().map(|path| fs::metadata(path).unwrap().len() * 8).collect();
    let flips = if long() { 1000 } else { 100 };
    for number in 0..flips {
        // Half of them by file, or the small ones would never be hit.
        let (file, bit) = if number % 2 == 0 {
            let file = random(1000 + number) as usize % kept.len();
            (file, random(5000 + number) % sizes[file])
        } else {
            let mut at = random(1000 + number) % sizes.iter().sum::<u64>();
            let file = sizes.iter().position(|size| at.checked_sub(*size).map(|left| at = left).is_none()).unwrap();
            (file, at)
        };
        run(kept[file], bit).await;
    }
    // The control: without reading the content, some of these would not have been found, so they were there to be found.
    let missed = outcomes.iter().filter(|(_, outcome)| !outcome.found_by_structure).count();
    let lost: usize = outcomes.iter().map(|(_, outcome)| outcome.lost_files).sum();
    let hit = outcomes.iter().filter(|(_, outcome)| outcome.snapshots_hit > 0).count();
    assert!(missed > 10 && lost > 10 && hit > 10, "{missed} found by data only, {lost} files, {hit} hits");
    assert!(look(&open(store).0, Share::All).is_clean(), "every bit was flipped back");
    let (reopened, _) = open(store);
    let vault = Arc::new(LocalVault::new(reopened.repositories().pop().unwrap(), OWNER));
    let out = scratch();
    restore(&vault, &head(&vault).await.unwrap(), out.path(), Conflict::KeepBoth).await.unwrap();
    assert_same(&bench.tree(), &out.path().join("tree"));
}
