//! Paths inside a snapshot: relative, checked once, ordered the same on every system.

use crate::model::ParseError;
use crate::model::limits::{MAX_NAME_BYTES, MAX_PATH_DEPTH};
use crate::model::text::clean_bytes;
use std::cmp::Ordering;
use std::fmt;

/// One component of a path: 1 to 255 bytes, no `/`, no NUL, neither `.` nor `..`. Any other bytes are legal on Unix and
/// survive, newlines and backslashes too; it need not be UTF-8.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name(Vec<u8>);

impl Name {
    /// Checks `bytes`.
    pub fn new(bytes: impl Into<Vec<u8>>) -> Result<Self, ParseError> {
        let bytes = bytes.into();
        match check_name(&bytes) {
            Ok(()) => Ok(Self(bytes)),
            Err(problem) => Err(ParseError::new("name", &clean_bytes(&bytes), problem)),
        }
    }

    /// The bytes as they are on disk.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&clean_bytes(&self.0))
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Name({self})")
    }
}

fn check_name(bytes: &[u8]) -> Result<(), &'static str> {
    if bytes.is_empty() {
        return Err("has an empty component");
    }
    if bytes.len() > MAX_NAME_BYTES {
        return Err("has a component longer than 255 bytes");
    }
    if bytes == b"." || bytes == b".." {
        return Err("has a component `.` or `..`");
    }
    if bytes.iter().any(|b| matches!(b, 0 | b'/')) {
        return Err("holds a slash or a NUL inside a component");
    }
    Ok(())
}

/// A path of 1 to 128 [`Name`]s. The order is bytewise per component, so a folder comes right before what is in it.
///
/// ```
/// # use lan_backup::model::RelPath;
/// let path = |text: &str| RelPath::new(text.as_bytes()).unwrap();
/// assert!(path("a") < path("a/z") && path("a/z") < path("a.txt"));
/// assert!(RelPath::new(&b"../etc/passwd"[..]).is_err());
/// ```
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct RelPath(Vec<u8>);

impl RelPath {
    /// Checks `bytes`, components joined by `/`.
    pub fn new(bytes: impl Into<Vec<u8>>) -> Result<Self, ParseError> {
        let bytes = bytes.into();
        let mut depth = 0;
        let mut result = Ok(());
        for component in bytes.split(|b| *b == b'/') {
            depth += 1;
            result = check_name(component);
            if depth > MAX_PATH_DEPTH {
                result = Err("is nested deeper than 128 folders");
            }
            if result.is_err() {
                break;
            }
        }
        match result {
            Ok(()) => Ok(Self(bytes)),
            Err(problem) => Err(ParseError::new("path", &clean_bytes(&bytes), problem)),
        }
    }

    /// The path of one component.
    pub fn from_name(name: &Name) -> Self {
        Self(name.0.clone())
    }

    /// This path with one more component; an error when that nests too deep.
    pub fn join(&self, name: &Name) -> Result<Self, ParseError> {
        if self.depth() >= MAX_PATH_DEPTH {
            let found = format!("{self}/{name}");
            return Err(ParseError::new("path", &found, "is nested deeper than 128 folders"));
        }
        let mut bytes = Vec::with_capacity(self.0.len() + 1 + name.0.len());
        bytes.extend_from_slice(&self.0);
        bytes.push(b'/');
        bytes.extend_from_slice(&name.0);
        Ok(Self(bytes))
    }

    /// The components joined by `/`.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The order against a path that is given by its bytes and was checked before.
    pub fn cmp_bytes(&self, other: &[u8]) -> Ordering {
        if self.0 == other {
            return Ordering::Equal;
        }
        // No component holds a NUL, so reading `/` as NUL makes the plain bytewise order the order per component.
        let key = |b: &u8| if *b == b'/' { 0 } else { *b };
        self.0.iter().map(key).cmp(other.iter().map(key))
    }

    /// The number of components, at least 1.
    pub fn depth(&self) -> usize {
        1 + self.0.iter().filter(|b| **b == b'/').count()
    }

    /// The components in order, as bytes.
    pub fn components(&self) -> impl DoubleEndedIterator<Item = &[u8]> {
        self.0.split(|b| *b == b'/')
    }

    /// The last component.
    pub fn name(&self) -> Name {
        let last = self.0.rsplit(|b| *b == b'/').next().unwrap_or_default();
        Name(last.to_vec())
    }

    /// The path of the folder this lies in; `None` for a path of one component.
    pub fn parent(&self) -> Option<Self> {
        let slash = self.0.iter().rposition(|b| *b == b'/')?;
        Some(Self(self.0[..slash].to_vec()))
    }

    /// What remains of this path inside `folder`; `None` when it is not inside (or is the folder itself).
    pub fn strip_prefix(&self, folder: &RelPath) -> Option<Self> {
        let rest = self.0.strip_prefix(folder.0.as_slice())?.strip_prefix(b"/")?;
        Some(Self(rest.to_vec()))
    }
}

impl Ord for RelPath {
    fn cmp(&self, other: &Self) -> Ordering {
        self.cmp_bytes(&other.0)
    }
}

impl PartialOrd for RelPath {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl fmt::Display for RelPath {
    /// Clean text for people; use [`RelPath::as_bytes`] for anything else.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&clean_bytes(&self.0))
    }
}

impl fmt::Debug for RelPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RelPath({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn paths_that_could_leave_the_root_are_refused() {
        let deep = vec!["a"; 129].join("/");
        let long = "x".repeat(256);
        for bad in ["", "/", "/a", "a/", "a//b", ".", "..", "a/../b", "a/./b", "a\0b", &deep, &long] {
            assert!(RelPath::new(bad.as_bytes()).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn every_other_unix_name_survives() {
        for good in [&b"a\nb"[..], b"a\\b", b"...", b" ", b"\xff\xfe", b"-rf", b"C:", b"con"] {
            assert_eq!(RelPath::new(good).unwrap().as_bytes(), good);
        }
    }

    proptest! {
        #[test]
        fn the_order_is_the_order_of_the_components(a in "[a/. ]{1,8}", b in "[a/. ]{1,8}") {
            if let (Ok(a), Ok(b)) = (RelPath::new(a.as_bytes()), RelPath::new(b.as_bytes())) {
                let components = |p: &RelPath| p.components().map(<[u8]>::to_vec).collect::<Vec<_>>();
                prop_assert_eq!(a.cmp(&b), components(&a).cmp(&components(&b)));
            }
        }

        #[test]
        fn join_parent_and_strip_prefix_agree(folder in "[a-c]{1,3}(/[a-c]{1,3}){0,3}", name in "[a-c\n]{1,5}") {
            let folder = RelPath::new(folder.as_bytes()).unwrap();
            let name = Name::new(name.as_bytes()).unwrap();
            let path = folder.join(&name).unwrap();
            prop_assert_eq!(path.parent(), Some(folder.clone()));
            prop_assert_eq!(path.name(), name.clone());
            prop_assert_eq!(path.strip_prefix(&folder), Some(RelPath::from_name(&name)));
        }
    }
}
