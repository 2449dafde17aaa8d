//! Backups against the real server and a real store.

use crate::codec::chunk_id;
use crate::model::{Rights, SessionId, SnapshotId};
use crate::protocol::listing::Listing;
use crate::protocol::session::{Finished, PrepareUpload, SessionAnswer, SessionState, Uploaded};
use crate::protocol::{ErrorBody, ErrorCode, paths};
use crate::server::live::{Backup, Live, Setup, block, encode, header, request};
use crate::server::{Approver, Decision, Desk, Question, Scripted, ServerEvent};
use crate::signer;
use axum::body::Body;
use bytes::Bytes;
use http::{Method, StatusCode};
use std::sync::Arc;

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_goes_through_all_its_calls() {
    let mut live = Live::start();
    let device = live.paired("laptop", Rights::of_a_paired_device());
    let mut caller = live.caller(&device).await;
    let open: SessionAnswer = caller.prepare(&header("Documents")).await.ok().json();
    let (session, repository) = (open.session, open.repository.unwrap().id);
    assert_eq!((open.state, open.head), (SessionState::Open, None));
    let backup = Backup::of(&device, repository, "Documents", None, b"hello");
    let id = signer::snapshot_id(&backup.signed);

    let ids = [backup.content.as_bytes().as_slice(), &[7; 32]].concat();
    assert_eq!(caller.in_session(paths::MISSING, session, ids.clone()).await.ok().body, [0b11][..]);
    // Too early: the commit names what is not there.
    let record = serde_json::to_vec(&backup.signed).unwrap();
    let early = caller.in_session(paths::FINISH, session, record.clone()).await;
    assert_eq!(early.code(), ErrorCode::MissingChunks);
    assert!(!early.json::<ErrorBody>().missing.is_empty());

    let uploaded = caller.in_session(paths::UPLOAD, session, encode(&backup.blocks)).await.ok();
    assert_eq!(uploaded.json::<Uploaded>().chunks, 3);
    assert_eq!(caller.in_session(paths::MISSING, session, ids).await.ok().body, [0b10][..]);
    assert_eq!(live.handle.sessions()[0].bytes, encode(&backup.blocks).len() as u64);
    let finished: Finished = caller.in_session(paths::FINISH, session, record.clone()).await.ok().json();
    assert_eq!(finished.snapshot, id);
    let again: Finished = caller.in_session(paths::FINISH, session, record).await.ok().json();
    assert_eq!(again, finished, "a lost answer can be had again");
    let committed = live.event(|event| match event {
        ServerEvent::Committed { snapshot, .. } => Some(snapshot),
        _ => None,
    });
    assert_eq!(committed.await, id);
    assert!(live.handle.sessions().is_empty());

    let listing: Listing = caller.get(paths::SNAPSHOTS).await.ok().json();
    assert_eq!((listing.repositories.len(), listing.repositories[0].snapshots[0].id), (1, id));
    let unknown = format!("{}/{}", paths::SNAPSHOTS, SnapshotId::from_bytes([1; 32]));
    assert_eq!(caller.get(&unknown).await.code(), ErrorCode::NotFound);
    // The next one is told the head, and one that does not follow it is stale.
    let next: SessionAnswer = caller.prepare(&header("Documents")).await.ok().json();
    assert_eq!(next.head.map(|head| head.id), Some(id));
    let stale = Backup::of(&device, repository, "Documents", None, b"other");
    caller.in_session(paths::UPLOAD, next.session, encode(&stale.blocks)).await.ok();
    let refused = caller.in_session(paths::FINISH, next.session, serde_json::to_vec(&stale.signed).unwrap()).await;
    assert_eq!(refused.code(), ErrorCode::StalePrevious);
    assert_eq!(refused.json::<ErrorBody>().head.map(|head| head.id), Some(id));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_corrupt_block_is_refused_and_nothing_of_its_batch_is_kept() {
    let live = Live::start();
    let device = live.paired("laptop", Rights::of_a_paired_device());
    let mut caller = live.caller(&device).await;
    let open: SessionAnswer = caller.prepare(&header("Documents")).await.ok().json();
    let (good, bad) = (Bytes::from_static(b"good"), Bytes::from_static(b"bad"));
    let ids = [chunk_id(&good), chunk_id(&bad)].map(|id| *id.as_bytes()).concat();
    let good = block(&[(chunk_id(&good), good)]);
    let mut flipped = block(&[(chunk_id(&bad), bad.clone())]);
    flipped.stored = Bytes::from_static(b"bat");
    let mut renamed = block(&[(chunk_id(&bad), bad)]);
    renamed.header.chunks[0].id = chunk_id(b"something else");
    let mut cut = encode(std::slice::from_ref(&good));
    cut.extend_from_slice(&encode(std::slice::from_ref(&good))[..60]);
    let table = [
        (encode(&[good.clone(), flipped]), ErrorCode::Corrupt),
        (encode(&[good.clone(), renamed]), ErrorCode::Corrupt),
        ([encode(std::slice::from_ref(&good)), vec![0; 48]].concat(), ErrorCode::Corrupt),
        (cut, ErrorCode::BadRequest),
        (vec![0; (16 << 20) + 1], ErrorCode::Corrupt),
    ];
    for (body, code) in table {
        let mut caller = live.caller(&device).await;
        let answer = caller.in_session(paths::UPLOAD, open.session, body).await;
        assert_eq!(answer.code(), code);
        assert!(code != ErrorCode::Corrupt || answer.status == StatusCode::UNPROCESSABLE_ENTITY);
        assert_eq!(caller.in_session(paths::MISSING, open.session, ids.clone()).await.ok().body, [0b11][..]);
    }
    caller.in_session(paths::UPLOAD, open.session, encode(&[good])).await.ok();
    assert_eq!(caller.in_session(paths::MISSING, open.session, ids).await.ok().body, [0b10][..]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_that_breaks_off_leaves_nothing() {
    let live = Live::start();
    let device = live.paired("laptop", Rights::of_a_paired_device());
    let mut caller = live.caller(&device).await;
    let open: SessionAnswer = caller.prepare(&header("Documents")).await.ok().json();
    let text = Bytes::from_static(b"half");
    let id = chunk_id(&text);
    let whole = encode(&[block(&[(id, text)])]);
    let mut breaking = live.caller(&device).await;
    let pieces = [Ok(Bytes::from(whole)), Err(std::io::Error::other("the line breaks"))];
    let body = Body::from_stream(futures_util::stream::iter(pieces));
    assert!(breaking.try_send(request(Method::POST, paths::UPLOAD, Some(open.session), body)).await.is_err());
    drop(breaking);
    let missing = caller.in_session(paths::MISSING, open.session, id.as_bytes().to_vec()).await.ok();
    assert_eq!(missing.body, [1][..]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_person_is_asked_once_for_one_request_and_the_answer_reaches_who_waits() {
    for (decision, status, settled) in [
        (Decision::Once, StatusCode::OK, false),
        (Decision::Always, StatusCode::OK, true),
        (Decision::Decline, StatusCode::FORBIDDEN, false),
    ] {
        let desk = Arc::new(Desk::new());
        let approver: Arc<dyn Approver> = desk.clone();
        let live = Live::start_with(Setup { approver, ..Setup::default() });
        let device = live.paired("laptop", Rights::of_a_paired_device());
        let mut caller = live.caller(&device).await;
        let photos = header("Photos");
        let first = caller.prepare(&photos).await;
        let repeated = caller.prepare(&photos).await;
        assert_eq!((first.status, repeated.status), (StatusCode::ACCEPTED, StatusCode::ACCEPTED));
        let waiting: SessionAnswer = first.json();
        assert_eq!(waiting.session, repeated.json::<SessionAnswer>().session);
        assert_eq!(waiting.state, SessionState::Waiting);
        assert_eq!(desk.list().len(), 1, "asked once");
        let early = caller.in_session(paths::MISSING, waiting.session, vec![7; 32]).await;
        assert_eq!(early.code(), ErrorCode::NotDecided);

        let path = format!("{}/{}?wait=30", paths::SESSIONS, waiting.session);
        let mut poller = live.caller(&device).await;
        let polling = tokio::spawn(async move { poller.get(&path).await });
        let question = desk.next(0).await;
        assert!(matches!(&question.question, Question::Backup { first: true, bytes_to_send: 5, .. }));
        assert!(desk.answer(question.id, decision));
        let answer = polling.await.unwrap();
        assert_eq!(answer.status, status);
        if status == StatusCode::OK {
            assert!(answer.json::<SessionAnswer>().repository.is_some());
        } else {
            assert_eq!(answer.code(), ErrorCode::Declined);
        }
        let next = caller.prepare(&header("Photos")).await;
        assert_eq!(next.status == StatusCode::OK, settled, "{decision:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn cancelling_withdraws_the_question() {
    let desk = Arc::new(Desk::new());
    let approver: Arc<dyn Approver> = desk.clone();
    let mut live = Live::start_with(Setup { approver, ..Setup::default() });
    let device = live.paired("laptop", Rights::of_a_paired_device());
    let mut caller = live.caller(&device).await;
    let waiting: SessionAnswer = caller.prepare(&header("Photos")).await.json();
    let request = desk.next(0).await;
    caller.in_session(paths::CANCEL, waiting.session, "").await.ok();
    live.event(|event| matches!(event, ServerEvent::SessionEnded(_)).then_some(())).await;
    live.until(|| !desk.is_open(request.id)).await;
    assert!(!desk.answer(request.id, Decision::Always));
    assert!(live.trust.find(&device.fingerprint()).unwrap().sets.iter().all(|set| set.as_str() != "Photos"));
    assert_eq!(caller.in_session(paths::CANCEL, waiting.session, "").await.code(), ErrorCode::SessionGone);
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_and_repositories_of_others_are_out_of_reach() {
    let live = Live::start();
    let laptop = live.paired("laptop", Rights::of_a_paired_device());
    let thief = live.paired("thief", Rights::of_a_paired_device());
    let mut caller = live.caller(&laptop).await;
    let open: SessionAnswer = caller.prepare(&header("Documents")).await.ok().json();
    let mut stolen = live.caller(&thief).await;
    for path in [paths::MISSING, paths::UPLOAD, paths::FINISH, paths::CANCEL, paths::CHUNKS] {
        assert_eq!(stolen.in_session(path, open.session, vec![0; 32]).await.code(), ErrorCode::SessionGone, "{path}");
    }
    let look = format!("{}/{}", paths::SESSIONS, open.session);
    assert_eq!(stolen.get(&look).await.code(), ErrorCode::SessionGone);
    let unknown = caller.in_session(paths::MISSING, SessionId::from_random([1; 16]), vec![0; 32]).await;
    assert_eq!(unknown.code(), ErrorCode::SessionGone);
    let theirs = PrepareUpload { repository: Some(open.repository.unwrap().id), ..header("Documents") };
    assert_eq!(stolen.prepare(&theirs).await.code(), ErrorCode::NotFound);
    assert!(stolen.get(paths::SNAPSHOTS).await.ok().json::<Listing>().repositories.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_must_be_the_callers_own_and_for_the_set_of_the_session() {
    let live = Live::start();
    let laptop = live.paired("laptop", Rights::of_a_paired_device());
    let other = live.paired("other", Rights::of_a_paired_device());
    let mut caller = live.caller(&laptop).await;
    let open: SessionAnswer = caller.prepare(&header("Documents")).await.ok().json();
    let repository = open.repository.unwrap().id;
    let good = Backup::of(&laptop, repository, "Documents", None, b"hello");
    caller.in_session(paths::UPLOAD, open.session, encode(&good.blocks)).await.ok();
    let mut forged = good.signed.clone();
    forged.record = forged.record.replace("\"sequence\":1", "\"sequence\":2");
    let table = [
        (Backup::of(&laptop, repository, "Photos", None, b"hello").signed, ErrorCode::BadRequest),
        (Backup::of(&other, repository, "Documents", None, b"hello").signed, ErrorCode::NotAllowed),
        (forged, ErrorCode::Corrupt),
    ];
    for (signed, code) in table {
        let answer = caller.in_session(paths::FINISH, open.session, serde_json::to_vec(&signed).unwrap()).await;
        assert_eq!(answer.code(), code);
    }
    caller.in_session(paths::FINISH, open.session, serde_json::to_vec(&good.signed).unwrap()).await.ok();
}

#[tokio::test(flavor = "multi_thread")]
async fn full_means_that_the_new_is_refused() {
    let approver = Arc::new(Scripted::always(Decision::Always));
    let live = Live::start_with(Setup { approver, quota: Some(600), ..Setup::default() });
    let device = live.paired("laptop", Rights::of_a_paired_device());
    let mut caller = live.caller(&device).await;
    let open: SessionAnswer = caller.prepare(&header("Documents")).await.ok().json();
    let noise: Vec<u8> = (0..32_u8).flat_map(|n| *blake3::hash(&[n]).as_bytes()).collect();
    let noise = Bytes::from(noise);
    let too_much = encode(&[block(&[(chunk_id(&noise), noise)])]);
    let answer = caller.in_session(paths::UPLOAD, open.session, too_much).await;
    assert_eq!((answer.code(), answer.status), (ErrorCode::Full, StatusCode::INSUFFICIENT_STORAGE));
    let little = Bytes::from_static(b"little");
    let little = encode(&[block(&[(chunk_id(&little), little)])]);
    caller.in_session(paths::UPLOAD, open.session, little).await.ok();

    let live = Live::start_with(Setup { reserve_bytes: u64::MAX, ..Setup::default() });
    let device = live.paired("laptop", Rights::of_a_paired_device());
    let answer = live.caller(&device).await.prepare(&header("Documents")).await;
    assert_eq!(answer.code(), ErrorCode::Full);
    assert!(answer.json::<ErrorBody>().message.contains("in reserve"));
}
