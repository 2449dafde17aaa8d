//! The plan of a backup: what is different from the last snapshot, in path order. What is the same is only counted: it stands in the
//! cache. On disk, in a file without a name that the system deletes with the process, so a million entries take no memory and leave
//! nothing behind.
//!
//! | line | what it says |
//! |---|---|
//! | `=N` | the next N entries of the cache are the same |
//! | `-N` | the next N entries of the cache are gone, or come next with something new |
//! | `+ STAMP`, tab, manifest line | an entry that was not there |
//! | `~HASH STAMP`, tab, manifest line | one that is different from the last of those left out; HASH is that of its old line |

use crate::backup::cache::{CacheReader, CachedEntry};
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

/// Why an entry has to be looked into.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Not in the last snapshot.
    New,
    /// In the last snapshot, perhaps otherwise, or lost by the receiver. Carries the hash of the old line.
    Changed(u64),
}

/// An entry that has to be looked into.
#[derive(Debug)]
pub struct Planned {
    /// Why.
    pub verdict: Verdict,
    /// How to recognise it next time.
    pub stamp: Option<Stamp>,
    /// The entry, its content not known.
    pub entry: Entry,
    /// Its manifest line, as far as known.
    pub line: Vec<u8>,
}

/// One step of a plan.
#[derive(Debug)]
pub enum Step {
    /// An entry as it was.
    Same(CachedEntry),
    /// One that has to be looked into.
    Look(Box<Planned>),
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
    known: Option<CacheReader>,
    unchanged: bool,
}

impl Plan {
    /// The steps in path order; may be read as often as needed, one reader at a time.
    pub fn steps(&self) -> Result<PlanReader> {
        let known = self.known.as_ref().map(CacheReader::again).transpose()?;
        Ok(PlanReader { lines: self.lines()?, known, same: 0 })
    }

    /// Whether every entry of the parent is there, the same as it was, and nothing else.
    pub fn is_unchanged(&self) -> bool {
        self.unchanged && self.known.is_some()
    }

    /// The files whose content will be read, in path order.
    pub fn files_to_read(&self) -> Result<impl Iterator<Item = Result<Planned>> + Send + 'static> {
        let mut lines = self.lines()?;
        let mut next = move || {
            while let Some(line) = lines.read_next()? {
                if is_run(&line) {
                    continue;
                }
                let planned = parse(&line, &lines)?;
                if planned.entry.is_file() {
                    return Ok(Some(planned));
                }
            }
            Ok(None)
        };
        Ok(std::iter::from_fn(move || next().transpose()))
    }

    /// Their entries: what goes ahead of the upload.
    pub fn entries_to_read(&self) -> Result<impl Iterator<Item = Result<Entry>> + Send + 'static> {
        Ok(self.files_to_read()?.map(|planned| planned.map(|planned| planned.entry)))
    }

    fn lines(&self) -> Result<Lines> {
        let path = PathBuf::from("the plan of this backup");
        let mut file = self.file.try_clone().context("open", &path)?;
        file.seek(SeekFrom::Start(0)).context("read", &path)?;
        Ok(Lines::new(file, path)?)
    }
}

/// Reads a plan and, beside it, the cache it was made from.
#[derive(Debug)]
pub struct PlanReader {
    lines: Lines,
    known: Option<CacheReader>,
    // Entries of the cache that are the same and come next.
    same: u64,
}

impl PlanReader {
    /// The next step; `None` after the last.
    pub fn read_next(&mut self) -> Result<Option<Step>> {
        loop {
            if self.same > 0 {
                self.same -= 1;
                return self.known_entry().map(Step::Same).map(Some);
            }
            let Some(line) = self.lines.read_next()? else { return Ok(None) };
            if !is_run(&line) {
                return parse(&line, &self.lines).map(|planned| Some(Step::Look(Box::new(planned))));
            }
            let count = std::str::from_utf8(&line[1..]).ok().and_then(|text| text.trim_end().parse().ok());
            let count: u64 = count.ok_or_else(|| self.lines.damaged())?;
            if line[0] == b'=' {
                self.same = count;
            } else {
                for _ in 0..count {
                    self.known_entry()?;
                }
            }
        }
    }

    fn known_entry(&mut self) -> Result<CachedEntry> {
        let mut entry = CachedEntry::default();
        let there = match &mut self.known {
            Some(known) => known.read_next(&mut entry)?,
            None => false,
        };
        if there { Ok(entry) } else { Err(self.lines.damaged().into()) }
    }
}

/// Whether a line counts entries of the cache.
fn is_run(line: &[u8]) -> bool {
    matches!(line.first(), Some(b'=' | b'-'))
}

fn parse(line: &[u8], lines: &Lines) -> Result<Planned> {
    let parse = || {
        let tab = line.iter().position(|b| *b == b'\t')?;
        let head = std::str::from_utf8(&line[..tab]).ok()?;
        let (verdict, stamp) = head.split_once(' ')?;
        let verdict = match verdict.split_at_checked(1)? {
            ("+", "") => Verdict::New,
            ("~", hash) => Verdict::Changed(u64::from_str_radix(hash, 16).ok()?),
            _ => return None,
        };
        let stamp = if stamp == "-" { None } else { Some(stamp.parse().ok()?) };
        let line = line[tab + 1..].to_vec();
        let entry = manifest::decode(&line).ok()?;
        Some(Planned { verdict, stamp, entry, line })
    };
    parse().ok_or_else(|| lines.damaged().into())
}

/// Entries of the cache in a row to which the same happened.
#[derive(Debug)]
enum Run {
    Same(u64),
    Left(u64),
}

/// Writes a plan.
#[derive(Debug)]
pub struct PlanWriter {
    file: File,
    lines: LineWriter,
    run: Run,
    unchanged: bool,
}

impl PlanWriter {
    /// Begins an unnamed file on the file system of `folder`.
    pub fn create(folder: &Path) -> Result<Self> {
        let path = folder.join("the plan of this backup");
        let file = tempfile::tempfile_in(folder).context("create", &path)?;
        let lines = LineWriter::new(file.try_clone().context("open", &path)?, &path)?;
        Ok(Self { file, lines, run: Run::Same(0), unchanged: true })
    }

    /// The next entry of the cache is the same.
    pub fn same(&mut self) -> Result<()> {
        if let Run::Same(count) = &mut self.run {
            *count += 1;
            return Ok(());
        }
        self.end_run()?;
        self.run = Run::Same(1);
        Ok(())
    }

    /// The next entry of the cache is gone, or what [`PlanWriter::look`] adds next stands in its place.
    pub fn leave_out(&mut self) -> Result<()> {
        self.unchanged = false;
        if let Run::Left(count) = &mut self.run {
            *count += 1;
            return Ok(());
        }
        self.end_run()?;
        self.run = Run::Left(1);
        Ok(())
    }

    /// Adds an entry that has to be looked into, as its manifest line.
    pub fn look(&mut self, verdict: Verdict, stamp: Option<Stamp>, line: &[u8]) -> Result<()> {
        self.unchanged = false;
        self.end_run()?;
        let stamp = stamp.map_or_else(|| "-".to_owned(), |stamp| stamp.to_string());
        let head = match verdict {
            Verdict::Changed(hash) => format!("~{hash:x} {stamp}"),
            Verdict::New => format!("+ {stamp}"),
        };
        Ok(self.lines.write(head.as_bytes(), line)?)
    }

    /// Ends the plan. `known`: the cache it was made from, read to its end.
    pub fn finish(
        mut self,
        roots: Roots,
        parent: Option<SnapshotId>,
        started: Timestamp,
        known: Option<CacheReader>,
    ) -> Result<Plan> {
        self.end_run()?;
        self.lines.finish()?;
        let (totals, changes, unchanged) = (Totals::default(), Changes::default(), self.unchanged);
        Ok(Plan { roots, parent, started, totals, changes, bytes_to_read: 0, file: self.file, known, unchanged })
    }

    fn end_run(&mut self) -> Result<()> {
        let line = match std::mem::replace(&mut self.run, Run::Same(0)) {
            Run::Same(0) | Run::Left(0) => return Ok(()),
            Run::Same(count) => format!("={count}"),
            Run::Left(count) => format!("-{count}"),
        };
        Ok(self.lines.write(line.as_bytes(), b"")?)
    }
}

/// The hash by which a changed line is recognised as the old one after all.
pub fn line_hash(line: &[u8]) -> u64 {
    let mut bytes = [0; 8];
    bytes.copy_from_slice(&blake3::hash(line).as_bytes()[..8]);
    u64::from_le_bytes(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backup::cache::Cache;
    use crate::model::{EntryKind, Metadata, RelPath, RepositoryId};
    use std::collections::HashSet;

    type Happening = fn(&mut PlanWriter) -> Result<()>;

    fn entry(path: &str, is_file: bool) -> Entry {
        let file = EntryKind::File { size: 0, content: None, link_group: None };
        let kind = if is_file { file } else { EntryKind::Folder };
        Entry { path: RelPath::new(path.as_bytes()).unwrap(), kind, metadata: Metadata::default() }
    }

    fn known(folder: &Path, paths: &[&str]) -> CacheReader {
        let cache = Cache::new(folder, RepositoryId::from_random([1; 16]), &"set".parse().unwrap()).unwrap();
        let mut writer = cache.begin().unwrap();
        for path in paths {
            writer.write(b"-", &manifest::encode(&entry(path, false))).unwrap();
        }
        let snapshot = SnapshotId::from_bytes([1; 32]);
        writer.finish(&snapshot, &HashSet::new()).unwrap();
        cache.open(&snapshot).unwrap().unwrap()
    }

    fn finish(writer: PlanWriter, known: CacheReader) -> Plan {
        let roots = Roots::resolve(&[PathBuf::from("/usr")]).unwrap();
        writer.finish(roots, None, Timestamp::UNIX_EPOCH, Some(known)).unwrap()
    }

    #[test]
    fn a_plan_is_read_as_written_as_often_as_wanted() {
        let folder = tempfile::tempdir().unwrap();
        let known = known(folder.path(), &["a", "b", "c", "d", "e", "f"]);
        let stamp: Stamp = "f 1 2 3.000000004 5.000000006".parse().unwrap();
        let mut writer = PlanWriter::create(folder.path()).unwrap();
        writer.same().unwrap();
        writer.same().unwrap();
        writer.leave_out().unwrap();
        writer.leave_out().unwrap();
        writer.look(Verdict::Changed(0xabc), Some(stamp), &manifest::encode(&entry("d", true))).unwrap();
        writer.look(Verdict::New, None, &manifest::encode(&entry("d1", false))).unwrap();
        writer.same().unwrap();
        writer.leave_out().unwrap();
        let plan = finish(writer, known);
        assert!(!plan.is_unchanged());
        for _ in 0..2 {
            let mut reader = plan.steps().unwrap();
            let mut found = Vec::new();
            while let Some(step) = reader.read_next().unwrap() {
                found.push(match step {
                    Step::Same(known) => format!("={}", known.entry().unwrap().path),
                    Step::Look(look) => {
                        format!("{:?} {:?} {}", look.verdict, look.stamp == Some(stamp), look.entry.path)
                    }
                });
            }
            assert_eq!(found, ["=a", "=b", "Changed(2748) true d", "New false d1", "=e"]);
            let files: Vec<_> = plan.entries_to_read().unwrap().map(|entry| entry.unwrap().path.to_string()).collect();
            assert_eq!(files, ["d"]);
        }
    }

    #[test]
    fn a_plan_is_unchanged_only_when_all_is_the_same() {
        let folder = tempfile::tempdir().unwrap();
        let steps: [(Happening, bool); 3] = [
            (PlanWriter::same, true),
            (PlanWriter::leave_out, false),
            (|writer| writer.look(Verdict::New, None, &manifest::encode(&entry("b", false))), false),
        ];
        for (step, unchanged) in steps {
            let mut writer = PlanWriter::create(folder.path()).unwrap();
            writer.same().unwrap();
            step(&mut writer).unwrap();
            assert_eq!(finish(writer, known(folder.path(), &["a", "b"])).is_unchanged(), unchanged);
        }
    }
}
