//! What the store's tests share: a source that makes snapshots, and a shelf that watches, fails and waits when told to.

use bytes::Bytes;
use jiff::Timestamp;
use lan_backup::codec::{self, Compression, Decoder, Encoder};
use lan_backup::model::snapshot::Root;
use lan_backup::model::{
    Alias, Block, Changes, ChunkId, Fingerprint, Record, SetName, SignedRecord, SnapshotId, Stream, Totals,
};
use lan_backup::platform;
use lan_backup::platform::clock::ManualClock;
use lan_backup::signer::SigningKey;
use lan_backup::store::layout::ObjectName;
use lan_backup::store::shelf::{Draft, Object, Shelf};
use lan_backup::store::{self, RecoveryReport, Repository, Store};
use std::collections::HashMap;
use std::io;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

/// How long a test waits for what must happen.
pub(crate) const PATIENCE: Duration = Duration::from_mins(1);

pub(crate) const OWNER: Fingerprint = Fingerprint::from_bytes([1; 32]);

pub(crate) fn receiver_key() -> SigningKey {
    SigningKey::from_bytes(&[9; 32])
}

pub(crate) fn source_key() -> SigningKey {
    SigningKey::from_bytes(&[1; 32])
}

pub(crate) fn clock() -> Arc<ManualClock> {
    Arc::new(ManualClock::new("2026-05-01T12:00:00Z".parse().unwrap()))
}

pub(crate) fn open(folder: &Path) -> (Store, RecoveryReport) {
    Store::open_or_create(folder, clock(), receiver_key()).unwrap()
}

/// A store with one repository.
pub(crate) fn new_repository(folder: &Path) -> (Store, Arc<Repository>) {
    let (store, _) = open(folder);
    let repository = store.create_repository(OWNER, &source_key().public(), Alias::new("laptop")).unwrap();
    (store, repository)
}

/// Bytes that do not compress, the same for the same seed.
pub(crate) fn noise(seed: u64, length: usize) -> Bytes {
    let mut bytes = vec![0; length];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
    bytes.into()
}

pub(crate) fn block(chunks: &[Bytes]) -> Block {
    let chunks: Vec<_> = chunks.iter().map(|bytes| (codec::chunk_id(bytes), bytes.clone())).collect();
    Encoder::new(Compression::default()).encode(&chunks)
}

/// Puts chunks into one pack, eight to a block.
pub(crate) fn put(repository: &Repository, chunks: &[Bytes]) -> store::Result<Vec<ChunkId>> {
    let mut writer = repository.begin_pack()?;
    for chunks in chunks.chunks(8) {
        writer.append(&block(chunks))?;
    }
    writer.finish()?;
    Ok(chunks.iter().map(|bytes| codec::chunk_id(bytes)).collect())
}

/// Cuts bytes into chunks of `piece` (no multiple of 32, so that ids lie across cuts), with lists until 4 ids are left.
pub(crate) fn stream(bytes: &[u8], piece: usize) -> (Stream, Vec<Bytes>) {
    let cut = |bytes: &[u8]| -> Vec<Bytes> { bytes.chunks(piece).map(Bytes::copy_from_slice).collect() };
    let mut level = cut(bytes);
    let mut all = level.clone();
    let mut depth = 0;
    loop {
        let ids: Vec<_> = level.iter().map(|bytes| codec::chunk_id(bytes)).collect();
        if ids.len() <= 4 {
            return (Stream { length: bytes.len() as u64, depth, ids }, all);
        }
        level = cut(&ids.iter().flat_map(|id| *id.as_bytes()).collect::<Vec<_>>());
        all.extend(level.iter().cloned());
        depth += 1;
    }
}

/// A snapshot that is ready to be put and committed.
pub(crate) struct Made {
    pub(crate) record: Record,
    pub(crate) files: Vec<Bytes>,
    pub(crate) streams: Vec<Bytes>,
}

impl Made {
    /// The next snapshot of `set` with these file chunks.
    pub(crate) fn new(repository: &Repository, set: &str, files: Vec<Bytes>) -> Self {
        Self::try_new(repository, set, files).unwrap()
    }

    /// The same where the disk may fail.
    pub(crate) fn try_new(repository: &Repository, set: &str, files: Vec<Bytes>) -> store::Result<Self> {
        let set: SetName = set.parse().unwrap();
        let ids: Vec<_> = files.iter().map(|bytes| codec::chunk_id(bytes)).collect();
        let text: String = ids.iter().flat_map(|id| [id.to_string(), "\n".to_owned()]).collect();
        let (manifest, mut streams) = stream(text.as_bytes(), 1001);
        let needed: Vec<u8> = ids.iter().flat_map(|id| *id.as_bytes()).collect();
        let (refs, more) = stream(&needed, 333);
        streams.extend(more);
        let head = repository.head(&set)?;
        let sequence = head.as_ref().map_or(1, |head| sequence(&head.signed) + 1);
        let record = Record {
            format: 1,
            repository: repository.id(),
            set,
            roots: vec![Root { source: "/home/u".to_owned(), top: "u".to_owned() }],
            sequence,
            previous: head.map(|head| head.id),
            manifest,
            refs,
            totals: Totals { entries: 1, files: 1, bytes: 1 },
            changes: Changes::default(),
            source_time: Timestamp::UNIX_EPOCH,
            device: Alias::new("laptop"),
            signer: source_key().public(),
            tag: None,
        };
        Ok(Self { record, files, streams })
    }

    pub(crate) fn signed(&self) -> SignedRecord {
        source_key().sign_record(&self.record)
    }

    pub(crate) fn put(&self, repository: &Repository) {
        self.try_put(repository).unwrap();
    }

    /// The same where the disk may fail.
    pub(crate) fn try_put(&self, repository: &Repository) -> store::Result<()> {
        put(repository, &self.files)?;
        put(repository, &self.streams)?;
        Ok(())
    }

    pub(crate) fn id(&self) -> SnapshotId {
        lan_backup::signer::snapshot_id(&self.signed())
    }
}

fn sequence(signed: &SignedRecord) -> u64 {
    serde_json::from_str::<Record>(&signed.record).unwrap().sequence
}

/// Backs up: puts everything and commits.
pub(crate) fn back_up(repository: &Repository, set: &str, files: Vec<Bytes>) -> Made {
    let made = Made::new(repository, set, files);
    made.put(repository);
    repository.commit(&made.signed(), OWNER).unwrap();
    made
}

/// Reads chunks back, all checked.
pub(crate) fn read(repository: &Repository, ids: &[ChunkId]) -> store::Result<HashMap<ChunkId, Bytes>> {
    let mut found = HashMap::new();
    let mut decoder = Decoder::new();
    let mut bad = None;
    repository.read_blocks(ids, &mut |block| match decoder.decode(&block) {
        Ok(plain) => {
            for (chunk, bytes) in codec::chunks(&block.header, &plain) {
                found.insert(chunk.id, Bytes::copy_from_slice(bytes));
            }
            ControlFlow::Continue(())
        }
        Err(error) => {
            bad = Some(error);
            ControlFlow::Break(())
        }
    })?;
    bad.map_or(Ok(found), |error| Err(error.into()))
}

/// Every chunk of a snapshot is there and right.
pub(crate) fn assert_whole(repository: &Repository, made: &Made) {
    let all: Vec<_> = made.files.iter().chain(&made.streams).cloned().collect();
    let ids: Vec<_> = all.iter().map(|bytes| codec::chunk_id(bytes)).collect();
    let found = read(repository, &ids).unwrap();
    for (id, bytes) in ids.iter().zip(&all) {
        assert_eq!(found.get(id), Some(bytes));
    }
    let id = lan_backup::signer::snapshot_id(&made.signed());
    assert_eq!(repository.snapshot(&id).unwrap().map(|info| info.signed), Some(made.signed()));
}

/// Copies a folder as it is this moment, as a crash would leave it: nobody holds the copy's locks.
pub(crate) fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}

/// All files below a folder.
pub(crate) fn files(folder: &Path) -> Vec<std::path::PathBuf> {
    let mut all = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { all.extend(files(&path)) } else { all.push(path) }
    }
    all.sort();
    all
}

/// What a test tells its shelves, and what they tell it.
#[derive(Debug, Default)]
pub(crate) struct Control {
    state: Mutex<ControlState>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct ControlState {
    /// `keep` of names that begin so fails, this many times.
    failing: Option<(String, u64, io::ErrorKind)>,
    /// `keep` of packs waits while this is set.
    held: bool,
    /// Names whose `keep` has succeeded.
    kept: Vec<String>,
    /// Names that were confirmed.
    confirmed: Vec<String>,
    waiting: u64,
}

impl Control {
    pub(crate) fn fail(&self, prefix: &str, times: u64, kind: io::ErrorKind) {
        self.state.lock().unwrap().failing = Some((prefix.to_owned(), times, kind));
    }

    pub(crate) fn hold(&self) {
        self.state.lock().unwrap().held = true;
    }

    pub(crate) fn release(&self) {
        self.state.lock().unwrap().held = false;
        self.changed.notify_all();
    }

    /// Waits until the syncer has come to a pack that is held.
    pub(crate) fn wait_until_held(&self) {
        let state = self.state.lock().unwrap();
        let (_state, result) = self.changed.wait_timeout_while(state, PATIENCE, |state| state.waiting == 0).unwrap();
        assert!(!result.timed_out());
    }

    pub(crate) fn kept(&self) -> Vec<String> {
        self.state.lock().unwrap().kept.clone()
    }

    pub(crate) fn confirmed(&self) -> Vec<String> {
        self.state.lock().unwrap().confirmed.clone()
    }

    fn pass(&self, name: &ObjectName) -> platform::Result<()> {
        let mut state = self.state.lock().unwrap();
        while state.held && name.as_str().starts_with("packs/") {
            state.waiting += 1;
            self.changed.notify_all();
            state = self.changed.wait(state).unwrap();
            state.waiting -= 1;
        }
        match &mut state.failing {
            Some((prefix, times, kind)) if *times > 0 && name.as_str().starts_with(prefix.as_str()) => {
                *times -= 1;
                let source = io::Error::new(*kind, "the test says so");
                Err(platform::Error { action: "sync", path: name.as_str().into(), source })
            }
            _ => Ok(()),
        }
    }
}

/// A shelf under control of a test.
#[derive(Debug)]
pub(crate) struct TestShelf {
    inner: Arc<dyn Shelf>,
    control: Arc<Control>,
}

impl Shelf for TestShelf {
    fn draft(&self) -> platform::Result<Box<dyn Draft>> {
        Ok(Box::new(TestDraft { inner: self.inner.draft()?, control: Arc::clone(&self.control) }))
    }

    fn open(&self, name: &ObjectName) -> platform::Result<Arc<dyn Object>> {
        self.inner.open(name)
    }

    fn list(&self, folder: &ObjectName) -> platform::Result<Vec<ObjectName>> {
        self.inner.list(folder)
    }

    fn confirm(&self, names: &[ObjectName]) -> platform::Result<()> {
        self.inner.confirm(names)?;
        self.control.state.lock().unwrap().confirmed.extend(names.iter().map(ToString::to_string));
        Ok(())
    }

    fn delete(&self, name: &ObjectName) -> platform::Result<()> {
        self.inner.delete(name)
    }
}

#[derive(Debug)]
struct TestDraft {
    inner: Box<dyn Draft>,
    control: Arc<Control>,
}

impl Draft for TestDraft {
    fn append(&mut self, bytes: &[u8]) -> platform::Result<()> {
        self.inner.append(bytes)
    }

    fn object(&self) -> platform::Result<Arc<dyn Object>> {
        self.inner.object()
    }

    fn keep(self: Box<Self>, name: &ObjectName) -> platform::Result<()> {
        let control = Arc::clone(&self.control);
        control.pass(name)?;
        self.inner.keep(name)?;
        control.state.lock().unwrap().kept.push(name.to_string());
        Ok(())
    }
}

/// A store whose shelves are under control, with one repository.
pub(crate) fn controlled(folder: &Path) -> (Store, Arc<Repository>, Arc<Control>) {
    let control = Arc::new(Control::default());
    let shared = Arc::clone(&control);
    let wrap = Box::new(move |inner: store::FolderShelf| -> Arc<dyn Shelf> {
        Arc::new(TestShelf { inner: Arc::new(inner), control: Arc::clone(&shared) })
    });
    let (store, _) = Store::open_wrapped(folder, clock(), receiver_key(), wrap).unwrap();
    let repository = store.create_repository(OWNER, &source_key().public(), Alias::new("laptop")).unwrap();
    (store, repository, control)
}
