//! What a crash may cost: nothing that was acknowledged, and at most the batch that was being written.

use crate::store_support::{
    Made, OWNER, PATIENCE, assert_whole, back_up, block, clock, controlled, copy, files, new_repository, noise, open,
    put, receiver_key, source_key,
};
use lan_backup::codec;
use lan_backup::model::Alias;
use lan_backup::store::{Error, Store};
use std::path::PathBuf;

fn chunks(seed: u64, count: u64) -> Vec<bytes::Bytes> {
    (0..count).map(|n| noise(seed * 1000 + n, 100 + n as usize)).collect()
}

#[test]
fn finished_packs_that_a_crash_left_are_saved_and_unfinished_ones_are_deleted() {
    let [folder, crashed] = [(); 2].map(|()| tempfile::tempdir().unwrap());
    let (_store, repository, control) = controlled(folder.path());
    let old = back_up(&repository, "documents", chunks(1, 30));
    let new = Made::new(&repository, "documents", chunks(2, 30));
    control.hold();
    new.put(&repository);
    let mut writer = repository.begin_pack().unwrap();
    writer.append(&block(&chunks(3, 5))).unwrap();
    control.wait_until_held();
    copy(folder.path(), crashed.path());
    control.release();
    let (store, report) = open(crashed.path());
    // Two packs were waiting; one was being written.
    assert_eq!((report.rescued_packs, report.discarded_drafts), (2, 1));
    assert!(report.is_harmless(), "{report}");
    assert!(report.to_string().contains("2 packs that a crash had left half-way were saved"), "{report}");
    let repository = store.owned_by(&OWNER).unwrap();
    assert_whole(&repository, &old);
    let ids: Vec<_> = new.files.iter().chain(&new.streams).map(|bytes| codec::chunk_id(bytes)).collect();
    assert_eq!(repository.missing(&ids).unwrap(), []);
    repository.commit(&new.signed(), OWNER).unwrap();
    assert_whole(&repository, &new);
    drop((store, repository));
    assert_eq!(open(crashed.path()).1.to_string(), "");
}

#[test]
fn a_draft_with_any_flipped_bit_is_not_saved() {
    let [folder, crashed] = [(); 2].map(|()| tempfile::tempdir().unwrap());
    let (_store, repository, control) = controlled(folder.path());
    control.hold();
    put(&repository, &chunks(1, 3)).unwrap();
    control.wait_until_held();
    copy(folder.path(), crashed.path());
    control.release();
    let draft = files(crashed.path())
        .into_iter()
        .find(|path| path.to_string_lossy().contains("staging/") && !path.ends_with("lock"));
    let draft = draft.filter(|path| path.metadata().unwrap().len() > 100).expect("there is a draft");
    let good = std::fs::read(&draft).unwrap();
    for byte in (0..good.len()).step_by(7) {
        let attempt = tempfile::tempdir().unwrap();
        copy(crashed.path(), attempt.path());
        let mut bad = good.clone();
        bad[byte] ^= 1 << (byte % 8);
        std::fs::write(attempt.path().join(draft.strip_prefix(crashed.path()).unwrap()), bad).unwrap();
        let (_, report) = open(attempt.path());
        assert_eq!((report.rescued_packs, report.discarded_drafts), (0, 1), "byte {byte}");
    }
}

#[test]
fn the_staging_folder_of_a_living_process_is_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let (_store, repository, control) = controlled(folder.path());
    let made = Made::new(&repository, "documents", chunks(1, 30));
    control.hold();
    made.put(&repository);
    control.wait_until_held();
    let (other, report) = open(folder.path());
    assert_eq!(report.to_string(), "");
    assert_eq!(other.owned_by(&OWNER).unwrap().missing(&[codec::chunk_id(&made.files[0])]).unwrap().len(), 1);
    control.release();
    repository.commit(&made.signed(), OWNER).unwrap();
    assert_whole(&repository, &made);
}

#[test]
fn a_copy_taken_at_any_moment_holds_every_snapshot_that_was_acknowledged_before_it() {
    let folder = tempfile::tempdir().unwrap();
    let (store, repository) = new_repository(folder.path());
    std::thread::scope(|scope| {
        let (send, receive) = std::sync::mpsc::sync_channel::<usize>(0);
        let repository = &repository;
        let writer = scope.spawn(move || {
            let mut all = Vec::new();
            for n in 0..20 {
                all.push(back_up(repository, "documents", chunks(n, 60)));
                // A rendezvous: the copy is taken while the next one is on its way.
                let _ = send.send(all.len());
            }
            all
        });
        let mut copies = Vec::new();
        while let Ok(acknowledged) = receive.recv() {
            let crashed = tempfile::tempdir().unwrap();
            copy_while_changing(folder.path(), crashed.path());
            copies.push((acknowledged, crashed));
        }
        let all = writer.join().unwrap();
        for (acknowledged, crashed) in &copies {
            let (store, report) = open(crashed.path());
            assert!(report.is_harmless(), "{report}");
            let repository = store.owned_by(&OWNER).unwrap();
            assert!(repository.snapshots().unwrap().len() >= *acknowledged);
            all[..*acknowledged].iter().for_each(|made| assert_whole(&repository, made));
        }
        assert_eq!(copies.len(), 20);
    });
    drop(store);
}

/// Like `cp` on a living folder: records first and packs after, as the write order is the other way round. Files that go
/// while it copies are left out.
fn copy_while_changing(from: &std::path::Path, to: &std::path::Path) {
    let order = |path: &PathBuf| {
        let text = path.to_string_lossy().into_owned();
        ["records/", "index.sqlite"].iter().position(|part| text.contains(part)).unwrap_or(2)
    };
    let walk = |folder: &std::path::Path| {
        let mut all = Vec::new();
        let mut folders = vec![folder.to_owned()];
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(&folder).into_iter().flatten().flatten() {
                let path = entry.path();
                if path.is_dir() { folders.push(path) } else { all.push(path) }
            }
        }
        all
    };
    let copy_all = |mut all: Vec<PathBuf>| {
        all.sort_by_key(order);
        for path in all {
            let target = to.join(path.strip_prefix(from).unwrap());
            std::fs::create_dir_all(target.parent().unwrap()).unwrap();
            if let Ok(bytes) = std::fs::read(&path) {
                std::fs::write(target, bytes).unwrap();
            }
        }
    };
    copy_all(walk(from).into_iter().filter(|path| order(path) < 2).collect());
    copy_all(walk(from).into_iter().filter(|path| order(path) == 2).collect());
}

#[test]
fn closing_a_store_loses_nothing_that_was_finished() {
    let folder = tempfile::tempdir().unwrap();
    let (store, repository) = new_repository(folder.path());
    let made = Made::new(&repository, "documents", chunks(1, 30));
    made.put(&repository);
    let writer = repository.begin_pack().unwrap();
    drop((store, repository));
    assert!(matches!(writer.finish(), Ok(0)));
    let (store, report) = open(folder.path());
    assert_eq!(report.to_string(), "");
    store.owned_by(&OWNER).unwrap().commit(&made.signed(), OWNER).unwrap();
    let staging = files(folder.path()).into_iter().filter(|path| path.to_string_lossy().contains("/staging/"));
    assert_eq!(staging.count(), 1, "the lock of this process, and nothing else");
}

#[test]
fn a_dropped_writer_and_a_pack_of_known_chunks_leave_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let (_store, repository) = new_repository(folder.path());
    put(&repository, &chunks(1, 30)).unwrap();
    repository.sync().unwrap();
    let (before, bytes) = (files(folder.path()).len(), repository.stored_bytes().unwrap());
    let mut writer = repository.begin_pack().unwrap();
    writer.append(&block(&chunks(2, 5))).unwrap();
    drop(writer);
    let mut writer = repository.begin_pack().unwrap();
    writer.append(&block(&chunks(1, 5))).unwrap();
    assert_eq!(writer.finish().unwrap(), 0);
    repository.sync().unwrap();
    assert_eq!((files(folder.path()).len(), repository.stored_bytes().unwrap()), (before, bytes));
}

#[test]
fn a_pack_has_a_size_that_it_never_exceeds() {
    let folder = tempfile::tempdir().unwrap();
    let (_store, repository) = new_repository(folder.path());
    let mut writer = repository.begin_pack().unwrap();
    let mut taken = 0;
    let refused = (0..20).find_map(|n| {
        let block = block(&[noise(n, 1 << 20)]);
        let result = writer.append(&block);
        taken += u64::from(result.is_ok());
        result.err()
    });
    assert!(matches!(refused, Some(Error::TooLarge { .. })));
    assert_eq!(writer.finish().unwrap(), taken);
    repository.sync().unwrap();
    assert!(repository.stored_bytes().unwrap() < 17 << 20);
}

#[test]
fn a_newer_format_is_refused_with_a_sentence_and_nothing_is_touched() {
    let folder = tempfile::tempdir().unwrap();
    let (store, repository) = new_repository(folder.path());
    let config = folder.path().join("repositories").join(repository.id().to_string()).join("config.json");
    drop((store, repository));
    for path in [config, folder.path().join("store.json")] {
        let old = std::fs::read_to_string(&path).unwrap();
        std::fs::write(&path, old.replace("\"format\": 1", "\"format\": 2")).unwrap();
        let error = Store::open_or_create(folder.path(), clock(), receiver_key()).unwrap_err();
        assert!(matches!(error, Error::NewerFormat { found: 2, known: 1, .. }));
        assert!(error.to_string().contains("update lan-backup"), "{error}");
        assert!(std::fs::read_to_string(&path).unwrap().contains("\"format\": 2"));
        std::fs::write(&path, old).unwrap();
    }
    let (_, report) = open(folder.path());
    assert_eq!(report.to_string(), "");
}

#[test]
fn a_store_whose_device_lost_its_identity_is_still_read_and_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let (store, repository) = new_repository(folder.path());
    let made = back_up(&repository, "documents", chunks(1, 10));
    drop((store, repository));
    let (store, report) = Store::open_or_create(folder.path(), clock(), source_key()).unwrap();
    assert_eq!(report.foreign_owner_logs.len(), 1);
    let repository = store.owned_by(&OWNER).unwrap();
    assert_whole(&repository, &made);
    assert_eq!(repository.alias(), Alias::new("laptop"));
}

#[test]
fn what_is_found_is_relied_on_only_after_its_folder_was_synced() {
    let folder = tempfile::tempdir().unwrap();
    let (store, repository) = new_repository(folder.path());
    let made = back_up(&repository, "documents", chunks(1, 10));
    drop((store, repository));
    for index in files(folder.path()).iter().filter(|path| path.to_string_lossy().contains("index.sqlite")) {
        std::fs::remove_file(index).unwrap();
    }
    let (_store, repository, control) = controlled(folder.path());
    // Packs that the index did not know, before they are in it; the record, before it is acknowledged once more.
    let packs = control.confirmed();
    assert_eq!((packs.len(), packs.iter().all(|name| name.starts_with("packs/"))), (2, true));
    repository.commit(&made.signed(), OWNER).unwrap();
    let confirmed = control.confirmed();
    assert_eq!((confirmed.len(), confirmed[2].starts_with("records/")), (3, true));
}

#[test]
fn a_repository_whose_making_was_interrupted_is_not_there() {
    let folder = tempfile::tempdir().unwrap();
    let (store, repository) = new_repository(folder.path());
    let path = folder.path().join("repositories").join(repository.id().to_string());
    drop((store, repository));
    std::fs::remove_file(path.join("config.json")).unwrap();
    let (store, report) = open(folder.path());
    assert_eq!((report.to_string(), store.repositories().len()), (String::new(), 0));
    let again = store.create_repository(OWNER, &source_key().public(), Alias::new("laptop")).unwrap();
    assert_whole(&again, &back_up(&again, "documents", chunks(1, 10)));
    // With packs in it, it is no unfinished one but a damaged one.
    drop((store, again));
    std::fs::create_dir(path.join("packs")).unwrap();
    assert_eq!(open(folder.path()).1.unusable_repositories.len(), 1);
}

#[test]
fn a_writer_waits_while_too_much_is_pending() {
    let folder = tempfile::tempdir().unwrap();
    let (_store, repository, control) = controlled(folder.path());
    control.hold();
    std::thread::scope(|scope| {
        let (send, receive) = std::sync::mpsc::sync_channel(100);
        let repository = &repository;
        scope.spawn(move || {
            for n in 0..70 {
                put(repository, &[noise(n, 10)]).unwrap();
                send.send(n).unwrap();
            }
        });
        for n in 0..64 {
            assert_eq!(receive.recv_timeout(PATIENCE), Ok(n));
        }
        assert!(receive.recv_timeout(std::time::Duration::from_millis(100)).is_err());
        control.release();
        assert_eq!(receive.iter().last(), Some(69));
    });
    repository.sync().unwrap();
    assert_eq!(control.kept().iter().filter(|name| name.starts_with("packs/")).count(), 70);
}
