//! A device comes with a new certificate: its signing key lets it in, and nothing else does.

use crate::identity::{Identity, Trust};
use crate::model::{Alias, Fingerprint, OwnerEvent, Rights};
use crate::protocol::announce::Announcement;
use crate::protocol::listing::Listing;
use crate::protocol::rotation::{Former, MAX_FORMER, ROTATION_VERSION, Rotated, RotatedAnswer};
use crate::protocol::{ErrorCode, paths};
use crate::server::ServerEvent;
use crate::server::live::{Caller, Device, Live, request};
use crate::server::rotated::accept;
use axum::body::Body;
use http::Method;

pub(crate) fn statement(identity: &Identity, old: Fingerprint) -> Former {
    Former { fingerprint: old, signature: identity.proof_of_former(&old).unwrap() }
}

pub(crate) async fn say(caller: &mut Caller, formerly: Vec<Former>) -> RotatedAnswer {
    let said = Rotated { v: ROTATION_VERSION, formerly, expected: None };
    caller.post(paths::ROTATED, &said).await.ok().json()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_certificate_signed_with_the_old_key_keeps_everything_and_the_old_one_is_out() {
    let mut live = Live::start();
    let mut device = live.paired("laptop", Rights::of_a_paired_device());
    let mut before = live.caller(&device).await;
    let first = before.back_up(&device, "Documents", b"first").await;
    let old_config = Device { identity: device.identity.clone(), folder: tempfile::tempdir().unwrap() };
    let old = device.fingerprint();
    device.rotate();

    let mut caller = live.caller(&device).await;
    assert_eq!(caller.get(paths::SNAPSHOTS).await.code(), ErrorCode::NotPaired, "who it was has not been proved");
    let good = statement(&device.identity, old);
    assert!(say(&mut caller, vec![good.clone()]).await.accepted);
    let listing: Listing = caller.get(paths::SNAPSHOTS).await.ok().json();
    assert_eq!(listing.repositories[0].snapshots[0].id, first.id);
    assert!(matches!(listing.repositories[0].owner_log[..], [OwnerEvent::Create { .. }, OwnerEvent::Rotate { .. }]));
    caller.back_up(&device, "Documents", b"second").await;

    let cut = before.try_send(request(Method::GET, paths::SNAPSHOTS, None, Body::empty())).await;
    assert!(cut.is_err(), "what the old certificate had open is gone");
    assert_eq!(live.caller(&old_config).await.get(paths::SNAPSHOTS).await.code(), ErrorCode::NotPaired);
    let rotated = live.event(|event| match event {
        ServerEvent::Rotated { was, fingerprint, .. } => Some((was, fingerprint)),
        _ => None,
    });
    assert_eq!(rotated.await, (old, device.fingerprint()));
    // Said again, it changes nothing.
    assert!(say(&mut caller, vec![good]).await.accepted);
    assert_eq!(live.store.owned_by(&device.fingerprint()).unwrap().owner_log().len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_but_the_device_itself_gets_in_by_a_statement() {
    let live = Live::start();
    let mut device = live.paired("laptop", Rights::of_a_paired_device());
    let other = live.paired("other", Rights::of_a_paired_device());
    let first = device.fingerprint();
    device.rotate();
    let (second, seen) = (device.fingerprint(), statement(&device.identity, first));
    // Stolen: what it was in between, with its key.
    let thief_in_between = Device { identity: device.identity.clone(), folder: tempfile::tempdir().unwrap() };
    let mut caller = live.caller(&device).await;

    let mut thief = Device::new();
    let own_former = thief.fingerprint();
    thief.rotate();
    let mut thiefs = live.caller(&thief).await;
    let forged = Former { fingerprint: first, signature: statement(&thief.identity, own_former).signature };
    for formerly in [
        vec![],
        vec![seen.clone()],
        vec![forged],
        vec![Former { fingerprint: first, signature: "00".repeat(64) }],
        vec![Former { fingerprint: first, signature: "not hex".to_owned() }],
        vec![Former { fingerprint: other.fingerprint(), signature: seen.signature.clone() }],
        vec![statement(&thief.identity, own_former)],
    ] {
        assert!(!say(&mut thiefs, formerly.clone()).await.accepted, "{formerly:?}");
    }
    let many = Rotated { v: ROTATION_VERSION, formerly: vec![seen.clone(); MAX_FORMER + 1], expected: None };
    let refused = thiefs.post(paths::ROTATED, &many).await.code();
    assert!(matches!(refused, ErrorCode::BadRequest | ErrorCode::TooLarge), "{refused:?}");
    assert!(live.trust.find(&first).is_some() && live.trust.find(&thief.fingerprint()).is_none());

    // The device changes twice more; what was stolen on the way, with the statements seen on the wire, is worth nothing.
    assert!(say(&mut caller, vec![seen.clone()]).await.accepted);
    device.rotate();
    let mut caller = live.caller(&device).await;
    let all = vec![statement(&device.identity, second), statement(&device.identity, first)];
    assert!(say(&mut caller, all.clone()).await.accepted);
    let mut stolen = live.caller(&thief_in_between).await;
    let third = device.fingerprint();
    let as_third = Former { fingerprint: third, signature: seen.signature.clone() };
    assert!(!say(&mut stolen, vec![seen, as_third, all[0].clone(), all[1].clone()]).await.accepted);
    assert_eq!(stolen.get(paths::SNAPSHOTS).await.code(), ErrorCode::NotPaired);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_was_unpaired_does_not_come_back_by_a_new_certificate() {
    let live = Live::start();
    let mut device = live.paired("laptop", Rights::of_a_paired_device());
    let old = device.fingerprint();
    assert!(live.handle.unpair(&old).unwrap());
    device.rotate();
    let mut caller = live.caller(&device).await;
    assert!(!say(&mut caller, vec![statement(&device.identity, old)]).await.accepted);
    assert_eq!(caller.get(paths::SNAPSHOTS).await.code(), ErrorCode::NotPaired);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_that_is_unpaired_while_it_brings_its_new_certificate_is_not_accepted() {
    let live = Live::start();
    let mut device = live.paired("laptop", Rights::of_a_paired_device());
    let (old, trust) = (device.fingerprint(), live.trust.find(&device.fingerprint()).unwrap());
    device.rotate();
    let (new, signature) = (device.fingerprint(), statement(&device.identity, old).signature);
    // It was looked up already when the person said so.
    assert!(live.handle.unpair(&old).unwrap());
    let shared = &live.handle.shared;
    assert!(!accept(shared, trust.clone(), new, signature.clone()).await.unwrap());
    assert!(live.trust.find(&new).is_none());
    // Of two calls at once the second finds it done.
    live.trust.insert(Trust { fingerprint: new, ..trust.clone() }).unwrap();
    assert!(accept(shared, trust, new, signature).await.unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stranger_with_the_name_of_a_paired_device_is_told_of_once() {
    let mut live = Live::start();
    let laptop = live.paired("laptop", Rights::of_a_paired_device());
    let stranger = Device::new();
    let mut caller = live.caller(&stranger).await;
    for name in ["phone", "Laptop", "laptop"] {
        let said = Announcement::of_this_device(Alias::new(name), stranger.fingerprint(), 53317, false);
        caller.post(paths::REGISTER, &said).await.ok();
    }
    let mut honest = live.caller(&laptop).await;
    let said = Announcement::of_this_device(Alias::new("laptop"), laptop.fingerprint(), 53317, false);
    honest.post(paths::REGISTER, &said).await.ok();
    assert!(live.handle.unpair(&laptop.fingerprint()).unwrap());
    let mut told = Vec::new();
    live.event(|event| match event {
        ServerEvent::Impostor { fingerprint, paired, .. } => {
            told.push((fingerprint, paired));
            None
        }
        ServerEvent::Unpaired { .. } => Some(()),
        _ => None,
    })
    .await;
    assert_eq!(told, [(stranger.fingerprint(), laptop.fingerprint())]);
}
