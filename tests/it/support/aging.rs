//! Lets days pass for a store that real processes use: everything in it becomes older at once. Not while one of them prunes.

use jiff::{SignedDuration, Timestamp};
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};

/// Makes the store in `folder` so many days older.
pub(crate) fn age(folder: &Path, days: i64) {
    let by = SignedDuration::from_hours(24 * days);
    for repository in list(&folder.join("repositories")) {
        for record in list(&repository.join("records")).iter().flat_map(|set| list(set)) {
            rewrite(&record, &record, |lines| {
                let mut receipt: Value = serde_json::from_str(&lines[2]).unwrap();
                earlier(&mut receipt, &["receivedAt"], by);
                lines[2] = receipt.to_string();
            });
        }
        for pack in list(&repository.join("packs")).iter().flat_map(|part| list(part)) {
            let file = fs::File::options().write(true).open(&pack).unwrap();
            let written = file.metadata().unwrap().modified().unwrap();
            file.set_modified(written - by.unsigned_abs()).unwrap();
        }
        for kind in ["forgotten", "brought-back", "released"] {
            for mark in list(&repository.join(kind)) {
                let aged = renamed(&mark, by);
                rewrite(&mark, &aged, |lines| {
                    let mut json: Value = serde_json::from_str(&lines[0]).unwrap();
                    earlier(&mut json, &["when", "until"], by);
                    lines[0] = json.to_string();
                });
            }
        }
        for pack in list(&repository.join("trash")) {
            fs::rename(&pack, renamed(&pack, by)).unwrap();
        }
    }
}

fn list(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    entries.map(|entry| entry.unwrap().path()).collect()
}

/// The second at the beginning of the name, some days earlier.
fn renamed(path: &Path, by: SignedDuration) -> PathBuf {
    let (second, rest) = path.file_name().unwrap().to_str().unwrap().split_once('-').unwrap();
    let second = second.parse::<i64>().unwrap() - by.as_secs();
    path.with_file_name(format!("{second:012}-{rest}"))
}

fn earlier(json: &mut Value, fields: &[&str], by: SignedDuration) {
    for field in fields {
        if let Some(at) = json[*field].as_str().and_then(|at| at.parse::<Timestamp>().ok()) {
            json[*field] = Value::String((at - by).to_string());
        }
    }
}

/// Changes the lines of a sealed file, and seals it anew.
fn rewrite(from: &Path, to: &Path, change: impl FnOnce(&mut Vec<String>)) {
    let text = fs::read_to_string(from).unwrap();
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    lines.pop();
    change(&mut lines);
    let content = format!("{}\n", lines.join("\n"));
    let draft = to.with_extension("draft");
    fs::write(&draft, format!("{content}\"blake3:{}\"\n", blake3::hash(content.as_bytes()))).unwrap();
    fs::rename(&draft, to).unwrap();
    if from != to {
        fs::remove_file(from).unwrap();
    }
}
