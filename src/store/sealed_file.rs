//! `store.json` and `config.json`: sealed JSON with a `format`, of which a newer one is refused before anything else is looked at.

use crate::platform::disk::Disk;
use crate::store::error::{Error, Result};
use crate::store::layout::FORMAT;
use crate::store::sealed;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::path::Path;

/// Reads a sealed file of JSON with a `format`. Of a newer format nothing else is looked at, not even the seal.
pub(crate) fn load<T: DeserializeOwned>(disk: &dyn Disk, path: &Path) -> Result<T> {
    parse(path, disk.read(path)?)
}

/// The same of bytes that were read already.
pub(crate) fn parse<T: DeserializeOwned>(path: &Path, bytes: Vec<u8>) -> Result<T> {
    #[derive(Deserialize)]
    struct Format {
        format: u32,
    }
    let damaged = |problem: &dyn fmt::Display| Error::damaged(&path.display(), problem);
    let text = String::from_utf8(bytes).map_err(|error| damaged(&error))?;
    let (json, whole) = sealed::split(&text).ok_or_else(|| damaged(&"it has no seal"))?;
    let Format { format: found } = serde_json::from_str(json).map_err(|error| damaged(&error))?;
    if found > FORMAT {
        return Err(Error::NewerFormat { path: path.to_owned(), found, known: FORMAT });
    }
    if !whole {
        return Err(damaged(&"its seal does not match its content"));
    }
    serde_json::from_str(json).map_err(|error| damaged(&error))
}

/// What such a file holds.
pub(crate) fn to_sealed_json<T: Serialize>(value: &T) -> Result<String> {
    let json = serde_json::to_string_pretty(value).map_err(|error| Error::Refused(error.to_string()))?;
    Ok(sealed::seal(&json))
}
