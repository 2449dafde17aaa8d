//! Chunks for many files, a few requests ahead of the writer.
//!
//! Entries are taken in plan order and packed into loads: so many chunks, fetched in one call, and the steps that write them. A
//! load is about 8 MiB of plain bytes; the holder sorts a call's chunks by where they lie, and since packs were written in path
//! order, that is nearly the order of the plan.

use crate::codec::Decoder;
use crate::manifest::stream_reader::open;
use crate::model::limits::{FETCH_TARGET_BYTES, MAX_BLOCK_PLAIN_BYTES, MAX_FETCH_IDS};
use crate::model::{ChunkId, EntryKind, Extent};
use crate::monitor::{Counter, Monitor};
use crate::restore::action::{Action, Planned};
use crate::restore::content::Extents;
use crate::restore::repeats::{Repeats, Wanted};
use crate::restore::{Error, Result};
use crate::vault::{self, Vault};
use bytes::Bytes;
use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::mpsc;

const WRONG_SIZE: &str = "its parts do not make up its size";
/// One of a file's parts is not as long as the snapshot says.
pub const WRONG_LENGTH: &str = "the snapshot gives a wrong length for one of its parts";

/// What the writer does next.
#[derive(Debug)]
pub enum Step {
    /// Make a folder.
    Folder(Box<Planned>),
    /// Begin a file.
    Begin(Box<Planned>),
    /// Write the chunk.
    Write(ChunkId, u64),
    /// Leave so many zeros.
    Hole(u64),
    /// The file is whole.
    End,
    /// The rest of the file cannot be had.
    Lost(String),
}

/// Steps, and the chunks that they need.
#[derive(Debug, Default)]
pub struct Load {
    /// In plan order.
    pub steps: Vec<Step>,
    /// What is to be fetched, and how long it is.
    wanted: HashMap<ChunkId, u64>,
    /// What is at hand from earlier loads.
    kept: HashMap<ChunkId, Bytes>,
    /// Those of the wanted ones that an earlier load wanted, too.
    again: HashSet<ChunkId>,
    bytes: u64,
}

/// A load whose chunks have come.
#[derive(Debug)]
pub struct Fetched {
    /// In plan order.
    pub steps: Vec<Step>,
    /// Checked bytes.
    pub chunks: HashMap<ChunkId, Bytes>,
    /// Chunks that cannot be had, and why.
    pub lost: HashMap<ChunkId, String>,
}

/// Packs planned entries into loads.
#[derive(Debug)]
pub(crate) struct Loader<V> {
    vault: Arc<V>,
    plan: mpsc::Receiver<Planned>,
    load: Load,
    // The rest of the file at hand, and the bytes of it that are still to come.
    extents: Option<Extents<V>>,
    left: u64,
    ended: bool,
    repeats: Arc<Mutex<Repeats>>,
}

impl<V: Vault> Loader<V> {
    /// Takes entries from `plan`. What [`fetch`] finds worth keeping comes back in `repeats`.
    pub(crate) fn new(vault: Arc<V>, plan: mpsc::Receiver<Planned>, repeats: Arc<Mutex<Repeats>>) -> Self {
        Self { vault, plan, load: Load::default(), extents: None, left: 0, ended: false, repeats }
    }

    /// The next load; `None` after the last.
    ///
    /// # Errors
    /// The vault's, when the list of a large file cannot be read for another reason than damage.
    pub(crate) async fn next(&mut self) -> Result<Option<Load>> {
        while !self.ended && !self.is_full() {
            if let Some(extents) = &mut self.extents {
                match extents.next().await {
                    Ok(Some(extent)) => self.extent(extent),
                    Ok(None) if self.left == 0 => self.close(Step::End),
                    Ok(None) => self.close(Step::Lost(WRONG_SIZE.to_owned())),
                    Err(crate::manifest::Error::Vault(error)) if is_fatal(&error) => return Err(error.into()),
                    Err(error) => self.close(Step::Lost(format!("the list of its parts cannot be read: {error}"))),
                }
                continue;
            }
            match self.plan.recv().await {
                None => self.ended = true,
                Some(planned) => self.begin(planned),
            }
        }
        let load = std::mem::take(&mut self.load);
        Ok(if load.steps.is_empty() { None } else { Some(load) })
    }

    /// An extent of nothing, or of more than the file has, ends the file: a hostile list need not end by itself.
    fn extent(&mut self, extent: Extent) {
        match self.left.checked_sub(extent.length()) {
            Some(left) if extent.length() > 0 => self.left = left,
            _ => return self.close(Step::Lost(WRONG_SIZE.to_owned())),
        }
        match extent {
            Extent::Hole(length) => self.load.steps.push(Step::Hole(length)),
            Extent::Chunk(id, length) => {
                // No block holds more, whatever a list says. Of two lengths for one chunk one is wrong, and the shorter one hurts
                // nobody.
                let most = length.min(MAX_BLOCK_PLAIN_BYTES.into());
                self.load.steps.push(Step::Write(id, length));
                if !self.is_at_hand(id) {
                    let known = self.load.wanted.entry(id).or_insert(0);
                    self.load.bytes = self.load.bytes.saturating_add(most.saturating_sub(*known));
                    *known = most.max(*known);
                }
            }
        }
    }

    /// Whether a chunk need not be fetched. Within a load each chunk is asked for once.
    fn is_at_hand(&mut self, id: ChunkId) -> bool {
        let load = &mut self.load;
        if load.wanted.contains_key(&id) {
            return false;
        }
        if load.kept.contains_key(&id) {
            return true;
        }
        match self.repeats.lock().unwrap_or_else(PoisonError::into_inner).want(&id) {
            Wanted::New => false,
            Wanted::Again => {
                load.again.insert(id);
                false
            }
            Wanted::Kept(bytes) => {
                load.bytes = load.bytes.saturating_add(bytes.len() as u64);
                load.kept.insert(id, bytes);
                true
            }
        }
    }

    fn is_full(&self) -> bool {
        let load = &self.load;
        load.bytes >= FETCH_TARGET_BYTES || load.wanted.len() >= MAX_FETCH_IDS || load.steps.len() >= 4 * MAX_FETCH_IDS
    }

    fn close(&mut self, step: Step) {
        self.extents = None;
        self.load.steps.push(step);
    }

    fn begin(&mut self, mut planned: Planned) {
        if matches!(planned.entry.kind, EntryKind::Folder) {
            self.load.steps.push(Step::Folder(Box::new(planned)));
            return;
        }
        if !matches!(planned.action, Action::Create | Action::Replace | Action::Beside) {
            return;
        }
        let EntryKind::File { content, size, .. } = &mut planned.entry.kind else { return };
        let content = content.take();
        self.left = *size;
        self.load.steps.push(Step::Begin(Box::new(planned)));
        match content {
            Some(content) => match Extents::of(&self.vault, content) {
                Ok(extents) => self.extents = Some(extents),
                Err(error) => self.close(Step::Lost(error.to_string())),
            },
            None => self.close(Step::Lost("the snapshot does not say what is in it".to_owned())),
        }
    }
}

/// Whether going on makes no sense: nobody there, or not allowed.
pub fn is_fatal(error: &vault::Error) -> bool {
    !matches!(error, vault::Error::NotFound(_) | vault::Error::Corrupt(_) | vault::Error::Missing(_))
}

/// Fetches and checks the chunks of a load. When a call fails because something is damaged, each chunk is asked for by itself, so
/// that only the files that need the damaged ones are lost.
///
/// # Errors
/// The vault's, when going on makes no sense.
pub(crate) async fn fetch<V: Vault>(
    vault: Arc<V>,
    load: Load,
    monitor: Arc<dyn Monitor>,
    repeats: Arc<Mutex<Repeats>>,
) -> Result<Fetched> {
    let Load { steps, wanted, kept, again, .. } = load;
    let mut lost = HashMap::new();
    let bytes = wanted.values().sum();
    let mut chunks = match checked_chunks(&*vault, wanted.keys().copied().collect(), bytes).await {
        Ok(chunks) => chunks,
        Err(error) if is_fatal(&error) => return Err(error.into()),
        Err(_) => HashMap::new(),
    };
    for (id, bytes) in wanted {
        if chunks.contains_key(&id) {
            continue;
        }
        match checked_chunks(&*vault, vec![id], bytes).await.map(|mut found| found.remove(&id)) {
            Ok(Some(found)) if found.len() as u64 <= bytes => drop(chunks.insert(id, found)),
            // Not kept: of thousands of them nobody would know how much they are together.
            Ok(Some(_)) => drop(lost.insert(id, WRONG_LENGTH.to_owned())),
            Ok(None) => drop(lost.insert(id, format!("chunk {} is not there", id.short()))),
            Err(error) if is_fatal(&error) => return Err(error.into()),
            Err(error) => drop(lost.insert(id, error.to_string())),
        }
    }
    monitor.count(Counter::BytesFetched, chunks.values().map(|bytes| bytes.len() as u64).sum());
    if !again.is_empty() {
        let mut repeats = repeats.lock().unwrap_or_else(PoisonError::into_inner);
        for id in again {
            chunks.get(&id).into_iter().for_each(|bytes| repeats.keep(id, bytes));
        }
    }
    chunks.extend(kept);
    Ok(Fetched { steps, chunks, lost })
}

/// Fetches and checks chunks, all in one call; what did not come is not among them.
pub(crate) async fn checked_chunks<V: Vault>(
    vault: &V,
    ids: Vec<ChunkId>,
    bytes: u64,
) -> vault::Result<HashMap<ChunkId, Bytes>> {
    if ids.is_empty() {
        return Ok(HashMap::new());
    }
    let blocks = vault.get_sized(ids.clone(), bytes).await?;
    let opened = tokio::task::spawn_blocking(move || open(&mut Decoder::new(), blocks, &ids)).await;
    let opened = opened.map_err(|_| vault::Error::Failed("stopped while decoding".to_owned(), None))?;
    opened.map_err(|error| vault::Error::Corrupt(error.to_string()))
}

impl From<mpsc::error::SendError<Planned>> for Error {
    fn from(_: mpsc::error::SendError<Planned>) -> Self {
        Self::Stopped
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::{Compression, Encoder, chunk_id};
    use crate::model::{Content, Entry, Metadata, RelPath};
    use crate::monitor::recording::RecordingMonitor;
    use crate::vault::MemoryVault;

    /// Equal blocks far from each other, as in a disk image.
    #[tokio::test]
    async fn what_occurs_again_and_again_is_fetched_twice_when_one_load_follows_the_other() {
        let vault = Arc::new(MemoryVault::new());
        let chunk = |n: u8| Bytes::from(vec![n; 1 << 20]);
        for n in 0..=60 {
            let block = Encoder::new(Compression::default()).encode(&[(chunk_id(&chunk(n)), chunk(n))]);
            vault.put(vec![block]).await.unwrap();
        }
        let order: Vec<u8> = (1..=60).flat_map(|n| if n % 6 == 0 { vec![0, n] } else { vec![n] }).collect();
        let extents = order.iter().map(|n| Extent::Chunk(chunk_id(&chunk(*n)), 1 << 20)).collect();
        let size = (order.len() as u64) << 20;
        let kind = EntryKind::File { size, content: Some(Content::Inline(extents)), link_group: None };
        let entry = Entry { path: RelPath::new(b"image").unwrap(), kind, metadata: Metadata::default() };
        let (sender, plan) = mpsc::channel(1);
        sender.send(Planned { action: Action::Create, entry }).await.unwrap();
        drop(sender);
        let (repeats, monitor) = (Arc::default(), Arc::new(RecordingMonitor::default()));
        let mut loader = Loader::new(vault.clone(), plan, Arc::clone(&repeats));
        let mut written = Vec::new();
        while let Some(load) = loader.next().await.unwrap() {
            let fetched = fetch(vault.clone(), load, monitor.clone(), Arc::clone(&repeats)).await.unwrap();
            assert!(fetched.lost.is_empty());
            for step in &fetched.steps {
                if let Step::Write(id, length) = step {
                    assert_eq!(fetched.chunks[id].len() as u64, *length);
                    written.push(fetched.chunks[id][0]);
                }
            }
        }
        assert_eq!(written, order);
        assert_eq!(monitor.counted(Counter::BytesFetched), (60 + 2) << 20);
    }
}
