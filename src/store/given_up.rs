//! Snapshots of which it is not known any more what they need, and that a person lets go. Until then nothing is thrown away, since it could be theirs.
//!
//! A record that lies aside, or is gone, is *given up*: a mark that says so, for as long as the record is not in its place. One that comes back
//! ends the mark: should it be damaged once more, a person is asked once more. A snapshot whose record is whole and whose lists are not is
//! *forgotten*, as a rule would do; what of it can be read stays for the trash days.

use crate::model::{Forgotten, SetName, SnapshotId};
use crate::store::error::Result;
use crate::store::layout::{self, ObjectName};
use crate::store::marks;
use crate::store::prune::needed::{Need, Needed};
use crate::store::records::All;
use crate::store::repository::Repository;
use crate::store::verify::small;
use jiff::{SignedDuration, Timestamp};
use std::collections::{HashMap, HashSet};

/// The rule in the mark of a snapshot whose lists are damaged and that a person has let go.
const RULE: &str = "given up: its lists were damaged";

/// A snapshot of which it is not known what it needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LostRecord {
    /// Which.
    pub id: SnapshotId,
    /// Its place in the chain of its set.
    pub sequence: u64,
    /// Where its record lay in the repository, or lies.
    pub name: ObjectName,
    /// Its record is whole, and its lists are not.
    pub by_lists: bool,
}

impl Repository {
    /// Records that lie aside, have no good successor of their name, and belong to snapshots that are not given up: what these need is
    /// not known. `all` must have been listed before.
    pub(crate) fn unknown_needs(
        &self,
        all: &All,
        forgotten: &HashMap<SnapshotId, Forgotten>,
        now: Timestamp,
    ) -> Result<Vec<LostRecord>> {
        let given_up = self.end_given_up(all)?;
        let aside = small::set_aside(self)?;
        let is_open = |id: &SnapshotId| {
            let over = forgotten.get(id).is_some_and(|mark| mark.until <= now);
            all.find(id).is_none() && !given_up.contains(id) && !over
        };
        let open = aside.into_iter().filter(|(id, _)| is_open(id));
        let lost = |(id, (sequence, name))| LostRecord { id, sequence, name, by_lists: false };
        let mut open: Vec<_> = open.map(lost).collect();
        open.sort_by_key(|lost| (lost.sequence, lost.id));
        Ok(open)
    }

    /// Ends the marks of those that are in their place again. Returns those that are not.
    fn end_given_up(&self, all: &All) -> Result<HashSet<SnapshotId>> {
        let mut given_up: HashSet<SnapshotId> = self.forgotten.given_up()?.into_keys().collect();
        for id in given_up.extract_if(|id| all.find(id).is_some()) {
            self.forgotten.end_given_up(&id)?;
        }
        Ok(given_up)
    }

    /// Snapshots whose records lie aside, and that keep everything here from being thrown away.
    ///
    /// # Errors
    /// The disk's.
    pub fn lost_records(&self) -> Result<Vec<LostRecord>> {
        self.unknown_needs(&self.records.all()?, &self.forgotten.all()?, self.packs.clock.now())
    }

    /// Of the snapshots whose ids begin so, those that a person may let go: the record lies aside or is gone, or the lists of one that is not the
    /// newest of its set cannot be read.
    ///
    /// # Errors
    /// The disk's.
    pub fn can_be_given_up(&self, prefix: &str) -> Result<Vec<LostRecord>> {
        let fits = |id: &SnapshotId| id.to_string().starts_with(prefix);
        let (all, forgotten) = (self.records.all()?, self.forgotten.all()?);
        let mut lost = self.unknown_needs(&all, &forgotten, self.packs.clock.now())?;
        lost.extend(small::look(self)?.missing.into_iter().filter(|gone| !forgotten.contains_key(&gone.id)).map(
            |gone| {
                let name = layout::record(&gone.set, gone.sequence, &gone.id);
                LostRecord { id: gone.id, sequence: gone.sequence, name, by_lists: false }
            },
        ));
        lost.retain(|lost| fits(&lost.id));
        for kept in all.good.iter().filter(|kept| fits(&kept.info.id) && !forgotten.contains_key(&kept.info.id)) {
            let (set, sequence) = (&kept.record.set, kept.record.sequence);
            if !is_newest(&all, set, sequence) && !Needed::default().add(&self.packs, &kept.record, Need::Present)? {
                let name = layout::record(set, sequence, &kept.info.id);
                lost.push(LostRecord { id: kept.info.id, sequence, name, by_lists: true });
            }
        }
        Ok(lost)
    }

    /// A person lets a snapshot go of which it is not known what it needs: what only it needs may be thrown away, and that of one whose lists
    /// are damaged after this time.
    ///
    /// # Errors
    /// The disk's.
    pub fn give_up(&self, lost: &LostRecord, trash: SignedDuration) -> Result<()> {
        let now = self.packs.clock.now();
        if lost.by_lists {
            let until = now.checked_add(trash).unwrap_or(Timestamp::MAX);
            self.forgotten.put(&Forgotten { record: lost.id, rule: RULE.to_owned(), when: now, until })?;
        } else {
            self.forgotten.give_up(&lost.id, now)?;
        }
        // Nothing is owed to it any more.
        marks::delete_if_there(&*self.packs.shelf, &layout::mark(&lost.id))
    }
}

/// Whether nothing of the set is newer, as far as records can be read.
pub(crate) fn is_newest(all: &All, set: &SetName, sequence: u64) -> bool {
    all.good.iter().all(|kept| kept.record.set != *set || kept.record.sequence <= sequence)
}
