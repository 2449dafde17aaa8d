//! Questions to the person at this terminal: the PIN of the other screen, which of several devices, may this one in.

use crate::cli::output::Output;
use crate::cli::size;
use crate::client::{self, PinSource};
use crate::daemon::locate::Chooser;
use crate::daemon::phone::{PhonePin, Trouble};
use crate::model::{Device, Fingerprint, InboxKeep, Pin, ShortCode};
use crate::platform::fs;
use crate::protocol::pairing::PairState;
use crate::server::{Decision, Question};
use dialoguer::{Input, Select};
use futures_util::future::BoxFuture;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How often a PIN file that is not there yet is looked for.
const PIN_FILE_PAUSE: Duration = Duration::from_millis(200);
/// A PIN window is open for 300 s; nobody waits longer for the file.
const PIN_FILE_LIMIT: Duration = Duration::from_mins(5);

/// The person at this terminal.
#[derive(Debug)]
pub struct Face {
    output: Output,
    pin_file: Option<PathBuf>,
    given: bool,
}

impl Face {
    /// PINs come from `pin_file` (`-` for stdin) where one is given, else from the terminal.
    pub fn new(output: Output, pin_file: Option<PathBuf>) -> Self {
        Self { output, pin_file, given: false }
    }

    /// A file holds one PIN: asked again, that one was wrong.
    async fn pin_from_file(&mut self, path: &Path, attempts_left: u8) -> client::Result<Pin> {
        if std::mem::replace(&mut self.given, true) {
            return Err(client::Error::WrongPin { attempts_left });
        }
        let path = path.to_owned();
        let reading = async {
            loop {
                let path = path.clone();
                let read = tokio::task::spawn_blocking(move || read_line(&path)).await.map_err(io::Error::other)?;
                match read {
                    Err(error) if error.kind() == io::ErrorKind::NotFound => tokio::time::sleep(PIN_FILE_PAUSE).await,
                    Ok(text) if text.trim().is_empty() => tokio::time::sleep(PIN_FILE_PAUSE).await,
                    other => return other,
                }
            }
        };
        let text = tokio::time::timeout(PIN_FILE_LIMIT, reading).await;
        let text = text.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())).map_err(no_pin)?;
        text.parse().map_err(|error| no_pin(io::Error::other::<crate::model::ParseError>(error)))
    }
}

fn no_pin(error: io::Error) -> client::Error {
    client::Error::NoPin(error.into())
}

/// The first line; a pipe may stay open behind it.
fn read_line(path: &Path) -> io::Result<String> {
    use io::BufRead;
    let mut line = String::new();
    if path == Path::new("-") {
        if io::stdin().lock().read_line(&mut line)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    } else {
        let file = fs::open(path).map_err(|error| error.source)?;
        io::BufReader::new(file).read_line(&mut line)?;
    }
    Ok(line)
}

impl PinSource for Face {
    fn waiting(&mut self, code: ShortCode, their_fingerprint: Fingerprint) {
        let theirs = their_fingerprint.short_code();
        self.output
            .say(&format!("asking the other device (its code is {theirs}); this device shows up there as {code}"));
        self.output.event("pairing", serde_json::json!({ "code": code, "peer": their_fingerprint }));
    }

    fn pin<'a>(&'a mut self, _: &'a PairState, attempts_left: u8) -> BoxFuture<'a, client::Result<Pin>> {
        Box::pin(async move {
            if let Some(path) = self.pin_file.clone() {
                return self.pin_from_file(&path, attempts_left).await;
            }
            if !self.output.is_interactive() {
                return Err(no_pin(io::Error::other("there is no terminal to type it at")));
            }
            if attempts_left < 3 {
                self.output.talk(&format!("that was not it; tries left: {attempts_left}"));
            }
            let asked = tokio::task::spawn_blocking(|| {
                Input::<String>::new()
                    .with_prompt("PIN on the other screen")
                    .validate_with(|text: &String| text.parse::<Pin>().map(|_| ()).map_err(|_| "a PIN has six digits"))
                    .interact_text()
            });
            let text = asked.await.map_err(|error| no_pin(io::Error::other(error)))?;
            let text = text.map_err(|error| no_pin(io::Error::other(error)))?;
            text.parse().map_err(|error| no_pin(io::Error::other::<crate::model::ParseError>(error)))
        })
    }
}

impl PhonePin for Face {
    fn pin(&mut self, again: bool) -> BoxFuture<'_, crate::daemon::Result<String>> {
        Box::pin(async move {
            let failed = |error: io::Error| crate::daemon::Error::from(Trouble::NoPin(error.into()));
            if let Some(path) = self.pin_file.clone() {
                if again {
                    return Err(Trouble::WrongPin.into());
                }
                let read = tokio::task::spawn_blocking(move || read_line(&path)).await;
                return Ok(read.map_err(io::Error::other).and_then(|read| read).map_err(failed)?.trim().to_owned());
            }
            if !self.output.is_interactive() {
                return Err(failed(io::Error::other("there is no terminal to type it at")));
            }
            let prompt = if again { "that was not it; PIN of the LocalSend app" } else { "PIN of the LocalSend app" };
            let asked = tokio::task::spawn_blocking(move || Input::<String>::new().with_prompt(prompt).interact_text());
            let text = asked.await.map_err(|error| failed(io::Error::other(error)))?;
            Ok(text.map_err(|error| failed(io::Error::other(error)))?.trim().to_owned())
        })
    }
}

impl Chooser for Face {
    fn choose(&mut self, name: &str, devices: &[Device]) -> Option<usize> {
        if !self.output.is_interactive() {
            return None;
        }
        let show = |device: &Device| {
            let code = device.fingerprint.map(|f| f.short_code().to_string()).unwrap_or_default();
            let address = device.addresses.first().map(ToString::to_string).unwrap_or_default();
            format!("{}  {code}  {address}", device.alias)
        };
        let items: Vec<_> = devices.iter().map(show).collect();
        Select::new().with_prompt(format!("which `{name}`")).items(&items).default(0).interact_opt().ok().flatten()
    }
}

/// A question in a few lines for people; aliases and names are clean by construction.
pub fn describe(question: &Question) -> String {
    match question {
        Question::Pair { alias, code, address, rights, purpose, namesake, .. } => {
            let wish = purpose.as_ref().map_or_else(
                || format!("It would be allowed: {rights} (its own backups only)."),
                |purpose| {
                    let (files, bytes) = (size::counted(purpose.files, "file"), size::bytes(purpose.bytes));
                    format!("It wants to back up `{}`: {files}, {bytes}.", purpose.set)
                },
            );
            let from = address.ip().to_canonical();
            let warning = namesake.map_or_else(String::new, |paired| {
                format!("\nCAREFUL: this is not the {alias} that is paired already; that one has the code {paired}.")
            });
            format!(
                "{alias} ({code}, at {from}) wants to be paired. Its own screen must show the same code.\n{wish}{warning}"
            )
        }
        Question::Backup { alias, code, set, totals, changes, bytes_to_send, first, .. } => {
            let what = if *first { "for the first time" } else { "again" };
            format!(
                "{alias} ({code}) wants to back up `{set}` {what}: {}, {}.\n{} new, {} changed, {} deleted; at most {} will be sent.",
                size::counted(totals.files, "file"),
                size::bytes(totals.bytes),
                size::count(changes.new_files),
                size::count(changes.changed_files),
                size::count(changes.deleted_files),
                size::bytes(*bytes_to_send),
            )
        }
        Question::RestoreOthers { alias, code, of, adopt, .. } => {
            let wish = if *adopt { " and to continue it in its place" } else { "" };
            format!("{alias} ({code}) wants to read the backup of {of}{wish}.")
        }
        Question::LocalSend { alias, code, address, verified, files, bytes, names, keep, .. } => {
            let who = if *verified { "unverified name, known certificate" } else { "UNVERIFIED: it could be anybody" };
            let from = address.ip().to_canonical();
            let what = match keep {
                InboxKeep::Backup => "A yes backs them up.",
                InboxKeep::Save => "A yes saves them in the inbox folder.",
                InboxKeep::Both => "A yes backs them up and saves them in the inbox folder.",
            };
            let more = if *files > names.len() as u64 { ", …" } else { "" };
            format!(
                "{alias} ({code}, at {from}; {who}) wants to send {}, {}, with LocalSend:\n{}{more}\n{what}",
                size::counted(*files, "file"),
                size::bytes(*bytes),
                names.join(", "),
            )
        }
    }
}

/// The answers a question takes, the usual one first.
pub fn choices(question: &Question) -> Vec<(&'static str, Decision)> {
    match question {
        Question::Pair { purpose: None, .. } => vec![("accept", Decision::Always), ("decline", Decision::Decline)],
        Question::Pair { .. } | Question::Backup { .. } => vec![
            ("accept always for this set", Decision::Always),
            ("accept once", Decision::Once),
            ("decline", Decision::Decline),
        ],
        Question::LocalSend { verified, .. } => {
            let mut choices = vec![("accept once", Decision::Once)];
            if *verified {
                choices.push(("accept always from this certificate", Decision::Always));
            }
            choices.extend([
                ("accept, back up only", Decision::Backup),
                ("accept, save as plain files only", Decision::Save),
                ("decline", Decision::Decline),
            ]);
            choices
        }
        Question::RestoreOthers { of: _, .. } => vec![
            ("allow once", Decision::Once),
            ("allow always", Decision::Always),
            ("this device replaces the other one", Decision::Replaces),
            ("decline", Decision::Decline),
        ],
    }
}
