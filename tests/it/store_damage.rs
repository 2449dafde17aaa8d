//! Damage: whatever bit is flipped, it is found or it does not matter.

use crate::store_support::{
    Made, OWNER, assert_whole, back_up, clock, copy, files, new_repository, noise, open, put, read, receiver_key,
};
use lan_backup::codec;
use lan_backup::platform::fs::OpenFile;
use lan_backup::store::pack::verify;
use lan_backup::store::{Error, Repository, Store};
use std::path::{Path, PathBuf};

fn chunks(seed: u64, count: u64) -> Vec<bytes::Bytes> {
    (0..count).map(|n| noise(seed * 1000 + n, 60 + n as usize)).collect()
}

fn find(folder: &Path, part: &str) -> Vec<PathBuf> {
    files(folder).into_iter().filter(|path| path.to_string_lossy().contains(part)).collect()
}

/// Flips one bit in place, as a bad disk does: the file stays the same file.
fn flip(path: &Path, bit: usize) {
    use std::os::unix::fs::FileExt;
    let file = std::fs::OpenOptions::new().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, bit as u64 / 8).unwrap();
    file.write_all_at(&[byte[0] ^ 1 << (bit % 8)], bit as u64 / 8).unwrap();
}

fn length(path: &Path) -> usize {
    path.metadata().unwrap().len() as usize
}

#[test]
fn every_flipped_bit_of_a_pack_is_found() {
    let folder = tempfile::tempdir().unwrap();
    let (_store, repository) = new_repository(folder.path());
    put(&repository, &chunks(1, 10)).unwrap();
    repository.sync().unwrap();
    let [pack] = &find(folder.path(), "/packs/")[..] else { panic!("one pack") };
    let name = pack.file_name().unwrap().to_str().unwrap().to_owned();
    let (_, id, bytes) = verify(&OpenFile::open(pack).unwrap()).unwrap();
    assert_eq!((id.to_string(), bytes), (name, length(pack) as u64));
    for bit in 0..length(pack) * 8 {
        flip(pack, bit);
        let found = verify(&OpenFile::open(pack).unwrap());
        assert!(found.is_err(), "bit {bit}");
        flip(pack, bit);
    }
    for shorter in 0..length(pack) {
        let cut = folder.path().join("cut");
        std::fs::write(&cut, &std::fs::read(pack).unwrap()[..shorter]).unwrap();
        assert!(verify(&OpenFile::open(&cut).unwrap()).is_err(), "{shorter} bytes");
    }
}

#[test]
fn a_flipped_bit_in_a_pack_never_gives_wrong_bytes_and_errors_name_pack_and_chunk() {
    let folder = tempfile::tempdir().unwrap();
    let (_store, repository) = new_repository(folder.path());
    let good = chunks(1, 10);
    let ids = put(&repository, &good).unwrap();
    repository.sync().unwrap();
    let [pack] = &find(folder.path(), "/packs/")[..] else { panic!("one pack") };
    let mut failed = 0;
    for bit in (0..length(pack) * 8).step_by(3) {
        flip(pack, bit);
        match read(&repository, &ids) {
            Ok(found) => ids.iter().zip(&good).for_each(|(id, bytes)| assert_eq!(&found[id], bytes)),
            Err(Error::Chunk { pack: named, .. }) => {
                assert_eq!(named.to_string(), pack.file_name().unwrap().to_str().unwrap());
                failed += 1;
            }
            Err(Error::Block(_)) => failed += 1,
            Err(other) => panic!("bit {bit}: {other}"),
        }
        flip(pack, bit);
    }
    assert!(failed > length(pack), "{failed}");
    std::fs::remove_file(pack).unwrap();
    assert!(matches!(read(&repository, &ids[..1]), Err(Error::Chunk { chunk, .. }) if chunk == ids[0]));
}

/// Everything that one does with a repository works.
fn assert_works(repository: &Repository, old: &[Made], seed: u64) {
    for made in old {
        assert_whole(repository, made);
    }
    let ids: Vec<_> = old.iter().flat_map(|made| &made.files).map(|bytes| codec::chunk_id(bytes)).collect();
    // Asking for more than is missing costs time only; but what was read just now is there.
    repository.missing(&ids).unwrap();
    let new = back_up(repository, "new", chunks(seed, 5));
    assert_whole(repository, &new);
    assert!(repository.stored_bytes().unwrap() > 0);
}

#[test]
fn an_index_that_is_gone_is_built_anew_closed_or_in_use() {
    let folder = tempfile::tempdir().unwrap();
    let (store, repository) = new_repository(folder.path());
    let old = [back_up(&repository, "documents", chunks(1, 100))];
    let remove = || find(folder.path(), "index.sqlite").iter().for_each(|path| std::fs::remove_file(path).unwrap());
    remove();
    assert_works(&repository, &old, 2);
    drop((store, repository));
    remove();
    let (store, report) = open(folder.path());
    assert_eq!((report.rebuilt_indexes, report.is_harmless()), (1, true));
    assert_works(&store.owned_by(&OWNER).unwrap(), &old, 3);
    drop(store);
    std::fs::write(&find(folder.path(), "index.sqlite")[0], vec![7; 100_000]).unwrap();
    let (store, report) = open(folder.path());
    assert_eq!((report.rebuilt_indexes, report.is_harmless()), (1, true));
    assert_works(&store.owned_by(&OWNER).unwrap(), &old, 4);
}

#[test]
fn any_flipped_bit_of_a_closed_index_costs_nothing_but_time() {
    let folder = tempfile::tempdir().unwrap();
    let (store, repository) = new_repository(folder.path());
    let old: Vec<_> = (0..4).map(|n| back_up(&repository, "documents", chunks(n, 80))).collect();
    drop((store, repository));
    let [index] = &find(folder.path(), "index.sqlite")[..] else { panic!("no log is left after closing") };
    let bits = length(index) * 8;
    // All of the header, where each bit has a meaning of its own, and every so often one of the rest.
    let tried = (0..100 * 8).step_by(5).chain((100 * 8..bits).step_by(bits / 150));
    let mut number = 0;
    for bit in tried {
        let copied = tempfile::tempdir().unwrap();
        copy(folder.path(), copied.path());
        flip(&copied.path().join(index.strip_prefix(folder.path()).unwrap()), bit);
        let (store, report) = open(copied.path());
        assert!(report.is_harmless(), "bit {bit}: {report}");
        number += 1;
        assert_works(&store.owned_by(&OWNER).unwrap(), &old, 1000 + number);
    }
}

#[test]
fn flipped_bits_in_an_index_that_is_in_use_cost_nothing_but_time() {
    let folder = tempfile::tempdir().unwrap();
    let (store, repository) = new_repository(folder.path());
    let old: Vec<_> = (0..4).map(|n| back_up(&repository, "documents", chunks(n, 80))).collect();
    for n in 0..60 {
        for path in find(folder.path(), "index.sqlite").iter().filter(|path| !path.ends_with("index.sqlite-shm")) {
            let bits = length(path) * 8;
            if bits > 0 {
                flip(path, (n * 2_654_435_761) % bits);
            }
        }
        assert_works(&repository, &old, 2000 + n as u64);
    }
    drop((store, repository));
    let (store, report) = open(folder.path());
    assert!(report.is_harmless(), "{report}");
    assert_works(&store.owned_by(&OWNER).unwrap(), &old, 3000);
}

#[test]
fn rows_that_vanish_change_or_appear_in_the_index_are_noticed_when_it_matters() {
    // Each leaves a file that SQLite is happy with.
    for harm in [
        "DELETE FROM chunks",
        "DELETE FROM chunks WHERE id = (SELECT max(id) FROM chunks)",
        "DELETE FROM packs",
        "DELETE FROM packs WHERE number = 1",
        "UPDATE chunks SET offset = offset + 1",
        "UPDATE chunks SET length = length - 1",
        "UPDATE chunks SET pack = 3 - pack",
        "UPDATE chunks SET offset = 'text'",
        "UPDATE chunks SET checksum = checksum + 1",
        "UPDATE packs SET bytes = bytes + 1",
        "UPDATE packs SET id = randomblob(32)",
        "UPDATE packs SET chunk_count = 0",
        "DROP TABLE chunks",
        "PRAGMA user_version = 7",
        "INSERT INTO packs SELECT number + 10, randomblob(32), chunk_count, bytes, checksum FROM packs",
    ] {
        for closed in [true, false] {
            let folder = tempfile::tempdir().unwrap();
            let (store, repository) = new_repository(folder.path());
            let old = back_up(&repository, "documents", chunks(1, 50));
            let index = find(folder.path(), "index.sqlite")[0].clone();
            let spoil = || rusqlite::Connection::open(&index).unwrap().execute_batch(harm).unwrap();
            let new = Made::new(&repository, "documents", old.files.clone());
            if closed {
                drop((store, repository));
                spoil();
                let (store, report) = open(folder.path());
                assert!(report.is_harmless(), "{harm}: {report}");
                let repository = store.owned_by(&OWNER).unwrap();
                repository.commit(&new.signed(), OWNER).unwrap_or_else(|error| panic!("{harm}: {error}"));
                assert_whole(&repository, &new);
            } else {
                spoil();
                assert_whole(&repository, &old);
                repository.commit(&new.signed(), OWNER).unwrap_or_else(|error| panic!("{harm}: {error}"));
            }
        }
    }
}

#[test]
fn damaged_packs_and_records_and_lost_packs_are_named_on_opening_and_hide_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let (store, repository) = new_repository(folder.path());
    let good = back_up(&repository, "good", chunks(1, 10));
    let packs = find(folder.path(), "/packs/");
    back_up(&repository, "lost", chunks(2, 10));
    let lost: Vec<_> = find(folder.path(), "/packs/").into_iter().filter(|path| !packs.contains(path)).collect();
    let records = find(folder.path(), "/records/");
    back_up(&repository, "bad", chunks(3, 10));
    let record = find(folder.path(), "/records/").into_iter().find(|path| !records.contains(path)).unwrap();
    drop((store, repository));
    std::fs::remove_file(&lost[0]).unwrap();
    flip(&lost[1], length(&lost[1]) * 8 - 1);
    flip(&record, 77);
    std::fs::remove_file(&find(folder.path(), "index.sqlite")[0]).unwrap();
    let (store, report) = open(folder.path());
    assert!(!report.is_harmless());
    assert_eq!((report.unreadable_packs.len(), report.unreadable_records.len()), (1, 1));
    let text = report.to_string();
    assert!(text.contains(lost[1].file_name().unwrap().to_str().unwrap()), "{text}");
    assert!(text.contains(record.file_name().unwrap().to_str().unwrap()), "{text}");
    let repository = store.owned_by(&OWNER).unwrap();
    assert_whole(&repository, &good);
    assert_eq!(repository.snapshots().unwrap().len(), 2);
    // The head of a set that cannot be read is an error and not an empty set.
    assert!(repository.head(&"bad".parse().unwrap()).unwrap_err().is_damage());
}

#[test]
fn a_pack_that_vanished_is_named_when_the_index_knew_it() {
    let folder = tempfile::tempdir().unwrap();
    let (store, repository) = new_repository(folder.path());
    let made = back_up(&repository, "documents", chunks(1, 10));
    drop((store, repository));
    let packs = find(folder.path(), "/packs/");
    for pack in &packs {
        std::fs::remove_file(pack).unwrap();
    }
    let (store, report) = open(folder.path());
    assert_eq!(report.vanished_packs.len(), packs.len());
    assert!(!report.is_harmless());
    // What is gone is asked for again, so the next backup mends the snapshot.
    let repository = store.owned_by(&OWNER).unwrap();
    let ids: Vec<_> = made.files.iter().chain(&made.streams).map(|bytes| codec::chunk_id(bytes)).collect();
    assert_eq!(repository.missing(&ids).unwrap(), ids);
    made.put(&repository);
    assert_whole(&repository, &made);
}

#[test]
fn a_flipped_bit_in_any_small_file_is_found_and_named() {
    let folder = tempfile::tempdir().unwrap();
    let (store, repository) = new_repository(folder.path());
    back_up(&repository, "documents", chunks(1, 3));
    let id = repository.id().to_string();
    drop((store, repository));
    let small: Vec<_> = ["store.json", "config.json", "owners/", "records/"]
        .iter()
        .flat_map(|part| find(folder.path(), part))
        .collect();
    assert_eq!(small.len(), 4);
    for path in small {
        for bit in (0..length(&path) * 8).step_by(7) {
            flip(&path, bit);
            match Store::open_or_create(folder.path(), clock(), receiver_key()) {
                // A flipped bit of the format number can look like a newer version.
                Err(Error::Unusable { .. } | Error::NewerFormat { .. }) => {}
                Err(other) => panic!("bit {bit} of {}: {other}", path.display()),
                Ok((store, report)) => match (&report.unusable_repositories[..], &report.unreadable_records[..]) {
                    ([(named, _)], []) => assert!(*named == id && store.repositories().is_empty()),
                    ([], [(named, _)]) => assert!(path.to_string_lossy().ends_with(named)),
                    other => panic!("bit {bit} of {} was not found: {other:?}", path.display()),
                },
            }
            flip(&path, bit);
        }
    }
    assert_eq!(open(folder.path()).1.to_string(), "");
}

#[test]
fn blocks_that_are_not_what_they_say_are_refused_and_never_kept() {
    let folder = tempfile::tempdir().unwrap();
    let (_store, repository) = new_repository(folder.path());
    let good = crate::store_support::block(&chunks(1, 3));
    let mut renamed = good.clone();
    renamed.header.chunks[1].id = codec::chunk_id(b"something else");
    let mut rotten = good.clone();
    rotten.header.stored_hash = codec::stored_hash(b"something else");
    let mut writer = repository.begin_pack().unwrap();
    assert!(matches!(writer.append(&renamed), Err(Error::Block(_))));
    assert!(matches!(writer.append(&rotten), Err(Error::Block(_))));
    writer.append(&good).unwrap();
    assert_eq!(writer.finish().unwrap(), 3);
    repository.sync().unwrap();
    assert_eq!(repository.missing(&[codec::chunk_id(b"something else")]).unwrap().len(), 1);
}

#[test]
fn a_block_is_delivered_once_in_the_order_of_packs_and_cut_down_when_little_is_wanted() {
    let folder = tempfile::tempdir().unwrap();
    let (_store, repository) = new_repository(folder.path());
    let all = chunks(1, 64);
    let ids = put(&repository, &all).unwrap();
    repository.sync().unwrap();
    let blocks_for = |wanted: &[lan_backup::model::ChunkId]| {
        let mut blocks = Vec::new();
        repository
            .read_blocks(wanted, &mut |block| {
                blocks.push(block.header.chunks.iter().map(|chunk| chunk.id).collect::<Vec<_>>());
                std::ops::ControlFlow::Continue(())
            })
            .unwrap();
        blocks
    };
    let backwards: Vec<_> = ids.iter().rev().chain(&ids).copied().collect();
    assert_eq!(blocks_for(&backwards).concat(), ids);
    // Blocks hold eight chunks: three are cut out, five are not.
    assert_eq!(blocks_for(&ids[..3]), [ids[..3].to_vec()]);
    assert_eq!(blocks_for(&ids[..5]), [ids[..8].to_vec()]);
    let mut seen = 0;
    repository
        .read_blocks(&ids, &mut |_| {
            seen += 1;
            std::ops::ControlFlow::Break(())
        })
        .unwrap();
    assert_eq!(seen, 1);
    let absent = codec::chunk_id(b"absent");
    assert!(matches!(read(&repository, &[ids[0], absent]), Err(Error::NotFound(id)) if id == absent));
}
