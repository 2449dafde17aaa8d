//! A small file that several processes share: read again when, and only when, it is another one than last time.
//!
//! The file that was read stays open, so its inode number is not given to a new file; a replacement (every durable save is
//! one) is therefore always seen, however fast it came.

use crate::platform::{Context, Result, fs};
use std::fs::{File, Metadata};
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// What became of the file since the last look.
#[derive(Debug, PartialEq, Eq)]
pub enum Seen {
    /// It is the same.
    Same,
    /// There is no file (any more).
    Gone,
    /// It is new or changed; here is all of it.
    Content(Vec<u8>),
}

/// Remembers which version of a file was seen.
#[derive(Debug)]
pub struct Watched {
    path: PathBuf,
    last: Last,
}

#[derive(Debug)]
enum Last {
    Nothing,
    Gone,
    Read(Stamp, #[expect(dead_code, reason = "held open so that its inode number stays taken")] File),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    changed: (i64, i64),
    written: (i64, i64),
}

impl Stamp {
    fn of(metadata: &Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.size(),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
            written: (metadata.mtime(), metadata.mtime_nsec()),
        }
    }
}

impl Watched {
    /// Nothing was seen yet.
    pub fn new(path: PathBuf) -> Self {
        Self { path, last: Last::Nothing }
    }

    /// Which file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Looks again: one `stat` when nothing changed.
    pub fn look(&mut self) -> Result<Seen> {
        let Some(metadata) = fs::metadata_if_there(&self.path)? else { return Ok(self.gone()) };
        if matches!(&self.last, Last::Read(stamp, _) if *stamp == Stamp::of(&metadata)) {
            return Ok(Seen::Same);
        }
        let mut file = match fs::open_no_follow(&self.path) {
            Err(error) if error.is_not_found() => return Ok(self.gone()),
            opened => opened?,
        };
        // Stamped before it is read: a change in place while it is read leads to one reading more, never to one less.
        let stamp = Stamp::of(&file.metadata().context("look at", &self.path)?);
        let mut content = Vec::new();
        file.read_to_end(&mut content).context("read", &self.path)?;
        self.last = Last::Read(stamp, file);
        Ok(Seen::Content(content))
    }

    /// Forgets what was seen, so that the next look reads again.
    pub fn forget(&mut self) {
        self.last = Last::Nothing;
    }

    fn gone(&mut self) -> Seen {
        let known = matches!(self.last, Last::Gone);
        self.last = Last::Gone;
        if known { Seen::Same } else { Seen::Gone }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::platform::durable::{Access, save};

    #[test]
    fn every_replacement_is_seen_even_with_the_same_length() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("f");
        let mut watched = Watched::new(path.clone());
        assert_eq!(watched.look().unwrap(), Seen::Gone);
        assert_eq!(watched.look().unwrap(), Seen::Same);
        for round in 0..50_u8 {
            // Two saves between looks would give the second one the first one's inode if it were free.
            save(&path, Access::Usual, &[round, 0]).unwrap();
            save(&path, Access::Usual, &[round, 1]).unwrap();
            assert_eq!(watched.look().unwrap(), Seen::Content(vec![round, 1]));
            assert_eq!(watched.look().unwrap(), Seen::Same);
        }
        fs::remove_file(&path).unwrap();
        assert_eq!(watched.look().unwrap(), Seen::Gone);
    }
}
