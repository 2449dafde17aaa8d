//! `upload`: one batch of blocks becomes one pack.
//!
//! Parsed and verified as it streams in, one block in memory at a time, and that counted, on the blocking side. Nothing is kept of a batch that
//! breaks off or holds one wrong block: the writer is dropped, and with it the pack.

use crate::model::limits::{MAX_UPLOAD_BYTES, MAX_UPLOAD_CHUNKS};
use crate::model::{Block, BlockHeader};
use crate::protocol::session::Uploaded;
use crate::server::api_error::ApiError;
use crate::server::body::{Paced, feed};
use crate::server::call::{Call, json};
use crate::server::room;
use crate::server::sessions::Use;
use crate::server::state::Shared;
use axum::response::Response;
use bytes::Bytes;
use http::StatusCode;
use std::io::{self, Read};
use std::sync::Arc;

/// `POST upload`.
pub(crate) async fn upload(shared: Arc<Shared>, call: Call) -> Result<Response, ApiError> {
    let device = call.peer()?.fingerprint;
    let mut under_way = shared.begin_call(call.session()?, device, Use::Write).await?;
    let repository = under_way.repository.clone();
    let _place = shared.transfer(device).await?;
    let announced = call.announced_length().unwrap_or(MAX_UPLOAD_BYTES);
    let body = Paced::new(call.into_body(), MAX_UPLOAD_BYTES, shared.pace);
    let write = {
        let shared = shared.clone();
        move |mut incoming| {
            let _room = room::claim(&shared, &repository, device, announced)?;
            let mut writer = repository.begin_pack()?;
            let mut chunks = 0;
            while let Some(header) = next_header(&mut incoming)? {
                chunks += header.chunks.len();
                if chunks > MAX_UPLOAD_CHUNKS {
                    return Err(ApiError::too_large(format!("an upload has more than {MAX_UPLOAD_CHUNKS} chunks")));
                }
                // As it comes and as it is looked at, until it lies in the pack.
                let bytes = u64::from(header.stored_length) + u64::from(header.plain_length());
                let _memory = shared.memory(device, bytes)?;
                writer.append(&rest_of_block(&mut incoming, header)?)?;
            }
            Ok(writer.finish()?)
        }
    };
    let (chunks, bytes) = feed(body, write).await?;
    under_way.moved(bytes);
    Ok(json(StatusCode::OK, &Uploaded { chunks }))
}

/// The next block; `None` when the body ends where a block would begin.
pub(crate) fn next_block(reader: &mut impl Read) -> Result<Option<Block>, ApiError> {
    next_header(reader)?.map(|header| rest_of_block(reader, header)).transpose()
}

fn cut(error: io::Error) -> ApiError {
    ApiError::bad_request("the body is cut off inside a block").caused_by(error)
}

/// The header of the next block, every length in it checked.
fn next_header(reader: &mut impl Read) -> Result<Option<BlockHeader>, ApiError> {
    let wrong = |error| ApiError::corrupt("a block's header cannot be read").caused_by(error);
    let mut fixed = [0; BlockHeader::FIXED_LENGTH];
    let first = loop {
        match reader.read(&mut fixed) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            other => break other.map_err(cut)?,
        }
    };
    if first == 0 {
        return Ok(None);
    }
    reader.read_exact(&mut fixed[first..]).map_err(cut)?;
    // The count is checked against its limit before anything is made room for.
    let count = BlockHeader::chunk_count(&fixed).map_err(wrong)?;
    let mut head = vec![0; BlockHeader::FIXED_LENGTH + count * BlockHeader::CHUNK_LENGTH];
    head[..BlockHeader::FIXED_LENGTH].copy_from_slice(&fixed);
    reader.read_exact(&mut head[BlockHeader::FIXED_LENGTH..]).map_err(cut)?;
    BlockHeader::decode(&head).map(Some).map_err(wrong)
}

fn rest_of_block(reader: &mut impl Read, header: BlockHeader) -> Result<Block, ApiError> {
    let mut stored = vec![0; header.stored_length as usize];
    reader.read_exact(&mut stored).map_err(cut)?;
    Ok(Block { header, stored: Bytes::from(stored) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::{Compression, Encoder, chunk_id};
    use crate::protocol::ErrorCode;

    fn encoded(text: &'static [u8]) -> Vec<u8> {
        let block = Encoder::new(Compression::default()).encode(&[(chunk_id(text), Bytes::from_static(text))]);
        let mut bytes = Vec::new();
        block.header.encode(&mut bytes);
        bytes.extend_from_slice(&block.stored);
        bytes
    }

    #[test]
    fn blocks_are_read_one_after_the_other_and_a_cut_anywhere_is_noticed() {
        let body = [encoded(b"first"), encoded(b"second")].concat();
        let boundaries = [0, encoded(b"first").len(), body.len()];
        for length in 0..=body.len() {
            let mut reader = &body[..length];
            let whole = loop {
                match next_block(&mut reader) {
                    Ok(Some(_)) => {}
                    Ok(None) => break true,
                    Err(error) => {
                        assert_eq!(error.code(), ErrorCode::BadRequest);
                        break false;
                    }
                }
            };
            assert_eq!(whole, boundaries.contains(&length), "{length}");
        }
    }

    #[test]
    fn a_header_that_announces_too_much_is_refused_before_it_is_read() {
        let mut body = encoded(b"first");
        body[4..8].copy_from_slice(&5000_u32.to_le_bytes());
        assert_eq!(next_block(&mut body.as_slice()).unwrap_err().code(), ErrorCode::Corrupt);
    }
}
