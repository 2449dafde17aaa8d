//! Trees of files: odd ones, random ones, and their comparison to the last bit of metadata.

use std::collections::{BTreeMap, HashMap};
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

/// Names that are legal on Unix and have broken programs elsewhere.
pub(crate) const HOSTILE_NAMES: [&[u8]; 12] = [
    b"new\nline",
    b"back\\slash",
    b"\xff\xfe not utf-8",
    b" lead and trail ",
    b"-rf",
    b"con",
    b"a:b",
    b"...",
    b"\x1b[31mred",
    "\u{202e}gnp.exe".as_bytes(),
    "e\u{301}te\u{301}".as_bytes(),
    b"*?[x]{y}",
];

/// Bytes that do not compress, the same for the same seed.
pub(crate) fn noise(length: usize, seed: u64) -> Vec<u8> {
    let mut bytes = vec![0; length];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}

/// Everything item 6 of the design asks for, in one tree.
pub(crate) fn odd_tree(root: &Path) {
    let write = |path: &str, bytes: &[u8]| fs::write(root.join(path), bytes).unwrap();
    for folder in ["empty", "deep/er/and/deeper", "names", "modes", "links"] {
        fs::create_dir_all(root.join(folder)).unwrap();
    }
    write("zero", b"");
    write("one", b"1");
    write("text", &b"all work and no play makes jack a dull boy\n".repeat(50_000));
    write("noise", &noise(9_000_000, 1));
    write("copy of noise", &noise(9_000_000, 1));
    write("zeros", &vec![0; 3_000_000]);
    write("deep/er/and/deeper/leaf", b"leaf");
    for (number, name) in HOSTILE_NAMES.iter().enumerate() {
        fs::write(root.join("names").join(OsStr::from_bytes(name)), [number as u8]).unwrap();
    }
    fs::write(root.join("names").join("n".repeat(255)), b"long").unwrap();
    for mode in [0o400, 0o644, 0o755, 0o777] {
        write(&format!("modes/{mode:o}"), b"m");
        fs::set_permissions(root.join(format!("modes/{mode:o}")), fs::Permissions::from_mode(mode)).unwrap();
    }
    write("links/first", b"shared by three names");
    fs::hard_link(root.join("links/first"), root.join("links/second")).unwrap();
    fs::hard_link(root.join("links/first"), root.join("deep/third")).unwrap();
    symlink("first", root.join("links/relative")).unwrap();
    symlink("/nonexistent/\u{1f600}", root.join("links/dangling")).unwrap();
    symlink(OsStr::from_bytes(b"\xff"), root.join("links/raw")).unwrap();
    symlink("..", root.join("links/up")).unwrap();
    let sparse = fs::File::create(root.join("sparse")).unwrap();
    sparse.set_len(200 << 20).unwrap();
    sparse.write_all_at(b"island", 100 << 20).unwrap();
    drop(sparse);
    // A list of extents beyond what stands in the manifest itself.
    let many = fs::File::create(root.join("many islands")).unwrap();
    for island in 0..1500_u64 {
        many.write_all_at(&island.to_le_bytes(), island * 65_536).unwrap();
    }
    drop(many);
    // Not every file system under a test has attributes.
    let _ = rustix::fs::setxattr(root.join("one"), "user.test", b"\0value\xff", rustix::fs::XattrFlags::empty());
    set_time(&root.join("one"), -86_400, 123_456_789);
    set_time(&root.join("text"), 1_000_000_000, 999_999_999);
    set_time(&root.join("empty"), 1_234_567_890, 1);
    fs::set_permissions(root.join("deep/er"), fs::Permissions::from_mode(0o500)).unwrap();
    set_time(root, 1_600_000_000, 42);
}

/// Sets the time of a file or folder.
pub(crate) fn set_time(path: &Path, seconds: i64, nanos: i64) {
    let stamp = rustix::fs::Timespec { tv_sec: seconds, tv_nsec: nanos };
    let times = rustix::fs::Timestamps { last_access: stamp, last_modification: stamp };
    rustix::fs::utimensat(rustix::fs::CWD, path, &times, rustix::fs::AtFlags::SYMLINK_NOFOLLOW).unwrap();
}

/// One line for each thing below `root` (and `root` itself), by path: kind, mode, owner, time, content or target, attributes, and
/// which names share an inode.
pub(crate) fn describe(root: &Path) -> BTreeMap<PathBuf, String> {
    let mut lines = BTreeMap::new();
    let mut inodes: HashMap<(u64, u64), Vec<PathBuf>> = HashMap::new();
    let mut queue = vec![root.to_owned()];
    while let Some(path) = queue.pop() {
        let metadata = fs::symlink_metadata(&path).unwrap();
        let relative = path.strip_prefix(root).unwrap().to_owned();
        let content = if metadata.is_dir() {
            queue.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
            "folder".to_owned()
        } else if metadata.is_symlink() {
            format!("link to {}", fs::read_link(&path).unwrap().as_os_str().as_bytes().escape_ascii())
        } else {
            inodes.entry((metadata.dev(), metadata.ino())).or_default().push(relative.clone());
            let mut hasher = blake3::Hasher::new();
            hasher.update_reader(fs::File::open(&path).unwrap()).unwrap();
            format!("{} bytes {}", metadata.len(), hasher.finalize())
        };
        let mode = if metadata.is_symlink() { 0 } else { metadata.mode() };
        let mut value = [0; 100];
        let attribute = rustix::fs::lgetxattr(&path, "user.test", &mut value[..]).map(|n| value[..n].to_vec());
        let line = format!(
            "{content} {mode:o} {}:{} {}.{:09} {attribute:?}",
            metadata.uid(),
            metadata.gid(),
            metadata.mtime(),
            metadata.mtime_nsec()
        );
        lines.insert(relative, line);
    }
    for mut names in inodes.into_values().filter(|names| names.len() > 1) {
        names.sort();
        for name in &names {
            let line = &lines[name];
            lines.insert(name.clone(), format!("{line} same as {names:?}"));
        }
    }
    lines
}

/// Panics with the first differences when two trees are not the same to the last bit of metadata.
#[track_caller]
pub(crate) fn assert_same(left: &Path, right: &Path) {
    compare(&describe(left), &describe(right));
}

/// As [`assert_same`], for what is in two folders that are themselves not the same.
#[track_caller]
pub(crate) fn assert_same_inside(left: &Path, right: &Path) {
    let inside = |root| {
        let mut lines = describe(root);
        lines.remove(Path::new(""));
        lines
    };
    compare(&inside(left), &inside(right));
}

#[track_caller]
fn compare(left: &BTreeMap<PathBuf, String>, right: &BTreeMap<PathBuf, String>) {
    let mut differences = Vec::new();
    for path in left.keys().chain(right.keys()) {
        if left.get(path) != right.get(path) {
            differences.push(format!("{}\n  {:?}\n  {:?}", path.display(), left.get(path), right.get(path)));
        }
    }
    differences.dedup();
    assert!(
        differences.is_empty(),
        "{} differences:\n{}",
        differences.len(),
        differences.iter().take(10).cloned().collect::<Vec<_>>().join("\n")
    );
}
