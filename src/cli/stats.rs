//! `stats`: what the backups kept here take, how much deduplication and compression save, and how that grew.

use crate::cli::ExitStatus;
use crate::cli::output::Output;
use crate::cli::settings::Globals;
use crate::cli::size;
use crate::cli::snapshots::local_time;
use crate::daemon::Error;
use crate::daemon::pruning::Policy;
use crate::daemon::service::open_store;
use crate::model::{Alias, SetName};
use crate::platform::shutdown::Shutdown;
use crate::store::Repository;
use crate::store::prune::Amount;
use crate::store::stats::{SnapshotStats, Stats, Volume, stats};
use jiff::tz::TimeZone;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

/// Show what the backups kept here take: raw, deduplicated, stored, and how that grew
#[derive(Debug, clap::Args)]
#[command(
    after_help = "raw is what the snapshots hold, as if each were a full copy; deduplicated is what of that differs; stored is what\n\
    that takes on this disk, compressed. A piece that several snapshots share counts for the first one.\n\n\
    Examples:\n  lan-backup stats\n  lan-backup stats --device laptop --by snapshot\n  lan-backup stats --set Documents --json"
)]
pub struct Args {
    /// Only the backups of this device: its alias, or the beginning of its fingerprint
    #[arg(long, value_name = "DEVICE")]
    device: Option<String>,
    /// Only this set
    #[arg(long, value_name = "NAME")]
    set: Option<SetName>,
    /// Growth by month, or by snapshot
    #[arg(long, value_enum, default_value_t = By::Month)]
    by: By,
    /// Where this device keeps what it receives
    #[arg(long, value_name = "DIR")]
    store: Option<PathBuf>,
}

/// The steps in which growth is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum By {
    /// What all snapshots of a month added.
    Month,
    /// What each snapshot added.
    Snapshot,
}

/// Several snapshots together.
#[derive(Clone, Copy, Debug, Default)]
struct Sum {
    snapshots: u64,
    raw: u64,
    added: Volume,
}

impl Sum {
    fn of<'a>(snapshots: impl Iterator<Item = &'a SnapshotStats>) -> Self {
        snapshots.fold(Self::default(), |sum, snapshot| Self {
            snapshots: sum.snapshots + 1,
            raw: sum.raw.saturating_add(snapshot.raw),
            added: sum.added.and(snapshot.added),
        })
    }

    fn cells(&self) -> [String; 4] {
        [
            size::count(self.snapshots),
            size::bytes(self.raw),
            size::bytes(self.added.plain),
            size::bytes(self.added.stored),
        ]
    }
}

/// Counts and shows.
pub async fn run(globals: &Globals, args: Args, output: &Output, shutdown: Shutdown) -> Result<ExitStatus, Error> {
    let context = globals.context(None)?;
    let (store, recovery) = open_store(&context, args.store.clone()).await?;
    recovery.to_string().lines().for_each(|line| output.say(line));
    let policy = Policy { device: args.device.clone(), ..Policy::default() };
    let mut faults = 0;
    let mut all = Stats::default();
    let mut sets_seen = BTreeSet::new();
    let repositories = policy.repositories(&store)?;
    for repository in &repositories {
        let (counted, stopped) = (repository.clone(), shutdown.clone());
        let work = move || stats(&counted, &|| stopped.is_stopped());
        let mut stats = tokio::task::spawn_blocking(work).await.map_err(|_| Error::Stopped)??;
        sets_seen.extend(stats.snapshots.iter().map(|snapshot| snapshot.set.clone()));
        faults += tell_faults(&repository.alias(), &stats, output);
        show(repository, &stats, &args, output);
        all.snapshots.append(&mut stats.snapshots);
        all.packs = together(all.packs, stats.packs);
        all.trash = together(all.trash, stats.trash);
        all.unneeded = all.unneeded.and(stats.unneeded);
    }
    if let Some(set) = args.set.as_ref().filter(|set| !sets_seen.contains(*set)) {
        let hint = "`lan-backup snapshots` lists what is kept here";
        return Err(Error::usage(format!("there is no set `{set}` among the backups kept here"), hint));
    }
    let free = store.free_bytes()?;
    output.row(&json!({
        "kind": "store", "folder": store.folder(), "freeBytes": free, "repositories": repositories.len(),
        "kept": sum(&Sum::of(all.snapshots.iter().filter(|snapshot| !snapshot.forgotten))), "forgotten": volume(all.forgotten()),
        "unneeded": volume(all.unneeded), "packs": amount(all.packs), "trash": amount(all.trash),
    }));
    if repositories.is_empty() {
        output.say("nothing is kept here yet");
    } else {
        output.line(&format!(
            "{} in {} packs in {}, {} free",
            size::bytes(all.packs.bytes + all.trash.bytes),
            size::count(all.packs.packs + all.trash.packs),
            store.folder().display(),
            size::bytes(free)
        ));
    }
    Ok(ExitStatus::with_faults(faults))
}

fn show(repository: &Repository, stats: &Stats, args: &Args, output: &Output) {
    let alias = repository.alias();
    let wanted = |snapshot: &&SnapshotStats| args.set.as_ref().is_none_or(|set| snapshot.set == *set);
    let kept = || stats.snapshots.iter().filter(|snapshot| !snapshot.forgotten);
    let mut sets: BTreeMap<&SetName, Vec<&SnapshotStats>> = BTreeMap::new();
    for snapshot in kept().filter(wanted) {
        sets.entry(&snapshot.set).or_default().push(snapshot);
    }
    if sets.is_empty() && args.set.is_some() {
        return;
    }
    let head = ["SET", "SNAPSHOTS", "NEWEST", "RAW", "DEDUPLICATED", "STORED"];
    let mut lines = vec![head.map(str::to_owned).to_vec()];
    for (set, snapshots) in &sets {
        let newest = snapshots.last().map_or(0, |snapshot| snapshot.raw);
        let of_set = Sum::of(snapshots.iter().copied());
        output.row(&json!({
            "kind": "set", "alias": alias, "owner": repository.owner(), "repository": repository.id(), "set": set,
            "newestBytes": newest, "kept": sum(&of_set),
        }));
        let [count, raw, plain, stored] = of_set.cells();
        lines.push(vec![set.to_string(), count, size::bytes(newest), raw, plain, stored]);
    }
    let together = Sum::of(kept());
    if args.set.is_none() {
        let [count, raw, plain, stored] = together.cells();
        lines.push(vec!["(together)".to_owned(), count, String::new(), raw, plain, stored]);
    }
    output.line(&format!("{alias}{}", saved(&together)));
    output.table(&indented(lines));
    output.row(&json!({
        "kind": "repository", "alias": alias, "owner": repository.owner(), "repository": repository.id(), "kept": sum(&together),
        "forgotten": volume(stats.forgotten()), "unneeded": volume(stats.unneeded), "overheadBytes": stats.overhead(),
        "packs": amount(stats.packs), "trash": amount(stats.trash), "missingChunks": stats.missing,
    }));
    if args.set.is_none() {
        let beside = [
            (stats.forgotten().stored, "is needed by forgotten snapshots only (`lan-backup undelete` lists them)"),
            (
                stats.unneeded.stored,
                "is needed by no snapshot any more, or not yet (`lan-backup prune` frees what is left over)",
            ),
            (stats.trash.bytes, "lies in the trash, and goes with the next `lan-backup prune` a day later"),
        ];
        for (bytes, what) in beside.into_iter().filter(|(bytes, _)| *bytes > 0) {
            output.line(&format!("  {} {what}", size::bytes(bytes)));
        }
    }
    output.line("");
    match args.by {
        By::Snapshot => by_snapshot(&alias, kept().filter(wanted), output),
        By::Month => by_month(&alias, &sets, output),
    }
    output.line("");
}

/// Each snapshot, oldest first.
fn by_snapshot<'a>(alias: &Alias, snapshots: impl Iterator<Item = &'a SnapshotStats>, output: &Output) {
    let mut lines = vec![["SNAPSHOT", "SET", "RECEIVED", "RAW", "ADDED", "STORED"].map(str::to_owned).to_vec()];
    for SnapshotStats { id, set, received_at, raw, added, .. } in snapshots {
        output.row(&json!({
            "kind": "growth", "alias": alias, "set": set, "snapshot": id, "receivedAt": received_at, "rawBytes": raw,
            "added": volume(*added),
        }));
        let (raw, plain, stored) = (size::bytes(*raw), size::bytes(added.plain), size::bytes(added.stored));
        lines.push(vec![id.short(), set.to_string(), local_time(*received_at), raw, plain, stored]);
    }
    output.table(&indented(lines));
}

/// Each month of each set, in this machine's zone.
fn by_month(alias: &Alias, sets: &BTreeMap<&SetName, Vec<&SnapshotStats>>, output: &Output) {
    let mut lines = vec![["MONTH", "SET", "SNAPSHOTS", "ADDED", "STORED"].map(str::to_owned).to_vec()];
    let zone = TimeZone::system();
    let mut months: BTreeMap<(String, &SetName), Vec<&SnapshotStats>> = BTreeMap::new();
    for (set, snapshots) in sets {
        for snapshot in snapshots {
            let month = snapshot.received_at.to_zoned(zone.clone()).strftime("%Y-%m").to_string();
            months.entry((month, set)).or_default().push(snapshot);
        }
    }
    for ((month, set), snapshots) in months {
        let together = Sum::of(snapshots.into_iter());
        output.row(&json!({
            "kind": "growth", "alias": alias, "set": set, "month": month, "snapshots": together.snapshots,
            "added": volume(together.added),
        }));
        let [count, _, plain, stored] = together.cells();
        lines.push(vec![month, set.to_string(), count, plain, stored]);
    }
    output.table(&indented(lines));
}

/// How much is saved, in words.
fn saved(sum: &Sum) -> String {
    if sum.added.stored == 0 || sum.raw <= sum.added.stored {
        return String::new();
    }
    format!(
        ": {} of snapshots in {}: {:.1} times less",
        size::bytes(sum.raw),
        size::bytes(sum.added.stored),
        sum.raw as f64 / sum.added.stored as f64
    )
}

fn tell_faults(alias: &Alias, stats: &Stats, output: &Output) -> u64 {
    let mut faults = 0;
    let mut fault = |text: String| {
        faults += 1;
        output.fault(&text);
    };
    for snapshot in stats.snapshots.iter().filter(|snapshot| !snapshot.whole) {
        let (id, set) = (snapshot.id.short(), &snapshot.set);
        fault(format!(
            "{alias}: the lists of snapshot {id} of `{set}` cannot be read to their end; it takes more than is shown"
        ));
    }
    for (pack, problem) in &stats.unreadable {
        fault(format!("{alias}: pack {pack} cannot be read and is not counted ({problem})"));
    }
    if stats.missing > 0 {
        fault(format!("{alias}: {} chunks that snapshots need are not here", size::count(stats.missing)));
    }
    if faults > 0 {
        output.talk("hint: `lan-backup verify` names what is damaged, and which files of which snapshots are hit");
    }
    faults
}

fn indented(lines: Vec<Vec<String>>) -> Vec<Vec<String>> {
    let indent = |mut line: Vec<String>| {
        if let Some(first) = line.first_mut() {
            first.insert_str(0, "  ");
        }
        line
    };
    lines.into_iter().map(indent).collect()
}

fn together(one: Amount, other: Amount) -> Amount {
    Amount { packs: one.packs + other.packs, bytes: one.bytes + other.bytes }
}

fn sum(sum: &Sum) -> Value {
    json!({
        "snapshots": sum.snapshots, "rawBytes": sum.raw, "plainBytes": sum.added.plain, "storedBytes": sum.added.stored,
        "chunks": sum.added.chunks,
    })
}

fn volume(volume: Volume) -> Value {
    json!({ "plainBytes": volume.plain, "storedBytes": volume.stored, "chunks": volume.chunks })
}

fn amount(amount: Amount) -> Value {
    json!({ "packs": amount.packs, "bytes": amount.bytes })
}
