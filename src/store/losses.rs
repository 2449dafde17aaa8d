//! Keeps the marks in step with what is there: writes those of snapshots that lack something, and sees when they are healed.

use crate::model::{Mark, Record, SetName, SnapshotId, SnapshotInfo};
use crate::monitor::Silent;
use crate::platform::shutdown::Shutdown;
use crate::store::doubts::{self, Doubt};
use crate::store::error::{Error, Result};
use crate::store::layout::{self, FORMAT};
use crate::store::marks::{self, MAX_MARK_FILES};
use crate::store::repository::Repository;
use crate::store::verify::reach::{Lack, Reach};
use crate::store::verify::{self, DamagedSnapshot, Looked, Share, VerifyOptions};
use std::collections::{BTreeMap, BTreeSet, HashSet};

/// Files that a mark names in a list of snapshots; of the others it tells the number.
const ADVERTISED_FILES: usize = 10;
/// Bytes of such names in one list, the newest snapshots first.
pub const MAX_ADVERTISED_NAMES: usize = 256 << 10;

/// What became of the marks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Losses {
    /// Snapshots that lack something now.
    pub(crate) damaged: Vec<DamagedSnapshot>,
    /// Snapshots that lacked something and are whole again.
    pub(crate) healed: Vec<Mark>,
}

impl Repository {
    /// Marks what a look has found to be hit, and tells what is whole again.
    pub(crate) fn mark_losses(&self, looked: &Looked) -> Result<Losses> {
        let shelf = &*self.packs.shelf;
        let now = self.packs.clock.now();
        let damaged = looked.damaged_snapshots(self);
        let known: BTreeMap<_, Mark> = marks::load(shelf)?.into_iter().map(|mark| (mark.snapshot, mark)).collect();
        for hit in &damaged {
            let before = known.get(&hit.snapshot).filter(|mark| mark.healed_at.is_none());
            let mark = Mark {
                format: FORMAT,
                snapshot: hit.snapshot,
                set: hit.set.clone(),
                sequence: hit.sequence,
                found_at: before.map_or(now, |mark| mark.found_at),
                record_lost: hit.record_lost,
                manifest_hit: hit.manifest_hit,
                lost_chunks: hit.lost_chunks,
                files: hit.files.iter().take(MAX_MARK_FILES).cloned().collect(),
                more_files: hit.more_files + hit.files.len().saturating_sub(MAX_MARK_FILES) as u64,
                witnesses: hit.witnesses.clone(),
                healed_at: None,
            };
            if known.get(&hit.snapshot) != Some(&mark) {
                marks::save(shelf, &mark)?;
            }
        }
        let hit: HashSet<_> = damaged.iter().map(|hit| hit.snapshot).collect();
        let mut healed = Vec::new();
        for mark in known.values().filter(|mark| mark.healed_at.is_none() && !hit.contains(&mark.snapshot)) {
            if looked.small.forgotten.contains(&mark.snapshot) || looked.small.given_up.contains(&mark.snapshot) {
                // Let go by a rule, or by a person: whole or not, nobody asks any more.
                shelf.delete(&layout::mark(&mark.snapshot))?;
                continue;
            }
            if looked.unread.is_empty() && looked.pass.unread.is_empty() {
                marks::heal(shelf, mark, now)?;
                healed.push(mark.clone());
            }
        }
        let doubts = if looked.vanished.is_empty() { BTreeMap::new() } else { doubts::load(shelf)? };
        for doubt in looked.vanished.iter().filter_map(|gone| doubts.get(&gone.pack)).filter(|doubt| !doubt.marked) {
            doubts::save(shelf, &Doubt { marked: true, ..doubt.clone() })?;
        }
        marks::forget_healed(shelf, &known.into_values().collect::<Vec<_>>(), now)?;
        Ok(Losses { damaged, healed })
    }

    /// Marks one snapshot by what it lacks, or says that it is whole again; files are named by who looks at all of it.
    pub(crate) fn mark_lack(&self, id: SnapshotId, record: &Record, lack: &Lack) -> Result<()> {
        let (shelf, now) = (&*self.packs.shelf, self.packs.clock.now());
        let before = marks::load(shelf)?.into_iter().find(|mark| mark.snapshot == id);
        if lack.is_empty() {
            return before.map_or(Ok(()), |mark| marks::heal(shelf, &mark, now));
        }
        let before = before.filter(|mark| mark.healed_at.is_none());
        let mark = Mark {
            format: FORMAT,
            snapshot: id,
            set: Some(record.set.clone()),
            sequence: record.sequence,
            found_at: before.as_ref().map_or(now, |mark| mark.found_at),
            record_lost: false,
            manifest_hit: lack.manifest,
            lost_chunks: lack.chunks.len() as u64,
            files: before.as_ref().map(|mark| mark.files.clone()).unwrap_or_default(),
            more_files: before.as_ref().map_or(0, |mark| mark.more_files),
            witnesses: lack.chunks.iter().take(marks::MAX_WITNESSES).copied().collect(),
            healed_at: None,
        };
        marks::save(shelf, &mark)
    }

    /// Looks at all snapshots, and names in the marks the files that are hit.
    ///
    /// # Errors
    /// What kept it from looking.
    pub fn name_losses(&self, shutdown: &Shutdown) -> Result<()> {
        let options = VerifyOptions { data: Share::None };
        let looked = verify::look(self, options, &BTreeSet::new(), &Silent, shutdown)?;
        self.mark_losses(&looked).map(drop)
    }

    /// Looks whether what came has made marked snapshots whole. Cheap while it has not: of each, the first lost chunks are asked
    /// for first.
    pub(crate) fn look_for_healed(&self) -> Result<Vec<Mark>> {
        let shelf = &*self.packs.shelf;
        let mut healed = Vec::new();
        for mark in marks::load(shelf)?.into_iter().filter(|mark| mark.healed_at.is_none()) {
            if !self.packs.missing(&mark.witnesses)?.is_empty() {
                continue;
            }
            let Some(kept) = self.records.all()?.find(&mark.snapshot).cloned() else { continue };
            let nothing_gone = HashSet::new();
            let lack = Reach::new(&self.packs, &nothing_gone).look(&kept.record)?;
            if lack.is_empty() && !lack.unread {
                marks::heal(shelf, &mark, self.packs.clock.now())?;
                tracing::info!(snapshot = %mark.snapshot, "a snapshot that had lost something is whole again");
                healed.push(mark);
            }
        }
        Ok(healed)
    }

    /// The newest snapshot of a set, for who wants to go on from it: a damaged record in its place is mended, or set aside.
    pub fn head_to_follow(&self, set: &SetName) -> Result<Option<SnapshotInfo>> {
        match self.head(set) {
            Err(error) if error.is_damage() => {
                self.set_damaged_records_aside()?;
                self.head(set)
            }
            other => other,
        }
    }

    /// Records that cannot be read and were not set aside yet, in sentences.
    pub fn unreadable_records(&self) -> Result<Vec<String>> {
        let bad = self.records.all()?.bad;
        let sentence = |error: &Error| format!("a snapshot cannot be listed: {error}; see `lan-backup repair`");
        Ok(bad.iter().map(|(_, error)| sentence(error)).collect())
    }

    /// What goes into a list of snapshots about those that lack something now: the marks, with few names of files.
    pub fn advertised_marks(&self) -> Result<Vec<Mark>> {
        let mut marks = marks::load(&*self.packs.shelf)?;
        marks.retain(|mark| mark.healed_at.is_none());
        let mut room = MAX_ADVERTISED_NAMES;
        for mark in marks.iter_mut().rev() {
            mark.witnesses.clear();
            let all = mark.file_count();
            mark.files.truncate(ADVERTISED_FILES);
            mark.files.retain(|name| {
                let left = room.checked_sub(name.len());
                room = left.unwrap_or(room);
                left.is_some()
            });
            mark.more_files = all - mark.files.len() as u64;
        }
        Ok(marks)
    }
}
