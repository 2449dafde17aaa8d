//! Lines of a manifest, entries a second on one core; and the walk through an unchanged tree, merged with the last snapshot.

use crate::samples::entries;
use divan::Bencher;
use divan::counter::ItemsCount;
use lan_backup::backup::cache::{Cache, head_of};
use lan_backup::backup::filter::Filter;
use lan_backup::backup::filter::FilterOptions;
use lan_backup::backup::inspect::{Inspector, Stamp};
use lan_backup::backup::walk::Walk;
use lan_backup::backup::{Roots, ScanOptions, scan};
use lan_backup::manifest;
use lan_backup::model::{Content, EntryKind, RepositoryId, SnapshotId};
use lan_backup::monitor::Silent;
use lan_backup::platform::clock::SystemClock;
use lan_backup::platform::shutdown::Shutdown;
use std::collections::HashSet;

const COUNT: u32 = 10_000;

#[divan::bench]
fn encode(bencher: Bencher<'_, '_>) {
    let entries = entries(COUNT);
    bencher
        .counter(ItemsCount::new(entries.len()))
        .bench_local(|| entries.iter().map(|entry| manifest::encode(entry).len()).sum::<usize>());
}

#[divan::bench]
fn decode(bencher: Bencher<'_, '_>) {
    let lines: Vec<_> = entries(COUNT).iter().map(manifest::encode).collect();
    bencher
        .counter(ItemsCount::new(lines.len()))
        .bench_local(|| lines.iter().filter(|line| manifest::decode(line).unwrap().is_file()).count());
}

/// A tree of empty files on the real disk, all unchanged.
#[divan::bench]
fn merge_unchanged(bencher: Bencher<'_, '_>) {
    let folder = tempfile::tempdir().unwrap();
    let tree = folder.path().join("tree");
    for number in 0..COUNT {
        let folder = tree.join(format!("folder{:05}", number / 100));
        if number % 100 == 0 {
            std::fs::create_dir_all(&folder).unwrap();
        }
        std::fs::write(folder.join(format!("file{number:07}.txt")), b"").unwrap();
    }
    // Younger than that, a file's time says nothing.
    std::thread::sleep(std::time::Duration::from_millis(200));
    let roots = Roots::resolve(&[tree]).unwrap();
    let filter = FilterOptions::default();
    let cache = Cache::new(folder.path(), RepositoryId::from_random([1; 16]), &"set".parse().unwrap()).unwrap();
    let snapshot = SnapshotId::from_bytes([7; 32]);
    let mut writer = cache.begin().unwrap();
    let mut inspector = Inspector::default();
    for found in Walk::new(&roots, &Filter::new(&filter).unwrap(), &SystemClock, &Silent) {
        let mut entry = inspector.entry(&found, None, &Silent).unwrap();
        if let EntryKind::File { content, .. } = &mut entry.kind {
            *content = Some(Content::Inline(Vec::new()));
        }
        writer
            .write(head_of(Some(Stamp::at_this_moment(&found.metadata)), None).as_bytes(), &manifest::encode(&entry))
            .unwrap();
    }
    writer.finish(&snapshot, &HashSet::new()).unwrap();
    let options = ScanOptions {
        roots: &roots,
        filter: &filter,
        parent: Some(snapshot),
        cache: Some(&cache),
        scratch: folder.path(),
    };
    bencher.counter(ItemsCount::new(COUNT)).bench_local(|| {
        let plan = scan(&options, &SystemClock, &Silent, &Shutdown::new()).unwrap();
        assert_eq!(plan.bytes_to_read + plan.changes.changed_files + plan.changes.new_files, 0);
        plan
    });
}
