//! Who gets through which door.

use crate::model::{Right, Rights, SessionId};
use crate::protocol::announce::Announcement;
use crate::protocol::session::{PrepareDownload, SessionAnswer};
use crate::protocol::{ErrorCode, paths};
use crate::server::ServerEvent;
use crate::server::live::{Caller, Device, LIMIT, Live, Setup, header, request};
use crate::server::router::{Need, ROUTES, Route, Verb};
use axum::body::Body;
use http::{Method, Request, StatusCode};
use rustls::HandshakeKind;

fn to(route: &Route) -> Request<Body> {
    let method = match route.verb {
        Verb::Get => Method::GET,
        Verb::Post => Method::POST,
    };
    let id = if route.with_id { format!("/{}", "ab".repeat(16)) } else { String::new() };
    request(method, &format!("{}{id}", route.path), None, Body::empty())
}

#[tokio::test(flavor = "multi_thread")]
async fn every_route_asks_for_what_it_needs_and_lets_through_who_has_it() {
    let live = Live::start();
    let device = live.paired("laptop", Rights::of_a_paired_device());
    let bare = live.paired("bare", Rights::none());
    let mut callers: [(&str, Caller); 4] = [
        ("nobody", live.try_caller(None).await.unwrap()),
        ("stranger", live.caller(&Device::new()).await),
        ("without rights", live.caller(&bare).await),
        ("paired", live.caller(&device).await),
    ];
    assert!(ROUTES.len() >= 18);
    for route in ROUTES {
        let refused = match route.need {
            Need::Nobody => [None; 4],
            Need::Certificate => [Some(ErrorCode::NotPaired), None, None, None],
            Need::Paired => [Some(ErrorCode::NotPaired), Some(ErrorCode::NotPaired), None, None],
            Need::Right(right) => {
                let allowed = Rights::of_a_paired_device().allow(right);
                let paired = (!allowed).then_some(ErrorCode::NotAllowed);
                [Some(ErrorCode::NotPaired), Some(ErrorCode::NotPaired), Some(ErrorCode::NotAllowed), paired]
            }
        };
        for ((who, caller), expected) in callers.iter_mut().zip(refused) {
            let answer = caller.send(to(route)).await;
            let context = format!("{} as {who}: {answer:?}", route.path);
            match expected {
                Some(code) => assert_eq!(answer.code(), code, "{context}"),
                None if answer.status.is_success() => {}
                // Let through, and refused by the handler for its empty body or unknown id.
                None => assert!(
                    [ErrorCode::BadRequest, ErrorCode::SessionGone, ErrorCode::NotFound, ErrorCode::PairingFailed]
                        .contains(&answer.code()),
                    "{context}"
                ),
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_right_opens_its_routes_and_no_other() {
    let live = Live::start();
    for right in Right::ALL {
        let device = live.paired("laptop", [right].into_iter().collect());
        let mut caller = live.caller(&device).await;
        for route in ROUTES {
            let Need::Right(needed) = route.need else { continue };
            let answer = caller.send(to(route)).await;
            let refused = !answer.status.is_success() && answer.code() == ErrorCode::NotAllowed;
            assert_eq!(refused, needed != right, "{} with {right}: {answer:?}", route.path);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn browsers_are_refused_everywhere() {
    let live = Live::start();
    let device = live.paired("laptop", Rights::of_a_paired_device());
    let mut caller = live.caller(&device).await;
    let headers = [("origin", "https://evil.example"), ("sec-fetch-site", "cross-site"), ("Sec-Fetch-Anything", "1")];
    for (name, value) in headers {
        for route in ROUTES {
            let mut request = to(route);
            request
                .headers_mut()
                .insert(http::HeaderName::from_bytes(name.as_bytes()).unwrap(), value.parse().unwrap());
            assert_eq!(caller.send(request).await.code(), ErrorCode::BrowserRefused, "{} {name}", route.path);
        }
        let mut unknown = request(Method::GET, "/", None, Body::empty());
        unknown.headers_mut().insert(http::HeaderName::from_bytes(name.as_bytes()).unwrap(), value.parse().unwrap());
        assert_eq!(caller.send(unknown).await.code(), ErrorCode::BrowserRefused);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn unknown_paths_and_methods_are_answered_in_our_words() {
    let live = Live::start();
    let mut caller = live.try_caller(None).await.unwrap();
    let answer = caller.get("/nothing").await;
    assert_eq!((answer.status, answer.code()), (StatusCode::NOT_FOUND, ErrorCode::NotFound));
    let answer = caller.send(request(Method::DELETE, paths::SNAPSHOTS, None, Body::empty())).await;
    assert_eq!((answer.status, answer.code()), (StatusCode::METHOD_NOT_ALLOWED, ErrorCode::NotFound));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listener_that_keeps_no_backups_says_so_and_still_says_who_it_is() {
    let live = Live::start_with(Setup { keeps_backups: false, ..Setup::default() });
    let device = live.paired("laptop", Rights::of_a_paired_device());
    let mut caller = live.caller(&device).await;
    caller.get(paths::INFO).await.ok();
    assert_eq!(caller.get(paths::SNAPSHOTS).await.code(), ErrorCode::NotFound);
    assert_eq!(caller.prepare(&header("Documents")).await.code(), ErrorCode::NotFound);
    let download = PrepareDownload::default();
    assert_eq!(caller.post(paths::PREPARE_DOWNLOAD, &download).await.code(), ErrorCode::NotFound);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_announcement_that_contradicts_the_certificate_is_not_passed_on() {
    let mut live = Live::start();
    let device = Device::new();
    let mut caller = live.caller(&device).await;
    let honest = Announcement::of_this_device(crate::model::Alias::new("phone"), device.fingerprint(), 53317, false);
    let mut forged = honest.clone();
    forged.fingerprint = live.identity.fingerprint().to_string();
    assert_eq!(caller.post(paths::REGISTER, &forged).await.code(), ErrorCode::BadRequest);
    caller.post(paths::LOCALSEND_REGISTER, &forged).await.ok();
    let answer: Announcement = caller.post(paths::REGISTER, &honest).await.ok().json();
    assert_eq!(answer.fingerprint, live.identity.fingerprint().to_string());
    assert_eq!(answer.port, live.handle.port());
    let heard = live.event(|event| match event {
        ServerEvent::Heard { announcement, certificate, .. } => Some((announcement, certificate)),
        _ => None,
    });
    assert_eq!(heard.await, (honest, Some(device.fingerprint())), "the forged ones were not passed on");
}

#[tokio::test(flavor = "multi_thread")]
async fn unpairing_ends_a_live_connection_and_every_new_one() {
    let mut live = Live::start();
    let device = live.paired("laptop", Rights::of_a_paired_device());
    let mut idle = live.caller(&device).await;
    idle.get(paths::SNAPSHOTS).await.ok();
    let mut caller = live.caller(&device).await;
    let open: SessionAnswer = caller.prepare(&header("Documents")).await.ok().json();

    // An upload that is under way: its body never ends by itself.
    let (tail, body) = tokio::sync::mpsc::channel::<std::io::Result<bytes::Bytes>>(1);
    tail.send(Ok(bytes::Bytes::from_static(b"LB"))).await.unwrap();
    let body = futures_util::stream::unfold(body, |mut body| async { Some((body.recv().await?, body)) });
    let body = Body::from_stream(body);
    let uploading = request(Method::POST, paths::UPLOAD, Some(open.session), body);
    let uploading = tokio::spawn(async move { caller.try_send(uploading).await });
    let handle = live.handle.clone();
    live.until(|| handle.shared.sessions().calls() == 1).await;
    assert_eq!(handle.sessions().len(), 1);
    assert!(handle.unpair(&device.fingerprint()).unwrap());
    let ended = tokio::time::timeout(LIMIT, uploading).await.expect("ends at once").unwrap();
    assert!(ended.is_err(), "{ended:?}");
    drop(tail);
    assert!(idle.try_send(request(Method::GET, paths::SNAPSHOTS, None, Body::empty())).await.is_err());
    assert!(handle.sessions().is_empty());
    live.event(|event| matches!(event, ServerEvent::Unpaired { .. }).then_some(())).await;

    let mut new = live.caller(&device).await;
    assert_eq!(new.get(paths::SNAPSHOTS).await.code(), ErrorCode::NotPaired);
    assert!(!handle.unpair(&device.fingerprint()).unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn no_handshake_is_ever_resumed() {
    let live = Live::start();
    let device = live.paired("laptop", Rights::of_a_paired_device());
    // A caller that would resume if it could.
    let expect = crate::identity::Expect::Known(live.identity.fingerprint());
    let mut config = (*device.identity.client_config(expect)).clone();
    config.resumption = rustls::client::Resumption::in_memory_sessions(8);
    let connector = tokio_rustls::TlsConnector::from(std::sync::Arc::new(config));
    for _ in 0..3 {
        let tcp = tokio::net::TcpStream::connect(live.address()).await.unwrap();
        let name = rustls::pki_types::ServerName::IpAddress(live.address().ip().into());
        let tls = connector.connect(name, tcp).await.unwrap();
        assert_eq!(tls.get_ref().1.handshake_kind(), Some(HandshakeKind::Full));
        let (sender, connection) =
            hyper::client::conn::http1::handshake(hyper_util::rt::TokioIo::new(tls)).await.unwrap();
        tokio::spawn(connection);
        let mut caller = Caller { sender, exporter: [0; 32] };
        caller.get(paths::SNAPSHOTS).await.ok();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_server_ends_soon_after_its_shutdown() {
    let live = Live::start();
    let device = live.paired("laptop", Rights::of_a_paired_device());
    let mut caller = live.caller(&device).await;
    let waiting = request(
        Method::GET,
        &format!("{}/{}?wait=30", paths::SESSIONS, SessionId::from_random([1; 16])),
        None,
        Body::empty(),
    );
    assert_eq!(caller.send(waiting).await.code(), ErrorCode::SessionGone);
    live.shutdown.stop();
    tokio::time::timeout(LIMIT, live.handle.stopped()).await.expect("ends soon");
    assert!(live.try_caller(Some(&device)).await.is_err());
}
