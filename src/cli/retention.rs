//! `retention`: what the keep rules make of each snapshot, and why. Changes nothing.

use crate::cli::ExitStatus;
use crate::cli::keep::{KeepArgs, NO_RULES};
use crate::cli::output::Output;
use crate::cli::prune::show_freeze;
use crate::cli::settings::Globals;
use crate::cli::size;
use crate::cli::snapshots::local_time;
use crate::daemon::Error;
use crate::daemon::service::open_store;
use crate::store::prune::freezes::Look;
use serde_json::json;

/// Show which snapshots the keep rules want and why, and which `prune` would forget
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  lan-backup retention                              by the rules in settings.toml\n  \
    lan-backup retention --keep-daily 14 --keep-yearly 10\n  lan-backup retention --device laptop --set Documents --keep-within 30d"
)]
pub struct Args {
    #[command(flatten)]
    keep: KeepArgs,
}

/// Shows it.
pub async fn run(globals: &Globals, args: &Args, output: &Output) -> Result<ExitStatus, Error> {
    let context = globals.context(None)?;
    let policy = args.keep.policy(&context, None);
    let (store, _) = open_store(&context, args.keep.store.clone()).await?;
    let (mut staying, mut unwanted) = (0, 0);
    for repository in policy.repositories(&store)? {
        let alias = repository.alias();
        for choice in policy.choices(&context, &repository, Look::Known)? {
            output.line(&format!("{alias}, set `{}`: keep {}", choice.set, choice.keep));
            for freeze in &choice.frozen {
                show_freeze(&alias, &choice.set, freeze, output);
            }
            let mut lines = Vec::new();
            for snapshot in &choice.snapshots {
                let reasons: Vec<String> = snapshot.reasons.iter().map(ToString::to_string).collect();
                let stays = !reasons.is_empty();
                *(if stays { &mut staying } else { &mut unwanted }) += 1_u64;
                output.row(&json!({
                    "snapshot": snapshot.id, "alias": alias, "owner": repository.owner(), "set": choice.set,
                    "sequence": snapshot.sequence, "receivedAt": snapshot.received_at, "keep": stays, "reasons": reasons,
                }));
                let verdict =
                    if stays { format!("stays: {}", reasons.join(", ")) } else { "would be forgotten".to_owned() };
                lines.push(vec![
                    format!("  {}", snapshot.id.short()),
                    local_time(snapshot.received_at),
                    size::bytes(snapshot.totals.bytes),
                    verdict,
                ]);
            }
            output.table(&lines);
        }
    }
    output.say(&format!("{} stay, {} would be forgotten", size::count(staying), size::count(unwanted)));
    if !policy.has_rules() {
        output.say(NO_RULES);
    }
    Ok(ExitStatus::Done)
}
