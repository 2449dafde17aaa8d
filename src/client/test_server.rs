//! A small HTTPS server for the client's tests: real TLS with a device's own configuration on a free port of this machine, and
//! routes written by the test.

use crate::client::{Client, Patience};
use crate::identity::pairing::EXPORTER_LABEL;
use crate::identity::{Expect, Identity, fingerprint_of};
use crate::model::Fingerprint;
use axum::Router;
use axum::extract::connect_info::Connected;
use axum::serve::{IncomingStream, Listener};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::task::AbortOnDropHandle;

/// Serves until it is dropped.
pub(crate) struct TestServer {
    pub(crate) address: SocketAddr,
    pub(crate) identity: Identity,
    pub(crate) handshakes: Arc<AtomicU64>,
    _task: AbortOnDropHandle<()>,
}

/// Who called, as the handshake has shown.
#[derive(Clone, Debug)]
pub(crate) struct Peer {
    pub(crate) fingerprint: Option<Fingerprint>,
    pub(crate) exporter: [u8; 32],
}

impl TestServer {
    pub(crate) async fn start(router: Router) -> Self {
        Self::start_as(identity(), router).await
    }

    pub(crate) async fn start_as(identity: Identity, router: Router) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let handshakes = Arc::new(AtomicU64::new(0));
        let acceptor = TlsAcceptor::from(identity.server_config());
        let listener = TlsListener { listener, acceptor, handshakes: Arc::clone(&handshakes) };
        let service = router.into_make_service_with_connect_info::<Peer>();
        let task = tokio::spawn(async move { axum::serve(listener, service).await.unwrap() });
        Self { address, identity, handshakes, _task: AbortOnDropHandle::new(task) }
    }

    pub(crate) fn known(&self) -> Expect {
        Expect::Known(self.identity.fingerprint())
    }

    /// A client with an identity of its own that expects this server.
    pub(crate) fn client(&self) -> Client {
        Client::with_patience(&identity(), vec![self.address], self.known(), short()).unwrap()
    }
}

/// Time limits that a test can wait for; wide enough for a busy machine where nothing is meant to be late.
pub(crate) fn short() -> Patience {
    let seconds = Duration::from_secs;
    Patience { send: seconds(2), answer: seconds(3), piece: seconds(3), ..Patience::default() }
}

pub(crate) fn identity() -> Identity {
    let folder = tempfile::tempdir().unwrap();
    Identity::load_or_generate(folder.path()).unwrap()
}

/// An address where nobody listens.
pub(crate) async fn dead_address() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap()
}

struct TlsListener {
    listener: TcpListener,
    acceptor: TlsAcceptor,
    handshakes: Arc<AtomicU64>,
}

impl Listener for TlsListener {
    type Io = TlsStream<TcpStream>;
    type Addr = Peer;

    async fn accept(&mut self) -> (Self::Io, Peer) {
        loop {
            let (stream, _) = self.listener.accept().await.unwrap();
            // A handshake that the client gives up is no reason to stop.
            let Ok(stream) = self.acceptor.accept(stream).await else { continue };
            self.handshakes.fetch_add(1, Ordering::Relaxed);
            let tls = stream.get_ref().1;
            let fingerprint = tls.peer_certificates().map(|certificates| fingerprint_of(&certificates[0]));
            let exporter = tls.export_keying_material([0; 32], EXPORTER_LABEL, None).unwrap();
            return (stream, Peer { fingerprint, exporter });
        }
    }

    fn local_addr(&self) -> std::io::Result<Peer> {
        unreachable!("nobody asks a test server")
    }
}

impl Connected<IncomingStream<'_, TlsListener>> for Peer {
    fn connect_info(stream: IncomingStream<'_, TlsListener>) -> Self {
        stream.remote_addr().clone()
    }
}
