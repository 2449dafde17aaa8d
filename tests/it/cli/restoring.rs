//! Getting things back: which ones, where to, and what is there already.

use crate::support::lan::Lan;
use crate::support::tree::{assert_same, describe, noise};
use std::fs;
use std::path::{Path, PathBuf};

fn names(folder: &Path) -> Vec<String> {
    let name = |entry: std::io::Result<fs::DirEntry>| entry.unwrap().file_name().into_string().unwrap();
    let mut names: Vec<_> = fs::read_dir(folder).unwrap().map(name).collect();
    names.sort();
    names
}

#[test]
fn what_is_in_the_way_is_kept_replaced_or_left_as_asked() {
    let lan = Lan::new();
    let (nas, laptop) = lan.paired();
    let docs = lan.folder("docs", &[("report.txt", b"backed up"), ("same", b"same")]);
    laptop.run(&["send", "nas", docs.to_str().unwrap()]).done();
    let restore = |to: &Path, more: &[&str]| {
        let address = nas.address();
        let arguments = [&["restore", &address, "latest:docs", "--to", to.to_str().unwrap()], more].concat();
        laptop.run(&arguments)
    };
    let there = || lan.folder("to", &[("report.txt", b"mine"), ("own", b"own")]);

    let to = there();
    let before = describe(&to);
    let planned = restore(&to, &["--dry-run"]);
    assert_eq!(planned.last(0)["event"], "planned");
    let actions: Vec<_> = planned.lines.iter().filter_map(|line| line["action"].as_str()).collect();
    assert!(actions.contains(&"beside") && actions.contains(&"create"), "{planned:#?}");
    assert_eq!(describe(&to), before, "a dry run writes nothing");
    let nowhere = lan.path("not there yet");
    assert_eq!(restore(&nowhere, &["--dry-run"]).last(0)["event"], "planned");
    assert!(!nowhere.exists());

    restore(&to, &[]).done();
    let second: Vec<_> = names(&to).into_iter().filter(|name| name.starts_with("report (restored ")).collect();
    assert_eq!((names(&to).len(), second.len()), (4, 1));
    assert_eq!(fs::read(to.join("report.txt")).unwrap(), b"mine");
    assert_eq!(fs::read(to.join(&second[0])).unwrap(), b"backed up");
    // Again: nothing multiplies.
    restore(&to, &[]).done();
    assert_eq!(names(&to).len(), 4);

    restore(&to, &["--conflict", "skip"]).last(0);
    assert_eq!(fs::read(to.join("report.txt")).unwrap(), b"mine");
    restore(&to, &["--conflict", "overwrite"]).done();
    assert_eq!(fs::read(to.join("report.txt")).unwrap(), b"backed up");
    assert_eq!(fs::read(to.join("own")).unwrap(), b"own", "what is not in the backup is never touched");
}

#[test]
fn a_part_an_older_state_and_a_pattern_give_just_that() {
    let lan = Lan::new();
    let (_nas, laptop) = lan.paired();
    let docs = lan.folder("docs", &[("a.txt", b"old"), ("sub/b.txt", b"b"), ("sub/c.jpg", b"c")]);
    let first = laptop.run(&["send", "nas", docs.to_str().unwrap()]).done()["snapshot"].as_str().unwrap().to_owned();
    fs::write(docs.join("a.txt"), b"new and longer").unwrap();
    laptop.run(&["send", "nas", docs.to_str().unwrap()]).done();
    let get = |snapshot: &str, more: &[&str]| -> PathBuf {
        let to = lan.path(&format!("to-{:x}", getrandom::u32().unwrap()));
        laptop.run(&[&["restore", "nas", snapshot, "--to", to.to_str().unwrap()], more].concat()).done();
        to
    };
    assert_same(&docs, &get("latest", &[]).join("docs"));
    assert_eq!(fs::read(get("latest~1", &[]).join("docs/a.txt")).unwrap(), b"old");
    assert_eq!(fs::read(get(&first[..10], &[]).join("docs/a.txt")).unwrap(), b"old");
    assert_eq!(names(&get("latest:docs/sub", &[])), ["b.txt", "c.jpg"]);
    assert_eq!(names(&get("latest~1:docs/a.txt", &[])), ["a.txt"]);
    let pictures = get("latest", &["--include", "*.jpg"]);
    assert_eq!(
        (names(&pictures.join("docs")), names(&pictures.join("docs/sub"))),
        (vec!["sub".to_owned()], vec!["c.jpg".to_owned()])
    );
    let file = lan.path("all.zip");
    laptop.run(&["restore", "nas", "--zip", file.to_str().unwrap()]).done();
    let mut zip = zip::ZipArchive::new(fs::File::open(&file).unwrap()).unwrap();
    assert_eq!(std::io::read_to_string(zip.by_name("docs/a.txt").unwrap()).unwrap(), "new and longer");
}

#[test]
fn paths_longer_than_the_system_takes_at_once_come_back_all_the_same() {
    let lan = Lan::new();
    let (_nas, laptop) = lan.paired();
    let docs = lan.folder("docs", &[]);
    // 20 levels of 200 letters fit into PATH_MAX here, and not below a target that is long itself.
    let deep = ["n".repeat(180).as_str(); 20].join("/");
    fs::create_dir_all(docs.join(&deep)).unwrap();
    fs::write(docs.join(&deep).join("leaf"), b"leaf").unwrap();
    laptop.run(&["send", "nas", docs.to_str().unwrap()]).done();
    let to = lan.path(&["t".repeat(200).as_str(); 4].join("/"));
    let ran = laptop.run(&["restore", "nas", "--to", to.to_str().unwrap()]);
    assert_eq!(ran.done()["files"], 1);
    // Too long for one call, so it is compared from inside.
    let status =
        std::process::Command::new("diff").args(["-r"]).arg(&docs).arg("docs").current_dir(&to).status().unwrap();
    assert!(status.success());
    // And nothing is in the way of doing it again.
    assert_eq!(laptop.run(&["restore", "nas", "--to", to.to_str().unwrap()]).done()["faults"], 0);
}

#[test]
fn the_holder_reads_its_own_store_without_any_network() {
    let lan = Lan::new();
    let (mut nas, laptop) = lan.paired();
    let docs = lan.folder("docs", &[("a", &noise(100_000, 1)), ("b/c", b"c")]);
    laptop.run(&["send", "nas", docs.to_str().unwrap()]).done();
    for serving in [true, false] {
        if !serving {
            nas.stop();
        }
        let rows = nas.snapshots(None);
        assert_eq!((rows.len(), &rows[0]["device"], &rows[0]["verified"]), (1, &"laptop".into(), &true.into()));
        assert_eq!(nas.snapshots(Some("local")), rows);
        let listed = nas.run(&["ls", "local", "--recursive"]);
        let paths: Vec<_> = listed.rows().iter().map(|row| row["path"].as_str().unwrap()).collect();
        assert_eq!(paths, ["docs", "docs/a", "docs/b", "docs/b/c"]);
        let to = lan.path(&format!("to-{serving}"));
        nas.run(&["restore", "local", "--to", to.to_str().unwrap()]).done();
        assert_same(&docs, &to.join("docs"));
    }
    let ran = laptop.run(&["restore", "local", "--to", lan.path("x").to_str().unwrap()]);
    ran.failed(2, "usage", "nothing is kept in", "lan-backup serve");
}
