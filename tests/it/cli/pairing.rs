//! What keeps a device out, and how it gets in all the same when it should.

use crate::support::lan::{Lan, give_pin};
use crate::support::program::until;
use crate::support::tree::noise;
use rustix::process::Signal;
use serde_json::json;

#[test]
fn a_pin_that_is_wrong_three_times_ends_the_pairing_and_nothing_is_trusted() {
    let lan = Lan::new();
    let (mut nas, laptop) = (lan.device("nas"), lan.device("laptop"));
    let docs = lan.folder("docs", &[("a", b"1")]);
    nas.serve(&["--accept", "ask"]);
    let send = ["send", &nas.address(), docs.to_str().unwrap()];
    let mut pin = String::new();
    for tries_left in ["2 tries are left", "one try is left", "no try is left"] {
        let (sending, file) = laptop.start_with_pin_file(&send);
        if pin.is_empty() {
            nas.answer(&nas.question(), "always");
            nas.event("pin")["pin"].as_str().unwrap().clone_into(&mut pin);
        }
        // Another one of the million.
        give_pin(&file, if pin == "123456" { "654321" } else { "123456" });
        sending.end().failed(1, "pairing-failed", tries_left, "");
    }
    assert_eq!(nas.event("pin-gone")["paired"], false);
    assert!(nas.run(&["trust"]).rows().is_empty() && laptop.run(&["trust"]).rows().is_empty());
    assert!(nas.snapshots(None).is_empty());

    // The next window has another PIN, and with that all is well.
    let (sending, file) = laptop.start_with_pin_file(&send);
    nas.answer(&nas.question(), "always");
    give_pin(&file, nas.event("pin")["pin"].as_str().unwrap());
    assert_eq!(sending.end().done()["newFiles"], 1);
}

#[test]
fn whoever_is_declined_is_told_so_and_may_not_send() {
    let lan = Lan::new();
    let (mut nas, laptop) = (lan.device("nas"), lan.device("laptop"));
    let docs = lan.folder("docs", &[("a", b"1")]);
    nas.serve(&["--accept", "ask"]);
    let (sending, _) = laptop.start_with_pin_file(&["send", &nas.address(), docs.to_str().unwrap()]);
    nas.answer(&nas.question(), "decline");
    sending.end().failed(1, "declined", "declined to be paired", "start the pairing again");
    assert!(!nas.serve.as_ref().unwrap().has_event("pin"));
    assert!(nas.run(&["trust"]).rows().is_empty());
}

#[test]
fn a_new_set_of_a_paired_device_is_a_question_and_a_no_leaves_the_other_sets_alone() {
    let lan = Lan::new();
    let (mut nas, laptop) = lan.paired();
    nas.stop();
    nas.serve(&["--accept", "ask"]);
    let (docs, mail) = (lan.folder("docs", &[("a", b"1")]), lan.folder("mail", &[("m", b"2")]));
    let sending = laptop.start(&["send", "nas", docs.to_str().unwrap()]);
    let question = nas.question();
    assert_eq!(
        (&question["question"], &question["set"], &question["first"]),
        (&json!("backup"), &json!("docs"), &json!(true))
    );
    nas.answer(&question, "always");
    sending.end().done();

    let sending = laptop.start(&["send", "nas", mail.to_str().unwrap()]);
    nas.answer(&nas.question(), "decline");
    sending.end().failed(1, "declined", "declined", "");
    assert_eq!(laptop.run(&["send", "nas", docs.to_str().unwrap()]).done()["files"], 1);
    assert_eq!(laptop.snapshots(Some("nas")).len(), 2);

    let answered_late = nas.run(&["pending", "99", "always"]);
    answered_late.failed(2, "usage", "question 99 does not wait", "`lan-backup pending` lists");
}

#[test]
fn nobody_at_the_pin_file_is_a_wait_that_a_signal_ends() {
    let lan = Lan::new();
    let (mut nas, laptop) = (lan.device("nas"), lan.device("laptop"));
    nas.serve(&["--accept", "paired"]);
    let (pairing, _) = laptop.start_with_pin_file(&["pair", &nas.address()]);
    nas.event("pin");
    pairing.signal(Signal::TERM);
    pairing.end().failed(130, "stopped", "stopped", "");

    // Without a terminal and without a file there is no PIN.
    let docs = lan.folder("docs", &[("a", b"1")]);
    let ran = laptop.run(&["send", &nas.address(), docs.to_str().unwrap()]);
    ran.failed(1, "no-pin", "no PIN was given: there is no terminal", "give --pin-file FILE");
    // What is in the file is no PIN.
    let (pairing, file) = laptop.start_with_pin_file(&["pair", &nas.address()]);
    give_pin(&file, "hello");
    pairing.end().failed(1, "no-pin", "no PIN was given", "");
    assert!(nas.run(&["trust"]).rows().is_empty());
}

#[test]
fn a_box_without_a_screen_opens_a_window_by_code() {
    let lan = Lan::new();
    let (mut nas, laptop) = (lan.device("nas"), lan.device("laptop"));
    nas.serve(&["--accept", "ask"]);
    let (mut pairing, file) = laptop.start_with_pin_file(&["pair", &nas.address()]);
    let code = pairing.event("pairing")["code"].as_str().unwrap().to_owned();
    assert_eq!(nas.question()["code"], code.as_str(), "both screens show the same code");
    let window = nas.run(&["pin", "--for", &code]);
    assert_eq!(window.last(0)["alias"], "laptop");
    give_pin(&file, window.lines[0]["pin"].as_str().unwrap());
    assert_eq!(pairing.end().last(0)["event"], "paired");
    assert!(nas.run(&["pending"]).rows().is_empty());
}

#[test]
fn a_device_that_was_unpaired_pairs_anew_and_its_backups_are_still_there() {
    let lan = Lan::new();
    let (mut nas, laptop) = lan.paired();
    let docs = lan.folder("docs", &[("a", &noise(500_000, 1))]);
    let docs = docs.to_str().unwrap();
    laptop.run(&["send", "nas", docs]).done();
    let unpaired = nas.run(&["unpair", "laptop"]);
    assert_eq!((&unpaired.last(0)["event"], &unpaired.last(0)["alias"]), (&json!("unpaired"), &json!("laptop")));
    assert_eq!(nas.event("unpaired")["fingerprint"], json!(laptop.fingerprint()));
    laptop.run(&["snapshots", "nas"]).failed(1, "not-paired", "this device is not paired here", "pair the two devices");
    assert_eq!(nas.snapshots(None).len(), 1, "what is kept stays");

    let again = laptop.run_with_pin(&mut nas, &["send", "nas", docs]);
    assert!(again.stderr.contains("does not know this device any more; pairing again"), "{again:#?}");
    assert_eq!(again.done()["newFiles"], 0);
    assert!(again.number("uploadedBytes") < 50_000, "the file is there already: {again:#?}");
    assert_eq!(laptop.snapshots(Some("nas")).len(), 2);
}

#[test]
fn unpairing_cuts_an_upload_that_is_under_way() {
    let lan = Lan::new();
    let (mut nas, laptop) = lan.paired();
    let big = lan.folder("big", &[("a", &noise(150 << 20, 1))]);
    let sending = laptop.start(&["send", "nas", big.to_str().unwrap()]);
    until("bytes to arrive", || (nas.stored_bytes() > 20 << 20).then_some(()));
    assert_eq!(nas.run(&["unpair", "laptop"]).last(0)["event"], "unpaired");
    let ran = sending.end();
    ran.failed(1, "not-paired", "not paired", "pair");
    assert!(nas.snapshots(None).is_empty(), "nothing was committed");
    let sessions = nas.run(&["status"]).rows()[0]["sessions"].clone();
    assert_eq!(sessions, json!([]));
    assert!(nas.event("session")["session"]["alias"] == "laptop");
}
