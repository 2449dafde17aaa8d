//! Which snapshots need chunks that are not there: walks manifest and refs of each, and every list once, however many snapshots
//! share it.
//!
//! A chunk of the refs is the same ids for each snapshot that has it, but for those that lie across its ends: so what was found in
//! it is kept, with its first and last bytes, by the place at which its first whole id begins.

use crate::model::{ChunkId, PackId, Record, Stream};
use crate::store::error::Result;
use crate::store::lists::{self, Found, Read};
use crate::store::packs::{LOOKUP_BATCH, Packs, PlainReader};
use bytes::Bytes;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::rc::Rc;

const ID: usize = ChunkId::LENGTH;

/// What a snapshot lacks.
#[derive(Debug, Default)]
pub(crate) struct Lack {
    /// Chunks that are not there, of whatever kind.
    pub(crate) chunks: BTreeSet<ChunkId>,
    /// The list of entries is hit.
    pub(crate) manifest: bool,
    /// The list of chunks is hit: others may be missing, too.
    pub(crate) refs: bool,
    /// A list cannot be read at the moment: what else is missing is not known.
    pub(crate) unread: bool,
}

impl Lack {
    pub(crate) fn is_empty(&self) -> bool {
        self.chunks.is_empty() && !self.manifest && !self.refs
    }
}

/// One chunk of refs, looked through.
#[derive(Debug)]
struct Part {
    head: Vec<u8>,
    tail: Vec<u8>,
    missing: Vec<ChunkId>,
}

/// Looks at one snapshot after the other.
#[derive(Debug)]
pub(crate) struct Reach<'a> {
    packs: &'a Packs,
    reader: PlainReader<'a>,
    /// Chunks that stand in the index and are lost all the same.
    gone: &'a HashSet<ChunkId>,
    parts: HashMap<(ChunkId, usize), Option<Rc<Part>>>,
    present: HashMap<ChunkId, bool>,
    /// Packs that could not give a list.
    pub(crate) suspects: BTreeSet<PackId>,
    unread: bool,
}

impl<'a> Reach<'a> {
    pub(crate) fn new(packs: &'a Packs, gone: &'a HashSet<ChunkId>) -> Self {
        let (parts, present, suspects) = (HashMap::new(), HashMap::new(), BTreeSet::new());
        Self { packs, reader: PlainReader::new(packs), gone, parts, present, suspects, unread: false }
    }

    /// What a snapshot lacks.
    pub(crate) fn look(&mut self, record: &Record) -> Result<Lack> {
        let mut lack = Lack::default();
        self.unread = false;
        let (mut leaves, mut seen) = (Vec::new(), HashSet::new());
        // A list may name the same chunk millions of times: what it names is held, not how often.
        let whole = self.leaves(&record.manifest, &mut lack.chunks, &mut |id| {
            if seen.insert(id) {
                leaves.push(id);
            }
        })?;
        drop(seen);
        let missing = self.missing(&leaves)?;
        lack.manifest = !whole || !missing.is_empty();
        lack.chunks.extend(missing);
        leaves.clear();
        lack.refs = !self.leaves(&record.refs, &mut lack.chunks, &mut |id| leaves.push(id))?;
        let mut carry: Vec<u8> = Vec::new();
        let mut crossing = Vec::new();
        for leaf in leaves {
            let Some(part) = self.part(leaf, carry.len())? else {
                if self.unread {
                    break;
                }
                // Where the next id begins is not known any more.
                lack.refs = true;
                lack.chunks.insert(leaf);
                break;
            };
            lack.chunks.extend(&part.missing);
            carry.extend_from_slice(&part.head);
            if let Some(id) = carry.first_chunk::<ID>() {
                crossing.push(ChunkId::from_bytes(*id));
                carry.clear();
            }
            carry.extend_from_slice(&part.tail);
        }
        lack.chunks.extend(self.missing(&crossing)?);
        lack.unread = self.unread;
        Ok(lack)
    }

    /// Tells `each` the stream's own chunks, and returns whether all are known; lists that cannot be read go to `lost`.
    fn leaves(&mut self, stream: &Stream, lost: &mut BTreeSet<ChunkId>, each: &mut dyn FnMut(ChunkId)) -> Result<bool> {
        let mut whole = true;
        let (suspects, unread) = (&mut self.suspects, &mut self.unread);
        lists::walk(&mut self.reader, stream, &mut |_, found| {
            match found {
                Found::Leaf(id) => each(id),
                Found::List(_) => {}
                Found::Unread(_) => *unread = true,
                Found::Broken(id, pack) => {
                    whole = false;
                    lost.insert(id);
                    suspects.extend(pack);
                }
            }
            Ok(())
        })?;
        Ok(whole)
    }

    /// Those of `ids` that are not there; remembers the answers, since manifests share most of their chunks.
    fn missing(&mut self, ids: &[ChunkId]) -> Result<Vec<ChunkId>> {
        let new: Vec<ChunkId> = ids.iter().filter(|id| !self.present.contains_key(id)).copied().collect();
        let absent: HashSet<ChunkId> = absent(self.packs, self.gone, &new)?.into_iter().collect();
        self.present.extend(new.iter().map(|id| (*id, !absent.contains(id))));
        Ok(ids.iter().filter(|id| self.present.get(id) == Some(&false)).copied().collect())
    }

    /// What is in a chunk of refs before which `carried` bytes of an id were left over; `None` when it cannot be read.
    fn part(&mut self, id: ChunkId, carried: usize) -> Result<Option<Rc<Part>>> {
        if let Some(part) = self.parts.get(&(id, carried)) {
            return Ok(part.clone());
        }
        let part = match self.read(id)? {
            Some(bytes) => {
                let head = (ID - carried) % ID;
                let (head, rest) = bytes.split_at(head.min(bytes.len()));
                let (ids, tail) = rest.as_chunks::<ID>();
                let ids: Vec<ChunkId> = ids.iter().copied().map(ChunkId::from_bytes).collect();
                let missing = absent(self.packs, self.gone, &ids)?;
                Some(Rc::new(Part { head: head.to_vec(), tail: tail.to_vec(), missing }))
            }
            // Not remembered: it may be readable again for the next one.
            None if self.unread => return Ok(None),
            None => None,
        };
        self.parts.insert((id, carried), part.clone());
        Ok(part)
    }

    fn read(&mut self, id: ChunkId) -> Result<Option<Bytes>> {
        if self.gone.contains(&id) {
            return Ok(None);
        }
        Ok(match lists::read(&mut self.reader, id)? {
            Read::Bytes(bytes) => Some(bytes),
            Read::Absent => None,
            Read::Unread(_) => {
                self.unread = true;
                None
            }
            Read::Damaged(pack) => {
                self.suspects.insert(pack);
                None
            }
        })
    }
}

/// Those of `ids` that are lost, or in no durable pack.
fn absent(packs: &Packs, gone: &HashSet<ChunkId>, ids: &[ChunkId]) -> Result<Vec<ChunkId>> {
    let mut absent = Vec::new();
    for ids in ids.chunks(LOOKUP_BATCH) {
        let places = packs.index.find(ids)?;
        absent.extend(ids.iter().zip(places).filter(|(id, p)| p.is_none() || gone.contains(*id)).map(|(id, _)| *id));
    }
    Ok(absent)
}
