//! A monitor that remembers, so that tests can assert how much was done and not only the result.

use crate::monitor::{Counter, Fault, Monitor, Phase};
use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Remembers everything it was told.
#[derive(Debug, Default)]
pub struct RecordingMonitor {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    counts: HashMap<Counter, u64>,
    faults: Vec<Fault>,
    notices: Vec<String>,
    phases: Vec<Phase>,
}

impl RecordingMonitor {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How far a counter has come.
    pub fn counted(&self, counter: Counter) -> u64 {
        self.state().counts.get(&counter).copied().unwrap_or(0)
    }

    /// The faults so far.
    pub fn faults(&self) -> Vec<Fault> {
        self.state().faults.clone()
    }

    /// The notices so far.
    pub fn notices(&self) -> Vec<String> {
        self.state().notices.clone()
    }

    /// The phases so far.
    pub fn phases(&self) -> Vec<Phase> {
        self.state().phases.clone()
    }
}

impl Monitor for RecordingMonitor {
    fn phase(&self, phase: Phase) {
        self.state().phases.push(phase);
    }

    fn total(&self, _: Counter, _: u64) {}

    fn count(&self, counter: Counter, amount: u64) {
        let mut state = self.state();
        let count = state.counts.entry(counter).or_default();
        *count = count.saturating_add(amount);
    }

    fn fault(&self, fault: Fault) {
        self.state().faults.push(fault);
    }

    fn notice(&self, message: String) {
        self.state().notices.push(message);
    }
}
