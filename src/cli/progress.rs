//! Shows a run: bars on a terminal for what takes longer than a second, lines for what went wrong.

use crate::cli::output::Output;
use crate::cli::size;
use crate::monitor::{Counter, Fault, Monitor, Phase};
use indicatif::{ProgressBar, ProgressStyle};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// What is over sooner needs no bar.
const BAR_AFTER: Duration = Duration::from_secs(1);
/// A bar is drawn anew this often, also while nothing moves, so that a stall can be seen.
pub const TICK: Duration = Duration::from_millis(250);
/// Faults shown one by one; the rest is counted, because a thousand lines say no more than fifty.
const SHOWN_FAULTS: u64 = 50;

/// A monitor for people.
#[derive(Debug)]
pub struct Progress {
    output: Output,
    faults: AtomicU64,
    alarms: AtomicU64,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    phase: Option<Phase>,
    began: Instant,
    bar: Option<ProgressBar>,
    entries: u64,
    bytes: u64,
    total: Option<u64>,
}

impl Progress {
    /// Shows on `output`.
    pub fn new(output: Output) -> Self {
        let state = State { phase: None, began: Instant::now(), bar: None, entries: 0, bytes: 0, total: None };
        Self { output, faults: AtomicU64::new(0), alarms: AtomicU64::new(0), state: Mutex::new(state) }
    }

    /// Things that went wrong so far, alarms among them.
    pub fn faults(&self) -> u64 {
        self.faults.load(Ordering::Relaxed) + self.alarms()
    }

    /// Those that concern no file of this run, but what the other side had kept before.
    pub fn alarms(&self) -> u64 {
        self.alarms.load(Ordering::Relaxed)
    }

    /// Takes the bar away and says how many faults were not shown.
    pub fn finish(&self) {
        if let Some(bar) = self.state().bar.take() {
            bar.finish_and_clear();
        }
        let faults = self.faults.load(Ordering::Relaxed);
        if faults > SHOWN_FAULTS {
            self.output.fault(&format!("and {} more", size::count(faults - SHOWN_FAULTS)));
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn draw(&mut self, output: &Output) {
        if self.bar.is_none() {
            if !output.shows_progress() || self.began.elapsed() < BAR_AFTER {
                return;
            }
            let bar = ProgressBar::new(self.total.unwrap_or(0)).with_elapsed(self.began.elapsed());
            bar.set_position(self.bytes);
            let template = if self.total.is_some() {
                "{prefix:>10} {bar:30} {binary_bytes} of {binary_total_bytes}  {binary_bytes_per_sec}  {eta} left  {msg}"
            } else {
                "{prefix:>10} {spinner} {binary_bytes}  {msg}"
            };
            if let Ok(style) = ProgressStyle::with_template(template) {
                bar.set_style(style);
            }
            bar.set_prefix(match self.phase {
                Some(Phase::Scan) => "looking",
                Some(Phase::Send) => "sending",
                Some(Phase::Finish) => "finishing",
                Some(Phase::Plan) => "planning",
                Some(Phase::Restore) => "restoring",
                Some(Phase::Verify) => "verifying",
                None => "",
            });
            let bar = output.bars().add(bar);
            bar.enable_steady_tick(TICK);
            self.bar = Some(bar);
        }
        if let Some(bar) = &self.bar {
            if let Some(total) = self.total {
                bar.set_length(total.max(self.bytes));
            }
            bar.set_position(self.bytes);
            bar.set_message(size::counted(self.entries, "file"));
        }
    }
}

impl Monitor for Progress {
    fn phase(&self, phase: Phase) {
        let mut state = self.state();
        if let Some(bar) = state.bar.take() {
            bar.finish_and_clear();
        }
        *state = State { phase: Some(phase), began: Instant::now(), bar: None, entries: 0, bytes: 0, total: None };
    }

    fn total(&self, counter: Counter, amount: u64) {
        if counter == Counter::Bytes {
            self.state().total = Some(amount);
        }
    }

    fn count(&self, counter: Counter, amount: u64) {
        let mut state = self.state();
        match counter {
            Counter::Bytes => state.bytes += amount,
            Counter::Files => state.entries += amount,
            Counter::Entries if matches!(state.phase, Some(Phase::Scan | Phase::Plan)) => state.entries += amount,
            _ => return,
        }
        state.draw(&self.output);
    }

    fn fault(&self, fault: Fault) {
        if fault.is_alarm() {
            self.alarms.fetch_add(1, Ordering::Relaxed);
            return self.output.alarm(&fault.problem);
        }
        if self.faults.fetch_add(1, Ordering::Relaxed) < SHOWN_FAULTS {
            self.output.fault(&fault.to_string());
        }
        self.output.event("fault", serde_json::json!({ "subject": fault.subject, "problem": fault.problem }));
    }

    fn notice(&self, message: String) {
        self.output.say(&crate::model::text::clean(&message));
    }
}
