//! An entry from what the file system says, all but the content.

use crate::backup::walk::Found;
use crate::model::{Entry, EntryKind, FileTime, Metadata};
use crate::monitor::{Fault, Monitor};
use crate::platform::attributes::{self, OwnerNames};
use crate::platform::fs;
use jiff::Timestamp;
use std::collections::{BTreeMap, HashMap};

/// A change younger than this may be followed by another with the same time, so its stamp is not trusted: kernels count file
/// times in steps of up to 10 ms, and some file systems more coarsely.
const SETTLED_NANOS: i128 = 100_000_000;

/// How an unchanged file is recognised, beside its size and mtime.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// The inode's number.
    pub inode: u64,
    /// Time of the last change of anything.
    pub changed: FileTime,
}

impl Stamp {
    /// The stamp of a file looked at `now`; `None` when it changed so recently that a later change could hide behind it.
    pub fn of(metadata: &fs::Metadata, now: Timestamp) -> Option<Self> {
        let changed = attributes::changed(metadata);
        let settled = now.as_nanosecond() - changed.as_nanos() >= SETTLED_NANOS;
        settled.then(|| Self { inode: attributes::inode(metadata), changed })
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
        let xattrs = attributes::extended_attributes(&found.source).unwrap_or_else(|error| {
            monitor.fault(Fault::new(found.source.display().to_string(), &error));
            BTreeMap::default()
        });
        let metadata = Metadata {
            mtime: Some(attributes::modified(&found.metadata)),
            mode: (!found.metadata.is_symlink()).then(|| attributes::permissions(&found.metadata)),
            owner: Some(self.names.owner(&found.metadata)),
            xattrs,
        };
        Ok(Entry { path: found.path.clone(), kind, metadata })
    }
}
