//! Disks that are away for a moment, and rights that are missing: no damage, and no reason to stop looking at the rest.

use crate::bit_rot::{flip, look};
use crate::prune::{chunks, prune};
use crate::store_support::{OWNER, assert_whole, back_up, clock, files, new_repository, receiver_key};
use jiff::Timestamp;
use lan_backup::model::Keep;
use lan_backup::monitor::Silent;
use lan_backup::platform;
use lan_backup::platform::clock::Clock;
use lan_backup::platform::shutdown::Shutdown;
use lan_backup::store::layout::ObjectName;
use lan_backup::store::repair::repair;
use lan_backup::store::scrubber::{News, Scrubber};
use lan_backup::store::set_aside::Fate;
use lan_backup::store::shelf::{Draft, Object, Shelf};
use lan_backup::store::verify::Share;
use lan_backup::store::{FolderShelf, Repository, Store};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

const EIO: i32 = 5;
const EACCES: i32 = 13;
const ESTALE: i32 = 116;

/// What fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Call {
    List,
    Open,
    Read,
}

/// Calls on names that hold a text fail, after so many that do not.
#[derive(Debug, Default)]
struct Faults(Mutex<Vec<(Call, String, u64, i32)>>);

impl Faults {
    fn set(&self, call: Call, part: &str, after: u64, error: i32) {
        self.0.lock().unwrap().push((call, part.to_owned(), after, error));
    }

    fn clear(&self) {
        self.0.lock().unwrap().clear();
    }

    fn pass(&self, call: Call, name: &ObjectName) -> platform::Result<()> {
        let mut faults = self.0.lock().unwrap();
        match faults.iter_mut().find(|fault| fault.0 == call && name.as_str().contains(&fault.1)) {
            Some((.., after, error)) if *after == 0 => {
                let source = io::Error::from_raw_os_error(*error);
                Err(platform::Error { action: "reach", path: name.as_str().into(), source })
            }
            Some((.., after, _)) => {
                *after -= 1;
                Ok(())
            }
            None => Ok(()),
        }
    }
}

#[derive(Debug)]
struct FaultyShelf {
    inner: FolderShelf,
    faults: Arc<Faults>,
}

#[derive(Debug)]
struct FaultyObject {
    inner: Arc<dyn Object>,
    name: ObjectName,
    faults: Arc<Faults>,
}

impl Object for FaultyObject {
    fn length(&self) -> platform::Result<u64> {
        self.inner.length()
    }

    fn read_at(&self, offset: u64, length: usize) -> platform::Result<Vec<u8>> {
        self.faults.pass(Call::Read, &self.name)?;
        self.inner.read_at(offset, length)
    }
}

impl Shelf for FaultyShelf {
    fn draft(&self) -> platform::Result<Box<dyn Draft>> {
        self.inner.draft()
    }

    fn open(&self, name: &ObjectName) -> platform::Result<Arc<dyn Object>> {
        self.faults.pass(Call::Open, name)?;
        let (inner, faults) = (self.inner.open(name)?, Arc::clone(&self.faults));
        Ok(Arc::new(FaultyObject { inner, name: name.clone(), faults }))
    }

    fn list(&self, folder: &ObjectName) -> platform::Result<Vec<ObjectName>> {
        self.faults.pass(Call::List, folder)?;
        self.inner.list(folder)
    }

    fn confirm(&self, names: &[ObjectName]) -> platform::Result<()> {
        self.inner.confirm(names)
    }

    fn delete(&self, name: &ObjectName) -> platform::Result<()> {
        self.inner.delete(name)
    }

    fn rename(&self, from: &ObjectName, to: &ObjectName) -> platform::Result<()> {
        self.inner.rename(from, to)
    }
}

fn open(folder: &Path) -> (Store, Arc<Repository>, Arc<Faults>) {
    let faults = Arc::new(Faults::default());
    let shared = Arc::clone(&faults);
    let wrap = Box::new(move |inner: FolderShelf| -> Arc<dyn Shelf> {
        Arc::new(FaultyShelf { inner, faults: Arc::clone(&shared) })
    });
    let (store, _) = Store::open_wrapped(folder, clock(), receiver_key(), wrap).unwrap();
    let repository = store.owned_by(&OWNER).unwrap();
    (store, repository, faults)
}

/// The packs of a store, the largest first.
fn packs(folder: &Path) -> Vec<PathBuf> {
    let mut packs = files(folder);
    packs.retain(|path| path.to_string_lossy().contains("/packs/") && !path.to_string_lossy().contains("/quarantine/"));
    packs.sort_by_key(|path| std::cmp::Reverse(fs::metadata(path).unwrap().len()));
    packs
}

fn name(path: &Path) -> String {
    path.file_name().unwrap().to_str().unwrap().to_owned()
}

fn scrub(scrubber: &mut Scrubber, now: Timestamp) -> Vec<News> {
    let mut news = Vec::new();
    loop {
        let step = scrubber.step(now, &Shutdown::new()).unwrap();
        news.extend(step.news);
        if step.rest_until.is_some() {
            return news;
        }
    }
}

#[test]
fn a_pack_that_cannot_be_opened_stops_no_scrub_no_look_and_no_repair() {
    let folder = tempfile::tempdir().unwrap();
    let (store, repository) = new_repository(folder.path());
    let made = back_up(&repository, "documents", chunks(1, 40));
    drop((store, repository));
    let all = packs(folder.path());
    for error in [EACCES, ESTALE] {
        // That with the contents, and that with the lists.
        for pack in &all {
            let (store, repository, faults) = open(folder.path());
            fs::remove_file(
                files(folder.path())
                    .iter()
                    .find(|path| path.ends_with("scrub.json"))
                    .unwrap_or(&folder.path().join("x")),
            )
            .ok();
            faults.set(Call::Open, &name(pack), 0, error);
            assert_eq!(scrub(&mut Scrubber::new(store.clone()), clock().now()), []);
            let health = repository.health().unwrap();
            assert_eq!((health.packs, health.packs_never_read), (all.len() as u64, 1), "the others were read");
            let found = look(&store, Share::None);
            assert_eq!(found.snapshots, [], "{found:#?}");
            assert!(found.files.iter().any(|file| pack.ends_with(&file.path) && !file.repairable), "{found:#?}");
            let report = repair(&store, &Silent, &Shutdown::new()).unwrap();
            assert!(report.repaired.is_empty() && !report.is_whole(), "{report:#?}");
            // The index was not built anew without it, and nothing is left of the attempt.
            assert!(!files(folder.path()).iter().any(|path| path.to_string_lossy().contains("sqlite.new")));
            faults.clear();
            assert_whole(&repository, &made);
            assert!(look(&store, Share::None).is_clean());
        }
    }
    // What the medium cannot give is damage.
    let (store, _repository, faults) = open(folder.path());
    fs::remove_file(files(folder.path()).iter().find(|path| path.ends_with("scrub.json")).unwrap()).unwrap();
    faults.set(Call::Open, &format!("packs/{}/{}", &name(&all[0])[..2], name(&all[0])), 0, EIO);
    let news = scrub(&mut Scrubber::new(store.clone()), clock().now());
    assert!(
        matches!(
            &news[..],
            [News::File { fate: Fate::SetAside { saved_chunks: 0, lost_chunks: 40, .. }, .. }, News::Damaged(_)]
        ),
        "{news:#?}"
    );
}

#[test]
fn what_was_found_is_told_although_what_comes_next_fails() {
    let folder = tempfile::tempdir().unwrap();
    let (store, repository) = new_repository(folder.path());
    back_up(&repository, "documents", chunks(1, 40));
    drop((store, repository));
    let (store, _repository, faults) = open(folder.path());
    let mut scrubber = Scrubber::new(store);
    assert_eq!(scrub(&mut scrubber, clock().now()), []);
    let bad = packs(folder.path()).remove(0);
    flip(&bad, fs::metadata(&bad).unwrap().len() * 4);
    let later = clock().now() + jiff::SignedDuration::from_hours(24 * 31);
    // The daily look comes first. Then the marks cannot be listed, and the pack is set aside by then.
    scrubber.step(later, &Shutdown::new()).unwrap();
    faults.set(Call::List, "damage", 0, EIO);
    let mut failed = 0;
    for _ in 0..5 {
        failed += u64::from(scrubber.step(later, &Shutdown::new()).is_err());
    }
    assert!(failed > 0 && !bad.exists());
    faults.clear();
    let news = scrub(&mut scrubber, later);
    let aside = news.iter().filter(|news| matches!(news, News::File { fate: Fate::SetAside { .. }, .. })).count();
    let damaged = news.iter().filter(|news| matches!(news, News::Damaged(_))).count();
    assert_eq!((aside, damaged), (1, 1), "{news:#?}");
}

#[test]
fn what_lies_in_the_trash_and_cannot_be_read_at_the_moment_is_noted_and_never_deleted() {
    let folder = tempfile::tempdir().unwrap();
    let (store, repository) = new_repository(folder.path());
    back_up(&repository, "documents", chunks(1, 40));
    drop((store, repository));
    let pack = packs(folder.path()).remove(0);
    let trash = pack.ancestors().nth(3).unwrap().join("trash");
    fs::create_dir_all(&trash).unwrap();
    // Long ago, and what is in it is needed.
    let trashed = trash.join(format!("000000000001-{}", name(&pack)));
    fs::rename(&pack, &trashed).unwrap();
    let (store, repository, faults) = open(folder.path());
    for call in [Call::Open, Call::Read] {
        faults.set(call, "trash/", 0, ESTALE);
        let found = look(&store, Share::None);
        assert!(found.notes.iter().any(|note| note.contains("cannot be read at the moment")), "{found:#?}");
        let rules = |_: &_| Some(Keep::default());
        let options = crate::prune::options();
        let pruned = lan_backup::store::prune::Prune::prepare(
            &repository,
            &rules,
            &options,
            lan_backup::store::prune::Purpose::Run,
            &|| false,
        );
        assert!(pruned.and_then(lan_backup::store::prune::Prune::run).is_err());
        assert!(trashed.exists());
        faults.clear();
    }
    assert_eq!(prune(&repository, &Keep::default()).put_back.packs, 1);
    assert!(pack.exists() && look(&store, Share::All).is_clean());
}

#[test]
fn a_record_that_is_read_right_the_second_time_or_not_at_all_is_not_set_aside() {
    let folder = tempfile::tempdir().unwrap();
    let (store, repository) = new_repository(folder.path());
    back_up(&repository, "documents", chunks(1, 4));
    drop((store, repository));
    let record = files(folder.path()).into_iter().find(|path| path.to_string_lossy().contains("/records/")).unwrap();
    let whole = fs::read(&record).unwrap();
    let mut torn = whole.clone();
    torn[100..200].fill(0);
    fs::write(&record, torn).unwrap();
    let (_store, repository, faults) = open(folder.path());
    // Listed, it is damaged; then the disk is away.
    faults.set(Call::Open, "records/", 1, ESTALE);
    assert!(repository.set_damaged_records_aside().is_err());
    assert!(record.exists());
    faults.clear();
    fs::write(&record, whole).unwrap();
    assert_eq!(repository.set_damaged_records_aside().unwrap(), 0);
    assert_eq!(repository.snapshots().unwrap().len(), 1);
}
