//! Which devices are here. Pure: time comes in as an argument.
//!
//! Two kinds of knowledge are kept apart. A *claim* is what a datagram said; anybody can send one with anybody's
//! fingerprint. A *proof* is an answer over TLS whose certificate has the fingerprint that the answer names. A claim never
//! changes what is proved, proved addresses come before claimed ones, and claims are what leaves first when there is no
//! room, so a flood of forged claims costs the claims of that source and nothing else.

use crate::model::{Alias, Device, DeviceKind, Fingerprint};
use crate::platform::interfaces::is_link_local;
use crate::protocol::Announcement;
use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

/// Devices kept: several times the largest office.
pub const MAX_DEVICES: usize = 512;
/// Addresses kept of one device: wire, radio and tunnel, IPv4 and IPv6.
const MAX_ADDRESSES: usize = 8;
/// Unproved devices kept of one source: the processes of one machine.
const MAX_CLAIMS_OF_A_SOURCE: usize = 16;
/// A text that stands for a fingerprint where there is no TLS; LocalSend makes some 40 characters.
const MAX_SPOKEN_ID_BYTES: usize = 128;
/// A device unseen for this long is not here any more.
pub const SEEN_FOR: Duration = Duration::from_mins(5);
/// A transient one listens only while a command runs.
pub const TRANSIENT_SEEN_FOR: Duration = Duration::from_secs(45);

/// What devices are told apart by.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Key {
    Certificate(Fingerprint),
    /// Without TLS there is no certificate; such a name proves nothing and never equals a fingerprint.
    Spoken(String),
}

#[derive(Clone, Debug)]
struct Seen {
    address: SocketAddr,
    at: Instant,
    proved: bool,
    transient: bool,
    /// The run of the program that answered there; 0 when it does not say.
    instance: u32,
}

impl Seen {
    fn new(said: &Announcement, address: SocketAddr, at: Instant, proved: bool) -> Self {
        let transient = said.lan_backup.as_ref().is_some_and(|ours| ours.transient);
        Self { address, at, proved, transient, instance: said.instance() }
    }

    fn is_over(&self, now: Instant) -> bool {
        let limit = if self.transient { TRANSIENT_SEEN_FOR } else { SEEN_FOR };
        now.saturating_duration_since(self.at) >= limit
    }
}

#[derive(Clone, Debug)]
struct Entry {
    alias: Alias,
    kind: DeviceKind,
    /// Newest first.
    seen: Vec<Seen>,
}

impl Entry {
    fn is_proved(&self) -> bool {
        self.seen.iter().any(|seen| seen.proved)
    }

    /// One address of every run of the program, of those runs that stay; the newest first. One run is one device, however many
    /// addresses it has.
    fn runs(&self) -> Vec<SocketAddr> {
        let mut runs: Vec<&Seen> = Vec::new();
        for seen in self.seen.iter().filter(|seen| !seen.transient && seen.instance != 0) {
            if runs.iter().all(|other| other.instance != seen.instance) {
                runs.push(seen);
            }
        }
        runs.iter().map(|seen| seen.address).collect()
    }

    fn last_seen(&self) -> Option<Instant> {
        self.seen.iter().map(|seen| seen.at).max()
    }
}

/// An answer whose certificate is not the one it names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mismatch;

/// The devices that were seen.
#[derive(Debug)]
pub struct Registry {
    own: Option<Fingerprint>,
    known: BTreeMap<Fingerprint, (Alias, Vec<SocketAddr>)>,
    entries: BTreeMap<Key, Entry>,
}

impl Registry {
    /// Nobody seen yet. `own` is never listed: on one machine several processes hear themselves.
    pub fn new(own: Option<Fingerprint>) -> Self {
        Self { own, known: BTreeMap::new(), entries: BTreeMap::new() }
    }

    /// Notes a paired device and, if known, where it was last. It is listed only when seen, but found by name before
    /// strangers.
    pub fn know(&mut self, fingerprint: Fingerprint, alias: Alias, address: Option<SocketAddr>) {
        let (name, addresses) = self.known.entry(fingerprint).or_insert_with(|| (alias.clone(), Vec::new()));
        *name = alias;
        if let Some(address) = address {
            addresses.retain(|old| *old != address);
            addresses.insert(0, address);
            addresses.truncate(MAX_ADDRESSES);
        }
    }

    /// Forgets that a device is paired.
    pub fn unknow(&mut self, fingerprint: &Fingerprint) {
        self.known.remove(fingerprint);
    }

    /// Whether the device is paired.
    pub fn is_known(&self, fingerprint: &Fingerprint) -> bool {
        self.known.contains_key(fingerprint)
    }

    /// Paired devices: fingerprint, alias, last addresses.
    pub fn known(&self) -> impl Iterator<Item = (&Fingerprint, &Alias, &[SocketAddr])> {
        self.known.iter().map(|(fingerprint, (alias, addresses))| (fingerprint, alias, addresses.as_slice()))
    }

    /// Whether an announcement is this device's own.
    pub fn is_own(&self, said: &Announcement) -> bool {
        self.own.is_some() && said.fingerprint.parse().ok() == self.own
    }

    /// Records what a datagram said. Returns whether anything new is known.
    pub fn claim(&mut self, said: &Announcement, address: SocketAddr, now: Instant) -> bool {
        self.expire(now);
        if self.is_own(said) {
            return false;
        }
        let Some(key) = key_of_claim(said) else { return false };
        if !self.entries.contains_key(&key) {
            self.make_room(address.ip());
        }
        let seen = Seen::new(said, address, now, false);
        let paired = matches!(&key, Key::Certificate(fingerprint) if self.is_known(fingerprint));
        let Some(entry) = self.entries.get_mut(&key) else {
            // Nobody talks a paired device down to the weaker protocol by announcing it.
            let kind = if paired { DeviceKind::LanBackup } else { kind_of(said) };
            self.entries.insert(key, Entry { alias: said.alias.clone(), kind, seen: vec![seen] });
            return true;
        };
        if entry.seen.iter().any(|old| old.address == address && old.proved) {
            return false;
        }
        if !entry.is_proved() {
            entry.alias = said.alias.clone();
        }
        // One claimed address from a source: a flood must not push the proved ones out.
        let known_before = entry.seen.iter().any(|old| old.address == address);
        entry.seen.retain(|old| old.proved || old.address.ip() != address.ip());
        entry.seen.insert(0, seen);
        while entry.seen.len() > MAX_ADDRESSES {
            let Some(last) = entry.seen.iter().rposition(|old| !old.proved) else { break };
            entry.seen.remove(last);
        }
        !known_before
    }

    /// Records an answer from `address`, or a call from it with that certificate; `None` where there was no TLS.
    ///
    /// # Errors
    /// When the certificate is not the one that the answer names: nothing is recorded.
    pub fn prove(
        &mut self,
        said: &Announcement,
        certificate: Option<Fingerprint>,
        address: SocketAddr,
        now: Instant,
    ) -> Result<Option<Device>, Mismatch> {
        self.expire(now);
        let key = match certificate {
            Some(certificate) if said.fingerprint.parse() == Ok(certificate) => Key::Certificate(certificate),
            Some(_) => return Err(Mismatch),
            None => spoken(said).ok_or(Mismatch)?,
        };
        if certificate.is_some() && certificate == self.own {
            return Ok(None);
        }
        if !self.entries.contains_key(&key) {
            self.make_room(address.ip());
        }
        let kind = if certificate.is_some() { kind_of(said) } else { DeviceKind::LocalSend };
        let seen = Seen::new(said, address, now, true);
        let entry = self.entries.entry(key.clone()).or_insert_with(|| Entry {
            alias: said.alias.clone(),
            kind,
            seen: Vec::new(),
        });
        entry.alias = said.alias.clone();
        entry.kind = kind;
        entry.seen.retain(|old| old.address != address);
        entry.seen.insert(0, seen);
        while entry.seen.len() > MAX_ADDRESSES {
            let last = entry.seen.iter().rposition(|old| !old.proved).unwrap_or(MAX_ADDRESSES);
            entry.seen.remove(last);
        }
        Ok(Some(device(&key, entry)))
    }

    /// Somebody else answers at `address`: takes it from the device that was claimed to be there.
    pub fn deny(&mut self, fingerprint: &Fingerprint, address: SocketAddr) {
        let key = Key::Certificate(*fingerprint);
        if let Some(entry) = self.entries.get_mut(&key) {
            entry.seen.retain(|seen| seen.address != address);
            if entry.seen.is_empty() {
                self.entries.remove(&key);
            }
        }
    }

    /// Nobody answers at `address` any more: what was proved of it holds no longer. A claim stays, as what it is.
    pub fn left(&mut self, fingerprint: &Fingerprint, address: SocketAddr) {
        let key = Key::Certificate(*fingerprint);
        if let Some(entry) = self.entries.get_mut(&key) {
            entry.seen.retain(|seen| !seen.proved || seen.address != address);
            if entry.seen.is_empty() {
                self.entries.remove(&key);
            }
        }
    }

    /// Who is here: proved devices first, each group by alias.
    pub fn devices(&self, now: Instant) -> Vec<Device> {
        let mut here: Vec<(bool, Device)> =
            self.present(now).map(|(key, entry)| (!entry.is_proved(), device(key, &entry))).collect();
        here.sort_by(|a, b| (a.0, &a.1.alias, a.1.fingerprint).cmp(&(b.0, &b.1.alias, b.1.fingerprint)));
        here.into_iter().map(|(_, device)| device).collect()
    }

    /// Devices that proved themselves at `since` or later.
    pub fn proved_since(&self, since: Instant, now: Instant) -> Vec<Device> {
        self.present(now)
            .filter(|(_, entry)| entry.seen.iter().any(|seen| seen.proved && seen.at >= since))
            .map(|(key, mut entry)| {
                entry.seen.retain(|seen| seen.proved && seen.at >= since);
                device(key, &entry)
            })
            .collect()
    }

    /// Devices that proved themselves, but not since `since`.
    pub fn proved_before(&self, since: Instant, now: Instant) -> Vec<Device> {
        let is_old =
            |entry: &Entry| entry.is_proved() && !entry.seen.iter().any(|seen| seen.proved && seen.at >= since);
        self.present(now).filter(|(_, entry)| is_old(entry)).map(|(key, entry)| device(key, &entry)).collect()
    }

    /// Devices of which several runs of the program proved themselves at `since` or later, each with one address of every run:
    /// one identity on several machines.
    pub fn cloned(&self, since: Instant, now: Instant) -> Vec<Device> {
        self.with_several_runs(now, |seen| seen.proved && seen.at >= since)
    }

    /// Devices that may be [`cloned`](Self::cloned), or were started anew and left an old address behind, or are lied about.
    pub fn suspected_clones(&self, now: Instant) -> Vec<Device> {
        self.with_several_runs(now, |_| true)
    }

    fn with_several_runs(&self, now: Instant, counts: impl Fn(&Seen) -> bool) -> Vec<Device> {
        let several = |(key, mut entry): (&Key, Entry)| {
            entry.seen.retain(&counts);
            let addresses = entry.runs();
            (addresses.len() > 1).then(|| Device { addresses, ..device(key, &entry) })
        };
        self.present(now).filter_map(several).collect()
    }

    /// Devices that only a datagram spoke of, and nobody could reach yet.
    pub fn unproved(&self, now: Instant) -> Vec<Device> {
        self.present(now).filter(|(_, entry)| !entry.is_proved()).map(|(key, entry)| device(key, &entry)).collect()
    }

    /// Entries without what is over.
    fn present(&self, now: Instant) -> impl Iterator<Item = (&Key, Entry)> {
        self.entries.iter().filter_map(move |(key, entry)| {
            let mut entry = entry.clone();
            entry.seen.retain(|seen| !seen.is_over(now));
            (!entry.seen.is_empty()).then_some((key, entry))
        })
    }

    fn expire(&mut self, now: Instant) {
        self.entries.retain(|_, entry| {
            entry.seen.retain(|seen| !seen.is_over(now));
            !entry.seen.is_empty()
        });
    }

    /// Makes room for one more device that was heard from `source`.
    fn make_room(&mut self, source: IpAddr) {
        let of_source = |entry: &Entry| !entry.is_proved() && entry.seen.iter().all(|seen| seen.address.ip() == source);
        if self.entries.values().filter(|entry| of_source(entry)).count() >= MAX_CLAIMS_OF_A_SOURCE {
            self.remove_oldest(|_, entry| of_source(entry));
        }
        if self.entries.len() >= MAX_DEVICES {
            let known: Vec<Key> = self.known.keys().copied().map(Key::Certificate).collect();
            let _removed = self.remove_oldest(|_, entry| !entry.is_proved())
                || self.remove_oldest(|key, _| !known.contains(key))
                || self.remove_oldest(|_, _| true);
        }
    }

    fn remove_oldest(&mut self, may_go: impl Fn(&Key, &Entry) -> bool) -> bool {
        let oldest =
            self.entries.iter().filter(|(key, entry)| may_go(key, entry)).min_by_key(|(_, entry)| entry.last_seen());
        let key = oldest.map(|(key, _)| key.clone());
        key.is_some_and(|key| self.entries.remove(&key).is_some())
    }
}

fn key_of_claim(said: &Announcement) -> Option<Key> {
    if said.protocol.eq_ignore_ascii_case("https") {
        return said.fingerprint.parse().ok().map(Key::Certificate);
    }
    spoken(said)
}

fn spoken(said: &Announcement) -> Option<Key> {
    let id = &said.fingerprint;
    (!id.is_empty() && id.len() <= MAX_SPOKEN_ID_BYTES).then(|| Key::Spoken(id.clone()))
}

/// What program an announcement speaks of; without TLS it cannot be this one.
fn kind_of(said: &Announcement) -> DeviceKind {
    match &said.lan_backup {
        Some(_) if said.protocol.eq_ignore_ascii_case("https") => DeviceKind::LanBackup,
        _ => DeviceKind::LocalSend,
    }
}

fn device(key: &Key, entry: &Entry) -> Device {
    let mut seen: Vec<&Seen> = entry.seen.iter().collect();
    // Link-local IPv6 goes behind what can be typed on any machine: its zone means something on ours only.
    let is_scoped = |seen: &Seen| seen.address.is_ipv6() && is_link_local(seen.address.ip());
    seen.sort_by_key(|seen| (!seen.proved, seen.transient, is_scoped(seen), Reverse(seen.at)));
    let fingerprint = match key {
        Key::Certificate(fingerprint) => Some(*fingerprint),
        Key::Spoken(_) => None,
    };
    Device {
        alias: entry.alias.clone(),
        fingerprint,
        kind: entry.kind,
        addresses: seen.iter().map(|seen| seen.address).collect(),
        transient: seen.iter().all(|seen| seen.transient),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn print(byte: u8) -> Fingerprint {
        Fingerprint::from_bytes([byte; 32])
    }

    fn print_of(number: u32) -> Fingerprint {
        Fingerprint::from_bytes(std::array::from_fn(|i| number.to_be_bytes()[i % 4]))
    }

    fn says(alias: &str, fingerprint: Fingerprint) -> Announcement {
        Announcement::of_this_device(Alias::new(alias), fingerprint, 53317, false)
    }

    fn at(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    fn registry() -> (Registry, Instant) {
        (Registry::new(Some(print(0))), Instant::now())
    }

    fn aliases(devices: &[Device]) -> Vec<&str> {
        devices.iter().map(|device| device.alias.as_str()).collect()
    }

    #[test]
    fn this_device_never_lists_itself() {
        let (mut registry, now) = registry();
        assert!(!registry.claim(&says("me", print(0)), at("10.0.0.1:1"), now));
        assert_eq!(registry.prove(&says("me", print(0)), Some(print(0)), at("10.0.0.1:1"), now), Ok(None));
        let lower = Announcement { fingerprint: print(0).to_string().to_lowercase(), ..says("me", print(0)) };
        assert!(registry.is_own(&lower));
        assert_eq!(registry.devices(now), []);
    }

    #[test]
    fn two_devices_of_one_alias_are_both_kept_and_the_proved_one_comes_first() {
        let (mut registry, now) = registry();
        assert!(registry.claim(&says("nas", print(1)), at("10.0.0.1:1"), now));
        assert!(!registry.claim(&says("nas", print(1)), at("10.0.0.1:1"), now), "the same again is no news");
        registry.prove(&says("nas", print(2)), Some(print(2)), at("10.0.0.2:1"), now).unwrap();
        let devices = registry.devices(now);
        assert_eq!(devices.iter().map(|d| d.fingerprint.unwrap()).collect::<Vec<_>>(), [print(2), print(1)]);
        assert_eq!(aliases(&registry.unproved(now)), ["nas"]);
    }

    #[test]
    fn a_certificate_that_is_not_the_named_one_proves_nothing() {
        let (mut registry, now) = registry();
        assert_eq!(registry.prove(&says("nas", print(1)), Some(print(2)), at("10.0.0.1:1"), now), Err(Mismatch));
        assert_eq!(registry.devices(now), []);
        registry.claim(&says("nas", print(1)), at("10.0.0.1:1"), now);
        registry.deny(&print(1), at("10.0.0.1:1"));
        assert_eq!(registry.devices(now), [], "who was denied its only address is gone");
    }

    #[test]
    fn claims_never_change_what_is_proved() {
        let (mut registry, now) = registry();
        registry.prove(&says("nas", print(1)), Some(print(1)), at("10.0.0.1:1"), now).unwrap();
        let forged = Announcement { lan_backup: None, ..says("evil", print(1)) };
        for port in 1..100 {
            registry.claim(&forged, SocketAddr::from(([10, 0, 0, 66], port)), now + SECOND);
        }
        for host in 1..100 {
            registry.claim(&forged, SocketAddr::from(([10, 0, 1, host], 1)), now + SECOND);
        }
        let [device] = <[Device; 1]>::try_from(registry.devices(now + SECOND)).unwrap();
        assert_eq!((device.alias.as_str(), device.kind), ("nas", DeviceKind::LanBackup));
        assert_eq!(device.addresses[0], at("10.0.0.1:1"));
        assert!(device.addresses.len() <= MAX_ADDRESSES);
        let proved = registry.proved_since(now, now + SECOND);
        assert_eq!(proved[0].addresses, [at("10.0.0.1:1")], "what is proved has proved addresses only");
        assert_eq!(registry.proved_since(now + SECOND, now + SECOND), []);
    }

    #[test]
    fn a_paired_device_is_not_talked_down_to_localsend() {
        let (mut registry, now) = registry();
        registry.know(print(1), Alias::new("nas"), None);
        let forged = Announcement { lan_backup: None, ..says("nas", print(1)) };
        registry.claim(&forged, at("10.0.0.1:1"), now);
        assert_eq!(registry.devices(now)[0].kind, DeviceKind::LanBackup);
        let plain = Announcement { protocol: "http".into(), ..says("nas", print(1)) };
        registry.claim(&plain, at("10.0.0.2:1"), now);
        let named: Vec<_> = registry.devices(now).into_iter().filter(|d| d.fingerprint == Some(print(1))).collect();
        assert_eq!(named.len(), 1, "without TLS there is no fingerprint");
        assert_eq!(named[0].addresses, [at("10.0.0.1:1")]);
    }

    #[test]
    fn newest_address_comes_first_and_transient_ones_last() {
        let (mut registry, now) = registry();
        let transient = Announcement::of_this_device(Alias::new("nas"), print(1), 9, true);
        registry.prove(&says("nas", print(1)), Some(print(1)), at("10.0.0.1:1"), now).unwrap();
        registry.prove(&says("nas", print(1)), Some(print(1)), at("10.0.0.2:1"), now + SECOND).unwrap();
        registry.prove(&transient, Some(print(1)), at("10.0.0.1:9"), now + SECOND * 2).unwrap();
        let device = registry.devices(now + SECOND * 2).remove(0);
        assert_eq!(device.addresses, [at("10.0.0.2:1"), at("10.0.0.1:1"), at("10.0.0.1:9")]);
        registry.prove(&says("nas", print(1)), Some(print(1)), at("[fe80::1%2]:1"), now + SECOND).unwrap();
        let device = registry.devices(now + SECOND * 2).remove(0);
        assert_eq!(device.addresses[1..3], [at("10.0.0.1:1"), at("[fe80::1%2]:1")]);
        assert!(!device.transient);
        registry.prove(&transient, Some(print(1)), at("10.0.0.1:9"), now + SEEN_FOR + SECOND).unwrap();
        assert!(registry.devices(now + SEEN_FOR + SECOND).remove(0).transient);
    }

    #[test]
    fn two_runs_of_one_identity_at_once_are_a_copy_and_one_that_moved_is_not() {
        let (mut registry, now) = registry();
        let run = |instance| says("nas", print(1)).by_instance(instance);
        for (instance, address) in [(7, "10.0.0.1:1"), (7, "10.0.0.2:1")] {
            registry.prove(&run(instance), Some(print(1)), at(address), now).unwrap();
        }
        assert_eq!(registry.cloned(now, now), [], "one run at two addresses is one device");
        let command = Announcement::of_this_device(Alias::new("nas"), print(1), 9, true).by_instance(9);
        registry.prove(&command, Some(print(1)), at("10.0.0.1:9"), now).unwrap();
        registry.prove(&says("nas", print(1)), Some(print(1)), at("10.0.0.5:1"), now).unwrap();
        registry.claim(&run(66), at("10.0.0.66:1"), now);
        assert_eq!(registry.cloned(now, now), [], "commands, silence and claims prove nothing");
        assert_eq!(registry.suspected_clones(now).len(), 1, "but a claim is looked into");
        registry.prove(&run(8), Some(print(1)), at("10.0.0.3:1"), now + SECOND).unwrap();
        let [cloned] = <[Device; 1]>::try_from(registry.cloned(now, now + SECOND)).unwrap();
        assert_eq!(cloned.addresses, [at("10.0.0.3:1"), at("10.0.0.2:1")]);
        assert_eq!(registry.cloned(now + SECOND, now + SECOND), [], "the old run has not answered since");
        registry.prove(&run(8), Some(print(1)), at("10.0.0.2:1"), now + SECOND).unwrap();
        registry.prove(&run(8), Some(print(1)), at("10.0.0.1:1"), now + SECOND).unwrap();
        assert_eq!(registry.cloned(now, now + SECOND), [], "started anew at the same addresses");
    }

    #[test]
    fn who_does_not_answer_any_more_goes_and_what_was_only_claimed_stays() {
        let (mut registry, now) = registry();
        registry.prove(&says("nas", print(1)), Some(print(1)), at("10.0.0.1:1"), now).unwrap();
        registry.claim(&says("phone", print(2)), at("10.0.0.2:1"), now);
        assert_eq!(registry.proved_before(now, now), []);
        assert_eq!(aliases(&registry.proved_before(now + SECOND, now + SECOND)), ["nas"]);
        registry.left(&print(1), at("10.0.0.9:1"));
        registry.left(&print(2), at("10.0.0.2:1"));
        assert_eq!(aliases(&registry.devices(now)), ["nas", "phone"]);
        registry.left(&print(1), at("10.0.0.1:1"));
        assert_eq!(aliases(&registry.devices(now)), ["phone"]);
    }

    #[test]
    fn who_is_not_seen_any_more_is_not_here() {
        let (mut registry, now) = registry();
        registry.prove(&says("nas", print(1)), Some(print(1)), at("10.0.0.1:1"), now).unwrap();
        let transient = Announcement::of_this_device(Alias::new("cli"), print(2), 9, true);
        registry.prove(&transient, Some(print(2)), at("10.0.0.2:9"), now).unwrap();
        assert_eq!(aliases(&registry.devices(now + Duration::from_secs(44))), ["cli", "nas"]);
        assert_eq!(aliases(&registry.devices(now + TRANSIENT_SEEN_FOR)), ["nas"]);
        assert_eq!(aliases(&registry.devices(now + SEEN_FOR)), [""; 0]);
    }

    #[test]
    fn a_flood_of_claims_is_bounded_and_leaves_what_is_proved() {
        let (mut registry, now) = registry();
        registry.prove(&says("nas", print(1)), Some(print(1)), at("10.0.0.1:1"), now).unwrap();
        registry.claim(&says("phone", print(2)), at("10.0.0.2:1"), now);
        for number in 1000..3000 {
            registry.claim(&says("x", print_of(number)), at("10.0.0.66:1"), now + SECOND);
        }
        let devices = registry.devices(now + SECOND);
        assert_eq!(devices.len(), 2 + MAX_CLAIMS_OF_A_SOURCE);
        assert!(aliases(&devices).contains(&"phone"), "a loud source costs only its own claims");
        for number in 3000..6000_u32 {
            let [_, _, high, low] = number.to_be_bytes();
            registry.claim(&says("x", print_of(number)), SocketAddr::from(([10, 1, high, low], 1)), now + SECOND);
        }
        assert_eq!(registry.devices(now + SECOND).len(), MAX_DEVICES);
        assert_eq!(registry.devices(now + SECOND)[0].alias.as_str(), "nas");
    }

    #[test]
    fn when_all_are_proved_the_oldest_stranger_makes_room_and_paired_ones_stay() {
        let (mut registry, now) = registry();
        let from = |number: u32| SocketAddr::from((number.to_be_bytes(), 1));
        registry.know(print_of(1000), Alias::new("paired"), None);
        for number in 1000..1000 + MAX_DEVICES as u32 + 10 {
            let later = now + Duration::from_millis(u64::from(number));
            registry.prove(&says("d", print_of(number)), Some(print_of(number)), from(number), later).unwrap();
        }
        let devices = registry.devices(now + SECOND * 2);
        assert_eq!(devices.len(), MAX_DEVICES);
        let has = |number| devices.iter().any(|device| device.fingerprint == Some(print_of(number)));
        assert!(has(1000) && !has(1001) && has(1000 + MAX_DEVICES as u32 + 9));
    }

    #[test]
    fn a_device_without_tls_is_listed_without_a_fingerprint() {
        let (mut registry, now) = registry();
        let plain =
            Announcement { protocol: "http".into(), fingerprint: "some-random-id".into(), ..says("old", print(1)) };
        registry.prove(&plain, None, at("10.0.0.1:1"), now).unwrap();
        let device = registry.devices(now).remove(0);
        assert_eq!((device.fingerprint, device.kind), (None, DeviceKind::LocalSend));
        let endless = Announcement { fingerprint: "x".repeat(MAX_SPOKEN_ID_BYTES + 1), ..plain };
        assert_eq!(registry.prove(&endless, None, at("10.0.0.2:1"), now), Err(Mismatch));
    }
}
