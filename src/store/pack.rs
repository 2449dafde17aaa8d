//! The pack: an immutable object of blocks that describes itself.
//!
//! ```text
//! "LBPACK01"  blocks, verbatim, one after the other  trailer  trailer length (4)  BLAKE3 of the trailer (32)  "LBTRAIL1"
//!
//! trailer: number of blocks (4); for each block its offset in the pack (8) and its whole header once more
//! ```
//!
//! Every byte of a pack is covered: magics by comparison, headers by the trailer's copy, stored bytes by the stored hash in
//! it, the trailer by its BLAKE3, which is the pack's name. So bit rot anywhere is found without any key.

use crate::codec::check_stored;
use crate::model::{Block, BlockHeader, PackId};
use crate::platform;
use crate::store::error::{Error, Result};
use crate::store::layout::{FOOTER_BYTES, MAX_PACK_BYTES, PACK_MAGIC, TRAILER_MAGIC};
use crate::store::shelf::Object;
use bytes::Bytes;

/// A block's place in a pack.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PackedBlock {
    /// Where its header begins.
    pub offset: u64,
    /// Its header, as the trailer has it.
    pub header: BlockHeader,
}

impl PackedBlock {
    /// Length of header and stored bytes.
    pub fn length(&self) -> u64 {
        self.header.encoded_length() as u64 + u64::from(self.header.stored_length)
    }
}

/// What a pack says about itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trailer {
    /// In the order in which they lie, without a gap.
    pub blocks: Vec<PackedBlock>,
}

impl Trailer {
    /// The bytes of the trailer itself.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = (self.blocks.len() as u32).to_le_bytes().to_vec();
        for block in &self.blocks {
            bytes.extend_from_slice(&block.offset.to_le_bytes());
            block.header.encode(&mut bytes);
        }
        bytes
    }

    /// What stands after the last block: trailer and footer, and the id that follows from them.
    pub fn finish(&self) -> (Vec<u8>, PackId) {
        let mut bytes = self.encode();
        let length = bytes.len() as u32;
        let hash = blake3::hash(&bytes);
        bytes.extend_from_slice(&length.to_le_bytes());
        bytes.extend_from_slice(hash.as_bytes());
        bytes.extend_from_slice(TRAILER_MAGIC);
        (bytes, PackId::from_bytes(*hash.as_bytes()))
    }

    /// Reads a trailer that ends where the footer begins, at `end`; the blocks must fill the pack up to it.
    pub(crate) fn decode(bytes: &[u8], end: u64) -> Result<Self, String> {
        let cut = || "its trailer is cut short".to_owned();
        let (count, mut rest) = bytes.split_first_chunk::<4>().ok_or_else(cut)?;
        let mut blocks = Vec::new();
        let mut position = PACK_MAGIC.len() as u64;
        for _ in 0..u32::from_le_bytes(*count) {
            let (offset, header) = rest.split_first_chunk::<8>().ok_or_else(cut)?;
            let offset = u64::from_le_bytes(*offset);
            let block = PackedBlock { offset, header: BlockHeader::decode(header).map_err(|e| e.to_string())? };
            if offset != position {
                return Err("its blocks do not lie one after the other".to_owned());
            }
            position += block.length();
            rest = &header[block.header.encoded_length()..];
            blocks.push(block);
        }
        if !rest.is_empty() || position + bytes.len() as u64 != end {
            return Err("its blocks do not fill it".to_owned());
        }
        Ok(Self { blocks })
    }

    /// Reads and checks the trailer of a pack and computes its id, without looking at the blocks. Also the pack's length.
    pub fn read(object: &dyn Object) -> Result<(Self, PackId, u64), ReadError> {
        let problem = |text: &str| ReadError::Problem(text.to_owned());
        let length = object.length()?;
        if length > MAX_PACK_BYTES {
            return Err(problem("it is larger than any pack"));
        }
        let end = length.checked_sub(FOOTER_BYTES as u64).ok_or_else(|| problem("it is too short"))?;
        let footer = object.read_at(end, FOOTER_BYTES)?;
        if footer[36..] != TRAILER_MAGIC[..] {
            return Err(problem("it does not end as packs do"));
        }
        let trailer_length = u32::from_le_bytes([footer[0], footer[1], footer[2], footer[3]]);
        let start = end.checked_sub(u64::from(trailer_length)).ok_or_else(|| problem("its trailer is too long"))?;
        let bytes = object.read_at(start, trailer_length as usize)?;
        let hash = blake3::hash(&bytes);
        if footer[4..36] != hash.as_bytes()[..] {
            return Err(problem("its trailer does not match its hash"));
        }
        let trailer = Self::decode(&bytes, end).map_err(ReadError::Problem)?;
        Ok((trailer, PackId::from_bytes(*hash.as_bytes()), length))
    }

    /// Reads the trailer of the pack that should be called `id`.
    pub fn of(id: PackId, object: &dyn Object) -> Result<(Self, u64)> {
        let (trailer, found, length) = Self::read(object).map_err(|error| error.of(id))?;
        if found != id {
            return Err(Error::Pack { pack: id, problem: format!("it holds pack {found}") });
        }
        Ok((trailer, length))
    }
}

/// Why a pack cannot be read; gets the pack's name from who knows it.
#[derive(Debug)]
pub enum ReadError {
    /// What is there is wrong.
    Problem(String),
    /// What is there cannot be read.
    Platform(platform::Error),
}

impl ReadError {
    /// The error of the store, with the pack's name.
    pub fn of(self, pack: PackId) -> Error {
        match self {
            Self::Problem(problem) => Error::Pack { pack, problem },
            Self::Platform(error) => error.into(),
        }
    }
}

impl From<platform::Error> for ReadError {
    fn from(error: platform::Error) -> Self {
        match error.kind() {
            std::io::ErrorKind::UnexpectedEof => Self::Problem("it ends too early".to_owned()),
            _ if error.is_bad_medium() => Self::Problem(format!("the disk cannot read it ({})", error.source)),
            _ => Self::Platform(error),
        }
    }
}

/// Reads one block whole: its header, checked, and as many stored bytes as that says. `length` is what trailer or index say.
pub fn read_block(object: &dyn Object, offset: u64, length: u64) -> Result<Block, ReadError> {
    let bytes = Bytes::from(object.read_at(offset, length as usize)?);
    let header = BlockHeader::decode(&bytes).map_err(|error| ReadError::Problem(error.to_string()))?;
    if header.encoded_length() as u64 + u64::from(header.stored_length) != length {
        return Err(ReadError::Problem("a block has another length than it should".to_owned()));
    }
    let stored = bytes.slice(header.encoded_length()..);
    Ok(Block { header, stored })
}

/// Checks every byte of a pack: magics, trailer, and each block against the trailer and its stored hash. Needs no key.
pub fn verify(object: &dyn Object) -> Result<(Trailer, PackId, u64), ReadError> {
    let (trailer, id, length) = Trailer::read(object)?;
    if object.read_at(0, PACK_MAGIC.len())? != PACK_MAGIC {
        return Err(ReadError::Problem("it does not begin as packs do".to_owned()));
    }
    for (number, packed) in trailer.blocks.iter().enumerate() {
        let wrong = |text: &str| ReadError::Problem(format!("block {number} at {} {text}", packed.offset));
        let block = match read_block(object, packed.offset, packed.length()) {
            Err(ReadError::Problem(problem)) => return Err(wrong(&format!("cannot be read: {problem}"))),
            other => other?,
        };
        if block.header != packed.header {
            return Err(wrong("differs from the trailer"));
        }
        check_stored(&block).map_err(|error| wrong(&format!("is wrong: {error}")))?;
    }
    Ok((trailer, id, length))
}
