//! Writes loads: folders first, then their files, by as many threads as there are cores.
//!
//! What a small file costs is calls of the system, one after the other, so several threads are several times as fast. A load is done
//! before the next begins: the memory is that of one load however many threads there are. A file that is only begun or ended in a load is
//! the first thread's; so the bytes of one file come in order from one thread.

use crate::monitor::{Counter, Fault, Monitor};
use crate::platform::resources;
use crate::platform::shutdown::Shutdown;
use crate::restore::action::PlanStats;
use crate::restore::fetch::{Fetched, Step, WRONG_LENGTH};
use crate::restore::plan::PlanReader;
use crate::restore::run::Report;
use crate::restore::target::{FileWriter, Target};
use crate::restore::{Error, Result};
use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::sync::mpsc;

/// Threads that write at once: more than that wait for the file system and for each other.
const MAX_WRITERS: usize = 4;
/// Files that a thread takes at a time: neighbours mostly lie in one folder, and in that only one thread gets on at a time.
const FILES_AT_ONCE: usize = 16;

/// Writes what was fetched.
pub(crate) struct Writer<T> {
    target: T,
    hand: Hand,
    further: Vec<(Box<dyn FileWriter>, Hand)>,
    monitor: Arc<dyn Monitor>,
    shutdown: Shutdown,
}

/// What a thread knows of the file at hand, and of those that failed.
struct Hand {
    monitor: Arc<dyn Monitor>,
    // The path and size of the file at hand, unless it has failed already.
    in_file: Option<(String, u64)>,
    failed: u64,
    failed_bytes: u64,
    // Those of them whose content is damaged or gone where it is kept.
    damaged: u64,
}

impl<T: Target> Writer<T> {
    /// Begins to write into `target`.
    ///
    /// # Errors
    /// The target's.
    pub(crate) fn new(target: T, monitor: Arc<dyn Monitor>, shutdown: Shutdown) -> Result<Self> {
        let further = target.further_writers(resources::cores().min(MAX_WRITERS) - 1).map_err(Error::Target)?;
        let further = further.into_iter().map(|writer| (writer, Hand::new(monitor.clone()))).collect();
        let hand = Hand::new(monitor.clone());
        Ok(Self { target, hand, further, monitor, shutdown })
    }

    /// Writes all loads that come.
    pub(crate) fn write_all(mut self, mut loads: mpsc::Receiver<Fetched>) -> Result<Self> {
        while let Some(fetched) = loads.blocking_recv() {
            self.write(&fetched)?;
        }
        Ok(self)
    }

    fn write(&mut self, fetched: &Fetched) -> Result<()> {
        for step in &fetched.steps {
            if let Step::Folder(planned) = step {
                let made = self.target.folder(planned);
                or_fault(&*self.monitor, &planned.entry.path.to_string(), made)?;
            }
        }
        let parts = Parts::of(&fetched.steps);
        self.hand.steps(&mut self.target, &fetched.steps[..parts.begun], fetched)?;
        let work = Work { fetched, files: &parts.files, next: AtomicUsize::new(0), shutdown: &self.shutdown };
        if parts.files.len() <= FILES_AT_ONCE || self.further.is_empty() {
            work.run(&mut self.target, &mut self.hand)?;
        } else {
            let (work, target, hand) = (&work, &mut self.target, &mut self.hand);
            std::thread::scope(|scope| {
                let threads: Vec<_> = self
                    .further
                    .iter_mut()
                    .map(|(writer, hand)| scope.spawn(move || work.run(&mut **writer, hand)))
                    .collect();
                let mut result = work.run(target, hand);
                for thread in threads {
                    result = result.and(thread.join().unwrap_or(Err(Error::Internal)));
                }
                result
            })?;
        }
        self.hand.steps(&mut self.target, &fetched.steps[parts.open..], fetched)
    }

    /// Settles every entry of the plan, then the whole.
    pub(crate) fn settle_all(&mut self, mut plan: PlanReader, stats: PlanStats) -> Result<Report> {
        let hands = || std::iter::once(&self.hand).chain(self.further.iter().map(|(_, hand)| hand));
        let mut failed: u64 = hands().map(|hand| hand.failed).sum();
        let mut failed_bytes = hands().fold(0_u64, |sum, hand| sum.saturating_add(hand.failed_bytes));
        let damaged = hands().map(|hand| hand.damaged).sum();
        while let Some(planned) = plan.read_next()? {
            if self.shutdown.is_stopped() {
                return Err(Error::Stopped);
            }
            let settled = self.target.settle(&planned);
            if settled.is_err() && planned.entry.is_file() {
                failed += 1;
                failed_bytes = failed_bytes.saturating_add(planned.entry.size());
            }
            or_fault(&*self.monitor, &planned.entry.path.to_string(), settled)?;
        }
        self.target.finish().map_err(Error::Target)?;
        let files = stats.files.saturating_sub(stats.skipped_files + failed);
        Ok(Report { files, bytes: stats.bytes.saturating_sub(failed_bytes), damaged })
    }
}

/// The steps of a load by files.
#[derive(Debug, PartialEq, Eq)]
struct Parts {
    /// How many steps go on with a file that an earlier load began.
    begun: usize,
    /// The steps of each whole file.
    files: Vec<Range<usize>>,
    /// Where the steps of a file begin that a later load goes on with.
    open: usize,
}

impl Parts {
    fn of(steps: &[Step]) -> Self {
        let mut files = Vec::new();
        let (mut begun, mut open) = (None, None);
        for (at, step) in steps.iter().enumerate() {
            match step {
                Step::Begin(_) => {
                    begun.get_or_insert(at);
                    open = Some(at);
                }
                Step::End | Step::Lost(_) => files.extend(open.take().map(|begin| begin..at + 1)),
                Step::Folder(_) | Step::Write(..) | Step::Hole(_) => {}
            }
        }
        Self { begun: begun.unwrap_or(steps.len()), files, open: open.unwrap_or(steps.len()) }
    }
}

/// The whole files of a load, for whichever thread has time.
struct Work<'a> {
    fetched: &'a Fetched,
    files: &'a [Range<usize>],
    next: AtomicUsize,
    shutdown: &'a Shutdown,
}

impl Work<'_> {
    fn run(&self, writer: &mut dyn FileWriter, hand: &mut Hand) -> Result<()> {
        loop {
            let from = self.next.fetch_add(FILES_AT_ONCE, Ordering::Relaxed).min(self.files.len());
            let files = &self.files[from..self.files.len().min(from + FILES_AT_ONCE)];
            if files.is_empty() {
                return Ok(());
            }
            if self.shutdown.is_stopped() {
                return Err(Error::Stopped);
            }
            for file in files {
                if let Err(error) = hand.steps(writer, &self.fetched.steps[file.clone()], self.fetched) {
                    // Nobody begins another file on a full disk.
                    self.next.store(self.files.len(), Ordering::Relaxed);
                    return Err(error);
                }
            }
        }
    }
}

impl Hand {
    fn new(monitor: Arc<dyn Monitor>) -> Self {
        Self { monitor, in_file: None, failed: 0, failed_bytes: 0, damaged: 0 }
    }

    fn steps(&mut self, writer: &mut dyn FileWriter, steps: &[Step], fetched: &Fetched) -> Result<()> {
        steps.iter().try_for_each(|step| self.step(writer, step, fetched))
    }

    fn step(&mut self, writer: &mut dyn FileWriter, step: &Step, fetched: &Fetched) -> Result<()> {
        match step {
            Step::Begin(planned) => {
                let path = planned.entry.path.to_string();
                let begun = writer.begin(planned);
                self.in_file = Some((path, planned.entry.size()));
                self.or_abandon(writer, begun)?;
            }
            Step::Write(id, length) if self.in_file.is_some() => match (fetched.chunks.get(id), fetched.lost.get(id)) {
                (Some(bytes), _) if bytes.len() as u64 == *length => {
                    let written = writer.write(bytes);
                    self.or_abandon(writer, written)?;
                    self.monitor.count(Counter::Bytes, *length);
                }
                (Some(_), _) => self.lose_damaged(writer, WRONG_LENGTH),
                (None, reason) => {
                    self.lose_damaged(writer, reason.map_or("one of its parts was not sent", String::as_str));
                }
            },
            Step::Hole(length) if self.in_file.is_some() => {
                let skipped = writer.hole(*length);
                self.or_abandon(writer, skipped)?;
                self.monitor.count(Counter::Bytes, *length);
            }
            Step::End if self.in_file.is_some() => {
                let ended = writer.end();
                self.or_abandon(writer, ended)?;
                self.in_file = None;
                self.monitor.count(Counter::Files, 1);
            }
            Step::Lost(reason) if self.in_file.is_some() => self.lose_damaged(writer, reason),
            // Folders are made already; the rest is of a file that has failed.
            Step::Folder(_) | Step::Write(..) | Step::Hole(_) | Step::End | Step::Lost(_) => {}
        }
        Ok(())
    }

    fn lose_damaged(&mut self, writer: &mut dyn FileWriter, reason: &str) {
        self.damaged += 1;
        self.lose(writer, reason);
    }

    fn lose(&mut self, writer: &mut dyn FileWriter, reason: &str) {
        writer.abandon();
        if let Some((subject, size)) = self.in_file.take() {
            self.failed += 1;
            self.failed_bytes = self.failed_bytes.saturating_add(size);
            self.monitor.fault(Fault { subject, problem: format!("not restored: {reason}") });
        }
    }

    fn or_abandon(&mut self, writer: &mut dyn FileWriter, result: io::Result<()>) -> Result<()> {
        match result {
            Ok(()) => Ok(()),
            Err(error) if is_full(&error) => {
                writer.abandon();
                Err(Error::Target(error))
            }
            Err(error) => {
                self.lose(writer, &error.to_string());
                Ok(())
            }
        }
    }
}

fn or_fault(monitor: &dyn Monitor, subject: &str, result: io::Result<()>) -> Result<()> {
    match result {
        Ok(()) => Ok(()),
        Err(error) if is_full(&error) => Err(Error::Target(error)),
        Err(error) => {
            monitor.fault(Fault::new(subject, &error));
            Ok(())
        }
    }
}

/// Whether the disk is full.
pub fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::chunk_id;
    use crate::model::{Content, Entry, EntryKind, Metadata, RelPath};
    use crate::monitor::recording::RecordingMonitor;
    use crate::restore::action::{Action, Planned};
    use bytes::Bytes;
    use std::collections::{BTreeMap, HashMap};
    use std::sync::Mutex;

    /// What is in the place: each file with its bytes.
    #[derive(Default)]
    struct Place {
        files: Mutex<BTreeMap<String, Vec<u8>>>,
        full_at: Option<String>,
    }

    struct Fake {
        place: Arc<Place>,
        current: Option<(String, Vec<u8>)>,
    }

    impl FileWriter for Fake {
        fn begin(&mut self, planned: &Planned) -> io::Result<()> {
            let path = planned.entry.path.to_string();
            if self.place.full_at.as_ref() == Some(&path) {
                return Err(io::ErrorKind::StorageFull.into());
            }
            assert!(self.current.replace((path, Vec::new())).is_none(), "one file at a time");
            Ok(())
        }

        fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
            self.current.as_mut().unwrap().1.extend_from_slice(bytes);
            Ok(())
        }

        fn hole(&mut self, length: u64) -> io::Result<()> {
            self.write(&vec![0; length as usize])
        }

        fn end(&mut self) -> io::Result<()> {
            let (path, bytes) = self.current.take().unwrap();
            assert!(self.place.files.lock().unwrap().insert(path, bytes).is_none(), "every file once");
            Ok(())
        }

        fn abandon(&mut self) {
            self.current = None;
        }
    }

    impl Target for Fake {
        fn folder(&mut self, _: &Planned) -> io::Result<()> {
            Ok(())
        }

        fn further_writers(&self, _: usize) -> io::Result<Vec<Box<dyn FileWriter>>> {
            // Whatever the machine has: the rules must hold with several.
            let fake = || Box::new(Self { place: self.place.clone(), current: None }) as Box<dyn FileWriter>;
            Ok((0..3).map(|_| fake()).collect())
        }

        fn settle(&mut self, _: &Planned) -> io::Result<()> {
            Ok(())
        }

        fn finish(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn begin(path: &str, size: u64) -> Step {
        let kind = EntryKind::File { size, content: Some(Content::Inline(Vec::new())), link_group: None };
        let entry = Entry { path: RelPath::new(path.as_bytes()).unwrap(), kind, metadata: Metadata::default() };
        Step::Begin(Box::new(Planned { action: Action::Create, entry }))
    }

    fn chunk(n: usize) -> Bytes {
        Bytes::from(format!("the bytes of {n};").into_bytes())
    }

    fn write(n: usize) -> Step {
        Step::Write(chunk_id(&chunk(n)), chunk(n).len() as u64)
    }

    fn writer(place: &Arc<Place>, monitor: &Arc<RecordingMonitor>) -> Writer<Fake> {
        let fake = Fake { place: place.clone(), current: None };
        Writer::new(fake, monitor.clone(), Shutdown::new()).unwrap()
    }

    fn fetched(steps: Vec<Step>, have: impl Fn(usize) -> bool) -> Fetched {
        let chunks = (0..300).filter(|n| have(*n)).map(|n| (chunk_id(&chunk(n)), chunk(n))).collect();
        Fetched { steps, chunks, lost: HashMap::new() }
    }

    #[test]
    fn a_load_is_cut_into_its_files() {
        let lost = || Step::Lost("gone".to_owned());
        let steps =
            [write(0), Step::End, begin("a", 1), write(1), Step::End, begin("b", 1), lost(), begin("c", 1), write(2)];
        assert_eq!(Parts::of(&steps), Parts { begun: 2, files: vec![2..5, 5..7], open: 7 });
        assert_eq!(Parts::of(&[write(0), write(1)]), Parts { begun: 2, files: vec![], open: 2 });
        assert_eq!(Parts::of(&[]), Parts { begun: 0, files: vec![], open: 0 });
    }

    #[test]
    fn several_threads_write_every_file_whole_and_once_and_name_what_is_lost() {
        let (place, monitor) = (Arc::new(Place::default()), Arc::new(RecordingMonitor::default()));
        let mut writer = writer(&place, &monitor);
        // The first file goes on in the second load, and so does the last of that in the third.
        writer.write(&fetched(vec![begin("first", 40), write(0)], |_| true)).unwrap();
        let mut steps = vec![write(1), Step::Hole(3), Step::End];
        for n in 0..200 {
            steps.extend([begin(&format!("files/{n}"), 20), write(n), write(n + 1), Step::End]);
        }
        steps.extend([begin("last", 40), write(5)]);
        writer.write(&fetched(steps, |n| n != 77)).unwrap();
        writer.write(&fetched(vec![write(6), Step::End], |_| true)).unwrap();
        let files = place.files.lock().unwrap();
        let text = |path: &str| String::from_utf8(files[path].clone()).unwrap();
        assert_eq!(text("first"), "the bytes of 0;the bytes of 1;\0\0\0");
        assert_eq!(text("last"), "the bytes of 5;the bytes of 6;");
        for n in (0..200).filter(|n| ![76, 77].contains(n)) {
            assert_eq!(text(&format!("files/{n}")), format!("the bytes of {n};the bytes of {};", n + 1));
        }
        assert_eq!(files.len(), 2 + 198);
        let mut lost: Vec<_> = monitor.faults().into_iter().map(|fault| fault.subject).collect();
        lost.sort();
        assert_eq!(lost, ["files/76", "files/77"]);
        let failed = |hand: &Hand| hand.failed;
        assert_eq!(failed(&writer.hand) + writer.further.iter().map(|(_, hand)| failed(hand)).sum::<u64>(), 2);
    }

    #[test]
    fn a_full_disk_ends_all_threads() {
        let place = Arc::new(Place { full_at: Some("files/100".to_owned()), ..Place::default() });
        let mut writer = writer(&place, &Arc::default());
        let files = (0..200).flat_map(|n| [begin(&format!("files/{n}"), 20), write(n), Step::End]);
        let error = writer.write(&fetched(files.collect(), |_| true)).unwrap_err();
        assert!(matches!(error, Error::Target(error) if is_full(&error)));
    }
}
