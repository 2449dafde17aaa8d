//! Chunks into extents, entries into the manifest, both in path order; hands out the chunks in batches to be sent.

use crate::backup::cache::{CacheWriter, CachedEntry, head_of};
use crate::backup::inspect::Stamp;
use crate::backup::lists::{ListWriter, Lists};
use crate::backup::plan::{Planned, Verdict, line_hash};
use crate::backup::{Error, Result};
use crate::manifest::{self, StreamWriter};
use crate::model::limits::{MAX_INLINE_EXTENTS, MAX_MISSING_IDS};
use crate::model::{Changes, ChunkId, ChunkerParameters, Content, Entry, EntryKind, Extent, Inside, Stream, Totals};
use crate::monitor::{Counter, Monitor};
use crate::platform::attributes;
use crate::platform::fs::Metadata;
use bytes::Bytes;
use std::collections::{HashSet, VecDeque};
use tokio::sync::mpsc;

/// A batch is closed at this many plain bytes: four blocks.
const BATCH_BYTES: usize = 4 << 20;
/// Ids of which it is remembered that they were handed out: equal files that lie near each other are asked for once. What lies
/// further back is at the receiver already, which answers for it. 16 MiB.
const REMEMBERED_IDS: usize = 256 << 10;

/// What comes out of the reader, in path order.
#[derive(Debug)]
pub enum Item {
    /// The next chunk of the file whose end is yet to come.
    Chunk(Bytes),
    /// The next hole of it.
    Hole(u64),
    /// The end of a file that was read.
    File {
        /// What the plan said.
        planned: Box<Planned>,
        /// What the system said when it was opened.
        metadata: Box<Metadata>,
        /// Bytes read.
        size: u64,
        /// How to recognise it next time.
        stamp: Option<Stamp>,
    },
    /// The end of a file that could not be read: what came of it is forgotten.
    Abandoned,
    /// A folder or link that is new or different.
    Ready(Box<Planned>),
    /// An entry as it was.
    Same(Box<(CachedEntry, Inside)>),
}

/// Items with the ids of the chunks among them, in order.
#[derive(Debug)]
pub struct Hashed {
    /// As they came.
    pub items: Vec<Item>,
    /// One for each [`Item::Chunk`].
    pub ids: Vec<ChunkId>,
}

/// Chunks to be sent if they are missing.
pub type Batch = Vec<(ChunkId, Bytes)>;

/// What a record needs.
#[derive(Debug)]
pub struct Collected {
    /// The manifest.
    pub manifest: Stream,
    /// The refs.
    pub refs: Stream,
    /// What is in the snapshot.
    pub totals: Totals,
    /// What changed; deletions are the plan's to know.
    pub changes: Changes,
    /// What to remember, once the snapshot has its id.
    pub memory: Memory,
}

/// What the source has at hand for the next backup.
#[derive(Debug)]
pub enum Memory {
    /// Nothing.
    Nothing,
    /// What it had for this one.
    Unchanged,
    /// Something new.
    Written(Box<Remember>),
}

/// What the source remembers of the snapshot in the making.
#[derive(Debug)]
pub struct Remember {
    /// Its entries.
    pub entries: CacheWriter,
    /// The extents of its large files.
    pub lists: Lists,
}

/// Takes items in path order.
#[derive(Debug)]
pub struct Collector {
    manifest: StreamWriter,
    // The chunks of the manifest and its lists; they come last in the refs.
    manifest_ids: Vec<ChunkId>,
    refs: StreamWriter,
    list: StreamWriter,
    extents: Vec<Extent>,
    // Whether extents of the file at hand have gone to the list already.
    listed: bool,
    // The refs of the file at hand: they count only once it is read to its end.
    file_refs: Vec<ChunkId>,
    out: Out,
    totals: Totals,
    changes: Changes,
    cache: Option<Remember>,
    // The list of the file at hand, as it is remembered.
    kept_list: Option<ListWriter>,
}

impl Collector {
    /// An empty snapshot.
    pub fn new(parameters: &ChunkerParameters, cache: Option<Remember>) -> Self {
        Self {
            manifest: StreamWriter::of_record(parameters),
            manifest_ids: Vec::new(),
            refs: StreamWriter::of_record(parameters),
            list: StreamWriter::new(parameters),
            extents: Vec::new(),
            listed: false,
            file_refs: Vec::new(),
            out: Out::default(),
            totals: Totals::default(),
            changes: Changes::default(),
            cache,
            kept_list: None,
        }
    }

    /// Takes the next items.
    ///
    /// # Errors
    /// The cache's disk, or [`Error::Stopped`] when nobody takes batches any more.
    pub fn take(&mut self, hashed: Hashed, batches: &mpsc::Sender<Batch>, monitor: &dyn Monitor) -> Result<()> {
        let mut ids = hashed.ids.into_iter();
        for item in hashed.items {
            match item {
                Item::Chunk(bytes) => {
                    // As many ids as chunks: the hasher made one of each.
                    let Some(id) = ids.next() else { return Err(Error::Stopped) };
                    self.extent(Extent::Chunk(id, bytes.len() as u64), batches)?;
                    self.file_refs.push(id);
                    self.out.data.offer(id, bytes, &mut self.out.remembered, batches)?;
                }
                Item::Hole(length) => self.hole(length, batches)?,
                Item::Abandoned => {
                    self.extents.clear();
                    self.file_refs.clear();
                    self.kept_list = None;
                    if std::mem::take(&mut self.listed) {
                        self.list.finish(&mut |_, _| Ok::<_, Error>(()))?;
                    }
                }
                Item::File { planned, metadata, size, stamp } => {
                    let Planned { verdict, entry, .. } = *planned;
                    let entry = self.complete(entry, &metadata, size, batches)?;
                    let line = manifest::encode(&entry);
                    let group =
                        if let EntryKind::File { link_group, .. } = &entry.kind { link_group.as_deref() } else { None };
                    self.add(head_of(stamp, group).as_bytes(), &line, Some(size), batches)?;
                    match verdict {
                        Verdict::New => self.changes.new_files += 1,
                        Verdict::Changed(old) if old != line_hash(&line) => self.changes.changed_files += 1,
                        Verdict::Changed(_) => {}
                    }
                    monitor.count(Counter::Files, 1);
                }
                Item::Ready(planned) => {
                    self.add(head_of(planned.stamp, None).as_bytes(), &planned.line, None, batches)?;
                }
                Item::Same(known) => {
                    let (known, inside) = *known;
                    if let Some(content) = &inside.content {
                        self.reference_content(content, batches)?;
                    }
                    self.add(known.head(), known.line(), inside.size, batches)?;
                    monitor.count(Counter::Files, u64::from(inside.size.is_some()));
                }
            }
        }
        Ok(())
    }

    /// Ends the streams and hands out the last batches.
    ///
    /// # Errors
    /// [`Error::Stopped`] when nobody takes batches any more.
    pub fn finish(mut self, batches: &mpsc::Sender<Batch>) -> Result<Collected> {
        let Out { meta, remembered, .. } = &mut self.out;
        let ids = &mut self.manifest_ids;
        let manifest = self.manifest.finish(&mut |id, bytes| {
            ids.push(id);
            meta.offer(id, bytes, remembered, batches)
        })?;
        for id in std::mem::take(&mut self.manifest_ids) {
            self.reference(id, batches)?;
        }
        let Out { meta, remembered, data } = &mut self.out;
        let refs = self.refs.finish(&mut |id, bytes| meta.offer(id, bytes, remembered, batches))?;
        data.ship(batches)?;
        meta.ship(batches)?;
        let memory = self.cache.map_or(Memory::Nothing, |remember| Memory::Written(Box::new(remember)));
        Ok(Collected { manifest, refs, totals: self.totals, changes: self.changes, memory })
    }

    fn hole(&mut self, length: u64, batches: &mpsc::Sender<Batch>) -> Result<()> {
        match self.extents.last_mut() {
            Some(Extent::Hole(before)) => *before += length,
            _ => self.extent(Extent::Hole(length), batches)?,
        }
        Ok(())
    }

    fn extent(&mut self, extent: Extent, batches: &mpsc::Sender<Batch>) -> Result<()> {
        self.extents.push(extent);
        if self.extents.len() > MAX_INLINE_EXTENTS { self.spill(batches) } else { Ok(()) }
    }

    /// Moves the extents at hand, all but the last (a hole may grow), to the list of the file.
    fn spill(&mut self, batches: &mpsc::Sender<Batch>) -> Result<()> {
        if !std::mem::replace(&mut self.listed, true) {
            self.kept_list = self.cache.as_ref().map(|cache| cache.lists.begin()).transpose()?;
        }
        let last = self.extents.pop();
        for extent in std::mem::take(&mut self.extents) {
            self.write_list(extent, batches)?;
        }
        self.extents.extend(last);
        Ok(())
    }

    fn write_list(&mut self, extent: Extent, batches: &mpsc::Sender<Batch>) -> Result<()> {
        if let Some(list) = &mut self.kept_list {
            list.write(&extent)?;
        }
        let (Out { meta, remembered, .. }, refs) = (&mut self.out, &mut self.file_refs);
        self.list.write(&extent.encode(), &mut |id, bytes| {
            refs.push(id);
            meta.offer(id, bytes, remembered, batches)
        })
    }

    fn complete(
        &mut self,
        mut entry: Entry,
        metadata: &Metadata,
        read: u64,
        batches: &mpsc::Sender<Batch>,
    ) -> Result<Entry> {
        let whole = if self.listed {
            for extent in std::mem::take(&mut self.extents) {
                self.write_list(extent, batches)?;
            }
            self.listed = false;
            let (Out { meta, remembered, .. }, refs) = (&mut self.out, &mut self.file_refs);
            let stream = self.list.finish(&mut |id, bytes| {
                refs.push(id);
                meta.offer(id, bytes, remembered, batches)
            })?;
            if let (Some(list), Some(cache)) = (self.kept_list.take(), &mut self.cache) {
                cache.lists.keep(list, &stream)?;
            }
            Content::Indirect(stream)
        } else {
            Content::Inline(std::mem::take(&mut self.extents))
        };
        for id in std::mem::take(&mut self.file_refs) {
            self.reference(id, batches)?;
        }
        if let EntryKind::File { size, content, .. } = &mut entry.kind {
            *size = read;
            *content = Some(whole);
        }
        entry.metadata.mtime = Some(attributes::modified(metadata));
        entry.metadata.mode = Some(attributes::permissions(metadata));
        Ok(entry)
    }

    fn reference_content(&mut self, content: &Content, batches: &mpsc::Sender<Batch>) -> Result<()> {
        let stream = match content {
            Content::Inline(extents) => {
                return extents.iter().filter_map(Extent::chunk).try_for_each(|id| self.reference(id, batches));
            }
            Content::Indirect(stream) => stream,
        };
        // The reader lets only such files through unread whose list is at hand. Cutting the list again gives the ids of its
        // own chunks; they are at the receiver already and are not handed out.
        let Some(cache) = &mut self.cache else { return Err(Error::Stopped) };
        let mut list = cache.lists.open(stream)?;
        let mut own = Vec::new();
        let mut sink = |id, _| {
            own.push(id);
            Ok::<_, Error>(())
        };
        let refs = &mut self.file_refs;
        while let Some(extent) = list.read_next()? {
            refs.extend(extent.chunk());
            self.list.write(&extent.encode(), &mut sink)?;
        }
        if self.list.finish(&mut sink)? != *stream {
            return Err(Error::List);
        }
        for id in std::mem::take(&mut self.file_refs).into_iter().chain(own) {
            self.reference(id, batches)?;
        }
        Ok(())
    }

    fn reference(&mut self, id: ChunkId, batches: &mpsc::Sender<Batch>) -> Result<()> {
        let Out { meta, remembered, .. } = &mut self.out;
        self.refs.write(id.as_bytes(), &mut |id, bytes| meta.offer(id, bytes, remembered, batches))
    }

    /// Adds a line; `size`: of a file.
    fn add(&mut self, head: &[u8], line: &[u8], size: Option<u64>, batches: &mpsc::Sender<Batch>) -> Result<()> {
        let (Out { meta, remembered, .. }, ids) = (&mut self.out, &mut self.manifest_ids);
        let mut sink = |id, bytes| {
            ids.push(id);
            meta.offer(id, bytes, remembered, batches)
        };
        self.manifest.write(line, &mut sink)?;
        self.manifest.write(b"\n", &mut sink)?;
        if let Some(cache) = &mut self.cache {
            cache.entries.write(head, line)?;
        }
        self.totals.entries += 1;
        self.totals.files += u64::from(size.is_some());
        self.totals.bytes += size.unwrap_or(0);
        Ok(())
    }
}

/// Two lanes of chunks on their way out, so that manifests lie together in the packs and not between files.
#[derive(Debug, Default)]
struct Out {
    data: Lane,
    meta: Lane,
    remembered: Remembered,
}

#[derive(Debug, Default)]
struct Lane {
    batch: Batch,
    bytes: usize,
}

impl Lane {
    fn offer(
        &mut self,
        id: ChunkId,
        bytes: Bytes,
        remembered: &mut Remembered,
        batches: &mpsc::Sender<Batch>,
    ) -> Result<()> {
        if !remembered.insert(id) {
            return Ok(());
        }
        self.bytes += bytes.len();
        self.batch.push((id, bytes));
        let full = self.bytes >= BATCH_BYTES || self.batch.len() >= MAX_MISSING_IDS;
        if full { self.ship(batches) } else { Ok(()) }
    }

    fn ship(&mut self, batches: &mpsc::Sender<Batch>) -> Result<()> {
        let batch = std::mem::take(&mut self.batch);
        self.bytes = 0;
        if batch.is_empty() { Ok(()) } else { batches.blocking_send(batch).map_err(|_| Error::Stopped) }
    }
}

#[derive(Debug, Default)]
struct Remembered {
    ids: HashSet<ChunkId>,
    order: VecDeque<ChunkId>,
}

impl Remembered {
    /// Whether the id was not remembered yet.
    fn insert(&mut self, id: ChunkId) -> bool {
        if !self.ids.insert(id) {
            return false;
        }
        self.order.push_back(id);
        if self.order.len() > REMEMBERED_IDS
            && let Some(oldest) = self.order.pop_front()
        {
            self.ids.remove(&oldest);
        }
        true
    }
}
