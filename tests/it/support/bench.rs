//! A tree, its cache and a vault of any kind, with the two engines between them.

use lan_backup::backup::cache::Cache;
use lan_backup::backup::filter::FilterOptions;
use lan_backup::backup::{self, Effort, Report, Roots, RunOptions, ScanOptions};
use lan_backup::model::{Alias, Content, Entry, EntryKind, RepositoryId, SetName, SnapshotId, SnapshotInfo};
use lan_backup::monitor::recording::RecordingMonitor;
use lan_backup::monitor::{Fault, Monitor};
use lan_backup::platform::clock::ManualClock;
use lan_backup::platform::shutdown::Shutdown;
use lan_backup::restore::action::PlanStats;
use lan_backup::restore::dir_target::DirTarget;
use lan_backup::restore::dir_writer::SetIds;
use lan_backup::restore::select::Include;
use lan_backup::restore::{self, Conflict, PlanOptions};
use lan_backup::signer::{self, SigningKey};
use lan_backup::vault::Vault;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Everything but the vault.
pub(crate) struct Bench {
    base: tempfile::TempDir,
    pub(crate) monitor: Arc<RecordingMonitor>,
    pub(crate) signer: SigningKey,
}

/// What a restore did.
pub(crate) struct Restored {
    pub(crate) stats: PlanStats,
    pub(crate) faults: Vec<Fault>,
}

pub(crate) fn set() -> SetName {
    "tree".parse().unwrap()
}

impl Bench {
    pub(crate) fn new(signer: SigningKey) -> Self {
        let base = tempfile::tempdir().unwrap();
        fs::create_dir(base.path().join("tree")).unwrap();
        Self { base, monitor: Arc::default(), signer }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.base.path().join(name)
    }

    pub(crate) fn tree(&self) -> PathBuf {
        self.path("tree")
    }

    pub(crate) fn cache<V: Vault>(&self, vault: &V) -> Cache {
        self.cache_of(vault.parameters().id)
    }

    pub(crate) fn cache_of(&self, repository: RepositoryId) -> Cache {
        Cache::new(&self.path("cache"), repository, &set()).unwrap()
    }

    /// Stamps younger than a tenth of a second are not trusted, so a test that has just written its files looks at them from a
    /// second later.
    pub(crate) fn clock() -> Arc<ManualClock> {
        Arc::new(ManualClock::new(jiff::Timestamp::now() + jiff::SignedDuration::from_secs(1)))
    }

    /// Walks the tree and compares it with what is known of `parent`.
    pub(crate) fn scan(&mut self, cache: Option<&Cache>, parent: Option<SnapshotId>) -> backup::Plan {
        self.monitor = Arc::default();
        let roots = Roots::resolve(&[self.tree()]).unwrap();
        let filter = FilterOptions::default();
        let options = ScanOptions { roots: &roots, filter: &filter, parent, cache, scratch: self.base.path() };
        backup::scan(&options, &*Self::clock(), &*self.monitor, &Shutdown::new()).unwrap()
    }

    /// Carries out what [`Bench::scan`] found.
    pub(crate) async fn carry_out<V: Vault>(
        &self,
        vault: &Arc<V>,
        plan: backup::Plan,
        head: Option<SnapshotInfo>,
        monitor: Arc<dyn Monitor>,
    ) -> backup::Result<Report> {
        let options = RunOptions {
            set: set(),
            device: Alias::new("bench"),
            tag: None,
            signer: self.signer.clone(),
            head,
            cache: Some(self.cache(&**vault)),
            compression: Effort::default(),
        };
        backup::run(vault.clone(), plan, options, Self::clock(), monitor, Shutdown::new()).await
    }

    pub(crate) async fn back_up<V: Vault>(&mut self, vault: &Arc<V>) -> backup::Result<Report> {
        let head = head(vault).await;
        let cache = self.cache(&**vault);
        let plan = self.scan(Some(&cache), head.as_ref().map(|head| head.id));
        let monitor = self.monitor.clone();
        self.carry_out(vault, plan, head, monitor).await
    }
}

pub(crate) async fn head<V: Vault>(vault: &Arc<V>) -> Option<SnapshotInfo> {
    vault.snapshots().await.unwrap().pop()
}

/// Restores a snapshot into `to`.
pub(crate) async fn restore<V: Vault>(
    vault: &Arc<V>,
    snapshot: &SnapshotInfo,
    to: &Path,
    conflict: Conflict,
) -> restore::Result<Restored> {
    let options = PlanOptions {
        snapshot: snapshot.id,
        manifest: signer::open_record(&snapshot.signed).unwrap().manifest,
        path: None,
        include: Include::default(),
        conflict,
        target: Some(to.to_owned()),
        scratch: std::env::temp_dir(),
    };
    restore_with(vault, options).await
}

/// Plans and carries out any restore into a folder.
pub(crate) async fn restore_with<V: Vault>(vault: &Arc<V>, options: PlanOptions) -> restore::Result<Restored> {
    let monitor = Arc::new(RecordingMonitor::default());
    let to = options.target.clone().unwrap();
    let plan = restore::plan(vault.clone(), options, monitor.clone(), Shutdown::new()).await?;
    let target = DirTarget::new(&to, SetIds::LeaveOff, monitor.clone())?;
    restore::run(vault.clone(), &plan, target, monitor.clone(), Shutdown::new()).await?;
    Ok(Restored { stats: plan.stats, faults: monitor.faults() })
}

/// Returns once the file system stamps new changes with a later time than everything below `root` carries: kernels count file
/// times in steps of up to 10 ms, and a change in the same step as the backup before it would be invisible to the stamps, which
/// the tests' clock, a second ahead, makes the engine trust at once. Waits for the event itself, whatever the step.
pub(crate) fn let_file_times_move_on(root: &Path, probe: &Path) {
    let newest = newest_change(root);
    loop {
        fs::write(probe, b"tick").unwrap();
        let metadata = fs::metadata(probe).unwrap();
        if (metadata.ctime(), metadata.ctime_nsec()) > newest {
            return;
        }
        std::thread::yield_now();
    }
}

fn newest_change(path: &Path) -> (i64, i64) {
    let metadata = fs::symlink_metadata(path).unwrap();
    let own = (metadata.ctime(), metadata.ctime_nsec());
    if !metadata.is_dir() {
        return own;
    }
    fs::read_dir(path).unwrap().map(|entry| newest_change(&entry.unwrap().path())).fold(own, Ord::max)
}

/// The entries of a snapshot, in order.
pub(crate) async fn entries<V: Vault>(vault: &Arc<V>, snapshot: &SnapshotInfo) -> Vec<Entry> {
    let manifest = signer::open_record(&snapshot.signed).unwrap().manifest;
    let mut reader = lan_backup::manifest::EntryReader::new(vault.clone(), &manifest).unwrap();
    let mut all = Vec::new();
    while let Some(entry) = reader.next().await.unwrap() {
        all.push(entry);
    }
    all
}

/// The content of a file entry.
pub(crate) fn content(entry: &Entry) -> Option<&Content> {
    match &entry.kind {
        EntryKind::File { content, .. } => content.as_ref(),
        EntryKind::Folder | EntryKind::Link { .. } => None,
    }
}
