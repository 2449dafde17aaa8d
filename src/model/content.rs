//! What a file holds: chunks and holes, listed in place or, for long lists, in chunks of their own.

use crate::model::ChunkId;
use serde::{Deserialize, Serialize};

/// A run of a file's bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(from = "(Option<ChunkId>, u64)", into = "(Option<ChunkId>, u64)")]
pub enum Extent {
    /// The plain bytes of this chunk.
    Chunk(ChunkId, u64),
    /// So many zeros that are not stored; restored as a hole where the file system has holes.
    Hole(u64),
}

impl Extent {
    /// Length of an extent in a list of its own: 32 bytes of id (zeros for a hole), then 8 bytes of length, little-endian.
    pub const ENCODED_LENGTH: usize = 40;

    /// The number of plain bytes that it stands for.
    pub fn length(&self) -> u64 {
        match self {
            Self::Chunk(_, length) | Self::Hole(length) => *length,
        }
    }

    /// The chunk, unless it is a hole.
    pub fn chunk(&self) -> Option<ChunkId> {
        match self {
            Self::Chunk(id, _) => Some(*id),
            Self::Hole(_) => None,
        }
    }

    /// The form in which it lies in an indirect list.
    pub fn encode(&self) -> [u8; Self::ENCODED_LENGTH] {
        let mut bytes = [0; Self::ENCODED_LENGTH];
        if let Self::Chunk(id, _) = self {
            bytes[..32].copy_from_slice(id.as_bytes());
        }
        bytes[32..].copy_from_slice(&self.length().to_le_bytes());
        bytes
    }

    /// The inverse of [`Extent::encode`].
    pub fn decode(bytes: &[u8; Self::ENCODED_LENGTH]) -> Self {
        let mut id = [0; 32];
        let mut length = [0; 8];
        id.copy_from_slice(&bytes[..32]);
        length.copy_from_slice(&bytes[32..]);
        let length = u64::from_le_bytes(length);
        if id == [0; 32] { Self::Hole(length) } else { Self::Chunk(ChunkId::from_bytes(id), length) }
    }
}

impl From<(Option<ChunkId>, u64)> for Extent {
    fn from((id, length): (Option<ChunkId>, u64)) -> Self {
        id.map_or(Self::Hole(length), |id| Self::Chunk(id, length))
    }
}

impl From<Extent> for (Option<ChunkId>, u64) {
    fn from(extent: Extent) -> Self {
        (extent.chunk(), extent.length())
    }
}

/// A string of bytes that lies in chunks: the manifest, the refs, a long list of extents.
///
/// With `depth` 0 the `ids` are the chunks of the bytes themselves, in order. With `depth` n the ids are chunks whose plain
/// bytes, put together, are the list of 32-byte ids of depth n - 1. So a record stays small whatever the size of its manifest,
/// and two manifests that are nearly the same share nearly all of their lists, too.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Stream {
    /// Number of plain bytes.
    pub length: u64,
    /// How many levels of lists lie between `ids` and the bytes.
    pub depth: u8,
    /// At most [`MAX_STREAM_IDS`](crate::model::limits::MAX_STREAM_IDS).
    pub ids: Vec<ChunkId>,
}

/// The content of a file.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Content {
    /// At most [`MAX_INLINE_EXTENTS`](crate::model::limits::MAX_INLINE_EXTENTS), in the order of the file.
    Inline(Vec<Extent>),
    /// The extents encoded one after the other in a stream.
    Indirect(Stream),
}

impl Content {
    /// The content of an empty file.
    pub const EMPTY: Self = Self::Inline(Vec::new());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn extents_survive_both_encodings() {
        for extent in [Extent::Hole(u64::MAX), Extent::Chunk(ChunkId::from_bytes([7; 32]), 65_536)] {
            assert_eq!(Extent::decode(&extent.encode()), extent);
            let json = serde_json::to_string(&extent).unwrap();
            assert_eq!(serde_json::from_str::<Extent>(&json).unwrap(), extent, "{json}");
        }
        assert_eq!(serde_json::to_string(&Extent::Hole(5)).unwrap(), "[null,5]");
    }
}
