//! `pair`: make two devices trust each other, by PIN.

use crate::cli::ExitStatus;
use crate::cli::face::Face;
use crate::cli::output::Output;
use crate::cli::settings::Globals;
use crate::daemon::locate::locate;
use crate::daemon::{Error, join};
use crate::platform::shutdown::Shutdown;
use serde_json::json;
use std::path::PathBuf;

/// Pair with a device: its person accepts, its screen shows a PIN, you type it here
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  lan-backup pair nas\n  lan-backup pair 192.168.1.7 --pin-file /run/pin")]
pub struct Args {
    /// Alias, beginning of the fingerprint, or address
    device: String,
    /// Read the PIN from this file when it is needed (`-` for stdin), waiting until it is there
    #[arg(long, value_name = "FILE")]
    pin_file: Option<PathBuf>,
}

/// Pairs.
pub async fn run(globals: &Globals, args: Args, output: &Output, shutdown: Shutdown) -> Result<ExitStatus, Error> {
    let context = globals.context(None)?;
    let mut face = Face::new(output.clone(), args.pin_file);
    let located = locate(&context, &args.device, &mut face).await?;
    let paired = tokio::select! {
        paired = join::pair(&context, &located, None, &mut face) => paired?,
        () = shutdown.stopped() => return Err(Error::Stopped),
    };
    let (alias, fingerprint) = (&paired.alias, paired.fingerprint);
    output.event("paired", json!({ "alias": alias, "fingerprint": fingerprint }));
    output.say(&format!("paired with {alias} ({})", fingerprint.short_code()));
    output.say(&format!("next: lan-backup send {alias} PATH"));
    Ok(ExitStatus::Done)
}
