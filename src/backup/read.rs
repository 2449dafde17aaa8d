//! One file, from the disk into chunks and holes.

use crate::backup::inspect::Stamp;
use crate::backup::zero_runs::DataRuns;
use crate::chunker::Chunker;
use crate::platform::clock::Clock;
use crate::platform::fs::{File, Metadata};
use crate::platform::{Context, Result, attributes, fs};
use bytes::Bytes;
use std::io::{self, Read};
use std::ops::ControlFlow;
use std::path::Path;

/// Zeros in a row, in bytes, from which on a chunk of nothing but zeros is kept as a hole: below, the bookkeeping costs more.
const MIN_ZERO_RUN: usize = 4096;

/// A part of a file, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Piece {
    /// Bytes that make one chunk.
    Chunk(Bytes),
    /// So many zeros.
    Hole(u64),
}

/// How reading a file ended.
#[derive(Debug)]
pub enum Outcome {
    /// Read to its end.
    Read {
        /// What the system said before the first byte was read.
        metadata: Box<Metadata>,
        /// The number of bytes that were read, holes counted.
        size: u64,
        /// How to recognise the file next time; `None` when it has to be read again then.
        stamp: Option<Stamp>,
        /// Size or times were not the same after the last byte.
        changed_meanwhile: bool,
    },
    /// Whoever takes the pieces wants no more.
    Stopped,
}

/// Reads the regular file at `source` and gives its pieces to `each`.
///
/// # Errors
/// When the file is gone, may not be read, is no regular file any more, or the disk fails. Pieces given before are worthless then.
pub fn read(
    source: &Path,
    chunker: &mut Chunker,
    clock: &dyn Clock,
    each: &mut dyn FnMut(Piece) -> ControlFlow<()>,
) -> Result<Outcome> {
    let mut file = fs::open_no_follow(source)?;
    let metadata = file.metadata().context("look at", source)?;
    if !metadata.is_file() {
        return Err(io::Error::from(io::ErrorKind::InvalidInput)).context("read, as it is a file no more,", source);
    }
    let stamp = Stamp::of(&metadata, clock.now());
    chunker.clear();
    let read = if metadata.len() <= u64::from(chunker.min()) {
        read_small(&mut file, metadata.len(), each)
    } else {
        read_large(DataRuns::new(&mut file, metadata.len(), attributes::may_have_holes(&metadata)), chunker, each)
    };
    let Some(size) = read.context("read", source)? else { return Ok(Outcome::Stopped) };
    let after = file.metadata().context("look at", source)?;
    let same = size == metadata.len()
        && after.len() == metadata.len()
        && attributes::modified(&after) == attributes::modified(&metadata)
        && attributes::changed(&after) == attributes::changed(&metadata);
    Ok(Outcome::Read { metadata: Box::new(metadata), size, stamp: stamp.filter(|_| same), changed_meanwhile: !same })
}

type Each<'a> = &'a mut dyn FnMut(Piece) -> ControlFlow<()>;

/// A file that is one chunk anyway: one read, no copy. One byte more is asked for, to see whether it grew.
fn read_small(file: &mut File, size: u64, each: Each<'_>) -> io::Result<Option<u64>> {
    let mut bytes = Vec::with_capacity(size as usize + 1);
    file.take(size + 1).read_to_end(&mut bytes)?;
    let read = bytes.len() as u64;
    if bytes.is_empty() || each(piece(Bytes::from(bytes))).is_continue() { Ok(Some(read)) } else { Ok(None) }
}

/// Cuts what lies between long runs of zeros; a sparse file of 100 GB with 1 MB in it costs 1 MB.
fn read_large(mut source: DataRuns<'_>, chunker: &mut Chunker, each: Each<'_>) -> io::Result<Option<u64>> {
    loop {
        let mut ended = false;
        while !ended {
            ended = chunker.fill(&mut source)?;
            while let Some(chunk) = chunker.next_chunk(ended) {
                let piece = if is_zero(chunk) {
                    Piece::Hole(chunk.len() as u64)
                } else {
                    Piece::Chunk(Bytes::copy_from_slice(chunk))
                };
                if each(piece).is_break() {
                    return Ok(None);
                }
            }
        }
        match source.zeros() {
            Some(zeros) if each(Piece::Hole(zeros)).is_break() => return Ok(None),
            Some(_) => {}
            None => return Ok(Some(source.given())),
        }
    }
}

fn piece(bytes: Bytes) -> Piece {
    if is_zero(&bytes) { Piece::Hole(bytes.len() as u64) } else { Piece::Chunk(bytes) }
}

fn is_zero(bytes: &[u8]) -> bool {
    bytes.len() >= MIN_ZERO_RUN && bytes.iter().all(|b| *b == 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::ChunkerParameters;
    use crate::platform::clock::SystemClock;
    use std::os::unix::fs::FileExt;

    fn pieces(path: &Path) -> (Vec<Piece>, u64) {
        let mut found = Vec::new();
        let mut each = |piece| {
            found.push(piece);
            ControlFlow::Continue(())
        };
        let mut chunker = Chunker::new(&ChunkerParameters::STANDARD);
        let Ok(Outcome::Read { size, .. }) = read(path, &mut chunker, &SystemClock, &mut each) else {
            panic!("not read")
        };
        (found, size)
    }

    fn joined(pieces: &[Piece]) -> Vec<u8> {
        let bytes = |piece: &Piece| match piece {
            Piece::Chunk(bytes) => bytes.to_vec(),
            Piece::Hole(length) => vec![0; *length as usize],
        };
        pieces.iter().flat_map(bytes).collect()
    }

    #[test]
    fn files_of_every_kind_come_out_as_they_are() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("f");
        let noise: Vec<u8> = (0..200_000_u64).flat_map(|i| *blake3::hash(&i.to_le_bytes()).as_bytes()).collect();
        for content in [&b""[..], b"x", &[0; 3], &noise[..65_536], &noise[..65_537], &noise, &vec![0; 5_000_000]] {
            std::fs::write(&path, content).unwrap();
            let (found, size) = pieces(&path);
            assert_eq!(size, content.len() as u64);
            assert!(joined(&found) == content);
        }
        assert_eq!(pieces(&path).0.iter().filter(|p| matches!(p, Piece::Chunk(_))).count(), 0);
    }

    #[test]
    fn a_disk_image_is_cut_the_same_with_holes_without_and_behind_an_insertion() {
        let folder = tempfile::tempdir().unwrap();
        let (sparse, dense, longer) = (folder.path().join("s"), folder.path().join("d"), folder.path().join("l"));
        let noise: Vec<u8> = (0..100_000_u64).flat_map(|i| *blake3::hash(&i.to_le_bytes()).as_bytes()).collect();
        let mut image = vec![0; 10 << 20];
        for (at, length) in [(1 << 20, 1 << 20), (3 << 20, 300_000), (5_000_000, 70_001), (8 << 20, 10)] {
            image[at..at + length].copy_from_slice(&noise[..length]);
        }
        let file = File::create(&sparse).unwrap();
        file.set_len(image.len() as u64).unwrap();
        for (number, block) in image.chunks(4096).enumerate().filter(|(_, block)| block.iter().any(|b| *b != 0)) {
            file.write_all_at(block, number as u64 * 4096).unwrap();
        }
        std::fs::write(&dense, &image).unwrap();
        let (with_holes, without) = (pieces(&sparse).0, pieces(&dense).0);
        assert!(joined(&with_holes) == image);
        assert_eq!(with_holes, without);
        image.splice(100..100, *b"seven b");
        std::fs::write(&longer, &image).unwrap();
        let chunks =
            |pieces: Vec<Piece>| pieces.into_iter().filter(|p| matches!(p, Piece::Chunk(_))).collect::<Vec<_>>();
        assert_eq!(chunks(pieces(&longer).0)[1..], chunks(with_holes));
    }

    #[test]
    fn a_sparse_file_is_read_only_where_it_has_data() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("f");
        let file = File::create(&path).unwrap();
        file.set_len(1 << 40).unwrap();
        file.write_all_at(b"island", 1 << 35).unwrap();
        let (found, size) = pieces(&path);
        assert_eq!(size, 1 << 40);
        let read: usize = found.iter().map(|p| if let Piece::Chunk(b) = p { b.len() } else { 0 }).sum();
        assert!(read < 1 << 20, "{read} bytes");
        assert!(found.iter().any(|p| matches!(p, Piece::Chunk(b) if b.windows(6).any(|w| w == b"island"))));
    }

    #[test]
    fn a_link_or_a_pipe_in_the_place_of_a_file_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("link");
        std::os::unix::fs::symlink("/etc/passwd", &path).unwrap();
        let mut chunker = Chunker::new(&ChunkerParameters::STANDARD);
        assert!(read(&path, &mut chunker, &SystemClock, &mut |_| ControlFlow::Continue(())).is_err());
        let pipe = folder.path().join("pipe");
        nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert!(read(&pipe, &mut chunker, &SystemClock, &mut |_| ControlFlow::Continue(())).is_err());
    }
}
