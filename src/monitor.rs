//! Progress: engines speak, whoever watches listens. Nothing here blocks the work or prints.

pub mod recording;

use crate::model::text::clean;
use std::fmt;

/// What is being done, so that a watcher can name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Phase {
    /// Walking the tree and comparing it with the last snapshot.
    Scan,
    /// Reading, hashing, sending.
    Send,
    /// Making everything durable at the receiver.
    Finish,
    /// Reading the manifest and looking at what is already there.
    Plan,
    /// Fetching and writing.
    Restore,
    /// Reading back and comparing.
    Verify,
}

/// What is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Counter {
    /// Files, folders and links dealt with.
    Entries,
    /// Files dealt with.
    Files,
    /// Plain bytes dealt with, read or not.
    Bytes,
    /// Plain bytes read from the source.
    BytesRead,
    /// Bytes sent to the vault.
    BytesSent,
    /// Bytes fetched from the vault.
    BytesFetched,
}

/// One thing that went wrong without stopping the run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// On what; a path or a name, as it is (watchers clean it before they show it).
    pub subject: String,
    /// What went wrong, in the words of style.md: lower case, no full stop.
    pub problem: String,
}

/// The subject of a fault that concerns no file of this run, but what the other side had kept before.
const ALARM: &str = "ALARM";

impl Fault {
    /// Something was lost or forged at the other side.
    pub fn alarm(problem: impl Into<String>) -> Self {
        Self { subject: ALARM.to_owned(), problem: problem.into() }
    }

    /// Whether it is one of those.
    pub fn is_alarm(&self) -> bool {
        self.subject == ALARM
    }

    /// A fault from any error: its chain of sources, joined by colons.
    pub fn new(subject: impl Into<String>, error: &(dyn std::error::Error + 'static)) -> Self {
        let mut problem = error.to_string();
        let mut source = error.source();
        while let Some(error) = source {
            problem.push_str(": ");
            problem.push_str(&error.to_string());
            source = error.source();
        }
        Self { subject: subject.into(), problem }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", clean(&self.subject), clean(&self.problem))
    }
}

/// Watches a run. Calls come from many threads and must return at once.
pub trait Monitor: Send + Sync + fmt::Debug {
    /// A phase begins; the one before has ended.
    fn phase(&self, phase: Phase);

    /// How far `counter` will go in this phase, as far as known.
    fn total(&self, counter: Counter, amount: u64);

    /// `amount` more of `counter`.
    fn count(&self, counter: Counter, amount: u64);

    /// Something went wrong; the run goes on, and ends with exit code 3.
    fn fault(&self, fault: Fault);

    /// Something worth a line that is no fault.
    fn notice(&self, message: String);
}

/// Watches nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct Silent;

impl Monitor for Silent {
    fn phase(&self, _: Phase) {}
    fn total(&self, _: Counter, _: u64) {}
    fn count(&self, _: Counter, _: u64) {}
    fn fault(&self, _: Fault) {}
    fn notice(&self, _: String) {}
}
