//! `undelete`: what was forgotten and can be brought back, and bringing it back.

use crate::cli::ExitStatus;
use crate::cli::output::Output;
use crate::cli::settings::Globals;
use crate::cli::snapshots::local_time;
use crate::daemon::Error;
use crate::daemon::service::open_store;
use crate::model::{SetName, SnapshotInfo};
use crate::signer;
use crate::store::Repository;
use crate::store::retention::BROUGHT_BACK_DAYS;
use serde_json::json;
use std::path::PathBuf;
use std::sync::Arc;

/// Fewer digits of a snapshot's id mean too many.
const MIN_DIGITS: usize = 4;

/// Bring back snapshots that `prune` has forgotten, or list them
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  lan-backup undelete                what can be brought back, and until when\n  \
    lan-backup undelete 3f2a91bc 77aa01de")]
pub struct Args {
    /// The beginnings of snapshot ids; without one, the forgotten snapshots are listed
    snapshots: Vec<String>,
    /// Where this device keeps what it receives
    #[arg(long, value_name = "DIR")]
    store: Option<PathBuf>,
}

struct Found {
    repository: Arc<Repository>,
    set: SetName,
    info: SnapshotInfo,
}

/// Lists, or brings back.
pub async fn run(globals: &Globals, args: &Args, output: &Output) -> Result<ExitStatus, Error> {
    let context = globals.context(None)?;
    let (store, _) = open_store(&context, args.store.clone()).await?;
    let mut found = Vec::new();
    for repository in store.repositories() {
        for info in repository.snapshots()? {
            if let (Some(_), Ok(record)) = (&info.forgotten, signer::open_record(&info.signed)) {
                found.push(Found { repository: repository.clone(), set: record.set, info });
            }
        }
    }
    let now = context.clock.now();
    if args.snapshots.is_empty() {
        found.retain(|found| found.info.forgotten.as_ref().is_some_and(|mark| mark.until > now));
        list(&found, output);
        return Ok(ExitStatus::Done);
    }
    // All are found before the first is brought back.
    let chosen: Vec<&Found> = args.snapshots.iter().map(|text| choose(text, &found)).collect::<Result<_, _>>()?;
    for chosen in chosen {
        let (repository, id) = (chosen.repository.clone(), chosen.info.id);
        tokio::task::spawn_blocking(move || repository.bring_back(&id)).await.map_err(|_| Error::Stopped)??;
        let alias = chosen.repository.alias();
        output.event("undeleted", json!({ "snapshot": id, "set": chosen.set, "alias": alias }));
        output.say(&format!(
            "snapshot {} of set `{}` of {alias} is back, and stays for {BROUGHT_BACK_DAYS} days whatever the rules",
            id.short(),
            chosen.set
        ));
    }
    Ok(ExitStatus::Done)
}

fn choose<'a>(text: &str, found: &'a [Found]) -> Result<&'a Found, Error> {
    let hint = "`lan-backup undelete` lists what can be brought back";
    let lower = text.to_lowercase();
    if lower.len() < MIN_DIGITS {
        return Err(Error::usage(format!("`{text}` is too short; give at least {MIN_DIGITS} digits"), hint));
    }
    let fitting: Vec<_> = found.iter().filter(|found| found.info.id.to_string().starts_with(&lower)).collect();
    match fitting.as_slice() {
        [one] => Ok(one),
        [] => Err(Error::usage(format!("there is no forgotten snapshot `{text}`"), hint)),
        _ => Err(Error::usage(format!("several forgotten snapshots begin with `{text}`; give more digits"), hint)),
    }
}

fn list(found: &[Found], output: &Output) {
    let mut lines = vec![["ID", "SET", "FROM", "RECEIVED", "FORGOTTEN", "UNTIL"].map(str::to_owned).to_vec()];
    for Found { repository, set, info } in found {
        let Some(mark) = &info.forgotten else { continue };
        let (alias, received) = (repository.alias(), info.receipt.received_at);
        output.row(&json!({
            "snapshot": info.id, "set": set, "alias": alias, "owner": repository.owner(), "receivedAt": received,
            "rule": mark.rule, "when": mark.when, "until": mark.until,
        }));
        let (when, until) = (local_time(mark.when), local_time(mark.until));
        lines.push(vec![info.id.short(), set.to_string(), alias.to_string(), local_time(received), when, until]);
    }
    if lines.len() == 1 {
        output.say("nothing was forgotten that could be brought back");
    } else {
        output.table(&lines);
    }
}
