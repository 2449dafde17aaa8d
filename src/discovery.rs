//! Who else is on this network, and how they learn of us: LocalSend's discovery, so stock apps see us and we see them.
//!
//! A datagram says hello on every interface; whoever hears it calls back over HTTPS (`register`), which works where
//! multicast comes through in one direction only and proves the caller's fingerprint. Where multicast is silent, each
//! address of the subnet is asked. Nothing heard is believed before a certificate proves it ([`registry`]), and nothing
//! heard makes us act more than the limits in `gate` allow.
//!
//! | file | what |
//! |---|---|
//! | [`selector`] | what a person typed to name a device |
//! | [`registry`] | which devices are here: claims and proofs; pure |
//! | `gate` | what of all that arrives is looked at and answered; pure |
//! | `socket`, `links` | one multicast socket for each interface, kept in step with the interfaces |
//! | `announcer`, `listener` | say hello; hear it and answer |
//! | `asker` | call one address and check who answers |
//! | [`https_caller`] | how it is called |
//! | `scan`, `finder` | ask a whole subnet; find the one device that a person meant |
//! | [`report`] | what was tried, for when nobody is there |
//! | [`diagnosis`] | why a device is not seen: facts and conclusions; pure |
//! | `diagnose`, [`probe`] | gather those facts; look closely at one address |

mod announcer;
mod asker;
mod diagnose;
pub mod diagnosis;
mod finder;
mod gate;
pub mod https_caller;
mod links;
pub(crate) mod listener;
pub mod probe;
pub mod registry;
pub mod report;
mod scan;
pub mod selector;
mod socket;
mod state;
#[cfg(test)]
mod tests;

use crate::discovery::state::State;
use crate::model::limits::DEFAULT_PORT;
use crate::model::{Alias, Device, Fingerprint};
use crate::platform::clock::{Clock, SystemClock};
use crate::platform::interfaces;
use crate::platform::shutdown::Shutdown;
use crate::protocol::Announcement;
use futures_util::future::BoxFuture;
use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

pub use diagnosis::Diagnosis;
pub use https_caller::HttpsCaller;
pub use report::{Report, ScanReport};
pub use selector::Selector;

/// What kept discovery from starting. A single interface that fails does not; it stands in the [`Report`].
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The system does not list its interfaces.
    #[error("cannot list the network interfaces")]
    Interfaces(#[source] io::Error),
    /// `--bind` names an address that this machine does not have.
    #[error("no network interface of this machine has the address {0}")]
    NoSuchAddress(IpAddr),
}

/// What [`Error`] is for.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// With or without TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Scheme {
    /// The answer's certificate proves who answers.
    Https,
    /// Some LocalSend apps only; proves nothing.
    Http,
}

/// Whose `register` is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Route {
    /// `protocol::paths::REGISTER`.
    Native,
    /// `protocol::paths::LOCALSEND_REGISTER`.
    LocalSend,
}

/// What a device said when it was called.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// What it says about itself.
    pub announcement: Announcement,
    /// Of the certificate it showed in the handshake; `None` over plain HTTP.
    pub certificate: Option<Fingerprint>,
}

/// How far a call came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// No connection, or no TLS.
    Connecting,
    /// TLS, and nothing after it in time, or it broke.
    Waiting,
    /// An answer that is none of ours.
    Answered,
}

/// Why a call failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CallFailure {
    /// How far it came.
    pub stage: Stage,
    /// A short sentence for people.
    pub sentence: String,
}

/// Calls `register` of other devices: the one thing that discovery needs from an HTTPS client.
pub trait Caller: Send + Sync + fmt::Debug {
    /// Posts `body` to `address` and returns what came back, accepting any self-signed certificate. May take as long as it
    /// likes: the caller of this gives up by dropping it.
    fn register(
        &self,
        address: SocketAddr,
        scheme: Scheme,
        route: Route,
        body: Announcement,
    ) -> BoxFuture<'static, Result<Answer, CallFailure>>;
}

/// How to take part.
#[derive(Clone, Debug)]
pub struct DiscoveryOptions {
    /// What is said about this device.
    pub announcement: Announcement,
    /// Only the interface with this address (and no IPv6 beside an IPv4 address, because the server listens on nothing
    /// else either); the unspecified address means all, like `None`. Loopback takes part only when named here.
    pub bind: Option<IpAddr>,
    /// UDP port of the multicast group.
    pub multicast_port: u16,
    /// TCP port that a scan asks, and that an address without a port means.
    pub scan_port: u16,
    /// Whether announcements of others are answered.
    pub answer: bool,
    /// Paired devices and where they were last; found by name before strangers.
    pub known: Vec<(Fingerprint, Alias, Option<SocketAddr>)>,
    /// Tells when something was seen.
    pub clock: Arc<dyn Clock>,
}

impl DiscoveryOptions {
    /// On all interfaces, with LocalSend's port, answering, nobody known.
    pub fn new(announcement: Announcement) -> Self {
        Self {
            announcement,
            bind: None,
            multicast_port: DEFAULT_PORT,
            scan_port: DEFAULT_PORT,
            answer: true,
            known: Vec::new(),
            clock: Arc::new(SystemClock),
        }
    }
}

/// What came of looking for one device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// This one, and it answered just now.
    One(Device),
    /// Several answered to that name: the person must say which.
    Several(Vec<Device>),
    /// Nobody; what was tried.
    None(Report),
}

/// Discovery while it runs. Cheap to clone; ends with the [`Shutdown`] it was started with.
#[derive(Clone, Debug)]
pub struct DiscoveryHandle {
    state: Arc<State>,
}

/// Opens the sockets, says hello, and listens. Must be called in a tokio runtime.
///
/// # Errors
/// When the interfaces cannot be listed, or `bind` is not the address of one.
pub fn start(options: DiscoveryOptions, caller: Arc<dyn Caller>, shutdown: Shutdown) -> Result<DiscoveryHandle> {
    let found = interfaces::list().map_err(Error::Interfaces)?;
    if let Some(bind) = options.bind.filter(|bind| !bind.is_unspecified())
        && !found.iter().any(|interface| interface.subnet.address == bind)
    {
        return Err(Error::NoSuchAddress(bind));
    }
    let state = State::new(options, caller, shutdown);
    links::refresh(&state, &found);
    state.spawn(announcer::run(Arc::clone(&state)));
    state.spawn(links::run(Arc::clone(&state)));
    state.request_burst();
    Ok(DiscoveryHandle { state })
}

impl DiscoveryHandle {
    /// Who is here: devices that proved themselves first, then those that only datagrams spoke of, each by alias. This
    /// device is not among them.
    pub fn devices(&self) -> Vec<Device> {
        self.state.devices()
    }

    /// The server was called by a device. `certificate` is the one of the connection, if it came with one; without it
    /// the device is asked back before it is believed.
    pub fn heard(&self, said: &Announcement, from: SocketAddr, certificate: Option<Fingerprint>) {
        listener::registered(&self.state, said, from, certificate);
    }

    /// A device was paired, or seen at a new address.
    pub fn know(&self, fingerprint: Fingerprint, alias: Alias, address: Option<SocketAddr>) {
        self.state.registry().know(fingerprint, alias, address);
    }

    /// A device is not paired any more.
    pub fn unknow(&self, fingerprint: &Fingerprint) {
        self.state.registry().unknow(fingerprint);
    }

    /// Changes whenever [`devices`](Self::devices) may have changed.
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.state.changes()
    }

    /// Says hello again on every interface. Returns when the first of the three datagrams went out; answers take a
    /// moment more.
    pub async fn announce(&self) {
        announcer::announce(&self.state).await;
    }

    /// Calls the listed devices that nobody proved yet: each proves itself, or goes when somebody else answers in its
    /// place, or stays as what a datagram spoke of. For when a person looks at the list; nothing heard leads here.
    ///
    /// Returns those that are several machines with one identity, with an address of each: somebody copied a home.
    pub async fn prove(&self) -> Vec<Device> {
        finder::prove(&self.state).await
    }

    /// Where other machines answered with this device's own identity: somebody copied its home.
    pub fn copies(&self) -> Vec<SocketAddr> {
        self.state.copies()
    }

    /// Asks the last known addresses and then every address of the subnets, and returns when all is done: about three
    /// seconds for a /24. Answers are listed as they come. Cancel-safe; the report then stays the one of the last whole scan.
    pub async fn scan(&self) -> ScanReport {
        scan::scan(&self.state, scan::Extent::All).await
    }

    /// Looks around for a person who waits: says hello, listens for `wait`, and after a moment asks the addresses of those
    /// subnets from which nobody was heard. While nobody at all is found it takes up to `scan_wait`, if that is longer. Returns
    /// what [`prove`](Self::prove) does.
    pub async fn look_around(&self, wait: Duration, scan_wait: Duration) -> Vec<Device> {
        finder::look_around(&self.state, wait, scan_wait).await
    }

    /// Looks at everything that may keep devices from being seen, for `wait` and as long as asking around takes (about six
    /// seconds): interfaces, groups, every address of the subnets, and closely at the device that `selector` names. For a listener
    /// that began just now.
    pub async fn diagnose(&self, selector: Option<&Selector>, wait: Duration) -> Diagnosis {
        diagnose::diagnose(&self.state, selector, wait).await
    }

    /// What was tried so far.
    pub fn report(&self) -> Report {
        self.state.report()
    }

    /// Looks for the device that `selector` names, for at most `wait`: asks where it was last, listens to multicast, and
    /// scans when that stays silent. Only a device that answers is found. A paired device of that name is taken before
    /// strangers, and a stranger is never taken for a paired device that does not answer. Cancel-safe.
    pub async fn find(&self, selector: &Selector, wait: Duration) -> Found {
        finder::find(&self.state, selector, wait).await
    }

    /// Returns when every task has ended after the shutdown.
    pub async fn stopped(&self) {
        self.state.stopped().await;
    }
}
