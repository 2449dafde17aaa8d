//! Entries out of a manifest: each line checked, the order too, so that later code may rely on both.
//!
//! Because a manifest is sorted, one can begin in the middle of it, and go past a whole folder, without reading what lies
//! between: [`leaves`](crate::manifest::leaves) says where. What was gone past is not checked.

use crate::manifest::leaves::{Goal, Leaves};
use crate::manifest::{Error, Result, StreamReader, decode};
use crate::model::limits::{MAX_ENTRY_LINE_BYTES, MAX_MANIFEST_ENTRIES};
use crate::model::{Entry, EntryKind, RelPath, Stream};
use crate::vault::Vault;
use std::sync::Arc;

/// Gives the entries of one manifest in path order.
#[derive(Debug)]
pub struct EntryReader<V> {
    vault: Arc<V>,
    manifest: Stream,
    leaves: Option<Leaves>,
    stream: StreamReader<V>,
    // The number of the chunk with which `stream` began.
    first: usize,
    buffer: Vec<u8>,
    at: usize,
    number: u64,
    last: Option<RelPath>,
    // The folder that was entered last; those above it are its parents.
    folder: Option<RelPath>,
    // What comes before this is not given.
    goal: Option<Goal>,
    sought: bool,
    // Most folders end in the next chunk: it is read before anything is sought. Looking at it and coming back would read it thrice.
    patient: bool,
    // The parents of the next entry were not read.
    in_the_middle: bool,
}

impl<V: Vault> EntryReader<V> {
    /// Begins to read; fetches nothing yet.
    ///
    /// # Errors
    /// [`Error::Form`] when the stream's head is not one.
    pub fn new(vault: Arc<V>, manifest: &Stream) -> Result<Self> {
        let stream = StreamReader::new(vault.clone(), manifest)?;
        Ok(Self {
            vault,
            manifest: manifest.clone(),
            leaves: None,
            stream,
            first: 0,
            buffer: Vec::new(),
            at: 0,
            number: 0,
            last: None,
            folder: None,
            goal: None,
            sought: false,
            patient: false,
            in_the_middle: false,
        })
    }

    /// Begins with the entry at `path`, or with what comes after its place when there is none. Few chunks are read on the
    /// way, however long the manifest is. That the folders above the first entry are there is not checked.
    ///
    /// # Errors
    /// [`Error::Form`] when the stream's head is not one.
    pub fn starting_at(vault: Arc<V>, manifest: &Stream, path: &RelPath) -> Result<Self> {
        let mut reader = Self::new(vault, manifest)?;
        reader.goal = Some(Goal::At(path.clone()));
        reader.in_the_middle = true;
        Ok(reader)
    }

    /// The next entry is the first that does not lie in `folder`, which was given just now.
    pub fn go_past(&mut self, folder: &RelPath) {
        self.goal = Some(Goal::Past(folder.clone()));
        (self.sought, self.patient) = (false, true);
    }

    /// The next entry; `None` after the last. Memory: one line and a few chunks, and 32 bytes for each chunk of the manifest once
    /// something was gone past.
    ///
    /// # Errors
    /// The stream's, or what is wrong with the line or its place.
    pub async fn next(&mut self) -> Result<Option<Entry>> {
        loop {
            let read_out = self.goal.is_some() && !self.sought && !self.buffer[self.at..].contains(&b'\n');
            if read_out && !std::mem::take(&mut self.patient) {
                self.seek().await?;
            }
            let Some(line) = self.line().await? else { return Ok(None) };
            self.number += 1;
            if self.number > MAX_MANIFEST_ENTRIES {
                return Err(Error::TooMany);
            }
            let entry = decode(&line).map_err(|problem| Error::Line { number: self.number, problem })?;
            if self.goal.as_ref().is_some_and(|goal| goal.is_after(&entry.path)) {
                continue;
            }
            (self.goal, self.sought) = (None, false);
            self.check_place(&entry)?;
            return Ok(Some(entry));
        }
    }

    fn check_place(&mut self, entry: &Entry) -> Result<()> {
        if self.last.as_ref().is_some_and(|last| *last >= entry.path) {
            return Err(Error::Order(entry.path.clone()));
        }
        let parent = entry.path.parent();
        if std::mem::take(&mut self.in_the_middle) {
            self.folder.clone_from(&parent);
        }
        // Sorted by path, so a folder that was left does not come again.
        while self.folder != parent {
            self.folder = match self.folder.take() {
                Some(folder) => folder.parent(),
                None => return Err(Error::Parent(entry.path.clone())),
            };
        }
        if matches!(entry.kind, EntryKind::Folder) {
            self.folder = Some(entry.path.clone());
        }
        self.last = Some(entry.path.clone());
        Ok(())
    }

    /// Jumps to the chunk in which the goal lies, or stays when that is near or cannot be told.
    async fn seek(&mut self) -> Result<()> {
        self.sought = true;
        let Some(goal) = self.goal.clone() else { return Ok(()) };
        if self.leaves.is_none() {
            self.leaves = Leaves::load(self.vault.clone(), &self.manifest).await?;
        }
        // More chunks than are held in memory: read on.
        let Some(leaves) = &self.leaves else { return Ok(()) };
        let read = self.first + self.stream.chunks_given();
        let from = read.saturating_sub(1);
        let Some(found) = leaves.find(&*self.vault, from, &goal).await?.filter(|found| *found > from) else {
            return Ok(());
        };
        self.stream = StreamReader::of_chunks(self.vault.clone(), &leaves.ids()[found..]);
        (self.first, self.at) = (found, 0);
        self.buffer.clear();
        // The line that the chunk begins in is not wanted: the first that begins in it comes before the goal, too.
        self.line().await?;
        Ok(())
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

    async fn written(text: &str, parameters: &ChunkerParameters) -> (Arc<MemoryVault>, Stream) {
        let vault = Arc::new(MemoryVault::new());
        let mut chunks = Vec::new();
        let mut sink = |id, bytes| {
            chunks.push((id, bytes));
            Ok::<_, std::convert::Infallible>(())
        };
        let mut writer = StreamWriter::new(parameters);
        writer.write(text.as_bytes(), &mut sink).unwrap();
        let stream = writer.finish(&mut sink).unwrap();
        for chunk in chunks {
            vault.put(vec![Encoder::new(Compression::default()).encode(&[chunk])]).await.unwrap();
        }
        (vault, stream)
    }

    async fn read(text: &str) -> Result<Vec<Entry>> {
        let (vault, stream) = written(text, &ChunkerParameters::STANDARD).await;
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

    /// 200 folders of 100 files each, as a vault keeps them.
    async fn tree(parameters: &ChunkerParameters) -> (Arc<MemoryVault>, Stream) {
        let file = |folder: usize, number: usize| {
            let id = crate::codec::chunk_id(&[folder.to_le_bytes(), number.to_le_bytes()].concat());
            format!(
                "{{\"path\":\"d{folder:03}/f{number:02}\",\"kind\":\"file\",\"size\":9,\"content\":[[\"{id}\",9]]}}\n"
            )
        };
        let text: String = (0..200)
            .flat_map(|d| std::iter::once(folder(&format!("d{d:03}"))).chain((0..100).map(move |f| file(d, f))))
            .collect();
        written(&text, parameters).await
    }

    #[tokio::test]
    async fn one_folder_of_a_long_manifest_is_found_with_few_chunks() {
        let small = serde_json::from_str(r#"{"min":4096,"average":8192,"max":16384,"seed":0}"#).unwrap();
        let (vault, manifest) = tree(&small).await;
        let chunks = vault.chunk_ids().len() as u64;
        assert!(chunks > 200 && manifest.depth == 1, "{chunks} chunks");
        for wanted in ["d000", "d000/f00", "d007/f50", "d123", "d123/f99", "d199/f99"] {
            let before = vault.chunks_got();
            let path = RelPath::new(wanted.as_bytes()).unwrap();
            let mut reader = EntryReader::starting_at(vault.clone(), &manifest, &path).unwrap();
            assert_eq!(reader.next().await.unwrap().unwrap().path, path);
            let after = reader.next().await.unwrap();
            assert_eq!(after.is_none(), wanted == "d199/f99");
            let got = vault.chunks_got() - before;
            assert!(got <= 20, "{wanted}: {got} of {chunks} chunks");
        }
        let nowhere = RelPath::new(&b"d050/f000"[..]).unwrap();
        let mut reader = EntryReader::starting_at(vault.clone(), &manifest, &nowhere).unwrap();
        assert_eq!(reader.next().await.unwrap().unwrap().path.to_string(), "d050/f01");
        let behind = RelPath::new(&b"e"[..]).unwrap();
        let mut reader = EntryReader::starting_at(vault, &manifest, &behind).unwrap();
        assert!(reader.next().await.unwrap().is_none());
    }

    #[tokio::test]
    async fn many_small_folders_are_gone_past_with_each_chunk_read_about_once() {
        let small = serde_json::from_str(r#"{"min":16384,"average":32768,"max":65536,"seed":0}"#).unwrap();
        // Each folder is smaller than a chunk.
        let (vault, manifest) = tree(&small).await;
        let chunks = vault.chunk_ids().len() as u64;
        let before = vault.chunks_got();
        let mut reader = EntryReader::new(vault.clone(), &manifest).unwrap();
        let mut folders = 0;
        while let Some(entry) = reader.next().await.unwrap() {
            reader.go_past(&entry.path);
            folders += 1;
        }
        let got = vault.chunks_got() - before;
        assert!(folders == 200 && got <= chunks + chunks / 2, "{got} of {chunks} chunks for {folders} folders");
    }

    #[tokio::test]
    async fn whatever_is_gone_past_the_rest_is_what_a_whole_reading_gives() {
        let small = serde_json::from_str(r#"{"min":4096,"average":8192,"max":16384,"seed":0}"#).unwrap();
        for parameters in [small, ChunkerParameters::STANDARD] {
            let (vault, manifest) = tree(&parameters).await;
            for every in [1, 3, 7] {
                let mut reader = EntryReader::new(vault.clone(), &manifest).unwrap();
                let mut seen = Vec::new();
                let mut number = 0;
                while let Some(entry) = reader.next().await.unwrap() {
                    if entry.path.depth() == 1 {
                        number += 1;
                        if number % every == 0 {
                            reader.go_past(&entry.path);
                        }
                    }
                    seen.push(entry.path.to_string());
                }
                let expected: usize = (1..=200).map(|n| if n % every == 0 { 1 } else { 101 }).sum();
                assert_eq!(seen.len(), expected, "every {every}");
                assert!(seen.is_sorted());
            }
        }
    }

    /// A line may be longer than the chunks it lies in: then no line begins in some of them.
    #[tokio::test]
    async fn chunks_in_which_no_line_begins_are_no_obstacle() {
        let small = serde_json::from_str(r#"{"min":4096,"average":8192,"max":16384,"seed":0}"#).unwrap();
        let noise = |n: usize| -> String {
            (0..1500)
                .map(|i: usize| crate::codec::chunk_id(&[n.to_le_bytes(), i.to_le_bytes()].concat()).to_string())
                .collect()
        };
        let link = |n: usize| {
            let size = if n.is_multiple_of(3) { noise(n) } else { String::new() };
            format!("{{\"path\":\"f{n:02}\",\"kind\":\"link\",\"target\":\"x{size}\"}}\n")
        };
        let text: String = (0..30).map(link).collect();
        let (vault, manifest) = written(&text, &small).await;
        for n in 0..30 {
            let path = RelPath::new(format!("f{n:02}").into_bytes()).unwrap();
            let mut reader = EntryReader::starting_at(vault.clone(), &manifest, &path).unwrap();
            for expected in n..30 {
                assert_eq!(reader.next().await.unwrap().unwrap().path.to_string(), format!("f{expected:02}"));
            }
            assert!(reader.next().await.unwrap().is_none());
        }
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
