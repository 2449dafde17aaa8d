//! Random histories of a tree: edits, backups, interruptions, restores, against a plain description of the tree kept for each
//! snapshot. `LAN_BACKUP_LONG=1` tries many more.
//!
//! Time: the engine trusts a stamp that is 100 ms old. Edits here follow backups within microseconds, so the clock that it is
//! given is a second ahead, and stamps count at once. The danger in that, a second change within one step of the kernel's clock
//! for file times, is kept out by [`let_file_times_move_on`] after each backup, which waits until the file system itself gives
//! later times; no edit can then hide behind the stamp of the backup before it, however coarse the steps are.

use crate::support::bench::{Bench, head, let_file_times_move_on, restore, set};
use crate::support::edits::{Edit, apply, edit};
use crate::support::scratch::long;
use crate::support::tree::describe;
use lan_backup::model::{Changes, SnapshotInfo};
use lan_backup::restore::Conflict;
use lan_backup::signer::{self, SigningKey};
use lan_backup::vault::MemoryVault;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fs;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// What happens to the source's cache before a backup.
#[derive(Clone, Copy, Debug)]
enum CacheIs {
    Kept,
    /// Lost, and made again from the last snapshot's manifest, as `send` does.
    Fetched,
    Lost,
}

#[derive(Clone, Debug)]
enum Step {
    Edit(Vec<Edit>),
    BackUp(CacheIs),
    /// A backup whose vault goes away after so many puts.
    Interrupted(u64),
    /// Into an empty folder.
    Restore(Index),
    /// Over another snapshot's files, edited.
    RestoreOver(Index, Index, Vec<Edit>, usize),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => vec(edit(), 1..12).prop_map(Step::Edit),
        4 => prop_oneof![3 => Just(CacheIs::Kept), 1 => Just(CacheIs::Fetched), 1 => Just(CacheIs::Lost)]
            .prop_map(Step::BackUp),
        1 => (0..3_u64).prop_map(Step::Interrupted),
        1 => any::<Index>().prop_map(Step::Restore),
        3 => (any::<Index>(), any::<Index>(), vec(edit(), 0..8), 0..3_usize)
            .prop_map(|(which, over, edits, conflict)| Step::RestoreOver(which, over, edits, conflict)),
    ]
}

/// A tree as a path for each thing, with all there is to say about it; the names that share an inode go by their first.
type Picture = BTreeMap<PathBuf, String>;

/// What a snapshot has to give back.
struct Kept {
    info: SnapshotInfo,
    tree: Picture,
    links: BTreeMap<PathBuf, PathBuf>,
}

/// What is said of each thing but which names are the same file.
fn picture(root: &Path) -> Picture {
    let plain = |line: String| line.split(" same as [").next().unwrap().to_owned();
    describe(root).into_iter().map(|(path, line)| (path, plain(line))).collect()
}

/// For each file that shares its inode with others of `among`: the first of them.
fn links<'a>(root: &Path, among: impl Iterator<Item = &'a PathBuf>) -> BTreeMap<PathBuf, PathBuf> {
    let mut inodes: BTreeMap<(u64, u64), BTreeSet<PathBuf>> = BTreeMap::new();
    for path in among {
        let metadata = fs::symlink_metadata(root.join(path)).unwrap();
        if metadata.is_file() {
            inodes.entry((metadata.dev(), metadata.ino())).or_default().insert(path.clone());
        }
    }
    let shared = inodes.into_values().filter(|names| names.len() > 1);
    shared
        .flat_map(|names| {
            let first = names.first().unwrap().clone();
            names.into_iter().map(move |name| (name, first.clone()))
        })
        .collect()
}

fn is_file(line: &str) -> bool {
    line.contains(" bytes ")
}

fn is_folder(line: &str) -> bool {
    line.starts_with("folder ")
}

/// Content and kind, without what a restore puts back on what it keeps.
fn bytes(line: &str) -> &str {
    if is_file(line) {
        line.split(' ').nth(2).unwrap()
    } else if is_folder(line) {
        "folder"
    } else {
        line.rsplit_once(" 0 ").unwrap().0
    }
}

/// Without the attribute, which stays on a file that is kept.
fn without_attribute(line: &str) -> &str {
    line.rsplit_once(" Ok(").or_else(|| line.rsplit_once(" Err(")).unwrap().0
}

fn changes(old: &Kept, tree: &Picture, links: &BTreeMap<PathBuf, PathBuf>) -> Changes {
    let was_file = |path: &PathBuf| old.tree.get(path).is_some_and(|line| is_file(line));
    let mut changes = Changes::default();
    for (path, line) in tree.iter().filter(|(_, line)| is_file(line)) {
        if !was_file(path) {
            changes.new_files += 1;
        } else if old.tree[path] != *line || old.links.get(path) != links.get(path) {
            changes.changed_files += 1;
        }
    }
    let gone = |path: &&PathBuf| was_file(path) && !tree.get(*path).is_some_and(|line| is_file(line));
    changes.deleted_files = old.tree.keys().filter(gone).count() as u64;
    changes
}

struct Run {
    bench: Bench,
    vault: Arc<MemoryVault>,
    kept: Vec<Kept>,
    restores: usize,
}

impl Run {
    fn new() -> Self {
        let bench = Bench::new(SigningKey::from_bytes(&[3; 32]));
        Self { bench, vault: Arc::new(MemoryVault::new()), kept: Vec::new(), restores: 0 }
    }

    async fn step(&mut self, step: &Step) {
        match step {
            Step::Edit(edits) => {
                for edit in edits {
                    apply(&self.bench.tree(), edit);
                }
            }
            Step::BackUp(cache) => self.back_up(*cache).await,
            Step::Interrupted(puts) => {
                self.vault.fail_after(*puts);
                let before = head(&self.vault).await;
                let outcome = self.bench.back_up(&self.vault).await;
                self.vault.recover();
                if let Ok(report) = outcome {
                    self.keep(report.changes, CacheIs::Kept).await;
                } else {
                    assert_eq!(head(&self.vault).await, before, "a broken backup shows");
                }
                self.settle();
            }
            Step::Restore(which) if !self.kept.is_empty() => {
                let which = which.index(self.kept.len());
                let out = self.fresh(which).await;
                self.check_fresh(which, &out);
                fs::remove_dir_all(out).unwrap();
            }
            Step::RestoreOver(which, over, edits, conflict) if !self.kept.is_empty() => {
                let out = self.fresh(over.index(self.kept.len())).await;
                for edit in edits {
                    apply(&out.join("tree"), edit);
                }
                let conflict = [Conflict::KeepBoth, Conflict::Overwrite, Conflict::Skip][*conflict];
                self.restore_over(which.index(self.kept.len()), &out, conflict).await;
                fs::remove_dir_all(out).unwrap();
            }
            Step::Restore(_) | Step::RestoreOver(..) => {}
        }
    }

    async fn back_up(&mut self, cache: CacheIs) {
        match (cache, self.kept.last()) {
            (CacheIs::Kept, _) => {}
            (CacheIs::Lost, _) | (CacheIs::Fetched, None) => self.bench.cache(&*self.vault).clear().unwrap(),
            (CacheIs::Fetched, Some(last)) => {
                let cache = self.bench.cache(&*self.vault);
                cache.clear().unwrap();
                let manifest = signer::open_record(&last.info.signed).unwrap().manifest;
                cache.fetch(self.vault.clone(), &last.info.id, &manifest).await.unwrap();
            }
        }
        let report = self.bench.back_up(&self.vault).await.unwrap();
        assert_eq!(report.sequence, self.kept.len() as u64 + 1);
        self.keep(report.changes, cache).await;
        self.settle();
    }

    fn settle(&self) {
        let_file_times_move_on(&self.bench.tree(), &self.bench.path("probe"));
    }

    /// Keeps a picture of the tree for the snapshot that was just made, and checks what was said to be new in it.
    async fn keep(&mut self, said: Changes, cache: CacheIs) {
        assert_eq!(self.bench.monitor.faults(), []);
        let info = head(&self.vault).await.unwrap();
        let record = signer::open_record(&info.signed).unwrap();
        assert_eq!((record.set, record.changes), (set(), said));
        let tree = picture(&self.bench.tree());
        let links = links(&self.bench.tree(), tree.keys());
        let nothing = Kept { info: info.clone(), tree: Picture::new(), links: BTreeMap::new() };
        let old = match cache {
            CacheIs::Kept | CacheIs::Fetched => self.kept.last().unwrap_or(&nothing),
            // Nobody knows what was there before.
            CacheIs::Lost => &nothing,
        };
        assert_eq!(said, changes(old, &tree, &links));
        assert_eq!(record.totals.entries, tree.len() as u64);
        self.kept.push(Kept { info, tree, links });
    }

    async fn fresh(&mut self, which: usize) -> PathBuf {
        self.restores += 1;
        let out = self.bench.path(&format!("out{}", self.restores));
        let restored = restore(&self.vault, &self.kept[which].info, &out, Conflict::KeepBoth).await.unwrap();
        assert_eq!(restored.faults, []);
        out
    }

    fn check_fresh(&self, which: usize, out: &Path) {
        let kept = &self.kept[which];
        assert_eq!(fs::read_dir(out).unwrap().count(), 1);
        let tree = picture(&out.join("tree"));
        assert_eq!(tree, kept.tree);
        assert_eq!(links(&out.join("tree"), tree.keys()), kept.links);
    }

    async fn restore_over(&self, which: usize, out: &Path, conflict: Conflict) {
        let (kept, root) = (&self.kept[which], &out.join("tree"));
        let before = picture(root);
        let restored = restore(&self.vault, &kept.info, out, conflict).await.unwrap();
        let after = picture(root);
        for path in after.keys() {
            assert!(!path.as_os_str().as_bytes().ends_with(b".part"), "left behind: {}", path.display());
        }
        // A folder where a file or link should be is never replaced, and said to be in the way.
        let in_the_way = |path: &PathBuf| {
            conflict == Conflict::Overwrite
                && !is_folder(&kept.tree[path])
                && before.get(path).is_some_and(|line| is_folder(line))
        };
        assert_eq!(
            restored.faults.len(),
            kept.tree.keys().filter(|path| in_the_way(path)).count(),
            "{:?}",
            restored.faults
        );
        match conflict {
            Conflict::Overwrite => {
                let wanted: Vec<&PathBuf> = kept.tree.keys().filter(|path| !in_the_way(path)).collect();
                for path in &wanted {
                    let (found, wanted) = (&after[*path], &kept.tree[*path]);
                    assert_eq!(without_attribute(found), without_attribute(wanted), "{}", path.display());
                    assert!(!wanted.contains(" Ok(") || found == wanted, "{path:?}: {found} instead of {wanted}");
                }
                let placed = |group: BTreeSet<PathBuf>| -> BTreeSet<PathBuf> {
                    group.into_iter().filter(|path| !in_the_way(path)).collect()
                };
                let expected = groups(&kept.links).into_iter().map(placed).filter(|group| group.len() > 1).collect();
                assert_eq!(groups(&links(root, wanted.iter().copied())), expected);
                for (path, line) in before.iter().filter(|(path, _)| !kept.tree.contains_key(*path)) {
                    assert_eq!(bytes(&after[path]), bytes(line), "{path:?} is no part of the snapshot");
                }
            }
            Conflict::KeepBoth => {
                self.check_untouched(&before, &after);
                check_both(kept, &after);
            }
            Conflict::Skip => {
                self.check_untouched(&before, &after);
                for (path, line) in &kept.tree {
                    let blocked =
                        path.ancestors().skip(1).any(|up| before.get(up).is_some_and(|line| !is_folder(line)));
                    match before.get(path) {
                        None if !blocked => assert_eq!(&after[path], line, "{path:?}"),
                        None => assert!(!after.contains_key(path), "{path:?} is made inside of what is no folder"),
                        Some(_) => {}
                    }
                }
            }
        }
    }

    fn check_untouched(&self, before: &Picture, after: &Picture) {
        for (path, line) in before {
            assert_eq!(bytes(&after[path]), bytes(line), "{path:?} of {} snapshots", self.kept.len());
        }
    }
}

fn groups(links: &BTreeMap<PathBuf, PathBuf>) -> BTreeSet<BTreeSet<PathBuf>> {
    let firsts: BTreeSet<&PathBuf> = links.values().collect();
    let members = |first| links.iter().filter(|(_, f)| *f == first).map(|(name, _)| name.clone()).collect();
    firsts.into_iter().map(members).collect()
}

/// Everything of the snapshot is there, under its own name or its second one.
fn check_both(kept: &Kept, after: &Picture) {
    let mark = format!(" (restored {})", kept.info.id.short());
    let unmarked = |path: &PathBuf| {
        let bytes = path.as_os_str().as_bytes().to_vec();
        let mut out = Vec::new();
        let mut at = 0;
        while at < bytes.len() {
            if bytes[at..].starts_with(mark.as_bytes()) {
                at += mark.len();
            } else {
                out.push(bytes[at]);
                at += 1;
            }
        }
        PathBuf::from(OsString::from_vec(out))
    };
    let mut found: BTreeMap<PathBuf, Vec<&String>> = BTreeMap::new();
    for (path, line) in after {
        found.entry(unmarked(path)).or_default().push(line);
    }
    for (path, line) in &kept.tree {
        let fits = |other: &&&String| without_attribute(other) == without_attribute(line);
        assert!(found.get(path).is_some_and(|lines| lines.iter().any(|line| fits(&line))), "{path:?}: {line}");
    }
}

fn cases() -> u32 {
    if long() { 300 } else { 20 }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), max_shrink_iters: 100, ..ProptestConfig::default() })]

    #[test]
    fn every_snapshot_gives_back_the_tree_it_was_made_of(steps in vec(step(), 4..16)) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        runtime.block_on(async {
            let mut run = Run::new();
            for step in &steps {
                run.step(step).await;
            }
            run.back_up(CacheIs::Kept).await;
            for which in 0..run.kept.len() {
                let out = run.fresh(which).await;
                run.check_fresh(which, &out);
                fs::remove_dir_all(out).unwrap();
            }
        });
    }
}
