//! `pending`: see and answer what waits for an answer at a running `serve`.

use crate::cli::ExitStatus;
use crate::cli::face::describe;
use crate::cli::output::Output;
use crate::cli::settings::Globals;
use crate::daemon::Error;
use crate::daemon::control::{self, Answer, Request};
use crate::server::Decision;
use clap::ValueEnum;
use serde_json::json;

/// Show what waits for an answer at the running `serve`, and answer it
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  lan-backup pending\n  lan-backup pending 3 always\n  lan-backup pending 3 decline"
)]
pub struct Args {
    /// The number of a question
    #[arg(requires = "answer")]
    id: Option<u64>,
    /// The answer
    answer: Option<Word>,
}

/// What a person answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Word {
    /// Yes, and for a set do not ask again
    Accept,
    /// Yes, this time
    Once,
    /// Yes, and do not ask again
    Always,
    /// Yes, and the asking device takes the place of the other one
    Replaces,
    /// Yes, this time: back up files of a LocalSend app, and no more
    Backup,
    /// Yes, this time: save files of a LocalSend app in the inbox, and no more
    Save,
    /// No
    Decline,
}

impl Word {
    fn decision(self) -> Decision {
        match self {
            Self::Once => Decision::Once,
            Self::Accept | Self::Always => Decision::Always,
            Self::Replaces => Decision::Replaces,
            Self::Backup => Decision::Backup,
            Self::Save => Decision::Save,
            Self::Decline => Decision::Decline,
        }
    }
}

/// Lists or answers.
pub async fn run(globals: &Globals, args: &Args, output: &Output) -> Result<ExitStatus, Error> {
    let context = globals.context(None)?;
    if let (Some(id), Some(word)) = (args.id, args.answer) {
        let answer = control::ask(&context.home, &Request::Answer { id, decision: word.decision() }).await?;
        if !matches!(answer, Answer::Done { done: true }) {
            let hint = "`lan-backup pending` lists what waits";
            return Err(Error::usage(format!("question {id} does not wait for an answer (any more)"), hint));
        }
        output.event("answered", json!({ "id": id }));
        output.say("answered");
        return Ok(ExitStatus::Done);
    }
    let Answer::Pending { questions } = control::ask(&context.home, &Request::Pending).await? else {
        return Err(Error::NotRunning);
    };
    for open in &questions {
        output.row(open);
        output.line(&format!("{}: {}", open.id, describe(&open.question).replace('\n', "\n   ")));
    }
    if questions.is_empty() {
        output.say("nothing waits for an answer");
    } else {
        output.say("answer with: lan-backup pending NUMBER always|once|replaces|backup|save|decline");
    }
    Ok(ExitStatus::Done)
}
