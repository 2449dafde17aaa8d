//! The extents of large files, kept beside the cache: the manifest names only the head of such a list, and a snapshot of an
//! unchanged 100 GB file needs all 400,000 ids again for its refs. One file a list, named by the hash of its head; lost, it
//! costs reading that file once.

use crate::backup::Result;
use crate::backup::cache::Cache;
use crate::model::{Extent, Stream};
use crate::platform::fs::File;
use crate::platform::{Context, fs};
use std::collections::HashSet;
use std::io::{BufReader, BufWriter, Read, Write};
use std::path::PathBuf;

/// The lists of one set.
#[derive(Debug)]
pub struct Lists {
    cache: Cache,
    used: HashSet<PathBuf>,
}

impl Lists {
    /// The lists that lie beside `cache`.
    pub fn new(cache: Cache) -> Self {
        Self { cache, used: HashSet::new() }
    }

    fn path(cache: &Cache, stream: &Stream) -> PathBuf {
        let mut hash = blake3::Hasher::new();
        hash.update(&stream.length.to_le_bytes()).update(&[stream.depth]);
        for id in &stream.ids {
            hash.update(id.as_bytes());
        }
        cache.list_path(&hash.finalize().to_hex()[..32])
    }

    /// Whether the list is at hand and whole.
    pub fn has(cache: &Cache, stream: &Stream) -> bool {
        let found = fs::metadata_if_there(&Self::path(cache, stream));
        found.is_ok_and(|found| found.is_some_and(|metadata| metadata.len() == stream.length))
    }

    /// The extents of a list, in order. Marks it as used.
    ///
    /// # Errors
    /// When it is not there or cannot be read.
    pub fn open(&mut self, stream: &Stream) -> Result<ListReader> {
        let path = Self::path(&self.cache, stream);
        let file = BufReader::new(fs::open(&path)?);
        self.used.insert(path.clone());
        Ok(ListReader { file, left: stream.length / Extent::ENCODED_LENGTH as u64, path })
    }

    /// Begins to write a list.
    pub fn begin(&self) -> Result<ListWriter> {
        let path = self.cache.list_path(&format!("writing-{:08x}", crate::platform::random::number()));
        Ok(ListWriter { file: BufWriter::new(fs::create_new(&path)?), path })
    }

    /// Keeps a list that was written, under its head. Marks it as used.
    pub fn keep(&mut self, mut list: ListWriter, stream: &Stream) -> Result<()> {
        list.file.flush().context("write", &list.path)?;
        let path = Self::path(&self.cache, stream);
        fs::rename(&list.path, &path)?;
        self.used.insert(path);
        Ok(())
    }

    /// The lists that are in use; all others of the set may go.
    pub fn used(&self) -> &HashSet<PathBuf> {
        &self.used
    }
}

/// Gives the extents of one list.
#[derive(Debug)]
pub struct ListReader {
    file: BufReader<File>,
    left: u64,
    path: PathBuf,
}

impl ListReader {
    /// The next extent; `None` after the last.
    pub fn read_next(&mut self) -> Result<Option<Extent>> {
        if self.left == 0 {
            return Ok(None);
        }
        self.left -= 1;
        let mut bytes = [0; Extent::ENCODED_LENGTH];
        self.file.read_exact(&mut bytes).context("read", &self.path)?;
        Ok(Some(Extent::decode(&bytes)))
    }
}

/// Writes one list; deleted when it is not kept.
#[derive(Debug)]
pub struct ListWriter {
    file: BufWriter<File>,
    path: PathBuf,
}

impl ListWriter {
    /// Adds an extent.
    pub fn write(&mut self, extent: &Extent) -> Result<()> {
        Ok(self.file.write_all(&extent.encode()).context("write", &self.path)?)
    }
}

impl Drop for ListWriter {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}
