//! Random edits of a tree, as a person and their programs make them, and their proptest strategies.

use crate::support::tree::{noise, set_time};
use proptest::prelude::*;
use proptest::sample::Index;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

/// Few, so that edits meet; of every kind that is legal.
const NAMES: [&[u8]; 8] = [b"a", b"b", b"c.txt", b"a b", b"a.d", b"\xff\xfe", b"new\nline", b".hidden"];
const FILE_MODES: [u32; 4] = [0o600, 0o644, 0o755, 0o444];
const FOLDER_MODES: [u32; 3] = [0o700, 0o755, 0o750];
const LINK_TARGETS: [&[u8]; 5] = [b"a", b"../..", b"/nonexistent", b"\xff", b"."];

/// One edit. An [`Index`] picks among what is there at that moment.
#[derive(Clone, Debug)]
pub(crate) enum Edit {
    /// A file with these bytes takes whatever place it is.
    Write(Place, usize, u64),
    /// In place, over the first bytes of a file.
    Overwrite(Index, u64),
    Append(Index, usize),
    /// Shorter, or longer by a hole.
    Truncate(Index, u64),
    Delete(Index),
    Rename(Index, Place),
    HardLink(Index, Place),
    Symlink(Place, usize),
    Folder(Place),
    Chmod(Index, usize),
    SetTime(Index, i64),
    /// The same bytes written again; only the times tell.
    Touch(Index),
    Attribute(Index, u8),
    /// A hole, an island, a hole.
    Sparse(Place, u64),
    /// More islands than extents fit into a line of the manifest.
    Islands(Place, u64),
}

/// A name in one of the folders.
#[derive(Clone, Debug)]
pub(crate) struct Place(Index, usize);

fn place() -> impl Strategy<Value = Place> {
    (any::<Index>(), 0..NAMES.len()).prop_map(|(folder, name)| Place(folder, name))
}

pub(crate) fn edit() -> impl Strategy<Value = Edit> {
    let any = any::<Index>;
    let length = prop_oneof![
        6 => 0..5000_usize,
        2 => 60_000..700_000_usize,
        // More than one upload.
        1 => Just(20_000_000_usize),
    ];
    prop_oneof![
        6 => (place(), length, 0..100_u64).prop_map(|(place, length, seed)| Edit::Write(place, length, seed)),
        2 => (any(), 0..100_u64).prop_map(|(file, seed)| Edit::Overwrite(file, seed)),
        2 => (any(), 1..100_000_usize).prop_map(|(file, length)| Edit::Append(file, length)),
        2 => (any(), 0..200_000_u64).prop_map(|(file, length)| Edit::Truncate(file, length)),
        2 => any().prop_map(Edit::Delete),
        3 => (any(), place()).prop_map(|(from, to)| Edit::Rename(from, to)),
        3 => (any(), place()).prop_map(|(file, place)| Edit::HardLink(file, place)),
        2 => (place(), 0..LINK_TARGETS.len()).prop_map(|(place, target)| Edit::Symlink(place, target)),
        4 => place().prop_map(Edit::Folder),
        2 => (any(), 0..12_usize).prop_map(|(path, mode)| Edit::Chmod(path, mode)),
        2 => (any(), -1000..2_000_000_000_i64).prop_map(|(path, time)| Edit::SetTime(path, time)),
        1 => any().prop_map(Edit::Touch),
        1 => (any(), 0..3_u8).prop_map(|(path, value)| Edit::Attribute(path, value)),
        1 => (place(), 0..100_u64).prop_map(|(place, seed)| Edit::Sparse(place, seed)),
        1 => (place(), 0..100_u64).prop_map(|(place, seed)| Edit::Islands(place, seed)),
    ]
}

/// Everything below `root` (not `root` itself), by path; links not followed.
fn all(root: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut queue = vec![root.to_owned()];
    while let Some(folder) = queue.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let entry = entry.unwrap();
            if entry.file_type().unwrap().is_dir() {
                queue.push(entry.path());
            }
            found.push(entry.path());
        }
    }
    found.sort();
    found
}

fn pick(root: &Path, index: Index, wanted: impl Fn(&fs::Metadata) -> bool) -> Option<PathBuf> {
    let mut found = all(root);
    found.retain(|path| wanted(&fs::symlink_metadata(path).unwrap()));
    (!found.is_empty()).then(|| index.get(&found).clone())
}

fn remove(path: &Path) {
    match fs::symlink_metadata(path) {
        Ok(metadata) if metadata.is_dir() => fs::remove_dir_all(path).unwrap(),
        Ok(_) => fs::remove_file(path).unwrap(),
        Err(_) => {}
    }
}

impl Place {
    fn path(&self, root: &Path) -> PathBuf {
        let mut folders = vec![root.to_owned()];
        folders.extend(all(root).into_iter().filter(|path| fs::symlink_metadata(path).unwrap().is_dir()));
        // Deeper trees find nothing that these do not.
        folders.retain(|path| path.strip_prefix(root).unwrap().components().count() < 4);
        self.0.get(&folders).join(OsStr::from_bytes(NAMES[self.1]))
    }

    /// Its path, with nothing there any more.
    fn cleared(&self, root: &Path) -> PathBuf {
        let path = self.path(root);
        remove(&path);
        path
    }
}

/// Opens a file to be changed in place, whatever its mode.
fn open(path: &Path) -> fs::File {
    let permissions = fs::metadata(path).unwrap().permissions();
    fs::set_permissions(path, fs::Permissions::from_mode(permissions.mode() | 0o200)).unwrap();
    fs::OpenOptions::new().write(true).open(path).unwrap()
}

/// Applies one edit; one that has nothing to work on does nothing.
pub(crate) fn apply(root: &Path, edit: &Edit) {
    let file = |index: &Index| pick(root, *index, fs::Metadata::is_file);
    match edit {
        Edit::Write(place, length, seed) => fs::write(place.cleared(root), noise(*length, *seed)).unwrap(),
        Edit::Overwrite(index, seed) => {
            if let Some(path) = file(index) {
                open(&path).write_all_at(&noise(100, *seed), 0).unwrap();
            }
        }
        Edit::Append(index, length) => {
            if let Some(path) = file(index) {
                let end = fs::metadata(&path).unwrap().len();
                open(&path).write_all_at(&noise(*length, end), end).unwrap();
            }
        }
        Edit::Truncate(index, length) => {
            if let Some(path) = file(index) {
                open(&path).set_len(*length).unwrap();
            }
        }
        Edit::Delete(index) => {
            if let Some(path) = pick(root, *index, |_| true) {
                remove(&path);
            }
        }
        Edit::Rename(index, place) => {
            let to = place.path(root);
            // Not into itself, nor over a folder that it lies in.
            let fits = |from: &PathBuf| !to.starts_with(from) && !from.starts_with(&to);
            if let Some(from) = pick(root, *index, |_| true).filter(fits) {
                remove(&to);
                fs::rename(from, to).unwrap();
            }
        }
        Edit::HardLink(index, place) => {
            let to = place.path(root);
            if let Some(from) = file(index).filter(|from| !from.starts_with(&to)) {
                remove(&to);
                fs::hard_link(from, to).unwrap();
            }
        }
        Edit::Symlink(place, target) => {
            symlink(OsStr::from_bytes(LINK_TARGETS[*target]), place.cleared(root)).unwrap();
        }
        Edit::Folder(place) => fs::create_dir(place.cleared(root)).unwrap(),
        Edit::Chmod(index, mode) => {
            if let Some(path) = pick(root, *index, |metadata| !metadata.is_symlink()) {
                let modes = if path.is_dir() { &FOLDER_MODES[..] } else { &FILE_MODES[..] };
                fs::set_permissions(&path, fs::Permissions::from_mode(modes[mode % modes.len()])).unwrap();
            }
        }
        Edit::SetTime(index, time) => {
            if let Some(path) = pick(root, *index, |_| true) {
                set_time(&path, *time, 123_456_789);
            }
        }
        Edit::Touch(index) => {
            if let Some(path) = file(index) {
                let bytes = fs::read(&path).unwrap();
                open(&path).write_all_at(&bytes, 0).unwrap();
            }
        }
        Edit::Attribute(index, value) => {
            if let Some(path) = pick(root, *index, |metadata| !metadata.is_symlink()) {
                // Not every file system under a test has attributes.
                let _ = rustix::fs::setxattr(&path, "user.test", &[*value, 0, 255], rustix::fs::XattrFlags::empty());
            }
        }
        Edit::Sparse(place, seed) => {
            let file = fs::File::create(place.cleared(root)).unwrap();
            file.set_len(3_000_000).unwrap();
            file.write_all_at(&noise(1000, *seed), 1_000_000 + *seed * 4096).unwrap();
        }
        Edit::Islands(place, seed) => {
            let file = fs::File::create(place.cleared(root)).unwrap();
            for island in 0..700 {
                file.write_all_at(&(island * 100 + seed).to_le_bytes(), island * 16_384).unwrap();
            }
        }
    }
}
