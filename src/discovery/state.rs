//! What the tasks of discovery share. Short sections under standard locks, none held across an await.

use crate::discovery::announcer::Bursts;
use crate::discovery::gate::Gate;
use crate::discovery::links::Links;
use crate::discovery::registry::{MAX_DEVICES, Registry, SEEN_FOR};
use crate::discovery::report::{DatagramReport, Failure, MAX_FAILURES, Report, ScanReport, Unreachable};
use crate::discovery::{Caller, DiscoveryOptions};
use crate::model::text::clean;
use crate::model::{Device, Fingerprint};
use crate::platform::shutdown::Shutdown;
use crate::protocol::Announcement;
use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::{Semaphore, watch};
use tokio_util::task::TaskTracker;

/// Machines with a copy of this device's home that are remembered; one is reason enough to act.
const MAX_COPIES: usize = 8;
/// Connect-backs at once: a hundred devices that start together are answered within a second or two.
const MAX_CONNECT_BACKS: usize = 16;
/// A reason is shown in one line.
const MAX_REASON_CHARS: usize = 200;

/// Everything that happened and is not a device.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    pub(crate) datagrams: DatagramReport,
    pub(crate) mismatched: u64,
    pub(crate) failures: VecDeque<Failure>,
    pub(crate) scan: Option<ScanReport>,
    /// How devices were found.
    evidence: BTreeMap<Fingerprint, Evidence>,
    /// Where other machines answered with this device's own certificate, and when.
    copies: BTreeMap<SocketAddr, Instant>,
}

/// How a device was found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Evidence {
    /// By its datagram, which may be forged.
    pub(crate) heard: bool,
    /// It called us.
    pub(crate) called: bool,
    /// It answered when we called.
    pub(crate) reached: bool,
    /// The first of these, since the start.
    pub(crate) after: Duration,
}

/// One way of finding a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sign {
    Heard,
    Called,
    Reached,
}

/// The shared state.
#[derive(Debug)]
pub(crate) struct State {
    pub(crate) options: DiscoveryOptions,
    pub(crate) caller: Arc<dyn Caller>,
    pub(crate) shutdown: Shutdown,
    /// Permits for connect-backs.
    pub(crate) connect_backs: Arc<Semaphore>,
    pub(crate) bursts: Bursts,
    started: Instant,
    tasks: TaskTracker,
    registry: Mutex<Registry>,
    gate: Mutex<Gate>,
    links: Mutex<Links>,
    tally: Mutex<Tally>,
    changes: watch::Sender<u64>,
}

impl State {
    pub(crate) fn new(options: DiscoveryOptions, caller: Arc<dyn Caller>, shutdown: Shutdown) -> Arc<Self> {
        let mut registry = Registry::new(options.announcement.fingerprint.parse().ok());
        for (fingerprint, alias, address) in &options.known {
            registry.know(*fingerprint, alias.clone(), *address);
        }
        Arc::new(Self {
            gate: Mutex::new(Gate::new(options.clock.instant())),
            started: options.clock.instant(),
            options,
            caller,
            shutdown,
            connect_backs: Arc::new(Semaphore::new(MAX_CONNECT_BACKS)),
            bursts: Bursts::default(),
            tasks: TaskTracker::new(),
            registry: Mutex::new(registry),
            links: Mutex::default(),
            tally: Mutex::default(),
            changes: watch::Sender::new(0),
        })
    }

    /// Runs `task` until it ends or the shutdown comes.
    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let shutdown = self.shutdown.clone();
        self.tasks.spawn(async move {
            tokio::select! {
                () = shutdown.stopped() => {}
                () = task => {}
            }
        });
    }

    pub(crate) async fn stopped(&self) {
        self.shutdown.stopped().await;
        self.tasks.close();
        self.tasks.wait().await;
    }

    pub(crate) fn now(&self) -> Instant {
        self.options.clock.instant()
    }

    pub(crate) fn registry(&self) -> MutexGuard<'_, Registry> {
        lock(&self.registry)
    }

    pub(crate) fn gate(&self) -> MutexGuard<'_, Gate> {
        lock(&self.gate)
    }

    pub(crate) fn links(&self) -> MutexGuard<'_, Links> {
        lock(&self.links)
    }

    pub(crate) fn tally(&self) -> MutexGuard<'_, Tally> {
        lock(&self.tally)
    }

    pub(crate) fn devices(&self) -> Vec<Device> {
        self.registry().devices(self.now())
    }

    pub(crate) fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// Wakes whoever waits for devices.
    pub(crate) fn changed(&self) {
        self.changes.send_modify(|revision| *revision += 1);
    }

    pub(crate) fn request_burst(&self) {
        self.bursts.request();
    }

    /// Whether what bears this device's own fingerprint, at `ip`, may be another machine with a copy of its home. A command
    /// beside a running `serve`, and that `serve`, are this machine.
    pub(crate) fn could_be_copy(&self, said: &Announcement, ip: IpAddr) -> bool {
        let own = &self.options.announcement;
        let ours = |announcement: &Announcement| announcement.lan_backup.as_ref().is_some_and(|ours| ours.transient);
        let here = || self.links().all().iter().any(|interface| interface.subnet.address == ip);
        said.instance() != 0
            && said.instance() != own.instance()
            && !ours(said)
            && !(ours(own) && (ip.is_loopback() || here()))
    }

    /// Notes how a device was found, for people who ask why.
    pub(crate) fn note(&self, fingerprint: &Fingerprint, sign: Sign) {
        let after = self.now().saturating_duration_since(self.started);
        let mut tally = self.tally();
        if tally.evidence.len() >= MAX_DEVICES && !tally.evidence.contains_key(fingerprint) {
            return;
        }
        let evidence = tally.evidence.entry(*fingerprint).or_insert(Evidence { after, ..Evidence::default() });
        match sign {
            Sign::Heard => evidence.heard = true,
            Sign::Called => evidence.called = true,
            Sign::Reached => evidence.reached = true,
        }
    }

    pub(crate) fn evidence(&self, fingerprint: &Fingerprint) -> Option<Evidence> {
        self.tally().evidence.get(fingerprint).copied()
    }

    /// Another machine answered with this device's own certificate.
    pub(crate) fn note_copy(&self, address: SocketAddr) {
        let now = self.now();
        let mut tally = self.tally();
        tally.copies.retain(|_, at| now.saturating_duration_since(*at) < SEEN_FOR);
        if tally.copies.len() < MAX_COPIES || tally.copies.contains_key(&address) {
            tally.copies.insert(address, now);
        }
    }

    /// Where this device's own identity is used, too.
    pub(crate) fn copies(&self) -> Vec<SocketAddr> {
        let now = self.now();
        let tally = self.tally();
        let fresh = tally.copies.iter().filter(|(_, at)| now.saturating_duration_since(**at) < SEEN_FOR);
        fresh.map(|(address, _)| *address).collect()
    }

    /// Notes a call that failed, newest last.
    pub(crate) fn failed(&self, address: SocketAddr, reason: &str) {
        let reason = clean(&reason.chars().take(MAX_REASON_CHARS).collect::<String>());
        let mut tally = self.tally();
        tally.failures.retain(|failure| failure.address != address);
        if tally.failures.len() >= MAX_FAILURES {
            tally.failures.pop_front();
        }
        tally.failures.push_back(Failure { address, reason });
    }

    pub(crate) fn report(&self) -> Report {
        let interfaces = self.links().report();
        let unproved = self.registry().unproved(self.now());
        let tally = self.tally();
        let was_called =
            |device: &Device| tally.failures.iter().any(|failure| device.addresses.contains(&failure.address));
        let unreachable = unproved.into_iter().filter(was_called).map(Unreachable::from).collect();
        Report {
            interfaces,
            datagrams: tally.datagrams,
            mismatched: tally.mismatched,
            unreachable,
            namesakes: Vec::new(),
            failures: tally.failures.iter().cloned().collect(),
            scan: tally.scan.clone(),
        }
    }
}

/// What a panic left behind is still a table of devices: better an odd entry than a dead service.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
