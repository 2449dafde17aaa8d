//! Chunks of many files on their way into packs.
//!
//! A phone sends thousands of small files; one pack for each would cost an fsync for each. So the files of a session share one
//! lane: a batch that is full is compressed and written by a thread of its own, while the files go on filling the next. One batch
//! is written at a time, and when the next one is full, too, whoever has more waits with its one chunk: two batches of a session are in
//! memory and no third, however many files come at once. Blocking.

use crate::codec::{Compression, Encoder};
use crate::model::ChunkId;
use crate::model::limits::{BLOCK_TARGET_BYTES, MAX_BLOCK_CHUNKS};
use crate::store::{Error, Repository, Result};
use bytes::Bytes;
use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::thread::JoinHandle;

/// A batch is closed at this many plain bytes: with one more chunk of 2 MiB it fits into a pack whatever it compresses to.
const BATCH_BYTES: usize = 12 << 20;

#[derive(Debug, Default)]
struct Batch {
    chunks: Vec<(ChunkId, Bytes)>,
    ids: HashSet<ChunkId>,
    bytes: usize,
    // The last try to write it failed.
    stuck: bool,
}

/// Puts what is missing into one repository.
#[derive(Debug)]
pub(crate) struct Lane {
    inner: Arc<Inner>,
    // Shared while a batch is filled, exclusive while everything is flushed.
    filling: RwLock<()>,
    // The batch that is being written.
    under_way: Mutex<Option<JoinHandle<()>>>,
}

#[derive(Debug)]
struct Inner {
    repository: Arc<Repository>,
    open: Mutex<Batch>,
}

impl Lane {
    /// An empty lane.
    pub(crate) fn new(repository: Arc<Repository>) -> Self {
        let inner = Arc::new(Inner { repository, open: Mutex::default() });
        Self { inner, filling: RwLock::default(), under_way: Mutex::default() }
    }

    /// Takes a chunk; has a batch written when that is full.
    ///
    /// # Errors
    /// An earlier batch could not be written: it is kept for [`Lane::flush`], which says why, and nothing more is taken.
    pub(crate) fn offer(&self, id: ChunkId, bytes: &[u8]) -> Result<()> {
        let _shared = self.filling.read().unwrap_or_else(PoisonError::into_inner);
        loop {
            let mut open = self.inner.open();
            if open.stuck {
                return Err(Error::Full);
            }
            if open.ids.contains(&id) {
                return Ok(());
            }
            let has_room = open.bytes < BATCH_BYTES;
            if has_room {
                open.ids.insert(id);
                open.bytes += bytes.len();
                open.chunks.push((id, Bytes::copy_from_slice(bytes)));
            }
            let is_full = open.bytes >= BATCH_BYTES;
            drop(open);
            if is_full {
                self.write_full();
            }
            if has_room {
                return Ok(());
            }
        }
    }

    /// Has the open batch written, if it is full, once it is its turn: until then it stays open to nobody.
    fn write_full(&self) {
        let mut under_way = self.under_way();
        wait_for(under_way.take());
        let batch = {
            let mut open = self.inner.open();
            if open.stuck || open.bytes < BATCH_BYTES {
                return;
            }
            std::mem::take(&mut *open)
        };
        let inner = self.inner.clone();
        // What goes wrong is found by the next who offers something, and said by the flush that tries again.
        *under_way = Some(std::thread::spawn(move || drop(inner.write(batch))));
    }

    /// Writes everything that was offered before; not durable yet.
    ///
    /// # Errors
    /// The store's.
    pub(crate) fn flush(&self) -> Result<()> {
        let _alone = self.filling.write().unwrap_or_else(PoisonError::into_inner);
        wait_for(self.under_way().take());
        let batch = std::mem::take(&mut *self.inner.open());
        self.inner.write(batch)
    }

    fn under_way(&self) -> MutexGuard<'_, Option<JoinHandle<()>>> {
        self.under_way.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn wait_for(thread: Option<JoinHandle<()>>) {
    // A thread that failed was about to keep its batch for the flush; the refs are checked at the commit in any case.
    drop(thread.map(JoinHandle::join));
}

impl Inner {
    fn write(&self, batch: Batch) -> Result<()> {
        self.try_write(&batch).inspect_err(|_| {
            // Other files' chunks are in it, too: they are tried once more before anything is said to be lost.
            let mut open = self.open();
            open.stuck = true;
            for (id, bytes) in batch.chunks {
                if open.ids.insert(id) {
                    open.bytes += bytes.len();
                    open.chunks.push((id, bytes));
                }
            }
        })
    }

    fn try_write(&self, batch: &Batch) -> Result<()> {
        let ids: Vec<_> = batch.chunks.iter().map(|(id, _)| *id).collect();
        if ids.is_empty() {
            return Ok(());
        }
        let missing: HashSet<_> = self.repository.missing(&ids)?.into_iter().collect();
        let missing: Vec<_> = batch.chunks.iter().filter(|(id, _)| missing.contains(id)).cloned().collect();
        let (mut encoder, mut blocks) = (Encoder::new(Compression::default()), Vec::new());
        // A stuck batch may hold more than one pack takes.
        for part in parts(missing) {
            let mut writer = self.repository.begin_pack()?;
            for chunks in split(part, BLOCK_TARGET_BYTES as usize, MAX_BLOCK_CHUNKS) {
                encoder.encode_into(&chunks, &mut blocks);
                blocks.drain(..).try_for_each(|block| writer.append(&block))?;
            }
            writer.finish()?;
        }
        Ok(())
    }

    fn open(&self) -> MutexGuard<'_, Batch> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

type Chunks = Vec<(ChunkId, Bytes)>;

fn parts(chunks: Chunks) -> Vec<Chunks> {
    split(chunks, BATCH_BYTES, usize::MAX)
}

/// Closes a part once it has `bytes` or `count`.
fn split(chunks: Chunks, bytes: usize, count: usize) -> Vec<Chunks> {
    let mut parts = Vec::new();
    let (mut open, mut length) = (Vec::new(), 0);
    for chunk in chunks {
        length += chunk.1.len();
        open.push(chunk);
        if length >= bytes || open.len() >= count {
            parts.push(std::mem::take(&mut open));
            length = 0;
        }
    }
    if !open.is_empty() {
        parts.push(open);
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::chunk_id;
    use crate::identity::Identity;
    use crate::model::Alias;
    use crate::platform::clock::SystemClock;
    use crate::store::Store;
    use std::time::{Duration, Instant};

    /// Ends what hangs; measures nothing.
    const LIMIT: Duration = Duration::from_secs(30);

    #[test]
    fn while_one_batch_is_written_one_more_is_filled_and_no_third() {
        let folder = tempfile::tempdir().unwrap();
        let identity = Identity::load_or_generate(&folder.path().join("identity")).unwrap();
        let (key, owner) = (identity.signing_key(), identity.fingerprint());
        let (store, _) =
            Store::open_or_create(&folder.path().join("store"), Arc::new(SystemClock), key.clone()).unwrap();
        let repository = store.create_repository(owner, &key.public(), Alias::new("phone")).unwrap();
        let lane = Lane::new(repository.clone());
        // The batch before it takes its time.
        let (finish, slow) = std::sync::mpsc::channel::<()>();
        *lane.under_way() = Some(std::thread::spawn(move || {
            let _ = slow.recv();
        }));
        let piece = 256 << 10;
        let chunk = |n: u8| Bytes::from(vec![n; piece]);
        let fills = (BATCH_BYTES / piece) as u8;
        let began = Instant::now();
        std::thread::scope(|scope| {
            // Dropped when this fails, too, so that nobody waits for ever.
            let finish = finish;
            let filling = scope.spawn(|| (0..fills).try_for_each(|n| lane.offer(chunk_id(&chunk(n)), &chunk(n))));
            let (lane, chunk) = (&lane, &chunk);
            let others = [100, 101].map(|n| scope.spawn(move || lane.offer(chunk_id(&chunk(n)), &chunk(n))));
            // It stays in the lane until it is its turn: else each file would hold one of its own.
            while lane.inner.open().bytes < BATCH_BYTES {
                let waits = !filling.is_finished() && began.elapsed() < LIMIT;
                assert!(waits, "it goes on while the other one is written");
                std::thread::yield_now();
            }
            assert!(lane.inner.open().bytes <= BATCH_BYTES + piece);
            drop(finish);
            filling.join().unwrap().unwrap();
            for other in others {
                other.join().unwrap().unwrap();
            }
        });
        lane.flush().unwrap();
        let all: Vec<_> = (0..fills).chain([100, 101]).map(|n| chunk_id(&chunk(n))).collect();
        assert!(repository.missing(&all).unwrap().is_empty());
    }

    #[test]
    fn parts_are_closed_by_bytes_and_by_count_and_nothing_is_lost() {
        let chunk = |n: u8, length| (ChunkId::from_bytes([n; 32]), Bytes::from(vec![n; length]));
        let chunks: Chunks = (0..10).map(|n| chunk(n, 10)).collect();
        let sizes = |parts: Vec<Chunks>| parts.iter().map(Vec::len).collect::<Vec<_>>();
        assert_eq!(sizes(split(chunks.clone(), 25, 100)), [3, 3, 3, 1]);
        assert_eq!(sizes(split(chunks.clone(), 1000, 4)), [4, 4, 2]);
        assert_eq!(split(chunks.clone(), 25, 4).concat(), chunks);
        assert!(split(Vec::new(), 25, 4).is_empty());
    }
}
