//! What holds for every command: flag before environment before settings file before default. The only place that reads the
//! environment.

use crate::cli::output::{Output, Style, Talk};
use crate::config::Home;
use crate::daemon::{Context, Result};
use crate::model::limits::DEFAULT_PORT;
use crate::platform::Context as _;
use crate::platform::shutdown::Shutdown;
use clap::Args;
use std::io::IsTerminal;
use std::net::IpAddr;
use std::path::PathBuf;
use tempfile::TempDir;
use tracing_subscriber::EnvFilter;

/// What no command has a sentence for: whom it waits for, that somebody has the name of a paired device, that one has a new certificate.
const UNTOLD: &str =
    "lan_backup::platform::lock=warn,lan_backup::daemon::locate=warn,lan_backup::daemon::rotation=warn";
/// What commands say in sentences of their own: damage that was found or set aside, and records that cannot be read.
const TOLD: &str = "lan_backup::store::set_aside=off,lan_backup::store::repository=off,lan_backup::store::index=off,\
                    lan_backup::store::needs_walk=off,lan_backup::daemon::scrub=off";

/// Options of every command.
#[derive(Clone, Debug, Args)]
pub struct Globals {
    /// Keep identity, settings and backups in this folder instead of the usual places
    #[arg(long, global = true, env = "LAN_BACKUP_HOME", value_name = "DIR")]
    pub home: Option<PathBuf>,
    /// Print data as JSON, one object a line
    #[arg(long, global = true)]
    pub json: bool,
    /// Say more; twice for debugging
    #[arg(short, long, global = true, action = clap::ArgAction::Count, conflicts_with = "quiet")]
    pub verbose: u8,
    /// Say only what went wrong
    #[arg(short, long, global = true)]
    pub quiet: bool,
    /// Use only the network interface with this address, for serving and for finding others
    #[arg(long, global = true, value_name = "IP")]
    pub bind: Option<IpAddr>,
    /// UDP port of the multicast group, for networks of their own
    #[arg(long, global = true, hide = true, default_value_t = DEFAULT_PORT, env = "LAN_BACKUP_MULTICAST_PORT")]
    pub multicast_port: u16,
}

impl Globals {
    /// Where words go.
    pub fn output(&self) -> Output {
        let style = if self.json { Style::Json } else { Style::Text };
        Output::new(style, if self.quiet { Talk::OnlyTrouble } else { Talk::Usual })
    }

    /// Opens this device.
    ///
    /// # Errors
    /// See [`Context::open`].
    pub fn context(&self, alias: Option<&str>) -> Result<Context> {
        let home = match &self.home {
            Some(folder) => Home::at(folder),
            None => Home::of_this_user()?,
        };
        Context::open(home, alias, self.bind, self.multicast_port)
    }
}

/// A folder for one command, gone when it is dropped.
///
/// # Errors
/// The disk's.
pub fn scratch_folder() -> Result<TempDir> {
    let parent = std::env::temp_dir();
    let folder = tempfile::Builder::new().prefix("lan-backup-").tempdir_in(&parent);
    Ok(folder.context("create a folder in", parent)?)
}

/// Whether `--json` stands on a command line that cannot be read otherwise.
pub fn asks_for_json() -> bool {
    std::env::args_os().any(|argument| argument == "--json")
}

/// Who reads what a command says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Log {
    /// A person who is told everything in sentences: a log would say it again.
    Beside,
    /// Nobody, perhaps: a device that serves others tells its log what no sentence is about.
    Alone,
}

/// Logs to stderr: `-v` for info, `-vv` for debug, or what `RUST_LOG` says; without these only what nothing else tells.
pub fn start_log(globals: &Globals, log: Log) {
    let usual = usual_log(globals, log, std::io::stderr().is_terminal());
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(usual));
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_target(false);
    // Colours are for terminals. A log that was started already (in a test) is kept.
    let _ = log.with_ansi(std::io::stderr().is_terminal()).try_init();
}

fn usual_log(globals: &Globals, log: Log, is_terminal: bool) -> String {
    match (globals.verbose, log) {
        (0, Log::Beside) => format!("lan_backup::identity=error,lan_backup::store=error,{UNTOLD},{TOLD}"),
        (0, Log::Alone) if globals.quiet || is_terminal => format!("lan_backup=error,{UNTOLD},{TOLD}"),
        (0, Log::Alone) => "lan_backup=warn".to_owned(),
        (1, _) => "lan_backup=info".to_owned(),
        _ => "lan_backup=debug".to_owned(),
    }
}

/// The first Ctrl-C (or the system's word to stop) ends sessions cleanly, the second ends the program at once.
pub async fn listen_for_ctrl_c(shutdown: Shutdown, output: Output) {
    use tokio::signal::unix::{SignalKind, signal};
    let Ok(mut terminate) = signal(SignalKind::terminate()) else { return };
    for round in 0.. {
        tokio::select! {
            heard = tokio::signal::ctrl_c() => if heard.is_err() { return },
            heard = terminate.recv() => if heard.is_none() { return },
        }
        if round == 0 {
            shutdown.stop();
            output.say("stopping; press Ctrl-C again to stop at once");
        } else {
            stop_at_once();
        }
    }
}

#[expect(clippy::exit, reason = "the user asked twice")]
fn stop_at_once() {
    std::process::exit(i32::from(crate::cli::ExitStatus::Stopped.code()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        globals: Globals,
    }

    #[test]
    fn a_person_at_a_terminal_reads_sentences_and_a_log_only_when_it_is_asked_for() {
        let log = |line: &[&str], log, is_terminal| {
            usual_log(&Line::parse_from([&["x"], line].concat()).globals, log, is_terminal)
        };
        for usual in [log(&[], Log::Beside, true), log(&[], Log::Beside, false), log(&[], Log::Alone, true)] {
            assert!(usual.contains("set_aside=off") && usual.contains("lock=warn"), "{usual}");
            assert!(EnvFilter::try_new(&usual).is_ok());
        }
        assert_eq!(log(&[], Log::Alone, false), "lan_backup=warn", "on a box without a screen the log is all there is");
        assert_eq!(log(&["-v"], Log::Beside, true), "lan_backup=info");
        assert_eq!(log(&["-vv"], Log::Alone, true), "lan_backup=debug");
    }
}
