//! What a look at one repository has shown, in the words of the findings about a store.

use crate::model::{ChunkId, SetName, SnapshotId};
use crate::store::layout::{self, REPOSITORIES};
use crate::store::marks::MAX_WITNESSES;
use crate::store::repository::Repository;
use crate::store::verify::{DamagedFile, DamagedSnapshot, Findings, GONE, Hurt, Looked};
use std::collections::BTreeSet;

/// Chunks of one damaged file that are named.
const NAMED_CHUNKS: usize = 20;

impl DamagedFile {
    pub(crate) fn small(path: String, problem: String) -> Self {
        Self { path, problem, chunks: Vec::new(), more_chunks: 0, repairable: true }
    }

    /// With the chunks that are lost with it; of those beyond the first ones, how many there are.
    fn losing(path: String, problem: String, chunks: impl IntoIterator<Item = ChunkId>, more: u64) -> Self {
        let mut chunks: Vec<ChunkId> = chunks.into_iter().collect();
        let more_chunks = more + chunks.len().saturating_sub(NAMED_CHUNKS) as u64;
        chunks.truncate(NAMED_CHUNKS);
        Self { path, problem, chunks, more_chunks, repairable: true }
    }

    /// No repair can do anything about it.
    fn beyond_repair(self) -> Self {
        Self { repairable: false, ..self }
    }
}

impl Hurt {
    pub(crate) fn snapshot(&self, repository: &Repository) -> DamagedSnapshot {
        let record = &self.kept.record;
        DamagedSnapshot {
            repository: repository.id(),
            alias: repository.alias(),
            snapshot: self.kept.info.id,
            set: Some(record.set.clone()),
            sequence: record.sequence,
            received_at: Some(self.kept.info.receipt.received_at),
            record_lost: false,
            newest: false,
            manifest_hit: self.lack.manifest,
            lost_chunks: self.lack.chunks.len() as u64,
            files: self.hits.files.clone(),
            more_files: self.hits.more,
            witnesses: self.lack.chunks.iter().take(MAX_WITNESSES).copied().collect(),
        }
    }
}

impl Looked {
    /// Adds what was found to the findings about the store.
    pub(crate) fn tell(&self, repository: &Repository, findings: &mut Findings) {
        let path = |name: &str| format!("{REPOSITORIES}/{}/{name}", repository.id());
        let problems = self.small.problems.iter();
        let missing: Vec<String> = self
            .small
            .missing
            .iter()
            .map(|gone| layout::record(&gone.set, gone.sequence, &gone.id).to_string())
            .collect();
        findings.files.extend(problems.map(|p| {
            let file = DamagedFile::small(path(&p.name), p.problem.clone());
            if missing.contains(&p.name) { file.beyond_repair() } else { file }
        }));
        findings.files.extend(self.pass.bad.iter().map(|bad| {
            let (path, problem) = (path(layout::pack(&bad.id).as_str()), bad.problems.join("; "));
            DamagedFile::losing(path, problem, bad.lost.iter().copied(), 0)
        }));
        findings.files.extend(self.pass.unread.iter().map(|(id, why)| {
            let problem = format!("it cannot be read at the moment, and is not taken for damaged: {why}");
            DamagedFile::small(path(layout::pack(id).as_str()), problem).beyond_repair()
        }));
        findings.files.extend(self.unread.iter().map(|kept| {
            let name = layout::record(&kept.record.set, kept.record.sequence, &kept.info.id);
            let problem = "the lists of this snapshot cannot be read at the moment, and are not taken for damaged";
            DamagedFile::small(path(name.as_str()), problem.to_owned()).beyond_repair()
        }));
        findings.files.extend(self.vanished.iter().map(|doubt| {
            let path = path(layout::pack(&doubt.pack).as_str());
            DamagedFile::losing(path, GONE.to_owned(), doubt.chunks.iter().copied(), doubt.more_chunks).beyond_repair()
        }));
        findings.notes.extend(self.small.notes.iter().map(|note| format!("{}: {note}", repository.alias())));
        if self.rebuilt_index {
            let index = path(layout::INDEX_FILE);
            findings.notes.push(format!("`{index}` was damaged and was built anew; it is a cache, nothing is lost"));
        }
        findings.snapshots.extend(self.damaged_snapshots(repository));
        findings.checked_snapshots += self.small.good.len() as u64;
        findings.checked_packs += self.packs;
        findings.read_packs += (self.pass.whole.len() + self.pass.bad.len()) as u64;
        findings.stored_bytes += self.pass.bytes;
        findings.read_bytes += self.pass.read;
    }

    /// Every snapshot that lacks something.
    pub(crate) fn damaged_snapshots(&self, repository: &Repository) -> Vec<DamagedSnapshot> {
        let hurt = self.hurt.iter().map(|hurt| hurt.snapshot(repository));
        self.lost_records(repository).into_iter().chain(hurt).collect()
    }

    /// Snapshots whose record is damaged, or was and lies aside.
    fn lost_records(&self, repository: &Repository) -> Vec<DamagedSnapshot> {
        let damaged = self.small.bad.iter().filter_map(|(name, _)| layout::record_parts(name));
        let aside = self.small.set_aside.iter().map(|(id, (sequence, _))| (*sequence, *id));
        let missing = self.small.missing.iter().map(|gone| (gone.sequence, gone.id));
        let there = |id: &SnapshotId| {
            self.small.forgotten.contains(id)
                || self.small.given_up.contains(id)
                || self.small.good.iter().any(|kept| kept.info.id == *id)
        };
        let lost: BTreeSet<(u64, SnapshotId)> =
            damaged.chain(aside).chain(missing).filter(|(_, id)| !there(id)).collect();
        let snapshot = |(sequence, snapshot)| DamagedSnapshot {
            repository: repository.id(),
            alias: repository.alias(),
            snapshot,
            set: self.set_of(sequence, &snapshot),
            sequence,
            received_at: None,
            record_lost: true,
            newest: self.is_newest(sequence, &snapshot),
            manifest_hit: false,
            lost_chunks: 0,
            files: Vec::new(),
            more_files: 0,
            witnesses: Vec::new(),
        };
        lost.into_iter().map(snapshot).collect()
    }

    /// Nothing of its set that can be read is newer: its source brings it again.
    fn is_newest(&self, sequence: u64, snapshot: &SnapshotId) -> bool {
        let Some(set) = self.set_of(sequence, snapshot) else { return true };
        self.small.good.iter().all(|kept| kept.record.set != set || kept.record.sequence < sequence)
    }

    /// The set of a record that cannot be read: its name holds only the set's hash, which a record beside it explains.
    pub(crate) fn set_of(&self, sequence: u64, snapshot: &SnapshotId) -> Option<SetName> {
        if let Some(gone) = self.small.missing.iter().find(|gone| gone.id == *snapshot) {
            return Some(gone.set.clone());
        }
        let bad =
            self.small.bad.iter().map(|(name, _)| name).chain(self.small.set_aside.values().map(|(_, name)| name));
        let named: BTreeSet<_> = bad.filter(|name| layout::record_parts(name) == Some((sequence, *snapshot))).collect();
        let sets = self.small.good.iter().map(|kept| &kept.record.set);
        sets.into_iter().find(|set| named.contains(&layout::record(set, sequence, snapshot))).cloned()
    }
}

#[cfg(test)]
impl DamagedSnapshot {
    /// One that lacks nothing yet.
    pub(crate) fn sample() -> Self {
        Self {
            repository: crate::model::RepositoryId::from_random([1; 16]),
            alias: crate::model::Alias::new("laptop"),
            snapshot: SnapshotId::from_bytes([1; 32]),
            set: None,
            sequence: 1,
            received_at: None,
            record_lost: false,
            newest: false,
            manifest_hit: false,
            lost_chunks: 1,
            files: Vec::new(),
            more_files: 0,
            witnesses: Vec::new(),
        }
    }
}
