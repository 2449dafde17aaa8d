//! `serve`: be found, keep other devices' backups, give them back.

use crate::cli::ExitStatus;
use crate::cli::devices::copied;
use crate::cli::face::{choices, describe};
use crate::cli::output::Output;
use crate::cli::progress::TICK;
use crate::cli::prune::show_freeze;
use crate::cli::send::quoted;
use crate::cli::settings::Globals;
use crate::cli::size;
use crate::cli::{repair, verify};
use crate::config::{Accept, LocalSend};
use crate::daemon::service::{InboxOptions, ServeOptions, Service};
use crate::daemon::{Context, Error};
use crate::discovery::DiscoveryHandle;
use crate::model::InboxKeep;
use crate::platform::interfaces;
use crate::platform::shutdown::Shutdown;
use crate::server::{Decision, Desk, PinShown, ServerEvent, SessionKind, SessionSummary};
use crate::store::repair::Repaired;
use crate::store::scrubber::News;
use clap::ValueEnum;
use dialoguer::Select;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;
use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use tokio::sync::mpsc;

/// Be found by other devices, keep their backups, and give them back
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  lan-backup serve\n  lan-backup serve --alias nas --store /srv/backups\n  \
    lan-backup serve --accept paired --json      on a box without a screen")]
pub struct Args {
    /// What this device is called on other screens; remembered
    #[arg(long, value_name = "NAME")]
    alias: Option<String>,
    /// Where to listen; 0 takes a free port
    #[arg(long, value_name = "PORT")]
    port: Option<u16>,
    /// Where to keep what is received
    #[arg(long, value_name = "DIR")]
    store: Option<PathBuf>,
    /// Who is let in without a question: nobody (ask), whoever types the PIN (paired), or nobody new at all (never)
    #[arg(long, value_enum)]
    accept: Option<AcceptArg>,
    /// Who may send files from a LocalSend app: whom you say yes to (ask), everybody (accept), or nobody (off)
    #[arg(long, value_enum)]
    localsend: Option<LocalSendArg>,
    /// What becomes of such files: backup (a snapshot of the phone's own), save (plain files in the inbox), or both
    #[arg(long, value_name = "WHAT")]
    localsend_keep: Option<InboxKeep>,
    /// A file with the PIN that LocalSend apps must type; not the PIN of pairing
    #[arg(long, value_name = "FILE")]
    localsend_pin_file: Option<PathBuf>,
    /// Take files from LocalSend apps with encryption turned off, too: everybody on the way can read and change them
    #[arg(long)]
    localsend_http: bool,
    /// Save such files here as plain files, too
    #[arg(long, value_name = "DIR")]
    inbox: Option<PathBuf>,
}

/// Who may send files from a LocalSend app.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum LocalSendArg {
    /// Ask about each transfer, until you say always
    Ask,
    /// Take files from everybody, or everybody who knows the PIN
    Accept,
    /// Take none
    Off,
}

/// Who is let in without a question.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum AcceptArg {
    /// Ask about each new device and each new set
    Ask,
    /// Let in whoever types the PIN
    Paired,
    /// Let in nobody new
    Never,
}

/// Serves until it is stopped.
pub async fn run(globals: &Globals, args: Args, output: Output, shutdown: Shutdown) -> Result<ExitStatus, Error> {
    let context = globals.context(args.alias.as_deref())?;
    let accept = args.accept.map(|accept| match accept {
        AcceptArg::Ask => Accept::Ask,
        AcceptArg::Paired => Accept::Paired,
        AcceptArg::Never => Accept::Never,
    });
    let mode = args.localsend.map(|mode| match mode {
        LocalSendArg::Ask => LocalSend::Ask,
        LocalSendArg::Accept => LocalSend::Accept,
        LocalSendArg::Off => LocalSend::Off,
    });
    let localsend = InboxOptions {
        mode,
        keep: args.localsend_keep,
        pin_file: args.localsend_pin_file,
        plain_http: args.localsend_http,
        inbox: args.inbox,
    };
    let options = ServeOptions { store: args.store, port: args.port, accept, localsend };
    let mut service = Service::start(&context, options).await?;
    greet(&context, &service, &output);
    let events = service.neighbourhood.take_events();
    let asking = if output.is_interactive() {
        tokio::spawn(ask(service.desk.clone(), output.clone()))
    } else {
        tokio::spawn(tell(service.desk.clone(), output.clone()))
    };
    let scrub = service.take_scrub_news().map(|news| tokio::spawn(tell_damage(news, output.clone())));
    let copies = tokio::spawn(watch_for_copies(service.neighbourhood.discovery().clone(), output.clone()));
    let mut watch = Watch { output: output.clone(), bars: HashMap::new() };
    if let Some(mut events) = events {
        loop {
            tokio::select! {
                event = events.recv() => match event {
                    Some(event) => watch.show(event),
                    None => break,
                },
                () = shutdown.stopped() => break,
            }
        }
    }
    asking.abort();
    copies.abort();
    scrub.iter().for_each(tokio::task::JoinHandle::abort);
    service.stop().await;
    output.event("stopped", json!({}));
    Ok(ExitStatus::Done)
}

/// Shows what the scrub finds.
async fn tell_damage(mut news: mpsc::Receiver<News>, output: Output) {
    while let Some(news) = news.recv().await {
        match news {
            News::File { path, problem, fate } => repair::show_one(&Repaired { path, problem, fate }, &output),
            News::Damaged(snapshot) => {
                verify::tell_snapshot(&snapshot, verify::Shown::Few, &output);
                for hint in verify::hints(std::slice::from_ref(&snapshot), verify::Shown::Few) {
                    output.talk(&format!("hint: {hint}"));
                }
            }
            News::Frozen { alias, set, freeze } => show_freeze(&alias, &set, &freeze, &output),
            News::Healed { alias, mark } => repair::show_healed(&mark, Some(&alias), &output),
        }
    }
}

fn greet(context: &Context, service: &Service, output: &Output) {
    let fingerprint = context.identity.fingerprint();
    let port = service.neighbourhood.server().port();
    let addresses = addresses(context.bind, port);
    let folder = service.store.folder().display().to_string();
    let free = service.store.free_bytes().ok();
    output.event(
        "listening",
        json!({
            "port": port, "fingerprint": fingerprint, "alias": context.alias, "addresses": addresses,
            "code": fingerprint.short_code(), "store": folder, "freeBytes": free,
        }),
    );
    let recovery = service.recovery.to_string();
    if !recovery.is_empty() {
        recovery.lines().for_each(|line| output.talk(line));
        output.event("recovered", json!({ "harmless": service.recovery.is_harmless(), "report": recovery }));
    }
    if service.neighbourhood.moved {
        output.talk(&format!("the usual port is taken (by a LocalSend app?); listening on port {port} instead"));
    }
    let shown: Vec<String> = addresses.iter().map(ToString::to_string).collect();
    output.say(&format!("{} is ready for backups", context.alias));
    output.say(&format!("  addresses    {}", shown.join(", ")));
    output.say(&format!("  code         {}   ({fingerprint})", fingerprint.short_code()));
    output.say(&format!("  store        {folder}, {} free", free.map_or("unknown".to_owned(), size::bytes)));
    let name = quoted(context.alias.as_str());
    output.say(&format!("On the other machine:\n  lan-backup send {name} ~/Documents\n"));
}

/// Where this device can be called, loopback only when it is bound to that.
pub fn addresses(bind: Option<IpAddr>, port: u16) -> Vec<SocketAddr> {
    if let Some(bind) = bind.filter(|bind| !bind.is_unspecified()) {
        return vec![SocketAddr::new(bind, port)];
    }
    let own = interfaces::list().unwrap_or_default().into_iter().map(|interface| interface.subnet.address);
    let mut own: Vec<IpAddr> = own.filter(|ip| !ip.is_loopback() && !interfaces::is_link_local(*ip)).collect();
    own.sort_by_key(IpAddr::is_ipv6);
    own.into_iter().map(|ip| SocketAddr::new(ip, port)).collect()
}

/// Asks the person at this terminal one question after the other.
async fn ask(desk: Arc<Desk>, output: Output) {
    let mut last = 0;
    loop {
        let open = desk.next(last).await;
        last = open.id;
        output.talk(&format!("\n{}", describe(&open.question)));
        let choices = choices(&open.question);
        let asked = tokio::task::spawn_blocking(move || {
            let items: Vec<&str> = choices.iter().map(|(words, _)| *words).collect();
            let chosen = Select::new().items(&items).default(0).interact_opt().ok().flatten();
            chosen.map_or(Decision::Decline, |index| choices[index].1)
        });
        let Ok(decision) = asked.await else { return };
        if !desk.answer(open.id, decision) {
            output.talk("that was answered elsewhere, or nobody waits for it any more");
        }
    }
}

/// Without a terminal, says that a question waits for `pending`.
async fn tell(desk: Arc<Desk>, output: Output) {
    let mut last = 0;
    loop {
        let open = desk.next(last).await;
        last = open.id;
        output.event("question", json!(open));
        output.line(&format!(
            "{}\nanswer with: lan-backup pending {} always|once|replaces|backup|save|decline",
            describe(&open.question),
            open.id
        ));
    }
}

/// Says so, once for each place, when another machine answers with this one's identity.
async fn watch_for_copies(discovery: DiscoveryHandle, output: Output) {
    let mut changes = discovery.subscribe();
    let mut told = HashSet::new();
    while changes.changed().await.is_ok() {
        let new: Vec<SocketAddr> = discovery.copies().into_iter().filter(|address| told.insert(*address)).collect();
        if !new.is_empty() {
            output.alarm(&copied("this device", &new, &interfaces::list().unwrap_or_default()));
        }
    }
}

/// Shows what happens.
struct Watch {
    output: Output,
    bars: HashMap<u64, ProgressBar>,
}

impl Watch {
    fn show(&mut self, event: ServerEvent) {
        let output = self.output.clone();
        match event {
            ServerEvent::PinShown(shown) => show_pin(&shown, &output),
            ServerEvent::PinGone { fingerprint, paired } => {
                output.event("pin-gone", json!({ "fingerprint": fingerprint, "paired": paired }));
                if !paired {
                    output.say(&format!("the PIN for {} is no longer valid", fingerprint.short_code()));
                }
            }
            ServerEvent::Paired { fingerprint, alias, rights } => {
                output.event("paired", json!({ "fingerprint": fingerprint, "alias": alias, "rights": rights }));
                output.say(&format!("paired with {alias} ({})", fingerprint.short_code()));
            }
            ServerEvent::Unpaired { fingerprint } => {
                output.event("unpaired", json!({ "fingerprint": fingerprint }));
                output.say(&format!("{} is not paired any more", fingerprint.short_code()));
            }
            ServerEvent::Rotated { was, fingerprint, alias } => {
                output.event("rotated", json!({ "was": was, "fingerprint": fingerprint, "alias": alias }));
                let (was, is) = (was.short_code(), fingerprint.short_code());
                output.say(&format!(
                    "{alias} has a new certificate, signed with its old key: its code was {was} and is {is} now"
                ));
            }
            ServerEvent::Impostor { alias, fingerprint, paired, from } => {
                let at = json!({ "alias": alias, "fingerprint": fingerprint, "paired": paired, "address": from });
                output.event("impostor", at);
                let (code, paired) = (fingerprint.short_code(), paired.short_code());
                let from = from.ip().to_canonical();
                output.say(&format!(
                    "CAREFUL: {from} calls itself {alias} and has the code {code}; the {alias} that is paired has {paired}"
                ));
            }
            ServerEvent::SessionOpened(session) => {
                output.event("session", json!({ "state": "open", "session": session }));
                output.say(&describe_session(&session));
                self.begin_bar(&session);
            }
            ServerEvent::Moved { number, bytes } => {
                if let Some(bar) = self.bars.get(&number) {
                    bar.inc(bytes);
                }
            }
            ServerEvent::Committed { session, set, snapshot } => {
                output.event("committed", json!({ "snapshot": snapshot, "set": set, "session": session }));
                let received = size::bytes(session.bytes);
                output.say(&format!(
                    "{}: snapshot {} of `{set}` is safe ({received} received)",
                    session.alias,
                    snapshot.short()
                ));
            }
            ServerEvent::SessionEnded(session) => {
                if let Some(bar) = self.bars.remove(&session.number) {
                    bar.finish_and_clear();
                }
                output.event("session", json!({ "state": "ended", "session": session }));
                if session.kind == SessionKind::Restore {
                    output.say(&format!("{}: restore ended, {} sent", session.alias, size::bytes(session.bytes)));
                }
            }
            ServerEvent::Message { alias, fingerprint, text } => {
                output.event("message", json!({ "alias": alias, "fingerprint": fingerprint, "text": text }));
                output.say(&format!("message from {alias} ({}): {text}", fingerprint.short_code()));
            }
            ServerEvent::Saved { session, folder, files, bytes, known, renamed } => {
                output.event(
                    "saved",
                    json!({
                        "folder": folder.display().to_string(), "files": files, "bytes": bytes, "known": known,
                        "renamed": renamed, "session": session,
                    }),
                );
                let renamed = match renamed {
                    0 => String::new(),
                    count => format!("; {} under another name, because theirs was taken", size::count(count)),
                };
                output.say(&format!(
                    "{}: {} new files ({}) are in {}{renamed}",
                    session.alias,
                    size::count(files),
                    size::bytes(bytes),
                    folder.display(),
                ));
            }
            ServerEvent::NotKept { session } => {
                output.event("not-kept", json!({ "session": session }));
                output.talk(&format!(
                    "{}: files that came could not be kept; the log says why. Send them again from that device",
                    session.alias
                ));
            }
            ServerEvent::Heard { .. } | ServerEvent::CancelHeard { .. } => {}
        }
    }

    fn begin_bar(&mut self, session: &SessionSummary) {
        if !self.output.shows_progress() {
            return;
        }
        let expected = session.expected;
        let (bar, template) = if expected.bytes > 0 {
            // At most: what compresses or is here already comes as less, and the bar ends early.
            let template = "{prefix:>10} {bar:30} {binary_bytes} of at most {binary_total_bytes}  {binary_bytes_per_sec}  {eta} left  {msg}";
            (ProgressBar::new(expected.bytes), template)
        } else {
            (ProgressBar::no_length(), "{prefix:>10} {spinner} {binary_bytes}  {binary_bytes_per_sec}  {elapsed}")
        };
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        bar.set_prefix(session.alias.to_string());
        bar.set_message(format!("{} files", size::count(expected.files)));
        let bar = self.output.bars().add(bar);
        bar.enable_steady_tick(TICK);
        self.bars.insert(session.number, bar);
    }
}

fn describe_session(session: &SessionSummary) -> String {
    match (&session.kind, &session.set) {
        (SessionKind::Backup, Some(set)) => format!("{} backs up `{set}`", session.alias),
        (SessionKind::Backup, None) => format!("{} backs up", session.alias),
        (SessionKind::Restore, _) => format!("{} restores", session.alias),
        (SessionKind::Copy, _) => format!("{} copies a backup to here", session.alias),
        (SessionKind::Inbox, _) => format!(
            "{} sends {} files ({})",
            session.alias,
            size::count(session.expected.files),
            size::bytes(session.expected.bytes)
        ),
    }
}

/// The PIN, large enough to be read across a room.
fn show_pin(shown: &PinShown, output: &Output) {
    output.event(
        "pin",
        json!({
            "pin": shown.pin.digits(), "expiresIn": shown.expires_in,
            "peer": { "alias": shown.alias, "fingerprint": shown.fingerprint, "code": shown.code },
        }),
    );
    if output.is_json() {
        return;
    }
    if !output.is_interactive() {
        // Without a terminal a PIN on stderr would end up in a log file.
        output.talk(&format!("{} ({}) may be paired; `lan-backup pin` shows the PIN", shown.alias, shown.code));
        return;
    }
    let spaced = shown.pin.grouped().chars().map(|c| c.to_string()).collect::<Vec<_>>().join(" ");
    output.talk(&format!(
        "\n    ┌─────────────────────┐\n    │    {spaced}    │\n    └─────────────────────┘\n    \
        to be typed on {} ({}), within {} seconds\n",
        shown.alias, shown.code, shown.expires_in
    ));
}
