//! Who gets in by the LocalSend door and who does not: people, PINs, limits, and how sessions end.

use super::*;
use crate::server::allowance::NEW_SENDERS_A_DAY;
use crate::server::limits::{LOCALSEND_MESSAGES, MAX_RECORDS_BYTES};

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
async fn files_on_their_way_from_an_app_count_as_if_they_had_come() {
    let mut small = setup(LocalSendMode::Accept, InboxKeep::Backup, None);
    small.quota = Some(10 << 20);
    let live = Live::start_with(small);
    let phone = Device::new();
    // Two sessions, each with room for itself.
    let (mut one, mut two) = (App::new(&live, &phone).await, App::new(&live, &phone).await);
    let offer = |name: &str| json!({ "x": { "fileName": name, "size": 6 << 20 } });
    let first: FilesWanted = one.offer("", offer("one")).await.ok().json();
    let second: FilesWanted = two.offer("", offer("two")).await.ok().json();
    let (session, token) = (&first.session_id, &first.files["x"]);
    let path = format!("{}?sessionId={session}&fileId=x&token={token}", paths::LOCALSEND_UPLOAD);
    let (go_on, rest) = tokio::sync::oneshot::channel::<()>();
    let body = stream::once(async { Bytes::from(vec![1; 1 << 20]) }).chain(stream::once(async {
        let _ = rest.await;
        Bytes::from(vec![2; 5 << 20])
    }));
    let body = Body::from_stream(body.map(Ok::<_, std::io::Error>));
    let sending = tokio::spawn(async move { one.caller.send(request(Method::POST, &path, None, body)).await.status });
    let shared = live.handle.shared.clone();
    live.until(|| !shared.on_the_way.is_empty()).await;
    let (status, message) = two.try_upload(&second, "x", &vec![3; 6 << 20]).await;
    assert_eq!(status, StatusCode::INTERNAL_SERVER_ERROR);
    assert!(message.contains("quota"), "{message}");
    drop(go_on);
    assert_eq!(sending.await.unwrap(), StatusCode::OK);
    assert!(shared.on_the_way.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_list_of_a_phones_snapshots_stays_as_long_as_another_device_can_read() {
    let live = accepting();
    let phone = Device::new();
    let mut app = App::new(&live, &phone).await;
    app.send(&[("a", b"a")]).await;
    let repository = live.store.owned_by(&phone.fingerprint()).unwrap();
    let mut head = repository.head(&"inbox".parse().unwrap()).unwrap().unwrap();
    while repository.record_bytes().unwrap() + 250_000 <= MAX_RECORDS_BYTES {
        let mut record = crate::signer::open_record(&head.signed).unwrap();
        record.roots = vec![crate::model::snapshot::Root { source: "/".repeat(240_000), top: "a".to_owned() }];
        (record.sequence, record.previous) = (record.sequence + 1, Some(head.id));
        head = repository.commit(&live.identity.signing_key().sign_record(&record), phone.fingerprint()).unwrap();
    }
    // And one that leaves room for nothing more.
    let mut record = crate::signer::open_record(&head.signed).unwrap();
    let room = MAX_RECORDS_BYTES - repository.record_bytes().unwrap();
    record.roots[0].source = "/".repeat((room as usize).saturating_sub(2_000).min(240_000));
    (record.sequence, record.previous) = (record.sequence + 1, Some(head.id));
    repository.commit(&live.identity.signing_key().sign_record(&record), phone.fingerprint()).unwrap();
    for n in 0..10 {
        let name = format!("{n}");
        let wanted: FilesWanted = app.offer("", json!({ "x": { "fileName": name, "size": 1 } })).await.ok().json();
        let (status, message) = app.try_upload(&wanted, "x", b"x").await;
        if status != StatusCode::OK {
            assert!(message.contains("as long as"), "{message}");
            assert!(repository.record_bytes().unwrap() <= MAX_RECORDS_BYTES);
            return;
        }
    }
    panic!("it goes on for ever");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_hangs_up_while_an_offer_is_compared_frees_no_place_before_the_work_ends() {
    let live = accepting();
    let shared = live.handle.shared.clone();
    let looking = shared.localsend.looking.clone();
    let places = looking.available_permits();
    // As long as this is held, no look comes to its end.
    let (release, held) = std::sync::mpsc::channel::<()>();
    let holder = std::thread::spawn({
        let shared = shared.clone();
        move || {
            let _creating = shared.creating();
            let _ = held.recv();
        }
    });
    let mut offers = Vec::new();
    for _ in 0..places {
        let mut app = App::new(&live, &Device::new()).await;
        offers.push(tokio::spawn(async move { app.offer("", json!({ "x": file("x", b"x").1 })).await.status }));
    }
    live.until(|| looking.available_permits() == 0).await;
    for offer in offers {
        offer.abort();
        let _ = offer.await;
    }
    live.until(|| shared.connections.count() == 0).await;
    assert_eq!(looking.available_permits(), 0);
    drop(release);
    holder.join().unwrap();
    live.until(|| looking.available_permits() == places).await;
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
async fn messages_of_whom_nobody_knows_are_few_and_none_after_a_no() {
    let clock = Arc::new(ManualClock::new(jiff::Timestamp::UNIX_EPOCH));
    let approver = Arc::new(Scripted::new([]));
    let setup = Setup { approver, clock: clock.clone(), ..setup(LocalSendMode::Ask, InboxKeep::Backup, None) };
    let live = Live::start_with(setup);
    let message = || json!({ "m": { "fileName": "x", "size": 2, "fileType": "text/plain", "preview": "hi" } });
    let mut declined = App::new(&live, &Device::new()).await;
    assert_eq!(declined.offer("", json!({ "x": file("x", b"x").1 })).await.status, StatusCode::FORBIDDEN);
    assert_eq!(declined.offer("", message()).await.status, StatusCode::FORBIDDEN);
    for _ in 0..LOCALSEND_MESSAGES {
        let mut app = App::new(&live, &Device::new()).await;
        assert_eq!(app.offer("", message()).await.status, StatusCode::NO_CONTENT);
    }
    let mut app = App::new(&live, &Device::new()).await;
    assert_eq!(app.offer("", message()).await.status, StatusCode::TOO_MANY_REQUESTS, "certificates cost nothing");
    clock.advance(Duration::from_secs(61));
    assert_eq!(app.offer("", message()).await.status, StatusCode::NO_CONTENT);
    assert_eq!(declined.offer("", message()).await.status, StatusCode::NO_CONTENT);
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

#[tokio::test(flavor = "multi_thread")]
async fn senders_for_whom_nobody_vouches_get_twenty_new_repositories_a_day() {
    let clock = Arc::new(ManualClock::new("2026-01-01T00:00:00Z".parse().unwrap()));
    let live =
        Live::start_with(Setup { clock: clock.clone(), ..setup(LocalSendMode::Accept, InboxKeep::Backup, None) });
    let x = || json!({ "x": file("x", b"x").1 });
    for n in 0..NEW_SENDERS_A_DAY {
        let mut app = App::old(&live, &format!("phone {n}")).await;
        assert_eq!(app.send(&[("x", b"x")]).await.len(), 1, "{n}");
    }
    let refused = App::old(&live, "one more").await.offer("", x()).await;
    assert_eq!(refused.status, StatusCode::TOO_MANY_REQUESTS);
    assert!(refused.json::<Trouble>().message.contains("tomorrow"));
    let mut proved = App::new(&live, &Device::new()).await;
    assert_eq!(proved.offer("", x()).await.status, StatusCode::TOO_MANY_REQUESTS, "certificates cost nothing either");
    assert_eq!(App::old(&live, "phone 3").await.send(&[("y", b"y")]).await.len(), 1, "who is known comes in");
    assert_eq!(live.store.repositories().len(), NEW_SENDERS_A_DAY);
    clock.advance(Duration::from_hours(24));
    assert_eq!(App::old(&live, "one more").await.send(&[("x", b"x")]).await.len(), 1);
    // Whoever a person lets in, or the PIN, is not counted.
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("pin"), "4711\n").unwrap();
    let pin = Some(LocalSendPin::read(&folder.path().join("pin")).unwrap());
    let localsend = LocalSendOptions { mode: LocalSendMode::Accept, pin, ..LocalSendOptions::default() };
    let live = Live::start_with(Setup { localsend, ..Setup::default() });
    for n in 0..=NEW_SENDERS_A_DAY {
        let mut app = App::old(&live, &format!("phone {n}")).await;
        let wanted: FilesWanted = app.offer("?pin=4711", x()).await.ok().json();
        assert_eq!(app.upload(&wanted, "x", b"x").await, StatusCode::OK);
    }
    assert_eq!(live.store.repositories().len(), NEW_SENDERS_A_DAY + 1);
}
