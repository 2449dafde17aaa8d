//! Packs and the index on the real disk: what a receiver does with an upload, and how fast it tells what it lacks.

use crate::samples::{chunks, noise, text};
use divan::Bencher;
use divan::counter::{BytesCount, ItemsCount};
use lan_backup::codec::{Compression, Encoder, chunk_id};
use lan_backup::model::{Alias, Block, ChunkId, Fingerprint};
use lan_backup::platform::clock::SystemClock;
use lan_backup::signer::SigningKey;
use lan_backup::store::{Repository, Store};
use std::path::Path;
use std::sync::Arc;

const PACK_BYTES: usize = 12 << 20;
const LOOKUP: usize = 4096;

fn repository(folder: &Path) -> Arc<Repository> {
    let key = SigningKey::from_bytes(&[1; 32]);
    let (store, _) = Store::open_or_create(folder, Arc::new(SystemClock), key.clone()).unwrap();
    store.create_repository(Fingerprint::from_bytes([1; 32]), &key.public(), Alias::new("laptop")).unwrap()
}

fn blocks(kind: &str, seed: u64) -> Vec<Block> {
    let (bytes, piece) =
        if kind == "text" { (text(seed, PACK_BYTES), 12 << 10) } else { (noise(seed, PACK_BYTES), 256 << 10) };
    let mut encoder = Encoder::new(Compression::default());
    let mut blocks = Vec::new();
    for group in chunks(&bytes, piece).chunks((1 << 20) / piece) {
        encoder.encode_into(group, &mut blocks);
    }
    blocks
}

/// One upload, from verified blocks to a durable pack in the index, plain bytes a second.
#[divan::bench(args = ["text", "noise"], sample_count = 20)]
fn write_pack(bencher: Bencher<'_, '_>, kind: &str) {
    let folder = tempfile::tempdir().unwrap();
    let repository = repository(folder.path());
    let mut seed = 0;
    bencher
        .counter(BytesCount::new(PACK_BYTES))
        .with_inputs(|| {
            seed += 1;
            blocks(kind, seed)
        })
        .bench_local_values(|blocks| {
            let mut writer = repository.begin_pack().unwrap();
            for block in &blocks {
                writer.append(block).unwrap();
            }
            writer.finish().unwrap();
            repository.sync().unwrap();
        });
}

/// A question of 4,096 ids to an index of 100,000 chunks.
#[divan::bench(args = ["held", "missing"])]
fn look_up(bencher: Bencher<'_, '_>, kind: &str) {
    let folder = tempfile::tempdir().unwrap();
    let repository = repository(folder.path());
    let mut held: Vec<ChunkId> = Vec::new();
    let mut encoder = Encoder::new(Compression::None);
    for number in 0..100_000_u32 / 4000 {
        let bytes = noise(number.into(), 4000 * 64);
        let mut writer = repository.begin_pack().unwrap();
        let chunks = chunks(&bytes, 64);
        held.extend(chunks.iter().map(|(id, _)| *id));
        writer.append(&encoder.encode(&chunks)).unwrap();
        writer.finish().unwrap();
    }
    repository.sync().unwrap();
    let ids: Vec<ChunkId> = if kind == "held" {
        held.iter().step_by(held.len() / LOOKUP).take(LOOKUP).copied().collect()
    } else {
        (0..LOOKUP).map(|number| chunk_id(&number.to_le_bytes())).collect()
    };
    let expected = if kind == "held" { 0 } else { LOOKUP };
    bencher
        .counter(ItemsCount::new(LOOKUP))
        .bench_local(|| assert_eq!(repository.missing(&ids).unwrap().len(), expected));
}
