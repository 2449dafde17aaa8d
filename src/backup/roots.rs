//! The paths a person named, and what their top entries are called in the snapshot.

use crate::backup::{Error, Result};
use crate::model::limits::MAX_SET_ROOTS;
use crate::model::snapshot::Root;
use crate::model::text::clean_bytes;
use crate::model::{Name, RelPath};
use crate::platform::{attributes, fs};
use std::path::{Path, PathBuf};

/// The roots of a set, sorted by the name of their top entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Roots(Vec<(Name, PathBuf)>);

impl Roots {
    /// Finds what was named. Each becomes a top entry under its last component; two that are alike get ` (2)`, ` (3)` behind,
    /// in the order of their absolute paths, so that the same call always names them alike.
    ///
    /// # Errors
    /// When a path is not there or one lies inside another.
    pub fn resolve(paths: &[PathBuf]) -> Result<Self> {
        let mut absolute = Vec::new();
        for path in paths {
            // A link that was named is meant: what it points to is backed up, under the link's own name.
            let found = fs::canonicalize(path).map_err(|error| {
                let reason = if error.is_not_found() { "does not exist" } else { "cannot be read" };
                Error::Roots(format!("`{}` {reason}", path.display()))
            })?;
            let named = path.file_name().map_or_else(|| found.file_name(), Some);
            let name = named.map_or(b"root".as_slice(), attributes::bytes_of).to_vec();
            absolute.push((found, name));
        }
        absolute.sort();
        absolute.dedup_by(|a, b| a.0 == b.0);
        if absolute.is_empty() || absolute.len() > MAX_SET_ROOTS {
            return Err(Error::Roots(format!("a set has 1 to {MAX_SET_ROOTS} paths, not {}", absolute.len())));
        }
        for pair in absolute.windows(2) {
            if pair[1].0.starts_with(&pair[0].0) {
                let (inner, outer) = (pair[1].0.display(), pair[0].0.display());
                return Err(Error::Roots(format!("`{inner}` lies inside `{outer}`, which is backed up already")));
            }
        }
        let mut roots: Vec<(Name, PathBuf)> = Vec::new();
        for (path, base) in absolute {
            let mut name = Name::new(base.clone());
            for number in 2.. {
                match &name {
                    Ok(taken) if roots.iter().any(|(other, _)| other == taken) => {
                        name = Name::new([&base[..], format!(" ({number})").as_bytes()].concat());
                    }
                    _ => break,
                }
            }
            roots.push((name.map_err(|error| Error::Roots(error.to_string()))?, path));
        }
        roots.sort();
        Ok(Self(roots))
    }

    /// Name and absolute path of each, sorted by name.
    pub fn iter(&self) -> impl Iterator<Item = (&Name, &Path)> {
        self.0.iter().map(|(name, path)| (name, path.as_path()))
    }

    /// Where an entry of the snapshot lies on this machine; `None` when its top entry is not of this set.
    pub fn source_of(&self, path: &RelPath) -> Option<PathBuf> {
        let mut components = path.components();
        let top = components.next()?;
        let (_, root) = self.0.iter().find(|(name, _)| name.as_bytes() == top)?;
        let mut source = root.clone();
        components.for_each(|name| source.push(attributes::path_from_bytes(name)));
        Some(source)
    }

    /// The form in which they stand in the record.
    pub fn described(&self) -> Vec<Root> {
        let text = |bytes: &[u8]| clean_bytes(bytes);
        let describe = |(name, path): &(Name, PathBuf)| Root {
            source: text(attributes::bytes_of(path)),
            top: text(name.as_bytes()),
        };
        self.0.iter().map(describe).collect()
    }

    /// What the set is called when nobody says: the last component of the only path. `None` for several paths.
    pub fn default_set_name(&self) -> Option<String> {
        match self.0.as_slice() {
            [(name, _)] => Some(clean_bytes(name.as_bytes()).trim().to_owned()),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tops_are_unique_stable_and_lead_back() {
        let base = tempfile::tempdir().unwrap();
        let path = |text: &str| base.path().canonicalize().unwrap().join(text);
        for folder in ["a/docs", "b/docs", "c"] {
            std::fs::create_dir_all(path(folder)).unwrap();
        }
        let roots = Roots::resolve(&[path("c"), path("b/docs"), path("a/docs"), path("a/docs")]).unwrap();
        let tops: Vec<_> = roots.iter().map(|(name, source)| (name.to_string(), source.to_owned())).collect();
        let expected = [("c", "c"), ("docs", "a/docs"), ("docs (2)", "b/docs")];
        assert_eq!(tops, expected.map(|(top, source)| (top.to_owned(), path(source))));
        let inside = RelPath::new(&b"docs (2)/x/y"[..]).unwrap();
        assert_eq!(roots.source_of(&inside), Some(path("b/docs/x/y")));
        assert_eq!(roots.source_of(&RelPath::new(&b"nope/x"[..]).unwrap()), None);
    }

    #[test]
    fn missing_and_nested_paths_are_refused_with_a_sentence() {
        let base = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(base.path().join("a/b")).unwrap();
        let error = Roots::resolve(&[base.path().join("nope")]).unwrap_err();
        assert!(error.to_string().contains("does not exist"), "{error}");
        let error = Roots::resolve(&[base.path().join("a"), base.path().join("a/b")]).unwrap_err();
        assert!(error.to_string().contains("lies inside"), "{error}");
        assert!(Roots::resolve(&[]).is_err());
    }
}
