//! `pin`: open a pairing window on a box without a screen, beside its running `serve`.

use crate::cli::ExitStatus;
use crate::cli::output::Output;
use crate::cli::settings::Globals;
use crate::daemon::Error;
use crate::daemon::control::{self, Answer, Request};
use crate::model::ShortCode;
use serde_json::json;

/// Accept a device that asks to be paired with the running `serve`, and show the PIN to type there
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  lan-backup pin                    for the device that waits longest\n  lan-backup pin --for K7QM-2XRT    for the one that shows this code"
)]
pub struct Args {
    /// Only for the device that shows this code
    #[arg(long = "for", value_name = "CODE")]
    code: Option<ShortCode>,
}

/// Asks the running `serve`.
pub async fn run(globals: &Globals, args: &Args, output: &Output) -> Result<ExitStatus, Error> {
    let context = globals.context(None)?;
    let Answer::Pin { pin, code, alias, expires_in } =
        control::ask(&context.home, &Request::Pin { code: args.code }).await?
    else {
        return Err(Error::NotRunning);
    };
    output.row(&json!({ "pin": pin, "code": code, "alias": alias, "expiresIn": expires_in }));
    output.line(&format!("{} {}", &pin[..3], &pin[3..]));
    output.say(&format!("to be typed on {alias} ({code}) within {expires_in} seconds"));
    Ok(ExitStatus::Done)
}
