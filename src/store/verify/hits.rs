//! Which files of a snapshot need chunks that are lost. Streams the manifest, a chunk at a time; what was found in a chunk is kept,
//! so that snapshots that share most of their manifest cost little more than one.

use crate::manifest;
use crate::model::limits::MAX_ENTRY_LINE_BYTES;
use crate::model::{ChunkId, Content, EntryKind, Extent, Stream};
use crate::store::error::Result;
use crate::store::lists::{self, Found, Read};
use crate::store::packs::{Packs, PlainReader};
use std::collections::{HashMap, HashSet};
use std::rc::Rc;

/// What is hit in one chunk of a manifest, and its ends, which are halves of lines.
#[derive(Debug)]
struct Part {
    head: Vec<u8>,
    /// `None` when no line ends in it: then `head` is all of it.
    tail: Option<Vec<u8>>,
    hits: Vec<String>,
}

/// Files that are hit, the first ones by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Hits {
    pub(crate) files: Vec<String>,
    pub(crate) more: u64,
}

impl Hits {
    fn add(&mut self, path: &str, limit: usize) {
        if self.files.len() < limit { self.files.push(path.to_owned()) } else { self.more += 1 }
    }
}

/// Looks through one manifest after the other.
#[derive(Debug)]
pub(crate) struct HitFinder<'a> {
    packs: &'a Packs,
    reader: PlainReader<'a>,
    /// Every chunk that any snapshot lacks.
    lost: &'a HashSet<ChunkId>,
    parts: HashMap<ChunkId, Option<Rc<Part>>>,
}

impl<'a> HitFinder<'a> {
    pub(crate) fn new(packs: &'a Packs, lost: &'a HashSet<ChunkId>) -> Self {
        Self { packs, reader: PlainReader::new(packs), lost, parts: HashMap::new() }
    }

    /// The files that need lost chunks, at most `limit` by name. Where the manifest itself cannot be read, it goes on with the
    /// next line that can.
    pub(crate) fn find(&mut self, manifest: &Stream, limit: usize) -> Result<Hits> {
        let mut hits = Hits::default();
        // `None` while the beginning of the line is lost.
        let mut line = Some(Vec::new());
        // Chunks are looked at as they are named: how many there are, and how often, a source says.
        lists::walk(&mut PlainReader::new(self.packs), manifest, &mut |_, found| {
            let Found::Leaf(leaf) = found else { return Ok(()) };
            let Some(part) = self.part(leaf)? else {
                line = None;
                return Ok(());
            };
            if let Some(line) = line.as_mut().filter(|line| line.len() <= MAX_ENTRY_LINE_BYTES) {
                line.extend_from_slice(&part.head);
            }
            let Some(tail) = &part.tail else { return Ok(()) };
            if let Some(path) = line.take().map(|line| self.hit(&line)).transpose()?.flatten() {
                hits.add(&path, limit);
            }
            part.hits.iter().for_each(|path| hits.add(path, limit));
            line = Some(tail.clone());
            Ok(())
        })?;
        Ok(hits)
    }

    fn part(&mut self, id: ChunkId) -> Result<Option<Rc<Part>>> {
        if let Some(part) = self.parts.get(&id) {
            return Ok(part.clone());
        }
        let part = match lists::read(&mut self.reader, id)? {
            Read::Bytes(bytes) if !self.lost.contains(&id) => {
                let ends: Vec<usize> =
                    bytes.iter().enumerate().filter(|(_, b)| **b == b'\n').map(|(at, _)| at).collect();
                match (ends.first(), ends.last()) {
                    (Some(first), Some(last)) => {
                        let mut hits = Vec::new();
                        for line in ends.windows(2) {
                            hits.extend(self.hit(&bytes[line[0] + 1..line[1]])?);
                        }
                        let (head, tail) = (bytes[..*first].to_vec(), Some(bytes[last + 1..].to_vec()));
                        Some(Rc::new(Part { head, tail, hits }))
                    }
                    _ => Some(Rc::new(Part { head: bytes.to_vec(), tail: None, hits: Vec::new() })),
                }
            }
            _ => None,
        };
        self.parts.insert(id, part.clone());
        Ok(part)
    }

    /// The path of the entry of a line, when it is a file that is hit.
    fn hit(&mut self, line: &[u8]) -> Result<Option<String>> {
        // What is no entry was none when it came: the source's doing, and restored by nobody.
        let Ok(entry) = manifest::decode(line) else { return Ok(None) };
        let EntryKind::File { content: Some(content), .. } = &entry.kind else { return Ok(None) };
        let hit = match content {
            Content::Inline(extents) => extents.iter().filter_map(Extent::chunk).any(|id| self.lost.contains(&id)),
            Content::Indirect(list) => self.list_is_hit(list)?,
        };
        Ok(hit.then(|| entry.path.to_string()))
    }

    fn list_is_hit(&mut self, list: &Stream) -> Result<bool> {
        let (mut hit, mut carry) = (false, Vec::new());
        lists::walk(&mut PlainReader::new(self.packs), list, &mut |_, found| {
            let leaf = match found {
                _ if hit => return Ok(()),
                Found::List(_) | Found::Unread(_) => return Ok(()),
                Found::Leaf(leaf) if !self.lost.contains(&leaf) => leaf,
                Found::Leaf(_) | Found::Broken(..) => {
                    hit = true;
                    return Ok(());
                }
            };
            let bytes = match lists::read(&mut self.reader, leaf)? {
                Read::Bytes(bytes) => bytes,
                Read::Unread(_) => return Ok(()),
                Read::Absent | Read::Damaged(_) => {
                    hit = true;
                    return Ok(());
                }
            };
            carry.extend_from_slice(&bytes);
            let (extents, rest) = carry.as_chunks::<{ Extent::ENCODED_LENGTH }>();
            hit = extents.iter().filter_map(|e| Extent::decode(e).chunk()).any(|id| self.lost.contains(&id));
            carry = rest.to_vec();
            Ok(())
        })?;
        Ok(hit)
    }
}
