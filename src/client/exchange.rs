//! One request and its answer: which address, how long, how much.
//!
//! Time limits are about standing still, not about size: a body may take as long as it needs while it moves. Bodies that we
//! send count as moving with every piece that the connection takes, and while the connection waits for us.

use crate::client::error::{Connecting, Error, Result};
use crate::client::{Client, Traffic};
use crate::identity::fingerprint_of;
use crate::model::{Fingerprint, SessionId};
use crate::protocol::paths::SESSION_HEADER;
use bytes::Bytes;
use futures_util::stream;
use http::{Method, StatusCode, header};
use reqwest::Body;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use reqwest::tls::TlsInfo;
use rustls::pki_types::CertificateDer;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio::time::timeout;

/// A name that no resolver knows (RFC 6761), so that a request can never go anywhere but to our own resolver's answer.
const HOST: &str = "device.lan-backup.invalid";
/// An answer that is not a success: 4,096 missing ids are 275 KiB, a head record at most 256 KiB.
const MAX_ERROR_BYTES: usize = 1 << 20;
/// Pieces of a list between its writer and the connection; the writer has a channel of its own.
const LIST_CHANNEL: usize = 1;
/// Looks within one time limit whether a body moves: what stands still is noticed at most a quarter of the limit late.
const LOOKS: u32 = 4;
/// A small JSON answer.
pub(crate) const MAX_SMALL_BYTES: usize = 1 << 20;

/// How long this end waits for the other one to move.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// To connect to one address, handshake included.
    pub connect: Duration,
    /// For the next piece of a body to be taken. A receiver on a slow disk stands still for seconds.
    pub send: Duration,
    /// For the answer, once the body is out.
    pub answer: Duration,
    /// For the answer to a commit, which makes everything durable first.
    pub commit: Duration,
    /// For the next piece of an answer.
    pub piece: Duration,
    /// For a whole answer, however it dribbles.
    pub whole: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        let seconds = Duration::from_secs;
        Self {
            connect: seconds(5),
            send: seconds(15),
            answer: seconds(60),
            commit: seconds(600),
            piece: seconds(30),
            whole: seconds(1800),
        }
    }
}

/// The addresses of one device, and which of them is used now.
#[derive(Debug)]
pub(crate) struct Addresses {
    all: Vec<SocketAddr>,
    current: AtomicUsize,
}

impl Addresses {
    pub(crate) fn new(all: Vec<SocketAddr>) -> Result<Self> {
        if all.is_empty() {
            return Err(Error::Offline("no address of the device is known".into()));
        }
        Ok(Self { all, current: AtomicUsize::new(0) })
    }

    pub(crate) fn all(&self) -> &[SocketAddr] {
        &self.all
    }

    fn index(&self) -> usize {
        self.current.load(Ordering::Relaxed) % self.all.len()
    }

    pub(crate) fn current(&self) -> SocketAddr {
        self.all[self.index()]
    }

    /// Turns to the next one, unless another call already did since `seen`.
    fn give_up_on(&self, seen: usize) {
        let next = (seen + 1) % self.all.len();
        let _ = self.current.compare_exchange(seen, next, Ordering::Relaxed, Ordering::Relaxed);
    }
}

impl Resolve for Addresses {
    fn resolve(&self, _name: Name) -> Resolving {
        let address: Addrs = Box::new(std::iter::once(self.current()));
        Box::pin(std::future::ready(Ok(address)))
    }
}

/// What is asked.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    /// As in "took too long to …".
    pub(crate) what: &'static str,
    pub(crate) method: Method,
    pub(crate) path: String,
    pub(crate) session: Option<SessionId>,
    /// How long to wait for the answer once the body is out.
    pub(crate) answer: Duration,
}

/// What is sent along.
pub(crate) enum Payload {
    Nothing,
    Json(Bytes),
    /// 32-byte ids, or blocks: pieces whose length is known.
    Pieces(VecDeque<Bytes>),
    /// A list that is still being written.
    List(mpsc::Receiver<Bytes>),
    /// A file as it is, of unknown length.
    Stream(mpsc::Receiver<Bytes>),
}

impl Payload {
    pub(crate) fn json(value: &impl Serialize) -> Self {
        Self::Json(serde_json::to_vec(value).expect("messages have only string keys").into())
    }
}

/// Whether a body moves.
#[derive(Debug, Default)]
struct Progress {
    pieces: AtomicU64,
    /// The connection waits for our next piece, so that standing still is not the other side's fault.
    ours: AtomicBool,
    all_out: AtomicBool,
}

impl Client {
    /// Sends one request; tries the next address when no connection comes about. `payload` is asked for once per try.
    pub(crate) async fn send(&self, call: &Call, mut payload: impl FnMut() -> Payload) -> Result<Answer> {
        let addresses = &self.inner.addresses;
        let mut stranger = None;
        let mut tries = addresses.all().len();
        loop {
            let used = addresses.index();
            let error = match self.send_once(call, payload()).await {
                Err(error) if error.is_unconnected() => error,
                result => return result,
            };
            addresses.give_up_on(used);
            tries -= 1;
            if tries == 0 {
                // "Somebody else is there" tells more than "nobody is there".
                return Err(stranger.unwrap_or(error));
            }
            if matches!(error, Error::WrongFingerprint { .. }) {
                stranger = Some(error);
            }
        }
    }

    /// The same for small calls that do no harm twice: once more at once when the connection broke, as one that was kept open
    /// does when the other side restarted meanwhile.
    pub(crate) async fn send_again(&self, call: &Call, mut payload: impl FnMut() -> Payload) -> Result<Answer> {
        match self.send(call, &mut payload).await {
            Err(Error::Broken(_)) => self.send(call, payload).await,
            result => result,
        }
    }

    /// Who answers, whatever it answers.
    pub(crate) async fn send_for_certificate(&self, call: &Call) -> Result<Option<Fingerprint>> {
        let turn = Arc::clone(&self.inner.turns).acquire_owned().await.expect("the semaphore is never closed");
        let request = self.request(call);
        let response = timeout(call.answer, request.send()).await.map_err(|_| Error::TimedOut(call.what))?;
        let response = response.map_err(|error| {
            let connecting = if error.is_connect() { Connecting::Yes } else { Connecting::No };
            Error::from_connection(error.without_url(), connecting)
        })?;
        let (traffic, patience) = (self.inner.traffic.clone(), self.inner.patience);
        Ok(Answer { response, traffic, patience, _turn: turn }.fingerprint())
    }

    fn request(&self, call: &Call) -> reqwest::RequestBuilder {
        let scheme = if self.inner.expect.is_some() { "https" } else { "http" };
        self.inner.http.request(call.method.clone(), format!("{scheme}://{HOST}{}", call.path))
    }

    /// Sends one request to the current address. The future may be dropped at any time; the connection is then closed.
    pub(crate) async fn send_once(&self, call: &Call, payload: Payload) -> Result<Answer> {
        let traffic = &self.inner.traffic;
        let turn = Arc::clone(&self.inner.turns).acquire_owned().await.expect("the semaphore is never closed");
        let progress = Arc::new(Progress::default());
        let mut request = self.request(call);
        if let Some(session) = &call.session {
            request = request.header(SESSION_HEADER, session.to_string());
        }
        let mut list = None;
        request = match payload {
            Payload::Nothing => {
                progress.all_out.store(true, Ordering::Relaxed);
                request
            }
            Payload::Json(bytes) => {
                progress.all_out.store(true, Ordering::Relaxed);
                traffic.add_sent(bytes.len());
                request.header(header::CONTENT_TYPE, "application/json").body(bytes)
            }
            Payload::Pieces(pieces) => {
                let length: usize = pieces.iter().map(Bytes::len).sum();
                let request = request.header(header::CONTENT_TYPE, "application/octet-stream");
                request.header(header::CONTENT_LENGTH, length).body(known(
                    pieces,
                    traffic.clone(),
                    Arc::clone(&progress),
                ))
            }
            Payload::List(pieces) => {
                let (sender, receiver) = mpsc::channel(LIST_CHANNEL);
                list = Some((pieces, sender));
                let request = request.header(header::CONTENT_TYPE, "application/zstd");
                request.body(unknown(receiver, traffic.clone()))
            }
            Payload::Stream(pieces) => {
                let (sender, receiver) = mpsc::channel(LIST_CHANNEL);
                list = Some((pieces, sender));
                let request = request.header(header::CONTENT_TYPE, "application/octet-stream");
                request.body(unknown(receiver, traffic.clone()))
            }
        };
        let sending = async {
            let mut sending = pin!(request.send());
            if let Some((pieces, sender)) = list {
                // The answer ends the list: nobody waits for a connection that does not take the rest of it.
                tokio::select! {
                    biased;
                    response = &mut sending => return response,
                    () = hand_over(pieces, sender, &progress) => {}
                }
            }
            sending.await
        };
        let response = self.moving(call, &progress, sending).await?;
        let response = response.map_err(|error| {
            let connecting = if error.is_connect() { Connecting::Yes } else { Connecting::No };
            Error::from_connection(error.without_url(), connecting)
        })?;
        let answer = Answer { response, traffic: traffic.clone(), patience: self.inner.patience, _turn: turn };
        if answer.response.status().is_success() { Ok(answer) } else { Err(answer.into_error().await) }
    }

    /// Waits for `future` while the body moves. Making the connection is part of the wait.
    async fn moving<F: Future>(&self, call: &Call, progress: &Progress, future: F) -> Result<F::Output> {
        let mut future = pin!(future);
        let (mut still, mut seen) = (0, 0);
        while still < LOOKS {
            let all_out = progress.all_out.load(Ordering::Relaxed);
            let limit = if all_out { call.answer } else { self.inner.patience.send };
            if let Ok(output) = timeout(limit / LOOKS, &mut future).await {
                return Ok(output);
            }
            let pieces = progress.pieces.load(Ordering::Relaxed);
            let moved = pieces != seen || progress.ours.load(Ordering::Relaxed);
            (still, seen) = (if moved { 0 } else { still + 1 }, pieces);
        }
        Err(Error::TimedOut(call.what))
    }
}

/// A body of known length.
fn known(pieces: VecDeque<Bytes>, traffic: Traffic, progress: Arc<Progress>) -> Body {
    Body::wrap_stream(stream::unfold(pieces, move |mut pieces| {
        let piece = pieces.pop_front();
        progress.pieces.fetch_add(1, Ordering::Relaxed);
        // The connection knows the length and does not ask again after the last piece.
        progress.all_out.store(pieces.is_empty(), Ordering::Relaxed);
        traffic.add_sent(piece.as_ref().map_or(0, Bytes::len));
        std::future::ready(piece.map(|piece| (Ok::<_, io::Error>(piece), pieces)))
    }))
}

/// Hands a list over as the connection takes it; `None` says that it is whole.
async fn hand_over(mut pieces: mpsc::Receiver<Bytes>, body: mpsc::Sender<Option<Bytes>>, progress: &Progress) {
    loop {
        progress.ours.store(true, Ordering::Relaxed);
        let piece = pieces.recv().await;
        progress.ours.store(false, Ordering::Relaxed);
        let whole = piece.is_none();
        if body.send(piece).await.is_err() {
            return;
        }
        progress.pieces.fetch_add(1, Ordering::Relaxed);
        if whole {
            progress.all_out.store(true, Ordering::Relaxed);
            return;
        }
    }
}

/// A body that is still being written. Without the word that it is whole it ends with an error.
fn unknown(pieces: mpsc::Receiver<Option<Bytes>>, traffic: Traffic) -> Body {
    Body::wrap_stream(stream::unfold(Some(pieces), move |pieces| {
        let traffic = traffic.clone();
        async move {
            let mut pieces = pieces?;
            match pieces.recv().await {
                Some(Some(piece)) => {
                    traffic.add_sent(piece.len());
                    Some((Ok(piece), Some(pieces)))
                }
                Some(None) => None,
                None => Some((Err(io::Error::from(io::ErrorKind::Interrupted)), None)),
            }
        }
    }))
}

/// An answer whose body has not been read yet.
#[derive(Debug)]
pub(crate) struct Answer {
    /// Until the body has been read, or nobody wants it.
    _turn: OwnedSemaphorePermit,
    response: reqwest::Response,
    traffic: Traffic,
    patience: Patience,
}

impl Answer {
    pub(crate) fn status(&self) -> StatusCode {
        self.response.status()
    }

    /// Who answered, from the certificate of the handshake.
    pub(crate) fn fingerprint(&self) -> Option<Fingerprint> {
        let certificate = self.response.extensions().get::<TlsInfo>()?.peer_certificate()?;
        Some(fingerprint_of(&CertificateDer::from(certificate)))
    }

    /// The next piece of the body.
    pub(crate) async fn piece(&mut self) -> Result<Option<Bytes>> {
        let piece = timeout(self.patience.piece, self.response.chunk()).await;
        let piece = piece.map_err(|_| Error::TimedOut("go on with its answer"))?;
        let piece = piece.map_err(|error| Error::from_connection(error.without_url(), Connecting::No))?;
        self.traffic.add_received(piece.as_ref().map_or(0, Bytes::len));
        Ok(piece)
    }

    /// The whole body, which may be `limit` bytes long.
    pub(crate) async fn bytes(mut self, limit: usize) -> Result<Vec<u8>> {
        let whole = self.patience.whole;
        let read = async {
            let mut body = Vec::new();
            while let Some(piece) = self.piece().await? {
                if body.len() + piece.len() > limit {
                    return Err(Error::NotUnderstood(format!("more than {limit} bytes")));
                }
                body.extend_from_slice(&piece);
            }
            Ok(body)
        };
        timeout(whole, read).await.unwrap_or(Err(Error::TimedOut("finish its answer")))
    }

    /// The body as JSON.
    pub(crate) async fn json<T: DeserializeOwned>(self, limit: usize) -> Result<T> {
        let body = self.bytes(limit).await?;
        serde_json::from_slice(&body).map_err(|error| Error::NotUnderstood(format!("what cannot be read: {error}")))
    }

    async fn into_error(self) -> Error {
        let status = self.status();
        match self.bytes(MAX_ERROR_BYTES).await {
            Ok(body) => Error::from_answer(status, &body),
            // The status alone says enough.
            Err(_) => Error::from_answer(status, b""),
        }
    }

    pub(crate) fn patience(&self) -> Patience {
        self.patience
    }
}
