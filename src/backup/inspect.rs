//! An entry from what the file system says, all but the content.

use crate::backup::walk::Found;
use crate::model::{Entry, EntryKind, FileTime, Metadata, ParseError};
use crate::monitor::{Fault, Monitor};
use crate::platform::attributes::{self, OwnerNames};
use crate::platform::fs;
use jiff::Timestamp;
use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::path::Path;
use std::str::FromStr;

/// A change younger than this may be followed by another with the same time, so its stamp is not trusted: kernels count file
/// times in steps of up to 10 ms.
const SETTLED_NANOS: i128 = 100_000_000;
/// The same for a time without a fraction: FAT, ext4 with small inodes and some network file systems count in steps of up to 2 s.
const SETTLED_COARSE_NANOS: i128 = 3_000_000_000;

/// How an unchanged entry is recognised: all that one system call says of it that any change would change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// `f`, `d` or `l`: a file, a folder, a link.
    kind: char,
    inode: u64,
    size: u64,
    modified: FileTime,
    /// Time of the last change of anything.
    changed: FileTime,
}

impl Stamp {
    /// The stamp of a file looked at `now`; `None` when it changed so recently that a later change could hide behind it.
    pub fn of(metadata: &fs::Metadata, now: Timestamp) -> Option<Self> {
        let stamp = Self::at_this_moment(metadata);
        let needed = if stamp.changed.nanos() == 0 { SETTLED_COARSE_NANOS } else { SETTLED_NANOS };
        (now.as_nanosecond() - stamp.changed.as_nanos() >= needed).then_some(stamp)
    }

    /// The stamp whether it is settled or not: enough to see that something changed, not that nothing did.
    pub fn at_this_moment(metadata: &fs::Metadata) -> Self {
        let kind = match () {
            () if metadata.is_dir() => 'd',
            () if metadata.is_symlink() => 'l',
            () => 'f',
        };
        let (modified, changed) = (attributes::modified(metadata), attributes::changed(metadata));
        Self { kind, inode: attributes::inode(metadata), size: metadata.len(), modified, changed }
    }

    /// The stamp in the head of an entry in the cache, before its group of links.
    pub fn of_head(head: &str) -> Option<Self> {
        let end = head.match_indices(' ').nth(4).map_or(head.len(), |(at, _)| at);
        head[..end].parse().ok()
    }
}

impl fmt::Display for Stamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {} {} {}", self.kind, self.inode, self.size, self.modified, self.changed)
    }
}

impl FromStr for Stamp {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let parts = || {
            let mut parts = text.split(' ');
            let stamp = Self {
                kind: parts.next()?.parse().ok().filter(|kind| ['f', 'd', 'l'].contains(kind))?,
                inode: parts.next()?.parse().ok()?,
                size: parts.next()?.parse().ok()?,
                modified: parts.next()?.parse().ok()?,
                changed: parts.next()?.parse().ok()?,
            };
            parts.next().is_none().then_some(stamp)
        };
        parts().ok_or_else(|| ParseError::new("stamp", text, "is not a kind, two numbers and two times"))
    }
}

/// Makes entries; remembers owners' names and groups of hard links.
#[derive(Debug, Default)]
pub struct Inspector {
    names: OwnerNames,
    // About 100 bytes for each group that is not complete yet.
    groups: HashMap<(u64, u64), Group>,
}

#[derive(Debug)]
struct Group {
    name: String,
    left: u64,
}

impl Inspector {
    /// The name of the group of hard links that `found` belongs to: made from the path of its first member, so that it stays the
    /// same from one snapshot to the next. To be called once for each file, in path order.
    pub fn link_group(&mut self, found: &Found) -> Option<String> {
        let key = attributes::hard_link_key(&found.metadata)?;
        let group = self.groups.entry(key).or_insert_with(|| {
            let hash = blake3::hash(found.path.as_bytes());
            let left = std::os::unix::fs::MetadataExt::nlink(&found.metadata);
            Group { name: hash.to_hex()[..16].to_owned(), left }
        });
        let name = group.name.clone();
        group.left -= 1;
        if group.left == 0 {
            self.groups.remove(&key);
        }
        Some(name)
    }

    /// The entry of `found` without content. Extended attributes that cannot be read are a fault, and the entry goes on
    /// without them.
    ///
    /// # Errors
    /// A link that cannot be read.
    pub fn entry(
        &mut self,
        found: &Found,
        link_group: Option<String>,
        monitor: &dyn Monitor,
    ) -> crate::platform::Result<Entry> {
        let kind = if found.metadata.is_dir() {
            EntryKind::Folder
        } else if found.metadata.is_symlink() {
            EntryKind::Link { target: attributes::bytes_of(&fs::read_link(&found.source)?).to_vec() }
        } else {
            EntryKind::File { size: found.metadata.len(), content: None, link_group }
        };
        let metadata = metadata(&found.source, &found.metadata, &mut self.names, monitor);
        Ok(Entry { path: found.path.clone(), kind, metadata })
    }
}

/// What is kept of an entry besides its bytes. Extended attributes that cannot be read are a fault, and the entry goes on
/// without them.
pub fn metadata(source: &Path, found: &fs::Metadata, names: &mut OwnerNames, monitor: &dyn Monitor) -> Metadata {
    let xattrs = attributes::extended_attributes(source).unwrap_or_else(|error| {
        monitor.fault(Fault::new(source.display().to_string(), &error));
        BTreeMap::default()
    });
    Metadata {
        mtime: Some(attributes::modified(found)),
        mode: (!found.is_symlink()).then(|| attributes::permissions(found)),
        owner: Some(names.owner(found)),
        xattrs,
        sha256: None,
    }
}
