//! Chunks to blocks and back: hashing, compression, and the checks that keep wrong bytes out.

use crate::model::limits::MAX_BLOCK_PLAIN_BYTES;
use crate::model::{Block, BlockHeader, ChunkId, ChunkRef, Codec, StoredHash};
use bytes::Bytes;
use std::fmt;
use std::io::Read;

/// What is wrong with a block.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The stored bytes are not the ones that were hashed: bit rot or a cut transfer.
    #[error("the stored bytes of a block do not match their hash")]
    StoredHash,
    /// The stored bytes do not decompress to the announced length.
    #[error("a block does not decompress to the announced {expected} bytes")]
    Length {
        /// The length in the header.
        expected: u32,
    },
    /// A chunk's bytes do not hash to its id.
    #[error("the bytes of chunk {0} do not match its id")]
    Chunk(ChunkId),
}

/// The id of a chunk in a repository that is not encrypted.
pub fn chunk_id(plain: &[u8]) -> ChunkId {
    ChunkId::from_bytes(*blake3::hash(plain).as_bytes())
}

/// The hash of a block's stored bytes.
pub fn stored_hash(stored: &[u8]) -> StoredHash {
    StoredHash::from_bytes(*blake3::hash(stored).as_bytes())
}

/// How hard to compress.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    /// Not at all.
    None,
    /// zstd at a level from 1 to 19. Level 1 is the default: its fast path runs through incompressible data at gigabytes a
    /// second, so nothing is probed beforehand.
    Zstd(u8),
    /// LZ4: least work, least gain.
    Lz4,
}

impl Default for Compression {
    fn default() -> Self {
        Self::Zstd(1)
    }
}

/// Makes blocks; keeps its compression context and buffers from one to the next.
pub struct Encoder {
    compression: Compression,
    zstd: Option<zstd::bulk::Compressor<'static>>,
    plain: Vec<u8>,
}

impl fmt::Debug for Encoder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Encoder({:?})", self.compression)
    }
}

impl Encoder {
    /// An encoder for one way of compressing.
    pub fn new(compression: Compression) -> Self {
        let zstd = match compression {
            // Without a context the blocks stay uncompressed, which is legal; creation fails only without memory.
            Compression::Zstd(level) => zstd::bulk::Compressor::new(i32::from(level.clamp(1, 19))).ok(),
            Compression::None | Compression::Lz4 => None,
        };
        Self { compression, zstd, plain: Vec::new() }
    }

    /// One block of these chunks, whose ids the caller has computed from the same bytes. Falls back to no compression where
    /// compressing saves less than 1/32.
    ///
    /// # Panics
    /// When there is no chunk, or more plain bytes than [`MAX_BLOCK_PLAIN_BYTES`].
    pub fn encode(&mut self, chunks: &[(ChunkId, Bytes)]) -> Block {
        let length: usize = chunks.iter().map(|(_, bytes)| bytes.len()).sum();
        assert!(!chunks.is_empty() && length <= MAX_BLOCK_PLAIN_BYTES as usize, "a block holds 1 to 4 MiB");
        let refs = chunks.iter().map(|(id, bytes)| ChunkRef { id: *id, length: bytes.len() as u32 }).collect();
        let plain = if let [(_, bytes)] = chunks {
            bytes.clone()
        } else {
            self.plain.clear();
            for (_, bytes) in chunks {
                self.plain.extend_from_slice(bytes);
            }
            Bytes::new()
        };
        let source: &[u8] = if plain.is_empty() { &self.plain } else { &plain };
        let worth = source.len() - source.len() / 32;
        let packed = match self.compression {
            Compression::None => None,
            Compression::Zstd(_) => self.zstd.as_mut().and_then(|zstd| zstd.compress(source).ok()),
            Compression::Lz4 => Some(lz4_flex::block::compress(source)),
        };
        let (codec, stored) = match (packed.filter(|packed| packed.len() < worth), self.compression) {
            (Some(packed), Compression::Lz4) => (Codec::Lz4, Bytes::from(packed)),
            (Some(packed), _) => (Codec::Zstd, Bytes::from(packed)),
            (None, _) if plain.is_empty() => (Codec::None, Bytes::copy_from_slice(source)),
            (None, _) => (Codec::None, plain),
        };
        // A chunk that is stored as it is has its hash already: that of its id.
        let hash = match (codec, chunks) {
            (Codec::None, [(id, _)]) => StoredHash::from_bytes(*id.as_bytes()),
            _ => stored_hash(&stored),
        };
        let stored_length = stored.len() as u32;
        Block { header: BlockHeader { codec, stored_length, stored_hash: hash, chunks: refs }, stored }
    }
}

/// Reads blocks; keeps its decompression context from one to the next.
pub struct Decoder {
    zstd: Option<zstd::bulk::Decompressor<'static>>,
}

impl fmt::Debug for Decoder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Decoder")
    }
}

impl Default for Decoder {
    fn default() -> Self {
        Self::new()
    }
}

impl Decoder {
    /// A decoder for any block.
    pub fn new() -> Self {
        Self { zstd: zstd::bulk::Decompressor::new().ok() }
    }

    /// The plain bytes of a block, with everything checked: the stored hash, the length, and the id of each chunk.
    pub fn decode(&mut self, block: &Block) -> Result<Bytes, Error> {
        check_stored(block)?;
        let plain = self.decompress(block)?;
        for (chunk, bytes) in chunks(&block.header, &plain) {
            // With no compression and one chunk, checking the stored hash was checking the id when the two are equal.
            let checked = block.header.codec == Codec::None
                && block.header.chunks.len() == 1
                && chunk.id.as_bytes() == block.header.stored_hash.as_bytes();
            if !checked && chunk_id(bytes) != chunk.id {
                return Err(Error::Chunk(chunk.id));
            }
        }
        Ok(plain)
    }

    /// What is still good of a block that fails the checks of [`Decoder::decode`]: the chunks whose bytes hash to their ids. A
    /// chunk that does is what it was, whatever happened around it.
    pub fn salvage(&mut self, block: &Block) -> Vec<(ChunkId, Bytes)> {
        let expected = block.header.plain_length() as usize;
        let plain = match block.header.codec {
            Codec::None => block.stored.clone(),
            // One wrong bit ends an LZ4 block; a zstd frame gives what came before it.
            Codec::Lz4 => self.decompress(block).unwrap_or_default(),
            Codec::Zstd => {
                let mut plain = Vec::new();
                if let Ok(frame) = zstd::stream::read::Decoder::new(&block.stored[..]) {
                    // Whatever it ends with, what came is judged by its hashes.
                    let _ = frame.take(expected as u64).read_to_end(&mut plain);
                }
                Bytes::from(plain)
            }
        };
        let mut at = 0_usize;
        let mut good = Vec::new();
        for chunk in &block.header.chunks {
            let end = at + chunk.length as usize;
            if let Some(bytes) = plain.get(at..end).filter(|bytes| chunk_id(bytes) == chunk.id) {
                good.push((chunk.id, plain.slice_ref(bytes)));
            }
            at = end;
        }
        good
    }

    fn decompress(&mut self, block: &Block) -> Result<Bytes, Error> {
        let expected = block.header.plain_length();
        let wrong = Error::Length { expected };
        let plain = match block.header.codec {
            Codec::None => block.stored.clone(),
            Codec::Zstd => {
                let zstd = self.zstd.as_mut().ok_or(wrong.clone())?;
                Bytes::from(zstd.decompress(&block.stored, expected as usize).map_err(|_| wrong.clone())?)
            }
            Codec::Lz4 => {
                let plain = lz4_flex::block::decompress(&block.stored, expected as usize);
                Bytes::from(plain.map_err(|_| wrong.clone())?)
            }
        };
        if plain.len() == expected as usize { Ok(plain) } else { Err(wrong) }
    }
}

/// Checks a block's stored bytes against the length and the hash in its header, without decompressing; needs no key.
pub fn check_stored(block: &Block) -> Result<(), Error> {
    let fits = block.stored.len() == block.header.stored_length as usize;
    if fits && stored_hash(&block.stored) == block.header.stored_hash { Ok(()) } else { Err(Error::StoredHash) }
}

/// The chunks of a decoded block with their bytes.
pub fn chunks<'a>(header: &'a BlockHeader, plain: &'a [u8]) -> impl Iterator<Item = (ChunkRef, &'a [u8])> {
    let mut at = 0;
    header.chunks.iter().map(move |chunk| {
        let start = at;
        at += chunk.length as usize;
        (*chunk, &plain[start..at])
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Vec<(ChunkId, Bytes)> {
        let texts = [&b"the quick brown fox ".repeat(500)[..], b"", b"jumps"];
        texts.iter().map(|text| (chunk_id(text), Bytes::copy_from_slice(text))).collect()
    }

    #[test]
    fn what_goes_in_comes_out_with_every_codec() {
        for (compression, codec) in
            [(Compression::None, Codec::None), (Compression::Zstd(1), Codec::Zstd), (Compression::Lz4, Codec::Lz4)]
        {
            let block = Encoder::new(compression).encode(&sample());
            assert_eq!(block.header.codec, codec);
            let plain = Decoder::new().decode(&block).unwrap();
            let back: Vec<_> = chunks(&block.header, &plain).map(|(c, b)| (c.id, Bytes::copy_from_slice(b))).collect();
            assert_eq!(back, sample());
        }
    }

    #[test]
    fn noise_is_stored_as_it_is_and_hashed_once() {
        let noise: Bytes =
            (0..100_000_u64).flat_map(|i| *blake3::hash(&i.to_le_bytes()).as_bytes()).take(100_000).collect();
        let id = chunk_id(&noise);
        let block = Encoder::new(Compression::Zstd(1)).encode(&[(id, noise.clone())]);
        assert_eq!((block.header.codec, block.header.stored_hash.as_bytes()), (Codec::None, id.as_bytes()));
        assert_eq!(Decoder::new().decode(&block).unwrap(), noise);
    }

    #[test]
    fn every_flipped_bit_of_the_stored_bytes_is_found() {
        let block = Encoder::new(Compression::Zstd(1)).encode(&sample());
        for bit in 0..block.stored.len() * 8 {
            let mut stored = block.stored.to_vec();
            stored[bit / 8] ^= 1 << (bit % 8);
            let bad = Block { header: block.header.clone(), stored: stored.into() };
            assert_eq!(Decoder::new().decode(&bad), Err(Error::StoredHash));
        }
    }

    #[test]
    fn what_a_flipped_bit_did_not_reach_is_salvaged_and_nothing_else() {
        let noise = |n: u64| Bytes::from([n.to_le_bytes(); 1000].concat());
        let text = |n: u64| Bytes::from(format!("line {n} of a text that compresses well, {}\n", n * n).repeat(200));
        for compression in [Compression::None, Compression::Zstd(1), Compression::Lz4] {
            let chunks: Vec<_> = (0..20).map(text).chain((20..24).map(noise)).map(|b| (chunk_id(&b), b)).collect();
            let block = Encoder::new(compression).encode(&chunks);
            assert_eq!(Decoder::new().salvage(&block), chunks, "a whole block gives all");
            let mut salvaged = 0;
            for bit in (0..block.stored.len() * 8).step_by(block.stored.len() / 16) {
                let mut stored = block.stored.to_vec();
                stored[bit / 8] ^= 1 << (bit % 8);
                let bad = Block { header: block.header.clone(), stored: stored.into() };
                let good = Decoder::new().salvage(&bad);
                assert!(good.iter().all(|found| chunks.contains(found)) && good.len() < chunks.len(), "bit {bit}");
                salvaged += good.len();
            }
            assert!(salvaged > 0 || compression == Compression::Lz4, "{compression:?}");
        }
    }

    #[test]
    fn a_chunk_under_a_false_name_is_refused() {
        let mut block = Encoder::new(Compression::None).encode(&sample());
        block.header.chunks[2].id = chunk_id(b"other");
        assert_eq!(Decoder::new().decode(&block), Err(Error::Chunk(chunk_id(b"other"))));
    }

    #[test]
    fn a_bomb_is_not_unpacked_beyond_its_announced_length() {
        let bomb = zstd::bulk::compress(&vec![0; 100_000_000], 1).unwrap();
        let header = BlockHeader {
            codec: Codec::Zstd,
            stored_length: bomb.len() as u32,
            stored_hash: stored_hash(&bomb),
            chunks: vec![ChunkRef { id: chunk_id(b""), length: 1000 }],
        };
        let block = Block { header, stored: bomb.into() };
        assert_eq!(Decoder::new().decode(&block), Err(Error::Length { expected: 1000 }));
    }
}
