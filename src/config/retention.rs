//! `[retention]` of the settings file: what this device keeps of what others back up to it. Without it, everything, for ever.

use crate::model::{Keep, SetName};
use serde::Deserialize;

/// How long a forgotten snapshot can be brought back, unless the settings say otherwise.
pub const TRASH_DAYS: u32 = 7;
/// No shorter: a night to notice, and longer than any clock is wrong by a time zone.
pub const MIN_TRASH_DAYS: u32 = 1;

/// What the section says.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Retention {
    /// What is kept of each set.
    pub keep: Keep,
    /// How long a forgotten snapshot can be brought back.
    pub trash_days: Option<TrashDays>,
    /// What is kept of certain devices and sets instead. Of several that fit, the last one counts.
    pub rule: Vec<Rule>,
}

/// What is kept of certain sets, in place of what holds for all.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// Of this device: its alias or the beginning of its fingerprint; of every device otherwise.
    pub device: Option<String>,
    /// Of this set; of every set otherwise.
    pub set: Option<SetName>,
    /// What is kept.
    pub keep: Keep,
}

/// A number of days, no fewer than [`MIN_TRASH_DAYS`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "u32")]
pub struct TrashDays(u32);

impl TrashDays {
    /// The number.
    pub fn get(self) -> u32 {
        self.0
    }
}

impl Default for TrashDays {
    fn default() -> Self {
        Self(TRASH_DAYS)
    }
}

impl TryFrom<u32> for TrashDays {
    type Error = String;

    fn try_from(days: u32) -> Result<Self, String> {
        if (MIN_TRASH_DAYS..=3650).contains(&days) {
            Ok(Self(days))
        } else {
            Err(format!("what is forgotten stays for {MIN_TRASH_DAYS} to 3650 days, not for {days}"))
        }
    }
}

impl std::str::FromStr for TrashDays {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let days: u32 = text.parse().map_err(|_| format!("`{text}` is not a number of days"))?;
        days.try_into()
    }
}

impl Retention {
    /// Whether any set may lose anything.
    pub fn has_rules(&self) -> bool {
        let thins = |keep: &Keep| !keep.is_empty() && !keep.all;
        thins(&self.keep) || self.rule.iter().any(|rule| thins(&rule.keep))
    }

    /// What is kept of a set of a device, of which `is_device` says whether a text means it.
    pub fn keep_for(&self, set: &SetName, is_device: impl Fn(&str) -> bool) -> &Keep {
        let fits = |rule: &&Rule| {
            rule.device.as_deref().is_none_or(&is_device) && rule.set.as_ref().is_none_or(|other| other == set)
        };
        self.rule.iter().rfind(fits).map_or(&self.keep, |rule| &rule.keep)
    }

    /// What is wrong with the rules as a whole.
    pub(crate) fn problem(&self) -> Option<String> {
        let rule = self.rule.iter().find(|rule| rule.keep.is_empty())?;
        let (device, set) = (rule.device.as_deref().unwrap_or("*"), rule.set.as_ref().map_or("*", SetName::as_str));
        Some(format!(
            "the retention rule for device `{device}`, set `{set}` says nothing: to keep everything, say `keep = {{ all = true }}`"
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Retention, toml::de::Error> {
        toml::from_str(text)
    }

    #[test]
    fn the_last_rule_that_fits_counts_and_else_what_holds_for_all() {
        let retention = parse(
            "keep = { daily = 14, within = \"30d\" }\n[[rule]]\ndevice = \"laptop\"\nkeep = { last = 5 }\n\
             [[rule]]\nset = \"Photos\"\nkeep = { all = true }\n",
        )
        .unwrap();
        let keep =
            |device: &str, set: &str| retention.keep_for(&set.parse().unwrap(), |text| text == device).to_string();
        assert_eq!(keep("desktop", "Documents"), "daily 14, within 30d");
        assert_eq!(keep("laptop", "Documents"), "last 5");
        assert_eq!(keep("laptop", "Photos"), "everything");
        assert!(retention.has_rules() && retention.problem().is_none());
        assert!(!Retention::default().has_rules());
        assert!(!parse("[[rule]]\nkeep = { all = true }").unwrap().has_rules());
    }

    #[test]
    fn what_is_misspelt_too_short_or_empty_is_refused() {
        for bad in [
            "keep = { dayly = 3 }",
            "keep_daily = 3",
            "keep = { daily = -1 }",
            "keep = { within = \"3 weeks\" }",
            "trash_days = 0",
            "[[rule]]\ndevise = \"x\"\nkeep = { last = 1 }",
            "[[rule]]\ndevice = \"x\"",
        ] {
            assert!(parse(bad).is_err(), "{bad}");
        }
        assert!(parse("[[rule]]\ndevice = \"x\"\nkeep = {}").unwrap().problem().unwrap().contains("`x`"));
        assert_eq!(parse("trash_days = 30").unwrap().trash_days.unwrap_or_default().get(), 30);
    }
}
