//! Thousands of aborted pairings from hundreds of addresses and a flood of datagrams, at a real `serve`: its memory, descriptors and
//! log stay within bounds, and a person at it still lets an honest device in, which backs up meanwhile.

use crate::support::lan::{Lan, give_pin};
use crate::support::program::until;
use crate::support::scratch::long;
use crate::support::stranger::{Stranger, post_on};
use crate::support::tree::noise;
use lan_backup::model::Alias;
use lan_backup::protocol::{Announcement, paths};
use serde_json::json;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// What the flood may add to the memory of `serve`.
const MEMORY: u64 = 96 << 20;
/// Descriptors beyond those before the flood, once it is over: what the honest device left open.
const DESCRIPTORS: usize = 16;
/// Bytes that the flood may add to the log, at the usual level.
const LOG: usize = 64 << 10;

fn resident(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() << 10
}

fn descriptors(pid: u32) -> usize {
    fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count()
}

fn source(number: usize) -> Ipv4Addr {
    Ipv4Addr::new(127, 8, (number / 250) as u8, (number % 250) as u8 + 1)
}

/// Begins a pairing and goes away in the middle of it, each time in another way.
fn abort(stranger: &Stranger, number: usize, to: SocketAddr) {
    // Who is turned away at the door has aborted, too.
    let Ok(mut line) = stranger.call(source(number % 500), to) else { return };
    let request =
        json!({ "v": 1, "alias": format!("stranger {number}"), "rights": ["backup", "restore-others"], "wait": 30 });
    let start = json!({ "v": 1, "message": "AAAA", "signingKey": "ab".repeat(32), "rights": ["backup"] });
    let _ = match number % 5 {
        0 => Ok(()),
        1 => post_on(&mut line, paths::PAIR_REQUEST, request.to_string().as_bytes()),
        2 => post_on(&mut line, paths::PAIR_START, start.to_string().as_bytes()),
        3 => post_on(&mut line, paths::PAIR_CONFIRM, b"{\"proof\":\"AAAA\"}"),
        _ => post_on(&mut line, paths::PAIR_REQUEST, &request.to_string().as_bytes()[..20]),
    };
}

fn datagrams(port: u16, over: &AtomicBool) -> usize {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::DGRAM, None).unwrap();
    socket.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into()).unwrap();
    socket.set_multicast_if_v4(&Ipv4Addr::LOCALHOST).unwrap();
    let socket: UdpSocket = socket.into();
    let mut sent = 0;
    while !over.load(Ordering::Relaxed) {
        for number in 0..100_u16 {
            let fingerprint =
                lan_backup::model::Fingerprint::from_bytes(std::array::from_fn(|i| (sent >> (i % 4)) as u8));
            let mut said = Announcement::of_this_device(Alias::new("forged"), fingerprint, 2000 + number, false);
            said.announce = true;
            let _ = socket.send_to(&serde_json::to_vec(&said).unwrap(), (Ipv4Addr::new(224, 0, 0, 167), port));
            sent += 1;
        }
        // A flood, and not the only thing that this machine does.
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    sent
}

#[test]
fn aborted_pairings_and_forged_datagrams_by_the_thousand_leave_bounded_traces_and_an_honest_device_gets_in() {
    let lan = Lan::new();
    let (mut nas, laptop) = (lan.device("nas"), lan.device("laptop"));
    nas.serve(&["--accept", "ask"]);
    let to: SocketAddr = nas.address().parse().unwrap();
    let pid = nas.serve.as_ref().unwrap().id();
    let strangers: Vec<Stranger> = (0..64).map(|_| Stranger::new()).collect();
    // What the first of each kind costs is not the flood's.
    (0..10).for_each(|number| abort(&strangers[number], number, to));
    let (memory, files) = (resident(pid), descriptors(pid));
    let total = if long() { 10_000 } else { 1_000 };
    let (next, over) = (AtomicUsize::new(0), AtomicBool::new(false));
    let docs = lan.folder("docs", &[("a", &noise(300_000, 1))]);
    std::thread::scope(|scope| {
        let flooding = scope.spawn(|| datagrams(lan.multicast_port(), &over));
        let flooders: Vec<_> = (0..4)
            .map(|_| {
                scope.spawn(|| {
                    loop {
                        let number = next.fetch_add(1, Ordering::Relaxed);
                        if number >= total {
                            return;
                        }
                        abort(&strangers[number % strangers.len()], number, to);
                    }
                })
            })
            .collect();
        until("the flood to be there", || (next.load(Ordering::Relaxed) > total / 10).then_some(()));
        // The honest one asks like everybody else; its person reads its code to the one at nas.
        let arguments = ["send", &nas.address(), docs.to_str().unwrap()];
        let (mut sending, file) = laptop.start_with_pin_file(&arguments);
        let code = sending.event("pairing")["code"].as_str().unwrap().to_owned();
        let window = nas.run(&["pin", "--for", &code]);
        assert_eq!(window.last(0)["alias"], "laptop");
        give_pin(&file, window.lines[0]["pin"].as_str().unwrap());
        assert_eq!(sending.end().done()["newFiles"], 1);
        for flooder in flooders {
            flooder.join().unwrap();
        }
        over.store(true, Ordering::Relaxed);
        assert!(flooding.join().unwrap() > 100);
    });
    let grown = resident(pid).saturating_sub(memory);
    assert!(grown < MEMORY, "{grown} bytes more than before");
    until("the descriptors to be free", || (descriptors(pid) <= files + DESCRIPTORS).then_some(()));
    assert_eq!(nas.run(&["trust"]).rows().len(), 1, "nobody else got in");
    let again = laptop.run(&["send", "nas", docs.to_str().unwrap()]);
    assert_eq!(again.done()["newFiles"], 0);
    let log = nas.stop().stderr;
    assert!(log.len() < LOG, "{} bytes of log: {}", log.len(), &log[log.len() - 2000..]);
}
