//! What a commit asks for before it lets a snapshot exist.

use crate::store_support::{
    Made, OWNER, assert_whole, back_up, clock, controlled, new_repository, noise, open, put, read, receiver_key,
    source_key,
};
use lan_backup::codec;
use lan_backup::model::{Alias, Fingerprint, OwnerEvent, RepositoryId, SnapshotId};
use lan_backup::platform::clock::Clock;
use lan_backup::signer::{Purpose, SigningKey};
use lan_backup::store::{Error, Store};
use std::io;
use std::sync::Arc;

fn chunks(seed: u64, count: u64) -> Vec<bytes::Bytes> {
    (0..count).map(|n| noise(seed * 1000 + n, 100 + n as usize)).collect()
}

#[test]
fn a_committed_snapshot_is_read_back_by_the_next_process() {
    let folder = tempfile::tempdir().unwrap();
    let (store, repository) = new_repository(folder.path());
    let first = back_up(&repository, "documents", chunks(1, 300));
    let second = back_up(&repository, "documents", chunks(2, 20));
    let third = back_up(&repository, "photos", Vec::new());
    drop((store, repository));
    let (store, report) = open(folder.path());
    assert_eq!(report.to_string(), "");
    let repository = store.owned_by(&OWNER).unwrap();
    for made in [&first, &second, &third] {
        assert_whole(&repository, made);
    }
    let sets: Vec<_> = repository.snapshots().unwrap().iter().map(|info| info.id).collect();
    let expected: Vec<_> = [&first, &second, &third].map(|made| lan_backup::signer::snapshot_id(&made.signed())).into();
    assert_eq!(sets, expected);
}

#[test]
fn each_chunk_that_a_snapshot_needs_is_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    let (_store, repository) = new_repository(folder.path());
    let made = Made::new(&repository, "documents", chunks(1, 200));
    assert!(made.record.refs.depth >= 1 && made.record.manifest.depth >= 1);
    let all: Vec<_> = made.files.iter().chain(&made.streams).cloned().collect();
    // Whatever is left out, it is named; and nothing else, but for what lies behind a list that is not there.
    for left_out in (0..all.len()).filter(|n| n % 29 == 0 || all.len() - n < 6) {
        let folder = tempfile::tempdir().unwrap();
        let (_store, repository) = new_repository(folder.path());
        let mut made = Made::new(&repository, "documents", chunks(1, 200));
        made.record.repository = repository.id();
        let rest: Vec<_> = all.iter().enumerate().filter(|(n, _)| *n != left_out).map(|(_, b)| b.clone()).collect();
        put(&repository, &rest).unwrap();
        let id = codec::chunk_id(&all[left_out]);
        match repository.commit(&made.signed(), OWNER) {
            Err(Error::Missing(ids)) => assert_eq!(ids, [id]),
            other => panic!("{left_out}: {other:?}"),
        }
        assert_eq!(repository.snapshots().unwrap(), []);
        put(&repository, &all[left_out..=left_out]).unwrap();
        repository.commit(&made.signed(), OWNER).unwrap();
        assert_whole(&repository, &made);
    }
}

#[test]
fn a_missing_answer_is_bounded() {
    let folder = tempfile::tempdir().unwrap();
    let (_store, repository) = new_repository(folder.path());
    let made = Made::new(&repository, "documents", chunks(1, 10_000));
    put(&repository, &made.streams).unwrap();
    match repository.commit(&made.signed(), OWNER) {
        Err(Error::Missing(ids)) => assert_eq!(ids.len(), 4096),
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_same_record_again_is_answered_and_another_for_the_same_place_is_stale() {
    let folder = tempfile::tempdir().unwrap();
    let (_store, repository) = new_repository(folder.path());
    let made = Made::new(&repository, "documents", chunks(1, 10));
    made.put(&repository);
    let mut rival = Made::new(&repository, "documents", chunks(1, 10));
    rival.record.tag = Some("rival".to_owned());
    let first = repository.commit(&made.signed(), OWNER).unwrap();
    assert_eq!(repository.commit(&made.signed(), OWNER).unwrap(), first);
    assert_eq!(repository.snapshots().unwrap(), std::slice::from_ref(&first));
    match repository.commit(&rival.signed(), OWNER) {
        Err(Error::Stale(Some(head))) => assert_eq!(*head, first),
        other => panic!("{other:?}"),
    }
    for (previous, sequence) in
        [(Some(first.id), 3), (Some(first.id), 1), (Some(SnapshotId::from_bytes([0; 32])), 2), (None, 2)]
    {
        (rival.record.previous, rival.record.sequence) = (previous, sequence);
        assert!(matches!(repository.commit(&rival.signed(), OWNER), Err(Error::Stale(Some(_)))));
    }
    (rival.record.previous, rival.record.sequence) = (Some(first.id), 2);
    repository.commit(&rival.signed(), OWNER).unwrap();
    // Also when it is not the newest any more.
    assert_eq!(repository.commit(&made.signed(), OWNER).unwrap(), first);
}

#[test]
fn records_that_break_a_rule_are_refused_and_leave_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let (_store, repository) = new_repository(folder.path());
    let good = Made::new(&repository, "documents", chunks(1, 10));
    good.put(&repository);
    let refused = |change: &dyn Fn(&mut lan_backup::model::Record)| {
        let mut record = good.record.clone();
        change(&mut record);
        let signed = source_key().sign_record(&record);
        matches!(repository.commit(&signed, OWNER), Err(Error::Refused(_) | Error::Record(_) | Error::TooLarge { .. }))
    };
    assert!(refused(&|record| record.repository = RepositoryId::from_random([3; 16])));
    assert!(refused(&|record| record.format = 2));
    assert!(refused(&|record| record.refs.length += 32));
    assert!(refused(&|record| record.refs.length -= 32));
    assert!(refused(&|record| record.refs.length += 1));
    assert!(refused(&|record| record.refs.depth = 5));
    assert!(refused(&|record| record.manifest.ids = vec![record.manifest.ids[0]; 65]));
    assert!(refused(&|record| record.roots = vec![record.roots[0].clone(); 257]));
    assert!(refused(&|record| record.totals.entries = 5_000_001));
    assert!(refused(&|record| record.tag = Some("x".repeat(300_000))));
    let mut forged = good.signed();
    forged.record = forged.record.replace("laptop", "raptor");
    assert!(matches!(repository.commit(&forged, OWNER), Err(Error::Record(_))));
    let mut two_lines = good.signed();
    two_lines.record.push('\n');
    two_lines.signature = source_key().sign(Purpose::Record, two_lines.record.as_bytes());
    assert!(matches!(repository.commit(&two_lines, OWNER), Err(Error::Refused(_))));
    assert_eq!(repository.snapshots().unwrap(), []);
    repository.commit(&good.signed(), OWNER).unwrap();
}

#[test]
fn lists_that_repeat_themselves_come_to_an_end() {
    let folder = tempfile::tempdir().unwrap();
    let (_store, repository) = new_repository(folder.path());
    let mut made = Made::new(&repository, "documents", chunks(1, 3));
    made.put(&repository);
    // Each list names the one below 20,000 times: 6.4 * 10^18 chunks in the end.
    let mut list = made.files[0].clone();
    for _ in 0..4 {
        list = codec::chunk_id(&list).as_bytes().repeat(20_000).into();
        put(&repository, std::slice::from_ref(&list)).unwrap();
    }
    let endless = lan_backup::model::Stream { length: 1 << 30, depth: 4, ids: vec![codec::chunk_id(&list); 2] };
    for part in 0..2 {
        let mut record = made.record.clone();
        *(if part == 0 { &mut record.manifest } else { &mut record.refs }) = endless.clone();
        let signed = source_key().sign_record(&record);
        let result = repository.commit(&signed, OWNER);
        assert!(matches!(result, Err(Error::Refused(_))), "{result:?}");
    }
    made.record.tag = Some("honest".to_owned());
    repository.commit(&made.signed(), OWNER).unwrap();
}

#[test]
fn only_keys_from_the_owner_log_may_sign_and_adoption_and_rotation_add_some() {
    let folder = tempfile::tempdir().unwrap();
    let (store, repository) = new_repository(folder.path());
    let made = Made::new(&repository, "documents", chunks(1, 10));
    made.put(&repository);
    let [stranger, rotated] = [5, 6].map(|n| SigningKey::from_bytes(&[n; 32]));
    let by_stranger = {
        let mut record = made.record.clone();
        record.signer = stranger.public();
        stranger.sign_record(&record)
    };
    assert!(matches!(repository.commit(&by_stranger, OWNER), Err(Error::UnknownSigner)));
    let at = clock().now();
    let new_owner = Fingerprint::from_bytes([2; 32]);
    let (signer, alias) = (stranger.public(), Alias::new("New Laptop"));
    repository.append_owner(OwnerEvent::Adopt { fingerprint: new_owner, signer, alias, at }).unwrap();
    repository.commit(&by_stranger, new_owner).unwrap();
    let rotated_owner = Fingerprint::from_bytes([3; 32]);
    let rotation = |key: &SigningKey| {
        let signer = rotated.public();
        let text = lan_backup::signer::rotation_text(&new_owner, &rotated_owner, &signer);
        let signature = key.sign(Purpose::Rotation, text.as_bytes());
        OwnerEvent::Rotate { fingerprint: rotated_owner, signer, signature, at }
    };
    assert!(matches!(repository.append_owner(rotation(&source_key())), Err(Error::OwnerEvent(_))));
    repository.append_owner(rotation(&stranger)).unwrap();
    let create = repository.owner_log()[0].clone();
    assert!(matches!(repository.append_owner(create), Err(Error::OwnerEvent(_))));
    drop((store, repository));
    let (store, _) = open(folder.path());
    assert!(store.owned_by(&OWNER).is_none());
    let repository = store.owned_by(&rotated_owner).unwrap();
    assert_eq!(repository.signers(), [source_key().public(), stranger.public(), rotated.public()]);
    assert_eq!(repository.alias(), Alias::new("New Laptop"));
    for text in ["laptop", "LAPTOP", "new laptop", "0101", "0303", &repository.id().to_string()[..6]] {
        assert_eq!(store.matching(text).len(), 1, "{text}");
    }
    for text in ["lap", "01", "0404", ""] {
        assert_eq!(store.matching(text).len(), 0, "{text}");
    }
}

#[test]
fn the_receipts_time_never_goes_backwards() {
    let folder = tempfile::tempdir().unwrap();
    let times = ["2026-05-01T12:00:00Z", "2020-01-01T00:00:00Z", "2020-01-01T00:00:00Z", "2026-06-01T00:00:00Z"];
    let expected = ["2026-05-01T12:00:00Z", "2026-05-01T12:00:01Z", "2026-05-01T12:00:02Z", "2026-06-01T00:00:00Z"];
    for (n, (time, expected)) in times.iter().zip(expected).enumerate() {
        let clock = lan_backup::platform::clock::ManualClock::new(time.parse().unwrap());
        let (store, _) = Store::open_or_create(folder.path(), Arc::new(clock), receiver_key()).unwrap();
        let repository = store.create_repository(OWNER, &source_key().public(), Alias::new("laptop")).unwrap();
        let made = Made::new(&repository, &format!("set {n}"), chunks(n as u64, 3));
        made.put(&repository);
        let info = repository.commit(&made.signed(), OWNER).unwrap();
        assert_eq!(info.receipt.received_at, expected.parse().unwrap());
        assert_eq!((info.receipt.from, info.receipt.record), (OWNER, info.id));
    }
}

#[test]
fn nothing_is_acknowledged_before_everything_it_needs_has_been_kept() {
    let folder = tempfile::tempdir().unwrap();
    let (_store, repository, control) = controlled(folder.path());
    let made = Made::new(&repository, "documents", chunks(1, 50));
    control.hold();
    made.put(&repository);
    control.wait_until_held();
    let commit = std::thread::spawn({
        let (repository, signed) = (Arc::clone(&repository), made.signed());
        move || repository.commit(&signed, OWNER).map(|info| info.id)
    });
    // What is pending can be read and is not asked for again, but there is no snapshot.
    assert!(!read(&repository, &[codec::chunk_id(&made.files[0])]).unwrap().is_empty());
    assert!(control.kept().iter().all(|name| !name.starts_with("packs/") && !name.starts_with("records/")));
    assert_eq!(repository.snapshots().unwrap(), []);
    control.release();
    commit.join().unwrap().unwrap();
    let kept: Vec<_> = control.kept().iter().map(|name| name.split('/').next().unwrap().to_owned()).collect();
    assert_eq!(kept, ["owners", "config.json", "packs", "packs", "records"]);
}

#[test]
fn a_pack_whose_sync_failed_is_gone_and_its_chunks_are_asked_for_again() {
    let folder = tempfile::tempdir().unwrap();
    let (_store, repository, control) = controlled(folder.path());
    let made = Made::new(&repository, "documents", chunks(1, 50));
    control.fail("packs/", 1, io::ErrorKind::Other);
    made.put(&repository);
    let ids = match repository.commit(&made.signed(), OWNER) {
        Err(Error::Missing(ids)) => ids,
        other => panic!("{other:?}"),
    };
    let mut expected: Vec<_> = made.files.iter().map(|bytes| codec::chunk_id(bytes)).collect();
    expected.sort();
    assert_eq!(ids, expected);
    assert_eq!(repository.missing(&ids).unwrap(), ids);
    assert!(matches!(repository.sync(), Err(Error::NotDurable(1))));
    assert!(matches!(repository.sync(), Ok(())));
    put(&repository, &made.files).unwrap();
    repository.commit(&made.signed(), OWNER).unwrap();
    assert_whole(&repository, &made);
}

#[test]
fn a_full_disk_is_said_to_be_full_and_the_old_snapshots_stay() {
    let folder = tempfile::tempdir().unwrap();
    let (_store, repository, control) = controlled(folder.path());
    let old = back_up(&repository, "documents", chunks(1, 50));
    let new = Made::new(&repository, "documents", chunks(2, 50));
    control.fail("packs/", 2, io::ErrorKind::StorageFull);
    new.put(&repository);
    assert!(repository.commit(&new.signed(), OWNER).unwrap_err().is_full());
    assert_whole(&repository, &old);
    new.put(&repository);
    repository.commit(&new.signed(), OWNER).unwrap();
    assert_whole(&repository, &new);
}

#[test]
fn a_record_that_could_not_be_kept_is_not_acknowledged_and_can_be_sent_again() {
    let folder = tempfile::tempdir().unwrap();
    let (_store, repository, control) = controlled(folder.path());
    let made = Made::new(&repository, "documents", chunks(1, 5));
    made.put(&repository);
    control.fail("records/", 1, io::ErrorKind::Other);
    assert!(matches!(repository.commit(&made.signed(), OWNER), Err(Error::Platform(_))));
    assert_eq!(repository.snapshots().unwrap(), []);
    repository.commit(&made.signed(), OWNER).unwrap();
    assert_whole(&repository, &made);
}

#[test]
fn many_writers_and_a_second_process_get_along() {
    let folder = tempfile::tempdir().unwrap();
    let (_store, repository) = new_repository(folder.path());
    let (other_store, _) = open(folder.path());
    let other = other_store.owned_by(&OWNER).unwrap();
    std::thread::scope(|scope| {
        for writer in 0..6 {
            let repository = if writer % 2 == 0 { &repository } else { &other };
            scope.spawn(move || {
                for round in 0..4 {
                    let set = format!("set {writer}");
                    let files = chunks(writer / 2 * 100 + round, 40);
                    assert_whole(repository, &back_up(repository, &set, files));
                }
            });
        }
    });
    assert_eq!(repository.snapshots().unwrap().len(), 24);
    assert_eq!(repository.snapshots().unwrap(), other.snapshots().unwrap());
    let mut times: Vec<_> = other.snapshots().unwrap().iter().map(|info| info.receipt.received_at).collect();
    times.sort();
    times.dedup();
    assert_eq!(times.len(), 24);
    assert_eq!(repository.stored_bytes().unwrap(), other.stored_bytes().unwrap());
}

#[test]
fn a_repository_that_another_process_made_is_found() {
    let folder = tempfile::tempdir().unwrap();
    let (first, _) = open(folder.path());
    let (second, _) = open(folder.path());
    assert_eq!(first.id(), second.id());
    assert!(first.owned_by(&OWNER).is_none());
    let made = second.create_repository(OWNER, &source_key().public(), Alias::new("laptop")).unwrap();
    assert_eq!(first.owned_by(&OWNER).unwrap().id(), made.id());
    let again = first.create_repository(OWNER, &source_key().public(), Alias::new("laptop")).unwrap();
    assert_eq!(again.id(), made.id());
    assert!(first.repository(&RepositoryId::from_random([0; 16])).is_none());
    assert!(first.free_bytes().unwrap() > 0);
    assert_eq!(made.created(), clock().now());
}
