//! `copy`: keep what is kept here, or there, at another place, too.

use crate::cli::ExitStatus;
use crate::cli::face::Face;
use crate::cli::output::Output;
use crate::cli::progress::Progress;
use crate::cli::settings::Globals;
use crate::cli::size;
use crate::daemon::Error;
use crate::daemon::copy::{self, Copied, CopyOptions, Place};
use crate::model::SetName;
use crate::monitor::Monitor;
use crate::platform::shutdown::Shutdown;
use serde_json::json;
use std::path::PathBuf;
use std::sync::Arc;

/// Copy snapshots between the store of this device, a store in a folder, and another device
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Run it again whenever you like: only what is not there yet is copied, and an interrupted copy goes on where it was.\n\
    A copy is restored like any backup: `lan-backup restore local --store FOLDER --of NAME --to DIR`.\n\
    Another device takes copies when its person has said `lan-backup trust THIS --grant replicate` there.\n\n\
    Examples:\n  lan-backup copy local /media/usb/backups          everything that is kept here, to a disk\n  \
    lan-backup copy local attic                       to another device\n  \
    lan-backup copy nas ./copy --set Documents        this device's backup on nas, to a folder\n  \
    lan-backup copy /media/usb/backups local --of laptop latest"
)]
pub struct Args {
    /// `local`, a folder (with a slash in it), or a device
    #[arg(value_name = "FROM")]
    from: String,
    /// The same
    #[arg(value_name = "TO")]
    to: String,
    /// Only these: `latest`, `latest~2` or the beginning of an id; all otherwise
    #[arg(value_name = "SNAPSHOT")]
    snapshots: Vec<String>,
    /// Only this device's backup
    #[arg(long, value_name = "DEVICE")]
    of: Option<String>,
    /// Of another device, every backup that it lets this one read
    #[arg(long, conflicts_with_all = ["of", "snapshots"])]
    all: bool,
    /// Only snapshots of this set
    #[arg(long, value_name = "NAME")]
    set: Option<SetName>,
    /// Where this device keeps what it receives
    #[arg(long, value_name = "DIR")]
    store: Option<PathBuf>,
}

/// Copies.
pub async fn run(globals: &Globals, args: Args, output: Output, shutdown: Shutdown) -> Result<ExitStatus, Error> {
    let context = globals.context(None)?;
    let place = |text: &str| text.parse().unwrap_or_else(|never: std::convert::Infallible| match never {});
    let (from, to): (Place, Place) = (place(&args.from), place(&args.to));
    let snapshots = args.snapshots.iter().map(|text| text.parse()).collect::<Result<_, _>>()?;
    let options = CopyOptions { from, to, store: args.store, of: args.of, all: args.all, set: args.set, snapshots };
    let progress = Arc::new(Progress::new(output.clone()));
    let monitor: Arc<dyn Monitor> = progress.clone();
    let mut face = Face::new(output.clone(), None);
    let mut sum = (0_u64, 0_u64, 0_u64, 0_u64);
    let each = |copied: Copied| {
        let report = &copied.report;
        sum = (sum.0 + report.copied.len() as u64, sum.1 + report.present, sum.2 + report.chunks, sum.3 + report.bytes);
        output.event(
            "copied",
            json!({
                "alias": copied.alias, "repository": copied.repository, "snapshots": report.copied, "present": report.present,
                "recordsOnly": report.records_only, "lost": report.lost, "partly": report.partly, "chunks": report.chunks, "bytes": report.bytes,
            }),
        );
        let others = match report.records_only {
            0 => String::new(),
            number => format!("; of {} others only the signed record, for the chain", size::count(number)),
        };
        output.line(&format!(
            "{}: {} snapshots copied, {} were there already; {} sent{others}",
            copied.alias,
            size::count(report.copied.len() as u64),
            size::count(report.present),
            size::bytes(report.bytes),
        ));
        for id in &report.lost {
            output.talk(&format!("snapshot {} is damaged where it is, and was not copied", id.short()));
        }
        for id in &report.partly {
            output
                .talk(&format!("snapshot {} is damaged where it is, and was copied as far as it is whole", id.short()));
        }
        if !report.lost.is_empty() || !report.partly.is_empty() {
            output.talk(&format!(
                "hint: run `lan-backup repair` where that is kept, then `send` on {}, which brings back what is lost, then this again",
                copied.alias
            ));
        }
    };
    let result = copy::copy(&context, &options, &mut face, &monitor, &shutdown, each).await;
    progress.finish();
    result?;
    let faults = progress.faults();
    output.event(
        "finished",
        json!({ "copied": sum.0, "present": sum.1, "chunks": sum.2, "bytes": sum.3, "faults": faults }),
    );
    Ok(ExitStatus::with_faults(faults))
}
