//! One file, folder or link of a snapshot: a line of the manifest.

use crate::model::json_text::JsonText;
use crate::model::{Content, ContentHash, Extent, FileTime, ParseError, RelPath, Stream};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::borrow::Cow;
use std::collections::BTreeMap;

/// One file, folder or link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Where it lies, from the top of the snapshot.
    pub path: RelPath,
    /// What it is.
    pub kind: EntryKind,
    /// What else is restored.
    pub metadata: Metadata,
}

/// What an entry is, with what only that kind has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EntryKind {
    /// A regular file.
    File {
        /// Number of plain bytes; equals the sum of its extents once the content is known.
        size: u64,
        /// `None` only in the list that goes ahead of the upload, where it is not known yet.
        content: Option<Content>,
        /// Names the group of hard links this file belongs to; every member carries the content too.
        link_group: Option<String>,
    },
    /// A folder.
    Folder,
    /// A symbolic link; the target is kept as it is and never followed.
    Link {
        /// The bytes of the target.
        target: Vec<u8>,
    },
}

/// Metadata that every kind has.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Metadata {
    /// Time of the last change of the content.
    pub mtime: Option<FileTime>,
    /// The lower twelve bits of the mode: permissions, set-uid, set-gid, sticky.
    pub mode: Option<u32>,
    /// Who owned it.
    pub owner: Option<Owner>,
    /// Extended attributes, name to value (ACLs are among them).
    pub xattrs: BTreeMap<String, Vec<u8>>,
    /// SHA-256 of a file's content, where a LocalSend app gave it and it was right; so that it need not be sent again.
    pub sha256: Option<ContentHash>,
}

/// The owner of an entry, by number and, where the source knew them, by name.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Owner {
    /// User number.
    pub uid: u32,
    /// Group number.
    pub gid: u32,
    /// User name.
    pub user: Option<String>,
    /// Group name.
    pub group: Option<String>,
}

impl Entry {
    /// Number of plain bytes of a file, 0 for anything else.
    pub fn size(&self) -> u64 {
        match &self.kind {
            EntryKind::File { size, .. } => *size,
            EntryKind::Folder | EntryKind::Link { .. } => 0,
        }
    }

    /// The path of a line of the manifest, for those who sort lines and need nothing else of most of them. The message is the
    /// parser's.
    pub fn path_of(line: &[u8]) -> Result<RelPath, String> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Place<'a> {
            #[serde(borrow)]
            path: Option<JsonText<'a>>,
            #[serde(borrow)]
            path_bytes: Option<JsonText<'a>>,
        }
        let place: Place<'_> = serde_json::from_slice(line).map_err(|error| error.to_string())?;
        let bytes = bytes_of(place.path, place.path_bytes).map_err(|error| error.to_string())?;
        RelPath::new(bytes).map_err(|error| error.to_string())
    }

    /// Whether it is a regular file.
    pub fn is_file(&self) -> bool {
        matches!(self.kind, EntryKind::File { .. })
    }
}

/// What a line says about what is in a file, for those who need nothing else of it.
#[derive(Debug)]
pub struct Inside {
    /// Number of plain bytes; `None` for a folder or a link.
    pub size: Option<u64>,
    /// Its content, if it is known.
    pub content: Option<Content>,
}

impl Inside {
    /// Reads it from a line of the manifest that was made here. The message is the parser's.
    pub fn of_line(line: &[u8]) -> Result<Self, String> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Part {
            #[serde(default)]
            size: Option<u64>,
            #[serde(default)]
            content: Option<Vec<Extent>>,
            #[serde(default)]
            content_list: Option<Stream>,
        }
        let Part { size, content, content_list } = serde_json::from_slice(line).map_err(|error| error.to_string())?;
        Ok(Self { size, content: content.map(Content::Inline).or(content_list.map(Content::Indirect)) })
    }
}

/// The JSON form. Unknown fields are ignored; `ext` is reserved for what later versions add.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Line<'a> {
    #[serde(skip_serializing_if = "Option::is_none", default, borrow)]
    path: Option<JsonText<'a>>,
    #[serde(skip_serializing_if = "Option::is_none", default, borrow)]
    path_bytes: Option<JsonText<'a>>,
    kind: Kind,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    size: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    mtime: Option<FileTime>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    mode: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    uid: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    gid: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none", default, borrow)]
    user: Option<JsonText<'a>>,
    #[serde(skip_serializing_if = "Option::is_none", default, borrow)]
    group: Option<JsonText<'a>>,
    #[serde(skip_serializing_if = "Option::is_none", default, borrow)]
    target: Option<JsonText<'a>>,
    #[serde(skip_serializing_if = "Option::is_none", default, borrow)]
    target_bytes: Option<JsonText<'a>>,
    #[serde(skip_serializing_if = "Option::is_none", default, borrow)]
    link_group: Option<JsonText<'a>>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty", default)]
    xattrs: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    sha256: Option<ContentHash>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    content: Option<Cow<'a, [Extent]>>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    content_list: Option<Cow<'a, Stream>>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Kind {
    File,
    Folder,
    Link,
}

fn text_or_bytes(bytes: &[u8]) -> (Option<JsonText<'_>>, Option<JsonText<'static>>) {
    match std::str::from_utf8(bytes) {
        Ok(text) => (Some(text.into()), None),
        Err(_) => (None, Some(JsonText(STANDARD.encode(bytes).into()))),
    }
}

fn bytes_of(text: Option<JsonText<'_>>, bytes: Option<JsonText<'_>>) -> Result<Vec<u8>, ParseError> {
    match (text, bytes) {
        (Some(text), None) => Ok(text.0.into_owned().into_bytes()),
        (None, Some(bytes)) => STANDARD
            .decode(bytes.0.as_bytes())
            .map_err(|_| ParseError::new("entry", &bytes.0, "holds bytes that are not base64")),
        _ => Err(ParseError::new("entry", "", "must give its name either as text or as bytes")),
    }
}

impl Serialize for Entry {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        Line::from(self).serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Entry {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Line::deserialize(deserializer)?.try_into().map_err(serde::de::Error::custom)
    }
}

impl TryFrom<Line<'_>> for Entry {
    type Error = ParseError;

    fn try_from(line: Line<'_>) -> Result<Self, ParseError> {
        let path = RelPath::new(bytes_of(line.path, line.path_bytes)?)?;
        let refuse = |problem| Err(ParseError::new("entry", &path.to_string(), problem));
        let kind = match line.kind {
            Kind::Folder => EntryKind::Folder,
            Kind::Link => EntryKind::Link { target: bytes_of(line.target, line.target_bytes)? },
            Kind::File => {
                let Some(size) = line.size else { return refuse("is a file without a size") };
                // No file system holds more, and sums of what is less do not overflow unseen.
                if size > i64::MAX as u64 {
                    return refuse("is larger than a file can be");
                }
                let content = match (line.content, line.content_list) {
                    (None, None) => None,
                    (Some(extents), None) => Some(Content::Inline(extents.into_owned())),
                    (None, Some(stream)) => Some(Content::Indirect(stream.into_owned())),
                    (Some(_), Some(_)) => return refuse("has its content twice"),
                };
                EntryKind::File { size, content, link_group: owned(line.link_group) }
            }
        };
        let owner = match (line.uid, line.gid) {
            (Some(uid), Some(gid)) => Some(Owner { uid, gid, user: owned(line.user), group: owned(line.group) }),
            _ => None,
        };
        let decode = |(name, value): (String, String)| match STANDARD.decode(value) {
            Ok(value) => Ok((name, value)),
            Err(_) => Err(ParseError::new("extended attribute", &name, "is not base64")),
        };
        let xattrs = line.xattrs.into_iter().map(decode).collect::<Result<_, _>>()?;
        let mode = line.mode.map(|mode| mode & 0o7777);
        Ok(Self { path, kind, metadata: Metadata { mtime: line.mtime, mode, owner, xattrs, sha256: line.sha256 } })
    }
}

fn owned(text: Option<JsonText<'_>>) -> Option<String> {
    text.map(|text| text.0.into_owned())
}

fn borrowed(text: Option<&String>) -> Option<JsonText<'_>> {
    text.map(|text| text.as_str().into())
}

impl<'a> From<&'a Entry> for Line<'a> {
    fn from(entry: &'a Entry) -> Self {
        let (path, path_bytes) = text_or_bytes(entry.path.as_bytes());
        let Metadata { mtime, mode, owner, xattrs, sha256 } = &entry.metadata;
        let owner = owner.as_ref();
        let mut line = Self {
            path,
            path_bytes,
            kind: Kind::Folder,
            size: None,
            mtime: *mtime,
            mode: *mode,
            uid: owner.map(|owner| owner.uid),
            gid: owner.map(|owner| owner.gid),
            user: borrowed(owner.and_then(|owner| owner.user.as_ref())),
            group: borrowed(owner.and_then(|owner| owner.group.as_ref())),
            target: None,
            target_bytes: None,
            link_group: None,
            xattrs: xattrs.iter().map(|(name, value)| (name.clone(), STANDARD.encode(value))).collect(),
            sha256: *sha256,
            content: None,
            content_list: None,
        };
        match &entry.kind {
            EntryKind::Folder => {}
            EntryKind::Link { target } => {
                line.kind = Kind::Link;
                (line.target, line.target_bytes) = text_or_bytes(target);
            }
            EntryKind::File { size, content, link_group } => {
                line.kind = Kind::File;
                line.size = Some(*size);
                line.link_group = borrowed(link_group.as_ref());
                match content {
                    None => {}
                    Some(Content::Inline(extents)) => line.content = Some(Cow::Borrowed(extents)),
                    Some(Content::Indirect(stream)) => line.content_list = Some(Cow::Borrowed(stream)),
                }
            }
        }
        line
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::ChunkId;
    use proptest::prelude::*;

    fn kinds() -> impl Strategy<Value = EntryKind> {
        let extents = prop::collection::vec((any::<Option<[u8; 32]>>(), 1..1000_u64), 0..4).prop_map(|list| {
            let extent = |(id, n): (Option<[u8; 32]>, u64)| (id.map(ChunkId::from_bytes), n).into();
            list.into_iter().map(extent).collect::<Vec<Extent>>()
        });
        prop_oneof![
            Just(EntryKind::Folder),
            prop::collection::vec(any::<u8>(), 0..40).prop_map(|target| EntryKind::Link { target }),
            (extents, any::<Option<bool>>()).prop_map(|(extents, grouped)| EntryKind::File {
                size: extents.iter().map(Extent::length).sum(),
                content: grouped.map(|_| Content::Inline(extents)),
                link_group: grouped.filter(|g| *g).map(|_| "0011".to_owned()),
            }),
        ]
    }

    proptest! {
        #[test]
        fn a_line_says_everything_about_an_entry(
            path in prop::collection::vec(1_u8..=255, 1..20),
            kind in kinds(),
            mode in any::<Option<u16>>(),
            seconds: i64,
            value in prop::collection::vec(any::<u8>(), 0..20),
        ) {
            let Ok(path) = RelPath::new(path) else { return Ok(()) };
            let owner = mode.map(|m| Owner { uid: u32::from(m), gid: 5, user: Some("ann".into()), group: None });
            let metadata = Metadata {
                mtime: Some(FileTime::new(seconds, 5)),
                mode: mode.map(|m| u32::from(m) & 0o7777),
                owner,
                xattrs: [("user.x".to_owned(), value)].into(),
                sha256: mode.map(|m| ContentHash::from_bytes([m as u8; 32])),
            };
            let entry = Entry { path, kind, metadata };
            let line = serde_json::to_string(&entry).unwrap();
            prop_assert!(!line.contains('\n'));
            prop_assert_eq!(Entry::path_of(line.as_bytes()).unwrap(), entry.path.clone());
            let inside = Inside::of_line(line.as_bytes()).unwrap();
            match &entry.kind {
                EntryKind::File { size, content, .. } => prop_assert_eq!((inside.size, &inside.content), (Some(*size), content)),
                _ => prop_assert!(inside.size.is_none() && inside.content.is_none()),
            }
            prop_assert_eq!(serde_json::from_str::<Entry>(&line).unwrap(), entry);
        }
    }

    #[test]
    fn hostile_lines_are_refused() {
        for bad in [
            r#"{"path":"../x","kind":"folder"}"#,
            r#"{"path":"x","pathBytes":"eA==","kind":"folder"}"#,
            r#"{"kind":"folder"}"#,
            r#"{"path":"x","kind":"device"}"#,
            r#"{"path":"x","kind":"file"}"#,
            r#"{"path":"x","kind":"file","size":9223372036854775808}"#,
            r#"{"path":"x","kind":"link"}"#,
            r#"{"pathBytes":"!","kind":"folder"}"#,
        ] {
            assert!(serde_json::from_str::<Entry>(bad).is_err(), "{bad}");
        }
    }
}
