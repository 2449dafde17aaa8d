//! What the source knows about the last snapshot of a set: its manifest, line by line, with the stamps by which an unchanged
//! file is recognised. Lost or damaged, it costs reading every file once, and nothing else.
//!
//! A zstd stream of lines, in path order: the head, which is a stamp and the group of hard links, or `-` without a stamp; a tab; then
//! the entry's manifest line. An unchanged entry has the same head again, so of most lines no more than head and path is looked at. The
//! file name holds the snapshot's id, so a cache can never be taken for another's; the zstd checksum finds damage.

use crate::backup::inspect::Stamp;
use crate::backup::{Error, Result};
use crate::manifest::{self, EntryReader};
use crate::model::{Entry, Inside, RepositoryId, SetName, SnapshotId, Stream};
use crate::platform::Context;
use crate::platform::fs::{self, File};
use crate::platform::lines::{LineWriter, Lines};
use crate::platform::lock::Lock;
use crate::vault::Vault;
use std::borrow::Cow;
use std::collections::HashSet;
use std::io::{Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The head of an entry that has to be read again.
const NO_STAMP: &str = "-";

/// Where the cache of one set lies.
#[derive(Clone, Debug)]
pub struct Cache {
    folder: PathBuf,
    prefix: String,
}

/// One entry of the last snapshot.
#[derive(Debug, Default)]
pub struct CachedEntry {
    text: Vec<u8>,
    tab: usize,
}

impl CachedEntry {
    /// How to recognise it, as [`head_of`] writes it.
    pub fn head(&self) -> &[u8] {
        &self.text[..self.tab]
    }

    /// Its manifest line, byte for byte.
    pub fn line(&self) -> &[u8] {
        &self.text[self.tab + 1..]
    }

    /// Where it lay; `None` is damage. Unescaped, as nearly all paths are, it is taken from where the line begins.
    pub fn path(&self) -> Option<Cow<'_, [u8]>> {
        let rest = self.line().strip_prefix(br#"{"path":""#).unwrap_or_default();
        match rest.iter().position(|b| matches!(b, b'"' | b'\\')) {
            Some(end) if rest[end] == b'"' => Some(Cow::Borrowed(&rest[..end])),
            _ => Some(Cow::Owned(Entry::path_of(self.line()).ok()?.as_bytes().to_vec())),
        }
    }

    /// The entry; `None` is damage.
    pub fn entry(&self) -> Option<Entry> {
        manifest::decode(self.line()).ok()
    }

    /// Size and content of a file; `None` is damage.
    pub fn inside(&self) -> Option<Inside> {
        Inside::of_line(self.line()).ok()
    }
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
            Ok(file) => Ok(Some(CacheReader::new(file, path)?)),
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

    /// Makes the cache of one snapshot that of the next, which has the same entries.
    pub fn hand_on(&self, from: &SnapshotId, to: &SnapshotId) -> Result<()> {
        Ok(fs::rename(&self.path(from), &self.path(to))?)
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
            writer.write(NO_STAMP.as_bytes(), &manifest::encode(&entry))?;
        }
        writer.finish(snapshot, &HashSet::new())
    }
}

/// Reads a cache in path order.
#[derive(Debug)]
pub struct CacheReader {
    lines: Lines,
    file: File,
    path: PathBuf,
}

impl CacheReader {
    fn new(file: File, path: PathBuf) -> Result<Self> {
        let lines = Lines::new(file.try_clone().context("open", &path)?, path.clone())?;
        Ok(Self { lines, file, path })
    }

    /// The same cache from its start; whatever has become of its name meanwhile.
    pub fn again(&self) -> Result<Self> {
        let mut file = self.file.try_clone().context("open", &self.path)?;
        file.seek(SeekFrom::Start(0)).context("read", &self.path)?;
        Self::new(file, self.path.clone())
    }

    /// Puts the next entry into `entry`; whether there was one.
    ///
    /// # Errors
    /// Damage; the caller clears the cache and goes on without.
    pub fn read_next(&mut self, entry: &mut CachedEntry) -> Result<bool> {
        if !self.lines.read_into(&mut entry.text)? {
            return Ok(false);
        }
        entry.tab = entry.text.iter().position(|b| *b == b'\t').ok_or_else(|| self.damaged())?;
        Ok(true)
    }

    /// The error for an entry that is none.
    pub fn damaged(&self) -> Error {
        self.lines.damaged().into()
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
    pub fn write(&mut self, head: &[u8], manifest_line: &[u8]) -> Result<()> {
        Ok(self.lines.write(head, manifest_line)?)
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

/// The head of an entry's line in the cache.
pub fn head_of(stamp: Option<Stamp>, link_group: Option<&str>) -> String {
    match (stamp, link_group) {
        (None, _) => NO_STAMP.to_owned(),
        (Some(stamp), None) => stamp.to_string(),
        (Some(stamp), Some(group)) => format!("{stamp} {group}"),
    }
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
        let stamp: Stamp = "d 7 4096 -5.000000003 -4.000000000".parse().unwrap();
        let head = head_of(Some(stamp), None);
        for number in 1..=2 {
            let mut writer = cache.begin().unwrap();
            writer.write(head.as_bytes(), &manifest::encode(&entry("a"))).unwrap();
            writer.write(head_of(None, None).as_bytes(), &manifest::encode(&entry("b \"quoted\"/\u{1}"))).unwrap();
            writer.finish(&id(number), &HashSet::new()).unwrap();
        }
        assert!(cache.open(&id(1)).unwrap().is_none());
        cache.hand_on(&id(2), &id(3)).unwrap();
        assert!(cache.open(&id(2)).unwrap().is_none());
        let mut reader = cache.open(&id(3)).unwrap().unwrap();
        cache.clear().unwrap();
        for _ in 0..2 {
            let mut next = CachedEntry::default();
            assert!(reader.read_next(&mut next).unwrap());
            assert_eq!((next.head(), next.entry()), (head.as_bytes(), Some(entry("a"))));
            assert_eq!(next.path().unwrap(), &b"a"[..]);
            assert!(reader.read_next(&mut next).unwrap());
            assert_eq!(next.head(), b"-");
            assert_eq!(next.path().unwrap(), &b"b \"quoted\"/\x01"[..]);
            assert!(!reader.read_next(&mut next).unwrap());
            reader = reader.again().unwrap();
        }
    }

    #[test]
    fn a_cut_or_rotten_cache_is_an_error_and_not_a_shorter_tree() {
        let folder = tempfile::tempdir().unwrap();
        let set = "docs".parse().unwrap();
        let cache = Cache::new(folder.path(), RepositoryId::from_random([1; 16]), &set).unwrap();
        let mut writer = cache.begin().unwrap();
        for number in 0..1000 {
            writer.write(b"-", &manifest::encode(&entry(&format!("d{number}")))).unwrap();
        }
        writer.finish(&id(1), &HashSet::new()).unwrap();
        let good = std::fs::read(cache.path(&id(1))).unwrap();
        let drain = || {
            let mut reader = cache.open(&id(1)).unwrap().unwrap();
            while reader.read_next(&mut CachedEntry::default())? {}
            Ok::<_, Error>(())
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
