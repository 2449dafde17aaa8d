//! A repository that is here and cannot be used is never taken for one that is not here.

use crate::bit_rot::flip;
use crate::store_support::{
    OWNER, assert_whole, back_up, clock, files, new_repository, noise, open, receiver_key, source_key,
};
use lan_backup::model::{Alias, Fingerprint};
use lan_backup::monitor::Silent;
use lan_backup::platform::shutdown::Shutdown;
use lan_backup::store::Store;
use lan_backup::store::repair::repair;
use std::fs;
use std::path::{Path, PathBuf};

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
