//! `devices`: who is on the network.

use crate::cli::ExitStatus;
use crate::cli::output::Output;
use crate::cli::settings::Globals;
use crate::client::Client;
use crate::daemon::control::{self, Answer, DeviceRow, Request, rows};
use crate::daemon::service::{Neighbourhood, NeighbourhoodOptions};
use crate::daemon::{Context, Error};
use crate::identity::Expect;
use crate::model::Fingerprint;
use serde_json::json;
use std::time::Duration;

/// Longest that the count of a paired device's snapshots is waited for.
const COUNT_LIMIT: Duration = Duration::from_secs(2);
/// Silence after which the subnets are scanned.
const SCAN_AFTER: Duration = Duration::from_secs(1);

/// Show who is on the network: lan-backup devices and LocalSend apps
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  lan-backup devices\n  lan-backup devices --wait 10 --json")]
pub struct Args {
    /// Seconds to listen
    #[arg(long, default_value_t = 3, value_name = "SECS", value_parser = clap::value_parser!(u64).range(1..=30))]
    wait: u64,
}

/// Asks a running `serve`, or listens for a moment.
pub async fn run(globals: &Globals, args: &Args, output: &Output) -> Result<ExitStatus, Error> {
    let context = globals.context(None)?;
    let (devices, tried) = match control::ask(&context.home, &Request::Devices { wait: args.wait }).await {
        Ok(Answer::Devices { devices, tried }) => (devices, tried),
        Ok(_) => return Err(Error::NotRunning),
        Err(Error::NotRunning) => look_around(&context, args.wait).await?,
        Err(error) => return Err(error),
    };
    let mut lines = vec![["ALIAS", "KIND", "ADDRESS", "CODE", "PAIRED", "SNAPSHOTS"].map(str::to_owned).to_vec()];
    let counts = futures_util::future::join_all(devices.iter().map(|row| count_snapshots(&context, row))).await;
    for (row, snapshots) in devices.iter().zip(counts) {
        output.row(&json!({
            "alias": row.alias, "kind": row.kind, "address": row.address, "fingerprint": row.fingerprint,
            "code": row.code, "paired": row.paired, "transient": row.transient, "snapshots": snapshots,
        }));
        let paired = if row.paired { "yes" } else { "no" }.to_owned();
        let snapshots = snapshots.map(|count| count.to_string()).unwrap_or_default();
        lines.push(vec![row.alias.clone(), row.kind.clone(), row.address.clone(), row.code.clone(), paired, snapshots]);
    }
    if devices.is_empty() {
        output.talk("nobody answered");
        output.talk(&tried);
        output.talk("hint: start `lan-backup serve` on the other device, or name it by its address");
    } else {
        output.table(&lines);
    }
    Ok(ExitStatus::Done)
}

async fn look_around(context: &Context, wait: u64) -> Result<(Vec<DeviceRow>, String), Error> {
    let neighbourhood = Neighbourhood::open(context, NeighbourhoodOptions::transient()).await?;
    let discovery = neighbourhood.discovery();
    let limit = tokio::time::Instant::now() + Duration::from_secs(wait);
    tokio::time::sleep(SCAN_AFTER).await;
    if discovery.devices().is_empty() {
        // Where multicast is silent each address is asked; that takes its own few seconds.
        discovery.scan().await;
    }
    tokio::time::sleep_until(limit).await;
    discovery.prove().await;
    let found = (rows(context, &discovery.devices()), discovery.report().to_string());
    neighbourhood.close().await;
    Ok(found)
}

/// How many snapshots a paired device advertises to this one; `None` when it is not paired or does not say.
async fn count_snapshots(context: &Context, row: &DeviceRow) -> Option<usize> {
    if !row.paired {
        return None;
    }
    let fingerprint: Fingerprint = row.fingerprint.parse().ok()?;
    let client = Client::new(&context.identity, vec![row.address.parse().ok()?], Expect::Known(fingerprint)).ok()?;
    let listing = tokio::time::timeout(COUNT_LIMIT, client.listing(None)).await.ok()?.ok()?;
    Some(listing.repositories.iter().map(|repository| repository.snapshots.len()).sum())
}
