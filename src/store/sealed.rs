//! The seal of small files: a last line with the BLAKE3 of all that stands before it. Nobody is kept from forging one; it is
//! there so that a flipped bit is found wherever it is, also in what no signature covers.

use crate::model::digest::to_hex;

/// `content` and its seal. The seal is a JSON string, so that a sealed line of JSON can still be read by JSON tools.
pub(crate) fn seal(content: &str) -> String {
    format!("{content}\n{}", line(content))
}

/// The content of a sealed file and whether the seal is whole. `None` when there are not even two lines.
pub(crate) fn split(text: &str) -> Option<(&str, bool)> {
    let (content, _) = text.strip_suffix('\n')?.rsplit_once('\n')?;
    Some((content, text[content.len() + 1..] == line(content)))
}

/// The content of a file whose seal is whole.
pub(crate) fn unseal(bytes: &[u8]) -> Result<&str, &'static str> {
    let text = std::str::from_utf8(bytes).map_err(|_| "it is not text")?;
    match split(text) {
        Some((content, true)) => Ok(content),
        _ => Err("its seal does not match its content"),
    }
}

fn line(content: &str) -> String {
    let hash = blake3::Hasher::new().update(content.as_bytes()).update(b"\n").finalize();
    format!("\"blake3:{}\"\n", to_hex(hash.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_flipped_bit_and_every_cut_is_found() {
        let sealed = seal("{\"a\":1}\nsecond line").into_bytes();
        assert_eq!(unseal(&sealed), Ok("{\"a\":1}\nsecond line"));
        for bit in 0..sealed.len() * 8 {
            let mut bad = sealed.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(unseal(&bad).is_err(), "bit {bit}");
        }
        for length in 0..sealed.len() {
            assert!(unseal(&sealed[..length]).is_err());
        }
    }
}
