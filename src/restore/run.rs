//! Carries out a plan: loads are fetched a few ahead and written in order by one thread; then links and folders are settled.

use crate::monitor::{Counter, Fault, Monitor, Phase};
use crate::platform::shutdown::Shutdown;
use crate::restore::action::PlanStats;
use crate::restore::fetch::{Fetched, Loader, Step, WRONG_LENGTH, fetch};
use crate::restore::plan::{Plan, PlanReader};
use crate::restore::target::Target;
use crate::restore::{Error, Result};
use crate::vault::Vault;
use futures_util::stream::{self, TryStreamExt};
use std::io;
use std::sync::Arc;
use tokio::sync::mpsc;

/// Loads being fetched at once. Each holds about 8 MiB.
const LOADS_AHEAD: usize = 3;
/// Loads waiting for the writer.
const QUEUED_LOADS: usize = 1;
/// Entries waiting between the plan's file and the loader.
const QUEUED_ENTRIES: usize = 64;

/// What a restore did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Files in their place: written, linked, or there already.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Files that were not restored because their content is damaged or gone where it is kept.
    pub damaged: u64,
}

/// Fetches and writes what the plan says.
///
/// # Errors
/// The vault or the target failed as a whole, or the shutdown. What concerns one file is a fault, and the rest goes on.
pub async fn run<V: Vault, T: Target + 'static>(
    vault: Arc<V>,
    plan: &Plan,
    target: T,
    monitor: Arc<dyn Monitor>,
    shutdown: Shutdown,
) -> Result<Report> {
    monitor.phase(Phase::Restore);
    monitor.total(Counter::Bytes, plan.stats.bytes_to_write);
    monitor.total(Counter::Files, plan.stats.files);
    let (entry_sender, entries) = mpsc::channel(QUEUED_ENTRIES);
    let (load_sender, loads) = mpsc::channel(QUEUED_LOADS);
    let reader = plan.entries()?;
    let reading = tokio::task::spawn_blocking(move || -> Result<()> {
        let mut reader = reader;
        while let Some(planned) = reader.read_next()? {
            entry_sender.blocking_send(planned)?;
        }
        Ok(())
    });
    let writer = Writer {
        target,
        monitor: monitor.clone(),
        shutdown: shutdown.clone(),
        in_file: None,
        failed: 0,
        failed_bytes: 0,
        damaged: 0,
    };
    let stats = plan.stats;
    let writing = tokio::task::spawn_blocking(move || writer.write_all(loads));
    let loader = Loader::new(vault.clone(), entries);
    let loads = stream::try_unfold(loader, |mut loader| async { Ok(loader.next().await?.map(|load| (load, loader))) });
    let fetched = loads
        .map_ok(|load| fetch(vault.clone(), load, monitor.clone()))
        .try_buffered(LOADS_AHEAD)
        .try_for_each(|fetched| async { load_sender.send(fetched).await.map_err(|_| Error::Stopped) });
    let fetched = tokio::select! {
        fetched = fetched => fetched,
        () = shutdown.stopped() => Err(Error::Stopped),
    };
    drop(load_sender);
    let written = writing.await.unwrap_or(Err(Error::Internal));
    let read = reading.await.unwrap_or(Err(Error::Internal));
    // When the writer failed, fetching only knows that it was stopped; when fetching failed, the writer ended well.
    let (mut writer, fetched) = match (written, fetched) {
        (Err(error), _) => return Err(error),
        (Ok(writer), fetched) => (writer, fetched),
    };
    fetched?;
    read?;
    // The second pass reads the plan from its start: the first reader is gone, so the file's position is free again.
    let reader = plan.entries()?;
    tokio::task::spawn_blocking(move || writer.settle_all(reader, stats)).await.unwrap_or(Err(Error::Internal))
}

struct Writer<T> {
    target: T,
    monitor: Arc<dyn Monitor>,
    shutdown: Shutdown,
    // The path and size of the file at hand, unless it has failed already.
    in_file: Option<(String, u64)>,
    failed: u64,
    failed_bytes: u64,
    damaged: u64,
}

impl<T: Target> Writer<T> {
    fn write_all(mut self, mut loads: mpsc::Receiver<Fetched>) -> Result<Self> {
        while let Some(fetched) = loads.blocking_recv() {
            if self.shutdown.is_stopped() {
                return Err(Error::Stopped);
            }
            for step in &fetched.steps {
                self.step(step, &fetched)?;
            }
        }
        Ok(self)
    }

    fn step(&mut self, step: &Step, fetched: &Fetched) -> Result<()> {
        match step {
            Step::Folder(planned) => {
                let made = self.target.folder(planned);
                self.or_fault(&planned.entry.path.to_string(), made)?;
            }
            Step::Begin(planned) => {
                let path = planned.entry.path.to_string();
                let begun = self.target.begin(planned);
                self.in_file = Some((path, planned.entry.size()));
                self.or_abandon(begun)?;
            }
            Step::Write(id, length) if self.in_file.is_some() => match (fetched.chunks.get(id), fetched.lost.get(id)) {
                (Some(bytes), _) if bytes.len() as u64 == *length => {
                    let written = self.target.write(bytes);
                    self.or_abandon(written)?;
                    self.monitor.count(Counter::Bytes, *length);
                }
                (Some(_), _) => self.lose_damaged(WRONG_LENGTH),
                (None, reason) => self.lose_damaged(reason.map_or("one of its parts was not sent", String::as_str)),
            },
            Step::Hole(length) if self.in_file.is_some() => {
                let skipped = self.target.hole(*length);
                self.or_abandon(skipped)?;
                self.monitor.count(Counter::Bytes, *length);
            }
            Step::End if self.in_file.is_some() => {
                let ended = self.target.end();
                self.or_abandon(ended)?;
                self.in_file = None;
                self.monitor.count(Counter::Files, 1);
            }
            Step::Lost(reason) if self.in_file.is_some() => self.lose_damaged(reason),
            // The rest of a file that has failed already.
            Step::Write(..) | Step::Hole(_) | Step::End | Step::Lost(_) => {}
        }
        Ok(())
    }

    fn lose_damaged(&mut self, reason: &str) {
        self.damaged += 1;
        self.lose(reason);
    }

    fn lose(&mut self, reason: &str) {
        self.target.abandon();
        if let Some((subject, size)) = self.in_file.take() {
            self.failed += 1;
            self.failed_bytes = self.failed_bytes.saturating_add(size);
            self.monitor.fault(Fault { subject, problem: format!("not restored: {reason}") });
        }
    }

    fn or_abandon(&mut self, result: io::Result<()>) -> Result<()> {
        match result {
            Ok(()) => Ok(()),
            Err(error) if is_full(&error) => {
                self.target.abandon();
                Err(Error::Target(error))
            }
            Err(error) => {
                self.lose(&error.to_string());
                Ok(())
            }
        }
    }

    fn or_fault(&mut self, subject: &str, result: io::Result<()>) -> Result<()> {
        match result {
            Ok(()) => Ok(()),
            Err(error) if is_full(&error) => Err(Error::Target(error)),
            Err(error) => {
                self.monitor.fault(Fault::new(subject, &error));
                Ok(())
            }
        }
    }

    fn settle_all(&mut self, mut plan: PlanReader, stats: PlanStats) -> Result<Report> {
        while let Some(planned) = plan.read_next()? {
            if self.shutdown.is_stopped() {
                return Err(Error::Stopped);
            }
            let settled = self.target.settle(&planned);
            if settled.is_err() && planned.entry.is_file() {
                self.failed += 1;
                self.failed_bytes = self.failed_bytes.saturating_add(planned.entry.size());
            }
            self.or_fault(&planned.entry.path.to_string(), settled)?;
        }
        self.target.finish().map_err(Error::Target)?;
        let files = stats.files.saturating_sub(stats.skipped_files + self.failed);
        Ok(Report { files, bytes: stats.bytes.saturating_sub(self.failed_bytes), damaged: self.damaged })
    }
}

/// Whether the disk is full.
pub fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}
