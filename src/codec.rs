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
    /// zstd at a level from 1 to 19. Level 2 is the default: on blocks of small text files it reaches 2.80x against level 1's
    /// 2.37x at nine tenths of the speed.
    Zstd(u8),
    /// LZ4: least work, least gain.
    Lz4,
}

impl Default for Compression {
    fn default() -> Self {
        Self::Zstd(2)
    }
}

/// Chunks of this length on average are worth a block of their own when they do not compress: its header is under 1/700 of it.
const LONE_BYTES: usize = 64 << 10;

/// Blocks from this length on, of chunks worth a block each, are probed before they are compressed.
const PROBED_BYTES: usize = 256 << 10;
/// One piece of a probe, in bytes.
const PROBE_BYTES: usize = 1 << 10;
/// From one piece to the next: 31 pieces of a mebibyte. A prime, so that what repeats itself every so many kibibytes, as pages and records do,
/// is not looked at in the same place each time.
const PROBE_STEP: usize = 33_331;

/// Makes blocks; keeps its compression context and buffers from one to the next.
pub struct Encoder {
    compression: Compression,
    zstd: Option<zstd::bulk::Compressor<'static>>,
    /// The chunks of a block, put together to be compressed.
    plain: Vec<u8>,
    /// What compressing gave: most often larger than what is kept of it, so it is not given away.
    packed: Vec<u8>,
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
            Compression::Zstd(level) => zstd::bulk::Compressor::new(level_of(level)).ok(),
            Compression::None | Compression::Lz4 => None,
        };
        Self { compression, zstd, plain: Vec::new(), packed: Vec::new() }
    }

    /// Compresses so from now on.
    pub fn set(&mut self, compression: Compression) {
        if compression == self.compression {
            return;
        }
        let level = match compression {
            Compression::Zstd(level) => Some(level_of(level)),
            Compression::None | Compression::Lz4 => None,
        };
        match self.zstd.as_mut().zip(level).map(|(zstd, level)| zstd.set_compression_level(level)) {
            Some(Ok(())) => self.compression = compression,
            _ => *self = Self::new(compression),
        }
    }

    /// One block of these chunks, whose ids the caller has computed from the same bytes. Falls back to no compression where
    /// compressing saves less than 1/32.
    ///
    /// # Panics
    /// When there is no chunk, or more plain bytes than [`MAX_BLOCK_PLAIN_BYTES`].
    pub fn encode(&mut self, chunks: &[(ChunkId, Bytes)]) -> Block {
        self.compressed(chunks).unwrap_or_else(|| as_it_is(chunks))
    }

    /// The same, but chunks that do not get smaller together, and are large, become a block each: such a block needs neither a
    /// copy of its bytes nor another hash than its chunk's id, here, at the receiver and at a restore.
    ///
    /// # Panics
    /// As [`Encoder::encode`].
    pub fn encode_into(&mut self, chunks: &[(ChunkId, Bytes)], blocks: &mut Vec<Block>) {
        let length: usize = chunks.iter().map(|(_, bytes)| bytes.len()).sum();
        match self.compressed(chunks) {
            Some(block) => blocks.push(block),
            None if are_large(chunks, length) => {
                for chunk in chunks {
                    blocks.push(as_it_is(std::slice::from_ref(chunk)));
                }
            }
            None => blocks.push(as_it_is(chunks)),
        }
    }

    /// Whether pieces from all over the chunks do not get smaller: photos, films and what is compressed or encrypted already is passed
    /// on at the cost of a thirtieth of it. What compresses for twice [`PROBE_STEP`] bytes in a row is always found.
    fn looks_random(&mut self, chunks: &[(ChunkId, Bytes)], length: usize) -> bool {
        let Some(zstd) = self.zstd.as_mut().filter(|_| length >= PROBED_BYTES && are_large(chunks, length)) else {
            return false;
        };
        self.plain.clear();
        let mut next = 0;
        for (_, bytes) in chunks {
            while let Some(rest) = bytes.get(next..).filter(|rest| !rest.is_empty()) {
                self.plain.extend_from_slice(&rest[..rest.len().min(PROBE_BYTES)]);
                next += PROBE_STEP;
            }
            next -= bytes.len();
        }
        self.packed.clear();
        self.packed.reserve(zstd::zstd_safe::compress_bound(self.plain.len()));
        let written = zstd.compress_to_buffer(&self.plain, &mut self.packed);
        written.is_ok_and(|written| written >= self.plain.len() - self.plain.len() / 32)
    }

    /// `None` when compressing does not save enough.
    fn compressed(&mut self, chunks: &[(ChunkId, Bytes)]) -> Option<Block> {
        let length: usize = chunks.iter().map(|(_, bytes)| bytes.len()).sum();
        assert!(!chunks.is_empty() && length <= MAX_BLOCK_PLAIN_BYTES as usize, "a block holds 1 to 4 MiB");
        if self.compression == Compression::None {
            return None;
        }
        if self.looks_random(chunks, length) {
            return None;
        }
        let plain: &[u8] = if let [(_, bytes)] = chunks {
            bytes
        } else {
            self.plain.clear();
            for (_, bytes) in chunks {
                self.plain.extend_from_slice(bytes);
            }
            &self.plain
        };
        let (codec, stored) = match &mut self.zstd {
            Some(zstd) => {
                let bound = zstd::zstd_safe::compress_bound(plain.len());
                self.packed.clear();
                self.packed.reserve(bound);
                let written = zstd.compress_to_buffer(plain, &mut self.packed).ok()?;
                (Codec::Zstd, &self.packed[..written])
            }
            None if self.compression == Compression::Lz4 => {
                self.packed.resize(lz4_flex::block::get_maximum_output_size(plain.len()), 0);
                let written = lz4_flex::block::compress_into(plain, &mut self.packed).ok()?;
                (Codec::Lz4, &self.packed[..written])
            }
            None => return None,
        };
        if stored.len() >= plain.len() - plain.len() / 32 {
            return None;
        }
        let stored = Bytes::copy_from_slice(stored);
        Some(block(codec, stored_hash(&stored), stored, chunks))
    }
}

/// Whether chunks of so many bytes together are worth a block each.
fn are_large(chunks: &[(ChunkId, Bytes)], length: usize) -> bool {
    length / LONE_BYTES >= chunks.len()
}

fn as_it_is(chunks: &[(ChunkId, Bytes)]) -> Block {
    // A chunk that is stored as it is has its hash already: that of its id.
    if let [(id, bytes)] = chunks {
        return block(Codec::None, StoredHash::from_bytes(*id.as_bytes()), bytes.clone(), chunks);
    }
    let mut stored = Vec::with_capacity(chunks.iter().map(|(_, bytes)| bytes.len()).sum());
    for (_, bytes) in chunks {
        stored.extend_from_slice(bytes);
    }
    block(Codec::None, stored_hash(&stored), Bytes::from(stored), chunks)
}

fn level_of(level: u8) -> i32 {
    i32::from(level.clamp(1, 19))
}

fn block(codec: Codec, stored_hash: StoredHash, stored: Bytes, chunks: &[(ChunkId, Bytes)]) -> Block {
    let chunks = chunks.iter().map(|(id, bytes)| ChunkRef { id: *id, length: bytes.len() as u32 }).collect();
    Block { header: BlockHeader { codec, stored_length: stored.len() as u32, stored_hash, chunks }, stored }
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
    fn what_compresses_in_part_is_compressed_wherever_the_part_lies() {
        let noise = |seed: u64| {
            let words = (0..32_768_u64).flat_map(move |i| *blake3::hash(&(seed << 32 | i).to_le_bytes()).as_bytes());
            words.collect::<Vec<u8>>()
        };
        let mut encoder = Encoder::new(Compression::default());
        let mut codec_of = |bytes: Vec<u8>| encoder.encode(&[(chunk_id(&bytes), Bytes::from(bytes))]).header.codec;
        assert_eq!(codec_of(noise(1)), Codec::None);
        for start in [0, 1, 300_000, 900_000] {
            let mut bytes = noise(2);
            bytes[start..start + 100_000].fill(b'x');
            assert_eq!(codec_of(bytes), Codec::Zstd, "{start}");
        }
    }

    #[test]
    fn pages_that_compress_behind_a_head_of_noise_are_compressed() {
        let mut encoder = Encoder::new(Compression::default());
        for page in [4 << 10, 8 << 10, 16 << 10, 32 << 10] {
            let pages = (0..(1 << 20) / page).flat_map(|n: u64| {
                let head = (0..page / 128).flat_map(move |i| *blake3::hash(&(n << 32 | i).to_le_bytes()).as_bytes());
                head.chain(std::iter::repeat_n(b'x', (page - page / 4) as usize))
            });
            let bytes = Bytes::from(pages.collect::<Vec<u8>>());
            assert_eq!(encoder.encode(&[(chunk_id(&bytes), bytes)]).header.codec, Codec::Zstd, "{page}");
        }
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
    fn large_chunks_that_do_not_compress_get_a_block_each_and_others_share_one() {
        let noise = |seed: u64, length| {
            let mut bytes = vec![0; length];
            blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
            (chunk_id(&bytes), Bytes::from(bytes))
        };
        let mut encoder = Encoder::new(Compression::default());
        let mut codecs = |chunks: &[(ChunkId, Bytes)]| {
            let mut blocks = Vec::new();
            encoder.encode_into(chunks, &mut blocks);
            let mut back = Vec::new();
            for block in &blocks {
                let plain = Decoder::new().decode(block).unwrap();
                back.extend(super::chunks(&block.header, &plain).map(|(c, b)| (c.id, Bytes::copy_from_slice(b))));
            }
            assert_eq!(back, chunks);
            blocks.iter().map(|block| block.header.codec).collect::<Vec<_>>()
        };
        assert_eq!(codecs(&[noise(1, 100_000), noise(2, 70_000)]), [Codec::None, Codec::None]);
        assert_eq!(codecs(&[noise(1, 5_000), noise(2, 70_000)]), [Codec::None]);
        assert_eq!(codecs(&sample()), [Codec::Zstd]);
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
            let (mut salvaged, mut lost) = (0, 0);
            for bit in (0..block.stored.len() * 8).step_by(block.stored.len() / 16) {
                let mut stored = block.stored.to_vec();
                stored[bit / 8] ^= 1 << (bit % 8);
                let bad = Block { header: block.header.clone(), stored: stored.into() };
                let good = Decoder::new().salvage(&bad);
                assert!(good.iter().all(|found| chunks.contains(found)), "bit {bit}");
                salvaged += good.len();
                // A few bits of a zstd frame decide nothing.
                lost += chunks.len() - good.len();
            }
            assert!(lost > 0, "{compression:?}");
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
