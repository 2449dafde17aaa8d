//! How much of the machine we may use.

use crate::platform::fs;
use std::num::NonZero;
use std::path::Path;

/// Cores that this process may run on.
pub fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, NonZero::get)
}

/// What all processors of this machine did since it started, in the system's ticks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProcessorTimes {
    idle: u64,
    all: u64,
}

impl ProcessorTimes {
    /// Now; `None` where the system does not tell.
    pub fn now() -> Option<Self> {
        Self::parse(&fs::read_to_string(Path::new("/proc/stat")).ok()?)
    }

    /// The first line of Linux' `/proc/stat`: user, nice, system, idle, iowait, irq, softirq, steal and more.
    fn parse(text: &str) -> Option<Self> {
        let times = text.lines().next()?.strip_prefix("cpu ")?.split_whitespace();
        let times: Vec<u64> = times.take(8).map(str::parse).collect::<Result<_, _>>().ok()?;
        let (idle, waiting) = (*times.get(3)?, times.get(4).copied().unwrap_or(0));
        Some(Self {
            idle: idle.checked_add(waiting)?,
            all: times.iter().try_fold(0_u64, |sum, n| sum.checked_add(*n))?,
        })
    }

    /// The share of idle time since an earlier moment, from 0 to 1; `None` when no tick has passed.
    pub fn idle_since(&self, earlier: &Self) -> Option<f64> {
        let all = self.all.checked_sub(earlier.all).filter(|all| *all > 0)?;
        Some(self.idle.saturating_sub(earlier.idle) as f64 / all as f64)
    }
}

/// Raises the limit of open files to what the system allows: a server with 256 connections and their packs needs more than the
/// usual 1,024. A refusal is not an error; the old limit stays.
pub fn raise_open_file_limit() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    let _ = setrlimit(Resource::Nofile, limit);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn idle_time_is_read_as_the_system_writes_it() {
        let before = ProcessorTimes::parse("cpu  100 0 50 800 50 0 0 0 0 0\ncpu0 1 2 3 4\n").unwrap();
        let after = ProcessorTimes::parse("cpu  130 0 60 850 60 0 0 0 0 0\n").unwrap();
        assert_eq!(after.idle_since(&before), Some(0.6));
        assert_eq!(after.idle_since(&after), None);
        for odd in ["", "cpu", "cpu  1 2", "cpu  a b c d", "intr 1 2 3 4 5"] {
            assert_eq!(ProcessorTimes::parse(odd), None, "{odd}");
        }
    }
}
