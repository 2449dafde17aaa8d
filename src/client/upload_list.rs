//! The body of `prepare-upload`: a zstd stream of JSON lines, made by a blocking task while it is being sent, so that a list of
//! a million entries is never held in memory.

use crate::model::{Entry, EntryKind};
use crate::protocol::session::PrepareUpload;
use bytes::Bytes;
use std::io::{self, BufWriter, Write};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

/// Level of compression: lists are text, and the fast path already makes them ten times smaller.
const ZSTD_LEVEL: i32 = 1;
/// Bytes that the compressor collects before they are handed over.
const PIECE_BYTES: usize = 64 << 10;
/// Pieces on their way between the two worlds.
const CHANNEL_PIECES: usize = 4;

/// Entries in path order; taken from a blocking thread.
pub type Entries = Box<dyn Iterator<Item = Entry> + Send>;

/// Begins to write the list. The task ends by itself soon after the receiver is dropped.
pub(crate) fn produce(header: PrepareUpload, entries: Entries) -> (mpsc::Receiver<Bytes>, JoinHandle<io::Result<()>>) {
    let (sender, receiver) = mpsc::channel(CHANNEL_PIECES);
    let task = tokio::task::spawn_blocking(move || write(&header, entries, Pieces { sender }));
    (receiver, task)
}

fn write(header: &PrepareUpload, entries: Entries, pieces: impl Write) -> io::Result<()> {
    let mut lines = zstd::Encoder::new(BufWriter::with_capacity(PIECE_BYTES, pieces), ZSTD_LEVEL)?;
    line(&mut lines, header)?;
    for entry in entries {
        line(&mut lines, &without_content(entry))?;
    }
    lines.finish()?.into_inner().map_err(io::IntoInnerError::into_error)?;
    Ok(())
}

fn line(lines: &mut impl Write, value: &impl serde::Serialize) -> io::Result<()> {
    serde_json::to_writer(&mut *lines, value)?;
    lines.write_all(b"\n")
}

fn without_content(mut entry: Entry) -> Entry {
    if let EntryKind::File { content, .. } = &mut entry.kind {
        *content = None;
    }
    entry
}

struct Pieces {
    sender: mpsc::Sender<Bytes>,
}

impl Write for Pieces {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // A dropped receiver means that the answer is there already; nobody needs the rest.
        self.sender.blocking_send(Bytes::copy_from_slice(bytes)).map_err(|_| io::ErrorKind::BrokenPipe)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::model::{Changes, Content, IdempotencyKey, Metadata, RelPath, Totals};
    use std::io::BufRead;
    use std::time::Duration;

    pub(crate) fn header() -> PrepareUpload {
        PrepareUpload {
            api: 1,
            required_features: Vec::new(),
            idempotency_key: IdempotencyKey::from_random([1; 16]),
            repository: None,
            set: "Documents".parse().unwrap(),
            roots: Vec::new(),
            parent: None,
            totals: Totals::default(),
            changes: Changes::default(),
            bytes_to_send: 0,
        }
    }

    pub(crate) fn entries(count: u64) -> Entries {
        Box::new((0..count).map(|n| Entry {
            path: RelPath::new(format!("Documents/a rather long file name {n}.txt")).unwrap(),
            kind: EntryKind::File { size: n, content: Some(Content::Inline(Vec::new())), link_group: None },
            metadata: Metadata::default(),
        }))
    }

    #[tokio::test]
    async fn the_list_is_the_header_and_then_every_entry_without_its_content() {
        let (mut receiver, task) = produce(header(), entries(20_000));
        let mut body = Vec::new();
        while let Some(piece) = receiver.recv().await {
            assert!(piece.len() <= PIECE_BYTES * 4);
            body.extend_from_slice(&piece);
        }
        task.await.unwrap().unwrap();
        let mut lines = io::BufReader::new(zstd::Decoder::new(body.as_slice()).unwrap()).lines();
        let first: PrepareUpload = serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap();
        assert_eq!(first, header());
        let mut count = 0;
        for line in lines {
            let entry: Entry = serde_json::from_str(&line.unwrap()).unwrap();
            assert_eq!(entry.kind, EntryKind::File { size: count, content: None, link_group: None });
            count += 1;
        }
        assert_eq!(count, 20_000);
    }

    #[tokio::test]
    async fn the_producer_waits_for_its_reader_and_ends_when_there_is_none() {
        let taken = std::sync::Arc::new(std::sync::atomic::AtomicU64::new(0));
        let counted = {
            let taken = std::sync::Arc::clone(&taken);
            entries(u64::MAX).inspect(move |_| {
                taken.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            })
        };
        let (mut receiver, task) = produce(header(), Box::new(counted));
        receiver.recv().await.unwrap();
        drop(receiver);
        let ended = tokio::time::timeout(Duration::from_secs(30), task).await.expect("an endless list must end");
        assert_eq!(ended.unwrap().unwrap_err().kind(), io::ErrorKind::BrokenPipe);
        assert!(taken.load(std::sync::atomic::Ordering::Relaxed) > 0);
    }
}
