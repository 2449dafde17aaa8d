//! `chunks`: fetch chunks by id. Blocks leave as they lie in the packs, in an order kind to them, two in memory at a time.

use crate::model::limits::MAX_FETCH_IDS;
use crate::model::{Block, ChunkId};
use crate::server::api_error::ApiError;
use crate::server::body::read_whole;
use crate::server::call::{Call, octets};
use crate::server::limits::BLOCK_CHANNEL;
use crate::server::missing::chunk_ids;
use crate::server::sessions::Use;
use crate::server::state::{CallUnderWay, Shared};
use axum::body::Body;
use axum::response::Response;
use bytes::Bytes;
use futures_util::stream;
use std::io;
use std::ops::ControlFlow;
use std::sync::Arc;
use tokio::sync::{OwnedSemaphorePermit, mpsc};

/// `POST chunks`: ids in, blocks out, one after the other.
pub(crate) async fn chunks(shared: Arc<Shared>, call: Call) -> Result<Response, ApiError> {
    let under_way = shared.begin_call(call.session()?, call.peer()?.fingerprint, Use::Read).await?;
    let repository = under_way.repository.clone();
    let body = read_whole(call.into_body(), MAX_FETCH_IDS * ChunkId::LENGTH, shared.pace).await?;
    let ids = chunk_ids(&body)?;
    let permit = shared.transfer().await?;
    let (sender, blocks) = mpsc::channel(BLOCK_CHANNEL);
    tokio::task::spawn_blocking(move || {
        let mut each = |block: Block| match sender.blocking_send(Ok(encode(&block))) {
            Ok(()) => ControlFlow::Continue(()),
            // The caller is gone.
            Err(_) => ControlFlow::Break(()),
        };
        if let Err(error) = repository.read_blocks(&ids, &mut each) {
            let _ = sender.blocking_send(Err(ApiError::from(error)));
        }
    });
    let mut sending = Sending { blocks, under_way, _permit: permit };
    // What goes wrong before the first block still gets a proper answer; after it the answer breaks off.
    match sending.blocks.recv().await {
        None => Ok(octets(Bytes::new())),
        Some(Err(error)) => Err(error),
        Some(Ok(first)) => Ok(octets(Body::from_stream(stream::unfold(Some((Ok(first), sending)), send)))),
    }
}

/// What lives as long as the answer is under way.
struct Sending {
    blocks: mpsc::Receiver<Result<Bytes, ApiError>>,
    under_way: CallUnderWay,
    _permit: OwnedSemaphorePermit,
}

type State = Option<(io::Result<Bytes>, Sending)>;

async fn send(state: State) -> Option<(io::Result<Bytes>, State)> {
    let (bytes, mut sending) = state?;
    let Ok(bytes) = bytes else { return Some((bytes, None)) };
    sending.under_way.moved(bytes.len() as u64);
    let next = sending.blocks.recv().await.map(|next| {
        let next = next.map_err(|error| {
            tracing::error!(?error, "a download broke off");
            io::Error::other("a block cannot be read")
        });
        (next, sending)
    });
    Some((Ok(bytes), next))
}

fn encode(block: &Block) -> Bytes {
    let mut bytes = Vec::with_capacity(block.encoded_length() as usize);
    block.header.encode(&mut bytes);
    bytes.extend_from_slice(&block.stored);
    Bytes::from(bytes)
}
