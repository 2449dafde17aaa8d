//! What `serve` says of LocalSend apps that send to it.

use crate::cli::output::Output;
use crate::cli::size;
use crate::model::Alias;
use crate::protocol::ErrorCode;
use crate::server::{ServerEvent, SessionSummary};
use serde_json::json;
use std::path::Path;

/// Shows an event of this door; gives back any other.
pub(crate) fn show(event: ServerEvent, output: &Output) -> Option<ServerEvent> {
    match event {
        ServerEvent::Message { alias, fingerprint, text } => {
            output.event("message", json!({ "alias": alias, "fingerprint": fingerprint, "text": text }));
            output.say(&format!("message from {alias} ({}): {text}", fingerprint.short_code()));
        }
        ServerEvent::Saved { session, folder, files, bytes, known, renamed } => {
            saved(&session, &folder, (files, bytes, known, renamed), output);
        }
        ServerEvent::NotKept { session } => {
            output.event("not-kept", json!({ "session": session }));
            output.talk(&format!("{}: files that came could not be kept here", session.alias));
            output.talk("hint: is the disk full, or failing? Send them again from that device; `serve -v` says more");
        }
        ServerEvent::NothingNew { session, files } => {
            output.event("nothing-new", json!({ "files": files, "session": session }));
            output.say(&nothing_new(&session.alias, files));
        }
        ServerEvent::NotTaken { alias, fingerprint, file, code, reason } => {
            let (words, hint) = not_taken(&alias, file.as_deref(), code, &reason);
            output.event(
                "not-taken",
                json!({
                    "alias": alias, "fingerprint": fingerprint, "file": file, "code": code, "reason": reason, "hint": hint,
                }),
            );
            output.talk(&words);
            output.talk(&format!("hint: {hint}"));
        }
        other => return Some(other),
    }
    None
}

/// Tells about a session that an app opened; nothing of one that brings nothing, which has words of its own.
pub(crate) fn opened(session: &SessionSummary, output: &Output) {
    if session.expected.files > 0 {
        let (files, bytes) = (session.expected.files, session.expected.bytes);
        output.say(&format!("{} sends {} ({})", session.alias, size::counted(files, "file"), size::bytes(bytes)));
    }
}

fn saved(session: &SessionSummary, folder: &Path, counts: (u64, u64, u64, u64), output: &Output) {
    let (files, bytes, known, renamed) = counts;
    output.event(
        "saved",
        json!({
            "folder": folder.display().to_string(), "files": files, "bytes": bytes, "known": known, "renamed": renamed,
            "session": session,
        }),
    );
    let renamed = match renamed {
        0 => String::new(),
        count => format!("; {} under another name, because theirs was taken", size::count(count)),
    };
    let (new, folder) = (size::counted(files, "new file"), folder.display());
    output.say(&format!("{}: {new} ({}) in {folder}{renamed}", session.alias, size::bytes(bytes)));
}

fn nothing_new(alias: &Alias, files: u64) -> String {
    match files {
        1 => format!("{alias} has nothing new: the file that it offered is here"),
        _ => format!("{alias} has nothing new: all {} files are here", size::count(files)),
    }
}

fn not_taken(alias: &Alias, file: Option<&str>, code: ErrorCode, reason: &str) -> (String, &'static str) {
    let what = file.map_or_else(|| "what it offered".to_owned(), |file| format!("`{file}`"));
    let hint = match code {
        ErrorCode::Full => {
            "make space here (`lan-backup status` says what is kept and what is free), then send it again from that device"
        }
        ErrorCode::BadRequest | ErrorCode::Corrupt | ErrorCode::TooLarge => {
            "it came only in part, or changed on the way; most apps offer to send it again"
        }
        ErrorCode::TooMany | ErrorCode::Busy => "it can be sent again later",
        _ => "send it again from that device; `lan-backup serve -v` says more",
    };
    (format!("warning: {alias}: {what} was not taken: {reason}"), hint)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_app_could_not_bring_is_said_with_its_name_the_reason_and_a_next_step() {
        let pixel = Alias::new("Pixel");
        let (words, hint) = not_taken(&pixel, Some("DCIM/a.jpg"), ErrorCode::Full, "there is too little space");
        assert_eq!(words, "warning: Pixel: `DCIM/a.jpg` was not taken: there is too little space");
        assert!(hint.contains("make space"));
        let (words, hint) = not_taken(&pixel, None, ErrorCode::BadRequest, "4 of 5 bytes came");
        assert!(words.contains("what it offered") && hint.contains("again"), "{words} {hint}");
        assert_eq!(nothing_new(&pixel, 3), "Pixel has nothing new: all 3 files are here");
        assert_eq!(nothing_new(&pixel, 1), "Pixel has nothing new: the file that it offered is here");
    }
}
