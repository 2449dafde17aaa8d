//! A JSON string that is read where it stands: only one with escapes in it is copied.
//!
//! `Cow<str>` alone, or inside an `Option`, is always copied by serde; a million entries have ten million strings.

use serde::{Deserialize, Serialize};
use std::borrow::Cow;

/// A JSON string, borrowed from the text it is read from where that can be.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct JsonText<'a>(#[serde(borrow)] pub(crate) Cow<'a, str>);

impl<'a> From<&'a str> for JsonText<'a> {
    fn from(text: &'a str) -> Self {
        Self(Cow::Borrowed(text))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_strings_are_borrowed_and_others_read_all_the_same() {
        let list: Vec<Option<JsonText<'_>>> = serde_json::from_str(r#"["plain ä", "a\nb", null]"#).unwrap();
        assert!(matches!(&list[0], Some(JsonText(Cow::Borrowed("plain ä")))));
        assert!(matches!(&list[1], Some(JsonText(Cow::Owned(text))) if text == "a\nb"));
        assert!(list[2].is_none());
    }
}
