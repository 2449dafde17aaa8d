//! The life of a store on a simulated disk: what was promised to its source, and whether it is kept. Nine days go by before each prune.

use crate::prune::options;
use crate::store_support::{Made, OWNER, assert_whole, clock, noise, receiver_key, source_key};
use crate::support::dice::Dice;
use crate::support::simulated_disk::{End, Faults, SimulatedDisk};
use lan_backup::model::{Alias, Keep, OwnerEvent, RepositoryId, SetName, SnapshotId, SnapshotInfo};
use lan_backup::platform::clock::{Clock, ManualClock};
use lan_backup::platform::disk::Disk;
use lan_backup::store::prune::{Obstacle, Prune, Purpose};
use lan_backup::store::{self, Error, RecoveryReport, Repository, Store, pack};
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// Between two prunes: what the first has forgotten is thrown away by the second, and deleted by the third.
const NINE_DAYS: Duration = Duration::from_hours(24 * 9);
/// Tries of one snapshot, as a source makes them.
const TRIES: u32 = 4;

/// A store, and what it said.
pub(crate) struct Life {
    root: tempfile::TempDir,
    pub(crate) disk: Arc<SimulatedDisk>,
    pub(crate) dice: Dice,
    clock: Arc<ManualClock>,
    /// The repository, once it was promised. There is never a second one.
    repository: Option<RepositoryId>,
    /// Owner events after the first that were promised.
    owners: usize,
    /// All snapshots that were ever tried, and whether they were promised.
    made: BTreeMap<SnapshotId, (Made, bool)>,
    number: u64,
    /// Packs that went to the trash and packs that were deleted.
    pub(crate) pruned: (u64, u64),
    /// An index of an earlier day has come back, after a prune.
    index_is_old: bool,
    prunes: u64,
}

/// What one of a store's processes did.
#[derive(Debug, Default)]
pub(crate) struct Done {
    pub(crate) report: RecoveryReport,
    pub(crate) acknowledged: usize,
    pub(crate) errors: Vec<Error>,
}

impl Life {
    pub(crate) fn new(seed: u64, faults: Faults) -> Self {
        let root = crate::support::scratch::scratch();
        let disk = SimulatedDisk::new(root.path(), seed, faults);
        let (repository, made) = (None, BTreeMap::new());
        let (dice, number) = (Dice::new(!seed), seed << 16);
        Self {
            root,
            disk,
            dice,
            clock: clock(),
            repository,
            owners: 0,
            made,
            number,
            pruned: (0, 0),
            index_is_old: false,
            prunes: 0,
        }
    }

    /// The store does not lie in the disk's root: the folders above it are new, too.
    fn folder(&self) -> PathBuf {
        self.root.path().join("share/store")
    }

    fn open(&self) -> store::Result<(Store, RecoveryReport)> {
        let disk = Arc::clone(&self.disk) as Arc<dyn Disk>;
        Store::open_on(disk, &self.folder(), self.clock.clone(), receiver_key(), Box::new(|shelf| Arc::new(shelf)))
    }

    /// One process: opens the store, takes `steps` snapshots, owner events and prunes, and closes it. Goes on after errors until the disk
    /// is over.
    pub(crate) fn live(&mut self, steps: u64) -> Done {
        let mut done = Done::default();
        let (store, report) = match self.open() {
            Ok(opened) => opened,
            Err(error) => {
                done.errors.push(error);
                return done;
            }
        };
        done.report = report;
        let repository = match store.owned_by(&OWNER) {
            Some(repository) => Ok(repository),
            None => store.create_repository(OWNER, &source_key().public(), Alias::new("laptop")),
        };
        let repository = match repository {
            Ok(repository) => repository,
            Err(error) => {
                done.errors.push(error);
                return done;
            }
        };
        assert_eq!(*self.repository.get_or_insert(repository.id()), repository.id(), "a second repository was made");
        for _ in 0..steps {
            if self.disk.is_over() {
                break;
            }
            let result = match self.dice.below(8) {
                0 => self.adopt(&repository),
                1 | 2 => self.prune(&repository),
                _ => self.back_up(&repository),
            };
            match result {
                Ok(acknowledged) => done.acknowledged += acknowledged,
                Err(error) => done.errors.push(error),
            }
        }
        done
    }

    fn adopt(&mut self, repository: &Repository) -> store::Result<usize> {
        let before = repository.owner_log().len();
        repository.append_owner(OwnerEvent::Adopt {
            fingerprint: OWNER,
            signer: source_key().public(),
            alias: Alias::new(&format!("laptop {before}")),
            at: jiff::Timestamp::UNIX_EPOCH,
        })?;
        self.owners = self.owners.max(before);
        Ok(0)
    }

    /// As its owner does it, or `serve` for him.
    fn prune(&mut self, repository: &Repository) -> store::Result<usize> {
        self.clock.advance(NINE_DAYS);
        self.prunes += 1;
        let keep = Keep { last: 1 + self.dice.below(2) as u32, ..Keep::default() };
        let rules = |_: &SetName| Some(keep.clone());
        let report = Prune::prepare(repository, &rules, &options(), Purpose::Run, &|| false)?.run()?;
        assert!(matches!(report.obstacle, None | Some(Obstacle::Stopped | Obstacle::Full)), "{report:?}");
        self.pruned = (self.pruned.0 + report.thrown_away.packs, self.pruned.1 + report.deleted.packs);
        Ok(0)
    }

    /// As a source does it: what is missing is sent again, and a commit that failed is tried again.
    fn back_up(&mut self, repository: &Repository) -> store::Result<usize> {
        self.number += 1;
        let chunks = 1 + self.dice.below(5);
        // Much of it was in the one before, too, so that packs are partly needed.
        let files = (0..chunks).map(|n| {
            let seed = (self.number - self.dice.below(2)) << 8 | n;
            noise(seed, 100 + (seed.wrapping_mul(0x9e37_79b9) >> 7) as usize % 1500)
        });
        let files = files.collect();
        let set = ["documents", "photos"][self.dice.below(2) as usize];
        let made = Made::try_new(repository, set, files)?;
        let (id, signed) = (made.id(), made.signed());
        self.made.insert(id, (made, false));
        let mut tries = 0;
        loop {
            tries += 1;
            let Some((made, promised)) = self.made.get_mut(&id) else { return Ok(0) };
            match made.try_put(repository).and_then(|()| repository.commit(&signed, OWNER)) {
                Ok(info) => {
                    assert_eq!(info.id, id);
                    *promised = true;
                    return Ok(1);
                }
                Err(error) if tries == TRIES || self.disk.is_over() => return Err(error),
                Err(_) => {}
            }
        }
    }

    /// The end of it, and what is there afterwards, without further faults.
    pub(crate) fn end(&mut self, end: End, index: Index) {
        let old = self.root.path().join("old index");
        self.index_is_old = index == Index::Old && self.prunes > 0;
        let current = self.index_files();
        match index {
            Index::Kept => {}
            Index::Lost => current.iter().for_each(|path| std::fs::remove_file(path).unwrap()),
            // One of an earlier day comes back.
            Index::Old => {
                for path in &current {
                    let name = path.file_name().unwrap();
                    std::fs::remove_file(path).unwrap();
                    if old.join(name).exists() {
                        std::fs::copy(old.join(name), path).unwrap();
                    }
                }
            }
        }
        let _ = std::fs::remove_dir_all(&old);
        // Beside the disk's own folders, so that it is not taken for one of them.
        self.disk = self.disk.restart(end, Faults::default());
        std::fs::create_dir_all(&old).unwrap();
        for path in self.index_files() {
            std::fs::copy(&path, old.join(path.file_name().unwrap())).unwrap();
        }
    }

    fn index_files(&self) -> Vec<PathBuf> {
        let repositories = self.folder().join("repositories");
        let Ok(entries) = std::fs::read_dir(repositories) else { return Vec::new() };
        let folders = entries.map(|entry| entry.unwrap().path());
        let files = folders.flat_map(|folder| std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()));
        files.filter(|path| path.to_string_lossy().contains("index.sqlite")).collect()
    }

    /// Everything that was promised is there, whatever shows is whole, and the store can be used. Says what is not so.
    pub(crate) fn check(&self) -> Result<RecoveryReport, String> {
        catch_unwind(AssertUnwindSafe(|| self.assert_kept())).map_err(|panic| {
            let text = panic.downcast_ref::<String>().cloned();
            text.or_else(|| panic.downcast_ref::<&str>().map(ToString::to_string)).unwrap_or_default()
        })
    }

    fn assert_kept(&self) -> RecoveryReport {
        let (store, report) = self.open().unwrap();
        // An index of an earlier day knows packs that were pruned since: that they are gone is said, and hurts nobody, as is seen below.
        let told = RecoveryReport { vanished_packs: Vec::new(), ..report.clone() };
        assert!(told.is_harmless() && (report.is_harmless() || self.index_is_old), "{report}");
        let Some(repository) = self.repository.map(|id| store.repository(&id).expect("the repository is gone")) else {
            return report;
        };
        let events = repository.owner_log().len();
        assert!(events > self.owners, "{events} events, {} promised", self.owners + 1);
        let shown = repository.snapshots().unwrap();
        for (id, (_, promised)) in &self.made {
            assert!(!promised || shown.iter().any(|info| info.id == *id), "snapshot {id} was promised and is gone");
        }
        let owed = |info: &&SnapshotInfo| info.forgotten.as_ref().is_none_or(|mark| mark.until > self.clock.now());
        for info in shown.iter().filter(owed) {
            assert_whole(&repository, &self.made[&info.id].0);
        }
        let packs = self.folder().join("repositories").join(repository.id().to_string()).join("packs");
        self.assert_packs_whole(&packs);
        report
    }

    fn assert_packs_whole(&self, folder: &Path) {
        if !self.disk.exists(folder).unwrap() {
            return;
        }
        for (name, _) in self.disk.list(folder).unwrap() {
            for (pack, _) in self.disk.list(&folder.join(&name)).unwrap() {
                let object = self.disk.open(&folder.join(&name).join(&pack)).unwrap();
                let (_, id, _) = pack::verify(&*object).unwrap_or_else(|error| panic!("{pack:?}: {error:?}"));
                assert_eq!(pack.to_str(), Some(id.to_string().as_str()));
            }
        }
    }

    /// How many snapshots were promised.
    pub(crate) fn promised(&self) -> usize {
        self.made.values().filter(|(_, promised)| *promised).count()
    }
}

/// What becomes of the index when it ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Index {
    Kept,
    Lost,
    Old,
}
