//! Which entries of a plan are further names of one file. Pure.
//!
//! The manifest names groups; a hostile one may put files into a group that are not the same, and those stand alone. About 200
//! bytes for each group.

use crate::model::{Content, Entry, EntryKind, RelPath};
use crate::platform::fs::Metadata;
use std::collections::{HashMap, HashSet};
use std::os::unix::fs::MetadataExt;

/// A file that is there: which one it is on its file system, and how many names it has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Existing {
    inode: (u64, u64),
    names: u64,
}

impl Existing {
    /// From what the system says.
    pub fn new(metadata: &Metadata) -> Self {
        Self { inode: (metadata.dev(), metadata.ino()), names: metadata.nlink() }
    }

    /// Whether both are the same file, under however many names.
    pub fn is_same_file(&self, other: &Self) -> bool {
        self.inode == other.inode
    }
}

#[derive(Debug)]
struct Group {
    first: RelPath,
    content: blake3::Hash,
    // The file that stays as the first of the group.
    stays: Option<(u64, u64)>,
}

/// The groups so far, in the order of the plan.
#[derive(Debug, Default)]
pub struct LinkGroups {
    // By the hash of the name: a stranger's name may be of any length.
    groups: HashMap<blake3::Hash, Group>,
    // Files with several names that stay, so that two groups never share one.
    staying: HashSet<(u64, u64)>,
}

impl LinkGroups {
    /// The first name of the group that `entry` belongs to; `None` when it is the first, or belongs to none.
    pub fn first_of(&mut self, entry: &Entry) -> Option<RelPath> {
        let (name, content) = group_of(entry)?;
        match self.groups.get(&name) {
            Some(group) if group.content == content && group.first != entry.path => Some(group.first.clone()),
            Some(_) => None,
            None => {
                let group = Group { first: entry.path.clone(), content, stays: None };
                self.groups.insert(name, group);
                None
            }
        }
    }

    /// Whether a file with the right bytes may stay where `entry` goes, so that in the end exactly the names of one group are one
    /// file. Remembers it when it may.
    pub fn may_stay(&mut self, entry: &Entry, existing: Existing) -> bool {
        let Some((name, content)) = group_of(entry) else { return existing.names == 1 };
        match self.groups.get(&name) {
            Some(group) if group.content == content => group.stays == Some(existing.inode),
            Some(_) => existing.names == 1,
            None => {
                let free = existing.names == 1 || self.staying.insert(existing.inode);
                if free {
                    let group = Group { first: entry.path.clone(), content, stays: Some(existing.inode) };
                    self.groups.insert(name, group);
                }
                free
            }
        }
    }
}

/// The hashes of the group's name and of the content.
fn group_of(entry: &Entry) -> Option<(blake3::Hash, blake3::Hash)> {
    let EntryKind::File { size, content: Some(content), link_group: Some(name) } = &entry.kind else { return None };
    let mut hash = blake3::Hasher::new();
    hash.update(&size.to_le_bytes());
    match content {
        Content::Inline(extents) => {
            for extent in extents {
                hash.update(&extent.encode());
            }
        }
        Content::Indirect(stream) => {
            hash.update(b"list").update(&[stream.depth]).update(&stream.length.to_le_bytes());
            for id in &stream.ids {
                hash.update(id.as_bytes());
            }
        }
    }
    Some((blake3::hash(name.as_bytes()), hash.finalize()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{ChunkId, Extent, Metadata};

    fn entry(path: &str, group: Option<&str>, chunk: u8) -> Entry {
        let content = Some(Content::Inline(vec![Extent::Chunk(ChunkId::from_bytes([chunk; 32]), 5)]));
        let kind = EntryKind::File { size: 5, content, link_group: group.map(str::to_owned) };
        Entry { path: RelPath::new(path.as_bytes()).unwrap(), kind, metadata: Metadata::default() }
    }

    fn existing(inode: u64, names: u64) -> Existing {
        Existing { inode: (1, inode), names }
    }

    #[test]
    fn further_names_follow_the_first_and_files_that_differ_stand_alone() {
        let mut links = LinkGroups::default();
        let first = entry("a", Some("g"), 1);
        assert_eq!(links.first_of(&first), None);
        assert_eq!(links.first_of(&entry("b", Some("g"), 1)), Some(first.path));
        assert_eq!(links.first_of(&entry("c", Some("g"), 2)), None);
        assert_eq!(links.first_of(&entry("d", Some("h"), 1)), None);
        assert_eq!(links.first_of(&entry("e", None, 1)), None);
    }

    #[test]
    fn what_stays_is_one_file_for_the_names_of_one_group_and_for_no_others() {
        let mut links = LinkGroups::default();
        assert!(links.may_stay(&entry("a", None, 1), existing(1, 1)));
        assert!(!links.may_stay(&entry("b", None, 1), existing(2, 2)));
        assert!(links.may_stay(&entry("c", Some("g"), 1), existing(3, 2)));
        assert!(links.may_stay(&entry("d", Some("g"), 1), existing(3, 2)));
        assert!(!links.may_stay(&entry("e", Some("g"), 1), existing(4, 1)), "it becomes a name of the first");
        assert!(!links.may_stay(&entry("f", Some("h"), 1), existing(3, 2)), "another group has it");
    }
}
