//! Two hundred texts that would move a cursor, change a colour, turn a line or forge a line of a log, wherever a stranger can put a
//! text: not one of their characters reaches a terminal, with `--json` or without, however much is logged.

use crate::support::browser::Browser;
use crate::support::lan::{Lan, Node};
use crate::support::program::Ran;
use crate::support::stranger::{Liar, Stranger};
use lan_backup::model::Alias;
use lan_backup::model::text::is_printable;
use lan_backup::protocol::{Announcement, paths};
use serde_json::{Value, json};
use std::ffi::OsStr;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;

/// Of each of the categories Cc, Cf, Zl and Zp, and what terminals make of some.
const SEEDS: [&str; 50] = [
    "\u{1b}[31m",
    "\u{1b}[2J",
    "\u{1b}]0;owned\u{7}",
    "\u{1b}]8;;http://evil/\u{1b}\\",
    "\u{1b}c",
    "\u{1b}[1A",
    "\u{1b}P+q\u{1b}\\",
    "\u{9b}31m",
    "\u{9d}0;x\u{9c}",
    "\u{90}x\u{9c}",
    "\r\n",
    "\n",
    "\r",
    "\t",
    "\u{8}\u{8}\u{8}",
    "\u{7}",
    "\u{1}",
    "\u{4}",
    "\u{c}",
    "\u{b}",
    "\u{e}\u{f}",
    "\u{1a}",
    "\u{7f}",
    "\u{80}",
    "\u{85}",
    "\u{9f}",
    "\u{ad}",
    "\u{600}",
    "\u{61c}",
    "\u{6dd}",
    "\u{70f}",
    "\u{8e2}",
    "\u{180e}",
    "\u{200b}",
    "\u{200d}",
    "\u{200e}",
    "\u{200f}",
    "\u{2028}",
    "\u{2029}",
    "\u{202a}",
    "\u{202e}gnp.exe",
    "\u{2060}",
    "\u{2066}",
    "\u{2069}",
    "\u{206f}",
    "\u{feff}",
    "\u{fff9}",
    "\u{110bd}",
    "\u{1d173}",
    "\u{e0041}",
];

fn strings() -> Vec<String> {
    let shapes = |seed: &&str| {
        [
            format!("a{seed}b"),
            format!("{seed}lead"),
            format!("<b>{seed}{seed}</b>"),
            format!("x{seed}\u{1b}[0m 2026-01-01 ERROR forged"),
        ]
    };
    SEEDS.iter().flat_map(shapes).collect()
}

/// Nothing in a text but what may be shown, and the ends of its lines.
#[track_caller]
fn shown(what: &str, text: &str) {
    let bad = text.char_indices().find(|(_, c)| *c != '\n' && !is_printable(*c));
    let around = bad.map(|(at, _)| text[at..].chars().take(80).collect::<String>());
    assert!(bad.is_none(), "{what}: {bad:?} in {around:?}");
}

/// All that a command printed.
#[track_caller]
fn clean(what: &str, ran: &Ran) {
    shown(&format!("stderr of {what}"), &ran.stderr);
    for line in &ran.lines {
        // Rows are compared as they were printed: text as text, JSON with its escapes.
        match line {
            Value::String(text) => shown(&format!("stdout of {what}"), text),
            json => shown(&format!("stdout of {what}"), &json.to_string()),
        }
    }
    assert!(!ran.stderr.contains("panicked"), "{what}: {ran:#?}");
}

/// The command as people run it, and as programs do.
#[track_caller]
fn both(node: &Node, arguments: &[&str]) -> Ran {
    let loud: Vec<&str> = ["-vv"].into_iter().chain(arguments.iter().copied()).collect();
    let for_people = node.plain(&loud).end();
    clean(&arguments.join(" "), &for_people);
    clean(&arguments.join(" "), &node.run_raw(&loud));
    for_people
}

#[test]
fn names_of_files_reach_no_terminal_as_they_are() {
    let lan = Lan::new();
    let (nas, laptop) = lan.paired();
    let tree = lan.folder("tree", &[("plain", b"1")]);
    let all = strings();
    assert_eq!(all.len(), 200);
    for (number, string) in all.iter().enumerate() {
        let name = format!("{number}{}", string.replace('/', "|"));
        fs::write(tree.join(&name), name.as_bytes()).unwrap();
        if number % 10 == 0 {
            symlink(&name, tree.join(format!("link{name}"))).unwrap();
            fs::create_dir(tree.join(format!("folder{name}"))).unwrap();
        }
    }
    fs::write(tree.join(OsStr::from_bytes(b"not \xff utf-8 \x1b[31m")), b"x").unwrap();
    let tree = tree.to_str().unwrap();
    assert_eq!(both(&laptop, &["send", "nas", tree, "--tag", "a tag"]).code, 0);
    for command in [&["ls", "nas"][..], &["snapshots", "nas"], &["restore", "nas", "--to", "TO", "--dry-run"]] {
        let to = lan.path("dry");
        let command: Vec<&str> = command.iter().map(|a| if *a == "TO" { to.to_str().unwrap() } else { a }).collect();
        assert_eq!(both(&laptop, &command).code, 0, "{command:?}");
    }
    let to = lan.path("out");
    let to = to.to_str().unwrap();
    assert_eq!(both(&laptop, &["restore", "nas", "--to", to]).code, 0);
    assert!(lan.path("out/tree").join(format!("0{}", all[0])).exists(), "on disk the name is as it was");
    // On the pages of a share, where tags would count, too.
    let mut share = nas.start(&["share", "latest:tree"]);
    let sharing = share.event("sharing");
    let mut browser = Browser::new(u16::try_from(sharing["port"].as_u64().unwrap()).unwrap());
    browser.get("/");
    browser.type_pin(sharing["pin"].as_str().unwrap());
    let page = browser.on_shelf("browse", "").text();
    shown("the page of a share", &page);
    assert!(page.matches("<tr>").count() > 200 && page.contains("&lt;b&gt;"), "{page}");
    assert!(!page.contains("<b>") && !page.contains("</b>"), "{page}");
    share.signal(rustix::process::Signal::INT);
    clean("share", &share.end());
    // In the way, so that they are named one by one; and gone below the feet of `send`.
    both(&laptop, &["restore", "nas", "--to", to, "--conflict", "keep-both"]);
    for string in all.iter().step_by(20) {
        both(&laptop, &["send", "nas", &lan.path(&string.replace('/', "|")).to_string_lossy().replace('\0', "")]);
        both(&laptop, &["send", "nas", tree, "--set", &string.replace('\0', "")]);
    }
    // A device of such a name is looked for, which takes its seconds: once is enough.
    clean("ls", &laptop.plain(&["-vv", "ls", &all[0]]).end());
}

#[test]
fn names_of_devices_reach_no_terminal_as_they_are() {
    let lan = Lan::new();
    let mut nas = lan.device("nas");
    nas.serve_plain(&["-vv"]);
    let address: SocketAddr = nas.address().parse().unwrap();
    let strangers: Vec<Stranger> = (0..4).map(|_| Stranger::new()).collect();
    for (number, string) in strings().iter().enumerate() {
        let stranger = &strangers[number % 4];
        let from = Ipv4Addr::new(127, 7, 0, number as u8 + 1);
        let honest = Announcement::of_this_device(Alias::new("x"), stranger.identity.fingerprint(), 53317, false);
        let mut said = serde_json::to_value(&honest).unwrap();
        said["alias"] = json!(string);
        said["deviceModel"] = json!(string);
        said["deviceType"] = json!(string);
        assert_eq!(stranger.post(from, address, paths::REGISTER, said.to_string().as_bytes()).unwrap(), 200);
        let request = json!({
            "v": 1, "alias": string, "rights": ["backup"], "wait": 0,
            "purpose": { "set": "Documents", "files": 3, "bytes": 7 },
        });
        assert_eq!(stranger.post(from, address, paths::PAIR_REQUEST, request.to_string().as_bytes()).unwrap(), 200);
        let mut bad = request.clone();
        bad["purpose"]["set"] = json!(string);
        stranger.post(from, address, paths::PAIR_REQUEST, bad.to_string().as_bytes()).unwrap();
        // What is no JSON at all, and a path that is none.
        stranger.post(from, address, paths::PAIR_REQUEST, string.as_bytes()).unwrap();
    }
    for command in [&["pending"][..], &["devices", "--wait", "1"], &["status"], &["trust"]] {
        assert_eq!(both(&nas, command).code, 0, "{command:?}");
    }
    let ran = nas.stop_plain();
    assert!(ran.stderr.lines().count() > 200, "it did log: {}", ran.stderr);
    clean("serve", &ran);
}

#[test]
fn what_another_device_says_reaches_no_terminal_as_it_is() {
    let lan = Lan::new();
    let laptop = lan.device("laptop");
    let docs = lan.folder("docs", &[("a", b"1")]);
    for string in strings().into_iter().step_by(17) {
        let liar = Liar::start({
            let string = string.clone();
            move |own, path| {
                if path == paths::REGISTER || path == paths::INFO {
                    let said = Announcement::of_this_device(Alias::new("x"), own.fingerprint(), 53317, false);
                    let mut said = serde_json::to_value(&said).unwrap();
                    said["alias"] = json!(string);
                    (200, said.to_string().into_bytes())
                } else {
                    let body = json!({ "code": "declined", "message": string, "hint": string, "alias": string });
                    (403, body.to_string().into_bytes())
                }
            }
        });
        let address = liar.address.to_string();
        let ran = both(&laptop, &["send", &address, docs.to_str().unwrap()]);
        assert_eq!(ran.code, 1, "{ran:#?}");
        both(&laptop, &["snapshots", &address]);
    }
}
