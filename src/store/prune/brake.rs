//! The brake: what looks like malware at a source, or like a wrong clock here, keeps snapshots of before from being forgotten until a
//! person has looked. Pure.
//!
//! How many files are lost or changed goes by what records say of themselves, and a source that lies there hides that. What it has
//! rewritten is measured here ([`rewritten`](crate::store::prune::rewritten)), and the clock is this device's own
//! ([`clock_watch`](crate::store::prune::clock_watch)). Beside the brake there is the week in which nothing is forgotten, and the one in which it can be
//! brought back.

use crate::model::{Changes, SetName, SnapshotId, Totals};
use crate::store::prune::clock_watch::{Jump, LEAP};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use std::fmt;

/// A snapshot that lacks more than this share of the files of the one before stops forgetting.
pub const LOST_PERCENT: u64 = 50;
/// So does one that rewrites more than this share of the bytes of the one before, or changes as many of its files.
pub const REWRITTEN_PERCENT: u64 = 70;
/// Of so few files nothing is said: whoever keeps two files and deletes one is not attacked.
const FEW_FILES: u64 = 10;
/// How many files there are, a source says, and what it says is not checked: so that holds only for so few bytes, which were measured here.
const FEW_BYTES: u64 = 1 << 20;

/// What a snapshot has rewritten of an earlier one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rewrite {
    /// Bytes that the earlier one needed, its list left out.
    pub before: u64,
    /// How many of them it does not need any more.
    pub lost: u64,
    /// The earlier one, when that is not the one before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<SnapshotId>,
}

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
    /// In a snapshot most bytes of the one before are gone.
    Bytes {
        /// Which.
        id: SnapshotId,
        /// How much that is.
        rewrite: Rewrite,
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
    /// The clock has jumped.
    Jump {
        /// The newest.
        id: SnapshotId,
        /// What the time should have been.
        from: Timestamp,
        /// What it was.
        to: Timestamp,
    },
}

impl Freeze {
    /// The snapshot that a person has to look at.
    pub fn snapshot(&self) -> SnapshotId {
        match self {
            Self::Lost { id, .. }
            | Self::Bytes { id, .. }
            | Self::Rewritten { id, .. }
            | Self::Clock { id, .. }
            | Self::Jump { id, .. } => *id,
        }
    }

    /// What programs call it.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Lost { .. } => "files-lost",
            Self::Bytes { .. } => "bytes-rewritten",
            Self::Rewritten { .. } => "files-rewritten",
            Self::Clock { .. } => "receipt-in-the-future",
            Self::Jump { .. } => "clock-jumped",
        }
    }

    /// What a person can do.
    pub fn hint(&self, set: &str) -> String {
        match self {
            Self::Clock { .. } | Self::Jump { .. } => {
                format!("set the clock right; if it is right now, `lan-backup prune --release {set}`")
            }
            Self::Bytes { rewrite: Rewrite { since: Some(since), .. }, .. } => format!(
                "if that was meant, `lan-backup prune --release {set}`; if not, restore {}, which is kept",
                since.short()
            ),
            _ => format!(
                "if that was meant, `lan-backup prune --release {set}`; if not, restore the one before it, which is kept"
            ),
        }
    }
}

impl fmt::Display for Freeze {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Lost { id, before, lost } => {
                write!(f, "snapshot {} lacks {lost} of the {before} files that were there before it", id.short())
            }
            Self::Bytes { id, rewrite: Rewrite { before, lost, since } } => {
                let percent = lost.saturating_mul(100) / before.max(&1);
                write!(f, "snapshot {} has rewritten {percent} % of the bytes that were there ", id.short())?;
                match since {
                    None => f.write_str("before it"),
                    Some(since) => write!(f, "a week before it, in snapshot {}", since.short()),
                }
            }
            Self::Rewritten { id, before, changed } => write!(
                f,
                "in snapshot {} {changed} of the {before} files that were there before it have other content",
                id.short()
            ),
            Self::Clock { received_at, .. } => {
                write!(
                    f,
                    "the newest snapshot came at {}, more than a day after now: the clock of this device was wrong, or is",
                    to_the_minute(*received_at)
                )
            }
            Self::Jump { from, to, .. } => {
                let (from, to) = (to_the_minute(*from), to_the_minute(*to));
                write!(f, "the clock of this device has jumped: to {to}, when it should have been {from}")
            }
        }
    }
}

/// For people: nobody compares clocks by the nanosecond.
fn to_the_minute(time: Timestamp) -> String {
    time.strftime("%F %H:%M UTC").to_string()
}

/// Whether a snapshot looks like malware, beside the one before it: by what it says, and by what was measured when that was too much.
pub fn look(
    before: &Totals,
    id: SnapshotId,
    totals: &Totals,
    changes: &Changes,
    rewrite: Option<Rewrite>,
) -> Option<Freeze> {
    let files = before.files;
    let lost = changes.deleted_files.max(files.saturating_sub(totals.files));
    let few = files < FEW_FILES;
    if !few && more_than(lost, files, LOST_PERCENT) {
        Some(Freeze::Lost { id, before: files, lost })
    } else if let Some(rewrite) =
        rewrite.filter(|rewrite| is_rewritten(rewrite) && (!few || rewrite.before >= FEW_BYTES))
    {
        Some(Freeze::Bytes { id, rewrite })
    } else if few {
        None
    } else if more_than(changes.changed_files, files, REWRITTEN_PERCENT) {
        Some(Freeze::Rewritten { id, before: files, changed: changes.changed_files })
    } else {
        None
    }
}

/// Whether so much was rewritten that a person has to look.
pub fn is_rewritten(rewrite: &Rewrite) -> bool {
    more_than(rewrite.lost, rewrite.before, REWRITTEN_PERCENT)
}

fn more_than(part: u64, whole: u64, percent: u64) -> bool {
    u128::from(part) * 100 > u128::from(whole) * u128::from(percent)
}

/// Whether the clock is wrong, as the newest receipt shows.
pub fn clock(id: SnapshotId, newest: Timestamp, now: Timestamp) -> Option<Freeze> {
    (newest.duration_since(now) > LEAP).then_some(Freeze::Clock { id, received_at: newest })
}

/// Whether a jump of the clock stops a set, whose newest snapshot this is.
pub fn jump(id: SnapshotId, set: &SetName, jump: Option<&Jump>) -> Option<Freeze> {
    let jump = jump.filter(|jump| !jump.released.contains(set))?;
    Some(Freeze::Jump { id, from: jump.from, to: jump.to })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_compares_clocks_by_the_nanosecond() {
        let at = |text: &str| text.parse::<Timestamp>().unwrap();
        let (from, to) = (at("2026-05-02T12:00:00.123456789Z"), at("2027-01-02T03:04:05.987654321Z"));
        let id = SnapshotId::from_bytes([1; 32]);
        let jump = Freeze::Jump { id, from, to }.to_string();
        assert!(jump.contains("to 2027-01-02 03:04 UTC") && jump.ends_with("2026-05-02 12:00 UTC"), "{jump}");
        let clock = Freeze::Clock { id, received_at: to }.to_string();
        assert!(clock.contains("2027-01-02 03:04 UTC,") && !clock.contains("987654321"), "{clock}");
    }

    #[test]
    fn losing_half_or_rewriting_most_stops_and_less_does_not() {
        let id = SnapshotId::from_bytes([1; 32]);
        let look = |files, deleted_files, changed_files, rewrite| {
            let before = Totals { entries: files, files, bytes: 0 };
            look(&before, id, &before, &Changes { new_files: 0, changed_files, deleted_files }, rewrite)
        };
        let (before, after) = (Totals { files: 100, ..Totals::default() }, Totals { files: 40, ..Totals::default() });
        assert_eq!(
            super::look(&before, id, &after, &Changes::default(), None),
            Some(Freeze::Lost { id, before: 100, lost: 60 })
        );
        assert_eq!(look(100, 50, 70, None), None);
        assert_eq!(look(100, 51, 0, None), Some(Freeze::Lost { id, before: 100, lost: 51 }));
        assert_eq!(look(100, 0, 71, None), Some(Freeze::Rewritten { id, before: 100, changed: 71 }));
        assert_eq!(look(9, 9, 9, None), None);
        // One large file among many small ones is most of the bytes.
        let rewrite = |before, lost| Rewrite { before, lost, since: None };
        let (less, more) = (rewrite(1000, 700), rewrite(1000, 701));
        assert_eq!(look(100, 0, 1, Some(less)), None);
        assert_eq!(look(100, 0, 1, Some(more)), Some(Freeze::Bytes { id, rewrite: more }));
        assert_eq!(look(9, 0, 1, Some(more)), None);
        // That there are few files is only said.
        let large = rewrite(FEW_BYTES, FEW_BYTES / 100 * 71);
        assert_eq!(look(0, 0, 0, Some(large)), Some(Freeze::Bytes { id, rewrite: large }));
        assert_eq!(look(0, 0, 0, Some(rewrite(FEW_BYTES - 1, FEW_BYTES - 1))), None);
        assert!(look(u64::MAX, u64::MAX, 0, None).is_some(), "numbers that no device has overflow nothing");
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
