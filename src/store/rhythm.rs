//! Whether a backup is overdue: a pure rule over the times at which its snapshots came, by this device's clock.
//!
//! A set has its own rhythm: what comes hourly is late sooner than what comes monthly. Three times the usual gap is late, but
//! never less than three days, because laptops are closed over a weekend, and never more than five weeks. Of a set that came
//! fewer than three times no rhythm is known, and two weeks are late.

use jiff::{SignedDuration, Timestamp};

/// How many of the last gaps make the rhythm.
const GAPS: usize = 10;
/// So many usual gaps are late.
const LATE_GAPS: i32 = 3;
const SOONEST: SignedDuration = SignedDuration::from_hours(3 * 24);
const LATEST: SignedDuration = SignedDuration::from_hours(35 * 24);
const UNKNOWN: SignedDuration = SignedDuration::from_hours(14 * 24);

/// Since when the next snapshot is overdue; `None` when it is not. `received` are the times of all snapshots of one set.
pub fn overdue_since(received: &[Timestamp], now: Timestamp) -> Option<Timestamp> {
    let mut times = received.to_vec();
    times.sort_unstable();
    let last = *times.last()?;
    let mut gaps: Vec<SignedDuration> = times.windows(2).map(|pair| pair[0].duration_until(pair[1])).collect();
    gaps.drain(..gaps.len().saturating_sub(GAPS));
    gaps.sort_unstable();
    let patience = match gaps.len() {
        0 | 1 => UNKNOWN,
        count => gaps[count / 2].saturating_mul(LATE_GAPS).clamp(SOONEST, LATEST),
    };
    let due = last.saturating_add(patience).unwrap_or(Timestamp::MAX);
    (due < now).then_some(due)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn every(hours: i64, count: i64) -> Vec<Timestamp> {
        (0..count).map(|n| at(n * hours)).collect()
    }

    fn at(hours: i64) -> Timestamp {
        Timestamp::from_second(1_700_000_000 + hours * 3600).unwrap()
    }

    #[test]
    fn a_set_is_overdue_by_its_own_rhythm() {
        let day = 24;
        // (hours between snapshots, how many, hours after the last one, overdue)
        for (gap, count, later, overdue) in [
            (1, 100, 2 * day, false),
            (1, 100, 4 * day, true),
            (day, 30, 3 * day, false),
            (day, 30, 4 * day, true),
            (7 * day, 10, 20 * day, false),
            (7 * day, 10, 22 * day, true),
            (30 * day, 10, 34 * day, false),
            (30 * day, 10, 36 * day, true),
            (1, 1, 13 * day, false),
            (1, 2, 15 * day, true),
        ] {
            let received = every(gap, count);
            let now = at((count - 1) * gap + later);
            assert_eq!(overdue_since(&received, now).is_some(), overdue, "{count} every {gap} h, {later} h later");
        }
        assert_eq!(overdue_since(&[], at(0)), None);
    }

    #[test]
    fn one_long_pause_or_a_burst_does_not_change_the_rhythm() {
        let mut received = every(24, 20);
        received.push(at(19 * 24 + 1));
        received.push(at(19 * 24 + 2));
        received.push(at(40 * 24));
        assert_eq!(overdue_since(&received, at(43 * 24 - 1)), None);
        assert_eq!(overdue_since(&received, at(43 * 24 + 1)), Some(at(43 * 24)));
    }
}
