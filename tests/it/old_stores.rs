//! Stores of every released format, kept in `tests/data/stores` for ever, are read by this version to the last bit.
//!
//! A kept store is never changed: [`KEPT`] has the hash of each. To keep the store of a new format, give it a row there (any hash),
//! set `FORMAT` in the store's layout, run
//!
//! ```text
//! LAN_BACKUP_KEEP_STORE=1 cargo test --test it this_version_still_makes_such_a_store
//! ```
//!
//! which writes `tests/data/stores/v<FORMAT>` unless it is there, and put the hash that the next run names into the row.

use crate::store_support::files;
use crate::support::bench::{Bench, let_file_times_move_on, restore};
use crate::support::scratch::scratch;
use crate::support::tree::{HOSTILE_NAMES, noise, set_time};
use jiff::Timestamp;
use lan_backup::model::{Alias, Fingerprint, OwnerEvent, SnapshotInfo};
use lan_backup::platform::clock::ManualClock;
use lan_backup::platform::fs::OpenFile;
use lan_backup::restore::Conflict;
use lan_backup::restore::chain;
use lan_backup::signer::SigningKey;
use lan_backup::store::layout::FORMAT;
use lan_backup::store::{LocalVault, Repository, Store, pack};
use std::collections::{BTreeMap, HashMap};
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// Each format that was released, and the hash of all that is kept of it.
const KEPT: [(&str, &str); 1] = [("v1", "bda1cbd9282f4e2ab496305769fa18a7")];

const LAPTOP: Fingerprint = Fingerprint::from_bytes([1; 32]);
const OLD: Fingerprint = Fingerprint::from_bytes([2; 32]);
const NEW: Fingerprint = Fingerprint::from_bytes([3; 32]);

fn key(number: u8) -> SigningKey {
    SigningKey::from_bytes(&[number; 32])
}

fn kept() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/stores")
}

fn open(folder: &Path) -> Store {
    let clock = Arc::new(ManualClock::new("2026-06-01T12:00:00Z".parse().unwrap()));
    let (store, report) = Store::open_or_create(folder, clock, key(9)).unwrap();
    assert!(report.is_harmless(), "{report}");
    store
}

/// One line for each thing below `root`: what was in it when it was backed up. Owners are left out: not everybody may set them.
fn describe(root: &Path) -> String {
    let mut lines = BTreeMap::new();
    let mut names: HashMap<u64, Vec<String>> = HashMap::new();
    let mut queue = vec![root.to_owned()];
    while let Some(path) = queue.pop() {
        let metadata = fs::symlink_metadata(&path).unwrap();
        let name = path.strip_prefix(root).unwrap().as_os_str().as_bytes().escape_ascii().to_string();
        let what = if metadata.is_dir() {
            queue.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
            "folder".to_owned()
        } else if metadata.is_symlink() {
            format!("link to {}", fs::read_link(&path).unwrap().as_os_str().as_bytes().escape_ascii())
        } else {
            names.entry(metadata.ino()).or_default().push(name.clone());
            format!("{} bytes {}", metadata.len(), blake3::hash(&fs::read(&path).unwrap()))
        };
        let mode = if metadata.is_symlink() { 0 } else { metadata.mode() & 0o7777 };
        lines.insert(name, format!("{what}, mode {mode:o}, time {}.{:09}", metadata.mtime(), metadata.mtime_nsec()));
    }
    for mut same in names.into_values().filter(|same| same.len() > 1) {
        same.sort();
        for name in &same {
            let line = lines.get_mut(name).unwrap();
            *line = format!("{line}, one with {}", same.join(" and "));
        }
    }
    lines.into_iter().map(|(name, line)| name + ": " + &line + "\n").collect()
}

/// A small tree with everything that an entry can say.
fn tree(root: &Path) {
    let write = |path: &str, bytes: &[u8]| {
        fs::create_dir_all(root.join(path).parent().unwrap()).unwrap();
        fs::write(root.join(path), bytes).unwrap();
    };
    write("text", &b"all work and no play makes jack a dull boy\n".repeat(12_000));
    write("noise", &noise(70_000, 1));
    write("empty file", b"");
    write("deep/er/leaf", b"leaf");
    write("links/first", b"shared by two names");
    fs::create_dir_all(root.join("empty folder")).unwrap();
    fs::hard_link(root.join("links/first"), root.join("links/second")).unwrap();
    symlink("first", root.join("links/relative")).unwrap();
    symlink(OsStr::from_bytes(b"/nonexistent/\xff"), root.join("links/raw")).unwrap();
    fs::create_dir_all(root.join("names")).unwrap();
    for (number, name) in HOSTILE_NAMES.iter().enumerate() {
        fs::write(root.join("names").join(OsStr::from_bytes(name)), [number as u8]).unwrap();
    }
    let sparse = fs::File::create(root.join("sparse")).unwrap();
    sparse.set_len(5 << 20).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&sparse, b"island", 3 << 20).unwrap();
    fs::set_permissions(root.join("noise"), fs::Permissions::from_mode(0o640)).unwrap();
    set_time(&root.join("text"), 1_000_000_000, 999_999_999);
    set_time(&root.join("noise"), -86_400, 123_456_789);
    set_time(&root.join("deep/er"), 1_234_567_890, 1);
}

/// Makes a store as this version writes it, with the expected trees beside it.
async fn make(folder: &Path) {
    fs::create_dir_all(folder).unwrap();
    let start: Timestamp = "2026-05-01T12:00:00Z".parse().unwrap();
    let clock = Arc::new(ManualClock::new(start));
    let (store, _) = Store::open_or_create(&folder.join("store"), clock.clone(), key(9)).unwrap();
    let mut bench = Bench::new(key(1));
    tree(&bench.tree());
    let laptop = store.create_repository(LAPTOP, &key(1).public(), Alias::new("laptop")).unwrap();
    let vault = Arc::new(LocalVault::new(laptop, LAPTOP));
    for round in 1..=2 {
        let snapshot = bench.back_up(&vault).await.unwrap().snapshot;
        assert_eq!(bench.monitor.faults(), []);
        fs::write(folder.join(format!("{snapshot}.txt")), describe(&bench.tree())).unwrap();
        clock.advance(Duration::from_hours(1));
        let_file_times_move_on(&bench.tree(), &bench.path("probe"));
        fs::write(bench.tree().join("text"), format!("changed in round {round}")).unwrap();
        fs::remove_file(bench.tree().join("names/...")).unwrap_or_default();
    }
    // A device that is lost, and another that continues its backup.
    let mut bench = Bench::new(key(2));
    fs::write(bench.tree().join("a"), b"of the lost device").unwrap();
    let lost = store.create_repository(OLD, &key(2).public(), Alias::new("old")).unwrap();
    let vault = Arc::new(LocalVault::new(lost.clone(), OLD));
    let snapshot = bench.back_up(&vault).await.unwrap().snapshot;
    fs::write(folder.join(format!("{snapshot}.txt")), describe(&bench.tree())).unwrap();
    let (signer, alias) = (key(3).public(), Alias::new("new"));
    lost.append_owner(OwnerEvent::Adopt { fingerprint: NEW, signer, alias, at: start }).unwrap();
    fs::write(bench.tree().join("b"), b"of the new one").unwrap();
    bench.signer = key(3);
    let vault = Arc::new(LocalVault::new(lost, NEW));
    let snapshot = bench.back_up(&vault).await.unwrap().snapshot;
    fs::write(folder.join(format!("{snapshot}.txt")), describe(&bench.tree())).unwrap();
}

/// What belongs to the format: neither the cache nor locks nor drafts.
fn is_kept(path: &Path) -> bool {
    let text = path.to_string_lossy();
    !["index.sqlite", "/locks/", "/staging/", "store/lock"].iter().any(|part| text.contains(part))
}

fn copy(from: &Path, to: &Path) {
    for path in files(from).into_iter().filter(|path| is_kept(path)) {
        let target = to.join(path.strip_prefix(from).unwrap());
        fs::create_dir_all(target.parent().unwrap()).unwrap();
        fs::copy(path, target).unwrap();
    }
}

/// The hash of all files of a kept store, with their names.
fn hash(folder: &Path) -> String {
    let mut paths = files(folder);
    paths.sort();
    let mut hasher = blake3::Hasher::new();
    for path in paths {
        let bytes = fs::read(&path).unwrap();
        hasher.update(path.strip_prefix(folder).unwrap().as_os_str().as_bytes());
        hasher.update(blake3::hash(&bytes).as_bytes());
    }
    hasher.finalize().to_hex()[..32].to_owned()
}

/// Every snapshot of a repository, its chain checked.
fn snapshots(repository: &Repository) -> Vec<SnapshotInfo> {
    let listed = repository.snapshots().unwrap();
    let (good, breaks) = chain::check(repository.id(), &repository.owner_log(), &repository.signers(), &listed, &[]);
    assert!(breaks.is_empty(), "{breaks:?}");
    assert!(good.iter().all(|checked| checked.trust == chain::Signature::Known));
    listed
}

/// Reads every byte of a store and restores every snapshot in it.
async fn read_all(folder: &Path) -> Vec<(String, usize)> {
    let scratch = scratch();
    let store = open(&folder.join("store"));
    let mut found = Vec::new();
    for path in files(&folder.join("store")).iter().filter(|path| path.to_string_lossy().contains("/packs/")) {
        let (_, id, _) = pack::verify(&OpenFile::open(path).unwrap()).unwrap();
        assert!(path.ends_with(id.to_string()));
    }
    for repository in store.repositories() {
        let listed = snapshots(&repository);
        found.push((repository.alias().to_string(), listed.len()));
        let vault = Arc::new(LocalVault::new(repository, LAPTOP));
        for snapshot in listed {
            let out = scratch.path().join(snapshot.id.to_string());
            let restored = restore(&vault, &snapshot, &out, Conflict::KeepBoth).await.unwrap();
            assert_eq!(restored.faults, []);
            let expected = fs::read_to_string(folder.join(format!("{}.txt", snapshot.id))).unwrap();
            let found = describe(&out.join("tree"));
            assert_eq!(found, expected, "snapshot {}", snapshot.id);
        }
    }
    found.sort();
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn repositories_of_every_released_format_come_back_byte_for_byte() {
    for (name, expected) in KEPT {
        assert_eq!(hash(&kept().join(name)), expected, "what is kept of {name} is never changed");
        let copied = scratch();
        copy(&kept().join(name), copied.path());
        let whole = [("laptop".to_owned(), 2), ("new".to_owned(), 2)];
        assert_eq!(read_all(copied.path()).await, whole, "{name}");
        // And once more, with the index that the first time has made.
        assert_eq!(read_all(copied.path()).await, whole, "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_old_repository_is_continued() {
    for (name, _) in KEPT {
        let copied = scratch();
        copy(&kept().join(name), copied.path());
        let store = open(&copied.path().join("store"));
        let repository = store.owned_by(&LAPTOP).unwrap();
        let mut bench = Bench::new(key(1));
        tree(&bench.tree());
        let vault = Arc::new(LocalVault::new(repository.clone(), LAPTOP));
        bench.back_up(&vault).await.unwrap();
        let listed = snapshots(&repository);
        assert_eq!(listed.len(), 3);
        let out = bench.path("out");
        restore(&vault, &listed[2], &out, Conflict::KeepBoth).await.unwrap();
        assert_eq!(describe(&out.join("tree")), describe(&bench.tree()));
    }
}

#[test]
fn no_released_format_is_forgotten() {
    let mut found: Vec<String> =
        fs::read_dir(kept()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    found.sort();
    let names: Vec<_> = KEPT.iter().map(|(name, _)| (*name).to_owned()).collect();
    let formats: Vec<_> = (1..=FORMAT).map(|format| format!("v{format}")).collect();
    assert_eq!((&found, &names), (&formats, &formats));
}

#[tokio::test(flavor = "multi_thread")]
#[expect(clippy::disallowed_methods, reason = "a test's own switch")]
async fn this_version_still_makes_such_a_store() {
    let made = scratch();
    make(made.path()).await;
    assert_eq!(read_all(made.path()).await, [("laptop".to_owned(), 2), ("new".to_owned(), 2)]);
    let place = kept().join(format!("v{FORMAT}"));
    if std::env::var_os("LAN_BACKUP_KEEP_STORE").is_some() && !place.exists() {
        copy(made.path(), &place);
    }
}
