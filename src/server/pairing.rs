//! Who may try a PIN, and when: a pure state machine that takes the time as an argument.
//!
//! One window at a time, bound to one certificate: a fresh PIN, [`WINDOW_LIFE`], [`ATTEMPTS`] attempts, one exchange in flight.
//! Devices that ask wait in a short queue; a person (or, with `--accept paired`, this machine by itself) lets the first one in.
//! A window that a person opens by code is bound by nothing but that code, so it works while thousands of others ask.
//!
//! The limits are global on purpose: limits per address fall to whoever has many addresses. A window that opened by itself and
//! was guessed at makes the next one wait 1, 5, 15, then 60 minutes; how many may open in a day is counted in
//! [`allowance`](crate::server::allowance), because that number must survive a restart.
//!
//! `X` is what an exchange keeps between its two messages; the rules do not look into it.

use crate::model::{Alias, Fingerprint, Pin, Rights, ShortCode};
use crate::protocol::pairing::Purpose;
use crate::server::AcceptMode;
use crate::server::approval::Decision;
use crate::server::limits::{DECISION_LIMIT, WAITING_IDLE};
use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

/// How long a PIN may be typed.
pub(crate) const WINDOW_LIFE: Duration = Duration::from_mins(5);
/// Tries for one PIN: an attacker guesses it with a chance of 3 in 1,000,000.
pub(crate) const ATTEMPTS: u8 = 3;
/// Devices that wait for their turn; a person who sees more has another problem.
const MAX_QUEUE: usize = 16;
/// Devices that asked lately, for `pin --for`: some minutes of a flood.
const MAX_RECENT: usize = 4096;
/// Of these, one address fills at most so many.
const MAX_RECENT_PER_ADDRESS: usize = 64;
/// How long `pin --for` finds a device that asked.
const RECENT: Duration = Duration::from_mins(10);
/// A device that was declined is told so for this long, and may ask again after.
const DECLINED: Duration = Duration::from_mins(1);
/// Devices that were declined lately.
const MAX_DECLINED: usize = 256;
/// From `pair/start` to `pair/confirm`: machines do that, no person types in between.
const EXCHANGE_LIFE: Duration = Duration::from_secs(30);
/// After each guessed-at window that opened by itself, in order; the last one stays.
const BACK_OFF: [Duration; 4] =
    [Duration::from_mins(1), Duration::from_mins(5), Duration::from_mins(15), Duration::from_hours(1)];

/// A device that asks to be paired.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Asker {
    /// Its certificate.
    pub(crate) fingerprint: Fingerprint,
    /// What it calls itself.
    pub(crate) alias: Alias,
    /// Where it calls from.
    pub(crate) address: SocketAddr,
    /// What it asks to be allowed.
    pub(crate) rights: Rights,
    /// What it wants to do right after.
    pub(crate) purpose: Option<Purpose>,
}

/// How far a request is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    /// A person has not answered, or others are before it.
    Waiting,
    /// The PIN is on the screen.
    Open,
    /// A person said no, or nobody may be paired here without `pin --for`.
    Declined,
    /// Too many windows opened by themselves today: only `pin --for` helps.
    Exhausted,
}

/// Who opened a window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum OpenedBy {
    /// A person who saw the question, and said this about what the device wants to do right after.
    Answer(Decision),
    /// A person at this device, by code: rights beyond the usual ones were not shown and are not granted.
    Command,
    /// `--accept paired`.
    Itself,
}

/// What the machine wants done next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// Ask a person about this device; then [`Pairing::answered`].
    Ask(Asker),
    /// Open a window for this device if the day's allowance is not used up: [`Pairing::open`], else [`Pairing::exhausted`].
    OpenItself(Asker),
}

/// A window that closed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Closed {
    /// Whose it was.
    pub(crate) asker: Asker,
    /// It closed because the device proved the PIN.
    pub(crate) paired: bool,
}

/// What a device that proved the PIN is allowed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Accepted {
    /// Which device.
    pub(crate) asker: Asker,
    /// Its rights here.
    pub(crate) granted: Rights,
    /// What was said about its purpose.
    pub(crate) by: OpenedBy,
}

#[derive(Debug)]
struct Waiting {
    asker: Asker,
    since: Instant,
    /// Since when a person has been asked about it; its place in the queue is not counted.
    asked: Instant,
    seen: Instant,
}

#[derive(Debug)]
struct Window<X> {
    asker: Asker,
    pin: Pin,
    by: OpenedBy,
    opened: Instant,
    attempts_left: u8,
    exchange: Option<(u64, Instant, X)>,
}

impl<X> Window<X> {
    fn is_over(&self, now: Instant) -> bool {
        let exchanging =
            matches!(&self.exchange, Some((_, since, _)) if now.saturating_duration_since(*since) <= EXCHANGE_LIFE);
        let old = now.saturating_duration_since(self.opened) > WINDOW_LIFE;
        !exchanging && (old || self.attempts_left == 0)
    }

    fn was_guessed_at(&self) -> bool {
        self.by == OpenedBy::Itself && self.attempts_left < ATTEMPTS
    }
}

/// The machine.
#[derive(Debug)]
pub(crate) struct Pairing<X> {
    mode: AcceptMode,
    asked: Option<Waiting>,
    queue: VecDeque<Waiting>,
    window: Option<Window<X>>,
    recent: VecDeque<(Asker, Instant)>,
    declined: VecDeque<(Fingerprint, Instant)>,
    voided: usize,
    not_before: Option<Instant>,
    exhausted_until: Option<Instant>,
}

impl<X> Pairing<X> {
    /// Nobody asks yet.
    pub(crate) fn new(mode: AcceptMode) -> Self {
        Self {
            mode,
            asked: None,
            queue: VecDeque::new(),
            window: None,
            recent: VecDeque::new(),
            declined: VecDeque::new(),
            voided: 0,
            not_before: None,
            exhausted_until: None,
        }
    }

    /// A device asks, or asks again what became of it.
    pub(crate) fn request(&mut self, asker: Asker, now: Instant) -> Standing {
        self.remember(&asker, now);
        let fingerprint = asker.fingerprint;
        if self.window.as_ref().is_some_and(|w| w.asker.fingerprint == fingerprint && w.attempts_left > 0) {
            return Standing::Open;
        }
        self.declined.retain(|(_, at)| now.saturating_duration_since(*at) <= DECLINED);
        if self.mode == AcceptMode::Never || self.declined.iter().any(|(f, _)| *f == fingerprint) {
            return Standing::Declined;
        }
        if self.exhausted_until.is_some_and(|until| now < until) {
            return Standing::Exhausted;
        }
        let known = self.asked.iter_mut().chain(&mut self.queue).find(|w| w.asker.fingerprint == fingerprint);
        if let Some(waiting) = known {
            waiting.seen = now;
        } else if self.queue.len() < MAX_QUEUE {
            self.queue.push_back(Waiting { asker, since: now, asked: now, seen: now });
        }
        Standing::Waiting
    }

    /// Seconds and tries that the window of `fingerprint` still has; `None` when there is no such window.
    pub(crate) fn window_left(&self, fingerprint: Fingerprint, now: Instant) -> Option<(u32, u8)> {
        let window = self.window.as_ref().filter(|w| w.asker.fingerprint == fingerprint && !w.is_over(now))?;
        let left = WINDOW_LIFE.saturating_sub(now.saturating_duration_since(window.opened));
        Some((left.as_secs() as u32, window.attempts_left))
    }

    /// What to do next, when there is something: call it after every change.
    pub(crate) fn next(&mut self, now: Instant) -> Option<Next> {
        if self.window.is_some() || self.asked.is_some() {
            return None;
        }
        if self.mode == AcceptMode::Paired && self.not_before.is_some_and(|at| now < at) {
            return None;
        }
        let waiting = self.queue.pop_front()?;
        let asker = waiting.asker.clone();
        self.asked = Some(Waiting { asked: now, ..waiting });
        Some(if self.mode == AcceptMode::Paired { Next::OpenItself(asker) } else { Next::Ask(asker) })
    }

    /// What is on the screen now, and for whom.
    #[cfg(test)]
    pub(crate) fn on_screen(&self) -> Option<(Fingerprint, Pin)> {
        self.window.as_ref().map(|window| (window.asker.fingerprint, window.pin.clone()))
    }

    /// Devices that wait, that asked lately and that were declined.
    #[cfg(test)]
    pub(crate) fn remembered(&self) -> [usize; 3] {
        [self.queue.len(), self.recent.len(), self.declined.len()]
    }

    /// Whether a person is being asked about this device.
    pub(crate) fn is_asked_about(&self, fingerprint: Fingerprint) -> bool {
        self.asked.as_ref().is_some_and(|w| w.asker.fingerprint == fingerprint)
    }

    /// A person answered about `fingerprint`. `true` when that opened its window.
    pub(crate) fn answered(&mut self, fingerprint: Fingerprint, decision: Decision, pin: Pin, now: Instant) -> bool {
        if !self.is_asked_about(fingerprint) {
            return false;
        }
        if decision == Decision::Decline {
            self.decline(fingerprint, now);
            return false;
        }
        self.open(fingerprint, OpenedBy::Answer(decision), pin, now)
    }

    /// Opens the window of the device that is asked about.
    pub(crate) fn open(&mut self, fingerprint: Fingerprint, by: OpenedBy, pin: Pin, now: Instant) -> bool {
        let Some(waiting) = self.asked.take_if(|w| w.asker.fingerprint == fingerprint) else { return false };
        self.put_window(waiting.asker, by, pin, now);
        true
    }

    /// Lets the device that is asked about go.
    pub(crate) fn decline(&mut self, fingerprint: Fingerprint, now: Instant) {
        self.asked.take_if(|w| w.asker.fingerprint == fingerprint);
        self.queue.retain(|w| w.asker.fingerprint != fingerprint);
        if self.declined.len() >= MAX_DECLINED {
            self.declined.pop_front();
        }
        self.declined.push_back((fingerprint, now));
    }

    /// The day's allowance of windows that open by themselves is used up until `until`: nobody waits in vain.
    pub(crate) fn exhausted(&mut self, until: Instant) {
        self.exhausted_until = Some(until);
        self.asked = None;
        self.queue.clear();
    }

    /// A person opens a window: for the device with this code that asked lately, or without a code for the one that waits
    /// longest. Takes the place of any other window. `None` when nobody fits; else the device, and the window that had to go.
    pub(crate) fn open_by_person(
        &mut self,
        code: Option<&ShortCode>,
        pin: Pin,
        now: Instant,
    ) -> Option<(Asker, Option<Closed>)> {
        self.recent.retain(|(_, at)| now.saturating_duration_since(*at) <= RECENT);
        let asker = if let Some(code) = code {
            self.recent.iter().rev().map(|(a, _)| a).find(|a| a.fingerprint.short_code() == *code)
        } else {
            let waiting = self.asked.iter().chain(&self.queue).min_by_key(|w| w.since).map(|w| &w.asker);
            // With `--accept never` nobody waits, but who asked last is still known.
            waiting.or_else(|| self.recent.back().map(|(asker, _)| asker))
        };
        let asker = asker?.clone();
        let closed = self.window.take().map(|window| Closed { asker: window.asker, paired: false });
        let fingerprint = asker.fingerprint;
        self.asked.take_if(|w| w.asker.fingerprint == fingerprint);
        self.queue.retain(|w| w.asker.fingerprint != fingerprint);
        self.declined.retain(|(f, _)| *f != fingerprint);
        self.put_window(asker.clone(), OpenedBy::Command, pin, now);
        Some((asker, closed))
    }

    /// Counts an attempt and gives what the exchange needs; `None` costs nothing. An exchange of the same device that was
    /// under way is over.
    pub(crate) fn begin_exchange(&mut self, fingerprint: Fingerprint, now: Instant) -> Option<(Pin, Asker)> {
        let window = self.window.as_mut().filter(|w| w.asker.fingerprint == fingerprint)?;
        let old = now.saturating_duration_since(window.opened) > WINDOW_LIFE;
        if old || window.attempts_left == 0 {
            return None;
        }
        window.attempts_left -= 1;
        window.exchange = None;
        Some((window.pin.clone(), window.asker.clone()))
    }

    /// Keeps what the exchange needs until its second message, which must come on the same connection.
    pub(crate) fn keep_exchange(&mut self, fingerprint: Fingerprint, connection: u64, exchange: X, now: Instant) {
        if let Some(window) = self.window.as_mut().filter(|w| w.asker.fingerprint == fingerprint) {
            window.exchange = Some((connection, now, exchange));
        }
    }

    /// Takes the exchange that was begun by this device on this connection.
    pub(crate) fn take_exchange(&mut self, fingerprint: Fingerprint, connection: u64, now: Instant) -> Option<X> {
        let window = self.window.as_mut().filter(|w| w.asker.fingerprint == fingerprint)?;
        let (_, _, exchange) = window
            .exchange
            .take_if(|(c, since, _)| *c == connection && now.saturating_duration_since(*since) <= EXCHANGE_LIFE)?;
        Some(exchange)
    }

    /// The device proved the PIN: its window closes, and what was accepted holds.
    pub(crate) fn proved(&mut self, fingerprint: Fingerprint) -> Option<Accepted> {
        let window = self.window.take_if(|w| w.asker.fingerprint == fingerprint)?;
        self.voided = 0;
        self.not_before = None;
        self.recent.retain(|(asker, _)| asker.fingerprint != fingerprint);
        let granted = match window.by {
            // The question showed the rights, and a person said yes to them.
            OpenedBy::Answer(_) => window.asker.rights.clone(),
            OpenedBy::Command | OpenedBy::Itself => window.asker.rights.intersection(&Rights::of_a_paired_device()),
        };
        Some(Accepted { asker: window.asker, granted, by: window.by })
    }

    /// Closes what is over and forgets who left. Gives the window that closed.
    pub(crate) fn expire(&mut self, now: Instant) -> Option<Closed> {
        let gone = |w: &Waiting| now.saturating_duration_since(w.seen) > WAITING_IDLE;
        self.queue.retain(|w| !gone(w));
        if let Some(waiting) = self.asked.take_if(|w| gone(w)) {
            tracing::debug!(device = ?waiting.asker.fingerprint, "pairing request given up");
        }
        let unanswered = |w: &Waiting| now.saturating_duration_since(w.asked) > DECISION_LIMIT;
        if let Some(fingerprint) = self.asked.as_ref().filter(|w| unanswered(w)).map(|w| w.asker.fingerprint) {
            self.decline(fingerprint, now);
        }
        let window = self.window.take_if(|w| w.is_over(now))?;
        if window.was_guessed_at() {
            self.not_before = Some(now + BACK_OFF[self.voided.min(BACK_OFF.len() - 1)]);
            self.voided += 1;
        }
        Some(Closed { asker: window.asker, paired: false })
    }

    /// Forgets a device that was unpaired or whose connection is to end.
    pub(crate) fn forget_device(&mut self, fingerprint: Fingerprint) -> Option<Closed> {
        self.asked.take_if(|w| w.asker.fingerprint == fingerprint);
        self.queue.retain(|w| w.asker.fingerprint != fingerprint);
        let window = self.window.take_if(|w| w.asker.fingerprint == fingerprint)?;
        Some(Closed { asker: window.asker, paired: false })
    }

    fn put_window(&mut self, asker: Asker, by: OpenedBy, pin: Pin, now: Instant) {
        self.window = Some(Window { asker, pin, by, opened: now, attempts_left: ATTEMPTS, exchange: None });
    }

    fn remember(&mut self, asker: &Asker, now: Instant) {
        self.recent.retain(|(known, _)| known.fingerprint != asker.fingerprint);
        let address: IpAddr = asker.address.ip();
        let of_address = |(known, _): &&(Asker, Instant)| known.address.ip() == address;
        if self.recent.iter().filter(of_address).count() >= MAX_RECENT_PER_ADDRESS {
            if let Some(at) = self.recent.iter().position(|known| of_address(&known)) {
                self.recent.remove(at);
            }
        } else if self.recent.len() >= MAX_RECENT {
            self.recent.pop_front();
        }
        self.recent.push_back((asker.clone(), now));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asker(n: u16) -> Asker {
        let mut bytes = [7; 32];
        bytes[..2].copy_from_slice(&n.to_be_bytes());
        Asker {
            fingerprint: Fingerprint::from_bytes(bytes),
            alias: Alias::new("laptop"),
            address: SocketAddr::from(([10, 0, (n >> 8) as u8, n as u8], 4000)),
            rights: Rights::of_a_paired_device(),
            purpose: None,
        }
    }

    fn print(n: u16) -> Fingerprint {
        asker(n).fingerprint
    }

    fn pin() -> Pin {
        "123456".parse().unwrap()
    }

    fn seconds(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    fn window_for(n: u16, now: Instant) -> Pairing<()> {
        let mut pairing = Pairing::new(AcceptMode::Ask);
        pairing.request(asker(n), now);
        assert_eq!(pairing.next(now), Some(Next::Ask(asker(n))));
        assert!(pairing.answered(print(n), Decision::Always, pin(), now));
        pairing
    }

    #[test]
    fn who_waited_long_for_its_turn_still_has_the_whole_time_for_an_answer() {
        let start = Instant::now();
        let mut pairing = Pairing::<()>::new(AcceptMode::Ask);
        pairing.request(asker(1), start);
        pairing.request(asker(2), start);
        assert_eq!(pairing.next(start), Some(Next::Ask(asker(1))));
        let mut now = start;
        while now < start + DECISION_LIMIT * 2 {
            now += WAITING_IDLE / 2;
            for n in 1..=2 {
                pairing.request(asker(n), now);
            }
            pairing.expire(now);
            if pairing.next(now) == Some(Next::Ask(asker(2))) {
                break;
            }
        }
        assert_eq!(pairing.request(asker(1), now), Standing::Declined, "nobody answered about the first");
        assert_eq!(pairing.expire(now + seconds(1)), None);
        assert!(pairing.answered(print(2), Decision::Once, pin(), now + seconds(2)));
    }

    #[test]
    fn one_request_at_a_time_is_asked_about_and_the_others_wait_their_turn() {
        let now = Instant::now();
        let mut pairing = Pairing::<()>::new(AcceptMode::Ask);
        for n in 1..=3 {
            assert_eq!(pairing.request(asker(n), now), Standing::Waiting);
        }
        assert_eq!(pairing.next(now), Some(Next::Ask(asker(1))));
        assert_eq!(pairing.next(now), None);
        assert!(!pairing.answered(print(2), Decision::Once, pin(), now), "nobody asked about 2");
        assert!(!pairing.answered(print(1), Decision::Decline, pin(), now));
        assert_eq!(pairing.request(asker(1), now), Standing::Declined);
        assert_eq!(pairing.next(now), Some(Next::Ask(asker(2))));
        assert!(pairing.answered(print(2), Decision::Once, pin(), now));
        assert_eq!(pairing.next(now), None, "a window is open");
        assert_eq!(pairing.request(asker(2), now), Standing::Open);
        assert_eq!(pairing.request(asker(3), now), Standing::Waiting);
        assert_eq!(pairing.request(asker(1), now + seconds(61)), Standing::Waiting, "may ask again later");
    }

    #[test]
    fn the_fourth_try_is_refused_and_an_aborted_exchange_costs_one() {
        let now = Instant::now();
        let mut pairing = window_for(1, now);
        assert_eq!(pairing.window_left(print(1), now), Some((300, 3)));
        assert!(pairing.begin_exchange(print(1), now).is_some()); // aborted: nothing follows
        assert!(pairing.begin_exchange(print(1), now).is_some());
        pairing.keep_exchange(print(1), 7, (), now);
        assert!(pairing.begin_exchange(print(1), now).is_some());
        assert_eq!(pairing.take_exchange(print(1), 7, now), None, "a new exchange ends the one before");
        assert!(pairing.begin_exchange(print(1), now).is_none());
        assert_eq!(pairing.expire(now), Some(Closed { asker: asker(1), paired: false }));
    }

    #[test]
    fn only_the_certificate_and_the_connection_of_the_window_get_anywhere() {
        let now = Instant::now();
        let mut pairing = window_for(1, now);
        assert!(pairing.begin_exchange(print(2), now).is_none());
        assert_eq!(pairing.window_left(print(1), now), Some((300, 3)), "a stranger costs nothing");
        pairing.begin_exchange(print(1), now).unwrap();
        pairing.keep_exchange(print(1), 7, (), now);
        assert_eq!(pairing.take_exchange(print(2), 7, now), None);
        assert_eq!(pairing.take_exchange(print(1), 8, now), None);
        assert_eq!(pairing.take_exchange(print(1), 7, now + seconds(31)), None, "too late");
        assert_eq!(pairing.take_exchange(print(1), 7, now), Some(()));
        assert!(pairing.proved(print(2)).is_none());
        assert_eq!(pairing.proved(print(1)).unwrap().by, OpenedBy::Answer(Decision::Always));
        assert!(pairing.begin_exchange(print(1), now).is_none(), "a PIN works once");
    }

    #[test]
    fn a_window_lives_300_seconds_and_a_running_exchange_may_end_after() {
        let now = Instant::now();
        let mut pairing = window_for(1, now);
        assert_eq!(pairing.expire(now + seconds(300)), None);
        pairing.begin_exchange(print(1), now + seconds(299)).unwrap();
        pairing.keep_exchange(print(1), 7, (), now + seconds(299));
        assert_eq!(pairing.expire(now + seconds(310)), None);
        assert!(pairing.begin_exchange(print(1), now + seconds(310)).is_none());
        assert!(pairing.expire(now + seconds(330)).is_some());
    }

    #[test]
    fn windows_that_open_by_themselves_wait_longer_after_each_guess() {
        let mut now = Instant::now();
        let mut pairing = Pairing::<()>::new(AcceptMode::Paired);
        for wait in [60, 300, 900, 3600, 3600] {
            pairing.request(asker(1), now);
            assert_eq!(pairing.next(now), Some(Next::OpenItself(asker(1))));
            assert!(pairing.open(print(1), OpenedBy::Itself, pin(), now));
            for _ in 0..3 {
                pairing.begin_exchange(print(1), now).unwrap();
            }
            assert!(pairing.expire(now).is_some());
            pairing.request(asker(1), now + seconds(wait - 1));
            assert_eq!(pairing.next(now + seconds(wait - 1)), None, "{wait}");
            now += seconds(wait);
        }
        pairing.request(asker(2), now);
        let (opened, _) = pairing.open_by_person(Some(&print(2).short_code()), pin(), now).unwrap();
        assert_eq!(opened.fingerprint, print(2), "a person never waits");
        pairing.proved(print(2)).unwrap();
        pairing.request(asker(3), now);
        assert_eq!(pairing.next(now), Some(Next::OpenItself(asker(1))), "a success ends the waiting");
    }

    #[test]
    fn an_exhausted_day_is_said_at_once_and_a_person_still_opens() {
        let now = Instant::now();
        let mut pairing = Pairing::<()>::new(AcceptMode::Paired);
        pairing.request(asker(1), now);
        assert!(pairing.next(now).is_some());
        pairing.exhausted(now + seconds(1000));
        assert_eq!(pairing.request(asker(1), now), Standing::Exhausted);
        assert!(pairing.next(now).is_none());
        assert!(pairing.open_by_person(Some(&print(1).short_code()), pin(), now).is_some());
        assert_eq!(pairing.request(asker(1), now), Standing::Open);
        assert_eq!(pairing.request(asker(2), now + seconds(1001)), Standing::Waiting);
    }

    #[test]
    fn a_person_finds_the_right_device_by_code_in_a_flood() {
        let now = Instant::now();
        let mut pairing = Pairing::<()>::new(AcceptMode::Ask);
        pairing.request(asker(1), now);
        for n in 2..3000 {
            pairing.request(asker(n), now);
        }
        let mut from_one_address = asker(1);
        for n in 3000..20_000 {
            from_one_address.fingerprint = print(n);
            from_one_address.address = SocketAddr::from(([10, 9, 9, 9], n));
            pairing.request(from_one_address.clone(), now);
        }
        let code = print(1).short_code();
        let (opened, closed) = pairing.open_by_person(Some(&code), pin(), now).unwrap();
        assert_eq!((opened.fingerprint, closed), (print(1), None));
        assert!(pairing.queue.len() <= MAX_QUEUE && pairing.recent.len() <= MAX_RECENT);
        assert!(pairing.open_by_person(Some(&print(60_000).short_code()), pin(), now).is_none(), "never asked");
        let later = now + seconds(601);
        assert!(pairing.open_by_person(Some(&code), pin(), later).is_none(), "asked too long ago");
    }

    #[test]
    fn without_a_code_the_device_that_waits_longest_is_let_in() {
        let now = Instant::now();
        let mut pairing = Pairing::<()>::new(AcceptMode::Ask);
        assert!(pairing.open_by_person(None, pin(), now).is_none());
        pairing.request(asker(5), now);
        pairing.next(now);
        pairing.request(asker(6), now + seconds(1));
        assert_eq!(pairing.open_by_person(None, pin(), now + seconds(1)).unwrap().0.fingerprint, print(5));
        let (next, closed) = pairing.open_by_person(None, pin(), now + seconds(1)).unwrap();
        assert_eq!((next.fingerprint, closed.unwrap().asker.fingerprint), (print(6), print(5)));
        assert!(!pairing.is_asked_about(print(5)), "the question is withdrawn");
    }

    #[test]
    fn with_accept_never_a_device_is_declined_and_a_person_may_still_open() {
        let now = Instant::now();
        let mut pairing = Pairing::<()>::new(AcceptMode::Never);
        assert_eq!(pairing.request(asker(1), now), Standing::Declined);
        assert!(pairing.next(now).is_none());
        assert!(pairing.open_by_person(Some(&print(1).short_code()), pin(), now).is_some());
        assert_eq!(pairing.request(asker(1), now), Standing::Open);
    }

    #[test]
    fn rights_that_no_person_saw_are_not_granted() {
        let now = Instant::now();
        let mut greedy = asker(1);
        greedy.rights.grant(crate::model::Right::RestoreOthers);
        let table = [
            (AcceptMode::Ask, OpenedBy::Answer(Decision::Once), greedy.rights.clone()),
            (AcceptMode::Ask, OpenedBy::Command, Rights::of_a_paired_device()),
            (AcceptMode::Paired, OpenedBy::Itself, Rights::of_a_paired_device()),
        ];
        for (mode, by, granted) in table {
            let mut pairing = Pairing::<()>::new(mode);
            pairing.request(greedy.clone(), now);
            pairing.next(now);
            assert!(pairing.open(print(1), by, pin(), now));
            assert_eq!(pairing.proved(print(1)).unwrap().granted, granted, "{by:?}");
        }
    }

    #[test]
    fn who_stops_asking_loses_its_place_and_its_question() {
        let now = Instant::now();
        let mut pairing = Pairing::<()>::new(AcceptMode::Ask);
        pairing.request(asker(1), now);
        pairing.next(now);
        pairing.request(asker(2), now + seconds(90));
        pairing.expire(now + seconds(96));
        assert!(!pairing.is_asked_about(print(1)));
        assert_eq!(pairing.next(now + seconds(96)), Some(Next::Ask(asker(2))));
    }
}
