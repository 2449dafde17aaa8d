//! The engines against a real store in a real folder: reopened, without its index, and with bits flipped.

use crate::store_support::{OWNER, files, new_repository, open, source_key};
use crate::support::bench::{Bench, content, entries, head, let_file_times_move_on, restore};
use crate::support::scratch::{long, scratch};
use crate::support::tree::{assert_same, noise, odd_tree};
use lan_backup::codec::Decoder;
use lan_backup::model::{ChunkId, Content, Extent};
use lan_backup::restore::Conflict;
use lan_backup::signer;
use lan_backup::store::LocalVault;
use lan_backup::vault::Vault;
use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The only repository of the store in `folder`, as a process finds it that starts now.
fn reopened(folder: &Path) -> Arc<LocalVault> {
    let (store, report) = open(folder);
    assert!(report.is_harmless(), "{report}");
    Arc::new(LocalVault::new(store.repositories().pop().unwrap(), OWNER))
}

fn vault(folder: &Path) -> Arc<LocalVault> {
    let (_store, repository) = new_repository(folder);
    Arc::new(LocalVault::new(repository, OWNER))
}

fn lose_index(store: &Path) {
    let index: Vec<PathBuf> =
        files(store).into_iter().filter(|path| path.to_string_lossy().contains("index.sqlite")).collect();
    assert!(!index.is_empty());
    for path in index {
        fs::remove_file(path).unwrap();
    }
}

fn packs(store: &Path) -> Vec<PathBuf> {
    files(store).into_iter().filter(|path| path.to_string_lossy().contains("/packs/")).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_odd_tree_comes_back_from_a_store_that_was_closed_and_lost_its_index() {
    let mut bench = Bench::new(source_key());
    odd_tree(&bench.tree());
    let store = bench.path("store");
    {
        let vault = vault(&store);
        let report = bench.back_up(&vault).await.unwrap();
        assert_eq!(bench.monitor.faults(), []);
        assert_eq!(report.changes.new_files, report.totals.files);
    }
    for (round, index_lost) in [(1, false), (2, true)] {
        if index_lost {
            lose_index(&store);
        }
        let vault = reopened(&store);
        let out = bench.path(&format!("out{round}"));
        let restored = restore(&vault, &head(&vault).await.unwrap(), &out, Conflict::KeepBoth).await.unwrap();
        assert_eq!(restored.faults, []);
        assert_eq!(restored.stats.identical_files, 0);
        assert_same(&bench.tree(), &out.join("tree"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn three_snapshots_of_one_tree_cost_little_more_than_one() {
    let mut bench = Bench::new(source_key());
    let store = bench.path("store");
    for number in 0..20 {
        fs::write(bench.tree().join(format!("f{number}")), noise(1_000_000, number)).unwrap();
    }
    drop(vault(&store));
    let mut sizes = Vec::new();
    for round in 0..3 {
        if round == 2 {
            lose_index(&store);
        }
        let vault = reopened(&store);
        // Each keeps a copy of the tree at its time.
        let copy = bench.path(&format!("copy{round}"));
        fs::create_dir(&copy).unwrap();
        bench.back_up(&vault).await.unwrap();
        let restored = restore(&vault, &head(&vault).await.unwrap(), &copy, Conflict::KeepBoth).await.unwrap();
        assert_eq!(restored.faults, []);
        assert_same(&bench.tree(), &copy.join("tree"));
        sizes.push(vault.repository().stored_bytes().unwrap());
        let_file_times_move_on(&bench.tree(), &bench.path("probe"));
        fs::copy(bench.tree().join("f3"), bench.tree().join(format!("copy of f3, {round}"))).unwrap();
        fs::write(bench.tree().join("f7"), noise(1000, 100 + round)).unwrap();
    }
    assert!(sizes[0] > 20_000_000, "{sizes:?}");
    // Each round adds 1,000 new bytes, a manifest, refs and their packs' trailers.
    assert!(sizes[2] - sizes[0] < 40_000, "{sizes:?}");
    let vault = reopened(&store);
    let all = vault.snapshots().await.unwrap();
    assert_eq!(all.len(), 3);
    for (round, snapshot) in all.iter().enumerate() {
        let out = bench.path(&format!("again{round}"));
        restore(&vault, snapshot, &out, Conflict::KeepBoth).await.unwrap();
        assert_same(&bench.path(&format!("copy{round}/tree")), &out.join("tree"));
    }
}

/// Those of `ids` that the vault cannot give, asked one by one.
async fn damaged(vault: &LocalVault, ids: impl Iterator<Item = ChunkId>) -> BTreeSet<ChunkId> {
    let mut damaged = BTreeSet::new();
    for id in ids {
        let good = match vault.get(vec![id]).await {
            Ok(blocks) => blocks.iter().any(|block| {
                Decoder::new().decode(block).is_ok() && block.header.chunks.iter().any(|chunk| chunk.id == id)
            }),
            Err(_) => false,
        };
        if !good {
            damaged.insert(id);
        }
    }
    damaged
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flipped_bit_loses_the_files_it_hits_and_no_others_and_leaves_nothing_wrong() {
    let mut bench = Bench::new(source_key());
    // Several packs, with files of many chunks, blocks of many files, and a file that two names share.
    for number in 0..8 {
        fs::write(bench.tree().join(format!("large{number}")), noise(5_000_000, number)).unwrap();
    }
    for number in 0..200 {
        fs::write(bench.tree().join(format!("small{number}")), noise(10_000, 1000 + number)).unwrap();
    }
    fs::hard_link(bench.tree().join("small1"), bench.tree().join("a name of small1")).unwrap();
    let store = bench.path("store");
    let (snapshot, wanted, own) = {
        let vault = vault(&store);
        bench.back_up(&vault).await.unwrap();
        let snapshot = head(&vault).await.unwrap();
        let record = signer::open_record(&snapshot.signed).unwrap();
        let wanted: Vec<(String, Vec<ChunkId>)> = entries(&vault, &snapshot)
            .await
            .iter()
            .map(|entry| {
                let ids = match content(entry) {
                    Some(Content::Inline(extents)) => extents.iter().filter_map(Extent::chunk).collect(),
                    _ => Vec::new(),
                };
                (entry.path.to_string(), ids)
            })
            .collect();
        (snapshot, wanted, record.manifest.ids)
    };
    let packs = packs(&store);
    assert!(packs.len() >= 3, "{packs:?}");
    let (mut files_lost, mut manifests_lost) = (0, 0);
    for (number, pack) in packs.iter().enumerate() {
        let file = fs::OpenOptions::new().read(true).write(true).open(pack).unwrap();
        let length = file.metadata().unwrap().len();
        let places = if long() { 16 } else { 2 };
        for place in 0..places {
            // Spread over blocks, headers and trailer.
            let at = (length * (2 * place + 1) / (2 * places) + 37 * number as u64) % length;
            let mut byte = [0];
            file.read_exact_at(&mut byte, at).unwrap();
            let flipped = [byte[0] ^ (1 << (at % 8))];
            file.write_all_at(&flipped, at).unwrap();

            let (opened, _) = open(&store);
            let vault = Arc::new(LocalVault::new(opened.repositories().pop().unwrap(), OWNER));
            let bad = damaged(&vault, wanted.iter().flat_map(|(_, ids)| ids.iter().copied())).await;
            let hit: BTreeSet<String> = wanted
                .iter()
                .filter(|(_, ids)| ids.iter().any(|id| bad.contains(id)))
                .map(|(path, _)| path.clone())
                .collect();
            let manifest_hit = !damaged(&vault, own.iter().copied()).await.is_empty();
            let out = scratch();
            let outcome = restore(&vault, &snapshot, out.path(), Conflict::KeepBoth).await;
            if manifest_hit {
                assert!(outcome.is_err());
                assert_eq!(fs::read_dir(out.path()).unwrap().count(), 0);
                manifests_lost += 1;
            } else {
                let faults = outcome.unwrap().faults;
                let told: BTreeSet<String> = faults.iter().map(|fault| fault.subject.clone()).collect();
                assert_eq!((told, faults.len()), (hit.clone(), hit.len()), "{pack:?} at {at}");
                for (path, _) in wanted.iter().filter(|(path, _)| path != "tree") {
                    let (original, restored) = (bench.path(path), out.path().join(path));
                    assert_eq!(restored.exists(), !hit.contains(path), "{path}");
                    assert!(!restored.exists() || fs::read(original).unwrap() == fs::read(restored).unwrap(), "{path}");
                }
                assert_eq!(fs::read_dir(out.path().join("tree")).unwrap().count(), wanted.len() - 1 - hit.len());
                files_lost += hit.len();
            }
            drop((vault, opened));
            file.write_all_at(&byte, at).unwrap();
        }
    }
    assert!(files_lost > 0 || manifests_lost > 0, "no bit hit anything");
    let vault = reopened(&store);
    let out = scratch();
    assert_eq!(restore(&vault, &snapshot, out.path(), Conflict::KeepBoth).await.unwrap().faults, []);
    assert_same(&bench.tree(), &out.path().join("tree"));
}
