//! Files and zips to whoever asked: with ranges, with one of a few places, and broken off when they cannot be whole.

use crate::model::RelPath;
use crate::monitor::Fault;
use crate::platform::shutdown::Shutdown;
use crate::server::share::page::disposition;
use crate::server::share::pipe::{PIECES, Piece, Pipe};
use crate::server::share::range::{Asked, asked};
use crate::server::share::tree::Kind;
use crate::server::share::visit::{Visit, busy, nothing, trouble};
use crate::server::share::{Share, ShareEvent};
use axum::body::Body;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_util::stream;
use http::{HeaderMap, HeaderValue, StatusCode, header};
use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use tokio::sync::{OwnedSemaphorePermit, mpsc};

/// A file, or a range of it. Never as something that a browser would show as a page.
pub(crate) async fn file(share: &Arc<Share>, visit: &Visit, path: RelPath) -> Response {
    let held = match share.tree.open(path.clone()).await {
        Ok(Some(held)) => held,
        Ok(None) => return nothing(),
        Err(error) => return trouble(share, Some(&path), &error),
    };
    let asked = asked(&visit.parts.headers, held.size, &held.tag);
    let mut headers = HeaderMap::new();
    insert(&mut headers, header::ACCEPT_RANGES, "bytes");
    insert(&mut headers, header::ETAG, &held.tag);
    let (status, range) = match asked {
        Asked::All => (StatusCode::OK, 0..held.size),
        Asked::Part(range) => {
            let value = format!("bytes {}-{}/{}", range.start, range.end - 1, held.size);
            insert(&mut headers, header::CONTENT_RANGE, &value);
            (StatusCode::PARTIAL_CONTENT, range)
        }
        Asked::None => {
            insert(&mut headers, header::CONTENT_RANGE, &format!("bytes */{}", held.size));
            return (StatusCode::RANGE_NOT_SATISFIABLE, headers).into_response();
        }
    };
    let (from, length) = (range.start, range.end - range.start);
    insert(&mut headers, header::CONTENT_LENGTH, &length.to_string());
    insert(&mut headers, header::CONTENT_TYPE, "application/octet-stream");
    insert(&mut headers, header::CONTENT_DISPOSITION, &disposition(path.name().as_bytes()));
    if visit.wants_head_only() {
        return (status, headers).into_response();
    }
    let Some(permit) = place(share) else { return busy() };
    let (pieces, taken) = mpsc::channel(PIECES);
    let end = pieces.clone();
    let (sink, mut bytes) = mpsc::channel::<Bytes>(1);
    let (reading, share_too, subject) = ((held.read)(range, sink), share.clone(), path.clone());
    tokio::spawn(async move {
        let passing = async move {
            while let Some(piece) = bytes.recv().await {
                if pieces.send(Piece::Bytes(piece)).await.is_err() {
                    return;
                }
            }
        };
        // When nobody takes the pieces any more, `bytes` is dropped and the reading ends.
        let (read, ()) = tokio::join!(reading, passing);
        match read {
            Ok(()) => drop(end.send(Piece::End).await),
            Err(error) => share_too.tell(ShareEvent::Fault(Fault::new(subject.to_string(), &error))),
        }
    });
    let what = What::File { path: path.as_bytes().to_vec(), from, size: held.size };
    (status, headers, body(share, visit.address, taken, permit, what, Some(length))).into_response()
}

/// A folder, or everything, as a zip that is made while it goes.
pub(crate) async fn zip(share: &Arc<Share>, visit: &Visit, folder: Option<RelPath>) -> Response {
    if let Some(path) = &folder {
        match share.tree.look(path.clone()).await {
            Ok(Some(item)) if item.kind == Kind::Folder => {}
            Ok(_) => return nothing(),
            Err(error) => return trouble(share, Some(path), &error),
        }
    }
    let name = folder.as_ref().map_or_else(|| share.tree.title().into_bytes(), |path| path.name().as_bytes().to_vec());
    let mut headers = HeaderMap::new();
    insert(&mut headers, header::CONTENT_TYPE, "application/zip");
    insert(&mut headers, header::CONTENT_DISPOSITION, &disposition(&[&name, &b".zip"[..]].concat()));
    if visit.wants_head_only() {
        return (StatusCode::OK, headers).into_response();
    }
    let Some(permit) = place(share) else { return busy() };
    let Ok(making) = share.zips.clone().try_acquire_owned() else { return busy() };
    let (pipe, taken) = Pipe::with(making);
    let (end, stop) = (pipe.end(), Shutdown::new());
    let (share_too, subject) = (share.clone(), folder.clone());
    tokio::spawn(async move {
        let made = tokio::select! {
            made = share_too.tree.zip(subject.clone(), pipe, stop.clone()) => made,
            // Nobody takes it any more.
            () = end.closed() => {
                stop.stop();
                return;
            }
            () = share_too.ended.stopped() => {
                stop.stop();
                return;
            }
        };
        match made {
            Ok(()) => drop(end.send(Piece::End).await),
            Err(_) if end.is_closed() => {}
            Err(error) => {
                let subject = subject.map_or_else(|| share_too.tree.title(), |path| path.to_string());
                share_too.tell(ShareEvent::Fault(Fault::new(format!("the zip of {subject}"), &error)));
            }
        }
    });
    let what = What::Zip { path: folder.map(|path| path.as_bytes().to_vec()) };
    (StatusCode::OK, headers, body(share, visit.address, taken, permit, what, None)).into_response()
}

fn insert(headers: &mut HeaderMap, name: header::HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        headers.insert(name, value);
    }
}

fn place(share: &Share) -> Option<OwnedSemaphorePermit> {
    share.transfers.clone().try_acquire_owned().ok()
}

/// What is given.
enum What {
    /// A file, or a part of it: what of it was given counts, to its end or not.
    File { path: Vec<u8>, from: u64, size: u64 },
    /// A zip of a folder, or of everything: it counts when it was given to its end.
    Zip { path: Option<Vec<u8>> },
}

/// A body on its way.
struct Sending {
    taken: mpsc::Receiver<Piece>,
    share: Arc<Share>,
    address: IpAddr,
    bytes: u64,
    // Where it ends, if that is known: nobody asks for more then, not even for the word that this was all.
    length: Option<u64>,
    // Until it was counted.
    what: Option<What>,
    _permit: OwnedSemaphorePermit,
}

impl Sending {
    fn ended(&mut self) {
        match self.what.take() {
            Some(What::File { path, from, size }) => {
                self.share.given_of(self.address, path, from..from.saturating_add(self.bytes), size);
            }
            Some(What::Zip { path }) => self.share.given(self.address, path, self.bytes),
            None => {}
        }
    }
}

impl Drop for Sending {
    fn drop(&mut self) {
        if matches!(self.what, Some(What::File { .. })) && self.bytes > 0 {
            self.ended();
        }
    }
}

fn body(
    share: &Arc<Share>,
    address: IpAddr,
    taken: mpsc::Receiver<Piece>,
    permit: OwnedSemaphorePermit,
    what: What,
    length: Option<u64>,
) -> Body {
    let what = Some(what);
    let mut sending = Sending { taken, share: share.clone(), address, bytes: 0, length, what, _permit: permit };
    if length == Some(0) {
        sending.ended();
    }
    Body::from_stream(stream::unfold(Some(sending), async |state| {
        let mut sending = state?;
        match sending.taken.recv().await {
            Some(Piece::Bytes(bytes)) => {
                sending.bytes += bytes.len() as u64;
                if sending.length == Some(sending.bytes) {
                    sending.ended();
                }
                Some((Ok(bytes), Some(sending)))
            }
            Some(Piece::End) => {
                sending.ended();
                None
            }
            None => Some((Err(io::Error::other("it could not be read to its end")), None)),
        }
    }))
}
