//! The copy engine: snapshots from one vault to another of the same repository, record by record, each byte for byte as its source
//! signed it.
//!
//! A record can only be kept after the one that it follows. So they are taken in the order of their chains, and of those that are
//! not wanted, or whose lists are lost, the record alone is kept, marked as not copied. One that has lost other data is kept with what
//! there is of it, marked as damaged, where the target takes that, and the next copy brings what was healed meanwhile. What is needed comes from the refs, like
//! everywhere; a part of the refs that was gone through already, for an earlier snapshot, is not gone through again. Every chunk
//! is checked on the way, and the target checks it once more, and every ref before it commits.
//!
//! An interrupted copy goes on where it was: what has arrived is not sent again. Memory: about 8 MiB being fetched, two uploads of
//! 8 MiB each, and a hundred bytes for each chunk of the refs (a hundred for every million chunks that a snapshot needs).
//!
//! | file | what |
//! |---|---|
//! | [`needs`] | the chunks that snapshots need, what they share once |
//! | [`carrier`] | chunks from one vault to the other |

pub mod carrier;
pub mod needs;

use crate::copy::carrier::{Carrier, Lost};
use crate::copy::needs::Needs;
use crate::model::limits::MAX_MISSING_IDS;
use crate::model::{Record, SetName, SnapshotId, SnapshotInfo};
use crate::monitor::{Fault, Monitor, Phase};
use crate::platform::shutdown::Shutdown;
use crate::signer;
use crate::vault::{self, Vault};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

/// How often what the target misses at the commit is brought once more, before it is given up.
const COMMIT_ROUNDS: usize = 3;

/// What stopped a copy.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The vault that is read.
    #[error("cannot read what is to be copied")]
    From(#[source] vault::Error),
    /// The vault that is written.
    #[error(transparent)]
    To(vault::Error),
    /// The target's chain goes another way.
    #[error("set `{set}`: the target has another snapshot in the place of {}; the two went different ways", id.short())]
    Diverged {
        /// Which set.
        set: SetName,
        /// The snapshot that does not fit.
        id: SnapshotId,
    },
    /// Two vaults of different repositories.
    #[error("the two places hold different repositories")]
    OtherRepository,
    /// A thread of the engine ended by a panic: a defect of this program.
    #[error("the copy failed inside; this is a defect of lan-backup")]
    Internal,
    /// The shutdown was given.
    #[error("stopped")]
    Stopped,
}

/// What copying gives.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What a copy did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Snapshots that are at the target now and were not before.
    pub copied: Vec<SnapshotId>,
    /// Wanted ones that were there already.
    pub present: u64,
    /// Of how many the record alone was brought, because they were not wanted or are forgotten.
    pub records_only: u64,
    /// Those that could not be copied, because something of them is lost.
    pub lost: Vec<SnapshotId>,
    /// Those that are at the target but for what is lost of them, and marked there.
    pub partly: Vec<SnapshotId>,
    /// Chunks that were brought.
    pub chunks: u64,
    /// Bytes that were brought, as stored.
    pub bytes: u64,
}

/// A snapshot of the source, its record read.
struct Candidate<'a> {
    info: &'a SnapshotInfo,
    record: Record,
}

/// Copies the snapshots of `from` that `wanted` says yes to, and what their chains need.
///
/// # Errors
/// Whatever concerns the copy as a whole. A snapshot that has lost something at its source is a fault, and the rest goes on.
pub async fn run<A: Vault, B: Vault>(
    from: Arc<A>,
    to: Arc<B>,
    wanted: impl Fn(&SnapshotInfo, &Record) -> bool,
    monitor: Arc<dyn Monitor>,
    shutdown: Shutdown,
) -> Result<Report> {
    if from.parameters() != to.parameters() {
        return Err(Error::OtherRepository);
    }
    monitor.phase(Phase::Send);
    let listed = from.snapshots().await.map_err(Error::From)?;
    let there = to.snapshots().await.map_err(Error::To)?;
    let mut chains: BTreeMap<SetName, Vec<Candidate<'_>>> = BTreeMap::new();
    for info in &listed {
        // What is not what it says it is, the listing's check has told already; nothing may follow it.
        let Ok(record) = signer::open_record(&info.signed) else { continue };
        if signer::snapshot_id(&info.signed) == info.id {
            chains.entry(record.set.clone()).or_default().push(Candidate { info, record });
        }
    }
    let damaged_there = to.damaged().await.map_err(Error::To)?;
    let there: HashMap<SnapshotId, SnapshotInfo> = there.into_iter().map(|info| (info.id, info)).collect();
    let needs = Needs::new(from.clone());
    let carrier = Carrier::new(from, to.clone(), monitor.clone());
    let (lost, report) = (Lost::default(), Report::default());
    let mut work = Work { to, needs, carrier, there, damaged_there, lost, monitor, shutdown, report };
    for (_, mut chain) in chains {
        chain.sort_by_key(|candidate| candidate.record.sequence);
        let wants =
            |candidate: &Candidate<'_>| candidate.info.forgotten.is_none() && wanted(candidate.info, &candidate.record);
        // Beyond the newest one that is wanted, nothing is: a chain must not end in what is not there.
        let Some(last) = chain.iter().rposition(&wants) else { continue };
        for at in 0..=last {
            let before = at.checked_sub(1).map(|before| &chain[before]);
            work.one(&chain[at], before, wants(&chain[at]), at == last).await?;
        }
    }
    let (chunks, bytes) = work.carrier.moved();
    Ok(Report { chunks, bytes, ..work.report })
}

/// How much of a snapshot is at the target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Whole {
    Yes,
    ButForLosses,
}

struct Work<A, B> {
    to: Arc<B>,
    needs: Needs<A>,
    carrier: Carrier<A, B>,
    there: HashMap<SnapshotId, SnapshotInfo>,
    damaged_there: HashSet<SnapshotId>,
    /// What is lost at the source. Snapshots share chunks, and refs that were gone through are not gone through again.
    lost: Lost,
    monitor: Arc<dyn Monitor>,
    shutdown: Shutdown,
    report: Report,
}

impl<A: Vault, B: Vault> Work<A, B> {
    async fn one(
        &mut self,
        candidate: &Candidate<'_>,
        before: Option<&Candidate<'_>>,
        wanted: bool,
        is_last: bool,
    ) -> Result<()> {
        let Candidate { info, record } = candidate;
        let there = self.there.get(&info.id).map(|there| there.forgotten.as_ref());
        // What the target's own rules have forgotten stays so; what was not copied then may be now.
        let has_data = there.is_some_and(|forgotten| forgotten.is_none_or(|mark| !mark.is_not_copied()))
            && !self.damaged_there.contains(&info.id);
        let record_there = there.is_some();
        match (wanted, has_data, record_there) {
            (true, true, _) => {
                self.report.present += 1;
                return Ok(());
            }
            (false, _, true) => return Ok(()),
            (false, _, false) => return self.without_data(info, record).await,
            (true, false, _) => {}
        }
        // What the snapshot before it needs is at the target, so that part of the refs need not be asked for.
        if let Some(before) = before.filter(|before| self.is_whole_there(&before.info.id)) {
            // Damage in it is the trouble of that snapshot.
            let _ = self.needs.pass_over(&before.record).await;
        }
        match self.with_data(info, record).await {
            Err(Error::From(error)) if is_damage(&error) => {
                let lost = format!("not copied, because {error}");
                self.monitor.fault(Fault {
                    subject: format!("snapshot {} of `{}`", info.id.short(), record.set),
                    problem: lost,
                });
                self.report.lost.push(info.id);
                // A newest one without data would look like a promise.
                if record_there || is_last { Ok(()) } else { self.without_data(info, record).await }
            }
            Err(error) => Err(error),
            Ok(Whole::Yes) => {
                self.report.copied.push(info.id);
                Ok(())
            }
            Ok(Whole::ButForLosses) => {
                let why = self.lost.why.as_ref().map(|error| format!(": {error}")).unwrap_or_default();
                self.monitor.fault(Fault {
                    subject: format!("snapshot {} of `{}`", info.id.short(), record.set),
                    problem: format!("copied without what is lost of it{why}"),
                });
                self.report.partly.push(info.id);
                Ok(())
            }
        }
    }

    fn is_whole_there(&self, id: &SnapshotId) -> bool {
        let there = || self.there.get(id).is_some_and(|there| there.forgotten.is_none());
        self.report.copied.contains(id) || there() && !self.damaged_there.contains(id)
    }

    async fn with_data(&mut self, info: &SnapshotInfo, record: &Record) -> Result<Whole> {
        self.needs.begin(record).await?;
        while let Some(ids) = self.needs.next().await? {
            for ids in ids.chunks(MAX_MISSING_IDS) {
                if self.shutdown.is_stopped() {
                    return Err(Error::Stopped);
                }
                let mut seen = HashSet::with_capacity(ids.len());
                let ids = ids.iter().filter(|id| seen.insert(**id)).copied().collect();
                let mut missing = self.to.missing(ids).await.map_err(Error::To)?;
                missing.retain(|id| !self.lost.chunks.contains(id));
                self.carrier.bring_what_is_there(missing, &mut self.lost).await?;
            }
        }
        self.carrier.flush().await?;
        // A record that is there is taken as it is: that something of it is lost only its mark says.
        let mut damaged = self.damaged_there.contains(&info.id);
        for round in 1.. {
            let done = if damaged {
                self.to.commit_damaged(info.signed.clone(), self.lost.chunks.clone()).await
            } else {
                self.to.commit(info.signed.clone()).await.map(Some)
            };
            match done {
                Ok(Some(_)) if damaged && self.to.damaged().await.map_err(Error::To)?.contains(&info.id) => {
                    return Ok(Whole::ButForLosses);
                }
                Ok(Some(_)) => return Ok(Whole::Yes),
                // It takes only whole ones.
                Ok(None) => return Err(Error::From(self.why_lost())),
                Err(vault::Error::Missing(mut ids)) if round < COMMIT_ROUNDS => {
                    ids.retain(|id| !self.lost.chunks.contains(id));
                    self.carrier.bring_what_is_there(ids, &mut self.lost).await?;
                    self.carrier.flush().await?;
                    damaged |= !self.lost.chunks.is_empty();
                }
                Err(vault::Error::Missing(_)) if !self.lost.chunks.is_empty() => {
                    return Err(Error::From(self.why_lost()));
                }
                Err(error) => return Err(committed(error, info, record)),
            }
        }
        Ok(Whole::Yes)
    }

    fn why_lost(&self) -> vault::Error {
        match &self.lost.why {
            Some(vault::Error::Corrupt(what)) => vault::Error::Corrupt(what.clone()),
            Some(vault::Error::NotFound(what)) => vault::Error::NotFound(what.clone()),
            _ => vault::Error::Missing(self.lost.chunks.iter().take(MAX_MISSING_IDS).copied().collect()),
        }
    }

    async fn without_data(&mut self, info: &SnapshotInfo, record: &Record) -> Result<()> {
        let kept = self.to.commit_without_data(info.signed.clone()).await;
        kept.map_err(|error| committed(error, info, record))?;
        self.report.records_only += 1;
        Ok(())
    }
}

fn committed(error: vault::Error, info: &SnapshotInfo, record: &Record) -> Error {
    match error {
        vault::Error::Stale(_) => Error::Diverged { set: record.set.clone(), id: info.id },
        error => Error::To(error),
    }
}

/// Whether something that is kept is damaged or gone, as opposed to nobody being there.
pub(crate) fn is_damage(error: &vault::Error) -> bool {
    matches!(error, vault::Error::NotFound(_) | vault::Error::Corrupt(_) | vault::Error::Missing(_))
}
