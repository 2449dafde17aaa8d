//! A paired device that turned bad, and what it can do to snapshots that are there: its own of before, and others'. It forges
//! times, and it fills whatever it is given.

use crate::codec::chunk_id;
use crate::model::{ChunkId, Keep, Rights, SetName, SnapshotId, SnapshotInfo};
use crate::platform::clock::{Clock, ManualClock};
use crate::protocol::listing::Listing;
use crate::protocol::session::{PrepareDownload, SessionAnswer};
use crate::protocol::{ErrorCode, paths};
use crate::restore::chain;
use crate::restore::select::Selection;
use crate::server::AcceptMode;
use crate::server::live::{Backup, Caller, Device, LIMIT, Live, Setup, block, encode, header, request};
use crate::signer;
use crate::store::Repository;
use crate::store::prune::{Prune, PruneOptions, Purpose};
use crate::store::retention::{Candidate, decide};
use axum::body::Body;
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use http::{Method, StatusCode, header::CONTENT_LENGTH};
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::oneshot;

const DAY: Duration = Duration::from_hours(24);
const LEGITIMATE: [&[u8]; 6] = [b"monday", b"tuesday", b"wednesday", b"thursday", b"friday", b"saturday"];
/// Snapshots that the forger makes in one day.
const FORGED: i64 = 40;

/// Commits a snapshot of one file whose record says that it was made at `claimed`.
async fn commit(caller: &mut Caller, device: &Device, text: &'static [u8], claimed: Timestamp) -> SnapshotId {
    let open: SessionAnswer = caller.prepare(&header("Documents")).await.ok().json();
    let backup = Backup::of(device, open.repository.unwrap().id, "Documents", open.head.as_ref(), text);
    let mut record = signer::open_record(&backup.signed).unwrap();
    record.source_time = claimed;
    let signed = device.identity.signing_key().sign_record(&record);
    caller.in_session(paths::UPLOAD, open.session, encode(&backup.blocks)).await.ok();
    caller.in_session(paths::FINISH, open.session, serde_json::to_vec(&signed).unwrap()).await.ok();
    signer::snapshot_id(&signed)
}

/// What a forger claims: ages ahead and ages back, each its own day, and many at the very same time.
fn forged_time(n: i64) -> Timestamp {
    let day = n / 3 * 86_400;
    match n % 3 {
        0 => Timestamp::from_second(250_000_000_000 - day).unwrap(),
        1 => Timestamp::from_second(-300_000_000_000 + day).unwrap(),
        _ => Timestamp::from_second(16_725_225_600).unwrap(),
    }
}

fn prune(repository: &Repository, keep: &Keep) -> Vec<SnapshotId> {
    let rules = |_: &SetName| Some(keep.clone());
    let options = PruneOptions { zone: TimeZone::UTC, trash: SignedDuration::from_hours(24 * 7) };
    let report = Prune::prepare(repository, &rules, &options, Purpose::Run, &|| false).unwrap().run().unwrap();
    assert_eq!(report.obstacle, None);
    report.forgotten.into_iter().map(|(_, id)| id).collect()
}

async fn listed(caller: &mut Caller) -> Vec<SnapshotInfo> {
    let listing: Listing = caller.get(paths::SNAPSHOTS).await.ok().json();
    assert_eq!(listing.repositories.len(), 1, "a device sees its own");
    listing.repositories.into_iter().next().unwrap().snapshots
}

/// Every file is still given out, whole.
async fn can_be_restored(caller: &mut Caller, texts: &[&[u8]]) {
    let open: SessionAnswer = caller.post(paths::PREPARE_DOWNLOAD, &PrepareDownload::default()).await.ok().json();
    for text in texts {
        let answer = caller.in_session(paths::CHUNKS, open.session, chunk_id(text).as_bytes().to_vec()).await.ok();
        let (mut body, mut found) = (answer.body.as_ref(), false);
        while let Some(block) = crate::server::upload::next_block(&mut body).unwrap() {
            let plain = crate::codec::Decoder::new().decode(&block).unwrap();
            found |= crate::codec::chunks(&block.header, &plain).any(|(_, bytes)| bytes == *text);
        }
        assert!(found, "{}", text.escape_ascii());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn times_that_a_source_forges_push_out_no_snapshot_and_change_no_order() {
    let clock = Arc::new(ManualClock::new(Timestamp::now()));
    let live = Live::start_with(Setup { accept: AcceptMode::Paired, clock: clock.clone(), ..Setup::default() });
    let laptop = live.paired("laptop", Rights::of_a_paired_device());
    let desk = live.paired("desk", Rights::of_a_paired_device());
    let mut caller = live.caller(&laptop).await;
    let mut other = live.caller(&desk).await;

    let (mut legitimate, mut others) = (Vec::new(), Vec::new());
    for text in LEGITIMATE {
        legitimate.push(commit(&mut caller, &laptop, text, clock.now()).await);
        others.push(commit(&mut other, &desk, text, clock.now()).await);
        clock.advance(DAY);
    }
    let mut forged = Vec::new();
    for n in 0..FORGED {
        forged.push(commit(&mut caller, &laptop, b"nothing of value", forged_time(n)).await);
    }
    clock.advance(DAY);
    // It was cleaned, and goes on with times that are right, between those that were forged.
    let after = commit(&mut caller, &laptop, b"sunday", clock.now()).await;
    legitimate.push(after);

    // The order is that of the chain and of this device's clock, and the latest is the one that came last.
    let snapshots = listed(&mut caller).await;
    let ids: Vec<_> = snapshots.iter().map(|info| info.id).collect();
    let (before, cleaned) = legitimate.split_at(LEGITIMATE.len());
    assert_eq!(ids, [before, forged.as_slice(), cleaned].concat());
    assert!(snapshots.is_sorted_by(|one, next| one.receipt.received_at < next.receipt.received_at));
    let now = clock.now();
    assert!(snapshots.iter().all(|info| info.receipt.received_at <= now + SignedDuration::from_mins(2)));
    let repository = live.store.owned_by(&laptop.fingerprint()).unwrap();
    let there = repository.snapshots().unwrap();
    let (checked, breaks) = chain::check(repository.id(), &repository.owner_log(), &repository.signers(), &there, &[]);
    assert!(breaks.is_empty(), "{breaks:?}");
    assert_eq!(Selection::latest().find(&checked, None).unwrap().info.id, after);

    // One of each day is kept, for as many days as there were: all of the forged ones came on one day.
    let keep = Keep { daily: 10, ..Keep::default() };
    clock.advance(8 * DAY);
    let now = clock.now();
    // The control: by the source's times, the same rules push out what is worth keeping.
    let mut believed: Vec<_> = checked
        .iter()
        .map(|snapshot| Candidate {
            received_at: snapshot.record.source_time,
            ..Candidate::of(&snapshot.info, &snapshot.record, None)
        })
        .collect();
    believed.sort_by_key(|candidate| candidate.received_at);
    let lost = decide(&keep, &believed, now, &TimeZone::UTC);
    let lost = lost.iter().filter(|decision| !decision.stays() && legitimate.contains(&decision.id)).count();
    assert!(lost >= LEGITIMATE.len(), "only {lost}");

    assert_eq!(prune(&repository, &keep), forged[..forged.len() - 1]);
    assert!(prune(&live.store.owned_by(&desk.fingerprint()).unwrap(), &keep).is_empty());
    clock.advance(9 * DAY);
    assert!(prune(&repository, &keep).is_empty(), "and after the days of the trash nothing more goes");
    assert!(prune(&live.store.owned_by(&desk.fingerprint()).unwrap(), &keep).is_empty());
    let kept: Vec<_> = listed(&mut caller).await.into_iter().filter(|info| info.forgotten.is_none()).collect();
    assert!(legitimate.iter().all(|id| kept.iter().any(|info| info.id == *id)));
    assert_eq!(kept.len(), legitimate.len() + 1);
    can_be_restored(&mut caller, &LEGITIMATE).await;
    can_be_restored(&mut caller, &[b"sunday"]).await;
    assert!(listed(&mut other).await.iter().all(|info| info.forgotten.is_none() && others.contains(&info.id)));
    can_be_restored(&mut other, &LEGITIMATE).await;
}

/// Bytes that do not compress and that nobody else has.
fn noise(seed: u64, length: usize) -> (ChunkId, Vec<u8>) {
    let mut bytes = vec![0; length];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
    let bytes = Bytes::from(bytes);
    let id = chunk_id(&bytes);
    (id, encode(&[block(&[(id, bytes)])]))
}

const QUOTA: u64 = 600_000;
const PIECE: usize = 100_000;
/// What a pack and a record add to what was sent: the pack's list of its chunks.
const BESIDE: u64 = 1_000;
/// Uploads that the flooding device has under way at once.
const AT_ONCE: u64 = 12;

#[tokio::test(flavor = "multi_thread")]
async fn a_device_that_floods_its_quota_costs_nobody_anything() {
    let live = Live::start_with(Setup { accept: AcceptMode::Paired, quota: Some(QUOTA), ..Setup::default() });
    let flooder = live.paired("flooder", Rights::of_a_paired_device());
    let desk = live.paired("desk", Rights::of_a_paired_device());
    let mut caller = live.caller(&flooder).await;
    let mut other = live.caller(&desk).await;
    let (mut own, mut others) = (Vec::new(), Vec::new());
    for text in &LEGITIMATE[..3] {
        own.push(commit(&mut caller, &flooder, text, Timestamp::now()).await);
        others.push(commit(&mut other, &desk, text, Timestamp::now()).await);
    }

    // Many uploads at once, each of which would fit alone: all but their last byte have come before the first may end.
    let open: SessionAnswer = caller.prepare(&header("Documents")).await.ok().json();
    let (mut held, mut sent) = (Vec::new(), Vec::new());
    for n in 0..AT_ONCE {
        let (_, body) = noise(n, PIECE);
        let (let_go, wait) = oneshot::channel::<()>();
        let (length, rest) = (body.len(), Bytes::copy_from_slice(&body[body.len() - 1..]));
        let first = Bytes::copy_from_slice(&body[..body.len() - 1]);
        let last = stream::once(async move {
            let _ = wait.await;
            Ok::<_, std::io::Error>(rest)
        });
        let body = Body::from_stream(stream::iter([Ok(first)]).chain(last));
        let mut upload = request(Method::POST, paths::UPLOAD, Some(open.session), body);
        upload.headers_mut().insert(CONTENT_LENGTH, length.into());
        let mut line = live.caller(&flooder).await;
        sent.push(tokio::spawn(async move { line.send(upload).await }));
        held.push(let_go);
    }
    live.until(|| live.handle.shared.sessions().calls() == AT_ONCE as usize).await;
    drop(held);
    let mut taken = 0;
    for upload in sent {
        let answer = tokio::time::timeout(LIMIT, upload).await.unwrap().unwrap();
        if answer.status == StatusCode::OK {
            taken += 1;
        } else {
            assert_eq!((answer.status, answer.code()), (StatusCode::INSUFFICIENT_STORAGE, ErrorCode::Full));
        }
    }
    assert!((1..AT_ONCE).contains(&taken), "{taken}");
    let repository = live.store.owned_by(&flooder.fingerprint()).unwrap();
    assert!(repository.stored_bytes().unwrap() <= QUOTA + BESIDE, "{taken} pieces of {PIECE} bytes");

    // What is left is filled, too, then with records alone: they are small, but any number of them is not.
    let mut seed = 1000;
    for size in [PIECE / 10, PIECE / 100] {
        while caller.in_session(paths::UPLOAD, open.session, noise(seed, size).1).await.status == StatusCode::OK {
            seed += 1;
            assert!(seed < 2000, "there is no end to the quota");
        }
    }
    let mut records = 0;
    loop {
        let prepared = caller.prepare(&header("Documents")).await;
        if prepared.status != StatusCode::OK {
            assert_eq!(prepared.code(), ErrorCode::Full);
            break;
        }
        let open: SessionAnswer = prepared.json();
        let parameters = open.repository.unwrap();
        let backup = Backup::of(&flooder, parameters.id, "Documents", open.head.as_ref(), LEGITIMATE[0]);
        let answer = caller.in_session(paths::FINISH, open.session, serde_json::to_vec(&backup.signed).unwrap()).await;
        if answer.status != StatusCode::OK {
            assert_eq!(answer.code(), ErrorCode::Full);
            break;
        }
        own.push(signer::snapshot_id(&backup.signed));
        records += 1;
        assert!(records < 1000, "there is no end to the records");
    }
    let (stored, of_records) = (repository.stored_bytes().unwrap(), repository.record_bytes().unwrap());
    assert!(stored + of_records <= QUOTA + BESIDE, "{stored} bytes of packs, {of_records} of {records} records");

    // Nothing of it was at the cost of what is there, its own or others'.
    let present = listed(&mut caller).await;
    assert_eq!(present.iter().map(|info| info.id).collect::<Vec<_>>(), own);
    assert!(present.iter().all(|info| info.forgotten.is_none()));
    can_be_restored(&mut caller, &LEGITIMATE[..3]).await;
    can_be_restored(&mut other, &LEGITIMATE[..3]).await;
    others.push(commit(&mut other, &desk, LEGITIMATE[4], Timestamp::now()).await);
    assert_eq!(listed(&mut other).await.iter().map(|info| info.id).collect::<Vec<_>>(), others);
    can_be_restored(&mut other, &[LEGITIMATE[4]]).await;
}
