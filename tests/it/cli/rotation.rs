//! New certificates, and devices that only claim to be the one that is known.

use crate::support::lan::Lan;
use crate::support::tree::noise;
use serde_json::json;

#[test]
fn both_devices_change_their_certificates_and_stay_paired() {
    let lan = Lan::new();
    let (mut nas, laptop) = lan.paired();
    let docs = lan.folder("docs", &[("a", &noise(300_000, 1))]);
    let docs = docs.to_str().unwrap();
    laptop.run(&["send", "nas", docs]).done();
    let before = laptop.fingerprint();

    let rotated = laptop.run(&["rotate"]);
    assert_eq!(rotated.last(0)["was"], before.as_str());
    assert_eq!(rotated.lines[0]["knows"], true, "nas was there: {rotated:#?}");
    let event = nas.event("rotated");
    assert_eq!((&event["was"], &event["fingerprint"]), (&json!(before), &json!(laptop.fingerprint())));
    let again = laptop.run(&["send", "nas", docs]);
    assert!(again.done()["newFiles"] == 0 && again.number("uploadedBytes") < 50_000, "{again:#?}");

    // A running `serve` has the old one in memory.
    nas.run(&["rotate"]).failed(2, "usage", "runs with this home", "stop it");
    nas.stop();
    let rotated = nas.run(&["rotate"]);
    assert_eq!(rotated.lines[0]["knows"], false, "laptop does not listen: {rotated:#?}");
    // Both at once, while they do not see each other.
    assert_eq!(laptop.run(&["rotate"]).lines[0]["knows"], false);
    nas.serve(&["--accept", "paired"]);
    let third = laptop.run(&["send", "nas", docs]);
    assert_eq!(third.done()["newFiles"], 0);
    assert!(third.stderr.contains("new certificate, signed with its old key"), "{third:#?}");
    assert_eq!(laptop.snapshots(Some("nas")).len(), 3, "one history");
    assert!(!nas.serve.as_ref().unwrap().has_event("pin"), "nobody typed a PIN");
    let out = lan.path("out");
    laptop.run(&["restore", "nas", "--to", out.to_str().unwrap()]).done();
}

#[test]
fn what_is_kept_of_a_device_goes_with_it_when_it_is_recognised_here_first() {
    let lan = Lan::new();
    let (mut nas, mut laptop) = lan.paired();
    let docs = lan.folder("docs", &[("a", &noise(300_000, 1))]);
    let docs = docs.to_str().unwrap();
    // Each keeps the other's backup.
    assert_eq!(laptop.run(&["trust", "nas", "--grant", "backup"]).code, 0);
    laptop.run(&["send", "nas", docs]).done();
    laptop.serve(&["--accept", "paired"]);
    nas.run(&["send", &laptop.address(), docs]).done();
    let before = laptop.snapshots(None);
    assert_eq!(before.len(), 1);
    laptop.stop();
    nas.stop();

    // The laptop meets the new certificate when it calls, so nas has nothing to say any more when it calls next.
    nas.run(&["rotate"]);
    nas.serve(&["--accept", "paired"]);
    laptop.run(&["send", "nas", docs]).done();
    laptop.serve(&["--accept", "paired"]);
    let again = nas.run(&["send", &laptop.address(), docs]);
    assert!(again.done()["newFiles"] == 0 && again.number("uploadedBytes") < 50_000, "{again:#?}");
    assert_eq!(laptop.snapshots(None).len(), 2, "one history");
}

#[test]
fn a_device_in_the_place_and_with_the_name_of_a_known_one_gets_nothing_and_is_called_out() {
    let lan = Lan::new();
    let (mut nas, laptop) = lan.paired();
    let docs = lan.folder("docs", &[("a", b"secret")]);
    let docs = docs.to_str().unwrap();
    laptop.run(&["send", "nas", docs]).done();
    // Somebody who calls itself like a paired device asks to be paired.
    let evil_laptop = lan.device("evil");
    std::fs::write(evil_laptop.home.join("alias"), "laptop").unwrap();
    let (asking, _) = evil_laptop.start_with_pin_file(&["pair", &nas.address()]);
    let event = nas.event("impostor");
    assert_eq!((&event["alias"], &event["paired"]), (&json!("laptop"), &json!(laptop.fingerprint())));
    assert_eq!(event["fingerprint"], json!(evil_laptop.fingerprint()));
    drop(asking);
    nas.stop();

    // Somebody takes the place of nas: its name, its address, its port.
    let mut evil = lan.device("evil-nas");
    std::fs::write(evil.home.join("alias"), "nas").unwrap();
    evil.alias = "nas".to_owned();
    evil.port = nas.port;
    evil.serve(&["--accept", "paired"]);
    let by_name = laptop.run(&["send", "nas", docs]);
    assert_eq!(by_name.code, 1, "{by_name:#?}");
    let by_address = laptop.run(&["send", &nas.address(), docs]);
    by_address.failed(1, "wrong-fingerprint", "", "");
    assert!(evil.snapshots(None).is_empty());
    assert!(!evil.serve.as_ref().unwrap().has_event("pin"), "it was not even asked");
}
