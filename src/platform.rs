//! What the operating system gives us, wrapped once: the only place that touches `std::fs`, the clock and sockets' files.
//!
//! | file | what |
//! |---|---|
//! | [`fs`] | file system calls whose errors name the path |
//! | [`disk`] | the file system below the store, real or a test's |
//! | [`durable`] | the one durable-save routine: write aside, sync, rename, sync the folder |
//! | [`lines`] | compressed files of many lines |
//! | [`lock`] | advisory locks between processes |
//! | [`attributes`] | owner, mode, times, extended attributes, holes |
//! | [`root_dir`] | opens things under a root, never outside, never through links |
//! | [`watched`] | a small file that several processes share |
//! | [`clock`] | the time, real or set by hand |
//! | [`random`] | the system's random source |
//! | [`shutdown`] | the one stop signal |
//! | [`resources`] | open files and cores |
//! | [`interfaces`] | network interfaces and the arithmetic of their subnets |
//! | [`network_changes`] | wakes when interfaces or addresses change |

pub mod attributes;
pub mod clock;
pub mod disk;
pub mod durable;
pub mod fs;
pub mod interfaces;
pub mod lines;
pub mod lock;
pub mod network_changes;
pub mod random;
pub mod resources;
pub mod root_dir;
pub mod shutdown;
pub mod watched;

use std::io;
use std::path::PathBuf;

/// An I/O error that names what was done to which path.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action} `{}`", path.display())]
pub struct Error {
    /// What was tried, as a verb ("open").
    pub action: &'static str,
    /// On what.
    pub path: PathBuf,
    /// What the system said.
    #[source]
    pub source: io::Error,
}

impl Error {
    /// The system's word for it.
    pub fn kind(&self) -> io::ErrorKind {
        self.source.kind()
    }

    /// Nothing is there.
    pub fn is_not_found(&self) -> bool {
        self.kind() == io::ErrorKind::NotFound
    }

    /// The disk cannot give back what was written: as bad as wrong bytes, and as lasting.
    pub fn is_bad_medium(&self) -> bool {
        // EIO; Linux's ENODATA and EUCLEAN are what some disks and file systems say instead.
        matches!(self.source.raw_os_error(), Some(5 | 61 | 117))
    }

    /// The disk or a quota is full.
    pub fn is_full(&self) -> bool {
        matches!(self.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
    }
}

/// What [`Error`] is for.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Adds action and path to an I/O result.
pub trait Context<T> {
    /// Names what was tried and on what.
    fn context(self, action: &'static str, path: impl Into<PathBuf>) -> Result<T>;
}

impl<T> Context<T> for io::Result<T> {
    fn context(self, action: &'static str, path: impl Into<PathBuf>) -> Result<T> {
        self.map_err(|source| Error { action, path: path.into(), source })
    }
}

impl<T> Context<T> for std::result::Result<T, rustix::io::Errno> {
    fn context(self, action: &'static str, path: impl Into<PathBuf>) -> Result<T> {
        self.map_err(|errno| Error { action, path: path.into(), source: errno.into() })
    }
}
