//! One walk through the tree, merged with what is known about the last snapshot: both are in path order, so each entry is
//! compared with its own past without any look-up. Reads no file.

use crate::backup::cache::{Cache, CacheReader, CachedEntry};
use crate::backup::filter::{Filter, FilterOptions};
use crate::backup::inspect::{Inspector, Stamp};
use crate::backup::plan::{PlanWriter, Verdict, line_hash};
use crate::backup::walk::{Found, Walk};
use crate::backup::{Error, Plan, Result, Roots};
use crate::manifest;
use crate::model::limits::MAX_MANIFEST_ENTRIES;
use crate::model::{Changes, EntryKind, SnapshotId, Totals};
use crate::monitor::{Counter, Fault, Monitor, Phase};
use crate::platform::attributes;
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
    let past = Past { reader: known, next: None };
    let mut scan = Scan::new(&filter, options.scratch, clock, monitor, past)?;
    match scan.run(options.roots, shutdown) {
        Ok(()) => scan.finish(options),
        Err(Failed::Past(error)) => {
            let cache = options.cache.ok_or(error)?;
            monitor.notice("what was remembered of the last backup is damaged; every file is read again".to_owned());
            cache.clear()?;
            let mut scan = Scan::new(&filter, options.scratch, clock, monitor, Past { reader: None, next: None })?;
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
struct Past {
    reader: Option<CacheReader>,
    next: Option<CachedEntry>,
}

impl Past {
    fn advance(&mut self) -> Result<(), Failed> {
        self.next = match &mut self.reader {
            Some(reader) => reader.read_next().map_err(Failed::Past)?,
            None => None,
        };
        Ok(())
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
        for found in Walk::new(roots, self.filter, self.monitor) {
            if shutdown.is_stopped() {
                return Err(Error::Stopped.into());
            }
            let mut old = None;
            while let Some(next) = &self.past.next {
                match next.entry.path.cmp(&found.path) {
                    Ordering::Less => self.changes.deleted_files += u64::from(next.entry.is_file()),
                    Ordering::Equal => old = self.past.next.take(),
                    Ordering::Greater => break,
                }
                self.past.advance()?;
            }
            self.compare(&found, old)?;
        }
        while let Some(next) = &self.past.next {
            self.changes.deleted_files += u64::from(next.entry.is_file());
            self.past.advance()?;
        }
        Ok(())
    }

    fn compare(&mut self, found: &Found, old: Option<CachedEntry>) -> Result<()> {
        let group = self.inspector.link_group(found);
        let stamp = Stamp::of(&found.metadata, self.clock.now());
        let size = if found.metadata.is_file() { found.metadata.len() } else { 0 };
        match old {
            Some(old) if is_same(found, stamp, group.as_ref(), &old) => {
                self.plan.write(Verdict::Same, stamp, &old.line)?;
            }
            old => {
                let entry = match self.inspector.entry(found, group, self.monitor) {
                    Ok(entry) => entry,
                    Err(error) => {
                        self.monitor.fault(Fault::new(found.source.display().to_string(), &error));
                        return Ok(());
                    }
                };
                // A file that became something else, or the other way round, has no past: the file that was there is gone.
                self.changes.deleted_files +=
                    u64::from(old.as_ref().is_some_and(|old| old.entry.is_file() && !entry.is_file()));
                let old = old.filter(|old| old.entry.is_file() == entry.is_file());
                let verdict = old.map_or(Verdict::New, |old| Verdict::Changed(line_hash(&old.line)));
                // Of a file that will be read the plan keeps the stamp as it is now: the reader sees whether it is still the same.
                let planned = if entry.is_file() { Some(Stamp::at_this_moment(&found.metadata)) } else { stamp };
                self.plan.write(verdict, planned, &manifest::encode(&entry))?;
                if entry.is_file() {
                    self.bytes_to_read += size;
                    match verdict {
                        Verdict::New => self.changes.new_files += 1,
                        Verdict::Changed(_) | Verdict::Same => self.changes.changed_files += 1,
                    }
                }
            }
        }
        self.totals.entries += 1;
        self.totals.files += u64::from(found.metadata.is_file());
        self.totals.bytes += size;
        self.monitor.count(Counter::Entries, 1);
        self.monitor.count(Counter::Bytes, size);
        if self.totals.entries > MAX_MANIFEST_ENTRIES {
            return Err(Error::TooManyEntries);
        }
        Ok(())
    }

    fn finish(self, options: &ScanOptions<'_>) -> Result<Plan> {
        let mut plan = self.plan.finish(options.roots.clone(), options.parent, self.started)?;
        plan.totals = self.totals;
        plan.changes = self.changes;
        plan.bytes_to_read = self.bytes_to_read;
        Ok(plan)
    }
}

/// Whether nothing about an entry can have changed: kind, size, mtime, inode and ctime are the same, and so is its group of links.
fn is_same(found: &Found, stamp: Option<Stamp>, group: Option<&String>, old: &CachedEntry) -> bool {
    let same_kind = match &old.entry.kind {
        EntryKind::Folder => found.metadata.is_dir(),
        EntryKind::Link { .. } => found.metadata.is_symlink(),
        EntryKind::File { size, content, link_group } => {
            found.metadata.is_file()
                && *size == found.metadata.len()
                && content.is_some()
                && link_group.as_ref() == group
        }
    };
    let same_time = old.entry.metadata.mtime == Some(attributes::modified(&found.metadata));
    same_kind && same_time && stamp.is_some() && stamp == old.stamp
}
