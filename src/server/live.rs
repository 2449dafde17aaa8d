//! Tests of the whole server over real TLS on the loopback interface: a server in a scratch folder, and callers that hold one
//! connection each, so that they can also misbehave.

mod backup;
mod callers;
mod copies;
mod dribblers;
mod forgers;
mod guesses;
mod limits;
mod localsend;
mod middle;
mod pairing;
mod plain;
mod restore;
mod rotation;
mod routes;
mod unpairing;

use crate::codec::{Compression, Encoder, chunk_id};
use crate::identity::certificate::provider;
use crate::identity::pairing::EXPORTER_LABEL;
use crate::identity::verifier::ExpectedDevice;
use crate::identity::{Expect, Identity, Trust, TrustStore};
use crate::model::snapshot::{RECORD_FORMAT, Root};
use crate::model::{
    Alias, Block, Changes, ChunkId, Fingerprint, IdempotencyKey, Record, RepositoryId, Rights, SessionId, SetName,
    SignedRecord, SnapshotInfo, Stream, Totals,
};
use crate::platform::clock::{Clock, SystemClock};
use crate::platform::random;
use crate::platform::shutdown::Shutdown;
use crate::protocol::session::{PrepareUpload, SessionAnswer};
use crate::protocol::{API_VERSION, ErrorBody, ErrorCode, paths};
use crate::server::limits::Pace;
use crate::server::{AcceptMode, Approver, Desk, LocalSendOptions, ServerEvent, ServerHandle, ServerOptions, serve};
use crate::store::Store;
use axum::body::Body;
use bytes::Bytes;
use http::{Method, Request, StatusCode};
use http_body_util::BodyExt;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;
use tempfile::TempDir;
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::mpsc;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// Nothing on the loopback interface takes longer, however busy the machine is.
const LIMIT: Duration = Duration::from_secs(30);

/// Whether the long form of the tests was asked for.
#[expect(clippy::disallowed_methods, reason = "a test's own switch")]
fn long() -> bool {
    std::env::var_os("LAN_BACKUP_LONG").is_some()
}

/// What a test may choose.
struct Setup {
    accept: AcceptMode,
    approver: Arc<dyn Approver>,
    keeps_backups: bool,
    quota: Option<u64>,
    reserve_bytes: u64,
    pace: Pace,
    clock: Arc<dyn Clock>,
    localsend: LocalSendOptions,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            accept: AcceptMode::Ask,
            approver: Arc::new(Desk::new()),
            keeps_backups: true,
            quota: None,
            reserve_bytes: 0,
            pace: Pace::STANDARD,
            clock: Arc::new(SystemClock),
            localsend: LocalSendOptions::default(),
        }
    }
}

/// A running server.
struct Live {
    handle: ServerHandle,
    trust: TrustStore,
    store: Store,
    identity: Identity,
    events: mpsc::Receiver<ServerEvent>,
    shutdown: Shutdown,
    folder: TempDir,
}

/// A device: its identity and the folder that holds it.
struct Device {
    identity: Identity,
    folder: TempDir,
}

impl Device {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        Self { identity: Identity::load_or_generate(folder.path()).unwrap(), folder }
    }

    fn fingerprint(&self) -> Fingerprint {
        self.identity.fingerprint()
    }

    /// Makes itself a new certificate.
    fn rotate(&mut self) {
        self.identity = Identity::rotate(self.folder.path()).unwrap();
    }
}

impl Live {
    fn start() -> Self {
        Self::start_with(Setup::default())
    }

    fn start_with(setup: Setup) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let identity = Identity::load_or_generate(&folder.path().join("identity")).unwrap();
        let trust = TrustStore::open(folder.path().join("trust.json")).unwrap();
        let clock = setup.clock.clone();
        let signer = identity.signing_key().clone();
        let (store, _) = Store::open_or_create(&folder.path().join("store"), clock, signer).unwrap();
        let (sender, events) = mpsc::channel(256);
        let shutdown = Shutdown::new();
        let options = ServerOptions {
            identity: identity.clone(),
            trust: trust.clone(),
            store: setup.keeps_backups.then(|| store.clone()),
            alias: Alias::new("nas"),
            transient: false,
            accept: setup.accept,
            approver: setup.approver,
            clock: setup.clock,
            events: sender,
            state_folder: folder.path().join("state"),
            quota: setup.quota,
            reserve_bytes: setup.reserve_bytes,
            localsend: setup.localsend,
        };
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let handle = serve(listener, options, shutdown.clone(), setup.pace).unwrap();
        Self { handle, trust, store, identity, events, shutdown, folder }
    }

    fn address(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.handle.port()).into()
    }

    /// Trusts a new device with these rights, as after a pairing.
    fn paired(&self, alias: &str, rights: Rights) -> Device {
        let device = Device::new();
        self.trust
            .insert(Trust {
                fingerprint: device.fingerprint(),
                signing_key: device.identity.signing_key().public(),
                alias: Alias::new(alias),
                rights,
                paired_at: SystemClock.now(),
                sets: ["Documents".parse().unwrap()].into(),
                restore_from: std::collections::BTreeSet::new(),
                address: None,
            })
            .unwrap();
        device
    }

    async fn caller(&self, device: &Device) -> Caller {
        self.try_caller(Some(device)).await.unwrap()
    }

    /// A connection as this device, or without a certificate.
    async fn try_caller(&self, device: Option<&Device>) -> io::Result<Caller> {
        self.try_caller_from(device, Ipv4Addr::LOCALHOST).await
    }

    async fn try_caller_from(&self, device: Option<&Device>, source: Ipv4Addr) -> io::Result<Caller> {
        let tls = self.tls_from(device, source).await?;
        let (_, session) = tls.get_ref();
        let exporter = session.export_keying_material([0; 32], EXPORTER_LABEL, None).unwrap();
        let (sender, connection) = http1::handshake(TokioIo::new(tls)).await.map_err(io::Error::other)?;
        tokio::spawn(connection);
        Ok(Caller { sender, exporter })
    }

    async fn tls(&self, device: Option<&Device>) -> io::Result<TlsStream<TcpStream>> {
        self.tls_from(device, Ipv4Addr::LOCALHOST).await
    }

    /// Calls from another address of this machine, as another machine would.
    async fn tls_from(&self, device: Option<&Device>, source: Ipv4Addr) -> io::Result<TlsStream<TcpStream>> {
        let socket = TcpSocket::new_v4()?;
        socket.bind((source, 0).into())?;
        let tcp = socket.connect(self.address()).await?;
        // As our client does: else each request waits for the acknowledgement of the handshake.
        tcp.set_nodelay(true)?;
        self.tls_over(device, tcp).await
    }

    async fn tls_over(&self, device: Option<&Device>, tcp: TcpStream) -> io::Result<TlsStream<TcpStream>> {
        let expect = Expect::Known(self.identity.fingerprint());
        let config = if let Some(device) = device {
            device.identity.client_config(expect)
        } else {
            let provider = provider();
            let verifier = Arc::new(ExpectedDevice::new(expect, &provider));
            let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
            let config = config.unwrap().dangerous().with_custom_certificate_verifier(verifier);
            Arc::new(config.with_no_client_auth())
        };
        TlsConnector::from(config).connect(ServerName::IpAddress(self.address().ip().into()), tcp).await
    }

    /// Returns once `true_now` is; what it looks at changes on other threads.
    async fn until(&self, true_now: impl Fn() -> bool) {
        let looking = async {
            while !true_now() {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        tokio::time::timeout(LIMIT, looking).await.expect("it becomes true");
    }

    /// The next event that `wanted` takes; others are passed over.
    async fn event<T>(&mut self, mut wanted: impl FnMut(ServerEvent) -> Option<T>) -> T {
        let search = async {
            loop {
                let event = self.events.recv().await.expect("the server runs");
                if let Some(found) = wanted(event) {
                    return found;
                }
            }
        };
        tokio::time::timeout(LIMIT, search).await.expect("the event comes")
    }
}

/// One connection to the server.
struct Caller {
    sender: SendRequest<Body>,
    exporter: [u8; 32],
}

/// An answer.
#[derive(Debug)]
struct Answer {
    status: StatusCode,
    body: Bytes,
}

impl Answer {
    fn json<T: DeserializeOwned>(&self) -> T {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// The code of a failure.
    fn code(&self) -> ErrorCode {
        assert!(!self.status.is_success(), "{self:?}");
        self.json::<ErrorBody>().code
    }

    fn ok(self) -> Self {
        assert_eq!(self.status, StatusCode::OK, "{self:?}");
        self
    }
}

impl Caller {
    async fn try_send(&mut self, request: Request<Body>) -> hyper::Result<Answer> {
        let exchange = async {
            self.sender.ready().await?;
            let response = self.sender.send_request(request).await?;
            let status = response.status();
            Ok(Answer { status, body: response.into_body().collect().await?.to_bytes() })
        };
        tokio::time::timeout(LIMIT, exchange).await.expect("the server answers in time")
    }

    async fn send(&mut self, request: Request<Body>) -> Answer {
        self.try_send(request).await.unwrap()
    }

    async fn get(&mut self, path: &str) -> Answer {
        self.send(request(Method::GET, path, None, Body::empty())).await
    }

    async fn post(&mut self, path: &str, message: &impl Serialize) -> Answer {
        self.send(request(Method::POST, path, None, Body::from(serde_json::to_vec(message).unwrap()))).await
    }

    async fn in_session(&mut self, path: &str, session: SessionId, body: impl Into<Body>) -> Answer {
        self.send(request(Method::POST, path, Some(session), body.into())).await
    }

    /// Prepares a backup.
    async fn prepare(&mut self, header: &PrepareUpload) -> Answer {
        let body =
            zstd::stream::encode_all([serde_json::to_vec(header).unwrap().as_slice(), b"\n"].concat().as_slice(), 1);
        self.send(request(Method::POST, paths::PREPARE_UPLOAD, None, Body::from(body.unwrap()))).await
    }

    /// Backs up one chunk as one snapshot; gives its info as the server lists it.
    async fn back_up(&mut self, device: &Device, set: &str, text: &'static [u8]) -> SnapshotInfo {
        let open: SessionAnswer = self.prepare(&header(set)).await.ok().json();
        let (repository, session) = (open.repository.unwrap().id, open.session);
        let backup = Backup::of(device, repository, set, open.head.as_ref(), text);
        self.in_session(paths::UPLOAD, session, encode(&backup.blocks)).await.ok();
        let record = serde_json::to_vec(&backup.signed).unwrap();
        self.in_session(paths::FINISH, session, record).await.ok();
        let path = format!("{}/{}", paths::SNAPSHOTS, crate::signer::snapshot_id(&backup.signed));
        self.get(&path).await.ok().json()
    }
}

fn request(method: Method, path: &str, session: Option<SessionId>, body: Body) -> Request<Body> {
    let mut request = Request::builder().method(method).uri(path).header(http::header::HOST, "device");
    if let Some(session) = session {
        request = request.header(paths::SESSION_HEADER, session.to_string());
    }
    request.body(body).unwrap()
}

/// A header that asks to back up `set`.
fn header(set: &str) -> PrepareUpload {
    PrepareUpload {
        api: API_VERSION,
        required_features: Vec::new(),
        idempotency_key: IdempotencyKey::from_random(random::bytes()),
        repository: None,
        set: set.parse().unwrap(),
        roots: roots(),
        parent: None,
        totals: Totals { entries: 1, files: 1, bytes: 5 },
        changes: Changes::default(),
        bytes_to_send: 5,
    }
}

fn roots() -> Vec<Root> {
    vec![Root { source: "/home/a/Documents".to_owned(), top: "Documents".to_owned() }]
}

/// A snapshot of one file, ready to be sent.
struct Backup {
    blocks: Vec<Block>,
    content: ChunkId,
    signed: SignedRecord,
}

impl Backup {
    fn of(
        device: &Device,
        repository: RepositoryId,
        set: &str,
        head: Option<&SnapshotInfo>,
        text: &'static [u8],
    ) -> Self {
        let content = chunk_id(text);
        let length = text.len();
        let line = format!(
            "{{\"path\":\"Documents\",\"kind\":\"file\",\"size\":{length},\"content\":[[\"{content}\",{length}]]}}\n"
        );
        let line = Bytes::from(line);
        let manifest = chunk_id(&line);
        let refs = Bytes::from([*manifest.as_bytes(), *content.as_bytes()].concat());
        let stream = |bytes: &Bytes| Stream { length: bytes.len() as u64, depth: 0, ids: vec![chunk_id(bytes)] };
        let sequence = head.map_or(0, |head| crate::signer::open_record(&head.signed).unwrap().sequence) + 1;
        let record = Record {
            format: RECORD_FORMAT,
            repository,
            set: set.parse::<SetName>().unwrap(),
            roots: roots(),
            sequence,
            previous: head.map(|head| head.id),
            manifest: stream(&line),
            refs: stream(&refs),
            totals: Totals { entries: 1, files: 1, bytes: length as u64 },
            changes: Changes::default(),
            source_time: SystemClock.now(),
            device: Alias::new("laptop"),
            signer: device.identity.signing_key().public(),
            tag: None,
        };
        let chunks = [(content, Bytes::from_static(text)), (manifest, line), (chunk_id(&refs), refs)];
        let blocks = chunks.iter().map(|chunk| block(std::slice::from_ref(chunk))).collect();
        Self { blocks, content, signed: device.identity.signing_key().sign_record(&record) }
    }
}

fn block(chunks: &[(ChunkId, Bytes)]) -> Block {
    Encoder::new(Compression::default()).encode(chunks)
}

fn encode(blocks: &[Block]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for block in blocks {
        block.header.encode(&mut bytes);
        bytes.extend_from_slice(&block.stored);
    }
    bytes
}
