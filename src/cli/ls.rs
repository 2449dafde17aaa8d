//! `ls`: look into a snapshot.

use crate::cli::ExitStatus;
use crate::cli::face::Face;
use crate::cli::output::Output;
use crate::cli::settings::Globals;
use crate::cli::size;
use crate::cli::snapshots::local_time;
use crate::daemon::locate::locate;
use crate::daemon::service::open_store;
use crate::daemon::{Error, retrieve};
use crate::manifest::EntryReader;
use crate::model::{Entry, EntryKind, SetName};
use crate::monitor::{Monitor, Silent};
use crate::platform::shutdown::Shutdown;
use crate::restore::chain::Checked;
use crate::restore::select::Selection;
use crate::vault::Vault;
use serde_json::json;
use std::path::PathBuf;
use std::sync::Arc;

/// List what is in a snapshot
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  lan-backup ls nas\n  lan-backup ls nas latest:Documents/2024\n  lan-backup ls local 1a2b3c4d --recursive"
)]
pub struct Args {
    /// Alias, beginning of the fingerprint, address, or `local`
    device: String,
    /// `latest`, `latest~2` or the beginning of an id; with `:PATH`, what is in PATH
    #[arg(default_value = "latest")]
    snapshot: String,
    /// Of this set
    #[arg(long, value_name = "NAME")]
    set: Option<SetName>,
    /// Of another device's backup
    #[arg(long, value_name = "DEVICE")]
    of: Option<String>,
    /// All the way down
    #[arg(short, long)]
    recursive: bool,
    /// Where this device keeps what it receives
    #[arg(long, value_name = "DIR")]
    store: Option<PathBuf>,
}

/// Lists.
pub async fn run(globals: &Globals, args: &Args, output: &Output) -> Result<ExitStatus, Error> {
    let context = globals.context(None)?;
    let selection: Selection = args.snapshot.parse()?;
    if args.device == "local" {
        let (store, _) = open_store(&context, args.store.clone()).await?;
        let opened = retrieve::open_local(&context, &store, args.of.as_deref())?;
        let snapshot = opened.find(&selection, args.set.as_ref())?;
        list(opened.vault.clone(), snapshot, &selection, args, output).await?;
    } else {
        let located = locate(&context, &args.device, &mut Face::new(output.clone(), None)).await?;
        let monitor: Arc<dyn Monitor> = Arc::new(Silent);
        let opened =
            retrieve::open_remote(&context, &located, args.of.clone(), false, &monitor, &Shutdown::new()).await?;
        let listed = match opened.find(&selection, args.set.as_ref()) {
            Ok(snapshot) => list(opened.vault.clone(), snapshot, &selection, args, output).await,
            Err(error) => Err(error),
        };
        opened.close().await;
        listed?;
    }
    Ok(ExitStatus::Done)
}

async fn list<V: Vault>(
    vault: Arc<V>,
    snapshot: &Checked,
    selection: &Selection,
    args: &Args,
    output: &Output,
) -> Result<(), Error> {
    let manifest = |error| Error::Restore(crate::restore::Error::Manifest(error));
    let list = &snapshot.record.manifest;
    let mut reader = match &selection.path {
        None => EntryReader::new(vault, list),
        Some(wanted) => EntryReader::starting_at(vault, list, wanted),
    }
    .map_err(manifest)?;
    let mut any = false;
    while let Some(entry) = reader.next().await.map_err(manifest)? {
        let is_folder = matches!(entry.kind, EntryKind::Folder);
        match &selection.path {
            Some(wanted) if entry.path == *wanted => {
                any = true;
                // Of a folder that was named, what is in it is listed.
                if is_folder {
                    continue;
                }
            }
            Some(wanted) if entry.path.strip_prefix(wanted).is_none() => break,
            Some(_) | None => {}
        }
        show(&entry, output);
        if is_folder && !args.recursive {
            reader.go_past(&entry.path);
        }
    }
    if any || selection.path.is_none() {
        return Ok(());
    }
    let path = selection.path.as_ref().map(ToString::to_string).unwrap_or_default();
    Err(crate::restore::Error::Selection(format!("there is no `{path}` in snapshot {}", snapshot.info.id.short()))
        .into())
}

/// What an entry is, for programs and for people, and where a link leads.
pub(crate) fn kind(entry: &Entry) -> (&'static str, char, String) {
    match &entry.kind {
        EntryKind::File { .. } => ("file", '-', String::new()),
        EntryKind::Folder => ("folder", 'd', String::new()),
        EntryKind::Link { target } => ("link", 'l', format!(" -> {}", crate::model::text::clean_bytes(target))),
    }
}

/// When its content was changed last.
pub(crate) fn modified(entry: &Entry) -> Option<jiff::Timestamp> {
    entry.metadata.mtime.and_then(|time| jiff::Timestamp::new(time.seconds(), time.nanos() as i32).ok())
}

fn show(entry: &Entry, output: &Output) {
    let (kind, mark, target) = kind(entry);
    let mtime = modified(entry);
    output.row(&json!({
        "path": entry.path.to_string(), "kind": kind, "bytes": entry.size(), "mtime": mtime, "mode": entry.metadata.mode,
    }));
    let time = mtime.map(local_time).unwrap_or_default();
    output.line(&format!(
        "{mark}{:04o} {:>11} {time:16} {}{target}",
        entry.metadata.mode.unwrap_or(0),
        size::bytes(entry.size()),
        entry.path
    ));
}
