//! Restores into a zip, for a person who wants one thing to carry away: a file, written beside its place and renamed when whole, or
//! a stream to somebody who reads it as it comes.
//!
//! A file that cannot be read to its end is taken out of a zip file again. Of a stream nothing can be taken back, so there it ends
//! everything: what comes out must never look whole.

use crate::model::{EntryKind, Metadata};
use crate::monitor::{Fault, Monitor};
use crate::platform::durable::{Access, Staged};
use crate::platform::shutdown::Shutdown;
use crate::restore::action::{Action, Planned};
use crate::restore::target::Target;
use crate::restore::{Error, Result};
use std::fmt;
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
        Ok(Self { zip: Some(ZipWriter::new(staged)), monitor, stop: None })
    }
}

impl<W: Write + Send> ZipTarget<StreamWriter<W>> {
    /// Writes to somebody who takes it as it comes; `stop` is given when it cannot be whole.
    pub fn stream(writer: W, monitor: Arc<dyn Monitor>, stop: Shutdown) -> Self {
        Self { zip: Some(ZipWriter::new_stream(writer)), monitor, stop: Some(stop) }
    }
}

impl<S: Sink> ZipTarget<S> {
    fn zip(&mut self) -> io::Result<&mut ZipWriter<S>> {
        self.zip.as_mut().ok_or_else(|| io::ErrorKind::BrokenPipe.into())
    }

    fn name(&self, planned: &Planned) -> String {
        let bytes = planned.entry.path.as_bytes();
        String::from_utf8(bytes.to_vec()).unwrap_or_else(|_| {
            let name = String::from_utf8_lossy(bytes).into_owned();
            let problem = format!("its name is not UTF-8, which zip files need; kept as `{name}`");
            self.monitor.fault(Fault { subject: name.clone(), problem });
            name
        })
    }
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

impl<S: Sink> Target for ZipTarget<S> {
    fn folder(&mut self, planned: &Planned) -> io::Result<()> {
        let name = self.name(planned);
        Ok(self.zip()?.add_directory(name, options(&planned.entry.metadata))?)
    }

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
            // What was written of the file so far is left out of the zip's directory.
            let _ = zip.abort_file();
        }
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
