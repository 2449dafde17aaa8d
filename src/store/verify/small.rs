//! The small files of a repository: its parameters, the owner log, records with their chain and their receipts, marks.

use crate::model::{SetName, SnapshotId};
use crate::platform;
use crate::store::error::{Error, Result};
use crate::store::layout::{self, ObjectName};
use crate::store::prune::clock_watch::ClockWatch;
use crate::store::prune::rewritten::BrakeState;
use crate::store::records::{All, Kept};
use crate::store::repository::Repository;
use crate::store::{marks, scrub};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

/// Something about a small file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Problem {
    /// Its name in the repository.
    pub(crate) name: String,
    pub(crate) problem: String,
}

/// What was found.
#[derive(Debug, Default)]
pub(crate) struct Small {
    /// Damage, and what only damage or somebody's hand can have brought about.
    pub(crate) problems: Vec<Problem>,
    /// What costs nothing.
    pub(crate) notes: Vec<String>,
    /// Records that are whole, by set and sequence.
    pub(crate) good: Vec<Arc<Kept>>,
    /// Records that are not.
    pub(crate) bad: Vec<(ObjectName, Error)>,
    /// Snapshots that a rule has let go: nothing is owed to them any more.
    pub(crate) forgotten: HashSet<SnapshotId>,
    /// Records that the one behind them names, and that are nowhere.
    pub(crate) missing: Vec<Missing>,
    /// Snapshots that a person has let go although their record is damaged or gone.
    pub(crate) given_up: HashSet<SnapshotId>,
    /// Records that were not, and lie aside: their sequence, and what they were called.
    pub(crate) set_aside: SetAside,
}

/// A record that is nowhere, as far as the one behind it tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Missing {
    pub(crate) id: SnapshotId,
    pub(crate) sequence: u64,
    pub(crate) set: SetName,
}

/// By snapshot.
pub(crate) type SetAside = HashMap<SnapshotId, (u64, ObjectName)>;

/// Reads all of them anew.
pub(crate) fn look(repository: &Repository) -> Result<Small> {
    let mut small = Small::default();
    let mut add = |name: &dyn std::fmt::Display, problem: &dyn std::fmt::Display| {
        small.problems.push(Problem { name: name.to_string(), problem: problem.to_string() });
    };
    if let Err(error) = repository.check_config() {
        add(&layout::config(), &told(&error));
    }
    if let Err(error) = repository.check_owners() {
        let name = match &error {
            Error::Damaged { name, .. } => name.clone(),
            _ => layout::owners().to_string(),
        };
        add(&name, &told(&error));
    }
    let All { good, bad, .. } = repository.read_records_anew()?;
    for (name, error) in &bad {
        add(name, &told(error));
    }
    let signers: HashSet<String> = repository.signers().into_iter().collect();
    for kept in good.iter().filter(|kept| !signers.contains(&kept.record.signer)) {
        add(&name_of(kept), &"it is signed by a key that does not belong to this repository");
    }
    // A damaged mark still hides its snapshot: what is in doubt is not shown as there.
    let mut forgotten = HashSet::new();
    for name in repository.packs.shelf.list(&layout::forgotten())? {
        let Some((_, id)) = layout::timed_parts(&name) else { continue };
        forgotten.insert(id);
        if let Err(error) = repository.forgotten.load(&name, id) {
            add(&name, &told(&error));
        }
    }
    let set_aside = set_aside(repository)?;
    let given_up: HashSet<SnapshotId> = repository.forgotten.given_up()?.into_keys().collect();
    let missing = chain(&good, &bad, &set_aside, &given_up, &mut add);
    for name in repository.packs.shelf.list(&layout::marks())? {
        if marks::load_one(&*repository.packs.shelf, &name).is_err() {
            small.notes.push(format!("`{name}` is damaged; `repair` writes it anew"));
        }
    }
    if scrub::ScrubState::read(&*repository.packs.shelf)?.is_none() {
        small.notes.push(format!("`{}` is damaged; packs will be read anew sooner than needed", layout::scrub()));
    }
    if let Some(Err(problem)) = ClockWatch::read(&*repository.packs.shelf)? {
        small
            .notes
            .push(format!("`{}` is damaged ({problem}); whether the clock jumps is watched anew", layout::clock()));
    }
    if let Some(Err(problem)) = BrakeState::read(&*repository.packs.shelf)? {
        small.notes.push(format!("`{}` is damaged ({problem}); the next `prune` measures anew", layout::brake()));
    }
    Ok(Small { good, bad, forgotten, missing, given_up, set_aside, ..small })
}

/// Each record follows the one before it, and came after it.
fn chain(
    good: &[Arc<Kept>],
    bad: &[(ObjectName, Error)],
    set_aside: &SetAside,
    given_up: &HashSet<SnapshotId>,
    add: &mut dyn FnMut(&dyn std::fmt::Display, &dyn std::fmt::Display),
) -> Vec<Missing> {
    let mut missing = Vec::new();
    let bad: HashSet<SnapshotId> =
        bad.iter().filter_map(|(name, _)| layout::record_parts(name)).map(|(_, id)| id).collect();
    let mut sets: BTreeMap<&str, Vec<&Arc<Kept>>> = BTreeMap::new();
    for kept in good {
        sets.entry(kept.record.set.as_str()).or_default().push(kept);
    }
    for (set, chain) in sets {
        let mut before: Option<&Arc<Kept>> = None;
        for kept in chain {
            let follows = before.map_or((None, 1), |before| (Some(before.info.id), before.record.sequence + 1));
            let previous = kept.record.previous;
            // The one before it is damaged, and told already, or was set aside when it was found to be, or was given up.
            let is_known = |id: &SnapshotId| bad.contains(id) || set_aside.contains_key(id) || given_up.contains(id);
            let (sequence, last) = (kept.record.sequence, follows.1 - 1);
            match previous {
                _ if (previous, sequence) == follows || previous.is_some_and(|id| is_known(&id)) => {}
                // It says itself which one should be there.
                Some(id) if sequence > follows.1 => {
                    let gone = Missing { id, sequence: sequence - 1, set: kept.record.set.clone() };
                    let numbers = if last + 2 == sequence {
                        format!("number {} of `{set}` is missing", sequence - 1)
                    } else {
                        format!("numbers {} to {} of `{set}` are missing", last + 1, sequence - 1)
                    };
                    add(
                        &layout::record(&gone.set, gone.sequence, &gone.id),
                        &format!("{numbers} (removed or lost): what came after is not hit"),
                    );
                    missing.push(gone);
                }
                _ => {
                    let problem = format!(
                        "number {sequence} of set `{set}` does not follow number {last}: one of them was replaced"
                    );
                    add(&name_of(kept), &problem);
                }
            }
            if before.is_some_and(|before| before.info.receipt.received_at > kept.info.receipt.received_at) {
                add(&name_of(kept), &"its receipt is older than that of the record before it");
            }
            before = Some(kept);
        }
    }
    missing
}

/// Records that lie aside.
pub(crate) fn set_aside(repository: &Repository) -> Result<SetAside> {
    let prefix = format!("{}/", layout::quarantine());
    let names = repository.packs.shelf.list(&layout::quarantine())?;
    let parts = names.iter().filter_map(|name| {
        let name = name.as_str().strip_prefix(&prefix)?.strip_prefix("records/")?;
        // A second one of the same name has a number behind it.
        let name = name.split_once('.').map_or(name, |(name, _)| name);
        let name = ObjectName::parse(&format!("records/{name}"))?;
        let (sequence, id) = layout::record_parts(&name)?;
        Some((id, (sequence, name)))
    });
    Ok(parts.collect())
}

fn name_of(kept: &Kept) -> ObjectName {
    layout::record(&kept.record.set, kept.record.sequence, &kept.info.id)
}

fn told(error: &Error) -> String {
    match error {
        Error::Damaged { problem, .. } => problem.clone(),
        Error::Platform(platform::Error { source, .. }) => format!("it cannot be read: {source}"),
        other => other.to_string(),
    }
}
