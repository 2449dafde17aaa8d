//! A device that was unpaired is out: with the connection it has, with a new one, and with one that it would resume.

use crate::identity::Expect;
use crate::identity::certificate::provider;
use crate::identity::verifier::signatures_are_checked;
use crate::identity::{TrustStore, fingerprint_of};
use crate::model::{Fingerprint, Rights};
use crate::protocol::session::SessionAnswer;
use crate::protocol::{ErrorCode, paths};
use crate::server::ServerEvent;
use crate::server::live::{Caller, Device, LIMIT, Live, header, request};
use axum::body::Body;
use http::Method;
use rustls::client::Resumption;
use rustls::crypto::WebPkiSupportedAlgorithms;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{ClientConfig, DistinguishedName, HandshakeKind, ServerConfig};
use std::io;
use std::sync::{Arc, Mutex};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::{TlsAcceptor, TlsConnector};

#[tokio::test(flavor = "multi_thread")]
async fn unpairing_ends_a_live_connection_and_every_new_one() {
    let mut live = Live::start();
    let device = live.paired("laptop", Rights::of_a_paired_device());
    let mut idle = live.caller(&device).await;
    idle.get(paths::SNAPSHOTS).await.ok();
    let mut caller = live.caller(&device).await;
    let open: SessionAnswer = caller.prepare(&header("Documents")).await.ok().json();

    // An upload that is under way: its body never ends by itself.
    let (tail, body) = tokio::sync::mpsc::channel::<io::Result<bytes::Bytes>>(1);
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
    let expect = Expect::Known(live.identity.fingerprint());
    let mut config = (*device.identity.client_config(expect)).clone();
    config.resumption = Resumption::in_memory_sessions(8);
    let connector = TlsConnector::from(Arc::new(config));
    for _ in 0..3 {
        let tcp = TcpStream::connect(live.address()).await.unwrap();
        let name = ServerName::IpAddress(live.address().ip().into());
        let tls = connector.connect(name, tcp).await.unwrap();
        assert_eq!(tls.get_ref().1.handshake_kind(), Some(HandshakeKind::Full));
        let (sender, connection) =
            hyper::client::conn::http1::handshake(hyper_util::rt::TokioIo::new(tls)).await.unwrap();
        tokio::spawn(connection);
        let mut caller = Caller { sender, exporter: [0; 32] };
        caller.get(paths::SNAPSHOTS).await.ok();
    }
}

/// A device that resumes sessions whenever it is let.
fn eager(device: &Device, live: &Live) -> Arc<ClientConfig> {
    let mut config = (*device.identity.client_config(Expect::Known(live.identity.fingerprint()))).clone();
    config.resumption = Resumption::in_memory_sessions(8);
    Arc::new(config)
}

async fn caller_with(config: &Arc<ClientConfig>, live: &Live) -> (Caller, Option<HandshakeKind>) {
    let tcp = TcpStream::connect(live.address()).await.unwrap();
    let name = ServerName::IpAddress(live.address().ip().into());
    let tls = TlsConnector::from(config.clone()).connect(name, tcp).await.unwrap();
    let kind = tls.get_ref().1.handshake_kind();
    let (sender, connection) = hyper::client::conn::http1::handshake(hyper_util::rt::TokioIo::new(tls)).await.unwrap();
    tokio::spawn(connection);
    (Caller { sender, exporter: [0; 32] }, kind)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_live_a_new_and_a_resumed_connection_of_an_unpaired_device_are_refused() {
    let live = Live::start();
    let device = live.paired("laptop", Rights::of_a_paired_device());
    let config = eager(&device, &live);
    // Tickets, if there were any, come with the first answer.
    let (mut first, _) = caller_with(&config, &live).await;
    first.get(paths::SNAPSHOTS).await.ok();
    let mut lively = live.caller(&device).await;
    lively.get(paths::SNAPSHOTS).await.ok();

    assert!(live.handle.unpair(&device.fingerprint()).unwrap());
    for caller in [&mut first, &mut lively] {
        let cut = caller.try_send(request(Method::GET, paths::SNAPSHOTS, None, Body::empty())).await;
        assert!(cut.is_err(), "the connection is gone: {cut:?}");
    }
    assert_eq!(live.caller(&device).await.get(paths::SNAPSHOTS).await.code(), ErrorCode::NotPaired);
    let (mut resumed, kind) = caller_with(&config, &live).await;
    assert_eq!(kind, Some(HandshakeKind::Full));
    assert_eq!(resumed.get(paths::SNAPSHOTS).await.code(), ErrorCode::NotPaired);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_another_process_unpaired_is_cut_off_in_the_middle_of_a_call_too() {
    let live = Live::start();
    let device = live.paired("laptop", Rights::of_a_paired_device());
    let mut caller = live.caller(&device).await;
    let open: SessionAnswer = caller.prepare(&header("Documents")).await.ok().json();
    let (tail, body) = tokio::sync::mpsc::channel::<io::Result<bytes::Bytes>>(1);
    let body = futures_util::stream::unfold(body, |mut body| async { Some((body.recv().await?, body)) });
    let uploading = request(Method::POST, paths::UPLOAD, Some(open.session), Body::from_stream(body));
    let uploading = tokio::spawn(async move { caller.try_send(uploading).await });
    live.until(|| live.handle.shared.sessions().calls() == 1).await;
    // Nobody tells the server: the file is all that two processes share.
    let other_process = TrustStore::open(live.folder.path().join("trust.json")).unwrap();
    assert!(other_process.remove(&device.fingerprint()).unwrap().is_some());
    let ended = tokio::time::timeout(LIMIT, uploading).await.expect("it ends by itself").unwrap();
    assert!(ended.is_err(), "{ended:?}");
    drop(tail);
    assert!(live.handle.sessions().is_empty());
}

/// How most servers check client certificates: once, in the handshake.
#[derive(Debug)]
struct CheckedInTheHandshake {
    trusted: Arc<Mutex<Vec<Fingerprint>>>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl ClientCertVerifier for CheckedInTheHandshake {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        let trusted = self.trusted.lock().unwrap().contains(&fingerprint_of(end_entity));
        if trusted { Ok(ClientCertVerified::assertion()) } else { Err(rustls::Error::General("a stranger".into())) }
    }

    signatures_are_checked!();
}

/// One connection and one byte back; how the hands were shaken, if they were.
async fn fetch_a_byte(config: &Arc<ClientConfig>, address: std::net::SocketAddr) -> io::Result<Option<HandshakeKind>> {
    let tcp = TcpStream::connect(address).await?;
    let mut tls = TlsConnector::from(config.clone()).connect(ServerName::IpAddress(address.ip().into()), tcp).await?;
    tls.write_all(b"?").await?;
    // A client of TLS 1.3 learns only here that it was refused.
    tls.read_exact(&mut [0]).await?;
    Ok(tls.get_ref().1.handshake_kind())
}

/// The control of the tests above: with tickets as rustls hands them out by default, whoever was unpaired comes back in.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_resumes_sessions_lets_an_unpaired_device_back_in() {
    let (server, device, stranger) = (Device::new(), Device::new(), Device::new());
    let trusted = Arc::new(Mutex::new(vec![device.fingerprint()]));
    let provider = provider();
    let algorithms = provider.signature_verification_algorithms;
    let verifier = Arc::new(CheckedInTheHandshake { trusted: trusted.clone(), algorithms });
    let ours = server.identity.server_config();
    let config = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let mut config = config.with_client_cert_verifier(verifier).with_cert_resolver(ours.cert_resolver.clone());
    config.alpn_protocols.clone_from(&ours.alpn_protocols);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let serving = tokio::spawn(async move {
        let acceptor = TlsAcceptor::from(Arc::new(config));
        loop {
            let (tcp, _) = listener.accept().await.unwrap();
            let Ok(mut tls) = acceptor.accept(tcp).await else { continue };
            if tls.read_exact(&mut [0]).await.is_ok() {
                let _ = tls.write_all(b"!").await;
                let _ = tls.shutdown().await;
            }
        }
    });
    let expect = Expect::Known(server.fingerprint());
    let mut eager = (*device.identity.client_config(expect)).clone();
    eager.resumption = Resumption::in_memory_sessions(8);
    let eager = Arc::new(eager);
    let limited = async {
        assert_eq!(fetch_a_byte(&eager, address).await.unwrap(), Some(HandshakeKind::Full));
        assert!(fetch_a_byte(&stranger.identity.client_config(expect), address).await.is_err(), "it does check");
        trusted.lock().unwrap().clear();
        assert!(fetch_a_byte(&device.identity.client_config(expect), address).await.is_err(), "it does check anew");
        assert_eq!(fetch_a_byte(&eager, address).await.unwrap(), Some(HandshakeKind::Resumed));
    };
    tokio::time::timeout(LIMIT, limited).await.unwrap();
    serving.abort();
}
