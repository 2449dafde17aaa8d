//! `repair`: save what is good, set aside what is not, and make the rest be asked for again.

use crate::cli::ExitStatus;
use crate::cli::output::Output;
use crate::cli::progress::Progress;
use crate::cli::settings::Globals;
use crate::cli::verify::{Shown, counted, hints, tell, tell_file, tell_snapshot};
use crate::daemon::Error;
use crate::daemon::service::{open_store, store_to_open};
use crate::model::text::clean;
use crate::model::{Alias, Mark};
use crate::platform::shutdown::Shutdown;
use crate::store::Store;
use crate::store::repair::{RepairReport, Repaired, plan, repair};
use crate::store::set_aside::Fate;
use serde_json::json;
use std::path::PathBuf;
use std::sync::Arc;

/// Save what is good of damaged files, set them aside, and ask for what is lost
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  lan-backup repair --dry-run     what is damaged, and nothing changed\n  lan-backup repair\n\nNothing is deleted: damaged files go to `quarantine` in the store. What is lost and still on its source comes back with the\nnext `lan-backup send` there, by itself.\n\nExit codes: 0 everything is there, 1 something is lost (it is named)"
)]
pub struct Args {
    /// Only look
    #[arg(long)]
    dry_run: bool,
    /// Where this device keeps what it receives
    #[arg(long, value_name = "DIR")]
    store: Option<PathBuf>,
}

/// Repairs and tells.
pub async fn run(globals: &Globals, args: Args, output: Output, shutdown: Shutdown) -> Result<ExitStatus, Error> {
    let context = globals.context(None)?;
    if !args.dry_run {
        let folder = store_to_open(&context, args.store.clone()).await?;
        if Store::mend_file(&folder)? {
            output.event("repaired", json!({ "path": "store.json", "fate": "mended" }));
            output.line("mended: store.json: a flipped bit; nothing is lost");
        }
    }
    let (store, recovery) = open_store(&context, args.store.clone()).await?;
    recovery.before_a_look().to_string().lines().for_each(|line| output.say(line));
    let folder = store.folder().display().to_string();
    let progress = Arc::new(Progress::new(output.clone()));
    let monitor = progress.clone();
    if args.dry_run {
        let looking = tokio::task::spawn_blocking(move || plan(&store, &*monitor, &shutdown));
        let findings = looking.await.map_err(|_| Error::Stopped)?;
        progress.finish();
        let findings = findings?;
        tell(&findings, &folder, Shown::by(globals), &output);
        return Ok(if findings.is_clean() { ExitStatus::Done } else { ExitStatus::Failed });
    }
    let repairing = tokio::task::spawn_blocking(move || repair(&store, &*monitor, &shutdown));
    let report = repairing.await.map_err(|_| Error::Stopped)?;
    progress.finish();
    let report = report?;
    show(&report, &folder, Shown::by(globals), &output);
    Ok(if report.is_whole() { ExitStatus::Done } else { ExitStatus::Failed })
}

fn show(report: &RepairReport, folder: &str, shown: Shown, output: &Output) {
    for repaired in &report.repaired {
        show_one(repaired, output);
    }
    for file in &report.left {
        tell_file(file, output);
    }
    for snapshot in &report.damaged {
        tell_snapshot(snapshot, shown, output);
    }
    for mark in &report.healed {
        show_healed(mark, None, output);
    }
    output.event(
        "finished",
        json!({
            "whole": report.is_whole(), "repaired": report.repaired.len(), "left": report.left.len(),
            "damagedSnapshots": report.damaged.len(), "healedSnapshots": report.healed.len(),
        }),
    );
    let dealt = counted(report.repaired.len(), "damaged file dealt with", "damaged files dealt with");
    if report.is_whole() {
        output.line(&format!("{folder} is whole: {dealt}, nothing is lost; the index was built anew"));
        return;
    }
    let hit = counted(report.damaged.len(), "snapshot lacks something", "snapshots lack something");
    output.line(&format!("\n{dealt} in {folder}; {hit}"));
    if !report.left.is_empty() {
        output
            .talk("hint: what could not be repaired is named above; a copy of that file from another disk would help");
    }
    if !report.damaged.is_empty() {
        for hint in hints(&report.damaged, shown) {
            output.talk(&format!("hint: {hint}"));
        }
    }
}

/// Shows a snapshot that is whole again.
pub fn show_healed(mark: &Mark, alias: Option<&Alias>, output: &Output) {
    output.event(
        "healed",
        json!({ "snapshot": mark.snapshot, "set": mark.set, "sequence": mark.sequence, "alias": alias }),
    );
    let set = mark.set.as_ref().map(|set| format!(" of set `{set}`")).unwrap_or_default();
    let alias = alias.map(|alias| format!(" of {alias}")).unwrap_or_default();
    let (id, sequence) = (mark.snapshot.short(), mark.sequence);
    output.line(&format!("healed: snapshot {id} (number {sequence}{set}{alias}) is whole again"));
}

/// Shows what became of a damaged file.
pub fn show_one(repaired: &Repaired, output: &Output) {
    let path = &repaired.path;
    let (fate, to, saved, lost) = match &repaired.fate {
        Fate::Whole => ("whole", None, 0, 0),
        Fate::Mended => ("mended", None, 0, 0),
        Fate::NewReceipt { .. } => ("new-receipt", None, 0, 0),
        Fate::Gone => ("gone", None, 0, 0),
        Fate::Left { .. } => ("left", None, 0, 0),
        Fate::SetAside { to, saved_chunks, lost_chunks } => ("set-aside", Some(to), *saved_chunks, *lost_chunks),
    };
    output.event(
        "repaired",
        json!({
            "path": path, "problem": repaired.problem, "fate": fate, "to": to, "savedChunks": saved, "lostChunks": lost,
        }),
    );
    let problem = clean(&repaired.problem);
    output.line(&match &repaired.fate {
        Fate::Whole => format!("whole: {path}: read again, it is right"),
        Fate::Mended => format!("mended: {path}: {problem}; nothing is lost"),
        Fate::NewReceipt { received_at } => format!(
            "mended: {path}: {problem}; nothing but the time at which it came is lost: it counts as having come at {received_at}, which is not too early"
        ),
        Fate::Gone => format!("gone: {path}: {problem}"),
        Fate::Left { why } => {
            format!("damaged: {path}: {problem}; it cannot be set aside yet: {}; this is tried again", clean(why))
        }
        Fate::SetAside { to, saved_chunks, lost_chunks } => {
            format!("set aside: {path}: {problem}; {saved_chunks} chunks saved, {lost_chunks} lost; it lies in {to}")
        }
    });
}
