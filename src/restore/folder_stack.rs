//! The folder at hand, held open with those above it, so that going to the next file in path order opens next to nothing.

use crate::model::{Name, RelPath};
use crate::platform::root_dir::RootDir;
use std::io;

/// A root and the folders that were entered below it. None is ever reached through a link.
#[derive(Debug)]
pub struct FolderStack {
    root: RootDir,
    open: Vec<(Name, RootDir)>,
}

impl FolderStack {
    /// Begins at a root.
    pub fn new(root: RootDir) -> Self {
        Self { root, open: Vec::new() }
    }

    /// The root.
    pub fn root(&self) -> &RootDir {
        &self.root
    }

    /// Enters the folder that `path` lies in (the root, for a path of one component).
    ///
    /// # Errors
    /// A component is not there or is not a folder.
    pub fn enter_parent(&mut self, path: &RelPath) -> io::Result<&RootDir> {
        match path.parent() {
            None => Ok(&self.root),
            Some(parent) => self.enter(&parent),
        }
    }

    /// Enters a folder.
    ///
    /// # Errors
    /// A component is not there or is not a folder.
    pub fn enter(&mut self, path: &RelPath) -> io::Result<&RootDir> {
        let shared = self.open.iter().zip(path.components()).take_while(|((name, _), other)| name.as_bytes() == *other);
        let shared = shared.count();
        self.open.truncate(shared);
        for component in path.components().skip(shared) {
            let name = Name::new(component).map_err(io::Error::other)?;
            let folder = self.open.last().map_or(&self.root, |(_, folder)| folder).open_folder(&name)?;
            self.open.push((name, folder));
        }
        Ok(self.open.last().map_or(&self.root, |(_, folder)| folder))
    }

    /// The folder that `path` lies in, for itself.
    ///
    /// # Errors
    /// A component is not there or is not a folder.
    pub fn into_parent(mut self, path: &RelPath) -> io::Result<RootDir> {
        self.enter_parent(path)?;
        Ok(self.open.pop().map_or(self.root, |(_, folder)| folder))
    }
}
