//! Walks the chunks of a stream in a repository that may be damaged, without stopping at the first that cannot be read.
//!
//! [`stream`](crate::store::stream) answers a commit: what is missing must be sent, and nothing else matters. Here the question
//! is what is left. A list that cannot be read hides what comes after it on its level, since an id may lie across two chunks.

use crate::model::{ChunkId, PackId, Stream};
use crate::store::error::{Error, Result};
use crate::store::packs::PlainReader;
use bytes::Bytes;

/// Chunks of one stream with all its lists, each visited once: what [`stream`](crate::store::stream) takes at the most.
const MAX_VISITS: u64 = 4 << 20;

/// What is found on the way.
#[derive(Debug)]
pub(crate) enum Found {
    /// A chunk of the stream's own bytes.
    Leaf(ChunkId),
    /// A list that could be read.
    List(ChunkId),
    /// A list that could not: what it names, and what comes after it, is not known.
    Broken(ChunkId, Option<PackId>),
    /// A list that cannot be read at the moment: what it names, and what comes after it, is not known, and nothing is said about it.
    Unread(Error),
}

/// Gives the chunks of a stream to `each`, in order.
pub(crate) fn walk(
    reader: &mut PlainReader<'_>,
    stream: &Stream,
    each: &mut dyn FnMut(&mut PlainReader<'_>, Found) -> Result<()>,
) -> Result<()> {
    let mut walk = Walk { carry: vec![Vec::new(); usize::from(stream.depth) + 1], visits: 0, broken: false };
    stream.ids.iter().try_for_each(|id| walk.visit(reader, stream.depth, *id, each))
}

/// What became of a chunk.
#[derive(Debug)]
pub(crate) enum Read {
    /// Its bytes, checked.
    Bytes(Bytes),
    /// No pack is known to hold it.
    Absent,
    /// It cannot be read from this pack.
    Damaged(PackId),
    /// Its pack cannot be read at the moment: a network disk is away, a right is missing.
    Unread(Error),
}

/// Reads a chunk of a list.
pub(crate) fn read(reader: &mut PlainReader<'_>, id: ChunkId) -> Result<Read> {
    match reader.read(id) {
        Ok(Some(bytes)) => Ok(Read::Bytes(bytes)),
        Ok(None) => Ok(Read::Absent),
        Err(Error::Chunk { pack, .. } | Error::Pack { pack, .. }) => Ok(Read::Damaged(pack)),
        Err(error @ Error::Platform(_)) => {
            tracing::error!(%id, error = &error as &dyn std::error::Error, "a list cannot be read at the moment");
            Ok(Read::Unread(error))
        }
        Err(error) => Err(error),
    }
}

struct Walk {
    /// For each level, the beginning of an id whose end lies in the next chunk.
    carry: Vec<Vec<u8>>,
    visits: u64,
    broken: bool,
}

impl Walk {
    fn visit(
        &mut self,
        reader: &mut PlainReader<'_>,
        level: u8,
        id: ChunkId,
        each: &mut dyn FnMut(&mut PlainReader<'_>, Found) -> Result<()>,
    ) -> Result<()> {
        self.visits += 1;
        if self.broken || self.visits > MAX_VISITS {
            return Ok(());
        }
        if level == 0 {
            return each(reader, Found::Leaf(id));
        }
        let bytes = match read(reader, id)? {
            Read::Bytes(bytes) => bytes,
            Read::Unread(error) => {
                self.broken = true;
                return each(reader, Found::Unread(error));
            }
            absent_or_damaged => {
                self.broken = true;
                let pack = if let Read::Damaged(pack) = absent_or_damaged { Some(pack) } else { None };
                return each(reader, Found::Broken(id, pack));
            }
        };
        each(reader, Found::List(id))?;
        let mut list = std::mem::take(&mut self.carry[usize::from(level)]);
        list.extend_from_slice(&bytes);
        let (ids, rest) = list.as_chunks::<{ ChunkId::LENGTH }>();
        for id in ids {
            self.visit(reader, level - 1, ChunkId::from_bytes(*id), each)?;
        }
        self.carry[usize::from(level)] = rest.to_vec();
        Ok(())
    }
}
