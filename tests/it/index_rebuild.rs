//! An index that is built anew is seen by other processes when it is complete, and not before.

use crate::store_support::{OWNER, back_up, clock, files, new_repository, noise, open, put, receiver_key};
use lan_backup::monitor::Silent;
use lan_backup::platform;
use lan_backup::platform::shutdown::Shutdown;
use lan_backup::store::layout::ObjectName;
use lan_backup::store::repair::repair;
use lan_backup::store::shelf::{Draft, Object, Shelf};
use lan_backup::store::{FolderShelf, Store};
use std::fmt;
use std::sync::{Arc, Mutex};

type Hook = Arc<dyn Fn() + Send + Sync>;

/// A shelf on which something happens whenever an object is opened.
struct HookShelf {
    inner: FolderShelf,
    hook: Hook,
}

impl fmt::Debug for HookShelf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt(f)
    }
}

impl Shelf for HookShelf {
    fn draft(&self) -> platform::Result<Box<dyn Draft>> {
        self.inner.draft()
    }

    fn open(&self, name: &ObjectName) -> platform::Result<Arc<dyn Object>> {
        (self.hook)();
        self.inner.open(name)
    }

    fn list(&self, folder: &ObjectName) -> platform::Result<Vec<ObjectName>> {
        self.inner.list(folder)
    }

    fn confirm(&self, names: &[ObjectName]) -> platform::Result<()> {
        self.inner.confirm(names)
    }

    fn delete(&self, name: &ObjectName) -> platform::Result<()> {
        self.inner.delete(name)
    }
}

#[test]
fn others_see_the_old_index_or_the_new_one_and_never_half_of_it() {
    let folder = tempfile::tempdir().unwrap();
    let (store, repository) = new_repository(folder.path());
    // More packs than one transaction adds.
    let all: Vec<_> = (0..300).map(|n| noise(n, 60)).collect();
    let ids: Vec<_> = all.iter().flat_map(|one| put(&repository, std::slice::from_ref(one)).unwrap()).collect();
    back_up(&repository, "documents", all);
    drop((store, repository));
    let index = files(folder.path()).into_iter().find(|path| path.ends_with("index.sqlite")).unwrap();

    // Another process, as it were, that runs all the time.
    let (other, _) = open(folder.path());
    let other = other.owned_by(&OWNER).unwrap();
    assert_eq!(other.missing(&ids).unwrap(), []);
    let seen: Arc<Mutex<Vec<usize>>> = Arc::default();
    let hook: Hook = {
        let (seen, ids) = (Arc::clone(&seen), ids.clone());
        Arc::new(move || {
            if index.exists() {
                seen.lock().unwrap().push(other.missing(&ids).unwrap().len());
            }
        })
    };
    let wrap = Box::new(move |inner: FolderShelf| -> Arc<dyn Shelf> {
        Arc::new(HookShelf { inner, hook: Arc::clone(&hook) })
    });
    let (store, _) = Store::open_wrapped(folder.path(), clock(), receiver_key(), wrap).unwrap();
    let report = repair(&store, &Silent, &Shutdown::new()).unwrap();
    assert!(report.is_whole(), "{report:#?}");
    let seen = seen.lock().unwrap();
    assert!(seen.len() > 600 && seen.iter().all(|missing| *missing == 0), "{:?}", seen.iter().max());
    assert!(!files(folder.path()).iter().any(|path| path.to_string_lossy().contains("sqlite.new")));
}

#[test]
fn what_a_crash_has_left_of_a_new_index_is_in_nobodys_way() {
    let folder = tempfile::tempdir().unwrap();
    let (store, repository) = new_repository(folder.path());
    let made = back_up(&repository, "documents", (0..20).map(|n| noise(n, 60)).collect());
    drop((store, repository));
    let index = files(folder.path()).into_iter().find(|path| path.ends_with("index.sqlite")).unwrap();
    for suffix in ["", "-wal", "-shm"] {
        std::fs::write(index.with_file_name(format!("index.sqlite.new{suffix}")), [7; 5000]).unwrap();
    }
    let (store, report) = open(folder.path());
    assert!(report.is_harmless() && report.rebuilt_indexes == 0, "{report}");
    assert!(repair(&store, &Silent, &Shutdown::new()).unwrap().is_whole());
    crate::store_support::assert_whole(&store.owned_by(&OWNER).unwrap(), &made);
    assert!(!files(folder.path()).iter().any(|path| path.to_string_lossy().contains("sqlite.new")));
}
