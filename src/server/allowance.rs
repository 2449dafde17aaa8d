//! What may happen by itself only so often in a day, whoever asks, and a restart does not start a new day: twenty pairing windows, and
//! twenty new senders of LocalSend that no person and no PIN has let in.
//!
//! The count is kept as the times of the last twenty, in a file, saved durably *before* it happens. A damaged file counts
//! as used up until now: forgetting it would be a way around it.

use crate::platform;
use crate::platform::durable::{self, Access};
use crate::platform::fs;
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// Windows that open by themselves in any 24 hours: 60 guesses among a million PINs, counted for the whole device.
pub(crate) const WINDOWS_A_DAY: usize = 20;
const DAY: SignedDuration = SignedDuration::from_hours(24);
/// Repositories that are made in any 24 hours for LocalSend senders whom nobody vouched for: certificates cost nothing, and each
/// repository stays for ever.
pub(crate) const NEW_SENDERS_A_DAY: usize = 20;
const FILE: &str = "pairing-windows.json";
const SENDERS_FILE: &str = "new-senders.json";

#[derive(Debug, Default, Serialize, Deserialize)]
struct Content {
    opened: Vec<Timestamp>,
}

/// The count.
#[derive(Debug)]
pub(crate) struct Allowance {
    path: PathBuf,
    most: usize,
}

impl Allowance {
    /// The count of windows kept in `folder`.
    pub(crate) fn new(folder: &Path) -> Self {
        Self { path: folder.join(FILE), most: WINDOWS_A_DAY }
    }

    /// The count of new LocalSend senders kept in `folder`.
    pub(crate) fn of_new_senders(folder: &Path) -> Self {
        Self { path: folder.join(SENDERS_FILE), most: NEW_SENDERS_A_DAY }
    }

    /// Takes one from the day's allowance. `Err` inside when it is used up: how long until one is free again.
    pub(crate) fn take(&self, now: Timestamp) -> platform::Result<Result<(), SignedDuration>> {
        let mut content = match fs::read_if_there(&self.path)? {
            None => Content::default(),
            Some(bytes) => serde_json::from_slice(&bytes).unwrap_or(Content { opened: vec![now; self.most] }),
        };
        // A time ahead of the clock counts as recent: setting a clock back frees nothing.
        content.opened.retain(|at| now.duration_since(*at) < DAY);
        if content.opened.len() >= self.most {
            let oldest = content.opened.iter().min().copied().unwrap_or(now);
            let age = now.duration_since(oldest).max(SignedDuration::ZERO);
            self.save(&content)?;
            return Ok(Err(DAY.saturating_sub(age)));
        }
        content.opened.push(now);
        self.save(&content)?;
        Ok(Ok(()))
    }

    fn save(&self, content: &Content) -> platform::Result<()> {
        if let Some(folder) = self.path.parent() {
            fs::create_private_dir_all(folder)?;
        }
        let bytes = serde_json::to_vec(content).expect("a list of times has no keys");
        durable::save(&self.path, Access::Private, &bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(hours: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + hours * 3600).unwrap()
    }

    #[test]
    fn the_twenty_first_window_of_a_day_is_refused_even_after_a_restart() {
        let folder = tempfile::tempdir().unwrap();
        for _ in 0..WINDOWS_A_DAY {
            assert_eq!(Allowance::new(folder.path()).take(at(0)).unwrap(), Ok(()));
        }
        assert_eq!(Allowance::new(folder.path()).take(at(1)).unwrap(), Err(SignedDuration::from_hours(23)));
        assert_eq!(Allowance::new(folder.path()).take(at(-100)).unwrap(), Err(DAY), "a clock set back frees nothing");
        assert_eq!(Allowance::new(folder.path()).take(at(24)).unwrap(), Ok(()));
    }

    #[test]
    fn a_damaged_count_counts_as_used_up() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join(FILE), b"{\"opened\":[").unwrap();
        assert!(Allowance::new(folder.path()).take(at(0)).unwrap().is_err());
        assert!(Allowance::new(folder.path()).take(at(23)).unwrap().is_err());
        assert_eq!(Allowance::new(folder.path()).take(at(25)).unwrap(), Ok(()));
    }
}
