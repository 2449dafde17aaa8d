//! The extents of a large file out of their list.

use crate::manifest::{Error, Result, StreamReader};
use crate::model::{Extent, Stream};
use crate::vault::Vault;
use std::sync::Arc;

/// Gives the extents of one indirect list in order.
#[derive(Debug)]
pub struct ExtentReader<V> {
    stream: StreamReader<V>,
    buffer: Vec<u8>,
    at: usize,
}

impl<V: Vault> ExtentReader<V> {
    /// Begins to read; fetches nothing yet.
    ///
    /// # Errors
    /// [`Error::Form`] when the stream's head is not one.
    pub fn new(vault: Arc<V>, list: &Stream) -> Result<Self> {
        Ok(Self { stream: StreamReader::new(vault, list)?, buffer: Vec::new(), at: 0 })
    }

    /// The next extent; `None` after the last.
    ///
    /// # Errors
    /// The stream's, or [`Error::Form`] when half an extent is left.
    pub async fn next(&mut self) -> Result<Option<Extent>> {
        loop {
            if let Some(bytes) = self.buffer[self.at..].first_chunk::<{ Extent::ENCODED_LENGTH }>() {
                self.at += Extent::ENCODED_LENGTH;
                return Ok(Some(Extent::decode(bytes)));
            }
            self.buffer.drain(..self.at);
            self.at = 0;
            match self.stream.next().await? {
                Some(bytes) => self.buffer.extend_from_slice(&bytes),
                None if self.buffer.is_empty() => return Ok(None),
                None => return Err(Error::Form),
            }
        }
    }
}
