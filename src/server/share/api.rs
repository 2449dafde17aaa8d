//! LocalSend's download calls, for apps and scripts: `info`, `prepare-download`, `download`.
//!
//! A file's id is its path, in hex, so there is no table that grows with what is shared.

use crate::model::RelPath;
use crate::model::digest::to_hex;
use crate::protocol::ErrorCode;
use crate::protocol::localsend::{DownloadInfo, FileOffer, FileTimes, FilesOffered, MAX_FILES};
use crate::server::api_error::ApiError;
use crate::server::call::{json, json_text};
use crate::server::localsend::pin::Verdict;
use crate::server::share::tree::{Item, Kind};
use crate::server::share::visit::{Visit, refused, trouble};
use crate::server::share::{Share, ShareEvent, give};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http::{StatusCode, header};
use jiff::Timestamp;
use std::sync::Arc;
use tokio::sync::OwnedSemaphorePermit;

/// `GET info`.
pub(crate) fn info(share: &Share) -> Response {
    json(StatusCode::OK, &about(share))
}

fn about(share: &Share) -> DownloadInfo {
    DownloadInfo {
        alias: share.alias.clone(),
        version: "2.1".to_owned(),
        device_model: "lan-backup".to_owned(),
        device_type: "headless".to_owned(),
        // Nothing proves who speaks over plain http, so this is nobody's certificate.
        fingerprint: share.door.mark(std::net::Ipv4Addr::UNSPECIFIED.into()),
        download: true,
    }
}

/// `POST prepare-download[?sessionId][?pin]`: all files, once the PIN was right.
pub(crate) async fn prepare_download(share: &Arc<Share>, visit: &Visit) -> Response {
    // Apps say nothing of an origin; a browser always does, and for it there are the pages.
    if visit.parts.headers.contains_key(header::ORIGIN) {
        let message = "open the address itself in a browser";
        return ApiError::new(StatusCode::FORBIDDEN, ErrorCode::BrowserRefused, message).into_response();
    }
    let session = visit.parameter("sessionId").filter(|session| share.door.knows(visit.address, session));
    let session = match session {
        Some(session) => session,
        None => match share.door.enter(visit.address, visit.parameter("pin").as_deref(), share.clock.instant()) {
            Ok(session) => {
                share.tell(ShareEvent::Entered { address: visit.address });
                session
            }
            Err(verdict) => {
                let (status, words) = refused(share, visit, verdict);
                let code = if verdict == Verdict::TooMany { ErrorCode::TooMany } else { ErrorCode::WrongPin };
                return ApiError::new(status, code, words).into_response();
            }
        },
    };
    let making = async |share: Arc<Share>| share.tree.files(MAX_FILES).await;
    let Some((files, place)) = share.listed(&share.lists, making).await else {
        return ApiError::busy("too many lists at once; try again in a moment").into_response();
    };
    match files {
        Ok(Some(files)) => {
            let files = files.iter().filter_map(|item| offer(item).map(|offer| (offer.id.clone(), offer))).collect();
            let offered = FilesOffered { info: about(share), session_id: session, files };
            let text = serde_json::to_vec(&offered).expect("messages have only string keys");
            // Somebody may take his time with it: its place is taken as long.
            json_text(Bytes::from_owner(Placed { text, _place: place }))
        }
        Ok(None) => {
            let message = format!("more than {MAX_FILES} files are shared; the page gives them as a zip");
            ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, ErrorCode::TooLarge, message).into_response()
        }
        Err(error) => trouble(share, None, &error),
    }
}

struct Placed {
    text: Vec<u8>,
    _place: OwnedSemaphorePermit,
}

impl AsRef<[u8]> for Placed {
    fn as_ref(&self) -> &[u8] {
        &self.text
    }
}

/// `None` for what LocalSend cannot carry: a name that is not UTF-8.
fn offer(item: &Item) -> Option<FileOffer> {
    let Kind::File(size) = item.kind else { return None };
    let time = item.mtime.and_then(|time| Timestamp::from_nanosecond(time.as_nanos()).ok());
    Some(FileOffer {
        id: to_hex(item.path.as_bytes()),
        file_name: String::from_utf8(item.path.as_bytes().to_vec()).ok()?,
        size,
        file_type: "application/octet-stream".to_owned(),
        sha256: item.sha256.map(|hash| hash.to_string()),
        preview: None,
        metadata: Some(FileTimes { modified: time.map(|time| time.to_string()), accessed: None }),
    })
}

/// `GET download?sessionId=&fileId=`.
pub(crate) async fn download(share: &Arc<Share>, visit: &Visit) -> Response {
    if visit.parameter("sessionId").is_none_or(|session| !share.door.knows(visit.address, &session)) {
        let message = "there is no such session";
        return ApiError::new(StatusCode::FORBIDDEN, ErrorCode::SessionGone, message).into_response();
    }
    let path = visit.parameter("fileId").and_then(|id| path_of(&id));
    match path {
        Some(path) => give::file(share, visit, path).await,
        None => ApiError::not_found("there is no such file").into_response(),
    }
}

fn path_of(id: &str) -> Option<RelPath> {
    let digits = id.as_bytes().chunks(2).map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok());
    RelPath::new(digits.collect::<Option<Vec<u8>>>()?).ok()
}
