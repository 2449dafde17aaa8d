//! What is in snapshots, and what is different between them: `find` and `diff`. Both read the lists of all snapshots side by
//! side, so that what they share is read once, or not at all, and memory does not grow with their length.

use crate::daemon::{Error, Result};
use crate::manifest::merge::Version;
use crate::manifest::{self, Merge, Shared};
use crate::model::{Entry, EntryKind, Mark, RelPath, SetName, SnapshotId, Stream};
use crate::restore::chain::Checked;
use crate::restore::select::Include;
use crate::vault::Vault;
use std::sync::Arc;

/// One of the states in which a path was backed up.
#[derive(Debug)]
pub struct Found<'a> {
    /// What it was.
    pub entry: Entry,
    /// The snapshots that have it so, the oldest first; not all between the first and the last, when it was different in between.
    pub snapshots: Vec<&'a Checked>,
}

impl Found<'_> {
    /// Those of the snapshots from which it cannot be had, as the holder knows.
    pub fn lost_in(&self, marks: &[Mark]) -> Vec<SnapshotId> {
        let path = self.entry.path.to_string();
        let hit = |id: &SnapshotId| marks.iter().any(|mark| mark.snapshot == *id && mark.files.contains(&path));
        self.snapshots.iter().map(|snapshot| snapshot.info.id).filter(hit).collect()
    }

    /// Those of which the holder does not know each file that is lost, and so perhaps this one.
    pub fn perhaps_lost_in(&self, marks: &[Mark]) -> Vec<SnapshotId> {
        let path = self.entry.path.to_string();
        let unsure = |mark: &Mark| (mark.more_files > 0 || mark.manifest_hit) && !mark.files.contains(&path);
        let hit = |id: &SnapshotId| marks.iter().any(|mark| mark.snapshot == *id && unsure(mark));
        let is_file = self.entry.is_file();
        self.snapshots.iter().map(|snapshot| snapshot.info.id).filter(|id| is_file && hit(id)).collect()
    }
}

/// A snapshot that cannot be looked through to its end, and why.
#[derive(Debug)]
pub struct Unread<'a> {
    /// Which.
    pub snapshot: &'a Checked,
    /// What is damaged or gone.
    pub reason: String,
}

/// Looks for paths in all of `snapshots`, set by set, and tells `each` every state of every path that fits, in the order of
/// paths. Returns the snapshots that could not be read to their end.
///
/// # Errors
/// The vault's, but for damage.
pub async fn find<'a, V: Vault>(
    vault: &Arc<V>,
    snapshots: &[&'a Checked],
    pattern: &Include,
    mut each: impl FnMut(Found<'a>),
) -> Result<Vec<Unread<'a>>> {
    let mut sets: Vec<&SetName> = snapshots.iter().map(|snapshot| &snapshot.record.set).collect();
    sets.sort();
    sets.dedup();
    let mut unread = Vec::new();
    for set in sets {
        let of_set: Vec<&Checked> = snapshots.iter().copied().filter(|snapshot| snapshot.record.set == *set).collect();
        let manifests: Vec<Stream> = of_set.iter().map(|snapshot| snapshot.record.manifest.clone()).collect();
        let mut merge = Merge::new(vault.clone(), &manifests, Shared::Given).await.map_err(list)?;
        while let Some(step) = merge.next(|path| pattern.wants(path)).await.map_err(list)? {
            for version in step.versions {
                let snapshots = version.manifests.iter().map(|number| of_set[*number]).collect();
                each(Found { entry: version.entry().map_err(list)?, snapshots });
            }
        }
        let lost = merge.lost().iter();
        unread.extend(lost.map(|(number, reason)| Unread { snapshot: of_set[*number], reason: reason.clone() }));
    }
    Ok(unread)
}

/// How an entry differs between two snapshots.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Only in the second.
    Added(Entry),
    /// Only in the first.
    Removed(Entry),
    /// Other bytes, another target, or another kind of thing.
    Content(Entry, Entry),
    /// Only mode, times, owner, attributes or hard links.
    Metadata(Entry, Entry),
}

/// Sums over all changes; files only.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sums {
    /// Files that are only in the second snapshot, and their bytes.
    pub added: (u64, u64),
    /// Files that are only in the first.
    pub removed: (u64, u64),
    /// Files with other content, and their bytes in the second.
    pub content: (u64, u64),
    /// Files with other metadata only.
    pub metadata: (u64, u64),
}

impl Change {
    /// Compares; `None` for entries that are equal.
    fn between(before: Option<Entry>, after: Option<Entry>) -> Option<Self> {
        match (before, after) {
            (None, None) => None,
            (None, Some(after)) => Some(Self::Added(after)),
            (Some(before), None) => Some(Self::Removed(before)),
            (Some(before), Some(after)) if before == after => None,
            (Some(before), Some(after)) => {
                let same = match (&before.kind, &after.kind) {
                    (EntryKind::File { size: a, content: b, .. }, EntryKind::File { size: c, content: d, .. }) => {
                        (a, b) == (c, d)
                    }
                    (a, b) => a == b,
                };
                Some(if same { Self::Metadata(before, after) } else { Self::Content(before, after) })
            }
        }
    }

    /// The path that differs.
    pub fn path(&self) -> &RelPath {
        match self {
            Self::Added(entry) | Self::Removed(entry) | Self::Content(_, entry) | Self::Metadata(_, entry) => {
                &entry.path
            }
        }
    }
}

impl Sums {
    fn count(&mut self, change: &Change) {
        let (sum, entry) = match change {
            Change::Added(entry) => (&mut self.added, entry),
            Change::Removed(entry) => (&mut self.removed, entry),
            Change::Content(_, entry) => (&mut self.content, entry),
            Change::Metadata(_, entry) => (&mut self.metadata, entry),
        };
        if entry.is_file() {
            *sum = (sum.0 + 1, sum.1.saturating_add(entry.size()));
        }
    }
}

/// Tells `each` what is different in `after`, in the order of paths; `below` narrows it to one folder or file.
///
/// # Errors
/// The vault's; damage, too, since what cannot be read cannot be compared.
pub async fn diff<V: Vault>(
    vault: &Arc<V>,
    before: &Stream,
    after: &Stream,
    below: Option<&RelPath>,
    mut each: impl FnMut(&Change),
) -> Result<Sums> {
    let manifests = [before.clone(), after.clone()];
    let mut merge = Merge::new(vault.clone(), &manifests, Shared::Skipped).await.map_err(list)?;
    let wants = |path: &RelPath| below.is_none_or(|below| path == below || path.strip_prefix(below).is_some());
    let mut sums = Sums::default();
    while let Some(step) = merge.next(wants).await.map_err(list)? {
        readable(&merge)?;
        let of = |number: usize| {
            let version = step.versions.iter().find(|version| version.manifests.contains(&number));
            version.map(Version::entry).transpose().map_err(list)
        };
        if let Some(change) = Change::between(of(0)?, of(1)?) {
            sums.count(&change);
            each(&change);
        }
    }
    readable(&merge)?;
    Ok(sums)
}

fn readable<V: Vault>(merge: &Merge<V>) -> Result<()> {
    match merge.lost().first() {
        None => Ok(()),
        Some((number, reason)) => {
            let which = if *number == 0 { "first" } else { "second" };
            Err(Error::Unreadable { which, reason: reason.clone() })
        }
    }
}

fn list(error: manifest::Error) -> Error {
    Error::Restore(crate::restore::Error::Manifest(error))
}
