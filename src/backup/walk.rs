//! The tree in path order: each folder right before what is in it, names sorted bytewise.
//!
//! Memory: the names of one folder for each level of nesting. Links are reported, never followed. Other file systems mounted
//! below a root are walked like folders. A folder that cannot be listed is a fault, not the end.

use crate::backup::Roots;
use crate::backup::filter::Filter;
use crate::model::{Name, RelPath};
use crate::monitor::{Fault, Monitor};
use crate::platform::fs::Metadata;
use crate::platform::{attributes, fs};
use std::path::{Path, PathBuf};

/// One thing in the tree.
#[derive(Debug)]
pub struct Found {
    /// Where it will lie in the snapshot.
    pub path: RelPath,
    /// Where it lies on this machine.
    pub source: PathBuf,
    /// What the file system says, links not followed.
    pub metadata: Metadata,
}

/// Walks all roots; an iterator that gives [`Found`] in path order.
#[derive(Debug)]
pub struct Walk<'a> {
    filter: &'a Filter,
    monitor: &'a dyn Monitor,
    levels: Vec<Level>,
}

#[derive(Debug)]
struct Level {
    path: Option<RelPath>,
    // Sorted the other way round, so that the next is taken from the end.
    rest: Vec<(Name, PathBuf)>,
}

impl<'a> Walk<'a> {
    /// Begins before the first root.
    pub fn new(roots: &Roots, filter: &'a Filter, monitor: &'a dyn Monitor) -> Self {
        let mut rest: Vec<_> = roots.iter().map(|(name, path)| (name.clone(), path.to_owned())).collect();
        rest.reverse();
        Self { filter, monitor, levels: vec![Level { path: None, rest }] }
    }

    fn fault(&self, source: &Path, error: &(dyn std::error::Error + 'static)) {
        self.monitor.fault(Fault::new(source.display().to_string(), error));
    }

    fn look(&mut self, parent: Option<&RelPath>, name: &Name, source: PathBuf) -> Option<Found> {
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
        let metadata = match fs::metadata(&source) {
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
        Some(Found { path, source, metadata })
    }

    fn enter(&mut self, path: RelPath, source: &Path) {
        let names = match fs::read_dir(source) {
            Ok(names) => names,
            Err(error) => return self.fault(source, &error),
        };
        let cache = self.filter.is_cache(source);
        let mut rest = Vec::with_capacity(if cache { 1 } else { names.len() });
        for name in names {
            if cache && name != "CACHEDIR.TAG" {
                continue;
            }
            match Name::new(attributes::bytes_of(&name)) {
                Ok(checked) => rest.push((checked, source.join(name))),
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
            let Some((name, source)) = level.rest.pop() else {
                self.levels.pop();
                continue;
            };
            let parent = level.path.clone();
            if let Some(found) = self.look(parent.as_ref(), &name, source) {
                return Some(found);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backup::filter::FilterOptions;
    use crate::monitor::recording::RecordingMonitor;

    fn walked(root: &Path, options: &FilterOptions) -> (Vec<String>, RecordingMonitor) {
        let monitor = RecordingMonitor::default();
        let filter = Filter::new(options).unwrap();
        let roots = Roots::resolve(&[root.to_owned()]).unwrap();
        let paths: Vec<RelPath> = Walk::new(&roots, &filter, &monitor).map(|found| found.path).collect();
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
