//! The seal of small files: a last line with the BLAKE3 of all that stands before it. Nobody is kept from forging one; it is
//! there so that a flipped bit is found wherever it is, also in what no signature covers.

use crate::model::digest::to_hex;
use crate::store::error::{Error, Result};
use crate::store::layout::{FORMAT, ObjectName};
use crate::store::shelf::Shelf;
use serde::Serialize;
use serde::de::DeserializeOwned;

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

/// Reads what is known of something in one small object that is only remembered, and can do without. `None` when there is none; the inner
/// error says what is wrong with it.
pub(crate) fn read_state<T: DeserializeOwned>(
    shelf: &dyn Shelf,
    name: &ObjectName,
    format: impl Fn(&T) -> u32,
) -> Result<Option<Result<T, &'static str>>> {
    let bytes = match shelf.get(name) {
        Err(error) if error.is_not_found() => return Ok(None),
        Err(error) if error.is_bad_medium() => return Ok(Some(Err("the disk cannot read it"))),
        other => other?,
    };
    let state = unseal(&bytes).and_then(|json| serde_json::from_str(json).map_err(|_| "it cannot be read"));
    Ok(Some(state.and_then(|state| if format(&state) <= FORMAT { Ok(state) } else { Err("it is newer") })))
}

/// Keeps it.
pub(crate) fn save_state<T: Serialize>(shelf: &dyn Shelf, name: &ObjectName, state: &T) -> Result<()> {
    let json = serde_json::to_string(state).map_err(|error| Error::Refused(error.to_string()))?;
    Ok(shelf.put(name, seal(&json).as_bytes())?)
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
