//! Repair: saves what is good, sets aside what is not, and says what is lost, so that the next backup brings back what it can.
//!
//! It reads every byte first. Then damaged packs and records go aside (`set_aside`), the index is built anew, and everything is
//! looked at once more: snapshots that lack something are marked, and `missing` asks for what they lack. Nothing is hidden and
//! nothing is deleted. Run again, it finds nothing more to do.

use crate::model::text::clean;
use crate::model::{ChunkId, Mark};
use crate::monitor::{Monitor, Phase};
use crate::platform::lock::Lock;
use crate::platform::shutdown::Shutdown;
use crate::store::Store;
use crate::store::error::{Error, Result};
use crate::store::layout::{self, ObjectName, REPOSITORIES};
use crate::store::prune::trash;
use crate::store::repository::Repository;
use crate::store::set_aside::Fate;
use crate::store::verify::{self, DamagedFile, DamagedSnapshot, Findings, GONE, Share, VerifyOptions};
use std::collections::BTreeSet;

/// One file that was dealt with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Repaired {
    /// Where it lay in the store.
    pub path: String,
    /// What was wrong with it.
    pub problem: String,
    /// What became of it.
    pub fate: Fate,
}

/// What a repair has done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RepairReport {
    /// Files that were mended or set aside.
    pub repaired: Vec<Repaired>,
    /// Damage that could not be dealt with.
    pub left: Vec<DamagedFile>,
    /// Snapshots that lack something still.
    pub damaged: Vec<DamagedSnapshot>,
    /// Snapshots that had lost something and are whole again.
    pub healed: Vec<Mark>,
}

impl RepairReport {
    /// Everything that was ever acknowledged is there.
    pub fn is_whole(&self) -> bool {
        let lies_there = |one: &Repaired| matches!(one.fate, Fate::Left { .. });
        self.left.is_empty() && self.damaged.is_empty() && !self.repaired.iter().any(lies_there)
    }
}

/// What a repair would do.
///
/// # Errors
/// What kept it from looking.
pub fn plan(store: &Store, monitor: &dyn Monitor, shutdown: &Shutdown) -> Result<Findings> {
    verify::verify(store, VerifyOptions { data: Share::All }, monitor, shutdown)
}

/// Repairs a store.
///
/// # Errors
/// What stopped it; run again, it goes on.
pub fn repair(store: &Store, monitor: &dyn Monitor, shutdown: &Shutdown) -> Result<RepairReport> {
    let mut report = RepairReport::default();
    for (path, problem) in store.mend_unusable()? {
        report.repaired.push(Repaired { path, problem, fate: Fate::Mended });
    }
    let unusable = store.unusable().into_values();
    report.left.extend(unusable.map(|unusable| DamagedFile::small(unusable.path.clone(), unusable.told())));
    for repository in store.repositories() {
        one(&repository, &mut report, monitor, shutdown)?;
    }
    Ok(report)
}

/// What cannot be set aside, most likely for want of room, is named and marked all the same, and keeps nothing else from being repaired.
fn left(error: &Error) -> Fate {
    Fate::Left { why: error.to_string() }
}

/// Repairs one repository.
fn one(repository: &Repository, report: &mut RepairReport, monitor: &dyn Monitor, shutdown: &Shutdown) -> Result<()> {
    let path = |name: &str| format!("{REPOSITORIES}/{}/{name}", repository.id());
    let none = BTreeSet::new();
    monitor.phase(Phase::Verify);
    let looked = verify::look(repository, VerifyOptions { data: Share::All }, &none, monitor, shutdown)?;
    for doubt in &looked.vanished {
        let (path, problem) = (path(layout::pack(&doubt.pack).as_str()), GONE.to_owned());
        report.repaired.push(Repaired { path, problem, fate: Fate::Gone });
    }
    for bad in &looked.pass.bad {
        let fate = repository.set_pack_aside(bad.id).unwrap_or_else(|error| left(&error));
        let (path, problem) = (path(layout::pack(&bad.id).as_str()), clean(&bad.problems.join("; ")));
        report.repaired.push(Repaired { path, problem, fate });
    }
    for (name, error) in &looked.small.bad {
        if error.is_damage() {
            let fate = repository.set_record_aside(name).unwrap_or_else(|error| left(&error));
            report.repaired.push(Repaired { path: path(name.as_str()), problem: error.to_string(), fate });
        }
    }
    for small in &looked.small.problems {
        let Some(name) = ObjectName::parse(&small.name).filter(|name| !name.as_str().starts_with("records/")) else {
            continue;
        };
        if repository.mend_small(&name)? {
            let (path, problem) = (path(&small.name), small.problem.clone());
            report.repaired.push(Repaired { path, problem, fate: Fate::Mended });
        }
    }
    if let Err(error) = repository.packs.index.build_anew() {
        // It is as it was: a pack that cannot be read at the moment, or a disk that is full, is no reason to repair nothing else.
        tracing::warn!(error = &error as &dyn std::error::Error, "the index was not built anew");
    }
    let lacking: Vec<ChunkId> = looked.hurt.iter().flat_map(|hurt| &hurt.lack.chunks).copied().collect();
    if !lacking.is_empty() {
        // It should not be there; that is no reason to leave it there.
        let rescued = {
            let _prune = Lock::shared(&repository.lock("prune"))?;
            trash::rescue_packs(&repository.packs, &lacking)?
        };
        // Nobody has read them since they went there.
        for id in rescued {
            let fate = repository.set_pack_aside(id).unwrap_or_else(|error| left(&error));
            if !matches!(fate, Fate::Whole | Fate::Gone) {
                let (path, problem) =
                    (path(layout::pack(&id).as_str()), "it came back from the trash damaged".to_owned());
                report.repaired.push(Repaired { path, problem, fate });
            }
        }
    }
    monitor.phase(Phase::Finish);
    let after = verify::look(repository, VerifyOptions { data: Share::None }, &none, monitor, shutdown)?;
    let mut findings = Findings::default();
    after.tell(repository, &mut findings);
    // What was named is not named twice.
    let named: BTreeSet<String> = report.repaired.iter().map(|repaired| repaired.path.clone()).collect();
    report.left.extend(findings.files.into_iter().filter(|file| !named.contains(&file.path)));
    let losses = repository.mark_losses(&after)?;
    report.damaged.extend(losses.damaged);
    report.healed.extend(losses.healed);
    Ok(())
}
