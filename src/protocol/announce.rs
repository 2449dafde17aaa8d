//! Who is here: the multicast datagram, and the body and the answer of `register` and `info`.

use crate::model::{Alias, Fingerprint};
use serde::{Deserialize, Serialize};

/// A datagram is never longer; what is longer is not read.
pub const MAX_DATAGRAM_BYTES: usize = 1400;

/// LocalSend's announcement. Fields that LocalSend apps leave out have defaults; unknown ones are ignored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Announcement {
    /// What the device calls itself; cleaned when read.
    pub alias: Alias,
    /// LocalSend's protocol version ("2.1").
    #[serde(default)]
    pub version: String,
    /// Free text; LocalSend peers refuse a body without it.
    #[serde(default)]
    pub device_model: Option<String>,
    /// `mobile`, `desktop`, `web`, `headless` or `server`.
    #[serde(default)]
    pub device_type: Option<String>,
    /// SHA-256 of the certificate; text, because devices without TLS put something else here.
    #[serde(default)]
    pub fingerprint: String,
    /// Where its HTTP server listens.
    #[serde(default = "default_port")]
    pub port: u16,
    /// `https` or `http`.
    #[serde(default = "default_scheme")]
    pub protocol: String,
    /// LocalSend's download API is on.
    #[serde(default)]
    pub download: bool,
    /// In a datagram: answer me.
    #[serde(default)]
    pub announce: bool,
    /// Only we say this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lan_backup: Option<LanBackup>,
}

/// What only lan-backup devices add.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LanBackup {
    /// [`API_VERSION`](crate::protocol::API_VERSION).
    pub api: u32,
    /// What it can do.
    #[serde(default)]
    pub features: Vec<String>,
    /// Listens only while one command runs.
    #[serde(default)]
    pub transient: bool,
    /// Drawn anew whenever the program starts; 0 when it is not said. One fingerprint with two of them at once is not one
    /// device with two addresses, but two that share an identity, because somebody copied a home.
    #[serde(default)]
    pub instance: u32,
}

fn default_port() -> u16 {
    crate::model::limits::DEFAULT_PORT
}

fn default_scheme() -> String {
    "https".to_owned()
}

impl Announcement {
    /// What this device says about itself.
    pub fn of_this_device(alias: Alias, fingerprint: Fingerprint, port: u16, transient: bool) -> Self {
        let features = crate::protocol::FEATURES.map(str::to_owned).to_vec();
        Self {
            alias,
            version: "2.1".to_owned(),
            device_model: Some("lan-backup".to_owned()),
            device_type: Some("headless".to_owned()),
            fingerprint: fingerprint.to_string(),
            port,
            protocol: default_scheme(),
            download: false,
            announce: false,
            lan_backup: Some(LanBackup { api: crate::protocol::API_VERSION, features, transient, instance: 0 }),
        }
    }

    /// The same, said by this run of the program.
    pub fn by_instance(mut self, instance: u32) -> Self {
        if let Some(ours) = &mut self.lan_backup {
            ours.instance = instance;
        }
        self
    }

    /// The run of the program that says this; 0 when it does not say.
    pub fn instance(&self) -> u32 {
        self.lan_backup.as_ref().map_or(0, |ours| ours.instance)
    }
}
