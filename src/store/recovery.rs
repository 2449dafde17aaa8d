//! What opening a store finds and puts right after a crash.
//!
//! A process that dies leaves its drafts in its staging folder. Those that are whole packs are saved: each byte is checked,
//! and the pack is written anew by the durable routine. Anew, because a sync of the old file could have failed just before,
//! and the system reports that only once; it costs at most what may be pending.

use crate::model::{PackId, RepositoryId};
use crate::store::error::Result;
use crate::store::folder_shelf::StaleStaging;
use crate::store::index::Reconciled;
use crate::store::layout::{self, MAX_PACK_BYTES};
use crate::store::pack;
use crate::store::shelf::{Object, Shelf};
use std::fmt;

/// What opening a store found. Shown line by line; nothing to show means that all is well.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RecoveryReport {
    /// Whole packs that a crash had left and that are in place now.
    pub rescued_packs: u64,
    /// Pieces that a crash had left and that were no whole pack; the source sends them again.
    pub discarded_drafts: u64,
    /// Packs that the index did not know.
    pub indexed_packs: u64,
    /// Indexes that were damaged or gone and were built anew.
    pub rebuilt_indexes: u64,
    /// Packs that the index knew and that are gone.
    pub vanished_packs: Vec<PackId>,
    /// Packs that cannot be read, and why.
    pub unreadable_packs: Vec<(PackId, String)>,
    /// Records that cannot be read, and why.
    pub unreadable_records: Vec<(String, String)>,
    /// Repositories whose owner log another device's key has signed: the store was taken over from it.
    pub foreign_owner_logs: Vec<RepositoryId>,
    /// Repositories that cannot be used, and why.
    pub unusable_repositories: Vec<(String, String)>,
}

impl RecoveryReport {
    /// Nothing is lost that was promised; at the most there was something to tidy up.
    pub fn is_harmless(&self) -> bool {
        self.vanished_packs.is_empty()
            && self.unreadable_packs.is_empty()
            && self.unreadable_records.is_empty()
            && self.unusable_repositories.is_empty()
    }

    /// The same for who looks at everything next, and names what is gone with what that has hit.
    pub fn before_a_look(self) -> Self {
        Self { vanished_packs: Vec::new(), ..self }
    }

    pub(crate) fn add_index(&mut self, reconciled: Reconciled) {
        self.rebuilt_indexes += u64::from(reconciled.rebuilt);
        self.indexed_packs += reconciled.added;
        self.vanished_packs.extend(reconciled.vanished);
        self.unreadable_packs.extend(reconciled.unreadable);
    }
}

impl fmt::Display for RecoveryReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut lines = Vec::new();
        if self.rescued_packs > 0 {
            lines.push(format!("{} packs that a crash had left half-way were saved", self.rescued_packs));
        }
        if self.discarded_drafts > 0 {
            lines.push(format!("{} unfinished pieces that a crash had left were deleted", self.discarded_drafts));
        }
        if self.rebuilt_indexes > 0 {
            lines.push(format!("{} damaged or missing indexes were built anew", self.rebuilt_indexes));
        }
        if self.indexed_packs > 0 {
            lines.push(format!("{} packs were added to the index", self.indexed_packs));
        }
        lines.extend(
            self.foreign_owner_logs.iter().map(|id| format!("repository {id} was kept by another device before")),
        );
        lines.extend(
            self.vanished_packs
                .iter()
                .map(|id| format!("pack {id} is gone: what needs it is damaged, and `lan-backup verify` names that")),
        );
        lines.extend(self.unreadable_packs.iter().map(|(_, problem)| problem.clone()));
        lines.extend(self.unreadable_records.iter().map(|(_, problem)| problem.clone()));
        lines.extend(
            self.unusable_repositories.iter().map(|(id, why)| format!("repository {id} cannot be used: {why}")),
        );
        f.write_str(&lines.join("\n"))
    }
}

/// Saves what can be saved of the staging folders that dead processes left, and deletes them. What cannot be saved for want
/// of space stays for the next time.
pub(crate) fn rescue(stale: Vec<StaleStaging>, shelf: &dyn Shelf, report: &mut RecoveryReport) -> Result<()> {
    for staging in stale {
        for draft in staging.drafts()? {
            if keep_if_whole(&*draft, shelf)? {
                report.rescued_packs += 1;
            } else {
                report.discarded_drafts += 1;
            }
        }
        staging.discard()?;
    }
    Ok(())
}

fn keep_if_whole(draft: &dyn Object, shelf: &dyn Shelf) -> Result<bool> {
    if draft.length()? > MAX_PACK_BYTES {
        return Ok(false);
    }
    let Ok((_, id, length)) = pack::verify(draft) else { return Ok(false) };
    let bytes = draft.read_at(0, length as usize)?;
    shelf.put(&layout::pack(&id), &bytes)?;
    Ok(true)
}
