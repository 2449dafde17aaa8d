//! Two devices that trust each other: one keeps backups behind a real server on the loopback interface, the other one calls it.

use lan_backup::client::Client;
use lan_backup::identity::{Expect, Identity, Trust, TrustStore};
use lan_backup::model::{Alias, Rights};
use lan_backup::platform::clock::{Clock, SystemClock};
use lan_backup::platform::shutdown::Shutdown;
use lan_backup::server::{self, AcceptMode, Approver, LocalSendOptions, ServerEvent, ServerHandle, ServerOptions};
use lan_backup::store::Store;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::Arc;
use tokio::sync::mpsc;

/// Both of them, with their homes.
pub(crate) struct Nodes {
    home: tempfile::TempDir,
    pub(crate) laptop: Identity,
    nas: Identity,
}

/// The receiver while it runs.
pub(crate) struct Running {
    pub(crate) handle: ServerHandle,
    pub(crate) shutdown: Shutdown,
    _events: mpsc::Receiver<ServerEvent>,
}

impl Running {
    /// Where it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.handle.port()).into()
    }
}

impl Nodes {
    /// As after a pairing, on both sides.
    pub(crate) fn new() -> Self {
        let home = tempfile::tempdir().unwrap();
        let identity = |name: &str| Identity::load_or_generate(&home.path().join(name)).unwrap();
        let (laptop, nas) = (identity("laptop"), identity("nas"));
        for (own, other, alias) in [("laptop", &nas, "nas"), ("nas", &laptop, "laptop")] {
            let trust = TrustStore::open(home.path().join(own).join("trust.json")).unwrap();
            trust
                .insert(Trust {
                    fingerprint: other.fingerprint(),
                    signing_key: other.signing_key().public(),
                    alias: Alias::new(alias),
                    rights: Rights::of_a_paired_device(),
                    paired_at: SystemClock.now(),
                    sets: std::collections::BTreeSet::new(),
                    restore_from: std::collections::BTreeSet::new(),
                    address: None,
                })
                .unwrap();
        }
        Self { home, laptop, nas }
    }

    /// Starts the receiver on the store that it always uses.
    pub(crate) async fn start(&self, approver: Arc<dyn Approver>) -> Running {
        let folder = self.home.path().join("nas");
        let signer = self.nas.signing_key().clone();
        let (store, report) = Store::open_or_create(&folder.join("store"), Arc::new(SystemClock), signer).unwrap();
        assert!(report.is_harmless(), "{report}");
        let (sender, events) = mpsc::channel(64);
        let shutdown = Shutdown::new();
        let options = ServerOptions {
            identity: self.nas.clone(),
            trust: TrustStore::open(folder.join("trust.json")).unwrap(),
            store: Some(store),
            alias: Alias::new("nas"),
            transient: false,
            accept: AcceptMode::Ask,
            approver,
            clock: Arc::new(SystemClock),
            events: sender,
            state_folder: folder.join("state"),
            quota: None,
            reserve_bytes: 0,
            localsend: LocalSendOptions::default(),
        };
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let handle = server::start(listener, options, shutdown.clone()).await.unwrap();
        Running { handle, shutdown, _events: events }
    }

    /// A client of the laptop that accepts nobody but the receiver.
    pub(crate) fn client(&self, running: &Running) -> Client {
        self.client_at(running.address())
    }

    /// The same by way of another address.
    pub(crate) fn client_at(&self, address: SocketAddr) -> Client {
        Client::new(&self.laptop, vec![address], Expect::Known(self.nas.fingerprint())).unwrap()
    }
}
