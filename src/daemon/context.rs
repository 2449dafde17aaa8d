//! This device: who it is, whom it trusts, what it is called, where its things lie.

use crate::backup::heads::Heads;
use crate::config::{Home, Settings};
use crate::daemon::Result;
use crate::identity::{Identity, TrustStore};
use crate::model::Alias;
use crate::platform::clock::{Clock, SystemClock};
use crate::platform::durable::{self, Access};
use crate::platform::{self, fs, resources};
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

/// What every command works with. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Context {
    /// Where things lie.
    pub home: Home,
    /// Who this device is.
    pub identity: Identity,
    /// Whom it trusts.
    pub trust: TrustStore,
    /// What it is called.
    pub alias: Alias,
    /// What the settings file says.
    pub settings: Settings,
    /// Only the interface with this address.
    pub bind: Option<IpAddr>,
    /// UDP port of the multicast group.
    pub multicast_port: u16,
    /// The time.
    pub clock: Arc<dyn Clock>,
}

impl Context {
    /// Opens a home; makes what is not there yet, the identity too. An `alias` that is given is remembered.
    ///
    /// # Errors
    /// A damaged identity, settings that cannot be understood, or a disk that fails.
    pub fn open(home: Home, alias: Option<&str>, bind: Option<IpAddr>, multicast_port: u16) -> Result<Self> {
        home.create()?;
        resources::raise_open_file_limit();
        let settings = Settings::load_or_create(&home.settings())?;
        let identity = Identity::load_or_generate(home.identity())?;
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let trust = TrustStore::open_with_clock(home.trust(), clock.clone())?;
        let alias = match alias {
            Some(text) => {
                let alias = Alias::new(text);
                durable::save(&home.alias(), Access::Usual, alias.as_str().as_bytes())?;
                alias
            }
            None => match (&settings.alias, fs::read_if_there(&home.alias())?) {
                (Some(alias), _) => alias.clone(),
                (None, Some(bytes)) => Alias::new(&String::from_utf8_lossy(&bytes)),
                (None, None) => Alias::new(&gethostname::gethostname().to_string_lossy()),
            },
        };
        let bind = bind.or(settings.bind);
        Ok(Self { home, identity, trust, alias, settings, bind, multicast_port, clock })
    }

    /// Where this device keeps what it receives: `chosen`, else what the settings say, else the home's own.
    pub fn store_folder(&self, chosen: Option<PathBuf>) -> PathBuf {
        chosen.or_else(|| self.settings.store.clone()).unwrap_or_else(|| self.home.store())
    }

    /// What this device remembers of the snapshots it had acknowledged elsewhere.
    ///
    /// # Errors
    /// The disk's.
    pub fn heads(&self) -> platform::Result<Heads> {
        Heads::new(&self.home.state().join("heads"))
    }
}
