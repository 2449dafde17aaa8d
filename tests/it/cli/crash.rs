//! Processes that die and stop in the middle of things. What was acknowledged is there; what had arrived is not sent twice.

use crate::support::lan::{Lan, Node, copy_folder};
use crate::support::program::{KILLED, until};
use crate::support::tree::{assert_same, assert_same_inside, noise};
use rustix::process::Signal;
use serde_json::json;
use std::fs;
use std::path::PathBuf;

const MIB: u64 = 1 << 20;
/// Large enough to be in the middle of it for a while.
const BIG: u64 = 150 * MIB;
/// What has arrived when it happens.
const ENOUGH: u64 = 50 * MIB;

fn big(lan: &Lan) -> PathBuf {
    let file = |seed| noise(BIG as usize / 3, seed);
    lan.folder("big", &[("a", &file(1)), ("b", &file(2)), ("c", &file(3))])
}

fn wait_for_bytes(nas: &Node) {
    until("a third to have arrived", || (nas.stored_bytes() > ENOUGH).then_some(()));
}

#[test]
fn a_receiver_that_dies_in_a_backup_is_started_again_and_gets_only_the_rest() {
    let lan = Lan::new();
    let (mut nas, laptop) = lan.paired();
    let big = big(&lan);
    let send = ["send", "nas", big.to_str().unwrap()];
    let sending = laptop.start(&send);
    wait_for_bytes(&nas);
    nas.crash();
    sending.end().failed(1, "offline", "", "run the same command again: what has arrived is not sent twice");

    nas.serve(&["--accept", "paired"]);
    assert!(nas.snapshots(None).is_empty(), "half a backup is no snapshot");
    let again = laptop.run(&send);
    assert_eq!(again.done()["newFiles"], 3);
    let sent = again.number("uploadedBytes");
    assert!(sent < BIG - 20 * MIB, "{sent} bytes of {BIG} were sent again");
    let to = lan.path("to");
    nas.run(&["restore", "local", "--to", to.to_str().unwrap()]).done();
    assert_same(&big, &to.join("big"));
}

#[test]
fn a_sender_that_dies_is_started_again_and_sends_only_the_rest() {
    let lan = Lan::new();
    let (nas, laptop) = lan.paired();
    let big = big(&lan);
    let send = ["send", "nas", big.to_str().unwrap()];
    let sending = laptop.start(&send);
    wait_for_bytes(&nas);
    assert_eq!(sending.kill().code, KILLED);
    let again = laptop.run(&send);
    assert_eq!(again.done()["files"], 3);
    let sent = again.number("uploadedBytes");
    assert!(sent < BIG - 20 * MIB, "{sent} bytes of {BIG} were sent again");
    let to = lan.path("to");
    laptop.run(&["restore", "nas", "--to", to.to_str().unwrap()]).done();
    assert_same(&big, &to.join("big"));
}

#[test]
fn stopping_a_backup_ends_its_session_and_keeps_what_has_arrived() {
    let lan = Lan::new();
    let (mut nas, laptop) = lan.paired();
    let big = big(&lan);
    let send = ["send", "nas", big.to_str().unwrap()];
    let sending = laptop.start(&send);
    assert_eq!(nas.event("session")["state"], "open");
    wait_for_bytes(&nas);
    sending.signal(Signal::INT);
    sending.end().failed(130, "stopped", "stopped", "");
    assert_eq!(nas.event("session")["state"], "ended");
    assert_eq!(nas.run(&["status"]).rows()[0]["sessions"], json!([]));
    assert!(nas.snapshots(None).is_empty());
    let again = laptop.run(&send);
    assert_eq!(again.done()["files"], 3);
    assert!(again.number("uploadedBytes") < BIG - 20 * MIB, "{again:#?}");
}

#[test]
fn stopping_a_restore_leaves_no_half_of_a_file_and_the_next_one_goes_on() {
    let lan = Lan::new();
    let (nas, laptop) = lan.paired();
    let big = big(&lan);
    laptop.run(&["send", "nas", big.to_str().unwrap()]).done();
    let to = lan.path("to");
    let restore = ["restore", "nas", "latest:big", "--to", to.to_str().unwrap()];
    let restoring = laptop.start(&restore);
    until("the first file", || to.join("a").exists().then_some(()));
    restoring.signal(Signal::INT);
    restoring.end().failed(130, "stopped", "stopped", "");
    for entry in fs::read_dir(&to).unwrap().map(Result::unwrap) {
        let (name, bytes) = (entry.file_name(), fs::read(entry.path()).unwrap());
        assert!(bytes == fs::read(big.join(&name)).unwrap(), "{} is not whole", name.display());
    }
    laptop.run(&restore).done();
    assert_same_inside(&big, &to);
    assert_eq!(nas.run(&["status"]).rows()[0]["sessions"], json!([]));
}

#[test]
fn an_acknowledged_snapshot_survives_the_death_of_the_receiver_right_after() {
    let lan = Lan::new();
    let (mut nas, laptop) = lan.paired();
    let docs = lan.folder("docs", &[("a", &noise(3_000_000, 1)), ("b", b"small")]);
    for round in 1..=3_u8 {
        fs::write(docs.join("b"), [round; 10]).unwrap();
        let sent = laptop.run(&["send", "nas", docs.to_str().unwrap()]);
        nas.crash();
        nas.serve(&["--accept", "paired"]);
        let rows = nas.snapshots(None);
        assert_eq!((rows.len(), &rows[rows.len() - 1]["snapshot"]), (round.into(), &sent.done()["snapshot"]));
    }
    let to = lan.path("to");
    laptop.run(&["restore", "nas", "--to", to.to_str().unwrap()]).done();
    assert_same(&docs, &to.join("docs"));
    assert_eq!(nas.run(&["status"]).rows()[2]["healthy"], true);
}

#[test]
fn a_receiver_that_lost_a_snapshot_it_had_acknowledged_is_found_out() {
    let lan = Lan::new();
    let (mut nas, laptop) = lan.paired();
    let docs = lan.folder("docs", &[("a", b"1")]);
    let send = ["send", "nas", docs.to_str().unwrap()];
    laptop.run(&send).done();
    nas.stop();
    let copy = lan.path("old store");
    copy_folder(&nas.store(), &copy);
    nas.serve(&["--accept", "paired"]);
    fs::write(docs.join("a"), b"two").unwrap();
    laptop.run(&send).done();
    nas.stop();
    fs::remove_dir_all(nas.store()).unwrap();
    copy_folder(&copy, &nas.store());
    nas.serve(&["--accept", "paired"]);

    let ran = laptop.run(&send);
    let finished = ran.last(3);
    assert_eq!((&finished["event"], &finished["faults"]), (&json!("finished"), &json!(1)));
    let alarm =
        "the receiver has lost snapshots it had acknowledged: this device remembers number 2, there it ends at 1";
    assert!(ran.stderr.contains(alarm), "{ran:#?}");
    assert!(ran.stderr.contains("no file was left out") && !ran.stderr.contains("could not be backed up"), "{ran:#?}");
    let sequences: Vec<_> = nas.snapshots(None).iter().map(|row| row["sequence"].as_u64().unwrap()).collect();
    assert_eq!(sequences, [1, 2]);
    let to = lan.path("to");
    laptop.run(&["restore", "nas", "--to", to.to_str().unwrap()]).done();
    assert_same(&docs, &to.join("docs"));
    // Once said, it is said; a new chain of heads begins here.
    assert_eq!(laptop.run(&send).done()["files"], 1);

    // All of it gone: louder still, and a backup nevertheless.
    nas.stop();
    fs::remove_dir_all(nas.store()).unwrap();
    nas.serve(&["--accept", "paired"]);
    let ran = laptop.run(&send);
    assert_eq!(ran.last(3)["event"], "finished", "{ran:#?}");
    assert!(ran.stderr.contains("the receiver has lost all backups of this device"), "{ran:#?}");
    assert_eq!(nas.snapshots(None).len(), 1);
}

#[test]
fn a_receiver_that_is_restarted_in_a_backup_says_that_the_session_is_over_and_loses_nothing() {
    let lan = Lan::new();
    let (mut nas, laptop) = lan.paired();
    let big = big(&lan);
    let send = ["send", "nas", big.to_str().unwrap()];
    let sending = laptop.start(&send);
    wait_for_bytes(&nas);
    nas.stop();
    nas.serve(&["--accept", "paired"]);
    // The sender's calls are tried again and reach the new process, which knows nothing of the session.
    let hint = "run the command again: what has arrived is not sent twice";
    sending.end().failed(1, "session-gone", "there is no such session any more", hint);
    let again = laptop.run(&send);
    assert_eq!(again.done()["files"], 3);
    assert!(again.number("uploadedBytes") < BIG - 20 * MIB, "{again:#?}");
}
