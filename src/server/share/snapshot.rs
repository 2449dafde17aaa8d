//! A snapshot, or a part of it, wherever it is kept: here, or on a device that lets this one read it.
//!
//! A page reads the few chunks of the manifest that it needs, a file only its own, and a zip is a restore that goes into the
//! connection: checked chunk by chunk like any other.

use crate::manifest::EntryReader;
use crate::model::{Entry, EntryKind, Name, RelPath, SnapshotId, Stream};
use crate::monitor::Monitor;
use crate::platform::shutdown::Shutdown;
use crate::restore::content::read_range;
use crate::restore::select::Include;
use crate::restore::zip_target::ZipTarget;
use crate::restore::{self, Conflict, PlanOptions};
use crate::server::share::pipe::Pipe;
use crate::server::share::tree::{Held, Item, Kind, Result, Tree};
use crate::vault::Vault;
use bytes::Bytes;
use futures_util::future::BoxFuture;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;
use tokio::sync::mpsc;

/// What is shared of which snapshot.
#[derive(Debug)]
pub struct SnapshotOptions {
    /// Which.
    pub snapshot: SnapshotId,
    /// Its list of entries.
    pub manifest: Stream,
    /// Only what is in, or is, this.
    pub path: Option<RelPath>,
    /// For the head of the page.
    pub title: String,
    /// Where the plan of a zip is written.
    pub scratch: PathBuf,
}

/// A snapshot that can be looked into.
#[derive(Debug)]
pub struct SnapshotTree<V> {
    vault: Arc<V>,
    options: SnapshotOptions,
    // The folder that is the top, and what of it is shared when that is one file.
    base: Option<RelPath>,
    only: Option<Name>,
    monitor: Arc<dyn Monitor>,
}

impl<V: Vault> SnapshotTree<V> {
    /// Looks whether it is there.
    ///
    /// # Errors
    /// The path is not in the snapshot, or is a link; or the list cannot be read.
    pub async fn open(vault: Arc<V>, options: SnapshotOptions, monitor: Arc<dyn Monitor>) -> restore::Result<Self> {
        let (mut base, mut only) = (options.path.clone(), None);
        if let Some(path) = &options.path {
            let found = entry_at(&vault, &options.manifest, path).await?;
            match found.map(|entry| entry.kind) {
                Some(EntryKind::Folder) => {}
                Some(EntryKind::File { .. }) => (base, only) = (path.parent(), Some(path.name())),
                Some(EntryKind::Link { .. }) => {
                    return Err(restore::Error::Selection(format!("`{path}` is a link, and links are not shared")));
                }
                None => {
                    let message = format!("there is no `{path}` in snapshot {}", options.snapshot.short());
                    return Err(restore::Error::Selection(message));
                }
            }
        }
        Ok(Self { vault, options, base, only, monitor })
    }

    /// The path in the snapshot; `None` when it leads to what is not shared.
    fn full(&self, path: &RelPath) -> Option<RelPath> {
        if self.only.as_ref().is_some_and(|only| *path != RelPath::from_name(only)) {
            return None;
        }
        let Some(base) = &self.base else { return Some(path.clone()) };
        RelPath::new([base.as_bytes(), b"/", path.as_bytes()].concat()).ok()
    }

    async fn entry(&self, path: &RelPath) -> Result<Option<Entry>> {
        let Some(full) = self.full(path) else { return Ok(None) };
        Ok(entry_at(&self.vault, &self.options.manifest, &full).await?)
    }

    fn item(&self, entry: &Entry) -> Option<Item> {
        let path = match &self.base {
            Some(base) => entry.path.strip_prefix(base)?,
            None => entry.path.clone(),
        };
        let kind = match &entry.kind {
            EntryKind::Folder => Kind::Folder,
            EntryKind::File { size, .. } => Kind::File(*size),
            EntryKind::Link { .. } => Kind::Other,
        };
        Some(Item { path, kind, mtime: entry.metadata.mtime, sha256: entry.metadata.sha256 })
    }

    fn reader(&self, start: Option<&RelPath>) -> crate::manifest::Result<EntryReader<V>> {
        match start {
            None => EntryReader::new(self.vault.clone(), &self.options.manifest),
            Some(start) => EntryReader::starting_at(self.vault.clone(), &self.options.manifest, start),
        }
    }

    async fn listed(&self, folder: Option<RelPath>, after: Option<Name>, count: usize) -> Result<Vec<Item>> {
        if let Some(only) = &self.only {
            let top = folder.is_none() && after.is_none();
            let entry = if top { self.entry(&RelPath::from_name(only)).await? } else { None };
            return Ok(entry.iter().filter_map(|entry| self.item(entry)).collect());
        }
        let folder = match folder {
            None => self.base.clone(),
            Some(folder) => match self.full(&folder) {
                None => return Ok(Vec::new()),
                folder => folder,
            },
        };
        let start = match (&folder, &after) {
            (None, None) => None,
            (Some(folder), None) => Some(folder.clone()),
            (None, Some(after)) => Some(RelPath::from_name(after)),
            (Some(folder), Some(after)) => folder.join(after).ok(),
        };
        let mut reader = self.reader(start.as_ref())?;
        let mut items = Vec::new();
        while items.len() < count {
            let Some(entry) = reader.next().await? else { break };
            // The folder itself, or what was shown last.
            let is_start = start.as_ref() == Some(&entry.path);
            if is_start && after.is_none() {
                continue;
            }
            if folder.as_ref().is_some_and(|folder| entry.path.strip_prefix(folder).is_none()) {
                break;
            }
            if matches!(entry.kind, EntryKind::Folder) {
                reader.go_past(&entry.path);
            }
            if !is_start {
                items.extend(self.item(&entry));
            }
        }
        Ok(items)
    }

    async fn all_files(&self, most: usize) -> Result<Option<Vec<Item>>> {
        if self.only.is_some() {
            return Ok(Some(self.listed(None, None, 1).await?));
        }
        let mut reader = self.reader(self.base.as_ref())?;
        let mut files = Vec::new();
        while let Some(entry) = reader.next().await? {
            if self.base.as_ref().is_some_and(|base| entry.path != *base && entry.path.strip_prefix(base).is_none()) {
                break;
            }
            if entry.is_file() {
                files.extend(self.item(&entry));
            }
            if files.len() > most {
                return Ok(None);
            }
        }
        Ok(Some(files))
    }

    async fn held(&self, path: RelPath) -> Result<Option<Held>> {
        let Some(entry) = self.entry(&path).await? else { return Ok(None) };
        let EntryKind::File { size, content: Some(content), .. } = entry.kind else { return Ok(None) };
        // A snapshot never changes, so its id and the path say which bytes these are.
        let hash =
            blake3::Hasher::new().update(self.options.snapshot.as_bytes()).update(entry.path.as_bytes()).finalize();
        let vault = self.vault.clone();
        let read = move |range: Range<u64>, sink: mpsc::Sender<Bytes>| -> BoxFuture<'static, Result<()>> {
            Box::pin(async move { Ok(read_range(&vault, content, range, &sink).await?) })
        };
        Ok(Some(Held { size, tag: format!("\"{}\"", &hash.to_hex()[..32]), read: Box::new(read) }))
    }

    async fn zipped(&self, folder: Option<RelPath>, pipe: Pipe, stop: Shutdown) -> Result<()> {
        let path = match (&folder, &self.only) {
            (Some(folder), _) => self.full(folder),
            (None, Some(only)) => self.full(&RelPath::from_name(only)),
            (None, None) => self.base.clone(),
        };
        let options = PlanOptions {
            snapshot: self.options.snapshot,
            manifest: self.options.manifest.clone(),
            path,
            include: Include::default(),
            conflict: Conflict::KeepBoth,
            target: None,
            scratch: self.options.scratch.clone(),
        };
        let plan = restore::plan(self.vault.clone(), options, self.monitor.clone(), stop.clone()).await?;
        let zip = ZipTarget::stream(pipe, self.monitor.clone(), stop.clone());
        restore::run(self.vault.clone(), &plan, zip, self.monitor.clone(), stop).await?;
        Ok(())
    }
}

async fn entry_at<V: Vault>(vault: &Arc<V>, list: &Stream, path: &RelPath) -> restore::Result<Option<Entry>> {
    let mut reader = EntryReader::starting_at(vault.clone(), list, path)?;
    Ok(reader.next().await?.filter(|entry| entry.path == *path))
}

impl<V: Vault> Tree for SnapshotTree<V> {
    fn title(&self) -> String {
        self.options.title.clone()
    }

    fn look(&self, path: RelPath) -> BoxFuture<'_, Result<Option<Item>>> {
        Box::pin(async move { Ok(self.entry(&path).await?.and_then(|entry| self.item(&entry))) })
    }

    fn list(&self, folder: Option<RelPath>, after: Option<Name>, count: usize) -> BoxFuture<'_, Result<Vec<Item>>> {
        Box::pin(self.listed(folder, after, count))
    }

    fn files(&self, most: usize) -> BoxFuture<'_, Result<Option<Vec<Item>>>> {
        Box::pin(self.all_files(most))
    }

    fn open(&self, path: RelPath) -> BoxFuture<'_, Result<Option<Held>>> {
        Box::pin(self.held(path))
    }

    fn zip(&self, folder: Option<RelPath>, pipe: Pipe, stop: Shutdown) -> BoxFuture<'_, Result<()>> {
        Box::pin(self.zipped(folder, pipe, stop))
    }
}
