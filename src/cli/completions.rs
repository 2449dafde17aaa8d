//! `completions`: what a shell needs to complete our command line.

use crate::cli::ExitStatus;
use clap::CommandFactory;
use clap_complete::Shell;

/// Print the completions for a shell
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  lan-backup completions bash > /etc/bash_completion.d/lan-backup")]
pub struct Args {
    /// Which shell
    shell: Shell,
}

/// Prints them.
pub fn run<C: CommandFactory>(args: &Args) -> ExitStatus {
    let mut command = C::command();
    clap_complete::generate(args.shell, &mut command, "lan-backup", &mut std::io::stdout());
    ExitStatus::Done
}
