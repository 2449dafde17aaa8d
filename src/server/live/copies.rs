//! Copies of repositories that another device brings: who may write to them, and what they never become.

use crate::model::{
    Alias, ChunkerParameters, Forgotten, OwnerEvent, RepositoryId, RepositoryParameters, Right, Rights, SnapshotInfo,
};
use crate::platform::clock::SystemClock;
use crate::protocol::listing::Listing;
use crate::protocol::session::{Finish, Finished, PrepareCopy, PrepareDownload, PrepareUpload, SessionAnswer};
use crate::protocol::{ErrorCode, paths};
use crate::server::live::rotation::{say, statement};
use crate::server::live::{Backup, Caller, Device, Live, Setup, encode, header};
use crate::server::{Decision, Scripted};
use crate::store::Store;
use jiff::Timestamp;
use std::sync::Arc;

const COPIED: RepositoryId = RepositoryId::from_random([5; 16]);

fn create(owner: &Device) -> OwnerEvent {
    let (fingerprint, signer) = (owner.fingerprint(), owner.identity.signing_key().public());
    OwnerEvent::Create { fingerprint, signer, alias: Alias::new("laptop"), at: Timestamp::UNIX_EPOCH }
}

fn copy_of(owner: &Device) -> PrepareCopy {
    let repository = RepositoryParameters { id: COPIED, chunker: ChunkerParameters::STANDARD };
    PrepareCopy { repository, owner_log: vec![create(owner)] }
}

fn bringer() -> Rights {
    let mut rights = Rights::of_a_paired_device();
    rights.grant(Right::Replicate);
    rights
}

async fn open(caller: &mut Caller, request: &PrepareCopy) -> SessionAnswer {
    caller.post(paths::PREPARE_COPY, request).await.ok().json()
}

async fn finish(caller: &mut Caller, open: &SessionAnswer, backup: &Backup, without_data: bool) -> super::Answer {
    let body = serde_json::to_vec(&Finish { signed: backup.signed.clone(), without_data }).unwrap();
    caller.in_session(paths::FINISH, open.session, body).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_is_what_its_bringer_may_write_and_nobody_else() {
    let live = Live::start();
    let (nas, laptop) = (live.paired("nas", bringer()), live.paired("laptop", Rights::of_a_paired_device()));
    let mut caller = live.caller(&nas).await;
    let session = open(&mut caller, &copy_of(&laptop)).await;
    assert_eq!(session.repository.map(|repository| repository.id), Some(COPIED));
    // Records of all sets, in one session, and one without its data.
    let first = Backup::of(&laptop, COPIED, "Documents", None, b"one");
    let other = Backup::of(&laptop, COPIED, "Photos", None, b"two");
    assert_eq!(finish(&mut caller, &session, &other, false).await.code(), ErrorCode::MissingChunks);
    let finished: Finished = finish(&mut caller, &session, &first, true).await.ok().json();
    for blocks in [&first.blocks, &other.blocks] {
        caller.in_session(paths::UPLOAD, session.session, encode(blocks)).await.ok();
    }
    finish(&mut caller, &session, &other, false).await.ok();
    let listed = async |caller: &mut Caller| -> Vec<SnapshotInfo> {
        let listing = caller.in_session(paths::MISSING, session.session, "").await;
        listing.ok();
        live.store.repository(&COPIED).unwrap().snapshots().unwrap()
    };
    let snapshots = listed(&mut caller).await;
    assert_eq!((snapshots.len(), snapshots[0].id), (2, finished.snapshot));
    assert!(snapshots[0].forgotten.as_ref().is_some_and(Forgotten::is_not_copied));
    // The same record later, with all that it needs.
    finish(&mut caller, &session, &first, false).await.ok();
    assert!(listed(&mut caller).await.iter().all(|info| info.forgotten.is_none()));
    // Signed by nobody's key.
    let forged = Backup::of(&nas, COPIED, "Documents", Some(&snapshots[0]), b"three");
    caller.in_session(paths::UPLOAD, session.session, encode(&forged.blocks)).await.ok();
    assert_eq!(finish(&mut caller, &session, &forged, false).await.code(), ErrorCode::NotAllowed);

    // Its owner neither sees it nor writes to it, and what it backs up here goes elsewhere.
    let mut owner = live.caller(&laptop).await;
    assert!(owner.get(paths::SNAPSHOTS).await.ok().json::<Listing>().repositories.is_empty());
    let own = PrepareDownload::default();
    assert_eq!(owner.post(paths::PREPARE_DOWNLOAD, &own).await.code(), ErrorCode::NotFound);
    let into = PrepareUpload { repository: Some(COPIED), ..header("Documents") };
    assert_eq!(owner.prepare(&into).await.code(), ErrorCode::NotAllowed);
    let opened: SessionAnswer = owner.prepare(&header("Documents")).await.ok().json();
    let kept = opened.repository.unwrap().id;
    assert_ne!(kept, COPIED);
    owner.back_up(&laptop, "Documents", b"own").await;

    // Nor does another bringer get in, nor this one to what is kept here for the laptop itself.
    let attic = live.paired("attic", bringer());
    let mut second = live.caller(&attic).await;
    assert_eq!(second.post(paths::PREPARE_COPY, &copy_of(&laptop)).await.code(), ErrorCode::NotAllowed);
    let mut original = copy_of(&laptop);
    original.repository.id = kept;
    assert_eq!(caller.post(paths::PREPARE_COPY, &original).await.code(), ErrorCode::NotAllowed);
    // An owner log that is another than the one that is here, or none.
    let other_log = PrepareCopy { owner_log: vec![create(&attic)], ..copy_of(&laptop) };
    assert!(!caller.post(paths::PREPARE_COPY, &other_log).await.status.is_success());
    let no_log = PrepareCopy { owner_log: Vec::new(), ..copy_of(&laptop) };
    assert_eq!(caller.post(paths::PREPARE_COPY, &no_log).await.code(), ErrorCode::BadRequest);

    // The right is looked at for each call.
    live.trust.update(&nas.fingerprint(), |trust| trust.rights.revoke(Right::Replicate)).unwrap();
    assert_eq!(caller.in_session(paths::MISSING, session.session, "").await.code(), ErrorCode::NotAllowed);
    assert_eq!(caller.post(paths::PREPARE_COPY, &copy_of(&laptop)).await.code(), ErrorCode::NotAllowed);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_that_was_taken_over_is_a_copy_no_more() {
    let approver = Arc::new(Scripted::always(Decision::Replaces));
    let live = Live::start_with(Setup { approver, ..Setup::default() });
    let (nas, laptop) = (live.paired("nas", bringer()), live.paired("laptop", Rights::of_a_paired_device()));
    let mut caller = live.caller(&nas).await;
    let session = open(&mut caller, &copy_of(&laptop)).await;
    let backup = Backup::of(&laptop, COPIED, "Documents", None, b"one");
    caller.in_session(paths::UPLOAD, session.session, encode(&backup.blocks)).await.ok();
    finish(&mut caller, &session, &backup, false).await.ok();
    assert_eq!(live.store.repository(&COPIED).unwrap().copied_from(), Some(nas.fingerprint()));

    let mut owner = live.caller(&laptop).await;
    let take = PrepareDownload { of: Some(COPIED.to_string()), adopt: true, idempotency_key: None };
    let asked: SessionAnswer = owner.post(paths::PREPARE_DOWNLOAD, &take).await.json();
    owner.get(&format!("{}/{}?wait=30", paths::SESSIONS, asked.session)).await.ok();
    assert_eq!(live.store.repository(&COPIED).unwrap().copied_from(), None);
    assert_eq!(caller.in_session(paths::MISSING, session.session, "").await.code(), ErrorCode::NotAllowed);
    assert_eq!(caller.post(paths::PREPARE_COPY, &copy_of(&laptop)).await.code(), ErrorCode::NotAllowed);
    let opened: SessionAnswer = owner.prepare(&header("Documents")).await.json();
    let opened: SessionAnswer = owner.get(&format!("{}/{}?wait=30", paths::SESSIONS, opened.session)).await.ok().json();
    assert_eq!(opened.repository.map(|repository| repository.id), Some(COPIED), "its owner goes on with it here");
}

#[tokio::test(flavor = "multi_thread")]
async fn copies_go_on_when_their_bringer_or_their_owner_has_a_new_certificate() {
    let live = Live::start();
    let (mut nas, mut laptop) = (live.paired("nas", bringer()), live.paired("laptop", Rights::of_a_paired_device()));
    let mut caller = live.caller(&nas).await;
    let session = open(&mut caller, &copy_of(&laptop)).await;
    let first = Backup::of(&laptop, COPIED, "Documents", None, b"one");
    caller.in_session(paths::UPLOAD, session.session, encode(&first.blocks)).await.ok();
    finish(&mut caller, &session, &first, false).await.ok();

    // The bringer.
    let was = nas.fingerprint();
    nas.rotate();
    let mut caller = live.caller(&nas).await;
    assert!(say(&mut caller, vec![statement(&nas.identity, was)]).await.accepted);
    let session = open(&mut caller, &copy_of(&laptop)).await;
    assert_eq!(live.store.repository(&COPIED).unwrap().copied_from(), Some(nas.fingerprint()));

    // The owner, who comes here first and to the bringer at another time.
    let was = laptop.fingerprint();
    laptop.rotate();
    let mut owner = live.caller(&laptop).await;
    assert!(say(&mut owner, vec![statement(&laptop.identity, was)]).await.accepted);
    let mut request = copy_of(&laptop);
    let (fingerprint, signer) = (laptop.fingerprint(), laptop.identity.signing_key().public());
    let signature = statement(&laptop.identity, was).signature;
    request.owner_log = vec![
        OwnerEvent::Create {
            fingerprint: was,
            signer: signer.clone(),
            alias: Alias::new("laptop"),
            at: Timestamp::UNIX_EPOCH,
        },
        OwnerEvent::Rotate { fingerprint, signer, signature, at: Timestamp::UNIX_EPOCH },
    ];
    let before = live.store.repository(&COPIED).unwrap().snapshots().unwrap();
    assert_eq!(session.repository, open(&mut caller, &request).await.repository);
    let session = open(&mut caller, &request).await;
    let second = Backup::of(&laptop, COPIED, "Documents", Some(&before[0]), b"two");
    caller.in_session(paths::UPLOAD, session.session, encode(&second.blocks)).await.ok();
    finish(&mut caller, &session, &second, false).await.ok();
    let copy = live.store.repository(&COPIED).unwrap();
    assert_eq!((copy.owner(), copy.owner_log().len(), copy.snapshots().unwrap().len()), (laptop.fingerprint(), 2, 2));
    // The mark is on the disk, too.
    let folder = live.folder.path().join("store");
    let (anew, _) = Store::open_or_create(&folder, Arc::new(SystemClock), live.identity.signing_key().clone()).unwrap();
    assert_eq!(anew.repository(&COPIED).unwrap().copied_from(), Some(nas.fingerprint()));
}
