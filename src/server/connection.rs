//! Accepts connections: the handshake, who called, and what a connection may cost.
//!
//! [`Acceptor`] sits between axum-server's listener and its HTTP: it limits, shakes hands, and gives every request of the
//! connection an extension [`Connection`] that says what the handshake *proved*. Nothing else in the server knows who called.
//! Where plain http is spoken (a share, LocalSend apps without TLS when a person allows them), nothing is proved.
//! The stream it returns fails at once when the connection's place in [`Connections`] is killed, so an unpaired device is gone in the middle of a byte.

use crate::identity::pairing::EXPORTER_LABEL;
use crate::identity::{TrustStore, fingerprint_of};
use crate::model::Fingerprint;
use crate::server::connections::{Connections, Place};
use crate::server::limits::Pace;
use crate::server::stream::{Activity, Busy, Guarded};
use axum::body::Body;
use axum::response::Response;
use axum_server::accept::Accept;
use futures_util::future::BoxFuture;
use http::Request;
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use rustls::{ProtocolVersion, ServerConfig};
use std::convert::Infallible;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::either::Either;
use tower::Service;

/// What the handshake proved about the connection that a request came on.
#[derive(Clone)]
pub(crate) struct Connection {
    /// Never used twice by one server.
    pub(crate) id: u64,
    /// Where it comes from.
    pub(crate) address: SocketAddr,
    /// SHA-256 of the certificate whose key the caller proved to hold; `None` when it showed none.
    pub(crate) fingerprint: Option<Fingerprint>,
    /// Ties a pairing exchange to this connection; `None` below TLS 1.3, where no pairing runs.
    pub(crate) exporter: Option<[u8; 32]>,
    /// Without TLS: everybody on the way reads and writes what they like.
    pub(crate) is_plain: bool,
    activity: Arc<Activity>,
    place: Place,
}

impl Connection {
    /// Lets the connection be quiet while a person types a PIN.
    pub(crate) fn expect_a_person(&self) {
        self.activity.expect_a_person();
    }

    /// The device on it was paired: it no longer counts among its address's strangers.
    pub(crate) fn is_paired_now(&self) {
        self.place.paired();
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Connection({}, {}, {:?})", self.id, self.address, self.fingerprint)
    }
}

/// What is spoken on a port.
#[derive(Clone)]
pub(crate) enum Speech {
    /// TLS and nothing else.
    Tls(Arc<ServerConfig>),
    /// Plain http and nothing else.
    Plain,
    /// What the first byte of the connection says.
    Either(Arc<ServerConfig>),
}

/// The first byte of every TLS connection; no method of HTTP begins with it.
const TLS_HANDSHAKE: u8 = 0x16;

type Line = Either<TlsStream<TcpStream>, TcpStream>;

/// Shakes hands.
#[derive(Clone)]
pub(crate) struct Acceptor {
    speech: Speech,
    // Whose connections are not strangers'; nobody's where nothing is proved.
    trust: Option<TrustStore>,
    connections: Connections,
    pace: Pace,
}

impl Acceptor {
    /// Accepts those who speak so, within these limits.
    pub(crate) fn new(speech: Speech, trust: Option<TrustStore>, connections: Connections, pace: Pace) -> Self {
        Self { speech, trust, connections, pace }
    }

    /// The TLS configuration to shake hands with; `None` for a connection that stays plain.
    async fn hears_tls(&self, tcp: &TcpStream) -> io::Result<Option<Arc<ServerConfig>>> {
        let config = match &self.speech {
            Speech::Plain => return Ok(None),
            Speech::Tls(config) => return Ok(Some(config.clone())),
            Speech::Either(config) => config,
        };
        let mut first = [0];
        tcp.peek(&mut first).await?;
        Ok((first[0] == TLS_HANDSHAKE).then(|| config.clone()))
    }

    async fn open(&self, tcp: TcpStream) -> io::Result<Line> {
        match self.hears_tls(&tcp).await? {
            Some(config) => Ok(Either::Left(TlsAcceptor::from(config).accept(tcp).await?)),
            None => Ok(Either::Right(tcp)),
        }
    }

    async fn shake_hands(self, tcp: TcpStream) -> io::Result<(Guarded<Line>, Connection)> {
        let address = tcp.peer_addr()?;
        tcp.set_nodelay(true)?;
        let place = self.connections.enter(address.ip());
        let kill = place.kill();
        let handshake = tokio::time::timeout(self.pace.handshake, self.open(tcp));
        let line = tokio::select! {
            line = handshake => line.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??,
            () = kill.cancelled() => return Err(io::ErrorKind::ConnectionAborted.into()),
        };
        let (mut fingerprint, mut exporter) = (None, None);
        if let Either::Left(tls) = &line {
            let (_, session) = tls.get_ref();
            fingerprint = session.peer_certificates().and_then(|chain| chain.first()).map(fingerprint_of);
            if session.protocol_version() == Some(ProtocolVersion::TLSv1_3) {
                exporter = session.export_keying_material([0; 32], EXPORTER_LABEL, None).ok();
            }
        }
        let is_plain = matches!(line, Either::Right(_));
        let known = |fingerprint| self.trust.as_ref().is_some_and(|trust| trust.find(&fingerprint).is_some());
        let paired = fingerprint.is_some_and(known);
        if !place.known(fingerprint, paired) {
            tracing::debug!(%address, "too many connections from one address");
            return Err(io::ErrorKind::ConnectionRefused.into());
        }
        let activity = place.activity();
        let stream = Guarded::new(line, self.pace, kill, activity.clone());
        let connection = Connection { id: place.id(), address, fingerprint, exporter, is_plain, activity, place };
        Ok((stream, connection))
    }
}

impl<S: Send + 'static> Accept<TcpStream, S> for Acceptor {
    type Stream = Guarded<Line>;
    type Service = WithConnection<S>;
    type Future = BoxFuture<'static, io::Result<(Self::Stream, Self::Service)>>;

    fn accept(&self, stream: TcpStream, service: S) -> Self::Future {
        let shaking = self.clone().shake_hands(stream);
        Box::pin(async move {
            let (stream, connection) = shaking.await?;
            Ok((stream, WithConnection { service, connection }))
        })
    }
}

/// Gives every request its [`Connection`], and tells the stream when a request is under way.
#[derive(Clone, Debug)]
pub(crate) struct WithConnection<S> {
    service: S,
    connection: Connection,
}

impl<S, B> Service<Request<B>> for WithConnection<S>
where
    S: Service<Request<B>, Response = Response, Error = Infallible>,
    S::Future: Send + 'static,
{
    type Response = Response;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Response, Infallible>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.service.poll_ready(context)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        let busy = self.connection.activity.busy();
        request.extensions_mut().insert(self.connection.clone());
        let answer = self.service.call(request);
        Box::pin(async move { Ok(answer.await?.map(|body| Body::new(WhileSent { body, _busy: busy }))) })
    }
}

/// Keeps the request under way until its answer has left.
struct WhileSent {
    body: Body,
    _busy: Busy,
}

impl HttpBody for WhileSent {
    type Data = bytes::Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
