//! `prune`: forget what the keep rules do not want, and throw away what nothing needs any more.

use crate::cli::ExitStatus;
use crate::cli::keep::{KeepArgs, NO_RULES};
use crate::cli::output::Output;
use crate::cli::settings::Globals;
use crate::cli::size;
use crate::cli::snapshots::local_time;
use crate::config::retention::TrashDays;
use crate::daemon::pruning::Policy;
use crate::daemon::service::open_store;
use crate::daemon::{Context, Error};
use crate::model::{Alias, SetName};
use crate::platform::shutdown::Shutdown;
use crate::store::prune::brake::Freeze;
use crate::store::prune::choice::SetChoice;
use crate::store::prune::freezes::Look;
use crate::store::prune::{Amount, Obstacle, Prune, PrunePlan, PruneReport, Purpose};
use crate::store::{Repository, Store};
use serde_json::{Value, json};
use std::sync::Arc;

/// Digits of a snapshot's id that are enough to name it.
const MIN_PREFIX: usize = 8;

/// Forget snapshots that the keep rules do not want, and free what nothing needs any more
///
/// What is forgotten can be brought back with `undelete` for the trash days. Without keep rules nothing is forgotten; what broken-off
/// backups have left is thrown away all the same.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  lan-backup prune --dry-run                 by the rules in settings.toml\n  \
    lan-backup prune\n  lan-backup prune --keep-within 30d --keep-monthly 24 --device laptop --set Documents")]
pub struct Args {
    #[command(flatten)]
    keep: KeepArgs,
    /// Go on forgetting in a set in which that was stopped, after you have looked at the snapshots named there
    #[arg(long, value_name = "SET", conflicts_with = "dry_run")]
    release: Option<SetName>,
    /// Let a snapshot go of which nobody knows what it needs, so that what is not needed can be thrown away again: its record was
    /// damaged and lies in quarantine, or is gone, and its data goes with the next `prune`, for good; or its lists are damaged, and what can be
    /// read of it goes when the trash days are over
    #[arg(long, value_name = "SNAPSHOT", conflicts_with_all = ["dry_run", "release"])]
    give_up: Option<String>,
    /// Only show what would be done
    #[arg(long, short = 'n')]
    dry_run: bool,
    /// How long what is forgotten can be brought back; at least 1, usually 7
    #[arg(long, value_name = "DAYS")]
    trash_days: Option<TrashDays>,
}

/// Prunes one repository after the other.
pub async fn run(globals: &Globals, args: Args, output: &Output, shutdown: Shutdown) -> Result<ExitStatus, Error> {
    let context = globals.context(None)?;
    let policy = args.keep.policy(&context, args.trash_days);
    let (store, _) = open_store(&context, args.keep.store.clone()).await?;
    if !policy.has_rules() {
        output.say(NO_RULES);
    }
    if let Some(set) = &args.release {
        return release(&context, &policy, &store, set, output);
    }
    if let Some(snapshot) = &args.give_up {
        return give_up(&policy, &store, snapshot, output);
    }
    let mut troubles = 0;
    for repository in policy.repositories(&store)? {
        let (policy, output, shutdown) = (policy.clone(), output.clone(), shutdown.clone());
        let purpose = if args.dry_run { Purpose::Show } else { Purpose::Run };
        let work = move || one(&repository, &policy, purpose, &output, &shutdown);
        let fine = tokio::task::spawn_blocking(work).await.map_err(|_| Error::Stopped)??;
        troubles += u64::from(!fine);
    }
    Ok(if troubles == 0 { ExitStatus::Done } else { ExitStatus::Failed })
}

/// A person has looked: every alarm of the set is written off, for good.
fn release(
    context: &Context,
    policy: &Policy,
    store: &Store,
    set: &SetName,
    output: &Output,
) -> Result<ExitStatus, Error> {
    let mut released = 0;
    for repository in policy.repositories(store)? {
        for choice in policy.choices(context, &repository, Look::Keep)?.iter().filter(|choice| choice.set == *set) {
            for freeze in &choice.frozen {
                repository.release(set, freeze)?;
                released += 1;
                output.event(
                    "released",
                    json!({ "set": set, "snapshot": freeze.snapshot(), "problem": freeze.to_string() }),
                );
                output.say(&format!("{}, set `{set}`: released although {freeze}", repository.alias()));
            }
        }
    }
    if released == 0 {
        return Err(Error::usage(
            format!("forgetting was not stopped in set `{set}`"),
            "`lan-backup prune --dry-run` says where it was",
        ));
    }
    Ok(ExitStatus::Done)
}

/// A person has looked, and lets one snapshot go that nobody can read any more.
fn give_up(policy: &Policy, store: &Store, text: &str, output: &Output) -> Result<ExitStatus, Error> {
    let (mut fitting, text) = (Vec::new(), text.to_lowercase());
    for repository in policy.repositories(store)?.into_iter().filter(|_| text.len() >= MIN_PREFIX) {
        let lost = repository.can_be_given_up(&text)?.into_iter();
        fitting.extend(lost.map(|lost| (repository.clone(), lost)));
    }
    let [(repository, lost)] = &fitting[..] else {
        let problem = match fitting.len() {
            0 => format!("no snapshot `{text}` has lost its record or its lists, other than the newest of its set"),
            count => format!("`{text}` may be any of {count} snapshots"),
        };
        return Err(Error::usage(problem, "`lan-backup prune --dry-run` names the one that stands in the way"));
    };
    repository.give_up(lost, policy.options().trash)?;
    output.event("gave-up", json!({ "alias": repository.alias(), "snapshot": lost.id, "sequence": lost.sequence }));
    output.say(&format!(
        "{}: snapshot {} (number {} of its set) is given up; {} throws away what only it needs",
        repository.alias(),
        lost.id.short(),
        lost.sequence,
        if lost.by_lists { "`prune` after the trash days" } else { "the next `prune`" }
    ));
    Ok(ExitStatus::Done)
}

/// Whether nothing stood in the way.
fn one(
    repository: &Arc<Repository>,
    policy: &Policy,
    purpose: Purpose,
    output: &Output,
    shutdown: &Shutdown,
) -> Result<bool, Error> {
    let rules = |set: &_| policy.keep_for(repository, set);
    let stopped = || shutdown.is_stopped();
    let prune = Prune::prepare(repository, &rules, &policy.options(), purpose, &stopped)?;
    let alias = repository.alias();
    show_plan(&alias, &prune.plan, purpose, output);
    let obstacle = if purpose == Purpose::Show {
        prune.plan.obstacle.clone()
    } else {
        let report = prune.run()?;
        show_report(&alias, &report, output);
        report.obstacle
    };
    match obstacle {
        None => Ok(true),
        Some(Obstacle::Stopped) => Err(Error::Stopped),
        Some(obstacle) => {
            let hint = obstacle.hint();
            output.event("obstacle", json!({ "alias": alias, "problem": obstacle.to_string(), "hint": hint }));
            output.talk(&format!("{alias}: {obstacle}"));
            if let Some(hint) = hint {
                output.talk(&format!("hint: {hint}"));
            }
            Ok(false)
        }
    }
}

fn show_plan(alias: &Alias, plan: &PrunePlan, purpose: Purpose, output: &Output) {
    let (will, can) = match purpose {
        Purpose::Show => ("would be forgotten", "would be possible"),
        Purpose::Run => ("is forgotten", "is possible"),
    };
    for choice in &plan.sets {
        for freeze in &choice.frozen {
            show_freeze(alias, &choice.set, freeze, output);
        }
        for snapshot in choice.unwanted() {
            output.line(&format!(
                "{alias}, set `{}`: snapshot {} of {} {will} (keep {}); undelete {can} until {}",
                choice.set,
                snapshot.id.short(),
                local_time(snapshot.received_at),
                choice.keep,
                local_time(plan.until),
            ));
        }
    }
    let unwanted: Vec<Value> = plan.sets.iter().flat_map(|choice: &SetChoice| {
        choice.unwanted().map(move |snapshot| json!({ "set": choice.set, "snapshot": snapshot.id, "receivedAt": snapshot.received_at }))
    }).collect();
    output.event(
        "plan",
        json!({
            "alias": alias, "forget": unwanted, "until": plan.until, "deleteNow": amount(plan.deletable),
            "inTrash": amount(plan.waiting), "throwAway": amount(plan.dead), "repack": amount(plan.heavy), "later": amount(plan.later),
        }),
    );
    if purpose == Purpose::Show {
        output.line(&format!(
            "{alias}: {} free now, {} within a day or two (unneeded packs {}, dead weight of others {}, in the trash {}), {} more when what is forgotten runs out",
            size::bytes(plan.deletable.bytes),
            size::bytes(plan.dead.bytes + plan.heavy.bytes + plan.waiting.bytes),
            size::bytes(plan.dead.bytes),
            size::bytes(plan.heavy.bytes),
            size::bytes(plan.waiting.bytes),
            size::bytes(plan.later.bytes),
        ));
    }
}

/// Shows why nothing is forgotten in a set.
pub fn show_freeze(alias: &Alias, set: &SetName, freeze: &Freeze, output: &Output) {
    let hint = freeze.hint(&crate::cli::send::quoted(set.as_str()));
    output.event(
        "frozen",
        json!({
            "alias": alias, "set": set, "snapshot": freeze.snapshot(), "reason": freeze.kind(), "problem": freeze.to_string(),
            "hint": hint,
        }),
    );
    output.talk(&format!("{alias}, set `{set}`: nothing is forgotten, because {freeze}"));
    output.talk(&format!("hint: {hint}"));
}

fn show_report(alias: &Alias, report: &PruneReport, output: &Output) {
    output.event(
        "pruned",
        json!({
            "alias": alias, "forgotten": report.forgotten.len(), "deleted": amount(report.deleted), "thrownAway": amount(report.thrown_away),
            "repacked": amount(report.repacked), "inTrash": amount(report.waiting), "putBack": amount(report.put_back),
        }),
    );
    output.line(&format!(
        "{alias}: {} forgotten; {} freed; {} went to the trash, where they stay for a day",
        snapshots(report.forgotten.len() as u64),
        size::bytes(report.deleted.bytes),
        size::bytes(report.thrown_away.bytes),
    ));
    if !report.forgotten.is_empty() {
        output.say("`lan-backup undelete` lists what can be brought back");
    }
}

fn snapshots(count: u64) -> String {
    if count == 1 { "1 snapshot".to_owned() } else { format!("{} snapshots", size::count(count)) }
}

fn amount(amount: Amount) -> Value {
    json!({ "packs": amount.packs, "bytes": amount.bytes })
}
