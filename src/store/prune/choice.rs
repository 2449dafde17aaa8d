//! What the keep rules make of the snapshots of a repository. Reads receipts and records, nothing else.

use crate::model::{Keep, SetName, SnapshotId, Totals};
use crate::store::error::Result;
use crate::store::prune::brake::Freeze;
use crate::store::prune::freezes::Freezes;
use crate::store::repository::Repository;
use crate::store::retention::{Candidate, Decision, Reason, decide};
use jiff::Timestamp;
use jiff::tz::TimeZone;

/// The keep rules of each set; `None` for a set that is not to be looked at.
pub type Rules<'a> = &'a (dyn Fn(&SetName) -> Option<Keep> + Sync);

/// One set, and what the rules make of it.
#[derive(Clone, Debug)]
pub struct SetChoice {
    /// Which.
    pub set: SetName,
    /// By which rules.
    pub keep: Keep,
    /// Why nothing of it is forgotten until a person has looked.
    pub frozen: Vec<Freeze>,
    /// Its snapshots that are not forgotten yet, oldest first.
    pub snapshots: Vec<Choice>,
}

/// One snapshot, and what becomes of it.
#[derive(Clone, Debug)]
pub struct Choice {
    /// Which.
    pub id: SnapshotId,
    /// Its place in the chain.
    pub sequence: u64,
    /// When it came, by the receiver's clock.
    pub received_at: Timestamp,
    /// What it says is in it.
    pub totals: Totals,
    /// Why it stays; nothing means that the rules do not want it.
    pub reasons: Vec<Reason>,
}

impl SetChoice {
    /// Those that the rules do not want; none while the set is frozen.
    pub fn unwanted(&self) -> impl Iterator<Item = &Choice> {
        self.snapshots.iter().filter(|choice| self.frozen.is_empty() && choice.reasons.is_empty())
    }
}

/// Applies rules to all sets of a repository, by name; those that are stopped are so, whatever the rules.
pub fn choose(
    repository: &Repository,
    rules: Rules<'_>,
    now: Timestamp,
    zone: &TimeZone,
    mut freezes: Freezes,
) -> Result<Vec<SetChoice>> {
    let forgotten = repository.forgotten.all()?;
    let brought_back = repository.forgotten.brought_back()?;
    let all = repository.records.all()?;
    let mut choices = Vec::new();
    // By set and sequence.
    for chain in all.good.chunk_by(|one, next| one.record.set == next.record.set) {
        let set = &chain[0].record.set;
        let Some(keep) = rules(set) else { continue };
        let present: Vec<_> = chain.iter().filter(|kept| !forgotten.contains_key(&kept.info.id)).collect();
        let candidates: Vec<_> = present
            .iter()
            .map(|kept| Candidate::of(&kept.info, &kept.record, brought_back.get(&kept.info.id).copied()))
            .collect();
        let decisions = decide(&keep, &candidates, now, zone);
        let snapshots = present.iter().zip(decisions).map(|(kept, Decision { id, received_at, reasons })| Choice {
            id,
            sequence: kept.record.sequence,
            received_at,
            totals: kept.record.totals,
            reasons,
        });
        let snapshots = snapshots.collect();
        let frozen = freezes.remove(set).unwrap_or_default();
        choices.push(SetChoice { set: set.clone(), keep, frozen, snapshots });
    }
    Ok(choices)
}
