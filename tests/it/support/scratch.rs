//! Scratch folders for tests of many small restores.

use tempfile::TempDir;

/// In memory where the system offers it: a restore ends with a sync of its file system, and a thousand of those on a busy disk
/// are minutes.
pub(crate) fn scratch() -> TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()
}

/// Whether the long form of the tests was asked for.
#[expect(clippy::disallowed_methods, reason = "a test's own switch")]
pub(crate) fn long() -> bool {
    std::env::var_os("LAN_BACKUP_LONG").is_some()
}
