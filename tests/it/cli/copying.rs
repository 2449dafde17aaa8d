//! `copy`: what is kept here, on a disk beside it, or on another device, and back.

use crate::bit_rot::flip;
use crate::store_support::files;
use crate::support::lan::{Lan, bytes_below};
use crate::support::program::{KILLED, until};
use crate::support::tree::{assert_same, noise};
use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};

fn pack_bytes(store: &Path) -> u64 {
    let packs = files(store).into_iter().filter(|path| path.to_string_lossy().contains("/packs/"));
    packs.map(|path| fs::metadata(path).unwrap().len()).sum()
}

fn ids(rows: &[Value]) -> Vec<(Value, Value)> {
    rows.iter().map(|row| (row["snapshot"].clone(), row["verified"].clone())).collect()
}

#[test]
fn a_store_goes_to_a_disk_and_comes_back_signatures_and_all() {
    let lan = Lan::new();
    let (mut nas, laptop) = lan.paired();
    let docs = lan.folder("docs", &[("a", &noise(700_000, 1)), ("b/c", b"c")]);
    for number in 0..10 {
        fs::write(docs.join(format!("small{number}")), noise(3000, number)).unwrap();
    }
    let send = || laptop.run(&["send", "nas", docs.to_str().unwrap()]).done()["snapshot"].clone();
    let first = send();
    let usb = lan.path("usb/backups");
    let copy = |more: &[&str]| nas.run(&[&["copy", "local", usb.to_str().unwrap()], more].concat());
    let copied = copy(&[]);
    let last = copied.done();
    assert_eq!((&last["copied"], &last["present"]), (&json!(1), &json!(0)), "{copied:#?}");
    // Again: nothing is sent.
    assert_eq!(copy(&[]).done()["bytes"], 0);
    let before = pack_bytes(&usb);
    fs::write(docs.join("b/c"), b"changed").unwrap();
    let second = send();
    let again = copy(&[]);
    assert_eq!((again.number("copied"), again.number("present")), (1, 1));
    assert!(pack_bytes(&usb) - before < 20_000, "only what is new: {again:#?}");
    let own = nas.snapshots(None);
    nas.stop();

    let at_usb = |arguments: &[&str]| nas.run(&[arguments, &["--store", usb.to_str().unwrap()]].concat());
    let rows = at_usb(&["snapshots"]);
    assert_eq!(ids(rows.rows()), ids(&own));
    assert_eq!(ids(&own), [(first.clone(), json!(true)), (second, json!(true))]);
    // As if both the laptop and the store of nas were lost.
    let to = lan.path("rescued");
    at_usb(&["restore", "local", "--of", "laptop", "--to", to.to_str().unwrap()]).done();
    assert_same(&docs, &to.join("docs"));
    // And into a new store, of which only the newest is wanted; then the other one, too.
    let fresh = lan.path("fresh store");
    let (from, into) = (usb.to_str().unwrap(), fresh.to_str().unwrap());
    let part = nas.run(&["copy", from, into, "latest"]);
    assert_eq!((part.done()["copied"].clone(), part.lines[0]["recordsOnly"].clone()), (json!(1), json!(1)));
    let listed = nas.run(&["snapshots", "--store", into]);
    assert_eq!(listed.rows().len(), 1, "{listed:#?}");
    let rest = nas.run(&["copy", from, into, first.as_str().unwrap()]);
    assert_eq!((rest.done()["copied"].clone(), rest.number("present")), (json!(1), 0));
    assert_eq!(ids(nas.run(&["snapshots", "--store", into]).rows()), ids(&own));
    let to = lan.path("older");
    let older = ["restore", "local", "latest~1:docs/b", "--store", into, "--to", to.to_str().unwrap()];
    nas.run(&older).done();
    assert_eq!(fs::read(to.join("c")).unwrap(), b"c");

    nas.run(&["copy", "local", "local"]).failed(2, "usage", "the same store", "another folder");
    nas.run(&["copy", "/nowhere/at/all", into]).failed(2, "usage", "there is no store in", "store.json");
    nas.run(&["copy", "local", into, "latest:docs"]).failed(2, "usage", "whole snapshots", ":PATH");
}

#[test]
fn a_copy_that_is_killed_goes_on_where_it_was() {
    let lan = Lan::new();
    let (nas, laptop) = lan.paired();
    let docs = lan.folder("docs", &[]);
    for number in 0..6 {
        fs::write(docs.join(format!("large {number}")), noise(12 << 20, number)).unwrap();
    }
    laptop.run(&["send", "nas", docs.to_str().unwrap()]).done();
    let usb = lan.path("usb");
    let copy = ["copy", "local", usb.to_str().unwrap()];
    let copying = nas.start(&copy);
    until("a third to have arrived", || (bytes_below(&usb) > 24 << 20).then_some(()));
    assert_eq!(copying.kill().code, KILLED, "it was over already; this test has seen nothing");
    assert!(nas.run(&["snapshots", "--store", copy[2]]).rows().is_empty(), "half a copy is no snapshot");
    let there = pack_bytes(&usb);
    let again = nas.run(&copy);
    assert_eq!(again.done()["copied"], 1);
    let sent = again.number("bytes");
    assert!(sent < (72 << 20) - there + (1 << 20), "{sent} bytes were sent, though {there} were there");
    assert!(there > 8 << 20, "nothing was left of the first try: {there}");
    assert_eq!(nas.run(&["verify", "--data", "--store", copy[2]]).last(0)["clean"], true);
}

#[test]
fn what_is_damaged_is_not_copied_and_said_and_the_rest_is() {
    let lan = Lan::new();
    let (mut nas, laptop) = lan.paired();
    let docs = lan.folder("docs", &[("a", b"one")]);
    let send = || laptop.run(&["send", "nas", docs.to_str().unwrap()]).done()["snapshot"].clone();
    let damaged = send();
    let packs: Vec<PathBuf> =
        files(&nas.home).into_iter().filter(|path| path.to_string_lossy().contains("/packs/")).collect();
    fs::remove_file(docs.join("a")).unwrap();
    fs::write(docs.join("b"), noise(50_000, 2)).unwrap();
    let whole = send();
    nas.stop();
    for pack in &packs {
        fs::remove_file(pack).unwrap();
    }
    let usb = lan.path("usb/backups");
    let copied = nas.run(&["copy", "local", usb.to_str().unwrap()]);
    assert_eq!(copied.last(3)["copied"], 1, "{copied:#?}");
    let row = copied.lines.iter().find(|line| line["event"] == "copied").unwrap();
    assert_eq!(row["lost"], json!([damaged]));
    assert!(copied.stderr.contains("is damaged where it is"), "{copied:#?}");
    let listed = nas.run(&["snapshots", "--store", usb.to_str().unwrap()]);
    assert_eq!(listed.rows().iter().map(|row| row["snapshot"].clone()).collect::<Vec<_>>(), [whole]);
    let to = lan.path("to");
    nas.run(&["restore", "local", "--store", usb.to_str().unwrap(), "--to", to.to_str().unwrap()]).done();
    assert_same(&docs, &to.join("docs"));
}

#[test]
fn what_has_lost_a_file_is_copied_with_its_mark_and_the_next_copy_brings_what_was_healed() {
    let lan = Lan::new();
    let (nas, laptop) = lan.paired();
    let docs = lan.folder("docs", &[("a", &noise(300_000, 1)), ("c", &noise(200_000, 3))]);
    let send = || laptop.run(&["send", "nas", docs.to_str().unwrap()]).done()["snapshot"].clone();
    send();
    let pack = files(&nas.store()).into_iter().find(|path| path.to_string_lossy().contains("/packs/")).unwrap();
    fs::write(docs.join("b"), b"new").unwrap();
    send();
    flip(&pack, 800_000);
    let usb = lan.path("usb/backups");
    let usb = usb.to_str().unwrap();
    let copied = nas.run(&["copy", "local", usb]);
    assert_eq!(copied.last(3)["copied"], 0, "{copied:#?}");
    let row = copied.lines.iter().find(|line| line["event"] == "copied").unwrap();
    assert_eq!((row["partly"].as_array().unwrap().len(), &row["lost"]), (2, &json!([])), "{copied:#?}");
    assert!(copied.stderr.contains("copied without what is lost of it: chunk"), "{copied:#?}");
    assert!(copied.stderr.contains("then `send` on laptop"), "{copied:#?}");
    // All of both is there but for one file, which is named.
    let at_usb = |arguments: &[&str]| nas.run(&[arguments, &["--store", usb]].concat());
    let listed = at_usb(&["snapshots"]);
    assert_eq!((listed.code, listed.stderr.contains("ALARM")), (0, false), "{listed:#?}");
    let rows = listed.rows();
    assert_eq!(rows.len(), 2);
    assert!(rows.iter().all(|row| row["damaged"]["files"].as_array().unwrap().len() == 1), "{rows:#?}");
    let lost = rows[0]["damaged"]["files"][0].as_str().unwrap();
    assert_eq!(at_usb(&["verify", "--data"]).last(1)["damagedFiles"], 0);
    let to = lan.path("partly");
    assert_eq!(at_usb(&["restore", "local", "--to", to.to_str().unwrap()]).code, 3);
    assert!(!to.join(lost).exists());
    for file in ["docs/a", "docs/b", "docs/c"].into_iter().filter(|file| *file != lost) {
        assert_eq!(fs::read(to.join(file)).unwrap(), fs::read(docs.parent().unwrap().join(file)).unwrap());
    }
    // Nothing has changed at the source: nothing is sent, and it is said again.
    let again = nas.run(&["copy", "local", usb]);
    assert_eq!((again.last(3)["bytes"].clone(), again.last(3)["present"].clone()), (json!(0), json!(0)), "{again:#?}");

    // What the hint says to do.
    nas.run(&["repair"]).last(1);
    send();
    let copied = nas.run(&["copy", "local", usb]);
    assert_eq!(copied.done()["copied"], 3, "{copied:#?}");
    assert!(copied.number("bytes") < 400_000, "only what was lost: {copied:#?}");
    let rows = at_usb(&["snapshots"]);
    assert!(rows.rows().iter().all(|row| row["damaged"].is_null()), "{rows:#?}");
    assert_eq!(at_usb(&["verify", "--data"]).last(0)["clean"], true);
    let to = lan.path("to");
    at_usb(&["restore", "local", "latest~1", "--to", to.to_str().unwrap()]).done();
    assert_same(&docs, &to.join("docs"));
}

#[test]
fn a_copy_of_snapshots_that_have_all_lost_their_lists_says_so_raises_no_alarm_and_is_made_good_later() {
    let lan = Lan::new();
    let (mut nas, laptop) = lan.paired();
    let docs = lan.folder("docs", &[("a", &noise(300_000, 1))]);
    laptop.run(&["send", "nas", docs.to_str().unwrap()]).done();
    fs::write(docs.join("b"), b"new").unwrap();
    laptop.run(&["send", "nas", docs.to_str().unwrap()]).done();
    nas.stop();
    for pack in files(&nas.store()).into_iter().filter(|path| path.to_string_lossy().contains("/packs/")) {
        fs::remove_file(pack).unwrap();
    }
    let usb = lan.path("usb/backups");
    let usb = usb.to_str().unwrap();
    let copied = nas.run(&["copy", "local", usb]);
    assert_eq!(copied.last(3)["copied"], 0, "{copied:#?}");
    assert!(copied.stderr.contains("not copied, because chunk"), "{copied:#?}");
    assert!(copied.stderr.contains("then `send` on laptop"), "{copied:#?}");
    // There is nothing to be had from it yet, and it says why.
    let listed = nas.run(&["snapshots", "--store", usb]);
    assert_eq!((listed.code, listed.stderr.contains("ALARM")), (0, false), "{listed:#?}");
    let restored = nas.run(&["restore", "local", "--store", usb, "--to", lan.path("none").to_str().unwrap()]);
    restored.failed(1, "no-such-snapshot", "of 1 others only the record is here", "lan-backup snapshots");
    let again = nas.run(&["copy", usb, lan.path("third").to_str().unwrap()]);
    assert!(!again.stderr.contains("ALARM"), "{again:#?}");

    // What the hint says to do.
    nas.run(&["repair"]).last(1);
    nas.serve(&["--accept", "paired"]);
    let whole = laptop.run(&["send", &nas.address(), docs.to_str().unwrap()]).done()["snapshot"].clone();
    let copied = nas.run(&["copy", "local", usb]);
    assert!(copied.number("copied") > 1, "{copied:#?}");
    let rows = nas.run(&["snapshots", "--store", usb]);
    assert_eq!(rows.rows().last().unwrap()["snapshot"], whole, "{rows:#?}");
    let to = lan.path("to");
    nas.run(&["restore", "local", "--store", usb, "--to", to.to_str().unwrap()]).done();
    assert_same(&docs, &to.join("docs"));
}

#[test]
fn a_copy_goes_to_another_device_when_its_person_allows_it_and_stays_a_copy() {
    let lan = Lan::new();
    let (nas, laptop) = lan.paired();
    let docs = lan.folder("docs", &[("a", &noise(300_000, 1)), ("b", b"b")]);
    laptop.run(&["send", "nas", docs.to_str().unwrap()]).done();
    // Here nas is the device with the backup, and the attic is laptop's own neighbour, too.
    let mut attic = lan.device("attic");
    attic.serve(&["--accept", "paired"]);
    nas.pair(&mut attic).last(0);
    let address = attic.address();
    let copy = || nas.run(&["copy", "local", &address]);
    copy().failed(1, "not-allowed", "may not replicate", "lan-backup trust");
    attic.run(&["trust", "nas", "--grant", "replicate"]).last(0);
    let copied = copy();
    assert_eq!((copied.done()["copied"].clone(), copied.number("bytes") > 300_000), (json!(1), true));
    fs::write(docs.join("b"), b"changed").unwrap();
    laptop.run(&["send", "nas", docs.to_str().unwrap()]).done();
    let copied = copy();
    assert_eq!((copied.number("copied"), copied.number("present")), (1, 1));
    assert!(copied.number("bytes") < 20_000, "{copied:#?}");
    assert_eq!(copy().done()["bytes"], 0);
    let rows = attic.snapshots(None);
    assert_eq!(rows.iter().map(|row| row["sequence"].clone()).collect::<Vec<_>>(), [json!(1), json!(2)]);
    let to = lan.path("to");
    attic.run(&["restore", "local", "--to", to.to_str().unwrap()]).done();
    assert_same(&docs, &to.join("docs"));

    // What laptop backs up at the attic itself goes to a repository of its own, not into the copy that another device laid out.
    laptop.pair(&mut attic).last(0);
    assert!(laptop.snapshots(Some(&attic.address())).is_empty(), "a copy is nobody's own backup");
    laptop.run(&["send", &attic.address(), docs.to_str().unwrap()]).done();
    let own = laptop.snapshots(Some(&attic.address()));
    assert_eq!((own.len(), own[0]["repository"] == rows[0]["repository"]), (1, false));
    // The right is looked at each time.
    attic.run(&["trust", "nas", "--revoke", "replicate"]).last(0);
    copy().failed(1, "not-allowed", "may not replicate", "");

    // And back again, as if nas had lost everything: what it may read there, it copies into a store of its own.
    attic.run(&["trust", "nas", "--grant", "restore-others"]).last(0);
    let fresh = lan.path("fresh store");
    let back = ["copy", &attic.address(), fresh.to_str().unwrap(), "--of", rows[0]["repository"].as_str().unwrap()];
    assert_eq!(nas.run(&back).done()["copied"], 2);
    let listed = nas.run(&["snapshots", "--store", fresh.to_str().unwrap()]);
    assert_eq!(ids(listed.rows()), ids(&nas.snapshots(None)));
}
