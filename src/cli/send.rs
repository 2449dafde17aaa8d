//! `send`: back up to a device.

use crate::backup::Effort;
use crate::backup::filter::FilterOptions;
use crate::backup::plan::Verdict;
use crate::cli::ExitStatus;
use crate::cli::face::Face;
use crate::cli::output::Output;
use crate::cli::progress::Progress;
use crate::cli::settings::Globals;
use crate::cli::size;
use crate::codec::Compression;
use crate::daemon::Error;
use crate::daemon::locate::{Answering, locate_any};
use crate::daemon::phone::{self, Delivered, Packing, Phone};
use crate::daemon::send::{self, Prepared, SendOptions};
use crate::monitor::Monitor;
use crate::platform::shutdown::Shutdown;
use serde_json::json;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

/// Back up files and folders to a device; pairs with it on the way if needed
#[derive(Debug, clap::Args)]
#[command(after_help = "Nothing is left out unless asked. Patterns have the syntax of .gitignore.\n\n\
    Examples:\n  lan-backup send nas ~/Documents\n  lan-backup send nas ~/Photos ~/Mail --set home --exclude '*.tmp'\n  \
    lan-backup send 192.168.1.7 /srv --exclude-caches --dry-run\n  lan-backup send Pixel ~/Photos --zip     to a LocalSend app")]
pub struct Args {
    /// Alias, beginning of the fingerprint, or address
    device: String,
    /// What to back up
    #[arg(required = true)]
    paths: Vec<PathBuf>,
    /// What the set of these paths is called; the path's last component otherwise
    #[arg(long, value_name = "NAME")]
    set: Option<String>,
    /// Leave out what fits this pattern
    #[arg(long, value_name = "GLOB")]
    exclude: Vec<String>,
    /// Leave out what fits the patterns in this file
    #[arg(long, value_name = "FILE")]
    exclude_file: Vec<PathBuf>,
    /// Leave out what is in folders tagged as caches (CACHEDIR.TAG)
    #[arg(long)]
    exclude_caches: bool,
    /// The set may have other paths than last time
    #[arg(long)]
    change_roots: bool,
    /// Label the snapshot
    #[arg(long, value_name = "TEXT")]
    tag: Option<String>,
    /// To a LocalSend app: all in one zip file, which is written to this disk first
    #[arg(long)]
    zip: bool,
    /// Show what would be sent, and send nothing
    #[arg(long)]
    dry_run: bool,
    /// How to compress: auto (more while the network is the limit), none, lz4, or a zstd level from 1 to 19
    #[arg(long, value_name = "HOW", default_value = "auto", value_parser = compression)]
    compression: Effort,
    /// Read the PIN from this file when it is needed (`-` for stdin), waiting until it is there
    #[arg(long, value_name = "FILE")]
    pin_file: Option<PathBuf>,
}

fn compression(text: &str) -> Result<Effort, String> {
    match text {
        "auto" => Ok(Effort::Adaptive),
        "none" => Ok(Effort::Fixed(Compression::None)),
        "lz4" => Ok(Effort::Fixed(Compression::Lz4)),
        level => match level.parse() {
            Ok(level @ 1..=19) => Ok(Effort::Fixed(Compression::Zstd(level))),
            _ => Err("is neither `auto`, `none`, `lz4` nor a number from 1 to 19".to_owned()),
        },
    }
}

/// Backs up, or shows what would be.
pub async fn run(globals: &Globals, args: Args, output: Output, shutdown: Shutdown) -> Result<ExitStatus, Error> {
    let context = globals.context(None)?;
    let began = Instant::now();
    let mut face = Face::new(output.clone(), args.pin_file);
    let answering = tokio::select! {
        answering = locate_any(&context, &args.device, &mut face) => answering?,
        () = shutdown.stopped() => return Err(Error::Stopped),
    };
    let filter =
        FilterOptions { exclude: args.exclude, exclude_files: args.exclude_file, exclude_caches: args.exclude_caches };
    let packing = if args.zip { Packing::Zip } else { Packing::Files };
    let located = match answering {
        Answering::LanBackup(_) if args.zip => {
            let message = format!("`{}` keeps backups, which are never one zip file", args.device);
            return Err(Error::usage(message, "leave out --zip; `restore --zip` gives one when it is wanted"));
        }
        Answering::LanBackup(located) => located,
        Answering::Phone(_) if args.dry_run => {
            let message =
                format!("`{}` runs a LocalSend app, which says what it wants only when it is asked", args.device);
            return Err(Error::usage(message, "leave out --dry-run: its person is asked before anything is sent"));
        }
        Answering::Phone(phone) => {
            let progress = Arc::new(Progress::new(output.clone()));
            let monitor: Arc<dyn Monitor> = progress.clone();
            let paths = &args.paths;
            let sending = phone::deliver(&context, &phone, paths, &filter, packing, &mut face, monitor, &shutdown);
            let delivered = sending.await;
            progress.finish();
            return Ok(tell_delivered(&phone, delivered?, progress.faults(), began, &output));
        }
    };
    let options = SendOptions {
        paths: args.paths,
        set: args.set,
        filter,
        tag: args.tag,
        change_roots: args.change_roots,
        compression: args.compression,
    };
    let progress = Arc::new(Progress::new(output.clone()));
    let monitor: Arc<dyn Monitor> = progress.clone();
    if args.dry_run {
        let prepared = send::prepare(&context, &located, &options, &monitor, &shutdown).await?;
        progress.finish();
        show(&prepared, &output)?;
        return Ok(ExitStatus::with_faults(progress.faults()));
    }
    let sent = send::send(&context, located, options, &mut face, monitor, shutdown).await;
    progress.finish();
    let sent = sent?;
    let (faults, alarms) = (progress.faults(), progress.alarms());
    let (report, totals, changes) = (&sent.report, sent.report.totals, sent.report.changes);
    output.event(
        "finished",
        json!({
            "snapshot": report.snapshot, "set": sent.set, "files": totals.files, "bytes": totals.bytes,
            "newFiles": changes.new_files, "changedFiles": changes.changed_files, "deletedFiles": changes.deleted_files,
            "uploadedBytes": report.uploaded_bytes, "faults": faults, "alarms": alarms,
        }),
    );
    output.say(&format!(
        "backed up `{}` to {}: {}, {} ({} new, {} changed, {} deleted); sent {} in {}",
        sent.set,
        sent.to.alias,
        size::counted(totals.files, "file"),
        size::bytes(totals.bytes),
        size::count(changes.new_files),
        size::count(changes.changed_files),
        size::count(changes.deleted_files),
        size::bytes(report.uploaded_bytes),
        size::duration(began.elapsed()),
    ));
    let id = report.snapshot.short();
    output.say(&format!("to get it back: lan-backup restore {} {id} --to DIR", quoted(&args.device)));
    if faults > alarms {
        output.talk(&format!("{} could not be backed up, as listed above", size::things(faults - alarms)));
    }
    if alarms > 0 {
        output.talk("no file was left out for the ALARM above: it is about what was kept there before");
        output.talk(
            "hint: look after that device: `lan-backup verify` there; this snapshot holds what is on this device now",
        );
    }
    Ok(ExitStatus::with_faults(faults))
}

/// Says what a LocalSend app has got.
pub fn tell_delivered(phone: &Phone, delivered: Delivered, faults: u64, began: Instant, output: &Output) -> ExitStatus {
    output.event(
        "finished",
        json!({
            "to": phone.alias, "fingerprint": phone.fingerprint, "files": delivered.files, "bytes": delivered.bytes,
            "notWanted": delivered.not_wanted, "failed": delivered.failed, "faults": faults,
        }),
    );
    let left_out = match delivered.not_wanted {
        0 => String::new(),
        count => format!("; {} it did not want (it has them, or its person left them out)", size::count(count)),
    };
    output.say(&format!(
        "sent {}, {}, to {} with LocalSend in {}{left_out}",
        size::counted(delivered.files, "file"),
        size::bytes(delivered.bytes),
        phone.alias,
        size::duration(began.elapsed()),
    ));
    if faults > 0 {
        output.talk(&format!("{} did not arrive, as listed above", size::things(faults)));
    }
    ExitStatus::with_faults(faults)
}

fn show(prepared: &Prepared, output: &Output) -> Result<(), Error> {
    let plan = &prepared.plan;
    for planned in plan.files_to_read()? {
        let planned = planned?;
        let mark = if planned.verdict == Verdict::New { "new" } else { "changed" };
        output.row(&json!({ "path": planned.entry.path.to_string(), "state": mark, "bytes": planned.entry.size() }));
        output.line(&format!("{mark:>8}  {}  ({})", planned.entry.path, size::bytes(planned.entry.size())));
    }
    let (totals, changes) = (plan.totals, plan.changes);
    output.event(
        "planned",
        json!({
            "set": prepared.set, "files": totals.files, "bytes": totals.bytes, "newFiles": changes.new_files,
            "changedFiles": changes.changed_files, "deletedFiles": changes.deleted_files, "bytesToRead": plan.bytes_to_read,
        }),
    );
    output.say(&format!(
        "set `{}`: {}, {}; {} new, {} changed, {} deleted; {} would be read. Nothing was sent.",
        prepared.set,
        size::counted(totals.files, "file"),
        size::bytes(totals.bytes),
        size::count(changes.new_files),
        size::count(changes.changed_files),
        size::count(changes.deleted_files),
        size::bytes(plan.bytes_to_read),
    ));
    Ok(())
}

/// A word that can be pasted into a shell.
pub fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_alphanumeric() || "-_./:~@%+=,".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', "'\\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_with_blanks_and_quotes_can_be_pasted() {
        assert_eq!(quoted("nas"), "nas");
        assert_eq!(quoted("Ann's nas"), r"'Ann'\''s nas'");
    }

    #[test]
    fn compression_is_a_word_or_a_level() {
        assert_eq!(compression("auto"), Ok(Effort::Adaptive));
        assert_eq!(compression("none"), Ok(Effort::Fixed(Compression::None)));
        assert_eq!(compression("19"), Ok(Effort::Fixed(Compression::Zstd(19))));
        assert!(compression("0").is_err() && compression("gzip").is_err());
    }
}
