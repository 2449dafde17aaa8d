//! The engines against another device: two nodes in one process, over real TLS on the loopback interface.

use crate::support::bench::{Bench, head, let_file_times_move_on, restore, set};
use crate::support::nodes::Nodes;
use crate::support::tree::{assert_same, noise, odd_tree};
use lan_backup::backup::{self, Plan, Report};
use lan_backup::client::{self, Client, RemoteVault};
use lan_backup::model::{IdempotencyKey, RepositoryId, SnapshotInfo};
use lan_backup::monitor::recording::RecordingMonitor;
use lan_backup::monitor::{Counter, Fault, Monitor, Phase};
use lan_backup::platform::random;
use lan_backup::platform::shutdown::Shutdown;
use lan_backup::protocol::session::{PrepareDownload, PrepareUpload, SessionAnswer, SessionState};
use lan_backup::protocol::{API_VERSION, ErrorCode};
use lan_backup::restore::Conflict;
use lan_backup::server::{Decision, Desk, Question, Scripted};
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::time::timeout;

/// Nothing on the loopback interface takes longer, however busy the machine is.
const PATIENCE: Duration = Duration::from_mins(2);

/// A source, with what it remembers from one backup to the next.
pub(crate) struct Source {
    pub(crate) bench: Bench,
    known: Option<(RepositoryId, SnapshotInfo)>,
}

impl Source {
    pub(crate) fn new(nodes: &Nodes) -> Self {
        Self { bench: Bench::new(nodes.laptop.signing_key().clone()), known: None }
    }

    pub(crate) fn scan(&mut self) -> Plan {
        let cache = self.known.as_ref().map(|(repository, _)| self.bench.cache_of(*repository));
        let parent = self.known.as_ref().map(|(_, head)| head.id);
        self.bench.scan(cache.as_ref(), parent)
    }

    pub(crate) async fn ask(&self, client: &Client, plan: &Plan) -> client::Result<SessionAnswer> {
        let header = PrepareUpload {
            api: API_VERSION,
            required_features: Vec::new(),
            idempotency_key: IdempotencyKey::from_random(random::bytes()),
            repository: self.known.as_ref().map(|(repository, _)| *repository),
            set: set(),
            roots: plan.roots.described(),
            parent: plan.parent,
            totals: plan.totals,
            changes: plan.changes,
            bytes_to_send: plan.bytes_to_read,
        };
        let entries = plan.entries_to_read().unwrap().map(Result::unwrap);
        let answer = timeout(PATIENCE, client.prepare_upload(&header, Box::new(entries))).await.unwrap()?;
        match answer.state {
            SessionState::Open => Ok(answer),
            SessionState::Waiting => timeout(PATIENCE, client.wait(answer.session, || {})).await.unwrap(),
        }
    }

    async fn back_up_watched(&mut self, client: &Client, monitor: Arc<dyn Monitor>) -> backup::Result<Report> {
        let plan = self.scan();
        let answer = self.ask(client, &plan).await.unwrap();
        let vault = Arc::new(RemoteVault::new(client.clone(), &answer).unwrap());
        let done = timeout(PATIENCE, self.bench.carry_out(&vault, plan, answer.head, monitor)).await.unwrap();
        if done.is_ok() {
            let listing = client.listing(None).await.unwrap();
            let ours = listing.repositories.into_iter().next().unwrap();
            self.known = ours.snapshots.last().map(|head| (ours.repository.id, head.clone()));
            let_file_times_move_on(&self.bench.tree(), &self.bench.path("probe"));
        }
        done
    }

    async fn back_up(&mut self, client: &Client) -> (Report, Arc<RecordingMonitor>) {
        let monitor = Arc::new(RecordingMonitor::default());
        let report = self.back_up_watched(client, monitor.clone()).await.unwrap();
        assert_eq!(monitor.faults(), []);
        assert_eq!(report.snapshot, self.known.as_ref().unwrap().1.id);
        (report, monitor)
    }

    /// Restores the newest snapshot through a session of its own and compares it with the tree.
    async fn check(&self, client: &Client, out: &Path) {
        let answer = client.prepare_download(&PrepareDownload::default()).await.unwrap();
        let vault = Arc::new(RemoteVault::new(client.clone(), &answer).unwrap());
        let snapshot = head(&vault).await.unwrap();
        let restored = timeout(PATIENCE, restore(&vault, &snapshot, out, Conflict::KeepBoth)).await.unwrap().unwrap();
        assert_eq!(restored.faults, []);
        client.cancel(answer.session).await.unwrap();
        assert_same(&self.bench.tree(), &out.join("tree"));
    }
}

fn wire(client: &Client) -> u64 {
    client.traffic().sent() + client.traffic().received()
}

pub(crate) fn yes() -> Arc<Scripted> {
    Arc::new(Scripted::new([Decision::Always]))
}

#[tokio::test(flavor = "multi_thread")]
async fn the_odd_tree_goes_to_another_device_and_comes_back_and_then_only_its_changes() {
    let (nodes, approver) = (Nodes::new(), yes());
    let running = nodes.start(approver.clone()).await;
    let client = nodes.client(&running);
    let mut source = Source::new(&nodes);
    odd_tree(&source.bench.tree());
    let (first, _) = source.back_up(&client).await;
    assert_eq!((first.sequence, first.changes.new_files), (1, first.totals.files));
    source.check(&client, &source.bench.path("out1")).await;

    fs::write(source.bench.tree().join("one"), b"2").unwrap();
    fs::remove_file(source.bench.tree().join("zero")).unwrap();
    fs::rename(source.bench.tree().join("noise"), source.bench.tree().join("names/noise moved")).unwrap();
    let (second, monitor) = source.back_up(&client).await;
    let changes = second.changes;
    assert_eq!((second.sequence, changes.new_files, changes.changed_files, changes.deleted_files), (2, 1, 1, 2));
    assert_eq!(monitor.counted(Counter::BytesRead), 9_000_001);
    assert!(second.uploaded_bytes < 100_000, "{} bytes sent for a move", second.uploaded_bytes);
    source.check(&client, &source.bench.path("out2")).await;

    let asked = approver.asked();
    assert!(matches!(&asked[..], [Question::Backup { first: true, .. }]), "asked once, for always: {asked:?}");
    running.shutdown.stop();
    timeout(PATIENCE, running.handle.stopped()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unchanged_tree_of_20_000_files_is_not_read_and_costs_kilobytes() {
    let nodes = Nodes::new();
    let running = nodes.start(yes()).await;
    let mut source = Source::new(&nodes);
    for folder in 0..20 {
        let folder = source.bench.tree().join(format!("folder {folder}"));
        fs::create_dir(&folder).unwrap();
        for file in 0..1000 {
            fs::write(folder.join(format!("file {file}")), format!("{folder:?} {file}")).unwrap();
        }
    }
    source.back_up(&nodes.client(&running)).await;
    let client = nodes.client(&running);
    let (report, monitor) = source.back_up(&client).await;
    assert_eq!((report.totals.files, report.changes), (20_000, lan_backup::model::Changes::default()));
    assert_eq!(monitor.counted(Counter::BytesRead), 0);
    assert!(wire(&client) < 200_000, "{} bytes", wire(&client));
}

#[tokio::test(flavor = "multi_thread")]
async fn eight_bytes_into_the_middle_of_64_mib_cost_less_than_4_mib() {
    let nodes = Nodes::new();
    let running = nodes.start(yes()).await;
    let mut source = Source::new(&nodes);
    let path = source.bench.tree().join("big");
    let mut big = noise(64 << 20, 5);
    fs::write(&path, &big).unwrap();
    source.back_up(&nodes.client(&running)).await;
    big.splice(32 << 20..32 << 20, *b"8 bytes!");
    fs::write(&path, &big).unwrap();
    let client = nodes.client(&running);
    let (report, _) = source.back_up(&client).await;
    assert_eq!(report.changes.changed_files, 1);
    assert!(wire(&client) < 4 << 20, "{} bytes", wire(&client));
    source.check(&client, &source.bench.path("out")).await;
}

/// Gives the shutdown once the first bytes have arrived.
#[derive(Debug)]
struct PullsThePlug {
    shutdown: Shutdown,
    arrived: AtomicU64,
}

impl Monitor for PullsThePlug {
    fn phase(&self, _: Phase) {}
    fn total(&self, _: Counter, _: u64) {}
    fn fault(&self, _: Fault) {}
    fn notice(&self, _: String) {}

    fn count(&self, counter: Counter, amount: u64) {
        if counter == Counter::BytesSent {
            self.arrived.fetch_add(amount, Ordering::Relaxed);
            self.shutdown.stop();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_arrived_before_the_receiver_went_down_is_not_sent_again_when_it_is_back() {
    let nodes = Nodes::new();
    let running = nodes.start(yes()).await;
    let mut source = Source::new(&nodes);
    for number in 0..10 {
        fs::write(source.bench.tree().join(format!("f{number}")), noise(10 << 20, number)).unwrap();
    }
    let plug = Arc::new(PullsThePlug { shutdown: running.shutdown.clone(), arrived: AtomicU64::new(0) });
    let broken = source.back_up_watched(&nodes.client(&running), plug.clone()).await;
    assert!(matches!(broken, Err(backup::Error::Vault(_))), "{broken:?}");
    timeout(PATIENCE, running.handle.stopped()).await.unwrap();
    drop(running);
    let arrived = plug.arrived.load(Ordering::Relaxed);
    assert!(arrived >= 10 << 20, "{arrived}");

    let again = nodes.start(yes()).await;
    let client = nodes.client(&again);
    assert!(client.listing(None).await.unwrap().repositories.iter().all(|listed| listed.snapshots.is_empty()));
    let (report, _) = source.back_up(&client).await;
    let total = 100 << 20;
    assert!(report.uploaded_bytes <= total - arrived + (1 << 20), "{} after {arrived}", report.uploaded_bytes);
    source.check(&client, &source.bench.path("out")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_waits_for_the_person_at_the_other_end() {
    let (nodes, desk) = (Nodes::new(), Arc::new(Desk::new()));
    let running = nodes.start(desk.clone()).await;
    let client = nodes.client(&running);
    let mut source = Source::new(&nodes);
    fs::write(source.bench.tree().join("f"), b"12345").unwrap();
    let plan = source.scan();
    let person = async {
        let asked = desk.next(0).await;
        assert!(matches!(&asked.question, Question::Backup { bytes_to_send: 5, first: true, .. }), "{asked:?}");
        assert!(desk.answer(asked.id, Decision::Once));
    };
    let (answer, ()) = timeout(PATIENCE, async { tokio::join!(source.ask(&client, &plan), person) }).await.unwrap();
    let answer = answer.unwrap();
    assert_eq!((answer.state, answer.head.clone()), (SessionState::Open, None));
    let vault = Arc::new(RemoteVault::new(client.clone(), &answer).unwrap());
    source.bench.carry_out(&vault, plan, None, Arc::new(RecordingMonitor::default())).await.unwrap();
    source.check(&client, &source.bench.path("out")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_declined_backup_sends_nothing_and_leaves_nothing() {
    let (nodes, nobody) = (Nodes::new(), Arc::new(Scripted::default()));
    let running = nodes.start(nobody.clone()).await;
    let client = nodes.client(&running);
    let mut source = Source::new(&nodes);
    fs::write(source.bench.tree().join("f"), noise(5_000_000, 1)).unwrap();
    let plan = source.scan();
    let declined = source.ask(&client, &plan).await.unwrap_err();
    assert_eq!(declined.answer(), Some(ErrorCode::Declined), "{declined:?}");
    assert_eq!(nobody.asked().len(), 1);
    assert!(wire(&client) < 10_000, "{} bytes", wire(&client));
    let repositories = client.listing(None).await.unwrap().repositories;
    assert!(repositories.iter().all(|listed| listed.snapshots.is_empty()), "{repositories:?}");
    assert!(running.handle.sessions().is_empty());
}
