//! What is left out. Nothing is, unless asked.

use crate::backup::{Error, Result};
use crate::platform::fs;
use ignore::gitignore::{Gitignore, GitignoreBuilder};
use std::io::Read;
use std::path::{Path, PathBuf};

/// The first bytes of a valid `CACHEDIR.TAG` (Cache Directory Tagging Specification).
const CACHE_SIGNATURE: &[u8] = b"Signature: 8a477f597d28d172789f06886806bc55";

/// What a person wants left out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FilterOptions {
    /// Patterns with gitignore's syntax.
    pub exclude: Vec<String>,
    /// Files of such patterns, one a line, `#` for comments.
    pub exclude_files: Vec<PathBuf>,
    /// Leave out what is in folders that hold a valid `CACHEDIR.TAG`; the folder and the tag itself stay.
    pub exclude_caches: bool,
}

/// Decides about each entry.
#[derive(Debug)]
pub struct Filter {
    patterns: Gitignore,
    exclude_caches: bool,
}

impl Filter {
    /// Reads and compiles the patterns. They apply to paths in the snapshot: `/docs/tmp` is only that one, `tmp` is any.
    ///
    /// # Errors
    /// A file that cannot be read, or a pattern that is not one.
    pub fn new(options: &FilterOptions) -> Result<Self> {
        let mut builder = GitignoreBuilder::new("/");
        let mut add = |pattern: &str| {
            let wrong = |source| Error::Pattern { pattern: pattern.to_owned(), source: Box::new(source) };
            builder.add_line(None, pattern).map(|_| ()).map_err(wrong)
        };
        for file in &options.exclude_files {
            fs::read_to_string(file)?.lines().try_for_each(&mut add)?;
        }
        options.exclude.iter().try_for_each(|pattern| add(pattern))?;
        let wrong = |source| Error::Pattern { pattern: "all together".to_owned(), source: Box::new(source) };
        Ok(Self { patterns: builder.build().map_err(wrong)?, exclude_caches: options.exclude_caches })
    }

    /// Whether an entry is left out; a folder that is, is not walked.
    pub fn excludes(&self, snapshot_path: &Path, is_folder: bool) -> bool {
        !self.patterns.is_empty() && self.patterns.matched(snapshot_path, is_folder).is_ignore()
    }

    /// Whether the folder at `source` holds only a cache, which is to be left out.
    pub fn is_cache(&self, source: &Path) -> bool {
        if !self.exclude_caches {
            return false;
        }
        let mut head = [0; CACHE_SIGNATURE.len()];
        let tag = fs::open_no_follow(&source.join("CACHEDIR.TAG"));
        tag.is_ok_and(|mut tag| tag.read_exact(&mut head).is_ok() && head == CACHE_SIGNATURE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filter(patterns: &[&str]) -> Filter {
        let exclude = patterns.iter().map(|p| (*p).to_owned()).collect();
        Filter::new(&FilterOptions { exclude, ..FilterOptions::default() }).unwrap()
    }

    #[test]
    fn patterns_have_gitignores_meaning() {
        let f = filter(&["*.o", "!keep.o", "/docs/tmp", "build/", "# a comment", ""]);
        let excluded = |path: &str, folder| f.excludes(Path::new(path), folder);
        assert!(excluded("docs/a.o", false) && excluded("x/y/z.o", false));
        assert!(!excluded("docs/keep.o", false));
        assert!(excluded("docs/tmp", true) && !excluded("other/docs/tmp", true));
        assert!(excluded("src/build", true) && !excluded("src/build", false));
        assert!(!excluded("docs/# a comment", false));
    }

    #[test]
    fn without_patterns_nothing_is_left_out() {
        let f = filter(&[]);
        assert!(!f.excludes(Path::new(".git/objects/tmp~"), false));
    }

    #[test]
    fn a_broken_pattern_is_named() {
        let options = FilterOptions { exclude: vec!["a{b".to_owned()], ..FilterOptions::default() };
        assert!(Filter::new(&options).unwrap_err().to_string().contains("a{b"));
    }

    #[test]
    fn only_a_valid_tag_marks_a_cache() {
        let folder = tempfile::tempdir().unwrap();
        let f = Filter::new(&FilterOptions { exclude_caches: true, ..FilterOptions::default() }).unwrap();
        std::fs::write(folder.path().join("CACHEDIR.TAG"), "something else").unwrap();
        assert!(!f.is_cache(folder.path()));
        std::fs::write(folder.path().join("CACHEDIR.TAG"), [CACHE_SIGNATURE, b"\n# more"].concat()).unwrap();
        assert!(f.is_cache(folder.path()));
        assert!(!filter(&[]).is_cache(folder.path()));
    }
}
