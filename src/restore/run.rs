//! Carries out a plan: loads are fetched a few ahead and written one after the other; then links and folders are settled.

use crate::monitor::{Counter, Monitor, Phase};
use crate::platform::shutdown::Shutdown;
use crate::restore::fetch::{Loader, fetch};
use crate::restore::plan::Plan;
use crate::restore::repeats::Repeats;
use crate::restore::target::Target;
use crate::restore::write::Writer;
use crate::restore::{Error, Result};
use crate::vault::Vault;
use futures_util::stream::{self, TryStreamExt};
use std::sync::{Arc, Mutex};
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
    let writer = Writer::new(target, monitor.clone(), shutdown.clone())?;
    let stats = plan.stats;
    let writing = tokio::task::spawn_blocking(move || writer.write_all(loads));
    let repeats = Arc::new(Mutex::new(Repeats::default()));
    let loader = Loader::new(vault.clone(), entries, repeats.clone());
    let loads = stream::try_unfold(loader, |mut loader| async { Ok(loader.next().await?.map(|load| (load, loader))) });
    let fetched = loads
        .map_ok(|load| fetch(vault.clone(), load, monitor.clone(), repeats.clone()))
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
