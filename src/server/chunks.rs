//! `chunks`: fetch chunks by id. Blocks leave as they lie in the packs, in an order kind to them, few in memory at a time, and those counted.

use crate::model::limits::MAX_FETCH_IDS;
use crate::model::{Block, ChunkId, Fingerprint};
use crate::server::api_error::ApiError;
use crate::server::body::read_whole;
use crate::server::call::{Call, octets};
use crate::server::limits::{BLOCK_CHANNEL, BLOCK_MEMORY, memory_units};
use crate::server::missing::chunk_ids;
use crate::server::sessions::Use;
use crate::server::shares::Share;
use crate::server::state::{CallUnderWay, Shared};
use crate::store::Repository;
use axum::body::Body;
use axum::response::Response;
use bytes::Bytes;
use futures_util::stream;
use std::collections::HashSet;
use std::io;
use std::ops::ControlFlow;
use std::sync::Arc;
use tokio::sync::mpsc;

/// A block of fewer stored bytes travels in one piece with its header: copying it costs less than another piece.
const SMALL_BYTES: usize = 64 << 10;

/// `POST chunks`: ids in, blocks out, one after the other.
pub(crate) async fn chunks(shared: Arc<Shared>, call: Call) -> Result<Response, ApiError> {
    let device = call.peer()?.fingerprint;
    let under_way = shared.begin_call(call.session()?, device, Use::Read).await?;
    let repository = under_way.repository.clone();
    let body = read_whole(call.into_body(), MAX_FETCH_IDS * ChunkId::LENGTH, shared.pace).await?;
    let ids = chunk_ids(&body)?;
    let place = shared.transfer(device).await?;
    let (sender, pieces) = mpsc::channel(BLOCK_CHANNEL);
    tokio::task::spawn_blocking(move || {
        if let Err(error) = deliver(&shared, device, &repository, &ids, &sender) {
            let _ = sender.blocking_send(Err(error));
        }
    });
    let mut sending = Sending { pieces, under_way, _place: place };
    // What goes wrong before the first block still gets a proper answer; after it the answer breaks off.
    match sending.pieces.recv().await {
        None => Ok(octets(Bytes::new())),
        Some(Err(error)) => Err(error),
        Some(Ok(first)) => Ok(octets(Body::from_stream(stream::unfold(Some((Ok(first), sending)), send)))),
    }
}

/// Reads block after block. Memory for the next one is taken before it is read, and given back when the network has it; so who does
/// not read its answer is waited for with what it was given, and nothing more. Blocking.
fn deliver(
    shared: &Shared,
    device: Fingerprint,
    repository: &Repository,
    ids: &[ChunkId],
    sender: &mpsc::Sender<Result<Bytes, ApiError>>,
) -> Result<(), ApiError> {
    let mut left: HashSet<ChunkId> = ids.iter().copied().collect();
    if left.is_empty() {
        return Ok(());
    }
    // For the block that is read next; why there is none any more.
    let mut memory = Ok(shared.memory(device, BLOCK_MEMORY)?);
    let mut each = |block: Block| {
        for chunk in &block.header.chunks {
            left.remove(&chunk.id);
        }
        let own = std::mem::replace(&mut memory, Err(ApiError::failed()));
        let Ok(own) = own else { return ControlFlow::Break(()) };
        let gone = pieces(block, own).into_iter().any(|piece| sender.blocking_send(Ok(piece)).is_err());
        // What would come yet brings nothing that did not come beside something else.
        if gone || left.is_empty() {
            return ControlFlow::Break(());
        }
        memory = shared.memory(device, BLOCK_MEMORY);
        if memory.is_ok() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    };
    repository.read_blocks(ids, &mut each)?;
    if left.is_empty() { Ok(()) } else { memory.map(drop) }
}

/// A block as it travels. Its memory is free when the last byte of it has left.
fn pieces(block: Block, mut memory: Share) -> Vec<Bytes> {
    memory.shrink(memory_units(block.encoded_length()));
    let mut header = Vec::with_capacity(block.header.encoded_length());
    block.header.encode(&mut header);
    if block.stored.len() < SMALL_BYTES {
        header.extend_from_slice(&block.stored);
        return vec![memory.held_by(Bytes::from(header))];
    }
    vec![Bytes::from(header), memory.held_by(block.stored)]
}

/// What lives as long as the answer is under way.
struct Sending {
    pieces: mpsc::Receiver<Result<Bytes, ApiError>>,
    under_way: CallUnderWay,
    _place: Share,
}

type State = Option<(io::Result<Bytes>, Sending)>;

async fn send(state: State) -> Option<(io::Result<Bytes>, State)> {
    let (bytes, mut sending) = state?;
    let Ok(bytes) = bytes else { return Some((bytes, None)) };
    sending.under_way.moved(bytes.len() as u64);
    let next = sending.pieces.recv().await.map(|next| {
        let next = next.map_err(|error| {
            tracing::error!(?error, "a download broke off");
            io::Error::other("a block cannot be read")
        });
        (next, sending)
    });
    Some((Ok(bytes), next))
}
