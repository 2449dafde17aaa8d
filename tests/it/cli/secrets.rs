//! Everything is logged that can be, on both sides, while two devices pair, back up and restore; then the log is searched for what
//! must never be in one.

use crate::support::lan::{Lan, give_pin};
use crate::support::tree::noise;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

/// The spellings in which bytes get into logs: hex of both cases, base64, and Rust's own lists.
fn spellings(secret: &[u8]) -> Vec<String> {
    let mut lower = String::new();
    for byte in secret {
        write!(lower, "{byte:02x}").unwrap();
    }
    let list = format!("{:?}", &secret[..8]);
    let list = list.trim_matches(['[', ']']).to_owned();
    // A part is as bad as the whole, and base64 may begin anywhere in a longer one.
    vec![lower[..24].to_owned(), lower[..24].to_uppercase(), STANDARD.encode(&secret[..12]), list]
}

/// The secrets in a home: what each is, and how it would show.
fn secrets(home: &Path) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let identity = fs::read_to_string(home.join("identity.pem")).unwrap();
    let private = identity.split("-----BEGIN PRIVATE KEY-----").nth(1).unwrap();
    let lines: Vec<&str> = private.lines().filter(|line| line.len() > 30 && !line.contains('-')).collect();
    assert!(lines.len() >= 2);
    // The second line on: the first is the same in every key of this kind.
    found.extend(lines[1..].iter().map(|line| ("TLS key".to_owned(), (*line)[..24.min(line.len())].to_owned())));
    let der = STANDARD.decode(lines.concat()).unwrap();
    // PKCS #8 of a P-256 key: the 32 secret bytes follow this header.
    let at = der.windows(4).position(|window| window == [0x02, 0x01, 0x01, 0x04]).unwrap() + 5;
    found.extend(spellings(&der[at..at + 32]).into_iter().map(|text| ("TLS key".to_owned(), text)));
    let signing = fs::read_to_string(home.join("signing.key")).unwrap();
    let bytes: Vec<u8> = (0..32).map(|i| u8::from_str_radix(&signing.trim()[2 * i..2 * i + 2], 16).unwrap()).collect();
    found.extend(spellings(&bytes).into_iter().map(|text| ("signing key".to_owned(), text)));
    found
}

/// Whether the digits stand in a line by themselves, and not within a longer number or an id.
fn holds_pin(line: &str, pin: &str) -> bool {
    // The time of day has six digits of its own.
    let line = line.split_once(' ').map_or(line, |(_, rest)| rest);
    line.match_indices(pin).any(|(at, _)| {
        let edge = |c: Option<char>| !c.is_some_and(|c| c.is_ascii_alphanumeric() || c == '.');
        edge(line[..at].chars().next_back()) && edge(line[at + pin.len()..].chars().next())
    })
}

#[test]
fn a_full_trace_of_pairing_backup_and_restore_holds_no_secret() {
    let lan = Lan::new();
    let (mut nas, mut laptop) = (lan.device("nas"), lan.device("laptop"));
    nas.log = Some("trace".to_owned());
    laptop.log = Some("trace".to_owned());
    nas.serve(&["--accept", "paired"]);
    let docs = lan.folder("docs", &[("a", &noise(300_000, 1)), ("b", b"text")]);
    let docs = docs.to_str().unwrap();
    let (sending, file) = laptop.start_with_pin_file(&["send", &nas.address(), docs]);
    let pin = nas.event("pin")["pin"].as_str().unwrap().to_owned();
    // First a wrong one, on both sides.
    let wrong = if pin == "314159" { "271828" } else { "314159" };
    give_pin(&file, wrong);
    let failed = sending.end();
    assert_eq!(failed.code, 1, "{failed:#?}");
    let (sending, file) = laptop.start_with_pin_file(&["send", &nas.address(), docs]);
    give_pin(&file, &pin);
    let sent = sending.end();
    sent.done();
    let rotated = laptop.run(&["rotate"]);
    let out = lan.path("out");
    let restored = laptop.run(&["restore", "nas", "--to", out.to_str().unwrap()]);
    restored.done();
    let mut homes = vec![nas.home.clone(), laptop.home.clone()];
    homes.retain(|home| home.join("identity.pem").exists());
    let served = nas.stop();
    assert_eq!(homes.len(), 2, "the key files lie in the homes");

    let log: String = [&failed, &sent, &rotated, &restored, &served].map(|ran| ran.stderr.as_str()).concat();
    assert!(
        log.contains("TRACE") && log.contains("pairing window open") && log.contains("DEBUG"),
        "it was a full trace"
    );
    let leaks: Vec<&str> = log.lines().filter(|line| holds_pin(line, &pin) || holds_pin(line, wrong)).collect();
    assert!(leaks.is_empty(), "the PIN: {leaks:#?}");
    for (what, text) in homes.iter().flat_map(|home| secrets(home)) {
        let line = log.lines().find(|line| line.contains(&text));
        assert_eq!(line, None, "{what} as {text}");
    }
    // The control: what must be found is found.
    assert!(holds_pin(&format!("2026-01-01T00:00:00.000000Z DEBUG typed pin=\"{pin}\""), &pin));
    assert!(!holds_pin(&format!("2026-01-01T00:00:00.{pin}Z DEBUG nothing"), &pin));
}
