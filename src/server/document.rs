//! Holds `protocol.md` to the code: its table of routes is the router's, its codes are all there are, its examples can be read.

use crate::protocol::localsend::{FilesWanted, PrepareFiles};
use crate::protocol::pairing::{PairConfirm, PairConfirmed, PairRequest, PairStart, PairStarted, PairState};
use crate::protocol::rotation::{MAX_FORMER, Rotated, RotatedAnswer};
use crate::protocol::session::{
    Finish, Finished, PrepareCopy, PrepareDownload, PrepareUpload, SessionAnswer, Uploaded,
};
use crate::protocol::{Announcement, ErrorBody, ErrorCode, paths};
use crate::server::allowance::WINDOWS_A_DAY;
use crate::server::limits::{
    MAX_CALLS_PER_DEVICE, MAX_CALLS_PER_SESSION, MAX_CONNECTIONS, MAX_CONNECTIONS_PER_DEVICE, MAX_SESSIONS_PER_DEVICE,
    MAX_TRANSFERS, MAX_TRANSFERS_PER_DEVICE, MAX_UNPAIRED_PER_ADDRESS, Pace, TRANSFER_MEMORY,
    TRANSFER_MEMORY_PER_DEVICE,
};
use crate::server::pairing::{ATTEMPTS, WINDOW_LIFE};
use crate::server::router::{Need, ROUTES, Verb};
use serde::de::DeserializeOwned;

const DOCUMENT: &str = include_str!("../../protocol.md");
const PREFIX: &str = "/api/lan-backup/v1";

fn section(heading: &str) -> &'static str {
    let start = DOCUMENT.find(heading).unwrap_or_else(|| panic!("no {heading}"));
    let rest = &DOCUMENT[start + heading.len()..];
    &rest[..rest.find("\n## ").unwrap_or(rest.len())]
}

fn rows(section: &str) -> impl Iterator<Item = Vec<String>> {
    let rows = section.lines().filter(|line| line.starts_with('|')).skip(2);
    rows.map(|line| line.split('|').map(|cell| cell.trim().trim_matches('`').to_owned()).collect())
}

#[test]
fn the_table_of_routes_is_the_routers() {
    let written: Vec<_> = rows(section("## 3. Routes"))
        .map(|cells| {
            let path = if cells[2].starts_with("/api") { cells[2].clone() } else { format!("{PREFIX}{}", cells[2]) };
            (cells[1].clone(), path, cells[3].replace('`', ""))
        })
        .collect();
    assert_eq!(written.len(), ROUTES.len());
    for route in ROUTES {
        let verb = if route.verb == Verb::Get { "GET" } else { "POST" };
        let path = if route.with_id { format!("{}/{{id}}", route.path) } else { route.path.to_owned() };
        let need = match route.need {
            Need::Nobody => "nobody".to_owned(),
            Need::Certificate => "certificate".to_owned(),
            Need::Paired => "paired".to_owned(),
            Need::Right(right) => format!("right {right}"),
        };
        let row = (verb.to_owned(), path, need);
        assert!(written.contains(&row), "{row:?}");
    }
    assert!(DOCUMENT.contains(paths::SESSION_HEADER));
}

#[test]
fn every_code_is_explained() {
    let names: Vec<_> = rows(section("## 4. Answers")).map(|cells| cells[1].clone()).collect();
    for name in &names {
        let code: ErrorCode = serde_json::from_value(name.clone().into()).unwrap();
        assert_eq!(code.name(), name, "not a code");
    }
    // One row for each: a code that is added is a row that is missing.
    let all = include_str!("../protocol/error_code.rs").matches(" => \"").count();
    assert_eq!(names.len(), all);
}

#[test]
fn the_numbers_of_the_limits_are_the_codes() {
    let limits = section("## 8. Limits");
    let pace = Pace::STANDARD;
    for text in [
        format!("| {} s | takes milliseconds", pace.handshake.as_secs()),
        format!("{} s from its first byte", pace.head.as_secs()),
        format!("{} s; {} s in an open", pace.idle.as_secs(), pace.idle_while_pairing.as_secs()),
        format!(
            "{} s of waiting for a body, {} s for an answer to be taken; every {} KiB buy back 1 s",
            pace.grace.as_secs(),
            pace.grace_of_answers.as_secs(),
            pace.bytes_per_second >> 10
        ),
        format!(
            "{MAX_CONNECTIONS}; {MAX_CONNECTIONS_PER_DEVICE} of one paired device; {MAX_UNPAIRED_PER_ADDRESS} of one address"
        ),
        format!("| {MAX_FORMER} | each is 200 bytes"),
        format!("one at a time; {} s, {ATTEMPTS} attempts; {WINDOWS_A_DAY} in 24 hours", WINDOW_LIFE.as_secs()),
        format!("{MAX_SESSIONS_PER_DEVICE} of one device, 1,024 in all"),
        format!(
            "{MAX_CALLS_PER_SESSION} of one session, {MAX_CALLS_PER_DEVICE} of one device; {MAX_TRANSFERS} transfers, {MAX_TRANSFERS_PER_DEVICE} of one device"
        ),
        format!("{} MiB, {} MiB of one device", TRANSFER_MEMORY >> 20, TRANSFER_MEMORY_PER_DEVICE >> 20),
    ] {
        assert!(limits.contains(&text), "{text}");
    }
}

/// The example that begins with `start`, with its gaps filled.
fn example(start: &str) -> String {
    let at = DOCUMENT.find(start).unwrap_or_else(|| panic!("no example {start}"));
    let text = &DOCUMENT[at..];
    let mut depth = 0;
    let end = text.find(|c| {
        depth += i32::from(matches!(c, '{' | '[')) - i32::from(matches!(c, '}' | ']'));
        depth == 0
    });
    text[..=end.unwrap()]
        .replace("…64 hex…", &"ab".repeat(32))
        .replace("64 lower-case hex", &"ab".repeat(32))
        .replace("…128 hex…", &"ef".repeat(64))
        .replace("…32 hex…", &"cd".repeat(16))
        .replace("\"fingerprint\":\"…\"", &format!("\"fingerprint\":\"{}\"", "AB".repeat(32)))
        .replace("\"idempotencyKey\":\"…\"", &format!("\"idempotencyKey\":\"{}\"", "cd".repeat(16)))
        .replace("\"open\"|\"declined\"", "")
        .replace("\"waiting\"|", "\"waiting\"")
        .replace("[…]", "[\"backup\"]")
}

fn reads<T: DeserializeOwned>(start: &str) {
    let example = example(start);
    if let Err(error) = serde_json::from_str::<T>(&example) {
        panic!("{error}: {example}");
    }
}

#[test]
fn every_example_can_be_read() {
    reads::<ErrorBody>(r#"{"code":"not-paired""#);
    reads::<Announcement>(r#"{"alias":"nas","version""#);
    reads::<PairRequest>(r#"{"v":1,"alias""#);
    reads::<PairState>(r#"{"code":"K7QM"#);
    reads::<PairStart>(r#"{"v":1,"message""#);
    reads::<PairStarted>(r#"{"message":"base64","signingKey""#);
    reads::<PairConfirm>(r#"{"proof":"base64"}"#);
    reads::<PairConfirmed>(r#"{"proof":"base64","alias""#);
    reads::<Rotated>(r#"{"v":1,"formerly""#);
    reads::<RotatedAnswer>(r#"{"accepted""#);
    reads::<SessionAnswer>(r#"{"session":"#);
    reads::<PrepareUpload>(r#"{"api":1,"requiredFeatures""#);
    reads::<PrepareDownload>(r#"{"of":"laptop""#);
    reads::<PrepareCopy>(r#"{"repository":{"id":"…32 hex…","chunker""#);
    reads::<Finish>(r#"{"record":"#);
    reads::<PrepareFiles>(r#"{"info":{"alias":"Pixel""#);
    reads::<FilesWanted>(r#"{"sessionId":"#);
    reads::<Uploaded>(r#"{"chunks":3}"#);
    reads::<Finished>(r#"{"snapshot":"#);
}
