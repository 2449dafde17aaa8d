//! `unpair`: trust a device no longer.

use crate::cli::ExitStatus;
use crate::cli::output::Output;
use crate::cli::settings::Globals;
use crate::cli::trust::find;
use crate::daemon::Error;
use crate::daemon::control::{self, Request};
use serde_json::json;

/// End a pairing: live connections are cut at once; backups that are kept stay
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  lan-backup unpair old-laptop")]
pub struct Args {
    /// Alias, or beginning of the fingerprint
    device: String,
}

/// Tells a running `serve`, so that connections end at once; else only forgets.
pub async fn run(globals: &Globals, args: &Args, output: &Output) -> Result<ExitStatus, Error> {
    let context = globals.context(None)?;
    let trust = find(&context, &args.device)?;
    let fingerprint = trust.fingerprint;
    match control::ask(&context.home, &Request::Unpair { fingerprint }).await {
        Ok(_) => {}
        Err(Error::NotRunning) => drop(context.trust.remove(&fingerprint)?),
        Err(error) => return Err(error),
    }
    context.heads()?.forget(&fingerprint)?;
    output.event("unpaired", json!({ "alias": trust.alias, "fingerprint": fingerprint }));
    output.say(&format!(
        "{} ({}) is not paired any more; unpair this device there, too",
        trust.alias,
        fingerprint.short_code()
    ));
    Ok(ExitStatus::Done)
}
