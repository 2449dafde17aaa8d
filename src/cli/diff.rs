//! `diff`: what is different between two snapshots.

use crate::cli::ExitStatus;
use crate::cli::face::Face;
use crate::cli::ls;
use crate::cli::output::Output;
use crate::cli::settings::Globals;
use crate::cli::size;
use crate::daemon::Error;
use crate::daemon::locate::locate;
use crate::daemon::look::{self, Change};
use crate::daemon::retrieve::{self, Opened};
use crate::daemon::service::open_store;
use crate::model::SetName;
use crate::monitor::{Monitor, Silent};
use crate::platform::shutdown::Shutdown;
use crate::restore::select::Selection;
use crate::vault::Vault;
use serde_json::json;
use std::path::PathBuf;
use std::sync::Arc;

/// Show what is different between two snapshots
#[derive(Debug, clap::Args)]
#[command(
    after_help = "In front of each path: + added, - removed, M other content, m other metadata only (mode, times, owner, attributes).\n\n\
    Examples:\n  lan-backup diff nas                         the newest against the one before\n  \
    lan-backup diff nas latest~7 latest --set Documents\n  lan-backup diff local 1a2b3c4d:Documents/2024 9f8e7d6c --of laptop"
)]
pub struct Args {
    /// Alias, beginning of the fingerprint, address, or `local`
    device: String,
    /// The older: `latest~1`, or the beginning of an id; with `:PATH`, only what is in PATH
    #[arg(default_value = "latest~1", value_name = "A")]
    before: String,
    /// The newer
    #[arg(default_value = "latest", value_name = "B")]
    after: String,
    /// Of this set
    #[arg(long, value_name = "NAME")]
    set: Option<SetName>,
    /// Of another device's backup
    #[arg(long, value_name = "DEVICE")]
    of: Option<String>,
    /// Where this device keeps what it receives
    #[arg(long, value_name = "DIR")]
    store: Option<PathBuf>,
}

/// Compares.
pub async fn run(globals: &Globals, args: &Args, output: &Output) -> Result<ExitStatus, Error> {
    let context = globals.context(None)?;
    let selections = (args.before.parse()?, args.after.parse()?);
    if args.device == "local" {
        let (store, _) = open_store(&context, args.store.clone()).await?;
        let opened = retrieve::open_local(&context, &store, args.of.as_deref())?;
        compare(&opened, selections, args, output).await?;
    } else {
        let located = locate(&context, &args.device, &mut Face::new(output.clone(), None)).await?;
        let monitor: Arc<dyn Monitor> = Arc::new(Silent);
        let opened =
            retrieve::open_remote(&context, &located, args.of.clone(), false, &monitor, &Shutdown::new()).await?;
        let compared = compare(&opened, selections, args, output).await;
        opened.close().await;
        compared?;
    }
    Ok(ExitStatus::Done)
}

async fn compare<V: Vault>(
    opened: &Opened<V>,
    (before, after): (Selection, Selection),
    args: &Args,
    output: &Output,
) -> Result<(), Error> {
    for problem in &opened.alarms {
        output.alarm(problem);
    }
    let below = match (&before.path, &after.path) {
        (Some(one), Some(other)) if one != other => {
            return Err(Error::usage(
                format!("`{one}` and `{other}` are two paths, and one path is compared in both snapshots"),
                "give :PATH once",
            ));
        }
        (path, other) => path.as_ref().or(other.as_ref()),
    };
    let one = opened.find(&before, args.set.as_ref())?;
    let other = opened.find(&after, args.set.as_ref())?;
    let lists = (&one.record.manifest, &other.record.manifest);
    let sums = look::diff(&opened.vault, lists.0, lists.1, below, |change| show(change, output)).await?;
    let event = |(files, bytes): (u64, u64)| json!({ "files": files, "bytes": bytes });
    output.event(
        "finished",
        json!({
            "before": one.info.id, "after": other.info.id, "added": event(sums.added), "removed": event(sums.removed),
            "content": event(sums.content), "metadata": event(sums.metadata),
        }),
    );
    let words = |(files, bytes): (u64, u64)| format!("{}, {}", size::counted(files, "file"), size::bytes(bytes));
    output.say(&format!(
        "from {} to {}: added {}; removed {}; other content {}; other metadata only {}",
        one.info.id.short(),
        other.info.id.short(),
        words(sums.added),
        words(sums.removed),
        words(sums.content),
        words(sums.metadata),
    ));
    Ok(())
}

fn show(change: &Change, output: &Output) {
    let (name, mark, before, after) = match change {
        Change::Added(after) => ("added", '+', None, Some(after)),
        Change::Removed(before) => ("removed", '-', Some(before), None),
        Change::Content(before, after) => ("content", 'M', Some(before), Some(after)),
        Change::Metadata(before, after) => ("metadata", 'm', Some(before), Some(after)),
    };
    let kind = before.or(after).map_or("", |entry| ls::kind(after.unwrap_or(entry)).0);
    let bytes = |entry: Option<&crate::model::Entry>| entry.map(crate::model::Entry::size);
    output.row(&json!({
        "path": change.path().to_string(), "change": name, "kind": kind,
        "bytesBefore": bytes(before), "bytes": bytes(after),
    }));
    let sizes = match (bytes(before), bytes(after)) {
        _ if kind != "file" => String::new(),
        (Some(one), Some(other)) if one != other => format!("   {} -> {}", size::bytes(one), size::bytes(other)),
        (one, other) => format!("   {}", size::bytes(other.or(one).unwrap_or(0))),
    };
    output.line(&format!("{mark} {}{sizes}", change.path()));
}
