//! A disk rots under a running `serve`: the commands that look after a store, and the way back.

use crate::bit_rot::{flip, stored};
use crate::support::lan::Lan;
use crate::support::tree::{assert_same, noise};
use std::fs;

#[test]
fn what_rots_is_found_repaired_and_brought_back_by_the_next_backup_without_a_word_from_anybody() {
    let lan = Lan::new();
    let (nas, laptop) = lan.paired();
    let docs =
        lan.folder("docs", &[("large", &noise(900_000, 1)), ("letters/a", b"dear a"), ("other", &noise(300_000, 2))]);
    laptop.run(&["send", "nas", docs.to_str().unwrap()]).done();
    let clean = nas.run(&["verify", "--data"]);
    assert_eq!((clean.last(0)["clean"].as_bool(), clean.last(0)["readPacks"].as_u64()), (Some(true), Some(1)));

    let pack = stored(&nas.store()).into_iter().find(|path| path.to_string_lossy().contains("/packs/")).unwrap();
    flip(&pack, fs::metadata(&pack).unwrap().len() * 2);
    // The structure is whole; the content is not.
    assert_eq!(nas.run(&["verify"]).last(0)["clean"], true);
    let found = nas.run(&["verify", "--data"]);
    assert_eq!((found.code, &found.last(1)["damagedFiles"]), (1, &1.into()));
    let file = found.lines.iter().find(|row| row["event"] == "damaged-file").unwrap();
    assert!(pack.ends_with(file["path"].as_str().unwrap()), "{file}");
    let hit = found.lines.iter().find(|row| row["event"] == "damaged-snapshot").unwrap();
    let lost = hit["files"][0].as_str().unwrap().to_owned();
    assert!(lost.starts_with("docs/"), "{hit}");
    // It stays known, whoever asks next.
    let recent = nas.run(&["verify", "--data", "--since", "30d"]);
    assert_eq!((recent.code, &recent.last(1)["damagedFiles"]), (1, &1.into()));
    let known = nas.run(&["status"]);
    let row = known.lines.iter().find(|row| row["kind"] == "health").unwrap();
    assert_eq!(
        (known.code, row["inDoubt"].as_array().unwrap().len(), &row["damaged"][0]["files"][0]),
        (1, 1, &hit["files"][0])
    );
    assert_eq!(nas.run(&["repair", "--dry-run"]).code, 1);
    assert!(pack.exists());

    let repaired = nas.run(&["repair"]);
    assert_eq!((repaired.code, &repaired.last(1)["repaired"]), (1, &1.into()), "{repaired:#?}");
    assert!(!pack.exists() && stored(&nas.store()).iter().any(|path| path.to_string_lossy().contains("/quarantine/")));
    let status = nas.run(&["status"]);
    let health =
        |ran: &crate::support::program::Ran| ran.lines.iter().find(|row| row["kind"] == "health").unwrap().clone();
    assert_eq!((status.code, &health(&status)["damaged"][0]["files"][0]), (1, &lost.clone().into()));
    assert_eq!(nas.snapshots(None)[0]["damaged"]["files"][0], lost);
    // A restore gives everything else, says what it could not give, and leaves nothing wrong.
    let to = lan.path("partly");
    let partly = laptop.run(&["restore", "nas", "--to", to.to_str().unwrap()]);
    assert_eq!(partly.code, 3, "{partly:#?}");
    assert!(partly.stderr.contains("careful: snapshot") && partly.stderr.contains(&lost), "{partly:#?}");
    assert_eq!(laptop.snapshots(Some("nas"))[0]["damaged"]["files"][0], lost);
    assert!(!to.join(&lost).exists() && fs::read(to.join("docs/letters/a")).unwrap() == b"dear a");
    let here = nas.run(&["restore", "local", "--to", lan.path("here").to_str().unwrap()]);
    assert!(here.code == 3 && here.stderr.contains("careful: snapshot"), "{here:#?}");
    assert!(here.lines.iter().any(|line| line["event"] == "damaged" && line["mark"]["files"][0] == lost), "{here:#?}");

    // The source's files are what they were, and it sends just what is gone.
    let healed = laptop.run(&["send", "nas", docs.to_str().unwrap()]);
    assert_eq!((healed.done()["newFiles"].as_u64(), healed.done()["changedFiles"].as_u64()), (Some(0), Some(0)));
    assert!(healed.stderr.contains("read again to heal it"), "{healed:#?}");
    let status = nas.run(&["status"]);
    assert_eq!((status.code, health(&status)["healed"][0]["sequence"].as_u64()), (0, Some(1)));
    assert_eq!(nas.run(&["verify", "--data"]).last(0)["clean"], true);
    let to = lan.path("whole");
    laptop.run(&["restore", "nas", "latest~1", "--to", to.to_str().unwrap()]).done();
    assert_same(&docs, &to.join("docs"));

    // A record that its source has no more: what is lost is said, and nobody is accused of having cut the chain.
    let record = stored(&nas.store()).into_iter().find(|path| path.to_string_lossy().contains("/0000000001-")).unwrap();
    let mut bytes = fs::read(&record).unwrap();
    bytes[64..128].fill(0);
    fs::write(&record, bytes).unwrap();
    assert_eq!(nas.run(&["repair"]).code, 1);
    let to = lan.path("newest");
    let newest = laptop.run(&["restore", "nas", "--to", to.to_str().unwrap()]);
    assert_eq!(newest.code, 3, "{newest:#?}");
    assert!(newest.stderr.contains("(number 1 of set `docs`) is lost: its record was damaged"), "{newest:#?}");
    assert!(!newest.stderr.contains("removed or replaced"), "{newest:#?}");
    assert_same(&docs, &to.join("docs"));
}

#[test]
fn a_newest_record_that_rots_is_brought_again_by_its_source_and_the_chain_stays_whole() {
    let lan = Lan::new();
    let (mut nas, laptop) = lan.paired();
    let docs = lan.folder("docs", &[("a", b"1")]);
    laptop.run(&["send", "nas", docs.to_str().unwrap()]).done();
    fs::write(docs.join("b"), b"2").unwrap();
    laptop.run(&["send", "nas", docs.to_str().unwrap()]).done();
    let before = nas.snapshots(None);
    nas.stop();
    let record = stored(&nas.store()).into_iter().find(|path| path.to_string_lossy().contains("/0000000002-")).unwrap();
    let mut bytes = fs::read(&record).unwrap();
    bytes[64..128].fill(0);
    fs::write(&record, bytes).unwrap();
    // What is not there is not passed over in silence.
    let to = lan.path("older");
    let older = nas.run(&["restore", "local", "--to", to.to_str().unwrap()]);
    assert_eq!(older.code, 3, "{older:#?}");
    nas.serve(&["--accept", "paired"]);
    let sent = laptop.run(&["send", &nas.address(), docs.to_str().unwrap()]);
    sent.done();
    assert!(sent.stderr.contains("has it again") && !sent.stderr.contains("ALARM"), "{sent:#?}");
    let after = nas.snapshots(None);
    let ids = |rows: &[serde_json::Value]| rows.iter().map(|row| row["snapshot"].clone()).collect::<Vec<_>>();
    assert_eq!((ids(&after)[..2].to_vec(), after.len()), (ids(&before), 3));
    assert_eq!(nas.run(&["verify", "--data"]).last(0)["clean"], true);
    assert_eq!(laptop.run(&["snapshots", "nas"]).code, 0);
}
