//! Carries out a plan: read and send, then sign and commit.

use crate::backup::cache::Cache;
use crate::backup::collect::{Collected, Collector, Memory, Remember};
use crate::backup::lists::Lists;
use crate::backup::pipeline::{self, Again, Source};
use crate::backup::send::{QUEUED_BATCHES, send};
use crate::backup::{Effort, Error, Plan, Result};
use crate::model::limits::MAX_MISSING_IDS;
use crate::model::snapshot::RECORD_FORMAT;
use crate::model::{Alias, Changes, ChunkId, Record, SetName, SignedRecord, SnapshotId, SnapshotInfo, Totals};
use crate::monitor::{Counter, Monitor, Phase};
use crate::platform::clock::Clock;
use crate::platform::shutdown::Shutdown;
use crate::signer::{self, SigningKey};
use crate::vault::{self, Vault};
use std::collections::HashSet;
use std::sync::Arc;
use tokio::sync::mpsc;

/// Commits tried when others commit to the same set at the same time.
const MAX_COMMITS: usize = 5;

/// Times that single files are read again because chunks are gone; then all are. A vault that has lost a list of chunks learns only
/// when it has that again which others are gone.
const MAX_HEALS: usize = 3;

/// What a run needs beside the plan.
#[derive(Debug)]
pub struct RunOptions {
    /// Which set.
    pub set: SetName,
    /// The name of this device, for people.
    pub device: Alias,
    /// A label that a person gave.
    pub tag: Option<String>,
    /// Signs the record.
    pub signer: SigningKey,
    /// The newest snapshot of the set, which the new one follows.
    pub head: Option<SnapshotInfo>,
    /// Where to remember what was seen; without it, the next run reads everything.
    pub cache: Option<Cache>,
    /// How hard to compress.
    pub compression: Effort,
}

/// What a backup did.
#[derive(Clone, Debug)]
pub struct Report {
    /// The snapshot that exists now.
    pub snapshot: SnapshotId,
    /// Its place in the chain.
    pub sequence: u64,
    /// What is in it.
    pub totals: Totals,
    /// What is different from the one before.
    pub changes: Changes,
    /// Bytes that went to the vault.
    pub uploaded_bytes: u64,
    /// Its record.
    pub signed: SignedRecord,
}

/// Backs up what the plan says, and commits it. When the vault turns out to lack chunks that were thought to be there (a damaged
/// store), the files that need them are read again and what is missing is sent: the store heals while the source still has the
/// bytes.
///
/// # Errors
/// What stopped it. What arrived stays in the vault, so running again sends only the rest.
pub async fn run<V: Vault>(
    vault: Arc<V>,
    plan: Plan,
    options: RunOptions,
    clock: Arc<dyn Clock>,
    monitor: Arc<dyn Monitor>,
    shutdown: Shutdown,
) -> Result<Report> {
    let context = Arc::new(Context { plan, options, clock, monitor, shutdown });
    let mut again = Again::Nothing;
    let mut heals = 0;
    loop {
        let error = match context.clone().attempt(vault.clone(), again.clone()).await {
            Ok(report) => return Ok(report),
            Err(error) => error,
        };
        again = match (error, again) {
            (error, Again::Everything) => return Err(error),
            (Error::Vault(vault::Error::Missing(ids)), before) => {
                heals += 1;
                context.heal(&ids, before, heals)
            }
            (Error::List, _) => {
                context.options.cache.iter().try_for_each(Cache::clear)?;
                Again::Everything
            }
            (error, _) => return Err(error),
        };
    }
}

#[derive(Debug)]
struct Context {
    plan: Plan,
    options: RunOptions,
    clock: Arc<dyn Clock>,
    monitor: Arc<dyn Monitor>,
    shutdown: Shutdown,
}

impl Context {
    /// What to read again for chunks that are gone. The vault names no more than so many at once: then all files are read, and so
    /// they are when it asks again for what was read already, or for more and more.
    fn heal(&self, missing: &[ChunkId], before: Again, heals: usize) -> Again {
        let mut wanted = if let Again::With(wanted) = before { wanted } else { HashSet::new() };
        let more = if wanted.is_empty() { "" } else { "more " };
        let missing: HashSet<_> = missing.iter().copied().collect();
        let (count, asked_again) = (missing.len(), !wanted.is_disjoint(&missing));
        wanted.extend(missing);
        if heals > MAX_HEALS || asked_again || wanted.len() >= MAX_MISSING_IDS {
            self.monitor
                .notice("the receiver has lost much of this backup; every file is read again to heal it".to_owned());
            return Again::Everything;
        }
        let chunks = if count == 1 { "chunk" } else { "chunks" };
        self.monitor.notice(format!(
            "the receiver has lost {count} {more}{chunks} of this backup; the files that need them are read again to heal it"
        ));
        Again::With(wanted)
    }

    async fn attempt<V: Vault>(self: Arc<Self>, vault: Arc<V>, again: Again) -> Result<Report> {
        self.monitor.phase(Phase::Send);
        self.monitor.total(Counter::Bytes, self.plan.totals.bytes);
        self.monitor.total(Counter::Entries, self.plan.totals.entries);
        if again == Again::Nothing
            && let Some(collected) = self.as_before()
        {
            return self.commit(&*vault, collected, 0).await;
        }
        let (batches, incoming) = mpsc::channel(QUEUED_BATCHES);
        let parameters = vault.parameters().chunker;
        let this = self.clone();
        let reading = tokio::task::spawn_blocking(move || {
            let remember =
                |cache: &Cache| Ok::<_, Error>(Remember { entries: cache.begin()?, lists: Lists::new(cache.clone()) });
            let remember = this.options.cache.as_ref().map(remember).transpose()?;
            let source = Source {
                roots: &this.plan.roots,
                parameters,
                cache: this.options.cache.as_ref(),
                again: &again,
                clock: &*this.clock,
                monitor: &*this.monitor,
                shutdown: &this.shutdown,
            };
            pipeline::run(&source, this.plan.steps()?, Collector::new(&parameters, remember), &batches)
        });
        // Either half ends when the other does: the queue between them closes.
        let sending = tokio::select! {
            sent = send(vault.clone(), incoming, self.options.compression, self.clock.clone(), self.monitor.clone()) => sent,
            () = self.shutdown.stopped() => Err(Error::Stopped),
        };
        let collected = reading.await.unwrap_or(Err(Error::Internal));
        // When sending failed, the reader only knows that it was stopped; when reading failed, sending ended well.
        let uploaded_bytes = sending?;
        self.commit(&*vault, collected?, uploaded_bytes).await
    }

    /// When nothing is different and the parent is what the receiver has, its lists are those of the new snapshot: nothing is read,
    /// cut, or asked for. The commit looks whether all of it is there, as after any other backup. The id is that of the record at
    /// hand: what a receiver only calls by that name is not signed again.
    fn as_before(&self) -> Option<Collected> {
        let head = self.options.head.as_ref().filter(|_| self.plan.is_unchanged())?;
        if self.plan.parent != Some(signer::snapshot_id(&head.signed)) {
            return None;
        }
        let record = signer::open_record(&head.signed).ok()?;
        if record.totals != self.plan.totals {
            return None;
        }
        self.monitor.count(Counter::Entries, record.totals.entries);
        self.monitor.count(Counter::Bytes, record.totals.bytes);
        self.monitor.count(Counter::Files, record.totals.files);
        let Record { manifest, refs, totals, .. } = record;
        Some(Collected { manifest, refs, totals, changes: Changes::default(), memory: Memory::Unchanged })
    }

    /// Keeps what was seen for the next backup.
    fn remember(&self, memory: Memory, snapshot: &SnapshotId) -> Result<()> {
        match (memory, &self.options.cache, &self.plan.parent) {
            (Memory::Written(remember), ..) => remember.entries.finish(snapshot, remember.lists.used()),
            (Memory::Unchanged, Some(cache), Some(parent)) => cache.hand_on(parent, snapshot),
            _ => Ok(()),
        }
    }

    async fn commit<V: Vault>(&self, vault: &V, collected: Collected, uploaded_bytes: u64) -> Result<Report> {
        self.monitor.phase(Phase::Finish);
        let deleted_files = self.plan.changes.deleted_files;
        let changes = Changes { deleted_files, ..collected.changes };
        let mut record = Record {
            format: RECORD_FORMAT,
            repository: vault.parameters().id,
            set: self.options.set.clone(),
            roots: self.plan.roots.described(),
            sequence: 1,
            previous: None,
            manifest: collected.manifest,
            refs: collected.refs,
            totals: collected.totals,
            changes,
            source_time: self.plan.started,
            device: self.options.device.clone(),
            signer: self.options.signer.public(),
            tag: self.options.tag.clone(),
        };
        let mut head = self.options.head.clone();
        for _ in 0..MAX_COMMITS {
            if let Some(head) = &head {
                let newest = signer::open_record(&head.signed).map_err(|error| {
                    vault::Error::Refused(format!("the newest snapshot of this set: {error}").into())
                })?;
                record.sequence = newest.sequence + 1;
                record.previous = Some(signer::snapshot_id(&head.signed));
            }
            let signed = self.options.signer.sign_record(&record);
            match vault.commit(signed.clone()).await {
                Ok(snapshot) => {
                    if let Err(error) = self.remember(collected.memory, &snapshot) {
                        self.monitor
                            .notice(format!("nothing is remembered of this backup, the next one reads all: {error}"));
                    }
                    let (sequence, totals) = (record.sequence, record.totals);
                    return Ok(Report { snapshot, sequence, totals, changes, uploaded_bytes, signed });
                }
                Err(vault::Error::Stale(Some(newer))) => head = Some(*newer),
                Err(error) => return Err(error.into()),
            }
        }
        Err(vault::Error::Stale(head.map(Box::new)).into())
    }
}
