//! Calls other devices, over HTTPS.
//!
//! One [`Client`] belongs to one device: it holds one connection pool that accepts exactly one fingerprint, in the handshake,
//! before a byte of a request is sent. It uses no proxy, follows no redirect and resumes no TLS session. Everything the other
//! side says is bounded: how long it may take, how much it may say, and what may stand in it.
//!
//! Devices have addresses, not names. Requests go to a name that cannot exist, and the client's own resolver answers it with
//! the device's addresses, one after the other until one answers; so IPv6 addresses with a zone work too, which have no place
//! in a URL.
//!
//! | file | what |
//! |---|---|
//! | [`native`] | the calls of the native API |
//! | [`exchange`] | one request and its answer: time limits, bounds, addresses |
//! | [`upload_list`] | the body of `prepare-upload`, streamed |
//! | [`blocks`] | blocks to a body and back |
//! | [`remote_vault`] | another device's repository as a [`Vault`](crate::vault::Vault) |
//! | [`pair`] | the PIN exchange, on one connection |
//! | [`retry`] | when to try again |
//! | [`error`] | what can go wrong |

pub(crate) mod blocks;
pub mod error;
pub(crate) mod exchange;
pub mod native;
pub mod pair;
pub mod remote_vault;
pub(crate) mod retry;
pub mod upload_list;

#[cfg(test)]
pub(crate) mod test_server;

use crate::client::exchange::Addresses;
use crate::identity::{Expect, Identity};
use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

pub use error::{Error, Result};
pub use exchange::Patience;
pub use pair::{Paired, PinSource, pair};
pub use remote_vault::RemoteVault;

/// Connections kept open while idle: the engine has a handful of calls under way at once.
const IDLE_CONNECTIONS: usize = 8;
/// Shorter than the time after which receivers close idle connections (10 s), so that none is used while it is being closed.
const IDLE_TIME: Duration = Duration::from_secs(8);
/// A device that vanished without a word is noticed after about this long, even where we only wait.
const KEEPALIVE: Duration = Duration::from_secs(15);

/// Calls one device. Cheap to clone; clones share connections and counters.
#[derive(Clone)]
pub struct Client {
    inner: Arc<Inner>,
}

struct Inner {
    http: reqwest::Client,
    addresses: Arc<Addresses>,
    expect: Expect,
    traffic: Traffic,
    patience: Patience,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Client({:?} at {:?})", self.inner.expect, self.inner.addresses.all())
    }
}

/// Bytes of bodies that went out and came in. Cheap to clone; clones count together.
#[derive(Clone, Debug, Default)]
pub struct Traffic {
    sent: Arc<AtomicU64>,
    received: Arc<AtomicU64>,
}

impl Traffic {
    /// Bytes handed to connections, repeats counted.
    pub fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    /// Bytes that came.
    pub fn received(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }

    pub(crate) fn add_sent(&self, bytes: usize) {
        self.sent.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    pub(crate) fn add_received(&self, bytes: usize) {
        self.received.fetch_add(bytes as u64, Ordering::Relaxed);
    }
}

impl Client {
    /// A client for the device that `expect` describes, at any of `addresses`, tried in order. Connects with the first call.
    ///
    /// # Errors
    /// [`Error::Offline`] without any address.
    pub fn new(identity: &Identity, addresses: Vec<SocketAddr>, expect: Expect) -> Result<Self> {
        Self::with_patience(identity, addresses, expect, Patience::default())
    }

    /// The same with other time limits.
    pub fn with_patience(
        identity: &Identity,
        addresses: Vec<SocketAddr>,
        expect: Expect,
        patience: Patience,
    ) -> Result<Self> {
        let addresses = Arc::new(Addresses::new(addresses)?);
        let tls = Arc::unwrap_or_clone(identity.client_config(expect));
        let http = reqwest::Client::builder()
            .tls_backend_preconfigured(tls)
            .tls_info(true)
            .dns_resolver(Arc::clone(&addresses))
            .https_only(true)
            .http1_only()
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .referer(false)
            .connect_timeout(patience.connect)
            .tcp_keepalive(KEEPALIVE)
            .pool_max_idle_per_host(IDLE_CONNECTIONS)
            .pool_idle_timeout(IDLE_TIME)
            .build()
            .map_err(|error| Error::Failed("the HTTPS client cannot be set up", error.into()))?;
        let inner = Inner { http, addresses, expect, traffic: Traffic::default(), patience };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Bytes of bodies sent and received by all clones.
    pub fn traffic(&self) -> &Traffic {
        &self.inner.traffic
    }

    /// The address that answered last, or is tried next.
    pub fn address(&self) -> SocketAddr {
        self.inner.addresses.current()
    }
}
