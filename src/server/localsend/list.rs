//! The list of what an app offers, read and checked entry by entry while it comes: no body and no tree of it is ever held, and the first
//! entry too many ends it.
//!
//! What a list takes is counted before it is read, and until its session is over: whoever may offer files is a stranger.

use crate::protocol::Announcement;
use crate::protocol::localsend::{FileOffer, MAX_FILES, MAX_PREPARE_BYTES};
use crate::server::api_error::ApiError;
use crate::server::limits::{LOCALSEND_LISTS_MEMORY, memory_units};
use crate::server::localsend::offer::{self, Offer};
use crate::server::localsend::sessions::Wanted;
use serde::de::{DeserializeSeed, Error as _, IgnoredAny, MapAccess, Visitor};
use std::collections::BTreeMap;
use std::fmt;
use std::io::{BufReader, Read};
use std::sync::Arc;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// What one file takes beside its names: its place in the list and the session, its token, and its part of the answer.
const FILE_BYTES: u64 = 512;
/// No entry of a list is shorter.
const SHORTEST_ENTRY: u64 = 24;
/// Characters of a message that are shown.
const MESSAGE_CHARS: usize = 2000;

/// A list that was read.
#[derive(Debug)]
pub(crate) struct Listed {
    /// Who sends, as it says.
    pub(crate) info: Announcement,
    /// What it is about.
    pub(crate) what: What,
}

/// What a list is about.
#[derive(Debug)]
pub(crate) enum What {
    /// No file: a text that apps show and answer with 204.
    Message(String),
    /// Files.
    Files(Offer),
}

/// What lists may take of memory.
pub(crate) fn memory_of_lists() -> Arc<Semaphore> {
    Arc::new(Semaphore::new(memory_units(LOCALSEND_LISTS_MEMORY) as usize))
}

/// Units of memory for reading a list of so many bytes: twice its longest text, and its files.
pub(crate) fn units_for(announced: Option<u64>) -> u32 {
    let bytes = announced.unwrap_or(u64::MAX).min(MAX_PREPARE_BYTES as u64);
    let files = (bytes / SHORTEST_ENTRY + 1).min(MAX_FILES as u64);
    memory_units(2 * bytes + files * FILE_BYTES)
}

/// Gives back what was counted beyond what this offer takes until it is over.
pub(crate) fn shrink(memory: &mut OwnedSemaphorePermit, offer: &Offer) {
    let names: usize = offer.iter().map(|(id, wanted)| id.len() + wanted.path.as_bytes().len()).sum();
    let units = memory_units(2 * names as u64 + offer.len() as u64 * FILE_BYTES);
    drop(memory.split(memory.num_permits().saturating_sub(units as usize)));
}

/// Reads a list. Blocking.
///
/// # Errors
/// 400 with the first thing that is wrong.
pub(crate) fn read(body: impl Read) -> Result<Listed, ApiError> {
    let mut reading = Reading::default();
    let mut json = serde_json::Deserializer::from_reader(BufReader::new(body));
    let read = reading.deserialize(&mut json).and_then(|()| json.end());
    if let Err(error) = read {
        // Its own text never comes back in the error.
        let unreadable = ApiError::bad_request("the body is not the JSON that this call takes").caused_by(error);
        return Err(reading.refused.take().unwrap_or(unreadable));
    }
    let info = reading.info.take().ok_or_else(|| ApiError::bad_request("the body does not say who sends"))?;
    let what = match reading.first.take() {
        Some((_, file)) if reading.count == 1 && is_message(&file) => {
            let text = file.preview.unwrap_or_default();
            What::Message(crate::model::text::clean(&text.chars().take(MESSAGE_CHARS).collect::<String>()))
        }
        first => {
            if let Some((id, file)) = first {
                reading.keep(id, file)?;
            }
            What::Files(offer::finish(reading.files.into_iter().collect())?)
        }
    };
    Ok(Listed { info, what })
}

fn is_message(file: &FileOffer) -> bool {
    file.file_type.starts_with("text") && file.preview.is_some()
}

#[derive(Debug, Default)]
struct Reading {
    info: Option<Announcement>,
    /// The first file; alone, it may be a message.
    first: Option<(String, FileOffer)>,
    files: BTreeMap<String, Wanted>,
    count: usize,
    refused: Option<ApiError>,
}

impl Reading {
    fn take(&mut self, id: String, file: FileOffer) -> Result<(), ApiError> {
        self.count += 1;
        if self.count > MAX_FILES {
            return Err(offer::wrong_count());
        }
        if self.count == 1 {
            self.first = Some((id, file));
            return Ok(());
        }
        if let Some((id, file)) = self.first.take() {
            self.keep(id, file)?;
        }
        self.keep(id, file)
    }

    fn keep(&mut self, id: String, file: FileOffer) -> Result<(), ApiError> {
        let wanted = offer::check(&id, file)?;
        self.files.insert(id, wanted);
        Ok(())
    }
}

impl<'de> DeserializeSeed<'de> for &mut Reading {
    type Value = ();

    fn deserialize<D: serde::Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for &mut Reading {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an offer")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(key) = map.next_key::<String>()? {
            match key.as_str() {
                "info" => self.info = Some(map.next_value()?),
                "files" => map.next_value_seed(Files(&mut *self))?,
                _ => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        Ok(())
    }
}

struct Files<'a>(&'a mut Reading);

impl<'de> DeserializeSeed<'de> for Files<'_> {
    type Value = ();

    fn deserialize<D: serde::Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Files<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("files by their ids")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some((id, file)) = map.next_entry()? {
            if let Err(error) = self.0.take(id, file) {
                self.0.refused = Some(error);
                return Err(A::Error::custom("refused"));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::limits::MEMORY_UNIT;

    /// A list that goes on as long as it is read.
    struct Endless<'a> {
        left: &'a mut usize,
        line: Vec<u8>,
    }

    impl Read for Endless<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
            if self.line.is_empty() && *self.left > 0 {
                *self.left -= 1;
                self.line = format!(r#""{}":{{"fileName":"x","size":1}},"#, self.left).into_bytes();
            }
            let count = self.line.len().min(buffer.len());
            buffer[..count].copy_from_slice(&self.line[..count]);
            self.line.drain(..count);
            Ok(count)
        }
    }

    fn offered(files: &str) -> Result<Listed, ApiError> {
        read(format!(r#"{{"files":{{{files}}},"new":[1],"info":{{"alias":"P","version":"2.1"}}}}"#).as_bytes())
    }

    #[test]
    fn a_list_of_too_many_files_ends_at_the_first_one_too_many() {
        let mut left = 20 * MAX_FILES;
        let error = read(BufReader::new(Endless { left: &mut left, line: br#"{"files":{"#.to_vec() })).unwrap_err();
        assert_eq!(error.status(), http::StatusCode::BAD_REQUEST);
        assert_eq!(format!("{error:?}"), format!("{:?}", offer::wrong_count()));
        assert!(20 * MAX_FILES - left < MAX_FILES + 1000, "{left} entries are left");
    }

    #[test]
    fn a_text_alone_is_a_message_and_two_are_files() {
        let text = r#"{"fileName":"../x","size":2,"fileType":"text/plain","preview":"hi"}"#;
        assert!(matches!(offered(&format!(r#""a":{text}"#)).unwrap().what, What::Message(text) if text == "hi"));
        let text = text.replace("../", "");
        let two = offered(&format!(r#""a":{text},"b":{text}"#)).unwrap();
        assert!(matches!(two.what, What::Files(offer) if offer.len() == 2));
        for bad in ["", r#""a":{"size":-1}"#, r#""a":{"fileName":"../x","size":1}"#] {
            assert_eq!(offered(bad).unwrap_err().status(), http::StatusCode::BAD_REQUEST, "{bad}");
        }
    }

    #[test]
    fn what_lists_take_is_counted_until_the_last_of_it_is_gone() {
        let all = memory_of_lists();
        let whole = all.available_permits();
        let memory = |announced| all.clone().try_acquire_many_owned(units_for(announced)).unwrap();
        let mut largest = memory(None);
        assert!(largest.num_permits() as u64 * MEMORY_UNIT > 2 * MAX_PREPARE_BYTES as u64);
        assert!(all.available_permits() < largest.num_permits(), "one at a time of the largest");
        let small = memory(Some(2_000));
        assert!(small.num_permits() <= 2, "small ones go past it: {}", small.num_permits());
        drop(small);
        let What::Files(offer) = offered(r#""a":{"fileName":"x","size":1}"#).unwrap().what else { panic!() };
        shrink(&mut largest, &offer);
        assert_eq!(all.available_permits(), whole - 1);
        drop(largest);
        assert_eq!(all.available_permits(), whole);
    }
}
