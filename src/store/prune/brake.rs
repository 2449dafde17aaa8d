//! The brake: what looks like malware at a source, or like a wrong clock here, keeps snapshots of before from being forgotten until a
//! person has looked. Pure.
//!
//! It goes by what records say of themselves. A source that lies there can hide what it does from this rule; what protects against that
//! is the week in which nothing is forgotten, and the one in which it can be brought back.

use crate::model::{Changes, SnapshotId, Totals};
use jiff::{SignedDuration, Timestamp};
use std::fmt;

/// A snapshot that lacks more than this share of the files of the one before stops forgetting.
pub const LOST_PERCENT: u64 = 50;
/// So does one in which more than this share of the files of the one before has other content.
pub const REWRITTEN_PERCENT: u64 = 70;
/// A receipt that lies so far in the future shows that the clock was wrong, or is.
pub const CLOCK_LEAP: SignedDuration = SignedDuration::from_hours(24);
/// Of so few files nothing is said: whoever keeps two files and deletes one is not attacked.
const FEW_FILES: u64 = 10;

/// Why nothing of a set is forgotten.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Freeze {
    /// A snapshot lacks most files of the one before.
    Lost {
        /// Which.
        id: SnapshotId,
        /// Files that the one before had.
        before: u64,
        /// How many of them it lacks.
        lost: u64,
    },
    /// In a snapshot most files have other content than before.
    Rewritten {
        /// Which.
        id: SnapshotId,
        /// Files that the one before had.
        before: u64,
        /// How many of them have changed.
        changed: u64,
    },
    /// A receipt lies in the future.
    Clock {
        /// The newest.
        id: SnapshotId,
        /// When the newest snapshot came, as its receipt says.
        received_at: Timestamp,
    },
}

impl Freeze {
    /// The snapshot that a person has to look at.
    pub fn snapshot(&self) -> SnapshotId {
        match self {
            Self::Lost { id, .. } | Self::Rewritten { id, .. } | Self::Clock { id, .. } => *id,
        }
    }
}

impl fmt::Display for Freeze {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Lost { id, before, lost } => {
                write!(f, "snapshot {} lacks {lost} of the {before} files that were there before it", id.short())
            }
            Self::Rewritten { id, before, changed } => write!(
                f,
                "in snapshot {} {changed} of the {before} files that were there before it have other content",
                id.short()
            ),
            Self::Clock { received_at, .. } => {
                write!(
                    f,
                    "the newest snapshot came at {received_at}, more than a day after now: the clock of this device was wrong, or is"
                )
            }
        }
    }
}

/// Whether a snapshot looks like malware, beside the one before it.
pub fn look(before: &Totals, id: SnapshotId, totals: &Totals, changes: &Changes) -> Option<Freeze> {
    let files = before.files;
    let lost = changes.deleted_files.max(files.saturating_sub(totals.files));
    let more_than = |part: u64, percent: u64| part.saturating_mul(100) > files.saturating_mul(percent);
    if files < FEW_FILES {
        None
    } else if more_than(lost, LOST_PERCENT) {
        Some(Freeze::Lost { id, before: files, lost })
    } else if more_than(changes.changed_files, REWRITTEN_PERCENT) {
        Some(Freeze::Rewritten { id, before: files, changed: changes.changed_files })
    } else {
        None
    }
}

/// Whether the clock is wrong, as the newest receipt shows.
pub fn clock(id: SnapshotId, newest: Timestamp, now: Timestamp) -> Option<Freeze> {
    (newest.duration_since(now) > CLOCK_LEAP).then_some(Freeze::Clock { id, received_at: newest })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn losing_half_or_rewriting_most_stops_and_less_does_not() {
        let id = SnapshotId::from_bytes([1; 32]);
        let look = |files, deleted_files, changed_files| {
            let before = Totals { entries: files, files, bytes: 0 };
            look(&before, id, &before, &Changes { new_files: 0, changed_files, deleted_files })
        };
        let (before, after) = (Totals { files: 100, ..Totals::default() }, Totals { files: 40, ..Totals::default() });
        assert_eq!(
            super::look(&before, id, &after, &Changes::default()),
            Some(Freeze::Lost { id, before: 100, lost: 60 })
        );
        assert_eq!(look(100, 50, 70), None);
        assert_eq!(look(100, 51, 0), Some(Freeze::Lost { id, before: 100, lost: 51 }));
        assert_eq!(look(100, 0, 71), Some(Freeze::Rewritten { id, before: 100, changed: 71 }));
        assert_eq!(look(9, 9, 9), None);
        assert!(look(u64::MAX, u64::MAX, 0).is_none(), "numbers that no device has overflow nothing");
    }

    #[test]
    fn a_receipt_from_the_future_stops() {
        let now: Timestamp = "2026-05-01T12:00:00Z".parse().unwrap();
        let id = SnapshotId::from_bytes([1; 32]);
        assert_eq!(clock(id, "2026-05-02T12:00:00Z".parse().unwrap(), now), None);
        let later = "2026-05-02T12:00:01Z".parse().unwrap();
        assert_eq!(clock(id, later, now), Some(Freeze::Clock { id, received_at: later }));
        assert_eq!(clock(id, Timestamp::MIN, now), None);
    }
}
