//! A block: one or more chunks compressed together. The same bytes travel in an upload, lie in a pack and come back in a
//! download, so nothing is encoded twice on the way.
//!
//! ```text
//! offset  size  field (integers little-endian)
//!      0     2  magic "LB"
//!      2     1  codec: 0 none, 1 zstd, 2 LZ4
//!      3     1  key slot: 0 plain; others are reserved for encrypted repositories
//!      4     4  number of chunks, 1..=4096
//!      8     4  plain length of all chunks together
//!     12     4  stored length
//!     16    32  stored hash: BLAKE3 of the stored bytes
//!     48  36*n  for each chunk: its id (32), its plain length (4); they lie one after the other in the plain bytes
//! 48+36n     -  the stored bytes
//! ```

use crate::model::limits::{MAX_BLOCK_CHUNKS, MAX_BLOCK_PLAIN_BYTES};
use crate::model::{ChunkId, ParseError, StoredHash};
use bytes::Bytes;

/// How the plain bytes of a block became the stored ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Codec {
    /// As they are.
    None,
    /// zstd, one frame.
    Zstd,
    /// LZ4, one block (the plain length stands in the header).
    Lz4,
}

impl Codec {
    fn from_byte(byte: u8) -> Option<Self> {
        match byte {
            0 => Some(Self::None),
            1 => Some(Self::Zstd),
            2 => Some(Self::Lz4),
            _ => None,
        }
    }

    /// The number that stands in headers.
    pub fn byte(self) -> u8 {
        match self {
            Self::None => 0,
            Self::Zstd => 1,
            Self::Lz4 => 2,
        }
    }
}

/// One chunk inside a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChunkRef {
    /// What it is called.
    pub id: ChunkId,
    /// Number of its plain bytes.
    pub length: u32,
}

/// What stands before the stored bytes of a block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlockHeader {
    /// How the bytes are compressed.
    pub codec: Codec,
    /// Number of stored bytes that follow.
    pub stored_length: u32,
    /// Hash of the stored bytes.
    pub stored_hash: StoredHash,
    /// The chunks, in the order in which they lie in the plain bytes; never empty.
    pub chunks: Vec<ChunkRef>,
}

impl BlockHeader {
    /// Length of the part that is there for any number of chunks.
    pub const FIXED_LENGTH: usize = 48;
    /// Length of what is added for each chunk.
    pub const CHUNK_LENGTH: usize = 36;
    const MAGIC: [u8; 2] = *b"LB";

    /// Number of plain bytes of all chunks.
    pub fn plain_length(&self) -> u32 {
        self.chunks.iter().map(|chunk| chunk.length).sum()
    }

    /// Length of the encoded header.
    pub fn encoded_length(&self) -> usize {
        Self::FIXED_LENGTH + self.chunks.len() * Self::CHUNK_LENGTH
    }

    /// Appends the encoded header to `out`.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.reserve(self.encoded_length());
        out.extend_from_slice(&Self::MAGIC);
        out.push(self.codec.byte());
        out.push(0);
        out.extend_from_slice(&(self.chunks.len() as u32).to_le_bytes());
        out.extend_from_slice(&self.plain_length().to_le_bytes());
        out.extend_from_slice(&self.stored_length.to_le_bytes());
        out.extend_from_slice(self.stored_hash.as_bytes());
        for chunk in &self.chunks {
            out.extend_from_slice(chunk.id.as_bytes());
            out.extend_from_slice(&chunk.length.to_le_bytes());
        }
    }

    /// Number of chunks that the fixed part announces, checked, so that the caller knows how much more to read.
    pub fn chunk_count(fixed: &[u8; Self::FIXED_LENGTH]) -> Result<usize, ParseError> {
        let refuse = |problem| Err(ParseError::new("block header", "", problem));
        if fixed[..2] != Self::MAGIC {
            return refuse("does not begin with its magic bytes");
        }
        match read_u32(fixed, 4) as usize {
            count @ 1..=MAX_BLOCK_CHUNKS => Ok(count),
            _ => refuse("announces no chunk or more than 4096"),
        }
    }

    /// Reads a header from the start of `bytes`, which must hold all of it; what follows is left alone. Every length in the
    /// result is within the limits, and the parts add up.
    pub fn decode(bytes: &[u8]) -> Result<Self, ParseError> {
        let refuse = |problem| Err(ParseError::new("block header", "", problem));
        let Some(fixed) = bytes.first_chunk::<{ Self::FIXED_LENGTH }>() else { return refuse("is cut short") };
        let count = Self::chunk_count(fixed)?;
        let Some(codec) = Codec::from_byte(fixed[2]) else { return refuse("names a codec this version does not know") };
        if fixed[3] != 0 {
            return refuse("names a key slot, and this version keeps no encrypted blocks");
        }
        let plain_length = read_u32(fixed, 8);
        let stored_length = read_u32(fixed, 12);
        if plain_length > MAX_BLOCK_PLAIN_BYTES || stored_length > MAX_BLOCK_PLAIN_BYTES {
            return refuse("announces more than 4 MiB");
        }
        let Some(table) = bytes.get(Self::FIXED_LENGTH..Self::FIXED_LENGTH + count * Self::CHUNK_LENGTH) else {
            return refuse("is cut short");
        };
        let mut chunks = Vec::with_capacity(count);
        let mut sum = 0_u64;
        for row in table.chunks_exact(Self::CHUNK_LENGTH) {
            let mut id = [0; 32];
            id.copy_from_slice(&row[..32]);
            let length = read_u32(row, 32);
            sum += u64::from(length);
            chunks.push(ChunkRef { id: ChunkId::from_bytes(id), length });
        }
        if sum != u64::from(plain_length) {
            return refuse("has chunks that do not add up to its length");
        }
        let mut hash = [0; 32];
        hash.copy_from_slice(&fixed[16..48]);
        Ok(Self { codec, stored_length, stored_hash: StoredHash::from_bytes(hash), chunks })
    }
}

fn read_u32(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

/// A header and its stored bytes. Whether they belong together is for the codec to check.
#[derive(Clone, Debug)]
pub struct Block {
    /// What stands before the bytes.
    pub header: BlockHeader,
    /// Exactly `header.stored_length` bytes.
    pub stored: Bytes,
}

impl Block {
    /// Number of bytes that the block takes on the wire and in a pack.
    pub fn encoded_length(&self) -> u64 {
        (self.header.encoded_length() + self.stored.len()) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header() -> BlockHeader {
        let chunk = |n: u8| ChunkRef { id: ChunkId::from_bytes([n; 32]), length: u32::from(n) * 1000 };
        BlockHeader {
            codec: Codec::Zstd,
            stored_length: 77,
            stored_hash: StoredHash::from_bytes([9; 32]),
            chunks: vec![chunk(1), chunk(2), chunk(3)],
        }
    }

    #[test]
    fn a_header_is_read_as_it_was_written() {
        let mut bytes = Vec::new();
        header().encode(&mut bytes);
        assert_eq!(bytes.len(), header().encoded_length());
        bytes.extend_from_slice(b"what follows");
        assert_eq!(BlockHeader::decode(&bytes).unwrap(), header());
    }

    #[test]
    fn every_flipped_bit_outside_the_hashes_is_noticed_or_changes_the_header() {
        let mut good = Vec::new();
        header().encode(&mut good);
        for bit in 0..good.len() * 8 {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            if let Ok(read) = BlockHeader::decode(&bad) {
                assert_ne!(read, header(), "bit {bit}");
            }
        }
    }

    #[test]
    fn cut_headers_and_big_lengths_are_refused() {
        let mut good = Vec::new();
        header().encode(&mut good);
        for length in 0..good.len() {
            assert!(BlockHeader::decode(&good[..length]).is_err());
        }
        let mut big = header();
        big.chunks[0].length = MAX_BLOCK_PLAIN_BYTES;
        let mut bytes = Vec::new();
        big.encode(&mut bytes);
        assert!(BlockHeader::decode(&bytes).is_err());
    }
}
