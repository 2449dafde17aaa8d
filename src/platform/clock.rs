//! The time. Rules take `now` as an argument; only who calls them asks a clock.

use crate::platform::fs;
use jiff::{SignedDuration, Timestamp};
use std::fmt;
use std::path::Path;
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// How long this machine has been running, sleep included: a time that nobody sets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Uptime {
    /// Which run of the machine that is.
    pub run: String,
    /// How long it has lasted.
    pub elapsed: Duration,
}

/// Tells the time of day.
pub trait Clock: Send + Sync + fmt::Debug {
    /// Now, in UTC.
    fn now(&self) -> Timestamp;

    /// Now on a clock that never jumps; for durations only.
    fn instant(&self) -> Instant;

    /// How long the machine has been running; `None` where that is not known. Other than [`Clock::instant`], it means the same to all
    /// processes.
    fn uptime(&self) -> Option<Uptime> {
        None
    }
}

/// The system's clock.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        Timestamp::now()
    }

    fn instant(&self) -> Instant {
        Instant::now()
    }

    fn uptime(&self) -> Option<Uptime> {
        // Linux tells both in files.
        let read = |path: &str| fs::read(Path::new(path)).ok().and_then(|bytes| String::from_utf8(bytes).ok());
        let run = read("/proc/sys/kernel/random/boot_id")?.trim().to_owned();
        let seconds = read("/proc/uptime")?.split_whitespace().next()?.parse().ok()?;
        Some(Uptime { run, elapsed: Duration::try_from_secs_f64(seconds).ok()? })
    }
}

/// A clock that moves only when told to, for tests.
#[derive(Debug)]
pub struct ManualClock {
    start: Instant,
    state: Mutex<(Timestamp, Duration)>,
}

impl ManualClock {
    /// Starts at `now`.
    pub fn new(now: Timestamp) -> Self {
        Self { start: Instant::now(), state: Mutex::new((now, Duration::ZERO)) }
    }

    /// Moves both times forward.
    pub fn advance(&self, by: Duration) {
        let mut state = self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        state.0 = state
            .0
            .saturating_add(SignedDuration::try_from(by).unwrap_or(SignedDuration::MAX))
            .unwrap_or(Timestamp::MAX);
        state.1 += by;
    }

    /// Sets the time of day; no time goes by.
    pub fn set(&self, now: Timestamp) {
        self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner).0 = now;
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Timestamp {
        self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner).0
    }

    fn instant(&self) -> Instant {
        self.start + self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner).1
    }

    fn uptime(&self) -> Option<Uptime> {
        let elapsed = self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner).1;
        Some(Uptime { run: "test".to_owned(), elapsed })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_systems_uptime_grows_and_belongs_to_one_run() {
        // Where the system does not tell, it never does.
        let Some(first) = SystemClock.uptime() else { return assert_eq!(SystemClock.uptime(), None) };
        let second = SystemClock.uptime().unwrap();
        assert!(second.run == first.run && second.elapsed >= first.elapsed && !first.run.is_empty());
    }
}
