//! What is measured on: the same bytes in each run.

use bytes::Bytes;
use lan_backup::codec::chunk_id;
use lan_backup::model::{ChunkId, Content, Entry, EntryKind, Extent, FileTime, Metadata, Owner, RelPath};

/// Bytes that do not compress.
pub fn noise(seed: u64, length: usize) -> Bytes {
    let mut bytes = vec![0; length];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
    bytes.into()
}

/// Words, few of them often, as in documents and sources: zstd makes about a third of it.
pub fn text(seed: u64, length: usize) -> Bytes {
    let words: Vec<String> = (0..6000_u64)
        .map(|word| {
            let hash = blake3::hash(&word.to_le_bytes());
            let letters = 2 + usize::from(hash.as_bytes()[0] % 8);
            hash.as_bytes()[1..=letters].iter().map(|byte| char::from(b'a' + byte % 26)).collect()
        })
        .collect();
    let mut out = Vec::with_capacity(length + 16);
    for byte_pair in noise(seed, length).chunks_exact(2) {
        let share = f64::from(u16::from_le_bytes([byte_pair[0], byte_pair[1]])) / 65536.0;
        out.extend_from_slice(words[(6000.0 * share.powf(2.5)) as usize].as_bytes());
        out.push(b' ');
        if out.len() >= length {
            break;
        }
    }
    out.truncate(length);
    out.into()
}

/// `bytes` in chunks of `length`, with their ids.
pub fn chunks(bytes: &Bytes, length: usize) -> Vec<(ChunkId, Bytes)> {
    let cut = |at: usize| bytes.slice(at..bytes.len().min(at + length));
    (0..bytes.len()).step_by(length).map(|at| (chunk_id(&cut(at)), cut(at))).collect()
}

/// Files of one chunk each in folders of a hundred, in the order of a manifest.
pub fn entries(count: u32) -> Vec<Entry> {
    let mut entries = Vec::new();
    let entry = |path: &str, kind| Entry {
        path: RelPath::new(path.as_bytes()).unwrap(),
        kind,
        metadata: Metadata {
            mtime: Some(FileTime::new(1_700_000_000, 123_456_789)),
            mode: Some(0o644),
            owner: Some(Owner { uid: 1000, gid: 1000, user: Some("ann".into()), group: Some("ann".into()) }),
            ..Metadata::default()
        },
    };
    entries.push(entry("home", EntryKind::Folder));
    for number in 0..count {
        if number % 100 == 0 {
            entries.push(entry(&format!("home/folder{:05}", number / 100), EntryKind::Folder));
        }
        let id = chunk_id(&number.to_le_bytes());
        let content = Some(Content::Inline(vec![Extent::Chunk(id, 12_345)]));
        let kind = EntryKind::File { size: 12_345, content, link_group: None };
        entries.push(entry(&format!("home/folder{:05}/file{number:07}.txt", number / 100), kind));
    }
    entries
}
