//! Restores against the real server and a real store: one's own, and others'.

use crate::client::order::{LARGEST_BLOCK, Order};
use crate::codec::{Decoder, chunk_id};
use crate::model::{Alias, Block, BlockHeader, ChunkId, Right, Rights};
use crate::platform::clock::{ManualClock, SystemClock};
use crate::protocol::listing::Listing;
use crate::protocol::session::{PrepareDownload, SessionAnswer};
use crate::protocol::{ErrorBody, ErrorCode, paths};
use crate::server::live::{Caller, Live, Setup, block, encode, header, request};
use crate::server::{AcceptMode, Decision, Question, Scripted};
use crate::store::Store;
use axum::body::Body;
use bytes::Bytes;
use http::{Method, StatusCode};
use std::sync::Arc;
use std::time::Duration;

fn of(text: &str, adopt: bool) -> PrepareDownload {
    PrepareDownload { of: Some(text.to_owned()), adopt, idempotency_key: None }
}

/// Asks, waits for the decision when there is one to wait for, and gives the last answer.
async fn ask(caller: &mut Caller, request: &PrepareDownload) -> crate::server::live::Answer {
    let answer = caller.post(paths::PREPARE_DOWNLOAD, request).await;
    if answer.status != StatusCode::ACCEPTED {
        return answer;
    }
    let session = answer.json::<SessionAnswer>().session;
    caller.get(&format!("{}/{session}?wait=30", paths::SESSIONS)).await
}

async fn fetch(caller: &mut Caller, open: &SessionAnswer, id: ChunkId) -> Bytes {
    let answer = caller.in_session(paths::CHUNKS, open.session, id.as_bytes().to_vec()).await.ok();
    let header = BlockHeader::decode(&answer.body).unwrap();
    let stored = answer.body.slice(header.encoded_length()..);
    assert!(header.chunks.iter().any(|chunk| chunk.id == id));
    Decoder::new().decode(&Block { header, stored }).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn ones_own_backup_opens_at_once_and_comes_back() {
    let live = Live::start();
    let device = live.paired("laptop", Rights::of_a_paired_device());
    let mut caller = live.caller(&device).await;
    assert_eq!(ask(&mut caller, &PrepareDownload::default()).await.code(), ErrorCode::NotFound);
    caller.back_up(&device, "Documents", b"hello").await;
    let open: SessionAnswer = ask(&mut caller, &PrepareDownload::default()).await.ok().json();
    assert_eq!(fetch(&mut caller, &open, chunk_id(b"hello")).await, "hello");
    let gone = caller.in_session(paths::CHUNKS, open.session, vec![7; 32]).await;
    assert_eq!(gone.code(), ErrorCode::NotFound);
    assert!(caller.in_session(paths::CHUNKS, open.session, Vec::new()).await.ok().body.is_empty());
    for path in [paths::MISSING, paths::UPLOAD, paths::FINISH] {
        assert_eq!(caller.in_session(path, open.session, vec![0; 32]).await.code(), ErrorCode::BadRequest, "{path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn anothers_backup_is_a_persons_decision() {
    for (decision, opens, granted, adopted) in [
        (Decision::Decline, false, false, false),
        (Decision::Once, true, false, false),
        (Decision::Always, true, true, false),
        (Decision::Replaces, true, true, true),
    ] {
        let approver = Arc::new(Scripted::new([decision]));
        let live = Live::start_with(Setup { approver: approver.clone(), ..Setup::default() });
        let laptop = live.paired("laptop", Rights::of_a_paired_device());
        live.caller(&laptop).await.back_up(&laptop, "Documents", b"hello").await;
        let new = live.paired("new laptop", Rights::of_a_paired_device());
        let mut caller = live.caller(&new).await;
        let answer = ask(&mut caller, &of("LAPTOP", false)).await;
        assert_eq!(answer.status == StatusCode::OK, opens, "{decision:?} {answer:?}");
        let listing: Listing = caller.get(paths::SNAPSHOTS).await.ok().json();
        assert_eq!(!listing.repositories.is_empty(), granted, "{decision:?}");
        if !opens {
            assert_eq!(answer.code(), ErrorCode::Declined);
            continue;
        }
        let open: SessionAnswer = answer.json();
        assert_eq!(fetch(&mut caller, &open, chunk_id(b"hello")).await, "hello");
        let asked = approver.asked();
        assert!(matches!(&asked[..], [Question::RestoreOthers { of, .. }] if of.as_str() == "laptop"));
        // With the repository goes the right to continue it, and it leaves the old device.
        let next: SessionAnswer = caller.prepare(&header("Documents")).await.ok().json();
        assert_eq!(next.repository == open.repository, adopted, "{decision:?}");
        assert_eq!(next.head.is_some(), adopted);
        let old: SessionAnswer = live.caller(&laptop).await.prepare(&header("Documents")).await.ok().json();
        assert_eq!(old.repository != open.repository, adopted);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_old_session_does_not_write_to_a_repository_that_was_adopted() {
    let approver = Arc::new(Scripted::new([Decision::Replaces]));
    let live = Live::start_with(Setup { approver, ..Setup::default() });
    let laptop = live.paired("laptop", Rights::of_a_paired_device());
    let mut old = live.caller(&laptop).await;
    old.back_up(&laptop, "Documents", b"hello").await;
    let open: SessionAnswer = old.prepare(&header("Documents")).await.ok().json();
    let new = live.paired("new laptop", Rights::of_a_paired_device());
    ask(&mut live.caller(&new).await, &of("laptop", true)).await.ok();
    let answer = old.in_session(paths::MISSING, open.session, vec![7; 32]).await;
    assert_eq!(answer.code(), ErrorCode::NotAllowed);
    let answer = old.in_session(paths::CHUNKS, open.session, chunk_id(b"hello").as_bytes().to_vec()).await;
    assert_eq!(answer.code(), ErrorCode::NotAllowed, "nor does it read from it: it may be a thief's");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_open_restore_reads_as_long_as_its_device_may_and_once_ends_after_a_day() {
    let approver = Arc::new(Scripted::new([Decision::Always, Decision::Once]));
    let clock = Arc::new(ManualClock::new("2026-01-01T00:00:00Z".parse().unwrap()));
    let live = Live::start_with(Setup { approver, clock: clock.clone(), ..Setup::default() });
    let laptop = live.paired("laptop", Rights::of_a_paired_device());
    live.caller(&laptop).await.back_up(&laptop, "Documents", b"hello").await;
    let body = || chunk_id(b"hello").as_bytes().to_vec();

    let mut rights = Rights::of_a_paired_device();
    rights.grant(Right::RestoreOthers);
    let admin = live.paired("admin", rights);
    let mut caller = live.caller(&admin).await;
    let open: SessionAnswer = ask(&mut caller, &of("laptop", false)).await.ok().json();
    caller.in_session(paths::CHUNKS, open.session, body()).await.ok();
    live.trust.update(&admin.fingerprint(), |trust| trust.rights.revoke(Right::RestoreOthers)).unwrap();
    assert_eq!(caller.in_session(paths::CHUNKS, open.session, body()).await.code(), ErrorCode::NotAllowed);
    let listing = caller.send(request(Method::GET, paths::SNAPSHOTS, Some(open.session), Body::empty())).await;
    assert_eq!(listing.code(), ErrorCode::NotAllowed);

    // Always, and then no more.
    let open: SessionAnswer = ask(&mut caller, &of("laptop", false)).await.ok().json();
    caller.in_session(paths::CHUNKS, open.session, body()).await.ok();
    live.trust.update(&admin.fingerprint(), |trust| trust.restore_from.clear()).unwrap();
    assert_eq!(caller.in_session(paths::CHUNKS, open.session, body()).await.code(), ErrorCode::NotAllowed);

    // Once, kept alive by looking.
    let open: SessionAnswer = ask(&mut caller, &of("laptop", false)).await.ok().json();
    let look = format!("{}/{}", paths::SESSIONS, open.session);
    for _ in 0..150 {
        clock.advance(Duration::from_mins(9));
        caller.get(&look).await.ok();
    }
    caller.in_session(paths::CHUNKS, open.session, body()).await.ok();
    for _ in 0..15 {
        clock.advance(Duration::from_mins(9));
        caller.get(&look).await.ok();
    }
    assert_eq!(caller.in_session(paths::CHUNKS, open.session, body()).await.code(), ErrorCode::NotAllowed);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_right_to_others_needs_no_question_but_adopting_always_does() {
    let approver = Arc::new(Scripted::new([]));
    let live = Live::start_with(Setup { approver: approver.clone(), ..Setup::default() });
    let laptop = live.paired("laptop", Rights::of_a_paired_device());
    live.caller(&laptop).await.back_up(&laptop, "Documents", b"hello").await;
    let mut rights = Rights::of_a_paired_device();
    rights.grant(Right::RestoreOthers);
    let admin = live.paired("admin", rights);
    let mut caller = live.caller(&admin).await;
    ask(&mut caller, &of("laptop", false)).await.ok();
    assert!(approver.asked().is_empty());
    assert_eq!(ask(&mut caller, &of("laptop", true)).await.code(), ErrorCode::Declined);
    assert_eq!(approver.asked().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_ambiguous_name_lists_what_it_may_mean_and_an_unknown_one_is_not_found() {
    let live = Live::start_with(Setup { accept: AcceptMode::Never, ..Setup::default() });
    for text in [&b"one"[..], b"two"] {
        let device = live.paired("laptop", Rights::of_a_paired_device());
        live.caller(&device).await.back_up(&device, "Documents", text).await;
    }
    let new = live.paired("new", Rights::of_a_paired_device());
    let mut caller = live.caller(&new).await;
    let answer = caller.post(paths::PREPARE_DOWNLOAD, &of("laptop", false)).await;
    assert_eq!(answer.code(), ErrorCode::BadRequest);
    let message = answer.json::<ErrorBody>().message;
    for repository in live.store.repositories() {
        assert!(message.contains(&repository.id().to_string()), "{message}");
    }
    assert_eq!(caller.post(paths::PREPARE_DOWNLOAD, &of("nobody", false)).await.code(), ErrorCode::NotFound);
    let one = live.store.repositories()[0].id().to_string();
    assert_eq!(caller.post(paths::PREPARE_DOWNLOAD, &of(&one, false)).await.code(), ErrorCode::Declined);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_honest_holder_sends_is_never_more_than_who_asks_allows() {
    let live = Live::start();
    let device = live.paired("laptop", Rights::of_a_paired_device());
    let mut caller = live.caller(&device).await;
    let open: SessionAnswer = caller.prepare(&header("Documents")).await.ok().json();
    let noise = |seed: u64, length: usize| {
        let mut bytes = vec![0; length];
        blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
        let bytes = Bytes::from(bytes);
        (chunk_id(&bytes), bytes)
    };
    // One of each block is wanted: small ones beside large ones, half of what is there, and one among thousands of rows.
    let (mut wanted, mut blocks) = (Vec::new(), Vec::new());
    for n in 0..150 {
        let one = noise(n, 500 + n as usize);
        blocks.push(block(&[noise(1000 + n, 40_000), one.clone()]));
        wanted.push(one);
        let half = noise(2000 + n, 1_000);
        blocks.push(block(&[half.clone(), noise(3000 + n, 900 + n as usize)]));
        wanted.push(half);
    }
    for n in 0..5 {
        let one = noise(4000 + n, 20_000);
        let rows = (0..3_000).map(|row| noise(10_000 + n * 5_000 + row, 2 + row as usize % 5));
        blocks.push(block(&std::iter::once(one.clone()).chain(rows).collect::<Vec<_>>()));
        wanted.push(one);
    }
    let (few, many) = blocks.split_at(300);
    for blocks in std::iter::once(few).chain(many.chunks(1)) {
        caller.in_session(paths::UPLOAD, open.session, encode(blocks)).await.ok();
    }

    let ids: Vec<_> = wanted.iter().map(|(id, _)| *id).collect();
    let bytes: u64 = wanted.iter().map(|(_, bytes)| bytes.len() as u64).sum();
    let body: Vec<u8> = ids.iter().flat_map(|id| *id.as_bytes()).collect();
    let answer = caller.in_session(paths::CHUNKS, open.session, body).await.ok();
    let mut order = Order::new(&ids, bytes);
    let (mut rest, mut cost) = (answer.body.as_ref(), 0);
    while let Some(block) = crate::server::upload::next_block(&mut rest).unwrap() {
        let header = &block.header;
        cost += u64::from(header.stored_length.max(header.plain_length())) + header.encoded_length() as u64;
        order.take(block).unwrap();
    }
    assert!(ids.iter().all(|id| !order.lacks(id)));
    assert!(cost <= order.most() - LARGEST_BLOCK, "{cost} bytes for {bytes}");
    let untouched: u64 = blocks.iter().map(Block::encoded_length).sum();
    assert!(untouched > order.most(), "as they lie in packs they would be too much: {untouched}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_that_cannot_be_used_is_never_said_to_be_absent() {
    let live = Live::start();
    let device = live.paired("laptop", Rights::of_a_paired_device());
    let other = live.paired("other", Rights::of_a_paired_device());
    // Another process has made it; the server finds it damaged the first time it sees it.
    let folder = live.folder.path().join("store");
    let signer = live.identity.signing_key().clone();
    let beside = Store::open_or_create(&folder, Arc::new(SystemClock), signer).unwrap().0;
    let key = device.identity.signing_key().public();
    let id = beside.create_repository(device.fingerprint(), &key, Alias::new("laptop")).unwrap().id();
    drop(beside);
    let config = folder.join(format!("repositories/{id}/config.json"));
    let whole = std::fs::read(&config).unwrap();
    std::fs::write(&config, &whole[..50]).unwrap();

    let mut caller = live.caller(&device).await;
    let mut answers = Vec::new();
    for request in [PrepareDownload::default(), of("laptop", false), of(&id.to_string(), false)] {
        answers.push(caller.post(paths::PREPARE_DOWNLOAD, &request).await);
    }
    answers.push(caller.get(paths::SNAPSHOTS).await);
    answers.push(caller.get(&format!("{}/{}", paths::SNAPSHOTS, "7".repeat(64))).await);
    for answer in &answers {
        assert_eq!(answer.code(), ErrorCode::Corrupt, "{answer:?}");
        assert!(answer.json::<ErrorBody>().hint.unwrap().contains("lan-backup repair"), "{answer:?}");
    }
    // Whose it is not hears what it always hears.
    let mut stranger = live.caller(&other).await;
    assert_eq!(ask(&mut stranger, &PrepareDownload::default()).await.code(), ErrorCode::NotFound);
    assert!(stranger.get(paths::SNAPSHOTS).await.ok().json::<Listing>().repositories.is_empty());
    // Nor does whom a person let read it, or all.
    live.trust.update(&other.fingerprint(), |trust| trust.restore_from.extend([id])).unwrap();
    assert_eq!(stranger.get(paths::SNAPSHOTS).await.code(), ErrorCode::Corrupt);
    live.trust
        .update(&other.fingerprint(), |trust| {
            trust.restore_from.clear();
            trust.rights.grant(Right::RestoreOthers);
        })
        .unwrap();
    assert_eq!(stranger.get(paths::SNAPSHOTS).await.code(), ErrorCode::Corrupt);

    // One flipped bit is mended while somebody asks.
    let mut flipped = whole.clone();
    flipped[20] ^= 4;
    std::fs::write(&config, flipped).unwrap();
    let listing: Listing = caller.get(paths::SNAPSHOTS).await.ok().json();
    assert_eq!(listing.repositories.len(), 1);
    assert_eq!(std::fs::read(&config).unwrap(), whole);
    ask(&mut caller, &PrepareDownload::default()).await.ok();
}
