//! Numbers as people read them.

use std::time::Duration;

/// Bytes in binary units: `1.5 MiB`.
pub fn bytes(count: u64) -> String {
    indicatif::BinaryBytes(count).to_string()
}

/// A count with groups of three: `1,234,567`.
pub fn count(count: u64) -> String {
    indicatif::HumanCount(count).to_string()
}

/// A count with the word for what is counted, which takes an `s` unless it is one: `1 file`, `1,234 files`.
pub fn counted(number: u64, word: &str) -> String {
    if number == 1 { format!("1 {word}") } else { format!("{} {word}s", count(number)) }
}

/// A count of things that went wrong.
pub fn things(number: u64) -> String {
    counted(number, "thing")
}

/// Bytes a second; empty for a time too short to tell.
pub fn rate(bytes_moved: u64, time: Duration) -> String {
    let seconds = time.as_secs_f64();
    if seconds < 0.001 { String::new() } else { format!("{}/s", bytes((bytes_moved as f64 / seconds) as u64)) }
}

/// A time as `0.42 s` or `3m 12s`.
pub fn duration(time: Duration) -> String {
    let seconds = time.as_secs();
    if seconds < 60 {
        format!("{:.2} s", time.as_secs_f64())
    } else {
        format!("{}m {:02}s", seconds / 60, seconds % 60)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_thing_is_not_said_to_be_several() {
        assert_eq!(
            [counted(1, "file"), counted(0, "path"), counted(1234, "new file")],
            ["1 file", "0 paths", "1,234 new files"]
        );
        assert_eq!((things(1), things(2)), ("1 thing".to_owned(), "2 things".to_owned()));
    }
}
