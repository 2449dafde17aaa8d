//! The rolling hash of FastCDC, and where it first fits a mask.
//!
//! Each step shifts the hash by one bit, so that a hash of 64 bits knows the last [`MEMORY`] bytes and nothing before them. One step has
//! to wait for the one before it, which leaves most of a processor idle. So [`Gear::find`] looks at several stretches at once, each begun
//! [`MEMORY`] bytes early; that it finds what one step after another finds is tested where stretches
//! meet, here, and against the crate that gives the table, in `chunker`.

use fastcdc::v2020::get_gear_with_seed;
use std::array;
use std::fmt;

/// Bytes that a hash remembers.
const MEMORY: usize = u64::BITS as usize;
/// Stretches looked at together: measured, 3.7 GB/s with 6, 3.4 with 4, 2.9 with 2, 1.8 one step after another.
const LANES: usize = 6;
/// Bytes of one of them: what is begun early, and what is looked at in vain behind a cut, is little beside it.
const LANE: usize = 1 << 10;

/// How far a search has come: kept while more bytes are waited for.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Scan {
    /// Bytes that are in the hash, from the first one that counts.
    pub(super) at: usize,
    hash: u64,
}

/// What each byte adds to the hash.
pub(super) struct Gear {
    table: Box<[u64; 256]>,
}

impl fmt::Debug for Gear {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Gear")
    }
}

impl Gear {
    /// The table of FastCDC, shuffled by `seed`.
    pub(super) fn new(seed: u64) -> Self {
        let (table, _) = get_gear_with_seed(seed);
        Self { table: Box::new(array::from_fn(|byte| table[byte])) }
    }

    /// The first position from `scan.at` up to `stop` whose hash has no bit in common with `mask`: that of its byte, which is in the
    /// hash. `bytes` begin with the first byte that counts. Without one, `scan` stands at `stop`, or where it was when that is further.
    pub(super) fn find(&self, bytes: &[u8], scan: &mut Scan, stop: usize, mask: u64) -> Option<usize> {
        // The first hashes know fewer bytes than the others.
        if let Some(found) = self.step(bytes, scan, stop.min(MEMORY), mask) {
            return Some(found);
        }
        while scan.at >= MEMORY && scan.at + LANES * LANE <= stop {
            let Some(hash) = self.leap(&bytes[scan.at - MEMORY..scan.at + LANES * LANE], mask) else { break };
            *scan = Scan { at: scan.at + LANES * LANE, hash };
        }
        self.step(bytes, scan, stop, mask)
    }

    /// One step after another.
    fn step(&self, bytes: &[u8], scan: &mut Scan, stop: usize, mask: u64) -> Option<usize> {
        for byte in bytes.get(scan.at..stop)? {
            scan.hash = self.next(scan.hash, *byte);
            scan.at += 1;
            if scan.hash & mask == 0 {
                return Some(scan.at - 1);
            }
        }
        None
    }

    /// The hash behind [`LANES`] stretches that follow [`MEMORY`] bytes. `None` when one of their hashes fits the mask.
    fn leap(&self, bytes: &[u8], mask: u64) -> Option<u64> {
        let lane = |n: usize| -> Option<&[u8; MEMORY + LANE]> { bytes.get(n * LANE..)?.first_chunk() };
        let mut lanes = [lane(0)?; LANES];
        for (n, bytes) in lanes.iter_mut().enumerate() {
            *bytes = lane(n)?;
        }
        let step = |hashes: [u64; LANES], at: usize| array::from_fn(|n| self.next(hashes[n], lanes[n][at]));
        let mut hashes = (0..MEMORY).fold([0; LANES], step);
        for at in MEMORY..MEMORY + LANE {
            hashes = step(hashes, at);
            if hashes.iter().any(|hash| hash & mask == 0) {
                return None;
            }
        }
        Some(hashes[LANES - 1])
    }

    fn next(&self, hash: u64, byte: u8) -> u64 {
        (hash << 1).wrapping_add(self.table[usize::from(byte)])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A mask that fits the hash at one position and hardly any other: so each place in which a stretch begins and ends is found out if its
    /// hash knows one byte too few.
    #[test]
    fn every_position_where_stretches_meet_has_the_hash_of_its_last_64_bytes() {
        let gear = Gear::new(7);
        let bytes: Vec<u8> = (0..(MEMORY + 2 * LANES * LANE) as u64 / 32 + 9)
            .flat_map(|n| *blake3::hash(&n.to_le_bytes()).as_bytes())
            .collect();
        let mut hash = 0;
        let hashes: Vec<u64> = bytes
            .iter()
            .map(|byte| {
                hash = gear.next(hash, *byte);
                hash
            })
            .collect();
        let near = |start: usize| start.saturating_sub(2)..start + MEMORY + 2;
        for position in (0..=2 * LANES).flat_map(|lane| near(MEMORY + lane * LANE)) {
            let mask = !hashes[position];
            let first = hashes.iter().position(|hash| hash & mask == 0);
            let mut scan = Scan::default();
            assert_eq!(gear.find(&bytes, &mut scan, bytes.len(), mask), first, "{position}");
            assert_eq!(scan.hash, hashes[scan.at - 1], "{position}");
        }
    }
}
