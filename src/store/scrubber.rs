//! Carries out the scrub, one small step at a time, for whoever has the patience: `serve`.
//!
//! A step reads one pack, or looks at everything but content. What is damaged is set aside at once, since only what is missing is
//! asked for again, and a source loses its files, too, with time. The rule of what comes next is [`scrub`](crate::store::scrub)'s.

use crate::model::{Alias, Mark, PackId, RepositoryId, SetName, SnapshotId};
use crate::monitor::Silent;
use crate::platform;
use crate::platform::shutdown::Shutdown;
use crate::store::Store;
use crate::store::doubts;
use crate::store::error::{Error, Result};
use crate::store::layout::{self, REPOSITORIES};
use crate::store::losses::Losses;
use crate::store::pack_look;
use crate::store::prune::brake::Freeze;
use crate::store::prune::freezes::Look;
use crate::store::repository::Repository;
use crate::store::scrub::{LOOK_PERIOD, Next, ScrubState};
use crate::store::set_aside::Fate;
use crate::store::verify::{self, DamagedSnapshot, GONE, Share, VerifyOptions};
use jiff::{SignedDuration, Timestamp};
use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;

/// A pack that could not be read, or not be set aside, is looked at again after this: the disk may be full, or away.
const RETRY: SignedDuration = SignedDuration::from_hours(1);
/// What was read is written down after so many packs, and whenever there is nothing to do.
const PACKS_PER_SAVE: u32 = 32;

/// What a step has found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum News {
    /// A damaged file.
    File {
        /// Where it lay in the store.
        path: String,
        /// What was wrong.
        problem: String,
        /// What became of it.
        fate: Fate,
    },
    /// A snapshot lacks something.
    Damaged(Box<DamagedSnapshot>),
    /// Nothing of a set is forgotten any more, until a person has looked.
    Frozen {
        /// Whose.
        alias: Alias,
        /// Which set.
        set: SetName,
        /// Why.
        freeze: Box<Freeze>,
    },
    /// A snapshot is whole again.
    Healed {
        /// Whose.
        alias: Alias,
        /// Which.
        mark: Box<Mark>,
    },
}

/// What a step has done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Step {
    /// Bytes that were read; whoever limits the rate waits for so many.
    pub read: u64,
    /// What was found.
    pub news: Vec<News>,
    /// Nothing has to be done before then; `None` when there is more to do.
    pub rest_until: Option<Timestamp>,
}

/// Scrubs one store.
#[derive(Debug)]
pub struct Scrubber {
    store: Store,
    states: HashMap<RepositoryId, ScrubState>,
    unsaved: u32,
    /// Packs that could not be read or set aside, and when they are looked at again. Those that are damaged were told.
    later: HashMap<(RepositoryId, PackId), Later>,
    /// What was found by a step that could not go on, and was not told yet.
    kept: Vec<News>,
    /// What was told of the brake before.
    told: HashSet<(RepositoryId, SetName, SnapshotId, &'static str)>,
}

/// When, and what is known.
#[derive(Clone, Copy, Debug)]
struct Later {
    at: Timestamp,
    damaged: bool,
}

impl Scrubber {
    /// Begins where the last one ended.
    pub fn new(store: Store) -> Self {
        Self {
            store,
            states: HashMap::new(),
            unsaved: 0,
            later: HashMap::new(),
            kept: Vec::new(),
            told: HashSet::new(),
        }
    }

    /// What could not be told goes out with the next step that succeeds.
    pub fn keep(&mut self, news: Vec<News>) {
        self.kept.extend(news);
    }

    /// Does what is due at `now`. Blocking; reads one pack at the most.
    ///
    /// # Errors
    /// What kept it from looking; it may be tried again later. [`Error::Stopped`] at the shutdown.
    pub fn step(&mut self, now: Timestamp, shutdown: &Shutdown) -> Result<Step> {
        let mut step = Step { news: std::mem::take(&mut self.kept), ..Step::default() };
        match self.go_on(now, &mut step, shutdown) {
            Ok(()) => Ok(step),
            Err(error) => {
                // It is not found a second time, or not said again.
                self.kept = step.news;
                Err(error)
            }
        }
    }

    /// A step that reads nothing, where nothing is to be read.
    pub fn rest(&mut self) -> Step {
        Step { news: std::mem::take(&mut self.kept), rest_until: Some(Timestamp::MAX), ..Step::default() }
    }

    fn go_on(&mut self, now: Timestamp, step: &mut Step, shutdown: &Shutdown) -> Result<()> {
        let repositories = self.store.repositories();
        for repository in &repositories {
            let state = match self.states.remove(&repository.id()) {
                Some(state) => state,
                None => ScrubState::load(&*repository.packs.shelf)?,
            };
            let due = state.looked_at.is_none_or(|at| at > now || now.duration_since(at) >= LOOK_PERIOD);
            self.states.insert(repository.id(), state);
            let (mut doubted, worried) = repository.take_doubts()?;
            doubted.retain(|pack| self.later.get(&(repository.id(), *pack)).is_none_or(|later| later.at <= now));
            for pack in &doubted {
                match repository.packs.shelf.open(&layout::pack(pack)) {
                    Err(error) if !error.is_not_found() && !error.is_bad_medium() => {
                        self.cannot_be_read(repository.id(), *pack, &error, now);
                    }
                    _ => self.set_aside(repository, *pack, "it could not give what it should", now, &mut step.news),
                }
            }
            if due || worried || !doubted.is_empty() {
                let looked = self.look(repository, now, step, shutdown);
                if looked.is_err() {
                    // What was met is looked into when it can be.
                    repository.worry();
                }
                return looked;
            }
        }
        let mut rest = now.saturating_add(LOOK_PERIOD).unwrap_or(Timestamp::MAX);
        let mut oldest: Option<(Option<Timestamp>, Arc<Repository>, PackId)> = None;
        for repository in repositories {
            let Some(state) = self.states.get_mut(&repository.id()) else { continue };
            let names = repository.packs.shelf.list(&layout::packs())?;
            let packs: BTreeSet<PackId> = names.iter().filter_map(layout::pack_id).collect();
            let id = repository.id();
            self.later.retain(|(of, pack), later| *of != id || packs.contains(pack) || later.at > now);
            let waits = |pack: &PackId| self.later.get(&(id, *pack)).map(|later| later.at).filter(|at| *at > now);
            rest = packs.iter().filter_map(waits).fold(rest, Timestamp::min);
            match state.next(packs.iter().filter(|pack| waits(pack).is_none()), now) {
                Some(Next::Pack(pack)) => {
                    let last = state.last(&pack).filter(|at| *at <= now);
                    if oldest.as_ref().is_none_or(|(oldest, ..)| last < *oldest) {
                        oldest = Some((last, repository, pack));
                    }
                }
                Some(Next::At(at)) => rest = rest.min(at),
                None => {}
            }
            state.keep_only(&packs);
        }
        if let Some((_, repository, pack)) = oldest {
            self.read(&repository, pack, now, step, shutdown)?;
        } else {
            step.rest_until = Some(rest);
            self.save_or_say();
        }
        Ok(())
    }

    /// Looks whether the brake has stopped anything that was not told yet. Costs nothing while no snapshot came.
    ///
    /// # Errors
    /// The disk's.
    pub fn look_at_brake(&mut self, shutdown: &Shutdown) -> Result<Vec<News>> {
        for repository in self.store.repositories() {
            for (set, freezes) in repository.freezes(Look::Keep, &|| shutdown.is_stopped())? {
                for freeze in freezes {
                    if self.told.insert((repository.id(), set.clone(), freeze.snapshot(), freeze.kind())) {
                        self.kept.push(News::Frozen {
                            alias: repository.alias(),
                            set: set.clone(),
                            freeze: Box::new(freeze),
                        });
                    }
                }
            }
        }
        Ok(std::mem::take(&mut self.kept))
    }

    /// Writes down what was read.
    ///
    /// # Errors
    /// The disk's.
    pub fn save(&mut self) -> Result<()> {
        if std::mem::take(&mut self.unsaved) > 0 {
            for (id, state) in &self.states {
                if let Some(repository) = self.store.repository(id) {
                    state.save(&*repository.packs.shelf)?;
                }
            }
        }
        Ok(())
    }

    fn read(
        &mut self,
        repository: &Arc<Repository>,
        pack: PackId,
        now: Timestamp,
        step: &mut Step,
        shutdown: &Shutdown,
    ) -> Result<()> {
        let object = match repository.packs.shelf.open(&layout::pack(&pack)) {
            // Pruned or set aside meanwhile.
            Err(error) if error.is_not_found() => return Ok(()),
            Err(error) if error.is_bad_medium() => {
                self.set_aside(
                    repository,
                    pack,
                    &format!("the disk cannot read it ({})", error.source),
                    now,
                    &mut step.news,
                );
                return self.look(repository, now, step, shutdown);
            }
            Err(error) => {
                self.cannot_be_read(repository.id(), pack, &error, now);
                return Ok(());
            }
            Ok(object) => object,
        };
        let mut read = |bytes| {
            step.read += bytes;
            if shutdown.is_stopped() { Err(Error::Stopped) } else { Ok(()) }
        };
        let look = match pack_look::whole(pack, &*object, &mut read, &mut |_| Ok(())) {
            // That is no damage, and no reason to read no other.
            Err(Error::Platform(error)) => {
                self.cannot_be_read(repository.id(), pack, &error, now);
                return Ok(());
            }
            other => other?,
        };
        if !look.is_whole() {
            self.set_aside(repository, pack, &look.problems.join("; "), now, &mut step.news);
            return self.look(repository, now, step, shutdown);
        }
        self.later.remove(&(repository.id(), pack));
        if let Some(state) = self.states.get_mut(&repository.id()) {
            state.passed(pack, now);
        }
        self.unsaved += 1;
        if self.unsaved >= PACKS_PER_SAVE {
            self.save_or_say();
        }
        Ok(())
    }

    fn cannot_be_read(&mut self, repository: RepositoryId, pack: PackId, error: &platform::Error, now: Timestamp) {
        tracing::error!(%pack, error = error as &dyn std::error::Error, "a pack cannot be read at the moment");
        self.look_later(repository, pack, now, false);
    }

    /// What was found is told even when it cannot be written down that it was looked for.
    fn save_or_say(&mut self) {
        if let Err(error) = self.save() {
            self.unsaved = 1;
            tracing::warn!(error = &error as &dyn std::error::Error, "what the scrub has read is not written down");
        }
    }

    fn look_later(&mut self, repository: RepositoryId, pack: PackId, now: Timestamp, damaged: bool) {
        if let Some(state) = self.states.get_mut(&repository) {
            state.doubt(&pack);
        }
        let at = now.saturating_add(RETRY).unwrap_or(Timestamp::MAX);
        self.later.insert((repository, pack), Later { at, damaged });
    }

    /// Sets a damaged pack aside. Where that fails, most likely because there is no room for what is good of it, it is told once and tried
    /// again later, and the rest goes on.
    fn set_aside(
        &mut self,
        repository: &Repository,
        pack: PackId,
        problem: &str,
        now: Timestamp,
        news: &mut Vec<News>,
    ) {
        let key = (repository.id(), pack);
        let fate = match repository.set_pack_aside(pack) {
            Ok(fate) => {
                self.later.remove(&key);
                fate
            }
            Err(error) => {
                tracing::error!(%pack, error = &error as &dyn std::error::Error, "a damaged pack cannot be set aside yet");
                let was_told = self.later.get(&key).is_some_and(|later| later.damaged);
                self.look_later(key.0, pack, now, true);
                doubts::raise(&*repository.packs.shelf, pack);
                if was_told {
                    return;
                }
                Fate::Left { why: error.to_string() }
            }
        };
        // Whether one that is gone is missed, the look tells.
        if !matches!(fate, Fate::Whole | Fate::Gone) {
            let path = format!("{REPOSITORIES}/{}/{}", repository.id(), layout::pack(&pack));
            news.push(News::File { path, problem: problem.to_owned(), fate });
        }
    }

    /// Looks at everything but content, sets aside what is damaged, and marks what that has hit.
    fn look(&mut self, repository: &Repository, now: Timestamp, step: &mut Step, shutdown: &Shutdown) -> Result<()> {
        let options = VerifyOptions { data: Share::None };
        // What is known to be damaged and lies where it lay is read again, so that it is known what it has hit.
        let left = |scrubber: &Self| -> BTreeSet<PackId> {
            let left = scrubber.later.iter().filter(|((of, _), later)| *of == repository.id() && later.damaged);
            left.map(|((_, pack), _)| *pack).collect()
        };
        let path = |name: &layout::ObjectName| format!("{REPOSITORIES}/{}/{name}", repository.id());
        let known_doubts: BTreeSet<PackId> = doubts::load(&*repository.packs.shelf)?.into_keys().collect();
        let mut looked = verify::look(repository, options, &left(self), &Silent, shutdown)?;
        let before = step.news.len();
        for bad in &looked.pass.bad {
            self.set_aside(repository, bad.id, &bad.problems.join("; "), now, &mut step.news);
        }
        for (name, error) in looked.small.bad.iter().filter(|(_, error)| error.is_damage()) {
            let fate = repository.set_record_aside(name).unwrap_or_else(|error| Fate::Left { why: error.to_string() });
            step.news.push(News::File { path: path(name), problem: error.to_string(), fate });
        }
        let mut vanished = std::mem::take(&mut looked.vanished);
        if step.news.len() > before {
            looked = verify::look(repository, options, &left(self), &Silent, shutdown)?;
            vanished.append(&mut looked.vanished);
        }
        vanished.sort_by_key(|doubt| doubt.pack);
        vanished.dedup_by_key(|doubt| doubt.pack);
        // What was told before, or marked by somebody else, is not told each day.
        vanished.retain(|doubt| !doubt.marked);
        step.news.extend(vanished.iter().map(|doubt| News::File {
            path: path(&layout::pack(&doubt.pack)),
            problem: GONE.to_owned(),
            fate: Fate::Gone,
        }));
        looked.vanished = vanished;
        let known: BTreeSet<_> = repository.health()?.damaged.iter().map(|mark| mark.snapshot).collect();
        let losses = repository.mark_losses(&looked).unwrap_or_else(|error| {
            tracing::error!(error = &error as &dyn std::error::Error, "snapshots that lack something cannot be marked");
            Losses { damaged: looked.damaged_snapshots(repository), healed: Vec::new() }
        });
        // What was told before is not told each day.
        let new = losses.damaged.into_iter().filter(|hit| !known.contains(&hit.snapshot));
        step.news.extend(new.map(|hit| News::Damaged(Box::new(hit))));
        let alias = repository.alias();
        step.news
            .extend(losses.healed.into_iter().map(|mark| News::Healed { alias: alias.clone(), mark: Box::new(mark) }));
        // What is in doubt still could not be looked into, or not be written down.
        for pack in repository.take_doubts()?.0.intersection(&known_doubts) {
            let pack = *pack;
            let damaged = self.later.get(&(repository.id(), pack)).is_some_and(|later| later.damaged);
            self.look_later(repository.id(), pack, now, damaged);
        }
        if let Some(state) = self.states.get_mut(&repository.id()) {
            state.looked_at = Some(now);
        }
        self.unsaved += 1;
        self.save_or_say();
        Ok(())
    }
}
