//! Files of many lines on local disk, compressed: plans and caches, which are too long for memory and need not last.
//!
//! A line is a head, a tab and a body. The zstd checksum at the end finds damage, and a cut file is an error, never a shorter one.

use crate::model::limits::MAX_ENTRY_LINE_BYTES;
use crate::platform::{Context, Error, Result, fs};
use std::fs::File;
use std::io::{self, BufRead, BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

/// Reads the lines of a zstd file.
#[derive(Debug)]
pub struct Lines {
    reader: ZstdReader,
    path: PathBuf,
}

struct ZstdReader(BufReader<zstd::Decoder<'static, BufReader<File>>>);

impl std::fmt::Debug for ZstdReader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ZstdReader")
    }
}

impl Lines {
    /// Reads from the start of `file`; `path` is for messages.
    pub fn new(file: File, path: PathBuf) -> Result<Self> {
        let decoder = zstd::Decoder::new(file).context("read", &path)?;
        Ok(Self { reader: ZstdReader(BufReader::with_capacity(128 << 10, decoder)), path })
    }

    /// The next line without its newline; `None` after the last.
    pub fn read_next(&mut self) -> Result<Option<Vec<u8>>> {
        let mut line = Vec::new();
        Ok(self.read_into(&mut line)?.then_some(line))
    }

    /// Puts the next line into `line`; whether there was one.
    pub fn read_into(&mut self, line: &mut Vec<u8>) -> Result<bool> {
        line.clear();
        // Twice the limit of a manifest line leaves room for what stands before it.
        let limit = 2 * MAX_ENTRY_LINE_BYTES as u64;
        let mut bounded = Read::take(&mut self.reader.0, limit);
        bounded.read_until(b'\n', line).context("read", &self.path)?;
        match line.pop() {
            None => Ok(false),
            Some(b'\n') => Ok(true),
            Some(_) => Err(self.damaged()),
        }
    }

    /// The error for a line that is none.
    pub fn damaged(&self) -> Error {
        Error { action: "read", path: self.path.clone(), source: io::ErrorKind::InvalidData.into() }
    }
}

/// Writes the lines of a zstd file.
pub struct LineWriter {
    // `None` once finished.
    encoder: Option<zstd::Encoder<'static, BufWriter<File>>>,
    path: PathBuf,
}

impl std::fmt::Debug for LineWriter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "LineWriter({})", self.path.display())
    }
}

impl LineWriter {
    /// Creates the file, which must not exist.
    pub fn create(path: &Path) -> Result<Self> {
        Self::new(fs::create_new(path)?, path)
    }

    /// Writes to an open file; `path` is for messages.
    pub fn new(file: File, path: &Path) -> Result<Self> {
        let mut encoder = zstd::Encoder::new(BufWriter::new(file), 1).context("write", path)?;
        encoder.include_checksum(true).context("write", path)?;
        Ok(Self { encoder: Some(encoder), path: path.to_owned() })
    }

    /// Adds a line: a head without tab or newline, a tab, a body without newline.
    pub fn write(&mut self, head: &[u8], body: &[u8]) -> Result<()> {
        if let Some(encoder) = &mut self.encoder {
            let written = encoder.write_all(head).and_then(|()| encoder.write_all(b"\t"));
            let written = written.and_then(|()| encoder.write_all(body)).and_then(|()| encoder.write_all(b"\n"));
            written.context("write", &self.path)?;
        }
        Ok(())
    }

    /// Ends the file.
    pub fn finish(&mut self) -> Result<()> {
        if let Some(encoder) = self.encoder.take() {
            encoder.finish().and_then(|mut buffered| buffered.flush()).context("write", &self.path)?;
        }
        Ok(())
    }
}
