//! How hard to compress: more while the line is the limit and the processor has nothing else to do, less as soon as it has.
//!
//! Over a slow line every byte that compression saves is time; over a fast one compression is most of the work. Which it is
//! depends on both machines, on what else they do, and on the files, and changes while a backup runs. So it is measured: how
//! long all uploads were under way and nothing more could be begun, and how much of the processors lay idle meanwhile. The rule
//! is a ladder with one step up or down for each window; it is pure.

use crate::codec::Compression;
use std::time::Duration;

/// zstd levels from the cheapest on. Level 1 is not among them: for a tenth less work its output is up to a fifth larger,
/// because its table forgets what lies further back than a few files.
const LEVELS: [u8; 5] = [2, 3, 5, 7, 9];
/// A window is at least this long: shorter, a single upload decides.
pub const WINDOW: Duration = Duration::from_millis(500);

/// How a backup chooses its compression.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Effort {
    /// By what limits it at the moment.
    #[default]
    Adaptive,
    /// Always so.
    Fixed(Compression),
}

/// What was measured since the last decision.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Window {
    /// How long it took.
    pub elapsed: Duration,
    /// For how much of it the line took no more.
    pub line: Duration,
    /// The share of the processors that had nothing to do, from 0 to 1; `None` where the system does not tell.
    pub idle: Option<f64>,
    /// Bytes that were compressed.
    pub plain: u64,
    /// What was left of them.
    pub stored: u64,
}

/// The step of the ladder that a backup stands on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ladder {
    step: usize,
}

impl Ladder {
    /// What the step means.
    pub fn compression(&self) -> Compression {
        Compression::Zstd(LEVELS[self.step])
    }

    /// Goes up or down by one step, or stays.
    pub fn decide(&mut self, window: &Window) {
        let line = window.line.as_secs_f64() / window.elapsed.as_secs_f64().max(f64::MIN_POSITIVE);
        let idle = window.idle.unwrap_or(0.0);
        // Noise does not get smaller at any level.
        let shrinks = window.stored.saturating_mul(10) <= window.plain.saturating_mul(9);
        if line < 0.3 || idle < 0.1 {
            self.step = self.step.saturating_sub(1);
        } else if line > 0.6 && idle > 0.35 && shrinks {
            self.step = (self.step + 1).min(LEVELS.len() - 1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn window(line: u64, idle: f64) -> Window {
        let (elapsed, line) = (Duration::from_secs(1), Duration::from_millis(line));
        Window { elapsed, line, idle: Some(idle), plain: 100, stored: 40 }
    }

    fn after(windows: &[Window]) -> Compression {
        let mut ladder = Ladder::default();
        for window in windows {
            ladder.decide(window);
        }
        ladder.compression()
    }

    #[test]
    fn a_slow_line_and_an_idle_processor_raise_the_level_to_its_end() {
        assert_eq!(after(&[]), Compression::Zstd(2));
        assert_eq!(after(&[window(900, 0.6)]), Compression::Zstd(3));
        assert_eq!(after(&[window(900, 0.6); 20]), Compression::Zstd(9));
    }

    #[test]
    fn a_busy_processor_or_a_waiting_line_lowers_it_again() {
        let slow = window(900, 0.6);
        assert_eq!(after(&[slow, slow, window(900, 0.05)]), Compression::Zstd(3));
        assert_eq!(after(&[slow, slow, window(100, 0.6)]), Compression::Zstd(3));
        assert_eq!(after(&[slow, window(100, 0.6), window(100, 0.6)]), Compression::Zstd(2));
    }

    #[test]
    fn in_between_and_for_noise_it_stays() {
        let slow = window(900, 0.6);
        assert_eq!(after(&[slow, window(900, 0.2)]), Compression::Zstd(3));
        assert_eq!(after(&[slow, window(450, 0.6)]), Compression::Zstd(3));
        assert_eq!(after(&[Window { stored: 100, ..slow }; 3]), Compression::Zstd(2));
        // Where the system does not tell how busy it is, nothing is risked.
        assert_eq!(after(&[Window { idle: None, ..slow }; 3]), Compression::Zstd(2));
    }
}
