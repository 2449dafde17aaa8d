//! `verify`: is everything that is kept here still what it was?

use crate::cli::ExitStatus;
use crate::cli::output::Output;
use crate::cli::progress::Progress;
use crate::cli::settings::Globals;
use crate::cli::size;
use crate::cli::snapshots::local_time;
use crate::daemon::Error;
use crate::daemon::service::open_store;
use crate::model::text::clean;
use crate::platform::shutdown::Shutdown;
use crate::store::verify::{DamagedFile, DamagedSnapshot, Findings, Share, VerifyOptions, verify};
use jiff::{SignedDuration, Span};
use serde_json::json;
use std::path::PathBuf;
use std::sync::Arc;

/// Files of one snapshot that are shown to people; `--json` has all that are known by name.
const SHOWN_FILES: usize = 10;

/// Check that everything kept here is there, and is what it was
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  lan-backup verify                        everything but the content, in seconds\n  lan-backup verify --data                 every byte\n  lan-backup verify --data --sample 5      every byte of one pack in twenty\n  lan-backup verify --data --since 30d     every byte that was not read in the last 30 days\n\nExit codes: 0 all is well, 1 something is damaged (it is named)"
)]
pub struct Args {
    /// Read, decompress and hash every chunk
    #[arg(long)]
    data: bool,
    /// Only so many packs in a hundred, chosen anew each time
    #[arg(long, value_name = "PERCENT", requires = "data", value_parser = clap::value_parser!(u8).range(1..=100))]
    sample: Option<u8>,
    /// Only packs that were not read and found whole in this time, by this command or by `serve`
    #[arg(long, value_name = "DURATION", requires = "data", conflicts_with = "sample", value_parser = duration)]
    since: Option<SignedDuration>,
    /// Where this device keeps what it receives
    #[arg(long, value_name = "DIR")]
    store: Option<PathBuf>,
}

/// Looks and tells.
pub async fn run(globals: &Globals, args: Args, output: Output, shutdown: Shutdown) -> Result<ExitStatus, Error> {
    let context = globals.context(None)?;
    let (store, recovery) = open_store(&context, args.store.clone()).await?;
    recovery.before_a_look().to_string().lines().for_each(|line| output.say(line));
    let data = match (args.data, args.sample, args.since) {
        (false, ..) => Share::None,
        (true, Some(percent), _) => Share::Percent(percent),
        (true, None, Some(time)) => Share::NotReadFor(time),
        (true, None, None) => Share::All,
    };
    let progress = Arc::new(Progress::new(output.clone()));
    let (folder, monitor) = (store.folder().to_owned(), progress.clone());
    let looking = tokio::task::spawn_blocking(move || verify(&store, VerifyOptions { data }, &*monitor, &shutdown));
    let findings = looking.await.map_err(|_| Error::Stopped)?;
    progress.finish();
    let findings = findings?;
    tell(&findings, &folder.display().to_string(), &output);
    Ok(if findings.is_clean() { ExitStatus::Done } else { ExitStatus::Failed })
}

/// `30d`, `12h`, `2w`.
fn duration(text: &str) -> Result<SignedDuration, String> {
    let span: Span = text.parse().map_err(|_| "write it as 30d, 12h or 2w".to_owned())?;
    let day = jiff::SpanRelativeTo::days_are_24_hours();
    span.to_duration(day).map_err(|_| "months and years differ; write days or weeks".to_owned())
}

/// Shows findings, the summary last.
pub fn tell(findings: &Findings, folder: &str, output: &Output) {
    for note in &findings.notes {
        output.event("note", json!({ "message": note }));
        output.say(&clean(note));
    }
    for file in &findings.files {
        tell_file(file, output);
    }
    for snapshot in &findings.snapshots {
        tell_snapshot(snapshot, output);
    }
    output.event(
        "finished",
        json!({
            "clean": findings.is_clean(), "damagedFiles": findings.files.len(), "damagedSnapshots": findings.snapshots.len(),
            "snapshots": findings.checked_snapshots, "packs": findings.checked_packs, "readPacks": findings.read_packs,
            "storedBytes": findings.stored_bytes, "readBytes": findings.read_bytes,
        }),
    );
    let read = match findings.read_packs {
        0 if findings.data => "the content of none had to be read again".to_owned(),
        0 => "their content was not read (`--data` does)".to_owned(),
        read if read >= findings.checked_packs => {
            format!("every byte of it read ({})", size::bytes(findings.read_bytes))
        }
        read => format!("every byte of {} of them read ({})", size::count(read), size::bytes(findings.read_bytes)),
    };
    let snapshots = size::count(findings.checked_snapshots);
    let packs = size::count(findings.checked_packs);
    if findings.is_clean() {
        output.line(&format!("all is well in {folder}: {snapshots} snapshots, {packs} packs; {read}"));
        return;
    }
    let (files, hurt) = (findings.files.len(), findings.snapshots.len());
    output.line(&format!(
        "\n{} in {folder}, {}; {snapshots} snapshots and {packs} packs looked at; {read}",
        counted(files, "damaged file", "damaged files"),
        counted(hurt, "snapshot is hit", "snapshots are hit"),
    ));
    if files > 0 {
        output.talk(
            "hint: `lan-backup repair` saves what is still good and sets the damaged files aside; what the source still has \
             comes back with its next `lan-backup send`",
        );
    } else {
        output.talk(
            "hint: run `lan-backup send` on the source: what it still has comes back by itself; every file that is not named \
             can be restored now",
        );
    }
}

/// `1 file`, `2 files`.
pub fn counted(number: usize, one: &str, several: &str) -> String {
    format!("{} {}", size::count(number as u64), if number == 1 { one } else { several })
}

/// Shows a damaged file.
pub fn tell_file(file: &DamagedFile, output: &Output) {
    let chunks: Vec<String> = file.chunks.iter().map(ToString::to_string).collect();
    output.event(
        "damaged-file",
        json!({ "path": file.path, "problem": file.problem, "chunks": chunks, "moreChunks": file.more_chunks }),
    );
    output.line(&format!("damaged: {}: {}", file.path, clean(&file.problem)));
    if !chunks.is_empty() {
        let short: Vec<String> = file.chunks.iter().take(5).map(crate::model::ChunkId::short).collect();
        let more = chunks.len() as u64 + file.more_chunks - short.len() as u64;
        let more = if more > 0 { format!(" and {} more", size::count(more)) } else { String::new() };
        output.line(&format!("  lost with it: chunks {}{more}", short.join(" ")));
    }
}

/// Shows a snapshot that lacks something.
pub fn tell_snapshot(snapshot: &DamagedSnapshot, output: &Output) {
    output.event(
        "damaged-snapshot",
        json!({
            "snapshot": snapshot.snapshot, "set": snapshot.set, "sequence": snapshot.sequence, "alias": snapshot.alias,
            "repository": snapshot.repository, "receivedAt": snapshot.received_at, "recordLost": snapshot.record_lost,
            "manifestHit": snapshot.manifest_hit, "lostChunks": snapshot.lost_chunks, "files": snapshot.files,
            "moreFiles": snapshot.more_files,
        }),
    );
    let set = snapshot.set.as_ref().map_or_else(|| "an unknown set".to_owned(), |set| format!("set `{set}`"));
    let when = snapshot.received_at.map(|at| format!(", {}", local_time(at))).unwrap_or_default();
    let (id, alias, sequence) = (snapshot.snapshot.short(), &snapshot.alias, snapshot.sequence);
    let name = format!("snapshot {id} (number {sequence} of {set} of {alias}{when})");
    if snapshot.record_lost {
        output.line(&format!("{name}: its record is damaged, so it cannot be listed or restored"));
        return;
    }
    let files = snapshot.files.len() as u64 + snapshot.more_files;
    if snapshot.manifest_hit {
        output.line(&format!("{name}: its list of files is damaged: it cannot be restored as it is; named so far:"));
    } else if files == 0 {
        output.line(&format!("{name}: no file of it is hit, only the list of chunks that it needs"));
    } else {
        let plural = if files == 1 { "file has" } else { "files have" };
        output.line(&format!("{name}: {} {plural} lost content:", size::count(files)));
    }
    for path in snapshot.files.iter().take(SHOWN_FILES) {
        output.line(&format!("    {path}"));
    }
    if files > SHOWN_FILES as u64 {
        output.line(&format!("    and {} more", size::count(files - SHOWN_FILES as u64)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_days_weeks_and_hours_and_nothing_that_has_no_fixed_length() {
        assert_eq!(duration("30d"), Ok(SignedDuration::from_hours(720)));
        assert_eq!(duration("2w"), Ok(SignedDuration::from_hours(336)));
        assert_eq!(duration("12h"), Ok(SignedDuration::from_hours(12)));
        assert!(duration("1mo").is_err() && duration("soon").is_err() && duration("").is_err());
    }
}
