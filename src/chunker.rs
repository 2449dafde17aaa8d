//! Content-defined cutting with FastCDC (Xia et al., 2020): bytes in, chunks out, the same cuts for the same bytes wherever they
//! stand, so that an insertion moves two cuts and not all of them.
//!
//! Blocking and allocation-free after the start: one buffer of twice the largest chunk.

use crate::model::ChunkerParameters;
use fastcdc::v2020::{Normalization, cut_gear, get_gear_with_seed, select_masks};
use std::borrow::Cow;
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
    gear: Cow<'static, [u64]>,
    gear_shifted: Cow<'static, [u64]>,
    buffer: Vec<u8>,
    start: usize,
    end: usize,
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
        let (gear, gear_shifted) = get_gear_with_seed(parameters.seed());
        let buffer = vec![0; 2 * max];
        Self { min, average, max, mask_strict, mask_loose, gear, gear_shifted, buffer, start: 0, end: 0 }
    }

    /// Reads from `source` until enough is there for one largest chunk or the source has ended. Returns whether it has ended.
    pub fn fill(&mut self, source: &mut impl Read) -> io::Result<bool> {
        while self.end - self.start < self.max {
            self.make_room();
            match source.read(&mut self.buffer[self.end..]) {
                Ok(0) => return Ok(true),
                Ok(count) => self.end += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(false)
    }

    /// Takes as many of `bytes` as fit and returns the rest; empty the chunker with [`Chunker::next_chunk`] in between.
    pub fn push<'b>(&mut self, bytes: &'b [u8]) -> &'b [u8] {
        self.make_room();
        let count = bytes.len().min(self.buffer.len() - self.end);
        self.buffer[self.end..self.end + count].copy_from_slice(&bytes[..count]);
        self.end += count;
        &bytes[count..]
    }

    /// The next chunk. `None` when more bytes are needed to know where it ends, or, after the `last` byte, when there is none.
    pub fn next_chunk(&mut self, last: bool) -> Option<&[u8]> {
        let waiting = self.end - self.start;
        if waiting == 0 || (!last && waiting < self.max) {
            return None;
        }
        let (_, length) = cut_gear(
            &self.buffer[self.start..self.end],
            self.min,
            self.average,
            self.max,
            self.mask_strict,
            self.mask_loose,
            self.mask_strict << 1,
            self.mask_loose << 1,
            &self.gear,
            &self.gear_shifted,
        );
        let start = self.start;
        self.start += length;
        Some(&self.buffer[start..start + length])
    }

    /// What is not longer than this, in bytes, is one chunk.
    pub fn min(&self) -> u32 {
        self.min as u32
    }

    /// Forgets what is waiting, after a source that failed half-way.
    pub fn clear(&mut self) {
        (self.start, self.end) = (0, 0);
    }

    fn make_room(&mut self) {
        if self.start == self.end {
            self.clear();
        } else if self.end == self.buffer.len() {
            self.buffer.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
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
        let mut chunker = Chunker::new(&ChunkerParameters::STANDARD);
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
            let mut chunker = Chunker::new(&ChunkerParameters::STANDARD);
            let mut found = Vec::new();
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
            prop_assert_eq!(found, lengths(&bytes));
        }
    }
}
