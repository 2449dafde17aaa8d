//! `serve` itself, and what others see of it.

use crate::support::lan::{Lan, give_pin};
use serde_json::json;

#[test]
fn a_device_that_asks_nobody_takes_only_what_was_accepted_before() {
    let lan = Lan::new();
    let (mut nas, laptop) = lan.paired();
    let (docs, mail) = (lan.folder("docs", &[("a", b"1")]), lan.folder("mail", &[("m", b"2")]));
    nas.stop();
    nas.serve(&["--accept", "ask"]);
    let sending = laptop.start(&["send", "nas", docs.to_str().unwrap()]);
    nas.answer(&nas.question(), "always");
    sending.end().done();
    nas.stop();
    nas.serve(&["--accept", "never"]);
    laptop.run(&["send", "nas", docs.to_str().unwrap()]).done();
    laptop.run(&["send", "nas", mail.to_str().unwrap()]).failed(1, "declined", "declined", "only what was accepted");
    let stranger = lan.device("stranger");
    let (pairing, _) = stranger.start_with_pin_file(&["pair", &nas.address()]);
    pairing.end().failed(1, "declined", "declined", "start the pairing again");
    assert_eq!(nas.snapshots(None).len(), 2);
}

#[test]
fn a_name_that_was_given_once_is_remembered_and_shown_everywhere() {
    let lan = Lan::new();
    let mut nas = lan.device("nas");
    nas.alias = "Ann's \u{1b}[31mbox".to_owned();
    let alias = nas.alias.clone();
    let mut serve = nas.start(&["serve", "--port", "0", "--alias", &alias]);
    let listening = serve.event("listening");
    let shown = listening["alias"].as_str().unwrap().to_owned();
    assert!(shown.starts_with("Ann's ") && !shown.contains('\u{1b}'), "{shown:?}");
    serve.signal(rustix::process::Signal::TERM);
    let ran = serve.end();
    assert_eq!(ran.last(0)["event"], "stopped", "the system's word to stop is a clean end");
    assert!(!ran.stderr.contains('\u{1b}'), "{ran:#?}");
    assert_eq!(nas.run(&["status"]).rows()[0]["alias"], json!(shown));
}

#[test]
fn text_for_people_says_the_same_as_json_for_programs() {
    let lan = Lan::new();
    let (nas, laptop) = lan.paired();
    let docs = lan.folder("docs", &[("a", b"1")]);
    let sent = laptop.run(&["send", "nas", docs.to_str().unwrap()]);
    let id = sent.done()["snapshot"].as_str().unwrap()[..8].to_owned();
    let plain = |arguments: &[&str]| {
        let home = nas.home.to_str().unwrap();
        crate::support::program::Program::start([&["--home", home, "--bind", "127.0.0.1"], arguments].concat()).end()
    };
    let listed = plain(&["snapshots"]);
    let text: Vec<_> = listed.rows().iter().filter_map(|line| line.as_str()).collect();
    assert!(text[0].starts_with("ID") && text[1].starts_with(&id) && text[1].contains("laptop"), "{text:#?}");
    let failed = plain(&["unpair", "nobody"]);
    assert_eq!((failed.code, failed.lines.len()), (2, 0), "talk goes to stderr: {failed:#?}");
    assert!(failed.stderr.contains("error: no device `nobody`") && failed.stderr.contains("\nhint: "), "{failed:#?}");
    let quiet = plain(&["status", "--quiet"]);
    assert!(quiet.stderr.is_empty(), "{quiet:#?}");
}

#[test]
fn two_devices_back_up_to_each_other_and_each_direction_is_settled_by_itself() {
    let lan = Lan::new();
    let (nas, mut laptop) = lan.paired();
    let (docs, music) = (lan.folder("docs", &[("a", b"1")]), lan.folder("music", &[("m", b"2")]));
    laptop.run(&["send", "nas", docs.to_str().unwrap()]).done();
    // `laptop` has said nothing yet about what `nas` may do there.
    laptop.serve(&["--accept", "ask"]);
    let (sending, file) = nas.start_with_pin_file(&["send", &laptop.address(), music.to_str().unwrap()]);
    laptop.answer(&laptop.question(), "always");
    give_pin(&file, laptop.event("pin")["pin"].as_str().unwrap());
    assert_eq!(sending.end().done()["newFiles"], 1);
    assert_eq!((laptop.snapshots(None).len(), nas.snapshots(None).len()), (1, 1));
    // And the first direction still holds.
    laptop.run(&["send", &nas.address(), docs.to_str().unwrap()]).done();
    assert_eq!(nas.snapshots(None).len(), 2);
}
