//! Cutting and hashing, bytes a second on one core.

use crate::samples::{noise, text};
use divan::Bencher;
use divan::counter::BytesCount;
use lan_backup::chunker::Chunker;
use lan_backup::codec::chunk_id;
use lan_backup::model::ChunkerParameters;

const LENGTH: usize = 32 << 20;

#[divan::bench(args = ["noise", "text"])]
fn cut(bencher: Bencher<'_, '_>, kind: &str) {
    let bytes = if kind == "noise" { noise(1, LENGTH) } else { text(1, LENGTH) };
    let mut chunker = Chunker::new(&ChunkerParameters::STANDARD);
    bencher.counter(BytesCount::new(LENGTH)).bench_local(|| {
        chunker.clear();
        let (mut source, mut ended, mut count) = (&bytes[..], false, 0);
        while !ended {
            ended = chunker.fill(&mut source).unwrap();
            while chunker.next_chunk(ended).is_some() {
                count += 1;
            }
        }
        count
    });
}

#[divan::bench(args = [4 << 10, 64 << 10, 256 << 10, 2 << 20])]
fn hash(bencher: Bencher<'_, '_>, length: usize) {
    let bytes = noise(2, length);
    bencher.counter(BytesCount::new(length)).bench_local(|| chunk_id(&bytes));
}
