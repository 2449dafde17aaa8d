//! What of all that arrives is looked at, and what of that is answered. Pure: time comes in as an argument.
//!
//! A datagram costs its sender nothing and can name any source and any port, so hearing one must cost us little and must
//! never make us a tool against others. Three fences: a rate (one bucket for each source, one for all), nearness (only
//! sources on the link it came from are answered, so no forged datagram makes us call the internet), and one connect-back
//! per source in 30 seconds. A full table refuses the new source instead of forgetting an old one: forgetting would let a
//! flood of forged sources have itself answered again and again.

use crate::platform::interfaces::{Subnet, is_link_local, is_private};
use std::collections::HashMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

/// A source is called back at most once in this time (security.md, UDP).
pub(crate) const CONNECT_BACK_EVERY: Duration = Duration::from_secs(30);
/// Sources remembered at once; a /22 full of devices. Also bounds all connect-backs in 30 seconds.
const MAX_SOURCES: usize = 1024;
/// Datagrams looked at in a second, from everybody: a hundred devices starting at once send 300, and parsing 2,000 takes
/// a few milliseconds.
const DATAGRAMS_PER_SECOND: f64 = 2000.0;
/// Datagrams looked at in a second from one source: a device with several processes sends a burst of three each.
const SOURCE_DATAGRAMS_PER_SECOND: f64 = 20.0;
/// A public network is near only when it is at least this small: a campus, not an eighth of the internet.
const WIDEST_PUBLIC_PREFIX: u8 = 16;

/// Whether a datagram from `source`, heard on a link with these own addresses, is from a device on that link.
pub(crate) fn is_on_link(source: IpAddr, link: &[Subnet]) -> bool {
    if source.is_unspecified() || source.is_multicast() {
        return false;
    }
    let wide_enough = |net: &Subnet| is_private(source) || net.prefix >= WIDEST_PUBLIC_PREFIX;
    let same_family = link.iter().any(|net| net.address.is_ipv4() == source.is_ipv4());
    (is_link_local(source) && same_family) || link.iter().any(|net| net.contains(source) && wide_enough(net))
}

/// Tokens that come back with time; a burst of one second's worth is let through.
#[derive(Debug)]
struct Bucket {
    per_second: f64,
    tokens: f64,
    at: Instant,
}

impl Bucket {
    fn new(per_second: f64, now: Instant) -> Self {
        Self { per_second, tokens: per_second, at: now }
    }

    fn take(&mut self, now: Instant) -> bool {
        let gained = now.saturating_duration_since(self.at).as_secs_f64() * self.per_second;
        self.tokens = (self.tokens + gained).min(self.per_second);
        self.at = self.at.max(now);
        let enough = self.tokens >= 1.0;
        if enough {
            self.tokens -= 1.0;
        }
        enough
    }

    fn is_full(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.at).as_secs_f64() >= 1.0
    }
}

/// The rate and connect-back limits.
#[derive(Debug)]
pub(crate) struct Gate {
    all: Bucket,
    by_source: HashMap<IpAddr, Bucket>,
    called_back: HashMap<IpAddr, Instant>,
}

impl Gate {
    pub(crate) fn new(now: Instant) -> Self {
        Self { all: Bucket::new(DATAGRAMS_PER_SECOND, now), by_source: HashMap::new(), called_back: HashMap::new() }
    }

    /// Whether one more datagram from `source` is looked at. Processes on this machine share its addresses, so these
    /// have no limit of their own.
    pub(crate) fn may_read(&mut self, source: IpAddr, own_machine: bool, now: Instant) -> bool {
        if !own_machine {
            let new = || Bucket::new(SOURCE_DATAGRAMS_PER_SECOND, now);
            if !make_room(&mut self.by_source, &source, |bucket| bucket.is_full(now))
                || !self.by_source.entry(source).or_insert_with(new).take(now)
            {
                return false;
            }
        }
        self.all.take(now)
    }

    /// Whether `source` may be called back now; a yes is used up.
    pub(crate) fn may_call_back(&mut self, source: IpAddr, now: Instant) -> bool {
        let is_over = |at: &Instant| now.saturating_duration_since(*at) >= CONNECT_BACK_EVERY;
        if !make_room(&mut self.called_back, &source, is_over)
            || self.called_back.get(&source).is_some_and(|at| !is_over(at))
        {
            return false;
        }
        self.called_back.insert(source, now);
        true
    }
}

/// Whether `key` has a place in a table of at most [`MAX_SOURCES`]; what `is_spent` leaves first when it is full.
fn make_room<V>(map: &mut HashMap<IpAddr, V>, key: &IpAddr, is_spent: impl Fn(&V) -> bool) -> bool {
    if map.len() >= MAX_SOURCES && !map.contains_key(key) {
        map.retain(|_, value| !is_spent(value));
    }
    map.len() < MAX_SOURCES || map.contains_key(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn link(texts: &[&str]) -> Vec<Subnet> {
        let parse = |text: &&str| {
            let (address, prefix) = text.split_once('/').unwrap();
            Subnet { address: ip(address), prefix: prefix.parse().unwrap() }
        };
        texts.iter().map(parse).collect()
    }

    #[test]
    fn the_numbers_are_those_of_the_document() {
        let (source, all) = (SOURCE_DATAGRAMS_PER_SECOND, DATAGRAMS_PER_SECOND as u32);
        let text = format!(
            "1,400 bytes; {source} in a second of one source, {},000 of all; 1,024 sources remembered; one call back of a source in {} s",
            all / 1000,
            CONNECT_BACK_EVERY.as_secs()
        );
        assert!(include_str!("../../protocol.md").contains(&text), "{text}");
        assert_eq!((MAX_SOURCES, crate::protocol::announce::MAX_DATAGRAM_BYTES), (1024, 1400));
    }

    #[test]
    fn only_sources_on_the_link_are_answered() {
        for (net, near, far) in [
            ("192.168.1.7/24", "192.168.1.9", "192.168.2.9"),
            ("192.168.1.7/24", "169.254.3.4", "10.0.0.1"),
            ("10.1.2.3/23", "10.1.3.255", "8.8.8.8"),
            ("127.0.0.1/8", "127.0.0.1", "192.168.1.1"),
            ("130.149.7.7/16", "130.149.200.1", "130.150.1.1"),
            ("fe80::7/64", "fe80::9", "fd00::9"),
            ("fd00::7/64", "fd00::9", "169.254.3.4"),
        ] {
            assert!(is_on_link(ip(near), &link(&[net])), "{near} is near {net}");
            assert!(!is_on_link(ip(far), &link(&[net])), "{far} is not near {net}");
        }
        assert!(!is_on_link(ip("8.8.8.8"), &link(&["9.9.9.9/0"])), "the internet is nobody's link");
        assert!(!is_on_link(ip("0.0.0.0"), &link(&["9.9.9.9/0"])));
        assert!(!is_on_link(ip("255.255.255.255"), &link(&["192.168.1.7/24"])));
        assert!(is_on_link(ip("10.5.0.1"), &link(&["192.168.1.7/24", "10.5.0.2/24"])), "a link may have two networks");
    }

    #[test]
    fn a_source_is_called_back_once_in_thirty_seconds_however_often_it_is_heard() {
        let start = Instant::now();
        let mut gate = Gate::new(start);
        let calls =
            |gate: &mut Gate, at: Instant| (0..10_000).filter(|_| gate.may_call_back(ip("10.0.0.1"), at)).count();
        assert_eq!(calls(&mut gate, start), 1);
        assert_eq!(calls(&mut gate, start + Duration::from_secs(29)), 0);
        assert_eq!(calls(&mut gate, start + CONNECT_BACK_EVERY), 1);
        assert!(gate.may_call_back(ip("10.0.0.2"), start), "another source has its own");
    }

    #[test]
    fn a_flood_of_forged_sources_neither_grows_the_table_nor_has_a_source_forgotten() {
        let start = Instant::now();
        let mut gate = Gate::new(start);
        assert!(gate.may_call_back(ip("192.168.1.1"), start));
        let forged = |n: u32| IpAddr::from(std::net::Ipv4Addr::from_bits(0x0a00_0000 + n));
        let called = (0..100_000).filter(|n| gate.may_call_back(forged(*n), start)).count();
        assert_eq!(called, MAX_SOURCES - 1);
        assert!(!gate.may_call_back(ip("192.168.1.1"), start));
        assert!(gate.may_call_back(forged(99_999), start + CONNECT_BACK_EVERY));
        assert!(gate.called_back.len() <= MAX_SOURCES);
        for n in 0..100_000 {
            gate.may_read(forged(n), false, start + SECOND * (n / 1000));
        }
        assert!(gate.by_source.len() <= MAX_SOURCES);
    }

    #[test]
    fn one_loud_source_does_not_silence_the_others() {
        let start = Instant::now();
        let mut gate = Gate::new(start);
        let read = (0..100_000).filter(|_| gate.may_read(ip("10.0.0.1"), false, start)).count();
        assert_eq!(read, SOURCE_DATAGRAMS_PER_SECOND as usize);
        assert!(gate.may_read(ip("10.0.0.2"), false, start));
        let own = (0..100_000).filter(|_| gate.may_read(ip("10.0.0.9"), true, start)).count();
        assert_eq!(own, DATAGRAMS_PER_SECOND as usize - read - 1);
        assert!(!gate.may_read(ip("10.0.0.3"), false, start), "all together have a limit too");
        assert!(gate.may_read(ip("10.0.0.3"), false, start + SECOND / 2), "which comes back with time");
    }
}
