//! What was asked for in `chunks`, and what came: an answer must not cost much more than what was asked for.
//!
//! Blocks may hold chunks that nobody asked for, because they lie in packs as they are; a holder sends at most as much of those as
//! of what was asked for, and cuts down a block that has more (`protocol.md` §7). So the caller knows beforehand what an honest
//! answer can cost, packed or unpacked, and a holder that sends more lies.

use crate::client::error::{Error, Result};
use crate::model::limits::{MAX_BLOCK_CHUNKS, MAX_BLOCK_PLAIN_BYTES};
use crate::model::{Block, BlockHeader, ChunkId};
use std::collections::HashMap;

/// What one order may cost at the most, whatever was asked for: far above what a restore asks for at once.
pub(crate) const MAX_ORDER_BYTES: u64 = 64 << 20;
/// The largest block: what an order may cost beyond its measure, because a holder of an older version measures a little otherwise.
pub(crate) const LARGEST_BLOCK: u64 =
    MAX_BLOCK_PLAIN_BYTES as u64 + (BlockHeader::FIXED_LENGTH + MAX_BLOCK_CHUNKS * BlockHeader::CHUNK_LENGTH) as u64;

/// Chunks that are asked for, in one call or several, and the blocks that have come.
#[derive(Debug)]
pub(crate) struct Order {
    /// Each chunk, and whether it has come.
    chunks: HashMap<ChunkId, bool>,
    most: u64,
    room: u64,
    blocks: Vec<Block>,
}

impl Order {
    /// An order for `ids`, which are `bytes` together.
    pub(crate) fn new(ids: &[ChunkId], bytes: u64) -> Self {
        let (row, head) = (BlockHeader::CHUNK_LENGTH as u64, BlockHeader::FIXED_LENGTH as u64);
        // Each asked chunk with its row, as much again that nobody asked for, and a block for each.
        let count = ids.len() as u64;
        let honest = bytes.saturating_add(count * row).saturating_mul(2).saturating_add(count * head);
        let most = honest.saturating_add(LARGEST_BLOCK).min(MAX_ORDER_BYTES);
        Self { chunks: ids.iter().map(|id| (*id, false)).collect(), most, room: most, blocks: Vec::new() }
    }

    /// Bytes that one answer may be long.
    pub(crate) fn most(&self) -> u64 {
        self.most
    }

    /// Whether a chunk of the order has not come yet.
    pub(crate) fn lacks(&self, id: &ChunkId) -> bool {
        self.chunks.get(id) == Some(&false)
    }

    /// A block has come. One that brings nothing new (a chunk may lie in several blocks) is not kept.
    ///
    /// # Errors
    /// It holds nothing that was asked for, or all together is more than that explains.
    pub(crate) fn take(&mut self, block: Block) -> Result<()> {
        let (mut asked, mut new) = (false, false);
        for chunk in &block.header.chunks {
            if let Some(came) = self.chunks.get_mut(&chunk.id) {
                asked = true;
                new |= !std::mem::replace(came, true);
            }
        }
        if !asked {
            return Err(Error::NotUnderstood("chunks that nobody asked for".to_owned()));
        }
        if !new {
            return Ok(());
        }
        let header = &block.header;
        let cost = u64::from(header.stored_length.max(header.plain_length())) + header.encoded_length() as u64;
        self.room = self.room.checked_sub(cost).ok_or(Error::TooMuch(self.most))?;
        self.blocks.push(block);
        Ok(())
    }

    /// What has come.
    pub(crate) fn into_blocks(self) -> Vec<Block> {
        self.blocks
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::{Compression, Encoder, chunk_id};
    use bytes::Bytes;

    fn chunk(n: u8, length: usize) -> (ChunkId, Bytes) {
        let bytes = Bytes::from(vec![n; length]);
        (chunk_id(&bytes), bytes)
    }

    fn block(chunks: &[(ChunkId, Bytes)]) -> Block {
        Encoder::new(Compression::default()).encode(chunks)
    }

    #[test]
    fn a_chunk_that_lies_in_two_blocks_comes_twice_and_is_kept_once() {
        let (one, both, other) = (chunk(1, 900), chunk(2, 500), chunk(3, 400));
        let mut order = Order::new(&[one.0, both.0], 1400);
        order.take(block(&[one.clone(), both.clone()])).unwrap();
        assert!(!order.lacks(&one.0) && !order.lacks(&both.0));
        order.take(block(&[both, other.clone()])).unwrap();
        assert!(order.take(block(&[other])).is_err(), "nobody asked for that at all");
        assert_eq!(order.into_blocks().len(), 1);
    }

    #[test]
    fn what_unpacks_to_more_than_was_asked_for_is_refused_however_small_it_is_packed() {
        let wanted: Vec<_> = (0..200).map(|n| chunk(n, 100)).collect();
        let zeros = chunk(0, MAX_BLOCK_PLAIN_BYTES as usize - 100);
        let ids: Vec<_> = wanted.iter().map(|(id, _)| *id).collect();
        let mut order = Order::new(&ids, 200 * 100);
        let bombs: Vec<_> = wanted.iter().map(|chunk| block(&[chunk.clone(), zeros.clone()])).collect();
        let packed: u64 = bombs.iter().map(Block::encoded_length).sum();
        assert!(packed < 200_000, "{packed}");
        let taken = bombs.into_iter().take_while(|bomb| order.take(bomb.clone()).is_ok()).count();
        assert_eq!(taken, 1, "of 800 MiB");
        // The control: the same chunks with as much again that nobody asked for, which is what an honest holder sends at most.
        let mut order = Order::new(&ids, 200 * 100);
        for (n, chunk) in wanted.iter().enumerate() {
            let unasked = Bytes::from(n.to_le_bytes().repeat(12));
            order.take(block(&[chunk.clone(), (chunk_id(&unasked), unasked)])).unwrap();
        }
        assert_eq!(order.into_blocks().len(), 200);
    }

    #[test]
    fn headers_count_too() {
        let wanted = chunk(1, 0);
        let rows: Vec<_> = std::iter::once(wanted.clone()).chain((0..4095).map(|_| chunk(2, 0))).collect();
        let (crowded, mut order) = (block(&rows), Order::new(&[wanted.0], 0));
        order.take(crowded.clone()).unwrap();
        let others: Vec<_> = (0..40_u8).map(|n| chunk(n, 1)).collect();
        let mut order = Order::new(&others.iter().map(|(id, _)| *id).collect::<Vec<_>>(), 40);
        let crowd = |chunk: &(ChunkId, Bytes)| {
            let rows: Vec<_> = std::iter::once(chunk.clone()).chain(rows[1..].iter().cloned()).collect();
            block(&rows)
        };
        let taken = others.iter().take_while(|chunk| order.take(crowd(chunk)).is_ok()).count();
        assert!(taken < 32, "{taken} headers of 144 KiB for 40 bytes");
    }

    #[test]
    fn no_order_is_without_an_end() {
        let ids: Vec<_> = (0..=255).map(|n| chunk(n, 1).0).collect();
        assert_eq!(Order::new(&ids, u64::MAX).most(), MAX_ORDER_BYTES);
    }
}
