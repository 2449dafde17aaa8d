//! The parts that decide how fast a backup is, each with its bytes or items a second, so that a later change can be judged.
//!
//! ```sh
//! cargo bench                      # all
//! cargo bench --bench micro codec  # what has `codec` in its name
//! ```
//!
//! Numbers of one run belong together; machines differ, and the same machine at another hour, too.
#![allow(clippy::unwrap_used, reason = "a bench that cannot go on should say where")]
#![allow(unreachable_pub, reason = "the macros of the harness make items public")]

mod codec;
mod cutting;
mod manifest;
mod samples;
mod store;

fn main() {
    divan::main();
}
