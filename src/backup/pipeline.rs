//! The blocking half of a backup: one thread reads in path order, as many as there are cores hash, one collects in path order.
//!
//! ```text
//! reader ──parcels──▶ hashers (one a core) ──▶ collector ──batches──▶ send (async)
//! ```
//!
//! Parcels are hashed out of order and collected in order: with each parcel the reader queues a one-shot channel, and the
//! collector takes results from those. Every queue is bounded, so a slow network stops the reader.

use crate::backup::cache::{Cache, CachedEntry};
use crate::backup::collect::{Batch, Collected, Collector, Hashed, Item};
use crate::backup::inspect::{self, Stamp};
use crate::backup::lists::Lists;
use crate::backup::plan::{PlanReader, Planned, Step, Verdict, line_hash};
use crate::backup::read::{self, Outcome, Piece};
use crate::backup::{Error, Result, Roots};
use crate::chunker::Chunker;
use crate::codec::chunk_id;
use crate::model::{ChunkId, ChunkerParameters, Content, EntryKind, Extent};
use crate::monitor::{Counter, Fault, Monitor};
use crate::platform::attributes::OwnerNames;
use crate::platform::clock::Clock;
use crate::platform::fs::Metadata;
use crate::platform::resources;
use crate::platform::shutdown::Shutdown;
use std::collections::HashSet;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Mutex, PoisonError};
use tokio::sync::mpsc;

/// A parcel is closed at this many plain bytes: enough to keep a core busy for a third of a millisecond.
const PARCEL_BYTES: usize = 1 << 20;
/// A parcel is closed at this many items: 50,000 empty files are 100 parcels.
const PARCEL_ITEMS: usize = 512;
/// Parcels waiting or being hashed, for each core. Each holds at most [`PARCEL_BYTES`] and one chunk.
const PARCELS_PER_CORE: usize = 2;

/// What the pipeline works with.
#[derive(Debug)]
pub struct Source<'a> {
    /// Where things lie.
    pub roots: &'a Roots,
    /// Where to cut.
    pub parameters: ChunkerParameters,
    /// Where the extents of large files are remembered.
    pub cache: Option<&'a Cache>,
    /// What is read although it is the same: chunks of the last snapshot are gone and have to be sent again.
    pub again: &'a Again,
    /// For stamps.
    pub clock: &'a dyn Clock,
    /// Watches.
    pub monitor: &'a dyn Monitor,
    /// Ends the reading.
    pub shutdown: &'a Shutdown,
}

/// What is read although it is the same as in the last snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Again {
    /// Nothing.
    Nothing,
    /// The files that need one of these chunks.
    With(HashSet<ChunkId>),
    /// Everything.
    Everything,
}

type Parcel = Vec<Item>;
type Work = (Parcel, SyncSender<Hashed>);
type Queued = Result<Receiver<Hashed>>;

/// Runs the whole of it on this thread and its own; blocks until everything is read and taken.
///
/// # Errors
/// The plan's or the cache's disk, the shutdown, or [`Error::Stopped`] when nobody takes batches any more.
pub fn run(
    source: &Source<'_>,
    plan: PlanReader,
    mut collector: Collector,
    batches: &mpsc::Sender<Batch>,
) -> Result<Collected> {
    let cores = resources::cores();
    let queue = cores * PARCELS_PER_CORE;
    let (work_sender, work) = sync_channel::<Work>(queue);
    let (order_sender, order) = sync_channel::<Queued>(queue);
    let work = &Mutex::new(work);
    std::thread::scope(|scope| {
        for _ in 0..cores {
            scope.spawn(move || hash_parcels(work));
        }
        scope.spawn(move || {
            let mut reader = Reader {
                source,
                parcel: Parcel::new(),
                bytes: 0,
                names: OwnerNames::default(),
                work: work_sender,
                order: order_sender,
            };
            let read = reader.read_all(plan);
            if let Err(error) = read {
                // The collector may be gone already; then it knows better why.
                let _ = reader.order.send(Err(error));
            }
        });
        for queued in order {
            // A hasher that is gone has panicked; the scope will say so.
            let hashed = queued?.recv().map_err(|_| Error::Stopped)?;
            collector.take(hashed, batches, source.monitor)?;
        }
        collector.finish(batches)
    })
}

fn hash_parcels(work: &Mutex<Receiver<Work>>) {
    loop {
        let next = work.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok((items, done)) = next else { return };
        let id = |item: &Item| if let Item::Chunk(bytes) = item { Some(chunk_id(bytes)) } else { None };
        let ids = items.iter().filter_map(id).collect();
        // The collector may have stopped; nobody misses the result then.
        let _ = done.send(Hashed { items, ids });
    }
}

struct Reader<'a> {
    source: &'a Source<'a>,
    parcel: Parcel,
    bytes: usize,
    names: OwnerNames,
    work: SyncSender<Work>,
    order: SyncSender<Queued>,
}

impl Reader<'_> {
    fn read_all(&mut self, mut plan: PlanReader) -> Result<()> {
        let mut chunker = Chunker::new(&self.source.parameters);
        while let Some(step) = plan.read_next()? {
            if self.source.shutdown.is_stopped() {
                return Err(Error::Stopped);
            }
            self.source.monitor.count(Counter::Entries, 1);
            let flow = match step {
                Step::Same(known) => self.same(&mut chunker, known)?,
                Step::Look(planned) if planned.entry.is_file() => self.read_file(&mut chunker, *planned),
                Step::Look(planned) => self.push(Item::Ready(planned)),
            };
            if flow.is_break() {
                return Err(Error::Stopped);
            }
        }
        if self.ship().is_break() { Err(Error::Stopped) } else { Ok(()) }
    }

    /// An entry that is as it was; not read, unless that is needed to know all ids of it, or the receiver has lost something of it.
    fn same(&mut self, chunker: &mut Chunker, known: CachedEntry) -> Result<ControlFlow<()>> {
        let inside = known.inside().ok_or(Error::List)?;
        let read = match (&inside.content, inside.size) {
            (Some(content), _) => !self.is_known(content) || self.is_wanted(content)?,
            // A file whose content is not known cannot be the same as it was.
            (None, size) => size.is_some(),
        };
        if read {
            let entry = known.entry().ok_or(Error::List)?;
            let stamp = std::str::from_utf8(known.head()).ok().and_then(Stamp::of_head);
            let verdict = Verdict::Changed(line_hash(known.line()));
            let planned = Planned { verdict, stamp, entry, line: known.line().to_vec() };
            return Ok(self.read_file(chunker, planned));
        }
        self.source.monitor.count(Counter::Bytes, inside.size.unwrap_or(0));
        Ok(self.push(Item::Same(Box::new((known, inside)))))
    }

    /// Whether all ids of a file that is the same are at hand.
    fn is_known(&self, content: &Content) -> bool {
        match content {
            Content::Indirect(stream) => self.source.cache.is_some_and(|cache| Lists::has(cache, stream)),
            Content::Inline(_) => true,
        }
    }

    /// Whether a file that is the same has to be read again, because the receiver has lost something of it.
    fn is_wanted(&self, content: &Content) -> Result<bool> {
        let wanted = match self.source.again {
            Again::Nothing => return Ok(false),
            Again::Everything => return Ok(true),
            Again::With(wanted) => wanted,
        };
        let has = |extent: &Extent| extent.chunk().is_some_and(|id| wanted.contains(&id));
        let list = match content {
            Content::Inline(extents) => return Ok(extents.iter().any(has)),
            Content::Indirect(list) => list,
        };
        // Lists of lists are not at hand; a file that has them is far beyond 100 GB and no other gives its chunks.
        if list.depth > 0 || list.ids.iter().any(|id| wanted.contains(id)) {
            return Ok(true);
        }
        let Some(cache) = self.source.cache else { return Ok(true) };
        let mut extents = Lists::new(cache.clone()).open(list)?;
        while let Some(extent) = extents.read_next()? {
            if has(&extent) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn read_file(&mut self, chunker: &mut Chunker, planned: Planned) -> ControlFlow<()> {
        let Some(path) = self.source.roots.source_of(&planned.entry.path) else { return ControlFlow::Continue(()) };
        let monitor = self.source.monitor;
        let outcome = read::read(&path, chunker, self.source.clock, &mut |piece| {
            let (item, length) = match piece {
                Piece::Chunk(bytes) => {
                    let length = bytes.len() as u64;
                    monitor.count(Counter::BytesRead, length);
                    (Item::Chunk(bytes), length)
                }
                Piece::Hole(length) => (Item::Hole(length), length),
            };
            monitor.count(Counter::Bytes, length);
            if self.source.shutdown.is_stopped() { ControlFlow::Break(()) } else { self.push(item) }
        });
        match outcome {
            Ok(Outcome::Stopped) => ControlFlow::Break(()),
            Ok(Outcome::Read { metadata, size, stamp, changed_meanwhile }) => {
                let (planned, stamp) = self.as_opened(planned, &path, &metadata, stamp);
                if changed_meanwhile {
                    let problem = "changed while it was read; kept as it was read".to_owned();
                    monitor.fault(Fault { subject: path.display().to_string(), problem });
                }
                self.push(Item::File { planned: Box::new(planned), metadata, size, stamp })
            }
            Err(error) => {
                monitor.fault(Fault::new(path.display().to_string(), &error));
                self.push(Item::Abandoned)
            }
        }
    }

    /// The scan looked at the file by its name a while ago. When another file is behind the name now, or anything about it has
    /// changed, owner and attributes are read again, it belongs to no group of links that the scan saw, and its stamp is not
    /// trusted: what was read in the meantime may be of two minds.
    fn as_opened(
        &mut self,
        mut planned: Planned,
        path: &Path,
        metadata: &Metadata,
        stamp: Option<Stamp>,
    ) -> (Planned, Option<Stamp>) {
        if planned.stamp == Some(Stamp::at_this_moment(metadata)) {
            return (planned, stamp);
        }
        planned.entry.metadata = inspect::metadata(path, metadata, &mut self.names, self.source.monitor);
        if let EntryKind::File { link_group, .. } = &mut planned.entry.kind {
            *link_group = None;
        }
        (planned, None)
    }

    fn push(&mut self, item: Item) -> ControlFlow<()> {
        if let Item::Chunk(bytes) = &item {
            self.bytes += bytes.len();
        }
        self.parcel.push(item);
        if self.bytes >= PARCEL_BYTES || self.parcel.len() >= PARCEL_ITEMS {
            self.ship()
        } else {
            ControlFlow::Continue(())
        }
    }

    fn ship(&mut self) -> ControlFlow<()> {
        let parcel = std::mem::take(&mut self.parcel);
        self.bytes = 0;
        let (done, hashed) = sync_channel(1);
        let sent = self.work.send((parcel, done)).is_ok() && self.order.send(Ok(hashed)).is_ok();
        if sent { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    }
}
