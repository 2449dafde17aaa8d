//! Mutations of texts that a parser reads.

/// Numbers that look random, the same each time.
#[derive(Debug)]
pub(crate) struct Dice(Vec<u8>, usize);

impl Dice {
    pub(crate) fn new(seed: &[u8]) -> Self {
        Self(blake3::hash(seed).as_bytes().to_vec(), 0)
    }

    pub(crate) fn below(&mut self, limit: usize) -> usize {
        if self.1 + 4 > self.0.len() {
            self.0 = blake3::hash(&self.0).as_bytes().to_vec();
            self.1 = 0;
        }
        let number = u32::from_le_bytes(self.0[self.1..self.1 + 4].try_into().unwrap());
        self.1 += 4;
        number as usize % limit.max(1)
    }
}

const WORDS: [&[u8]; 16] = [
    b"..",
    b"/",
    b"\\u0000",
    b"18446744073709551615",
    b"9223372036854775807",
    b"0",
    b"-1",
    b"file",
    b"folder",
    b"link",
    b"null",
    b"\n",
    b"\"",
    b"\\/",
    b"\"linkGroup\":\"g\",",
    b"[[null,7]]",
];

/// One to three small changes: bits, bytes, pieces cut out or put in, words in the place of others.
pub(crate) fn mutate(manifest: &[u8], dice: &mut Dice) -> Vec<u8> {
    let mut out = manifest.to_vec();
    for _ in 0..=dice.below(3) {
        if out.is_empty() {
            break;
        }
        let at = dice.below(out.len());
        match dice.below(6) {
            0 => out[at] ^= 1 << dice.below(8),
            1 => out[at] = dice.below(256) as u8,
            2 => drop(out.drain(at..(at + dice.below(20)).min(out.len()))),
            3 => drop(out.splice(at..at, WORDS[dice.below(WORDS.len())].iter().copied())),
            4 => {
                let piece = out[at..(at + dice.below(80)).min(out.len())].to_vec();
                let to = dice.below(out.len());
                drop(out.splice(to..to, piece));
            }
            _ => {
                // A word between quotes or brackets becomes another one.
                let end = at + out[at..].iter().position(|b| b"\",]}".contains(b)).unwrap_or(0);
                drop(out.splice(at..end, WORDS[dice.below(WORDS.len())].iter().copied()));
            }
        }
    }
    out
}
