//! `snapshots`: what this device, or another, advertises.

use crate::cli::ExitStatus;
use crate::cli::face::Face;
use crate::cli::output::Output;
use crate::cli::settings::Globals;
use crate::cli::size;
use crate::cli::status::described;
use crate::daemon::locate::locate;
use crate::daemon::retrieve::{Holder, checked, rolled_back};
use crate::daemon::service::open_store;
use crate::daemon::{Context, Error};
use crate::protocol::listing::RepositoryListing;
use crate::restore::chain::{Checked, Signature};
use crate::server::listing::advertised;
use crate::store::Unusable;
use serde_json::json;
use std::path::PathBuf;

/// What can be done when a chain of snapshots is not whole. No call of this program takes one out of it.
const BROKEN: &str = "hint: on the device that keeps them `lan-backup verify` says whether a record is only damaged, `lan-backup repair` \
     sets that aside, and `lan-backup send` on the source brings the newest one again; if none is damaged, somebody has been at the store";

/// List snapshots: those kept here, or those that a device advertises to this one
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  lan-backup snapshots           kept on this device\n  lan-backup snapshots nas       on nas\n  lan-backup snapshots nas --set Documents --json"
)]
pub struct Args {
    /// Alias, beginning of the fingerprint, or address; this device without one
    device: Option<String>,
    /// Only of this set
    #[arg(long, value_name = "NAME")]
    set: Option<String>,
    /// Where this device keeps what it receives
    #[arg(long, value_name = "DIR", conflicts_with = "device")]
    store: Option<PathBuf>,
}

/// Lists.
pub async fn run(globals: &Globals, args: &Args, output: &Output) -> Result<ExitStatus, Error> {
    let context = globals.context(None)?;
    let ((repositories, unlisted), holder) = match args.device.as_deref().filter(|device| *device != "local") {
        None => (here(&context, args.store.clone()).await?, Holder::This),
        Some(device) => there(&context, device, output).await?,
    };
    for problem in &unlisted {
        output.alarm(problem);
    }
    let mut lines = vec![["ID", "SET", "FROM", "RECEIVED", "FILES", "SIZE", "SIGNED"].map(str::to_owned).to_vec()];
    let mut broken = unlisted.len();
    for repository in &repositories {
        let (snapshots, alarms) = checked(&context, repository, holder);
        for problem in &alarms {
            broken += 1;
            output.alarm(problem);
        }
        for snapshot in snapshots.iter().filter(|s| args.set.as_ref().is_none_or(|set| s.record.set.as_str() == set)) {
            lines.push(row(repository, snapshot, output));
        }
    }
    if broken > 0 {
        output.talk(BROKEN);
    }
    if lines.len() == 1 {
        output.say("there are no snapshots");
    } else {
        output.table(&lines);
    }
    // Those that are lost whole were told as alarms.
    for mark in repositories.iter().flat_map(|repository| &repository.damaged).filter(|mark| !mark.record_lost) {
        output.line(&format!("DAMAGED: {}", described(mark)));
    }
    Ok(if broken == 0 { ExitStatus::Done } else { ExitStatus::Failed })
}

fn row(repository: &RepositoryListing, snapshot: &Checked, output: &Output) -> Vec<String> {
    let record = &snapshot.record;
    let damaged = repository.damaged.iter().find(|mark| mark.snapshot == snapshot.info.id);
    let received = snapshot.info.receipt.received_at;
    let signature = match snapshot.trust {
        Signature::Known => "known",
        Signature::OwnerLog => "owner-log",
        Signature::Unverified => "unverified",
    };
    output.row(&json!({
        "snapshot": snapshot.info.id, "set": record.set, "sequence": record.sequence, "device": record.device,
        "owner": repository.owner, "alias": repository.alias, "repository": repository.repository.id,
        "receivedAt": received, "sourceTime": record.source_time, "files": record.totals.files,
        "bytes": record.totals.bytes, "newFiles": record.changes.new_files, "changedFiles": record.changes.changed_files,
        "deletedFiles": record.changes.deleted_files, "tag": record.tag, "verified": snapshot.trust == Signature::Known, "signature": signature,
        "roots": record.roots, "damaged": damaged,
    }));
    let signed = match snapshot.trust {
        Signature::Known => "yes",
        Signature::OwnerLog => "as the holder says",
        Signature::Unverified => "consistent, unverified",
    };
    vec![
        snapshot.info.id.short(),
        record.set.to_string(),
        record.device.to_string(),
        local_time(received),
        size::count(record.totals.files),
        size::bytes(record.totals.bytes),
        signed.to_owned(),
    ]
}

/// A time in this machine's zone, to the minute.
pub fn local_time(time: jiff::Timestamp) -> String {
    time.to_zoned(jiff::tz::TimeZone::system()).strftime("%F %H:%M").to_string()
}

/// What is listed, and what is not and should be, in sentences.
type Listed = (Vec<RepositoryListing>, Vec<String>);

async fn here(context: &Context, store: Option<PathBuf>) -> Result<Listed, Error> {
    let (store, _) = match open_store(context, store.clone()).await {
        Err(Error::Usage { .. }) if store.is_none() => return Ok((Vec::new(), Vec::new())),
        opened => opened?,
    };
    let (mut listings, mut unreadable) = (Vec::new(), Vec::new());
    for repository in store.find_all()? {
        listings.push(advertised(&repository)?);
        unreadable.extend(repository.unreadable_records()?);
    }
    unreadable.extend(store.unusable().values().map(Unusable::sentence));
    Ok((listings, unreadable))
}

async fn there(context: &Context, device: &str, output: &Output) -> Result<(Listed, Holder), Error> {
    let located = locate(context, device, &mut Face::new(output.clone(), None)).await?;
    let listing = located.client(context)?.listing(None).await?;
    // What this device has backed up there must still be there.
    let own = context.identity.fingerprint();
    let own = listing.repositories.iter().filter(|listed| listed.owner == own);
    let own: Vec<_> = own.map(|listed| (listed.repository.id, listed.snapshots.as_slice())).collect();
    let alarms = rolled_back(context, &located, &own)?;
    Ok(((listing.repositories, alarms), Holder::Other(located.fingerprint)))
}
