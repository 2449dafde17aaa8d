//! A repository on another device, as a [`Vault`].
//!
//! All calls here do no harm when they are made twice, so those that break are tried again: an upload whose answer was lost
//! brings nothing new the second time, and a commit whose answer was lost is answered with the same snapshot. Sizes and numbers
//! of calls keep to what the receiver asked for.

use crate::client::error::{Error, Result};
use crate::client::order::Order;
use crate::client::retry::{self, UploadSize, retry};
use crate::client::{Client, Traffic};
use crate::model::limits::{MAX_BLOCK_PLAIN_BYTES, MAX_FETCH_IDS, MAX_MISSING_IDS, MAX_UPLOAD_CHUNKS};
use crate::model::{Block, ChunkId, RepositoryParameters, SessionId, SignedRecord, SnapshotId, SnapshotInfo};
use crate::protocol::session::{Finish, SessionAnswer, SessionLimits};
use crate::signer;
use crate::vault::{self, Vault};
use std::sync::Arc;
use tokio::sync::{Semaphore, SemaphorePermit};

/// Calls under way at once at the most, whatever the receiver would allow: each holds up to one upload in memory.
const MAX_PARALLEL_CALLS: usize = 16;

/// A repository on another device, within one session.
#[derive(Debug)]
pub struct RemoteVault {
    client: Client,
    session: SessionId,
    parameters: RepositoryParameters,
    max_ids: usize,
    size: UploadSize,
    calls: Arc<Semaphore>,
}

impl RemoteVault {
    /// The repository that an open session gives access to.
    ///
    /// # Errors
    /// [`Error::NotUnderstood`] when the session is not open or its limits cannot be kept.
    pub fn new(client: Client, answer: &SessionAnswer) -> Result<Self> {
        let parameters = answer.repository.ok_or_else(|| Error::NotUnderstood("without a repository".to_owned()))?;
        let SessionLimits { max_upload_bytes, max_ids, parallel_calls } = answer.limits;
        if max_upload_bytes == 0 || max_ids == 0 {
            return Err(Error::NotUnderstood("with limits that let nothing through".to_owned()));
        }
        Ok(Self {
            client,
            session: answer.session,
            parameters,
            max_ids: max_ids.min(MAX_MISSING_IDS).min(MAX_FETCH_IDS),
            size: UploadSize::new(max_upload_bytes),
            calls: Arc::new(Semaphore::new(parallel_calls.clamp(1, MAX_PARALLEL_CALLS))),
        })
    }

    /// Bytes sent and received by this vault's client.
    pub fn traffic(&self) -> &Traffic {
        self.client.traffic()
    }

    /// The session, for ending it.
    pub fn session(&self) -> SessionId {
        self.session
    }

    /// The client that it calls with.
    pub fn client(&self) -> &Client {
        &self.client
    }

    async fn turn(&self) -> SemaphorePermit<'_> {
        self.calls.acquire().await.expect("the semaphore is never closed")
    }

    /// Sends blocks in as few uploads as the receiver and the line allow. What has arrived is not sent again when a later
    /// upload breaks.
    async fn upload(&self, blocks: &[Block]) -> Result<()> {
        let (mut at, mut failed) = (0, 0);
        while at < blocks.len() {
            let count = batch(&blocks[at..], self.size.current());
            let sent = &blocks[at..at + count];
            if let Some(block) = sent.iter().find(|block| block.encoded_length() > self.size.max()) {
                let length = block.encoded_length();
                return Err(Error::NotUnderstood(format!("that it takes no block of {length} bytes")));
            }
            match self.client.upload(self.session, sent).await {
                Ok(_) => {
                    self.size.arrived();
                    (at, failed) = (at + count, 0);
                }
                Err(error) if error.is_transient() => {
                    if error.is_the_lines_fault() {
                        self.size.broke();
                    }
                    failed += 1;
                    retry::wait_after(failed, error).await?;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Fetches blocks that hold all of `ids`, which are some of `order`. What has come of an answer that broke is not asked for
    /// again.
    async fn fetch(&self, mut ids: Vec<ChunkId>, order: &mut Order) -> Result<()> {
        let mut failed = 0;
        while !ids.is_empty() {
            let error = match self.client.chunks(self.session, &ids, order).await {
                Ok(()) => return Ok(()),
                Err(error) if error.is_transient() => error,
                Err(error) => return Err(error),
            };
            let before = ids.len();
            ids.retain(|id| order.lacks(id));
            failed = if ids.len() == before { failed + 1 } else { 1 };
            retry::wait_after(failed, error).await?;
        }
        Ok(())
    }
}

impl RemoteVault {
    async fn finish(&self, body: Finish) -> vault::Result<SnapshotId> {
        let _turn = self.turn().await;
        let finished = retry(|| self.client.finish(self.session, &body)).await?;
        if finished.snapshot == signer::snapshot_id(&body.signed) {
            Ok(finished.snapshot)
        } else {
            Err(Error::NotUnderstood("for another snapshot than the one that was sent".to_owned()).into())
        }
    }
}

/// How many of `blocks`, at least one, go into an upload of at most `size` bytes.
fn batch(blocks: &[Block], size: u64) -> usize {
    let (mut total, mut chunks) = (0, 0);
    let fits = blocks.iter().take_while(|block| {
        total += block.encoded_length();
        chunks += block.header.chunks.len();
        total <= size && chunks <= MAX_UPLOAD_CHUNKS
    });
    fits.count().max(1)
}

impl Vault for RemoteVault {
    fn parameters(&self) -> RepositoryParameters {
        self.parameters
    }

    async fn missing(&self, ids: Vec<ChunkId>) -> vault::Result<Vec<ChunkId>> {
        let mut missing = Vec::new();
        for ids in ids.chunks(self.max_ids) {
            let _turn = self.turn().await;
            missing.extend(retry(|| self.client.missing(self.session, ids)).await?);
        }
        Ok(missing)
    }

    async fn put(&self, blocks: Vec<Block>) -> vault::Result<u64> {
        let _turn = self.turn().await;
        self.upload(&blocks).await?;
        Ok(blocks.iter().map(Block::encoded_length).sum())
    }

    async fn get(&self, ids: Vec<ChunkId>) -> vault::Result<Vec<Block>> {
        let largest = self.parameters.chunker.max().min(MAX_BLOCK_PLAIN_BYTES);
        let bytes = u64::from(largest).saturating_mul(ids.len() as u64);
        self.get_sized(ids, bytes).await
    }

    async fn get_sized(&self, ids: Vec<ChunkId>, bytes: u64) -> vault::Result<Vec<Block>> {
        let mut order = Order::new(&ids, bytes);
        for ids in ids.chunks(self.max_ids) {
            let _turn = self.turn().await;
            // A block of an earlier answer may have brought more than it was asked for.
            let ids = ids.iter().copied().filter(|id| order.lacks(id)).collect();
            self.fetch(ids, &mut order).await?;
        }
        Ok(order.into_blocks())
    }

    async fn snapshots(&self) -> vault::Result<Vec<SnapshotInfo>> {
        let _turn = self.turn().await;
        let listing = retry(|| self.client.listing(Some(self.session))).await?;
        let ours = listing.repositories.into_iter().find(|listed| listed.repository.id == self.parameters.id);
        let ours = ours.ok_or_else(|| vault::Error::NotFound(format!("repository {}", self.parameters.id)))?;
        Ok(ours.snapshots)
    }

    async fn commit(&self, record: SignedRecord) -> vault::Result<SnapshotId> {
        self.finish(Finish { signed: record, without_data: false }).await
    }

    async fn commit_without_data(&self, record: SignedRecord) -> vault::Result<SnapshotId> {
        self.finish(Finish { signed: record, without_data: true }).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::test_server::TestServer;
    use crate::codec::{Compression, Decoder, Encoder, chunk_id, chunks};
    use crate::model::{Alias, ChunkerParameters, Fingerprint, Receipt, RepositoryId};
    use crate::protocol::listing::{Listing, RepositoryListing};
    use crate::protocol::paths::{CHUNKS, FINISH, MISSING, SESSION_HEADER, SNAPSHOTS, UPLOAD};
    use crate::protocol::session::{Finished, SessionState, Uploaded};
    use crate::protocol::{ErrorBody, ErrorCode};
    use axum::body::{Body, to_bytes};
    use axum::extract::{Request, State};
    use axum::http::{HeaderMap, StatusCode, header};
    use axum::response::{IntoResponse, Response};
    use axum::routing::{get, post};
    use axum::{Json, Router};
    use bytes::Bytes;
    use futures_util::{StreamExt, stream};
    use jiff::Timestamp;
    use std::collections::{BTreeMap, VecDeque};
    use std::io;
    use std::sync::{Mutex, MutexGuard};

    /// What a call does instead of answering.
    #[derive(Clone, Copy, Debug, PartialEq)]
    enum Fault {
        /// 503.
        Busy,
        /// Reads some of the body, then drops the connection.
        Break,
        /// Does its work, then drops the connection instead of answering.
        LoseAnswer,
        /// Sends all but the last byte of its answer.
        CutShort,
    }

    /// A receiver in memory; faults are used up one a call.
    #[derive(Clone, Default)]
    struct Receiver {
        state: Arc<Mutex<Held>>,
    }

    #[derive(Default)]
    struct Held {
        chunks: BTreeMap<ChunkId, Block>,
        uploads: Vec<usize>,
        missing_calls: usize,
        commits: Vec<SnapshotId>,
        asked: Vec<usize>,
        faults: VecDeque<Fault>,
        extra: Option<Block>,
    }

    fn session() -> SessionId {
        SessionId::from_random([5; 16])
    }

    fn parameters() -> RepositoryParameters {
        RepositoryParameters { id: RepositoryId::from_random([6; 16]), chunker: ChunkerParameters::STANDARD }
    }

    fn answer(max_upload_bytes: u64, max_ids: usize) -> SessionAnswer {
        SessionAnswer {
            session: session(),
            state: SessionState::Open,
            api: 1,
            features: Vec::new(),
            limits: SessionLimits { max_upload_bytes, max_ids, parallel_calls: 2 },
            repository: Some(parameters()),
            head: None,
        }
    }

    impl Receiver {
        fn held(&self) -> MutexGuard<'_, Held> {
            self.state.lock().unwrap()
        }

        fn will(&self, faults: &[Fault]) {
            self.held().faults = faults.iter().copied().collect();
        }

        fn next_fault(&self, headers: &HeaderMap) -> Option<Fault> {
            assert_eq!(headers[SESSION_HEADER], session().to_string());
            self.held().faults.pop_front()
        }

        async fn serve(&self) -> TestServer {
            let routes = Router::new()
                .route(MISSING, post(missing))
                .route(UPLOAD, post(upload))
                .route(CHUNKS, post(send_chunks))
                .route(SNAPSHOTS, get(snapshots))
                .route(FINISH, post(finish));
            TestServer::start(routes.with_state(self.clone())).await
        }
    }

    fn busy() -> Response {
        StatusCode::SERVICE_UNAVAILABLE.into_response()
    }

    /// A head that promises more than comes: the connection breaks in the middle of the answer.
    fn broken() -> Response {
        let body = stream::iter([Ok(Bytes::from_static(b"{")), Err(io::Error::other("pulled the plug"))]);
        ([(header::CONTENT_LENGTH, "1000")], Body::from_stream(body)).into_response()
    }

    async fn ids(request: Request) -> Vec<ChunkId> {
        let body = to_bytes(request.into_body(), 1 << 20).await.unwrap();
        body.chunks_exact(32).map(|id| ChunkId::from_bytes(id.try_into().unwrap())).collect()
    }

    async fn missing(State(receiver): State<Receiver>, headers: HeaderMap, request: Request) -> Response {
        match receiver.next_fault(&headers) {
            Some(Fault::Busy) => return busy(),
            Some(Fault::CutShort) => return Bytes::new().into_response(),
            Some(_) => return broken(),
            None => {}
        }
        let ids = ids(request).await;
        let mut held = receiver.held();
        held.missing_calls += 1;
        let mut bitmap = vec![0_u8; ids.len().div_ceil(8)];
        for (i, _) in ids.iter().enumerate().filter(|(_, id)| !held.chunks.contains_key(id)) {
            bitmap[i / 8] |= 1 << (i % 8);
        }
        bitmap.into_response()
    }

    async fn upload(State(receiver): State<Receiver>, headers: HeaderMap, request: Request) -> Response {
        let fault = receiver.next_fault(&headers);
        let length: usize = headers[header::CONTENT_LENGTH].to_str().unwrap().parse().unwrap();
        if fault == Some(Fault::Break) {
            request.into_body().into_data_stream().next().await;
            return broken();
        }
        let body = to_bytes(request.into_body(), usize::MAX).await.unwrap();
        assert_eq!(body.len(), length);
        if fault == Some(Fault::Busy) {
            return busy();
        }
        let mut reader = crate::client::blocks::BlockReader::default();
        reader.push(&body);
        let mut held = receiver.held();
        held.uploads.push(length);
        let mut new = 0;
        while let Some(block) = reader.next_block().unwrap() {
            Decoder::new().decode(&block).unwrap();
            for chunk in &block.header.chunks {
                new += u64::from(held.chunks.insert(chunk.id, block.clone()).is_none());
            }
        }
        reader.finish().unwrap();
        if fault == Some(Fault::LoseAnswer) { broken() } else { Json(Uploaded { chunks: new }).into_response() }
    }

    async fn send_chunks(State(receiver): State<Receiver>, headers: HeaderMap, request: Request) -> Response {
        let fault = receiver.next_fault(&headers);
        let ids = ids(request).await;
        let mut held = receiver.held();
        held.asked.push(ids.len());
        let blocks = ids.iter().filter_map(|id| held.chunks.get(id).cloned()).chain(held.extra.clone());
        let mut body = crate::client::blocks::pieces(&blocks.collect::<Vec<_>>()).concat();
        match fault {
            Some(Fault::CutShort) => drop(body.pop()),
            Some(Fault::Busy) => return busy(),
            Some(_) => return broken(),
            None => {}
        }
        body.into_response()
    }

    async fn snapshots(State(receiver): State<Receiver>, headers: HeaderMap) -> Response {
        receiver.next_fault(&headers);
        let list = |repository, snapshots| RepositoryListing {
            repository,
            owner: Fingerprint::from_bytes([1; 32]),
            alias: Alias::new("laptop"),
            owner_log: Vec::new(),
            snapshots,
            damaged: Vec::new(),
        };
        let signed = record(1);
        let id = signer::snapshot_id(&signed);
        let received_at = Timestamp::UNIX_EPOCH;
        let receipt = Receipt { record: id, received_at, from: Fingerprint::from_bytes([1; 32]) };
        let other = RepositoryParameters { id: RepositoryId::from_random([9; 16]), ..parameters() };
        let ours = vec![SnapshotInfo { id, signed, receipt, forgotten: None }];
        Json(Listing { repositories: vec![list(other, vec![]), list(parameters(), ours)] }).into_response()
    }

    async fn finish(
        State(receiver): State<Receiver>,
        headers: HeaderMap,
        Json(record): Json<SignedRecord>,
    ) -> Response {
        let fault = receiver.next_fault(&headers);
        if fault == Some(Fault::Busy) {
            return busy();
        }
        if record.signature.is_empty() {
            let missing = vec![ChunkId::from_bytes([3; 32])];
            let code = ErrorCode::MissingChunks;
            let body = ErrorBody { code, message: "chunks are missing".to_owned(), hint: None, missing, head: None };
            return (StatusCode::CONFLICT, Json(body)).into_response();
        }
        let snapshot = signer::snapshot_id(&record);
        receiver.held().commits.push(snapshot);
        if fault.is_some() {
            broken()
        } else {
            Json(Finished { snapshot, received_at: Timestamp::UNIX_EPOCH }).into_response()
        }
    }

    fn record(n: u8) -> SignedRecord {
        SignedRecord { record: format!("{{\"n\":{n}}}"), signature: "aa".repeat(64) }
    }

    fn block(n: u8, length: usize) -> Block {
        let mut bytes = vec![n; length];
        bytes[0] = n;
        let bytes = Bytes::from(bytes);
        Encoder::new(Compression::None).encode(&[(chunk_id(&bytes), bytes)])
    }

    fn id_of(block: &Block) -> ChunkId {
        block.header.chunks[0].id
    }

    async fn vault() -> (Receiver, TestServer, RemoteVault) {
        let receiver = Receiver::default();
        let server = receiver.serve().await;
        let vault = RemoteVault::new(server.client(), &answer(16 << 20, 10)).unwrap();
        (receiver, server, vault)
    }

    #[tokio::test]
    async fn what_is_put_is_no_longer_missing_and_comes_back() {
        let (receiver, _server, vault) = vault().await;
        let blocks: Vec<_> = (1..=25).map(|n| block(n, 1000)).collect();
        let all: Vec<_> = blocks.iter().map(id_of).collect();
        assert_eq!(vault.missing(all.clone()).await.unwrap(), all);
        let sent = vault.put(blocks[..20].to_vec()).await.unwrap();
        assert_eq!(sent, 20 * blocks[0].encoded_length());
        assert_eq!(vault.missing(all.clone()).await.unwrap(), all[20..]);
        assert_eq!(receiver.held().missing_calls, 6, "25 ids in calls of 10, twice");
        let back = vault.get(all[..20].to_vec()).await.unwrap();
        for (back, put) in back.iter().zip(&blocks) {
            let plain = Decoder::new().decode(back).unwrap();
            assert_eq!(chunks(&back.header, &plain).next().unwrap().0.id, id_of(put));
        }
        assert_eq!(back.len(), 20);
        assert!(vault.traffic().sent() > sent && vault.traffic().received() > sent);
        assert_eq!(vault.snapshots().await.unwrap().len(), 1);
    }

    #[tokio::test]
    async fn a_put_is_cut_into_uploads_that_the_receiver_takes() {
        let receiver = Receiver::default();
        let server = receiver.serve().await;
        let vault = RemoteVault::new(server.client(), &answer(5000, 10)).unwrap();
        vault.put((1..=9).map(|n| block(n, 2000)).collect()).await.unwrap();
        assert_eq!(receiver.held().chunks.len(), 9);
        assert_eq!(receiver.held().uploads.len(), 5);
        assert!(receiver.held().uploads.iter().all(|length| *length <= 5000));
        assert!(vault.put(vec![block(1, 6000)]).await.is_err());
    }

    #[test]
    fn no_upload_has_more_chunks_than_the_receiver_takes() {
        let crumbs = |n: u64| {
            let chunks: Vec<_> = (0..4000_u64).map(|m| Bytes::from((n << 32 | m).to_le_bytes().to_vec())).collect();
            let chunks: Vec<_> = chunks.into_iter().map(|bytes| (chunk_id(&bytes), bytes)).collect();
            Encoder::new(Compression::None).encode(&chunks)
        };
        let blocks: Vec<_> = (0..5).map(crumbs).collect();
        assert_eq!(batch(&blocks, u64::MAX), MAX_UPLOAD_CHUNKS / 4000);
    }

    #[tokio::test]
    async fn calls_that_break_are_made_again() {
        let (receiver, _server, vault) = vault().await;
        let one = block(1, 3_000_000);
        receiver.will(&[Fault::Break, Fault::LoseAnswer, Fault::Busy]);
        vault.put(vec![one.clone()]).await.unwrap();
        assert_eq!(receiver.held().uploads.len(), 2, "the answer to the first whole one was lost");
        receiver.will(&[Fault::Break, Fault::CutShort, Fault::Busy]);
        // A bitmap of the wrong length is no broken line, and not asked for again.
        assert!(matches!(vault.missing(vec![id_of(&one)]).await, Err(vault::Error::Refused(_))));
        assert_eq!(vault.missing(vec![id_of(&one)]).await.unwrap(), []);
        receiver.will(&[Fault::CutShort, Fault::Break, Fault::Busy]);
        assert_eq!(vault.get(vec![id_of(&one)]).await.unwrap()[0].stored, one.stored);
    }

    #[tokio::test]
    async fn what_came_of_a_broken_answer_is_not_asked_for_again() {
        let (receiver, _server, vault) = vault().await;
        let sent: Vec<_> = (1..=3).map(|n| block(n, 100_000)).collect();
        vault.put(sent.clone()).await.unwrap();
        receiver.will(&[Fault::CutShort, Fault::CutShort]);
        let back = vault.get(sent.iter().map(id_of).collect()).await.unwrap();
        assert_eq!(back.iter().map(id_of).collect::<Vec<_>>(), sent.iter().map(id_of).collect::<Vec<_>>());
        assert_eq!(receiver.held().asked, [3, 1, 1]);
    }

    #[tokio::test]
    async fn uploads_are_smaller_after_one_broke() {
        let (receiver, _server, vault) = vault().await;
        receiver.will(&[Fault::Break, Fault::Break]);
        vault.put((1..=5).map(|n| block(n, 1_000_000)).collect()).await.unwrap();
        assert_eq!(receiver.held().uploads.len(), 5);
        assert_eq!(receiver.held().chunks.len(), 5);
    }

    #[tokio::test]
    async fn a_commit_whose_answer_was_lost_is_sent_again() {
        let (receiver, _server, vault) = vault().await;
        receiver.will(&[Fault::LoseAnswer, Fault::Busy]);
        let snapshot = vault.commit(record(1)).await.unwrap();
        assert_eq!(receiver.held().commits, [snapshot, snapshot]);
        assert_eq!(snapshot, signer::snapshot_id(&record(1)));
        let unsigned = SignedRecord { signature: String::new(), ..record(1) };
        assert!(matches!(vault.commit(unsigned).await, Err(vault::Error::Missing(ids)) if ids.len() == 1));
    }

    #[tokio::test]
    async fn chunks_that_do_not_come_or_that_nobody_asked_for_are_errors() {
        let (receiver, _server, vault) = vault().await;
        let (one, other) = (block(1, 100), block(2, 100));
        vault.put(vec![one.clone()]).await.unwrap();
        let absent = vault.get(vec![id_of(&one), id_of(&other)]).await;
        assert!(matches!(absent, Err(vault::Error::NotFound(what)) if what.contains(&id_of(&other).to_string())));
        receiver.held().extra = Some(other);
        assert!(matches!(vault.get(vec![id_of(&one)]).await, Err(vault::Error::Refused(_))));
    }

    #[tokio::test]
    async fn a_chunk_that_lies_in_two_blocks_is_no_lie() {
        let (receiver, _server, vault) = vault().await;
        let (one, other) = (block(1, 100), block(2, 100));
        let plain = |block: &Block| (id_of(block), block.stored.clone());
        let both = Encoder::new(Compression::None).encode(&[plain(&one), plain(&other)]);
        vault.put(vec![both.clone(), other.clone()]).await.unwrap();
        let back = vault.get(vec![id_of(&one), id_of(&other)]).await.unwrap();
        assert_eq!(back.iter().map(|block| block.header.clone()).collect::<Vec<_>>(), [both.header]);
        receiver.held().extra = Some(one.clone());
        vault.get(vec![id_of(&one)]).await.unwrap();
    }

    #[tokio::test]
    async fn a_holder_that_sends_more_than_was_asked_for_is_cut_off_and_nothing_of_it_is_unpacked() {
        let (receiver, _server, vault) = vault().await;
        let zeros = Bytes::from(vec![0; MAX_BLOCK_PLAIN_BYTES as usize - 100]);
        let wanted: Vec<_> = (0..200_u8).map(|n| Bytes::from(vec![n; 100])).map(|b| (chunk_id(&b), b)).collect();
        let ids: Vec<_> = wanted.iter().map(|(id, _)| *id).collect();
        let mut encoder = Encoder::new(Compression::default());
        for (id, bytes) in &wanted {
            let bomb = encoder.encode(&[(*id, bytes.clone()), (chunk_id(&zeros), zeros.clone())]);
            receiver.held().chunks.insert(*id, bomb);
        }
        // Each block brings what was asked for and all together are short: unpacked they are 800 MiB.
        let packed: u64 = receiver.held().chunks.values().map(Block::encoded_length).sum();
        assert!(packed < 1 << 20, "{packed}");
        let refused = vault.get_sized(ids.clone(), 200 * 100).await.unwrap_err();
        assert!(
            matches!(&refused, vault::Error::Corrupt(what) if what.contains("more than was asked for")),
            "{refused}"
        );
        // Nor long ones that unpack to nothing: it is hung up on before they are here.
        let noise: Vec<u8> = (0..200_000_u32).flat_map(|n| *blake3::hash(&n.to_le_bytes()).as_bytes()).collect();
        let noise = Bytes::from(noise).split_to(4 << 20);
        for (id, bytes) in &wanted {
            let mut long = encoder.encode(&[(*id, bytes.clone())]);
            (long.header.stored_length, long.stored) = (noise.len() as u32, noise.clone());
            receiver.held().chunks.insert(*id, long);
        }
        let before = vault.traffic().received();
        assert!(matches!(vault.get_sized(ids.clone(), 200 * 100).await, Err(vault::Error::Corrupt(_))));
        assert!(vault.traffic().received() - before < 10 << 20);
        // The control: the same chunks from a holder that sends them as they are.
        for (id, bytes) in &wanted {
            receiver.held().chunks.insert(*id, encoder.encode(&[(*id, bytes.clone())]));
        }
        assert_eq!(vault.get_sized(ids, 200 * 100).await.unwrap().len(), 200);
    }

    #[tokio::test]
    async fn a_receiver_that_is_gone_is_offline() {
        let (_receiver, server, vault) = vault().await;
        drop(server);
        assert!(matches!(vault.missing(vec![ChunkId::from_bytes([1; 32])]).await, Err(vault::Error::Offline(_))));
    }

    #[tokio::test]
    async fn sessions_that_are_not_open_or_let_nothing_through_make_no_vault() {
        let client = Receiver::default().serve().await.client();
        let waiting = SessionAnswer { repository: None, ..answer(1000, 10) };
        for bad in [waiting, answer(0, 10), answer(1000, 0)] {
            assert!(matches!(RemoteVault::new(client.clone(), &bad), Err(Error::NotUnderstood(_))));
        }
    }
}
