//! What LocalSend apps say: lists of files, and answers.

use crate::fuzzing::{again, names, shown};
use crate::model::portable::portable_path;
use crate::model::text::clean;
use crate::protocol::localsend::{FilesWanted, PrepareFiles, Trouble};
use crate::server::localsend::list::{self, What};
use std::collections::HashSet;

/// What apps say, to begin with.
pub(crate) fn offers() -> Vec<Vec<u8>> {
    let offer = r#"{"info":{"alias":"Nice Orange","version":"2.1","deviceModel":"Samsung","deviceType":"mobile","fingerprint":"aa","port":53317,"protocol":"https","download":true},"files":{"id1":{"id":"id1","fileName":"DCIM/100/a.jpg","size":3,"fileType":"image/jpeg","sha256":"abababababababababababababababababababababababababababababababab","metadata":{"modified":"2026-01-02T03:04:05.123456789+02:00"}}}}"#;
    let texts = [offer, r#"{"sessionId":"s","files":{"id1":"token"}}"#, r#"{"message":"Rejected"}"#];
    texts.iter().map(|text| text.as_bytes().to_vec()).collect()
}

/// Reads it as the receiver does, and as the sender reads answers.
pub(crate) fn read(bytes: &[u8]) {
    // As the receiver reads it: entry by entry, every name checked, and no two the same.
    if let Ok(listed) = list::read(bytes) {
        shown(listed.info.alias.as_str());
        match listed.what {
            What::Message(text) => shown(&text),
            What::Files(offer) => {
                let mut paths = HashSet::new();
                for (_, wanted) in &offer {
                    names(wanted.path.as_bytes());
                    assert!(paths.insert(wanted.path.as_bytes()), "{} twice", wanted.path);
                }
            }
        }
    }
    if let Ok(offered) = serde_json::from_slice::<PrepareFiles>(bytes) {
        shown(offered.info.alias.as_str());
        for offer in offered.files.values() {
            again(offer);
            if let Ok(path) = portable_path(&offer.file_name) {
                names(path.as_bytes());
                shown(&path.to_string());
                // Clean once is clean.
                assert_eq!(portable_path(&path.to_string()).as_ref(), Ok(&path));
            }
        }
    }
    if let Ok(trouble) = serde_json::from_slice::<Trouble>(bytes) {
        shown(&clean(&trouble.message));
    }
    let _ = serde_json::from_slice::<FilesWanted>(bytes);
}
