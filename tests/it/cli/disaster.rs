//! The laptop is gone. A new one gets everything back and goes on where the old one ended; the old one can write no more.

use crate::support::lan::{Lan, Node, copy_folder, give_pin};
use crate::support::program::Ran;
use crate::support::tree::{assert_same, noise};
use serde_json::{Value, json};
use std::fs;
use std::path::Path;

/// `restore nas --of laptop` on a device that `nas` does not know yet: pairing first, then the question.
fn restore_of_laptop(new: &Node, nas: &mut Node, to: &Path, more: &[&str], word: &str) -> (Value, Ran) {
    let address = nas.address();
    let arguments = [&["restore", &address, "--of", "laptop", "--to", to.to_str().unwrap()], more].concat();
    let (restoring, file) = new.start_with_pin_file(&arguments);
    let pairing = nas.question();
    assert_eq!((&pairing["question"], &pairing["purpose"]), (&json!("pair"), &Value::Null));
    nas.answer(&pairing, "always");
    give_pin(&file, nas.event("pin")["pin"].as_str().unwrap());
    let question = crate::support::program::until("the question about the backup", || {
        nas.run(&["pending"]).rows().iter().find(|row| row["question"] != "pair").cloned()
    });
    nas.answer(&question, word);
    (question, restoring.end())
}

#[test]
fn a_new_device_takes_the_place_of_a_lost_one() {
    let lan = Lan::new();
    let (mut nas, laptop) = lan.paired();
    let docs = lan.folder("docs", &[("a", &noise(700_000, 1)), ("b/c", b"c")]);
    laptop.run(&["send", "nas", docs.to_str().unwrap()]).done();
    fs::write(docs.join("b/c"), b"changed").unwrap();
    laptop.run(&["send", "nas", docs.to_str().unwrap()]).done();
    let repository = nas.snapshots(None)[0]["repository"].clone();
    copy_folder(&laptop.home, &lan.path("home-old"));
    fs::remove_dir_all(&laptop.home).unwrap();
    nas.stop();
    nas.serve(&["--accept", "ask"]);

    let new = lan.device("newbook");
    let to = lan.path("rescued");
    let (question, restored) = restore_of_laptop(&new, &mut nas, &to, &["--adopt"], "replaces");
    assert_eq!(question["question"], "restore-others");
    assert_eq!(
        (&question["alias"], &question["of"], &question["adopt"]),
        (&json!("newbook"), &json!("laptop"), &json!(true))
    );
    assert_eq!(restored.done()["files"], 2);
    assert_same(&docs, &to.join("docs"));

    // The new device continues: the same repository, the next number, and only what is new is sent. The files lie elsewhere now.
    fs::write(to.join("docs/new"), b"from the new device").unwrap();
    let moved = to.join("docs");
    let first = new.start(&["send", "nas", moved.to_str().unwrap(), "--change-roots"]);
    nas.answer(&nas.question(), "always");
    let first = first.end();
    assert_eq!(first.done()["files"], 3, "{first:#?}");
    assert!(first.number("uploadedBytes") < 50_000, "the old device's chunks are there: {first:#?}");
    let rows = nas.snapshots(None);
    let brief = |row: &Value| (row["sequence"].as_u64(), row["device"].clone(), row["repository"].clone());
    let laptop_s = |n: u64| (Some(n), json!("laptop"), repository.clone());
    assert_eq!(
        rows.iter().map(brief).collect::<Vec<_>>(),
        [laptop_s(1), laptop_s(2), (Some(3), json!("newbook"), repository.clone())]
    );
    assert!(rows.iter().all(|row| row["verified"] == true), "both devices signed what they sent: {rows:#?}");
    // The new device sees them all; for who signed the old ones it has only the word of nas.
    let seen = new.snapshots(Some("nas"));
    let ids = |rows: &[Value]| rows.iter().map(|row| row["snapshot"].clone()).collect::<Vec<_>>();
    assert_eq!(ids(&seen), ids(&rows));
    let signatures: Vec<_> = seen.iter().map(|row| row["signature"].clone()).collect();
    assert_eq!(signatures, ["owner-log", "owner-log", "known"]);
    let third = new.run(&["send", "nas", moved.to_str().unwrap()]);
    assert_eq!((third.done()["newFiles"].as_u64(), nas.snapshots(None).len()), (Some(0), 4));

    // The old identity turns up again: it is known, but what it wrote is another's now.
    let old = lan.device("old");
    let refused = old.run(&["send", &nas.address(), docs.to_str().unwrap()]);
    refused.failed(1, "not-allowed", "another device has taken this one's place", "lan-backup unpair");
    assert_eq!(nas.snapshots(None).len(), 4);
    // What the hint says is possible: a backup of its own, beside the other.
    old.run(&["unpair", "nas"]).last(0);
    let (sending, file) = old.start_with_pin_file(&["send", &nas.address(), docs.to_str().unwrap()]);
    nas.answer(&nas.question(), "always");
    give_pin(&file, nas.event("pin")["pin"].as_str().unwrap());
    assert_eq!(sending.end().done()["files"], 2);
    let own = old.snapshots(Some("nas"));
    assert_eq!((own.len(), own[0]["sequence"].as_u64(), nas.snapshots(None).len()), (1, Some(1), 5));
    assert_ne!(own[0]["repository"], repository);
}

#[test]
fn a_new_device_may_look_without_taking_over_and_the_lost_one_stays_the_owner() {
    let lan = Lan::new();
    let (mut nas, laptop) = lan.paired();
    let docs = lan.folder("docs", &[("a", b"1")]);
    laptop.run(&["send", "nas", docs.to_str().unwrap()]).done();
    nas.stop();
    nas.serve(&["--accept", "ask"]);
    let new = lan.device("newbook");
    let to = lan.path("rescued");
    let (_, restored) = restore_of_laptop(&new, &mut nas, &to, &[], "once");
    restored.done();
    assert_same(&docs, &to.join("docs"));
    // Once is once.
    let again = new.start(&["restore", "nas", "--of", "laptop", "--to", lan.path("more").to_str().unwrap()]);
    nas.answer(&nas.question(), "decline");
    again.end().failed(1, "declined", "declined", "");
    assert!(!lan.path("more").exists());
    assert!(new.snapshots(Some("nas")).is_empty(), "it is not told of others' snapshots");
    new.run(&["restore", "nas", "--of", "nobody", "--to", "x"]).failed(1, "not-found", "goes by that name", "");
}
