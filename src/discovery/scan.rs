//! Asks each address of the subnets whether a device is there: for networks that swallow multicast, of which there are many.
//!
//! First a bare TCP connection with a short limit, because most addresses of a subnet are empty and a handshake is dear;
//! only where something listens is it called properly.

use crate::discovery::asker::{ANYBODY, NATIVE, Outcome, ask};
use crate::discovery::report::{Counts, ScanReport, SubnetReport};
use crate::discovery::state::State;
use crate::platform::interfaces::is_private;
use futures_util::{StreamExt, stream};
use std::collections::HashSet;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;
use tokio::net::TcpStream;

/// Addresses of one subnet asked at once, as LocalSend does; more would overflow the neighbour tables of small routers.
const SCAN_CONCURRENCY: usize = 50;
/// A network with more room is wide: it is asked after the others and never at once with another wide one, because the bridges of
/// containers are wide, empty and many, and must neither keep a home network waiting nor fill the system's table of neighbours.
const WIDE: u64 = 254;
/// Narrow subnets asked at once: wire, radio, and two more.
const SUBNETS_AT_ONCE: usize = 4;
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
    /// The last known addresses, and those subnets from which nobody was heard.
    Silent,
}

/// What one address said.
enum Reply {
    Answered,
    Refused,
    Silent,
    Strange,
}

/// What is asked: an address, and the number of its subnet; none for a last known address.
type Question = (Option<usize>, SocketAddr);

/// Whom to ask.
struct Plan {
    report: ScanReport,
    /// The known addresses, and each narrow subnet; these at the same time.
    groups: Vec<Vec<Question>>,
    /// Of all wide ones, the nearest first.
    wide: Vec<Question>,
}

/// Scans. Stops early on shutdown; what was found until then is in the report, as it is when this is dropped.
pub(crate) async fn scan(state: &State, extent: Extent) -> ScanReport {
    let Plan { report, groups, wide } = plan(state, extent);
    state.tally().scan = Some(report.clone());
    let ask = async |(part, address): Question| (part, question(state, address).await);
    let groups = groups.into_iter().map(|group| stream::iter(group).map(ask).buffer_unordered(SCAN_CONCURRENCY));
    let narrow = stream::iter(groups).flatten_unordered(SUBNETS_AT_ONCE + 1);
    let wide = stream::iter(wide).map(ask).buffer_unordered(SCAN_CONCURRENCY);
    let mut replies = std::pin::pin!(narrow.chain(wide));
    let mut finished = report;
    loop {
        let reply = tokio::select! {
            () = state.shutdown.stopped() => return finished,
            reply = replies.next() => reply,
        };
        match &reply {
            Some((None, reply)) => finished.known.add(reply),
            Some((Some(number), reply)) => {
                if let Some(subnet) = finished.subnets.get_mut(*number) {
                    subnet.counts.add(reply);
                }
            }
            None => finished.complete = true,
        }
        state.tally().scan = Some(finished.clone());
        if reply.is_none() {
            return finished;
        }
    }
}

fn plan(state: &State, extent: Extent) -> Plan {
    let (subnets, own) = {
        let links = state.links();
        let own: HashSet<IpAddr> = links.all().iter().map(|interface| interface.subnet.address).collect();
        (links.subnets(), own)
    };
    let known: HashSet<SocketAddr> =
        state.registry().known().flat_map(|(_, _, addresses)| addresses.iter().copied()).collect();
    let mut groups = Vec::new();
    if extent != Extent::Subnets {
        groups.push(known.iter().map(|address| (None, *address)).collect());
    }
    let heard: Vec<IpAddr> = match extent {
        Extent::Silent => state.devices().iter().flat_map(|device| &device.addresses).map(SocketAddr::ip).collect(),
        Extent::All | Extent::Subnets => Vec::new(),
    };
    let mut asked = known;
    let mut report = ScanReport::default();
    let mut wide: Vec<(usize, Question)> = Vec::new();
    for (number, (interface, subnet)) in subnets.into_iter().enumerate() {
        let skipped = if subnet.address.is_loopback() {
            Some("only known addresses are asked on this machine")
        } else if !is_private(subnet.address) {
            Some("this is not a private network")
        } else if heard.iter().any(|ip| subnet.contains(*ip)) {
            Some("devices were heard there")
        } else if !heard.is_empty() && subnet.room() > WIDE {
            Some("it is wide, and devices were heard elsewhere")
        } else {
            None
        };
        let room = subnet.room();
        let addresses = if skipped.is_none() { subnet.neighbours(MAX_ADDRESSES_PER_SUBNET) } else { Vec::new() };
        let to_question = |ip| (Some(number), SocketAddr::from((ip, state.options.scan_port)));
        let is_new = |(_, address): &Question| !own.contains(&address.ip()) && asked.insert(*address);
        let questions: Vec<Question> = addresses.into_iter().map(to_question).filter(is_new).collect();
        report.subnets.push(SubnetReport {
            interface,
            network: subnet.to_string(),
            skipped,
            room,
            planned: questions.len(),
            counts: Counts::default(),
        });
        if room > WIDE {
            wide.extend(questions.into_iter().enumerate());
        } else {
            groups.push(questions);
        }
    }
    wide.sort_by_key(|(rank, (number, _))| (*rank, *number));
    Plan { report, groups, wide: wide.into_iter().map(|(_, question)| question).collect() }
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
