//! Several things at once.

use crate::support::lan::Lan;
use crate::support::program::until;
use crate::support::tree::{assert_same, noise};
use lan_backup::platform::lock::Lock;
use std::fs;
use std::time::Duration;

#[test]
fn two_devices_send_at_once_and_neither_sees_the_others_files() {
    let lan = Lan::new();
    let (mut nas, laptop) = lan.paired();
    let desktop = lan.device("desktop");
    desktop.pair(&mut nas).last(0);
    // Half of it is the same on both.
    let shared = noise(20 << 20, 9);
    let one = lan.folder("one", &[("shared", &shared), ("own", &noise(20 << 20, 1))]);
    let two = lan.folder("two", &[("shared", &shared), ("own", &noise(20 << 20, 2))]);
    let first = laptop.start(&["send", "nas", one.to_str().unwrap()]);
    let second = desktop.start(&["send", "nas", two.to_str().unwrap()]);
    first.end().done();
    second.end().done();
    assert_eq!(nas.snapshots(None).len(), 2);
    for (device, tree, name) in [(&laptop, &one, "one"), (&desktop, &two, "two")] {
        assert_eq!(device.snapshots(Some("nas")).len(), 1);
        let to = lan.path(&format!("to-{name}"));
        device.run(&["restore", "nas", "--to", to.to_str().unwrap()]).done();
        assert_same(tree, &to.join(name));
    }
    let to = lan.path("x");
    let unclear = nas.run(&["restore", "local", "--to", to.to_str().unwrap()]);
    unclear.failed(2, "usage", "several devices have backed up here", "--of ALIAS");
    nas.run(&["restore", "local", "--of", "desktop", "--to", to.to_str().unwrap()]).done();
    assert_same(&two, &to.join("two"));
}

#[test]
fn a_restore_during_a_backup_gets_the_last_whole_snapshot() {
    let lan = Lan::new();
    let (nas, laptop) = lan.paired();
    let docs = lan.folder("docs", &[("a", &noise(2 << 20, 1))]);
    laptop.run(&["send", "nas", docs.to_str().unwrap()]).done();
    let before = lan.path("before");
    crate::support::lan::copy_folder(&docs, &before);
    fs::write(docs.join("big"), noise(100 << 20, 2)).unwrap();
    let sending = laptop.start(&["send", "nas", docs.to_str().unwrap()]);
    until("bytes to arrive", || (nas.stored_bytes() > 20 << 20).then_some(()));
    let to = lan.path("to");
    laptop.run(&["restore", "nas", "--to", to.to_str().unwrap()]).done();
    assert!(!to.join("docs/big").exists(), "the backup was over already; this test has seen nothing");
    assert_same(&before, &to.join("docs"));
    sending.end().done();
    assert_eq!(nas.snapshots(None).len(), 2);
}

#[test]
fn the_same_set_sent_twice_at_once_ends_in_one_chain() {
    let lan = Lan::new();
    let (nas, laptop) = lan.paired();
    let docs = lan.folder("docs", &[("a", &noise(10 << 20, 1))]);
    let send = || laptop.start(&["send", "nas", docs.to_str().unwrap()]);
    let both = [send(), send()];
    for ran in both.map(crate::support::program::Program::end) {
        ran.done();
    }
    let sequences: Vec<_> = nas.snapshots(None).iter().map(|row| row["sequence"].as_u64().unwrap()).collect();
    assert_eq!(sequences, [1, 2]);
    laptop.run(&["restore", "nas", "--to", lan.path("to").to_str().unwrap()]).done();
    assert_same(&docs, &lan.path("to").join("docs"));
}

#[test]
fn the_lock_of_a_living_process_names_it_and_that_of_a_dead_one_is_free_at_once() {
    let lan = Lan::new();
    let (mut nas, laptop) = lan.paired();
    let docs = lan.folder("docs", &[("a", b"1")]);
    laptop.run(&["send", "nas", docs.to_str().unwrap()]).done();
    let process = format!("process {}", nas.serve.as_ref().unwrap().id());
    nas.run(&["serve", "--port", "0"]).failed(2, "usage", &process, "stop that one first");

    // What it holds as long as it lives: the lock on its folder for drafts.
    let locks: Vec<_> = crate::store_support::files(&nas.store())
        .into_iter()
        .filter(|path| path.ends_with("lock") && path.to_string_lossy().contains("/staging/"))
        .collect();
    let [lock] = &locks[..] else { panic!("{locks:?}") };
    let error = Lock::exclusive_within(lock, Duration::from_millis(10)).unwrap_err().source.to_string();
    assert!(error.contains(&process) && error.contains("serve"), "{error}");
    // A command beside it needs no more than a moment of the store's own lock.
    assert_eq!(nas.snapshots(None).len(), 1);

    nas.crash();
    Lock::exclusive_within(lock, Duration::ZERO).unwrap();
    nas.serve(&[]);
    assert_eq!(nas.snapshots(None).len(), 1);
}
