//! Strangers' text, made safe to show.
//!
//! Aliases and file names lose what could move a cursor, change a colour, reverse a line or break a log before they reach
//! a terminal or a log (others had ANSI injection here: CVE-2023-43620). The bytes on disk and on the wire stay as they are.

/// Whether a character may be shown as it is: not in Unicode's categories Cc, Cf, Zl, Zp.
pub fn is_printable(c: char) -> bool {
    !c.is_control() && !is_format_or_separator(c)
}

// Cf, Zl and Zp of Unicode 16 as ranges; the standard library has no category look-up and the table is short and stable.
fn is_format_or_separator(c: char) -> bool {
    matches!(c,
        '\u{ad}' | '\u{600}'..='\u{605}' | '\u{61c}' | '\u{6dd}' | '\u{70f}' | '\u{890}'..='\u{891}' | '\u{8e2}'
        | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{2064}'
        | '\u{2066}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{110bd}' | '\u{110cd}'
        | '\u{13430}'..='\u{1343f}' | '\u{1bca0}'..='\u{1bca3}' | '\u{1d173}'..='\u{1d17a}' | '\u{e0001}'
        | '\u{e0020}'..='\u{e007f}')
}

/// `text` with everything that is not printable replaced by `�`, for people's eyes only.
pub fn clean(text: &str) -> String {
    text.chars().map(|c| if is_printable(c) { c } else { '\u{fffd}' }).collect()
}

/// `bytes` as clean text; what is not UTF-8 becomes `�` too.
pub fn clean_bytes(bytes: &[u8]) -> String {
    clean(&String::from_utf8_lossy(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_moves_a_cursor_or_turns_a_line_survives() {
        let hostile = "a\u{1b}[31mb\r\nc\u{202e}d\u{2028}e\u{200b}f\u{9b}g\0h\u{e0041}";
        assert!(clean(hostile).chars().all(is_printable));
        assert_eq!(clean("größe 写真 🎉.jpg"), "größe 写真 🎉.jpg");
        assert_eq!(clean_bytes(b"a\xffb"), "a\u{fffd}b");
    }
}
