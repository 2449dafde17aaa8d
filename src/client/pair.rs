//! Pairing from the side that types the PIN, on one TLS connection of its own: the exchange is tied to that connection's
//! exporter, and the other side keeps the window for it alone.
//!
//! While the person looks for the digits, the connection is kept alive by asking how the window is; so the person also learns
//! at once when it was closed. The PIN is never logged, formatted or kept.

use crate::client::error::{Connecting, Error, Result};
use crate::client::exchange::Patience;
use crate::client::wire::Wire;
use crate::identity::pairing::{EXPORTER_LABEL, Transcript, Typist};
use crate::identity::{Expect, Identity, fingerprint_of};
use crate::model::{Alias, Fingerprint, Pin, Rights, ShortCode};
use crate::protocol::pairing::{
    MAX_PAIRING_BYTES, PAIRING_VERSION, PairConfirm, PairConfirmed, PairRequest, PairStart, PairStarted, PairState,
    WindowState,
};
use crate::protocol::{ErrorCode, paths};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use futures_util::future::BoxFuture;
use rustls::ProtocolVersion;
use rustls::pki_types::ServerName;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsConnector;

/// Seconds that one question for the person's decision waits at the other side; below the 30 that the protocol allows.
const WAIT_SECONDS: u8 = 25;
/// A server that answers at once that it still waits is not asked more often than this.
const WAIT_PAUSE: Duration = Duration::from_secs(1);
/// Servers close connections that are silent for 10 s; a person takes longer to type six digits.
const HEARTBEAT: Duration = Duration::from_secs(4);

/// Where the PIN comes from: a person at a terminal, or a file.
pub trait PinSource: Send {
    /// The other side has been asked. Both screens show `code`, so that its person accepts the right request.
    fn waiting(&mut self, code: ShortCode, their_fingerprint: Fingerprint);

    /// The PIN that is on the other screen now. Asked again after a wrong one, while tries are left. Dropped when the window
    /// closes meanwhile. Give [`Error::NoPin`] to end the pairing.
    fn pin<'a>(&'a mut self, state: &'a PairState, attempts_left: u8) -> BoxFuture<'a, Result<Pin>>;
}

/// What was agreed with the other device, all of it proved by the PIN.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Paired {
    /// Who it is.
    pub fingerprint: Fingerprint,
    /// Its Ed25519 public key, hex.
    pub signing_key: String,
    /// What it calls itself.
    pub alias: Alias,
    /// What this device may do there.
    pub rights: Rights,
}

/// Pairs with the device at `address`. Nothing is remembered here: that is the caller's, once this has returned.
pub async fn pair(
    identity: &Identity,
    address: SocketAddr,
    expect: Expect,
    request: PairRequest,
    ask: &mut dyn PinSource,
) -> Result<Paired> {
    let mut line = Line::connect(identity, address, expect).await?;
    let state = line.ask_person(identity, &request, ask).await?;
    line.exchange(identity, &request, state, ask).await
}

/// The one connection.
struct Line {
    wire: Wire,
    exporter: [u8; 32],
    theirs: Fingerprint,
    patience: Patience,
}

impl Line {
    async fn connect(identity: &Identity, address: SocketAddr, expect: Expect) -> Result<Self> {
        let patience = Patience::default();
        let config = identity.client_config(expect);
        let opening = async {
            let stream = TcpStream::connect(address).await?;
            stream.set_nodelay(true)?;
            TlsConnector::from(config).connect(ServerName::IpAddress(address.ip().into()), stream).await
        };
        let stream = timeout(patience.connect, opening).await;
        let stream = stream.map_err(|_| Error::Offline("nobody answered in time".into()))?;
        let stream = stream.map_err(|error| Error::from_connection(error, Connecting::Yes))?;
        let (_, tls) = stream.get_ref();
        if tls.protocol_version() != Some(ProtocolVersion::TLSv1_3) {
            return Err(Error::NotUnderstood("without TLS 1.3".to_owned()));
        }
        let certificate = tls.peer_certificates().and_then(<[_]>::first);
        let theirs = certificate.map(fingerprint_of);
        let theirs = theirs.ok_or_else(|| Error::NotUnderstood("without a certificate".to_owned()))?;
        let exporter = tls
            .export_keying_material([0; 32], EXPORTER_LABEL, None)
            .map_err(|error| Error::Failed("TLS gives no exporter", error.into()))?;
        let wire = Wire::over(stream).await?;
        Ok(Self { wire, exporter, theirs, patience })
    }

    /// Asks the other device's person and waits for the decision.
    async fn ask_person(
        &mut self,
        identity: &Identity,
        request: &PairRequest,
        ask: &mut dyn PinSource,
    ) -> Result<PairState> {
        let mut state = self.state(identity, request, 0).await?;
        ask.waiting(state.code, self.theirs);
        while state.state == WindowState::Waiting {
            sleep(WAIT_PAUSE).await;
            state = self.state(identity, request, WAIT_SECONDS).await?;
        }
        match state.state {
            WindowState::Open => Ok(state),
            WindowState::Declined | WindowState::Waiting => Err(Error::PairingDeclined),
        }
    }

    async fn state(&mut self, identity: &Identity, request: &PairRequest, wait: u8) -> Result<PairState> {
        let request = PairRequest { v: PAIRING_VERSION, wait, ..request.clone() };
        let limit = self.patience.answer + Duration::from_secs(wait.into());
        let state: PairState = self.post(paths::PAIR_REQUEST, &request, limit).await?;
        // The other side made the code from the certificate that it saw.
        if state.code == identity.fingerprint().short_code() { Ok(state) } else { Err(Error::Intercepted) }
    }

    /// Types PINs until one is right or no try is left.
    async fn exchange(
        &mut self,
        identity: &Identity,
        request: &PairRequest,
        mut state: PairState,
        ask: &mut dyn PinSource,
    ) -> Result<Paired> {
        loop {
            let pin = self.pin(identity, request, &state, ask).await?;
            match self.try_pin(identity, request, &pin).await {
                Err(error) if error.answer() == Some(ErrorCode::PairingFailed) => {}
                result => return result,
            }
            let attempts_left = state.attempts_left.saturating_sub(1);
            if attempts_left == 0 {
                return Err(Error::WrongPin { attempts_left });
            }
            state = self.state(identity, request, 0).await?;
            if state.state != WindowState::Open || state.attempts_left == 0 {
                return Err(Error::WrongPin { attempts_left: 0 });
            }
            // Whatever the other side says, it ends.
            state.attempts_left = state.attempts_left.min(attempts_left);
        }
    }

    /// The PIN, as long as the window is open.
    async fn pin(
        &mut self,
        identity: &Identity,
        request: &PairRequest,
        state: &PairState,
        ask: &mut dyn PinSource,
    ) -> Result<Pin> {
        let expires_in = Duration::from_secs(state.expires_in.into());
        let typing = async {
            let mut pin = ask.pin(state, state.attempts_left);
            loop {
                // Only the pauses are cut off by a typed PIN: hyper closes a connection whose answer nobody waits for.
                if let Ok(pin) = timeout(HEARTBEAT, &mut pin).await {
                    return pin;
                }
                if self.state(identity, request, 0).await?.state != WindowState::Open {
                    return Err(Error::PinExpired);
                }
            }
        };
        timeout(expires_in, typing).await.unwrap_or(Err(Error::PinExpired))
    }

    async fn try_pin(&mut self, identity: &Identity, request: &PairRequest, pin: &Pin) -> Result<Paired> {
        let own_key = identity.signing_key().public();
        let transcript = Transcript {
            exporter: self.exporter,
            typist: identity.fingerprint(),
            shower: self.theirs,
            rights: request.rights.clone(),
        };
        let (typist, message) = Typist::start(pin, transcript, &own_key);
        let start = PairStart {
            v: PAIRING_VERSION,
            message: STANDARD.encode(message),
            signing_key: own_key,
            rights: request.rights.clone(),
        };
        let limit = self.patience.answer;
        let started: PairStarted = self.post(paths::PAIR_START, &start, limit).await?;
        let (proof, confirmation) = typist.prove(&decode(&started.message)?, &started.signing_key)?;
        let confirm = PairConfirm { proof: STANDARD.encode(proof) };
        let confirmed: PairConfirmed = self.post(paths::PAIR_CONFIRM, &confirm, limit).await?;
        // Before anything else of that answer is looked at: whoever sent it must know the PIN, too.
        confirmation.check(&decode(&confirmed.proof)?)?;
        if confirmed.fingerprint != self.theirs {
            return Err(Error::Intercepted);
        }
        let PairConfirmed { alias, rights, .. } = confirmed;
        Ok(Paired { fingerprint: self.theirs, signing_key: started.signing_key, alias, rights })
    }

    async fn post<T: DeserializeOwned>(&mut self, path: &str, body: &impl Serialize, limit: Duration) -> Result<T> {
        self.wire.post(path, body, limit, MAX_PAIRING_BYTES).await
    }
}

fn decode(text: &str) -> Result<Vec<u8>> {
    STANDARD.decode(text).map_err(|_| Error::NotUnderstood("with what is not base64".to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::test_server::{Peer, TestServer, dead_address, identity};
    use crate::identity::pairing::Shower;
    use crate::protocol::ErrorBody;
    use axum::extract::{ConnectInfo, State};
    use axum::http::StatusCode;
    use axum::response::{IntoResponse, Response};
    use axum::routing::post;
    use axum::{Json, Router};
    use std::collections::VecDeque;
    use std::sync::{Arc, Mutex};

    /// A side that shows the PIN: its rules are the server's business, its answers are what the test wants.
    #[derive(Clone)]
    struct Screen {
        inner: Arc<Mutex<Shown>>,
    }

    struct Shown {
        identity: Option<Identity>,
        pin: Pin,
        states: VecDeque<PairState>,
        attempts_left: u8,
        exchange: Option<Shower>,
        callers: Vec<Peer>,
        claims: Option<Fingerprint>,
        forges: bool,
    }

    fn state_of(identity: &Identity, state: WindowState) -> PairState {
        PairState { code: identity.fingerprint().short_code(), state, expires_in: 300, attempts_left: 3 }
    }

    fn request() -> PairRequest {
        let rights = Rights::of_a_paired_device();
        PairRequest { v: 1, alias: Alias::new("laptop"), rights, purpose: None, wait: 0 }
    }

    async fn screen(states: Vec<PairState>) -> (Screen, TestServer) {
        let shown = Shown {
            identity: None,
            pin: "123456".parse().unwrap(),
            states: states.into(),
            attempts_left: 3,
            exchange: None,
            callers: Vec::new(),
            claims: None,
            forges: false,
        };
        let screen = Screen { inner: Arc::new(Mutex::new(shown)) };
        let routes = Router::new()
            .route(paths::PAIR_REQUEST, post(asked))
            .route(paths::PAIR_START, post(started))
            .route(paths::PAIR_CONFIRM, post(confirmed));
        let server = TestServer::start(routes.with_state(screen.clone())).await;
        screen.inner.lock().unwrap().identity = Some(server.identity.clone());
        (screen, server)
    }

    /// Each question takes the next state; the last one stays.
    async fn asked(
        State(screen): State<Screen>,
        ConnectInfo(peer): ConnectInfo<Peer>,
        Json(request): Json<PairRequest>,
    ) -> Json<PairState> {
        assert_eq!(request.v, PAIRING_VERSION);
        let mut shown = screen.inner.lock().unwrap();
        shown.callers.push(peer);
        let next = if shown.states.len() > 1 { shown.states.pop_front() } else { shown.states.front().cloned() };
        Json(PairState { attempts_left: shown.attempts_left, ..next.unwrap() })
    }

    async fn started(
        State(screen): State<Screen>,
        ConnectInfo(peer): ConnectInfo<Peer>,
        Json(start): Json<PairStart>,
    ) -> Json<PairStarted> {
        let mut shown = screen.inner.lock().unwrap();
        shown.attempts_left -= 1;
        let identity = shown.identity.clone().unwrap();
        let transcript = Transcript {
            exporter: peer.exporter,
            typist: peer.fingerprint.unwrap(),
            shower: identity.fingerprint(),
            rights: start.rights,
        };
        shown.callers.push(peer);
        let (own_key, first) = (identity.signing_key().public(), STANDARD.decode(&start.message).unwrap());
        let (exchange, message) = Shower::answer(&shown.pin, transcript, &own_key, &first, &start.signing_key).unwrap();
        shown.exchange = Some(exchange);
        Json(PairStarted { message: STANDARD.encode(message), signing_key: own_key })
    }

    async fn confirmed(State(screen): State<Screen>, Json(confirm): Json<PairConfirm>) -> Response {
        let mut shown = screen.inner.lock().unwrap();
        let exchange = shown.exchange.take().unwrap();
        let proof = match exchange.check(&STANDARD.decode(&confirm.proof).unwrap()) {
            Ok(proof) => proof,
            // Somebody who does not know the PIN, and claims that all is well.
            Err(_) if shown.forges => vec![0; 32],
            Err(_) => {
                let code = ErrorCode::PairingFailed;
                let message = "the exchange failed".to_owned();
                let body = ErrorBody { code, message, hint: None, missing: vec![], head: None };
                return (StatusCode::FORBIDDEN, Json(body)).into_response();
            }
        };
        let own = shown.identity.clone().unwrap().fingerprint();
        let fingerprint = shown.claims.unwrap_or(own);
        let rights = Rights::of_a_paired_device();
        Json(PairConfirmed { proof: STANDARD.encode(proof), alias: Alias::new("nas"), rights, fingerprint })
            .into_response()
    }

    #[derive(Default)]
    struct Typing {
        pins: VecDeque<&'static str>,
        seen: Vec<u8>,
        codes: Vec<(ShortCode, Fingerprint)>,
        slow: Option<Duration>,
    }

    impl Typing {
        fn of(pins: &[&'static str]) -> Self {
            Self { pins: pins.iter().copied().collect(), ..Self::default() }
        }
    }

    impl PinSource for Typing {
        fn waiting(&mut self, code: ShortCode, their_fingerprint: Fingerprint) {
            self.codes.push((code, their_fingerprint));
        }

        fn pin<'a>(&'a mut self, _state: &'a PairState, attempts_left: u8) -> BoxFuture<'a, Result<Pin>> {
            self.seen.push(attempts_left);
            Box::pin(async move {
                if let Some(slow) = self.slow {
                    sleep(slow).await;
                }
                let pin = self.pins.pop_front().ok_or_else(|| Error::NoPin("the person left".into()))?;
                pin.parse().map_err(|error: crate::model::ParseError| Error::NoPin(error.into()))
            })
        }
    }

    async fn run(own: &Identity, server: &TestServer, typing: &mut Typing) -> Result<Paired> {
        pair(own, server.address, Expect::FirstUse, request(), typing).await
    }

    #[tokio::test]
    async fn the_right_pin_pairs_on_one_connection() {
        let own = identity();
        let states = vec![state_of(&own, WindowState::Waiting), state_of(&own, WindowState::Open)];
        let (screen, server) = screen(states).await;
        let mut typing = Typing::of(&["123456"]);
        let paired = run(&own, &server, &mut typing).await.unwrap();
        assert_eq!(paired.fingerprint, server.identity.fingerprint());
        assert_eq!(paired.signing_key, server.identity.signing_key().public());
        assert_eq!((paired.alias.as_str(), paired.rights), ("nas", Rights::of_a_paired_device()));
        assert_eq!(typing.codes, [(own.fingerprint().short_code(), server.identity.fingerprint())]);
        let callers = screen.inner.lock().unwrap().callers.clone();
        assert_eq!(callers.len(), 3);
        assert!(callers.iter().all(|peer| peer.exporter == callers[0].exporter));
        assert!(callers.iter().all(|peer| peer.fingerprint == Some(own.fingerprint())));
    }

    #[tokio::test]
    async fn a_wrong_pin_may_be_typed_again_while_tries_are_left() {
        let own = identity();
        let (_, server) = screen(vec![state_of(&own, WindowState::Open)]).await;
        let mut typing = Typing::of(&["000000", "123456"]);
        run(&own, &server, &mut typing).await.unwrap();
        assert_eq!(typing.seen, [3, 2]);

        let (_, server) = screen(vec![state_of(&own, WindowState::Open)]).await;
        let mut typing = Typing::of(&["000000", "111111", "222222", "123456"]);
        let error = run(&own, &server, &mut typing).await.unwrap_err();
        assert!(matches!(error, Error::WrongPin { attempts_left: 0 }), "{error:?}");
        assert_eq!(typing.seen, [3, 2, 1]);
        assert_eq!(error.code(), "pairing-failed");
    }

    #[tokio::test]
    async fn a_no_ends_it_before_any_pin_is_asked_for() {
        let own = identity();
        let states = vec![state_of(&own, WindowState::Waiting), state_of(&own, WindowState::Declined)];
        let (_, server) = screen(states).await;
        let mut typing = Typing::of(&["123456"]);
        assert!(matches!(run(&own, &server, &mut typing).await, Err(Error::PairingDeclined)));
        assert!(typing.seen.is_empty());
    }

    #[tokio::test]
    async fn another_code_than_ours_means_that_somebody_sits_in_between() {
        let own = identity();
        let (_, server) = screen(vec![state_of(&identity(), WindowState::Open)]).await;
        let mut typing = Typing::of(&["123456"]);
        assert!(matches!(run(&own, &server, &mut typing).await, Err(Error::Intercepted)));
        assert!(typing.seen.is_empty(), "the PIN must not be asked for");
    }

    #[tokio::test]
    async fn whoever_does_not_know_the_pin_is_not_believed() {
        let own = identity();
        let (screen, server) = screen(vec![state_of(&own, WindowState::Open)]).await;
        screen.inner.lock().unwrap().forges = true;
        screen.inner.lock().unwrap().pin = "999999".parse().unwrap();
        let error = run(&own, &server, &mut Typing::of(&["123456", "123456"])).await.unwrap_err();
        assert!(matches!(error, Error::Identity(crate::identity::Error::Pairing)), "{error:?}");
    }

    #[tokio::test]
    async fn a_fingerprint_other_than_the_handshakes_is_not_believed() {
        let own = identity();
        let (screen, server) = screen(vec![state_of(&own, WindowState::Open)]).await;
        screen.inner.lock().unwrap().claims = Some(identity().fingerprint());
        assert!(matches!(run(&own, &server, &mut Typing::of(&["123456"])).await, Err(Error::Intercepted)));
    }

    #[tokio::test]
    async fn a_window_that_closes_while_the_person_types_is_told() {
        let own = identity();
        let open = state_of(&own, WindowState::Open);
        let (_, server) = screen(vec![open.clone(), state_of(&own, WindowState::Declined)]).await;
        let mut typing = Typing { slow: Some(Duration::from_hours(1)), ..Typing::of(&["123456"]) };
        assert!(matches!(run(&own, &server, &mut typing).await, Err(Error::PinExpired)));
        let (_, server) = screen(vec![PairState { expires_in: 1, ..open }]).await;
        assert!(matches!(run(&own, &server, &mut typing).await, Err(Error::PinExpired)));
    }

    #[tokio::test]
    async fn giving_no_pin_strangers_and_nobody_are_told_apart() {
        let own = identity();
        let (_, server) = screen(vec![state_of(&own, WindowState::Open)]).await;
        assert!(matches!(run(&own, &server, &mut Typing::default()).await, Err(Error::NoPin(_))));
        let expect = Expect::Known(identity().fingerprint());
        let error = pair(&own, server.address, expect, request(), &mut Typing::default()).await.unwrap_err();
        assert!(matches!(error, Error::WrongFingerprint { .. }), "{error:?}");
        let nobody = dead_address().await;
        let error = pair(&own, nobody, Expect::FirstUse, request(), &mut Typing::default()).await.unwrap_err();
        assert!(matches!(error, Error::Offline(_)), "{error:?}");
    }
}
