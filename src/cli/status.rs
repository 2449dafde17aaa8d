//! `status`: one page about this device: what it keeps, whom it trusts, what it has sent where.

use crate::cli::ExitStatus;
use crate::cli::output::Output;
use crate::cli::send::quoted;
use crate::cli::settings::Globals;
use crate::cli::size;
use crate::cli::snapshots::local_time;
use crate::daemon::control::{self, Answer, Request};
use crate::daemon::service::open_store;
use crate::daemon::{Context, Error};
use crate::model::Mark;
use crate::model::text::clean;
use crate::signer;
use crate::store::health::Health;
use crate::store::prune::freezes::Look;
use crate::store::rhythm::overdue_since;
use crate::store::{RecoveryReport, Repository};
use serde_json::json;
use std::path::PathBuf;

/// Show one page: this device, paired devices, last backups, sizes, problems
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  lan-backup status\n  lan-backup status --json")]
pub struct Args {
    /// Where this device keeps what it receives
    #[arg(long, value_name = "DIR")]
    store: Option<PathBuf>,
}

/// Shows it.
pub async fn run(globals: &Globals, args: &Args, output: &Output) -> Result<ExitStatus, Error> {
    let context = globals.context(None)?;
    let running = match control::ask(&context.home, &Request::Status).await {
        Ok(Answer::Status { port, sessions, questions, .. }) => Some((port, sessions, questions)),
        Ok(_) | Err(Error::NotRunning) => None,
        Err(error) => return Err(error),
    };
    let fingerprint = context.identity.fingerprint();
    let (port, sessions, questions) = match &running {
        Some((port, sessions, questions)) => (Some(*port), sessions.clone(), *questions),
        None => (None, Vec::new(), 0),
    };
    output.row(&json!({
        "kind": "device", "alias": context.alias, "fingerprint": fingerprint, "code": fingerprint.short_code(),
        "serving": running.is_some(), "port": port, "questions": questions, "sessions": sessions,
    }));
    output.line(&format!("{}  {}  ({fingerprint})", context.alias, fingerprint.short_code()));
    match port {
        Some(port) => output.line(&format!("serving on port {port}")),
        None => output.line("not serving (`lan-backup serve` begins it)"),
    }
    for session in &sessions {
        let state = if session.waiting { "waits for an answer" } else { "under way" };
        output.line(
            &format!("  {}: {:?}, {}, {state}", session.alias, session.kind, size::bytes(session.bytes)).to_lowercase(),
        );
    }
    if questions > 0 {
        output.line(&format!("{questions} questions wait for an answer: `lan-backup pending`"));
    }
    paired(&context, output);
    let healthy = kept(&context, args.store.clone(), output).await?;
    Ok(if healthy { ExitStatus::Done } else { ExitStatus::Failed })
}

fn paired(context: &Context, output: &Output) {
    let list = context.trust.list();
    if list.is_empty() {
        return;
    }
    output.line("\npaired devices");
    let mut lines = Vec::new();
    for trust in list {
        let address = trust.address.map(|address| address.to_string());
        output.row(&json!({
            "kind": "paired", "alias": trust.alias, "fingerprint": trust.fingerprint, "rights": trust.rights, "address": address,
        }));
        let code = trust.fingerprint.short_code().to_string();
        lines.push(vec![format!("  {}", trust.alias), code, trust.rights.to_string(), address.unwrap_or_default()]);
    }
    output.table(&lines);
}

/// What is kept here: the last backup of each device and set. Returns whether all is well.
async fn kept(context: &Context, store: Option<PathBuf>, output: &Output) -> Result<bool, Error> {
    let (store, recovery) = match open_store(context, store.clone()).await {
        // A device that only sends keeps nothing.
        Err(Error::Usage { .. }) if store.is_none() => return Ok(true),
        opened => opened?,
    };
    let folder = store.folder().to_owned();
    let free = store.free_bytes()?;
    output.row(&json!({ "kind": "store", "folder": folder, "freeBytes": free, "healthy": recovery.is_harmless() }));
    output.line(&format!("\nkept in {}, {} free", folder.display(), size::bytes(free)));
    report(&recovery, output);
    let mut lines = Vec::new();
    let mut healthy = recovery.is_harmless();
    for repository in store.repositories() {
        healthy &= health(&repository, output)?;
        for (set, freezes) in repository.freezes(Look::Known, &|| false)? {
            for freeze in freezes {
                let hint = freeze.hint(&quoted(set.as_str()));
                output.row(&json!({
                    "kind": "frozen", "alias": repository.alias(), "set": set, "snapshot": freeze.snapshot(), "reason": freeze.kind(),
                    "problem": freeze.to_string(), "hint": hint,
                }));
                output.line(&format!(
                    "  STOPPED: nothing of `{set}` of {} is forgotten, because {freeze}",
                    repository.alias()
                ));
                output.line(&format!("    {hint}"));
            }
        }
        let (alias, stored) = (repository.alias(), repository.stored_bytes()?);
        let mut snapshots = repository.snapshots()?;
        snapshots.retain(|snapshot| snapshot.forgotten.is_none());
        let mut newest = std::collections::BTreeMap::new();
        for snapshot in &snapshots {
            if let Ok(record) = signer::open_record(&snapshot.signed) {
                let entry = newest.entry(record.set.clone()).or_insert((Vec::new(), None));
                entry.0.push(snapshot.receipt.received_at);
                entry.1 = Some((record, snapshot.receipt.received_at));
            }
        }
        let quota = context.settings.quota_gib.map(|gib| gib.saturating_mul(1 << 30));
        let copied_from = repository.copied_from();
        output.row(&json!({
            "kind": "repository", "alias": alias, "owner": repository.owner(), "storedBytes": stored, "quotaBytes": quota,
            "copiedFrom": copied_from,
        }));
        let of_quota = quota.map(|quota| format!(" of {}", size::bytes(quota))).unwrap_or_default();
        let copy = copied_from.map(|from| format!("a copy that {} brings", from.short_code())).unwrap_or_default();
        lines.push(vec![
            format!("  {alias}"),
            copy,
            String::new(),
            format!("{} stored{of_quota}", size::bytes(stored)),
        ]);
        for (set, (received, last)) in newest {
            let Some((record, received_at)) = last else { continue };
            let count = received.len();
            // Whoever brings a copy decides when; the rhythm is the original's.
            let overdue = overdue_since(&received, context.clock.now()).filter(|_| copied_from.is_none());
            output.row(&json!({
                "kind": "set", "alias": alias, "set": set, "snapshots": count, "lastReceivedAt": received_at,
                "files": record.totals.files, "bytes": record.totals.bytes, "overdueSince": overdue,
            }));
            if let Some(since) = overdue {
                output.line(&format!(
                    "  OVERDUE: no backup of `{set}` has come from {alias} since {}; one was due by {}. Is `lan-backup send` still run there?",
                    local_time(received_at),
                    local_time(since),
                ));
            }
            let plural = if count == 1 { "snapshot" } else { "snapshots" };
            let size = size::bytes(record.totals.bytes);
            lines.push(vec![
                format!("    {set}"),
                format!("last {}", local_time(received_at)),
                format!("{count} {plural}"),
                size,
            ]);
        }
    }
    output.table(&lines);
    Ok(healthy)
}

/// What is known of damage, and when everything was read last. Returns whether nothing is lost.
fn health(repository: &Repository, output: &Output) -> Result<bool, Error> {
    let health = repository.health()?;
    let alias = repository.alias();
    output.row(&json!({
        "kind": "health", "alias": alias, "damaged": health.damaged, "healed": health.healed,
        "packsSetAside": health.packs_set_aside, "filesSetAside": health.files_set_aside, "packs": health.packs,
        "inDoubt": health.in_doubt, "gone": health.gone, "packsNeverRead": health.packs_never_read, "oldestRead": health.oldest_read, "lookedAt": health.looked_at,
    }));
    for mark in &health.damaged {
        output.line(&format!("  DAMAGED: {}: {}", alias, described(mark)));
    }
    if !health.damaged.is_empty() {
        output.line(
            "    `lan-backup send` on the source brings back what it still has; `lan-backup verify` names what is hit, and what can be done",
        );
    }
    for mark in &health.healed {
        let at = mark.healed_at.map(local_time).unwrap_or_default();
        output.line(&format!("  healed {at}: {alias}: snapshot {}, everything is there again", mark.snapshot.short()));
    }
    for pack in &health.gone {
        output.line(&format!(
            "  GONE: {alias}: pack {pack} was there, and is not; `lan-backup verify` says what needs it"
        ));
    }
    for pack in &health.in_doubt {
        output.line(&format!("  IN DOUBT: {alias}: pack {pack} could not give what it should"));
    }
    if !health.in_doubt.is_empty() {
        output.line("    `lan-backup repair` saves what is good of it; so does a running `serve`");
    }
    let aside = health.packs_set_aside + health.files_set_aside;
    if aside > 0 {
        // A record that lies there keeps what its snapshot needs from being thrown away.
        let is_well = health.is_well() && repository.lost_records()?.is_empty();
        let plural = if aside == 1 { "damaged file lies" } else { "damaged files lie" };
        output.line(&format!("  {alias}: {aside} {plural} in `quarantine`; {}", of_aside(is_well)));
    }
    if let Some(read) = read_when(&health) {
        output.line(&format!("  {alias}: {read}"));
    }
    Ok(health.is_well())
}

/// When packs were read. Nobody is told in one breath that something is damaged and that everything is right.
fn read_when(health: &Health) -> Option<String> {
    match (health.oldest_read, health.packs_never_read) {
        (Some(at), _) if health.is_well() => {
            Some(format!("every byte was read and found right since {}", local_time(at)))
        }
        (Some(at), _) => Some(format!("the packs that are here were all read since {}", local_time(at))),
        (None, 0) => None,
        (None, left) => {
            let (read, all) = (size::count(health.packs - left), size::count(health.packs));
            Some(format!("{read} of {all} packs read again since they came (`serve` reads them in time)"))
        }
    }
}

/// What a person may do with what was set aside.
fn of_aside(is_well: bool) -> &'static str {
    if is_well {
        "what was good of them lives on, and nothing is lacking: they may be deleted"
    } else {
        "leave them there while something is lacking: a better copy may make one whole"
    }
}

/// A mark in one line.
pub fn described(mark: &Mark) -> String {
    let set = mark.set.as_ref().map(|set| format!(" of `{set}`")).unwrap_or_default();
    let name = format!("snapshot {} (number {}{set})", mark.snapshot.short(), mark.sequence);
    let since = local_time(mark.found_at);
    if mark.record_lost {
        return format!("{name} is lost: its record was damaged, or is gone (found {since})");
    }
    let files = match mark.file_count() {
        0 => "has lost parts of its lists".to_owned(),
        1 => format!(
            "has lost content of {}",
            mark.files.first().map_or_else(|| "a file".to_owned(), |name| clean(name))
        ),
        files => format!(
            "has lost content of {} files, {} among them",
            size::count(files),
            mark.files.first().map_or_else(|| "?".to_owned(), |name| clean(name))
        ),
    };
    let list = if mark.manifest_hit { "; its list of files is hit, too" } else { "" };
    format!("{name} {files}{list} (found {since})")
}

fn report(recovery: &RecoveryReport, output: &Output) {
    recovery.to_string().lines().for_each(|line| output.talk(line));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::PackId;

    #[test]
    fn nothing_is_said_to_be_right_beside_what_is_damaged_and_only_then_is_what_lies_aside_of_no_use() {
        let well = Health { packs: 3, oldest_read: Some(jiff::Timestamp::UNIX_EPOCH), ..Health::default() };
        assert!(read_when(&well).is_some_and(|text| text.contains("found right")));
        let pack = vec![PackId::from_bytes([1; 32])];
        for hurt in [Health { gone: pack.clone(), ..well.clone() }, Health { in_doubt: pack.clone(), ..well.clone() }] {
            assert!(read_when(&hurt).is_some_and(|text| !text.contains("right")));
        }
        assert!(of_aside(true).contains("may be deleted") && !of_aside(false).contains("deleted"));
    }
}
