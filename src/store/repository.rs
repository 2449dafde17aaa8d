//! A repository: everything that one owner device keeps in one store.

use crate::model::limits::{MAX_MANIFEST_ENTRIES, MAX_RECORD_BYTES, MAX_SET_ROOTS};
use crate::model::{
    Alias, ChunkId, ChunkerParameters, Fingerprint, OwnerEvent, Receipt, Record, RepositoryId, RepositoryParameters,
    SetName, SignedRecord, SnapshotId, SnapshotInfo,
};
use crate::platform::Context;
use crate::platform::clock::Clock;
use crate::platform::lock::Lock;
use crate::signer::{self, SigningKey};
use crate::store::copies;
use crate::store::doubts::Worries;
use crate::store::error::{Error, Result};
use crate::store::forgotten::ForgottenMarks;
use crate::store::health::Health;
use crate::store::index::Index;
use crate::store::layout::{self, FORMAT, LOCKS};
use crate::store::owner_log::{self, OwnerLog};
use crate::store::pack_writer::PackWriter;
use crate::store::packs::Packs;
use crate::store::pending::Pending;
use crate::store::prune::{only_pruner, trash};
use crate::store::records::{All, Kept, Records};
use crate::store::recovery::RecoveryReport;
use crate::store::set_aside::Fate;
use crate::store::shelf::Shelf;
use crate::store::stream;
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};

/// Receipt, seal and line ends beside the record itself, inside [`MAX_RECORD_BYTES`].
const RECEIPT_ROOM: usize = 1024;

/// Damaged packs that one commit sets aside before it gives up: it needs the lists of one snapshot.
const MAX_SET_ASIDE: usize = 16;

/// `config.json` of a repository.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Config {
    pub(crate) format: u32,
    pub(crate) id: RepositoryId,
    pub(crate) chunker: ChunkerParameters,
    /// How ids are made: always `blake3` in this version.
    pub(crate) hash: String,
    /// For encrypted repositories, of which this version makes none.
    pub(crate) key_slots: Vec<serde_json::Value>,
    pub(crate) created: Timestamp,
}

impl Config {
    pub(crate) fn new(id: RepositoryId, created: Timestamp) -> Self {
        let chunker = ChunkerParameters::STANDARD;
        Self { format: FORMAT, id, chunker, hash: "blake3".to_owned(), key_slots: Vec::new(), created }
    }
}

/// One repository, open. Its methods block; any number of threads may call them.
#[derive(Debug)]
pub struct Repository {
    config: Config,
    folder: PathBuf,
    pub(crate) packs: Arc<Packs>,
    pub(crate) records: Records,
    pub(crate) forgotten: ForgottenMarks,
    pub(crate) owners: OwnerLog,
    pub(crate) copied_from: Mutex<Option<Fingerprint>>,
    syncer: Mutex<Option<JoinHandle<()>>>,
    pub(crate) worries: Mutex<Worries>,
}

impl Repository {
    /// Opens the repository in `folder` whose objects lie on `shelf`.
    pub(crate) fn open(
        folder: &Path,
        config: Config,
        shelf: Arc<dyn Shelf>,
        clock: Arc<dyn Clock>,
        key: SigningKey,
        report: &mut RecoveryReport,
    ) -> Result<Self> {
        let id = config.id;
        let owners = OwnerLog::open(id, Arc::clone(&shelf), key)?;
        if owners.events().is_empty() {
            return Err(Error::damaged(&layout::owners(), &"there is no event in it"));
        }
        if owners.is_foreign() {
            report.foreign_owner_logs.push(id);
        }
        let copied_from = Mutex::new(copies::load(&*shelf)?);
        let (index, reconciled) = Index::open(folder, Arc::clone(&shelf))?;
        let worrying = !reconciled.vanished.is_empty() || !reconciled.unreadable.is_empty();
        report.add_index(reconciled);
        let records = Records::new(id, Arc::clone(&shelf));
        let bad = records.all()?.bad;
        report.unreadable_records.extend(bad.into_iter().map(|(name, error)| (name.to_string(), error.to_string())));
        let forgotten = ForgottenMarks::new(Arc::clone(&shelf));
        let packs = Arc::new(Packs { shelf, index, pending: Pending::default(), clock });
        let repository = Self {
            config,
            folder: folder.to_owned(),
            packs,
            records,
            forgotten,
            owners,
            copied_from,
            syncer: Mutex::default(),
            worries: Mutex::default(),
        };
        if worrying {
            repository.worry();
        }
        Ok(repository)
    }

    /// Its id.
    pub fn id(&self) -> RepositoryId {
        self.config.id
    }

    /// What a source has to know before it cuts the first chunk.
    pub fn parameters(&self) -> RepositoryParameters {
        RepositoryParameters { id: self.config.id, chunker: self.config.chunker }
    }

    /// When it was created, by this device's clock.
    pub fn created(&self) -> Timestamp {
        self.config.created
    }

    /// Whose it was and is, first to last.
    pub fn owner_log(&self) -> Vec<OwnerEvent> {
        self.owners.events()
    }

    /// The device that it belongs to now.
    pub fn owner(&self) -> Fingerprint {
        // A log without any event is not opened, so the zeros are never seen.
        owner_log::owner(&self.owners.events()).unwrap_or(Fingerprint::from_bytes([0; 32]))
    }

    /// What its owner called itself when it became that.
    pub fn alias(&self) -> Alias {
        owner_log::alias(&self.owners.events()).unwrap_or_else(|| Alias::new(""))
    }

    /// The records here are signed by the device that keeps them, for one that cannot sign: a LocalSend app.
    pub fn is_signed_by_receiver(&self) -> bool {
        self.owners.is_signed_by_receiver()
    }

    /// Whether a person may mean it by this text: an alias of an owner (whatever the case), former ones too, or the beginning of an
    /// owner's fingerprint or of its own id (at least four digits).
    pub fn answers_to(&self, text: &str) -> bool {
        let lower = text.to_lowercase();
        let by_id = text.len() >= 4 && self.id().to_string().starts_with(&lower);
        by_id
            || self.owner_log().iter().any(|event| {
                event.fingerprint().begins_with(text)
                    || event.alias().is_some_and(|alias| alias.as_str().to_lowercase() == lower)
            })
    }

    /// The keys (hex) whose records count here, oldest first.
    pub fn signers(&self) -> Vec<String> {
        self.owners.events().iter().map(|event| event.signer().to_owned()).collect()
    }

    /// Adds to the owner log: another device continues this repository, or its owner has changed keys.
    pub fn append_owner(&self, event: OwnerEvent) -> Result<()> {
        let _commit = Lock::exclusive(&self.lock("commit"))?;
        let adopted = matches!(event, OwnerEvent::Adopt { .. });
        self.owners.append(event)?;
        // Whom a person here lets continue it goes on with it here.
        if adopted { self.end_copy() } else { Ok(()) }
    }

    /// Those of `ids` (any number) that are not here, in their order. What is not durable yet counts as here; a commit makes
    /// sure.
    pub fn missing(&self, ids: &[ChunkId]) -> Result<Vec<ChunkId>> {
        self.packs.missing(ids)
    }

    /// Begins a pack. Several may be written at once.
    pub fn begin_pack(&self) -> Result<PackWriter> {
        let mut syncer = self.syncer.lock().unwrap_or_else(PoisonError::into_inner);
        if syncer.is_none() {
            let packs = Arc::clone(&self.packs);
            let thread = thread::Builder::new().name("store-sync".to_owned());
            let handle = thread.spawn(move || packs.sync_until_closed());
            *syncer = Some(handle.context("start a thread for", &self.folder)?);
        }
        drop(syncer);
        PackWriter::begin(Arc::clone(&self.packs))
    }

    /// All snapshots that can be read, by set and sequence; the forgotten ones too, marked, so that chains can be checked. What
    /// cannot be read is logged and does not hide the others.
    pub fn snapshots(&self) -> Result<Vec<SnapshotInfo>> {
        let all = self.records.all()?;
        for (name, error) in &all.bad {
            tracing::error!(%name, error = error as &dyn std::error::Error, "a record cannot be read");
        }
        let mut marks = self.forgotten.all()?;
        let info = |kept: &Arc<Kept>| SnapshotInfo { forgotten: marks.remove(&kept.info.id), ..kept.info.clone() };
        Ok(all.good.iter().map(info).collect())
    }

    /// One snapshot, forgotten or not.
    pub fn snapshot(&self, id: &SnapshotId) -> Result<Option<SnapshotInfo>> {
        let Some(kept) = self.records.all()?.find(id).cloned() else { return Ok(None) };
        Ok(Some(SnapshotInfo { forgotten: self.forgotten.all()?.remove(id), ..kept.info.clone() }))
    }

    /// The newest snapshot of a set.
    pub fn head(&self, set: &SetName) -> Result<Option<SnapshotInfo>> {
        Ok(self.records.all()?.head(set)?.map(|kept| kept.info.clone()))
    }

    /// Makes a snapshot exist: checks the record and every chunk that it needs, makes all of that durable, then the record
    /// with a receipt that says that `from` brought it. When this has returned, the snapshot survives a power cut. The same
    /// record again answers what is there.
    ///
    /// # Errors
    /// [`Error::Missing`] names what must be sent (again), [`Error::Stale`] the head that a record must follow.
    ///
    /// A list that cannot be read from its pack would keep the set from going on for ever: the pack is set aside, and what it
    /// held is missing, and so is sent again. Snapshots that had lost something may be whole with what came.
    pub fn commit(&self, signed: &SignedRecord, from: Fingerprint) -> Result<SnapshotInfo> {
        for _ in 0..MAX_SET_ASIDE {
            match self.try_commit(signed, from) {
                Err(Error::Chunk { pack, .. } | Error::Pack { pack, .. })
                    if self.set_pack_aside(pack)? != Fate::Whole => {}
                Err(error) => return Err(error),
                Ok(info) => {
                    // The snapshot is safe, whatever becomes of the marks.
                    if let Err(error) = self.look_for_healed() {
                        tracing::warn!(error = &error as &dyn std::error::Error, "marks of damage cannot be looked at");
                    }
                    return Ok(info);
                }
            }
        }
        self.try_commit(signed, from)
    }

    fn try_commit(&self, signed: &SignedRecord, from: Fingerprint) -> Result<SnapshotInfo> {
        let record = self.check_record(signed)?;
        let id = signer::snapshot_id(signed);
        // A record that cannot come next is refused before the long part; who came next meanwhile is seen after it.
        if let Some(there) = self.follows(&record, id)? {
            return self.settle_copy(&record, there);
        }
        let _prune = Lock::shared(&self.lock("prune"))?;
        self.require(&record)?;
        let _commit = Lock::exclusive(&self.lock("commit"))?;
        if let Some(there) = self.follows(&record, id)? {
            return Ok(there);
        }
        let receipt = self.receipt(id, from)?;
        // Given up while it was not here: that is over. Before the record, so that it never counts for one that is here.
        self.forgotten.end_given_up(&id)?;
        Ok(self.records.save(record, signed.clone(), receipt)?.info.clone())
    }

    /// Makes everything that was put durable, and checks that all that a record needs is there.
    pub(crate) fn require(&self, record: &Record) -> Result<()> {
        self.packs.pending.drain();
        let mut missing = stream::missing(&self.packs, record)?;
        // What the source was told is there may have gone to the trash since.
        while !missing.is_empty() && trash::rescue(&self.packs, &missing)? > 0 {
            missing = stream::missing(&self.packs, record)?;
        }
        if !missing.is_empty() && self.packs.index.doubt(self.packs.clock.instant())? {
            missing = stream::missing(&self.packs, record)?;
        }
        if missing.is_empty() {
            return Ok(());
        }
        // To ask for what there is no room for would go round in circles.
        Err(if self.packs.pending.take_full() { Error::Full } else { Error::Missing(missing) })
    }

    /// What this device says about a record that it takes now.
    pub(crate) fn receipt(&self, record: SnapshotId, from: Fingerprint) -> Result<Receipt> {
        let now = self.packs.clock.now();
        let after_last = self.records.all()?.last_receipt().map(|last| {
            // At the end of time all receipts are equal; nobody will mind.
            last.saturating_add(SignedDuration::from_secs(1)).unwrap_or(Timestamp::MAX)
        });
        Ok(Receipt { record, received_at: after_last.map_or(now, |after| now.max(after)), from })
    }

    /// Brings a forgotten snapshot back, while its data is there.
    ///
    /// # Errors
    /// [`Error::Gone`] when it is not; [`Error::Refused`] for one that is not forgotten.
    pub fn bring_back(&self, id: &SnapshotId) -> Result<()> {
        let _only = only_pruner(self)?;
        let all = self.records.all()?;
        let kept = all.find(id).filter(|_| self.forgotten.all().is_ok_and(|marks| marks.contains_key(id)));
        let kept = kept.ok_or_else(|| Error::Refused("it is not a forgotten snapshot".to_owned()))?;
        let _prune = Lock::shared(&self.lock("prune"))?;
        let mut missing = stream::missing(&self.packs, &kept.record)?;
        while !missing.is_empty() && trash::rescue(&self.packs, &missing)? > 0 {
            missing = stream::missing(&self.packs, &kept.record)?;
        }
        if !missing.is_empty() {
            return Err(Error::Gone { id: *id, missing: missing.len() });
        }
        self.forgotten.bring_back(id, self.packs.clock.now())
    }

    /// Waits until everything that was finished before is durable.
    ///
    /// # Errors
    /// [`Error::NotDurable`] when packs were thrown away since the last call: their chunks are missing again.
    pub fn sync(&self) -> Result<()> {
        self.packs.pending.drain();
        match self.packs.pending.take_lost() {
            0 => Ok(()),
            lost => Err(Error::NotDurable(lost)),
        }
    }

    /// Bytes of all packs, those that are not durable yet included.
    pub fn stored_bytes(&self) -> Result<u64> {
        Ok(self.packs.index.stored_bytes()? + self.packs.pending.bytes())
    }

    /// Bytes of all records that can be read, without their receipts.
    pub fn record_bytes(&self) -> Result<u64> {
        Ok(self.records.all()?.good.iter().map(|kept| kept.info.signed.record.len() as u64).sum())
    }

    /// Reads `config.json` again.
    pub(crate) fn check_config(&self) -> Result<()> {
        let bytes = self.packs.shelf.get(&layout::config())?;
        let config: Config = crate::store::sealed_file::parse(Path::new(layout::config().as_str()), bytes)?;
        let same = config.id == self.config.id && config.chunker == self.config.chunker;
        if same { Ok(()) } else { Err(Error::damaged(&layout::config(), &"it belongs to another repository")) }
    }

    /// Reads the owner log again, from its first event.
    pub(crate) fn check_owners(&self) -> Result<()> {
        self.owners.read_anew()
    }

    /// Reads all records from the disk again.
    pub(crate) fn read_records_anew(&self) -> Result<All> {
        Records::new(self.config.id, Arc::clone(&self.packs.shelf)).all()
    }

    /// How it is, as far as that is known without reading it anew.
    pub fn health(&self) -> Result<Health> {
        Health::load(&*self.packs.shelf)
    }

    pub(crate) fn lock(&self, name: &str) -> PathBuf {
        self.folder.join(LOCKS).join(name)
    }

    /// Everything about a record that can be checked without looking at chunks.
    pub(crate) fn check_record(&self, signed: &SignedRecord) -> Result<Record> {
        let refuse = |text: &str| Err(Error::Refused(text.to_owned()));
        if signed.record.len() + signed.signature.len() + RECEIPT_ROOM > MAX_RECORD_BYTES {
            return Err(Error::TooLarge { what: "a record", limit: (MAX_RECORD_BYTES - RECEIPT_ROOM) as u64 });
        }
        if signed.record.contains(['\n', '\r']) {
            return refuse("it is not on one line");
        }
        let record = signer::open_record(signed)?;
        if record.repository != self.config.id {
            return refuse("it belongs to another repository");
        }
        if !self.signers().contains(&record.signer) {
            return Err(Error::UnknownSigner);
        }
        if record.roots.len() > MAX_SET_ROOTS {
            return refuse("it has more than 256 roots");
        }
        if record.totals.entries > MAX_MANIFEST_ENTRIES {
            return refuse("it has more than 5,000,000 entries");
        }
        stream::check_shape(&record)?;
        Ok(record)
    }

    /// Whether the record comes next in its chain; the snapshot, durable, when it was committed before.
    pub(crate) fn follows(&self, record: &Record, id: SnapshotId) -> Result<Option<SnapshotInfo>> {
        let all = self.records.all()?;
        if let Some(kept) = all.find(&id) {
            self.records.confirm(kept)?;
            return Ok(Some(kept.info.clone()));
        }
        let head = all.head(&record.set)?;
        let expected = head.as_ref().map_or((None, 1), |head| (Some(head.info.id), head.record.sequence + 1));
        if (record.previous, record.sequence) == expected {
            Ok(None)
        } else {
            Err(Error::Stale(head.map(|head| Box::new(head.info.clone()))))
        }
    }
}

impl Drop for Repository {
    fn drop(&mut self) {
        self.packs.pending.close();
        let syncer = self.syncer.get_mut().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(syncer) = syncer {
            // A syncer that panicked has abandoned its queue and said so in the log.
            let _ = syncer.join();
        }
    }
}
