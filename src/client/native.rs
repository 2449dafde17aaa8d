//! The calls of the native API, one function each. They do not try again by themselves, except where waiting is their purpose.

use crate::client::Client;
use crate::client::blocks::{BlockReader, pieces};
use crate::client::error::{Error, Result};
use crate::client::exchange::{Call, MAX_SMALL_BYTES, Payload};
use crate::client::order::Order;
use crate::client::retry;
use crate::client::upload_list::{self, Entries};
use crate::model::{Block, ChunkId, Fingerprint, IdempotencyKey, SessionId};
use crate::platform::random;
use crate::protocol::ErrorCode;
use crate::protocol::listing::Listing;
use crate::protocol::rotation::{Rotated, RotatedAnswer};
use crate::protocol::session::{
    Finish, Finished, PrepareCopy, PrepareDownload, PrepareUpload, SessionAnswer, SessionState, Uploaded,
};
use crate::protocol::{Announcement, paths};
use http::Method;
use std::time::Duration;
use tokio::time::{sleep, timeout};

/// A list of snapshots: some 60,000 records of a kilobyte.
const MAX_LISTING_BYTES: usize = 64 << 20;
/// Seconds that one question for a person's decision waits at the other side; below the 30 that the protocol allows.
const WAIT_SECONDS: u8 = 25;
/// A server that answers at once that it still waits is not asked more often than this.
const WAIT_PAUSE: Duration = Duration::from_secs(1);

impl Client {
    fn call(&self, what: &'static str, method: Method, path: &str, session: Option<SessionId>) -> Call {
        Call { what, method, path: path.to_owned(), session, answer: self.inner.patience.answer }
    }

    /// Who is there.
    pub async fn info(&self) -> Result<Announcement> {
        let call = self.call("say who it is", Method::GET, paths::INFO, None);
        self.send_again(&call, || Payload::Nothing).await?.json(MAX_SMALL_BYTES).await
    }

    /// Tells who we are and learns who is there.
    pub async fn register(&self, own: &Announcement) -> Result<Announcement> {
        Ok(self.register_at(paths::REGISTER, own).await?.0)
    }

    /// The same at another path (LocalSend's), with the fingerprint that the handshake has shown.
    pub async fn register_at(&self, path: &str, own: &Announcement) -> Result<(Announcement, Option<Fingerprint>)> {
        let call = self.call("say who it is", Method::POST, path, None);
        let answer = self.send_again(&call, || Payload::json(own)).await?;
        let fingerprint = answer.fingerprint();
        Ok((answer.json(MAX_SMALL_BYTES).await?, fingerprint))
    }

    /// The snapshots that are advertised to this device; with a session, also those that it opened the door to.
    pub async fn listing(&self, session: Option<SessionId>) -> Result<Listing> {
        let call = self.call("list its snapshots", Method::GET, paths::SNAPSHOTS, session);
        self.send_again(&call, || Payload::Nothing).await?.json(MAX_LISTING_BYTES).await
    }

    /// Opens a backup session, manifest first. `entries` are taken from a blocking thread while they are sent; their content is
    /// left out. An answer that comes before all was sent (a refusal) ends the sending.
    pub async fn prepare_upload(&self, header: &PrepareUpload, entries: Entries) -> Result<SessionAnswer> {
        // The list can be written only once, so an address that answers is found first.
        self.info().await?;
        let (receiver, producer) = upload_list::produce(header.clone(), entries);
        let call = self.call("answer to the list of files", Method::POST, paths::PREPARE_UPLOAD, None);
        // After an answer that says no, the writer ends with its next piece, and nobody needs to wait for that.
        let answer = self.send_once(&call, Payload::List(receiver)).await?.json(MAX_SMALL_BYTES).await?;
        match producer.await {
            Ok(Ok(())) => Ok(answer),
            Ok(Err(_)) => Err(Error::NotUnderstood("before it had read the list of files".to_owned())),
            Err(error) => Err(Error::Failed("the list of files could not be written", error.into())),
        }
    }

    /// Opens a restore session. Repeats of a lost request do not ask the person again.
    pub async fn prepare_download(&self, request: &PrepareDownload) -> Result<SessionAnswer> {
        let mut request = request.clone();
        request.idempotency_key.get_or_insert_with(|| IdempotencyKey::from_random(random::bytes()));
        let call = self.call("answer to the request", Method::POST, paths::PREPARE_DOWNLOAD, None);
        self.send_again(&call, || Payload::json(&request)).await?.json(MAX_SMALL_BYTES).await
    }

    /// Opens a session that brings a copy of a repository.
    pub async fn prepare_copy(&self, request: &PrepareCopy) -> Result<SessionAnswer> {
        let call = self.call("answer to the request", Method::POST, paths::PREPARE_COPY, None);
        self.send_again(&call, || Payload::json(request)).await?.json(MAX_SMALL_BYTES).await
    }

    /// Waits until a person has decided about a session. `on_tick` is called before each question, at least twice a minute.
    ///
    /// # Errors
    /// [`ErrorCode::Declined`] in an answer when the person said no or nobody answered.
    pub async fn wait(&self, session: SessionId, mut on_tick: impl FnMut()) -> Result<SessionAnswer> {
        let path = format!("{}/{session}?wait={WAIT_SECONDS}", paths::SESSIONS);
        let mut call = self.call("say what became of the session", Method::GET, &path, Some(session));
        call.answer += Duration::from_secs(WAIT_SECONDS.into());
        loop {
            on_tick();
            let ask = || async { self.send(&call, || Payload::Nothing).await?.json(MAX_SMALL_BYTES).await };
            let answer: SessionAnswer = retry::retry(ask).await?;
            if answer.session != session {
                return Err(Error::NotUnderstood("for another session".to_owned()));
            }
            match answer.state {
                SessionState::Open => return Ok(answer),
                SessionState::Waiting => sleep(WAIT_PAUSE).await,
            }
        }
    }

    /// Whether the other device knows this one (still): asks what became of a session that cannot exist, which only paired
    /// devices are told.
    pub async fn is_paired(&self) -> Result<bool> {
        let nobody = SessionId::from_random(random::bytes());
        let path = format!("{}/{nobody}", paths::SESSIONS);
        let call = self.call("say whether it knows this device", Method::GET, &path, Some(nobody));
        match self.send(&call, || Payload::Nothing).await {
            Ok(_) => Ok(true),
            Err(error) => match error.answer() {
                Some(ErrorCode::NotPaired) => Ok(false),
                Some(_) => Ok(true),
                None => Err(error),
            },
        }
    }

    /// Says who this device was, and asks who the other one was.
    pub async fn rotated(&self, said: &Rotated) -> Result<RotatedAnswer> {
        let call = self.call("say who it was", Method::POST, paths::ROTATED, None);
        self.send_again(&call, || Payload::json(said)).await?.json(MAX_SMALL_BYTES).await
    }

    /// Ends a session; what arrived stays there for the next try until it is collected.
    pub async fn cancel(&self, session: SessionId) -> Result<()> {
        let call = self.call("end the session", Method::POST, paths::CANCEL, Some(session));
        self.send_again(&call, || Payload::Nothing).await?.bytes(MAX_SMALL_BYTES).await?;
        Ok(())
    }

    /// Those of `ids` that the session's repository lacks.
    pub(crate) async fn missing(&self, session: SessionId, ids: &[ChunkId]) -> Result<Vec<ChunkId>> {
        let call = self.call("say which chunks it lacks", Method::POST, paths::MISSING, Some(session));
        let length = ids.len().div_ceil(8);
        let bitmap = self.send(&call, || ids_payload(ids)).await?.bytes(length).await?;
        if bitmap.len() != length {
            return Err(Error::NotUnderstood(format!("{} bytes instead of {length}", bitmap.len())));
        }
        Ok(marked(&bitmap, ids))
    }

    /// One upload; returns the number of chunks that were new.
    pub(crate) async fn upload(&self, session: SessionId, blocks: &[Block]) -> Result<u64> {
        let call = self.call("take an upload", Method::POST, paths::UPLOAD, Some(session));
        let answer = self.send(&call, || Payload::Pieces(pieces(blocks).into())).await?;
        let uploaded: Uploaded = answer.json(MAX_SMALL_BYTES).await?;
        Ok(uploaded.chunks)
    }

    /// Adds to `order` blocks that together hold all of `ids`, which are some of it; after an error those that came whole before
    /// it are there.
    pub(crate) async fn chunks(&self, session: SessionId, ids: &[ChunkId], order: &mut Order) -> Result<()> {
        let call = self.call("send chunks", Method::POST, paths::CHUNKS, Some(session));
        let mut answer = self.send(&call, || ids_payload(ids)).await?;
        let limit = order.most();
        let whole = answer.patience().whole;
        let read = async {
            let (mut reader, mut bytes) = (BlockReader::default(), 0);
            while let Some(piece) = answer.piece().await? {
                bytes += piece.len() as u64;
                if bytes > limit {
                    return Err(Error::TooMuch(limit));
                }
                reader.push(&piece);
                while let Some(block) = reader.next_block()? {
                    order.take(block)?;
                }
            }
            reader.finish()
        };
        timeout(whole, read).await.unwrap_or(Err(Error::TimedOut("send chunks")))?;
        let lacking: Vec<_> = ids.iter().copied().filter(|id| order.lacks(id)).collect();
        if lacking.is_empty() { Ok(()) } else { Err(Error::ChunksMissing(lacking)) }
    }

    /// Commits a record. Harmless twice: the same record is answered with the same snapshot.
    pub(crate) async fn finish(&self, session: SessionId, record: &Finish) -> Result<Finished> {
        let mut call = self.call("commit the snapshot", Method::POST, paths::FINISH, Some(session));
        call.answer = self.inner.patience.commit;
        self.send(&call, || Payload::json(record)).await?.json(MAX_SMALL_BYTES).await
    }
}

fn ids_payload(ids: &[ChunkId]) -> Payload {
    let body: Vec<u8> = ids.iter().flat_map(|id| *id.as_bytes()).collect();
    Payload::Pieces([body.into()].into())
}

/// The ids whose bit is set; bit `i` is the `i % 8`-th lowest of byte `i / 8`.
fn marked(bitmap: &[u8], ids: &[ChunkId]) -> Vec<ChunkId> {
    let set = |i: &usize| bitmap.get(i / 8).is_some_and(|byte| byte >> (i % 8) & 1 == 1);
    (0..ids.len()).filter(set).map(|i| ids[i]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::test_server::TestServer;
    use crate::client::upload_list::tests::{entries, header};
    use crate::protocol::ErrorCode;
    use crate::protocol::session::{SessionLimits, WaitQuery};
    use axum::body::Body;
    use axum::extract::{Path, Query};
    use axum::http::{HeaderMap, StatusCode};
    use axum::response::IntoResponse;
    use axum::routing::{get, post};
    use axum::{Json, Router};
    use futures_util::StreamExt;
    use std::io::BufRead;
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::sync::{Arc, Mutex};

    fn session() -> SessionId {
        SessionId::from_random([5; 16])
    }

    fn answer(state: SessionState) -> SessionAnswer {
        let limits = SessionLimits { max_upload_bytes: 1, max_ids: 1, parallel_calls: 1 };
        SessionAnswer { session: session(), state, api: 1, features: vec![], limits, repository: None, head: None }
    }

    fn routes() -> Router {
        let nas = Announcement::of_this_device("nas".to_owned().into(), Fingerprint::from_bytes([1; 32]), 1, false);
        Router::new().route(paths::INFO, get(async move || Json(nas.clone())))
    }

    #[test]
    fn bit_i_of_the_bitmap_speaks_of_id_i_lowest_bit_first() {
        let ids: Vec<_> = (0..20).map(|n| ChunkId::from_bytes([n; 32])).collect();
        assert_eq!(marked(&[0b0000_0001, 0b1000_0000, 0b1111_1000], &ids), [ids[0], ids[15], ids[19]]);
        assert_eq!(marked(&[0xff; 3], &ids), ids);
        assert_eq!(marked(&[], &ids), []);
    }

    #[tokio::test]
    async fn the_list_arrives_whole_and_is_streamed() {
        let most = Arc::new(AtomicU64::new(0));
        let read = {
            let most = Arc::clone(&most);
            async move |headers: HeaderMap, body: Body| {
                assert!(!headers.contains_key("content-length"), "nobody knows the length beforehand");
                let mut all = Vec::new();
                let mut pieces = body.into_data_stream();
                while let Some(piece) = pieces.next().await {
                    let piece = piece.unwrap();
                    most.fetch_max(piece.len() as u64, Ordering::Relaxed);
                    all.extend_from_slice(&piece);
                }
                let lines = std::io::BufReader::new(zstd::Decoder::new(all.as_slice()).unwrap()).lines();
                assert_eq!(lines.count(), 100_001);
                Json(answer(SessionState::Open))
            }
        };
        let server = TestServer::start(routes().route(paths::PREPARE_UPLOAD, post(read))).await;
        let client = server.client();
        let got = client.prepare_upload(&header(), entries(100_000)).await.unwrap();
        assert_eq!(got, answer(SessionState::Open));
        assert!(most.load(Ordering::Relaxed) < 1 << 20);
        assert!(client.traffic().sent() > 100_000);
    }

    #[tokio::test]
    async fn an_answer_before_the_end_of_the_list_ends_the_list() {
        let refuse = async |body: Body| {
            body.into_data_stream().next().await;
            (StatusCode::PAYLOAD_TOO_LARGE, r#"{"code":"too-large","message":"too many files"}"#).into_response()
        };
        let server = TestServer::start(routes().route(paths::PREPARE_UPLOAD, post(refuse))).await;
        // The list has no end: only the answer can end it.
        let error = server.client().prepare_upload(&header(), entries(u64::MAX)).await.unwrap_err();
        assert_eq!(error.answer(), Some(ErrorCode::TooLarge), "{error:?}");
        assert_eq!(error.to_string(), "too many files");
    }

    #[tokio::test]
    async fn a_receiver_that_refuses_and_then_reads_no_further_holds_nothing_up() {
        let taken = Arc::new(AtomicU64::new(0));
        let list = {
            let taken = Arc::clone(&taken);
            entries(u64::MAX).inspect(move |_| {
                taken.fetch_add(1, Ordering::Relaxed);
            })
        };
        // The body is kept, unread, for as long as the server lives.
        let kept = Arc::new(Mutex::new(Vec::new()));
        let refuse = {
            let kept = Arc::clone(&kept);
            async move |body: Body| {
                kept.lock().unwrap().push(body);
                StatusCode::FORBIDDEN
            }
        };
        let server = TestServer::start(routes().route(paths::PREPARE_UPLOAD, post(refuse))).await;
        let held = Arc::downgrade(&taken);
        drop(taken);
        let error = server.client().prepare_upload(&header(), Box::new(list)).await.unwrap_err();
        assert_eq!(error.answer(), Some(ErrorCode::NotAllowed));
        let ended = async {
            while held.strong_count() > 0 {
                sleep(Duration::from_millis(2)).await;
            }
        };
        timeout(Duration::from_secs(30), ended).await.expect("the writer of the list ends");
    }

    #[tokio::test]
    async fn a_small_call_survives_one_broken_connection() {
        let calls = Arc::new(AtomicU64::new(0));
        let break_first = {
            let calls = Arc::clone(&calls);
            async move || {
                assert!(calls.fetch_add(1, Ordering::Relaxed) != 0, "the first caller sees a broken connection");
                Json(Listing::default())
            }
        };
        let server = TestServer::start(routes().route(paths::SNAPSHOTS, get(break_first))).await;
        assert_eq!(server.client().listing(None).await.unwrap(), Listing::default());
        assert_eq!(calls.load(Ordering::Relaxed), 2);
    }

    #[tokio::test]
    async fn waiting_goes_on_until_somebody_decides() {
        let asked = Arc::new(AtomicU64::new(0));
        let decide = {
            let asked = Arc::clone(&asked);
            async move |Path(id): Path<String>, Query(query): Query<WaitQuery>| {
                assert_eq!((id, query.wait), (session().to_string(), WAIT_SECONDS));
                match asked.fetch_add(1, Ordering::Relaxed) {
                    0 => Json(answer(SessionState::Waiting)).into_response(),
                    1 => Json(answer(SessionState::Open)).into_response(),
                    _ => (StatusCode::FORBIDDEN, r#"{"code":"declined","message":"no"}"#).into_response(),
                }
            }
        };
        let path = format!("{}/{{id}}", paths::SESSIONS);
        let server = TestServer::start(routes().route(&path, get(decide))).await;
        let mut ticks = 0;
        let open = server.client().wait(session(), || ticks += 1).await.unwrap();
        assert_eq!((open.state, ticks), (SessionState::Open, 2));
        let error = server.client().wait(session(), || ()).await.unwrap_err();
        assert_eq!(error.answer(), Some(ErrorCode::Declined));
    }

    #[tokio::test]
    async fn a_repeated_prepare_download_carries_a_key_of_its_own() {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let keep = {
            let seen = Arc::clone(&seen);
            async move |Json(request): Json<PrepareDownload>| {
                seen.lock().unwrap().push(request.idempotency_key);
                Json(answer(SessionState::Open))
            }
        };
        let server = TestServer::start(routes().route(paths::PREPARE_DOWNLOAD, post(keep))).await;
        let client = server.client();
        let key = Some(IdempotencyKey::from_random([9; 16]));
        client.prepare_download(&PrepareDownload::default()).await.unwrap();
        client.prepare_download(&PrepareDownload { idempotency_key: key, ..Default::default() }).await.unwrap();
        let seen = seen.lock().unwrap();
        assert!(seen[0].is_some() && seen[0] != key);
        assert_eq!(seen[1], key);
    }
}
