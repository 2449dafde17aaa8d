//! A repository that is here and cannot be used is never taken for one that is not here.

use crate::bit_rot::flip;
use crate::store_support::{
    OWNER, assert_whole, back_up, clock, files, new_repository, noise, open, receiver_key, source_key,
};
use jiff::Timestamp;
use lan_backup::model::{Alias, ChunkerParameters, Fingerprint, OwnerEvent, RepositoryId, RepositoryParameters};
use lan_backup::monitor::Silent;
use lan_backup::platform::shutdown::Shutdown;
use lan_backup::store::repair::repair;
use lan_backup::store::{Error, Repository, Store};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A way to ask a store for repositories.
type Ask = fn(&Store) -> lan_backup::store::Result<Vec<Arc<Repository>>>;

fn small(folder: &Path, part: &str) -> PathBuf {
    files(folder).into_iter().find(|path| path.to_string_lossy().contains(part)).unwrap()
}

fn repositories(folder: &Path) -> usize {
    fs::read_dir(folder.join("repositories")).unwrap().count()
}

#[test]
fn a_flipped_bit_in_what_a_repository_is_or_whose_begins_no_second_one() {
    for (part, bit) in [("config.json", 333), ("owners/", 1234)] {
        let folder = tempfile::tempdir().unwrap();
        let (store, repository) = new_repository(folder.path());
        let made = back_up(&repository, "documents", vec![noise(1, 500)]);
        let id = repository.id();
        drop((store, repository));
        for asks_by_id in [true, false] {
            flip(&small(folder.path(), part), bit);
            let (store, report) = open(folder.path());
            assert_eq!(report.unusable_repositories.len(), 1, "{part}");
            assert!(report.to_string().contains("the backup of `laptop` with 1 snapshot"), "{report}");
            // It is mended on the way, with or without knowing which it is.
            let repository = if asks_by_id {
                store.find_repository(&id).unwrap().unwrap()
            } else {
                store.create_repository(OWNER, &source_key().public(), Alias::new("laptop")).unwrap()
            };
            assert_eq!((repository.id(), repositories(folder.path())), (id, 1), "{part}");
            assert_whole(&repository, &made);
        }
    }
}

#[test]
fn a_repository_beyond_mending_is_said_to_be_that_and_is_back_as_soon_as_its_file_is() {
    for part in ["config.json", "owners/"] {
        let folder = tempfile::tempdir().unwrap();
        let (store, repository) = new_repository(folder.path());
        let made = back_up(&repository, "documents", vec![noise(1, 500)]);
        let id = repository.id();
        drop((store, repository));
        let path = small(folder.path(), part);
        let whole = fs::read(&path).unwrap();
        fs::write(&path, &whole[..100]).unwrap();
        let (store, _) = open(folder.path());
        for _ in 0..2 {
            let error = store.find_repository(&id).unwrap_err();
            assert!(error.is_damage() && error.to_string().contains(part), "{error}");
            let error = store.create_repository(OWNER, &source_key().public(), Alias::new("laptop")).unwrap_err();
            assert!(error.is_damage(), "{error}");
        }
        assert_eq!(repositories(folder.path()), 1);
        // Who is known not to be its owner is taken all the same.
        let other = store.create_repository(Fingerprint::from_bytes([7; 32]), &source_key().public(), Alias::new("pc"));
        assert_eq!(other.is_ok(), part == "config.json", "{other:?}");
        let report = repair(&store, &Silent, &Shutdown::new()).unwrap();
        assert!(report.left.iter().any(|left| left.path.contains(part)), "{report:#?}");
        // Put back by hand, it is used again by those who have the store open.
        fs::write(&path, &whole).unwrap();
        assert_whole(&store.find_repository(&id).unwrap().unwrap(), &made);
        assert!(store.unusable().is_empty());
        assert_eq!(store.owned_by(&OWNER).map(|repository| repository.id()), Some(id));
    }
}

#[test]
fn a_flipped_bit_that_makes_a_file_look_newer_is_damage_and_is_mended() {
    for name in ["config.json", "store.json"] {
        let folder = tempfile::tempdir().unwrap();
        let (store, repository) = new_repository(folder.path());
        let made = back_up(&repository, "documents", vec![noise(1, 500)]);
        let other = Fingerprint::from_bytes([7; 32]);
        let other = store.create_repository(other, &source_key().public(), Alias::new("pc")).unwrap().id();
        let (id, path) = (repository.id(), small(folder.path(), name));
        drop((repository, store));
        let whole = fs::read_to_string(&path).unwrap();
        for format in ["3", "5", "9"] {
            fs::write(&path, whole.replacen("\"format\": 1", &format!("\"format\": {format}"), 1)).unwrap();
            if name == "store.json" {
                let refused = Store::open_or_create(folder.path(), clock(), receiver_key()).unwrap_err();
                assert!(refused.is_damage(), "{refused}");
                assert!(Store::mend_file(folder.path()).unwrap());
            } else {
                let (store, report) = open(folder.path());
                assert_eq!((report.unusable_repositories.len(), store.repositories().len()), (1, 1), "{format}");
                assert!(repair(&store, &Silent, &Shutdown::new()).unwrap().is_whole());
            }
            assert_eq!(fs::read_to_string(&path).unwrap(), whole, "{format}");
            let (store, _) = open(folder.path());
            assert!(store.repository(&other).is_some());
            assert_whole(&store.repository(&id).unwrap(), &made);
        }
    }
}

#[test]
fn who_restores_or_lists_has_a_flipped_bit_mended_and_is_never_told_that_there_is_nothing() {
    for (part, bit) in [("config.json", 333), ("owners/", 1234)] {
        let folder = tempfile::tempdir().unwrap();
        let (store, repository) = new_repository(folder.path());
        back_up(&repository, "documents", vec![noise(1, 500)]);
        let id = repository.id();
        drop((store, repository));
        let asks: [Ask; 4] = [
            |store| store.find_owned(&OWNER).map(|one| one.into_iter().collect()),
            |store| store.find_matching("Laptop"),
            |store| store.find_matching(&OWNER.to_string()[..6]),
            |store| store.find_all(),
        ];
        for ask in asks {
            flip(&small(folder.path(), part), bit);
            let (store, _) = open(folder.path());
            assert!(store.repositories().is_empty(), "{part}");
            assert_eq!(ask(&store).unwrap().iter().map(|one| one.id()).collect::<Vec<_>>(), [id], "{part}");
        }
        // Beyond mending: that is what is said, to everybody to whom it may belong.
        let path = small(folder.path(), part);
        let whole = fs::read(&path).unwrap();
        fs::write(&path, &whole[..100]).unwrap();
        let (store, _) = open(folder.path());
        for ask in asks {
            let error = ask(&store).unwrap_err();
            assert!(error.is_damage(), "{error}");
            assert!(error.to_string().starts_with("the backup of `laptop` with 1 snapshot cannot be used"), "{error}");
        }
        let stranger = store.find_owned(&Fingerprint::from_bytes([7; 32]));
        assert_eq!(stranger.is_ok(), part == "config.json", "{stranger:?}");
        assert_eq!(store.find_matching("somebody else").is_ok(), part == "config.json");
        fs::write(&path, &whole).unwrap();
        for ask in asks {
            assert_eq!(ask(&store).unwrap().len(), 1);
        }
        // It cannot be read for a moment.
        let (store, aside) = (open(folder.path()).0, path.with_extension("aside"));
        drop(store);
        fs::rename(&path, &aside).unwrap();
        fs::create_dir(&path).unwrap();
        let (store, _) = open(folder.path());
        for ask in asks {
            let error = ask(&store).unwrap_err();
            assert!(part != "config.json" || !error.is_damage(), "{error}");
        }
        fs::remove_dir(&path).unwrap();
        fs::rename(&aside, &path).unwrap();
        for ask in asks {
            assert_eq!(ask(&store).unwrap().len(), 1);
        }
    }
}

#[test]
fn an_older_repository_is_no_answer_while_the_one_that_its_owner_went_on_with_is_damaged() {
    let folder = tempfile::tempdir().unwrap();
    let (store, older) = new_repository(folder.path());
    let lost = Fingerprint::from_bytes([7; 32]);
    let newer = store.create_repository(lost, &source_key().public(), Alias::new("old laptop")).unwrap();
    let (fingerprint, signer) = (OWNER, source_key().public());
    let at = "2026-06-01T00:00:00Z".parse().unwrap();
    newer.append_owner(OwnerEvent::Adopt { fingerprint, signer, alias: Alias::new("laptop"), at }).unwrap();
    assert_eq!(store.find_owned(&OWNER).unwrap().unwrap().id(), newer.id());
    let path = folder.path().join(format!("repositories/{}/config.json", newer.id()));
    drop((store, older, newer));
    fs::write(&path, "{}").unwrap();
    let (store, _) = open(folder.path());
    assert!(store.find_owned(&OWNER).unwrap_err().is_damage());
}

#[test]
fn a_damaged_copy_is_not_taken_for_its_owners_own_backup() {
    let folder = tempfile::tempdir().unwrap();
    let (store, _) = open(folder.path());
    let parameters =
        RepositoryParameters { id: RepositoryId::from_random([5; 16]), chunker: ChunkerParameters::STANDARD };
    let (fingerprint, signer) = (OWNER, source_key().public());
    let create = OwnerEvent::Create { fingerprint, signer, alias: Alias::new("laptop"), at: Timestamp::UNIX_EPOCH };
    store.open_copy(parameters, &[create], Some(Fingerprint::from_bytes([7; 32]))).unwrap();
    drop(store);
    fs::write(small(folder.path(), "config.json"), "{}").unwrap();
    let (store, _) = open(folder.path());
    assert!(store.find_owned(&OWNER).unwrap().is_none());
    assert!(store.find_matching("laptop").unwrap_err().is_damage());
}

#[test]
fn what_cannot_be_opened_at_the_moment_is_not_made_anew_as_a_copy() {
    let folder = tempfile::tempdir().unwrap();
    let (store, repository) = new_repository(folder.path());
    let made = back_up(&repository, "documents", vec![noise(1, 500)]);
    let (parameters, events) = (repository.parameters(), repository.owner_log());
    drop((store, repository));
    let bringer = Some(Fingerprint::from_bytes([7; 32]));
    let before = files(folder.path());
    // Its config cannot be read, as when a process has too many files open.
    let (path, aside) = (small(folder.path(), "config.json"), folder.path().join("aside"));
    fs::rename(&path, &aside).unwrap();
    fs::create_dir(&path).unwrap();
    let (store, _) = open(folder.path());
    let error = store.open_copy(parameters, &events, bringer).unwrap_err();
    assert!(matches!(error, Error::Platform(_)), "{error}");
    fs::remove_dir(&path).unwrap();
    fs::rename(&aside, &path).unwrap();
    assert_eq!(files(folder.path()), before, "no mark of a copy, no other config");
    let refused = store.open_copy(parameters, &events, bringer).unwrap_err();
    assert!(matches!(refused, Error::Refused(_)), "{refused}");
    let repository = store.repository(&parameters.id).unwrap();
    assert_eq!(repository.copied_from(), None);
    assert_whole(&repository, &made);
}

#[test]
fn a_damaged_store_file_says_whose_backups_it_closes_and_nothing_is_lost_with_it() {
    let folder = tempfile::tempdir().unwrap();
    let (store, repository) = new_repository(folder.path());
    let made = back_up(&repository, "documents", vec![noise(1, 500)]);
    let id = repository.id();
    store.create_repository(Fingerprint::from_bytes([7; 32]), &source_key().public(), Alias::new("pc")).unwrap();
    drop((store, repository));
    let path = folder.path().join("store.json");
    fs::write(&path, "{}").unwrap();
    let error = Store::open_or_create(folder.path(), clock(), receiver_key()).unwrap_err();
    let text = error.to_string();
    assert!(error.is_damage() && text.contains("the store with 2 backups of `laptop` (1 snapshot)"), "{text}");
    assert!(text.contains("store.json"), "{text}");
    // What the hint says: nothing that was backed up is in it.
    fs::remove_file(&path).unwrap();
    assert_whole(&open(folder.path()).0.repository(&id).unwrap(), &made);
}
