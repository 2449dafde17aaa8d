//! One walk through the tree, merged with what is known about the last snapshot: both are in path order, so each entry is
//! compared with its own past without any look-up. Nothing about an entry can have changed when kind, inode, size, mtime, ctime and
//! group of links are the same: then the head of its line in the cache is the same. Reads no file.

use crate::backup::cache::{Cache, CacheReader, CachedEntry, head_of};
use crate::backup::filter::{Filter, FilterOptions};
use crate::backup::inspect::{Inspector, Stamp};
use crate::backup::plan::{PlanWriter, Verdict, line_hash};
use crate::backup::walk::{Found, Walk};
use crate::backup::{Error, Plan, Result, Roots};
use crate::manifest;
use crate::model::limits::MAX_MANIFEST_ENTRIES;
use crate::model::{Changes, Entry, RelPath, SnapshotId, Totals};
use crate::monitor::{Counter, Fault, Monitor, Phase};
use crate::platform::clock::Clock;
use crate::platform::shutdown::Shutdown;
use std::cmp::Ordering;
use std::path::Path;

/// What to scan.
#[derive(Debug)]
pub struct ScanOptions<'a> {
    /// The tree.
    pub roots: &'a Roots,
    /// What to leave out.
    pub filter: &'a FilterOptions,
    /// The newest snapshot of the set.
    pub parent: Option<SnapshotId>,
    /// What is known about it.
    pub cache: Option<&'a Cache>,
    /// Where the plan is written: about 50 bytes an entry, which a folder in memory may not have to spare.
    pub scratch: &'a Path,
}

/// Walks and compares. A cache that turns out damaged is cleared, and the walk begins again without it.
///
/// # Errors
/// A pattern that is none, a disk that fails, too many entries, or the shutdown. What cannot be read in the tree is a fault.
pub fn scan(options: &ScanOptions<'_>, clock: &dyn Clock, monitor: &dyn Monitor, shutdown: &Shutdown) -> Result<Plan> {
    let filter = Filter::new(options.filter)?;
    monitor.phase(Phase::Scan);
    let known = match (options.cache, &options.parent) {
        (Some(cache), Some(parent)) => cache.open(parent)?,
        _ => None,
    };
    let past = Past { reader: known, ..Past::default() };
    let mut scan = Scan::new(&filter, options.scratch, clock, monitor, past)?;
    match scan.run(options.roots, shutdown) {
        Ok(()) => scan.finish(options),
        Err(Failed::Past(error)) => {
            let cache = options.cache.ok_or(error)?;
            monitor.notice("what was remembered of the last backup is damaged; every file is read again".to_owned());
            cache.clear()?;
            let mut scan = Scan::new(&filter, options.scratch, clock, monitor, Past::default())?;
            match scan.run(options.roots, shutdown) {
                Ok(()) => scan.finish(options),
                Err(Failed::Past(error) | Failed::Now(error)) => Err(error),
            }
        }
        Err(Failed::Now(error)) => Err(error),
    }
}

enum Failed {
    Past(Error),
    Now(Error),
}

impl From<Error> for Failed {
    fn from(error: Error) -> Self {
        Self::Now(error)
    }
}

/// The last snapshot, with one entry looked at ahead.
#[derive(Default)]
struct Past {
    reader: Option<CacheReader>,
    next: CachedEntry,
    // Whether `next` is one.
    more: bool,
}

impl Past {
    fn advance(&mut self) -> Result<(), Failed> {
        if let Some(reader) = &mut self.reader {
            self.more = reader.read_next(&mut self.next).map_err(Failed::Past)?;
        }
        Ok(())
    }

    /// How the next entry lies to `path`; `None` after the last.
    fn order(&self, path: &RelPath) -> Result<Option<Ordering>, Failed> {
        if !self.more {
            return Ok(None);
        }
        let next = self.next.path().ok_or_else(|| self.damaged())?;
        Ok(Some(path.cmp_bytes(&next).reverse()))
    }

    fn entry(&self) -> Result<Entry, Failed> {
        self.next.entry().ok_or_else(|| self.damaged())
    }

    fn damaged(&self) -> Failed {
        Failed::Past(self.reader.as_ref().map_or(Error::List, CacheReader::damaged))
    }
}

struct Scan<'a> {
    filter: &'a Filter,
    clock: &'a dyn Clock,
    monitor: &'a dyn Monitor,
    past: Past,
    inspector: Inspector,
    plan: PlanWriter,
    totals: Totals,
    changes: Changes,
    bytes_to_read: u64,
    started: jiff::Timestamp,
}

impl<'a> Scan<'a> {
    fn new(
        filter: &'a Filter,
        scratch: &Path,
        clock: &'a dyn Clock,
        monitor: &'a dyn Monitor,
        past: Past,
    ) -> Result<Self> {
        Ok(Self {
            filter,
            clock,
            monitor,
            past,
            inspector: Inspector::default(),
            plan: PlanWriter::create(scratch)?,
            totals: Totals::default(),
            changes: Changes::default(),
            bytes_to_read: 0,
            started: clock.now(),
        })
    }

    fn run(&mut self, roots: &Roots, shutdown: &Shutdown) -> Result<(), Failed> {
        self.past.advance()?;
        let walk = Walk::new(roots, self.filter, self.clock, self.monitor);
        std::thread::scope(|scope| self.merge(walk.ahead(scope), shutdown))
    }

    fn merge(&mut self, walk: impl Iterator<Item = Found>, shutdown: &Shutdown) -> Result<(), Failed> {
        for found in walk {
            if shutdown.is_stopped() {
                return Err(Error::Stopped.into());
            }
            let known = loop {
                match self.past.order(&found.path)? {
                    Some(Ordering::Less) => self.gone()?,
                    order => break order == Some(Ordering::Equal),
                }
            };
            self.compare(&found, known)?;
            if known {
                self.past.advance()?;
            }
        }
        while self.past.more {
            self.gone()?;
        }
        Ok(())
    }

    /// What comes next in the past is there no more.
    fn gone(&mut self) -> Result<(), Failed> {
        self.changes.deleted_files += u64::from(self.past.entry()?.is_file());
        self.plan.leave_out()?;
        self.past.advance()
    }

    /// `known`: whether the past has an entry at this path.
    fn compare(&mut self, found: &Found, known: bool) -> Result<(), Failed> {
        let group = self.inspector.link_group(found);
        let stamp = Stamp::of(&found.metadata, found.seen);
        let size = if found.metadata.is_file() { found.metadata.len() } else { 0 };
        let same = known && stamp.is_some() && head_of(stamp, group.as_deref()).as_bytes() == self.past.next.head();
        if same {
            self.plan.same()?;
        } else {
            let old = if known { Some(self.past.entry()?) } else { None };
            if known {
                self.plan.leave_out()?;
            }
            let entry = match self.inspector.entry(found, group, self.monitor) {
                Ok(entry) => entry,
                Err(error) => {
                    self.monitor.fault(Fault::new(found.source.display().to_string(), &error));
                    return Ok(());
                }
            };
            // A file that became something else, or the other way round, has no past: the file that was there is gone.
            self.changes.deleted_files += u64::from(old.as_ref().is_some_and(|old| old.is_file() && !entry.is_file()));
            let old = old.filter(|old| old.is_file() == entry.is_file());
            let verdict = old.map_or(Verdict::New, |_| Verdict::Changed(line_hash(self.past.next.line())));
            // Of a file that will be read the plan keeps the stamp as it is now: the reader sees whether it is still the same.
            let planned = if entry.is_file() { Some(Stamp::at_this_moment(&found.metadata)) } else { stamp };
            self.plan.look(verdict, planned, &manifest::encode(&entry))?;
            if entry.is_file() {
                self.bytes_to_read += size;
                match verdict {
                    Verdict::New => self.changes.new_files += 1,
                    Verdict::Changed(_) => self.changes.changed_files += 1,
                }
            }
        }
        self.totals.entries += 1;
        self.totals.files += u64::from(found.metadata.is_file());
        self.totals.bytes += size;
        self.monitor.count(Counter::Entries, 1);
        self.monitor.count(Counter::Bytes, size);
        if self.totals.entries > MAX_MANIFEST_ENTRIES {
            return Err(Error::TooManyEntries.into());
        }
        Ok(())
    }

    fn finish(self, options: &ScanOptions<'_>) -> Result<Plan> {
        let mut plan = self.plan.finish(options.roots.clone(), options.parent, self.started, self.past.reader)?;
        plan.totals = self.totals;
        plan.changes = self.changes;
        plan.bytes_to_read = self.bytes_to_read;
        Ok(plan)
    }
}
