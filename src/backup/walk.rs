//! The tree in path order: each folder right before what is in it, names sorted bytewise.
//!
//! Memory: the names of one folder, and one open folder, for each level of nesting. Links are reported, never followed. Other file systems mounted
//! below a root are walked like folders. A folder that cannot be listed is a fault, not the end.

use crate::backup::Roots;
use crate::backup::filter::Filter;
use crate::model::{Name, RelPath};
use crate::monitor::{Fault, Monitor};
use crate::platform::clock::Clock;
use crate::platform::fs::Metadata;
use crate::platform::{self, Context, attributes, fs};
use jiff::Timestamp;
use std::path::{Path, PathBuf};
use std::sync::mpsc::sync_channel;
use std::thread::Scope;

/// One thing in the tree.
#[derive(Debug)]
pub struct Found {
    /// Where it will lie in the snapshot.
    pub path: RelPath,
    /// Where it lies on this machine.
    pub source: PathBuf,
    /// What the file system says, links not followed.
    pub metadata: Metadata,
    /// A moment right before it was asked.
    pub seen: Timestamp,
}

/// Walks all roots; an iterator that gives [`Found`] in path order.
#[derive(Debug)]
pub struct Walk<'a> {
    filter: &'a Filter,
    clock: &'a dyn Clock,
    monitor: &'a dyn Monitor,
    levels: Vec<Level>,
}

/// Entries that go from thread to thread together.
const BATCH: usize = 256;
/// Batches that may wait: with the one at hand at each end, 1,500 entries of some 500 bytes.
const QUEUED_BATCHES: usize = 4;

#[derive(Debug)]
struct Level {
    path: Option<RelPath>,
    // Sorted the other way round, so that the next is taken from the end.
    rest: Vec<(Name, Place)>,
}

/// Where something lies that has not been looked at.
#[derive(Debug)]
enum Place {
    Root(PathBuf),
    /// In a folder that is held open: it is looked at without going through the folders above it again.
    Inside(fs::DirEntry),
}

impl Place {
    fn look(self) -> (PathBuf, platform::Result<Metadata>) {
        match self {
            Self::Root(path) => {
                let metadata = fs::metadata(&path);
                (path, metadata)
            }
            Self::Inside(entry) => {
                let path = entry.path();
                let metadata = entry.metadata().context("look at", &path);
                (path, metadata)
            }
        }
    }
}

impl<'a> Walk<'a> {
    /// Begins before the first root.
    pub fn new(roots: &Roots, filter: &'a Filter, clock: &'a dyn Clock, monitor: &'a dyn Monitor) -> Self {
        let mut rest: Vec<_> = roots.iter().map(|(name, path)| (name.clone(), Place::Root(path.to_owned()))).collect();
        rest.reverse();
        Self { filter, clock, monitor, levels: vec![Level { path: None, rest }] }
    }

    /// The same on a thread of its own, which asks the system while what it found is compared.
    pub fn ahead<'scope>(mut self, scope: &'scope Scope<'scope, 'a>) -> impl Iterator<Item = Found> + use<'a> {
        let (sender, batches) = sync_channel::<Vec<Found>>(QUEUED_BATCHES);
        scope.spawn(move || {
            loop {
                let batch: Vec<Found> = self.by_ref().take(BATCH).collect();
                // Nobody takes any more: the scan has failed or was stopped.
                if batch.is_empty() || sender.send(batch).is_err() {
                    break;
                }
            }
        });
        batches.into_iter().flatten()
    }

    fn fault(&self, source: &Path, error: &(dyn std::error::Error + 'static)) {
        self.monitor.fault(Fault::new(source.display().to_string(), error));
    }

    fn look(&mut self, parent: Option<&RelPath>, name: &Name, place: Place) -> Option<Found> {
        let seen = self.clock.now();
        let (source, metadata) = place.look();
        let path = match parent {
            None => Ok(RelPath::from_name(name)),
            Some(parent) => parent.join(name),
        };
        let path = match path {
            Ok(path) => path,
            Err(error) => {
                self.fault(&source, &error);
                return None;
            }
        };
        let metadata = match metadata {
            Ok(metadata) => metadata,
            Err(error) => {
                self.fault(&source, &error);
                return None;
            }
        };
        let inside = parent.is_some();
        if inside && self.filter.excludes(attributes::path_from_bytes(path.as_bytes()), metadata.is_dir()) {
            return None;
        }
        if metadata.is_dir() {
            self.enter(path.clone(), &source);
        } else if !metadata.is_file() && !metadata.is_symlink() {
            self.monitor.notice(format!("{} is a socket, pipe or device; left out", source.display()));
            return None;
        }
        Some(Found { path, source, metadata, seen })
    }

    fn enter(&mut self, path: RelPath, source: &Path) {
        let entries = match fs::read_dir_entries(source) {
            Ok(entries) => entries,
            Err(error) => return self.fault(source, &error),
        };
        let cache = self.filter.is_cache(source);
        let mut rest = Vec::with_capacity(if cache { 1 } else { entries.len() });
        for entry in entries {
            let name = entry.file_name();
            if cache && name != "CACHEDIR.TAG" {
                continue;
            }
            match Name::new(attributes::bytes_of(&name)) {
                Ok(checked) => rest.push((checked, Place::Inside(entry))),
                Err(error) => self.fault(&source.join(name), &error),
            }
        }
        rest.sort_unstable_by(|a, b| b.0.cmp(&a.0));
        self.levels.push(Level { path: Some(path), rest });
    }
}

impl Iterator for Walk<'_> {
    type Item = Found;

    fn next(&mut self) -> Option<Found> {
        loop {
            let level = self.levels.last_mut()?;
            let Some((name, place)) = level.rest.pop() else {
                self.levels.pop();
                continue;
            };
            let parent = level.path.clone();
            if let Some(found) = self.look(parent.as_ref(), &name, place) {
                return Some(found);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backup::filter::FilterOptions;
    use crate::monitor::Silent;
    use crate::monitor::recording::RecordingMonitor;
    use crate::platform::clock::SystemClock;

    fn walked(root: &Path, options: &FilterOptions) -> (Vec<String>, RecordingMonitor) {
        let monitor = RecordingMonitor::default();
        let filter = Filter::new(options).unwrap();
        let roots = Roots::resolve(&[root.to_owned()]).unwrap();
        let walk = || Walk::new(&roots, &filter, &SystemClock, &Silent);
        let ahead: Vec<RelPath> = std::thread::scope(|scope| walk().ahead(scope).map(|found| found.path).collect());
        assert_eq!(walk().map(|found| found.path).collect::<Vec<_>>(), ahead);
        let paths: Vec<RelPath> = Walk::new(&roots, &filter, &SystemClock, &monitor).map(|found| found.path).collect();
        assert!(paths.is_sorted());
        (paths.iter().map(ToString::to_string).collect(), monitor)
    }

    #[test]
    fn folders_come_before_their_contents_and_names_bytewise() {
        let base = tempfile::tempdir().unwrap();
        let root = base.path().join("t");
        for folder in ["a/b", "a b", "a.d"] {
            std::fs::create_dir_all(root.join(folder)).unwrap();
        }
        std::fs::write(root.join("a/z"), "").unwrap();
        std::os::unix::fs::symlink("/", root.join("up")).unwrap();
        let (paths, monitor) = walked(&root, &FilterOptions::default());
        assert_eq!(paths, ["t", "t/a", "t/a/b", "t/a/z", "t/a b", "t/a.d", "t/up"]);
        assert!(monitor.faults().is_empty());
    }

    #[test]
    fn excluded_folders_are_not_walked_and_sockets_are_told() {
        let base = tempfile::tempdir().unwrap();
        let root = base.path().join("t");
        std::fs::create_dir_all(root.join("target/x")).unwrap();
        std::fs::write(root.join("keep"), "").unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(root.join("s")).unwrap();
        let options = FilterOptions { exclude: vec!["target".to_owned()], ..FilterOptions::default() };
        let (paths, monitor) = walked(&root, &options);
        assert_eq!(paths, ["t", "t/keep"]);
        assert_eq!(monitor.notices().len(), 1);
    }

    #[test]
    fn a_tagged_cache_keeps_only_its_tag() {
        let base = tempfile::tempdir().unwrap();
        let root = base.path().join("t");
        std::fs::create_dir_all(root.join("cache/deep")).unwrap();
        let tag = "Signature: 8a477f597d28d172789f06886806bc55";
        std::fs::write(root.join("cache/CACHEDIR.TAG"), tag).unwrap();
        std::fs::write(root.join("cache/big"), "").unwrap();
        let options = FilterOptions { exclude_caches: true, ..FilterOptions::default() };
        assert_eq!(walked(&root, &options).0, ["t", "t/cache", "t/cache/CACHEDIR.TAG"]);
        assert_eq!(walked(&root, &FilterOptions::default()).0.len(), 5);
    }

    #[test]
    fn a_tree_nested_too_deep_is_a_fault_and_the_rest_goes_on() {
        let base = tempfile::tempdir().unwrap();
        let root = base.path().join("t");
        std::fs::create_dir_all(root.join(vec!["d"; 130].join("/"))).unwrap();
        std::fs::write(root.join("z"), "").unwrap();
        let (paths, monitor) = walked(&root, &FilterOptions::default());
        assert_eq!(paths.len(), 129);
        assert_eq!(monitor.faults().len(), 1);
    }
}
