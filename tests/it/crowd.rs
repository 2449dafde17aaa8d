//! Many at once, and much at once, against the real program: 500 sessions of 20 files, and a manifest of a million.
//!
//! The receiver is a process of its own, so that its memory and its descriptors can be read.

use crate::support::bench::{self, Bench};
use crate::support::figures::figure;
use crate::support::lan::{Lan, Node};
use crate::support::program::until;
use crate::support::scratch::long;
use crate::support::tree::{assert_same, noise};
use lan_backup::backup::filter::FilterOptions;
use lan_backup::backup::{self, Effort, Plan, Roots, RunOptions, ScanOptions};
use lan_backup::client::{Client, RemoteVault};
use lan_backup::identity::{Expect, Identity, Trust, TrustStore};
use lan_backup::model::snapshot::Root;
use lan_backup::model::{
    Alias, Changes, Entry, EntryKind, IdempotencyKey, Metadata, RelPath, Rights, SetName, SignedRecord, Totals,
};
use lan_backup::monitor::recording::RecordingMonitor;
use lan_backup::platform::clock::{Clock, SystemClock};
use lan_backup::platform::random;
use lan_backup::platform::shutdown::Shutdown;
use lan_backup::protocol::API_VERSION;
use lan_backup::protocol::session::{PrepareDownload, PrepareUpload, SessionAnswer, SessionState};
use lan_backup::restore::Conflict;
use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::task::JoinSet;
use tokio::time::timeout;

/// Ends what hangs; measures nothing.
const PATIENCE: Duration = Duration::from_mins(10);
pub(crate) const MIB: u64 = 1 << 20;
/// A device may have 64 sessions.
const DEVICES: usize = 10;

/// A receiver that trusts these devices, serving.
pub(crate) fn receiver(lan: &Lan, devices: &[Identity]) -> (Node, Identity) {
    let mut nas = lan.device("nas");
    let identity = Identity::load_or_generate(&nas.home).unwrap();
    let trust = TrustStore::open(nas.home.join("trust.json")).unwrap();
    for (number, device) in devices.iter().enumerate() {
        trust
            .insert(Trust {
                fingerprint: device.fingerprint(),
                signing_key: device.signing_key().public(),
                alias: Alias::new(&format!("laptop {number}")),
                rights: Rights::of_a_paired_device(),
                paired_at: SystemClock.now(),
                sets: BTreeSet::new(),
                restore_from: BTreeSet::new(),
                address: None,
            })
            .unwrap();
    }
    nas.serve(&["--accept", "paired"]);
    (nas, identity)
}

pub(crate) fn client(device: &Identity, nas: &Node, identity: &Identity) -> Client {
    Client::new(device, vec![nas.address().parse().unwrap()], Expect::Known(identity.fingerprint())).unwrap()
}

/// The most memory the receiver ever had, in bytes.
pub(crate) fn peak(nas: &Node) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", nas.serve.as_ref().unwrap().id())).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() << 10
}

fn descriptors(nas: &Node) -> usize {
    fs::read_dir(format!("/proc/{}/fd", nas.serve.as_ref().unwrap().id())).unwrap().count()
}

pub(crate) fn header(set: &str, roots: Vec<Root>, totals: Totals) -> PrepareUpload {
    PrepareUpload {
        api: API_VERSION,
        required_features: Vec::new(),
        idempotency_key: IdempotencyKey::from_random(random::bytes()),
        repository: None,
        set: set.parse().unwrap(),
        roots,
        parent: None,
        totals,
        changes: Changes { new_files: totals.files, ..Changes::default() },
        bytes_to_send: totals.bytes,
    }
}

/// One session: a set of its own with twenty files.
struct Caller {
    device: Identity,
    client: Client,
    set: String,
    folder: PathBuf,
}

impl Caller {
    fn new(lan: &Lan, number: usize, device: &Identity, client: &Client) -> Self {
        let folder = lan.path(&format!("caller-{number}"));
        fs::create_dir_all(folder.join("tree")).unwrap();
        for file in 0..20 {
            let seed = (number * 20 + file) as u64;
            fs::write(folder.join(format!("tree/f{file}")), noise(500 + (seed as usize * 37) % 20_000, seed)).unwrap();
        }
        Self { device: device.clone(), client: client.clone(), set: format!("set {number}"), folder }
    }

    fn scan(&self) -> Plan {
        let roots = Roots::resolve(&[self.folder.join("tree")]).unwrap();
        let filter = FilterOptions::default();
        let options = ScanOptions { roots: &roots, filter: &filter, parent: None, cache: None, scratch: &self.folder };
        backup::scan(&options, &*Bench::clock(), &RecordingMonitor::default(), &Shutdown::new()).unwrap()
    }

    async fn open(&self, plan: &Plan) -> SessionAnswer {
        let header = header(&self.set, plan.roots.described(), plan.totals);
        let entries = plan.entries_to_read().unwrap().map(Result::unwrap);
        self.client.prepare_upload(&header, Box::new(entries)).await.unwrap()
    }

    async fn back_up(&self, plan: Plan, answer: SessionAnswer) {
        assert_eq!(answer.state, SessionState::Open);
        let vault = Arc::new(RemoteVault::new(self.client.clone(), &answer).unwrap());
        let options = RunOptions {
            set: self.set.parse::<SetName>().unwrap(),
            device: Alias::new("laptop"),
            tag: None,
            signer: self.device.signing_key().clone(),
            head: None,
            cache: None,
            compression: Effort::default(),
        };
        let monitor = Arc::new(RecordingMonitor::default());
        backup::run(vault, plan, options, Bench::clock(), monitor.clone(), Shutdown::new()).await.unwrap();
        assert_eq!(monitor.faults(), []);
    }

    async fn restore(&self) {
        let answer = self.client.prepare_download(&PrepareDownload::default()).await.unwrap();
        let vault = Arc::new(RemoteVault::new(self.client.clone(), &answer).unwrap());
        let (set, all) = (self.set.parse::<SetName>().unwrap(), lan_backup::vault::Vault::snapshots(&*vault));
        let of_set = |signed: &SignedRecord| lan_backup::signer::open_record(signed).unwrap().set == set;
        let snapshot = all.await.unwrap().into_iter().find(|info| of_set(&info.signed)).unwrap();
        let out = self.folder.join("out");
        let restored = bench::restore(&vault, &snapshot, &out, Conflict::KeepBoth).await.unwrap();
        assert_eq!(restored.faults, []);
        self.client.cancel(answer.session).await.unwrap();
        assert_same(&self.folder.join("tree"), &out.join("tree"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crowd_of_sessions_is_served_within_bounds_and_leaves_no_descriptor_open() {
    let crowd = if long() { 500 } else { 50 };
    let lan = Lan::new();
    let devices: Vec<_> =
        (0..DEVICES).map(|n| Identity::load_or_generate(&lan.path(&format!("device-{n}"))).unwrap()).collect();
    let (mut nas, identity) = receiver(&lan, &devices);
    let idle = async |nas: &Node| until("all connections to end", || (!has_sockets(nas)).then(|| descriptors(nas)));
    let mut before = 0;
    // The first of each device makes its repository, whose index stays open.
    for wave in [0..DEVICES, DEVICES..DEVICES + crowd] {
        let clients: Vec<_> = devices.iter().map(|device| client(device, &nas, &identity)).collect();
        let caller = |n: usize| Caller::new(&lan, n, &devices[n % DEVICES], &clients[n % DEVICES]);
        let callers: Vec<_> = wave.clone().map(caller).map(Arc::new).collect();
        let begun = Instant::now();
        let mut open = Vec::new();
        for caller in &callers {
            let plan = caller.scan();
            let answer = timeout(PATIENCE, caller.open(&plan)).await.unwrap();
            open.push((Arc::clone(caller), plan, answer));
        }
        let sessions = nas.run(&["status"]).rows()[0]["sessions"].as_array().unwrap().len();
        assert_eq!(sessions, callers.len(), "all are open at once");
        let mut running = JoinSet::new();
        for (caller, plan, answer) in open {
            running.spawn(async move { caller.back_up(plan, answer).await });
        }
        let all = async {
            while let Some(done) = running.join_next().await {
                done.unwrap();
            }
        };
        timeout(PATIENCE, all).await.expect("the crowd hangs");
        let backed_up = begun.elapsed();
        for some in callers.chunks(DEVICES) {
            let mut running = JoinSet::new();
            for caller in some {
                let caller = Arc::clone(caller);
                running.spawn(async move { caller.restore().await });
            }
            let all = async {
                while let Some(done) = running.join_next().await {
                    done.unwrap();
                }
            };
            timeout(PATIENCE, all).await.expect("restoring hangs");
        }
        drop((clients, callers));
        let mut after = idle(&nas).await;
        if before == 0 {
            before = after;
            continue;
        }
        // The receiver looks at what has come for a moment after the last commit; what leaks stays open.
        for _ in 0..PATIENCE.as_millis() / 100 {
            if after <= before {
                break;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
            after = descriptors(&nas);
        }
        figure(&format!(
            "crowd of {crowd} sessions: backed up in {backed_up:?}, all restored after {:?}, peak {} MiB, {before} \
             descriptors before and {after} after",
            begun.elapsed(),
            peak(&nas) / MIB
        ));
        assert!(after <= before, "{before} descriptors before the crowd, {after} after");
    }
    assert!(peak(&nas) < 512 * MIB, "{} MiB", peak(&nas) / MIB);
    nas.stop();
}

/// Whether a caller is connected: the receiver's own sockets are always the same.
fn has_sockets(nas: &Node) -> bool {
    let tcp = fs::read_to_string(format!("/proc/{}/net/tcp", nas.serve.as_ref().unwrap().id())).unwrap();
    let local = format!(":{:04X}", nas.port);
    // Address, then state: 01 is an open connection, 08 one whose other end has closed.
    tcp.lines()
        .skip(1)
        .map(|line| line.split_whitespace().collect::<Vec<_>>())
        .any(|line| line[1].ends_with(&local) && matches!(line[3], "01" | "08"))
}

fn entry(number: u64) -> Entry {
    let path = format!("tree/folder {:04}/a file with a name of ordinary length {number:08}.jpg", number / 1000);
    Entry {
        path: RelPath::new(path).unwrap(),
        kind: EntryKind::File { size: 100, content: None, link_group: None },
        metadata: Metadata::default(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_of_a_million_files_is_taken_in_little_memory() {
    let count: u64 = if long() { 1_000_000 } else { 100_000 };
    let lan = Lan::new();
    let laptop = Identity::load_or_generate(&lan.path("laptop")).unwrap();
    let (mut nas, identity) = receiver(&lan, std::slice::from_ref(&laptop));
    let client = client(&laptop, &nas, &identity);
    let roots = vec![Root { source: "/home/u/tree".to_owned(), top: "tree".to_owned() }];
    let header = header("tree", roots, Totals { entries: count, files: count, bytes: 100 * count });
    let begun = Instant::now();
    let answer = client.prepare_upload(&header, Box::new((0..count).map(entry)));
    let answer = timeout(PATIENCE, answer).await.expect("the list hangs").unwrap();
    figure(&format!("list of {count} files: prepared in {:?}, peak {} MiB", begun.elapsed(), peak(&nas) / MIB));
    assert_eq!(answer.state, SessionState::Open);
    assert!(peak(&nas) < 300 * MIB, "{} MiB", peak(&nas) / MIB);
    nas.stop();
}
