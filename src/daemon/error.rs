//! Everything that can go wrong in a command, with a stable code for programs and a next step for people.

use crate::backup;
use crate::client;
use crate::config;
use crate::copy;
use crate::daemon::phone::Trouble;
use crate::discovery;
use crate::identity;
use crate::manifest;
use crate::model::{Alias, Fingerprint};
use crate::platform;
use crate::restore;
use crate::server;
use crate::store;
use crate::store::layout::STORE_FILE;
use crate::vault;
use std::error::Error as _;

/// What stopped a command.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Settings or folders.
    #[error(transparent)]
    Config(#[from] config::Error),
    /// The identity or the trust store.
    #[error(transparent)]
    Identity(#[from] identity::Error),
    /// A call to another device.
    #[error(transparent)]
    Client(#[from] client::Error),
    /// The backup engine.
    #[error(transparent)]
    Backup(#[from] backup::Error),
    /// The restore engine.
    #[error(transparent)]
    Restore(#[from] restore::Error),
    /// The copy engine.
    #[error(transparent)]
    Copy(#[from] copy::Error),
    /// The vault, outside an engine.
    #[error(transparent)]
    Vault(#[from] vault::Error),
    /// The store on this device.
    #[error(transparent)]
    Store(#[from] store::Error),
    /// Finding devices.
    #[error(transparent)]
    Discovery(#[from] discovery::Error),
    /// Serving others.
    #[error(transparent)]
    Server(#[from] server::Error),
    /// The disk, outside all of these.
    #[error(transparent)]
    Platform(#[from] platform::Error),
    /// Nobody of that name answers.
    #[error("there is no device `{name}` here")]
    UnknownDevice {
        /// As it was typed.
        name: String,
        /// What was tried, in lines for people.
        tried: String,
    },
    /// At the address of a paired device another one answers.
    #[error("at {address}, where `{alias}` was ({}), another device answers ({})", expected.short_code(), found.short_code())]
    AnotherDevice {
        /// Where.
        address: std::net::SocketAddr,
        /// What the paired one calls itself.
        alias: Alias,
        /// Who the paired one is.
        expected: Fingerprint,
        /// Who answers.
        found: Fingerprint,
    },
    /// Several devices fit the name.
    #[error("several devices fit `{name}`: {}", devices.join(", "))]
    Ambiguous {
        /// As it was typed.
        name: String,
        /// Alias, code and address of each.
        devices: Vec<String>,
    },
    /// The device is no lan-backup.
    #[error("`{0}` runs a LocalSend app, which can neither keep backups nor give them back")]
    NotLanBackup(String),
    /// A paired device announces itself as LocalSend only: it is not called by that weaker protocol.
    #[error(
        "`{0}` is paired with this device, but shows itself as a LocalSend app only; it is not called that way, because \
             somebody may want to get at your files by the weaker door"
    )]
    PairedAsLocalSend(String),
    /// A LocalSend app took nothing, or no more.
    #[error(transparent)]
    Phone(#[from] Trouble),
    /// The receiver's person ended the transfer.
    #[error("the person at {0} cancelled the transfer; what had arrived whole is there")]
    CancelledThere(String),
    /// Wrong use of a command, beyond what the parser of the command line sees.
    #[error("{message}")]
    Usage {
        /// What is wrong.
        message: String,
        /// What to do instead.
        hint: Option<String>,
    },
    /// The port is in use.
    #[error("port {port} is in use on this machine")]
    PortTaken {
        /// Which.
        port: u16,
    },
    /// No `serve` runs with this home.
    #[error("no `lan-backup serve` runs with this home")]
    NotRunning,
    /// A running `serve` said no.
    #[error("{message}")]
    Refused {
        /// Its code.
        code: String,
        /// Its sentence.
        message: String,
        /// Its hint.
        hint: Option<String>,
    },
    /// The list of a snapshot ends where it is damaged.
    #[error("the list of the {which} snapshot cannot be read to its end: {reason}")]
    Unreadable {
        /// Which of those that were asked for.
        which: &'static str,
        /// What is damaged or gone.
        reason: String,
    },
    /// The user stopped it.
    #[error("stopped")]
    Stopped,
}

/// What can be done about damage, whoever runs into it.
pub const DAMAGED: &str = "on the device that keeps it `lan-backup verify` says what is hit and `lan-backup repair` sets it right; \
     then `lan-backup send` on the source brings back what that one still has\n\
     other snapshots may be whole: `lan-backup snapshots DEVICE` lists them";

/// What commands give.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// Wrong use, with a next step.
    pub fn usage(message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self::Usage { message: message.into(), hint: Some(hint.into()) }
    }

    /// Whether the user stopped it.
    pub fn is_stopped(&self) -> bool {
        matches!(
            self,
            Self::Stopped
                | Self::Copy(copy::Error::Stopped)
                | Self::Backup(backup::Error::Stopped)
                | Self::Restore(restore::Error::Stopped)
        )
    }

    /// What a vault said, whichever engine passed it on.
    fn of_vault(&self) -> Option<&vault::Error> {
        match self {
            Self::Vault(error)
            | Self::Copy(copy::Error::From(error) | copy::Error::To(error))
            | Self::Backup(backup::Error::Vault(error) | backup::Error::Manifest(manifest::Error::Vault(error)))
            | Self::Restore(restore::Error::Vault(error) | restore::Error::Manifest(manifest::Error::Vault(error))) => {
                Some(error)
            }
            _ => None,
        }
    }

    /// The chain of errors in one sentence.
    pub fn sentence(&self) -> String {
        let mut text = self.to_string();
        let mut source = self.source();
        while let Some(error) = source {
            // Transparent errors give the same words again.
            let words = error.to_string();
            if !text.ends_with(&words) {
                text.push_str(": ");
                text.push_str(&words);
            }
            source = error.source();
        }
        text
    }

    /// A stable name for programs.
    pub fn code(&self) -> String {
        if let Some(error) = self.of_vault() {
            return vault_code(error).to_owned();
        }
        let code = match self {
            Self::Client(error) => error.code(),
            Self::Phone(trouble) => trouble.code(),
            Self::Unreadable { .. } | Self::Restore(restore::Error::Manifest(_)) => "corrupt",
            Self::Copy(copy::Error::Diverged { .. }) => "diverged",
            Self::Backup(backup::Error::Roots(_)) => "bad-path",
            Self::Backup(backup::Error::Pattern { .. }) | Self::Restore(restore::Error::Pattern { .. }) => {
                "bad-pattern"
            }
            Self::Restore(restore::Error::Selection(_)) => "no-such-snapshot",
            Self::Restore(restore::Error::Target(error)) if is_full(error) => "disk-full",
            Self::Config(_) => "config",
            Self::Identity(_) => "identity",
            Self::Store(store::Error::NewerFormat { .. }) => "newer-format",
            Self::Store(store::Error::Pruning) => "busy",
            Self::Store(store::Error::Gone { .. }) => "gone",
            Self::Store(_) => "store",
            Self::UnknownDevice { .. } => "unknown-device",
            Self::Ambiguous { .. } => "ambiguous-device",
            Self::AnotherDevice { .. } => "wrong-fingerprint",
            Self::NotLanBackup(_) => "not-lan-backup",
            Self::PairedAsLocalSend(_) => "downgrade-refused",
            Self::CancelledThere(_) => "declined",
            Self::Usage { .. } => "usage",
            Self::PortTaken { .. } => "port-taken",
            Self::NotRunning => "not-running",
            Self::Refused { code, .. } => return code.clone(),
            Self::Platform(error) if error.is_full() => "disk-full",
            error if error.is_stopped() => "stopped",
            _ => "failed",
        };
        code.to_owned()
    }

    /// What a person can do about it.
    pub fn hint(&self) -> Option<String> {
        if let Some(error) = self.of_vault() {
            return vault_hint(error);
        }
        let hint = match self {
            Self::Client(error) => return error.hint(),
            Self::Phone(trouble) => return trouble.hint(),
            Self::Identity(error) => return error.hint(),
            Self::Server(error) => return error.hint(),
            Self::Store(error) => return store_hint(error).map(str::to_owned),
            Self::Usage { hint, .. } | Self::Refused { hint, .. } => return hint.clone(),
            Self::Unreadable { .. } | Self::Restore(restore::Error::Manifest(_)) => DAMAGED,
            Self::Copy(copy::Error::Diverged { .. }) => {
                "both go on by themselves now; copy to an empty folder, or to another device, to have both"
            }
            Self::UnknownDevice { tried, .. } => {
                let first = "start `lan-backup serve` there, or give its address (192.168.1.7) instead of its name";
                return Some(if tried.is_empty() { first.to_owned() } else { format!("{first}\n{tried}") });
            }
            Self::AnotherDevice { .. } => {
                "if that device was set up anew, `lan-backup unpair` the old one first; otherwise somebody else has its address"
            }
            Self::Ambiguous { .. } => "name it by its code, the beginning of its fingerprint, or its address",
            Self::PairedAsLocalSend(_) => {
                "start `lan-backup serve` there; if it really is an app only now, `lan-backup unpair` it here first"
            }
            Self::NotLanBackup(_) => "install lan-backup there, or pick another device: `lan-backup devices`",
            Self::PortTaken { .. } => "is another `serve` or a LocalSend app running? `--port 0` takes a free port",
            Self::NotRunning => "start it: `lan-backup serve`",
            Self::Restore(restore::Error::Selection(_)) => "`lan-backup snapshots DEVICE` lists what is there",
            Self::Restore(restore::Error::Target(error)) if is_full(error) => {
                "make space, or choose another --to; what is restored already is kept and not fetched again"
            }
            Self::Platform(error) if error.is_full() => "make space and run it again; nothing was lost",
            _ => return None,
        };
        Some(hint.to_owned())
    }
}

fn is_full(error: &std::io::Error) -> bool {
    matches!(error.kind(), std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded)
}

fn vault_code(error: &vault::Error) -> &'static str {
    match error {
        vault::Error::Missing(_) => "missing-chunks",
        vault::Error::Stale(_) => "stale-previous",
        vault::Error::NotFound(_) => "not-found",
        vault::Error::Corrupt(_) => "corrupt",
        vault::Error::Refused(source) => source.downcast_ref::<client::Error>().map_or("refused", client::Error::code),
        vault::Error::Full(_) => "full",
        vault::Error::Offline(_) => "offline",
        vault::Error::Failed(..) => "failed",
    }
}

fn store_hint(error: &store::Error) -> Option<&'static str> {
    match error {
        store::Error::NewerFormat { .. } => {
            Some("nothing was changed; install the newer lan-backup here, or choose another --store")
        }
        store::Error::Pruning => Some("wait until that one has ended, or stop it"),
        store::Error::Gone { .. } => {
            Some("newer snapshots are not touched by this; `lan-backup snapshots` lists what is there")
        }
        store::Error::Unusable { path, .. } if path.ends_with(STORE_FILE) => Some(
            "this disk may be failing; copy the store elsewhere before anything else. `lan-backup repair` mends a flipped bit; else move that \
             one file away and run this again, which makes a new one: nothing of what was backed up is in it",
        ),
        store::Error::Unusable { .. } => Some(
            "this disk may be failing; copy the store elsewhere before anything else. `lan-backup repair` mends a flipped bit; else put a copy \
             of that one file back, from another copy of the store, and run this again",
        ),
        store::Error::Full => Some("make space on this device; nothing old was touched"),
        store::Error::Damaged { .. } | store::Error::Pack { .. } | store::Error::Chunk { .. } => {
            Some("this disk may be failing; copy the store elsewhere before anything else")
        }
        _ => None,
    }
}

fn vault_hint(error: &vault::Error) -> Option<String> {
    let hint = match error {
        vault::Error::Offline(_) => "run the same command again: what has arrived is not sent twice",
        vault::Error::Full(_) => {
            "make space on the other device, then run the same command again; nothing old was touched"
        }
        vault::Error::Corrupt(_) => DAMAGED,
        vault::Error::NotFound(what) if what.contains("chunk") => DAMAGED,
        vault::Error::NotFound(_) => "`lan-backup snapshots DEVICE` lists what is there",
        vault::Error::Stale(_) => "another backup of the same set is running; run it again when that has ended",
        // The other device, or the call to it, knows better.
        vault::Error::Refused(source) => return source.downcast_ref::<client::Error>().and_then(client::Error::hint),
        _ => return None,
    };
    Some(hint.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_runs_into_damage_is_told_what_to_do_and_nothing_of_vaults() {
        let gone = || vault::Error::NotFound("chunk 9bb2".to_owned());
        let rotten = || vault::Error::Corrupt("pack 12".to_owned());
        let list = |error| Error::Restore(restore::Error::Manifest(error));
        let all = [
            Error::Vault(gone()),
            list(manifest::Error::Vault(gone())),
            list(manifest::Error::Vault(rotten())),
            list(manifest::Error::Form),
            Error::Restore(restore::Error::Vault(rotten())),
            Error::Unreadable { which: "second", reason: manifest::Error::Vault(rotten()).to_string() },
        ];
        for error in all {
            let (sentence, hint) = (error.sentence(), error.hint().unwrap_or_default());
            for step in ["lan-backup verify", "lan-backup repair", "lan-backup send", "other snapshots"] {
                assert!(hint.contains(step), "{sentence}: {hint}");
            }
            assert!(!sentence.contains("vault") && sentence.matches("damaged").count() <= 1, "{sentence}");
            assert!(["corrupt", "not-found"].contains(&error.code().as_str()), "{sentence}: {}", error.code());
        }
        let sentence = list(manifest::Error::Vault(gone())).sentence();
        assert_eq!(sentence, "the snapshot's list of files cannot be read: chunk 9bb2 is not there");
        // No damage: there is no such thing.
        let absent = Error::Vault(vault::Error::NotFound("snapshot 12".to_owned()));
        assert!(!absent.hint().unwrap().contains("repair"));
        let offline = vault::Error::Offline("no".into());
        assert_eq!(list(manifest::Error::Vault(offline)).code(), "offline");
    }
}
