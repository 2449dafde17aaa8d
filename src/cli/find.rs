//! `find`: in which snapshots is a file, and in how many states.

use crate::cli::ExitStatus;
use crate::cli::face::Face;
use crate::cli::ls;
use crate::cli::output::Output;
use crate::cli::settings::Globals;
use crate::cli::size;
use crate::cli::snapshots::local_time;
use crate::daemon::error::DAMAGED;
use crate::daemon::locate::locate;
use crate::daemon::look::{self, Found};
use crate::daemon::retrieve::{self, Opened};
use crate::daemon::service::open_store;
use crate::daemon::{Context, Error};
use crate::model::{RelPath, SetName};
use crate::monitor::{Monitor, Silent};
use crate::platform::shutdown::Shutdown;
use crate::restore::chain::Checked;
use crate::restore::select::Include;
use crate::vault::Vault;
use serde_json::json;
use std::path::PathBuf;
use std::sync::Arc;

/// Find files in all snapshots: each state that was backed up, and where it is
#[derive(Debug, clap::Args)]
#[command(after_help = "A pattern without a slash fits names at any depth, one with a slash paths from the top.\n\n\
    Examples:\n  lan-backup find report.odt nas          in this device's backups on nas\n  \
    lan-backup find '*.jpg' local --of phone  in what this device keeps of phone\n  \
    lan-backup find 'Documents/2024/**' nas --set home --json\n\n\
    To get one back: lan-backup restore nas SNAPSHOT:PATH --to DIR")]
pub struct Args {
    /// What to look for: a name, a path, or a pattern (`*.jpg`, `docs/**`, `{a,b}`)
    #[arg(value_name = "GLOB")]
    pattern: String,
    /// Alias, beginning of the fingerprint, address, or `local`
    #[arg(default_value = "local")]
    device: String,
    /// Only in snapshots of this set
    #[arg(long, value_name = "NAME")]
    set: Option<SetName>,
    /// In another device's backup
    #[arg(long, visible_alias = "device", value_name = "DEVICE")]
    of: Option<String>,
    /// In all backups there that may be read, other devices' too
    #[arg(long, conflicts_with = "of")]
    all: bool,
    /// Where this device keeps what it receives
    #[arg(long, value_name = "DIR")]
    store: Option<PathBuf>,
}

/// What was seen so far.
#[derive(Default)]
struct Seen {
    paths: u64,
    states: u64,
    snapshots: usize,
    unread: u64,
    lost: u64,
    last: Option<RelPath>,
}

/// Looks.
pub async fn run(globals: &Globals, args: &Args, output: &Output) -> Result<ExitStatus, Error> {
    let context = globals.context(None)?;
    let pattern = Include::exactly(&args.pattern)?;
    let mut seen = Seen::default();
    if args.device == "local" {
        let (store, _) = open_store(&context, args.store.clone()).await?;
        // Of what is kept here nothing is anybody's secret from the person who sits here.
        let of: Vec<String> = match &args.of {
            Some(of) => vec![of.clone()],
            None => store.repositories().iter().map(|repository| repository.id().to_string()).collect(),
        };
        for of in of {
            let opened = retrieve::open_local(&context, &store, Some(&of))?;
            look_through(&opened, &pattern, args, output, &mut seen).await?;
        }
    } else {
        remote(&context, &pattern, args, output, &mut seen).await?;
    }
    let (paths, states) = (size::counted(seen.paths, "path"), size::counted(seen.states, "state"));
    let snapshots = size::counted(seen.snapshots as u64, "snapshot");
    let unread = match seen.unread {
        0 => String::new(),
        unread => format!(", of which {} could not be looked through to the end", size::count(unread)),
    };
    if seen.paths == 0 {
        output.say(&format!("nothing fits `{}` in {snapshots}{unread}", args.pattern));
    } else {
        output.say(&format!("{paths} in {states}, in {snapshots}{unread}"));
    }
    if seen.unread > 0 {
        output.talk(&format!("hint: {}", DAMAGED.replace('\n', "\n      ")));
    }
    if seen.lost > 0 {
        output.say("hint: what is LOST cannot be restored from there; the other states can, and `lan-backup send` on the source may heal it");
    }
    Ok(ExitStatus::with_faults(seen.unread))
}

async fn remote(
    context: &Context,
    pattern: &Include,
    args: &Args,
    output: &Output,
    seen: &mut Seen,
) -> Result<(), Error> {
    let located = locate(context, &args.device, &mut Face::new(output.clone(), None)).await?;
    let monitor: Arc<dyn Monitor> = Arc::new(Silent);
    let of: Vec<Option<String>> = if args.all {
        let listing = located.client(context)?.listing(None).await?;
        listing.repositories.iter().map(|listed| Some(listed.repository.id.to_string())).collect()
    } else {
        vec![args.of.clone()]
    };
    for of in of {
        let opened = retrieve::open_remote(context, &located, of, false, &monitor, &Shutdown::new()).await?;
        let looked = look_through(&opened, pattern, args, output, seen).await;
        opened.close().await;
        looked?;
    }
    Ok(())
}

async fn look_through<V: Vault>(
    opened: &Opened<V>,
    pattern: &Include,
    args: &Args,
    output: &Output,
    seen: &mut Seen,
) -> Result<(), Error> {
    for problem in &opened.alarms {
        output.alarm(problem);
    }
    let fits = |snapshot: &&Checked| args.set.as_ref().is_none_or(|set| snapshot.record.set == *set);
    let snapshots: Vec<&Checked> = opened.snapshots.iter().filter(fits).collect();
    seen.snapshots += snapshots.len();
    seen.last = None;
    let each = |found: Found<'_>| show(&found, opened, output, seen);
    let unread = look::find(&opened.vault, &snapshots, pattern, each).await?;
    for unread in unread {
        seen.unread += 1;
        let (id, set) = (unread.snapshot.info.id.short(), &unread.snapshot.record.set);
        output.fault(&format!("snapshot {id} of `{set}` could not be looked through to its end: {}", unread.reason));
    }
    Ok(())
}

fn show<V>(found: &Found<'_>, opened: &Opened<V>, output: &Output, seen: &mut Seen) {
    let entry = &found.entry;
    let (Some(first), Some(last)) = (found.snapshots.first(), found.snapshots.last()) else { return };
    let (lost, perhaps) = (found.lost_in(&opened.marks), found.perhaps_lost_in(&opened.marks));
    let count = found.snapshots.len();
    let (kind, mark, target) = ls::kind(entry);
    let mtime = ls::modified(entry);
    let set = &first.record.set;
    output.row(&json!({
        "path": entry.path.to_string(), "set": set, "alias": opened.alias, "repository": first.record.repository,
        "kind": kind, "bytes": entry.size(), "mtime": mtime, "mode": entry.metadata.mode,
        "first": first.info.id, "last": last.info.id, "snapshots": count,
        "lostIn": lost, "perhapsLostIn": perhaps, "firstReceivedAt": first.info.receipt.received_at, "lastReceivedAt": last.info.receipt.received_at,
    }));
    if seen.last.as_ref() != Some(&entry.path) {
        seen.paths += 1;
        output.line(&format!("{}   ({set} of {})", entry.path, opened.alias));
        seen.last = Some(entry.path.clone());
    }
    seen.states += 1;
    let at = |snapshot: &Checked| {
        format!("{} of {}", snapshot.info.id.short(), local_time(snapshot.info.receipt.received_at))
    };
    let snapshots = match count {
        1 => format!("in snapshot {}", at(first)),
        _ => format!("in {count} snapshots, {} to {}", at(first), at(last)),
    };
    let time = mtime.map(local_time).unwrap_or_default();
    seen.lost += u64::from(!lost.is_empty());
    let note = damage(count, lost.len(), perhaps.len());
    output.line(&format!("  {mark} {:>11} {time:16}  {snapshots}{target}{note}", size::bytes(entry.size())));
}

/// What is known to be wrong with a state that so many snapshots have.
fn damage(count: usize, lost: usize, perhaps: usize) -> String {
    match (lost, perhaps) {
        (0, 0) => String::new(),
        (0, _) => "  PERHAPS LOST: something in there is, and not every file is named".to_owned(),
        (lost, _) if lost == count => "  LOST: its content is damaged".to_owned(),
        (lost, _) => format!("  LOST in {lost} of them"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_that_is_lost_is_not_listed_like_one_that_can_be_restored() {
        assert_eq!(damage(3, 0, 0), "");
        assert!(damage(1, 1, 0).contains("LOST: "));
        assert!(damage(3, 2, 1).contains("LOST in 2 of them"));
        assert!(damage(3, 0, 1).contains("PERHAPS"));
    }
}
