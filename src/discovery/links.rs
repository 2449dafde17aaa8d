//! The interfaces we take part on, kept in step with the machine's: a laptop changes networks while `serve` runs.

use crate::discovery::report::InterfaceReport;
use crate::discovery::state::State;
use crate::discovery::{listener, socket};
use crate::platform::clock::Clock;
use crate::platform::interfaces::{self, Interface, Subnet, is_link_local};
use crate::platform::network_changes::NetworkChanges;
use jiff::Timestamp;
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::net::UdpSocket;
use tokio_util::sync::CancellationToken;

/// How soon a new interface is noticed where the system does not tell; asking takes microseconds.
const REFRESH_EVERY: Duration = Duration::from_secs(5);
/// The system speaks several times of one change (the old address goes, the new one comes).
const SETTLE: Duration = Duration::from_millis(100);
/// A pause longer than asked for by this much was a sleep, of this machine or of this program.
const SLEPT_AFTER: Duration = Duration::from_secs(10);
/// Time for one datagram to be taken by the system; it waits only when a queue is full.
const SEND_LIMIT: Duration = Duration::from_millis(200);
/// Answers by datagram on one link: they go to everybody, so a flood of announcements must not become a flood of ours.
const UDP_ANSWER_EVERY: Duration = Duration::from_secs(1);

/// One interface with an open socket.
#[derive(Debug)]
pub(crate) struct Link {
    interface: Interface,
    /// All addresses of that interface, for deciding who is near.
    pub(crate) subnets: Vec<Subnet>,
    pub(crate) socket: UdpSocket,
    pub(crate) closed: CancellationToken,
    group: SocketAddr,
    sent: AtomicU64,
    heard: AtomicU64,
    echoed: AtomicU64,
    error: Mutex<Option<String>>,
    answered: Mutex<Option<Instant>>,
}

/// Open links and those that could not be opened.
#[derive(Debug, Default)]
pub(crate) struct Links {
    open: Vec<Arc<Link>>,
    failed: Vec<(Interface, String)>,
    all: Vec<Interface>,
}

impl Link {
    /// Sends to the group. A failure is noted, not returned: the next try may succeed, and the other links go on.
    pub(crate) async fn send(&self, datagram: &[u8]) {
        let sent = tokio::time::timeout(SEND_LIMIT, self.socket.send_to(datagram, self.group)).await;
        match sent {
            Ok(Ok(_)) => {
                self.sent.fetch_add(1, Ordering::Relaxed);
                self.note_error(None);
            }
            Ok(Err(error)) => self.note_error(Some(format!("cannot send: {error}"))),
            Err(_) => self.note_error(Some("cannot send: the queue is full".to_owned())),
        }
    }

    /// Like [`send`](Self::send), at most once a second.
    pub(crate) async fn answer(&self, datagram: &[u8], now: Instant) {
        {
            let mut answered = self.answered.lock().unwrap_or_else(PoisonError::into_inner);
            if answered.is_some_and(|at| now.saturating_duration_since(at) < UDP_ANSWER_EVERY) {
                return;
            }
            *answered = Some(now);
        }
        self.send(datagram).await;
    }

    pub(crate) fn count_heard(&self) {
        self.heard.fetch_add(1, Ordering::Relaxed);
    }

    /// Our own datagram came back, as it should: the socket works, and no firewall of this machine is in the way.
    pub(crate) fn count_echo(&self) {
        self.echoed.fetch_add(1, Ordering::Relaxed);
    }

    fn has_error(&self) -> bool {
        self.error.lock().unwrap_or_else(PoisonError::into_inner).is_some()
    }

    pub(crate) fn note_error(&self, error: Option<String>) {
        *self.error.lock().unwrap_or_else(PoisonError::into_inner) = error;
    }

    fn report(&self) -> InterfaceReport {
        InterfaceReport {
            name: self.interface.name.clone(),
            address: self.interface.subnet.address,
            sent: self.sent.load(Ordering::Relaxed),
            heard: self.heard.load(Ordering::Relaxed),
            echoed: self.echoed.load(Ordering::Relaxed),
            error: self.error.lock().unwrap_or_else(PoisonError::into_inner).clone(),
        }
    }
}

impl Links {
    pub(crate) fn open(&self) -> Vec<Arc<Link>> {
        self.open.clone()
    }

    /// Every interface of the machine, also those we do not take part on.
    pub(crate) fn all(&self) -> &[Interface] {
        &self.all
    }

    /// The subnets of the interfaces we take part on, with the interface's name.
    pub(crate) fn subnets(&self) -> Vec<(String, Subnet)> {
        let of_link = |link: &Arc<Link>| link.subnets.iter().map(|net| (link.interface.name.clone(), *net)).collect();
        let mut subnets: Vec<(String, Subnet)> = self.open.iter().flat_map::<Vec<_>, _>(of_link).collect();
        let failed = self.failed.iter().map(|(interface, _)| (interface.name.clone(), interface.subnet));
        subnets.extend(failed);
        subnets.retain(|(_, subnet)| subnet.address.is_ipv4());
        let mut seen = std::collections::HashSet::new();
        subnets.retain(|(_, subnet)| seen.insert(*subnet));
        subnets
    }

    pub(crate) fn report(&self) -> Vec<InterfaceReport> {
        let failed = self.failed.iter().map(|(interface, error)| InterfaceReport {
            name: interface.name.clone(),
            address: interface.subnet.address,
            sent: 0,
            heard: 0,
            echoed: 0,
            error: Some(error.clone()),
        });
        self.open.iter().map(|link| link.report()).chain(failed).collect()
    }
}

/// Looks at the interfaces whenever the system says that they changed, and now and then anyway. Says hello again on new ones,
/// where it could not be said before, and after a sleep: others may have forgotten us, or have moved.
pub(crate) async fn run(state: Arc<State>) {
    let mut changes = NetworkChanges::open().ok();
    let mut pace = Pace::new(&*state.options.clock);
    loop {
        let told = match &changes {
            None => {
                tokio::time::sleep(REFRESH_EVERY).await;
                false
            }
            Some(listening) => tokio::select! {
                () = tokio::time::sleep(REFRESH_EVERY) => false,
                change = listening.changed() => {
                    if change.is_err() {
                        changes = None;
                    }
                    tokio::time::sleep(SETTLE).await;
                    true
                }
            },
        };
        let slept = pace.has_slept(&*state.options.clock);
        match interfaces::list() {
            Ok(found) => {
                // An address that is not ready yet (IPv6 looks for its double for a second) cannot be sent from.
                let had_errors = told && state.links().open.iter().any(|link| link.has_error());
                if refresh(&state, &found) || slept || had_errors {
                    state.request_burst();
                }
            }
            Err(error) => tracing::warn!(%error, "cannot list the network interfaces"),
        }
    }
}

/// Notices that more time went by than was waited for. A machine that sleeps stops the clock that never jumps, but not the time of
/// day; a stopped program stops neither.
#[derive(Debug)]
struct Pace {
    instant: Instant,
    day: Timestamp,
}

impl Pace {
    fn new(clock: &dyn Clock) -> Self {
        Self { instant: clock.instant(), day: clock.now() }
    }

    fn has_slept(&mut self, clock: &dyn Clock) -> bool {
        let now = Self::new(clock);
        let passed = now.instant.saturating_duration_since(self.instant);
        let by_day = Duration::try_from(now.day.duration_since(self.day)).unwrap_or_default();
        *self = now;
        passed.max(by_day) >= REFRESH_EVERY + SETTLE + SLEPT_AFTER
    }
}

/// Opens what is new and closes what is gone. Returns whether a link was opened.
pub(crate) fn refresh(state: &Arc<State>, found: &[Interface]) -> bool {
    let wanted = wanted(found, state.options.bind);
    let mut links = state.links();
    links.open.retain(|link| {
        let stays = !link.closed.is_cancelled()
            && wanted.iter().any(|(interface, subnets)| *interface == link.interface && *subnets == link.subnets);
        if !stays {
            link.closed.cancel();
        }
        stays
    });
    links.failed.clear();
    links.all = found.to_vec();
    let mut opened = false;
    for (interface, subnets) in wanted {
        if links.open.iter().any(|link| link.interface == interface) {
            continue;
        }
        match socket::open(&interface, state.options.multicast_port) {
            Ok((socket, group)) => {
                let link = Arc::new(Link {
                    interface,
                    subnets,
                    socket,
                    group,
                    closed: CancellationToken::new(),
                    sent: AtomicU64::new(0),
                    heard: AtomicU64::new(0),
                    echoed: AtomicU64::new(0),
                    error: Mutex::default(),
                    answered: Mutex::default(),
                });
                state.spawn(listener::listen(Arc::clone(state), Arc::clone(&link)));
                links.open.push(link);
                opened = true;
            }
            Err(error) => links.failed.push((interface, format!("cannot listen: {error}"))),
        }
    }
    opened
}

/// The interfaces to take part on: of each interface and family one address, with all its subnets.
fn wanted(found: &[Interface], bind: Option<IpAddr>) -> Vec<(Interface, Vec<Subnet>)> {
    let bind = bind.filter(|bind| !bind.is_unspecified());
    let takes_part = |interface: &&Interface| match bind {
        Some(bind) => bind == interface.subnet.address,
        None => !interface.subnet.address.is_loopback(),
    };
    let mut wanted: BTreeMap<(u32, bool), (Interface, Vec<Subnet>)> = BTreeMap::new();
    // The IPv6 group is of link-local scope, and so is the address to send from, if there is one.
    let mut candidates: Vec<&Interface> = found.iter().filter(takes_part).collect();
    candidates.sort_by_key(|interface| interface.subnet.address.is_ipv6() && !is_link_local(interface.subnet.address));
    for interface in candidates {
        let key = (interface.index, interface.subnet.address.is_ipv4());
        wanted.entry(key).or_insert_with(|| {
            let same = |other: &&Interface| (other.index, other.subnet.address.is_ipv4()) == key;
            (interface.clone(), found.iter().filter(same).map(|other| other.subnet).collect())
        });
    }
    wanted.into_values().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::platform::clock::ManualClock;

    fn interface(name: &str, index: u32, address: &str, prefix: u8) -> Interface {
        Interface { name: name.into(), index, subnet: Subnet { address: address.parse().unwrap(), prefix } }
    }

    #[test]
    fn a_long_pause_on_either_clock_was_a_sleep() {
        #[derive(Debug)]
        struct TwoClocks(ManualClock, ManualClock);
        impl Clock for TwoClocks {
            fn now(&self) -> Timestamp {
                self.0.now()
            }
            fn instant(&self) -> Instant {
                self.1.instant()
            }
        }
        let clock = || ManualClock::new(Timestamp::UNIX_EPOCH);
        let clocks = TwoClocks(clock(), clock());
        let mut pace = Pace::new(&clocks);
        let mut pass = |by_day: u64, by_instant: u64| {
            clocks.0.advance(Duration::from_secs(by_day));
            clocks.1.advance(Duration::from_secs(by_instant));
            pace.has_slept(&clocks)
        };
        assert!(!pass(5, 5) && !pass(0, 0) && !pass(9, 9), "a busy machine is late");
        assert!(pass(3600, 5), "a machine that sleeps stops only one clock");
        assert!(pass(60, 60), "a stopped program stops none");
        assert!(!pass(5, 5), "once is enough");
    }

    #[test]
    fn each_interface_takes_part_once_for_each_family() {
        let found = [
            interface("lo", 1, "127.0.0.1", 8),
            interface("lo", 1, "::1", 128),
            interface("eth0", 2, "192.168.1.7", 24),
            interface("eth0", 2, "10.0.0.7", 16),
            interface("eth0", 2, "fd00::7", 64),
            interface("eth0", 2, "fe80::7", 64),
            interface("tun0", 3, "10.8.0.2", 32),
            interface("tun1", 4, "fd01::7", 64),
        ];
        let names = |bind: Option<&str>| {
            let wanted = wanted(&found, bind.map(|bind| bind.parse().unwrap()));
            wanted.iter().map(|(i, nets)| format!("{} {} {}", i.name, i.subnet.address, nets.len())).collect::<Vec<_>>()
        };
        assert_eq!(names(None), ["eth0 fe80::7 2", "eth0 192.168.1.7 2", "tun0 10.8.0.2 1", "tun1 fd01::7 1"]);
        assert_eq!(names(Some("0.0.0.0")), names(None));
        assert_eq!(names(Some("127.0.0.1")), ["lo 127.0.0.1 1"]);
        assert_eq!(names(Some("10.0.0.7")), ["eth0 10.0.0.7 2"]);
        assert_eq!(names(Some("fd00::7")), ["eth0 fd00::7 2"]);
        assert_eq!(names(Some("1.2.3.4")), [""; 0]);
    }
}
