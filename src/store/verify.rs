//! Is everything here, and is it what it was? Changes nothing but an index that is wrong, which is only a cache, and what is known: when which
//! pack was read, which are in doubt, and which snapshots lack something.
//!
//! Two depths. *Structure* reads every small file, every pack's trailer, the index, and the lists of every snapshot: it finds what
//! is gone, and costs seconds. *Data* also reads, decompresses and hashes every chunk, on all cores. What is found is told by file,
//! by chunk, and by what a person has: which files of which snapshots.
//!
//! Bounded: a block for each core, the ids of lost chunks, and for each chunk of the snapshots' lists about a hundred bytes,
//! however many snapshots share it. Names of files that are hit are counted beyond [`MAX_NAMED_FILES`].
//!
//! | file | what |
//! |---|---|
//! | `small` | parameters, owner log, records, chain, receipts |
//! | `packs` | packs, in parallel |
//! | `reach` | what each snapshot lacks |
//! | `hits` | which files that concerns |
//! | `trash` | what waits there to be deleted |
//! | `told` | what of that is told |

pub(crate) mod hits;
pub(crate) mod packs;
pub(crate) mod reach;
pub(crate) mod small;
pub(crate) mod told;
pub(crate) mod trash;

use crate::model::{Alias, ChunkId, PackId, RepositoryId, SetName, SnapshotId};
use crate::monitor::{Counter, Monitor, Phase, Silent};
use crate::platform::lock::Lock;
use crate::platform::random;
use crate::platform::shutdown::Shutdown;
use crate::store::Store;
use crate::store::doubts::{self, Doubt};
use crate::store::error::{Error, Result};
use crate::store::index::table::Place;
use crate::store::layout::{self, STORE_FILE};
use crate::store::marks::MAX_MARK_FILES;
use crate::store::packs::{LOOKUP_BATCH, Packs};
use crate::store::records::Kept;
use crate::store::repository::Repository;
use crate::store::scrub::ScrubState;
use crate::store::verify::hits::HitFinder;
use crate::store::verify::packs::{BadPack, Depth, Pass};
use crate::store::verify::reach::{Lack, Reach};
use crate::store::verify::small::Small;
use jiff::{SignedDuration, Timestamp};
use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;

/// Files that are hit and are named, of all snapshots of a repository together: some ten megabytes of names. Of each snapshot at least as many
/// as a mark holds.
const MAX_NAMED_FILES: usize = 100_000;
/// What is said of a pack that is missed.
pub(crate) const GONE: &str = "it was there, and is gone";

/// Of which packs all bytes are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Share {
    /// Of none: structure only.
    None,
    /// Of all.
    All,
    /// Of so many in a hundred, chosen anew each time.
    Percent(u8),
    /// Of those that were not read and found whole in this time.
    NotReadFor(SignedDuration),
}

/// What to look at.
#[derive(Clone, Copy, Debug)]
pub struct VerifyOptions {
    /// Of which packs all bytes are read.
    pub data: Share,
}

/// A file of the store that is not as it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DamagedFile {
    /// Where it lies in the store.
    pub path: String,
    /// What is wrong with it.
    pub problem: String,
    /// The first chunks that are lost with it.
    pub chunks: Vec<ChunkId>,
    /// How many more there are.
    pub more_chunks: u64,
    /// A repair mends it, or sets it aside.
    pub repairable: bool,
}

/// A snapshot that lacks something.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DamagedSnapshot {
    /// In which repository.
    pub repository: RepositoryId,
    /// Whose.
    pub alias: Alias,
    /// Which.
    pub snapshot: SnapshotId,
    /// Its set, as far as known.
    pub set: Option<SetName>,
    /// Its place in the chain.
    pub sequence: u64,
    /// When it came.
    pub received_at: Option<Timestamp>,
    /// The record itself is damaged or gone: nothing of the snapshot can be listed.
    pub record_lost: bool,
    /// It is the record of the newest of its set that is lost: its source brings that again.
    pub newest: bool,
    /// The list of its entries is hit: files beyond those that are named may be lost.
    pub manifest_hit: bool,
    /// Chunks that it needs and that are lost.
    pub lost_chunks: u64,
    /// The first files that need them.
    pub files: Vec<String>,
    /// How many more there are.
    pub more_files: u64,
    /// Some of the chunks.
    pub(crate) witnesses: Vec<ChunkId>,
}

/// What was found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Findings {
    /// Files of the store that are damaged, gone or not what they should be.
    pub files: Vec<DamagedFile>,
    /// Snapshots that lack something.
    pub snapshots: Vec<DamagedSnapshot>,
    /// What costs nothing, in sentences.
    pub notes: Vec<String>,
    /// Whether content was to be read.
    pub data: bool,
    /// Snapshots that were looked at.
    pub checked_snapshots: u64,
    /// Packs that were looked at.
    pub checked_packs: u64,
    /// Packs of which every byte was read.
    pub read_packs: u64,
    /// Bytes of all packs.
    pub stored_bytes: u64,
    /// Bytes of those that were read.
    pub read_bytes: u64,
}

impl Findings {
    /// Nothing is lost, damaged or in doubt.
    pub fn is_clean(&self) -> bool {
        self.files.is_empty() && self.snapshots.is_empty()
    }
}

/// Looks at a whole store.
///
/// # Errors
/// What kept it from looking; what it found is no error.
pub fn verify(store: &Store, options: VerifyOptions, monitor: &dyn Monitor, shutdown: &Shutdown) -> Result<Findings> {
    monitor.phase(Phase::Verify);
    let mut findings = Findings { data: options.data != Share::None, ..Findings::default() };
    if let Err(error) = store.check_file() {
        findings.files.push(DamagedFile::small(STORE_FILE.to_owned(), problem_of(&error)));
    }
    for unusable in store.unusable().into_values() {
        findings.files.push(DamagedFile::small(unusable.path.clone(), unusable.told()));
    }
    for repository in store.repositories() {
        let looked = look(&repository, options, &BTreeSet::new(), monitor, shutdown)?;
        looked.tell(&repository, &mut findings);
        // What was found is known from now on, to `status` and to whoever lists what is here.
        if let Err(error) = repository.mark_losses(&looked) {
            tracing::warn!(error = &error as &dyn std::error::Error, "snapshots that lack something cannot be marked");
        }
    }
    Ok(findings)
}

fn problem_of(error: &Error) -> String {
    match error {
        Error::Damaged { problem, .. } => problem.clone(),
        other => other.to_string(),
    }
}

/// What looking at one repository has shown.
#[derive(Debug, Default)]
pub(crate) struct Looked {
    pub(crate) small: Small,
    pub(crate) pass: Pass,
    /// Packs that were here once, are nowhere any more, and are missed.
    pub(crate) vanished: Vec<Doubt>,
    pub(crate) packs: u64,
    pub(crate) rebuilt_index: bool,
    pub(crate) hurt: Vec<Hurt>,
    /// Snapshots whose lists cannot be read at the moment: what they lack is not known.
    pub(crate) unread: Vec<Arc<Kept>>,
}

/// A snapshot that lacks something.
#[derive(Debug)]
pub(crate) struct Hurt {
    pub(crate) kept: Arc<Kept>,
    pub(crate) lack: Lack,
    pub(crate) hits: hits::Hits,
}

/// Looks at one repository; of the packs in `whole` every byte is read, too.
pub(crate) fn look(
    repository: &Repository,
    options: VerifyOptions,
    whole: &BTreeSet<PackId>,
    monitor: &dyn Monitor,
    shutdown: &Shutdown,
) -> Result<Looked> {
    let packs = &*repository.packs;
    // What this process has taken and not kept yet is no damage.
    packs.pending.drain();
    let mut small = small::look(repository)?;
    // What is asked for below is asked of the index: it must not name what is not there any more.
    reconcile(repository)?;
    let mut doubts = doubts::load(&*packs.shelf)?;
    let ids: Vec<PackId> = packs.shelf.list(&layout::packs())?.iter().filter_map(layout::pack_id).collect();
    let mut state = ScrubState::load(&*packs.shelf)?;
    let now = packs.clock.now();
    let work: Vec<(PackId, Depth)> = ids.iter().map(|id| (*id, depth(*id, options.data, &state, now))).collect();
    let work: Vec<_> = work
        .into_iter()
        .map(|(id, depth)| (id, if whole.contains(&id) || doubts.contains_key(&id) { Depth::Data } else { depth }))
        .collect();
    expect(packs, &work, monitor);
    let mut pass = packs::pass(packs, &work, monitor, shutdown)?;
    let rebuilt_index = packs.index.compare(&pass.summaries)?;
    let mut gone = lost(packs, &pass.bad)?;
    let mut looked: BTreeSet<PackId> = pass.bad.iter().map(|bad| bad.id).chain(pass.whole.iter().copied()).collect();
    let kept: Vec<_> = small.good.iter().filter(|k| !small.forgotten.contains(&k.info.id)).cloned().collect();
    let (lacks, unread) = loop {
        let (lacks, suspects, unread) = lacks(packs, &kept, &gone, monitor, shutdown)?;
        // A pack that could not give a list is read whole, and then the lists are looked at once more.
        let new: Vec<_> = suspects.difference(&looked).map(|id| (*id, Depth::Data)).collect();
        if new.is_empty() {
            break (lacks, unread);
        }
        let more = packs::pass(packs, &new, monitor, shutdown)?;
        looked.extend(new.iter().map(|(id, _)| *id));
        pass.bad.extend(more.bad);
        pass.unread.extend(more.unread);
        gone = lost(packs, &pass.bad)?;
    };
    // What was forgotten meanwhile may be lacking with good reason.
    let marks = if lacks.is_empty() { HashMap::new() } else { repository.forgotten.all()? };
    let lacks: Lacks = lacks.into_iter().filter(|(kept, _)| !marks.contains_key(&kept.info.id)).collect();
    let all: HashSet<ChunkId> = lacks.iter().flat_map(|(_, lack)| lack.chunks.iter().copied()).collect();
    let data = options.data != Share::None;
    small.notes.extend(trash::look(packs, if data { Depth::Data } else { Depth::Trailer }, &all, shutdown)?);
    small.notes.extend(fading(repository, &small, &gone, shutdown)?);
    let mut finder = HitFinder::new(packs, &all);
    let (mut hurt, mut room) = (Vec::new(), MAX_NAMED_FILES);
    for (kept, lack) in lacks {
        if shutdown.is_stopped() {
            return Err(Error::Stopped);
        }
        let hits = finder.find(&kept.record.manifest, room.max(MAX_MARK_FILES))?;
        room = room.saturating_sub(hits.files.len());
        hurt.push(Hurt { kept, lack, hits });
    }
    // What became of the doubts: this is known now, or must not be forgotten.
    let shelf = &*packs.shelf;
    let (there, elsewhere): (BTreeSet<PackId>, _) = (ids.iter().copied().collect(), doubts::elsewhere(shelf)?);
    let is_over = |doubt: &Doubt| {
        if there.contains(&doubt.pack) {
            pass.whole.contains(&doubt.pack)
        } else {
            // Nothing that is kept needs it: a row that was written while its pack went to the trash is no loss.
            elsewhere.contains(&doubt.pack) || !doubt.explains(&all)
        }
    };
    for (pack, _) in doubts.extract_if(.., |_, doubt| is_over(doubt)) {
        doubts::settle(shelf, &pack);
    }
    let vanished = doubts.into_values().filter(|doubt| !there.contains(&doubt.pack)).collect();
    pass.whole.iter().for_each(|id| state.passed(*id, now));
    for bad in &pass.bad {
        state.doubt(&bad.id);
        doubts::raise(shelf, bad.id);
    }
    if !pass.whole.is_empty() || !pass.bad.is_empty() {
        state.keep_only(&there);
        // What was found is told even when it cannot be written down.
        if let Err(error) = state.save(shelf) {
            tracing::warn!(error = &error as &dyn std::error::Error, "what was read is not written down");
        }
    }
    Ok(Looked { small, pass, vanished, packs: ids.len() as u64, rebuilt_index, hurt, unread })
}

/// Makes the index agree with what is there.
fn reconcile(repository: &Repository) -> Result<()> {
    // Neither a prune nor a commit goes on meanwhile: the index would be told of a pack that goes at that moment, and ask for it later.
    let _prune = Lock::shared(&repository.lock("prune"))?;
    repository.packs.index.reconcile().map(|_| ())
}

/// Forgotten snapshots that could be brought back and lack something: no loss, and somebody may count on them.
fn fading(repository: &Repository, small: &Small, gone: &HashSet<ChunkId>, shutdown: &Shutdown) -> Result<Vec<String>> {
    let packs = &*repository.packs;
    let (marks, now) = (repository.forgotten.all()?, packs.clock.now());
    let waits = |id: &SnapshotId| marks.get(id).is_some_and(|mark| mark.until > now && !mark.is_not_copied());
    let waiting: Vec<_> = small.good.iter().filter(|kept| waits(&kept.info.id)).cloned().collect();
    let (lacks, ..) = lacks(packs, &waiting, gone, &Silent, shutdown)?;
    let still = if lacks.is_empty() { HashMap::new() } else { repository.forgotten.all()? };
    let now = packs.clock.now();
    let lacks = lacks.iter().filter(|(kept, _)| still.get(&kept.info.id).is_some_and(|mark| mark.until > now));
    Ok(lacks
        .map(|(kept, lack)| {
            let (id, set, pieces) = (kept.info.id.short(), &kept.record.set, lack.chunks.len());
            format!("snapshot {id} of set `{set}`, which is forgotten, has lost {pieces} pieces: `undelete` cannot bring it back whole")
        })
        .collect())
}

fn depth(id: PackId, share: Share, state: &ScrubState, now: Timestamp) -> Depth {
    let read = match share {
        Share::None => false,
        Share::All => true,
        Share::Percent(percent) => random::number() % 100 < u32::from(percent),
        Share::NotReadFor(time) => !state.is_fresh(&id, now, time),
    };
    if read { Depth::Data } else { Depth::Trailer }
}

/// Tells how much will be read: what the index says of the packs' sizes is near enough.
fn expect(packs: &Packs, work: &[(PackId, Depth)], monitor: &dyn Monitor) {
    let read = work.iter().filter(|(_, depth)| *depth == Depth::Data).count() as u64;
    if let (Ok(bytes), true) = (packs.index.stored_bytes(), read > 0) {
        monitor.total(Counter::Bytes, bytes / (work.len() as u64).max(1) * read);
    }
    monitor.total(Counter::Files, work.len() as u64);
}

/// Chunks that damaged packs have lost and that no whole one has.
fn lost(packs: &Packs, bad: &[BadPack]) -> Result<HashSet<ChunkId>> {
    let mut gone = HashSet::new();
    for pack in bad {
        let ids: Vec<ChunkId> = pack.lost.iter().copied().collect();
        for ids in ids.chunks(LOOKUP_BATCH) {
            for (id, places) in ids.iter().zip(packs.index.copies(ids)?) {
                let has_it = |place: &Place| !bad.iter().any(|bad| bad.id == place.pack && bad.lost.contains(id));
                if !places.iter().any(has_it) {
                    gone.insert(*id);
                }
            }
        }
    }
    Ok(gone)
}

type Lacks = Vec<(Arc<Kept>, Lack)>;

fn lacks(
    packs: &Packs,
    snapshots: &[Arc<Kept>],
    gone: &HashSet<ChunkId>,
    monitor: &dyn Monitor,
    shutdown: &Shutdown,
) -> Result<(Lacks, BTreeSet<PackId>, Vec<Arc<Kept>>)> {
    let mut reach = Reach::new(packs, gone);
    let (mut lacks, mut unread) = (Vec::new(), Vec::new());
    for kept in snapshots {
        if shutdown.is_stopped() {
            return Err(Error::Stopped);
        }
        let lack = reach.look(&kept.record)?;
        monitor.count(Counter::Entries, 1);
        if lack.unread {
            unread.push(Arc::clone(kept));
        }
        if !lack.is_empty() {
            lacks.push((Arc::clone(kept), lack));
        }
    }
    Ok((lacks, reach.suspects, unread))
}
