//! Whether the clock has jumped. The keep rules go by this device's clock, so one that is set a year forward, by a dead battery or by
//! somebody who forges the network's time, would make everything old at once; one that is set back makes what came look like the future.
//!
//! While the machine runs, its uptime says how much time has gone by, and nobody can set that: the clock is compared with it since the
//! first look in this run, so that many small steps count together. Between two runs nobody knows: then a step back of a day counts, and one forward
//! of more than [`UNSEEN`]. What was seen is kept in one small sealed object; losing it costs what could have been noticed
//! until the next look.
//!
//! A jump stops everything that goes by the clock until the clock is right again, or a person has released each set.

use crate::model::SetName;
use crate::platform::clock::{Clock, Uptime};
use crate::store::error::{Error, Result};
use crate::store::layout::{self, FORMAT};
use crate::store::sealed;
use crate::store::shelf::Shelf;
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// A clock that is off by more than this has jumped.
pub const LEAP: SignedDuration = SignedDuration::from_hours(24);
/// A machine that was off for longer than this, as its clock has it, is asked about: five weeks.
pub const UNSEEN: SignedDuration = SignedDuration::from_hours(24 * 35);
/// What was seen is written down again after this.
const PAUSE: SignedDuration = SignedDuration::from_hours(1);

/// What was seen of the clock.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ClockWatch {
    format: u32,
    /// The time at the last look.
    seen: Timestamp,
    /// The run of the machine in which that was, what the time was at its first look, and how long it had lasted then.
    run: Option<String>,
    anchor: Timestamp,
    elapsed_seconds: u64,
    /// That it has jumped, as long as nobody has put that right.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    jump: Option<Jump>,
}

/// A jump of the clock.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Jump {
    /// What the time should have been.
    pub from: Timestamp,
    /// What it was.
    pub to: Timestamp,
    /// Sets in which a person has let forgetting go on.
    pub released: BTreeSet<SetName>,
}

impl ClockWatch {
    fn begin(now: Timestamp, uptime: Option<&Uptime>) -> Self {
        Self {
            format: FORMAT,
            seen: now,
            run: uptime.map(|uptime| uptime.run.clone()),
            anchor: now,
            elapsed_seconds: uptime.map_or(0, |uptime| uptime.elapsed.as_secs()),
            jump: None,
        }
    }

    /// What is known after a look at `now`. Pure.
    fn next(&self, now: Timestamp, uptime: Option<&Uptime>) -> Self {
        let gone_by = uptime
            .filter(|uptime| self.run.as_ref() == Some(&uptime.run))
            .and_then(|uptime| uptime.elapsed.as_secs().checked_sub(self.elapsed_seconds));
        let (expected, slack) = match gone_by {
            Some(seconds) => {
                let seconds = SignedDuration::from_secs(i64::try_from(seconds).unwrap_or(i64::MAX));
                (self.anchor.saturating_add(seconds).unwrap_or(Timestamp::MAX), LEAP)
            }
            // It was off, or on and not looked at; how long, nobody knows.
            None => (self.seen, UNSEEN),
        };
        let drift = now.duration_since(expected);
        let jumped = drift > slack || drift < -LEAP;
        let jump = if !jumped {
            self.jump.clone()
        } else if self.jump.as_ref().is_some_and(|jump| jump.is_undone_at(now, expected, slack)) {
            None
        } else {
            Some(Jump { from: expected, to: now, released: BTreeSet::new() })
        };
        if jumped || gone_by.is_none() {
            Self { jump, ..Self::begin(now, uptime) }
        } else {
            Self { seen: now, jump, ..self.clone() }
        }
    }

    /// The jump that stops everything.
    pub fn jump(&self) -> Option<&Jump> {
        self.jump.as_ref()
    }

    /// What was seen until now; `None` when nothing was, or what was kept is damaged.
    pub(crate) fn read(shelf: &dyn Shelf) -> Result<Option<Result<Self, &'static str>>> {
        sealed::read_state(shelf, &layout::clock(), |watch: &Self| watch.format)
    }

    /// What is known with a look at the clock now; nothing is written.
    pub(crate) fn look(shelf: &dyn Shelf, clock: &dyn Clock) -> Result<Self> {
        let (now, uptime) = (clock.now(), clock.uptime());
        let before = Self::read(shelf)?.and_then(Result::ok);
        Ok(before.map_or_else(|| Self::begin(now, uptime.as_ref()), |before| before.next(now, uptime.as_ref())))
    }

    /// The same, and it is written down.
    pub(crate) fn observe(shelf: &dyn Shelf, clock: &dyn Clock) -> Result<Self> {
        let before = Self::read(shelf)?.and_then(Result::ok);
        let watch = Self::look(shelf, clock)?;
        let quiet = |before: &Self| {
            let moved = watch.seen.duration_since(before.seen);
            Self { seen: watch.seen, ..before.clone() } == watch && !moved.is_negative() && moved < PAUSE
        };
        if before.is_none_or(|before| !quiet(&before)) {
            // What is seen now holds all the same; and a disk is never so full that nothing can be thrown away from it.
            Error::unless_full(watch.save(shelf))?;
        }
        Ok(watch)
    }

    /// A person says that the clock is right, as far as a set is concerned. Once that holds for `all` there are, the jump is settled: a set
    /// that begins later has nothing to do with it.
    pub(crate) fn release(mut self, shelf: &dyn Shelf, set: &SetName, all: &BTreeSet<SetName>) -> Result<()> {
        if let Some(jump) = &mut self.jump {
            jump.released.insert(set.clone());
        }
        self.jump.take_if(|jump| all.is_subset(&jump.released));
        self.save(shelf)
    }

    fn save(&self, shelf: &dyn Shelf) -> Result<()> {
        sealed::save_state(shelf, &layout::clock(), self)
    }
}

impl Jump {
    /// The clock, which should have been at `expected` had it gone on from there, has been put back to where it should be.
    fn is_undone_at(&self, now: Timestamp, expected: Timestamp, slack: SignedDuration) -> bool {
        let since = expected.duration_since(self.to);
        let right = self.from.saturating_add(since).unwrap_or(Timestamp::MAX);
        let off = now.duration_since(right);
        off >= -LEAP && off <= slack
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    const HOUR: i64 = 3600;
    const DAY: i64 = 24 * HOUR;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_790_000_000 + second).unwrap()
    }

    fn up(run: &str, seconds: i64) -> Uptime {
        Uptime { run: run.to_owned(), elapsed: Duration::from_secs(seconds as u64) }
    }

    #[test]
    fn a_jump_of_a_day_is_seen_in_both_directions_and_time_that_goes_by_is_none() {
        let begin = ClockWatch::begin(at(0), Some(&up("a", 100)));
        for (clock, uptime, jumped) in [
            (5 * DAY, 5 * DAY, false),
            (5 * DAY, 4 * DAY, false),
            (5 * DAY + 1, 4 * DAY, true),
            (400 * DAY, DAY, true),
            (0, DAY, false),
            (-1, DAY, true),
        ] {
            let next = begin.next(at(clock), Some(&up("a", 100 + uptime)));
            assert_eq!(next.jump().is_some(), jumped, "{clock} {uptime}");
        }
    }

    #[test]
    fn many_small_steps_are_a_jump_together() {
        let mut watch = ClockWatch::begin(at(0), Some(&up("a", 0)));
        let mut steps = 0;
        while watch.jump().is_none() {
            steps += 1;
            watch = watch.next(at(steps * 7 * HOUR), Some(&up("a", steps * HOUR)));
        }
        assert_eq!(steps, 5);
    }

    #[test]
    fn what_happened_while_the_machine_was_off_is_asked_about_when_it_was_long_or_backwards() {
        let begin = ClockWatch::begin(at(0), Some(&up("a", 100)));
        for (clock, jumped) in
            [(3 * DAY, false), (35 * DAY, false), (35 * DAY + 1, true), (-DAY, false), (-DAY - 1, true)]
        {
            assert_eq!(begin.next(at(clock), Some(&up("b", 0))).jump().is_some(), jumped, "{clock}");
            assert_eq!(begin.next(at(clock), None).jump().is_some(), jumped, "{clock}");
        }
    }

    #[test]
    fn a_clock_that_is_put_right_is_forgiven_and_one_that_is_not_stays_stopped_until_released() {
        for there in [400 * DAY, -400 * DAY] {
            let begin = ClockWatch::begin(at(0), Some(&up("a", 0)));
            let jumped = begin.next(at(there + HOUR), Some(&up("a", HOUR)));
            let later = jumped.next(at(there + 10 * DAY), Some(&up("a", 10 * DAY)));
            assert_eq!(later.jump(), jumped.jump(), "time alone does not put it right");
            assert_eq!(later.next(at(11 * DAY), Some(&up("a", 11 * DAY))).jump(), None);
            assert_eq!(later.next(at(11 * DAY), Some(&up("b", 5))).jump(), None, "after a restart, too");
            let elsewhere = later.next(at(there / 2), Some(&up("a", 11 * DAY)));
            assert!(elsewhere.jump().is_some_and(|jump| Some(jump) != jumped.jump()));
        }
    }
}
