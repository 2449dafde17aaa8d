//! The settings file: what a person wants to hold without typing it each time.
//!
//! `settings.toml` in the home. Unknown keys are refused, because a misspelt key that is silently ignored is a setting that a
//! person believes in. A template with every key commented out is written on first use.

pub mod dirs;
pub mod retention;

use crate::model::{Alias, InboxKeep};
use crate::platform::durable::{self, Access};
use crate::platform::fs;
use serde::Deserialize;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

pub use dirs::Home;
pub use retention::Retention;

/// What a new settings file says.
const TEMPLATE: &str = "\
# Settings of lan-backup. Every line is a setting with its usual value; remove the `#` to change it.
# What is given on the command line comes before what stands here.

# alias = \"nas\"             # what this device is called on other screens; the host name otherwise
# port = 53317              # where `serve` listens; 0 takes a free one
# bind = \"192.168.1.7\"      # only this address; all of them otherwise
# store = \"/srv/backups\"    # where received backups are kept
# accept = \"ask\"            # ask, paired or never: who is let in without a question
# localsend = \"ask\"         # ask, accept or off: who may send files from a LocalSend app
# localsend_keep = \"backup\" # backup, save or both: into the store, into the inbox folder, or both
# localsend_pin_file = \"/etc/lan-backup/localsend-pin\"   # a file with the PIN that such apps must type
# localsend_http = false   # true: take files from such apps with encryption turned off, too
# inbox = \"/srv/inbox\"      # where plain files go
# quota_gib = 500           # the most that each device may store here
# reserve_gib = 1           # what always stays free on the disk
# scrub_mib = 8             # MiB a second that `serve` reads of what it keeps, to find bit rot early; 0 for never

# What is kept of the backups here (`lan-backup retention` shows what a rule would do); without this, everything, for ever.
# [retention]
# keep = { within = \"30d\", daily = 60, weekly = 26, monthly = 24, yearly = 10 }   # also: last, hourly, tag = [\"tax\"]
# trash_days = 7            # how long `lan-backup undelete` can bring back what was forgotten
# [[retention.rule]]        # for certain devices and sets; the last one that fits counts
# device = \"laptop\"
# set = \"Photos\"
# keep = { all = true }
";

/// What went wrong with settings or folders.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The settings file is not one.
    #[error("the settings in `{}` cannot be understood: {problem}", path.display())]
    Settings {
        /// Which file.
        path: PathBuf,
        /// What the parser said: the line, and what is wrong with it.
        problem: String,
    },
    /// The system names no home folder for this user.
    #[error("this user has no home folder; name one with --home or LAN_BACKUP_HOME")]
    NoHome,
    /// The disk failed.
    #[error(transparent)]
    Platform(#[from] crate::platform::Error),
}

/// What [`Error`] is for.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Who is let in without a question; the words of the settings file and of `--accept`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Accept {
    /// A person is asked.
    Ask,
    /// Whoever types the PIN.
    Paired,
    /// Nobody new.
    Never,
}

/// Who may send files from a LocalSend app; the words of the settings file and of `--localsend`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LocalSend {
    /// Whom a person says yes to.
    Ask,
    /// Everybody, or everybody who knows the PIN.
    Accept,
    /// Nobody.
    Off,
}

/// What the file says; what it does not say is for the caller to decide.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// What this device is called.
    pub alias: Option<Alias>,
    /// Where `serve` listens.
    pub port: Option<u16>,
    /// Only this address.
    pub bind: Option<IpAddr>,
    /// Where received backups are kept.
    pub store: Option<PathBuf>,
    /// Who is let in without a question.
    pub accept: Option<Accept>,
    /// Who may send files from a LocalSend app.
    pub localsend: Option<LocalSend>,
    /// What becomes of them.
    pub localsend_keep: Option<InboxKeep>,
    /// A file with the PIN that such apps must type.
    pub localsend_pin_file: Option<PathBuf>,
    /// Apps without TLS may send, too.
    pub localsend_http: Option<bool>,
    /// Where plain files go.
    pub inbox: Option<PathBuf>,
    /// The most that each device may store here, in GiB.
    pub quota_gib: Option<u64>,
    /// What always stays free on the disk, in GiB.
    pub reserve_gib: Option<u64>,
    /// How fast `serve` reads again what it keeps, in MiB a second; 0 for never.
    pub scrub_mib: Option<u64>,
    /// What is kept of the backups here.
    #[serde(default)]
    pub retention: Retention,
}

impl Settings {
    /// Reads the file; writes the template when there is none.
    ///
    /// # Errors
    /// [`Error::Settings`] with the line, when it cannot be understood.
    pub fn load_or_create(path: &Path) -> Result<Self> {
        let Some(bytes) = fs::read_if_there(path)? else {
            durable::save(path, Access::Usual, TEMPLATE.as_bytes())?;
            return Ok(Self::default());
        };
        let text = String::from_utf8_lossy(&bytes);
        let wrong = |error: toml::de::Error| Error::Settings { path: path.to_owned(), problem: error.to_string() };
        let settings: Self = toml::from_str(&text).map_err(wrong)?;
        match settings.retention.problem() {
            Some(problem) => Err(Error::Settings { path: path.to_owned(), problem }),
            None => Ok(settings),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_template_is_valid_with_and_without_its_comments() {
        assert_eq!(toml::from_str::<Settings>(TEMPLATE).unwrap(), Settings::default());
        let all: String = TEMPLATE
            .lines()
            .skip(3)
            .filter(|line| !line.starts_with("# What "))
            .map(|line| line.trim_start_matches("# ").to_owned() + "\n")
            .collect();
        let settings: Settings = toml::from_str(&all).unwrap();
        assert_eq!((settings.port, settings.quota_gib, settings.accept), (Some(53317), Some(500), Some(Accept::Ask)));
        assert!(settings.retention.has_rules() && settings.retention.rule[0].keep.all);
    }

    #[test]
    fn a_misspelt_key_is_refused_by_name() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("settings.toml");
        std::fs::write(&path, "alais = \"nas\"\n").unwrap();
        let error = Settings::load_or_create(&path).unwrap_err().to_string();
        assert!(error.contains("alais"), "{error}");
        std::fs::remove_file(&path).unwrap();
        assert_eq!(Settings::load_or_create(&path).unwrap(), Settings::default());
        assert_eq!(Settings::load_or_create(&path).unwrap(), Settings::default());
    }
}
