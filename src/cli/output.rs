//! Data to stdout, talk to stderr.

use crate::backup;
use crate::cli::ExitStatus;
use crate::daemon::Error;
use crate::model::text::{clean, is_printable};
use crate::restore;
use indicatif::MultiProgress;
use serde::Serialize;
use serde_json::{Value, json};
use std::io::{IsTerminal, Write};

/// Where a command's words go. Cheap to clone. Lines appear above progress bars, never through them.
#[derive(Clone, Debug)]
pub struct Output {
    json: bool,
    quiet: bool,
    bars: MultiProgress,
}

/// How data looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    /// For people.
    Text,
    /// For programs.
    Json,
}

/// How much is said besides data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Talk {
    /// What helps to understand what happens.
    Usual,
    /// What went wrong.
    OnlyTrouble,
}

impl Output {
    /// Data as JSON or not, talk or none.
    pub fn new(style: Style, talk: Talk) -> Self {
        Self { json: style == Style::Json, quiet: talk == Talk::OnlyTrouble, bars: MultiProgress::new() }
    }

    /// Tells programs that the command line is wrong.
    pub fn failed_usage(&self, message: &str) {
        self.event("error", json!({ "code": "usage", "message": message, "hint": "see --help" }));
    }

    /// Whether data is JSON.
    pub fn is_json(&self) -> bool {
        self.json
    }

    /// Whether somebody sits there who can be asked.
    pub fn is_interactive(&self) -> bool {
        !self.json && std::io::stdin().is_terminal() && std::io::stderr().is_terminal()
    }

    /// Whether progress is worth drawing.
    pub fn shows_progress(&self) -> bool {
        !self.json && !self.quiet && std::io::stderr().is_terminal()
    }

    /// Where progress bars are drawn.
    pub fn bars(&self) -> &MultiProgress {
        &self.bars
    }

    /// Talk, unless `--quiet`.
    pub fn say(&self, text: &str) {
        if !self.quiet {
            self.talk(text);
        }
    }

    /// Talk that is never left out: what went wrong, and what must be read now.
    pub fn talk(&self, text: &str) {
        self.bars.suspend(|| {
            // Nobody may be reading; that is no reason to stop.
            let _ = writeln!(std::io::stderr(), "{text}");
        });
    }

    /// A line of data for people; nothing with `--json`.
    pub fn line(&self, text: &str) {
        if !self.json {
            self.print(text);
        }
    }

    /// A row of data for programs; nothing without `--json`.
    pub fn row(&self, row: &impl Serialize) {
        if self.json
            && let Ok(text) = serde_json::to_string(row)
        {
            self.print(&escaped(&text));
        }
    }

    /// An event for programs.
    pub fn event(&self, name: &str, fields: Value) {
        let mut event = json!({ "event": name });
        if let (Value::Object(event), Value::Object(fields)) = (&mut event, fields) {
            event.extend(fields);
        }
        self.row(&event);
    }

    /// Rows in columns for people; nothing with `--json`.
    pub fn table(&self, rows: &[Vec<String>]) {
        for line in table(rows) {
            self.line(&line);
        }
    }

    fn print(&self, text: &str) {
        self.bars.suspend(|| {
            let mut stdout = std::io::stdout().lock();
            // A reader that has seen enough (`| head`) is no failure.
            let _ = writeln!(stdout, "{text}").and_then(|()| stdout.flush());
        });
    }

    /// Something was lost or forged at the other side.
    pub fn alarm(&self, problem: &str) {
        self.event("alarm", json!({ "problem": problem }));
        self.talk(&format!("ALARM: {}", clean(problem)));
    }

    /// One thing that went wrong without stopping the run.
    pub fn fault(&self, text: &str) {
        self.talk(&format!("warning: {text}"));
    }

    /// Says why a command failed, and what to do.
    pub fn failure(&self, error: &Error) -> ExitStatus {
        let (code, message, hint) = (error.code(), error.sentence(), error.hint());
        self.event("error", json!({ "code": code, "message": message, "hint": hint }));
        self.talk(&format!("error: {}", lines_cleaned(&message)));
        if let Some(hint) = hint {
            self.talk(&format!("hint: {}", lines_cleaned(&hint)));
        }
        match error {
            _ if error.is_stopped() => ExitStatus::Stopped,
            Error::Usage { .. }
            | Error::Backup(backup::Error::Roots(_) | backup::Error::Pattern { .. })
            | Error::Restore(restore::Error::Pattern { .. }) => ExitStatus::Usage,
            _ => ExitStatus::Failed,
        }
    }
}

/// JSON that shows nothing a terminal would act on: what is not printable becomes an escape, which means the same.
fn escaped(json: &str) -> String {
    let mut text = String::with_capacity(json.len());
    for c in json.chars() {
        if is_printable(c) {
            text.push(c);
        } else {
            let mut units = [0; 2];
            for unit in c.encode_utf16(&mut units) {
                let [high, low] = unit.to_be_bytes();
                text.push_str("\\u");
                text.push_str(&crate::model::digest::to_hex(&[high, low]));
            }
        }
    }
    text
}

/// Cleans each line; our own line breaks stay.
fn lines_cleaned(text: &str) -> String {
    text.lines().map(clean).collect::<Vec<_>>().join("\n      ")
}

/// Rows of text in columns, each as wide as its widest cell.
fn table(rows: &[Vec<String>]) -> Vec<String> {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let line = |row: &Vec<String>| {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}"));
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    rows.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_line_up_and_have_no_blanks_at_the_end() {
        let rows = [vec!["a".to_owned(), "bbb".to_owned()], vec!["größe".to_owned(), "c".to_owned()]];
        assert_eq!(table(&rows), ["a      bbb", "größe  c"]);
    }

    #[test]
    fn json_holds_nothing_that_a_terminal_acts_on_and_means_the_same() {
        let hostile = "a\u{9b}31mb\u{202e}c\u{1b}d\u{e0041}e";
        let shown = escaped(&serde_json::to_string(hostile).unwrap());
        assert!(shown.chars().all(is_printable), "{shown}");
        assert_eq!(serde_json::from_str::<String>(&shown).unwrap(), hostile);
    }

    #[test]
    fn control_characters_in_messages_do_not_reach_the_terminal() {
        assert_eq!(lines_cleaned("a\u{1b}[31m\nb"), "a\u{fffd}[31m\n      b");
    }
}
