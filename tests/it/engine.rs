//! The engines against a vault in memory: what goes in comes out, and only what changed is read and sent.

use crate::support::tree::{self, assert_same, noise};
use lan_backup::backup::cache::Cache;
use lan_backup::backup::filter::FilterOptions;
use lan_backup::backup::{self, Effort, Report, Roots, RunOptions, ScanOptions};
use lan_backup::model::{Alias, Changes, ChunkId, SnapshotInfo};
use lan_backup::monitor::Counter;
use lan_backup::monitor::recording::RecordingMonitor;
use lan_backup::platform::clock::ManualClock;
use lan_backup::platform::shutdown::Shutdown;
use lan_backup::restore::action::PlanStats;
use lan_backup::restore::dir_target::DirTarget;
use lan_backup::restore::dir_writer::SetIds;
use lan_backup::restore::select::{Include, Selection};
use lan_backup::restore::zip_target::ZipTarget;
use lan_backup::restore::{self, Conflict, PlanOptions};
use lan_backup::signer::{self, SigningKey};
use lan_backup::vault::{MemoryVault, Vault};
use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

struct Bench {
    base: tempfile::TempDir,
    vault: Arc<MemoryVault>,
    monitor: Arc<RecordingMonitor>,
}

impl Bench {
    fn new() -> Self {
        let bench = Self {
            base: tempfile::tempdir().unwrap(),
            vault: Arc::new(MemoryVault::new()),
            monitor: Arc::new(RecordingMonitor::default()),
        };
        fs::create_dir(bench.tree()).unwrap();
        bench
    }

    fn path(&self, name: &str) -> PathBuf {
        self.base.path().join(name)
    }

    fn tree(&self) -> PathBuf {
        self.path("tree")
    }

    async fn head(&self) -> Option<SnapshotInfo> {
        self.vault.snapshots().await.unwrap().pop()
    }

    async fn back_up(&mut self) -> backup::Result<Report> {
        let head = self.head().await;
        self.back_up_after(head).await
    }

    /// Backs up after what the vault calls the newest snapshot.
    async fn back_up_after(&mut self, head: Option<SnapshotInfo>) -> backup::Result<Report> {
        // Stamps younger than a tenth of a second are not trusted, so a test that has just written its files looks at them from
        // a second later.
        let clock = Arc::new(ManualClock::new(jiff::Timestamp::now() + jiff::SignedDuration::from_secs(1)));
        self.monitor = Arc::new(RecordingMonitor::default());
        let set = "tree".parse().unwrap();
        let cache = Cache::new(&self.path("cache"), self.vault.parameters().id, &set).unwrap();
        let roots = Roots::resolve(&[self.tree()]).unwrap();
        let filter = FilterOptions::default();
        let parent = head.as_ref().map(|head| head.id);
        let options =
            ScanOptions { roots: &roots, filter: &filter, parent, cache: Some(&cache), scratch: self.base.path() };
        let plan = backup::scan(&options, &*clock, &*self.monitor, &Shutdown::new())?;
        let options = RunOptions {
            set,
            device: Alias::new("bench"),
            tag: None,
            signer: SigningKey::from_bytes(&[3; 32]),
            head,
            cache: Some(cache),
            compression: Effort::default(),
        };
        backup::run(self.vault.clone(), plan, options, clock, self.monitor.clone(), Shutdown::new()).await
    }

    async fn restore_with(&self, to: &Path, change: impl FnOnce(&mut PlanOptions)) -> restore::Result<PlanStats> {
        let head = self.head().await.unwrap();
        let mut options = PlanOptions {
            snapshot: head.id,
            manifest: signer::open_record(&head.signed).unwrap().manifest,
            path: None,
            include: Include::default(),
            conflict: Conflict::KeepBoth,
            target: Some(to.to_owned()),
            scratch: self.base.path().to_owned(),
        };
        change(&mut options);
        let plan = restore::plan(self.vault.clone(), options, self.monitor.clone(), Shutdown::new()).await?;
        let target = DirTarget::new(to, SetIds::PutBack, self.monitor.clone())?;
        restore::run(self.vault.clone(), &plan, target, self.monitor.clone(), Shutdown::new()).await?;
        Ok(plan.stats)
    }

    async fn restore(&self, to: &Path) -> PlanStats {
        self.restore_with(to, |_| {}).await.unwrap()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_odd_tree_comes_back_to_the_last_bit() {
    let mut bench = Bench::new();
    tree::odd_tree(&bench.tree());
    let report = bench.back_up().await.unwrap();
    assert_eq!(bench.monitor.faults(), []);
    assert_eq!(report.changes.new_files, report.totals.files);
    bench.restore(&bench.path("out")).await;
    assert_eq!(bench.monitor.faults(), []);
    assert_same(&bench.tree(), &bench.path("out/tree"));
    let sparse = std::os::unix::fs::MetadataExt::blocks(&fs::metadata(bench.path("out/tree/sparse")).unwrap()) * 512;
    assert!(sparse < 8 << 20, "the hole was filled: {sparse} bytes on disk");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unchanged_tree_is_neither_read_nor_sent() {
    let mut bench = Bench::new();
    tree::odd_tree(&bench.tree());
    bench.back_up().await.unwrap();
    let (put, asked) = (bench.vault.chunks_put(), bench.vault.ids_asked());
    let before = bench.head().await.unwrap();
    // The second time what was remembered has been handed on once.
    for sequence in 2..=3 {
        let report = bench.back_up().await.unwrap();
        assert_eq!(bench.monitor.counted(Counter::BytesRead), 0);
        assert_eq!(report.changes, Changes::default());
        assert_eq!(bench.vault.chunks_put() - put, 0, "manifest and refs are the same chunks");
        assert_eq!(bench.vault.ids_asked() - asked, 0, "nothing has to be asked for");
        assert_eq!(report.sequence, sequence);
        let (before, now) =
            (signer::open_record(&before.signed).unwrap(), signer::open_record(&report.signed).unwrap());
        assert_eq!((before.manifest, before.refs, before.totals), (now.manifest, now.refs, now.totals));
    }
    bench.restore(&bench.path("out")).await;
    assert_same(&bench.tree(), &bench.path("out/tree"));
}

/// A hostile receiver puts a record of its own making under the id that the source remembers.
#[tokio::test(flavor = "multi_thread")]
async fn lists_that_a_receiver_only_calls_the_last_ones_are_not_signed_again() {
    let mut bench = Bench::new();
    tree::odd_tree(&bench.tree());
    let mine = bench.back_up().await.unwrap();
    let true_head = bench.head().await.unwrap();
    let mut forged = signer::open_record(&true_head.signed).unwrap();
    let honest = forged.manifest.clone();
    forged.manifest = forged.refs.clone();
    let key = SigningKey::from_bytes(&[66; 32]);
    forged.signer = key.public();
    let head = SnapshotInfo { signed: key.sign_record(&forged), ..true_head };
    assert_eq!(head.id, mine.snapshot);
    let report = bench.back_up_after(Some(head)).await.unwrap();
    let record = signer::open_record(&report.signed).unwrap();
    assert_eq!(record.manifest, honest, "what was read from the disk");
    assert_ne!(record.manifest, forged.manifest);
}

#[tokio::test(flavor = "multi_thread")]
async fn only_what_changed_is_read_and_an_insertion_sends_little() {
    let mut bench = Bench::new();
    fs::write(bench.tree().join("big"), noise(64 << 20, 5)).unwrap();
    for number in 0..100 {
        fs::write(bench.tree().join(format!("small{number}")), noise(1000, number)).unwrap();
    }
    bench.back_up().await.unwrap();
    let mut big = noise(64 << 20, 5);
    big.splice(32 << 20..32 << 20, *b"8 bytes!");
    fs::write(bench.tree().join("big"), &big).unwrap();
    fs::remove_file(bench.tree().join("small7")).unwrap();
    fs::write(bench.tree().join("new"), b"new").unwrap();
    fs::write(bench.tree().join("small8"), b"changed").unwrap();
    let report = bench.back_up().await.unwrap();
    let changes = report.changes;
    assert_eq!((changes.new_files, changes.changed_files, changes.deleted_files), (1, 2, 1));
    assert_eq!(bench.monitor.counted(Counter::BytesRead), big.len() as u64 + 3 + 7);
    assert!(report.uploaded_bytes < 4 << 20, "{} bytes for 8", report.uploaded_bytes);
    bench.restore(&bench.path("out")).await;
    assert_same(&bench.tree(), &bench.path("out/tree"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_touched_but_not_changed_is_no_change_of_content() {
    let mut bench = Bench::new();
    fs::write(bench.tree().join("f"), noise(100_000, 1)).unwrap();
    tree::set_time(&bench.tree().join("f"), 5, 5);
    tree::set_time(&bench.tree(), 5, 5);
    bench.back_up().await.unwrap();
    let metadata = fs::metadata(bench.tree().join("f")).unwrap();
    fs::write(bench.tree().join("f"), noise(100_000, 1)).unwrap();
    tree::set_time(&bench.tree().join("f"), 5, 5);
    assert_eq!(metadata.len(), 100_000);
    let report = bench.back_up().await.unwrap();
    assert_eq!(bench.monitor.counted(Counter::BytesRead), 100_000);
    assert_eq!(report.changes, Changes::default());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_interrupted_backup_goes_on_where_it_was() {
    let mut bench = Bench::new();
    for number in 0..8 {
        fs::write(bench.tree().join(format!("f{number}")), noise(16 << 20, number)).unwrap();
    }
    bench.vault.fail_after(3);
    assert!(matches!(bench.back_up().await, Err(backup::Error::Vault(lan_backup::vault::Error::Offline(_)))));
    assert!(bench.head().await.is_none());
    bench.vault.recover();
    let before = bench.vault.chunks_put();
    assert!(before > 0);
    let report = bench.back_up().await.unwrap();
    assert!(report.uploaded_bytes < (8 * 16 - 3 * 15) << 20, "{}", report.uploaded_bytes);
    bench.restore(&bench.path("out")).await;
    assert_same(&bench.tree(), &bench.path("out/tree"));
}

#[tokio::test(flavor = "multi_thread")]
async fn chunks_lost_at_the_vault_are_healed_by_the_next_backup() {
    let mut bench = Bench::new();
    tree::odd_tree(&bench.tree());
    bench.back_up().await.unwrap();
    // A third of all chunks, without the list that names them and with it: then the vault can say only later what else is gone.
    for list_lost in [false, true] {
        let refs = signer::open_record(&bench.head().await.unwrap().signed).unwrap().refs;
        let lists = |id: &&ChunkId| refs.ids.contains(id);
        let all = bench.vault.chunk_ids();
        for id in all.iter().filter(|id| !lists(id)).step_by(3) {
            bench.vault.lose(id);
        }
        if list_lost {
            all.iter().filter(lists).for_each(|id| bench.vault.lose(id));
        }
        let report = bench.back_up().await.unwrap();
        assert!(report.uploaded_bytes > 0);
        let notices = bench.monitor.notices();
        assert_eq!(notices.len(), if list_lost { 2 } else { 1 }, "{notices:?}");
        assert!(notices.iter().all(|notice| notice.contains("the files that need them")), "{notices:?}");
        let out = bench.path(if list_lost { "out-2" } else { "out-1" });
        bench.restore(&out).await;
        assert_eq!(bench.monitor.faults(), []);
        assert_same(&bench.tree(), &out.join("tree"));
    }
}

/// Records are kept for ever, and all of them are listed together.
#[tokio::test(flavor = "multi_thread")]
async fn a_record_names_few_chunks_however_long_its_lists_are() {
    let mut bench = Bench::new();
    let deep = std::iter::repeat_n("n".repeat(240), 15).fold(bench.tree(), |folder, name| folder.join(name));
    fs::create_dir_all(&deep).unwrap();
    for number in 0..5000 {
        fs::write(deep.join(format!("{number:0>160}")), b"").unwrap();
    }
    bench.back_up().await.unwrap();
    let head = bench.head().await.unwrap();
    let record = signer::open_record(&head.signed).unwrap();
    assert!(record.manifest.depth > 0, "{:?}", record.manifest);
    assert!(head.signed.record.len() < 2048, "{}", head.signed.record.len());
    // A chunk that only the list of the list names is sent again, too, when it is lost.
    for id in bench.vault.chunk_ids() {
        bench.vault.lose(&id);
    }
    bench.back_up().await.unwrap();
    bench.restore(&bench.path("out")).await;
    assert_eq!(bench.monitor.faults(), []);
    assert_same(&bench.tree(), &bench.path("out/tree"));
}

#[tokio::test(flavor = "multi_thread")]
async fn without_its_cache_a_source_reads_all_and_sends_nothing() {
    let mut bench = Bench::new();
    tree::odd_tree(&bench.tree());
    bench.back_up().await.unwrap();
    fs::remove_dir_all(bench.path("cache")).unwrap();
    let put = bench.vault.chunks_put();
    bench.back_up().await.unwrap();
    assert!(bench.monitor.counted(Counter::BytesRead) > 9_000_000);
    assert_eq!(bench.vault.chunks_put(), put);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_chunk_loses_its_files_and_no_others_and_leaves_nothing_wrong() {
    let mut bench = Bench::new();
    fs::write(bench.tree().join("good"), noise(3_000_000, 1)).unwrap();
    fs::write(bench.tree().join("bad"), noise(50_000, 2)).unwrap();
    bench.back_up().await.unwrap();
    let id = lan_backup::codec::chunk_id(&noise(50_000, 2));
    bench.vault.corrupt(&id, b"rot");
    bench.restore(&bench.path("out")).await;
    let faults = bench.monitor.faults();
    assert_eq!(faults.len(), 1, "{faults:?}");
    assert!(faults[0].subject.ends_with("bad"));
    assert_eq!(fs::read(bench.path("out/tree/good")).unwrap(), noise(3_000_000, 1));
    assert_eq!(fs::read_dir(bench.path("out/tree")).unwrap().count(), 1, "nothing of the bad file is left");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_there_is_kept_replaced_or_skipped_as_asked() {
    let mut bench = Bench::new();
    fs::write(bench.tree().join("same.txt"), b"same").unwrap();
    fs::write(bench.tree().join("differs.txt"), b"from the backup").unwrap();
    fs::create_dir(bench.tree().join("folder")).unwrap();
    fs::write(bench.tree().join("folder/inner"), b"inner").unwrap();
    bench.back_up().await.unwrap();
    let out = bench.path("out");
    let prepare = || {
        let _ = fs::remove_dir_all(&out);
        fs::create_dir_all(out.join("tree")).unwrap();
        fs::write(out.join("tree/same.txt"), b"same").unwrap();
        fs::write(out.join("tree/differs.txt"), b"mine").unwrap();
        fs::write(out.join("tree/folder"), b"a file in the way").unwrap();
    };
    let read = |name: &str| fs::read(out.join("tree").join(name)).ok();

    prepare();
    let stats = bench.restore(&out).await;
    assert_eq!((stats.identical_files, stats.beside_files), (1, 1));
    let mark = format!("(restored {})", bench.head().await.unwrap().id.short());
    assert_eq!(read("differs.txt").unwrap(), b"mine");
    assert_eq!(read(&format!("differs {mark}.txt")).unwrap(), b"from the backup");
    assert_eq!(read("folder").unwrap(), b"a file in the way");
    assert_eq!(read(&format!("folder {mark}/inner")).unwrap(), b"inner");
    let again = bench.restore(&out).await;
    assert_eq!(again.bytes_to_write, 5, "only the folder that had no place is written a second time");

    prepare();
    bench.restore_with(&out, |options| options.conflict = Conflict::Overwrite).await.unwrap();
    assert_same(&bench.tree(), &out.join("tree"));

    prepare();
    let stats = bench.restore_with(&out, |options| options.conflict = Conflict::Skip).await.unwrap();
    assert_eq!(stats.skipped_files, 2);
    assert_eq!(read("differs.txt").unwrap(), b"mine");
    assert_eq!(read("folder").unwrap(), b"a file in the way");
    assert_eq!(fs::read_dir(out.join("tree")).unwrap().count(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_part_of_a_snapshot_and_patterns_restore_only_what_was_asked_for() {
    let mut bench = Bench::new();
    fs::create_dir_all(bench.tree().join("photos/2024")).unwrap();
    for name in ["photos/2024/a.jpg", "photos/2024/b.txt", "photos/c.jpg", "notes.txt"] {
        fs::write(bench.tree().join(name), name).unwrap();
    }
    bench.back_up().await.unwrap();
    let selection: Selection = "latest:tree/photos".parse().unwrap();
    bench.restore_with(&bench.path("part"), |options| options.path = selection.path).await.unwrap();
    assert_same(&bench.tree().join("photos"), &{
        // The target folder itself is a person's own; only what is in it is restored.
        let part = bench.path("part");
        fs::set_permissions(&part, fs::metadata(bench.tree().join("photos")).unwrap().permissions()).unwrap();
        let mtime = std::os::unix::fs::MetadataExt::mtime(&fs::metadata(bench.tree().join("photos")).unwrap());
        let nanos = std::os::unix::fs::MetadataExt::mtime_nsec(&fs::metadata(bench.tree().join("photos")).unwrap());
        tree::set_time(&part, mtime, nanos);
        part
    });
    let include = Include::new(&["*.jpg".to_owned()]).unwrap();
    bench.restore_with(&bench.path("jpg"), |options| options.include = include).await.unwrap();
    let names = tree::describe(&bench.path("jpg"));
    let names: Vec<_> = names.keys().map(|path| path.to_string_lossy().into_owned()).collect();
    assert_eq!(names, ["", "tree", "tree/photos", "tree/photos/2024", "tree/photos/2024/a.jpg", "tree/photos/c.jpg"]);
    let nothing = Include::new(&["*.nope".to_owned()]).unwrap();
    assert!(bench.restore_with(&bench.path("none"), |options| options.include = nothing).await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_zip_holds_the_same_files() {
    let mut bench = Bench::new();
    fs::create_dir(bench.tree().join("sub")).unwrap();
    fs::write(bench.tree().join("sub/text"), b"hello ".repeat(10_000)).unwrap();
    let sparse = fs::File::create(bench.tree().join("sparse")).unwrap();
    sparse.set_len(5_000_000).unwrap();
    sparse.write_all_at(b"end", 4_999_997).unwrap();
    bench.back_up().await.unwrap();
    let head = bench.head().await.unwrap();
    let options = PlanOptions {
        snapshot: head.id,
        manifest: signer::open_record(&head.signed).unwrap().manifest,
        path: None,
        include: Include::default(),
        conflict: Conflict::KeepBoth,
        target: None,
        scratch: bench.base.path().to_owned(),
    };
    let plan = restore::plan(bench.vault.clone(), options, bench.monitor.clone(), Shutdown::new()).await.unwrap();
    let file = bench.path("out.zip");
    let target = ZipTarget::new(&file, bench.monitor.clone()).unwrap();
    Box::pin(restore::run(bench.vault.clone(), &plan, target, bench.monitor.clone(), Shutdown::new())).await.unwrap();
    let mut zip = zip::ZipArchive::new(fs::File::open(&file).unwrap()).unwrap();
    for name in ["sub/text", "sparse"] {
        let mut bytes = Vec::new();
        std::io::Read::read_to_end(&mut zip.by_name(&format!("tree/{name}")).unwrap(), &mut bytes).unwrap();
        assert!(bytes == fs::read(bench.tree().join(name)).unwrap(), "{name}");
    }
    assert!(ZipTarget::new(&file, bench.monitor.clone()).is_err(), "a zip is never replaced");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_grows_while_it_is_read_is_kept_as_read_and_reported() {
    let mut bench = Bench::new();
    fs::write(bench.tree().join("log"), noise(40 << 20, 1)).unwrap();
    let path = bench.tree().join("log");
    let stop = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let writer = std::thread::spawn({
        let stop = stop.clone();
        move || {
            let file = fs::OpenOptions::new().append(true).open(path).unwrap();
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                std::io::Write::write_all(&mut &file, b"line\n").unwrap();
            }
        }
    });
    let report = bench.back_up().await;
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    writer.join().unwrap();
    report.unwrap();
    let faults = bench.monitor.faults();
    assert_eq!(faults.len(), 1, "{faults:?}");
    assert!(faults[0].problem.contains("changed while it was read"));
    let restored = bench.path("out/tree/log");
    bench.restore(&bench.path("out")).await;
    assert!(fs::read(restored).unwrap().starts_with(&noise(40 << 20, 1)));
}
