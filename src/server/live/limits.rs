//! Callers that take more than their share.

use crate::codec::{Compression, Encoder, chunk_id};
use crate::model::limits::MAX_UPLOAD_CHUNKS;
use crate::model::{Block, Rights};
use crate::protocol::session::SessionAnswer;
use crate::protocol::{ErrorCode, paths};
use crate::server::AcceptMode;
use crate::server::limits::{
    MAX_CALLS_PER_DEVICE, MAX_CALLS_PER_SESSION, MAX_HEAD_BYTES, MAX_RECORDS_BYTES, MAX_TRANSFERS_PER_DEVICE,
    MAX_UNPAIRED_PER_ADDRESS, Pace,
};
use crate::server::live::{Backup, Device, LIMIT, Live, Setup, encode, header, request};
use crate::signer;
use axum::body::Body;
use bytes::Bytes;
use futures_util::StreamExt;
use http::{Method, StatusCode};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Longer than nothing, and short enough for a test.
const SHORT: Duration = Duration::from_millis(300);

fn with_pace(pace: Pace) -> Setup {
    Setup { pace, ..Setup::default() }
}

/// Returns once the server has closed the connection.
async fn closed(mut stream: impl tokio::io::AsyncRead + Unpin) -> Vec<u8> {
    let mut rest = Vec::new();
    let end = tokio::time::timeout(LIMIT, stream.read_to_end(&mut rest)).await.expect("the server hangs up");
    drop(end);
    rest
}

#[tokio::test(flavor = "multi_thread")]
async fn a_handshake_that_does_not_come_is_not_waited_for() {
    let live = Live::start_with(with_pace(Pace { handshake: SHORT, ..Pace::STANDARD }));
    let mut silent = TcpStream::connect(live.address()).await.unwrap();
    silent.write_all(&[22, 3, 1]).await.unwrap();
    closed(silent).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_head_that_dribbles_is_not_waited_for_and_a_quiet_connection_is() {
    let live = Live::start_with(with_pace(Pace { head: SHORT, ..Pace::STANDARD }));
    let mut quiet = live.try_caller(None).await.unwrap();
    quiet.get(paths::INFO).await.ok();
    let mut tls = live.tls(None).await.unwrap();
    tls.write_all(b"GET / HT").await.unwrap();
    closed(tls).await;
    // Quiet for longer than a head may take.
    quiet.get(paths::INFO).await.ok();
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_without_a_session_count_among_a_devices_calls() {
    let live = Live::start();
    let device = live.paired("laptop", Rights::of_a_paired_device());
    live.caller(&device).await.back_up(&device, "Documents", b"hello").await;
    // All of its memory is taken, so that each list waits.
    let (shared, fingerprint) = (live.handle.shared.clone(), device.fingerprint());
    let taken = tokio::task::spawn_blocking(move || shared.memory(fingerprint, u64::MAX)).await.unwrap().unwrap();
    // All are connected before the first of them waits: it does not wait for ever.
    let mut callers = Vec::new();
    for _ in 0..=MAX_CALLS_PER_DEVICE {
        callers.push(live.caller(&device).await);
    }
    let mut one_more = callers.pop().unwrap();
    let mut waiting = tokio::task::JoinSet::new();
    for mut caller in callers {
        waiting.spawn(async move { caller.get(paths::SNAPSHOTS).await.status });
    }
    live.until(|| live.handle.shared.sessions().calls_of(fingerprint) == MAX_CALLS_PER_DEVICE).await;
    assert_eq!(one_more.get(paths::SNAPSHOTS).await.code(), ErrorCode::Busy);
    drop(taken);
    assert!(waiting.join_all().await.iter().all(|status| *status == StatusCode::OK));
    one_more.get(paths::SNAPSHOTS).await.ok();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_head_is_refused() {
    let live = Live::start();
    let mut tls = live.tls(None).await.unwrap();
    let head = format!("GET / HTTP/1.1\r\nhost: x\r\nx: {}\r\n\r\n", "y".repeat(MAX_HEAD_BYTES * 2));
    let _ = tls.write_all(head.as_bytes()).await;
    let answer = closed(tls).await;
    assert!(answer.is_empty() || answer.starts_with(b"HTTP/1.1 431"), "{}", String::from_utf8_lossy(&answer));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_dribbles_is_not_waited_for() {
    let live = Live::start_with(with_pace(Pace { grace: SHORT, ..Pace::STANDARD }));
    let mut caller = live.caller(&Device::new()).await;
    let body = futures_util::stream::iter([Ok::<_, std::io::Error>(Bytes::from_static(b"{"))]);
    let body = Body::from_stream(body.chain(futures_util::stream::pending()));
    let answer = caller.send(request(Method::POST, paths::PAIR_REQUEST, None, body)).await;
    assert_eq!((answer.status, answer.code()), (StatusCode::REQUEST_TIMEOUT, ErrorCode::BadRequest));
}

#[tokio::test(flavor = "multi_thread")]
async fn strangers_of_one_address_are_few_and_paired_devices_are_not_counted_among_them() {
    let live = Live::start();
    let device = live.paired("laptop", Rights::of_a_paired_device());
    let mut strangers = Vec::new();
    for _ in 0..MAX_UNPAIRED_PER_ADDRESS {
        let mut caller = live.try_caller(None).await.unwrap();
        caller.get(paths::INFO).await.ok();
        strangers.push(caller);
    }
    let mut one_more = live.try_caller(None).await.unwrap();
    assert!(one_more.try_send(request(Method::GET, paths::INFO, None, Body::empty())).await.is_err());
    for _ in 0..MAX_UNPAIRED_PER_ADDRESS * 2 {
        let mut caller = live.caller(&device).await;
        caller.get(paths::SNAPSHOTS).await.ok();
        strangers.push(caller);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_has_so_many_chunks_and_no_more() {
    let live = Live::start();
    let device = live.paired("laptop", Rights::of_a_paired_device());
    let mut caller = live.caller(&device).await;
    let open: SessionAnswer = caller.prepare(&header("Documents")).await.ok().json();
    let chunks = |count: usize| {
        let chunk = |n: usize| Bytes::copy_from_slice(&n.to_le_bytes());
        let chunks: Vec<_> = (0..count).map(chunk).map(|bytes| (chunk_id(&bytes), bytes)).collect();
        let blocks = chunks.chunks(4096).map(|part| Encoder::new(Compression::None).encode(part));
        (chunks[0].0, encode(&blocks.collect::<Vec<Block>>()))
    };
    let (first, body) = chunks(MAX_UPLOAD_CHUNKS + 1);
    let refused = caller.in_session(paths::UPLOAD, open.session, body).await;
    assert_eq!((refused.status, refused.code()), (StatusCode::PAYLOAD_TOO_LARGE, ErrorCode::TooLarge));
    let missing = caller.in_session(paths::MISSING, open.session, first.as_bytes().to_vec()).await.ok();
    assert_eq!(missing.body, [1][..], "nothing of it is kept");
    caller.in_session(paths::UPLOAD, open.session, chunks(MAX_UPLOAD_CHUNKS).1).await.ok();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_that_lets_its_uploads_stand_still_keeps_nobody_else_from_theirs() {
    let pace = Pace { grace: LIMIT * 10, ..Pace::STANDARD };
    let live = Live::start_with(Setup { accept: AcceptMode::Paired, pace, ..Setup::default() });
    let greedy = live.paired("greedy", Rights::of_a_paired_device());
    let honest = live.paired("honest", Rights::of_a_paired_device());
    let mut caller = live.caller(&greedy).await;
    let mut standing = Vec::new();
    // Both before the places are taken: its own lists wait for one like everything of its own.
    let one: SessionAnswer = caller.prepare(&header("one")).await.ok().json();
    let two: SessionAnswer = caller.prepare(&header("two")).await.ok().json();
    for open in [one, two] {
        for _ in 0..MAX_CALLS_PER_SESSION {
            let mut line = live.caller(&greedy).await;
            let body = Body::from_stream(futures_util::stream::pending::<std::io::Result<Bytes>>());
            let upload = request(Method::POST, paths::UPLOAD, Some(open.session), body);
            standing.push(tokio::spawn(async move { line.try_send(upload).await }));
        }
        let begun = standing.len().min(MAX_CALLS_PER_DEVICE);
        live.until(|| live.handle.shared.sessions().calls() == begun).await;
        // Its calls go on although the session is gone, and count on.
        caller.in_session(paths::CANCEL, open.session, "").await.ok();
    }
    let places = live.handle.shared.clone();
    live.until(|| places.transfers_under_way() == MAX_TRANSFERS_PER_DEVICE).await;
    let info = live.caller(&honest).await.back_up(&honest, "Documents", b"hello").await;
    assert_eq!(info.receipt.from, honest.fingerprint());
    assert_eq!(places.transfers_under_way(), MAX_TRANSFERS_PER_DEVICE, "they stood still all the while");
    standing.iter().for_each(tokio::task::JoinHandle::abort);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_records_of_a_repository_are_as_many_as_one_list_holds() {
    let live = Live::start();
    let device = live.paired("laptop", Rights::of_a_paired_device());
    let mut caller = live.caller(&device).await;
    let mut head = None;
    let (mut bytes, mut last) = (0, ErrorCode::Failed);
    for _ in 0..MAX_RECORDS_BYTES / 200_000 + 2 {
        let open: SessionAnswer = caller.prepare(&header("Documents")).await.ok().json();
        let backup = Backup::of(&device, open.repository.unwrap().id, "Documents", open.head.as_ref(), b"hello");
        let mut record = signer::open_record(&backup.signed).unwrap();
        record.roots[0].source = "/".repeat(240_000);
        let signed = device.identity.signing_key().sign_record(&record);
        if bytes == 0 {
            caller.in_session(paths::UPLOAD, open.session, encode(&backup.blocks)).await.ok();
        }
        let answer = caller.in_session(paths::FINISH, open.session, serde_json::to_vec(&signed).unwrap()).await;
        if answer.status != StatusCode::OK {
            last = answer.code();
            break;
        }
        bytes += signed.record.len() as u64;
        head = Some(signer::snapshot_id(&signed));
    }
    assert_eq!(last, ErrorCode::Full);
    assert!(bytes <= MAX_RECORDS_BYTES && bytes + 300_000 > MAX_RECORDS_BYTES, "{bytes}");
    let list = caller.get(paths::SNAPSHOTS).await.ok().body;
    assert!(list.len() < 64 << 20, "what a client reads");
    assert!(String::from_utf8_lossy(&list[list.len() / 2..]).contains(&head.unwrap().to_string()));
}
