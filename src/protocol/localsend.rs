//! LocalSend's file transfer, version 2.1 and 2.2, as its apps write and read it.
//!
//! Lenient in what is read, because apps of five years send it: fields that are not needed may be missing, unknown ones are
//! ignored. What is read here is a stranger's and becomes a checked type before anything is done with it.

use crate::model::Alias;
use crate::protocol::Announcement;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Bytes of a `prepare-upload` body, and of what we read of a receiver's answer to ours: 50,000 files with long names.
pub const MAX_PREPARE_BYTES: usize = 16 << 20;
/// Files of one `prepare-upload`.
pub const MAX_FILES: usize = 50_000;
/// How often a file may be begun: a hash that does not match, or a connection that broke, is tried again with the same token.
pub const MAX_TRIES: u8 = 3;

/// The body of `prepare-upload`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PrepareFiles {
    /// Who sends.
    pub info: Announcement,
    /// What, by an id that the sender chose.
    pub files: BTreeMap<String, FileOffer>,
}

/// One file that is offered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FileOffer {
    /// The same id again.
    #[serde(default)]
    pub id: String,
    /// Its name; with `/` when it lies in folders.
    pub file_name: String,
    /// Its length.
    pub size: u64,
    /// A MIME type, or a word of old apps (`image`, `video`, …).
    #[serde(default)]
    pub file_type: String,
    /// Hex; of the content.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
    /// The whole text of a message; a thumbnail of old apps.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub preview: Option<String>,
    /// Times.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metadata: Option<FileTimes>,
}

/// Times of a file, RFC 3339 with an offset.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileTimes {
    /// Last change of the content.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub modified: Option<String>,
    /// Last look.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub accessed: Option<String>,
}

/// The answer to `prepare-upload`: an id that is left out is not needed.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FilesWanted {
    /// Names the session in `upload` and `cancel`.
    pub session_id: String,
    /// A token for each file that shall come.
    pub files: BTreeMap<String, String>,
}

/// Who gives files, in `info` and `prepare-download` of a share.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DownloadInfo {
    /// What the device calls itself.
    pub alias: Alias,
    /// LocalSend's protocol version.
    pub version: String,
    /// Free text.
    pub device_model: String,
    /// One of LocalSend's words.
    pub device_type: String,
    /// Names nobody: nothing proves it.
    pub fingerprint: String,
    /// These calls are there.
    pub download: bool,
}

/// The answer to `prepare-download`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FilesOffered {
    /// Who gives.
    pub info: DownloadInfo,
    /// Goes into each `download`.
    pub session_id: String,
    /// What there is.
    pub files: BTreeMap<String, FileOffer>,
}

/// The body of an answer that is no success.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Trouble {
    /// For people.
    #[serde(default)]
    pub message: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_old_and_new_apps_send_is_read() {
        let old = r#"{"info":{"alias":"Pixel","version":"2.0","deviceModel":"x","deviceType":"mobile","fingerprint":"random"},
            "files":{"a":{"id":"a","fileName":"x.jpg","size":3,"fileType":"image"}}}"#;
        let old: PrepareFiles = serde_json::from_str(old).unwrap();
        assert_eq!((old.files["a"].file_name.as_str(), old.files["a"].size), ("x.jpg", 3));
        let new = r#"{"info":{"alias":"P","version":"2.2","fingerprint":"AB","port":53317,"protocol":"https","download":true},
            "files":{"a":{"id":"a","fileName":"d/x","size":0,"fileType":"text/plain","sha256":null,"preview":"hi","legacy":false,
            "metadata":{"modified":"2026-01-02T03:04:05.123456789+02:00"}}}}"#;
        let new: PrepareFiles = serde_json::from_str(new).unwrap();
        assert!(new.files["a"].metadata.as_ref().is_some_and(|times| times.modified.is_some()));
        assert!(serde_json::from_str::<PrepareFiles>(r#"{"info":{"alias":"P"},"files":{"a":{"size":-1}}}"#).is_err());
    }
}
