//! Asks each address of the subnets whether a device is there: for networks that swallow multicast, of which there are many.
//!
//! First a bare TCP connection with a short limit, because most addresses of a subnet are empty and a handshake is dear;
//! only where something listens is it called properly.

use crate::discovery::asker::{ANYBODY, NATIVE, Outcome, ask};
use crate::discovery::report::{Counts, ScanReport, SubnetReport};
use crate::discovery::state::State;
use crate::platform::interfaces::is_private;
use futures_util::StreamExt;
use std::collections::HashSet;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;
use tokio::net::TcpStream;

/// Addresses asked at once, as LocalSend does; more would overflow the neighbour tables of small routers.
const SCAN_CONCURRENCY: usize = 50;
/// Addresses asked on one interface; those nearest to ours. 1,024 silent ones take ten seconds.
const MAX_ADDRESSES_PER_SUBNET: usize = 1024;
/// Longest wait for a connection: on a local network it takes milliseconds, and sleeping radios wake in 300.
const CONNECT_LIMIT: Duration = Duration::from_millis(500);

/// How much of the neighbourhood is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Extent {
    /// Last known addresses, then the subnets.
    All,
    /// The subnets; the known addresses were asked already.
    Subnets,
}

/// What one address said.
enum Reply {
    Answered,
    Refused,
    Silent,
    Strange,
}

/// Scans, and keeps the report. Stops early on shutdown.
pub(crate) async fn scan(state: &State, extent: Extent) -> ScanReport {
    let (mut report, questions) = plan(state, extent);
    let replies = futures_util::stream::iter(questions)
        .map(|(part, address)| async move { (part, question(state, address).await) })
        .buffer_unordered(SCAN_CONCURRENCY);
    let mut replies = std::pin::pin!(replies);
    loop {
        let reply = tokio::select! {
            () = state.shutdown.stopped() => None,
            reply = replies.next() => reply,
        };
        let Some((part, reply)) = reply else { break };
        let counts =
            part.map_or(Some(&mut report.known), |n| report.subnets.get_mut(n).map(|subnet| &mut subnet.counts));
        if let Some(counts) = counts {
            counts.add(&reply);
        }
    }
    state.tally().scan = Some(report.clone());
    report
}

/// Whom to ask: the known addresses, then all subnets together, nearest addresses first so that no wide network keeps a
/// narrow one waiting.
fn plan(state: &State, extent: Extent) -> (ScanReport, Vec<(Option<usize>, SocketAddr)>) {
    let (subnets, own) = {
        let links = state.links();
        let own: HashSet<IpAddr> = links.all().iter().map(|interface| interface.subnet.address).collect();
        (links.subnets(), own)
    };
    let known: HashSet<SocketAddr> =
        state.registry().known().flat_map(|(_, _, addresses)| addresses.iter().copied()).collect();
    let mut asked = HashSet::new();
    let mut questions = Vec::new();
    if extent == Extent::All {
        questions.extend(known.iter().map(|address| (None, *address)));
    }
    asked.extend(known);
    let mut report = ScanReport::default();
    let mut near: Vec<(usize, usize, SocketAddr)> = Vec::new();
    for (number, (interface, subnet)) in subnets.into_iter().enumerate() {
        let skipped = if subnet.address.is_loopback() {
            Some("only known addresses are asked on this machine")
        } else if !is_private(subnet.address) {
            Some("this is not a private network")
        } else {
            None
        };
        if skipped.is_none() {
            let addresses = subnet.neighbours(MAX_ADDRESSES_PER_SUBNET).into_iter().enumerate();
            near.extend(addresses.map(|(rank, ip)| (rank, number, SocketAddr::from((ip, state.options.scan_port)))));
        }
        let network = subnet.to_string();
        report.subnets.push(SubnetReport { interface, network, skipped, counts: Counts::default() });
    }
    near.sort_by_key(|(rank, number, _)| (*rank, *number));
    for (_, number, address) in near {
        if !own.contains(&address.ip()) && asked.insert(address) {
            questions.push((Some(number), address));
        }
    }
    (report, questions)
}

async fn question(state: &State, address: SocketAddr) -> Reply {
    match tokio::time::timeout(CONNECT_LIMIT, TcpStream::connect(address)).await {
        Ok(Ok(stream)) => drop(stream),
        Ok(Err(error)) if error.kind() == io::ErrorKind::ConnectionRefused => return Reply::Refused,
        // No time left, or no way there: nobody is there.
        Ok(Err(_)) | Err(_) => return Reply::Silent,
    }
    let paired = state.registry().known().any(|(_, _, addresses)| addresses.contains(&address));
    match ask(state, address, if paired { NATIVE } else { ANYBODY }, None).await {
        Outcome::Answered(_) | Outcome::Own => Reply::Answered,
        Outcome::Mismatched | Outcome::Failed(_) => Reply::Strange,
    }
}

impl Counts {
    fn add(&mut self, reply: &Reply) {
        self.asked += 1;
        *match reply {
            Reply::Answered => &mut self.answered,
            Reply::Refused => &mut self.refused,
            Reply::Silent => &mut self.silent,
            Reply::Strange => &mut self.strange,
        } += 1;
    }
}
