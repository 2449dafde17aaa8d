//! A network that loses every other datagram, and one that is full of forged ones.

use crate::discovery::gate::CONNECT_BACK_EVERY;
use crate::discovery::registry::MAX_DEVICES;
use crate::discovery::tests::{LOCALHOST, Net, group, lists, multicast_port, node, until};
use crate::model::{Alias, Fingerprint};
use crate::protocol::Announcement;
use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

#[expect(clippy::disallowed_methods, reason = "a test's own switch")]
fn long() -> bool {
    std::env::var_os("LAN_BACKUP_LONG").is_some()
}

fn socket(from: Ipv4Addr, port: u16) -> UdpSocket {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::DGRAM, None).unwrap();
    socket.set_reuse_address(true).unwrap();
    socket.bind(&SocketAddr::from((from, port)).into()).unwrap();
    socket.set_multicast_if_v4(&Ipv4Addr::LOCALHOST).unwrap();
    socket.into()
}

/// Two groups, and somebody who carries from one to the other what a coin lets through.
struct Lossy {
    over: Arc<AtomicBool>,
    threads: Vec<JoinHandle<[usize; 2]>>,
}

impl Lossy {
    fn between(ports: [u16; 2], seed: u8) -> Self {
        let over = Arc::new(AtomicBool::new(false));
        let ears = ports.map(|port| {
            let ear = socket(Ipv4Addr::UNSPECIFIED, port);
            ear.join_multicast_v4(&Ipv4Addr::new(224, 0, 0, 167), &Ipv4Addr::LOCALHOST).unwrap();
            ear.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
            ear
        });
        let mouths = [socket(Ipv4Addr::LOCALHOST, 0), socket(Ipv4Addr::LOCALHOST, 0)];
        let own = [mouths[0].local_addr().unwrap(), mouths[1].local_addr().unwrap()];
        let threads = ears
            .into_iter()
            .zip(mouths)
            .enumerate()
            .map(|(side, (ear, mouth))| {
                let (over, to) = (over.clone(), group(ports[1 - side]));
                std::thread::spawn(move || {
                    let (mut buffer, mut counts) = ([0; 2000], [0; 2]);
                    let mut coin = blake3::Hasher::new().update(&[seed, side as u8]).finalize_xof();
                    while !over.load(Ordering::Relaxed) {
                        let Ok((length, from)) = ear.recv_from(&mut buffer) else { continue };
                        // What was carried once is not carried back.
                        if own.contains(&from) {
                            continue;
                        }
                        let mut toss = [0];
                        coin.fill(&mut toss);
                        counts[usize::from(toss[0] & 1)] += 1;
                        if toss[0] & 1 == 1 {
                            let _ = mouth.send_to(&buffer[..length], to);
                        }
                    }
                    counts
                })
            })
            .collect();
        Self { over, threads }
    }

    /// Lost and carried.
    fn end(self) -> [usize; 2] {
        self.over.store(true, Ordering::Relaxed);
        let counts = self.threads.into_iter().map(|thread| thread.join().unwrap());
        counts.fold([0; 2], |sum, counts| [sum[0] + counts[0], sum[1] + counts[1]])
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_devices_find_each_other_where_every_other_datagram_is_lost() {
    let mut lost = 0;
    for seed in 0..if long() { 20 } else { 3 } {
        let net = Arc::new(Net::default());
        let ports = [multicast_port(), multicast_port()];
        let lossy = Lossy::between(ports, seed);
        let (one, other) = (node(&net, ports[0], 1, |_| {}), node(&net, ports[1], 2, |_| {}));
        let found = async {
            until(&one, "found through the losses", lists(2)).await;
            until(&other, "found through the losses", lists(1)).await;
        };
        tokio::time::timeout(Duration::from_secs(10), found).await.expect("found within 10 s");
        drop((one, other));
        lost += lossy.end()[0];
    }
    assert!(lost > 0, "nothing was lost at all");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_thousand_forged_datagrams_cause_one_call_back_for_each_source_and_hide_nobody() {
    let (net, port) = (Arc::new(Net::default()), multicast_port());
    let victim = node(&net, port, 1, |_| {});
    let began = Instant::now();
    let flood = tokio::task::spawn_blocking(move || {
        let sources: Vec<UdpSocket> = (1..=200).map(|n| socket(Ipv4Addr::new(127, 5, 0, n), 0)).collect();
        for number in 0..if long() { 100_000 } else { 10_000_u32 } {
            let [a, b, c, d] = number.to_be_bytes();
            let fingerprint = Fingerprint::from_bytes(std::array::from_fn(|i| [a, b, c, d, 78][i % 5]));
            let mut said =
                Announcement::of_this_device(Alias::new("forged"), fingerprint, 2000 + (number % 1000) as u16, false);
            said.announce = true;
            let _ = sources[number as usize % sources.len()].send_to(&serde_json::to_vec(&said).unwrap(), group(port));
        }
    });
    let honest = node(&net, port, 2, |_| {});
    let found = async {
        until(&honest, "found beside the flood", lists(1)).await;
        until(&victim, "found beside the flood", lists(2)).await;
    };
    tokio::time::timeout(Duration::from_secs(10), found).await.expect("found within 10 s, beside the flood");
    flood.await.unwrap();
    let mut calls: HashMap<IpAddr, u32> = HashMap::new();
    for (address, ..) in net.calls().into_iter().filter(|(address, ..)| address.ip() != LOCALHOST) {
        *calls.entry(address.ip()).or_default() += 1;
    }
    // Two devices heard it; each may call a source once in thirty seconds.
    let windows = 1 + (began.elapsed().as_secs() / CONNECT_BACK_EVERY.as_secs()) as u32;
    assert!(!calls.is_empty(), "the flood was heard");
    assert!(calls.values().all(|count| *count <= 2 * windows), "{calls:?}");
    // What the registry holds, whoever claims it.
    assert!(
        victim.handle.devices().len() <= MAX_DEVICES,
        "forged claims are bounded: {}",
        victim.handle.devices().len()
    );
}
