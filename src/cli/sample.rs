//! A folder to try things on: a little of everything that a home folder has, made in a second.

use crate::platform::{Context, Result, fs};
use std::io::Write;
use std::path::Path;

/// Text files: enough to see that many small ones are quick.
const NOTES: usize = 1500;
/// Photos, which do not compress.
const PHOTOS: usize = 24;
/// Bytes of one photo.
const PHOTO_BYTES: usize = 1_500_000;
/// Words of which notes are made.
const WORDS: [&str; 16] = [
    "harbour",
    "letter",
    "between",
    "morning",
    "photograph",
    "cellar",
    "winter",
    "a",
    "the",
    "of",
    "and",
    "house",
    "river",
    "never",
    "seventeen",
    "remember",
];

/// Fills `folder`, which must not exist.
pub fn create(folder: &Path) -> Result<()> {
    for name in ["notes", "photos", "photos/2024", "work", "empty"] {
        fs::create_dir_all(&folder.join(name))?;
    }
    for number in 0..NOTES {
        write(&folder.join(format!("notes/note {number:04}.txt")), &note(number, 400 + number % 1200))?;
    }
    for number in 0..PHOTOS {
        write(&folder.join(format!("photos/2024/img_{number:04}.jpg")), &noise(PHOTO_BYTES, number))?;
    }
    // A copy: kept only once.
    write(&folder.join("photos/favourite.jpg"), &noise(PHOTO_BYTES, 7))?;
    write(&folder.join("work/archive.bin"), &noise(20_000_000, 1000))?;
    fs::symlink(Path::new("../photos/favourite.jpg"), &folder.join("work/picture"))
}

/// Changes what [`create`] made: one file edited in the middle, one new, one gone.
pub fn change(folder: &Path) -> Result<()> {
    let mut archive = noise(20_000_000, 1000);
    archive.splice(10_000_000..10_000_000, *b"a few more bytes in the middle of it");
    write(&folder.join("work/archive.bin"), &archive)?;
    write(&folder.join("notes/new.txt"), &note(9999, 100))?;
    fs::remove_file(&folder.join("notes/note 0003.txt"))
}

fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    fs::remove_file(path)?;
    fs::create_new(path)?.write_all(bytes).context("write", path)
}

fn noise(length: usize, seed: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}

fn note(seed: usize, words: usize) -> Vec<u8> {
    let picks = noise(words, seed + 1_000_000);
    picks.iter().flat_map(|pick| [WORDS[usize::from(*pick) % WORDS.len()].as_bytes(), b" "].concat()).collect()
}
