//! The manifest of the next `inbox` snapshot: that of the last one, streamed, with what came merged in, and the record that this
//! device signs over it. Blocking; inside a runtime.

use crate::manifest::{self, EntryReader, ExtentReader, StreamWriter};
use crate::model::inbox::INBOX_SET;
use crate::model::snapshot::RECORD_FORMAT;
use crate::model::{
    Changes, ChunkId, Content, Entry, EntryKind, Extent, Record, RelPath, SetName, SnapshotInfo, Stream, Totals,
};
use crate::server::api_error::ApiError;
use crate::server::limits::MAX_RECORDS_BYTES;
use crate::server::localsend::keeper::Keeper;
use crate::server::localsend::lane::Lane;
use crate::signer;
use crate::store::{self, LocalVault};
use bytes::Bytes;
use std::collections::BTreeMap;
use std::sync::Arc;
use tokio::runtime::Handle;

/// Commits tried when another session of the same phone commits at the same time.
const MAX_COMMITS: usize = 5;

/// The set.
pub(crate) fn inbox_set() -> SetName {
    INBOX_SET.parse().expect("it is a name of a set")
}

/// Commits the last snapshot's entries with `new` in their place or beside them.
pub(crate) fn commit(keeper: &Keeper, new: &BTreeMap<RelPath, Entry>) -> Result<SnapshotInfo, ApiError> {
    let mut result = Err(ApiError::failed());
    for _ in 0..MAX_COMMITS {
        let head = keeper.repository.head_to_follow(&inbox_set())?;
        let signed = keeper.key.sign_record(&build(keeper, head.as_ref(), new)?);
        if keeper.repository.record_bytes()?.saturating_add(signed.record.len() as u64) > MAX_RECORDS_BYTES {
            return Err(ApiError::full("the list of this sender's snapshots is as long as another device can read"));
        }
        match keeper.repository.commit(&signed, keeper.owner) {
            // Another session was faster: its files are kept, too.
            Err(store::Error::Stale(head)) => result = Err(store::Error::Stale(head).into()),
            other => return Ok(other?),
        }
    }
    result
}

fn build(keeper: &Keeper, head: Option<&SnapshotInfo>, new: &BTreeMap<RelPath, Entry>) -> Result<Record, ApiError> {
    let handle = Handle::current();
    let repository = &keeper.repository;
    let vault = Arc::new(LocalVault::new(Arc::clone(repository), keeper.owner));
    let before = head.map(|head| signer::open_record(&head.signed)).transpose().map_err(unreadable)?;
    let reader = before.as_ref().map(|record| EntryReader::new(Arc::clone(&vault), &record.manifest));
    let mut reader = reader.transpose().map_err(unreadable)?;
    let mut next_old = || match &mut reader {
        Some(reader) => handle.block_on(reader.next()).map_err(unreadable),
        None => Ok(None),
    };
    let parameters = repository.parameters().chunker;
    let mut writer = Writer {
        lane: &keeper.lane,
        vault: Arc::clone(&vault),
        handle: handle.clone(),
        manifest: StreamWriter::of_record(&parameters),
        refs: StreamWriter::of_record(&parameters),
        list: StreamWriter::new(&parameters),
        manifest_ids: Vec::new(),
        totals: Totals::default(),
    };
    let mut changes = Changes::default();
    let mut new = new.values().peekable();
    let mut old = next_old()?;
    loop {
        let entry = match (&old, new.peek()) {
            (None, None) => break,
            (Some(before), Some(now)) if before.path == now.path => {
                let (before, now) = (old.take(), new.next());
                old = next_old()?;
                let (Some(before), Some(now)) = (before, now) else { break };
                match (before.is_file(), now.is_file()) {
                    (true, true) => {
                        changes.changed_files += u64::from(before != *now);
                        now.clone()
                    }
                    // A folder that was there stays as it was.
                    (false, false) => before,
                    _ => return Err(in_the_way()),
                }
            }
            (Some(before), now) if now.is_none_or(|now| before.path < now.path) => {
                let before = old.take();
                old = next_old()?;
                match before {
                    Some(before) => before,
                    None => break,
                }
            }
            _ => match new.next() {
                Some(now) => {
                    changes.new_files += u64::from(now.is_file());
                    now.clone()
                }
                None => break,
            },
        };
        writer.add(&entry)?;
    }
    let (manifest, refs, totals) = writer.finish()?;
    Ok(Record {
        format: RECORD_FORMAT,
        repository: repository.id(),
        set: inbox_set(),
        roots: Vec::new(),
        sequence: before.as_ref().map_or(1, |record| record.sequence + 1),
        previous: head.map(|head| head.id),
        manifest,
        refs,
        totals,
        changes,
        source_time: keeper.clock.now(),
        device: keeper.alias.clone(),
        signer: keeper.key.public(),
        tag: None,
    })
}

fn unreadable(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> ApiError {
    ApiError::failed().hint("run `lan-backup verify` there").caused_by(error)
}

fn in_the_way() -> ApiError {
    ApiError::bad_request("a file has the name of a folder that came in another transfer; send it once more")
}

struct Writer<'a> {
    lane: &'a Lane,
    vault: Arc<LocalVault>,
    handle: Handle,
    manifest: StreamWriter,
    refs: StreamWriter,
    // Cuts the lists of large files once more: it knows their chunks.
    list: StreamWriter,
    manifest_ids: Vec<ChunkId>,
    totals: Totals,
}

impl Writer<'_> {
    fn add(&mut self, entry: &Entry) -> Result<(), ApiError> {
        let (lane, ids) = (self.lane, &mut self.manifest_ids);
        let mut sink = |id, bytes: Bytes| {
            ids.push(id);
            lane.offer(id, &bytes)
        };
        self.manifest.write(&manifest::encode(entry), &mut sink)?;
        self.manifest.write(b"\n", &mut sink)?;
        self.totals.entries += 1;
        if let EntryKind::File { size, content, .. } = &entry.kind {
            self.totals.files += 1;
            self.totals.bytes += size;
            match content {
                Some(Content::Inline(extents)) => {
                    extents.iter().filter_map(Extent::chunk).try_for_each(|id| self.reference(id))?;
                }
                Some(Content::Indirect(stream)) => self.reference_list(stream)?,
                None => {}
            }
        }
        Ok(())
    }

    fn reference(&mut self, id: ChunkId) -> Result<(), ApiError> {
        let lane = self.lane;
        Ok(self.refs.write(id.as_bytes(), &mut |id, bytes| lane.offer(id, &bytes))?)
    }

    /// The chunks that a large file's list names, and those that the list lies in: cutting it again finds them.
    fn reference_list(&mut self, stream: &Stream) -> Result<(), ApiError> {
        let mut extents = ExtentReader::new(Arc::clone(&self.vault), stream).map_err(unreadable)?;
        let mut own = Vec::new();
        let mut sink = |id, _| {
            own.push(id);
            Ok::<_, ApiError>(())
        };
        while let Some(extent) = self.handle.block_on(extents.next()).map_err(unreadable)? {
            let lane = self.lane;
            if let Some(id) = extent.chunk() {
                self.refs.write(id.as_bytes(), &mut |id, bytes| lane.offer(id, &bytes))?;
            }
            self.list.write(&extent.encode(), &mut sink)?;
        }
        if self.list.finish(&mut sink)? != *stream {
            return Err(unreadable("the list of a large file is not cut as this repository cuts"));
        }
        own.into_iter().try_for_each(|id| self.reference(id))
    }

    fn finish(mut self) -> Result<(Stream, Stream, Totals), ApiError> {
        let (lane, ids) = (self.lane, &mut self.manifest_ids);
        let manifest = self.manifest.finish(&mut |id, bytes| {
            ids.push(id);
            lane.offer(id, &bytes)
        })?;
        for id in std::mem::take(&mut self.manifest_ids) {
            self.reference(id)?;
        }
        let refs = self.refs.finish(&mut |id, bytes| lane.offer(id, &bytes))?;
        self.lane.flush()?;
        Ok((manifest, refs, self.totals))
    }
}
