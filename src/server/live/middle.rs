//! Somebody in between, with a certificate of its own on both legs: real sockets, real TLS, our own client on one side and the
//! real server on the other, and the *right* PIN typed every time.
//!
//! It ends TLS on both legs, so it reads and changes what it likes; the one thing it must change is the code that S compares.

use crate::client::pair::Paired;
use crate::client::test_server::{Peer, TestServer};
use crate::client::{self, PinSource};
use crate::identity::Expect;
use crate::model::{Fingerprint, Pin, Rights, ShortCode};
use crate::protocol::pairing::{PairRequest, PairState};
use crate::protocol::paths;
use crate::server::limits::Pace;
use crate::server::live::pairing::usual;
use crate::server::live::{Caller, Device, Live, Setup, long, request};
use crate::server::{Decision, Scripted, ServerHandle};
use axum::Router;
use axum::body::Body;
use axum::extract::{ConnectInfo, State};
use axum::response::{IntoResponse, Response};
use futures_util::future::BoxFuture;
use http::{Method, Request, StatusCode};
use http_body_util::BodyExt;
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};

/// What the one in between does besides passing on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Trick {
    /// Nothing: the same messages on both legs.
    PassOn,
    /// Not even the code.
    LeaveTheCode,
    /// Its own signing key in the place of each side's.
    OwnKeys,
    /// S gets its own message back.
    Reflect,
    /// It answers S's proof itself, with S's proof.
    Echo,
    /// It answers S's proof itself, with anything.
    Forge,
    /// It says that it is R.
    ClaimToBeR,
    /// It asks R for more rights than S does.
    MoreRights,
}

const TRICKS: [Trick; 8] = [
    Trick::PassOn,
    Trick::LeaveTheCode,
    Trick::OwnKeys,
    Trick::Reflect,
    Trick::Echo,
    Trick::Forge,
    Trick::ClaimToBeR,
    Trick::MoreRights,
];

struct Between {
    trick: Trick,
    own_key: String,
    receiver: Fingerprint,
    own: Fingerprint,
    upstream: tokio::sync::Mutex<Caller>,
}

impl Between {
    async fn pass(&self, path: &str, body: &Value) -> (StatusCode, Value) {
        let body = Body::from(serde_json::to_vec(body).unwrap());
        let answer = self.upstream.lock().await.send(request(Method::POST, path, None, body)).await;
        (answer.status, answer.json())
    }
}

async fn in_between(
    State(between): State<Arc<Between>>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    request: Request<Body>,
) -> Response {
    let path = request.uri().path().to_owned();
    let mut body: Value = serde_json::from_slice(&request.into_body().collect().await.unwrap().to_bytes()).unwrap();
    let trick = between.trick;
    if path == paths::PAIR_REQUEST {
        // It has the patience that S's first question has not.
        body["wait"] = json!(30);
    }
    if path == paths::PAIR_START && trick == Trick::OwnKeys {
        body["signingKey"] = json!(between.own_key);
    }
    if path != paths::PAIR_CONFIRM && trick == Trick::MoreRights {
        body["rights"] = json!(["backup", "list", "restore", "restore-others"]);
    }
    if path == paths::PAIR_CONFIRM && matches!(trick, Trick::Echo | Trick::Forge) {
        let proof = if trick == Trick::Echo { body["proof"].clone() } else { json!("AAAA".repeat(11)) };
        let rights = Rights::of_a_paired_device();
        let answer = json!({ "proof": proof, "alias": "nas", "rights": rights, "fingerprint": between.own });
        return (StatusCode::OK, axum::Json(answer)).into_response();
    }
    let message = body["message"].clone();
    let (status, mut answer) = between.pass(&path, &body).await;
    match path.as_str() {
        paths::PAIR_REQUEST if trick != Trick::LeaveTheCode && status.is_success() => {
            answer["code"] = json!(peer.fingerprint.unwrap().short_code());
        }
        paths::PAIR_START if trick == Trick::OwnKeys && status.is_success() => {
            answer["signingKey"] = json!(between.own_key);
        }
        paths::PAIR_START if trick == Trick::Reflect => answer["message"] = message,
        paths::PAIR_CONFIRM if trick == Trick::ClaimToBeR => answer["fingerprint"] = json!(between.receiver),
        _ => {}
    }
    (status, axum::Json(answer)).into_response()
}

/// A person at S who reads R's screen and never makes a mistake.
struct Reader {
    receiver: ServerHandle,
    typed: Arc<AtomicUsize>,
}

impl PinSource for Reader {
    fn waiting(&mut self, _: ShortCode, _: Fingerprint) {}

    fn pin<'a>(&'a mut self, _: &'a PairState, _: u8) -> BoxFuture<'a, client::Result<Pin>> {
        Box::pin(async {
            self.typed.fetch_add(1, Ordering::Relaxed);
            let on_screen = self.receiver.shared.pairing().on_screen();
            on_screen.map(|(_, pin)| pin).ok_or(client::Error::PinExpired)
        })
    }
}

async fn pair_at(
    address: SocketAddr,
    device: &Device,
    request: PairRequest,
    reader: &mut Reader,
) -> client::Result<Paired> {
    client::pair(&device.identity, address, Expect::FirstUse, request, reader).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_relays_of_the_right_pin_through_somebody_in_between_are_refused() {
    // R's person accepts whoever comes, without a look at the code.
    let approver = Arc::new(Scripted::always(Decision::Always));
    let pace = Pace { pairing_reply: Duration::ZERO, ..Pace::STANDARD };
    let live = Live::start_with(Setup { approver: approver.clone(), pace, ..Setup::default() });
    let receiver = live.identity.fingerprint();
    let typed = Arc::new(AtomicUsize::new(0));
    let mut reader = Reader { receiver: live.handle.clone(), typed: typed.clone() };
    let victim = Device::new();
    let mut relays = 0;
    while typed.load(Ordering::Relaxed) < if long() { 1000 } else { 100 } {
        let trick = TRICKS[relays % TRICKS.len()];
        relays += 1;
        let own = Device::new();
        let between = Between {
            trick,
            own_key: own.identity.signing_key().public(),
            receiver,
            own: own.fingerprint(),
            upstream: tokio::sync::Mutex::new(live.caller(&own).await),
        };
        let router = Router::new().fallback(in_between).with_state(Arc::new(between));
        let server = TestServer::start_as(own.identity.clone(), router).await;
        let before = typed.load(Ordering::Relaxed);
        let refused = pair_at(server.address, &victim, usual(), &mut reader).await;
        assert!(refused.is_err(), "{trick:?}: {refused:?}");
        assert!(live.trust.list().is_empty(), "{trick:?}: R trusts somebody");
        let tries = typed.load(Ordering::Relaxed) - before;
        if trick == Trick::LeaveTheCode {
            assert!(matches!(refused, Err(client::Error::Intercepted)) && tries == 0, "{refused:?}");
        } else {
            assert!(tries > 0, "{trick:?} was stopped before the PIN: {refused:?}");
        }
        // What it asked for is gone with it.
        live.handle.shared.pairing().forget_device(own.fingerprint());
    }
    assert!(approver.asked().len() >= relays, "each had its window");

    // The control: through somebody who passes on the bytes and cannot read them, the same two do pair.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let wire = listener.local_addr().unwrap();
    let to = live.address();
    let passing = tokio::spawn(async move {
        let (mut near, _) = listener.accept().await.unwrap();
        let mut far = TcpStream::connect(to).await.unwrap();
        let _ = tokio::io::copy_bidirectional(&mut near, &mut far).await;
    });
    let paired = pair_at(wire, &victim, usual(), &mut reader).await.unwrap();
    assert_eq!(paired.fingerprint, receiver);
    assert!(live.trust.find(&victim.fingerprint()).is_some());
    passing.abort();
}
