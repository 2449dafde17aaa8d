//! Guessing the PIN: by brute force, from many addresses, day after day.

use crate::model::Fingerprint;
use crate::platform::clock::{Clock, ManualClock, SystemClock};
use crate::protocol::pairing::{PairRequest, PairState, WindowState};
use crate::protocol::{ErrorCode, paths};
use crate::server::allowance::WINDOWS_A_DAY;
use crate::server::limits::Pace;
use crate::server::live::pairing::{begin, other_than, try_pin, usual, wait_for_window};
use crate::server::live::{Answer, Caller, Device, Live, Setup, header, long};
use crate::server::pairing::ATTEMPTS;
use crate::server::{AcceptMode, Decision, Scripted};
use std::collections::HashSet;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

/// Answers at once, so that a thousand of them take seconds; the delay has a test of its own.
fn hasty() -> Pace {
    Pace { pairing_reply: Duration::ZERO, ..Pace::STANDARD }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_wrong_pins_open_nothing_and_the_fourth_try_of_a_window_is_refused() {
    // A person who says yes to everything, always.
    let approver = Arc::new(Scripted::always(Decision::Always));
    let live = Live::start_with(Setup { approver, pace: hasty(), ..Setup::default() });
    let receiver = live.identity.fingerprint();
    let guesser = Device::new();
    let mut caller = live.caller(&guesser).await;
    let mut pins = Vec::new();
    let mut guesses = 0;
    while guesses < if long() { 1000 } else { 100 } {
        assert_eq!(wait_for_window(&mut caller, &usual()).await.attempts_left, ATTEMPTS);
        let (shown_for, pin) = live.handle.shared.pairing().on_screen().unwrap();
        assert_eq!(shown_for, guesser.fingerprint());
        for _ in 0..ATTEMPTS {
            let (answer, _) = try_pin(&mut caller, &guesser, receiver, &other_than(&pin)).await;
            assert_eq!(answer.code(), ErrorCode::PairingFailed);
            guesses += 1;
        }
        // Even the right one comes too late now.
        let (_, fourth) = begin(&mut caller, &guesser, receiver, &pin).await;
        assert_eq!(fourth.code(), ErrorCode::PairingBusy);
        pins.push(pin.digits());
    }
    assert!(live.trust.list().is_empty());
    pins.sort();
    pins.dedup();
    assert!(pins.len() >= guesses / usize::from(ATTEMPTS) - 3, "each window has a PIN of its own");
    // The control: what was tried all the time would have worked with the right digits.
    wait_for_window(&mut caller, &usual()).await;
    let (_, pin) = live.handle.shared.pairing().on_screen().unwrap();
    assert!(try_pin(&mut caller, &guesser, receiver, &pin).await.1);
}

/// Asks until a window opens or the answer is no; time passes meanwhile.
async fn window_in_time(live: &Live, device: &Device, caller: &mut Caller, clock: &ManualClock) -> Answer {
    loop {
        // While a window is being opened, no time passes; while the back-off lasts, nothing else happens.
        let opening = live.handle.shared.pairing().is_asked_about(device.fingerprint());
        let request = PairRequest { wait: 30 * u8::from(opening), ..usual() };
        let answer = caller.post(paths::PAIR_REQUEST, &request).await;
        if !answer.status.is_success() || answer.json::<PairState>().state != WindowState::Waiting {
            return answer;
        }
        let pairing = live.handle.shared.pairing();
        let open = pairing.on_screen().is_some_and(|(shown_for, _)| shown_for == device.fingerprint());
        if !open && !pairing.is_asked_about(device.fingerprint()) {
            clock.advance(Duration::from_mins(10));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn twenty_windows_a_day_open_by_themselves_whatever_the_address_and_the_certificate() {
    let clock = Arc::new(ManualClock::new(SystemClock.now()));
    let began = clock.now();
    let (accept, pace) = (AcceptMode::Paired, hasty());
    let live = Live::start_with(Setup { accept, pace, clock: clock.clone(), ..Setup::default() });
    let receiver = live.identity.fingerprint();
    let mut windows = 0;
    let refused = loop {
        // A new device at a new address for each window.
        let (device, address) = (Device::new(), Ipv4Addr::new(127, 1, 0, windows as u8 + 1));
        let mut caller = live.try_caller_from(Some(&device), address).await.unwrap();
        let answer = window_in_time(&live, &device, &mut caller, &clock).await;
        if !answer.status.is_success() {
            break answer;
        }
        windows += 1;
        let (_, pin) = live.handle.shared.pairing().on_screen().unwrap();
        for _ in 0..ATTEMPTS {
            let (answer, _) = try_pin(&mut caller, &device, receiver, &other_than(&pin)).await;
            assert_eq!(answer.code(), ErrorCode::PairingFailed);
        }
        assert!(windows <= WINDOWS_A_DAY, "the twenty-first opened");
    };
    assert_eq!((windows, refused.code()), (WINDOWS_A_DAY, ErrorCode::TooMany));
    let hours = clock.now().duration_since(began).as_hours();
    assert!(hours < 24, "{hours} hours: the back-off alone would not have stopped it in a day");

    // A person lets an honest device in all the same, and it backs up.
    let honest = Device::new();
    let mut caller = live.try_caller_from(Some(&honest), Ipv4Addr::new(127, 2, 0, 1)).await.unwrap();
    assert_eq!(window_in_time(&live, &honest, &mut caller, &clock).await.code(), ErrorCode::TooMany);
    let shown = live.handle.open_window(Some(&honest.fingerprint().short_code())).unwrap();
    assert!(try_pin(&mut caller, &honest, receiver, &shown.pin).await.1);
    caller.prepare(&header("Documents")).await.ok();

    // A day later windows open again.
    clock.advance(Duration::from_hours(25));
    let late = Device::new();
    let mut caller = live.try_caller_from(Some(&late), Ipv4Addr::new(127, 2, 0, 2)).await.unwrap();
    assert_eq!(window_in_time(&live, &late, &mut caller, &clock).await.json::<PairState>().state, WindowState::Open);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_requests_is_bounded_and_a_person_still_opens_the_right_window() {
    let live = Live::start_with(Setup { pace: hasty(), ..Setup::default() });
    let honest = Device::new();
    let mut caller = live.try_caller_from(Some(&honest), Ipv4Addr::new(127, 2, 0, 1)).await.unwrap();
    let at_once = PairRequest { wait: 0, ..usual() };
    let devices: Vec<Device> = (0..40).map(|_| Device::new()).collect();
    let fingerprints: HashSet<Fingerprint> = devices.iter().map(Device::fingerprint).collect();
    for round in 0..if long() { 250 } else { 25_u8 } {
        for (number, device) in devices.iter().enumerate() {
            let address = Ipv4Addr::new(127, 3, round, number as u8 + 1);
            let mut flood = live.try_caller_from(Some(device), address).await.unwrap();
            flood.post(paths::PAIR_REQUEST, &at_once).await.ok();
            // Some begin what they cannot end.
            let (_, begun) = begin(&mut flood, device, live.identity.fingerprint(), &"123456".parse().unwrap()).await;
            assert_eq!(begun.code(), ErrorCode::PairingBusy);
        }
        if round == 0 {
            caller.post(paths::PAIR_REQUEST, &at_once).await.ok();
        }
    }
    let [queued, recent, declined] = live.handle.shared.pairing().remembered();
    assert!(queued <= 16 && recent <= fingerprints.len() + 1 && declined == 0, "{queued} {recent} {declined}");
    let shown = live.handle.open_window(Some(&honest.fingerprint().short_code())).unwrap();
    assert_eq!(shown.fingerprint, honest.fingerprint());
    assert!(try_pin(&mut caller, &honest, live.identity.fingerprint(), &shown.pin).await.1);
    caller.prepare(&header("Documents")).await.ok();
}
