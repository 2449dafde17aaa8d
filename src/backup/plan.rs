//! The plan of a backup: every entry in path order, with what has to be done about it. On disk, in a file without a name that
//! the system deletes with the process, so a million entries take no memory and leave nothing behind.

use crate::backup::cache::{decode_stamp, encode_stamp};
use crate::backup::inspect::Stamp;
use crate::backup::{Result, Roots};
use crate::manifest;
use crate::model::{Changes, Entry, SnapshotId, Totals};
use crate::platform::Context;
use crate::platform::fs::File;
use crate::platform::lines::{LineWriter, Lines};
use jiff::Timestamp;
use std::io::{Seek, SeekFrom};
use std::path::{Path, PathBuf};

/// What has to be done about an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// As in the last snapshot: its manifest line is used again.
    Same,
    /// Not in the last snapshot.
    New,
    /// In the last snapshot, perhaps otherwise: it has to be looked into. Carries the hash of the old line.
    Changed(u64),
}

/// One entry of the plan.
#[derive(Debug)]
pub struct Planned {
    /// What to do.
    pub verdict: Verdict,
    /// How to recognise it next time.
    pub stamp: Option<Stamp>,
    /// The entry; with content only when it is the same.
    pub entry: Entry,
    /// Its manifest line, as far as known.
    pub line: Vec<u8>,
}

/// What a backup will do. Made by [`scan`](crate::backup::scan()).
#[derive(Debug)]
pub struct Plan {
    /// Where things lie.
    pub roots: Roots,
    /// The snapshot it was compared with.
    pub parent: Option<SnapshotId>,
    /// When the scan began.
    pub started: Timestamp,
    /// The whole tree.
    pub totals: Totals,
    /// Compared with the parent; a file whose time changed but whose bytes did not counts as changed until it is read.
    pub changes: Changes,
    /// Plain bytes of the files that have to be read.
    pub bytes_to_read: u64,
    file: File,
}

impl Plan {
    /// The planned entries in path order; may be read as often as needed, one reader at a time.
    pub fn entries(&self) -> Result<PlanReader> {
        let path = PathBuf::from("the plan of this backup");
        let mut file = self.file.try_clone().context("open", &path)?;
        file.seek(SeekFrom::Start(0)).context("read", &path)?;
        Ok(PlanReader { lines: Lines::new(file, path)? })
    }

    /// The entries whose content will be read, in path order: what goes ahead of the upload.
    pub fn entries_to_read(&self) -> Result<impl Iterator<Item = Result<Entry>> + Send + 'static> {
        let mut reader = self.entries()?;
        // Of a tree that did not change nothing has to be looked through.
        let mut left = self.changes.new_files + self.changes.changed_files;
        Ok(std::iter::from_fn(move || {
            while left > 0 {
                match reader.read_next_unlike_before() {
                    Ok(Some(planned)) if !planned.entry.is_file() => {}
                    Ok(Some(planned)) => {
                        left -= 1;
                        return Some(Ok(planned.entry));
                    }
                    Ok(None) => return None,
                    Err(error) => return Some(Err(error)),
                }
            }
            None
        }))
    }
}

/// Reads a plan.
#[derive(Debug)]
pub struct PlanReader {
    lines: Lines,
}

impl PlanReader {
    /// The next entry; `None` after the last.
    pub fn read_next(&mut self) -> Result<Option<Planned>> {
        let Some(line) = self.lines.read_next()? else { return Ok(None) };
        self.parse(&line).map(Some)
    }

    /// The next entry that is not the same as before, the others skipped unread.
    pub fn read_next_unlike_before(&mut self) -> Result<Option<Planned>> {
        while let Some(line) = self.lines.read_next()? {
            if line.first() != Some(&b'=') {
                return self.parse(&line).map(Some);
            }
        }
        Ok(None)
    }

    fn parse(&self, line: &[u8]) -> Result<Planned> {
        let parse = || {
            let tab = line.iter().position(|b| *b == b'\t')?;
            let head = std::str::from_utf8(&line[..tab]).ok()?;
            let (verdict, stamp) = head.split_once(' ')?;
            let verdict = match verdict.split_at_checked(1)? {
                ("=", "") => Verdict::Same,
                ("+", "") => Verdict::New,
                ("~", hash) => Verdict::Changed(u64::from_str_radix(hash, 16).ok()?),
                _ => return None,
            };
            let stamp = decode_stamp(stamp.as_bytes())?;
            let body = line[tab + 1..].to_vec();
            let entry = manifest::decode(&body).ok()?;
            Some(Planned { verdict, stamp, entry, line: body })
        };
        parse().ok_or_else(|| self.lines.damaged().into())
    }
}

/// Writes a plan.
#[derive(Debug)]
pub struct PlanWriter {
    file: File,
    lines: LineWriter,
}

impl PlanWriter {
    /// Begins an unnamed file on the file system of `folder`.
    pub fn create(folder: &Path) -> Result<Self> {
        let path = folder.join("the plan of this backup");
        let file = tempfile::tempfile_in(folder).context("create", &path)?;
        let lines = LineWriter::new(file.try_clone().context("open", &path)?, &path)?;
        Ok(Self { file, lines })
    }

    /// Adds an entry as its manifest line.
    pub fn write(&mut self, verdict: Verdict, stamp: Option<Stamp>, line: &[u8]) -> Result<()> {
        let verdict = match verdict {
            Verdict::Same => "=".to_owned(),
            Verdict::New => "+".to_owned(),
            Verdict::Changed(hash) => format!("~{hash:x}"),
        };
        Ok(self.lines.write(&format!("{verdict} {}", encode_stamp(stamp)), line)?)
    }

    /// Ends the plan.
    pub fn finish(mut self, roots: Roots, parent: Option<SnapshotId>, started: Timestamp) -> Result<Plan> {
        self.lines.finish()?;
        let (totals, changes) = (Totals::default(), Changes::default());
        Ok(Plan { roots, parent, started, totals, changes, bytes_to_read: 0, file: self.file })
    }
}

/// The hash by which a changed line is recognised as the old one after all.
pub fn line_hash(line: &[u8]) -> u64 {
    let mut bytes = [0; 8];
    bytes.copy_from_slice(&blake3::hash(line).as_bytes()[..8]);
    u64::from_le_bytes(bytes)
}
