//! Doubles of LocalSend apps that receive, and what becomes of files that are sent to them: version 2.1 and 2.2, one that lets nobody in
//! without a certificate, and ones that fail as apps do.

use crate::backup::filter::FilterOptions;
use crate::client::test_server::{Peer, TestServer};
use crate::config::Home;
use crate::daemon::locate::{Answering, Chooser, locate_any};
use crate::daemon::phone::{Delivered, MAX_REFUSALS, PARALLEL, Packing, Phone, PhonePin, Trouble, deliver};
use crate::daemon::{Context, Error, Result};
use crate::identity::trust::Trust;
use crate::model::{Alias, Device, Fingerprint, Rights};
use crate::monitor::recording::RecordingMonitor;
use crate::platform::shutdown::Shutdown;
use crate::protocol::Announcement;
use crate::protocol::localsend::PrepareFiles;
use crate::protocol::paths;
use axum::extract::connect_info::MockConnectInfo;
use axum::extract::{ConnectInfo, Query, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use axum::{Json, Router};
use bytes::Bytes;
use futures_util::future::BoxFuture;
use serde_json::json;
use std::collections::{BTreeSet, HashMap};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Arc, Mutex};

/// How an app behaves.
#[derive(Clone, Copy)]
struct Manner {
    /// 2.1 answers with what it must and takes anybody; 2.2 shows more, and may want to see a certificate.
    version: &'static str,
    needs_certificate: bool,
    /// To an offer.
    offer: StatusCode,
    /// To the bytes of a file: by its name, its tries so far with this one, and the calls of all files so far with this one.
    upload: fn(&str, u32, u32) -> StatusCode,
}

const PLAIN: Manner =
    Manner { version: "2.1", needs_certificate: false, offer: StatusCode::OK, upload: |_, _, _| StatusCode::OK };

#[derive(Default)]
struct Seen {
    names: HashMap<String, String>,
    files: HashMap<String, Vec<u8>>,
    tries: HashMap<String, u32>,
    callers: Vec<Option<Fingerprint>>,
}

#[derive(Clone)]
struct App(Manner, Arc<Mutex<Seen>>);

impl App {
    /// 403 for who shows no certificate where one is needed.
    fn lets_in(&self, peer: &Peer) -> bool {
        self.1.lock().unwrap().callers.push(peer.fingerprint);
        peer.fingerprint.is_some() || !self.0.needs_certificate
    }
}

async fn prepare(State(app): State<App>, peer: ConnectInfo<Peer>, Json(offer): Json<PrepareFiles>) -> Response {
    if !app.lets_in(&peer) {
        return StatusCode::FORBIDDEN.into_response();
    }
    if app.0.offer != StatusCode::OK {
        return (app.0.offer, Json(json!({ "message": "no" }))).into_response();
    }
    let tokens: HashMap<_, _> = offer.files.keys().map(|id| (id.clone(), format!("token {id}"))).collect();
    app.1.lock().unwrap().names = offer.files.into_iter().map(|(id, file)| (id, file.file_name)).collect();
    let mut answer = json!({ "sessionId": "s", "files": tokens });
    if app.0.version == "2.2" {
        answer["info"] = json!({ "alias": "Pixel", "version": "2.2", "download": true });
    }
    Json(answer).into_response()
}

async fn upload(
    State(app): State<App>,
    peer: ConnectInfo<Peer>,
    Query(query): Query<HashMap<String, String>>,
    headers: HeaderMap,
    body: Bytes,
) -> StatusCode {
    if !app.lets_in(&peer) || query["token"] != format!("token {}", query["fileId"]) {
        return StatusCode::FORBIDDEN;
    }
    // Sizes stand in the offer; no app of either generation asks for a length here.
    assert!(headers.get(header::CONTENT_TYPE).is_none_or(|kind| kind != "application/json"));
    let mut seen = app.1.lock().unwrap();
    let name = seen.names[&query["fileId"]].clone();
    let of_file = *seen.tries.entry(name.clone()).and_modify(|tries| *tries += 1).or_insert(1);
    let answer = (app.0.upload)(&name, of_file, seen.tries.values().sum());
    if answer == StatusCode::OK {
        seen.files.insert(name, body.to_vec());
    }
    answer
}

struct NoPin;

impl PhonePin for NoPin {
    fn pin(&mut self, _: bool) -> BoxFuture<'_, Result<String>> {
        Box::pin(async { Err(Trouble::NoPin("nobody is here".into()).into()) })
    }
}

/// What came of sending these files.
struct Outcome {
    sent: Result<Delivered>,
    seen: Seen,
    faults: usize,
    ours: Fingerprint,
}

async fn send(manner: Manner, names: &[&str]) -> Outcome {
    let app = App(manner, Arc::default());
    let router = Router::new()
        .route(paths::LOCALSEND_PREPARE_UPLOAD, post(prepare))
        .route(paths::LOCALSEND_UPLOAD, post(upload))
        .with_state(app.clone());
    let server = TestServer::start(router).await;
    let (home, tree) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    for name in names {
        std::fs::write(tree.path().join(name), name.repeat(1000)).unwrap();
    }
    let loopback = Some(IpAddr::V4(Ipv4Addr::LOCALHOST));
    let context = Context::open(Home::at(home.path()), Some("laptop"), loopback, 53_999).unwrap();
    let (fingerprint, addresses) = (server.identity.fingerprint(), vec![server.address]);
    let phone = Phone { fingerprint: Some(fingerprint), alias: Alias::new("Pixel"), addresses };
    let monitor = Arc::new(RecordingMonitor::default());
    let paths: Vec<_> = names.iter().map(|name| tree.path().join(name)).collect();
    let (filter, shutdown, mut pin) = (FilterOptions::default(), Shutdown::new(), NoPin);
    let sending = deliver(&context, &phone, &paths, &filter, Packing::Files, &mut pin, monitor.clone(), &shutdown);
    let sent = sending.await;
    let seen = std::mem::take(&mut *app.1.lock().unwrap());
    Outcome { sent, seen, faults: monitor.faults().len(), ours: context.identity.fingerprint() }
}

#[tokio::test(flavor = "multi_thread")]
async fn apps_of_both_generations_get_the_files_and_see_our_certificate() {
    let strict = Manner { version: "2.2", needs_certificate: true, ..PLAIN };
    for manner in [PLAIN, Manner { version: "2.2", ..PLAIN }, strict] {
        let outcome = send(manner, &["a", "b", "c"]).await;
        assert_eq!(outcome.sent.unwrap(), Delivered { files: 3, bytes: 3000, not_wanted: 0, failed: 0 });
        assert_eq!(outcome.seen.files["b"], "b".repeat(1000).into_bytes());
        assert!(outcome.seen.callers.iter().all(|caller| *caller == Some(outcome.ours)));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_an_app_answers_with_a_500_is_sent_three_times_and_no_oftener() {
    let upload = |name: &str, of_file: u32, _: u32| match (name, of_file) {
        ("short", 1 | 2) | ("never", _) => StatusCode::INTERNAL_SERVER_ERROR,
        ("away", 1) => StatusCode::SERVICE_UNAVAILABLE,
        _ => StatusCode::OK,
    };
    let outcome = send(Manner { upload, ..PLAIN }, &["short", "never", "away", "good"]).await;
    assert_eq!(outcome.sent.unwrap(), Delivered { files: 3, bytes: 13_000, not_wanted: 0, failed: 1 });
    let tries = |name: &str| outcome.seen.tries[name];
    assert_eq!([tries("short"), tries("never"), tries("away"), tries("good")], [3, 3, 2, 1]);
    assert_eq!(outcome.faults, 1, "what did not arrive is named");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_app_that_has_ended_its_session_is_not_offered_file_after_file() {
    let upload = |_: &str, _: u32, call: u32| if call <= 2 { StatusCode::OK } else { StatusCode::FORBIDDEN };
    let names: Vec<String> = (10..40).map(|number| number.to_string()).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let outcome = send(Manner { upload, ..PLAIN }, &names).await;
    let Err(Error::Phone(Trouble::Ended { arrived, wanted })) = outcome.sent else { panic!("{:?}", outcome.sent) };
    assert_eq!((arrived, wanted), (2, 30));
    let calls: u32 = outcome.seen.tries.values().sum();
    assert!(u64::from(calls) < 2 + MAX_REFUSALS + PARALLEL as u64, "{calls}");
    // One file that is refused is not the end of a session.
    let upload = |name: &str, _: u32, _: u32| if name == "a" { StatusCode::FORBIDDEN } else { StatusCode::OK };
    let outcome = send(Manner { upload, ..PLAIN }, &["a", "b", "c"]).await;
    assert_eq!(outcome.sent.unwrap(), Delivered { files: 2, bytes: 2000, not_wanted: 0, failed: 1 });
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_app_says_to_an_offer_is_told_in_its_own_words() {
    let code = async |status: u16| {
        let offer = StatusCode::from_u16(status).unwrap();
        let outcome = send(Manner { offer, ..PLAIN }, &["a"]).await;
        let Err(error @ Error::Phone(_)) = outcome.sent else { panic!("{:?}", outcome.sent) };
        assert!(error.hint().is_some_and(|hint| !hint.contains("lan-backup trust")), "{error}");
        error.code()
    };
    assert_eq!(code(403).await, "declined");
    assert_eq!(code(409).await, "busy");
    assert_eq!(code(429).await, "too-many");
    assert_eq!(code(401).await, "no-pin");
    assert_eq!(code(500).await, "failed");
}

struct Nobody;

impl Chooser for Nobody {
    fn choose(&mut self, _: &str, _: &[Device]) -> Option<usize> {
        None
    }
}

/// An app whose encryption is off, where a person has said so; it is never called so when it looks like a paired device.
#[tokio::test(flavor = "multi_thread")]
async fn an_app_in_the_clear_gets_files_where_its_address_says_so_and_a_paired_device_never_does() {
    let app = App(PLAIN, Arc::default());
    let said = Arc::new(Mutex::new(Announcement::of_this_device(
        Alias::new("Pixel"),
        Fingerprint::from_bytes([7; 32]),
        53317,
        true,
    )));
    let register = {
        let said = said.clone();
        post(async move || Json(said.lock().unwrap().clone()))
    };
    // What stands in for the handshake that is missing here.
    let nobody = MockConnectInfo(Peer { fingerprint: None, exporter: [0; 32] });
    let router = Router::new()
        .route(paths::LOCALSEND_REGISTER, register)
        .route(paths::LOCALSEND_PREPARE_UPLOAD, post(prepare))
        .route(paths::LOCALSEND_UPLOAD, post(upload))
        .with_state(app.clone())
        .layer(nobody);
    let listener = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let serving = tokio::spawn(async move { axum::serve(listener, router).await });
    let (home, tree) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    std::fs::write(tree.path().join("a"), "in the clear").unwrap();
    let loopback = Some(IpAddr::V4(Ipv4Addr::LOCALHOST));
    let context = Context::open(Home::at(home.path()), Some("laptop"), loopback, 53_999).unwrap();
    let name = format!("http://{address}/");

    let Answering::Phone(phone) = locate_any(&context, &name, &mut Nobody).await.unwrap() else { panic!("no phone") };
    assert_eq!((phone.fingerprint, phone.alias.as_str()), (None, "Pixel"));
    let monitor = Arc::new(RecordingMonitor::default());
    let (filter, shutdown, mut pin) = (FilterOptions::default(), Shutdown::new(), NoPin);
    let paths = [tree.path().join("a")];
    let sent = deliver(&context, &phone, &paths, &filter, Packing::Files, &mut pin, monitor.clone(), &shutdown).await;
    assert_eq!(sent.unwrap(), Delivered { files: 1, bytes: 12, not_wanted: 0, failed: 0 });
    assert_eq!(app.1.lock().unwrap().files["a"], b"in the clear");
    assert!(monitor.notices().iter().any(|notice| notice.contains("not encrypted")), "and it is said");

    let paired = Trust {
        fingerprint: Fingerprint::from_bytes([7; 32]),
        signing_key: "ab".repeat(32),
        alias: Alias::new("nas"),
        rights: Rights::of_a_paired_device(),
        paired_at: jiff::Timestamp::UNIX_EPOCH,
        sets: BTreeSet::new(),
        restore_from: BTreeSet::new(),
        address: None,
    };
    context.trust.insert(paired).unwrap();
    for alias in ["Pixel", "nas"] {
        // By the fingerprint that it claims, then by its name.
        let error = locate_any(&context, &name, &mut Nobody).await.unwrap_err();
        assert!(matches!(error, Error::PairedAsLocalSend(_)), "{alias}: {error}");
        let other = Fingerprint::from_bytes([8; 32]);
        *said.lock().unwrap() = Announcement::of_this_device(Alias::new("nas"), other, 53317, true);
    }
    for wrong in ["http://nas", "http://", "http://192.168.1.7:x"] {
        assert!(matches!(locate_any(&context, wrong, &mut Nobody).await, Err(Error::Usage { .. })), "{wrong}");
    }
    serving.abort();
}
