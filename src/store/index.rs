//! The index: which chunk lies in which pack. A cache, rebuilt from the packs' trailers whenever it is doubted.
//!
//! The rules: it names durable packs only; deleting it or flipping any bit in it costs time and nothing else. So every
//! question goes through [`Index::ask`], which builds the index anew when the answer shows damage, and an answer "not there"
//! that matters is given only after [`Index::doubt`] has looked at everything.
//!
//! Several processes share one file (WAL). One that builds it anew makes another beside it and puts that in its place when it is complete; the
//! others notice by the file's identity and open that.
//!
//! | file | what |
//! |---|---|
//! | `table` | the tables, and the suspicion with which they are read |
//! | `build` | building it anew |

pub(crate) mod build;
pub(crate) mod table;

use crate::model::{ChunkId, PackId};
use crate::platform::fs;
use crate::platform::lock::Lock;
use crate::store::doubts::{self, Doubt};
use crate::store::error::{Error, Result};
use crate::store::index::build::failed;
use crate::store::index::table::{ChunkRow, PackRow, PackRows, Place, Summary, Trouble};
use crate::store::layout::{self, INDEX_FILE, LOCKS};
use crate::store::pack::Trailer;
use crate::store::shelf::Shelf;
use rusqlite::Connection;
use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// A full look at the index is not repeated sooner: otherwise whoever asks for chunks that do not exist would buy one with
/// each question.
const DOUBT_PAUSE: Duration = Duration::from_mins(10);
/// Packs added in one transaction while the index is built.
const PACKS_PER_TRANSACTION: usize = 256;
/// Rows of one page of a look at all chunks: some milliseconds during which others wait.
const PAGE: usize = 8192;
/// Packs that are found to be gone at once and are written down one by one. So many, and a look is sure to follow, and to find the rest missing.
const MAX_NEW_DOUBTS: usize = 256;

/// A pack that is durable, with what the index has to know of it.
#[derive(Clone, Debug)]
pub(crate) struct IndexedPack {
    pub(crate) id: PackId,
    pub(crate) bytes: u64,
    /// Offset and length of the block that holds each chunk.
    pub(crate) chunks: HashMap<ChunkId, (u64, u64)>,
}

impl IndexedPack {
    /// What a trailer says, for the index.
    pub(crate) fn of(id: PackId, bytes: u64, trailer: &Trailer) -> Self {
        let mut chunks = HashMap::new();
        for block in &trailer.blocks {
            for chunk in &block.header.chunks {
                chunks.entry(chunk.id).or_insert((block.offset, block.length()));
            }
        }
        Self { id, bytes, chunks }
    }

    /// The same in two numbers, to be compared with the rows of the index.
    pub(crate) fn summary(&self) -> Summary {
        let mut summary = Summary::default();
        for (chunk, (offset, length)) in &self.chunks {
            summary.add(chunk, *offset, *length);
        }
        summary
    }
}

/// What [`Index::reconcile`] found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Reconciled {
    /// Packs that the index did not know.
    pub(crate) added: u64,
    /// Packs that the index knew and that are not there any more.
    pub(crate) vanished: Vec<PackId>,
    /// Packs whose trailer cannot be read, and why.
    pub(crate) unreadable: Vec<(PackId, String)>,
    /// The index was damaged or absent and was built anew.
    pub(crate) rebuilt: bool,
}

/// The index of one repository.
#[derive(Debug)]
pub(crate) struct Index {
    path: PathBuf,
    lock: PathBuf,
    shelf: Arc<dyn Shelf>,
    state: Mutex<State>,
    /// So many pages fit on a disk beside the old index.
    #[cfg(test)]
    draft_pages: u32,
}

#[derive(Debug, Default)]
pub(crate) struct State {
    open: Option<Open>,
    checked: Option<Instant>,
}

#[derive(Debug)]
pub(crate) struct Open {
    connection: Connection,
    identity: Option<(u64, u64)>,
    version: i64,
    packs: PackRows,
}

impl Index {
    /// The index in `folder` of the packs on `shelf`, in agreement with them.
    pub(crate) fn open(folder: &Path, shelf: Arc<dyn Shelf>) -> Result<(Self, Reconciled)> {
        let lock = folder.join(LOCKS).join("index");
        let index = Self {
            path: folder.join(INDEX_FILE),
            lock,
            shelf,
            state: Mutex::default(),
            #[cfg(test)]
            draft_pages: u32::MAX - 1,
        };
        let absent = fs::metadata_if_there(&index.path)?.is_none();
        let mut built = 0;
        if absent && !index.listed()?.is_empty() {
            // Others that are running must not see it grow.
            let mut state = index.state();
            index.rebuild(&mut state)?;
            built = state.open.as_ref().map_or(0, |open| open.packs.len() as u64);
        }
        let mut reconciled = index.reconcile()?;
        reconciled.added += built;
        reconciled.rebuilt |= absent && reconciled.added > 0;
        Ok((index, reconciled))
    }

    /// Where each of `ids` lies; `None` for those that no durable pack is known to hold.
    pub(crate) fn find(&self, ids: &[ChunkId]) -> Result<Vec<Option<Place>>> {
        self.find_except(ids, &HashSet::new())
    }

    /// The same, in any pack but these.
    pub(crate) fn find_except(&self, ids: &[ChunkId], except: &HashSet<PackId>) -> Result<Vec<Option<Place>>> {
        self.ask(|open| table::find(&mut open.connection, &mut open.packs, ids, except)).map(|(places, _)| places)
    }

    /// The next rows after a key, for a look at all chunks in which others are let in between pages.
    pub(crate) fn page(&self, after: Option<(ChunkId, i64)>) -> Result<Vec<ChunkRow>> {
        self.ask(|open| table::page(&mut open.connection, &mut open.packs, after, PAGE)).map(|(page, _)| page)
    }

    /// All packs.
    pub(crate) fn packs(&self) -> Result<Vec<PackRow>> {
        self.ask(|open| Ok(open.packs.values().copied().collect())).map(|(packs, _)| packs)
    }

    /// Forgets packs that are about to go, each with its chunks; fine when one is not known.
    pub(crate) fn take_out(&self, packs: &[(PackId, Vec<ChunkId>)]) -> Result<()> {
        self.ask(|open| take_out(open, packs)).map(|_| ())
    }

    /// All places where each of `ids` lies.
    pub(crate) fn copies(&self, ids: &[ChunkId]) -> Result<Vec<Vec<Place>>> {
        self.ask(|open| table::copies(&mut open.connection, &mut open.packs, ids)).map(|(places, _)| places)
    }

    /// What the index says a pack holds; empty when it does not know the pack. Reads the whole index: for packs whose trailer
    /// is gone, which are few.
    pub(crate) fn chunks_of(&self, pack: PackId) -> Result<Vec<ChunkId>> {
        self.ask(|open| table::chunks_of(&open.connection, &open.packs, pack)).map(|(ids, _)| ids)
    }

    /// Reads and checks the whole index, and compares what it says of each pack with what the packs say. Whatever does not fit,
    /// it is built anew. Returns whether it was. `packs` are all that can be read.
    pub(crate) fn compare(&self, packs: &HashMap<PackId, Summary>) -> Result<bool> {
        let (found, rebuilt) = self.ask(|open| table::check(&mut open.connection))?;
        // A pack that came or went meanwhile is not a difference.
        let differs = |(id, summary): (&PackId, &Summary)| packs.get(id).is_some_and(|pack| pack != summary);
        if !rebuilt && found.iter().any(differs) {
            tracing::warn!(path = %self.path.display(), "the index says other things than the packs and is built anew");
            let mut state = self.state();
            self.rebuild(&mut state)?;
            return Ok(true);
        }
        Ok(rebuilt)
    }

    /// Drops packs that were moved away.
    pub(crate) fn remove(&self, ids: &[PackId]) -> Result<()> {
        let (known, _) = self.ask(|open| Ok(open.packs.clone()))?;
        let numbers: Vec<i64> = known.iter().filter(|(_, pack)| ids.contains(&pack.id)).map(|(n, _)| *n).collect();
        if numbers.is_empty() { Ok(()) } else { self.ask(|open| forget(open, &numbers, ids)).map(|_| ()) }
    }

    /// Makes another file from the packs.
    pub(crate) fn build_anew(&self) -> Result<()> {
        let mut state = self.state();
        self.rebuild(&mut state)
    }

    /// Adds packs, which must be durable.
    pub(crate) fn add(&self, packs: &[IndexedPack]) -> Result<()> {
        self.ask(|open| add(open, packs)).map(|_| ())
    }

    /// Bytes of all packs.
    pub(crate) fn stored_bytes(&self) -> Result<u64> {
        self.ask(|open| Ok(open.packs.values().map(|pack| pack.bytes).sum())).map(|(sum, _)| sum)
    }

    /// Looks at the whole index and at the list of packs because something that should be there is not. Returns whether
    /// asking again makes sense. Not more often than [`DOUBT_PAUSE`] says.
    pub(crate) fn doubt(&self, now: Instant) -> Result<bool> {
        if self.state().checked.is_some_and(|at| now.saturating_duration_since(at) < DOUBT_PAUSE) {
            return Ok(false);
        }
        let (_, rebuilt) = self.ask(|open| table::check(&mut open.connection))?;
        let reconciled = self.reconcile()?;
        self.state().checked = Some(now);
        if rebuilt || reconciled != Reconciled::default() {
            tracing::warn!(?reconciled, rebuilt, "the index did not agree with the packs");
        }
        Ok(rebuilt || reconciled.rebuilt || reconciled.added > 0)
    }

    /// Makes the index agree with the list of packs: forgets those that are gone, adds those it does not know.
    pub(crate) fn reconcile(&self) -> Result<Reconciled> {
        // The rows first, the list after: a pack is there before its row, so one that another process adds meanwhile is not
        // taken for one that is gone.
        let (known, rebuilt) = self.ask(|open| Ok(open.packs.clone()))?;
        let mut result = Reconciled { rebuilt, ..Reconciled::default() };
        let mut listed: HashSet<PackId> = self.listed()?.into_iter().collect();
        let gone: Vec<i64> = known.iter().filter(|(_, pack)| !listed.contains(&pack.id)).map(|(n, _)| *n).collect();
        let mut ids: HashSet<PackId> = known.values().map(|pack| pack.id).collect();
        if !gone.is_empty() {
            let gone_ids: Vec<PackId> = gone.iter().map(|number| known[number].id).collect();
            // What prune throws away has not vanished: it takes out the row first, and once more when it empties the trash. Nor has what a backup
            // brings back from there, nor what was set aside. All of that may be on its way, so the places are looked at before and after the rows.
            let mut elsewhere = doubts::elsewhere(&*self.shelf)?;
            // Only the index knows what they held, and it forgets that now. Who asks for what is lost looks into it, whenever that is.
            let missed: Vec<PackId> = gone_ids.iter().copied().filter(|id| !elsewhere.contains(id)).collect();
            for id in missed.iter().take(MAX_NEW_DOUBTS) {
                doubts::try_save(&*self.shelf, &Doubt::held(*id, self.chunks_of(*id)?));
            }
            let (mut vanished, _) = self.ask(|open| {
                let there: HashSet<PackId> = open.packs.values().map(|pack| pack.id).collect();
                forget(open, &gone, &gone_ids)?;
                Ok(gone_ids.iter().copied().filter(|id| there.contains(id)).collect::<Vec<_>>())
            })?;
            for _ in 0..2 {
                elsewhere.extend(doubts::elsewhere(&*self.shelf)?);
                listed = self.listed()?.into_iter().collect();
                vanished.retain(|pack| !elsewhere.contains(pack) && !listed.contains(pack));
            }
            for id in missed.iter().filter(|id| elsewhere.contains(id) || listed.contains(id)) {
                doubts::settle(&*self.shelf, id);
            }
            for id in &vanished {
                tracing::warn!(pack = %id, "the index names a pack that is not here");
            }
            result.vanished = vanished;
            // What is back may have been forgotten here after it was added there.
            ids = self.ask(|open| Ok(open.packs.values().map(|pack| pack.id).collect()))?.0;
        }
        let mut new: Vec<PackId> = listed.difference(&ids).copied().collect();
        new.sort();
        self.shelf.confirm(&new.iter().map(layout::pack).collect::<Vec<_>>())?;
        for ids in new.chunks(PACKS_PER_TRANSACTION) {
            let mut bad = Vec::new();
            let packs = self.read_trailers(ids, &mut bad);
            result.unreadable.extend(bad.into_iter().map(|(id, error)| (id, error.to_string())));
            result.added += packs.len() as u64;
            self.add(&packs)?;
        }
        Ok(result)
    }

    fn read_trailers(&self, ids: &[PackId], bad: &mut Vec<(PackId, Error)>) -> Vec<IndexedPack> {
        let mut packs = Vec::with_capacity(ids.len());
        for id in ids {
            let object = match self.shelf.open(&layout::pack(id)) {
                Err(error) if error.is_not_found() => continue,
                // One bad pack, or one bad sector, does not hide the others.
                Err(error) => {
                    bad.push((*id, error.into()));
                    continue;
                }
                Ok(object) => object,
            };
            match Trailer::of(*id, &*object) {
                Ok((trailer, length)) => packs.push(IndexedPack::of(*id, length, &trailer)),
                Err(error) => bad.push((*id, error)),
            }
        }
        packs
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts a question to an open and current index; builds the index anew once when that shows damage. Also says whether
    /// it was.
    fn ask<T>(&self, mut question: impl FnMut(&mut Open) -> Result<T, Trouble>) -> Result<(T, bool)> {
        let mut state = self.state();
        let first = self.current(&mut state).and_then(&mut question);
        let reason = match first {
            Ok(answer) => return Ok((answer, false)),
            Err(fatal @ Trouble::Fatal(_)) => return Err(failed(fatal)),
            Err(Trouble::Corrupt(reason)) => reason,
        };
        tracing::warn!(path = %self.path.display(), reason, "the index is damaged and is built anew");
        self.rebuild(&mut state)?;
        match self.current(&mut state).and_then(&mut question) {
            Ok(answer) => Ok((answer, true)),
            Err(trouble) => Err(failed(trouble)),
        }
    }

    /// The open index, opened (again) and its list of packs read (again) when somebody else changed it.
    fn current<'a>(&self, state: &'a mut State) -> Result<&'a mut Open, Trouble> {
        let identity = fs::file_identity(&self.path).ok().flatten();
        if state.open.as_ref().is_none_or(|open| open.identity != identity) {
            if state.open.take().is_some() && identity.is_none() {
                return Err(Trouble::Corrupt("it was deleted".to_owned()));
            }
            let locked = Lock::exclusive(&self.lock).map_err(|error| Trouble::Corrupt(error.to_string()))?;
            let connection = table::open(&self.path)?;
            let identity = fs::file_identity(&self.path).ok().flatten();
            drop(locked);
            let version = table::data_version(&connection)?;
            let packs = table::packs(&connection)?;
            state.open = Some(Open { connection, identity, version, packs });
        }
        let Some(open) = &mut state.open else { return Err(Trouble::Corrupt("it is not open".to_owned())) };
        let version = table::data_version(&open.connection)?;
        if version != open.version {
            open.packs = table::packs(&open.connection)?;
            open.version = version;
        }
        Ok(open)
    }

    /// All packs on the shelf.
    fn listed(&self) -> Result<Vec<PackId>> {
        let mut ids: Vec<PackId> = self.shelf.list(&layout::packs())?.iter().filter_map(layout::pack_id).collect();
        ids.sort();
        Ok(ids)
    }
}

fn add(open: &mut Open, packs: &[IndexedPack]) -> Result<(), Trouble> {
    let transaction = table::write(&mut open.connection)?;
    let mut rows = Vec::with_capacity(packs.len());
    for pack in packs {
        rows.extend(table::add(&transaction, pack.id, pack.bytes, &pack.chunks)?);
    }
    transaction.commit()?;
    // Own changes do not show in the data version.
    open.packs.extend(rows);
    Ok(())
}

fn take_out(open: &mut Open, packs: &[(PackId, Vec<ChunkId>)]) -> Result<(), Trouble> {
    let numbers: HashMap<PackId, i64> = open.packs.iter().map(|(number, row)| (row.id, *number)).collect();
    let known: Vec<_> = packs.iter().filter_map(|(id, chunks)| Some((*numbers.get(id)?, id, chunks))).collect();
    if known.is_empty() {
        return Ok(());
    }
    let transaction = table::write(&mut open.connection)?;
    for (number, id, chunks) in &known {
        table::remove(&transaction, *number, id, chunks)?;
    }
    transaction.commit()?;
    open.packs.retain(|_, row| known.iter().all(|(_, id, _)| row.id != **id));
    Ok(())
}

fn forget(open: &mut Open, numbers: &[i64], ids: &[PackId]) -> Result<(), Trouble> {
    let transaction = table::write(&mut open.connection)?;
    for number in numbers {
        // The numbers are of a moment ago; after a rebuild they would mean other packs.
        if open.packs.get(number).is_some_and(|pack| ids.contains(&pack.id)) {
            table::drop_pack(&transaction, *number)?;
        }
    }
    transaction.commit()?;
    open.packs = table::packs(&open.connection)?;
    Ok(())
}
