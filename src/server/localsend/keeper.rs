//! Backs up what a LocalSend app sends: files into chunks, and once in a while a snapshot of all that came.
//!
//! The snapshot is of the set `inbox` in the phone's own repository, signed by this device (`docs/store-format.md` §5). It keeps the
//! files of the one before, so that a phone that sends what is new each week has all of it in the last one.

use crate::chunker::Chunker;
use crate::codec::chunk_id;
use crate::manifest::StreamWriter;
use crate::model::limits::MAX_INLINE_EXTENTS;
use crate::model::{
    Alias, Content, ContentHash, Entry, EntryKind, Extent, Fingerprint, Metadata, RelPath, SnapshotInfo, Stream,
};
use crate::platform::clock::Clock;
use crate::server::api_error::ApiError;
use crate::server::localsend::lane::Lane;
use crate::server::localsend::merge;
use crate::server::localsend::sessions::Wanted;
use crate::signer::SigningKey;
use crate::store::{Repository, Result};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// What a phone's file may be read by after a restore; phones say nothing about it.
const FILE_MODE: u32 = 0o644;
/// And its folders.
const FOLDER_MODE: u32 = 0o755;

/// Keeps the files of one session.
#[derive(Debug)]
pub(crate) struct Keeper {
    pub(crate) repository: Arc<Repository>,
    pub(crate) lane: Lane,
    pub(crate) key: SigningKey,
    pub(crate) alias: Alias,
    pub(crate) owner: Fingerprint,
    pub(crate) clock: Arc<dyn Clock>,
    done: Mutex<BTreeMap<RelPath, Entry>>,
    idle: Mutex<Vec<Chunker>>,
    committing: Mutex<()>,
}

impl Keeper {
    /// Keeps files of `owner` in `repository`; `key` is this device's.
    pub(crate) fn new(
        repository: Arc<Repository>,
        key: SigningKey,
        alias: Alias,
        owner: Fingerprint,
        clock: Arc<dyn Clock>,
    ) -> Self {
        let lane = Lane::new(Arc::clone(&repository));
        let (done, idle, committing) = (Mutex::default(), Mutex::default(), Mutex::default());
        Self { repository, lane, key, alias, owner, clock, done, idle, committing }
    }

    /// Begins a file.
    pub(crate) fn begin(self: &Arc<Self>) -> Intake {
        let chunker = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let chunker = chunker.unwrap_or_else(|| Chunker::new(&self.repository.parameters().chunker));
        Intake { keeper: Arc::clone(self), chunker: Some(chunker), extents: Vec::new(), list: None, length: 0 }
    }

    /// Adds an entry whose content is here.
    pub(crate) fn add(&self, entry: Entry) {
        let mut done = self.done();
        let mut above = entry.path.parent();
        while let Some(folder) = above {
            above = folder.parent();
            let metadata = Metadata { mode: Some(FOLDER_MODE), ..Metadata::default() };
            done.entry(folder.clone()).or_insert(Entry { path: folder, kind: EntryKind::Folder, metadata });
        }
        done.insert(entry.path.clone(), entry);
    }

    /// Makes a snapshot of what came since the last one, and of what was there before. `None` when nothing came, unless there is no
    /// snapshot yet and one is wanted `in_any_case`: else whoever offers the same again and again would fill the list of snapshots.
    /// Blocking; inside a runtime.
    ///
    /// # Errors
    /// The store's; what came is not forgotten and is tried again with the next call.
    pub(crate) fn commit(&self, in_any_case: bool) -> Result<Option<SnapshotInfo>, ApiError> {
        let _one_at_a_time = self.committing.lock().unwrap_or_else(PoisonError::into_inner);
        let new = std::mem::take(&mut *self.done());
        if new.is_empty() && (!in_any_case || self.repository.head_to_follow(&merge::inbox_set())?.is_some()) {
            return Ok(None);
        }
        let committed = self.lane.flush().map_err(ApiError::from).and_then(|()| merge::commit(self, &new));
        if committed.is_err() {
            let mut done = self.done();
            for (path, entry) in new {
                done.entry(path).or_insert(entry);
            }
        }
        committed.map(Some)
    }

    fn done(&self) -> MutexGuard<'_, BTreeMap<RelPath, Entry>> {
        self.done.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What is remembered of a file beside its content.
pub(crate) fn metadata(wanted: &Wanted, sha256: Option<ContentHash>) -> Metadata {
    Metadata { mtime: wanted.mtime, mode: Some(FILE_MODE), sha256, ..Metadata::default() }
}

/// One file on its way in. Dropped without [`Intake::finish`], nothing refers to what came.
#[derive(Debug)]
pub(crate) struct Intake {
    keeper: Arc<Keeper>,
    // There until the end.
    chunker: Option<Chunker>,
    extents: Vec<Extent>,
    // The extents of a large file, but for the last ones.
    list: Option<StreamWriter>,
    length: u64,
}

impl Intake {
    /// Takes the next bytes.
    pub(crate) fn write(&mut self, bytes: &[u8]) -> Result<()> {
        let mut rest = bytes;
        while !rest.is_empty() {
            if let Some(chunker) = &mut self.chunker {
                rest = chunker.push(rest);
            }
            self.cut(false)?;
        }
        self.length += bytes.len() as u64;
        Ok(())
    }

    /// The file is whole: it is in the next snapshot.
    pub(crate) fn finish(mut self, wanted: &Wanted, sha256: Option<ContentHash>) -> Result<()> {
        self.cut(true)?;
        let content = match self.spilled()? {
            Some(stream) => Content::Indirect(stream),
            None => Content::Inline(std::mem::take(&mut self.extents)),
        };
        let kind = EntryKind::File { size: self.length, content: Some(content), link_group: None };
        self.keeper.add(Entry { path: wanted.path.clone(), kind, metadata: metadata(wanted, sha256) });
        Ok(())
    }

    fn cut(&mut self, last: bool) -> Result<()> {
        let Some(chunker) = &mut self.chunker else { return Ok(()) };
        while let Some(chunk) = chunker.next_chunk(last) {
            let id = chunk_id(chunk);
            self.keeper.lane.offer(id, chunk)?;
            self.extents.push(Extent::Chunk(id, chunk.len() as u64));
        }
        if self.extents.len() > MAX_INLINE_EXTENTS {
            let parameters = self.keeper.repository.parameters().chunker;
            let list = self.list.get_or_insert_with(|| StreamWriter::new(&parameters));
            for extent in self.extents.drain(..) {
                list.write(&extent.encode(), &mut |id, bytes| self.keeper.lane.offer(id, &bytes))?;
            }
        }
        Ok(())
    }

    /// The list of a large file.
    fn spilled(&mut self) -> Result<Option<Stream>> {
        let Some(list) = &mut self.list else { return Ok(None) };
        let lane = &self.keeper.lane;
        for extent in self.extents.drain(..) {
            list.write(&extent.encode(), &mut |id, bytes| lane.offer(id, &bytes))?;
        }
        list.finish(&mut |id, bytes| lane.offer(id, &bytes)).map(Some)
    }
}

impl Drop for Intake {
    fn drop(&mut self) {
        if let Some(mut chunker) = self.chunker.take() {
            chunker.clear();
            self.keeper.idle.lock().unwrap_or_else(PoisonError::into_inner).push(chunker);
        }
    }
}
