//! Restores into a zip, for a person who wants one thing to carry away: a file, written beside its place and renamed when whole, or
//! a stream to somebody who reads it as it comes.
//!
//! A file that cannot be read to its end is taken out of a zip file again. Of a stream nothing can be taken back, so there it ends
//! everything: what comes out must never look whole.
//!
//! Names in a zip are UTF-8 and each is there once. A byte that is none becomes `%` and two digits, so that names that differ go on to
//! differ; when such a name is taken all the same, it gets ` (2)`.

use crate::model::{EntryKind, Metadata};
use crate::monitor::{Fault, Monitor};
use crate::platform::durable::{Access, Staged};
use crate::platform::shutdown::Shutdown;
use crate::restore::action::{Action, Planned};
use crate::restore::target::{FileWriter, Target};
use crate::restore::{Error, Result};
use std::collections::HashSet;
use std::fmt::{self, Write as _};
use std::hash::{BuildHasher, RandomState};
use std::io::{self, Seek, Write};
use std::path::Path;
use std::sync::Arc;
use zip::write::{SimpleFileOptions, StreamWriter};
use zip::{CompressionMethod, ZipWriter};

/// Zeros written at a time where a file has a hole; zip has none.
static ZEROS: [u8; 64 << 10] = [0; 64 << 10];

/// Where a zip goes.
pub trait Sink: Write + Seek + Send {
    /// The zip is whole.
    fn close(self) -> io::Result<()>;
}

impl Sink for Staged {
    fn close(self) -> io::Result<()> {
        self.commit().map_err(io::Error::other)
    }
}

impl<W: Write + Send> Sink for StreamWriter<W> {
    fn close(self) -> io::Result<()> {
        self.into_inner().flush()
    }
}

/// Writes one zip.
pub struct ZipTarget<S: Sink> {
    // `None` once finished, or given up.
    zip: Option<ZipWriter<S>>,
    monitor: Arc<dyn Monitor>,
    // For a stream: what is ended with it.
    stop: Option<Shutdown>,
    // The names that are in it, each as a hash whose key nobody else knows.
    taken: HashSet<u64>,
    hasher: RandomState,
    last: u64,
}

impl<S: Sink> fmt::Debug for ZipTarget<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ZipTarget")
    }
}

impl ZipTarget<Staged> {
    /// Writes to `path`, which must not be there: a zip is never replaced by another.
    ///
    /// # Errors
    /// It is there, or its folder cannot be written.
    pub fn new(path: &Path, monitor: Arc<dyn Monitor>) -> Result<Self> {
        if crate::platform::fs::metadata_if_there(path)?.is_some() {
            return Err(Error::Target(io::Error::new(
                io::ErrorKind::AlreadyExists,
                format!("`{}` exists", path.display()),
            )));
        }
        let staged = Staged::create(path, Access::Usual)?;
        Ok(Self::of(ZipWriter::new(staged), monitor, None))
    }
}

impl<W: Write + Send> ZipTarget<StreamWriter<W>> {
    /// Writes to somebody who takes it as it comes; `stop` is given when it cannot be whole.
    pub fn stream(writer: W, monitor: Arc<dyn Monitor>, stop: Shutdown) -> Self {
        Self::of(ZipWriter::new_stream(writer), monitor, Some(stop))
    }
}

impl<S: Sink> ZipTarget<S> {
    fn of(zip: ZipWriter<S>, monitor: Arc<dyn Monitor>, stop: Option<Shutdown>) -> Self {
        let (taken, hasher) = (HashSet::new(), RandomState::new());
        Self { zip: Some(zip), monitor, stop, taken, hasher, last: 0 }
    }

    fn zip(&mut self) -> io::Result<&mut ZipWriter<S>> {
        self.zip.as_mut().ok_or_else(|| io::ErrorKind::BrokenPipe.into())
    }

    /// A name that is not in it yet, and is now.
    fn name(&mut self, planned: &Planned) -> String {
        let bytes = planned.entry.path.as_bytes();
        let name = escaped(bytes);
        let mut free = name.clone();
        let mut number = 1;
        loop {
            self.last = self.hasher.hash_one(&free);
            if self.taken.insert(self.last) {
                break;
            }
            number += 1;
            free = numbered(&name, number);
        }
        if free.as_bytes() != bytes {
            let why = if name.as_bytes() == bytes { "another name became the same" } else { "its name is not UTF-8" };
            let problem = format!("{why}, and zip files need names that are and that differ; kept as `{free}`");
            self.monitor.fault(Fault { subject: planned.entry.path.to_string(), problem });
        }
        free
    }
}

/// The name as UTF-8: each byte that is none as `%` and two digits.
fn escaped(bytes: &[u8]) -> String {
    let mut name = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        name.push_str(chunk.valid());
        for byte in chunk.invalid() {
            let _ = write!(name, "%{byte:02X}");
        }
    }
    name
}

/// `a/photo (2).jpg`.
fn numbered(name: &str, number: u32) -> String {
    let last = name.rfind('/').map_or(0, |slash| slash + 1);
    let dot = name[last..].rfind('.').filter(|dot| *dot > 0).map_or(name.len(), |dot| last + dot);
    format!("{} ({number}){}", &name[..dot], &name[dot..])
}

fn options(metadata: &Metadata) -> SimpleFileOptions {
    let mut options = SimpleFileOptions::default().compression_method(CompressionMethod::Deflated).large_file(true);
    if let Some(mode) = metadata.mode {
        options = options.unix_permissions(mode & 0o777);
    }
    let time = metadata.mtime.and_then(|time| jiff::Timestamp::from_second(time.seconds()).ok());
    // Zip keeps local time without a zone, from 1980 to 2107; UTC is at least always the same.
    let time = time.map(|time| time.to_zoned(jiff::tz::TimeZone::UTC));
    let time = time.and_then(|t| {
        let [month, day, hour, minute, second] =
            [t.month(), t.day(), t.hour(), t.minute(), t.second()].map(|n| n as u8);
        zip::DateTime::from_date_and_time(u16::try_from(t.year()).ok()?, month, day, hour, minute, second).ok()
    });
    time.map_or(options, |time| options.last_modified_time(time))
}

impl<S: Sink> FileWriter for ZipTarget<S> {
    fn begin(&mut self, planned: &Planned) -> io::Result<()> {
        let name = self.name(planned);
        Ok(self.zip()?.start_file(name, options(&planned.entry.metadata))?)
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.zip()?.write_all(bytes)
    }

    fn hole(&mut self, length: u64) -> io::Result<()> {
        let mut left = length;
        while left > 0 {
            let count = left.min(ZEROS.len() as u64);
            self.zip()?.write_all(&ZEROS[..count as usize])?;
            left -= count;
        }
        Ok(())
    }

    fn end(&mut self) -> io::Result<()> {
        Ok(())
    }

    fn abandon(&mut self) {
        if let Some(stop) = &self.stop {
            self.zip = None;
            stop.stop();
        } else if let Some(zip) = &mut self.zip {
            self.taken.remove(&self.last);
            // What was written of the file so far is left out of the zip's directory.
            let _ = zip.abort_file();
        }
    }
}

impl<S: Sink> Target for ZipTarget<S> {
    fn folder(&mut self, planned: &Planned) -> io::Result<()> {
        let name = self.name(planned);
        Ok(self.zip()?.add_directory(name, options(&planned.entry.metadata))?)
    }

    fn settle(&mut self, planned: &Planned) -> io::Result<()> {
        let EntryKind::Link { target } = &planned.entry.kind else { return Ok(()) };
        if planned.action == Action::Skip {
            return Ok(());
        }
        let (name, target) = (self.name(planned), String::from_utf8_lossy(target).into_owned());
        Ok(self.zip()?.add_symlink(name, target, options(&planned.entry.metadata))?)
    }

    fn finish(&mut self) -> io::Result<()> {
        let zip = self.zip.take().ok_or(io::ErrorKind::BrokenPipe)?;
        zip.finish()?.close()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Content, Entry, RelPath};
    use crate::monitor::recording::RecordingMonitor;

    fn planned(name: &[u8]) -> Planned {
        let kind = EntryKind::File { size: 1, content: Some(Content::Inline(Vec::new())), link_group: None };
        let entry = Entry { path: RelPath::new(name).unwrap(), kind, metadata: Metadata::default() };
        Planned { action: Action::Create, entry }
    }

    #[test]
    fn names_that_are_no_text_differ_in_a_zip_as_they_do_on_the_disk() {
        let names: [&[u8]; 6] = [
            b"a/M%FCller",
            b"a/M\xf6ller",
            b"a/M\xfcller",
            b"a/M\xfc.jpg",
            b"a/M%FC.jpg",
            "a/M\u{fffd}ller".as_bytes(),
        ];
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("out.zip");
        let monitor = Arc::new(RecordingMonitor::default());
        let mut zip = ZipTarget::new(&file, monitor.clone()).unwrap();
        // The same into a stream, where a name that is there twice would end everything.
        let mut stream = ZipTarget::stream(Vec::new(), monitor.clone(), Shutdown::new());
        for (n, name) in names.iter().enumerate() {
            for target in [&mut zip as &mut dyn Target, &mut stream] {
                target.begin(&planned(name)).unwrap();
                target.write(&[n as u8]).unwrap();
                target.end().unwrap();
            }
        }
        // What is given up leaves its name free.
        zip.begin(&planned(b"b")).unwrap();
        zip.abandon();
        zip.begin(&planned(b"b")).unwrap();
        zip.end().unwrap();
        zip.finish().unwrap();
        stream.finish().unwrap();
        let mut zip = zip::ZipArchive::new(crate::platform::fs::open(&file).unwrap()).unwrap();
        let kept =
            ["a/M%FCller", "a/M%F6ller", "a/M%FCller (2)", "a/M%FC.jpg", "a/M%FC (2).jpg", "a/M\u{fffd}ller", "b"];
        assert_eq!(zip.file_names().map(|name| name.unwrap().into_owned()).collect::<Vec<_>>(), kept);
        for (n, name) in kept.iter().take(6).enumerate() {
            let mut bytes = Vec::new();
            io::Read::read_to_end(&mut zip.by_name(name).unwrap(), &mut bytes).unwrap();
            assert_eq!(bytes, [n as u8], "{name}");
        }
        assert_eq!(monitor.faults().len(), 2 * 4, "{:?}", monitor.faults());
    }
}
