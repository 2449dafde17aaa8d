//! Where things lie: one folder when it is named, the platform's usual places otherwise.

use crate::config::{Error, Result};
use crate::platform::fs;
use directories::ProjectDirs;
use std::path::{Path, PathBuf};

/// The places of one device. Two devices on one machine are two homes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Home {
    config: PathBuf,
    data: PathBuf,
    cache: PathBuf,
}

impl Home {
    /// Everything in one folder.
    pub fn at(folder: &Path) -> Self {
        Self { config: folder.to_owned(), data: folder.to_owned(), cache: folder.join("cache") }
    }

    /// The platform's usual places for this user.
    ///
    /// # Errors
    /// [`Error::NoHome`].
    pub fn of_this_user() -> Result<Self> {
        let dirs = ProjectDirs::from("", "", "lan-backup").ok_or(Error::NoHome)?;
        let [config, data, cache] = [dirs.config_dir(), dirs.data_local_dir(), dirs.cache_dir()].map(Path::to_owned);
        Ok(Self { config, data, cache })
    }

    /// Makes the folders, for this user only.
    ///
    /// # Errors
    /// The disk's.
    pub fn create(&self) -> Result<()> {
        for folder in [&self.config, &self.data, &self.cache] {
            fs::create_private_dir_all(folder)?;
        }
        Ok(())
    }

    /// Certificate and keys.
    pub fn identity(&self) -> &Path {
        &self.config
    }

    /// The settings file.
    pub fn settings(&self) -> PathBuf {
        self.config.join("settings.toml")
    }

    /// What this device called itself last.
    pub fn alias(&self) -> PathBuf {
        self.config.join("alias")
    }

    /// The devices it trusts.
    pub fn trust(&self) -> PathBuf {
        self.config.join("trust.json")
    }

    /// The LocalSend devices that are not asked about.
    pub fn phones(&self) -> PathBuf {
        self.config.join("phones.json")
    }

    /// Plain files from LocalSend apps, unless the settings say otherwise.
    pub fn inbox(&self) -> PathBuf {
        self.data.join("inbox")
    }

    /// Received backups, unless the settings say otherwise.
    pub fn store(&self) -> PathBuf {
        self.data.join("store")
    }

    /// What must survive but nobody edits: the day's count of pairing windows, the heads this device has committed.
    pub fn state(&self) -> PathBuf {
        self.data.join("state")
    }

    /// What this device knows of its last snapshots; may be deleted.
    pub fn cache(&self) -> &Path {
        &self.cache
    }

    /// The control socket of a running `serve`.
    pub fn control_socket(&self) -> PathBuf {
        self.data.join("control.sock")
    }
}
