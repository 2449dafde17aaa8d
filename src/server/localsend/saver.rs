//! Saves what a LocalSend app sends as plain files in the inbox folder.
//!
//! Through [`RootDir`] only: one checked name at a time, never through a link. A file is written under a temporary name beside its
//! place; when it is whole and its hash is right it waits for a few others, then all are synced at once, renamed, and their folders
//! synced, on a thread beside those that take the next ones. So nothing partial ever has a final name, and an fsync is shared. What is
//! there already with the same content is not kept twice; what is there with other content is left alone, and the new file gets the next
//! free ` (2)`. Blocking.

use crate::model::{ContentHash, FileTime, Name, RelPath};
use crate::platform::attributes;
use crate::platform::root_dir::{self, Replace, RootDir, WriteBack};
use crate::platform::{Context, Error, Result, fs, random};
use crate::server::localsend::sessions::Wanted;
use sha2::{Digest, Sha256};
use std::collections::BTreeSet;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

/// Begins every temporary name.
const TEMPORARY: &str = ".lan-backup-";
/// Files that are made durable together.
const TOGETHER: usize = 256;
/// Or so many bytes.
const TOGETHER_BYTES: u64 = 64 << 20;
/// Files synced at once: the file system's journal takes them as one, so the more wait together the fewer wait for another.
const SYNC_THREADS: usize = 32;
/// Tries of a name before it is given up.
const MAX_NAMES: u32 = 1000;
/// Bytes compared or hashed at a time.
const PIECE: usize = 256 << 10;
/// What a saved file may be read by.
const FILE_MODE: u32 = 0o644;

/// The inbox folder, for one session.
#[derive(Debug)]
pub(crate) struct Saver {
    path: PathBuf,
    root: RootDir,
    waiting: Mutex<Vec<Part>>,
    // What is being made durable beside the uploads; one lot at a time.
    settling: Mutex<Option<JoinHandle<io::Result<()>>>>,
    saved: Mutex<Saved>,
}

/// What was saved.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Saved {
    /// New files.
    pub(crate) files: u64,
    /// Their bytes.
    pub(crate) bytes: u64,
    /// Were there already with the same content.
    pub(crate) known: u64,
    /// Got another name, because theirs was taken.
    pub(crate) renamed: u64,
}

/// A whole file under its temporary name.
#[derive(Debug)]
struct Part {
    folder: Arc<RootDir>,
    temporary: Name,
    name: Name,
    path: RelPath,
    file: fs::File,
    bytes: u64,
}

impl Drop for Part {
    fn drop(&mut self) {
        // After a rename the name is gone and this does nothing.
        let _ = self.folder.remove_file(&self.temporary);
    }
}

impl Saver {
    /// Saves into the folder at `path`, which is made when it is not there.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        fs::create_dir_all(path)?;
        let root = RootDir::open(path).context("open", path)?;
        let (waiting, settling, saved) = (Mutex::default(), Mutex::default(), Mutex::default());
        Ok(Self { path: path.to_owned(), root, waiting, settling, saved })
    }

    /// Where it saves.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// What was saved since it was asked last.
    pub(crate) fn take_saved(&self) -> Saved {
        std::mem::take(&mut *self.saved.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Bytes that can still be written.
    pub(crate) fn free_bytes(&self) -> Result<u64> {
        fs::free_bytes(&self.path)
    }

    /// Whether the file is there: the same name and size, and the same time or the same hash, when they are given.
    pub(crate) fn holds(&self, wanted: &Wanted) -> bool {
        self.try_holds(wanted).unwrap_or(false)
    }

    fn try_holds(&self, wanted: &Wanted) -> io::Result<bool> {
        let Some(folder) = self.folder_of(&wanted.path, Missing::Tell)? else { return Ok(false) };
        let Ok(mut file) = folder.open_file(&wanted.path.name()) else { return Ok(false) };
        let metadata = file.metadata()?;
        if metadata.len() != wanted.size {
            return Ok(false);
        }
        if let Some(sha256) = wanted.sha256 {
            return Ok(hash(&mut file)? == sha256);
        }
        Ok(wanted.mtime == Some(attributes::modified(&metadata)))
    }

    /// Begins a file.
    pub(crate) fn begin(&self, path: &RelPath) -> Result<Saving> {
        self.try_begin(path).context("save in", &self.path)
    }

    fn try_begin(&self, path: &RelPath) -> io::Result<Saving> {
        let folder = self.folder_of(path, Missing::Make)?.ok_or(io::ErrorKind::NotFound)?;
        let unique = u64::from_le_bytes(random::bytes());
        let temporary = Name::new(format!("{TEMPORARY}{unique:016x}.part")).map_err(io::Error::other)?;
        let file = folder.create_file(&temporary)?;
        let folder = Arc::new(folder);
        let part = Part { folder, temporary, name: path.name(), path: path.clone(), file, bytes: 0 };
        Ok(Saving { part, write_back: WriteBack::default() })
    }

    /// The file is whole; it waits to be made durable together with others. Fails, too, when those before it could not be.
    pub(crate) fn finish(self: &Arc<Self>, saving: Saving, time: Option<FileTime>) -> Result<()> {
        let set = || {
            root_dir::set_permissions(&saving.part.file, FILE_MODE)?;
            time.map_or(Ok(()), |time| root_dir::set_modified(&saving.part.file, time))
        };
        set().context("save in", &self.path)?;
        let parts = {
            let mut waiting = self.waiting();
            waiting.push(saving.part);
            let bytes: u64 = waiting.iter().map(|part| part.bytes).sum();
            if waiting.len() < TOGETHER && bytes < TOGETHER_BYTES {
                return Ok(());
            }
            std::mem::take(&mut *waiting)
        };
        let mut settling = self.settling.lock().unwrap_or_else(PoisonError::into_inner);
        let before = joined(settling.take());
        let this = self.clone();
        let begun = std::thread::Builder::new().name("inbox-sync".to_owned()).spawn(move || this.try_settle(&parts));
        let begun = begun.map(|thread| *settling = Some(thread));
        before.and(begun).context("save in", &self.path)
    }

    /// Makes everything that is whole durable under its final name, what others are busy with included.
    pub(crate) fn settle(&self) -> Result<()> {
        let mut settling = self.settling.lock().unwrap_or_else(PoisonError::into_inner);
        let before = joined(settling.take());
        let parts = std::mem::take(&mut *self.waiting());
        let rest = self.try_settle(&parts);
        before.and(rest).context("save in", &self.path)
    }

    fn try_settle(&self, parts: &[Part]) -> io::Result<()> {
        sync_all(parts)?;
        let mut folders = BTreeSet::new();
        let mut first_failure = Ok(());
        for part in parts {
            let placed = match place(part) {
                Ok(placed) => placed,
                Err(error) => {
                    // One that finds no place takes no other with it.
                    first_failure = first_failure.and(Err(error));
                    continue;
                }
            };
            let mut saved = self.saved.lock().unwrap_or_else(PoisonError::into_inner);
            match placed {
                Placed::Known => saved.known += 1,
                Placed::New { renamed } => {
                    saved.files += 1;
                    saved.bytes += part.bytes;
                    saved.renamed += u64::from(renamed);
                }
            }
            // All above it, too: any of them may be new, whoever made it.
            let above = std::iter::successors(part.path.parent(), RelPath::parent);
            folders.extend(above);
        }
        if !parts.is_empty() {
            self.root.sync()?;
        }
        for folder in folders {
            let mut open = RootDir::open_again(&self.root)?;
            for component in folder.components() {
                open = open.open_folder(&Name::new(component).map_err(io::Error::other)?)?;
            }
            open.sync()?;
        }
        first_failure
    }

    /// The folder that a file lies in; `None` when it is not there and is not to be made.
    fn folder_of(&self, path: &RelPath, missing: Missing) -> io::Result<Option<RootDir>> {
        let mut folder = RootDir::open_again(&self.root)?;
        let count = path.depth() - 1;
        for component in path.components().take(count) {
            let name = Name::new(component).map_err(io::Error::other)?;
            folder = match folder.open_folder(&name) {
                Ok(inner) => inner,
                Err(error) if error.kind() == io::ErrorKind::NotFound && missing == Missing::Make => {
                    match folder.create_folder(&name) {
                        // It may be that another upload was faster. It is durable when what comes into it is.
                        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
                        _ => {}
                    }
                    folder.open_folder(&name)?
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
                Err(error) => return Err(error),
            };
        }
        Ok(Some(folder))
    }

    fn waiting(&self) -> MutexGuard<'_, Vec<Part>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What to do about a folder that is not there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Missing {
    Make,
    Tell,
}

/// A file on its way in. Dropped, nothing is left of it.
#[derive(Debug)]
pub(crate) struct Saving {
    part: Part,
    write_back: WriteBack,
}

impl Saving {
    /// Takes the next bytes.
    pub(crate) fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.part.bytes += bytes.len() as u64;
        self.part.file.write_all(bytes).map_err(|source| Error {
            action: "write",
            path: PathBuf::from(self.part.path.to_string()),
            source,
        })?;
        self.write_back.grown(&self.part.file, self.part.bytes);
        Ok(())
    }
}

/// How it ended, if there was one.
fn joined(thread: Option<JoinHandle<io::Result<()>>>) -> io::Result<()> {
    thread.map_or(Ok(()), |thread| thread.join().unwrap_or_else(|_| Err(io::Error::other("a thread failed"))))
}

/// Syncs all files, some at once. The first failure counts: what could not be synced gets no name.
fn sync_all(parts: &[Part]) -> io::Result<()> {
    let share = parts.len().div_ceil(SYNC_THREADS).max(1);
    std::thread::scope(|scope| {
        let each = |part: &Part| part.file.sync_all();
        let threads: Vec<_> =
            parts.chunks(share).map(|parts| scope.spawn(move || parts.iter().try_for_each(each))).collect();
        threads
            .into_iter()
            .try_for_each(|thread| thread.join().unwrap_or_else(|_| Err(io::Error::other("a thread failed"))))
    })
}

enum Placed {
    New { renamed: bool },
    Known,
}

/// Gives a synced file the first name of its own that is free, unless one of them holds the same content.
fn place(part: &Part) -> io::Result<Placed> {
    for number in 1..=MAX_NAMES {
        let name = numbered(&part.name, number);
        match part.folder.rename(&part.temporary, &name, Replace::Nothing) {
            Ok(()) => return Ok(Placed::New { renamed: number > 1 }),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
        if same_content(part, &name)? {
            return Ok(Placed::Known);
        }
    }
    Err(io::Error::new(io::ErrorKind::AlreadyExists, "a thousand files of this name are there"))
}

/// `photo.jpg`, `photo (2).jpg`, `photo (3).jpg`.
fn numbered(name: &Name, number: u32) -> Name {
    if number == 1 {
        return name.clone();
    }
    let text = String::from_utf8_lossy(name.as_bytes()).into_owned();
    let dot = text.rfind('.').filter(|dot| *dot > 0).unwrap_or(text.len());
    let (stem, extension) = text.split_at(dot);
    Name::new(format!("{stem} ({number}){extension}")).unwrap_or_else(|_| name.clone())
}

fn same_content(part: &Part, name: &Name) -> io::Result<bool> {
    let Ok(mut there) = part.folder.open_file(name) else { return Ok(false) };
    if there.metadata()?.len() != part.bytes {
        return Ok(false);
    }
    let mut new = part.folder.open_file(&part.temporary)?;
    Ok(hash(&mut there)? == hash(&mut new)?)
}

fn hash(file: &mut fs::File) -> io::Result<ContentHash> {
    let (mut hasher, mut piece) = (Sha256::new(), vec![0; PIECE]);
    loop {
        match file.read(&mut piece)? {
            0 => return Ok(ContentHash::from_bytes(hasher.finalize().into())),
            count => hasher.update(&piece[..count]),
        }
    }
}

/// Deletes what sessions of a process that died have left in the folder itself and in the folders below, at most some of them: only
/// files under a temporary name of ours that nobody has touched for a day.
pub(crate) fn sweep(path: &Path, now: FileTime) {
    let Ok(root) = RootDir::open(path) else { return };
    sweep_folder(&root, now, SWEEP_DEPTH);
}

/// Folders below the inbox that are swept.
const SWEEP_DEPTH: usize = 8;
/// Seconds that a temporary file is left alone: it may be another process's.
const STALE_SECONDS: i64 = 24 * 3600;

fn sweep_folder(folder: &RootDir, now: FileTime, depth: usize) {
    for name in folder.names().unwrap_or_default() {
        let Ok(Some(metadata)) = folder.look_at(&name) else { continue };
        if metadata.is_dir() && depth > 0 {
            if let Ok(inner) = folder.open_folder(&name) {
                sweep_folder(&inner, now, depth - 1);
            }
        } else if metadata.is_file() && name.as_bytes().starts_with(TEMPORARY.as_bytes()) {
            let Ok(file) = folder.open_file(&name) else { continue };
            let Ok(metadata) = file.metadata() else { continue };
            if now.seconds() - attributes::changed(&metadata).seconds() > STALE_SECONDS {
                let _ = folder.remove_file(&name);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    fn path(text: &str) -> RelPath {
        RelPath::new(text.as_bytes()).unwrap()
    }

    fn save(saver: &Arc<Saver>, name: &str, bytes: &[u8]) {
        let mut saving = saver.begin(&path(name)).unwrap();
        saving.write(bytes).unwrap();
        saver.finish(saving, Some(FileTime::new(1_600_000_000, 123_456_789))).unwrap();
    }

    fn files(folder: &Path) -> BTreeMap<String, Vec<u8>> {
        let mut all = BTreeMap::new();
        for entry in std::fs::read_dir(folder).unwrap() {
            let entry = entry.unwrap();
            let name = entry.file_name().into_string().unwrap();
            if entry.file_type().unwrap().is_dir() {
                all.extend(files(&entry.path()).into_iter().map(|(inner, bytes)| (format!("{name}/{inner}"), bytes)));
            } else {
                all.insert(name, std::fs::read(entry.path()).unwrap());
            }
        }
        all
    }

    fn names(folder: &Path) -> Vec<String> {
        files(folder).into_keys().collect()
    }

    #[test]
    fn nothing_has_its_final_name_before_it_is_settled_and_nothing_is_left_of_what_was_dropped() {
        let folder = tempfile::tempdir().unwrap();
        let saver = Arc::new(Saver::open(folder.path()).unwrap());
        save(&saver, "DCIM/a.jpg", b"a");
        let mut half = saver.begin(&path("half.jpg")).unwrap();
        half.write(b"half").unwrap();
        assert!(names(folder.path()).iter().all(|name| name.contains(TEMPORARY)), "{:?}", names(folder.path()));
        drop(half);
        saver.settle().unwrap();
        assert_eq!(names(folder.path()), ["DCIM/a.jpg"]);
        let metadata = std::fs::metadata(folder.path().join("DCIM/a.jpg")).unwrap();
        assert_eq!(attributes::modified(&metadata), FileTime::new(1_600_000_000, 123_456_789));
        assert_eq!(saver.take_saved(), Saved { files: 1, bytes: 1, known: 0, renamed: 0 });
    }

    #[test]
    fn the_same_file_is_kept_once_and_another_of_its_name_gets_a_name_of_its_own() {
        let folder = tempfile::tempdir().unwrap();
        let saver = Arc::new(Saver::open(folder.path()).unwrap());
        for bytes in [b"one", b"two", b"one", b"two", b"six"] {
            save(&saver, "photo.jpg", bytes);
            save(&saver, ".hidden", bytes);
            saver.settle().unwrap();
        }
        let expected: BTreeMap<String, Vec<u8>> = [
            ("photo.jpg", "one"),
            ("photo (2).jpg", "two"),
            ("photo (3).jpg", "six"),
            (".hidden", "one"),
            (".hidden (2)", "two"),
            (".hidden (3)", "six"),
        ]
        .map(|(name, bytes)| (name.to_owned(), bytes.as_bytes().to_vec()))
        .into();
        assert_eq!(files(folder.path()), expected);
        assert_eq!(saver.take_saved(), Saved { files: 6, bytes: 18, known: 4, renamed: 4 });
    }

    #[test]
    fn what_fills_a_lot_is_made_durable_beside_the_rest_and_all_of_it_is_when_settled() {
        let folder = tempfile::tempdir().unwrap();
        let saver = Arc::new(Saver::open(folder.path()).unwrap());
        let count = 2 * TOGETHER + 7;
        for n in 0..count {
            save(&saver, &format!("a/{}/{n}.jpg", n % 5), &n.to_le_bytes());
        }
        assert!(saver.waiting().len() < TOGETHER, "the lots before the last have gone on");
        saver.settle().unwrap();
        let saved = saver.take_saved();
        assert_eq!((saved.files, saved.renamed, names(folder.path()).len()), (count as u64, 0, count));
    }

    #[test]
    fn a_lot_that_could_not_be_placed_is_told_to_who_comes_next_and_takes_nothing_else_with_it() {
        let folder = tempfile::tempdir().unwrap();
        let saver = Arc::new(Saver::open(folder.path()).unwrap());
        let mut lost = saver.begin(&path("lost/a")).unwrap();
        lost.write(b"a").unwrap();
        // Somebody clears the inbox up while it is filled.
        std::fs::remove_dir_all(folder.path().join("lost")).unwrap();
        saver.finish(lost, None).unwrap();
        for n in 1..TOGETHER {
            save(&saver, &n.to_string(), b"x");
        }
        save(&saver, "behind", b"x");
        assert!(saver.settle().is_err());
        assert_eq!(names(folder.path()).len(), TOGETHER);
        saver.settle().unwrap();
    }

    #[test]
    fn what_is_held_is_known_by_name_size_and_time_or_by_hash() {
        let folder = tempfile::tempdir().unwrap();
        let saver = Arc::new(Saver::open(folder.path()).unwrap());
        save(&saver, "d/a", b"abc");
        saver.settle().unwrap();
        let sha256 = ContentHash::from_bytes(Sha256::digest(b"abc").into());
        let time = FileTime::new(1_600_000_000, 123_456_789);
        let wanted = |name: &str, size, sha256, mtime| Wanted { path: path(name), size, sha256, mtime };
        assert!(saver.holds(&wanted("d/a", 3, None, Some(time))));
        assert!(saver.holds(&wanted("d/a", 3, Some(sha256), None)));
        let other = ContentHash::from_bytes([0; 32]);
        assert!(!saver.holds(&wanted("d/a", 3, Some(other), Some(time))), "a hash says more than a time");
        for not in [
            wanted("d/a", 3, None, None),
            wanted("d/a", 4, None, Some(time)),
            wanted("d/a", 3, None, Some(FileTime::new(1_600_000_000, 0))),
            wanted("d/b", 3, Some(sha256), Some(time)),
            wanted("e/a", 3, Some(sha256), Some(time)),
        ] {
            assert!(!saver.holds(&not), "{not:?}");
        }
    }

    #[test]
    fn a_link_in_the_inbox_is_never_walked_through() {
        let (folder, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        std::os::unix::fs::symlink(outside.path(), folder.path().join("d")).unwrap();
        std::os::unix::fs::symlink(outside.path().join("x"), folder.path().join("x")).unwrap();
        let saver = Arc::new(Saver::open(folder.path()).unwrap());
        assert!(saver.begin(&path("d/a")).is_err());
        save(&saver, "x", b"x");
        saver.settle().unwrap();
        assert!(names(outside.path()).is_empty());
        assert_eq!(std::fs::read(folder.path().join("x (2)")).unwrap(), b"x");
    }

    #[test]
    fn what_a_dead_process_left_is_swept_after_a_day_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("d")).unwrap();
        for name in ["d/.lan-backup-1.part", ".lan-backup-2.part", "photo.jpg"] {
            std::fs::write(folder.path().join(name), "x").unwrap();
        }
        let written = std::fs::metadata(folder.path().join("photo.jpg")).unwrap();
        let at = |seconds| FileTime::new(attributes::changed(&written).seconds() + seconds, 0);
        sweep(folder.path(), at(10));
        assert_eq!(names(folder.path()).len(), 3);
        sweep(folder.path(), at(STALE_SECONDS + 10));
        assert_eq!(names(folder.path()), ["photo.jpg"]);
    }
}
