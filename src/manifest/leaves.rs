//! The chunks of a manifest by number, and which of them a path lies in.
//!
//! A manifest is sorted and cut into chunks, so a path is found as in a telephone book: look at the first line that begins in a
//! chunk, and go on in the half where the path must be. That takes about ten chunks of the 4,000 that five million entries fill.

use crate::manifest::stream_reader::fetch;
use crate::manifest::{Error, Result, StreamReader, decode};
use crate::model::limits::MAX_ENTRY_LINE_BYTES;
use crate::model::{ChunkId, RelPath, Stream};
use crate::vault::Vault;
use std::sync::Arc;

/// Chunks of one manifest that are held by number: 8 MiB of ids, for 64 GiB of manifest. A longer one is read from its start.
const MAX_LEAVES: usize = 256 << 10;

/// What a reader looks for.
#[derive(Clone, Debug)]
pub(crate) enum Goal {
    /// This path, or what comes after its place.
    At(RelPath),
    /// What comes after this folder and all that is in it.
    Past(RelPath),
}

impl Goal {
    /// Whether it comes after `path`.
    pub(crate) fn is_after(&self, path: &RelPath) -> bool {
        match self {
            Self::At(wanted) => path < wanted,
            Self::Past(folder) => path <= folder || path.strip_prefix(folder).is_some(),
        }
    }
}

/// The chunks of one manifest, in their order.
#[derive(Clone, Debug, Default)]
pub(crate) struct Leaves(Vec<ChunkId>);

impl Leaves {
    /// Reads the lists of a manifest; `None` when it has more chunks than are held in memory.
    pub(crate) async fn load<V: Vault>(vault: Arc<V>, manifest: &Stream) -> Result<Option<Self>> {
        if manifest.depth == 0 {
            return Ok(Some(Self(manifest.ids.clone())));
        }
        let mut list = StreamReader::of_list(vault, manifest)?;
        let (mut ids, mut half) = (Vec::new(), Vec::new());
        while let Some(bytes) = list.next().await? {
            half.extend_from_slice(&bytes);
            let (whole, rest) = half.as_chunks::<{ ChunkId::LENGTH }>();
            ids.extend(whole.iter().map(|id| ChunkId::from_bytes(*id)));
            half = rest.to_vec();
            if ids.len() > MAX_LEAVES {
                return Ok(None);
            }
        }
        if half.is_empty() { Ok(Some(Self(ids))) } else { Err(Error::Form) }
    }

    /// All of them.
    pub(crate) fn ids(&self) -> &[ChunkId] {
        &self.0
    }

    /// The last chunk, from `from` on, whose first line comes before the goal: what is wanted begins in it or right after it.
    /// `None` when there is none. Looks near `from` first, so that little is read to go past little.
    pub(crate) async fn find<V: Vault>(&self, vault: &V, from: usize, goal: &Goal) -> Result<Option<usize>> {
        let is_before = async |number: usize| {
            let path = self.first_path(vault, number).await?;
            Ok::<_, Error>(path.is_some_and(|path| goal.is_after(&path)))
        };
        if from >= self.0.len() || !is_before(from).await? {
            return Ok(None);
        }
        // The chunk at `low` is before the goal, the one at `high` is not (or there is none).
        let (mut low, mut high) = (from, self.0.len());
        let mut step = 1;
        while low + step < high {
            if is_before(low + step).await? {
                low += step;
                step *= 2;
            } else {
                high = low + step;
            }
        }
        while low + 1 < high {
            let middle = low + (high - low) / 2;
            if is_before(middle).await? { low = middle } else { high = middle }
        }
        Ok(Some(low))
    }

    /// The path of the first line that begins in a chunk (in the first chunk: with it; in any other: after a line feed in it), or
    /// in one after it when none does. `None` when there is none up to the end.
    async fn first_path<V: Vault>(&self, vault: &V, number: usize) -> Result<Option<RelPath>> {
        let mut begun = number == 0;
        let mut line = Vec::new();
        for id in &self.0[number..] {
            let chunks = fetch(vault, vec![*id]).await?;
            let mut bytes = chunks.first().map_or(&[][..], |bytes| &bytes[..]);
            if !begun {
                let Some(end) = bytes.iter().position(|byte| *byte == b'\n') else { continue };
                bytes = &bytes[end + 1..];
                begun = true;
            }
            let end = bytes.iter().position(|byte| *byte == b'\n');
            line.extend_from_slice(&bytes[..end.unwrap_or(bytes.len())]);
            if end.is_some() {
                return decode(&line).map(|entry| Some(entry.path)).map_err(Error::Middle);
            }
            if line.len() > MAX_ENTRY_LINE_BYTES {
                return Err(Error::Middle("it is longer than 1 MiB".to_owned()));
            }
        }
        Ok(None)
    }
}
