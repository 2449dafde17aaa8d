//! `unpair`: trust a device no longer, be it paired or a LocalSend app that is not asked about.

use crate::cli::ExitStatus;
use crate::cli::output::Output;
use crate::cli::settings::Globals;
use crate::cli::trust::{find, find_phone};
use crate::daemon::Error;
use crate::daemon::control::{self, Request};
use crate::identity::PhoneBook;
use serde_json::json;

/// End a pairing: live connections are cut at once; backups that are kept stay
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  lan-backup unpair old-laptop\n  lan-backup unpair Pixel      \
    a LocalSend app that you said always to is asked about again")]
pub struct Args {
    /// Alias, or beginning of the fingerprint
    device: String,
}

/// Tells a running `serve`, so that connections end at once; else only forgets.
pub async fn run(globals: &Globals, args: &Args, output: &Output) -> Result<ExitStatus, Error> {
    let context = globals.context(None)?;
    let trust = match (find(&context, &args.device), find_phone(&context, &args.device)?) {
        (Ok(trust), _) => trust,
        (Err(_), Some(phone)) => {
            // Read anew for each question, so a running `serve` knows it at once.
            PhoneBook::new(context.home.phones()).remove(&phone.fingerprint)?;
            output.event("forgotten", json!({ "alias": phone.alias, "fingerprint": phone.fingerprint }));
            let (alias, code) = (&phone.alias, phone.fingerprint.short_code());
            output.say(&format!("you are asked again before {alias} ({code}) sends files; what it has sent stays"));
            return Ok(ExitStatus::Done);
        }
        (Err(error), None) => return Err(error),
    };
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
