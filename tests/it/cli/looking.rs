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
    let differ = nas.run(&["diff", "local"]);
    assert_eq!(differ.last(1)["code"], "corrupt");
}

fn is_pack(path: &std::path::Path) -> bool {
    path.to_string_lossy().contains("/packs/")
}
