//! `devices`: who is on the network.

use crate::cli::ExitStatus;
use crate::cli::diagnose;
use crate::cli::output::Output;
use crate::cli::settings::Globals;
use crate::client::Client;
use crate::daemon::control::{self, Answer, Request};
use crate::daemon::neighbours::{self, DeviceRow, Neighbours};
use crate::daemon::service::{Neighbourhood, NeighbourhoodOptions};
use crate::daemon::{Context, Error};
use crate::identity::Expect;
use crate::model::Fingerprint;
use crate::platform::interfaces::{self, Interface, in_words};
use serde_json::json;
use std::net::SocketAddr;
use std::time::Duration;

/// Longest that the count of a paired device's snapshots is waited for.
const COUNT_LIMIT: Duration = Duration::from_secs(2);

/// Show who is on the network: lan-backup devices and LocalSend apps
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  lan-backup devices\n  lan-backup devices --wait 10 --json\n  \
    lan-backup devices --diagnose               why is nobody found?\n  \
    lan-backup devices --diagnose nas           why is that one not found? By name or address")]
pub struct Args {
    /// Say why a device is not seen: interfaces, multicast, firewalls, addresses that were asked
    #[arg(long)]
    diagnose: bool,
    /// The device that is not seen, by name or address
    #[arg(requires = "diagnose")]
    device: Option<String>,

    /// Seconds to listen
    #[arg(long, default_value_t = 3, value_name = "SECS", value_parser = clap::value_parser!(u64).range(1..=30))]
    wait: u64,
}

/// Asks a running `serve`, or listens for a moment.
pub async fn run(globals: &Globals, args: &Args, output: &Output) -> Result<ExitStatus, Error> {
    let context = globals.context(None)?;
    if args.diagnose {
        let wait = Duration::from_secs(args.wait);
        return diagnose::run(&context, args.device.as_deref(), wait, output).await;
    }
    let Neighbours { devices, copies, tried } =
        match control::ask(&context.home, &Request::Devices { wait: args.wait }).await {
            Ok(Answer::Devices(neighbours)) => neighbours,
            Ok(_) => return Err(Error::NotRunning),
            Err(Error::NotRunning) => look_around(&context, args.wait).await?,
            Err(error) => return Err(error),
        };
    let own = interfaces::list().unwrap_or_default();
    let mut lines = vec![["ALIAS", "KIND", "ADDRESS", "CODE", "PAIRED", "SNAPSHOTS"].map(str::to_owned).to_vec()];
    let counts = futures_util::future::join_all(devices.iter().map(|row| count_snapshots(&context, row))).await;
    let known = context.trust.list();
    let mut impostors = Vec::new();
    for (row, snapshots) in devices.iter().zip(counts) {
        // The name of a paired device, and not its certificate.
        let namesake = known.iter().find(|trust| !row.paired && trust.alias.as_str().eq_ignore_ascii_case(&row.alias));
        impostors.extend(namesake.map(|trust| (row, trust)));
        let address = row.address.map(|address| in_words(address, &own)).unwrap_or_default();
        output.row(&json!({
            "alias": row.alias, "kind": row.kind, "address": address, "fingerprint": row.fingerprint,
            "code": row.code, "paired": row.paired, "transient": row.transient, "snapshots": snapshots,
            "namesakeOf": namesake.map(|trust| trust.fingerprint),
            "clones": row.clones.iter().map(|at| in_words(*at, &own)).collect::<Vec<_>>(),
        }));
        let paired = match namesake {
            Some(trust) => format!("NO: the paired {} is {}", trust.alias, trust.fingerprint.short_code()),
            None => if row.paired { "yes" } else { "no" }.to_owned(),
        };
        let snapshots = snapshots.map(|count| count.to_string()).unwrap_or_default();
        lines.push(vec![row.alias.clone(), row.kind.clone(), address, row.code.clone(), paired, snapshots]);
    }
    if devices.is_empty() {
        output.talk("nobody answered");
        output.say(&tried);
        output.talk("hint: start `lan-backup serve` on the other device; `lan-backup devices --diagnose` says what may be in the way");
    } else {
        output.table(&lines);
    }
    for (row, trust) in impostors {
        let at = row.address.map_or_else(|| "somebody".to_owned(), |address| in_words(address, &own));
        let code = if row.code.is_empty() { "no certificate".to_owned() } else { format!("the code {}", row.code) };
        output.alarm(&format!(
            "{at} calls itself {} and has {code}; the {} that is paired has {}. Send nothing there unless you know why",
            row.alias,
            trust.alias,
            trust.fingerprint.short_code()
        ));
    }
    for row in devices.iter().filter(|row| !row.clones.is_empty()) {
        output.alarm(&copied(&format!("{} ({})", row.alias, row.code), &row.clones, &own));
    }
    if !copies.is_empty() {
        output.alarm(&copied("this device", &copies, &own));
    }
    Ok(ExitStatus::Done)
}

/// What is wrong when several machines have one identity, and what to do.
pub(crate) fn copied(who: &str, addresses: &[SocketAddr], own: &[Interface]) -> String {
    let places: Vec<String> = addresses.iter().map(|address| in_words(*address, own)).collect();
    let places = places.join(" and at ");
    format!(
        "the identity of {who} is used by another machine, too: it answers at {places}. Somebody copied a home folder, and backups \
         of both would go into one repository. On the copy, stop lan-backup, delete `identity.pem` and `signing.key` from its home, \
         and pair it anew"
    )
}

async fn look_around(context: &Context, wait: u64) -> Result<Neighbours, Error> {
    let neighbourhood = Neighbourhood::open(context, NeighbourhoodOptions::transient()).await?;
    let neighbours = neighbours::look_around(context, neighbourhood.discovery(), Duration::from_secs(wait)).await;
    neighbourhood.close().await;
    Ok(neighbours)
}

/// How many snapshots a paired device advertises to this one; `None` when it is not paired or does not say.
async fn count_snapshots(context: &Context, row: &DeviceRow) -> Option<usize> {
    if !row.paired {
        return None;
    }
    let fingerprint: Fingerprint = row.fingerprint.parse().ok()?;
    let client = Client::new(&context.identity, vec![row.address?], Expect::Known(fingerprint)).ok()?;
    let listing = tokio::time::timeout(COUNT_LIMIT, client.listing(None)).await.ok()?.ok()?;
    Some(listing.repositories.iter().map(|repository| repository.snapshots.len()).sum())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::Identity;

    #[test]
    fn what_a_copy_is_told_to_delete_are_the_files_that_make_an_identity() {
        let address = SocketAddr::from(([192, 168, 1, 7], 53317));
        let text = copied("this device", &[address], &[]);
        assert!(!text.contains("  "), "{text}");
        let home = tempfile::tempdir().unwrap();
        let before = Identity::load_or_generate(home.path()).unwrap().fingerprint();
        let (_, advice) = text.split_once("delete ").unwrap();
        for name in advice.split('`').skip(1).step_by(2) {
            std::fs::remove_file(home.path().join(name)).unwrap();
        }
        assert_ne!(Identity::load_or_generate(home.path()).unwrap().fingerprint(), before);
    }
}
