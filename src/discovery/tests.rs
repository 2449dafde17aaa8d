//! Several discoveries on loopback with real multicast, and HTTP calls that a table of devices answers.
//!
//! Each test has a multicast port of its own, so tests do not hear each other. Nothing sleeps: a test waits for a change,
//! with a limit.

mod hostile;
mod loss;

use crate::discovery::report::Counts;
use crate::discovery::state::State;
use crate::discovery::{
    Answer, CallFailure, Caller, DiscoveryHandle, DiscoveryOptions, Error, Found, Report, Route, Scheme, Stage,
    listener, start,
};
use crate::model::{Alias, Device, DeviceKind, Fingerprint};
use crate::platform::random;
use crate::platform::shutdown::Shutdown;
use crate::protocol::Announcement;
use futures_util::future::BoxFuture;
use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

const LOCALHOST: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
const PATIENCE: Duration = Duration::from_secs(15);

/// What stands behind an address.
#[derive(Clone, Debug)]
struct Server {
    announcement: Announcement,
    certificate: Option<Fingerprint>,
    /// Only these ways are answered.
    ways: Vec<(Scheme, Route)>,
    handle: Option<Weak<State>>,
}

/// The HTTP side of a test: who answers where, and who was called.
#[derive(Debug, Default)]
struct Net {
    servers: Mutex<HashMap<SocketAddr, Server>>,
    calls: Mutex<Vec<(SocketAddr, Scheme, Route)>>,
}

impl Net {
    fn calls(&self) -> Vec<(SocketAddr, Scheme, Route)> {
        self.calls.lock().unwrap().clone()
    }

    fn put(&self, address: SocketAddr, announcement: Announcement, certificate: Option<Fingerprint>) {
        let ways = vec![(Scheme::Https, Route::Native)];
        self.servers.lock().unwrap().insert(address, Server { announcement, certificate, ways, handle: None });
    }
}

/// Calls through the table as the device with this certificate.
#[derive(Debug)]
struct FakeCaller {
    net: Arc<Net>,
    certificate: Fingerprint,
}

impl Caller for FakeCaller {
    fn register(
        &self,
        address: SocketAddr,
        scheme: Scheme,
        route: Route,
        body: Announcement,
    ) -> BoxFuture<'static, Result<Answer, CallFailure>> {
        self.net.calls.lock().unwrap().push((address, scheme, route));
        let server = self.net.servers.lock().unwrap().get(&address).cloned();
        let certificate = self.certificate;
        Box::pin(async move {
            let failure = |stage, sentence: &str| CallFailure { stage, sentence: sentence.to_owned() };
            let server = server.ok_or(failure(Stage::Connecting, "connection refused"))?;
            if !server.ways.contains(&(scheme, route)) {
                return Err(failure(Stage::Answered, "not found"));
            }
            if let Some(state) = server.handle.and_then(|state| state.upgrade()) {
                listener::registered(&state, &body, SocketAddr::new(LOCALHOST, 4000), Some(certificate));
            }
            Ok(Answer { announcement: server.announcement, certificate: server.certificate })
        })
    }
}

/// One device with its discovery.
struct Node {
    handle: DiscoveryHandle,
    shutdown: Shutdown,
    address: SocketAddr,
    announcement: Announcement,
}

impl Node {
    fn has_only_proved(&self) -> bool {
        self.handle.state.registry().unproved(self.handle.state.now()).is_empty()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.shutdown.stop();
    }
}

fn print(byte: u8) -> Fingerprint {
    Fingerprint::from_bytes([byte; 32])
}

fn says(alias: &str, byte: u8, port: u16) -> Announcement {
    Announcement::of_this_device(Alias::new(alias), print(byte), port, false)
}

fn multicast_port() -> u16 {
    20_000 + (random::number() % 40_000) as u16
}

fn node(net: &Arc<Net>, multicast: u16, byte: u8, change: impl FnOnce(&mut DiscoveryOptions)) -> Node {
    let address = SocketAddr::new(LOCALHOST, 1000 + u16::from(byte));
    let announcement = says(&format!("device{byte}"), byte, address.port());
    let mut options = DiscoveryOptions {
        bind: Some(LOCALHOST),
        multicast_port: multicast,
        ..DiscoveryOptions::new(announcement.clone())
    };
    change(&mut options);
    let shutdown = Shutdown::new();
    let caller = Arc::new(FakeCaller { net: Arc::clone(net), certificate: print(byte) });
    let handle = start(options, caller, shutdown.clone()).unwrap();
    net.put(address, announcement.clone(), Some(print(byte)));
    if let Some(server) = net.servers.lock().unwrap().get_mut(&address) {
        server.handle = Some(Arc::downgrade(&handle.state));
    }
    Node { handle, shutdown, address, announcement }
}

/// Waits until `seen` holds of the devices that the node lists.
async fn until(node: &Node, what: &str, seen: impl Fn(&[Device]) -> bool) {
    let mut changes = node.handle.subscribe();
    let wait = async {
        while !seen(&node.handle.devices()) {
            changes.changed().await.unwrap();
        }
    };
    let waited = tokio::time::timeout(PATIENCE, wait).await;
    assert!(waited.is_ok(), "{what}: {:?}\n{}", node.handle.devices(), node.handle.report());
}

/// Waits until the report says so; counters wake nobody, so this looks again and again.
async fn until_report(node: &Node, what: &str, holds: impl Fn(&Report) -> bool) {
    let wait = async {
        while !holds(&node.handle.report()) {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    let waited = tokio::time::timeout(PATIENCE, wait).await;
    assert!(waited.is_ok(), "{what}: {:?}", node.handle.report());
}

fn lists(byte: u8) -> impl Fn(&[Device]) -> bool {
    move |devices| devices.iter().any(|device| device.fingerprint == Some(print(byte)))
}

/// A socket that forges datagrams on loopback.
fn forger() -> UdpSocket {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::DGRAM, None).unwrap();
    socket.bind(&SocketAddr::new(LOCALHOST, 0).into()).unwrap();
    socket.set_multicast_if_v4(&Ipv4Addr::LOCALHOST).unwrap();
    socket.into()
}

fn group(port: u16) -> SocketAddr {
    SocketAddr::from(([224, 0, 0, 167], port))
}

#[tokio::test]
async fn three_devices_on_one_machine_find_each_other() {
    let (net, port) = (Arc::new(Net::default()), multicast_port());
    let first = node(&net, port, 1, |_| {});
    let second = node(&net, port, 2, |_| {});
    until(&first, "the first hears the second", lists(2)).await;
    until(&second, "the second hears the first", lists(1)).await;
    let third = node(&net, port, 3, |options| options.announcement.lan_backup.as_mut().unwrap().transient = true);
    // All share one address, and so one connect-back in 30 seconds: the rest goes by datagram.
    for (node, other) in [(&first, 3), (&second, 3), (&third, 1), (&third, 2)] {
        until(node, "everybody hears everybody", lists(other)).await;
    }
    let devices = first.handle.devices();
    assert_eq!(devices.len(), 2, "nobody lists itself: {devices:?}");
    let seen = devices.iter().find(|device| device.fingerprint == Some(print(3))).unwrap();
    assert!(seen.transient && seen.kind == DeviceKind::LanBackup && seen.addresses == [third.address]);
}

#[tokio::test]
async fn who_asks_again_within_thirty_seconds_still_hears_of_us() {
    let (net, port) = (Arc::new(Net::default()), multicast_port());
    let server = node(&net, port, 1, |_| {});
    for byte in 2..6 {
        let short_lived = node(&net, port, byte, |_| {});
        until(&short_lived, "each command hears the server", lists(1)).await;
        short_lived.shutdown.stop();
        short_lived.handle.stopped().await;
    }
    drop(server);
}

#[tokio::test]
async fn a_localsend_app_is_called_in_its_own_language() {
    let (net, port) = (Arc::new(Net::default()), multicast_port());
    let node = node(&net, port, 1, |_| {});
    let address = SocketAddr::new(LOCALHOST, 3000);
    let phone = Announcement { lan_backup: None, announce: true, ..says("phone", 9, 3000) };
    let ways = vec![(Scheme::Https, Route::LocalSend)];
    let server = Server { announcement: phone.clone(), certificate: Some(print(9)), ways, handle: None };
    net.servers.lock().unwrap().insert(address, server);
    forger().send_to(&serde_json::to_vec(&phone).unwrap(), group(port)).unwrap();
    until(&node, "it answers", |devices| !devices.is_empty() && node.has_only_proved()).await;
    assert_eq!(net.calls(), [(address, Scheme::Https, Route::LocalSend)]);
    assert_eq!(node.handle.devices()[0].kind, DeviceKind::LocalSend);
}

#[tokio::test]
async fn a_known_address_is_asked_before_anything_is_heard() {
    let net = Arc::new(Net::default());
    let away = node(&net, multicast_port(), 2, |_| {});
    let known = vec![(print(2), Alias::new("nas"), Some(away.address))];
    let node = node(&net, multicast_port(), 1, |options| options.known = known);
    for name in ["NAS", "device2", "0202", &print(2).to_string()] {
        let found = node.handle.find(&name.parse().unwrap(), PATIENCE).await;
        let Found::One(device) = found else { panic!("{name}: {found:?}") };
        assert_eq!((device.fingerprint, &device.addresses[..]), (Some(print(2)), &[away.address][..]), "{name}");
    }
}

#[tokio::test]
async fn a_stranger_is_found_by_name_once_it_answered() {
    let (net, port) = (Arc::new(Net::default()), multicast_port());
    let seeker = node(&net, port, 1, |_| {});
    let (selector, seeking) = ("device2".parse().unwrap(), seeker.handle.clone());
    let find = tokio::spawn(async move { seeking.find(&selector, PATIENCE).await });
    let _other = node(&net, port, 2, |_| {});
    let Found::One(device) = find.await.unwrap() else { panic!("not found") };
    assert_eq!(device.fingerprint, Some(print(2)));
}

#[tokio::test]
async fn two_devices_of_one_name_are_asked_back() {
    let (net, port) = (Arc::new(Net::default()), multicast_port());
    let seeker = node(&net, port, 1, |_| {});
    for byte in [2, 3] {
        let (address, said) =
            (SocketAddr::new(LOCALHOST, 3000 + u16::from(byte)), says("twin", byte, 3000 + u16::from(byte)));
        net.put(address, said.clone(), Some(print(byte)));
        forger().send_to(&serde_json::to_vec(&said).unwrap(), group(port)).unwrap();
        until(&seeker, "it is heard", lists(byte)).await;
    }
    let found = seeker.handle.find(&"twin".parse().unwrap(), PATIENCE).await;
    let Found::Several(twins) = found else { panic!("{found:?}") };
    assert_eq!(twins.len(), 2);
    let found = seeker.handle.find(&"0303".parse().unwrap(), PATIENCE).await;
    assert!(matches!(found, Found::One(device) if device.fingerprint == Some(print(3))));
}

#[tokio::test]
async fn an_address_is_asked_directly_in_every_language() {
    let net = Arc::new(Net::default());
    let node = node(&net, multicast_port(), 1, |_| {});
    let address = SocketAddr::new(LOCALHOST, 3000);
    let old = Announcement {
        protocol: "http".into(),
        fingerprint: "random".into(),
        lan_backup: None,
        ..says("old", 9, 3000)
    };
    let ways = vec![(Scheme::Http, Route::LocalSend)];
    let server = Server { announcement: old, certificate: None, ways, handle: None };
    net.servers.lock().unwrap().insert(address, server);
    let found = node.handle.find(&"127.0.0.1:3000".parse().unwrap(), PATIENCE).await;
    let Found::One(device) = found else { panic!("{found:?}") };
    assert_eq!((device.fingerprint, device.kind, device.addresses), (None, DeviceKind::LocalSend, vec![address]));
    assert_eq!(net.calls().len(), 3);
    for nobody in ["127.0.0.1:3001", "127.0.0.1:1001", "fe80::1%nowhere"] {
        let found = node.handle.find(&nobody.parse().unwrap(), PATIENCE).await;
        let Found::None(report) = found else { panic!("{found:?}") };
        assert!(!report.failures.is_empty(), "{nobody}: {report}");
    }
}

#[tokio::test]
async fn a_scan_on_loopback_asks_known_addresses_only() {
    let net = Arc::new(Net::default());
    let listening = std::net::TcpListener::bind((LOCALHOST, 0)).unwrap();
    let strange = std::net::TcpListener::bind((LOCALHOST, 0)).unwrap();
    let refusing = std::net::TcpListener::bind((LOCALHOST, 0)).unwrap().local_addr().unwrap();
    let address = listening.local_addr().unwrap();
    net.put(address, says("nas", 9, address.port()), Some(print(9)));
    let known = [address, strange.local_addr().unwrap(), refusing];
    let known = known.into_iter().map(|at| (print(9), Alias::new("nas"), Some(at))).collect();
    let node = node(&net, multicast_port(), 1, |options| options.known = known);
    let report = tokio::time::timeout(PATIENCE, node.handle.scan()).await.unwrap();
    assert_eq!(report.known, Counts { asked: 3, answered: 1, refused: 1, silent: 0, strange: 1 }, "{report}");
    assert!(report.subnets.iter().all(|subnet| subnet.skipped.is_some() && subnet.counts.asked == 0), "{report}");
    assert_eq!(node.handle.devices().len(), 1);
    assert!(net.calls().iter().all(|(_, _, route)| *route == Route::Native), "a paired address is never asked over v2");
    assert_eq!(node.handle.report().scan, Some(report));
}

#[tokio::test]
async fn a_localsend_app_on_this_machine_keeps_its_port() {
    let port = multicast_port();
    let app = || {
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::DGRAM, None).unwrap();
        socket.set_reuse_address(true).unwrap();
        socket.bind(&SocketAddr::from((Ipv4Addr::UNSPECIFIED, port)).into()).unwrap();
        socket.join_multicast_v4(&Ipv4Addr::new(224, 0, 0, 167), &Ipv4Addr::LOCALHOST).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        UdpSocket::from(socket)
    };
    let (net, before) = (Arc::new(Net::default()), app());
    let _node = node(&net, port, 1, |_| {});
    let after = app();
    let hears = |socket: UdpSocket| {
        tokio::task::spawn_blocking(move || {
            let mut bytes = [0; 2000];
            let (length, _) = socket.recv_from(&mut bytes).unwrap();
            assert!(serde_json::from_slice::<Announcement>(&bytes[..length]).unwrap().announce);
            socket
        })
    };
    let before = hears(before).await.unwrap();
    drop(hears(after).await.unwrap());
    let only = tokio::task::spawn_blocking(move || {
        forger().send_to(b"for the app", SocketAddr::new(LOCALHOST, port)).unwrap();
        let mut bytes = [0; 2000];
        loop {
            let (length, _) = before.recv_from(&mut bytes).unwrap();
            if &bytes[..length] == b"for the app" {
                return;
            }
        }
    });
    only.await.unwrap();
}

#[tokio::test]
async fn everything_ends_with_the_shutdown() {
    let net = Arc::new(Net::default());
    let node = node(&net, multicast_port(), 1, |_| {});
    let finding = node.handle.clone();
    let find = tokio::spawn(async move { finding.find(&"nobody".parse().unwrap(), Duration::from_hours(1)).await });
    node.handle.announce().await;
    assert!(node.handle.report().interfaces[0].sent > 0);
    node.shutdown.stop();
    tokio::time::timeout(PATIENCE, node.handle.stopped()).await.unwrap();
    let found = tokio::time::timeout(PATIENCE, find).await.unwrap().unwrap();
    assert!(matches!(found, Found::None(_)));
    assert_eq!(node.announcement.alias.as_str(), "device1");
}

#[tokio::test]
async fn binding_to_an_address_that_is_not_ours_is_refused() {
    let options = DiscoveryOptions { bind: Some([203, 0, 113, 7].into()), ..DiscoveryOptions::new(says("me", 1, 1)) };
    let caller = Arc::new(FakeCaller { net: Arc::default(), certificate: print(1) });
    assert!(matches!(start(options, caller, Shutdown::new()), Err(Error::NoSuchAddress(_))));
}
