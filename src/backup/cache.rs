//! What the source knows about the last snapshot of a set: its manifest, line by line, with the stamps by which an unchanged
//! file is recognised. Lost or damaged, it costs reading every file once, and nothing else.
//!
//! A zstd stream of lines, in path order: `INODE CTIME`, or `-` without a stamp, a tab, then the entry's manifest line. The file
//! name holds the snapshot's id, so a cache can never be taken for another's; the zstd checksum finds damage.

use crate::backup::Result;
use crate::backup::inspect::Stamp;
use crate::manifest::{self, EntryReader};
use crate::model::{Entry, FileTime, RepositoryId, SetName, SnapshotId, Stream};
use crate::platform::fs;
use crate::platform::lines::{LineWriter, Lines};
use crate::platform::lock::Lock;
use crate::vault::Vault;
use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

/// Where the cache of one set lies.
#[derive(Clone, Debug)]
pub struct Cache {
    folder: PathBuf,
    prefix: String,
}

/// One entry of the last snapshot.
#[derive(Debug)]
pub struct CachedEntry {
    /// How to recognise it; `None` when it has to be read again.
    pub stamp: Option<Stamp>,
    /// The entry.
    pub entry: Entry,
    /// Its manifest line, byte for byte.
    pub line: Vec<u8>,
}

impl Cache {
    /// The cache of one set of one repository, in a folder that is made when it is not there.
    pub fn new(folder: &Path, repository: RepositoryId, set: &SetName) -> Result<Self> {
        fs::create_private_dir_all(folder)?;
        let set = &blake3::hash(set.as_str().as_bytes()).to_hex()[..16];
        Ok(Self { folder: folder.to_owned(), prefix: format!("{repository}-{set}-") })
    }

    fn path(&self, snapshot: &SnapshotId) -> PathBuf {
        self.folder.join(format!("{}{snapshot}.zst", self.prefix))
    }

    /// Opens what is known about `snapshot`; `None` when nothing is.
    pub fn open(&self, snapshot: &SnapshotId) -> Result<Option<CacheReader>> {
        let path = self.path(snapshot);
        match fs::open(&path) {
            Ok(file) => Ok(Some(CacheReader { lines: Lines::new(file, path)? })),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Begins to write; nothing replaces the old one before [`CacheWriter::finish`].
    pub fn begin(&self) -> Result<CacheWriter> {
        let temporary =
            self.folder.join(format!("{}writing-{:08x}.tmp", self.prefix, crate::platform::random::number()));
        let lines = LineWriter::create(&temporary)?;
        Ok(CacheWriter { cache: self.clone(), temporary, lines })
    }

    /// Keeps other backups of the same set away while the result lives; `None` when one is running.
    pub fn lock(&self) -> Result<Option<Lock>> {
        Ok(Lock::try_exclusive(&self.folder.join(format!("{}lock", self.prefix)))?)
    }

    /// Where a list of extents lies beside the cache.
    pub fn list_path(&self, name: &str) -> PathBuf {
        self.folder.join(format!("{}list-{name}", self.prefix))
    }

    /// Forgets everything about the set.
    pub fn clear(&self) -> Result<()> {
        self.keep_only(&HashSet::new())
    }

    fn keep_only(&self, keep: &HashSet<PathBuf>) -> Result<()> {
        for name in fs::read_dir(&self.folder)? {
            let ours = name.to_str().is_some_and(|name| name.starts_with(&self.prefix) && !name.ends_with("-lock"));
            let path = self.folder.join(name);
            if ours && !keep.contains(&path) {
                fs::remove_file(&path)?;
            }
        }
        Ok(())
    }

    /// Fills the cache from a snapshot in a vault, without stamps: every file will be read again, but what is new, changed and
    /// deleted is known, and what did not change is not sent.
    pub async fn fetch<V: Vault>(&self, vault: Arc<V>, snapshot: &SnapshotId, manifest: &Stream) -> Result<()> {
        let mut writer = self.begin()?;
        let mut reader = EntryReader::new(vault, manifest)?;
        while let Some(entry) = reader.next().await? {
            writer.write(None, &manifest::encode(&entry))?;
        }
        writer.finish(snapshot, &HashSet::new())
    }
}

/// Reads a cache in path order.
#[derive(Debug)]
pub struct CacheReader {
    lines: Lines,
}

impl CacheReader {
    /// The next entry; `None` after the last.
    ///
    /// # Errors
    /// Damage; the caller clears the cache and goes on without.
    pub fn read_next(&mut self) -> Result<Option<CachedEntry>> {
        let Some(line) = self.lines.read_next()? else { return Ok(None) };
        let damaged = || self.lines.damaged();
        let tab = line.iter().position(|b| *b == b'\t').ok_or_else(damaged)?;
        let stamp = decode_stamp(&line[..tab]).ok_or_else(damaged)?;
        let entry = manifest::decode(&line[tab + 1..]).map_err(|_| damaged())?;
        Ok(Some(CachedEntry { stamp, entry, line: line[tab + 1..].to_vec() }))
    }
}

/// Writes a cache in path order.
#[derive(Debug)]
pub struct CacheWriter {
    cache: Cache,
    temporary: PathBuf,
    lines: LineWriter,
}

impl CacheWriter {
    /// Adds an entry.
    pub fn write(&mut self, stamp: Option<Stamp>, manifest_line: &[u8]) -> Result<()> {
        Ok(self.lines.write(&encode_stamp(stamp), manifest_line)?)
    }

    /// Makes it the cache of `snapshot`, with the lists it uses, and drops what is older. Not synced: a cache lost in a power
    /// cut is only time.
    pub fn finish(mut self, snapshot: &SnapshotId, lists: &HashSet<PathBuf>) -> Result<()> {
        self.lines.finish()?;
        let path = self.cache.path(snapshot);
        fs::rename(&self.temporary, &path)?;
        let mut keep = lists.clone();
        keep.insert(path);
        self.cache.keep_only(&keep)
    }
}

impl Drop for CacheWriter {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.temporary);
    }
}

/// A stamp as text: `-` for none.
pub fn encode_stamp(stamp: Option<Stamp>) -> String {
    stamp.map_or_else(|| "-".to_owned(), |stamp| format!("{} {}", stamp.inode, stamp.changed))
}

/// The inverse of [`encode_stamp`]; the outer `None` is damage.
pub fn decode_stamp(text: &[u8]) -> Option<Option<Stamp>> {
    if text == b"-" {
        return Some(None);
    }
    let (inode, changed) = std::str::from_utf8(text).ok()?.split_once(' ')?;
    Some(Some(Stamp { inode: inode.parse().ok()?, changed: FileTime::from_str(changed).ok()? }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{EntryKind, Metadata, RelPath};

    fn entry(path: &str) -> Entry {
        let path = RelPath::new(path.as_bytes()).unwrap();
        Entry { path, kind: EntryKind::Folder, metadata: Metadata::default() }
    }

    fn id(n: u8) -> SnapshotId {
        SnapshotId::from_bytes([n; 32])
    }

    #[test]
    fn a_cache_is_read_as_written_and_only_for_its_snapshot() {
        let folder = tempfile::tempdir().unwrap();
        let set = "docs".parse().unwrap();
        let cache = Cache::new(folder.path(), RepositoryId::from_random([1; 16]), &set).unwrap();
        let stamp = Some(Stamp { inode: 7, changed: FileTime::new(-5, 3) });
        for number in 1..=2 {
            let mut writer = cache.begin().unwrap();
            writer.write(stamp, &manifest::encode(&entry("a"))).unwrap();
            writer.write(None, &manifest::encode(&entry("b"))).unwrap();
            writer.finish(&id(number), &HashSet::new()).unwrap();
        }
        assert!(cache.open(&id(1)).unwrap().is_none());
        let mut reader = cache.open(&id(2)).unwrap().unwrap();
        let first = reader.read_next().unwrap().unwrap();
        assert_eq!((first.stamp, first.entry), (stamp, entry("a")));
        assert_eq!(reader.read_next().unwrap().unwrap().stamp, None);
        assert!(reader.read_next().unwrap().is_none());
    }

    #[test]
    fn a_cut_or_rotten_cache_is_an_error_and_not_a_shorter_tree() {
        let folder = tempfile::tempdir().unwrap();
        let set = "docs".parse().unwrap();
        let cache = Cache::new(folder.path(), RepositoryId::from_random([1; 16]), &set).unwrap();
        let mut writer = cache.begin().unwrap();
        for number in 0..1000 {
            writer.write(None, &manifest::encode(&entry(&format!("d{number}")))).unwrap();
        }
        writer.finish(&id(1), &HashSet::new()).unwrap();
        let good = std::fs::read(cache.path(&id(1))).unwrap();
        let drain = || {
            let mut reader = cache.open(&id(1)).unwrap().unwrap();
            while reader.read_next()?.is_some() {}
            Ok::<_, crate::backup::Error>(())
        };
        drain().unwrap();
        for length in [good.len() / 2, good.len() - 1] {
            std::fs::write(cache.path(&id(1)), &good[..length]).unwrap();
            assert!(drain().is_err());
        }
        let mut bad = good.clone();
        bad[good.len() / 2] ^= 4;
        std::fs::write(cache.path(&id(1)), &bad).unwrap();
        assert!(drain().is_err());
    }
}
