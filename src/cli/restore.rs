//! `restore`: get a backup back.

use crate::cli::ExitStatus;
use crate::cli::face::Face;
use crate::cli::output::Output;
use crate::cli::progress::Progress;
use crate::cli::send::tell_delivered;
use crate::cli::settings::Globals;
use crate::cli::size;
use crate::cli::status::described;
use crate::daemon::error::DAMAGED;
use crate::daemon::locate::{Answering, Located, locate, locate_any};
use crate::daemon::retrieve::{self, Opened};
use crate::daemon::service::open_store;
use crate::daemon::{Context, Error, join, phone};
use crate::model::{EntryKind, Mark, SetName};
use crate::monitor::Monitor;
use crate::platform::shutdown::Shutdown;
use crate::protocol::ErrorCode;
use crate::restore::action::Action;
use crate::restore::chain::{Checked, Signature};
use crate::restore::dir_target::DirTarget;
use crate::restore::dir_writer::SetIds;
use crate::restore::plan::Plan;
use crate::restore::select::{Include, Selection};
use crate::restore::zip_target::ZipTarget;
use crate::restore::{self, Conflict, PlanOptions};
use crate::server::share::snapshot::{SnapshotOptions, SnapshotTree};
use crate::server::share::tree::Tree;
use crate::vault::Vault;
use clap::ValueEnum;
use serde_json::json;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

/// Get files back from a device
#[derive(Debug, clap::Args)]
#[command(
    after_help = "What is there already is never replaced unless asked: a second file gets a name of its own.\n\n\
    Examples:\n  lan-backup restore nas --to ~/rescue\n  lan-backup restore nas latest~2:Documents/letters --to ~/letters\n  \
    lan-backup restore nas --to ~/photos --include '*.jpg'\n  lan-backup restore nas --zip all.zip\n  \
    lan-backup restore local latest --of phone --to-device phone      back onto the phone that sent it\n  \
    lan-backup restore nas --of old-laptop --to ~      a lost device's backup, on a new one"
)]
pub struct Args {
    /// Alias, beginning of the fingerprint, address, or `local`
    device: String,
    /// `latest`, `latest~2` or the beginning of an id; with `:PATH`, only what is in PATH, straight into DIR
    #[arg(default_value = "latest")]
    snapshot: String,
    /// Where to put it
    #[arg(long, value_name = "DIR", required_unless_present_any = ["zip", "to_device"])]
    to: Option<PathBuf>,
    /// Write a zip file instead
    #[arg(long, value_name = "FILE", conflicts_with = "to")]
    zip: Option<PathBuf>,
    /// Send it to the LocalSend app on this device instead; nothing is written here
    #[arg(long, value_name = "PHONE", conflicts_with_all = ["to", "zip", "dry_run", "conflict", "set_id", "adopt"])]
    to_device: Option<String>,
    /// Of this set
    #[arg(long, value_name = "NAME")]
    set: Option<SetName>,
    /// Another device's backup; its holder is asked
    #[arg(long, value_name = "DEVICE")]
    of: Option<String>,
    /// This device takes the place of the one named by --of, and continues its backups
    #[arg(long, requires = "of")]
    adopt: bool,
    /// Only what fits this pattern
    #[arg(long, value_name = "GLOB")]
    include: Vec<String>,
    /// What to do with a file that is there and is not the same
    #[arg(long, value_enum, default_value_t = Way::KeepBoth)]
    conflict: Way,
    /// Put back set-user-id, set-group-id and file capabilities; they are left off otherwise
    #[arg(long)]
    set_id: bool,
    /// Show what would be done, and do nothing
    #[arg(long)]
    dry_run: bool,
    /// Read the PIN from this file when it is needed (`-` for stdin), waiting until it is there
    #[arg(long, value_name = "FILE")]
    pin_file: Option<PathBuf>,
    /// Where this device keeps what it receives
    #[arg(long, value_name = "DIR")]
    store: Option<PathBuf>,
}

/// What to do with a file that is in the way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Way {
    /// It stays; the restored one gets a name of its own
    KeepBoth,
    /// The restored one takes its place
    Overwrite,
    /// It stays, and nothing is restored there
    Skip,
}

impl From<Way> for Conflict {
    fn from(way: Way) -> Self {
        match way {
            Way::KeepBoth => Self::KeepBoth,
            Way::Overwrite => Self::Overwrite,
            Way::Skip => Self::Skip,
        }
    }
}

/// Restores, or shows what would be.
pub async fn run(globals: &Globals, args: Args, output: Output, shutdown: Shutdown) -> Result<ExitStatus, Error> {
    let context = globals.context(None)?;
    // What was typed wrong is said before anybody is asked.
    let selection: Selection = args.snapshot.parse()?;
    let include = Include::new(&args.include)?;
    let progress = Arc::new(Progress::new(output.clone()));
    let monitor: Arc<dyn Monitor> = progress.clone();
    let work = Work {
        context: &context,
        args: &args,
        selection,
        include,
        output: &output,
        progress: &progress,
        shutdown: &shutdown,
        scratch: context.home.cache().to_owned(),
    };
    if args.device == "local" {
        let (store, _) = open_store(&context, args.store.clone()).await?;
        let opened = retrieve::open_local(&context, &store, args.of.as_deref())?;
        return Box::pin(work.restore(&opened)).await;
    }
    let mut face = Face::new(output.clone(), args.pin_file.clone());
    let opening = async {
        let mut located = locate(&context, &args.device, &mut face).await?;
        let welcome = located.trust.is_some() && located.client(&context)?.is_paired().await?;
        if !welcome {
            located = join::pair(&context, &located, None, &mut face).await?;
        }
        let of = args.of.clone();
        let opened = match retrieve::open_remote(&context, &located, of.clone(), args.adopt, &monitor, &shutdown).await
        {
            // Paired in the other direction only, so this device was never let in there. (Where it once was, the right was taken
            // away on purpose, and the refusal stands.)
            Err(Error::Client(error))
                if error.answer() == Some(ErrorCode::NotAllowed) && welcome && !was_let_in(&context, &located)? =>
            {
                located = join::pair(&context, &located, None, &mut face).await?;
                retrieve::open_remote(&context, &located, of, args.adopt, &monitor, &shutdown).await?
            }
            opened => opened?,
        };
        settle_adoption(&context, &located, &opened, args.adopt, &output)?;
        Ok::<_, Error>(opened)
    };
    let opened = tokio::select! {
        opened = opening => opened?,
        () = shutdown.stopped() => return Err(Error::Stopped),
    };
    let result = Box::pin(work.restore(&opened)).await;
    opened.close().await;
    result
}

/// Whether this device has backed up there before.
fn was_let_in(context: &Context, located: &Located) -> Result<bool, Error> {
    Ok(context.heads()?.repository_at(&located.fingerprint)?.is_some())
}

/// A repository that this device has taken over is the one that its next backups continue.
fn settle_adoption<V: Vault>(
    context: &Context,
    located: &Located,
    opened: &Opened<V>,
    wanted: bool,
    output: &Output,
) -> Result<(), Error> {
    if !wanted {
        return Ok(());
    }
    if opened.owner == context.identity.fingerprint() {
        let heads = context.heads()?;
        heads.save_repository_at(&located.fingerprint, opened.vault.parameters().id)?;
        output.say("this device continues that backup from now on");
    } else {
        output.talk("the person there let this device read that backup, but not continue it");
    }
    Ok(())
}

struct Work<'a> {
    context: &'a Context,
    args: &'a Args,
    selection: Selection,
    include: Include,
    output: &'a Output,
    progress: &'a Arc<Progress>,
    shutdown: &'a Shutdown,
    scratch: PathBuf,
}

impl Work<'_> {
    async fn restore<V: Vault>(&self, opened: &Opened<V>) -> Result<ExitStatus, Error> {
        let began = Instant::now();
        let output = self.output;
        for problem in &opened.alarms {
            output.alarm(problem);
        }
        let snapshot = opened.find(&self.selection, self.args.set.as_ref())?;
        match snapshot.trust {
            Signature::Known => {}
            Signature::OwnerLog => {
                output.say("signed by a device that this one does not know; the holder vouches for it");
            }
            Signature::Unverified => {
                output.talk(
                    "warning: nobody this device knows has signed this snapshot; it is consistent, but unverified",
                );
            }
        }
        if let Some(mark) = opened.marks.iter().find(|mark| mark.snapshot == snapshot.info.id) {
            output.event("damaged", json!({ "mark": mark }));
            output.talk(&format!("careful: {}", described(mark)));
            output.talk(&format!("hint: {}", what_is_left(mark)));
        }
        if let Some(phone) = &self.args.to_device {
            return self.onto(phone, opened, snapshot, began).await;
        }
        let options = PlanOptions {
            snapshot: snapshot.info.id,
            manifest: snapshot.record.manifest.clone(),
            path: self.selection.path.clone(),
            include: self.include.clone(),
            conflict: self.args.conflict.into(),
            target: self.args.to.clone(),
            scratch: self.scratch.clone(),
        };
        let monitor: Arc<dyn Monitor> = self.progress.clone();
        let (vault, shutdown) = (opened.vault.clone(), self.shutdown.clone());
        let plan = restore::plan(vault.clone(), options, monitor.clone(), shutdown.clone()).await?;
        if self.args.dry_run {
            self.progress.finish();
            show(&plan, output)?;
            return Ok(ExitStatus::with_faults(self.progress.faults()));
        }
        let result = match (&self.args.to, &self.args.zip) {
            (Some(folder), _) => {
                let set_ids = if self.args.set_id { SetIds::PutBack } else { SetIds::LeaveOff };
                let target = DirTarget::new(folder, set_ids, monitor.clone())?;
                restore::run(vault, &plan, target, monitor, shutdown).await
            }
            (None, Some(file)) => {
                restore::run(vault, &plan, ZipTarget::new(file, monitor.clone())?, monitor, shutdown).await
            }
            (None, None) => return Err(Error::usage("nowhere to restore to", "give --to DIR or --zip FILE")),
        };
        self.progress.finish();
        let report = result?;
        // A broken chain means that something was lost or forged, even when this snapshot is whole.
        let alarms = opened.alarms.len() as u64;
        let skipped = self.progress.faults();
        let faults = skipped + alarms;
        output.event(
            "finished",
            json!({
                "snapshot": snapshot.info.id, "files": report.files, "bytes": report.bytes, "faults": faults, "alarms": alarms,
            }),
        );
        let stats = plan.stats;
        let there = format!("; {} were there already", size::count(stats.identical_files));
        let beside = format!("; {} got a second name, as another file was there", size::count(stats.beside_files));
        let notes = [(stats.identical_files, there), (stats.beside_files, beside)];
        let notes: String = notes.into_iter().filter(|(count, _)| *count > 0).map(|(_, text)| text).collect();
        output.say(&format!(
            "restored {}, {} from snapshot {} of `{}`, in {}{notes}",
            size::counted(report.files, "file"),
            size::bytes(report.bytes),
            snapshot.info.id.short(),
            snapshot.record.set,
            size::duration(began.elapsed()),
        ));
        if skipped > 0 {
            output.talk(&format!("{} went wrong, as listed above", size::things(skipped)));
        }
        if alarms > 0 {
            output.talk("no file was left out for the ALARM above: it is about what else is kept there, and what is newest there may be lost");
            output.talk("hint: `lan-backup snapshots DEVICE` lists what is there; `lan-backup verify` there says what is damaged");
        }
        if report.damaged > 0 {
            output.talk(&format!("hint: {}", DAMAGED.replace('\n', "\n      ")));
        }
        Ok(ExitStatus::with_faults(faults))
    }
}

impl Work<'_> {
    /// Sends what was asked for to a LocalSend app, out of the snapshot and into the connection.
    async fn onto<V: Vault>(
        &self,
        name: &str,
        opened: &Opened<V>,
        snapshot: &Checked,
        began: Instant,
    ) -> Result<ExitStatus, Error> {
        let mut face = Face::new(self.output.clone(), self.args.pin_file.clone());
        let phone = tokio::select! {
            answering = locate_any(self.context, name, &mut face) => match answering? {
                Answering::Phone(phone) => phone,
                Answering::LanBackup(located) => {
                    let message = format!("`{}` runs lan-backup itself", located.alias);
                    return Err(Error::usage(message, "run `lan-backup restore` there: it asks this device for the files"));
                }
            },
            () = self.shutdown.stopped() => return Err(Error::Stopped),
        };
        let options = SnapshotOptions {
            snapshot: snapshot.info.id,
            manifest: snapshot.record.manifest.clone(),
            path: self.selection.path.clone(),
            title: String::new(),
            scratch: self.scratch.clone(),
        };
        let monitor: Arc<dyn Monitor> = self.progress.clone();
        let tree = SnapshotTree::open(opened.vault.clone(), options, monitor.clone()).await?;
        let (tree, context): (Arc<dyn Tree>, _) = (Arc::new(tree), self.context);
        let sending = phone::deliver_from(context, &phone, tree, &self.include, &mut face, monitor, self.shutdown);
        let delivered = sending.await;
        self.progress.finish();
        let status = tell_delivered(&phone, delivered?, self.progress.faults(), began, self.output);
        Ok(if opened.alarms.is_empty() { status } else { ExitStatus::Skipped })
    }
}

/// What can be had of a snapshot that has lost something.
fn what_is_left(mark: &Mark) -> &'static str {
    if mark.manifest_hit {
        "it cannot be restored whole, and perhaps only a folder of it can (SNAPSHOT:PATH); those before and after it may be whole: \
         `lan-backup snapshots DEVICE` lists them, and which are not"
    } else {
        "all its other files can be restored; `lan-backup find NAME` shows other states of the ones that are hit"
    }
}

fn show(plan: &Plan, output: &Output) -> Result<(), Error> {
    let mut entries = plan.entries()?;
    while let Some(planned) = entries.read_next()? {
        let (name, words) = match &planned.action {
            Action::Create => ("create", "write"),
            Action::Replace => ("replace", "replace"),
            Action::Beside => ("beside", "beside"),
            Action::Keep if matches!(planned.entry.kind, EntryKind::Folder) => continue,
            Action::Keep => ("keep", "same"),
            Action::HardLink { .. } => ("link", "link"),
            Action::Skip => ("skip", "skip"),
        };
        output.row(&json!({ "path": planned.entry.path.to_string(), "action": name, "bytes": planned.entry.size() }));
        output.line(&format!("{words:>8}  {}", planned.entry.path));
    }
    let stats = plan.stats;
    output.event("planned", json!(stats));
    output.say(&format!(
        "{}, {}: {} would be written, {} are there already. Nothing was changed.",
        size::counted(stats.files, "file"),
        size::bytes(stats.bytes),
        size::bytes(stats.bytes_to_write),
        size::count(stats.identical_files),
    ));
    Ok(())
}
