//! Which snapshot, and which part of it: what a person types. Pure.

use crate::model::{RelPath, SetName};
use crate::restore::chain::Checked;
use crate::restore::{Error, Result};
use globset::{GlobBuilder, GlobSet, GlobSetBuilder};
use std::path::Path;

/// A snapshot as a person names it: `latest` (default), `latest~2`, or the beginning of an id (at least four hex digits); with
/// `:PATH` behind it, only what is in PATH.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Selection {
    snapshot: Wanted,
    /// Only what is in (or is) this.
    pub path: Option<RelPath>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Wanted {
    Latest(usize),
    Prefix(String),
}

impl std::str::FromStr for Selection {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let (snapshot, path) = text.split_once(':').map_or((text, None), |(snapshot, path)| (snapshot, Some(path)));
        let path = path.map(|path| path.trim_matches('/')).filter(|path| !path.is_empty());
        let path = path.map(|path| RelPath::new(path.as_bytes())).transpose();
        let path = path.map_err(|error| Error::Selection(error.to_string()))?;
        let snapshot = match snapshot.strip_prefix("latest") {
            _ if snapshot.is_empty() => Wanted::Latest(0),
            Some("") => Wanted::Latest(0),
            Some(back) => {
                let number = back.strip_prefix('~').and_then(|number| number.parse().ok());
                Wanted::Latest(number.ok_or_else(|| Error::Selection(format!("`{text}` is not `latest~NUMBER`")))?)
            }
            None if snapshot.len() >= 4 && snapshot.bytes().all(|b| b.is_ascii_hexdigit()) => {
                Wanted::Prefix(snapshot.to_ascii_lowercase())
            }
            None => {
                let message =
                    format!("`{snapshot}` is neither `latest`, `latest~NUMBER` nor the beginning of a snapshot id");
                return Err(Error::Selection(message));
            }
        };
        Ok(Self { snapshot, path })
    }
}

impl Selection {
    /// The newest snapshot, all of it.
    pub fn latest() -> Self {
        Self { snapshot: Wanted::Latest(0), path: None }
    }

    /// The snapshot that is meant. `latest` goes by the holder's time of receipt; with snapshots of several sets, `set` says which.
    ///
    /// # Errors
    /// None fits, or several do: the message lists what to type instead.
    pub fn find<'a>(&self, snapshots: &'a [Checked], set: Option<&SetName>) -> Result<&'a Checked> {
        let mut fitting: Vec<&Checked> =
            snapshots.iter().filter(|snapshot| set.is_none_or(|set| snapshot.record.set == *set)).collect();
        fitting
            .sort_by_key(|snapshot| std::cmp::Reverse((snapshot.info.receipt.received_at, snapshot.record.sequence)));
        match &self.snapshot {
            Wanted::Prefix(prefix) => {
                fitting.retain(|snapshot| snapshot.info.id.to_string().starts_with(prefix));
                match fitting.as_slice() {
                    [one] => Ok(one),
                    [] => Err(Error::Selection(format!("there is no snapshot `{prefix}`"))),
                    _ => Err(Error::Selection(format!("several snapshots begin with `{prefix}`; give more digits"))),
                }
            }
            Wanted::Latest(back) => {
                let newest = fitting.first().ok_or_else(|| match set {
                    Some(set) => Error::Selection(format!("there is no snapshot of set `{set}`")),
                    None => Error::Selection("there is no snapshot".to_owned()),
                })?;
                let mut sets: Vec<&SetName> = fitting.iter().map(|snapshot| &snapshot.record.set).collect();
                sets.sort();
                sets.dedup();
                if sets.len() > 1 {
                    let names: Vec<_> = sets.iter().map(|set| format!("`{set}`")).collect();
                    let message =
                        format!("there are snapshots of several sets ({}); say which with --set", names.join(", "));
                    return Err(Error::Selection(message));
                }
                let have = fitting.len();
                let set = &newest.record.set;
                let what = if have == 1 { "1 snapshot".to_owned() } else { format!("{have} snapshots") };
                fitting
                    .get(*back)
                    .copied()
                    .ok_or_else(|| Error::Selection(format!("set `{set}` has only {what}, there is no latest~{back}")))
            }
        }
    }
}

/// Which entries are wanted.
#[derive(Clone, Debug, Default)]
pub struct Include(Option<GlobSet>);

impl Include {
    /// Patterns as in a shell (`*.jpg`, `docs/**`, `{a,b}`); one without a slash fits the name at any depth, one with a slash the
    /// path from the top. No pattern means everything.
    pub fn new(patterns: &[String]) -> Result<Self> {
        if patterns.is_empty() {
            return Ok(Self(None));
        }
        let mut set = GlobSetBuilder::new();
        for pattern in patterns {
            let anchored = pattern.trim_start_matches('/');
            let texts = if pattern.contains('/') {
                vec![anchored.to_owned(), format!("{}/**", anchored.trim_end_matches('/'))]
            } else {
                vec![format!("**/{pattern}"), format!("**/{pattern}/**")]
            };
            for text in texts {
                let glob = GlobBuilder::new(&text).literal_separator(true).build();
                set.add(glob.map_err(|source| Error::Pattern { pattern: pattern.clone(), source })?);
            }
        }
        let built = set.build().map_err(|source| Error::Pattern { pattern: patterns.join(" "), source })?;
        Ok(Self(Some(built)))
    }

    /// What `find` looks for: the same patterns, but for what lies in the folders that fit.
    pub fn exactly(pattern: &str) -> Result<Self> {
        let anchored = pattern.trim_start_matches('/').trim_end_matches('/');
        let text = if pattern.contains('/') { anchored.to_owned() } else { format!("**/{pattern}") };
        let invalid = |source| Error::Pattern { pattern: pattern.to_owned(), source };
        let glob = GlobBuilder::new(&text).literal_separator(true).build().map_err(invalid)?;
        Ok(Self(Some(GlobSetBuilder::new().add(glob).build().map_err(invalid)?)))
    }

    /// Whether an entry is wanted. Folders above wanted entries are made as needed.
    pub fn wants(&self, path: &RelPath) -> bool {
        let path: &Path = crate::platform::attributes::path_from_bytes(path.as_bytes());
        self.0.as_ref().is_none_or(|set| set.is_match(path))
    }

    /// Whether everything is wanted.
    pub fn is_everything(&self) -> bool {
        self.0.is_none()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_people_type_is_understood_or_refused_with_a_sentence() {
        let parse = |text: &str| text.parse::<Selection>();
        assert_eq!(parse("latest").unwrap(), Selection::latest());
        assert_eq!(parse("latest~2").unwrap().snapshot, Wanted::Latest(2));
        assert_eq!(parse("ABcd").unwrap().snapshot, Wanted::Prefix("abcd".to_owned()));
        let with_path = parse("latest:docs/old/").unwrap();
        assert_eq!(with_path.path.unwrap().to_string(), "docs/old");
        for bad in ["abc", "newest", "latest~x", "latest:../x", "zzzz"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn patterns_fit_names_anywhere_and_paths_from_the_top() {
        let wants = |patterns: &[&str], path: &str| {
            let patterns: Vec<_> = patterns.iter().map(|p| (*p).to_owned()).collect();
            Include::new(&patterns).unwrap().wants(&RelPath::new(path.as_bytes()).unwrap())
        };
        assert!(wants(&[], "a/b"));
        assert!(wants(&["*.jpg"], "photos/2024/x.jpg") && !wants(&["*.jpg"], "photos/x.png"));
        assert!(wants(&["photos/2024"], "photos/2024/a/b") && !wants(&["photos/2024"], "old/photos/2024/a"));
        assert!(wants(&["2024"], "photos/2024/a") && wants(&["/photos/*.jpg"], "photos/x.jpg"));
        assert!(!wants(&["photos/*.jpg"], "photos/2024/x.jpg"));
        assert!(Include::new(&["a{".to_owned()]).is_err());
        let finds = |pattern: &str, path: &str| {
            Include::exactly(pattern).unwrap().wants(&RelPath::new(path.as_bytes()).unwrap())
        };
        assert!(finds("2024", "photos/2024") && !finds("2024", "photos/2024/a"));
        assert!(finds("photos/*.jpg", "photos/x.jpg") && !finds("*.jpg", "x.png") && finds("**", "a/b"));
        assert!(Include::exactly("a{").is_err());
    }
}
