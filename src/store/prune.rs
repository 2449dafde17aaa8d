//! Looking after space: forgetting what the keep rules do not want, and throwing away what nothing needs any more.
//!
//! 1. A snapshot that the rules do not want is *forgotten*: it gets a mark. Its record stays for ever, its data for the trash days,
//!    during which it can be brought back.
//! 2. After that nothing keeps its chunks alive. Packs in which nothing is alive go to the trash, packs with much dead weight are
//!    written anew, and a day later they are deleted.
//!
//! What a backup left that broke off, or was never finished, is thrown away in the same way when it is as old as that.
//!
//! | file | what |
//! |---|---|
//! | [`brake`], [`freezes`] | what looks like malware or a wrong clock stops forgetting |
//! | [`rewritten`], [`clock_watch`] | what the brake goes by: bytes that were rewritten, jumps of the clock |
//! | [`choice`] | which snapshots of each set stay, and why |
//! | `needed` | which chunks snapshots need |
//! | [`census`] | how much of each pack that is |
//! | `trash` | packs that wait to be deleted |
//! | [`sweep`] | throwing away |

pub mod brake;
pub mod census;
pub mod choice;
pub mod clock_watch;
pub mod freezes;
pub(crate) mod needed;
pub(crate) mod rewritten;
pub mod sweep;
pub(crate) mod trash;

use crate::model::{Forgotten, PackId, SetName, SnapshotId};
use crate::platform::lock::Lock;
use crate::store::error::{Error, Result};
use crate::store::layout;
use crate::store::pack::Trailer;
use crate::store::prune::census::{dead_bytes, is_heavy};
use crate::store::prune::choice::{Rules, SetChoice, choose};
use crate::store::prune::freezes::{Look, clock_jump};
use crate::store::prune::sweep::{Sweep, TRASH_STAY};
use crate::store::repository::Repository;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use std::collections::HashSet;
use std::fmt;

/// What a run is told.
#[derive(Clone, Debug)]
pub struct PruneOptions {
    /// The zone whose days and weeks the rules mean.
    pub zone: TimeZone,
    /// How long a forgotten snapshot can be brought back, and how old unneeded packs are at least.
    pub trash: SignedDuration,
}

/// Packs, and their bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Amount {
    /// How many.
    pub packs: u64,
    /// How large together.
    pub bytes: u64,
}

impl Amount {
    pub(crate) fn add(&mut self, bytes: u64) {
        self.packs += 1;
        self.bytes += bytes;
    }
}

/// Why nothing is thrown away.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Obstacle {
    /// A record cannot be read, so what it needs is not known.
    Record {
        /// Which object.
        name: String,
        /// What is wrong with it.
        problem: String,
    },
    /// A record that cannot be read was set aside, so what its snapshot needs is not known.
    SetAside {
        /// Of which snapshot.
        id: SnapshotId,
        /// Its place in the chain.
        sequence: u64,
        /// Where the record lay.
        name: String,
    },
    /// The lists of a snapshot that is kept cannot be read.
    Snapshot {
        /// Which.
        id: SnapshotId,
        /// Of which set.
        set: SetName,
        /// Its place in the chain.
        sequence: u64,
        /// Nothing of its set is newer.
        newest: bool,
    },
    /// The clock has jumped, so nobody knows what is old.
    Clock {
        /// What the time should have been.
        from: Timestamp,
        /// What it was.
        to: Timestamp,
    },
    /// The disk has no room for what has to be written down first.
    Full,
    /// The user stopped it.
    Stopped,
}

impl Obstacle {
    /// What a person can do.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Stopped => None,
            Self::Full => Some(
                "make a little room on that disk (some megabytes will do) and run `lan-backup prune` again; what lies in the trash becomes free \
                 a day after it came there, by `lan-backup prune`, too"
                    .to_owned(),
            ),
            Self::Clock { .. } => Some(
                "set the clock right; if it is right now, `lan-backup prune --release SET` for each set".to_owned(),
            ),
            Self::SetAside { id, name, .. } => Some(format!(
                "if another copy of this store has `{name}`, put that file in its place; if not, and that snapshot need not be kept, \
                 `lan-backup prune --give-up {}` lets go of what only it needs",
                id.short()
            )),
            Self::Record { .. } => {
                Some("`lan-backup repair` mends it or sets it aside, and says what can be done then".to_owned())
            }
            Self::Snapshot { newest: true, .. } => Some(
                "`lan-backup verify` says what is damaged, and the next backup of that set brings back what its device still has"
                    .to_owned(),
            ),
            Self::Snapshot { id, .. } => Some(format!(
                "`lan-backup verify` says what is damaged; if another copy of this store has those packs, put them in their place; if not, and that \
                 snapshot need not be kept, `lan-backup prune --give-up {}` forgets it",
                id.short()
            )),
        }
    }
}

impl fmt::Display for Obstacle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Record { name, problem } => {
                write!(
                    f,
                    "a record cannot be read ({name}: {problem}), so nobody knows what its snapshot needs: nothing was thrown away"
                )
            }
            Self::SetAside { id, sequence, .. } => write!(
                f,
                "the record of snapshot {} (number {sequence} of its set) was damaged and lies in `quarantine`, so nobody knows what that snapshot needs: nothing was thrown away",
                id.short()
            ),
            Self::Snapshot { id, set, sequence, .. } => write!(
                f,
                "the lists of snapshot {} (number {sequence} of set `{set}`) are damaged, so nobody knows what it needs: nothing was thrown away",
                id.short()
            ),
            Self::Clock { from, to } => write!(
                f,
                "the clock of this device has jumped to {to}, when it should have been {from}, so nobody knows what is old: nothing was thrown away"
            ),
            Self::Full => f.write_str("the disk is full, so not all of it could be done; what was done holds"),
            Self::Stopped => f.write_str("it was stopped"),
        }
    }
}

/// What a run would do.
#[derive(Debug)]
pub struct PrunePlan {
    /// The sets that were looked at.
    pub sets: Vec<SetChoice>,
    /// When it was made, by the store's clock.
    pub now: Timestamp,
    /// Until when what it forgets can be brought back.
    pub until: Timestamp,
    /// Why nothing would be thrown away.
    pub obstacle: Option<Obstacle>,
    /// Packs in which nothing is needed.
    pub dead: Amount,
    /// Packs that would be written anew, and their dead weight.
    pub heavy: Amount,
    /// Packs in the trash that would be deleted.
    pub deletable: Amount,
    /// Packs in the trash whose time has not come.
    pub waiting: Amount,
    /// Packs that nothing needs once all that is forgotten cannot be brought back any more.
    pub later: Amount,
    dead_packs: Vec<PackId>,
    heavy_packs: Vec<PackId>,
}

/// What a run did.
#[derive(Clone, Debug, Default)]
pub struct PruneReport {
    /// Snapshots that are forgotten now.
    pub forgotten: Vec<(SetName, SnapshotId)>,
    /// Packs that went to the trash.
    pub thrown_away: Amount,
    /// Packs that were written anew, and the dead weight they had.
    pub repacked: Amount,
    /// Packs that were deleted.
    pub deleted: Amount,
    /// Packs in the trash whose time has not come.
    pub waiting: Amount,
    /// Packs that came back from the trash because something needs them after all.
    pub put_back: Amount,
    /// What kept it from going on.
    pub obstacle: Option<Obstacle>,
}

/// A prune of one repository: the only one, while it lives.
pub struct Prune<'a> {
    /// What it would do.
    pub plan: PrunePlan,
    sweep: Sweep<'a>,
    _only: Option<Lock>,
}

impl fmt::Debug for Prune<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.plan.fmt(f)
    }
}

/// Whether a prune is only looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// To be run.
    Run,
    /// To be shown; somebody else may be pruning.
    Show,
}

impl<'a> Prune<'a> {
    /// Looks at everything and makes a plan. Changes nothing.
    ///
    /// # Errors
    /// [`Error::Pruning`] when somebody else prunes this repository.
    pub fn prepare(
        repository: &'a Repository,
        rules: Rules<'_>,
        options: &PruneOptions,
        purpose: Purpose,
        stopped: &'a (dyn Fn() -> bool + 'a),
    ) -> Result<Self> {
        let only = match purpose {
            Purpose::Show => None,
            Purpose::Run => Some(only_pruner(repository)?),
        };
        let now = repository.packs.clock.now();
        let until = now.checked_add(options.trash).unwrap_or(Timestamp::MAX);
        let old = now.checked_sub(options.trash).unwrap_or(Timestamp::MIN);
        let freezes = repository.freezes(if purpose == Purpose::Run { Look::Keep } else { Look::Measure }, stopped)?;
        let jump = clock_jump(&freezes);
        let sets = choose(repository, rules, now, &options.zone, freezes)?;
        let mut plan = PrunePlan {
            sets,
            now,
            until,
            obstacle: None,
            dead: Amount::default(),
            heavy: Amount::default(),
            deletable: Amount::default(),
            waiting: Amount::default(),
            later: Amount::default(),
            dead_packs: Vec::new(),
            heavy_packs: Vec::new(),
        };
        let mut sweep = Sweep::new(repository, now, stopped);
        plan.obstacle = match jump {
            Some((from, to)) => Some(Obstacle::Clock { from, to }),
            None => look(&mut plan, &mut sweep, old)?,
        };
        Ok(Self { plan, sweep, _only: only })
    }

    /// Does what the plan says.
    ///
    /// # Errors
    /// The disk's. What was done until then holds, and running again goes on.
    pub fn run(self) -> Result<PruneReport> {
        let Self { plan, mut sweep, _only: only } = self;
        let mut full = false;
        'sets: for choice in &plan.sets {
            for snapshot in choice.unwanted() {
                if (sweep.stopped)() {
                    sweep.report.obstacle = Some(Obstacle::Stopped);
                    return Ok(sweep.report);
                }
                let rule = choice.keep.to_string();
                let mark = Forgotten { record: snapshot.id, rule, when: plan.now, until: plan.until };
                match sweep.repository.forgotten.put(&mark) {
                    // Throwing away needs no room, and makes some.
                    Err(error) if error.is_full() => {
                        full = true;
                        break 'sets;
                    }
                    put => put?,
                }
                sweep.report.forgotten.push((choice.set.clone(), snapshot.id));
            }
        }
        let thrown_away = match plan.obstacle {
            Some(obstacle) => Err(obstacle),
            None => match throw_away(&mut sweep, &plan) {
                Err(error) if error.is_full() => Err(Obstacle::Full),
                done => done?,
            },
        };
        sweep.report.obstacle = thrown_away.err().or(full.then_some(Obstacle::Full));
        drop(only);
        Ok(sweep.report)
    }
}

/// The lock of whoever prunes or brings back.
pub(crate) fn only_pruner(repository: &Repository) -> Result<Lock> {
    Lock::try_exclusive(&repository.lock("pruner"))?.ok_or(Error::Pruning)
}

fn throw_away(sweep: &mut Sweep<'_>, plan: &PrunePlan) -> Result<Result<(), Obstacle>> {
    // What becomes free at once comes first: the disk may be full.
    if let Err(obstacle) = sweep.empty_trash()? {
        return Ok(Err(obstacle));
    }
    if let Err(obstacle) = sweep.throw_away(&plan.dead_packs)? {
        return Ok(Err(obstacle));
    }
    sweep.repack(&plan.heavy_packs)
}

/// Finds out what could be thrown away.
fn look(plan: &mut PrunePlan, sweep: &mut Sweep<'_>, old: Timestamp) -> Result<Option<Obstacle>> {
    let packs = &sweep.repository.packs;
    for trashed in trash::list(&*packs.shelf)? {
        let length = match packs.shelf.open(&trashed.name) {
            Err(error) if error.is_not_found() => continue,
            other => other?.length()?,
        };
        let ripe = plan.now.duration_since(trashed.since) >= TRASH_STAY;
        (if ripe { &mut plan.deletable } else { &mut plan.waiting }).add(length);
    }
    packs.index.reconcile()?;
    let unwanted: HashSet<_> = plan.sets.iter().flat_map(SetChoice::unwanted).map(|choice| choice.id).collect();
    if let Err(obstacle) = sweep.catch_up(&unwanted)? {
        return Ok(Some(obstacle));
    }
    let Some(weights) = census::take(packs, &sweep.needed, sweep.stopped)? else { return Ok(Some(Obstacle::Stopped)) };
    let mut weights: Vec<_> = weights.into_iter().collect();
    weights.sort_by_key(|(pack, _)| *pack);
    for (pack, weight) in weights {
        if weight.present == 0 && weight.forgotten > 0 {
            plan.later.add(weight.bytes);
        }
        if !weight.is_dead() && !weight.may_be_heavy() {
            continue;
        }
        let name = layout::pack(&pack);
        match packs.shelf.written_at(&name) {
            Ok(at) if at.is_some_and(|at| at > old) => continue,
            Err(error) if error.is_not_found() => continue,
            other => other?,
        };
        if weight.is_dead() {
            plan.dead.add(weight.bytes);
            plan.dead_packs.push(pack);
            continue;
        }
        let Ok((trailer, length)) =
            packs.shelf.open(&name).map_err(Error::from).and_then(|object| Trailer::of(pack, &*object))
        else {
            continue;
        };
        let dead = dead_bytes(packs, &sweep.needed, pack, &trailer)?;
        if is_heavy(dead, length) {
            plan.heavy.add(dead);
            plan.heavy_packs.push(pack);
        }
    }
    Ok(None)
}
