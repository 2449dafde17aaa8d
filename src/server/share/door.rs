//! Who may look: whoever typed the PIN, from the address it was typed at.
//!
//! A right PIN gives a token that belongs to the caller's address and is made from a key that this run of the program drew, so there
//! is no table of sessions to fill, and none outlives the command. The PIN travels readable, as everything over plain http does; it
//! keeps out whoever does not listen on the line. Wrong guesses are counted for each address and for all together.

use crate::platform::random;
use crate::server::localsend::pin::{Limiter, LocalSendPin, Verdict};
use http::{HeaderMap, header};
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

/// The door of one share.
pub(crate) struct Door {
    pin: Option<LocalSendPin>,
    // The PIN is compared without `-`.
    in_groups: bool,
    key: [u8; 32],
    limiter: Mutex<Limiter>,
}

impl fmt::Debug for Door {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Door(…)")
    }
}

impl Door {
    /// A door that opens to this PIN, or to everybody.
    pub(crate) fn new(pin: Option<LocalSendPin>) -> Self {
        // Without its groups it is what is left of a guess without them; a PIN of little else is compared as it is.
        let ungrouped = pin.as_ref().and_then(LocalSendPin::ungrouped);
        let in_groups = ungrouped.is_some() || pin.is_none();
        Self { pin: ungrouped.or(pin), in_groups, key: random::bytes(), limiter: Mutex::default() }
    }

    /// Whether a PIN is asked for.
    pub(crate) fn has_pin(&self) -> bool {
        self.pin.is_some()
    }

    /// What a caller at this address gets for its guess: its token, or why not.
    pub(crate) fn enter(&self, address: IpAddr, guess: Option<&str>, now: Instant) -> Result<String, Verdict> {
        let Some(pin) = &self.pin else { return Ok(self.token(address)) };
        // As people type it: in groups.
        let between = |c: &char| *c == ' ' || (self.in_groups && *c == '-');
        let guess: Option<String> = guess.map(|guess| guess.chars().filter(|c| !between(c)).collect());
        let mut limiter = self.limiter.lock().unwrap_or_else(PoisonError::into_inner);
        match limiter.check(pin, guess.as_deref(), address.to_canonical(), now) {
            Verdict::Right => Ok(self.token(address)),
            verdict => Err(verdict),
        }
    }

    /// Whether this is the token of that address.
    pub(crate) fn knows(&self, address: IpAddr, token: &str) -> bool {
        // `blake3::Hash` compares in constant time.
        blake3::hash(token.as_bytes()) == blake3::hash(self.token(address).as_bytes())
    }

    fn token(&self, address: IpAddr) -> String {
        let hash = blake3::keyed_hash(&self.key, address.to_canonical().to_string().as_bytes());
        hash.to_hex()[..32].to_owned()
    }

    /// What the form of our page says, and no page of somebody else's knows: so none spends a person's guesses.
    pub(crate) fn mark(&self, address: IpAddr) -> String {
        blake3::keyed_hash(&self.key, format!("form {}", address.to_canonical()).as_bytes()).to_hex()[..32].to_owned()
    }
}

/// Whether a request was made for an address, not for a name that somebody lets point here (DNS rebinding): then a page of theirs
/// could read ours.
pub(crate) fn is_for_here(headers: &HeaderMap) -> bool {
    let Some(host) = headers.get(header::HOST).and_then(|host| host.to_str().ok()) else { return false };
    host.parse::<SocketAddr>().is_ok()
        || host.trim_matches(['[', ']']).parse::<IpAddr>().is_ok()
        || host == "localhost"
        || host.strip_prefix("localhost:").is_some_and(|port| port.parse::<u16>().is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (header::HeaderName::from_static(name), value.parse().unwrap())).collect()
    }

    #[test]
    fn a_token_is_good_at_the_address_it_was_given_to_and_in_this_run_only() {
        let (one, other) = (Door::new(None), Door::new(None));
        let (here, there): (IpAddr, IpAddr) = ([10, 0, 0, 1].into(), [10, 0, 0, 2].into());
        let token = one.enter(here, None, Instant::now()).unwrap();
        assert!(one.knows(here, &token) && one.knows("::ffff:10.0.0.1".parse().unwrap(), &token));
        assert!(!one.knows(here, &one.mark(here)), "what everybody may read opens nothing");
        assert!(!one.knows(there, &token) && !other.knows(here, &token) && !one.knows(here, ""));
    }

    #[test]
    fn only_the_pin_opens_and_guesses_are_few() {
        let door = Door::new(Some(LocalSendPin::of("471100")));
        let (address, now): (IpAddr, _) = ([10, 0, 0, 1].into(), Instant::now());
        assert_eq!(door.enter(address, None, now), Err(Verdict::Missing));
        assert!(door.enter(address, Some("471 100"), now).is_ok());
        for _ in 0..3 {
            assert_eq!(door.enter(address, Some("000000"), now), Err(Verdict::Wrong));
        }
        assert_eq!(door.enter(address, Some("471100"), now), Err(Verdict::TooMany));
    }

    #[test]
    fn a_pin_with_groups_opens_however_it_is_typed() {
        let (address, now): (IpAddr, _) = ([10, 0, 0, 1].into(), Instant::now());
        for (pin, right) in [("12-34-56", &["12-34-56", "123456", "12 34 56", "1-23456"][..]), ("--a-", &["--a-"])] {
            let door = Door::new(Some(LocalSendPin::of(pin)));
            for guess in right {
                assert!(door.enter(address, Some(guess), now).is_ok(), "{pin} {guess}");
            }
            for wrong in ["a", "12-34-5"] {
                assert_eq!(door.enter(address, Some(wrong), now), Err(Verdict::Wrong), "{pin} {wrong}");
            }
            assert!(door.enter(address, Some("-"), now).is_err());
        }
    }

    #[test]
    fn names_that_point_here_are_turned_away() {
        for good in ["192.168.1.7:5000", "[fe80::1]:5000", "127.0.0.1", "[::1]", "localhost:80"] {
            assert!(is_for_here(&headers(&[("host", good)])), "{good}");
        }
        for bad in ["evil.example", "evil.example:80", "192.168.1.7.evil.example", "localhost.evil:80", ""] {
            assert!(!is_for_here(&headers(&[("host", bad)])), "{bad}");
        }
        assert!(!is_for_here(&headers(&[])));
    }
}
