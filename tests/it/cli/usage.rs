//! What was typed is not what can be done: exit code 2, a sentence, a next step, and nothing has happened.

use crate::support::lan::Lan;
use serde_json::json;
use std::fs;

#[test]
fn several_paths_need_a_name_and_other_roots_need_a_word() {
    let lan = Lan::new();
    let (nas, laptop) = lan.paired();
    let (one, two) = (lan.folder("x/same", &[("a", b"1")]), lan.folder("y/same", &[("b", b"2")]));
    let (one, two) = (one.to_str().unwrap(), two.to_str().unwrap());
    laptop.run(&["send", "nas", one, two]).failed(2, "usage", "several paths need a name", "--set NAME");
    laptop.run(&["send", "nas", one]).done();
    let other = laptop.run(&["send", "nas", two]);
    other.failed(2, "usage", "set `same` was made of", "--change-roots");
    assert_eq!(laptop.snapshots(Some("nas")).len(), 1);
    let meant = laptop.run(&["send", "nas", two, "--change-roots"]);
    assert_eq!((meant.number("newFiles"), meant.number("deletedFiles")), (1, 1));

    let both = laptop.run(&["send", "nas", one, two, "--set", "both"]);
    assert_eq!(both.done()["files"], 2);
    let listed = laptop.run(&["ls", "nas", "--set", "both"]);
    let tops: Vec<_> = listed.rows().iter().map(|row| row["path"].as_str().unwrap()).collect();
    assert_eq!(tops.len(), 2, "two roots with one name are told apart: {tops:?}");

    let to = lan.path("to");
    let unclear = laptop.run(&["restore", "nas", "--to", to.to_str().unwrap()]);
    unclear.failed(
        1,
        "no-such-snapshot",
        "several sets (`both`, `same`); say which with --set",
        "lan-backup snapshots",
    );
    assert!(!to.exists());
    laptop.run(&["restore", "nas", "--set", "both", "--to", to.to_str().unwrap()]).done();
    assert_eq!(fs::read(to.join(tops[0]).join("a")).unwrap(), b"1");
    assert_eq!(nas.snapshots(None).len(), 3);
}

#[test]
fn paths_names_and_patterns_that_cannot_be_are_refused_before_anybody_is_asked() {
    let lan = Lan::new();
    let (nas, laptop) = lan.paired();
    let docs = lan.folder("docs", &[("a", b"1")]);
    let docs = docs.to_str().unwrap();
    let gone = lan.path("gone");
    laptop.run(&["send", "nas", gone.to_str().unwrap()]).failed(2, "bad-path", "gone", "");
    laptop.run(&["send", "nas", docs, "--exclude", "[z-a]"]).failed(2, "bad-pattern", "[z-a]", "");
    laptop.run(&["send", "nas", docs, "--set", ""]).failed(2, "usage", "name", "--set NAME");
    assert_eq!(laptop.run(&["send", "nas"]).code, 2);
    assert_eq!(laptop.run(&["restore", "nas", "--to", "x", "--zip", "y"]).code, 2);
    laptop.run(&["send", "nas", docs]).done();
    let to = lan.path("to");
    let to = to.to_str().unwrap();
    for (what, sentence) in [
        ("latest~1", "only 1 snapshot, there is no latest~1"),
        ("latest~x", "is not `latest~NUMBER`"),
        ("zz", "neither `latest`, `latest~NUMBER` nor the beginning of a snapshot id"),
        ("00000000", "there is no snapshot `00000000`"),
        ("latest:docs/none", "nothing in the snapshot fits"),
    ] {
        laptop.run(&["restore", "nas", what, "--to", to]).failed(
            1,
            "no-such-snapshot",
            sentence,
            "lan-backup snapshots",
        );
    }
    laptop.run(&["restore", "nas", "latest:../x", "--to", to]).failed(
        1,
        "no-such-snapshot",
        "",
        "lan-backup snapshots",
    );
    laptop.run(&["trust", "nobody"]).failed(2, "usage", "no device `nobody` is paired", "`lan-backup trust` lists");
    laptop.run(&["unpair", "nobody"]).failed(2, "usage", "no device `nobody` is paired", "`lan-backup trust` lists");
    laptop.run(&["pending"]).failed(1, "not-running", "no `lan-backup serve` runs", "lan-backup serve");
    assert_eq!(nas.snapshots(None).len(), 1);
}

#[test]
fn a_device_cannot_back_up_to_itself() {
    let lan = Lan::new();
    let mut nas = lan.device("nas");
    nas.serve(&[]);
    let ran = nas.run(&["send", &nas.address(), lan.folder("docs", &[]).to_str().unwrap()]);
    ran.failed(2, "usage", "is this device itself", "name another device");
}

#[test]
fn rights_that_are_taken_away_hold_at_once() {
    let lan = Lan::new();
    let (nas, laptop) = lan.paired();
    let docs = lan.folder("docs", &[("a", b"1")]);
    let docs = docs.to_str().unwrap();
    laptop.run(&["send", "nas", docs]).done();
    let revoked = nas.run(&["trust", "laptop", "--revoke", "backup"]);
    assert_eq!(revoked.rows()[0]["rights"], json!(["list", "restore"]));
    laptop.run(&["send", "nas", docs]).failed(1, "not-allowed", "backup", "`lan-backup trust`");
    let to = lan.path("to");
    laptop.run(&["restore", "nas", "--to", to.to_str().unwrap()]).done();
    nas.run(&["trust", "laptop", "--grant", "backup", "--revoke", "restore"]).last(0);
    // Even a device that remembers nothing of its last backup, and may not read it, can make the next one.
    fs::remove_dir_all(laptop.home.join("cache")).unwrap();
    laptop.run(&["send", "nas", docs]).done();
    let refused = laptop.run(&["restore", "nas", "--to", to.to_str().unwrap()]);
    refused.failed(1, "not-allowed", "restore", "`lan-backup trust`");
}
