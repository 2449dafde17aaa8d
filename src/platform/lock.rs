//! Advisory locks between processes. The system drops them when their process ends, however it ends, so none goes stale.

use crate::platform::{Context, Result, fs};
use std::fs::{File, TryLockError};
use std::path::Path;

/// A held lock; dropped, it is released.
#[derive(Debug)]
pub struct Lock {
    _file: File,
}

impl Lock {
    /// Waits until nobody else holds the lock on `path` in any way. The file is made when it is not there, and stays.
    pub fn exclusive(path: &Path) -> Result<Self> {
        let file = fs::open_or_create(path)?;
        file.lock().context("lock", path)?;
        Ok(Self { _file: file })
    }

    /// Waits until nobody holds it exclusively; many may share it.
    pub fn shared(path: &Path) -> Result<Self> {
        let file = fs::open_or_create(path)?;
        file.lock_shared().context("lock", path)?;
        Ok(Self { _file: file })
    }

    /// Takes the lock if it is free this moment; `None` when somebody else holds it.
    pub fn try_exclusive(path: &Path) -> Result<Option<Self>> {
        let file = fs::open_or_create(path)?;
        match file.try_lock() {
            Ok(()) => Ok(Some(Self { _file: file })),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) => Err(error).context("lock", path),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_holder_at_a_time_and_free_again_when_dropped() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lock");
        let held = Lock::try_exclusive(&path).unwrap();
        assert!(held.is_some());
        assert!(Lock::try_exclusive(&path).unwrap().is_none());
        drop(held);
        let shared = (Lock::shared(&path).unwrap(), Lock::shared(&path).unwrap());
        assert!(Lock::try_exclusive(&path).unwrap().is_none());
        drop(shared);
        assert!(Lock::try_exclusive(&path).unwrap().is_some());
    }
}
