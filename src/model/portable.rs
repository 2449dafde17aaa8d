//! Names that are the same file on every system: what a phone calls its files becomes one clean name, or is refused.
//!
//! Refused is what could only be meant to get out of the folder (`..`, absolute names, drive letters, backslashes, NUL) or does
//! not fit; everything else that some system cannot hold is replaced: control and format characters vanish, `<>:"|?*` become
//! `_`, blanks and dots at the end go, the names of Windows' devices get a `_`. Stricter than snapshots of computers, which keep
//! every legal name, because these names are a stranger's and end up beside other people's files.

use crate::model::limits::{MAX_NAME_BYTES, MAX_PATH_DEPTH};
use crate::model::text::is_printable;
use crate::model::{ParseError, RelPath};

/// Room for ` (123).part` behind a name that is full.
const MAX_PORTABLE_BYTES: usize = MAX_NAME_BYTES - 40;
/// Folders; a phone's are a handful.
const MAX_PORTABLE_DEPTH: usize = MAX_PATH_DEPTH / 4;

/// The one clean name for what a phone calls a file, with `/` between folders.
///
/// # Errors
/// What could leave the folder, or cannot be held.
pub fn portable_path(text: &str) -> Result<RelPath, ParseError> {
    let refuse = |problem| Err(ParseError::new("file name", text, problem));
    if text.is_empty() {
        return refuse("is empty");
    }
    if text.starts_with('/') || text.contains(['\\', '\0']) {
        return refuse("is absolute, or holds a backslash or a NUL");
    }
    let parts: Vec<&str> = text.split('/').collect();
    if parts.len() > MAX_PORTABLE_DEPTH {
        return refuse("lies in more than 31 folders");
    }
    let drive = parts[0].as_bytes();
    if drive.len() == 2 && drive[0].is_ascii_alphabetic() && drive[1] == b':' {
        return refuse("begins with a drive letter");
    }
    let mut clean = Vec::with_capacity(parts.len());
    for part in parts {
        if part.is_empty() || part == "." || part == ".." {
            return refuse("has a component that is empty, `.` or `..`");
        }
        let name = portable_name(part);
        if name.len() > MAX_PORTABLE_BYTES {
            return refuse("has a component longer than 215 bytes");
        }
        clean.push(name);
    }
    RelPath::new(clean.join("/"))
}

fn portable_name(part: &str) -> String {
    let replaced: String =
        part.chars().filter(|c| is_printable(*c)).map(|c| if "<>:\"|?*".contains(c) { '_' } else { c }).collect();
    let mut name = replaced.trim_end_matches(['.', ' ']).trim_start_matches(' ').to_owned();
    if name.is_empty() || name.chars().all(|c| c == '.') {
        "_".clone_into(&mut name);
    }
    let stem = name.split('.').next().unwrap_or_default().trim_end();
    if is_device(stem) {
        name.insert(stem.len(), '_');
    }
    name
}

/// The names that Windows keeps for devices, whatever follows the first dot; its superscript digits count, too.
fn is_device(stem: &str) -> bool {
    let upper = stem.to_ascii_uppercase();
    if ["CON", "PRN", "AUX", "NUL", "CONIN$", "CONOUT$"].contains(&upper.as_str()) {
        return true;
    }
    ["COM", "LPT"].iter().any(|port| {
        let mut rest = upper.strip_prefix(port).unwrap_or_default().chars();
        rest.next().is_some_and(|c| c.is_ascii_digit() || "¹²³".contains(c)) && rest.next().is_none()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_phones_name_becomes_one_clean_name() {
        for (given, clean) in [
            ("IMG_0001.jpg", "IMG_0001.jpg"),
            ("DCIM/Camera/größe 写真 🎉.jpg", "DCIM/Camera/größe 写真 🎉.jpg"),
            ("Screenshot 12:30:11.png", "Screenshot 12_30_11.png"),
            ("nul.txt", "nul_.txt"),
            ("com¹", "com¹_"),
            ("COM10", "COM10"),
            ("trailing. . ", "trailing"),
            (" ...", "_"),
            ("a\u{202e}gpj.exe", "agpj.exe"),
            ("new\nline\u{1b}[31m", "newline[31m"),
            (".hidden", ".hidden"),
        ] {
            assert_eq!(portable_path(given).unwrap().as_bytes(), clean.as_bytes(), "{given:?}");
        }
    }

    #[test]
    fn names_that_lead_out_or_do_not_fit_are_refused() {
        let long = "x".repeat(216);
        let deep = vec!["d"; 33].join("/");
        for bad in
            ["", "/etc/passwd", "../x", "a/../b", "a//b", "a/", "./a", "a\\b", "C:/x", "c:", "a\0b", "..", &long, &deep]
        {
            assert!(portable_path(bad).is_err(), "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn what_is_taken_is_clean_for_every_system_and_stays_as_it_is(text in "(?s).{0,40}") {
            if let Ok(path) = portable_path(&text) {
                let clean = String::from_utf8(path.as_bytes().to_vec()).unwrap();
                prop_assert!(clean.chars().all(|c| is_printable(c) && !"<>:\"|?*\\".contains(c)));
                prop_assert!(clean.split('/').all(|part| !part.ends_with(['.', ' ']) && part != ".."));
                prop_assert_eq!(portable_path(&clean).unwrap(), path);
            }
        }
    }
}
