//! What is there and cannot be used is not taken for absent by any command: not by who restores or lists, not by who copies, and not
//! when a device comes with a new certificate.

use crate::bit_rot::flip;
use crate::store_support::files;
use crate::support::lan::Lan;
use crate::support::tree::{assert_same, noise};
use std::fs;
use std::path::{Path, PathBuf};

fn file(store: &Path, part: &str) -> PathBuf {
    files(store).into_iter().find(|path| path.to_string_lossy().contains(part)).unwrap()
}

#[test]
fn who_restores_from_a_damaged_repository_gets_it_back_or_hears_of_the_damage_and_no_alarm() {
    let lan = Lan::new();
    let (mut nas, laptop) = lan.paired();
    let docs = lan.folder("docs", &[("a", &noise(300_000, 1))]);
    laptop.run(&["send", "nas", docs.to_str().unwrap()]).done();
    nas.stop();

    // One bit, and the laptop's person wants everything back.
    flip(&file(&nas.store(), "owners/"), 1234);
    nas.serve(&["--accept", "paired"]);
    let listed = laptop.run(&["snapshots", "nas"]);
    assert_eq!((listed.code, listed.rows().len(), listed.stderr.contains("ALARM")), (0, 1, false), "{listed:#?}");
    let to = lan.path("to");
    laptop.run(&["restore", "nas", "--to", to.to_str().unwrap()]).done();
    assert_same(&docs, &to.join("docs"));
    nas.stop();
    flip(&file(&nas.store(), "config.json"), 333);
    let to = lan.path("local");
    nas.run(&["restore", "local", "--of", "laptop", "--to", to.to_str().unwrap()]).done();

    // Beyond one bit: what is wrong, whose it is, and what to do; nobody says that it is gone.
    let config = file(&nas.store(), "config.json");
    let whole = fs::read(&config).unwrap();
    fs::write(&config, &whole[..100]).unwrap();
    nas.serve(&["--accept", "paired"]);
    for arguments in [&["snapshots", "nas"][..], &["restore", "nas", "--to", "elsewhere"]] {
        let failed = laptop.run(arguments);
        failed.failed(1, "corrupt", "a file of it is damaged", "lan-backup repair");
        assert!(!failed.stderr.contains("ALARM") && !failed.stderr.contains("any more"), "{failed:#?}");
    }
    nas.stop();
    let usb = lan.path("usb");
    for arguments in [
        &["restore", "local", "--of", "laptop", "--to", "elsewhere"][..],
        &["restore", "local", "--to", "elsewhere"],
        &["snapshots"],
        &["copy", "local", usb.to_str().unwrap()],
    ] {
        let failed = nas.run(arguments);
        failed.failed(
            1,
            "store",
            "the backup of `laptop` with 1 snapshot cannot be used",
            "put a copy of that one file back",
        );
    }
    let repaired = nas.run(&["repair"]);
    assert!(repaired.stderr.contains("the backup of `laptop` with 1 snapshot"), "{repaired:#?}");
    fs::write(&config, &whole).unwrap();
    let to = lan.path("whole");
    nas.run(&["restore", "local", "--of", "laptop", "--to", to.to_str().unwrap()]).done();
    assert_same(&docs, &to.join("docs"));
}

#[test]
fn a_peer_with_a_new_certificate_is_recognised_though_the_store_here_cannot_be_opened() {
    let lan = Lan::new();
    let (mut nas, mut laptop) = lan.paired();
    let docs = lan.folder("docs", &[("a", &noise(300_000, 1))]);
    let docs = docs.to_str().unwrap();
    assert_eq!(laptop.run(&["trust", "nas", "--grant", "backup"]).code, 0);
    laptop.run(&["send", "nas", docs]).done();
    laptop.serve(&["--accept", "paired"]);
    nas.run(&["send", &laptop.address(), docs]).done();
    for part in ["store.json", "config.json"] {
        laptop.stop();
        nas.stop();
        // The laptop keeps a backup of nas, and cannot get at it when it meets the new certificate.
        let path = file(&laptop.store(), part);
        let whole = fs::read(&path).unwrap();
        fs::write(&path, &whole[..20]).unwrap();
        nas.run(&["rotate"]).last(0);
        nas.serve(&["--accept", "paired"]);
        let sent = laptop.run(&["send", "nas", docs]);
        sent.done();
        assert!(sent.stderr.contains("new certificate, signed with its old key"), "{part}: {sent:#?}");
        laptop.run(&["send", "nas", docs]).done();

        // What is kept goes with it as soon as that is possible.
        fs::write(&path, &whole).unwrap();
        let before = laptop.snapshots(None).len();
        laptop.serve(&["--accept", "paired"]);
        let again = nas.run(&["send", &laptop.address(), docs]);
        assert!(again.done()["newFiles"] == 0 && again.number("uploadedBytes") < 50_000, "{part}: {again:#?}");
        let rows = laptop.snapshots(None);
        assert_eq!(rows.len(), before + 1, "{part}: one history");
        assert!(rows.iter().all(|row| row["owner"] == nas.fingerprint().as_str()), "{part}: {rows:#?}");
        assert!(files(&laptop.home).iter().all(|path| !path.ends_with("hand-overs.json")), "{part}: it was done");
    }
}
