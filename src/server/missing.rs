//! `missing`: which of these chunks does the session's repository lack. Answered within that repository only, so that nobody
//! learns what others keep here.

use crate::model::ChunkId;
use crate::model::limits::MAX_MISSING_IDS;
use crate::server::api_error::ApiError;
use crate::server::body::read_whole;
use crate::server::call::{Call, octets};
use crate::server::sessions::Use;
use crate::server::state::{Shared, blocking};
use axum::response::Response;
use std::collections::HashSet;
use std::sync::Arc;

/// `POST missing`: ids in, a bitmap out.
pub(crate) async fn missing(shared: Arc<Shared>, call: Call) -> Result<Response, ApiError> {
    let under_way = shared.begin_call(call.session()?, call.peer()?.fingerprint, Use::Write).await?;
    let repository = under_way.repository.clone();
    let body = read_whole(call.into_body(), MAX_MISSING_IDS * ChunkId::LENGTH, shared.pace).await?;
    let ids = chunk_ids(&body)?;
    let bitmap = blocking(move || {
        let missing: HashSet<_> = repository.missing(&ids)?.into_iter().collect();
        Ok(bitmap(&ids, &missing))
    });
    Ok(octets(bitmap.await?))
}

/// The ids of a body that is nothing but ids.
pub(crate) fn chunk_ids(body: &[u8]) -> Result<Vec<ChunkId>, ApiError> {
    let (ids, rest) = body.as_chunks::<{ ChunkId::LENGTH }>();
    if !rest.is_empty() {
        return Err(ApiError::bad_request("the body is not a number of whole ids"));
    }
    Ok(ids.iter().copied().map(ChunkId::from_bytes).collect())
}

/// Bit i, counted from the lowest of byte i/8, is set when `ids[i]` is missing.
fn bitmap(ids: &[ChunkId], missing: &HashSet<ChunkId>) -> Vec<u8> {
    let mut bitmap = vec![0; ids.len().div_ceil(8)];
    for (i, id) in ids.iter().enumerate() {
        if missing.contains(id) {
            bitmap[i / 8] |= 1 << (i % 8);
        }
    }
    bitmap
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bitmap_says_what_is_missing_lowest_bit_first() {
        let ids: Vec<_> = (0..10).map(|n| ChunkId::from_bytes([n; 32])).collect();
        let missing = [ids[0], ids[3], ids[9]].into();
        assert_eq!(bitmap(&ids, &missing), [0b0000_1001, 0b10]);
        assert!(bitmap(&[], &missing).is_empty());
    }

    #[test]
    fn a_body_of_ids_must_be_whole() {
        assert_eq!(chunk_ids(&[7; 64]).unwrap(), [ChunkId::from_bytes([7; 32]); 2]);
        assert!(chunk_ids(&[]).unwrap().is_empty());
        assert!(chunk_ids(&[7; 65]).is_err());
    }
}
