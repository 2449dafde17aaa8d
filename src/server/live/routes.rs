//! Who gets through which door.

use crate::model::{Right, Rights, SessionId};
use crate::protocol::announce::Announcement;
use crate::protocol::session::PrepareDownload;
use crate::protocol::{ErrorCode, paths};
use crate::server::ServerEvent;
use crate::server::live::{Caller, Device, LIMIT, Live, Setup, header, request};
use crate::server::router::{Need, ROUTES, Route, Verb};
use axum::body::Body;
use http::{Method, Request, StatusCode};

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
                    [
                        ErrorCode::BadRequest,
                        ErrorCode::SessionGone,
                        ErrorCode::NotFound,
                        ErrorCode::PairingFailed,
                        // The LocalSend door is shut here.
                        ErrorCode::Declined,
                    ]
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

/// Node.js marks what its `fetch` sends so, and nothing else; a browser always says from which site, too.
#[tokio::test(flavor = "multi_thread")]
async fn an_app_written_for_node_is_no_browser_to_localsends_calls_and_one_to_all_others() {
    let live = Live::start();
    let device = live.paired("laptop", Rights::of_a_paired_device());
    let mut caller = live.caller(&device).await;
    for route in ROUTES {
        let mut request = to(route);
        request.headers_mut().insert("sec-fetch-mode", http::HeaderValue::from_static("cors"));
        let answer = caller.send(request).await;
        let refused = !answer.status.is_success() && answer.code() == ErrorCode::BrowserRefused;
        assert_eq!(refused, !route.path.starts_with(paths::LOCALSEND_PREFIX), "{}", route.path);
        let mut request = to(route);
        for (name, value) in [("sec-fetch-mode", "cors"), ("sec-fetch-site", "cross-site")] {
            request.headers_mut().insert(name, http::HeaderValue::from_static(value));
        }
        assert_eq!(caller.send(request).await.code(), ErrorCode::BrowserRefused, "{}", route.path);
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
