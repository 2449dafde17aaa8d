//! Is what is there identical already? Then it is not fetched. And: are two trees the same?

use crate::codec::chunk_id;
use crate::model::Extent;
use crate::platform::fs::File;
use crate::platform::{self, Context, attributes, fs};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

/// Compares an open file with extents, given in order; stops at the first difference.
#[derive(Debug)]
pub struct Comparison {
    file: File,
    buffer: Vec<u8>,
    compared: u64,
}

impl Comparison {
    /// Begins at the start of the file.
    pub fn new(file: File) -> Self {
        Self { file, buffer: Vec::new(), compared: 0 }
    }

    /// The number of bytes that matched so far.
    pub fn compared(&self) -> u64 {
        self.compared
    }

    /// Whether the next bytes of the file are those of all `extents`.
    ///
    /// # Errors
    /// The disk's.
    pub fn all_match(&mut self, extents: &[Extent]) -> io::Result<bool> {
        for extent in extents {
            if !self.matches(extent)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Whether the next bytes of the file are those of `extent`. An extent of nothing is none: a list of them has no end.
    ///
    /// # Errors
    /// The disk's.
    pub fn matches(&mut self, extent: &Extent) -> io::Result<bool> {
        let same = extent.length() > 0 && self.is_next(extent)?;
        if same {
            self.compared += extent.length();
        }
        Ok(same)
    }

    fn is_next(&mut self, extent: &Extent) -> io::Result<bool> {
        match extent {
            Extent::Chunk(id, length) => {
                // A chunk is at most 2 MiB; a manifest that says more is wrong, and nothing matches it.
                if *length > u64::from(crate::model::limits::MAX_BLOCK_PLAIN_BYTES) {
                    return Ok(false);
                }
                self.buffer.resize(*length as usize, 0);
                match self.file.read_exact(&mut self.buffer) {
                    Ok(()) => Ok(chunk_id(&self.buffer) == *id),
                    Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
                    Err(error) => Err(error),
                }
            }
            Extent::Hole(length) => {
                let mut left = *length;
                self.buffer.resize(64 << 10, 0);
                while left > 0 {
                    let count = left.min(64 << 10) as usize;
                    match self.file.read_exact(&mut self.buffer[..count]) {
                        Ok(()) if self.buffer[..count].iter().all(|b| *b == 0) => left -= count as u64,
                        Ok(()) => return Ok(false),
                        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(false),
                        Err(error) => return Err(error),
                    }
                }
                Ok(true)
            }
        }
    }
}

/// The first path, by name, at which two trees differ in kind, bytes, mode, time of change or link target. Reads every byte of both.
///
/// # Errors
/// The disk's.
pub fn trees_differ(left: &Path, right: &Path) -> platform::Result<Option<PathBuf>> {
    let (Some(a), Some(b)) = (fs::metadata_if_there(left)?, fs::metadata_if_there(right)?) else {
        return Ok(Some(left.to_owned()));
    };
    let same_mode = a.is_symlink() || attributes::permissions(&a) == attributes::permissions(&b);
    if a.file_type() != b.file_type() || !same_mode || attributes::modified(&a) != attributes::modified(&b) {
        return Ok(Some(left.to_owned()));
    }
    if a.is_symlink() {
        let same = fs::read_link(left)? == fs::read_link(right)?;
        return Ok((!same).then(|| left.to_owned()));
    }
    if a.is_file() {
        let same = a.len() == b.len() && hash(left)? == hash(right)?;
        return Ok((!same).then(|| left.to_owned()));
    }
    let (mut names, mut others) = (fs::read_dir(left)?, fs::read_dir(right)?);
    names.sort();
    others.sort();
    // Sockets and the like are not backed up.
    names.retain(|name| {
        let found = fs::metadata(&left.join(name));
        found.is_ok_and(|m| m.is_dir() || m.is_file() || m.is_symlink())
    });
    if names != others {
        return Ok(Some(left.to_owned()));
    }
    for name in names {
        if let Some(path) = trees_differ(&left.join(&name), &right.join(&name))? {
            return Ok(Some(path));
        }
    }
    Ok(None)
}

fn hash(path: &Path) -> platform::Result<blake3::Hash> {
    let mut hasher = blake3::Hasher::new();
    hasher.update_reader(fs::open(path)?).context("read", path)?;
    Ok(hasher.finalize())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_bytes_match_and_everything_else_does_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("f");
        std::fs::write(&path, [b"hello".to_vec(), vec![0; 100_000], b"end".to_vec()].concat()).unwrap();
        let same = [Extent::Chunk(chunk_id(b"hello"), 5), Extent::Hole(100_000), Extent::Chunk(chunk_id(b"end"), 3)];
        let mut comparison = Comparison::new(File::open(&path).unwrap());
        assert!(same.iter().all(|extent| comparison.matches(extent).unwrap()));
        for other in [Extent::Chunk(chunk_id(b"hellO"), 5), Extent::Hole(5), Extent::Chunk(chunk_id(b""), 1 << 40)] {
            let mut comparison = Comparison::new(File::open(&path).unwrap());
            assert!(!comparison.matches(&other).unwrap());
        }
    }
}
