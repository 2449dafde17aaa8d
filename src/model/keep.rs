//! What is to be kept of a set, as a person says it: so many of the last, one for each of so many days, all of the last month.

use crate::model::ParseError;
use jiff::{Timestamp, tz::TimeZone};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;
use std::str::FromStr;

/// Keep rules. A snapshot stays when any of them wants it; none at all means that everything stays.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Keep {
    /// Everything: what a set that must never be thinned out says.
    pub all: bool,
    /// The newest so many.
    pub last: u32,
    /// The newest of each of so many hours that have any.
    pub hourly: u32,
    /// The newest of each of so many days.
    pub daily: u32,
    /// The newest of each of so many weeks, which begin on Monday.
    pub weekly: u32,
    /// The newest of each of so many months.
    pub monthly: u32,
    /// The newest of each of so many years.
    pub yearly: u32,
    /// All that came within this time.
    pub within: Option<Within>,
    /// All that carry one of these tags.
    pub tag: Vec<String>,
}

impl Keep {
    /// No rule at all.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

impl fmt::Display for Keep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.all || self.is_empty() {
            return f.write_str("everything");
        }
        let counted = [
            ("last", self.last),
            ("hourly", self.hourly),
            ("daily", self.daily),
            ("weekly", self.weekly),
            ("monthly", self.monthly),
            ("yearly", self.yearly),
        ];
        let mut parts: Vec<String> =
            counted.iter().filter(|(_, count)| *count > 0).map(|(name, count)| format!("{name} {count}")).collect();
        parts.extend(self.within.map(|within| format!("within {within}")));
        parts.extend(self.tag.iter().map(|tag| format!("tag {}", crate::model::text::clean(tag))));
        f.write_str(&parts.join(", "))
    }
}

/// A length of time as people say it: `14d`, `2y`, `1y6m`, `36h`. Years, months, weeks, days and hours of the calendar.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Within {
    years: u16,
    months: u16,
    weeks: u16,
    days: u16,
    hours: u16,
}

impl Within {
    /// So long before `now`; the beginning of time when that is earlier than any calendar goes.
    pub fn before(&self, now: Timestamp, zone: &TimeZone) -> Timestamp {
        let span = jiff::Span::new()
            .try_years(self.years)
            .and_then(|span| span.try_months(self.months))
            .and_then(|span| span.try_weeks(self.weeks))
            .and_then(|span| span.try_days(self.days))
            .and_then(|span| span.try_hours(self.hours));
        let then = span.and_then(|span| now.to_zoned(zone.clone()).checked_sub(span));
        then.map_or(Timestamp::MIN, |then| then.timestamp())
    }
}

impl FromStr for Within {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let wrong = || ParseError::new("duration", text, "is not one like 14d, 8w, 1y6m or 36h");
        let mut within = Self::default();
        let mut rest = text;
        while !rest.is_empty() {
            let digits = rest.find(|c: char| !c.is_ascii_digit()).ok_or_else(wrong)?;
            let number: u16 = rest[..digits].parse().map_err(|_| wrong())?;
            let unit = rest[digits..].chars().next().ok_or_else(wrong)?;
            let field = match unit {
                'y' => &mut within.years,
                'm' => &mut within.months,
                'w' => &mut within.weeks,
                'd' => &mut within.days,
                'h' => &mut within.hours,
                _ => return Err(wrong()),
            };
            if number == 0 || *field != 0 {
                return Err(wrong());
            }
            *field = number;
            rest = &rest[digits + unit.len_utf8()..];
        }
        if within == Self::default() { Err(wrong()) } else { Ok(within) }
    }
}

impl fmt::Display for Within {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let units = [(self.years, 'y'), (self.months, 'm'), (self.weeks, 'w'), (self.days, 'd'), (self.hours, 'h')];
        units.iter().filter(|(number, _)| *number > 0).try_for_each(|(number, unit)| write!(f, "{number}{unit}"))
    }
}

impl Serialize for Within {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Within {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_as_people_write_them_and_nothing_else_is() {
        for text in ["14d", "2y", "1y6m", "36h", "1y2m3w4d5h"] {
            assert_eq!(text.parse::<Within>().unwrap().to_string(), text);
        }
        for bad in ["", "d", "14", "14x", "0d", "1d2d", "-1d", "70000d", "1 d", "1.5d", "é"] {
            assert!(bad.parse::<Within>().is_err(), "{bad}");
        }
    }

    #[test]
    fn durations_go_by_the_calendar() {
        let zone = TimeZone::get("Europe/Berlin").unwrap();
        let now: Timestamp = "2026-03-30T10:00:00Z".parse().unwrap();
        let before = |text: &str| text.parse::<Within>().unwrap().before(now, &zone).to_string();
        // Noon two days before, although a night in between had only 23 hours.
        assert_eq!(before("2d"), "2026-03-28T11:00:00Z");
        assert_eq!(before("48h"), "2026-03-28T10:00:00Z");
        // There is no 30th of February.
        assert_eq!(before("1m"), "2026-02-28T11:00:00Z");
        assert_eq!(before("65535y"), Timestamp::MIN.to_string());
    }

    #[test]
    fn rules_say_what_they_are() {
        let keep = Keep { last: 3, daily: 14, within: "30d".parse().ok(), ..Keep::default() };
        assert_eq!(keep.to_string(), "last 3, daily 14, within 30d");
        assert_eq!(Keep::default().to_string(), "everything");
    }
}
