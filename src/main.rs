//! lan-backup
fn main() {}
