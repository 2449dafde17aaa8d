//! A restore while somebody swaps a folder of the target with a link that leads out of it, again and again, in one atomic step:
//! nothing ever appears outside. A writer that goes by paths escapes under the same conditions, or the race would prove nothing.

use crate::support::bench::restore_with;
use crate::support::scratch::{long, scratch};
use crate::support::tree::describe;
use bytes::Bytes;
use lan_backup::codec::{Compression, Encoder, chunk_id};
use lan_backup::manifest::StreamWriter;
use lan_backup::model::{ChunkerParameters, SnapshotId, Stream};
use lan_backup::restore::select::Include;
use lan_backup::restore::{Conflict, PlanOptions};
use lan_backup::vault::{MemoryVault, Vault};
use rustix::fs::{CWD, RenameFlags, renameat_with};
use std::convert::Infallible;
use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

const ROUNDS: usize = 200;
/// Files in the folder that is swapped: chances in each round.
const FILES: usize = 20;

/// A target in which `tree/sub` is a folder and `tree/door` leads out, until they are swapped.
struct Arena {
    base: tempfile::TempDir,
}

impl Arena {
    fn new() -> Self {
        let base = scratch();
        fs::create_dir(base.path().join("outside")).unwrap();
        fs::write(base.path().join("outside/f0"), b"canary").unwrap();
        Self { base }
    }

    fn out(&self) -> PathBuf {
        self.base.path().join("out")
    }

    fn outside(&self) -> PathBuf {
        self.base.path().join("outside")
    }

    fn lay_out(&self) {
        let _ = fs::remove_dir_all(self.out());
        fs::create_dir_all(self.out().join("tree/sub/deeper")).unwrap();
        symlink(self.outside(), self.out().join("tree/door")).unwrap();
    }
}

/// Swaps until dropped.
struct Swapper {
    stop: Arc<AtomicBool>,
    swaps: Arc<AtomicU64>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Swapper {
    /// Returns once swapping has begun.
    fn start(tree: &Path) -> Self {
        let (stop, swaps) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (sub, door) = (tree.join("sub"), tree.join("door"));
        let thread = std::thread::spawn({
            let (stop, swaps) = (stop.clone(), swaps.clone());
            move || {
                while !stop.load(Ordering::Relaxed) {
                    // One of them may be gone: a restore that overwrites takes a link away.
                    if renameat_with(CWD, &sub, CWD, &door, RenameFlags::EXCHANGE).is_ok() {
                        swaps.fetch_add(1, Ordering::Relaxed);
                    } else if fs::symlink_metadata(&door).is_err() {
                        return;
                    }
                }
            }
        });
        while swaps.load(Ordering::Relaxed) == 0 && !thread.is_finished() {
            std::thread::yield_now();
        }
        Self { stop, swaps, thread: Some(thread) }
    }
}

impl Drop for Swapper {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let _ = self.thread.take().unwrap().join();
    }
}

async fn put(vault: &MemoryVault, chunks: Vec<Bytes>) {
    for bytes in chunks {
        let block = Encoder::new(Compression::None).encode(&[(chunk_id(&bytes), bytes)]);
        vault.put(vec![block]).await.unwrap();
    }
}

/// A snapshot with files in the folder that is swapped, and in one below it.
async fn snapshot(vault: &MemoryVault) -> Stream {
    let text = b"escaped";
    let id = chunk_id(text);
    let mut manifest = String::new();
    for folder in ["tree", "tree/sub", "tree/sub/deeper"] {
        writeln!(manifest, "{{\"path\":\"{folder}\",\"kind\":\"folder\",\"mode\":493}}").unwrap();
        let files = if folder == "tree/sub/deeper" { FILES } else { 0 };
        for file in 0..files {
            writeln!(
                manifest,
                "{{\"path\":\"{folder}/f{file:02}\",\"kind\":\"file\",\"size\":7,\"content\":[[\"{id}\",7]]}}"
            )
            .unwrap();
        }
    }
    for file in 0..FILES {
        writeln!(
            manifest,
            "{{\"path\":\"tree/sub/f{file:02}\",\"kind\":\"file\",\"size\":7,\"linkGroup\":\"g{}\",\"content\":[[\"{id}\",7]]}}",
            file / 2
        )
        .unwrap();
    }
    writeln!(manifest, "{{\"path\":\"tree/sub/link\",\"kind\":\"link\",\"target\":\"/\"}}").unwrap();
    let mut chunks = vec![Bytes::from_static(text)];
    let mut sink = |_, bytes: Bytes| {
        chunks.push(bytes);
        Ok::<_, Infallible>(())
    };
    let mut writer = StreamWriter::new(&ChunkerParameters::STANDARD);
    writer.write(manifest.as_bytes(), &mut sink).unwrap();
    let stream = writer.finish(&mut sink).unwrap();
    put(vault, chunks).await;
    stream
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restore_never_writes_through_a_link_that_appears_under_it() {
    let arena = Arena::new();
    let before = describe(&arena.outside());
    let vault = Arc::new(MemoryVault::new());
    let manifest = snapshot(&vault).await;
    let (mut swaps, mut faults, mut inside) = (0, 0, 0);
    for round in 0..if long() { 10 * ROUNDS } else { ROUNDS } {
        arena.lay_out();
        let options = PlanOptions {
            snapshot: SnapshotId::from_bytes([0xab; 32]),
            manifest: manifest.clone(),
            path: None,
            include: Include::default(),
            conflict: [Conflict::Overwrite, Conflict::KeepBoth, Conflict::Skip][round % 3],
            target: Some(arena.out()),
            scratch: std::env::temp_dir(),
        };
        let swapper = Swapper::start(&arena.out().join("tree"));
        // An error or faults are right: the target is not what it was a moment ago.
        let outcome = restore_with(&vault, options).await;
        swaps += swapper.swaps.load(Ordering::Relaxed);
        drop(swapper);
        faults += outcome.map_or(1, |restored| restored.faults.len());
        inside += describe(&arena.out()).len();
        assert_eq!(describe(&arena.outside()), before, "round {round}");
    }
    assert!(swaps > ROUNDS as u64 && faults > 0, "{swaps} swaps and {faults} faults are no race");
    assert!(inside > ROUNDS * 4, "nothing was restored at all");
}

#[test]
fn a_writer_that_goes_by_paths_escapes() {
    let arena = Arena::new();
    let before = describe(&arena.outside());
    let mut swaps = 0;
    for _ in 0..ROUNDS {
        arena.lay_out();
        let swapper = Swapper::start(&arena.out().join("tree"));
        for file in 0..FILES {
            let folder = arena.out().join("tree/sub");
            // As careful as paths allow: look first, then write aside and rename.
            if fs::symlink_metadata(&folder).is_ok_and(|metadata| metadata.is_dir())
                && fs::write(folder.join(".part"), b"escaped").is_ok()
            {
                let _ = fs::rename(folder.join(".part"), folder.join(format!("f{file:02}")));
            }
        }
        swaps += swapper.swaps.load(Ordering::Relaxed);
        drop(swapper);
        if describe(&arena.outside()) != before {
            return;
        }
    }
    panic!(
        "the race was never lost in {ROUNDS} rounds and {swaps} swaps: the test beside this one proves nothing here"
    );
}
