//! `rotate`: a new certificate for this device.

use crate::cli::ExitStatus;
use crate::cli::output::Output;
use crate::cli::settings::Globals;
use crate::daemon::{Error, rotation};
use serde_json::json;

/// Make a new certificate for this device; paired devices stay paired
#[derive(Debug, clap::Args)]
#[command(
    after_help = "The key that signs this device's snapshots vouches for the new certificate. Paired devices that are on are told\n\
    at once, the others when they next meet this one. The code that other screens show for this device changes.\n\n\
    Example:\n  lan-backup rotate"
)]
pub struct Args {}

/// Rotates and tells whoever is there.
pub async fn run(globals: &Globals, output: &Output) -> Result<ExitStatus, Error> {
    let context = globals.context(None)?;
    let replaced = rotation::replace(&context).await?;
    for (trust, knows) in &replaced.told {
        output.row(&json!({ "event": "told", "alias": trust.alias, "fingerprint": trust.fingerprint, "knows": knows }));
        let (alias, code) = (&trust.alias, trust.fingerprint.short_code());
        output.say(&if *knows {
            format!("{alias} ({code}) knows the new certificate")
        } else {
            format!("{alias} ({code}) was not reached; it learns of it when the two next meet")
        });
    }
    let (was, is) = (replaced.was, replaced.is);
    output.event("rotated", json!({ "was": was, "fingerprint": is, "code": is.short_code() }));
    output.say(&format!("this device's code was {} and is {} now", was.short_code(), is.short_code()));
    Ok(ExitStatus::Done)
}
