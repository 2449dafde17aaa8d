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
use crate::restore::{Error, Result};
use crate::vault::{self, Vault};
use bytes::Bytes;
use std::collections::HashMap;
use std::sync::Arc;
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
pub struct Loader<V> {
    vault: Arc<V>,
    plan: mpsc::Receiver<Planned>,
    load: Load,
    // The rest of the file at hand, and the bytes of it that are still to come.
    extents: Option<Extents<V>>,
    left: u64,
    ended: bool,
}

impl<V: Vault> Loader<V> {
    /// Takes entries from `plan`.
    pub fn new(vault: Arc<V>, plan: mpsc::Receiver<Planned>) -> Self {
        Self { vault, plan, load: Load::default(), extents: None, left: 0, ended: false }
    }

    /// The next load; `None` after the last.
    ///
    /// # Errors
    /// The vault's, when the list of a large file cannot be read for another reason than damage.
    pub async fn next(&mut self) -> Result<Option<Load>> {
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
                let known = self.load.wanted.entry(id).or_insert(0);
                self.load.bytes = self.load.bytes.saturating_add(most.saturating_sub(*known));
                *known = most.max(*known);
                self.load.steps.push(Step::Write(id, length));
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
pub async fn fetch<V: Vault>(vault: Arc<V>, load: Load, monitor: Arc<dyn Monitor>) -> Result<Fetched> {
    let Load { steps, wanted, .. } = load;
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
