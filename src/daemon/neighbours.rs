//! Who is on the network, as a list for people: what `devices` shows, whether a running `serve` looks or the command itself.

use crate::daemon::Context;
use crate::discovery::DiscoveryHandle;
use crate::model::Device;
use serde::{Deserialize, Serialize};
use std::net::SocketAddr;
use std::time::Duration;

/// Where multicast is silent each address is asked, and that may take this long in all.
const SCAN_WAIT: Duration = Duration::from_secs(5);

/// What came of looking around.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Neighbours {
    /// Who is here.
    pub devices: Vec<DeviceRow>,
    /// Where other machines use this device's own identity.
    pub copies: Vec<SocketAddr>,
    /// What was tried, in lines for people.
    pub tried: String,
}

/// A device as it is listed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DeviceRow {
    /// What it calls itself.
    pub alias: String,
    /// `lan-backup` or `localsend`.
    pub kind: String,
    /// Where it answers, the newest first.
    pub address: Option<SocketAddr>,
    /// Who it is.
    pub fingerprint: String,
    /// The short code of that.
    pub code: String,
    /// Whether it is paired with this device.
    pub paired: bool,
    /// It listens only while one command runs.
    pub transient: bool,
    /// Where different machines answer with this one identity; empty when only one does.
    pub clones: Vec<SocketAddr>,
}

/// Announces, listens for `wait`, asks around where nobody is heard, and lists who is here.
pub async fn look_around(context: &Context, discovery: &DiscoveryHandle, wait: Duration) -> Neighbours {
    let cloned = discovery.look_around(wait, SCAN_WAIT).await;
    let row = |device: &Device| DeviceRow {
        alias: device.alias.to_string(),
        kind: device.kind.to_string(),
        address: device.addresses.first().copied(),
        fingerprint: device.fingerprint.map(|f| f.to_string()).unwrap_or_default(),
        code: device.fingerprint.map(|f| f.short_code().to_string()).unwrap_or_default(),
        paired: device.fingerprint.is_some_and(|f| context.trust.find(&f).is_some()),
        transient: device.transient,
        clones: cloned
            .iter()
            .find(|clone| clone.fingerprint == device.fingerprint)
            .map(|clone| clone.addresses.clone())
            .unwrap_or_default(),
    };
    Neighbours {
        devices: discovery.devices().iter().map(row).collect(),
        copies: discovery.copies(),
        tried: discovery.report().to_string(),
    }
}
