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

/// Files of one snapshot that are shown to people; `-v` and `--json` have all that are known by name.
const SHOWN_FILES: usize = 10;

/// How many of the files that are hit are shown to people.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shown {
    /// The first few.
    Few,
    /// All that are known by name.
    All,
}

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
    tell(&findings, &folder.display().to_string(), Shown::by(globals), &output);
    Ok(if findings.is_clean() { ExitStatus::Done } else { ExitStatus::Failed })
}

/// `30d`, `12h`, `2w`.
fn duration(text: &str) -> Result<SignedDuration, String> {
    let span: Span = text.parse().map_err(|_| "write it as 30d, 12h or 2w".to_owned())?;
    let day = jiff::SpanRelativeTo::days_are_24_hours();
    span.to_duration(day).map_err(|_| "months and years differ; write days or weeks".to_owned())
}

impl Shown {
    /// What was asked for.
    pub fn by(globals: &Globals) -> Self {
        if globals.verbose > 0 { Self::All } else { Self::Few }
    }

    fn limit(self) -> usize {
        if self == Self::All { usize::MAX } else { SHOWN_FILES }
    }
}

/// Shows findings, the summary last.
pub fn tell(findings: &Findings, folder: &str, shown: Shown, output: &Output) {
    for note in &findings.notes {
        output.event("note", json!({ "message": note }));
        output.say(&clean(note));
    }
    for file in &findings.files {
        tell_file(file, output);
    }
    for snapshot in &findings.snapshots {
        tell_snapshot(snapshot, shown, output);
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
    if findings.files.iter().any(|file| file.repairable) {
        output.talk(
            "hint: `lan-backup repair` saves what is still good and sets the damaged files aside; what the source still has \
             comes back with its next `lan-backup send`",
        );
    }
    // A repair changes what can be done about the rest, and says it then.
    if findings.files.iter().all(|file| !file.repairable) || findings.snapshots.iter().any(is_beyond_its_source) {
        for hint in hints(&findings.snapshots, shown) {
            output.talk(&format!("hint: {hint}"));
        }
    }
}

/// Its record is lost, and no backup brings it back.
fn is_beyond_its_source(snapshot: &DamagedSnapshot) -> bool {
    snapshot.record_lost && !snapshot.newest
}

/// What can be done for snapshots that lack something, and what of them can be restored.
pub fn hints(snapshots: &[DamagedSnapshot], shown: Shown) -> Vec<String> {
    let mut hints = Vec::new();
    if snapshots.iter().any(|snapshot| !is_beyond_its_source(snapshot)) {
        hints.push("run `lan-backup send` on the source: what it still has comes back by itself".to_owned());
    }
    if let Some(lost) = snapshots.iter().find(|snapshot| is_beyond_its_source(snapshot)) {
        hints.push(format!(
            "a record that is lost and is not the newest of its set comes back with no backup: if another copy of this store has that file, \
             put it in its place; if not, and that snapshot need not be kept, `lan-backup prune --give-up {}` lets it go",
            lost.snapshot.short()
        ));
    }
    let named = |snapshot: &DamagedSnapshot| snapshot.more_files == 0 && snapshot.files.len() <= shown.limit();
    let listed = |snapshot: &DamagedSnapshot| !snapshot.record_lost && !snapshot.manifest_hit;
    if snapshots.iter().any(|snapshot| !listed(snapshot)) {
        hints.push("every snapshot that is not named can be restored whole now".to_owned());
    } else if snapshots.iter().all(named) {
        hints.push("every file that is not named can be restored now".to_owned());
    } else if shown == Shown::Few {
        hints.push("every file that is not hit can be restored now; `-v` names those that are".to_owned());
    } else {
        hints.push("every file that is not hit can be restored now, and a restore names those that are".to_owned());
    }
    hints
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
pub fn tell_snapshot(snapshot: &DamagedSnapshot, shown: Shown, output: &Output) {
    output.event(
        "damaged-snapshot",
        json!({
            "snapshot": snapshot.snapshot, "set": snapshot.set, "sequence": snapshot.sequence, "alias": snapshot.alias,
            "repository": snapshot.repository, "receivedAt": snapshot.received_at, "recordLost": snapshot.record_lost,
            "manifestHit": snapshot.manifest_hit, "lostChunks": snapshot.lost_chunks, "files": snapshot.files,
            "moreFiles": snapshot.more_files,
        }),
    );
    for line in snapshot_lines(snapshot, shown) {
        output.line(&line);
    }
}

fn snapshot_lines(snapshot: &DamagedSnapshot, shown: Shown) -> Vec<String> {
    let set = snapshot.set.as_ref().map_or_else(|| "an unknown set".to_owned(), |set| format!("set `{set}`"));
    let when = snapshot.received_at.map(|at| format!(", {}", local_time(at))).unwrap_or_default();
    let (id, alias, sequence) = (snapshot.snapshot.short(), &snapshot.alias, snapshot.sequence);
    let name = format!("snapshot {id} (number {sequence} of {set} of {alias}{when})");
    if snapshot.record_lost {
        return vec![format!("{name}: its record is damaged or gone, so it cannot be listed or restored")];
    }
    let files = snapshot.files.len() as u64 + snapshot.more_files;
    let mut lines = if snapshot.manifest_hit {
        let named = if files > 0 { "; named so far:" } else { "" };
        vec![format!("{name}: its list of files is damaged: it can be restored only in part, or not at all{named}")]
    } else if files == 0 {
        vec![format!("{name}: no file of it is hit, only the list of chunks that it needs")]
    } else {
        let plural = if files == 1 { "file has" } else { "files have" };
        vec![format!("{name}: {} {plural} lost content:", size::count(files))]
    };
    lines.extend(snapshot.files.iter().take(shown.limit()).map(|path| format!("    {path}")));
    let more = files - snapshot.files.len().min(shown.limit()) as u64;
    if more > 0 {
        lines.push(format!("    and {} more", size::count(more)));
    }
    lines
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

    fn hit(files: usize, more_files: u64) -> DamagedSnapshot {
        DamagedSnapshot {
            files: (0..files).map(|n| format!("f{n}")).collect(),
            more_files,
            ..DamagedSnapshot::sample()
        }
    }

    #[test]
    fn all_files_that_are_hit_are_shown_when_asked_for_and_no_more_is_promised_than_is_so() {
        let many = hit(65, 0);
        let (few, all) = (snapshot_lines(&many, Shown::Few), snapshot_lines(&many, Shown::All));
        assert_eq!((few.len(), few[11].as_str(), all.len()), (12, "    and 55 more", 66));
        let last = |snapshot: &DamagedSnapshot, shown| hints(std::slice::from_ref(snapshot), shown).pop().unwrap();
        assert!(last(&many, Shown::Few).contains("`-v` names"), "{}", last(&many, Shown::Few));
        assert_eq!(last(&many, Shown::All), "every file that is not named can be restored now");
        assert!(last(&hit(65, 1), Shown::All).contains("a restore names"));
        // Of a list that is hit nothing is promised, but that its neighbours are whole.
        let list = DamagedSnapshot { manifest_hit: true, ..hit(0, 0) };
        let lines = snapshot_lines(&list, Shown::All);
        assert!(lines.len() == 1 && lines[0].ends_with("only in part, or not at all"), "{lines:?}");
        assert_eq!(last(&list, Shown::All), "every snapshot that is not named can be restored whole now");
    }

    #[test]
    fn who_has_lost_a_record_that_no_backup_brings_back_is_not_told_to_send() {
        let newest = DamagedSnapshot { record_lost: true, newest: true, ..hit(0, 0) };
        assert!(hints(std::slice::from_ref(&newest), Shown::Few)[0].contains("`lan-backup send`"));
        let old = DamagedSnapshot { newest: false, ..newest };
        let hints = hints(&[old], Shown::Few).join("\n");
        assert!(hints.contains("prune --give-up") && !hints.contains("lan-backup send"), "{hints}");
    }
}
