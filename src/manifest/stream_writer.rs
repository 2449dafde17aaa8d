//! Bytes in, chunks out, and at the end the [`Stream`] that finds them again.

use crate::chunker::Chunker;
use crate::codec::chunk_id;
use crate::model::limits::{MAX_STREAM_IDS, RECORD_STREAM_IDS};
use crate::model::{ChunkId, ChunkerParameters, Stream};
use bytes::Bytes;

/// Cuts one string of bytes. Every chunk goes to the `sink` that each call is given, the lists at the end too.
#[derive(Debug)]
pub struct StreamWriter {
    chunker: Chunker,
    length: u64,
    // 32 bytes for about 256 KiB of stream: 160 KiB for the manifest of five million entries.
    ids: Vec<ChunkId>,
    head_ids: usize,
}

impl StreamWriter {
    /// An empty stream, whose head will stand in a line of a manifest.
    pub fn new(parameters: &ChunkerParameters) -> Self {
        Self { chunker: Chunker::new(parameters), length: 0, ids: Vec::new(), head_ids: MAX_STREAM_IDS }
    }

    /// An empty stream, whose head will stand in a record.
    pub fn of_record(parameters: &ChunkerParameters) -> Self {
        Self { head_ids: RECORD_STREAM_IDS, ..Self::new(parameters) }
    }

    /// Appends bytes.
    ///
    /// # Errors
    /// Whatever the sink returns; the stream is worthless then.
    pub fn write<E>(&mut self, bytes: &[u8], sink: &mut impl FnMut(ChunkId, Bytes) -> Result<(), E>) -> Result<(), E> {
        self.length += bytes.len() as u64;
        let mut rest = bytes;
        while !rest.is_empty() {
            rest = self.chunker.push(rest);
            self.drain(false, sink)?;
        }
        Ok(())
    }

    /// Cuts what is left, then the lists of ids until few enough are left to stand in the stream's head.
    ///
    /// # Errors
    /// Whatever the sink returns.
    pub fn finish<E>(&mut self, sink: &mut impl FnMut(ChunkId, Bytes) -> Result<(), E>) -> Result<Stream, E> {
        self.drain(true, sink)?;
        let length = std::mem::take(&mut self.length);
        let mut ids = std::mem::take(&mut self.ids);
        let mut depth = 0;
        while ids.len() > self.head_ids {
            for id in &ids {
                let mut rest = &id.as_bytes()[..];
                while !rest.is_empty() {
                    rest = self.chunker.push(rest);
                    self.drain(false, sink)?;
                }
            }
            self.drain(true, sink)?;
            ids = std::mem::take(&mut self.ids);
            depth += 1;
        }
        Ok(Stream { length, depth, ids })
    }

    fn drain<E>(&mut self, last: bool, sink: &mut impl FnMut(ChunkId, Bytes) -> Result<(), E>) -> Result<(), E> {
        while let Some(chunk) = self.chunker.next_chunk(last) {
            let (id, bytes) = (chunk_id(chunk), Bytes::copy_from_slice(chunk));
            self.ids.push(id);
            sink(id, bytes)?;
        }
        Ok(())
    }
}
