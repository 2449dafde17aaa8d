//! Blocks: chunks of 12 KiB (small files) or 256 KiB, to a block and back with every check, plain bytes a second on one core.

use crate::samples::{chunks, noise, text};
use divan::Bencher;
use divan::counter::BytesCount;
use lan_backup::codec::{Compression, Decoder, Encoder};

const LENGTH: usize = 1 << 20;

#[divan::bench(args = ["text none", "text lz4", "text 1", "text 2", "text 3", "text 5", "text 9", "noise 2", "noise 9"])]
fn encode(bencher: Bencher<'_, '_>, case: &str) {
    let (kind, how) = case.split_once(' ').unwrap();
    let (bytes, piece) = if kind == "text" { (text(1, LENGTH), 12 << 10) } else { (noise(1, LENGTH), 256 << 10) };
    let compression = match how {
        "none" => Compression::None,
        "lz4" => Compression::Lz4,
        level => Compression::Zstd(level.parse().unwrap()),
    };
    let chunks = chunks(&bytes, piece);
    let mut encoder = Encoder::new(compression);
    bencher.counter(BytesCount::new(LENGTH)).bench_local(|| {
        let mut blocks = Vec::new();
        encoder.encode_into(&chunks, &mut blocks);
        blocks
    });
}

#[divan::bench(args = ["text", "noise"])]
fn decode(bencher: Bencher<'_, '_>, kind: &str) {
    let (bytes, piece) = if kind == "text" { (text(1, LENGTH), 12 << 10) } else { (noise(1, LENGTH), 256 << 10) };
    let mut blocks = Vec::new();
    Encoder::new(Compression::default()).encode_into(&chunks(&bytes, piece), &mut blocks);
    let mut decoder = Decoder::new();
    bencher.counter(BytesCount::new(LENGTH)).bench_local(|| {
        for block in &blocks {
            divan::black_box(decoder.decode(block).unwrap());
        }
    });
}
