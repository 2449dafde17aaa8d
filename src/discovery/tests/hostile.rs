//! Forged datagrams, impostors and floods.

use crate::discovery::tests::{
    LOCALHOST, Net, PATIENCE, forger, group, lists, multicast_port, node, print, says, until, until_report,
};
use crate::discovery::{Found, Route, Scheme, listener};
use crate::model::{Alias, DeviceKind, Fingerprint};
use crate::platform::clock::ManualClock;
use crate::protocol::Announcement;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

#[tokio::test]
async fn forged_datagrams_cause_one_connect_back_and_hide_nobody() {
    let (net, port) = (Arc::new(Net::default()), multicast_port());
    let victim = node(&net, port, 1, |_| {});
    let socket = forger();
    let flood = tokio::task::spawn_blocking(move || {
        for number in 0..10_000_u32 {
            let [a, b, c, d] = number.to_be_bytes();
            let fingerprint = Fingerprint::from_bytes(std::array::from_fn(|i| [a, b, c, d, 77][i % 5]));
            let mut said =
                Announcement::of_this_device(Alias::new("forged"), fingerprint, 2000 + (number % 1000) as u16, false);
            said.announce = true;
            // A full queue is what a flood is about.
            let _ = socket.send_to(&serde_json::to_vec(&said).unwrap(), group(port));
        }
    });
    flood.await.unwrap();
    until_report(&victim, "the flood was heard", |report| report.interfaces[0].heard > 0).await;
    let honest = node(&net, port, 2, |_| {});
    until(&honest, "found beside the flood", lists(1)).await;
    until(&victim, "found beside the flood", lists(2)).await;
    let forged = net.calls().into_iter().filter(|(address, ..)| address.port() >= 2000).count();
    assert_eq!(forged, 1, "the first one is answered, and nothing after it");
    assert!(victim.handle.devices().len() <= 32, "forged claims are bounded");
}

#[tokio::test]
async fn hostile_datagrams_are_counted_and_change_nothing() {
    let (net, port) = (Arc::new(Net::default()), multicast_port());
    let victim = node(&net, port, 1, |_| {});
    let socket = forger();
    let mut long = serde_json::to_vec(&says("long", 9, 9)).unwrap();
    long.resize(1401, b' ');
    let own = serde_json::to_vec(&says("myself", 1, 9)).unwrap();
    let hostile: [&[u8]; 5] = [&long, b"", b"\xff\xfe", b"{\"alias\":\"x\"}", &vec![b'['; 60_000]];
    for bytes in hostile {
        socket.send_to(bytes, group(port)).unwrap();
    }
    socket.send_to(&own, group(port)).unwrap();
    until_report(&victim, "all are counted", |report| report.datagrams.malformed == hostile.len() as u64).await;
    assert_eq!(victim.handle.devices(), []);
    assert_eq!(net.calls(), []);
}

#[tokio::test]
async fn a_device_with_another_certificate_than_announced_is_not_listed() {
    let (net, port) = (Arc::new(Net::default()), multicast_port());
    let victim = node(&net, port, 1, |_| {});
    let impostor = SocketAddr::new(LOCALHOST, 3000);
    net.put(impostor, says("bank", 9, 3000), Some(print(66)));
    let said = Announcement { announce: true, ..says("bank", 9, 3000) };
    forger().send_to(&serde_json::to_vec(&said).unwrap(), group(port)).unwrap();
    until_report(&victim, "the mismatch is counted", |report| report.mismatched == 1).await;
    assert_eq!(victim.handle.devices(), []);
    let found = victim.handle.find(&print(9).to_string().parse().unwrap(), Duration::from_millis(300)).await;
    let Found::None(report) = found else { panic!("{found:?}") };
    assert!(report.to_string().contains("named a certificate that its device does not have"), "{report}");
}

#[tokio::test]
async fn an_answer_by_datagram_is_only_recorded() {
    let (net, port) = (Arc::new(Net::default()), multicast_port());
    let node = node(&net, port, 1, |_| {});
    forger().send_to(&serde_json::to_vec(&says("quiet", 9, 3000)).unwrap(), group(port)).unwrap();
    until(&node, "it is listed", lists(9)).await;
    assert_eq!(net.calls(), []);
    node.handle.prove().await;
    assert_eq!(node.handle.report().unreachable[0].alias, "quiet", "when a person looks, it is called");
    net.put(SocketAddr::new(LOCALHOST, 3000), says("quiet", 9, 3000), Some(print(66)));
    node.handle.prove().await;
    assert_eq!(node.handle.devices(), [], "and goes when somebody else answers");
}

#[tokio::test]
async fn a_paired_device_announced_as_localsend_is_never_called_so() {
    let (net, port) = (Arc::new(Net::default()), multicast_port());
    let known = vec![(print(9), Alias::new("nas"), None)];
    let node = node(&net, port, 1, |options| options.known = known);
    let address = SocketAddr::new(LOCALHOST, 3000);
    net.put(address, says("nas", 9, 3000), Some(print(9)));
    let said = Announcement { announce: true, lan_backup: None, protocol: "http".into(), ..says("nas", 9, 3000) };
    forger().send_to(&serde_json::to_vec(&said).unwrap(), group(port)).unwrap();
    until(&node, "it answers", |devices| devices.iter().any(|d| d.kind == DeviceKind::LanBackup)).await;
    assert_eq!(net.calls(), [(address, Scheme::Https, Route::Native)]);
}

#[tokio::test]
async fn a_stranger_is_not_taken_for_a_paired_device_that_is_off() {
    let (net, port) = (Arc::new(Net::default()), multicast_port());
    let known = vec![(print(9), Alias::new("device2"), Some(SocketAddr::new(LOCALHOST, 9)))];
    let seeker = node(&net, port, 1, |options| options.known = known);
    let other = node(&net, port, 2, |_| {});
    until(&seeker, "the stranger is here", lists(2)).await;
    let find = seeker.handle.find(&"device2".parse().unwrap(), Duration::from_millis(600)).await;
    let Found::None(report) = find else { panic!("{find:?}") };
    assert_eq!(report.namesakes.len(), 1, "{report}");
    seeker.handle.unknow(&print(9));
    let find = seeker.handle.find(&"device2".parse().unwrap(), PATIENCE).await;
    assert!(matches!(find, Found::One(device) if device.addresses == [other.address]));
}

#[tokio::test]
async fn a_caller_without_a_certificate_is_asked_back_before_it_is_believed() {
    let net = Arc::new(Net::default());
    let node = node(&net, multicast_port(), 1, |_| {});
    let address = SocketAddr::new(LOCALHOST, 3000);
    net.put(address, says("late", 9, 3000), Some(print(9)));
    node.handle.heard(&says("late", 9, 3000), SocketAddr::new(LOCALHOST, 50_000), None);
    until(&node, "it is proved", |devices| lists(9)(devices) && node.has_only_proved()).await;
    node.handle.heard(&says("far", 7, 3002), SocketAddr::from(([203, 0, 113, 7], 50_000)), None);
    let mapped: SocketAddr = "[::ffff:127.0.0.1]:50000".parse().unwrap();
    node.handle.heard(&says("dual", 6, 3003), mapped, Some(print(6)));
    let devices = node.handle.devices();
    let dual = devices.iter().find(|device| device.fingerprint == Some(print(6))).unwrap();
    assert_eq!(dual.addresses, ["127.0.0.1:3003".parse().unwrap()]);
    assert_eq!(net.calls().len(), 1, "who is far is not called: {:?}", net.calls());
    node.handle.heard(&says("liar", 8, 3001), SocketAddr::new(LOCALHOST, 50_000), Some(print(66)));
    assert!(!lists(8)(&node.handle.devices()) && !lists(66)(&node.handle.devices()));
    assert_eq!(node.handle.report().mismatched, 1);
}

#[tokio::test]
async fn a_source_that_is_not_on_the_link_is_neither_listed_nor_answered() {
    let net = Arc::new(Net::default());
    let node = node(&net, multicast_port(), 1, |_| {});
    let said = Announcement { announce: true, ..says("far", 9, 3000) };
    let bytes = serde_json::to_vec(&said).unwrap();
    let link = node.handle.state.links().open().remove(0);
    for source in ["8.8.8.8:53317", "192.168.1.1:53317", "[fe80::1]:53317"] {
        listener::hear(&node.handle.state, &link, &bytes, source.parse().unwrap());
    }
    assert_eq!(node.handle.report().datagrams.far, 3);
    assert_eq!((node.handle.devices(), node.handle.report().datagrams.called_back), (Vec::new(), 0));
    listener::hear(&node.handle.state, &link, &bytes, SocketAddr::new(LOCALHOST, 53317));
    assert_eq!(node.handle.report().datagrams.called_back, 1, "the same from near is answered");
}

#[tokio::test]
async fn of_two_paired_devices_with_one_name_none_is_taken_because_the_other_is_off() {
    let (net, port) = (Arc::new(Net::default()), multicast_port());
    let off = SocketAddr::new(LOCALHOST, 9);
    let known = vec![(print(2), Alias::new("nas"), None), (print(9), Alias::new("nas"), Some(off))];
    let seeker = node(&net, port, 1, |options| options.known = known);
    let here = node(&net, port, 2, |_| {});
    until(&seeker, "one of them is here", lists(2)).await;
    let found = seeker.handle.find(&"nas".parse().unwrap(), PATIENCE).await;
    let Found::Several(both) = found else { panic!("{found:?}") };
    let shown: Vec<_> = both.iter().map(|device| (device.fingerprint.unwrap(), device.addresses.clone())).collect();
    assert_eq!(shown, [(print(2), vec![here.address]), (print(9), vec![off])]);
    let found = seeker.handle.find(&"0202".parse().unwrap(), PATIENCE).await;
    assert!(matches!(found, Found::One(device) if device.fingerprint == Some(print(2))));
}

#[tokio::test]
async fn a_copy_of_this_devices_home_is_noticed_and_a_command_beside_it_is_not() {
    let (net, port) = (Arc::new(Net::default()), multicast_port());
    let node = node(&net, port, 1, |options| options.announcement = options.announcement.clone().by_instance(7));
    let announces = |said: Announcement| {
        let said = Announcement { announce: true, ..said };
        forger().send_to(&serde_json::to_vec(&said).unwrap(), group(port)).unwrap();
    };
    let command = Announcement::of_this_device(Alias::new("device1"), print(1), 3001, true).by_instance(8);
    announces(command);
    announces(says("device1", 1, 3002).by_instance(7));
    announces(says("device1", 1, 3003));
    until_report(&node, "its own word comes back", |report| report.interfaces[0].echoed > 0).await;
    assert_eq!(node.handle.copies(), []);
    let copy = SocketAddr::new(LOCALHOST, 3000);
    net.put(copy, says("device1", 1, 3000).by_instance(9), Some(print(1)));
    announces(says("device1", 1, 3000).by_instance(9));
    until(&node, "the copy answered", |_| node.handle.copies() == [copy]).await;
    assert_eq!((node.handle.devices(), net.calls().len()), (Vec::new(), 1), "and nobody else was called");
    // Who says so by datagram and cannot prove it is no copy.
    let forged = SocketAddr::new(LOCALHOST, 3004);
    net.put(forged, says("device1", 1, 3004).by_instance(10), Some(print(66)));
    node.handle.heard(&says("device1", 1, 3004).by_instance(10), forged, Some(print(66)));
    assert_eq!(node.handle.copies(), [copy]);
}

#[tokio::test]
async fn whoever_left_is_not_listed_when_a_person_looks() {
    let net = Arc::new(Net::default());
    let clock = Arc::new(ManualClock::new(jiff::Timestamp::UNIX_EPOCH));
    let node = node(&net, multicast_port(), 1, |options| options.clock = clock.clone());
    let (stays, leaves) = (SocketAddr::new(LOCALHOST, 3000), SocketAddr::new(LOCALHOST, 3001));
    net.put(stays, says("stays", 8, 3000), Some(print(8)));
    node.handle.heard(&says("stays", 8, 3000), stays, Some(print(8)));
    node.handle.heard(&says("leaves", 9, 3001), leaves, Some(print(9)));
    node.handle.prove().await;
    assert_eq!((node.handle.devices().len(), net.calls().len()), (2, 0), "who answered just now is not asked again");
    clock.advance(Duration::from_secs(11));
    node.handle.prove().await;
    let aliases: Vec<_> = node.handle.devices().iter().map(|device| device.alias.to_string()).collect();
    assert_eq!(aliases, ["stays"]);
}
