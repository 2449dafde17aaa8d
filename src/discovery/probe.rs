//! Asks one address, as closely as it can be asked, why it does not answer: a closed port, a firewall, nobody there, somebody else.
//!
//! The system says more than "no": a reset means that a machine is there and nothing listens; silence means that something swallows
//! the packets; "unreachable" after seconds means that nobody on this link has that address, and at once, that a firewall says so.

use crate::discovery::asker::{ANYBODY, NATIVE};
use crate::discovery::state::State;
use crate::discovery::{Answer, CallFailure, Stage};
use crate::model::text::clean;
use crate::model::{DeviceKind, Fingerprint};
use crate::protocol::Announcement;
use serde::Serialize;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::time::Duration;
use tokio::net::TcpStream;

/// Longer than the three seconds in which the system looks for a neighbour, so that "nobody there" is told from "no answer".
const CONNECT_LIMIT: Duration = Duration::from_secs(5);
/// A neighbour is not given up sooner than this: what says "unreachable" before is a firewall.
const NEIGHBOUR_SEARCH: Duration = Duration::from_millis(500);
/// For one call after the connection.
const CALL_LIMIT: Duration = Duration::from_secs(4);

/// What is at one address.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "verdict", rename_all = "kebab-case", rename_all_fields = "camelCase")]
pub enum Verdict {
    /// The device that was meant, or any device where none was.
    Fine {
        /// What it calls itself.
        alias: String,
        /// What its certificate proves.
        fingerprint: Fingerprint,
        /// What it runs.
        kind: DeviceKind,
    },
    /// This device itself, or at least its address.
    Own,
    /// A device, but not the one that is paired.
    WrongCertificate {
        /// Whom we know.
        expected: Fingerprint,
        /// Who answers.
        found: Fingerprint,
    },
    /// It names a fingerprint that its certificate does not have.
    Lying,
    /// A machine is there and refuses: nothing listens.
    Closed,
    /// Nothing comes back.
    Filtered,
    /// A firewall says no.
    Rejected,
    /// Nobody has that address.
    Absent,
    /// There is no way to it.
    NoRoute,
    /// Something listens that speaks no TLS.
    NoTls,
    /// It takes the connection and says nothing.
    Mute,
    /// An HTTPS server of another kind.
    NotOurs,
    /// This end could not ask.
    Failed {
        /// Why.
        reason: String,
    },
}

/// Asks `address`. `expected` is the paired device that should be there.
pub(crate) async fn probe(state: &State, address: SocketAddr, expected: Option<Fingerprint>) -> Verdict {
    match connect(address).await {
        Ok(()) => {}
        Err(Verdict::Closed) if is_here(state, address.ip()) => return Verdict::Own,
        Err(verdict) => return verdict,
    }
    let ways = if expected.is_some() { NATIVE } else { &ANYBODY[..2] };
    let mut worst = Verdict::NoTls;
    for (scheme, route) in ways {
        let body = Announcement { announce: false, ..state.options.announcement.clone() };
        let call = state.caller.register(address, *scheme, *route, body);
        match tokio::time::timeout(CALL_LIMIT, call).await {
            Ok(Ok(answer)) => return who(state, &answer, expected),
            Ok(Err(CallFailure { stage: Stage::Connecting, .. })) => return Verdict::NoTls,
            Ok(Err(CallFailure { stage: Stage::Waiting, .. })) | Err(_) => return Verdict::Mute,
            // Perhaps it speaks the other language.
            Ok(Err(CallFailure { stage: Stage::Answered, .. })) => worst = Verdict::NotOurs,
        }
    }
    worst
}

fn who(state: &State, answer: &Answer, expected: Option<Fingerprint>) -> Verdict {
    let Some(found) = answer.certificate else { return Verdict::NoTls };
    if answer.announcement.fingerprint.parse() != Ok(found) {
        return Verdict::Lying;
    }
    if state.registry().is_own(&answer.announcement) {
        return Verdict::Own;
    }
    if let Some(expected) = expected.filter(|expected| *expected != found) {
        return Verdict::WrongCertificate { expected, found };
    }
    let ours = answer.announcement.lan_backup.is_some();
    Verdict::Fine {
        alias: answer.announcement.alias.to_string(),
        fingerprint: found,
        kind: if ours { DeviceKind::LanBackup } else { DeviceKind::LocalSend },
    }
}

/// Whether an address is one of this machine's.
fn is_here(state: &State, ip: IpAddr) -> bool {
    ip.is_loopback() || state.links().all().iter().any(|interface| interface.subnet.address == ip)
}

async fn connect(address: SocketAddr) -> Result<(), Verdict> {
    // The second time a search that another call began a moment ago is over.
    for last in [false, true] {
        let connecting = tokio::time::timeout(CONNECT_LIMIT, TcpStream::connect(address));
        let waited = tokio::time::timeout(NEIGHBOUR_SEARCH, std::future::pending::<()>());
        tokio::pin!(connecting, waited);
        let (result, at_once) = tokio::select! {
            result = &mut connecting => (result, true),
            _ = &mut waited => (connecting.await, false),
        };
        let error = match result {
            Ok(Ok(_)) => return Ok(()),
            Err(_) => return Err(Verdict::Filtered),
            Ok(Err(error)) => error,
        };
        return Err(match error.kind() {
            io::ErrorKind::ConnectionRefused | io::ErrorKind::ConnectionReset => Verdict::Closed,
            io::ErrorKind::TimedOut => Verdict::Filtered,
            io::ErrorKind::HostUnreachable if !at_once => Verdict::Absent,
            io::ErrorKind::HostUnreachable if last => Verdict::Rejected,
            io::ErrorKind::HostUnreachable => continue,
            io::ErrorKind::NetworkUnreachable => Verdict::NoRoute,
            io::ErrorKind::PermissionDenied => Verdict::Rejected,
            _ => Verdict::Failed { reason: clean(&error.to_string()) },
        });
    }
    Err(Verdict::Rejected)
}

/// From which of its addresses this machine would send to `there`: nothing is sent to learn it.
///
/// # Errors
/// There is no way to it.
pub(crate) fn source_towards(there: IpAddr) -> io::Result<IpAddr> {
    let any: IpAddr = if there.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((any, 0))?;
    socket.connect((there, 9))?;
    Ok(socket.local_addr()?.ip())
}
