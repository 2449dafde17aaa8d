//! Files from LocalSend apps, over real TLS: doubles of old and new apps, honest and lying, against the whole server.

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
use futures_util::stream;
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

    assert!(app.send(&first).await.is_empty(), "nothing is sent again");
    let mut more = first.to_vec();
    more.push(("DCIM/c.jpg", b"ccc"));
    assert_eq!(app.send(&more).await, [id_of("DCIM/c.jpg")]);
    let (two, files) = snapshot(&repository).await;
    assert_eq!(files.len(), 4, "the earlier files are in the new snapshot, too");
    let record = crate::signer::open_record(&two.signed).unwrap();
    assert_eq!((record.sequence, record.changes.new_files, record.totals.files), (3, 1, 4));
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
        assert_eq!((status, message.as_str()), (StatusCode::INTERNAL_SERVER_ERROR, "4 bytes came of a file of 5"));
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

#[tokio::test(flavor = "multi_thread")]
async fn a_person_is_asked_and_hears_what_is_offered_and_always_means_this_certificate() {
    let approver = Arc::new(Scripted::new([Decision::Save, Decision::Always]));
    let book = tempfile::tempdir().unwrap();
    let phones = PhoneBook::new(book.path().join("phones.json"));
    let inbox = book.path().join("inbox");
    let localsend = LocalSendOptions {
        mode: LocalSendMode::Ask,
        keep: InboxKeep::Backup,
        pin: None,
        inbox: Some(inbox.clone()),
        phones: Some(phones.clone()),
        plain_http: false,
    };
    let live = Live::start_with(Setup { approver: approver.clone(), localsend, ..Setup::default() });
    let phone = Device::new();
    let mut app = App::new(&live, &phone).await;
    app.send(&[("a\u{1b}[31m.jpg", b"aaa"), ("b.jpg", b"bb")]).await;
    assert_eq!(std::fs::read(inbox.join("b.jpg")).unwrap(), b"bb");
    assert!(live.store.repositories().is_empty(), "it was saved only");
    for n in 0..3_u8 {
        app.send(&[("c.jpg", &[n])]).await;
    }
    let asked = approver.asked();
    assert_eq!(asked.len(), 2, "after always nobody is asked");
    let Question::LocalSend { alias, fingerprint, verified, files, bytes, names, .. } = &asked[0] else { panic!() };
    assert_eq!((alias.as_str(), *fingerprint, *verified), ("Pixel", phone.fingerprint(), true));
    assert_eq!((*files, *bytes, names.join(" ").as_str()), (2, 5, "a[31m.jpg b.jpg"));
    assert_eq!(phones.list().len(), 1);
    // The list of answers is used up: the next stranger is declined, at once when it asks again.
    let mut other = App::new(&live, &Device::new()).await;
    for _ in 0..3 {
        assert_eq!(other.offer("", json!({ "x": file("x", b"x").1 })).await.status, StatusCode::FORBIDDEN);
    }
    assert_eq!(approver.asked().len(), 3);
    phones.remove(&phone.fingerprint()).unwrap();
    assert_eq!(app.offer("", json!({ "x": file("x", b"x").1 })).await.status, StatusCode::FORBIDDEN);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sender_that_cancels_or_leaves_withdraws_its_question_and_the_next_one_is_shown() {
    let desk = Arc::new(Desk::new());
    let mut setup = setup(LocalSendMode::Ask, InboxKeep::Backup, None);
    setup.approver = desk.clone();
    let live = Live::start_with(setup);
    let (first, second) = (Device::new(), Device::new());
    let offer =
        |mut app: App| tokio::spawn(async move { app.offer("", json!({ "x": file("x", b"x").1 })).await.status });
    let waiting = offer(App::new(&live, &first).await);
    let open = tokio::time::timeout(LIMIT, desk.next(0)).await.unwrap();
    let queued = offer(App::new(&live, &second).await);
    live.until(|| live.handle.shared.localsend.pending().len() == 2).await;
    assert_eq!(desk.list().len(), 1, "one question at a time");
    assert_eq!(App::new(&live, &first).await.cancel("").await, StatusCode::OK);
    assert_eq!(waiting.await.unwrap(), StatusCode::FORBIDDEN);
    let next = tokio::time::timeout(LIMIT, desk.next(open.id)).await.unwrap();
    assert_eq!(next.question.fingerprint(), second.fingerprint());
    queued.abort();
    let _ = queued.await;
    live.until(|| desk.list().is_empty() && live.handle.shared.localsend.pending().is_empty()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_pin_is_asked_for_counted_and_not_asked_of_a_phone_that_is_known() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("pin"), "4711\n").unwrap();
    let phones = PhoneBook::new(folder.path().join("phones.json"));
    let localsend = LocalSendOptions {
        mode: LocalSendMode::Ask,
        pin: Some(LocalSendPin::read(&folder.path().join("pin")).unwrap()),
        phones: Some(phones),
        ..LocalSendOptions::default()
    };
    let approver = Arc::new(Scripted::new([Decision::Always]));
    let live = Live::start_with(Setup { approver: approver.clone(), localsend, ..Setup::default() });
    let phone = Device::new();
    let mut app = App::new(&live, &phone).await;
    let x = || json!({ "x": file("x", b"x").1 });
    for query in ["", "?pin=", "?pin=0000", "?pin=0001"] {
        assert_eq!(app.offer(query, x()).await.status, StatusCode::UNAUTHORIZED, "{query}");
    }
    assert!(approver.asked().is_empty(), "nobody is bothered");
    let wanted: FilesWanted = app.offer("?pin=4711", x()).await.ok().json();
    assert_eq!(app.upload(&wanted, "x", b"x").await, StatusCode::OK);
    assert_eq!(app.offer("", x()).await.status, StatusCode::NO_CONTENT, "its certificate says more than a PIN");
    let mut other = App::new(&live, &Device::new()).await;
    for _ in 0..3 {
        assert_eq!(other.offer("?pin=0000", x()).await.status, StatusCode::UNAUTHORIZED);
    }
    assert_eq!(other.offer("?pin=4711", x()).await.status, StatusCode::TOO_MANY_REQUESTS);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shut_door_a_paired_device_and_a_full_disk_are_refused_in_words_that_apps_show() {
    let x = || json!({ "x": file("x", b"x").1 });
    let live = Live::start();
    let mut app = App::new(&live, &Device::new()).await;
    let answer = app.offer("", x()).await;
    assert_eq!(answer.status, StatusCode::FORBIDDEN);
    assert!(answer.json::<Trouble>().message.contains("LocalSend"));

    let live = accepting();
    let laptop = live.paired("laptop", Rights::of_a_paired_device());
    let mut app = App::new(&live, &laptop).await;
    assert_eq!(app.offer("", x()).await.status, StatusCode::FORBIDDEN);
    let mut app = App::new(&live, &Device::new()).await;
    for bad in ["../x", "/x", "a/../../x", "a\\b"] {
        let (id, file) = file(bad, b"x");
        assert_eq!(app.offer("", json!({ id: file })).await.status, StatusCode::BAD_REQUEST, "{bad}");
    }

    let mut full = setup(LocalSendMode::Accept, InboxKeep::Backup, None);
    full.quota = Some(1000);
    let live = Live::start_with(full);
    let mut app = App::new(&live, &Device::new()).await;
    let answer = app.offer("", json!({ "x": { "fileName": "x", "size": 10_000 } })).await;
    assert_eq!(answer.status, StatusCode::INTERNAL_SERVER_ERROR);
    assert!(answer.json::<Trouble>().message.contains("quota"));
    assert!(live.handle.sessions().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn cancelled_and_forgotten_sessions_keep_what_had_come_whole() {
    let clock = Arc::new(ManualClock::new(jiff::Timestamp::UNIX_EPOCH));
    let live =
        Live::start_with(Setup { clock: clock.clone(), ..setup(LocalSendMode::Accept, InboxKeep::Backup, None) });
    let cancelled = Device::new();
    let mut app = App::new(&live, &cancelled).await;
    let files: serde_json::Map<_, _> = ["a", "b"].iter().map(|name| file(name, b"12345")).collect();
    let wanted: FilesWanted = app.offer("", files.clone().into()).await.ok().json();
    assert_eq!(app.upload(&wanted, &id_of("a"), b"12345").await, StatusCode::OK);
    let mut stranger = App::new(&live, &Device::new()).await;
    assert_eq!(stranger.cancel(&format!("?sessionId={}", wanted.session_id)).await, StatusCode::OK);
    assert_eq!(stranger.cancel(&format!("?sessionId={}", SessionId::from_random([7; 16]))).await, StatusCode::OK);
    assert_eq!(live.handle.sessions().len(), 1, "only its sender ends a session");
    assert_eq!(app.cancel(&format!("?sessionId={}", wanted.session_id)).await, StatusCode::OK);
    assert_eq!(app.upload(&wanted, &id_of("b"), b"12345").await, StatusCode::FORBIDDEN);
    let repository = live.store.owned_by(&cancelled.fingerprint()).unwrap();
    assert_eq!(snapshot(&repository).await.1.keys().collect::<Vec<_>>(), ["a"]);

    let forgotten = Device::new();
    let mut app = App::new(&live, &forgotten).await;
    let wanted: FilesWanted = app.offer("", files.into()).await.ok().json();
    assert_eq!(app.upload(&wanted, &id_of("b"), b"12345").await, StatusCode::OK);
    let repository = live.store.owned_by(&forgotten.fingerprint()).unwrap();
    assert!(repository.snapshots().unwrap().is_empty());
    clock.advance(Duration::from_mins(11));
    live.until(|| !repository.snapshots().unwrap().is_empty()).await;
    assert_eq!(snapshot(&repository).await.1.keys().collect::<Vec<_>>(), ["b"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn several_phones_send_at_once_two_files_at_a_time_and_everything_arrives() {
    let inbox = tempfile::tempdir().unwrap();
    let live = Arc::new(Live::start_with(setup(LocalSendMode::Accept, InboxKeep::Both, Some(inbox.path().to_owned()))));
    let mut phones = tokio::task::JoinSet::new();
    for number in 0..3_u8 {
        let live = live.clone();
        phones.spawn(async move {
            let phone = Device::new();
            let files: Vec<(String, Vec<u8>)> = (0..40_u8)
                .map(|n| (format!("p{number}/d{}/f{n}", n % 3), vec![n ^ number; usize::from(n) * 1000]))
                .collect();
            let offer: serde_json::Map<_, _> = files.iter().map(|(name, bytes)| file(name, bytes)).collect();
            let mut app = App::new(&live, &phone).await;
            let wanted: Arc<FilesWanted> = Arc::new(app.offer("", offer.into()).await.ok().json());
            let files = Arc::new(files);
            let mut lanes = tokio::task::JoinSet::new();
            // Two connections each: of one address, a server takes eight from strangers.
            for (lane, mut app) in [app, App::new(&live, &phone).await].into_iter().enumerate() {
                let (files, wanted) = (files.clone(), wanted.clone());
                lanes.spawn(async move {
                    for (name, bytes) in files.iter().skip(lane).step_by(2) {
                        assert_eq!(app.upload(&wanted, &id_of(name), bytes).await, StatusCode::OK);
                    }
                });
            }
            lanes.join_all().await;
            (phone.fingerprint(), files)
        });
    }
    while let Some(done) = phones.join_next().await {
        let (fingerprint, files) = done.unwrap();
        let (_, kept) = snapshot(&live.store.owned_by(&fingerprint).unwrap()).await;
        assert_eq!(kept.len(), files.len());
        for (name, bytes) in files.iter() {
            assert_eq!(&kept[name].0, bytes);
            assert_eq!(&std::fs::read(inbox.path().join(name)).unwrap(), bytes);
        }
    }
    assert!(live.handle.sessions().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_is_shown_and_kept_nowhere() {
    let mut live = accepting();
    let mut app = App::new(&live, &Device::new()).await;
    let message =
        json!({ "m": { "fileName": "x.txt", "size": 5, "fileType": "text/plain", "preview": "he\u{1b}llo" } });
    assert_eq!(app.offer("", message).await.status, StatusCode::NO_CONTENT);
    let text = live.event(|event| match event {
        ServerEvent::Message { text, .. } => Some(text),
        _ => None,
    });
    assert_eq!(text.await, "he\u{fffd}llo");
    assert!(live.store.repositories().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_file_has_its_list_apart_and_its_chunks_survive_the_next_snapshot() {
    let live = accepting();
    assert_eq!(live.handle.shared.accept, AcceptMode::Ask);
    let phone = Device::new();
    let mut app = App::new(&live, &phone).await;
    // More than 1,024 chunks; the same ones again and again, so that little is stored.
    let mut state = 1_u64;
    let mut word = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 24) as u8
    };
    let random: Vec<u8> = (0..4 << 20).map(|_| word()).collect();
    let (random, repeats) = (Bytes::from(random), 90);
    let size = random.len() * repeats;
    let wanted: FilesWanted =
        app.offer("", json!({ "large": { "fileName": "large.mp4", "size": size } })).await.ok().json();
    let token = &wanted.files["large"];
    let path = format!("{}?sessionId={}&fileId=large&token={token}", paths::LOCALSEND_UPLOAD, wanted.session_id);
    let pieces = std::iter::repeat_n(random, repeats).map(Ok::<_, std::io::Error>);
    let body = Body::from_stream(stream::iter(pieces));
    app.caller.send(request(Method::POST, &path, None, body)).await.ok();
    let repository = live.store.owned_by(&phone.fingerprint()).unwrap();
    app.send(&[("small", b"x")]).await;
    let head = repository.head(&"inbox".parse().unwrap()).unwrap().unwrap();
    let record = crate::signer::open_record(&head.signed).unwrap();
    assert_eq!((record.totals.files, record.totals.bytes), (2, size as u64 + 1));
    // A commit checks every ref; that the list is among them is what this is about.
    let vault = Arc::new(LocalVault::new(repository.clone(), repository.owner()));
    let mut reader = EntryReader::new(vault.clone(), &record.manifest).unwrap();
    let entry = reader.next().await.unwrap().unwrap();
    let EntryKind::File { content: Some(Content::Indirect(list)), .. } = &entry.kind else { panic!("{entry:?}") };
    let mut refs = crate::manifest::StreamReader::new(vault, &record.refs).unwrap();
    let mut ids = Vec::new();
    while let Some(bytes) = refs.next().await.unwrap() {
        ids.extend_from_slice(&bytes);
    }
    for id in &list.ids {
        assert!(ids.chunks(32).any(|found| found == id.as_bytes()), "the chunks of the list are refs");
    }
}
