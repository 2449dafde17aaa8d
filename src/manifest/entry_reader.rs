//! Entries out of a manifest: each line checked, the order too, so that later code may rely on both.

use crate::manifest::{Error, Result, StreamReader, decode};
use crate::model::limits::{MAX_ENTRY_LINE_BYTES, MAX_MANIFEST_ENTRIES};
use crate::model::{Entry, EntryKind, RelPath, Stream};
use crate::vault::Vault;
use std::sync::Arc;

/// Gives the entries of one manifest in path order.
#[derive(Debug)]
pub struct EntryReader<V> {
    stream: StreamReader<V>,
    buffer: Vec<u8>,
    at: usize,
    number: u64,
    last: Option<RelPath>,
    // The folder that was entered last; those above it are its parents.
    folder: Option<RelPath>,
}

impl<V: Vault> EntryReader<V> {
    /// Begins to read; fetches nothing yet.
    ///
    /// # Errors
    /// [`Error::Form`] when the stream's head is not one.
    pub fn new(vault: Arc<V>, manifest: &Stream) -> Result<Self> {
        let stream = StreamReader::new(vault, manifest)?;
        Ok(Self { stream, buffer: Vec::new(), at: 0, number: 0, last: None, folder: None })
    }

    /// The next entry; `None` after the last. Memory: one line and one chunk.
    ///
    /// # Errors
    /// The stream's, or what is wrong with the line or its place.
    pub async fn next(&mut self) -> Result<Option<Entry>> {
        let Some(line) = self.line().await? else { return Ok(None) };
        self.number += 1;
        if self.number > MAX_MANIFEST_ENTRIES {
            return Err(Error::TooMany);
        }
        let entry = decode(&line).map_err(|problem| Error::Line { number: self.number, problem })?;
        if self.last.as_ref().is_some_and(|last| *last >= entry.path) {
            return Err(Error::Order(entry.path));
        }
        let parent = entry.path.parent();
        // Sorted by path, so a folder that was left does not come again.
        while self.folder != parent {
            self.folder = match self.folder.take() {
                Some(folder) => folder.parent(),
                None => return Err(Error::Parent(entry.path)),
            };
        }
        if matches!(entry.kind, EntryKind::Folder) {
            self.folder = Some(entry.path.clone());
        }
        self.last = Some(entry.path.clone());
        Ok(Some(entry))
    }

    async fn line(&mut self) -> Result<Option<Vec<u8>>> {
        let mut searched = self.at;
        loop {
            if let Some(end) = self.buffer[searched..].iter().position(|b| *b == b'\n') {
                let line = self.buffer[self.at..searched + end].to_vec();
                self.at = searched + end + 1;
                return Ok(Some(line));
            }
            let unfinished = |problem: &str| Error::Line { number: self.number + 1, problem: problem.to_owned() };
            if self.buffer.len() - self.at > MAX_ENTRY_LINE_BYTES {
                return Err(unfinished("it is longer than 1 MiB"));
            }
            match self.stream.next().await? {
                Some(bytes) => {
                    self.buffer.drain(..self.at);
                    (self.at, searched) = (0, self.buffer.len());
                    self.buffer.extend_from_slice(&bytes);
                }
                None if self.at == self.buffer.len() => return Ok(None),
                None => return Err(unfinished("it does not end")),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::{Compression, Encoder};
    use crate::manifest::StreamWriter;
    use crate::model::ChunkerParameters;
    use crate::vault::MemoryVault;

    async fn read(text: &str) -> Result<Vec<Entry>> {
        let vault = Arc::new(MemoryVault::new());
        let mut chunks = Vec::new();
        let mut sink = |id, bytes| {
            chunks.push((id, bytes));
            Ok::<_, std::convert::Infallible>(())
        };
        let mut writer = StreamWriter::new(&ChunkerParameters::STANDARD);
        writer.write(text.as_bytes(), &mut sink).unwrap();
        let stream = writer.finish(&mut sink).unwrap();
        for chunk in chunks {
            vault.put(vec![Encoder::new(Compression::default()).encode(&[chunk])]).await.unwrap();
        }
        let mut reader = EntryReader::new(vault, &stream)?;
        let mut entries = Vec::new();
        while let Some(entry) = reader.next().await? {
            entries.push(entry);
        }
        Ok(entries)
    }

    fn folder(path: &str) -> String {
        format!("{{\"path\":\"{path}\",\"kind\":\"folder\"}}\n")
    }

    #[tokio::test]
    async fn a_sorted_manifest_of_many_chunks_is_read_whole() {
        let text: String = (0..100_000).map(|i| folder(&format!("d{i:06}"))).collect();
        assert_eq!(read(&text).await.unwrap().len(), 100_000);
    }

    #[tokio::test]
    async fn hostile_manifests_are_refused() {
        let unsorted = folder("b") + &folder("a");
        assert!(matches!(read(&unsorted).await, Err(Error::Order(_))));
        for file in
            ["{\"path\":\"a\",\"kind\":\"file\",\"size\":0}\n", "{\"path\":\"a\",\"kind\":\"link\",\"target\":\"/\"}\n"]
        {
            assert!(matches!(read(&(file.to_owned() + &folder("a/b"))).await, Err(Error::Parent(_))));
        }
        assert!(matches!(read(&(folder("a") + &folder("a/b/c"))).await, Err(Error::Parent(_))));
        let deep_and_back = folder("a") + &folder("a/b") + &folder("a/b/c") + &folder("a/d") + &folder("e");
        assert_eq!(read(&deep_and_back).await.unwrap().len(), 5);
        let twice = folder("a") + &folder("a");
        assert!(matches!(read(&twice).await, Err(Error::Order(_))));
        assert!(matches!(read(folder("a").trim_end()).await, Err(Error::Line { number: 1, .. })));
        assert!(matches!(read(&folder("../a")).await, Err(Error::Line { number: 1, .. })));
        let endless = format!("{}{}", folder("a"), "x".repeat(3 << 20));
        assert!(matches!(read(&endless).await, Err(Error::Line { number: 2, .. })));
    }
}
