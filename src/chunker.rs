//! Content-defined cutting with FastCDC (Xia et al., 2020): bytes in, chunks out, the same cuts for the same bytes wherever they
//! stand, so that an insertion moves two cuts and not all of them.
//!
//! Masks, table and rule are those of the crate `fastcdc`, whose cuts the tests compare with; the search itself is in [`gear`], twice as
//! fast. Blocking and allocation-free after the start: one buffer of twice the largest chunk.

mod gear;

use crate::chunker::gear::{Gear, Scan};
use crate::model::ChunkerParameters;
use fastcdc::v2020::{Normalization, select_masks};
use std::fmt;
use std::io::{self, Read};

/// Cuts one string of bytes after another. Bytes go in by [`Chunker::fill`] or [`Chunker::push`], chunks come out of
/// [`Chunker::next_chunk`]; after the last one the chunker is empty and ready for the next string.
pub struct Chunker {
    min: usize,
    average: usize,
    max: usize,
    mask_strict: u64,
    mask_loose: u64,
    gear: Gear,
    buffer: Vec<u8>,
    start: usize,
    end: usize,
    /// How far the search for the end of the next chunk has come, from its smallest length on.
    scan: Scan,
}

impl fmt::Debug for Chunker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Chunker({}/{}/{}, {} bytes waiting)", self.min, self.average, self.max, self.end - self.start)
    }
}

impl Chunker {
    /// A chunker for one repository's parameters.
    pub fn new(parameters: &ChunkerParameters) -> Self {
        let [min, average, max] = [parameters.min(), parameters.average(), parameters.max()].map(|n| n as usize);
        let (mask_strict, mask_loose) = select_masks(average, Normalization::Level1);
        let (gear, buffer) = (Gear::new(parameters.seed()), vec![0; 2 * max]);
        Self { min, average, max, mask_strict, mask_loose, gear, buffer, start: 0, end: 0, scan: Scan::default() }
    }

    /// Reads from `source` once, or as often as it is interrupted; empty the chunker with [`Chunker::next_chunk`] in between. Returns
    /// whether the source has ended.
    pub fn fill(&mut self, source: &mut impl Read) -> io::Result<bool> {
        self.make_room();
        debug_assert!(
            self.end < self.buffer.len(),
            "no chunk was taken: a full buffer would look like the end of the source"
        );
        loop {
            match source.read(&mut self.buffer[self.end..]) {
                Ok(count) => {
                    self.end += count;
                    return Ok(count == 0);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Takes as many of `bytes` as fit and returns the rest; empty the chunker with [`Chunker::next_chunk`] in between.
    pub fn push<'b>(&mut self, bytes: &'b [u8]) -> &'b [u8] {
        self.make_room();
        debug_assert!(self.end < self.buffer.len(), "no chunk was taken: nothing would ever fit again");
        let count = bytes.len().min(self.buffer.len() - self.end);
        self.buffer[self.end..self.end + count].copy_from_slice(&bytes[..count]);
        self.end += count;
        &bytes[count..]
    }

    /// The next chunk. `None` when more bytes are needed to know where it ends, or, after the `last` byte, when there is none.
    pub fn next_chunk(&mut self, last: bool) -> Option<&[u8]> {
        let waiting = (self.end - self.start).min(self.max);
        let length = match self.find_cut(waiting) {
            Some(length) => length,
            None if waiting > 0 && (last || waiting == self.max) => waiting,
            None => return None,
        };
        let start = self.start;
        self.start += length;
        self.scan = Scan::default();
        Some(&self.buffer[start..start + length])
    }

    /// The length at which to cut: it lies before a byte whose hash fits the mask, strict up to the average and loose behind it. Where
    /// the number of bytes is odd, the last of them is not looked at: the crate goes by pairs.
    fn find_cut(&mut self, waiting: usize) -> Option<usize> {
        let stop = (waiting & !1).checked_sub(self.min)?;
        let bytes = &self.buffer[self.start + self.min..self.start + waiting];
        for (stop, mask) in [(stop.min(self.average - self.min), self.mask_strict), (stop, self.mask_loose)] {
            if let Some(found) = self.gear.find(bytes, &mut self.scan, stop, mask) {
                return Some(self.min + found);
            }
        }
        None
    }

    /// What is not longer than this, in bytes, is one chunk.
    pub fn min(&self) -> u32 {
        self.min as u32
    }

    /// Forgets what is waiting, after a source that failed half-way.
    pub fn clear(&mut self) {
        (self.start, self.end, self.scan) = (0, 0, Scan::default());
    }

    /// What waits is never more than a largest chunk, once the chunks that are known have been taken.
    fn make_room(&mut self) {
        if self.start == self.end {
            self.clear();
        } else if self.end > self.max {
            self.buffer.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use fastcdc::v2020::{cut_gear, get_gear_with_seed};
    use proptest::prelude::*;

    fn noise(length: usize, seed: u64) -> Vec<u8> {
        let mut state = seed | 1;
        let step = |_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 56) as u8
        };
        (0..length).map(step).collect()
    }

    fn lengths(bytes: &[u8]) -> Vec<usize> {
        lengths_with(bytes, &ChunkerParameters::STANDARD)
    }

    fn lengths_of_the_crate(bytes: &[u8], parameters: &ChunkerParameters) -> Vec<usize> {
        let [min, average, max] = [parameters.min(), parameters.average(), parameters.max()].map(|n| n as usize);
        let (strict, loose) = select_masks(average, Normalization::Level1);
        let (gear, shifted) = get_gear_with_seed(parameters.seed());
        let (mut rest, mut found) = (bytes, Vec::new());
        while !rest.is_empty() {
            let (_, length) =
                cut_gear(rest, min, average, max, strict, loose, strict << 1, loose << 1, &gear, &shifted);
            found.push(length);
            rest = &rest[length..];
        }
        found
    }

    fn lengths_in_pieces(bytes: &[u8], parameters: &ChunkerParameters, piece: usize) -> Vec<usize> {
        let (mut chunker, mut found) = (Chunker::new(parameters), Vec::new());
        for part in bytes.chunks(piece) {
            let mut rest = part;
            while !rest.is_empty() {
                rest = chunker.push(rest);
                while let Some(chunk) = chunker.next_chunk(false) {
                    found.push(chunk.len());
                }
            }
        }
        while let Some(chunk) = chunker.next_chunk(true) {
            found.push(chunk.len());
        }
        found
    }

    fn lengths_with(bytes: &[u8], parameters: &ChunkerParameters) -> Vec<usize> {
        let mut chunker = Chunker::new(parameters);
        let (mut source, mut found, mut ended) = (bytes, Vec::new(), false);
        while !ended {
            ended = chunker.fill(&mut source).unwrap();
            while let Some(chunk) = chunker.next_chunk(ended) {
                found.push(chunk.len());
            }
        }
        found
    }

    /// The cuts are part of the format: a change here would make every source send everything again.
    #[test]
    fn golden_cut_points() {
        assert_eq!(lengths(&noise(3_000_000, 1)), GOLDEN);
        assert_eq!(lengths(&vec![0; 5_000_000]), [2 << 20, 2 << 20, 5_000_000 - (4 << 20)]);
        assert_eq!(lengths(b""), [0; 0]);
        assert_eq!(lengths(b"x"), [1]);
    }

    const GOLDEN: [usize; 8] = [139_970, 297_313, 595_805, 277_915, 300_955, 283_603, 245_046, 859_393];

    #[test]
    fn an_insertion_changes_few_chunks() {
        let before = noise(20_000_000, 2);
        let mut after = before.clone();
        after.splice(10_000_000..10_000_000, *b"8 bytes!");
        let (before, after) = (lengths(&before), lengths(&after));
        let same_start = before.iter().zip(&after).take_while(|(a, b)| a == b).count();
        let same_end = before.iter().rev().zip(after.iter().rev()).take_while(|(a, b)| a == b).count();
        assert!(before.len() - same_start - same_end <= 3, "{before:?} {after:?}");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(16))]
        #[test]
        fn pushing_in_any_pieces_cuts_like_reading(length in 0..6_000_000_usize, piece in 1..3_000_000_usize) {
            let bytes = noise(length, 3);
            let found = lengths_in_pieces(&bytes, &ChunkerParameters::STANDARD, piece);
            prop_assert_eq!(found, lengths(&bytes));
        }

        /// Bytes of few kinds make cuts, and their absence, dense: so each stretch that is looked at by itself has its turn. In small pieces
        /// the search stops and goes on at every place there is.
        #[test]
        fn cuts_are_those_of_the_crate_however_the_bytes_come(
            (average_bits, min, max) in (13..21_u32).prop_flat_map(|bits| {
                (Just(bits), 2048..1_u32 << (bits - 1), (1 << (bits - 1)) + 1..=1_u32 << 20)
            }),
            seed in any::<u64>(),
            kinds in 1..=8_u32,
            length in 0..2_000_000_usize,
            piece in prop_oneof![1..200_usize, 1..70_000_usize, 1..3_000_000_usize],
            noise_seed in any::<u64>(),
        ) {
            let parameters = serde_json::json!({ "min": 2 * min, "average": 1 << average_bits, "max": 2 * max, "seed": seed });
            let parameters: ChunkerParameters = serde_json::from_value(parameters).unwrap();
            let bytes: Vec<u8> = noise(length, noise_seed).into_iter().map(|byte| byte >> (8 - kinds)).collect();
            let expected = lengths_of_the_crate(&bytes, &parameters);
            prop_assert_eq!(lengths_in_pieces(&bytes, &parameters, piece), &expected[..]);
            prop_assert_eq!(lengths_with(&bytes, &parameters), expected);
        }
    }
}
