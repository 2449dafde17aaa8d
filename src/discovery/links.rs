//! The interfaces we take part on, kept in step with the machine's: a laptop changes networks while `serve` runs.

use crate::discovery::report::InterfaceReport;
use crate::discovery::state::State;
use crate::discovery::{listener, socket};
use crate::platform::interfaces::{self, Interface, Subnet};
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::net::UdpSocket;
use tokio_util::sync::CancellationToken;

/// How soon a new interface is noticed; asking the system takes microseconds.
const REFRESH_EVERY: Duration = Duration::from_secs(5);
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

    pub(crate) fn note_error(&self, error: Option<String>) {
        *self.error.lock().unwrap_or_else(PoisonError::into_inner) = error;
    }

    fn report(&self) -> InterfaceReport {
        InterfaceReport {
            name: self.interface.name.clone(),
            address: self.interface.subnet.address,
            sent: self.sent.load(Ordering::Relaxed),
            heard: self.heard.load(Ordering::Relaxed),
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
            error: Some(error.clone()),
        });
        self.open.iter().map(|link| link.report()).chain(failed).collect()
    }
}

/// Looks for changed interfaces now and then.
pub(crate) async fn run(state: Arc<State>) {
    loop {
        tokio::time::sleep(REFRESH_EVERY).await;
        match interfaces::list() {
            Ok(found) if refresh(&state, &found) => state.request_burst(),
            Ok(_) => {}
            Err(error) => tracing::warn!(%error, "cannot list the network interfaces"),
        }
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
    let takes_part = |interface: &&Interface| match (bind, interface.subnet.address) {
        (Some(bind), address) => bind == address,
        (None, IpAddr::V4(v4)) => !v4.is_loopback(),
        // The group is of link-local scope, so an interface without such an address cannot send to it.
        (None, IpAddr::V6(v6)) => v6.is_unicast_link_local(),
    };
    let mut wanted: BTreeMap<(u32, bool), (Interface, Vec<Subnet>)> = BTreeMap::new();
    for interface in found.iter().filter(takes_part) {
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

    fn interface(name: &str, index: u32, address: &str, prefix: u8) -> Interface {
        Interface { name: name.into(), index, subnet: Subnet { address: address.parse().unwrap(), prefix } }
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
        assert_eq!(names(None), ["eth0 fe80::7 2", "eth0 192.168.1.7 2", "tun0 10.8.0.2 1"]);
        assert_eq!(names(Some("0.0.0.0")), names(None));
        assert_eq!(names(Some("127.0.0.1")), ["lo 127.0.0.1 1"]);
        assert_eq!(names(Some("10.0.0.7")), ["eth0 10.0.0.7 2"]);
        assert_eq!(names(Some("fd00::7")), ["eth0 fd00::7 2"]);
        assert_eq!(names(Some("1.2.3.4")), [""; 0]);
    }
}
