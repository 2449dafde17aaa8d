//! What is shared: a tree that can be looked at, read and packed, and nothing outside of it. The seam between the pages and where
//! the bytes lie.

use crate::manifest;
use crate::model::{ContentHash, FileTime, Name, RelPath};
use crate::platform::root_dir;
use crate::platform::shutdown::Shutdown;
use crate::restore;
use crate::server::share::pipe::Pipe;
use bytes::Bytes;
use futures_util::future::BoxFuture;
use std::fmt;
use std::io;
use std::ops::Range;
use tokio::sync::mpsc;

/// Why something of the tree cannot be had. Strangers hear that it is so; the person who shares hears why.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The folder's disk.
    #[error("the disk cannot be read")]
    Disk(#[from] io::Error),
    /// The snapshot's list of files.
    #[error("the snapshot's list of files cannot be read")]
    Manifest(#[from] manifest::Error),
    /// The snapshot's chunks.
    #[error("the snapshot cannot be read")]
    Restore(#[from] restore::Error),
}

impl Error {
    /// It only means that there is no such thing, or nothing that may be had: a link, a socket, a folder that is a file now.
    pub(crate) fn is_absence(&self) -> bool {
        matches!(self, Self::Disk(error) if root_dir::is_absence(error))
    }
}

/// What the tree gives.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What something is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A folder.
    Folder,
    /// A file of this size.
    File(u64),
    /// Anything else, links above all: named, never followed, never given.
    Other,
}

/// One thing in the tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item {
    /// Where, from the top of what is shared.
    pub path: RelPath,
    /// What.
    pub kind: Kind,
    /// Last change.
    pub mtime: Option<FileTime>,
    /// The hash of a file that came from a LocalSend app with one.
    pub sha256: Option<ContentHash>,
}

/// Gives a range of bytes of a file, in order, and returns when they were taken, or when nobody takes them any more.
pub type Reading = Box<dyn FnOnce(Range<u64>, mpsc::Sender<Bytes>) -> BoxFuture<'static, Result<()>> + Send>;

/// A file that is held open: its size and its bytes belong together, whatever happens to its name.
pub struct Held {
    /// Bytes.
    pub size: u64,
    /// Changes whenever the bytes do.
    pub tag: String,
    /// Reads it.
    pub read: Reading,
}

impl fmt::Debug for Held {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Held({}, {})", self.size, self.tag)
    }
}

/// What is shared. Paths come from strangers: every implementation gives what lies below its top, never through a link.
pub trait Tree: Send + Sync + fmt::Debug + 'static {
    /// What it is, in a few words for the head of the page.
    fn title(&self) -> String;

    /// What is at a path, links themselves and not what they point to.
    fn look(&self, path: RelPath) -> BoxFuture<'_, Result<Option<Item>>>;

    /// Up to `count` things in a folder (the top without one), in the order of names, those after `after` only.
    fn list(&self, folder: Option<RelPath>, after: Option<Name>, count: usize) -> BoxFuture<'_, Result<Vec<Item>>>;

    /// All files in path order; `None` when there are more than `most`.
    fn files(&self, most: usize) -> BoxFuture<'_, Result<Option<Vec<Item>>>>;

    /// Opens a file; `None` when there is none.
    fn open(&self, path: RelPath) -> BoxFuture<'_, Result<Option<Held>>>;

    /// Packs a folder (all, without one) into a zip. It ends well only when everything is in it.
    fn zip(&self, folder: Option<RelPath>, pipe: Pipe, stop: Shutdown) -> BoxFuture<'_, Result<()>>;
}
