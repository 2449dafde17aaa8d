//! Carries out the scrub, one small step at a time, for whoever has the patience: `serve`.
//!
//! A step reads one pack, or looks at everything but content. What is damaged is set aside at once, since only what is missing is
//! asked for again, and a source loses its files, too, with time. The rule of what comes next is [`scrub`](crate::store::scrub)'s.

use crate::model::{Alias, Mark, PackId, RepositoryId, SetName, SnapshotId};
use crate::monitor::Silent;
use crate::platform::shutdown::Shutdown;
use crate::store::Store;
use crate::store::error::{Error, Result};
use crate::store::layout::{self, REPOSITORIES};
use crate::store::losses::Losses;
use crate::store::pack_look;
use crate::store::prune::brake::Freeze;
use crate::store::prune::freezes::Look;
use crate::store::repository::Repository;
use crate::store::scrub::{LOOK_PERIOD, Next, ScrubState};
use crate::store::set_aside::Fate;
use crate::store::verify::{self, DamagedSnapshot, Share, VerifyOptions};
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
        Self { store, states: HashMap::new(), unsaved: 0, later: HashMap::new(), told: HashSet::new() }
    }

    /// Does what is due at `now`. Blocking; reads one pack at the most.
    ///
    /// # Errors
    /// What kept it from looking; it may be tried again later. [`Error::Stopped`] at the shutdown.
    pub fn step(&mut self, now: Timestamp, shutdown: &Shutdown) -> Result<Step> {
        let repositories = self.store.repositories();
        let mut step = Step::default();
        for repository in &repositories {
            let state = match self.states.remove(&repository.id()) {
                Some(state) => state,
                None => ScrubState::load(&*repository.packs.shelf)?,
            };
            let due = state.looked_at.is_none_or(|at| at > now || now.duration_since(at) >= LOOK_PERIOD);
            self.states.insert(repository.id(), state);
            let (doubted, worried) = repository.take_doubts();
            for pack in &doubted {
                self.set_aside(repository, *pack, "it could not give what it should", now, &mut step.news);
            }
            if due || worried || !doubted.is_empty() {
                self.look(repository, now, &mut step, shutdown)?;
                return Ok(step);
            }
        }
        let mut rest = now.saturating_add(LOOK_PERIOD).unwrap_or(Timestamp::MAX);
        let mut oldest: Option<(Option<Timestamp>, Arc<Repository>, PackId)> = None;
        for repository in repositories {
            let Some(state) = self.states.get_mut(&repository.id()) else { continue };
            let names = repository.packs.shelf.list(&layout::packs())?;
            let packs: BTreeSet<PackId> = names.iter().filter_map(layout::pack_id).collect();
            let id = repository.id();
            self.later.retain(|(of, pack), _| *of != id || packs.contains(pack));
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
            self.read(&repository, pack, now, &mut step, shutdown)?;
        } else {
            step.rest_until = Some(rest);
            self.save_or_say();
        }
        Ok(step)
    }

    /// Looks whether the brake has stopped anything that was not told yet. Costs nothing while no snapshot came.
    ///
    /// # Errors
    /// The disk's.
    pub fn look_at_brake(&mut self, shutdown: &Shutdown) -> Result<Vec<News>> {
        let mut news = Vec::new();
        for repository in self.store.repositories() {
            for (set, freezes) in repository.freezes(Look::Keep, &|| shutdown.is_stopped())? {
                for freeze in freezes {
                    if self.told.insert((repository.id(), set.clone(), freeze.snapshot(), freeze.kind())) {
                        news.push(News::Frozen {
                            alias: repository.alias(),
                            set: set.clone(),
                            freeze: Box::new(freeze),
                        });
                    }
                }
            }
        }
        Ok(news)
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
            other => other?,
        };
        let mut read = |bytes| {
            step.read += bytes;
            if shutdown.is_stopped() { Err(Error::Stopped) } else { Ok(()) }
        };
        let look = match pack_look::whole(pack, &*object, &mut read, &mut |_| Ok(())) {
            // That is no damage, and no reason to read no other.
            Err(Error::Platform(error)) => {
                tracing::error!(%pack, error = &error as &dyn std::error::Error, "a pack cannot be read at the moment");
                self.look_later(repository.id(), pack, now, false);
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
        let mut looked = verify::look(repository, options, &left(self), &Silent, shutdown)?;
        let before = step.news.len();
        for bad in &looked.pass.bad {
            self.set_aside(repository, bad.id, &bad.problems.join("; "), now, &mut step.news);
        }
        for (name, error) in looked.small.bad.iter().filter(|(_, error)| error.is_damage()) {
            let fate = repository.set_record_aside(name).unwrap_or_else(|error| Fate::Left { why: error.to_string() });
            step.news.push(News::File { path: path(name), problem: error.to_string(), fate });
        }
        let vanished = std::mem::take(&mut looked.vanished);
        if step.news.len() > before {
            looked = verify::look(repository, options, &left(self), &Silent, shutdown)?;
        }
        step.news.extend(vanished.iter().chain(&looked.vanished).map(|pack| News::File {
            path: path(&layout::pack(pack)),
            problem: "it was there, and is gone".to_owned(),
            fate: Fate::Gone,
        }));
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
        repository.take_doubts();
        if let Some(state) = self.states.get_mut(&repository.id()) {
            state.looked_at = Some(now);
        }
        self.unsaved += 1;
        self.save_or_say();
        Ok(())
    }
}
