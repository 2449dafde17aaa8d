//! `share`: let a browser, or a LocalSend app, fetch a folder or a snapshot, while this command runs.

use crate::cli::ExitStatus;
use crate::cli::face::Face;
use crate::cli::output::Output;
use crate::cli::serve::addresses;
use crate::cli::settings::Globals;
use crate::cli::size;
use crate::daemon::Error;
use crate::daemon::service::open_listener;
use crate::daemon::share::{self, Place, What};
use crate::model::text::clean_bytes;
use crate::model::{Pin, SetName};
use crate::monitor::Monitor;
use crate::platform::random;
use crate::platform::shutdown::Shutdown;
use crate::server::LocalSendPin;
use crate::server::share::{News, ShareEvent, ShareHandle, ShareOptions, start};
use qrcode::render::unicode::Dense1x2;
use qrcode::{EcLevel, QrCode};
use serde_json::json;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;

/// Share a folder or a snapshot with any browser, by a link and a PIN, while this command runs
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Open the link on the other machine, or scan the code with a phone, and type the PIN. It ends with \
    Ctrl-C, after --for minutes, or after --downloads.\n\
    The page is plain http, which everybody on the way can read: use it in a network whose people you trust, and \
    `restore` where you can.\n\n\
    Examples:\n  lan-backup share ./photos\n  lan-backup share latest                          what is kept here\n  \
    lan-backup share latest:Documents/letters nas    from a backup on nas\n  \
    lan-backup share latest --of phone --downloads 1 --for 10"
)]
pub struct Args {
    /// A folder or file (with a slash in it), or a snapshot: `latest`, `latest~2`, the beginning of an id, `SNAPSHOT:PATH`
    what: String,
    /// Where the snapshot is: `local` or a device
    #[arg(default_value = "local")]
    device: String,
    /// Of another device's backup
    #[arg(long, value_name = "DEVICE")]
    of: Option<String>,
    /// Of this set
    #[arg(long, value_name = "NAME")]
    set: Option<SetName>,
    /// End after so many minutes; what is under way then goes on to its end
    #[arg(long = "for", value_name = "MINUTES", default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..=1440))]
    minutes: u64,
    /// End after so many whole downloads
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u64).range(1..))]
    downloads: Option<u64>,
    /// A file with the PIN to ask for, instead of one that is drawn; not the PIN of pairing
    #[arg(long, value_name = "FILE")]
    pin_file: Option<PathBuf>,
    /// Ask for no PIN: whoever knows the address is in
    #[arg(long, conflicts_with = "pin_file")]
    no_pin: bool,
    /// Where to listen; 0 takes a free port
    #[arg(long, value_name = "PORT", default_value_t = 0)]
    port: u16,
    /// Where this device keeps what it receives
    #[arg(long, value_name = "DIR")]
    store: Option<PathBuf>,
}

/// Shares until it is to end.
pub async fn run(globals: &Globals, args: Args, output: Output, shutdown: Shutdown) -> Result<ExitStatus, Error> {
    let context = globals.context(None)?;
    let what: What = args.what.parse()?;
    let (pin, shown) = pin(&args, &output)?;
    let (news, events) = News::channel();
    let monitor: Arc<dyn Monitor> = Arc::new(news.clone());
    let place = Place { device: args.device, of: args.of, set: args.set, store: args.store };
    let mut face = Face::new(output.clone(), None);
    let shared = tokio::select! {
        shared = share::open(&context, &what, &place, &mut face, &monitor, &shutdown) => shared?,
        () = shutdown.stopped() => return Err(Error::Stopped),
    };
    for problem in &shared.alarms {
        output.alarm(problem);
    }
    let listener = open_listener(context.bind, args.port).map_err(|error| match error.kind() {
        std::io::ErrorKind::AddrInUse => Error::PortTaken { port: args.port },
        _ => crate::server::Error::Listen(error).into(),
    })?;
    let title = shared.tree.title();
    let options = ShareOptions {
        tree: shared.tree.clone(),
        alias: context.alias.clone(),
        pin,
        downloads: args.downloads,
        clock: context.clock.clone(),
    };
    let handle = start(listener, options, news, shutdown.clone())?;
    let how = (context.bind, args.minutes, args.pin_file.is_some());
    greet(&title, how, &handle, shown.as_ref(), &output);
    let over = Shutdown::new();
    let watching = tokio::spawn(watch(events, over.clone(), output.clone()));
    tokio::select! {
        () = tokio::time::sleep(Duration::from_secs(args.minutes * 60)) => {
            output.say("time is up: nobody can begin a download any more");
            handle.close();
            handle.over().await;
        }
        () = handle.over() => {}
    }
    shared.close().await;
    over.stop();
    let sums = watching.await.map_err(|_| Error::Stopped)?;
    output.event("finished", json!({ "downloads": sums.downloads, "bytes": sums.bytes, "faults": sums.faults }));
    output.say(&format!(
        "not shared any more; {}, {}",
        size::counted(sums.downloads, "download"),
        size::bytes(sums.bytes)
    ));
    Ok(ExitStatus::with_faults(sums.faults))
}

/// The PIN to ask for, and the digits to show when this program drew them.
fn pin(args: &Args, output: &Output) -> Result<(Option<LocalSendPin>, Option<Pin>), Error> {
    if args.no_pin {
        return Ok((None, None));
    }
    if let Some(path) = &args.pin_file {
        let hint = "write a PIN of its own, never the one of pairing, into the first line of that file";
        return Ok((Some(LocalSendPin::read(path).map_err(|problem| Error::usage(problem, hint))?), None));
    }
    if !output.is_json() && !output.is_interactive() {
        // It would end up in a log file.
        let message = "there is no terminal to show a PIN on";
        return Err(Error::usage(message, "give one with --pin-file FILE, or share without one: --no-pin"));
    }
    let pin = Pin::from_uniform(random::number);
    Ok((Some(LocalSendPin::of(&pin.digits())), Some(pin)))
}

fn greet(
    title: &str,
    (bind, minutes, from_file): (Option<IpAddr>, u64, bool),
    handle: &ShareHandle,
    pin: Option<&Pin>,
    output: &Output,
) {
    let links: Vec<String> =
        addresses(bind, handle.port()).iter().map(|address| format!("http://{address}/")).collect();
    let digits = pin.map(Pin::digits);
    output.event("sharing", json!({ "what": title, "links": links, "port": handle.port(), "pin": digits }));
    if output.is_json() {
        return;
    }
    output.say(&format!("sharing {} for {}; open", crate::model::text::clean(title), size::counted(minutes, "minute")));
    for link in &links {
        output.say(&format!("  {link}"));
    }
    if output.shows_progress()
        && let Some(code) = links.first().and_then(|link| drawn(link))
    {
        // Black on white, whatever colours the terminal has.
        let lines = code.lines().map(|line| format!("  \u{1b}[38;5;16;48;5;231m{line}\u{1b}[0m\n"));
        output.say(&lines.collect::<String>());
    }
    match pin {
        Some(pin) => output.talk(&format!("PIN: {}", pin.grouped())),
        None => output.say(without_digits(from_file)),
    }
    output.say("everybody on the way can read what is fetched (plain http); Ctrl-C ends it");
}

fn without_digits(from_file: bool) -> &'static str {
    if from_file { "the PIN is the one in your file" } else { "there is no PIN: whoever knows the address is in" }
}

/// The link as a code that a phone's camera reads, with the empty border that belongs to it.
fn drawn(link: &str) -> Option<String> {
    let code = QrCode::with_error_correction_level(link, EcLevel::L).ok()?;
    Some(code.render::<Dense1x2>().dark_color(Dense1x2::Dark).light_color(Dense1x2::Light).quiet_zone(true).build())
}

#[derive(Debug, Default)]
struct Sums {
    downloads: u64,
    bytes: u64,
    faults: u64,
}

/// Shows what happens, to the last of it.
async fn watch(mut events: mpsc::Receiver<ShareEvent>, over: Shutdown, output: Output) -> Sums {
    let mut sums = Sums::default();
    loop {
        let event = tokio::select! {
            biased;
            event = events.recv() => event,
            () = over.stopped() => None,
        };
        let Some(event) = event else { return sums };
        match event {
            ShareEvent::Entered { address } => {
                let address = address.to_canonical();
                output.event("entered", json!({ "address": address }));
                output.say(&format!("{address} looks at it"));
            }
            ShareEvent::WrongPin { address } => {
                let address = address.to_canonical();
                output.event("wrong-pin", json!({ "address": address }));
                output.talk(&format!("a wrong PIN came from {address}"));
            }
            ShareEvent::Given { address, path, bytes } => {
                sums.downloads += 1;
                sums.bytes += bytes;
                let address = address.to_canonical();
                let path = path.map_or_else(|| "everything, as a zip".to_owned(), |path| clean_bytes(&path));
                output.event("given", json!({ "address": address, "path": path, "bytes": bytes }));
                output.say(&format!("{address} fetched {path} ({})", size::bytes(bytes)));
            }
            ShareEvent::Fault(fault) => {
                sums.faults += 1;
                output.event("fault", json!({ "subject": fault.subject, "problem": fault.problem }));
                output.fault(&fault.to_string());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_shares_without_a_pin_is_not_told_of_one() {
        assert!(without_digits(false).starts_with("there is no PIN") && !without_digits(true).contains("no PIN"));
    }

    #[test]
    fn a_link_becomes_a_square_that_fits_into_a_terminal() {
        let code = drawn("http://192.168.178.123:53317/").unwrap();
        assert!(code.starts_with(' '), "the border is light: {code}");
        let lines: Vec<&str> = code.lines().collect();
        assert!(lines.iter().all(|line| line.chars().count() == lines[0].chars().count()), "{code}");
        assert!(lines.len() <= 20 && lines[0].chars().count() <= 40, "{} lines", lines.len());
    }
}
