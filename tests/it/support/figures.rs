//! What was measured on the way, for who asks for the long form; no test rests on a time.

use crate::support::scratch::long;
use std::io::Write;

/// Shows a figure past the capture of tests.
pub(crate) fn figure(text: &str) {
    if long() {
        let _ = writeln!(std::io::stderr(), "figure: {text}");
    }
}
