//! The PIN exchange against the real server, by callers that follow the rules and by some that do not.

use crate::identity::pairing::{Transcript, Typist};
use crate::model::{Alias, Fingerprint, Pin, Right, Rights};
use crate::platform::clock::{Clock, SystemClock};
use crate::protocol::pairing::{
    PAIRING_VERSION, PairConfirm, PairConfirmed, PairRequest, PairStart, PairStarted, PairState, Purpose, WindowState,
};
use crate::protocol::{ErrorCode, paths};
use crate::server::allowance::{Allowance, WINDOWS_A_DAY};
use crate::server::limits::PAIRING_REPLY_DELAY;
use crate::server::live::{Answer, Caller, Device, LIMIT, Live, Setup, header, request};
use crate::server::{AcceptMode, Decision, Error, PinShown, Question, Scripted, ServerEvent};
use axum::body::Body;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::{Method, StatusCode};
use std::sync::Arc;
use std::time::Instant;

fn ask(rights: Rights) -> PairRequest {
    let purpose = Some(Purpose { set: "Documents".parse().unwrap(), files: 3, bytes: 7 });
    PairRequest { v: PAIRING_VERSION, alias: Alias::new("laptop"), rights, purpose, wait: 30 }
}

pub(in crate::server::live) fn usual() -> PairRequest {
    ask(Rights::of_a_paired_device())
}

pub(in crate::server::live) fn other_than(pin: &Pin) -> Pin {
    let wrong = if pin.digits() == "000000" { "000001" } else { "000000" };
    wrong.parse().unwrap()
}

async fn shown(live: &mut Live) -> PinShown {
    live.event(|event| match event {
        ServerEvent::PinShown(shown) => Some(shown),
        _ => None,
    })
    .await
}

/// Asks until the window is open or the answer is no.
pub(in crate::server::live) async fn wait_for_window(caller: &mut Caller, request: &PairRequest) -> PairState {
    loop {
        let state: PairState = caller.post(paths::PAIR_REQUEST, request).await.ok().json();
        if state.state != WindowState::Waiting {
            return state;
        }
    }
}

/// One side of the exchange up to its first answer.
pub(in crate::server::live) async fn begin(
    caller: &mut Caller,
    device: &Device,
    shower: Fingerprint,
    pin: &Pin,
) -> (Typist, Answer) {
    let rights = Rights::of_a_paired_device();
    let transcript =
        Transcript { exporter: caller.exporter, typist: device.fingerprint(), shower, rights: rights.clone() };
    let signing_key = device.identity.signing_key().public();
    let (typist, message) = Typist::start(pin, transcript, &signing_key);
    let start = PairStart { v: PAIRING_VERSION, message: STANDARD.encode(message), signing_key, rights };
    (typist, caller.post(paths::PAIR_START, &start).await)
}

/// The whole exchange; the answer to `pair/confirm`, and whether the other side proved the PIN, too.
pub(in crate::server::live) async fn try_pin(
    caller: &mut Caller,
    device: &Device,
    shower: Fingerprint,
    pin: &Pin,
) -> (Answer, bool) {
    let (typist, started) = begin(caller, device, shower, pin).await;
    let started: PairStarted = started.ok().json();
    let (proof, confirmation) = typist.prove(&STANDARD.decode(started.message).unwrap(), &started.signing_key).unwrap();
    let answer = caller.post(paths::PAIR_CONFIRM, &PairConfirm { proof: STANDARD.encode(proof) }).await;
    let confirmed = answer.status.is_success() && {
        let PairConfirmed { proof, fingerprint, .. } = answer.json();
        confirmation.check(&STANDARD.decode(proof).unwrap()).is_ok() && fingerprint == shower
    };
    (answer, confirmed)
}

#[tokio::test(flavor = "multi_thread")]
async fn one_prompt_and_one_pin_pair_a_device_and_settle_its_first_backup() {
    let approver = Arc::new(Scripted::new([Decision::Always]));
    let mut live = Live::start_with(Setup { approver: approver.clone(), ..Setup::default() });
    let device = Device::new();
    let mut caller = live.caller(&device).await;
    let state = wait_for_window(&mut caller, &usual()).await;
    assert_eq!((state.state, state.attempts_left), (WindowState::Open, 3));
    assert_eq!(state.code, device.fingerprint().short_code());
    let shown = shown(&mut live).await;
    assert_eq!(shown.code, state.code);

    let receiver = live.identity.fingerprint();
    let (answer, confirmed) = try_pin(&mut caller, &device, receiver, &shown.pin).await;
    assert!(confirmed, "{answer:?}");
    live.event(|event| matches!(event, ServerEvent::PinGone { paired: true, .. }).then_some(())).await;
    let trust = live.trust.find(&device.fingerprint()).unwrap();
    assert_eq!(trust.signing_key, device.identity.signing_key().public());
    assert_eq!(trust.rights, Rights::of_a_paired_device());

    caller.prepare(&header("Documents")).await.ok();
    assert!(matches!(approver.asked().as_slice(), [Question::Pair { .. }]), "no second prompt");
    // The PIN is worthless now.
    let (_, again) = begin(&mut caller, &device, receiver, &shown.pin).await;
    assert_eq!(again.code(), ErrorCode::PairingBusy);
}

#[tokio::test(flavor = "multi_thread")]
async fn once_settles_the_named_set_and_no_other() {
    let approver = Arc::new(Scripted::new([Decision::Once]));
    let mut live = Live::start_with(Setup { approver: approver.clone(), ..Setup::default() });
    let device = Device::new();
    let mut caller = live.caller(&device).await;
    wait_for_window(&mut caller, &usual()).await;
    let pin = shown(&mut live).await.pin;
    assert!(try_pin(&mut caller, &device, live.identity.fingerprint(), &pin).await.1);
    assert!(live.trust.find(&device.fingerprint()).unwrap().sets.is_empty());
    caller.prepare(&header("Documents")).await.ok();
    assert_eq!(caller.prepare(&header("Photos")).await.status, StatusCode::ACCEPTED);
}

#[tokio::test(flavor = "multi_thread")]
async fn three_wrong_pins_void_the_window_and_all_failures_look_and_last_the_same() {
    let approver = Arc::new(Scripted::new([Decision::Once]));
    let mut live = Live::start_with(Setup { approver, ..Setup::default() });
    let device = Device::new();
    let receiver = live.identity.fingerprint();
    let mut caller = live.caller(&device).await;
    wait_for_window(&mut caller, &usual()).await;
    let pin = shown(&mut live).await.pin;
    let wrong = other_than(&pin);

    // A wrong PIN.
    let began = Instant::now();
    let (first, _) = try_pin(&mut caller, &device, receiver, &wrong).await;
    assert!(began.elapsed() >= PAIRING_REPLY_DELAY * 2);
    assert_eq!(first.code(), ErrorCode::PairingFailed);
    // The right one, confirmed on another connection than it was begun on.
    let (typist, started) = begin(&mut caller, &device, receiver, &pin).await;
    let started: PairStarted = started.ok().json();
    let (proof, _) = typist.prove(&STANDARD.decode(started.message).unwrap(), &started.signing_key).unwrap();
    let mut other = live.caller(&device).await;
    let second = other.post(paths::PAIR_CONFIRM, &PairConfirm { proof: STANDARD.encode(&proof) }).await;
    // The right one through somebody in between: the two connections have different exporters.
    let real = std::mem::replace(&mut caller.exporter, [7; 32]);
    let (third, confirmed) = try_pin(&mut caller, &device, receiver, &pin).await;
    caller.exporter = real;
    assert!(!confirmed);
    for answer in [&second, &third] {
        assert_eq!((answer.status, &answer.body), (first.status, &first.body));
    }
    // The fourth is refused, with the right PIN too.
    let (_, fourth) = begin(&mut caller, &device, receiver, &pin).await;
    assert_eq!(fourth.code(), ErrorCode::PairingBusy);
    assert!(live.trust.list().is_empty());
    live.event(|event| matches!(event, ServerEvent::PinGone { paired: false, .. }).then_some(())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_accepted_for_one_certificate_is_of_no_use_to_another() {
    let approver = Arc::new(Scripted::new([Decision::Always]));
    let mut live = Live::start_with(Setup { approver, ..Setup::default() });
    let (device, thief) = (Device::new(), Device::new());
    wait_for_window(&mut live.caller(&device).await, &usual()).await;
    let pin = shown(&mut live).await.pin;
    let mut caller = live.caller(&thief).await;
    let (_, answer) = begin(&mut caller, &thief, live.identity.fingerprint(), &pin).await;
    assert_eq!(answer.code(), ErrorCode::PairingBusy);
    let state: PairState = live.caller(&device).await.post(paths::PAIR_REQUEST, &usual()).await.ok().json();
    assert_eq!(state.attempts_left, 3, "it cost nothing");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_no_is_a_no_and_rights_that_were_not_asked_for_fail() {
    let approver = Arc::new(Scripted::new([Decision::Decline, Decision::Once]));
    let mut live = Live::start_with(Setup { approver: approver.clone(), ..Setup::default() });
    let device = Device::new();
    let mut caller = live.caller(&device).await;
    assert_eq!(wait_for_window(&mut caller, &usual()).await.state, WindowState::Declined);

    let second = Device::new();
    let mut caller = live.caller(&second).await;
    let mut more = Rights::of_a_paired_device();
    more.grant(Right::RestoreOthers);
    wait_for_window(&mut caller, &ask(more.clone())).await;
    assert!(matches!(&approver.asked()[1], Question::Pair { rights, .. } if *rights == more), "the person sees them");
    let pin = shown(&mut live).await.pin;
    // `begin` asks for the usual ones: not what the person was shown.
    let (_, answer) = begin(&mut caller, &second, live.identity.fingerprint(), &pin).await;
    assert_eq!(answer.code(), ErrorCode::PairingFailed);
}

#[tokio::test(flavor = "multi_thread")]
async fn windows_that_open_by_themselves_are_counted_and_a_person_is_exempt() {
    let mut live = Live::start_with(Setup { accept: AcceptMode::Paired, ..Setup::default() });
    let device = Device::new();
    let mut caller = live.caller(&device).await;
    wait_for_window(&mut caller, &usual()).await;
    let pin = shown(&mut live).await.pin;
    assert!(try_pin(&mut caller, &device, live.identity.fingerprint(), &pin).await.1);
    caller.prepare(&header("Photos")).await.ok();

    let allowance = Allowance::new(&live.folder.path().join("state"));
    for _ in 1..WINDOWS_A_DAY {
        assert_eq!(allowance.take(SystemClock.now()).unwrap(), Ok(()), "one was used");
    }
    let late = Device::new();
    let mut caller = live.caller(&late).await;
    let answer = tokio::time::timeout(LIMIT, async {
        loop {
            let answer = caller.post(paths::PAIR_REQUEST, &usual()).await;
            if !answer.status.is_success() {
                return answer;
            }
            assert_eq!(answer.json::<PairState>().state, WindowState::Waiting);
        }
    });
    assert_eq!(answer.await.unwrap().code(), ErrorCode::TooMany);
    let shown = live.handle.open_window(Some(&late.fingerprint().short_code())).unwrap();
    assert_eq!(wait_for_window(&mut caller, &usual()).await.state, WindowState::Open);
    assert!(try_pin(&mut caller, &late, live.identity.fingerprint(), &shown.pin).await.1);
}

#[tokio::test(flavor = "multi_thread")]
async fn with_accept_never_only_a_person_at_this_device_lets_anybody_in() {
    let live = Live::start_with(Setup { accept: AcceptMode::Never, ..Setup::default() });
    let device = Device::new();
    let code = device.fingerprint().short_code();
    assert!(matches!(live.handle.open_window(Some(&code)), Err(Error::NobodyAsks { .. })));
    let mut caller = live.caller(&device).await;
    assert_eq!(wait_for_window(&mut caller, &usual()).await.state, WindowState::Declined);
    let shown = live.handle.open_window(None).unwrap();
    assert_eq!(wait_for_window(&mut caller, &usual()).await.state, WindowState::Open);
    assert!(try_pin(&mut caller, &device, live.identity.fingerprint(), &shown.pin).await.1);
    caller.prepare(&header("Documents")).await.ok();
    assert_eq!(caller.prepare(&header("Photos")).await.code(), ErrorCode::Declined);
}

#[tokio::test(flavor = "multi_thread")]
async fn large_and_malformed_pairing_bodies_are_refused() {
    let live = Live::start();
    let mut caller = live.caller(&Device::new()).await;
    let large = request(Method::POST, paths::PAIR_REQUEST, None, Body::from(vec![b' '; (8 << 10) + 1]));
    assert_eq!(caller.send(large).await.code(), ErrorCode::TooLarge);
    let mut caller = live.caller(&Device::new()).await;
    let future = PairRequest { v: 2, ..usual() };
    assert_eq!(caller.post(paths::PAIR_REQUEST, &future).await.code(), ErrorCode::UnknownFeature);
}
