//! Callers that take more than their share.

use crate::model::Rights;
use crate::protocol::{ErrorCode, paths};
use crate::server::limits::{MAX_HEAD_BYTES, MAX_UNPAIRED_PER_ADDRESS, Pace};
use crate::server::live::{Device, LIMIT, Live, Setup, request};
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
