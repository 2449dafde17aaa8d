//! Blocks on the wire: one after the other, as they lie in packs. Out without copying a stored byte, in with every length
//! checked before memory is given to it.

use crate::client::error::{Error, Result};
use crate::model::{Block, BlockHeader};
use bytes::{Buf, Bytes, BytesMut};

/// Pieces in which bodies are handed to the connection. Progress is noticed by the piece, so a large block on a slow line
/// is not taken for a stalled one.
const PIECE_BYTES: usize = 64 << 10;

/// The body of an upload, in order.
pub(crate) fn pieces(blocks: &[Block]) -> Vec<Bytes> {
    let mut pieces = Vec::new();
    for block in blocks {
        let mut header = Vec::new();
        block.header.encode(&mut header);
        pieces.push(Bytes::from(header));
        let stored = &block.stored;
        pieces.extend(
            (0..stored.len()).step_by(PIECE_BYTES).map(|at| stored.slice(at..stored.len().min(at + PIECE_BYTES))),
        );
    }
    pieces
}

/// Reads blocks out of pieces of any size.
#[derive(Debug, Default)]
pub(crate) struct BlockReader {
    buffer: BytesMut,
    header: Option<BlockHeader>,
}

impl BlockReader {
    /// Takes the next piece. [`BlockReader::next_block`] must be called until it gives nothing before the next one; so at most one
    /// block and one piece are held.
    pub(crate) fn push(&mut self, piece: &[u8]) {
        self.buffer.extend_from_slice(piece);
    }

    /// The next block, once all of it has come.
    pub(crate) fn next_block(&mut self) -> Result<Option<Block>> {
        if self.header.is_none() {
            self.header = self.next_header()?;
        }
        match &self.header {
            Some(header) if self.buffer.len() >= header.stored_length as usize => {
                let stored = self.buffer.split_to(header.stored_length as usize).freeze();
                Ok(self.header.take().map(|header| Block { header, stored }))
            }
            _ => Ok(None),
        }
    }

    fn next_header(&mut self) -> Result<Option<BlockHeader>> {
        let Some(fixed) = self.buffer.first_chunk::<{ BlockHeader::FIXED_LENGTH }>() else { return Ok(None) };
        let refuse =
            |error: crate::model::ParseError| Error::NotUnderstood(format!("blocks that cannot be read: {error}"));
        let count = BlockHeader::chunk_count(fixed).map_err(refuse)?;
        let length = BlockHeader::FIXED_LENGTH + count * BlockHeader::CHUNK_LENGTH;
        if self.buffer.len() < length {
            return Ok(None);
        }
        let header = BlockHeader::decode(&self.buffer[..length]).map_err(refuse)?;
        self.buffer.advance(length);
        Ok(Some(header))
    }

    /// Nothing more comes: nothing may be left over.
    pub(crate) fn finish(self) -> Result<()> {
        if self.header.is_none() && self.buffer.is_empty() {
            Ok(())
        } else {
            Err(Error::Broken("the answer ended in the middle of a block".into()))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::{Compression, Encoder, chunk_id};

    fn blocks() -> Vec<Block> {
        let mut encoder = Encoder::new(Compression::None);
        let sizes = [0, 1, 100, PIECE_BYTES, PIECE_BYTES + 1, 1_000_000];
        sizes.iter().map(|size| Bytes::from(vec![7; *size])).map(|b| encoder.encode(&[(chunk_id(&b), b)])).collect()
    }

    fn read(pieces: &[Bytes]) -> Result<Vec<Block>> {
        let mut reader = BlockReader::default();
        let mut blocks = Vec::new();
        for piece in pieces {
            reader.push(piece);
            while let Some(block) = reader.next_block()? {
                blocks.push(block);
            }
        }
        reader.finish().map(|()| blocks)
    }

    #[test]
    fn what_is_sent_is_what_is_read_however_it_is_cut() {
        let sent = pieces(&blocks());
        assert!(sent.iter().all(|piece| piece.len() <= PIECE_BYTES));
        let all = Bytes::from(sent.concat());
        assert_eq!(all.len() as u64, blocks().iter().map(Block::encoded_length).sum::<u64>());
        for size in [1, 47, 1000, all.len()] {
            let cut: Vec<_> = (0..all.len()).step_by(size).map(|at| all.slice(at..all.len().min(at + size))).collect();
            let back = read(&cut).unwrap();
            assert_eq!(back.len(), blocks().len());
            for (a, b) in back.iter().zip(blocks()) {
                assert_eq!((&a.header, &a.stored), (&b.header, &b.stored));
            }
        }
    }

    #[test]
    fn an_answer_that_is_cut_short_anywhere_is_an_error() {
        let all = Bytes::from(pieces(&blocks()[..3]).concat());
        let whole: Vec<usize> = (0..3).map(|n| pieces(&blocks()[..n]).concat().len()).collect();
        for length in (0..all.len()).filter(|length| !whole.contains(length)) {
            assert!(matches!(read(&[all.slice(..length)]), Err(Error::Broken(_))), "{length}");
        }
    }

    #[test]
    fn a_hostile_header_is_refused_before_its_bytes_are_waited_for() {
        for hostile in [vec![b'x'; 48], [&b"LB\0\0"[..], &[0xff; 44]].concat()] {
            assert!(matches!(read(&[hostile.into()]), Err(Error::NotUnderstood(_))));
        }
    }
}
