//! `store.json` and `config.json`: sealed JSON with a `format`, of which a newer one is refused before anything else is looked at. Only what
//! a flipped bit makes look newer is damage, and can be mended.

use crate::platform::disk::Disk;
use crate::store::error::{Error, Result};
use crate::store::layout::FORMAT;
use crate::store::mend::mend;
use crate::store::sealed;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::path::Path;

#[derive(Deserialize)]
struct Format {
    format: u32,
}

/// Reads a sealed file of JSON with a `format`. Of a newer format nothing else is looked at, not even the seal.
pub(crate) fn load<T: DeserializeOwned>(disk: &dyn Disk, path: &Path) -> Result<T> {
    parse(path, disk.read(path)?)
}

/// The same of bytes that were read already.
pub(crate) fn parse<T: DeserializeOwned>(path: &Path, bytes: Vec<u8>) -> Result<T> {
    let damaged = |problem: &dyn fmt::Display| Error::damaged(&path.display(), problem);
    let text = String::from_utf8(bytes).map_err(|error| damaged(&error))?;
    let (json, whole) = sealed::split(&text).ok_or_else(|| damaged(&"it has no seal"))?;
    let Format { format: found } = serde_json::from_str(json).map_err(|error| damaged(&error))?;
    if found > FORMAT && (whole || !is_known_but_for_a_bit(text.as_bytes())) {
        return Err(Error::NewerFormat { path: path.to_owned(), found, known: FORMAT });
    }
    if !whole {
        return Err(damaged(&"its seal does not match its content"));
    }
    serde_json::from_str(json).map_err(|error| damaged(&error))
}

/// Whether one flipped bit makes a file of a format that is known look like a newer one: only then does its seal fit once that is flipped
/// back.
fn is_known_but_for_a_bit(bytes: &[u8]) -> bool {
    let mended = mend(bytes).and_then(|bytes| String::from_utf8(bytes).ok());
    let json = mended.as_deref().and_then(sealed::split).map(|(json, _)| json);
    json.and_then(|json| serde_json::from_str::<Format>(json).ok()).is_some_and(|format| format.format <= FORMAT)
}

/// What such a file holds.
pub(crate) fn to_sealed_json<T: Serialize>(value: &T) -> Result<String> {
    let json = serde_json::to_string_pretty(value).map_err(|error| Error::Refused(error.to_string()))?;
    Ok(sealed::seal(&json))
}
