//! How many bytes of each snapshot the next one has rewritten: measured here, by the chunks that the one needed and the other does not,
//! whatever the source says. Chunks of the list of entries do not count: a new list rewrites no file.
//!
//! Of two snapshots only those chunks of their refs are read that they do not share. Held is a number for each chunk (16 bytes and a
//! byte beside it, in a table with room for 1.8 million when there are a million), and only while there is something to measure. An
//! id that lies across two chunks of the refs is left out: one in thousands.
//!
//! A pair of snapshots is measured once; what was found is kept in one small sealed object. Whoever deletes that has it measured again,
//! as long as both are there: and what was found too much keeps the one before it from going.

use crate::model::{ChunkId, Record, SetName, SnapshotId, Stream};
use crate::store::error::{Error, Result};
use crate::store::layout::{self, FORMAT};
use crate::store::needs_walk::{FirstBytes, ShortId, short};
use crate::store::pack::Trailer;
use crate::store::packs::{Packs, PlainReader};
use crate::store::prune::brake::{self, Rewrite};
use crate::store::records::Kept;
use crate::store::sealed;
use crate::store::shelf::Shelf;
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::hash::BuildHasherDefault;
use std::sync::Arc;

const ID: usize = ChunkId::LENGTH;

/// What was measured.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct BrakeState {
    format: u32,
    /// The newest snapshot of each set that was compared with the one before it.
    measured: BTreeMap<SetName, u64>,
    /// Those that have rewritten too much.
    rewritten: BTreeMap<SnapshotId, Rewrite>,
}

impl BrakeState {
    /// `None` when there is none; the inner error says what is wrong with it.
    pub(crate) fn read(shelf: &dyn Shelf) -> Result<Option<Result<Self, &'static str>>> {
        sealed::read_state(shelf, &layout::brake(), |state: &Self| state.format)
    }

    /// What is kept; nothing when that is damaged.
    pub(crate) fn load(shelf: &dyn Shelf) -> Result<Self> {
        Ok(Self::read(shelf)?.and_then(Result::ok).unwrap_or_default())
    }

    pub(crate) fn save(&self, shelf: &dyn Shelf) -> Result<()> {
        sealed::save_state(shelf, &layout::brake(), &Self { format: FORMAT, ..self.clone() })
    }

    /// What a snapshot has rewritten, when that was too much.
    pub(crate) fn of(&self, id: &SnapshotId) -> Option<Rewrite> {
        self.rewritten.get(id).copied()
    }

    /// Measures what came since the last time; `good` are all records by set and sequence. What cannot be read, or is not here any
    /// more, is passed over. Returns whether anything is new; `stopped` ends it early.
    pub(crate) fn measure(
        &mut self,
        packs: &Packs,
        good: &[Arc<Kept>],
        gone: &dyn Fn(&SnapshotId) -> bool,
        stopped: &dyn Fn() -> bool,
    ) -> Result<bool> {
        let mut contents: Option<Contents<'_>> = None;
        let mut new = false;
        for chain in good.chunk_by(|one, next| one.record.set == next.record.set) {
            let set = &chain[0].record.set;
            let measured = self.measured.get(set).copied().unwrap_or(0);
            let newest = chain.last().map_or(0, |kept| kept.record.sequence);
            if newest <= measured {
                continue;
            }
            let begin = chain.iter().rposition(|kept| kept.record.sequence <= measured).unwrap_or(0);
            let chain = &chain[begin..];
            if chain.len() > 1 {
                let contents = match &mut contents {
                    Some(contents) => contents,
                    none => none.insert(Contents::new(packs)?),
                };
                contents.clear();
                for kept in chain {
                    if stopped() {
                        return Ok(new);
                    }
                    if gone(&kept.info.id) {
                        contents.clear();
                    } else if let Some(rewrite) = contents.advance(&kept.record)?.filter(Rewrite::is_too_much) {
                        self.rewritten.insert(kept.info.id, rewrite);
                    }
                }
            }
            self.measured.insert(set.clone(), newest);
            new = true;
        }
        Ok(new)
    }
}

/// What one snapshot after the other needs.
struct Contents<'a> {
    reader: PlainReader<'a>,
    /// All chunks that are here: how many chunks of the refs name each, and its length.
    chunks: HashMap<ShortId, (u32, u32), BuildHasherDefault<FirstBytes>>,
    /// The chunks of the refs, and how many bytes of the first id lie before each; `None` before the first snapshot.
    leaves: Option<HashSet<(ChunkId, u8)>>,
    /// The chunks of the list of entries.
    lists: HashSet<ShortId>,
    /// Bytes of all chunks that are needed.
    bytes: u64,
}

impl<'a> Contents<'a> {
    /// Learns the lengths of all chunks.
    fn new(packs: &'a Packs) -> Result<Self> {
        let mut chunks = HashMap::default();
        for row in packs.index.packs()? {
            let object = match packs.shelf.open(&layout::pack(&row.id)) {
                Err(error) if error.is_not_found() => continue,
                other => other?,
            };
            match Trailer::of(row.id, &*object) {
                Ok((trailer, _)) => {
                    let all = trailer.blocks.iter().flat_map(|block| &block.header.chunks);
                    chunks.extend(all.map(|chunk| (short(chunk.id.as_bytes()), (0, chunk.length))));
                }
                Err(error) if error.is_damage() => {}
                Err(error) => return Err(error),
            }
        }
        Ok(Self { reader: PlainReader::new(packs), chunks, leaves: None, lists: HashSet::new(), bytes: 0 })
    }

    fn clear(&mut self) {
        if self.leaves.take().is_some() {
            self.chunks.values_mut().for_each(|(uses, _)| *uses = 0);
        }
        self.lists.clear();
        self.bytes = 0;
    }

    fn length(&self, id: &[u8]) -> u64 {
        self.chunks.get(&short(id)).map_or(0, |(_, length)| u64::from(*length))
    }

    /// Goes on to the next snapshot: what it has rewritten of the one before. `None` for the first, and when its lists, or those of the
    /// one before, cannot be read.
    fn advance(&mut self, record: &Record) -> Result<Option<Rewrite>> {
        let is_first = self.leaves.is_none();
        match self.try_advance(record) {
            Ok(rewrite) => Ok(Some(rewrite).filter(|_| !is_first)),
            Err(error) if error.is_damage() || matches!(error, Error::NotFound(_) | Error::Block(_)) => {
                self.clear();
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    fn try_advance(&mut self, record: &Record) -> Result<Rewrite> {
        let (lists, refs) = (self.expand(&record.manifest)?, self.expand(&record.refs)?);
        let mut leaves = HashSet::new();
        let mut offset = 0;
        for id in refs.last().into_iter().flatten() {
            leaves.insert((*id, (offset % ID as u64) as u8));
            offset += self.length(id.as_bytes());
        }
        let before = self.leaves.replace(leaves.clone());
        let whole = self.bytes;
        let of_lists: u64 =
            self.lists.iter().filter_map(|id| self.chunks.get(id)).map(|(_, length)| u64::from(*length)).sum();
        for leaf in leaves.iter().filter(|leaf| before.as_ref().is_none_or(|before| !before.contains(leaf))) {
            let bytes = self.read(leaf.0)?;
            for id in whole_ids(&bytes, leaf.1) {
                if let Some((uses, length)) = self.chunks.get_mut(&short(id)) {
                    self.bytes += if *uses == 0 { u64::from(*length) } else { 0 };
                    *uses += 1;
                }
            }
        }
        let mut lost = 0;
        for leaf in before.iter().flatten().filter(|leaf| !leaves.contains(leaf)) {
            let bytes = self.read(leaf.0)?;
            for id in whole_ids(&bytes, leaf.1) {
                let short = short(id);
                if let Some((uses, length)) = self.chunks.get_mut(&short) {
                    *uses = uses.saturating_sub(1);
                    if *uses == 0 {
                        self.bytes = self.bytes.saturating_sub(u64::from(*length));
                        lost += if self.lists.contains(&short) { 0 } else { u64::from(*length) };
                    }
                }
            }
        }
        self.lists = lists.iter().flatten().map(|id| short(id.as_bytes())).collect();
        Ok(Rewrite { before: whole.saturating_sub(of_lists), lost })
    }

    fn read(&mut self, id: ChunkId) -> Result<Bytes> {
        self.reader.read(id)?.ok_or(Error::NotFound(id))
    }

    /// The chunks of a stream, level by level, those of its bytes last.
    fn expand(&mut self, stream: &Stream) -> Result<Vec<Vec<ChunkId>>> {
        let mut levels = vec![stream.ids.clone()];
        for _ in 0..stream.depth {
            let mut bytes = Vec::new();
            for id in levels.last().into_iter().flatten() {
                bytes.extend_from_slice(&self.read(*id)?);
            }
            levels.push(bytes.as_chunks::<ID>().0.iter().copied().map(ChunkId::from_bytes).collect());
        }
        Ok(levels)
    }
}

/// The ids that lie in a chunk of refs from end to end, when `before` bytes of the first lie before it.
fn whole_ids(bytes: &[u8], before: u8) -> &[[u8; ID]] {
    let head = (ID - usize::from(before)) % ID;
    bytes.get(head..).unwrap_or_default().as_chunks::<ID>().0
}

impl Rewrite {
    fn is_too_much(&self) -> bool {
        brake::is_rewritten(self)
    }
}
