//! Where in a file the long runs of zeros are, so that what lies between them is cut by itself.
//!
//! A run ends a chunk wherever it lies, byte for byte, whether the file system keeps it as a hole or as zeros. So a disk image is cut the
//! same when a copy has filled its holes, and when an insertion has moved its second half. A run of [`MIN_RUN`] zeros contains a multiple
//! of [`MIN_RUN`], so one byte in so many is looked at; what a hole holds is not read.

use crate::platform::attributes;
use crate::platform::fs::File;
use std::io::{self, Read, Seek, SeekFrom};

/// Zeros in a row, in bytes, that are kept as a hole wherever they lie: the smallest chunk of the standard parameters, so that holes make
/// at most twice as many pieces as cutting does.
pub const MIN_RUN: usize = 64 << 10;

/// One read: large enough to cost nothing a byte, small enough that what is read again after a run is little.
const READ_MAX: usize = 512 << 10;

/// Reads a file up to its next long run of zeros. [`Read::read`] says "ended" there; [`DataRuns::zeros`] then goes past the run.
#[derive(Debug)]
pub struct DataRuns<'f> {
    file: &'f mut File,
    /// What the system said before the first byte was read.
    size: u64,
    has_holes: bool,
    /// How far the pieces that were given reach.
    at: u64,
    /// Where the open file stands.
    position: u64,
    run: u64,
    scratch: Vec<u8>,
}

impl<'f> DataRuns<'f> {
    /// Begins at the start of `file`, which has `size` bytes; `has_holes` says whether looking for holes is worth system calls.
    pub fn new(file: &'f mut File, size: u64, has_holes: bool) -> Self {
        Self { file, size, has_holes, at: 0, position: 0, run: 0, scratch: Vec::new() }
    }

    /// The zeros at which reading stopped, in bytes. `None` at the end of the file.
    pub fn zeros(&mut self) -> Option<u64> {
        let run = std::mem::take(&mut self.run);
        self.at += run;
        (run > 0).then_some(run)
    }

    /// The bytes given so far, zeros counted.
    pub fn given(&self) -> u64 {
        self.at
    }

    fn read_here(&mut self, at: u64, buffer: &mut [u8]) -> io::Result<usize> {
        if self.position != at {
            self.file.seek(SeekFrom::Start(at))?;
            self.position = at;
        }
        let count = self.file.read(buffer)?;
        self.position += count as u64;
        Ok(count)
    }

    /// How many zeros lie here in a row. Holes are not read.
    fn count_zeros(&mut self) -> io::Result<u64> {
        let mut scratch = std::mem::take(&mut self.scratch);
        scratch.resize(MIN_RUN, 0);
        let mut end = self.at;
        loop {
            if self.has_holes && end < self.size {
                let data = attributes::next_data(self.file, end, self.size)?;
                self.position = u64::MAX;
                end = data.map_or(self.size, |(start, _)| start);
            }
            let count = self.read_here(end, &mut scratch)?;
            let zeros = leading_zeros(&scratch[..count]);
            end += zeros as u64;
            if zeros < count || count == 0 {
                break;
            }
        }
        self.scratch = scratch;
        Ok(end - self.at)
    }
}

impl Read for DataRuns<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let room = buffer.len().min(READ_MAX);
        if self.run > 0 || room == 0 {
            return Ok(0);
        }
        let count = self.read_here(self.at, &mut buffer[..room])?;
        let mut data = before_zeros(&buffer[..count]);
        if data == 0 && count > 0 {
            let run = self.count_zeros()?;
            if run >= MIN_RUN as u64 { self.run = run } else { data = count }
        }
        self.at += data as u64;
        Ok(data)
    }
}

/// The bytes before the first run of at least [`MIN_RUN`] zeros, or of zeros up to the end, which may go on there.
fn before_zeros(bytes: &[u8]) -> usize {
    let mut probe = MIN_RUN - 1;
    while probe < bytes.len() {
        if bytes[probe] == 0 {
            let start = probe - trailing_zeros(&bytes[..probe]);
            let end = probe + leading_zeros(&bytes[probe..]);
            if end - start >= MIN_RUN {
                return start;
            }
            // The run ends before `end`: the next one begins behind it, and cannot be long before `end + MIN_RUN`.
            probe = end + MIN_RUN;
        } else {
            probe += MIN_RUN;
        }
    }
    bytes.len() - trailing_zeros(bytes)
}

fn leading_zeros(bytes: &[u8]) -> usize {
    let whole = bytes.chunks_exact(64).take_while(|part| part.iter().fold(0, |any, byte| any | byte) == 0).count() * 64;
    whole + bytes[whole..].iter().take_while(|byte| **byte == 0).count()
}

fn trailing_zeros(bytes: &[u8]) -> usize {
    let whole =
        bytes.rchunks_exact(64).take_while(|part| part.iter().fold(0, |any, byte| any | byte) == 0).count() * 64;
    whole + bytes[..bytes.len() - whole].iter().rev().take_while(|byte| **byte == 0).count()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::io::Write;
    use std::os::unix::fs::FileExt;

    /// What `DataRuns` gives: stretches of data by their length, and zeros as negative lengths.
    fn runs(bytes: &[u8], holes: bool, room: usize) -> Vec<i64> {
        let mut file = tempfile::tempfile().unwrap();
        if holes {
            file.set_len(bytes.len() as u64).unwrap();
            for (number, block) in bytes.chunks(4096).enumerate().filter(|(_, block)| block.iter().any(|b| *b != 0)) {
                file.write_all_at(block, number as u64 * 4096).unwrap();
            }
        } else {
            file.write_all(bytes).unwrap();
        }
        file.rewind().unwrap();
        let mut source = DataRuns::new(&mut file, bytes.len() as u64, holes);
        let (mut found, mut at, mut buffer) = (Vec::new(), 0, vec![1; room]);
        loop {
            let from = at;
            loop {
                let count = source.read(&mut buffer).unwrap();
                if count == 0 {
                    break;
                }
                assert!(buffer[..count] == bytes[at..at + count]);
                at += count;
            }
            if at > from {
                found.push((at - from) as i64);
            }
            assert_eq!(source.given(), at as u64);
            let Some(zeros) = source.zeros() else { break };
            assert!(bytes[at..at + zeros as usize].iter().all(|b| *b == 0));
            at += zeros as usize;
            found.push(-(zeros as i64));
        }
        assert_eq!(at, bytes.len());
        found
    }

    /// The same by its definition: every run that cannot be made longer, of `MIN_RUN` zeros or more.
    fn runs_by_definition(bytes: &[u8]) -> Vec<i64> {
        let mut found: Vec<i64> = Vec::new();
        for run in bytes.chunk_by(|a, b| (*a == 0) == (*b == 0)) {
            let length = run.len() as i64;
            match found.last_mut() {
                _ if run[0] == 0 && run.len() >= MIN_RUN => found.push(-length),
                Some(last) if *last > 0 => *last += length,
                _ => found.push(length),
            }
        }
        found
    }

    #[test]
    fn edges() {
        let with = |parts: &[(u8, usize)]| parts.iter().flat_map(|(byte, n)| vec![*byte; *n]).collect::<Vec<u8>>();
        let cases = [
            with(&[]),
            with(&[(0, 1)]),
            with(&[(0, MIN_RUN - 1)]),
            with(&[(0, MIN_RUN)]),
            with(&[(7, 1), (0, MIN_RUN - 1), (7, 1)]),
            with(&[(7, 1), (0, MIN_RUN), (7, 1)]),
            with(&[(7, 5000), (0, 3 << 20), (7, 300_000), (0, MIN_RUN + 1)]),
            with(&[(0, MIN_RUN - 1), (1, 1), (0, MIN_RUN - 1), (1, 1), (0, MIN_RUN), (1, 1)]),
        ];
        for bytes in &cases {
            for room in [1000, MIN_RUN, READ_MAX, 2 * READ_MAX] {
                for holes in [false, true] {
                    assert_eq!(runs(bytes, holes, room), runs_by_definition(bytes), "{} bytes", bytes.len());
                }
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]
        #[test]
        fn the_same_with_holes_and_without_and_whatever_is_read_at_a_time(
            parts in prop::collection::vec((0..4_u8, prop_oneof![1..9000_usize, 60_000..70_000_usize, 1..900_000_usize]), 0..12),
            room in 900..700_000_usize,
        ) {
            let bytes: Vec<u8> = parts.iter().flat_map(|(byte, n)| vec![byte & 2; *n]).collect();
            let expected = runs_by_definition(&bytes);
            prop_assert_eq!(runs(&bytes, false, room), expected.clone());
            prop_assert_eq!(runs(&bytes, true, room), expected);
        }
    }
}
