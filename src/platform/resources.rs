//! How much of the machine we may use.

use std::num::NonZero;

/// Cores that this process may run on.
pub fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, NonZero::get)
}

/// Raises the limit of open files to what the system allows: a server with 256 connections and their packs needs more than the
/// usual 1,024. A refusal is not an error; the old limit stays.
pub fn raise_open_file_limit() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    let _ = setrlimit(Resource::Nofile, limit);
}
