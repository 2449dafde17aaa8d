//! How many bytes of each snapshot the next one has rewritten: measured here, by the chunks that the one needed and the other does not,
//! whatever the source says. Chunks of the list of entries do not count: a new list rewrites no file.
//!
//! Of two snapshots only those chunks of their refs are read that they do not share. Held is a number for each chunk (16 bytes and a
//! byte beside it, in a table with room for 1.8 million when there are a million), and only while there is something to measure. An
//! id that lies across two chunks of the refs is left out: one in thousands.
//!
//! Each is compared with the one before it, and with the newest that came a week or more before it: until then the floor keeps what was there, and
//! what goes in two steps within that time, each of them small, is seen all the same. After one that was found to rewrite too much, only
//! what came since counts.
//!
//! A pair of snapshots is measured once; what was found is kept in one small sealed object. Whoever deletes that has it measured again,
//! as long as both are there: and what was found too much keeps the one before it from going.

use crate::model::{ChunkId, Record, SetName, SnapshotId, Stream};
use crate::store::error::{Error, Result};
use crate::store::layout::{self, FORMAT};
use crate::store::lists::{self, Found};
use crate::store::needs_walk::{FirstBytes, ShortId, short};
use crate::store::pack::Trailer;
use crate::store::packs::{Packs, PlainReader};
use crate::store::prune::brake::{self, Rewrite};
use crate::store::records::Kept;
use crate::store::retention::FLOOR_DAYS;
use crate::store::sealed;
use crate::store::shelf::Shelf;
use bytes::Bytes;
use jiff::SignedDuration;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::hash::BuildHasherDefault;
use std::sync::Arc;

const ID: usize = ChunkId::LENGTH;
/// What is as old as this is not kept by the floor any more.
const FLOOR: SignedDuration = SignedDuration::from_hours(24 * FLOOR_DAYS);

type ShortIds = HashSet<ShortId, BuildHasherDefault<FirstBytes>>;

/// What was measured.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct BrakeState {
    format: u32,
    /// The newest snapshot of each set that was compared with those before it.
    #[serde(default)]
    heads: BTreeMap<SetName, SnapshotId>,
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
            let Some(newest) = chain.last().map(|kept| kept.info.id) else { continue };
            // One that was set aside, and has another in its place, is not taken for that.
            let head = self.heads.get(set);
            let measured = head.and_then(|head| chain.iter().rposition(|kept| kept.info.id == *head));
            let begin = measured.unwrap_or(0);
            if measured.is_some_and(|at| at + 1 == chain.len()) {
                continue;
            }
            if chain.len() > 1 {
                let contents = match &mut contents {
                    Some(contents) => contents,
                    none => none.insert(Contents::new(packs)?),
                };
                contents.clear();
                for (at, kept) in chain.iter().enumerate().skip(begin) {
                    if stopped() {
                        return Ok(new);
                    }
                    if gone(&kept.info.id) {
                        contents.clear();
                        continue;
                    }
                    let mut found = contents.advance(&kept.record)?.filter(Rewrite::is_too_much);
                    if found.is_none()
                        && at > begin
                        && let Some(before) = self.week_before(chain, at, gone)
                    {
                        // To it and back again: what they share is not read.
                        contents.advance(&before.record)?;
                        let rewrite = contents.advance(&kept.record)?.filter(Rewrite::is_too_much);
                        found = rewrite.map(|rewrite| Rewrite { since: Some(before.info.id), ..rewrite });
                    }
                    if let Some(rewrite) = found {
                        self.rewritten.insert(kept.info.id, rewrite);
                    }
                }
            }
            self.heads.insert(set.clone(), newest);
            new = true;
        }
        Ok(new)
    }

    /// The newest snapshot that came as long before the one at `at` as the floor is, unless that is the one before it. None that is older than
    /// one that has rewritten too much: a person has looked at that, or will.
    fn week_before<'a>(
        &self,
        chain: &'a [Arc<Kept>],
        at: usize,
        gone: &dyn Fn(&SnapshotId) -> bool,
    ) -> Option<&'a Arc<Kept>> {
        let latest = chain[at].info.receipt.received_at.saturating_sub(FLOOR).ok()?;
        let alarm = chain[..at].iter().rposition(|kept| self.rewritten.contains_key(&kept.info.id)).unwrap_or(0);
        let is_older = |kept: &&Arc<Kept>| kept.info.receipt.received_at <= latest && !gone(&kept.info.id);
        let found = chain[alarm..at].iter().rposition(|kept| is_older(&kept))?;
        (alarm + found + 1 < at).then(|| &chain[alarm + found])
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
    lists: ShortIds,
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
        Ok(Self { reader: PlainReader::new(packs), chunks, leaves: None, lists: ShortIds::default(), bytes: 0 })
    }

    fn clear(&mut self) {
        if self.leaves.take().is_some() {
            self.chunks.values_mut().for_each(|(uses, _)| *uses = 0);
        }
        self.lists.clear();
        self.bytes = 0;
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
        let mut lists = ShortIds::default();
        self.walk(&record.manifest, &mut |id, _| {
            lists.insert(short(id.as_bytes()));
        })?;
        let (mut leaves, mut offset, chunks) = (HashSet::new(), 0, std::mem::take(&mut self.chunks));
        let walked = self.walk(&record.refs, &mut |id, is_leaf| {
            if is_leaf {
                leaves.insert((id, (offset % ID as u64) as u8));
                offset += chunks.get(&short(id.as_bytes())).map_or(0, |(_, length)| u64::from(*length));
            }
        });
        self.chunks = chunks;
        walked?;
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
        self.lists = lists;
        Ok(Rewrite { before: whole.saturating_sub(of_lists), lost, since: None })
    }

    fn read(&mut self, id: ChunkId) -> Result<Bytes> {
        self.reader.read(id)?.ok_or(Error::NotFound(id))
    }

    /// Tells `each` the chunks of a stream, and which of them hold its bytes, perhaps with repeats; none of that is held.
    fn walk(&mut self, stream: &Stream, each: &mut dyn FnMut(ChunkId, bool)) -> Result<()> {
        lists::walk(&mut self.reader, stream, &mut |_, found| {
            match found {
                Found::Leaf(id) => each(id, true),
                Found::List(id) => each(id, false),
                // It may be damaged, too: what matters is that it cannot be read.
                Found::Broken(id, _) => return Err(Error::NotFound(id)),
                Found::Unread(error) => return Err(error),
            }
            Ok(())
        })
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
