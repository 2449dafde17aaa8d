//! The calls of the native API, one function each. They do not try again by themselves, except where waiting is their purpose.

use crate::client::Client;
use crate::client::blocks::{BlockReader, pieces};
use crate::client::error::{Error, Result};
use crate::client::exchange::{Call, MAX_SMALL_BYTES, Payload};
use crate::client::retry;
use crate::client::upload_list::{self, Entries};
use crate::model::limits::MAX_BLOCK_PLAIN_BYTES;
use crate::model::{Block, BlockHeader, ChunkId, Fingerprint, IdempotencyKey, SessionId, SignedRecord};
use crate::platform::random;
use crate::protocol::listing::Listing;
use crate::protocol::session::{Finished, PrepareDownload, PrepareUpload, SessionAnswer, SessionState, Uploaded};
use crate::protocol::{Announcement, paths};
use http::Method;
use std::collections::HashSet;
use std::time::Duration;
use tokio::time::{sleep, timeout};

/// A list of snapshots: some 60,000 records of a kilobyte.
const MAX_LISTING_BYTES: usize = 64 << 20;
/// Stored bytes that one `chunks` call may bring: far above what a restore asks for at once, far below what hurts.
const MAX_CHUNKS_BYTES: u64 = 256 << 20;
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
        self.send(&call, || Payload::Nothing).await?.json(MAX_SMALL_BYTES).await
    }

    /// Tells who we are and learns who is there.
    pub async fn register(&self, own: &Announcement) -> Result<Announcement> {
        Ok(self.register_at(paths::REGISTER, own).await?.0)
    }

    /// The same at another path (LocalSend's), with the fingerprint that the handshake has shown.
    pub async fn register_at(&self, path: &str, own: &Announcement) -> Result<(Announcement, Option<Fingerprint>)> {
        let call = self.call("say who it is", Method::POST, path, None);
        let answer = self.send(&call, || Payload::json(own)).await?;
        let fingerprint = answer.fingerprint();
        Ok((answer.json(MAX_SMALL_BYTES).await?, fingerprint))
    }

    /// The snapshots that are advertised to this device; with a session, also those that it opened the door to.
    pub async fn listing(&self, session: Option<SessionId>) -> Result<Listing> {
        let call = self.call("list its snapshots", Method::GET, paths::SNAPSHOTS, session);
        self.send(&call, || Payload::Nothing).await?.json(MAX_LISTING_BYTES).await
    }

    /// Opens a backup session, manifest first. `entries` are taken from a blocking thread while they are sent; their content is
    /// left out. An answer that comes before all was sent (a refusal) ends the sending.
    pub async fn prepare_upload(&self, header: &PrepareUpload, entries: Entries) -> Result<SessionAnswer> {
        // The list can be written only once, so an address that answers is found first.
        self.info().await?;
        let (receiver, producer) = upload_list::produce(header.clone(), entries);
        let call = self.call("answer to the list of files", Method::POST, paths::PREPARE_UPLOAD, None);
        let answer = self.send_once(&call, Payload::List(receiver)).await;
        let answer = match answer {
            Ok(answer) => answer.json(MAX_SMALL_BYTES).await,
            Err(error) => Err(error),
        };
        // It has ended, or ends with its next piece: nobody takes it any more.
        let produced = producer.await;
        match (answer, produced) {
            (Ok(answer), Ok(Ok(()))) => Ok(answer),
            (Ok(_), Ok(Err(_))) => Err(Error::NotUnderstood("before it had read the list of files".to_owned())),
            (Ok(_), Err(error)) => Err(Error::Failed("the list of files could not be written", error.into())),
            (Err(error), _) => Err(error),
        }
    }

    /// Opens a restore session. Repeats of a lost request do not ask the person again.
    pub async fn prepare_download(&self, request: &PrepareDownload) -> Result<SessionAnswer> {
        let mut request = request.clone();
        request.idempotency_key.get_or_insert_with(|| IdempotencyKey::from_random(random::bytes()));
        let call = self.call("answer to the request", Method::POST, paths::PREPARE_DOWNLOAD, None);
        self.send(&call, || Payload::json(&request)).await?.json(MAX_SMALL_BYTES).await
    }

    /// Waits until a person has decided about a session. `on_tick` is called before each question, at least twice a minute.
    ///
    /// # Errors
    /// [`ErrorCode::Declined`](crate::protocol::ErrorCode::Declined) in an answer when the person said no or nobody answered.
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

    /// Ends a session; what arrived stays there for the next try until it is collected.
    pub async fn cancel(&self, session: SessionId) -> Result<()> {
        let call = self.call("end the session", Method::POST, paths::CANCEL, Some(session));
        self.send(&call, || Payload::Nothing).await?.bytes(MAX_SMALL_BYTES).await?;
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

    /// Blocks that together hold all of `ids`. Each one must bring something that was asked for and has not come yet, so the
    /// other side cannot send more than was asked for.
    pub(crate) async fn chunks(&self, session: SessionId, ids: &[ChunkId]) -> Result<Vec<Block>> {
        let call = self.call("send chunks", Method::POST, paths::CHUNKS, Some(session));
        let mut answer = self.send(&call, || ids_payload(ids)).await?;
        let largest = u64::from(MAX_BLOCK_PLAIN_BYTES) + BlockHeader::CHUNK_LENGTH as u64 * 4096 + 48;
        let limit = MAX_CHUNKS_BYTES.min(largest.saturating_mul(ids.len() as u64));
        let mut wanted: HashSet<ChunkId> = ids.iter().copied().collect();
        let whole = answer.patience().whole;
        let read = async {
            let (mut reader, mut blocks, mut bytes) = (BlockReader::default(), Vec::new(), 0);
            while let Some(piece) = answer.piece().await? {
                bytes += piece.len() as u64;
                if bytes > limit {
                    return Err(Error::NotUnderstood(format!("more than {limit} bytes")));
                }
                reader.push(&piece);
                while let Some(block) = reader.next_block()? {
                    let useful = block.header.chunks.iter().filter(|chunk| wanted.remove(&chunk.id)).count();
                    if useful == 0 {
                        return Err(Error::NotUnderstood("chunks that nobody asked for".to_owned()));
                    }
                    blocks.push(block);
                }
            }
            reader.finish().map(|()| blocks)
        };
        let blocks = timeout(whole, read).await.unwrap_or(Err(Error::TimedOut("send chunks")))?;
        if wanted.is_empty() {
            Ok(blocks)
        } else {
            // The receiver has sent the head of its answer already when it finds out that it cannot read something.
            Err(Error::Broken(format!("{} of {} chunks did not come", wanted.len(), ids.len()).into()))
        }
    }

    /// Commits a record. Harmless twice: the same record is answered with the same snapshot.
    pub(crate) async fn finish(&self, session: SessionId, record: &SignedRecord) -> Result<Finished> {
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

    #[test]
    fn bit_i_of_the_bitmap_speaks_of_id_i_lowest_bit_first() {
        let ids: Vec<_> = (0..20).map(|n| ChunkId::from_bytes([n; 32])).collect();
        assert_eq!(marked(&[0b0000_0001, 0b1000_0000, 0b1111_1000], &ids), [ids[0], ids[15], ids[19]]);
        assert_eq!(marked(&[0xff; 3], &ids), ids);
        assert_eq!(marked(&[], &ids), []);
    }
}
