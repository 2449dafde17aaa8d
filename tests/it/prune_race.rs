//! Prune beside backups, verify, restores and other processes' views of the store. The clock leaps ten days between two prunes, so that what a
//! backup was told of a moment ago is old enough to go.

use crate::prune::{back_up, chunks, id, options, put_missing, store_now};
use crate::store_support::{Made, OWNER, assert_whole, files, noise, put, read, receiver_key};
use crate::support::figures::figure;
use crate::support::scratch::{long, scratch};
use bytes::Bytes;
use lan_backup::codec;
use lan_backup::model::{ChunkId, Keep, SetName, SnapshotId};
use lan_backup::monitor::Silent;
use lan_backup::platform::clock::ManualClock;
use lan_backup::platform::shutdown::Shutdown;
use lan_backup::store::pack::Trailer;
use lan_backup::store::prune::{Prune, Purpose};
use lan_backup::store::shelf::Object;
use lan_backup::store::verify::{Share, VerifyOptions, verify};
use lan_backup::store::{Error, Repository, Store};
use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

const DAY: Duration = Duration::from_hours(24);
/// Backups of each of two sets.
const BACKUPS: u64 = 5;
/// Chunks that all backups pick from.
const POOL: u64 = 48;

/// Numbers that are the same for the same seed.
struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }
}

fn dice(seed: u64, part: u64) -> Dice {
    let bytes = noise(seed * 16 + part, 8);
    Dice(u64::from_le_bytes(bytes[..].try_into().unwrap()) | 1)
}

/// The same store as another process has it.
fn another(folder: &Path, clock: &Arc<ManualClock>) -> (Store, Arc<Repository>) {
    let (store, _) = Store::open_or_create(folder, clock.clone(), receiver_key()).unwrap();
    let repository = store.owned_by(&OWNER).unwrap();
    (store, repository)
}

/// Says that it is over, whatever happens.
struct Ends<'a>(&'a AtomicBool);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Commits as a source does: what turns out to be missing is sent, and it is tried again, though not for ever.
fn commit(repository: &Repository, made: &Made) -> Result<(), Error> {
    let mut tries = 0;
    loop {
        match repository.commit(&made.signed(), OWNER) {
            Ok(_) => return Ok(()),
            Err(Error::Missing(ids)) if tries < 1000 => {
                tries += 1;
                let all = made.files.iter().chain(&made.streams);
                let gone: Vec<Bytes> = all.filter(|bytes| ids.contains(&codec::chunk_id(bytes))).cloned().collect();
                put(repository, &gone).unwrap();
            }
            Err(error) => return Err(error),
        }
    }
}

/// Backs up to one set, each time a few chunks of the pool and some of its own.
fn source(
    repository: &Repository,
    set: &str,
    seed: u64,
    part: u64,
    all: &Mutex<HashMap<SnapshotId, Made>>,
) -> Result<(), Error> {
    let mut dice = dice(seed, part);
    for number in 0..BACKUPS {
        let mut files: Vec<Bytes> = (0..8 + dice.below(16)).map(|_| noise(dice.below(POOL), 700)).collect();
        files.extend((0..dice.below(8)).map(|n| noise(1_000_000 + part * 10_000 + number * 100 + n, 900)));
        let made = Made::new(repository, set, files);
        put_missing(repository, &made.files);
        if dice.below(2) == 0 {
            std::thread::yield_now();
        }
        put_missing(repository, &made.streams);
        commit(repository, &made)?;
        all.lock().unwrap().insert(id(&made), made);
    }
    Ok(())
}

/// Snapshots that must be whole: those that are kept, and those that can be brought back.
fn promised(repository: &Repository, now: jiff::Timestamp) -> Vec<SnapshotId> {
    let all = repository.snapshots().unwrap();
    all.iter().filter(|info| info.forgotten.as_ref().is_none_or(|mark| mark.until > now)).map(|info| info.id).collect()
}

fn check(repository: &Repository, clock: &ManualClock, all: &Mutex<HashMap<SnapshotId, Made>>) {
    use lan_backup::platform::clock::Clock;
    for id in promised(repository, clock.now()) {
        assert_whole_if_known(repository, &all.lock().unwrap(), &id);
    }
}

fn assert_whole_if_known(repository: &Repository, all: &HashMap<SnapshotId, Made>, id: &SnapshotId) {
    let made = &all[id];
    let parts: Vec<_> = made.files.iter().chain(&made.streams).map(|bytes| codec::chunk_id(bytes)).collect();
    let found = read(repository, &parts).unwrap();
    assert!(parts.iter().all(|id| found.contains_key(id)));
}

/// Restores what is kept, again and again, until the backups are done.
fn restorer(repository: &Repository, clock: &ManualClock, all: &Mutex<HashMap<SnapshotId, Made>>, done: &AtomicBool) {
    use lan_backup::platform::clock::Clock;
    while !done.load(Ordering::Relaxed) {
        for id in promised(repository, clock.now()) {
            let parts: Vec<ChunkId> = match all.lock().unwrap().get(&id) {
                Some(made) => made.files.iter().chain(&made.streams).map(|bytes| codec::chunk_id(bytes)).collect(),
                None => continue,
            };
            if let Err(error) = read(repository, &parts) {
                let still = promised(repository, clock.now()).contains(&id);
                assert!(!still, "a snapshot that is kept cannot be read: {error:?}");
            }
        }
    }
}

/// Looks at everything, again and again, until the backups are done: nothing is ever damaged. Returns how often.
fn verifier(store: &Store, seed: u64, done: &AtomicBool) -> u64 {
    let mut dice = dice(seed, 4);
    let mut looks = 0;
    while looks == 0 || !done.load(Ordering::Relaxed) {
        let data = if dice.below(2) == 0 { Share::All } else { Share::None };
        let findings = verify(store, VerifyOptions { data }, &Silent, &Shutdown::new()).unwrap();
        assert!(findings.is_clean(), "seed {seed}: {findings:#?}");
        looks += 1;
    }
    looks
}

/// Returns how many packs were deleted on the way, and how often everything was verified: by how the threads happen to run, none may
/// be in one race.
fn race(seed: u64) -> (u64, u64) {
    let folder = scratch();
    let (_store, first, clock) = store_now(folder.path());
    // Half of the pool lies there and nobody needs it.
    let left: Vec<Bytes> = (0..POOL / 2).map(|n| noise(n, 700)).collect();
    for chunks in left.chunks(6) {
        put(&first, chunks).unwrap();
    }
    first.sync().unwrap();
    clock.advance(10 * DAY);
    let all = Mutex::default();
    let done = AtomicBool::new(false);
    let others: Vec<_> = (0..4).map(|_| another(folder.path(), &clock)).collect();
    let counts = std::thread::scope(|scope| {
        let (all, clock, done) = (&all, &*clock, &done);
        let sources = [
            scope.spawn(|| source(&first, "documents", seed, 1, all)),
            scope.spawn(|| source(&others[0].1, "photos", seed, 2, all)),
        ];
        let reader = scope.spawn(|| restorer(&others[1].1, clock, all, done));
        let verifier = scope.spawn(|| verifier(&others[3].0, seed, done));
        let pruner = scope.spawn(|| {
            let mut dice = dice(seed, 3);
            let mut deleted = 0;
            for round in 0.. {
                if done.load(Ordering::Relaxed) && round > 8 {
                    break;
                }
                let repository = &others[2].1;
                let rules = |_: &SetName| Some(Keep { last: 1, ..Keep::default() });
                let prune = Prune::prepare(repository, &rules, &options(), Purpose::Run, &|| false).unwrap();
                let report = prune.run().unwrap();
                assert_eq!(report.obstacle, None);
                deleted += report.deleted.packs;
                let forgotten = repository.snapshots().unwrap().into_iter().filter(|info| info.forgotten.is_some());
                let forgotten: Vec<_> = forgotten.collect();
                if !forgotten.is_empty() && dice.below(3) == 0 {
                    let chosen = &forgotten[dice.below(forgotten.len() as u64) as usize];
                    assert!(matches!(repository.bring_back(&chosen.id), Ok(()) | Err(Error::Gone { .. })));
                }
                clock.advance(DAY * [1, 4, 10][dice.below(3) as usize]);
            }
            deleted
        });
        let ends = Ends(done);
        for source in sources {
            source.join().unwrap().unwrap();
        }
        drop(ends);
        reader.join().unwrap();
        (pruner.join().unwrap(), verifier.join().unwrap())
    });
    check(&first, &clock, &all);
    drop((first, others));
    for index in files(folder.path()).iter().filter(|path| path.to_string_lossy().contains("index.sqlite")) {
        std::fs::remove_file(index).unwrap();
    }
    let (_store, repository) = another(folder.path(), &clock);
    check(&repository, &clock, &all);
    counts
}

#[test]
fn whatever_runs_beside_a_prune_no_chunk_that_is_needed_goes() {
    let seeds = if long() { 300 } else { 30 };
    let add = |sum: (u64, u64), one: (u64, u64)| (sum.0 + one.0, sum.1 + one.1);
    let (deleted, looks) = (0..seeds).map(race).fold((0, 0), add);
    assert!(deleted > 0, "nothing was ever deleted");
    assert!(looks >= seeds, "only {looks} times was everything looked at");
    figure(&format!("row 15: {seeds} seeds, {deleted} packs deleted, everything verified {looks} times beside it"));
}

/// Prune as one would write it without thinking of others: look at what is needed, then delete the rest. `between` is what happens
/// between the two.
fn naive_prune(folder: &Path, repository: &Repository, all: &Mutex<HashMap<SnapshotId, Made>>, between: impl FnOnce()) {
    let mut needed = HashSet::new();
    for info in repository.snapshots().unwrap() {
        if let Some(made) = all.lock().unwrap().get(&info.id) {
            needed.extend(made.files.iter().chain(&made.streams).map(|bytes| codec::chunk_id(bytes)));
        }
    }
    between();
    for path in files(folder).into_iter().filter(|path| path.to_string_lossy().contains("/packs/")) {
        let Ok(object) = lan_backup::platform::fs::OpenFile::open(&path) else { continue };
        let Ok((trailer, ..)) = Trailer::read(&object as &dyn Object) else { continue };
        let mut ids = trailer.blocks.iter().flat_map(|block| &block.header.chunks);
        if !ids.any(|chunk| needed.contains(&chunk.id)) {
            std::fs::remove_file(&path).unwrap();
        }
    }
}

/// The control. Between its look and its deleting, this prune waits until one more backup is acknowledged: left to chance, it may delete
/// so fast that no backup ever ends, and then nothing that was promised is lost.
#[test]
fn without_the_lock_and_the_second_look_chunks_that_are_needed_go() {
    let folder = scratch();
    let (_store, repository, _) = store_now(folder.path());
    let all = Mutex::new(HashMap::new());
    let done = AtomicBool::new(false);
    let (looked, has_looked) = std::sync::mpsc::channel();
    std::thread::scope(|scope| {
        let (all, done, repository, path) = (&all, &done, &repository, folder.path());
        let pruner = scope.spawn(move || {
            while !done.load(Ordering::Relaxed) {
                let before = all.lock().unwrap().len();
                naive_prune(path, repository, all, || {
                    let _ = looked.send(());
                    while !done.load(Ordering::Relaxed) && all.lock().unwrap().len() == before {
                        std::thread::sleep(Duration::from_millis(1));
                    }
                });
            }
        });
        let ends = Ends(done);
        has_looked.recv().unwrap();
        // A list that is gone before the commit ends the backup; what was acknowledged before it is looked at all the same.
        let _ = source(repository, "documents", 1, 1, all);
        drop(ends);
        pruner.join().unwrap();
    });
    let all = all.lock().unwrap();
    let whole = |made: &Made| {
        let parts: Vec<_> = made.files.iter().chain(&made.streams).map(|bytes| codec::chunk_id(bytes)).collect();
        read(&repository, &parts).is_ok()
    };
    assert!(!all.is_empty() && !all.values().all(whole), "the race is no race: nothing was lost without protection");
}

#[test]
fn a_restore_that_has_found_its_chunks_goes_on_when_their_pack_is_replaced() {
    let folder = scratch();
    let (_store, repository, clock) = store_now(folder.path());
    let files = chunks(1, 60);
    back_up(&repository, "documents", files.clone());
    let some: Vec<Bytes> = files.iter().step_by(4).cloned().collect();
    let new = back_up(&repository, "documents", some);
    let (_other_store, other) = another(folder.path(), &clock);
    let rules = |_: &SetName| Some(Keep { last: 1, ..Keep::default() });
    let mut rounds = 0;
    let parts: Vec<_> = new.files.iter().chain(&new.streams).map(|bytes| codec::chunk_id(bytes)).collect();
    let mut seen = HashSet::new();
    // Between the first block and the second, prune replaces the pack, and deletes the old one.
    repository
        .read_blocks(&parts, &mut |block| {
            seen.extend(block.header.chunks.iter().map(|chunk| chunk.id));
            if rounds == 0 {
                for _ in 0..4 {
                    clock.advance(9 * DAY);
                    Prune::prepare(&other, &rules, &options(), Purpose::Run, &|| false).unwrap().run().unwrap();
                }
            }
            rounds += 1;
            std::ops::ControlFlow::Continue(())
        })
        .unwrap();
    assert!(rounds > 1 && parts.iter().all(|id| seen.contains(id)));
    assert_whole(&repository, &new);
}
