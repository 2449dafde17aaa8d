//! `share` as its user runs it, and a browser at the other end: a folder, a snapshot kept here, one on another device.

use crate::support::browser::Browser;
use crate::support::lan::Lan;
use crate::support::program::Program;
use crate::support::tree::noise;
use rustix::process::Signal;
use std::io::Read;

/// What it shares, as a browser that typed the PIN sees it.
fn entered(share: &mut Program) -> Browser {
    let sharing = share.event("sharing");
    let port = u16::try_from(sharing["port"].as_u64().unwrap()).unwrap();
    let mut browser = Browser::new(port);
    assert!(browser.get("/").text().contains("PIN"));
    browser.type_pin("000000");
    assert!(browser.token.is_none(), "a wrong PIN opens nothing");
    browser.type_pin(sharing["pin"].as_str().unwrap());
    assert!(browser.token.is_some());
    browser
}

#[test]
fn a_snapshot_is_fetched_by_a_browser_here_and_from_another_device_byte_for_byte() {
    let lan = Lan::new();
    let (nas, laptop) = lan.paired();
    let large = noise(3_000_000, 1);
    let docs = lan.folder("docs", &[("a.txt", b"one"), ("sub/large.bin", &large), ("sub/<i>&.txt", b"odd")]);
    laptop.run(&["send", "nas", docs.to_str().unwrap()]).done();
    for (device, arguments) in [(&nas, &["share", "latest"][..]), (&laptop, &["share", "latest:docs", "nas"])] {
        let mut share = device.start(arguments);
        let browser = entered(&mut share);
        let top = if arguments.len() == 2 { "docs/" } else { "" };
        let page = browser.on_shelf("browse", top).text();
        assert!(page.contains(">a.txt</a>") && page.contains(">sub/</a>"), "{page}");
        let page = browser.on_shelf("browse", &format!("{top}sub")).text();
        assert!(page.contains("&lt;i&gt;&amp;.txt") && !page.contains("<i>"), "{page}");
        assert_eq!(browser.on_shelf("file", &format!("{top}sub/%3Ci%3E%26.txt")).body, b"odd");
        assert!(browser.on_shelf("file", &format!("{top}sub/large.bin")).body == large);
        let part = browser.ranged("file", &format!("{top}sub/large.bin"), "bytes=1000000-2000000");
        assert!(part.status == 206 && part.body == large[1_000_000..=2_000_000]);
        assert_eq!(browser.on_shelf("file", "../docs/a.txt").status, 404);
        let zip = browser.on_shelf("zip", top);
        assert!(zip.is_whole);
        let mut zip = zip::ZipArchive::new(std::io::Cursor::new(zip.body)).unwrap();
        let mut unpacked = Vec::new();
        zip.by_name("sub/large.bin").unwrap().read_to_end(&mut unpacked).unwrap();
        assert!(unpacked == large);
        assert_eq!(zip.len(), 4, "sub, and three files");
        share.signal(Signal::INT);
        let ran = share.end();
        assert_eq!(ran.done()["downloads"], 3, "two files and a zip; a part is none: {ran:#?}");
        assert!(browser.is_turned_away(), "nobody listens any more");
    }
    nas.run(&["share", "latest:docs/nothing"]).failed(1, "no-such-snapshot", "there is no `docs/nothing`", "");
    nas.run(&["share", "docs"]).failed(2, "usage", "`docs` is neither", "`./photos`");
    nas.run(&["share", "./nothing"]).failed(2, "usage", "`./nothing` cannot be shared", "name a folder");
}

#[test]
fn a_share_ends_after_so_many_downloads_and_asks_for_the_pin_of_a_file() {
    let lan = Lan::new();
    let device = lan.device("nas");
    let tree = lan.folder("tree", &[("a.txt", b"one")]);
    let pin = lan.path("pin");
    std::fs::write(&pin, "ours99\n").unwrap();
    let (tree, pin) = (tree.to_str().unwrap(), pin.to_str().unwrap());
    let mut share = device.start(&["share", tree, "--downloads", "1", "--pin-file", pin]);
    let sharing = share.event("sharing");
    assert!(sharing["pin"].is_null(), "a PIN from a file is not shown");
    let mut browser = Browser::new(u16::try_from(sharing["port"].as_u64().unwrap()).unwrap());
    browser.get("/");
    browser.type_pin("ours99");
    assert_eq!(browser.on_shelf("file", "a.txt").body, b"one");
    let ran = share.end();
    assert_eq!((ran.done()["downloads"].as_u64(), ran.done()["bytes"].as_u64()), (Some(1), Some(3)));
    // Where nobody could read a PIN, none is drawn; without `--json` a log would have it.
    let ran = device.plain(&["share", tree]).end();
    assert!(ran.code == 2 && ran.stderr.contains("--pin-file"), "{ran:#?}");
}
