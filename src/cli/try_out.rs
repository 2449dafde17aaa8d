//! `try`: the whole story on one machine. Two homes in a scratch folder play the two devices; everything they say goes over real
//! sockets on loopback, everything they keep over the real disk.

use crate::backup::Effort;
use crate::backup::filter::FilterOptions;
use crate::cli::ExitStatus;
use crate::cli::output::Output;
use crate::cli::progress::Progress;
use crate::cli::{sample, settings, size};
use crate::client::{self, PinSource};
use crate::config::{Accept, Home};
use crate::daemon::locate::{Chooser, Located, locate};
use crate::daemon::send::{SendOptions, Sent, send};
use crate::daemon::service::{InboxOptions, ServeOptions, Service};
use crate::daemon::{Context, Error, retrieve};
use crate::model::{Device, Fingerprint, Pin, ShortCode};
use crate::monitor::{Counter, Monitor, Phase};
use crate::platform::shutdown::Shutdown;
use crate::platform::{fs, random, resources};
use crate::protocol::pairing::PairState;
use crate::restore::compare::trees_differ;
use crate::restore::dir_target::DirTarget;
use crate::restore::dir_writer::SetIds;
use crate::restore::select::{Include, Selection};
use crate::restore::{self, Conflict, PlanOptions};
use crate::server::ServerEvent;
use futures_util::future::BoxFuture;
use serde_json::json;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::mpsc;

/// See the whole story on this one machine: discover, pair, back up, change, back up again, restore, compare
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  lan-backup try\n  lan-backup try ~/Documents      with files of your own; they are only read"
)]
pub struct Args {
    /// A folder of your own to back up; it is only read. A sample is made otherwise
    path: Option<PathBuf>,
    /// Keep the scratch folder
    #[arg(long)]
    keep: bool,
}

/// Plays it through.
pub async fn run(args: Args, output: Output, shutdown: Shutdown) -> Result<ExitStatus, Error> {
    resources::raise_open_file_limit();
    let scratch = settings::scratch_folder()?;
    let story = Story { output: &output, scratch: scratch.path(), shutdown };
    let result = Box::pin(story.play(args.path)).await;
    if args.keep {
        let kept = scratch.keep();
        output.say(&format!("everything is kept in {}", kept.display()));
    }
    result
}

struct Story<'a> {
    output: &'a Output,
    scratch: &'a Path,
    shutdown: Shutdown,
}

impl Story<'_> {
    fn step(&self, number: u32, name: &str, text: &str, began: Instant) {
        let took = began.elapsed();
        self.output.event("step", json!({ "step": name, "seconds": took.as_secs_f64(), "text": text }));
        self.output.line(&format!("{number}. {text}  [{}]", size::duration(took)));
    }

    fn device(&self, name: &str, multicast_port: u16) -> Result<Context, Error> {
        let home = Home::at(&self.scratch.join(name));
        Context::open(home, Some(name), Some(IpAddr::V4(Ipv4Addr::LOCALHOST)), multicast_port)
    }

    async fn play(&self, own: Option<PathBuf>) -> Result<ExitStatus, Error> {
        // A group of its own, so that a real lan-backup on this machine takes no part.
        let multicast_port = 49_152 + (random::number() % 16_000) as u16;
        let (nas, laptop) = (self.device("nas", multicast_port)?, self.device("laptop", multicast_port)?);
        self.output.line("Two devices on this one machine: `laptop` backs up to `nas`.\n");

        let tree = if let Some(path) = own {
            fs::canonicalize(&path)?
        } else {
            let tree = self.scratch.join("Documents");
            let copy = tree.clone();
            blocking(move || sample::create(&copy)).await?;
            tree
        };
        let is_sample = tree.starts_with(self.scratch);

        let began = Instant::now();
        let options =
            ServeOptions { store: None, port: Some(0), accept: Some(Accept::Paired), localsend: InboxOptions::off() };
        let mut service = Service::start(&nas, options).await?;
        let port = service.neighbourhood.server().port();
        self.step(1, "serve", &format!("nas serves on 127.0.0.1:{port}, with an identity made just now"), began);

        let result = self.laptop_side(&laptop, &mut service, &tree, is_sample).await;
        service.stop().await;
        result
    }

    async fn laptop_side(
        &self,
        laptop: &Context,
        service: &mut Service,
        tree: &Path,
        is_sample: bool,
    ) -> Result<ExitStatus, Error> {
        let began = Instant::now();
        let located = locate(laptop, "nas", &mut Nobody).await?;
        let code = located.fingerprint.short_code();
        self.step(2, "discover", &format!("laptop finds nas by multicast; its code is {code}"), began);

        let began = Instant::now();
        let mut screen = Screen::new(service);
        let sent = self.back_up(laptop, located.clone(), tree, &mut screen).await?;
        let report = &sent.report;
        let rate = size::rate(report.totals.bytes, began.elapsed());
        let text = format!(
            "paired by PIN {} and backed up {} files, {}: {} sent, {rate}",
            screen.shown.as_ref().map(Pin::grouped).unwrap_or_default(),
            size::count(report.totals.files),
            size::bytes(report.totals.bytes),
            size::bytes(report.uploaded_bytes)
        );
        self.step(3, "first-backup", &text, began);

        let changed = if is_sample {
            let copy = tree.to_owned();
            blocking(move || sample::change(&copy)).await?;
            "changed three files and backed up again"
        } else {
            "backed up again"
        };
        let began = Instant::now();
        let located = Located { trust: laptop.trust.find(&located.fingerprint), ..located };
        let sent = self.back_up(laptop, located.clone(), tree, &mut screen).await?;
        let changes = sent.report.changes;
        let text = format!(
            "{changed}: {} new, {} changed, {} deleted; {} sent",
            changes.new_files,
            changes.changed_files,
            changes.deleted_files,
            size::bytes(sent.report.uploaded_bytes)
        );
        self.step(4, "second-backup", &text, began);

        let began = Instant::now();
        let rescue = self.scratch.join("rescue");
        let progress = Arc::new(Progress::new(self.output.clone()));
        let monitor: Arc<dyn Monitor> = progress.clone();
        let opened = retrieve::open_remote(laptop, &located, None, false, &monitor, &self.shutdown).await?;
        let snapshot = Selection::latest().find(&opened.snapshots, None)?;
        let options = PlanOptions {
            snapshot: snapshot.info.id,
            manifest: snapshot.record.manifest.clone(),
            path: None,
            include: Include::default(),
            conflict: Conflict::KeepBoth,
            target: Some(rescue.clone()),
            scratch: self.scratch.to_owned(),
        };
        let plan = restore::plan(opened.vault.clone(), options, monitor.clone(), self.shutdown.clone()).await?;
        let target = DirTarget::new(&rescue, SetIds::PutBack, monitor.clone())?;
        let restored =
            restore::run(opened.vault.clone(), &plan, target, monitor.clone(), self.shutdown.clone()).await?;
        let alarms = opened.alarms.len();
        opened.close().await;
        progress.finish();
        let rate = size::rate(restored.bytes, began.elapsed());
        let text =
            format!("restored {} files elsewhere, every chunk checked on arrival, {rate}", size::count(restored.files));
        self.step(5, "restore", &text, began);

        let began = Instant::now();
        monitor.phase(Phase::Verify);
        monitor.count(Counter::Files, 0);
        let name = tree.file_name().map(PathBuf::from).unwrap_or_default();
        let (left, right) = (tree.to_owned(), rescue.join(name));
        let difference = tokio::task::spawn_blocking(move || trees_differ(&left, &right)).await;
        let difference = difference.map_err(|_| Error::Stopped)??;
        let faults = progress.faults();
        if let Some(path) = &difference {
            self.output.talk(&format!("`{}` is not the same", path.display()));
        } else {
            let text = "compared both trees: every byte, name, mode, time and link is the same; the signed chain holds";
            self.step(6, "verify", text, began);
        }
        let fine = difference.is_none() && alarms == 0 && faults == 0;
        self.output.event("finished", json!({ "same": difference.is_none(), "faults": faults }));
        if fine {
            self.output.line("\nNow for real. On the machine that keeps backups:   lan-backup serve");
            self.output.line("                On the one to back up:   lan-backup send NAME ~/Documents");
        }
        Ok(if fine { ExitStatus::Done } else { ExitStatus::Failed })
    }

    async fn back_up(&self, laptop: &Context, nas: Located, tree: &Path, screen: &mut Screen) -> Result<Sent, Error> {
        let options = SendOptions {
            paths: vec![tree.to_owned()],
            set: None,
            filter: FilterOptions::default(),
            tag: None,
            change_roots: false,
            compression: Effort::default(),
        };
        let progress = Arc::new(Progress::new(self.output.clone()));
        let sent = Box::pin(send(laptop, nas, options, screen, progress.clone(), self.shutdown.clone())).await;
        progress.finish();
        sent
    }
}

async fn blocking(work: impl FnOnce() -> crate::platform::Result<()> + Send + 'static) -> Result<(), Error> {
    Ok(tokio::task::spawn_blocking(work).await.map_err(|_| Error::Stopped)??)
}

/// The person who looks from one screen to the other.
struct Screen {
    events: mpsc::Receiver<ServerEvent>,
    shown: Option<Pin>,
}

impl Screen {
    fn new(service: &mut Service) -> Self {
        let events = service.neighbourhood.take_events().unwrap_or_else(|| mpsc::channel(1).1);
        Self { events, shown: None }
    }
}

/// The PIN is on the other screen before the answer that asks for it has arrived.
const PIN_LIMIT: Duration = Duration::from_secs(30);

impl PinSource for Screen {
    fn waiting(&mut self, _: ShortCode, _: Fingerprint) {}

    fn pin<'a>(&'a mut self, _: &'a PairState, _: u8) -> BoxFuture<'a, client::Result<Pin>> {
        Box::pin(async move {
            let looking = async {
                while let Some(event) = self.events.recv().await {
                    if let ServerEvent::PinShown(shown) = event {
                        return Some(shown.pin);
                    }
                }
                None
            };
            let found = tokio::time::timeout(PIN_LIMIT, looking).await.ok().flatten();
            self.shown.clone_from(&found);
            found.ok_or_else(|| client::Error::NoPin("the other screen shows none".into()))
        })
    }
}

/// There is one nas in this story.
struct Nobody;

impl Chooser for Nobody {
    fn choose(&mut self, _: &str, _: &[Device]) -> Option<usize> {
        None
    }
}
