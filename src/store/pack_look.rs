//! Looks at a pack that may be damaged: what is wrong with it, what of it is lost, and what is still good.
//!
//! A pack says everything twice: each block's header stands before its bytes and in the trailer. So a damaged trailer loses
//! nothing (the blocks are walked from the front), and neither does a damaged header (the trailer has it). Only stored bytes stand
//! there once; what they still give is judged chunk by chunk, by its hash.
//!
//! What the medium cannot give is damage. What cannot be read for another reason (a network disk that is away, a right that is missing) is
//! not: that is an error, and nothing is said about the pack.

use crate::codec::{Compression, Decoder, Encoder};
use crate::model::{Block, BlockHeader, ChunkId, PackId};
use crate::store::error::{Error, Result};
use crate::store::index::IndexedPack;
use crate::store::layout::{MAX_PACK_BYTES, PACK_MAGIC};
use crate::store::pack::{PackedBlock, ReadError, Trailer};
use crate::store::shelf::Object;
use bytes::Bytes;
use std::collections::BTreeSet;

/// What reading all of a pack has shown.
#[derive(Debug, Default)]
pub(crate) struct Look {
    /// What is wrong, each thing once; empty when nothing is.
    pub(crate) problems: Vec<String>,
    /// Chunks that the trailer names and that are lost. Nothing is known of them when the trailer is damaged and blocks are.
    pub(crate) lost: BTreeSet<ChunkId>,
    /// Bytes of the object.
    pub(crate) bytes: u64,
    /// What the index has to know of it, when its trailer is whole.
    pub(crate) indexed: Option<IndexedPack>,
}

impl Look {
    pub(crate) fn is_whole(&self) -> bool {
        self.problems.is_empty()
    }
}

/// Where good blocks go; an error ends the look.
pub(crate) type Keep<'a> = dyn FnMut(Block) -> Result<()> + 'a;

/// Reads the trailer only.
pub(crate) fn trailer(id: PackId, object: &dyn Object) -> Result<IndexedPack, String> {
    let (trailer, length) = Trailer::of(id, object).map_err(|error| told(&error))?;
    Ok(IndexedPack::of(id, length, &trailer))
}

/// Reads everything and gives every good block to `keep`, in order; of a damaged block what can be salvaged, encoded anew.
/// `read` hears of bytes that were read.
pub(crate) fn whole(
    id: PackId,
    object: &dyn Object,
    read: &mut dyn FnMut(u64) -> Result<()>,
    keep: &mut Keep<'_>,
) -> Result<Look> {
    let mut look = Look { bytes: judged(object.length())?.unwrap_or(0), ..Look::default() };
    if judged(object.read_at(0, PACK_MAGIC.len()))?.ok().as_deref() != Some(PACK_MAGIC) {
        look.problems.push("it does not begin as packs do".to_owned());
    }
    let mut tools = Tools::default();
    match Trailer::of(id, object) {
        Ok((trailer, length)) => {
            look.indexed = Some(IndexedPack::of(id, length, &trailer));
            for (number, packed) in trailer.blocks.iter().enumerate() {
                read(packed.length())?;
                tools.look_at(number, packed, object, &mut look, keep)?;
            }
        }
        Err(error) if !error.is_damage() => return Err(error),
        Err(error) => {
            look.problems.push(told(&error));
            walk(object, &mut tools, read, keep)?;
        }
    }
    Ok(look)
}

/// The text of an error without the pack's name, which its reader knows.
fn told(error: &Error) -> String {
    match error {
        Error::Pack { problem, .. } => problem.clone(),
        other => other.to_string(),
    }
}

#[derive(Debug, Default)]
struct Tools {
    decoder: Decoder,
    encoder: Option<Encoder>,
}

impl Tools {
    fn look_at(
        &mut self,
        number: usize,
        packed: &PackedBlock,
        object: &dyn Object,
        look: &mut Look,
        keep: &mut Keep<'_>,
    ) -> Result<()> {
        let header_length = packed.header.encoded_length();
        let bytes = match judged(object.read_at(packed.offset, packed.length() as usize))? {
            Ok(bytes) => Bytes::from(bytes),
            Err(problem) => {
                look.problems.push(format!("block {number} at {} cannot be read: {problem}", packed.offset));
                look.lost.extend(packed.header.chunks.iter().map(|chunk| chunk.id));
                return Ok(());
            }
        };
        let mut header = Vec::with_capacity(header_length);
        packed.header.encode(&mut header);
        if bytes[..header_length] != header[..] {
            look.problems.push(format!("the header of block {number} at {} differs from the trailer", packed.offset));
        }
        let block = Block { header: packed.header.clone(), stored: bytes.slice(header_length..) };
        if let Err(error) = self.decoder.decode(&block) {
            look.problems.push(format!("block {number} at {}: {error}", packed.offset));
            let good = self.decoder.salvage(&block);
            let saved: BTreeSet<_> = good.iter().map(|(id, _)| *id).collect();
            look.lost.extend(packed.header.chunks.iter().map(|chunk| chunk.id).filter(|id| !saved.contains(id)));
            return if good.is_empty() { Ok(()) } else { keep(self.encode(&good)) };
        }
        keep(block)
    }

    fn encode(&mut self, chunks: &[(ChunkId, Bytes)]) -> Block {
        self.encoder.get_or_insert_with(|| Encoder::new(Compression::default())).encode(chunks)
    }
}

/// Walks blocks from the front by their own headers, as far as these can be read: for a pack whose trailer is damaged.
fn walk(
    object: &dyn Object,
    tools: &mut Tools,
    read: &mut dyn FnMut(u64) -> Result<()>,
    keep: &mut Keep<'_>,
) -> Result<()> {
    let end = judged(object.length())?.unwrap_or(0).min(MAX_PACK_BYTES);
    let mut at = PACK_MAGIC.len() as u64;
    while let Some(header) = header_at(object, at, end)? {
        let (begin, length) = (at + header.encoded_length() as u64, u64::from(header.stored_length));
        read(begin + length - at)?;
        at = begin + length;
        let Ok(stored) = judged(object.read_at(begin, length as usize))? else { continue };
        let block = Block { header, stored: Bytes::from(stored) };
        if tools.decoder.decode(&block).is_ok() {
            keep(block)?;
        } else {
            let good = tools.decoder.salvage(&block);
            if !good.is_empty() {
                keep(tools.encode(&good))?;
            }
        }
    }
    Ok(())
}

fn header_at(object: &dyn Object, at: u64, end: u64) -> Result<Option<BlockHeader>> {
    let Ok(fixed) = judged(object.read_at(at, BlockHeader::FIXED_LENGTH))? else { return Ok(None) };
    let count = fixed.first_chunk().and_then(|fixed| BlockHeader::chunk_count(fixed).ok());
    let Some(length) = count.map(|count| BlockHeader::FIXED_LENGTH + count * BlockHeader::CHUNK_LENGTH) else {
        return Ok(None);
    };
    let Ok(bytes) = judged(object.read_at(at, length))? else { return Ok(None) };
    let header = BlockHeader::decode(&bytes).ok();
    Ok(header.filter(|header| at + length as u64 + u64::from(header.stored_length) <= end))
}

/// What was read, or what is wrong with the medium; any other failure says nothing about what lies there.
fn judged<T>(read: crate::platform::Result<T>) -> Result<Result<T, String>> {
    match read.map_err(ReadError::from) {
        Ok(read) => Ok(Ok(read)),
        Err(ReadError::Problem(problem)) => Ok(Err(problem)),
        Err(ReadError::Platform(error)) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::platform;
    use std::io;

    /// A pack whose reads fail with this error of the system.
    #[derive(Debug)]
    struct Failing(i32);

    impl Failing {
        fn error<T>(&self) -> platform::Result<T> {
            let source = io::Error::from_raw_os_error(self.0);
            Err(platform::Error { action: "read", path: "packs/ab".into(), source })
        }
    }

    impl Object for Failing {
        fn length(&self) -> platform::Result<u64> {
            Ok(100_000)
        }

        fn read_at(&self, _offset: u64, _length: usize) -> platform::Result<Vec<u8>> {
            self.error()
        }
    }

    #[test]
    fn a_read_that_fails_for_another_reason_than_the_medium_is_no_damage() {
        let id = PackId::from_bytes([1; 32]);
        let look = |error| whole(id, &Failing(error), &mut |_| Ok(()), &mut |_| Ok(()));
        // EIO; a stale handle of a network disk, a time-out, a right that is missing.
        assert!(!look(5).unwrap().is_whole());
        for error in [116, 110, 13] {
            assert!(matches!(look(error), Err(Error::Platform(_))), "{error}");
        }
    }
}
