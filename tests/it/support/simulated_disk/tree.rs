//! What a simulated disk holds: every file and every folder twice, as the system shows it and as it is on the platter.
//!
//! Between the two lie dirty sectors of files and a journal of changes to folders. A sync moves them over. A power cut keeps any of
//! the sectors, and of the journal what [`Journal`] says.

use crate::support::dice::Dice;
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::io::{self, ErrorKind};

/// What a disk writes at once: a write is torn at multiples of it.
const SECTOR: usize = 512;

/// The number of a file or folder.
pub(super) type Number = usize;
/// That of the folder above all others.
pub(super) const ROOT: Number = 0;

/// In what order changes to folders reach the platter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Journal {
    /// In the order in which they were made; to sync one folder brings everything before it, too. As ext4 and XFS do.
    Ordered,
    /// Each folder by itself and in any order: all that POSIX promises.
    Any,
}

/// A regular file.
#[derive(Clone, Debug, Default)]
pub(super) struct File {
    pub(super) shown: Vec<u8>,
    durable: Vec<u8>,
    dirty: BTreeSet<usize>,
}

#[derive(Clone, Debug, Default)]
struct Folder {
    shown: BTreeMap<OsString, Number>,
    durable: BTreeMap<OsString, Number>,
}

#[derive(Clone, Debug)]
enum Node {
    File(File),
    Folder(Folder),
}

/// A name was given to something, or taken away.
#[derive(Clone, Debug)]
struct Change {
    folder: Number,
    name: OsString,
    to: Option<Number>,
    /// What one call did, both halves of a rename.
    call: u64,
    /// A sync that failed has forgotten it: no later sync brings it to the platter.
    forgotten: bool,
}

/// All files and folders.
#[derive(Debug)]
pub(super) struct Tree {
    nodes: Vec<Node>,
    changes: Vec<Change>,
    calls: u64,
    journal: Journal,
}

impl File {
    pub(super) fn write(&mut self, at: usize, bytes: &[u8]) {
        let end = at + bytes.len();
        if self.shown.len() < end {
            self.shown.resize(end, 0);
        }
        self.shown[at..end].copy_from_slice(bytes);
        self.dirty.extend(at / SECTOR..end.div_ceil(SECTOR));
    }

    pub(super) fn sync(&mut self) {
        let sectors = std::mem::take(&mut self.dirty);
        self.durable.resize(self.shown.len(), 0);
        for sector in sectors {
            copy_sector(&self.shown, &mut self.durable, sector);
        }
    }

    /// As Linux does when it could not write: what was dirty counts as clean from now on, though it is on no platter.
    pub(super) fn fail_to_sync(&mut self, dice: &mut Dice) {
        self.dirty.clear();
        if dice.coin() {
            // And the pages are read again from the disk, sooner or later.
            let length = self.shown.len();
            self.shown = self.durable.clone();
            self.shown.resize(length, 0);
        }
    }

    /// What is on the platter: of the dirty sectors any, and a length on the way from the old to the new one.
    fn after_power_cut(mut self, dice: &mut Dice) -> Self {
        let (old, new) = (self.durable.len(), self.shown.len());
        let length = match dice.below(3) {
            0 => old,
            1 => new,
            _ => old.min(new) + dice.below(old.abs_diff(new) as u64 + 1) as usize,
        };
        self.durable.resize(old.max(new), 0);
        for sector in std::mem::take(&mut self.dirty) {
            if dice.coin() {
                copy_sector(&self.shown, &mut self.durable, sector);
            }
        }
        self.durable.truncate(length);
        Self { shown: self.durable.clone(), durable: self.durable, dirty: BTreeSet::new() }
    }
}

fn copy_sector(from: &[u8], to: &mut [u8], sector: usize) {
    let end = ((sector + 1) * SECTOR).min(from.len()).min(to.len());
    let begin = (sector * SECTOR).min(end);
    to[begin..end].copy_from_slice(&from[begin..end]);
}

impl Tree {
    pub(super) fn new(journal: Journal) -> Self {
        Self { nodes: vec![Node::Folder(Folder::default())], changes: Vec::new(), calls: 0, journal }
    }

    fn folder(&self, number: Number) -> io::Result<&Folder> {
        match &self.nodes[number] {
            Node::Folder(folder) => Ok(folder),
            Node::File(_) => Err(ErrorKind::NotADirectory.into()),
        }
    }

    pub(super) fn is_folder(&self, number: Number) -> bool {
        matches!(self.nodes[number], Node::Folder(_))
    }

    pub(super) fn file(&mut self, number: Number) -> io::Result<&mut File> {
        match &mut self.nodes[number] {
            Node::File(file) => Ok(file),
            Node::Folder(_) => Err(ErrorKind::IsADirectory.into()),
        }
    }

    pub(super) fn find(&self, folder: Number, name: &OsStr) -> io::Result<Option<Number>> {
        Ok(self.folder(folder)?.shown.get(name).copied())
    }

    pub(super) fn list(&self, folder: Number) -> io::Result<Vec<(OsString, Number)>> {
        Ok(self.folder(folder)?.shown.iter().map(|(name, number)| (name.clone(), *number)).collect())
    }

    /// A new file or folder.
    pub(super) fn create(&mut self, folder: Number, name: &OsStr, is_folder: bool) -> io::Result<Number> {
        if self.find(folder, name)?.is_some() {
            return Err(ErrorKind::AlreadyExists.into());
        }
        let number = self.nodes.len();
        self.nodes.push(if is_folder { Node::Folder(Folder::default()) } else { Node::File(File::default()) });
        self.calls += 1;
        self.change(folder, name, Some(number));
        Ok(number)
    }

    pub(super) fn remove(&mut self, folder: Number, name: &OsStr) {
        self.calls += 1;
        self.change(folder, name, None);
    }

    pub(super) fn rename(&mut self, from: (Number, &OsStr), to: (Number, &OsStr)) -> io::Result<()> {
        let number = self.find(from.0, from.1)?.ok_or(ErrorKind::NotFound)?;
        if self.find(to.0, to.1)?.is_some_and(|there| self.is_folder(there)) {
            return Err(ErrorKind::IsADirectory.into());
        }
        self.calls += 1;
        self.change(to.0, to.1, Some(number));
        self.change(from.0, from.1, None);
        Ok(())
    }

    fn change(&mut self, folder: Number, name: &OsStr, to: Option<Number>) {
        if let Node::Folder(folder) = &mut self.nodes[folder] {
            put(&mut folder.shown, name, to);
        }
        self.changes.push(Change { folder, name: name.to_owned(), to, call: self.calls, forgotten: false });
    }

    pub(super) fn sync_folder(&mut self, folder: Number) {
        let ordered = self.journal == Journal::Ordered;
        for change in std::mem::take(&mut self.changes) {
            if change.forgotten || !(ordered || change.folder == folder) {
                self.changes.push(change);
                continue;
            }
            // What comes later decides: of what was forgotten before, nothing can come back.
            self.changes.retain(|old| !(old.folder == change.folder && old.name == change.name));
            self.apply(&change);
        }
    }

    /// Like a file's failed sync: the next one of this folder says that all is well.
    pub(super) fn fail_to_sync_folder(&mut self, folder: Number) {
        self.changes.iter_mut().filter(|change| change.folder == folder).for_each(|change| change.forgotten = true);
    }

    fn apply(&mut self, change: &Change) {
        if let Node::Folder(folder) = &mut self.nodes[change.folder] {
            put(&mut folder.durable, &change.name, change.to);
        }
    }

    /// What is there when the power is back.
    pub(super) fn after_power_cut(mut self, dice: &mut Dice) -> Self {
        let changes = std::mem::take(&mut self.changes);
        let calls: BTreeSet<u64> = changes.iter().map(|change| change.call).collect();
        let kept: BTreeSet<u64> = match (self.journal, dice.below(3)) {
            (_, 0) => BTreeSet::new(),
            (Journal::Ordered, _) => {
                let count = dice.below(calls.len() as u64 + 1) as usize;
                calls.into_iter().take(count).collect()
            }
            (Journal::Any, _) => calls.into_iter().filter(|_| dice.coin()).collect(),
        };
        for change in changes.iter().filter(|change| kept.contains(&change.call)) {
            self.apply(change);
        }
        for node in &mut self.nodes {
            match node {
                Node::File(file) => *file = std::mem::take(file).after_power_cut(dice),
                Node::Folder(folder) => folder.shown = folder.durable.clone(),
            }
        }
        self
    }

    /// Bytes of all files that can be reached.
    pub(super) fn used(&self) -> u64 {
        let (mut seen, mut open, mut bytes) = (BTreeSet::from([ROOT]), vec![ROOT], 0);
        while let Some(number) = open.pop() {
            match &self.nodes[number] {
                Node::File(file) => bytes += file.shown.len() as u64,
                Node::Folder(folder) => open.extend(folder.shown.values().filter(|number| seen.insert(**number))),
            }
        }
        bytes
    }
}

fn put(entries: &mut BTreeMap<OsString, Number>, name: &OsStr, to: Option<Number>) {
    match to {
        Some(number) => entries.insert(name.to_owned(), number),
        None => entries.remove(name),
    };
}
