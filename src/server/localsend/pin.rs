//! The PIN of the LocalSend door: a person's own choice, kept in a file, and never the pairing PIN.
//!
//! It travels readable to whoever sits in the middle, so it keeps out the neighbours' children and no more. Wrong guesses are
//! counted for each address and, because addresses cost nothing, for all together; both counts decay. A missing PIN is a question
//! ("is there one?") and costs nothing. Devices that a person said *always* to are known by certificate and not asked.

use crate::platform::fs;
use std::collections::HashMap;
use std::fmt;
use std::net::IpAddr;
use std::path::Path;
use std::time::{Duration, Instant};

/// Wrong guesses of one address before it has to wait.
pub(crate) const TRIES_PER_ADDRESS: u32 = 3;
/// Wrong guesses of all addresses together before everybody has to wait.
pub(crate) const TRIES_IN_ALL: u32 = 20;
/// One guess is forgiven after this long: 3 at once and 144 a day for an address, 20 at once and 1,440 a day for all.
pub(crate) const FORGIVEN_AFTER: Duration = Duration::from_mins(10);
/// The same for the count of all.
pub(crate) const FORGIVEN_IN_ALL_AFTER: Duration = Duration::from_mins(1);
/// Addresses that are remembered; the least guilty goes first.
const MAX_ADDRESSES: usize = 1024;
/// A PIN has 4 to 32 characters: apps show a field for digits, some for any text.
const LENGTHS: std::ops::RangeInclusive<usize> = 4..=32;

/// The PIN. `Debug` hides it.
#[derive(Clone, PartialEq, Eq)]
pub struct LocalSendPin(String);

impl LocalSendPin {
    /// Digits that this program drew.
    pub fn of(digits: &str) -> Self {
        Self(digits.to_owned())
    }

    /// The first line of a file.
    ///
    /// # Errors
    /// The disk's, or a sentence when it is no PIN.
    pub fn read(path: &Path) -> Result<Self, String> {
        let text = fs::read_to_string(path).map_err(|error| format!("{error}: {}", error.source))?;
        let line = text.lines().next().unwrap_or_default().trim();
        if !LENGTHS.contains(&line.len()) || !line.chars().all(|c| c.is_ascii_graphic()) {
            return Err(format!("the first line of `{}` is not a PIN of 4 to 32 letters or digits", path.display()));
        }
        Ok(Self(line.to_owned()))
    }

    /// Without the `-` that people put between groups; `None` when that would leave less than a PIN.
    pub(crate) fn ungrouped(&self) -> Option<Self> {
        let rest = self.0.replace('-', "");
        LENGTHS.contains(&rest.len()).then_some(Self(rest))
    }

    /// Compared so that the time taken tells nothing.
    fn is(&self, guess: &str) -> bool {
        let hash = |text: &str| blake3::hash(text.as_bytes());
        // `blake3::Hash` compares in constant time.
        hash(&self.0) == hash(guess)
    }
}

impl fmt::Debug for LocalSendPin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LocalSendPin(…)")
    }
}

/// What a guess gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Right.
    Right,
    /// There was none: 401, not counted.
    Missing,
    /// Wrong: 401, counted.
    Wrong,
    /// Nobody looks at it: 429.
    TooMany,
}

/// A count that shrinks by one in each `period`.
#[derive(Clone, Copy, Debug)]
struct Count {
    guesses: u32,
    since: Instant,
}

impl Count {
    fn now(&mut self, period: Duration, now: Instant) -> u32 {
        let periods = now.saturating_duration_since(self.since).as_secs() / period.as_secs().max(1);
        let forgiven = u32::try_from(periods).unwrap_or(u32::MAX);
        if forgiven >= self.guesses {
            (self.guesses, self.since) = (0, now);
        } else {
            self.guesses -= forgiven;
            self.since += period * forgiven;
        }
        self.guesses
    }

    fn add(&mut self, now: Instant) {
        if self.guesses == 0 {
            self.since = now;
        }
        self.guesses += 1;
    }
}

/// Counts wrong guesses. Time comes in as an argument.
#[derive(Debug, Default)]
pub(crate) struct Limiter {
    addresses: HashMap<IpAddr, Count>,
    all: Option<Count>,
}

impl Limiter {
    /// What `guess` from `address` gets.
    pub(crate) fn check(&mut self, pin: &LocalSendPin, guess: Option<&str>, address: IpAddr, now: Instant) -> Verdict {
        let Some(guess) = guess.filter(|guess| !guess.is_empty()) else { return Verdict::Missing };
        let fresh = Count { guesses: 0, since: now };
        let all = self.all.get_or_insert(fresh);
        let own = self.addresses.get_mut(&address).map_or(0, |count| count.now(FORGIVEN_AFTER, now));
        if own >= TRIES_PER_ADDRESS || all.now(FORGIVEN_IN_ALL_AFTER, now) >= TRIES_IN_ALL {
            return Verdict::TooMany;
        }
        if pin.is(guess) {
            self.addresses.remove(&address);
            return Verdict::Right;
        }
        all.add(now);
        self.addresses.retain(|_, count| count.now(FORGIVEN_AFTER, now) > 0);
        if self.addresses.len() >= MAX_ADDRESSES
            && let Some(least) =
                self.addresses.iter().min_by_key(|(_, count)| count.guesses).map(|(address, _)| *address)
        {
            self.addresses.remove(&least);
        }
        self.addresses.entry(address).or_insert(fresh).add(now);
        Verdict::Wrong
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pin() -> LocalSendPin {
        LocalSendPin("4711".to_owned())
    }

    fn address(n: u8) -> IpAddr {
        [10, 0, 0, n].into()
    }

    #[test]
    fn three_wrong_guesses_of_an_address_cost_ten_minutes_each() {
        let (mut limiter, now) = (Limiter::default(), Instant::now());
        for _ in 0..9 {
            assert_eq!(limiter.check(&pin(), None, address(1), now), Verdict::Missing);
            assert_eq!(limiter.check(&pin(), Some(""), address(1), now), Verdict::Missing);
        }
        for _ in 0..TRIES_PER_ADDRESS {
            assert_eq!(limiter.check(&pin(), Some("0000"), address(1), now), Verdict::Wrong);
        }
        assert_eq!(limiter.check(&pin(), Some("4711"), address(1), now), Verdict::TooMany, "even the right one");
        assert_eq!(limiter.check(&pin(), Some("4711"), address(2), now), Verdict::Right);
        let later = now + FORGIVEN_AFTER;
        assert_eq!(limiter.check(&pin(), Some("0000"), address(1), later), Verdict::Wrong, "one try is back");
        assert_eq!(limiter.check(&pin(), Some("4711"), address(1), later), Verdict::TooMany);
        assert_eq!(limiter.check(&pin(), Some("4711"), address(1), later + FORGIVEN_AFTER), Verdict::Right);
    }

    #[test]
    fn many_addresses_share_one_count_that_decays() {
        let (mut limiter, now) = (Limiter::default(), Instant::now());
        let mut wrong = 0;
        for n in 0..=255 {
            wrong += u32::from(limiter.check(&pin(), Some("0000"), address(n), now) == Verdict::Wrong);
        }
        assert_eq!(wrong, TRIES_IN_ALL);
        assert_eq!(limiter.check(&pin(), Some("4711"), address(7), now), Verdict::TooMany);
        let later = now + FORGIVEN_IN_ALL_AFTER;
        assert_eq!(limiter.check(&pin(), Some("4711"), address(200), later), Verdict::Right);
        let mut limiter = Limiter::default();
        let mut all = 0;
        for hour in 0..24_u32 {
            for n in 0..3000_u32 {
                let address = IpAddr::from((0x0a00_0000_u32 + hour * 3000 + n).to_be_bytes());
                let at = now + Duration::from_hours(u64::from(hour));
                all += u32::from(limiter.check(&pin(), Some("0000"), address, at) == Verdict::Wrong);
            }
        }
        assert!(all <= 24 * TRIES_IN_ALL && limiter.addresses.len() <= MAX_ADDRESSES);
    }

    #[test]
    fn a_pin_is_read_from_a_file_and_never_formatted() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pin");
        std::fs::write(&path, "4711\nsomething else\n").unwrap();
        let read = LocalSendPin::read(&path).unwrap();
        assert_eq!(read, pin());
        assert!(!format!("{read:?}").contains("4711"));
        for bad in ["", "12", "1 2 3 4", &"1".repeat(33)] {
            std::fs::write(&path, bad).unwrap();
            let error = LocalSendPin::read(&path).unwrap_err();
            assert!(bad.is_empty() || !error.contains(&format!("{bad:?}")), "{error}");
        }
        assert!(LocalSendPin::read(&folder.path().join("none")).is_err());
    }
}
