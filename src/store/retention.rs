//! Which snapshots of a set stay, and why: a pure function of the keep rules, of the receipts and of now.
//!
//! The only time that counts is `receivedAt`, by the receiver's clock. What a source says about its own time is a label: sources
//! whose times were believed have pushed real snapshots out elsewhere.
//!
//! Hours, days, weeks, months and years are those of the receiver's time zone. A day of 23 or 25 hours is one day; an hour
//! that comes twice when clocks are put back is two hours; weeks begin on Monday and belong to the year of their Thursday.
//!
//! Whatever the rules say, the newest snapshot of a set stays, and so does everything younger than [`FLOOR_DAYS`].

use crate::model::{Keep, Record, SnapshotId, SnapshotInfo};
use jiff::civil::ISOWeekDate;
use jiff::tz::{Offset, TimeZone};
use jiff::{SignedDuration, Timestamp, Zoned};
use std::fmt;

/// What came within so many days is not forgotten, whatever the rules: a week to notice that something is wrong, during which
/// no flood of snapshots pushes out the good ones.
pub const FLOOR_DAYS: i64 = 7;

/// What a person brought back stays for so many days more, whatever the rules: somebody needs it.
pub const BROUGHT_BACK_DAYS: i64 = 90;

/// A snapshot as far as the rules look at it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Which.
    pub id: SnapshotId,
    /// By the receiver's clock.
    pub received_at: Timestamp,
    /// The label that a person gave.
    pub tag: Option<String>,
    /// When a person brought it back after it had been forgotten.
    pub brought_back: Option<Timestamp>,
}

impl Candidate {
    /// What the rules look at.
    pub fn of(info: &SnapshotInfo, record: &Record, brought_back: Option<Timestamp>) -> Self {
        Self { id: info.id, received_at: info.receipt.received_at, tag: record.tag.clone(), brought_back }
    }
}

/// Why a snapshot stays.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reason {
    /// There are no rules, or they say so.
    Everything,
    /// It is the newest of its set.
    Newest,
    /// It is younger than [`FLOOR_DAYS`].
    Young,
    /// One of the last so many.
    Last,
    /// The newest of a period: which kind, and which one.
    Period(&'static str, String),
    /// It came within the time that was named.
    Within,
    /// It carries this tag.
    Tag(String),
    /// A person brought it back within [`BROUGHT_BACK_DAYS`].
    BroughtBack,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Everything => f.write_str("everything is kept"),
            Self::Newest => f.write_str("newest"),
            Self::Young => write!(f, "younger than {FLOOR_DAYS} days"),
            Self::Last => f.write_str("last"),
            Self::Period(kind, period) => write!(f, "{kind} {period}"),
            Self::Within => f.write_str("within"),
            Self::BroughtBack => f.write_str("brought back"),
            Self::Tag(tag) => write!(f, "tag {}", crate::model::text::clean(tag)),
        }
    }
}

/// What becomes of a snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    /// Which.
    pub id: SnapshotId,
    /// When it came.
    pub received_at: Timestamp,
    /// Why it stays; nothing means that it would be forgotten.
    pub reasons: Vec<Reason>,
}

impl Decision {
    /// Whether it stays.
    pub fn stays(&self) -> bool {
        !self.reasons.is_empty()
    }
}

/// Decides about the snapshots of one set, given oldest first, as their chain has them. The answers are in the same order.
pub fn decide(keep: &Keep, snapshots: &[Candidate], now: Timestamp, zone: &TimeZone) -> Vec<Decision> {
    let everything = keep.all || keep.is_empty();
    let ago = |days: i64| now.checked_sub(SignedDuration::from_hours(24 * days)).unwrap_or(Timestamp::MIN);
    let (floor, back) = (ago(FLOOR_DAYS), ago(BROUGHT_BACK_DAYS));
    let within = keep.within.map(|within| within.before(now, zone));
    let mut last = keep.last;
    let mut periods = periods(keep);
    let mut decisions = Vec::with_capacity(snapshots.len());
    for (number, snapshot) in snapshots.iter().rev().enumerate() {
        let at = snapshot.received_at;
        let mut reasons = Vec::new();
        if everything {
            reasons.push(Reason::Everything);
        }
        if number == 0 {
            reasons.push(Reason::Newest);
        }
        if at > floor {
            reasons.push(Reason::Young);
        }
        if last > 0 {
            last -= 1;
            reasons.push(Reason::Last);
        }
        let local = at.to_zoned(zone.clone());
        reasons.extend(periods.iter_mut().filter_map(|period| period.wants(&local)));
        if within.is_some_and(|within| at > within) {
            reasons.push(Reason::Within);
        }
        if snapshot.brought_back.is_some_and(|at| at > back) {
            reasons.push(Reason::BroughtBack);
        }
        let tag = snapshot.tag.as_ref().filter(|tag| keep.tag.contains(tag));
        reasons.extend(tag.map(|tag| Reason::Tag(tag.clone())));
        decisions.push(Decision { id: snapshot.id, received_at: at, reasons });
    }
    decisions.reverse();
    decisions
}

/// What tells one period from the next.
type Key = (i16, i16, i8, Option<Offset>);

/// A rule that keeps the newest of each of so many periods.
struct Period {
    kind: &'static str,
    key: fn(&Zoned) -> Key,
    name: fn(&Zoned) -> String,
    left: u32,
    seen: Option<Key>,
}

impl Period {
    fn wants(&mut self, at: &Zoned) -> Option<Reason> {
        let key = (self.key)(at);
        if self.left == 0 || self.seen == Some(key) {
            return None;
        }
        self.left -= 1;
        self.seen = Some(key);
        Some(Reason::Period(self.kind, (self.name)(at)))
    }
}

fn week(at: &Zoned) -> ISOWeekDate {
    at.date().iso_week_date()
}

fn periods(keep: &Keep) -> [Period; 5] {
    let period = |kind, left, key, name| Period { kind, key, name, left, seen: None };
    [
        period(
            "hourly",
            keep.hourly,
            |at| (at.year(), at.day_of_year(), at.hour(), Some(at.offset())),
            |at| at.strftime("%F %H:00").to_string(),
        ),
        period("daily", keep.daily, |at| (at.year(), at.day_of_year(), 0, None), |at| at.strftime("%F").to_string()),
        period(
            "weekly",
            keep.weekly,
            |at| (week(at).year(), 0, week(at).week(), None),
            |at| format!("{}-W{:02}", week(at).year(), week(at).week()),
        ),
        period("monthly", keep.monthly, |at| (at.year(), 0, at.month(), None), |at| at.strftime("%Y-%m").to_string()),
        period("yearly", keep.yearly, |at| (at.year(), 0, 0, None), |at| at.strftime("%Y").to_string()),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Snapshots that came at these times (UTC), oldest first.
    fn at(times: &[&str]) -> Vec<Candidate> {
        let candidate = |(number, time): (usize, &&str)| Candidate {
            id: SnapshotId::from_bytes([number as u8; 32]),
            received_at: format!("{time}Z").parse().unwrap(),
            tag: None,
            brought_back: None,
        };
        times.iter().enumerate().map(candidate).collect()
    }

    fn zone(name: &str) -> TimeZone {
        TimeZone::get(name).unwrap()
    }

    /// The numbers of those that stay, when now is years later and neither the floor nor `within` matters.
    fn kept(keep: &Keep, snapshots: &[Candidate], zone: &TimeZone) -> Vec<usize> {
        let now = "2035-01-01T00:00:00Z".parse().unwrap();
        let decisions = decide(keep, snapshots, now, zone);
        let staying = decisions.iter().enumerate().filter(|(_, decision)| decision.stays());
        staying.map(|(number, _)| number).collect()
    }

    const TIMES: [&str; 14] = [
        "2024-11-30T23:30:00", // 0
        "2024-12-29T12:00:00", // 1: Sunday of week 52
        "2024-12-30T12:00:00", // 2: Monday of week 1 of 2025
        "2024-12-31T12:00:00", // 3
        "2025-01-01T12:00:00", // 4
        "2025-01-05T12:00:00", // 5: Sunday of week 1
        "2025-01-06T12:00:00", // 6: Monday of week 2
        "2025-03-01T08:00:00", // 7
        "2025-03-01T08:20:00", // 8
        "2025-03-01T08:40:00", // 9
        "2025-03-01T09:00:00", // 10
        "2025-03-02T00:10:00", // 11
        "2025-03-02T23:50:00", // 12
        "2025-03-03T00:10:00", // 13
    ];

    #[test]
    fn each_rule_keeps_what_it_says() {
        let none = Keep::default();
        let table: &[(Keep, &[usize])] = &[
            (Keep { last: 3, ..none.clone() }, &[11, 12, 13]),
            (Keep { last: 99, ..none.clone() }, &[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13]),
            (Keep { hourly: 5, ..none.clone() }, &[9, 10, 11, 12, 13]),
            (Keep { daily: 3, ..none.clone() }, &[10, 12, 13]),
            (Keep { daily: 99, ..none.clone() }, &[0, 1, 2, 3, 4, 5, 6, 10, 12, 13]),
            // Week 10 begins on Monday, March 3rd; week 1 of 2025 holds the last days of 2024.
            (Keep { weekly: 99, ..none.clone() }, &[0, 1, 5, 6, 12, 13]),
            (Keep { monthly: 99, ..none.clone() }, &[0, 3, 6, 13]),
            (Keep { yearly: 99, ..none.clone() }, &[3, 13]),
            (Keep { yearly: 1, ..none.clone() }, &[13]),
            (Keep { last: 1, daily: 2, monthly: 2, ..none.clone() }, &[6, 12, 13]),
            (Keep { all: true, last: 1, ..none.clone() }, &[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13]),
            (none, &[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13]),
        ];
        for (keep, expected) in table {
            assert_eq!(kept(keep, &at(&TIMES), &TimeZone::UTC), *expected, "{keep}");
        }
    }

    #[test]
    fn each_snapshot_that_stays_says_by_which_rules() {
        let keep = Keep { last: 1, daily: 2, yearly: 2, ..Keep::default() };
        let now = "2035-01-01T00:00:00Z".parse().unwrap();
        let decisions = decide(&keep, &at(&TIMES), now, &TimeZone::UTC);
        let said =
            |number: usize| decisions[number].reasons.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ");
        assert_eq!(said(13), "newest; last; daily 2025-03-03; yearly 2025");
        assert_eq!(said(12), "daily 2025-03-02");
        assert_eq!(said(3), "yearly 2024");
        assert_eq!(said(11), "");
    }

    #[test]
    fn periods_are_those_of_the_receivers_time_zone() {
        let daily = Keep { daily: 99, ..Keep::default() };
        // In Auckland it is the next day already at 12:00 UTC in summer; in Honolulu it is the day before until 10:00 UTC.
        assert_eq!(
            kept(&daily, &at(&["2025-01-01T10:00:00", "2025-01-01T12:00:00"]), &zone("Pacific/Auckland")),
            [0, 1]
        );
        assert_eq!(
            kept(&daily, &at(&["2025-01-01T09:00:00", "2025-01-01T11:00:00"]), &zone("Pacific/Honolulu")),
            [0, 1]
        );
        assert_eq!(kept(&daily, &at(&["2025-01-01T10:00:00", "2025-01-01T12:00:00"]), &TimeZone::UTC), [1]);
    }

    #[test]
    fn a_night_in_which_clocks_are_changed_is_one_day_and_the_hour_that_comes_twice_is_two() {
        let berlin = zone("Europe/Berlin");
        let hourly = Keep { hourly: 99, ..Keep::default() };
        let daily = Keep { daily: 99, ..Keep::default() };
        // 02:30 summer time, then 02:30 winter time, then 03:30.
        let autumn = at(&["2025-10-26T00:30:00", "2025-10-26T01:30:00", "2025-10-26T02:30:00"]);
        assert_eq!(kept(&hourly, &autumn, &berlin), [0, 1, 2]);
        // The day lasts from 22:00 UTC to 23:00 UTC a day later.
        let day = at(&["2025-10-25T21:59:00", "2025-10-25T22:00:00", "2025-10-26T22:59:00", "2025-10-26T23:00:00"]);
        assert_eq!(kept(&daily, &day, &berlin), [0, 2, 3]);
        // In spring there is no hour from 2 to 3: 01:59 and 03:00 are a minute apart, and two hours.
        let spring = at(&["2025-03-30T00:59:00", "2025-03-30T01:00:00"]);
        assert_eq!((kept(&hourly, &spring, &berlin), kept(&daily, &spring, &berlin)), (vec![0, 1], vec![1]));
    }

    #[test]
    fn within_goes_by_now_and_tags_and_what_was_brought_back_lately_stay() {
        let keep = Keep { within: "90d".parse().ok(), tag: vec!["tax".to_owned()], ..Keep::default() };
        let mut snapshots = at(&TIMES);
        snapshots[1].tag = Some("tax".to_owned());
        snapshots[2].tag = Some("other".to_owned());
        snapshots[3].brought_back = "2025-03-02T09:00:00Z".parse().ok();
        snapshots[4].brought_back = "2025-02-01T09:00:00Z".parse().ok();
        let now = "2025-05-30T09:00:00Z".parse().unwrap();
        let decisions = decide(&keep, &snapshots, now, &TimeZone::UTC);
        let stays: Vec<_> = decisions.iter().enumerate().filter(|(_, d)| d.stays()).map(|(number, _)| number).collect();
        assert_eq!(stays, [1, 3, 11, 12, 13]);
        assert_eq!(decisions[3].reasons, [Reason::BroughtBack]);
        assert_eq!(decisions[1].reasons, [Reason::Tag("tax".to_owned())]);
    }

    #[test]
    fn the_newest_and_what_is_younger_than_a_week_stay_whatever_the_rules() {
        let keep = Keep { last: 1, ..Keep::default() };
        let now = "2025-03-08T08:30:00Z".parse().unwrap();
        let decisions = decide(&keep, &at(&TIMES), now, &TimeZone::UTC);
        let stays: Vec<_> = decisions.iter().enumerate().filter(|(_, d)| d.stays()).map(|(number, _)| number).collect();
        assert_eq!(stays, [9, 10, 11, 12, 13]);
        let only = decide(&Keep { yearly: 1, ..Keep::default() }, &at(&TIMES[..1]), now, &TimeZone::UTC);
        assert_eq!(only[0].reasons[0], Reason::Newest);
        // A receipt from the future (the clock was wrong once) is young, too.
        let future = at(&["2024-01-01T00:00:00", "2030-01-01T00:00:00", "2030-01-01T00:00:01"]);
        let stays: Vec<_> = decide(&keep, &future, now, &TimeZone::UTC).iter().map(Decision::stays).collect();
        assert_eq!(stays, [false, true, true]);
    }

    #[test]
    fn no_time_is_too_odd_for_the_rules() {
        let mut snapshots = at(&["2025-01-01T00:00:00"; 3]);
        snapshots[0].received_at = Timestamp::MIN;
        snapshots[2].received_at = Timestamp::MAX;
        let keep = Keep { hourly: 9, weekly: 9, monthly: 9, within: "9y".parse().ok(), ..Keep::default() };
        for now in [Timestamp::MIN, Timestamp::UNIX_EPOCH, Timestamp::MAX] {
            for name in ["Pacific/Kiritimati", "Pacific/Honolulu"] {
                let decisions = decide(&keep, &snapshots, now, &zone(name));
                assert!(decisions[2].stays());
            }
        }
    }
}
