//! Files from LocalSend apps, over real TLS: doubles of old and new apps, honest and lying, against the whole server.

mod door;
mod slow;

use super::{Caller, Device, LIMIT, Live, Setup, request};
use crate::codec::{Decoder, chunks};
use crate::identity::PhoneBook;
use crate::manifest::EntryReader;
use crate::model::{Content, Entry, EntryKind, Extent, FileTime, InboxKeep, Rights, SessionId, SnapshotInfo};
use crate::platform::clock::ManualClock;
use crate::protocol::localsend::{FilesWanted, Trouble};
use crate::protocol::paths;
use crate::server::localsend::pin::LocalSendPin;
use crate::server::localsend::unverified;
use crate::server::{
    AcceptMode, Decision, Desk, LocalSendMode, LocalSendOptions, Question, Scripted, ServerEvent, SessionKind,
};
use crate::store::{LocalVault, Repository};
use axum::body::Body;
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use http::{Method, StatusCode};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

const TIME: &str = "2025-06-07T08:09:10.123456789+02:00";

fn hash(bytes: &[u8]) -> String {
    crate::model::digest::to_hex(&Sha256::digest(bytes))
}

/// A double of an app: 2.2 with a certificate and chunked bodies, or 2.1 with lengths and perhaps without a certificate.
struct App {
    caller: Caller,
    alias: &'static str,
    claimed: String,
    chunked: bool,
}

impl App {
    /// 1.18 and later.
    async fn new(live: &Live, device: &Device) -> Self {
        let claimed = device.fingerprint().to_string();
        Self { caller: live.caller(device).await, alias: "Pixel", claimed, chunked: true }
    }

    /// 1.15 to 1.17, without a certificate.
    async fn old(live: &Live, claimed: &str) -> Self {
        let caller = live.try_caller(None).await.unwrap();
        Self { caller, alias: "Old Phone", claimed: claimed.to_owned(), chunked: false }
    }

    async fn offer(&mut self, query: &str, files: Value) -> super::Answer {
        let body = json!({
            "info": {
                "alias": self.alias, "version": if self.chunked { "2.2" } else { "2.1" }, "deviceModel": "x",
                "deviceType": "mobile", "fingerprint": self.claimed, "port": 53317, "protocol": "https", "download": false,
            },
            "files": files,
        });
        let path = format!("{}{query}", paths::LOCALSEND_PREPARE_UPLOAD);
        self.caller.send(request(Method::POST, &path, None, Body::from(body.to_string()))).await
    }

    async fn upload(&mut self, wanted: &FilesWanted, id: &str, bytes: &[u8]) -> StatusCode {
        self.try_upload(wanted, id, bytes).await.0
    }

    async fn try_upload(&mut self, wanted: &FilesWanted, id: &str, bytes: &[u8]) -> (StatusCode, String) {
        let (session, token) = (&wanted.session_id, &wanted.files[id]);
        let path = format!("{}?sessionId={session}&fileId={id}&token={token}", paths::LOCALSEND_UPLOAD);
        let body = if self.chunked {
            let pieces: Vec<_> =
                bytes.chunks(1000).map(|piece| Ok::<_, std::io::Error>(Bytes::copy_from_slice(piece))).collect();
            Body::from_stream(stream::iter(pieces))
        } else {
            Body::from(bytes.to_vec())
        };
        let answer = self.caller.send(request(Method::POST, &path, None, body)).await;
        let message = if answer.status.is_success() { String::new() } else { answer.json::<Trouble>().message };
        (answer.status, message)
    }

    async fn cancel(&mut self, query: &str) -> StatusCode {
        let path = format!("{}{query}", paths::LOCALSEND_CANCEL);
        self.caller.send(request(Method::POST, &path, None, Body::empty())).await.status
    }

    /// Sends these files, all that are wanted; gives the ids of those.
    async fn send(&mut self, files: &[(&str, &[u8])]) -> Vec<String> {
        let offer: serde_json::Map<_, _> = files.iter().map(|(name, bytes)| file(name, bytes)).collect();
        let answer = self.offer("", offer.into()).await;
        if answer.status == StatusCode::NO_CONTENT {
            return Vec::new();
        }
        let wanted: FilesWanted = answer.ok().json();
        for id in wanted.files.keys() {
            let (_, bytes) = files.iter().find(|(name, _)| id == &id_of(name)).unwrap();
            assert_eq!(self.try_upload(&wanted, id, bytes).await, (StatusCode::OK, String::new()), "{id}");
        }
        wanted.files.into_keys().collect()
    }
}

fn id_of(name: &str) -> String {
    format!("id-{}", &hash(name.as_bytes())[..8])
}

fn file(name: &str, bytes: &[u8]) -> (String, Value) {
    let id = id_of(name);
    let file = json!({
        "id": id, "fileName": name, "size": bytes.len(), "fileType": "image/jpeg", "metadata": { "modified": TIME },
    });
    (id, file)
}

fn setup(mode: LocalSendMode, keep: InboxKeep, inbox: Option<PathBuf>) -> Setup {
    let localsend = LocalSendOptions { mode, keep, inbox, ..LocalSendOptions::default() };
    Setup { localsend, ..Setup::default() }
}

fn accepting() -> Live {
    Live::start_with(setup(LocalSendMode::Accept, InboxKeep::Backup, None))
}

/// The newest snapshot of a repository's inbox: its files with their bytes and times.
async fn snapshot(repository: &Arc<Repository>) -> (SnapshotInfo, BTreeMap<String, (Vec<u8>, Option<FileTime>)>) {
    let head = repository.head(&"inbox".parse().unwrap()).unwrap().expect("there is a snapshot");
    let record = crate::signer::open_record(&head.signed).unwrap();
    let vault = Arc::new(LocalVault::new(repository.clone(), repository.owner()));
    let mut reader = EntryReader::new(vault, &record.manifest).unwrap();
    let mut files = BTreeMap::new();
    while let Some(entry) = reader.next().await.unwrap() {
        if entry.is_file() {
            files.insert(entry.path.to_string(), (content(repository, &entry), entry.metadata.mtime));
        }
    }
    (head, files)
}

fn content(repository: &Repository, entry: &Entry) -> Vec<u8> {
    let EntryKind::File { content: Some(Content::Inline(extents)), .. } = &entry.kind else { panic!("{entry:?}") };
    let mut all = Vec::new();
    for id in extents.iter().filter_map(Extent::chunk) {
        let mut found = None;
        repository
            .read_blocks(&[id], &mut |block| {
                let plain = Decoder::new().decode(&block).unwrap();
                found =
                    chunks(&block.header, &plain).find(|(chunk, _)| chunk.id == id).map(|(_, bytes)| bytes.to_vec());
                ControlFlow::Continue(())
            })
            .unwrap();
        all.extend(found.unwrap());
    }
    all
}

fn time() -> FileTime {
    let seconds = "2025-06-07T06:09:10Z".parse::<jiff::Timestamp>().unwrap().as_second();
    FileTime::new(seconds, 123_456_789)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_phone_sends_is_a_snapshot_of_its_own_and_the_next_one_brings_only_what_is_new() {
    let mut live = accepting();
    let phone = Device::new();
    let mut app = App::new(&live, &phone).await;
    let large = crate::platform::random::bytes::<100_000>().repeat(7);
    let first: [(&str, &[u8]); 3] = [("DCIM/Camera/a.jpg", b"aaa"), ("DCIM/b.jpg", &large), ("empty.txt", b"")];
    assert_eq!(app.send(&first).await.len(), 3);
    let repository = live.store.owned_by(&phone.fingerprint()).unwrap();
    let (one, files) = snapshot(&repository).await;
    assert_eq!(files.len(), 3);
    for (name, bytes) in first {
        assert_eq!(files[name], (bytes.to_vec(), Some(time())), "{name}");
    }
    let record = crate::signer::open_record(&one.signed).unwrap();
    assert_eq!(record.signer, live.identity.signing_key().public(), "the receiver signs for a phone");
    assert_eq!((record.device.as_str(), one.receipt.from), ("Pixel", phone.fingerprint()));
    let stored = repository.stored_bytes().unwrap();

    for _ in 0..3 {
        assert!(app.send(&first).await.is_empty(), "nothing is sent again");
    }
    assert_eq!(repository.snapshots().unwrap().len(), 1, "and no snapshot is made of nothing");
    let mut more = first.to_vec();
    more.push(("DCIM/c.jpg", b"ccc"));
    assert_eq!(app.send(&more).await, [id_of("DCIM/c.jpg")]);
    let (two, files) = snapshot(&repository).await;
    assert_eq!(files.len(), 4, "the earlier files are in the new snapshot, too");
    let record = crate::signer::open_record(&two.signed).unwrap();
    assert_eq!((record.sequence, record.changes.new_files, record.totals.files), (2, 1, 4));
    assert!(repository.stored_bytes().unwrap() < stored + 100_000, "what was there is not stored again");
    let committed = live.event(|event| match event {
        ServerEvent::Committed { session, set, .. } => Some((session.kind, set)),
        _ => None,
    });
    assert_eq!(committed.await, (SessionKind::Inbox, "inbox".parse().unwrap()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_file_takes_the_place_of_the_old_one_which_stays_in_the_old_snapshot() {
    let live = accepting();
    let phone = Device::new();
    let mut app = App::new(&live, &phone).await;
    app.send(&[("notes.txt", b"old")]).await;
    let repository = live.store.owned_by(&phone.fingerprint()).unwrap();
    app.send(&[("notes.txt", b"newer")]).await;
    let (_, files) = snapshot(&repository).await;
    assert_eq!(files["notes.txt"].0, b"newer");
    assert_eq!(repository.snapshots().unwrap().len(), 2);
    // A folder of the same name does not push it out.
    app.send(&[("notes.txt/inner", b"x")]).await;
    let (_, files) = snapshot(&repository).await;
    assert_eq!(files.keys().collect::<Vec<_>>(), ["notes (2).txt/inner", "notes.txt"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_equal_hash_needs_no_second_transfer_under_another_name_either() {
    let live = accepting();
    let phone = Device::new();
    let mut app = App::new(&live, &phone).await;
    let with_hash = |name: &str, bytes: &[u8], claimed: &[u8]| {
        let (id, mut file) = file(name, bytes);
        file["sha256"] = hash(claimed).into();
        json!({ id: file })
    };
    let wanted: FilesWanted = app.offer("", with_hash("a", b"abc", b"abc")).await.ok().json();
    assert_eq!(app.upload(&wanted, &id_of("a"), b"abc").await, StatusCode::OK);
    assert_eq!(app.offer("", with_hash("b", b"abc", b"abc")).await.status, StatusCode::NO_CONTENT);
    let repository = live.store.owned_by(&phone.fingerprint()).unwrap();
    let (_, files) = snapshot(&repository).await;
    assert_eq!(files["b"], (b"abc".to_vec(), Some(time())));
    // The same name, size and time with another hash is another file.
    let wanted: FilesWanted = app.offer("", with_hash("a", b"abd", b"abd")).await.ok().json();
    assert_eq!(app.upload(&wanted, &id_of("a"), b"abd").await, StatusCode::OK);
    let (_, files) = snapshot(&repository).await;
    assert_eq!((files["a"].0.as_slice(), files["b"].0.as_slice()), (&b"abd"[..], &b"abc"[..]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_hash_is_422_three_times_and_short_long_or_second_files_are_refused() {
    let inbox = tempfile::tempdir().unwrap();
    let live = Live::start_with(setup(LocalSendMode::Accept, InboxKeep::Both, Some(inbox.path().join("in"))));
    for chunked in [true, false] {
        let phone = Device::new();
        let mut app = App::new(&live, &phone).await;
        app.chunked = chunked;
        let mut files: serde_json::Map<_, _> =
            ["wrong", "short", "long", "good"].iter().map(|name| file(name, b"12345")).collect();
        files[&id_of("wrong")]["sha256"] = hash(b"else").into();
        files[&id_of("good")]["sha256"] = hash(b"12345").to_uppercase().into();
        let wanted: FilesWanted = app.offer("", files.into()).await.ok().json();
        for _ in 0..3 {
            assert_eq!(app.upload(&wanted, &id_of("wrong"), b"12345").await, StatusCode::UNPROCESSABLE_ENTITY);
        }
        assert_eq!(app.upload(&wanted, &id_of("wrong"), b"12345").await, StatusCode::FORBIDDEN);
        let (status, message) = app.try_upload(&wanted, &id_of("short"), b"1234").await;
        assert_eq!((status, message.as_str()), (StatusCode::INTERNAL_SERVER_ERROR, "4 of 5 bytes came"));
        assert_eq!(app.upload(&wanted, &id_of("long"), b"123456").await, StatusCode::INTERNAL_SERVER_ERROR);
        assert_eq!(app.upload(&wanted, &id_of("good"), b"12345").await, StatusCode::OK);
        assert_eq!(app.upload(&wanted, &id_of("good"), b"12345").await, StatusCode::FORBIDDEN, "it is here");
        let repository = live.store.owned_by(&phone.fingerprint()).unwrap();
        let (_, files) = snapshot(&repository).await;
        assert_eq!(files.keys().collect::<Vec<_>>(), ["good"], "only what came whole is there");
        // What broke may be sent again with the same token.
        assert_eq!(app.upload(&wanted, &id_of("short"), b"12345").await, StatusCode::OK);
        let (_, files) = snapshot(&repository).await;
        assert_eq!(files.keys().collect::<Vec<_>>(), ["good", "short"]);
    }
    let mut names: Vec<_> =
        std::fs::read_dir(inbox.path().join("in")).unwrap().map(|e| e.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["good", "short"], "nothing partial, nothing twice");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_app_without_a_certificate_is_kept_apart_and_told_nothing_about_what_is_held() {
    let live = accepting();
    let phone = Device::new();
    let mut proved = App::new(&live, &phone).await;
    proved.send(&[("a.jpg", b"aaa")]).await;
    // It claims to be the phone; its files are the same.
    let claimed = phone.fingerprint().to_string();
    let mut old = App::old(&live, &claimed).await;
    for _ in 0..2 {
        assert_eq!(old.send(&[("a.jpg", b"aaa")]).await.len(), 1, "it is never told what is held");
    }
    let apart = live.store.owned_by(&unverified(&claimed)).unwrap();
    assert_eq!(apart.alias().as_str(), "Old Phone (unverified)");
    assert_eq!(live.store.owned_by(&phone.fingerprint()).unwrap().snapshots().unwrap().len(), 1);
    // Another connection of the same address goes on in the session; a certificate that is not the body's is refused.
    let wanted: FilesWanted = old.offer("", json!({ "x": file("x", b"x").1 })).await.ok().json();
    let mut again = App::old(&live, &claimed).await;
    assert_eq!(again.upload(&wanted, "x", b"x").await, StatusCode::OK);
    let mut forged = App::new(&live, &Device::new()).await;
    forged.claimed = claimed;
    assert_eq!(forged.offer("", json!({ "x": file("x", b"x").1 })).await.status, StatusCode::BAD_REQUEST);
}
