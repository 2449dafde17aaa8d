//! The command line: what people type, and what they see. No rule of the domain lives here.
//!
//! Each command is one file with its arguments and one `run`. Data goes to stdout, talk to stderr; with `--json` data is one JSON
//! object a line.

pub mod completions;
pub mod copy;
pub mod devices;
pub mod diagnose;
pub mod diff;
pub mod face;
pub mod find;
pub mod keep;
pub mod ls;
pub mod output;
pub mod pair;
pub mod pending;
pub mod phones;
pub mod pin;
pub mod progress;
pub mod prune;
pub mod repair;
pub mod restore;
pub mod retention;
pub mod rotate;
pub mod sample;
pub mod send;
pub mod serve;
pub mod settings;
pub mod share;
pub mod size;
pub mod snapshots;
pub mod stats;
pub mod status;
pub mod trust;
pub mod try_out;
pub mod undelete;
pub mod unpair;
pub mod verify;

use crate::cli::output::{Output, Style, Talk};
use crate::cli::settings::{Globals, Log};
use crate::daemon::Error;
use crate::platform::shutdown::Shutdown;
use clap::{Parser, Subcommand};
use std::process::ExitCode;

/// How a command ended. The numbers are part of the contract with scripts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExitStatus {
    /// 0: done.
    Done,
    /// 1: failed.
    Failed,
    /// 2: wrong usage.
    Usage,
    /// 3: done, but with something to look at: files were skipped, or there was an alarm. One number for both, and not 0: who runs this
    /// without a terminal hears of an alarm by nothing else.
    Skipped,
    /// 130: stopped by the user.
    Stopped,
}

impl ExitStatus {
    /// The number.
    pub fn code(self) -> u8 {
        match self {
            Self::Done => 0,
            Self::Failed => 1,
            Self::Usage => 2,
            Self::Skipped => 3,
            Self::Stopped => 130,
        }
    }

    /// Done, or done with faults.
    pub fn with_faults(faults: u64) -> Self {
        if faults == 0 { Self::Done } else { Self::Skipped }
    }
}

/// lan-backup backs up computers to each other over the local network: no cloud, no account, no server to configure.
#[derive(Debug, Parser)]
#[command(
    name = "lan-backup",
    version,
    propagate_version = true,
    after_help = "Examples:\n  \
        lan-backup try                          see the whole story on this machine\n  \
        lan-backup serve                        keep other devices' backups here\n  \
        lan-backup send nas ~/Documents         back up to the device called nas\n  \
        lan-backup restore nas --to ~/rescue    get it back\n\n\
        Exit codes: 0 done, 1 failed, 2 wrong usage, 3 done but files were skipped or there was an ALARM (named), 130 stopped"
)]
struct Cli {
    #[command(flatten)]
    globals: Globals,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Serve(serve::Args),
    Devices(devices::Args),
    Pair(pair::Args),
    Unpair(unpair::Args),
    Trust(trust::Args),
    Rotate(rotate::Args),
    Pin(pin::Args),
    Pending(pending::Args),
    Send(send::Args),
    Snapshots(snapshots::Args),
    Ls(ls::Args),
    Find(find::Args),
    Diff(diff::Args),
    Copy(copy::Args),
    Restore(restore::Args),
    Share(share::Args),
    Status(status::Args),
    Stats(stats::Args),
    Verify(verify::Args),
    Repair(repair::Args),
    Retention(retention::Args),
    Prune(prune::Args),
    Undelete(undelete::Args),
    Try(try_out::Args),
    Completions(completions::Args),
}

/// Parses, runs, and gives the exit code.
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return usage(&error),
    };
    let log = if matches!(cli.command, Command::Serve(_)) { Log::Alone } else { Log::Beside };
    settings::start_log(&cli.globals, log);
    let output = cli.globals.output();
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => {
            output.say(&format!("error: the system gives no threads: {error}"));
            return ExitCode::from(ExitStatus::Failed.code());
        }
    };
    let shutdown = Shutdown::new();
    let result = runtime.block_on(async {
        tokio::spawn(settings::listen_for_ctrl_c(shutdown.clone(), output.clone()));
        let stopped = shutdown.clone();
        match Box::pin(dispatch(cli, output.clone(), shutdown)).await {
            // Whatever an engine says after a stop, the stop was the reason.
            Err(_) if stopped.is_stopped() => Err(Error::Stopped),
            other => other,
        }
    });
    // Blocking threads that still wait for a disk or a terminal are not waited for.
    runtime.shutdown_background();
    let status = match result {
        Ok(status) => status,
        Err(error) => output.failure(&error),
    };
    ExitCode::from(status.code())
}

/// What clap has to say: help and version are no failure. Programs that asked for JSON get it here, too.
fn usage(error: &clap::Error) -> ExitCode {
    // Nobody may be reading.
    let _ = error.print();
    if !error.use_stderr() {
        return ExitCode::from(ExitStatus::Done.code());
    }
    if settings::asks_for_json() {
        Output::new(Style::Json, Talk::Usual).failed_usage(&error.to_string());
    }
    ExitCode::from(ExitStatus::Usage.code())
}

/// A command that has nothing to end cleanly just ends.
async fn unless_stopped(
    shutdown: Shutdown,
    command: impl Future<Output = Result<ExitStatus, Error>>,
) -> Result<ExitStatus, Error> {
    tokio::select! {
        result = command => result,
        () = shutdown.stopped() => Err(Error::Stopped),
    }
}

async fn dispatch(cli: Cli, output: Output, shutdown: Shutdown) -> Result<ExitStatus, Error> {
    let globals = cli.globals;
    match cli.command {
        Command::Serve(args) => serve::run(&globals, args, output, shutdown).await,
        Command::Devices(args) => unless_stopped(shutdown, devices::run(&globals, &args, &output)).await,
        Command::Pair(args) => pair::run(&globals, args, &output, shutdown).await,
        Command::Unpair(args) => unpair::run(&globals, &args, &output).await,
        Command::Trust(args) => trust::run(&globals, &args, &output),
        Command::Rotate(_) => rotate::run(&globals, &output).await,
        Command::Pin(args) => unless_stopped(shutdown, pin::run(&globals, &args, &output)).await,
        Command::Pending(args) => unless_stopped(shutdown, pending::run(&globals, &args, &output)).await,
        Command::Send(args) => send::run(&globals, args, output, shutdown).await,
        Command::Snapshots(args) => unless_stopped(shutdown, snapshots::run(&globals, &args, &output)).await,
        Command::Ls(args) => unless_stopped(shutdown, ls::run(&globals, &args, &output)).await,
        Command::Find(args) => unless_stopped(shutdown, find::run(&globals, &args, &output)).await,
        Command::Copy(args) => copy::run(&globals, args, output, shutdown).await,
        Command::Diff(args) => unless_stopped(shutdown, diff::run(&globals, &args, &output)).await,
        Command::Restore(args) => restore::run(&globals, args, output, shutdown).await,
        Command::Share(args) => share::run(&globals, args, output, shutdown).await,
        Command::Status(args) => unless_stopped(shutdown, status::run(&globals, &args, &output)).await,
        Command::Stats(args) => stats::run(&globals, args, &output, shutdown).await,
        Command::Repair(args) => repair::run(&globals, args, output, shutdown).await,
        Command::Verify(args) => verify::run(&globals, args, output, shutdown).await,
        Command::Retention(args) => unless_stopped(shutdown, retention::run(&globals, &args, &output)).await,
        Command::Prune(args) => prune::run(&globals, args, &output, shutdown).await,
        Command::Undelete(args) => unless_stopped(shutdown, undelete::run(&globals, &args, &output)).await,
        Command::Try(args) => try_out::run(args, output, shutdown).await,
        Command::Completions(args) => Ok(completions::run::<Cli>(&args)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent_and_every_command_has_examples() {
        let mut cli = Cli::command();
        cli.clone().debug_assert();
        for command in cli.get_subcommands_mut() {
            assert!(command.get_about().is_some(), "{} says nothing about itself", command.get_name());
            let help = command.render_long_help().to_string();
            assert!(help.contains("Example"), "{} has no examples", command.get_name());
        }
    }
}
