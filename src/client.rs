//! Calls other devices, over HTTPS.
//!
//! One [`Client`] belongs to one device: it holds one connection pool that accepts exactly one fingerprint, in the handshake,
//! before a byte of a request is sent. It uses no proxy, follows no redirect and resumes no TLS session. Everything the other
//! side says is bounded: how long it may take, how much it may say, and what may stand in it.
//!
//! Devices have addresses, not names. Requests go to a name that cannot exist, and the client's own resolver answers it with
//! the device's addresses, one after the other until one answers; so IPv6 addresses with a zone work too, which have no place
//! in a URL.
//!
//! | file | what |
//! |---|---|
//! | [`native`] | the calls of the native API |
//! | `exchange` | one request and its answer: time limits, bounds, addresses |
//! | [`upload_list`] | the body of `prepare-upload`, streamed |
//! | `blocks` | blocks to a body and back |
//! | `order` | what chunks may cost that were asked for |
//! | [`localsend`] | the calls to stock LocalSend apps |
//! | [`remote_vault`] | another device's repository as a [`Vault`](crate::vault::Vault) |
//! | [`mod@pair`] | the PIN exchange, on one connection |
//! | `wire` | one connection that the caller made |
//! | `retry` | when to try again |
//! | [`error`] | what can go wrong |

pub(crate) mod blocks;
pub mod error;
pub(crate) mod exchange;
pub mod localsend;
pub mod native;
pub(crate) mod order;
pub mod pair;
pub mod remote_vault;
pub(crate) mod retry;
pub mod upload_list;
pub(crate) mod wire;

#[cfg(test)]
pub(crate) mod test_server;

use crate::client::exchange::Addresses;
use crate::identity::{Expect, Identity};
use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::Semaphore;

pub use error::{Error, Result};
pub use exchange::Patience;
pub use localsend::Offered;
pub use pair::{Paired, PinSource, pair};
pub use remote_vault::RemoteVault;
pub use wire::register_in_the_clear;

/// Calls under way at once to one device, each on a connection of its own: many sessions of one process would otherwise take all the
/// places that the other device has, and be turned away.
const MAX_CALLS: usize = 12;
/// Connections kept open while idle: the engine has a handful of calls under way at once.
const IDLE_CONNECTIONS: usize = 8;
/// Shorter than the time after which receivers close idle connections (10 s), so that none is used while it is being closed.
const IDLE_TIME: Duration = Duration::from_secs(8);
/// A device that vanished without a word is noticed after about this long, even where we only wait.
const KEEPALIVE: Duration = Duration::from_secs(15);

/// Calls one device. Cheap to clone; clones share connections and counters.
#[derive(Clone)]
pub struct Client {
    inner: Arc<Inner>,
}

struct Inner {
    http: reqwest::Client,
    /// Calls under way, each on a connection of its own.
    turns: Arc<Semaphore>,
    addresses: Arc<Addresses>,
    /// Who has to answer; `None` in the clear.
    expect: Option<Expect>,
    traffic: Traffic,
    patience: Patience,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Client({:?} at {:?})", self.inner.expect, self.inner.addresses.all())
    }
}

/// Bytes of bodies that went out and came in. Cheap to clone; clones count together.
#[derive(Clone, Debug, Default)]
pub struct Traffic {
    sent: Arc<AtomicU64>,
    received: Arc<AtomicU64>,
}

impl Traffic {
    /// Bytes handed to connections, repeats counted.
    pub fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    /// Bytes that came.
    pub fn received(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }

    pub(crate) fn add_sent(&self, bytes: usize) {
        self.sent.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    pub(crate) fn add_received(&self, bytes: usize) {
        self.received.fetch_add(bytes as u64, Ordering::Relaxed);
    }
}

impl Client {
    /// A client for the device that `expect` describes, at any of `addresses`, tried in order. Connects with the first call.
    ///
    /// # Errors
    /// [`Error::Offline`] without any address.
    pub fn new(identity: &Identity, addresses: Vec<SocketAddr>, expect: Expect) -> Result<Self> {
        Self::with_patience(identity, addresses, expect, Patience::default())
    }

    /// The same with other time limits.
    pub fn with_patience(
        identity: &Identity,
        addresses: Vec<SocketAddr>,
        expect: Expect,
        patience: Patience,
    ) -> Result<Self> {
        let tls = Arc::unwrap_or_clone(identity.client_config(expect));
        let builder = reqwest::Client::builder().tls_backend_preconfigured(tls).tls_info(true).https_only(true);
        Self::build(builder, addresses, Some(expect), patience)
    }

    /// A client for a LocalSend app whose encryption is turned off, where a person has said so: whoever listens on the line reads what is
    /// sent, and nobody has proved anything by answering. For LocalSend's calls and no others.
    ///
    /// # Errors
    /// [`Error::Offline`] without any address.
    pub fn in_the_clear(identity: &Identity, addresses: Vec<SocketAddr>) -> Result<Self> {
        // Never used, as nothing is followed anywhere else; but the library wants to know.
        let tls = Arc::unwrap_or_clone(identity.client_config(Expect::FirstUse));
        let builder = reqwest::Client::builder().tls_backend_preconfigured(tls);
        Self::build(builder, addresses, None, Patience::default())
    }

    fn build(
        builder: reqwest::ClientBuilder,
        addresses: Vec<SocketAddr>,
        expect: Option<Expect>,
        patience: Patience,
    ) -> Result<Self> {
        let addresses = Arc::new(Addresses::new(addresses)?);
        let http = builder
            .dns_resolver(Arc::clone(&addresses))
            .http1_only()
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .referer(false)
            .connect_timeout(patience.connect)
            .tcp_keepalive(KEEPALIVE)
            .pool_max_idle_per_host(IDLE_CONNECTIONS)
            .pool_idle_timeout(IDLE_TIME)
            .build()
            .map_err(|error| Error::Failed("the HTTP client cannot be set up", error.into()))?;
        let turns = Arc::new(Semaphore::new(MAX_CALLS));
        let inner = Inner { http, turns, addresses, expect, traffic: Traffic::default(), patience };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Bytes of bodies sent and received by all clones.
    pub fn traffic(&self) -> &Traffic {
        &self.inner.traffic
    }

    /// The address that answered last, or is tried next.
    pub fn address(&self) -> SocketAddr {
        self.inner.addresses.current()
    }
}

#[cfg(test)]
mod tests {
    use super::test_server::{TestServer, dead_address, identity, short};
    use super::*;
    use crate::model::Alias;
    use crate::protocol::{Announcement, ErrorCode, paths};
    use axum::Router;
    use axum::body::Body;
    use axum::http::StatusCode;
    use axum::response::{IntoResponse, Redirect};
    use axum::routing::{any, get, post};
    use bytes::Bytes;
    use futures_util::{StreamExt, stream};
    use std::io;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    fn about(identity: &Identity) -> Announcement {
        Announcement::of_this_device(Alias::new("nas"), identity.fingerprint(), 53317, false)
    }

    async fn answering() -> TestServer {
        let announcement = about(&identity());
        let routes = Router::new()
            .route(
                paths::INFO,
                get({
                    let announcement = announcement.clone();
                    async move || axum::Json(announcement.clone())
                }),
            )
            .route(paths::LOCALSEND_REGISTER, post(async move || axum::Json(announcement.clone())));
        TestServer::start(routes).await
    }

    #[tokio::test]
    async fn another_device_fails_in_the_handshake_before_anything_is_sent_to_it() {
        let requests = Arc::new(AtomicU64::new(0));
        let counter = Arc::clone(&requests);
        let count = any(async move || {
            counter.fetch_add(1, Ordering::Relaxed);
        });
        let server = TestServer::start(Router::new().fallback(count)).await;
        let wanted = identity().fingerprint();
        let client = Client::new(&identity(), vec![server.address], Expect::Known(wanted)).unwrap();
        let error = client.info().await.unwrap_err();
        let found = server.identity.fingerprint();
        assert!(
            matches!(error, Error::WrongFingerprint { expected, found: f } if expected == wanted && f == found),
            "{error:?}"
        );
        assert!(!error.is_transient());
        assert_eq!(requests.load(Ordering::Relaxed), 0);
        // The server works; it was the client that said no.
        assert!(server.client().cancel(crate::model::SessionId::from_random([1; 16])).await.is_ok());
        assert_eq!(requests.load(Ordering::Relaxed), 1);
    }

    #[tokio::test]
    async fn who_answered_is_known_on_first_use() {
        let server = answering().await;
        let own = identity();
        let client = Client::new(&own, vec![server.address], Expect::FirstUse).unwrap();
        let (_, fingerprint) = client.register_at(paths::LOCALSEND_REGISTER, &about(&own)).await.unwrap();
        assert_eq!(fingerprint, Some(server.identity.fingerprint()));
    }

    #[tokio::test]
    async fn addresses_are_tried_in_turn_past_the_dead_and_past_strangers() {
        let (stranger, server) = (answering().await, answering().await);
        let addresses = vec![dead_address().await, stranger.address, server.address];
        let client = Client::new(&identity(), addresses, server.known()).unwrap();
        client.info().await.unwrap();
        assert_eq!(client.address(), server.address);
        client.info().await.unwrap();
        assert_eq!(server.handshakes.load(Ordering::Relaxed), 1, "the connection is used again");
    }

    #[tokio::test]
    async fn nobody_and_only_strangers_are_told_apart() {
        let stranger = answering().await;
        let dead = dead_address().await;
        let expect = Expect::Known(identity().fingerprint());
        let call = async |addresses| Client::new(&identity(), addresses, expect).unwrap().info().await.unwrap_err();
        let error = call(vec![dead]).await;
        assert!(matches!(error, Error::Offline(_)) && error.is_transient(), "{error:?}");
        for addresses in [vec![stranger.address, dead], vec![dead, stranger.address]] {
            let error = call(addresses).await;
            assert!(matches!(error, Error::WrongFingerprint { .. }), "{error:?}");
        }
        assert!(matches!(Client::new(&identity(), vec![], expect), Err(Error::Offline(_))));
    }

    #[tokio::test]
    async fn a_redirect_is_not_followed() {
        let away = Router::new()
            .route(paths::INFO, get(async || Redirect::temporary(paths::SNAPSHOTS)))
            .route(paths::SNAPSHOTS, get(async || StatusCode::OK));
        let server = TestServer::start(away).await;
        let error = server.client().info().await.unwrap_err();
        assert!(matches!(error, Error::Answer { status, .. } if status == StatusCode::TEMPORARY_REDIRECT), "{error:?}");
    }

    fn endless() -> Body {
        Body::from_stream(stream::repeat_with(|| Ok::<_, io::Error>(Bytes::from_static(&[b' '; 4096]))))
    }

    #[tokio::test]
    async fn endless_answers_are_cut_off() {
        let routes = Router::new()
            .route(paths::INFO, get(async || endless()))
            .route(paths::CANCEL, post(async || (StatusCode::FORBIDDEN, endless())));
        let server = TestServer::start(routes).await;
        let client = server.client();
        assert!(matches!(client.info().await, Err(Error::NotUnderstood(_))));
        assert!(client.traffic().received() <= 2 << 20);
        let error = client.cancel(crate::model::SessionId::from_random([1; 16])).await.unwrap_err();
        assert_eq!(error.answer(), Some(ErrorCode::NotAllowed));
    }

    #[tokio::test]
    async fn whoever_says_nothing_or_stops_in_the_middle_is_given_up() {
        let stops = || {
            let begun = stream::once(async { Ok::<_, io::Error>(Bytes::from_static(b"{")) });
            Body::from_stream(begun.chain(stream::pending())).into_response()
        };
        let routes = Router::new()
            .route(paths::INFO, get(std::future::pending::<StatusCode>))
            .route(paths::REGISTER, post(async move || stops()));
        let server = TestServer::start(routes).await;
        let own = identity();
        let patience = Patience {
            answer: Duration::from_millis(50),
            piece: Duration::from_millis(50),
            connect: Duration::from_secs(2),
            ..short()
        };
        let client = Client::with_patience(&own, vec![server.address], server.known(), patience).unwrap();
        assert!(matches!(client.info().await, Err(Error::TimedOut(_))));
        let patience = Patience { answer: Duration::from_secs(20), ..patience };
        let client = Client::with_patience(&own, vec![server.address], server.known(), patience).unwrap();
        assert!(matches!(client.register(&about(&own)).await, Err(Error::TimedOut(_))));
    }

    #[tokio::test]
    async fn no_connection_resumes_the_session_of_another() {
        let server = answering().await;
        let own = identity();
        let config = own.client_config(server.known());
        for _ in 0..3 {
            let stream = tokio::net::TcpStream::connect(server.address).await.unwrap();
            let name = rustls::pki_types::ServerName::IpAddress(server.address.ip().into());
            let connector = tokio_rustls::TlsConnector::from(Arc::clone(&config));
            let mut stream = connector.connect(name, stream).await.unwrap();
            // Tickets would come with the first answer.
            stream.write_all(b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await.unwrap();
            stream.read_to_end(&mut Vec::new()).await.unwrap();
            let tls = stream.get_ref().1;
            assert_eq!(tls.handshake_kind(), Some(rustls::HandshakeKind::Full));
            assert_eq!(tls.tls13_tickets_received(), 0);
        }
    }
}
