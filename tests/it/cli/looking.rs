//! Looking into snapshots: `ls`, `find` and `diff`, here and over the network.

use crate::support::lan::Lan;
use crate::support::tree::noise;
use serde_json::{Value, json};
use std::fs;

fn paths(rows: &[Value]) -> Vec<&str> {
    rows.iter().filter_map(|row| row["path"].as_str()).collect()
}

#[test]
fn what_was_where_is_found_in_all_snapshots_here_and_over_there() {
    let lan = Lan::new();
    let (nas, laptop) = lan.paired();
    let docs = lan.folder("docs", &[("a.txt", b"one"), ("sub/b.txt", b"b"), ("sub/c.jpg", &noise(200_000, 1))]);
    let send = || {
        let ran = laptop.run(&["send", "nas", docs.to_str().unwrap()]);
        ran.done()["snapshot"].as_str().unwrap().to_owned()
    };
    let first = send();
    fs::write(docs.join("a.txt"), b"changed").unwrap();
    let second = send();
    fs::remove_file(docs.join("sub/b.txt")).unwrap();
    fs::write(docs.join("new.txt"), b"new").unwrap();
    let third = send();

    for (device, place) in [(&laptop, "nas"), (&nas, "local")] {
        let found = device.run(&["find", "*.txt", place]);
        let brief = |row: &Value| {
            (
                row["path"].clone(),
                row["snapshots"].clone(),
                row["first"].clone(),
                row["last"].clone(),
                row["bytes"].clone(),
            )
        };
        assert_eq!(
            found.rows().iter().map(brief).collect::<Vec<_>>(),
            [
                (json!("docs/a.txt"), json!(1), json!(first), json!(first), json!(3)),
                (json!("docs/a.txt"), json!(2), json!(second), json!(third), json!(7)),
                (json!("docs/new.txt"), json!(1), json!(third), json!(third), json!(3)),
                (json!("docs/sub/b.txt"), json!(2), json!(first), json!(second), json!(1)),
            ],
            "{place}"
        );
        assert!(device.run(&["find", "*.txt", place, "--set", "other"]).rows().is_empty());
        assert_eq!(paths(device.run(&["find", "docs/sub", place]).rows()), ["docs/sub", "docs/sub"]);

        let differ = device.run(&["diff", place]);
        let brief = |row: &Value| (row["change"].clone(), row["path"].clone(), row["bytes"].clone());
        let rows: Vec<_> = differ.rows().iter().filter(|row| row["kind"] == "file").map(brief).collect();
        assert_eq!(
            rows,
            [
                (json!("added"), json!("docs/new.txt"), json!(3)),
                (json!("removed"), json!("docs/sub/b.txt"), Value::Null)
            ]
        );
        let sums = differ.last(0);
        assert_eq!((&sums["added"], &sums["removed"]["files"]), (&json!({ "files": 1, "bytes": 3 }), &json!(1)));
        let part = device.run(&["diff", place, &format!("{}:docs/a.txt", &first[..8]), &third[..8]]);
        assert_eq!((paths(part.rows()), &part.lines[0]["change"]), (vec!["docs/a.txt"], &json!("content")));
        let same = device.run(&["diff", place, "latest", "latest"]);
        assert_eq!(same.rows().len(), 1, "only the sums: {same:#?}");

        let listed = device.run(&["ls", place, "latest:docs"]);
        assert_eq!(paths(listed.rows()), ["docs/a.txt", "docs/new.txt", "docs/sub"]);
        assert_eq!(paths(device.run(&["ls", place, "latest~2:docs/sub/b.txt"]).rows()), ["docs/sub/b.txt"]);
        assert_eq!(paths(device.run(&["ls", place]).rows()), ["docs"]);
        device.run(&["ls", place, "latest:docs/none"]).failed(1, "no-such-snapshot", "there is no `docs/none`", "");
    }
    laptop.run(&["find", "a{", "nas"]).failed(2, "bad-pattern", "a{", "");
    nas.run(&["diff", "local", "latest:a", "latest:b"]).failed(2, "usage", "two paths", "once");

    // A part and a pattern, into a zip file.
    let file = lan.path("part.zip");
    let part = ["restore", "nas", "latest~1:docs/sub", "--include", "*.txt", "--zip", file.to_str().unwrap()];
    laptop.run(&part).done();
    let zip = zip::ZipArchive::new(fs::File::open(&file).unwrap()).unwrap();
    assert_eq!(zip.file_names().map(Result::unwrap).collect::<Vec<_>>(), ["b.txt"]);
}

#[test]
fn a_snapshot_that_cannot_be_read_hides_nothing_of_the_others() {
    let lan = Lan::new();
    let (mut nas, laptop) = lan.paired();
    let docs = lan.folder("docs", &[("a", b"one")]);
    laptop.run(&["send", "nas", docs.to_str().unwrap()]).done();
    // The packs of the first snapshot only.
    let first: Vec<_> = crate::store_support::files(&nas.home).into_iter().filter(|path| is_pack(path)).collect();
    fs::write(docs.join("b"), noise(50_000, 2)).unwrap();
    laptop.run(&["send", "nas", docs.to_str().unwrap()]).done();
    nas.stop();
    for pack in first {
        let mut bytes = fs::read(&pack).unwrap();
        // In the stored bytes of every block: headers and trailer stay.
        for at in
            (8..bytes.len() - 60).filter(|at| bytes[*at..].starts_with(&[0x28, 0xb5, 0x2f, 0xfd])).collect::<Vec<_>>()
        {
            bytes[at + 6] ^= 0x10;
        }
        fs::write(&pack, bytes).unwrap();
    }
    let found = nas.run(&["find", "*", "local"]);
    assert_eq!(found.code, 3, "{found:#?}");
    assert!(found.stderr.contains("could not be looked through"), "{found:#?}");
    assert_eq!(paths(&found.lines), ["docs", "docs/a", "docs/b"]);
    assert!(found.lines.iter().all(|row| row["snapshots"] == 1));
    for (command, code) in [(&["diff", "local"][..], "corrupt"), (&["ls", "local", "latest~1"], "corrupt")] {
        let ran = nas.run(command);
        assert_eq!(ran.last(1)["code"], code, "{ran:#?}");
        assert!(ran.stderr.contains("lan-backup repair") && !ran.stderr.contains("vault"), "{ran:#?}");
        assert!(!ran.stderr.contains("damaged is damaged") && !ran.stderr.contains("is damaged is"), "{ran:#?}");
    }
}

#[test]
fn what_backups_take_is_shown_by_device_set_and_month_and_adds_up() {
    let lan = Lan::new();
    let (nas, laptop) = lan.paired();
    assert!(nas.run(&["stats"]).stderr.contains("nothing is kept here yet"));
    let docs = lan.folder("docs", &[("a.bin", &noise(300_000, 1)), ("b.bin", &noise(300_000, 2))]);
    laptop.run(&["send", "nas", docs.to_str().unwrap()]).done();
    fs::write(docs.join("c.bin"), noise(50_000, 3)).unwrap();
    laptop.run(&["send", "nas", docs.to_str().unwrap()]).done();
    let pictures = lan.folder("pictures", &[("again.bin", &noise(300_000, 1)), ("new.bin", &noise(90_000, 4))]);
    laptop.run(&["send", "nas", pictures.to_str().unwrap()]).done();

    let ran = nas.run(&["stats"]);
    let all = nas.run(&["stats", "--by", "snapshot"]);
    let of_kind = |kind: &str| all.lines.iter().filter(|row| row["kind"] == kind).cloned().collect::<Vec<_>>();
    let kept = |row: &Value, field: &str| row["kept"][field].as_u64().unwrap();
    let sets = of_kind("set");
    assert_eq!(sets.iter().map(|row| &row["set"]).collect::<Vec<_>>(), ["docs", "pictures"]);
    assert_eq!((kept(&sets[0], "snapshots"), kept(&sets[0], "rawBytes")), (2, 600_000 + 650_000));
    assert_eq!((sets[0]["newestBytes"].as_u64(), sets[1]["newestBytes"].as_u64()), (Some(650_000), Some(390_000)));
    // What pictures shares with docs counts for docs, which came first.
    assert!((650_000..660_000).contains(&kept(&sets[0], "plainBytes")), "{sets:?}");
    assert!((90_000..95_000).contains(&kept(&sets[1], "plainBytes")), "{sets:?}");
    let whole = &of_kind("repository")[0];
    for field in ["snapshots", "rawBytes", "plainBytes", "storedBytes", "chunks"] {
        assert_eq!(kept(whole, field), kept(&sets[0], field) + kept(&sets[1], field), "{field}");
    }
    assert_eq!(whole["alias"], "laptop");
    let growth = of_kind("growth");
    let added: u64 = growth.iter().map(|row| row["added"]["storedBytes"].as_u64().unwrap()).sum();
    assert_eq!((growth.len(), added), (3, kept(whole, "storedBytes")));
    let packs = whole["packs"]["bytes"].as_u64().unwrap();
    assert!(added < packs && added > packs * 9 / 10, "{whole}");
    assert_eq!(ran.last(0)["kept"], whole["kept"], "the store is all that is in it");

    let months = nas.run(&["stats", "--set", "pictures"]);
    let months: Vec<_> = months.lines.iter().filter(|row| row["kind"] == "growth").collect();
    assert_eq!((months.len(), &months[0]["snapshots"], &months[0]["set"]), (1, &json!(1), &json!("pictures")));
    nas.run(&["stats", "--set", "nothing"]).failed(2, "usage", "no set `nothing`", "lan-backup snapshots");
    nas.run(&["stats", "--device", "nobody"]).failed(2, "usage", "no device `nobody`", "lan-backup snapshots");
    let shown = nas.plain(&["stats"]).end();
    assert_eq!(shown.code, 0, "{shown:#?}");
}

fn is_pack(path: &std::path::Path) -> bool {
    path.to_string_lossy().contains("/packs/")
}
