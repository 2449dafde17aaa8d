//! Tests of the whole through its public face, one binary. All sockets are bound to 127.0.0.1, port 0.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should say where")]
#![allow(clippy::unnecessary_debug_formatting, reason = "names in here are not UTF-8, and escaped they can be read")]

mod away;
mod bad_line;
mod bit_rot;
mod brake;
mod cli;
mod copies_damaged;
mod crowd;
mod disk_faults;
mod engine;
mod fuzzing;
mod given_up;
mod heal;
mod hostile_lists;
mod hostile_manifest;
mod index_rebuild;
mod looks;
mod model_based;
mod old_stores;
mod power_cut;
mod prune;
mod prune_race;
mod remote_engine;
mod stats;
mod store_commit;
mod store_crash;
mod store_damage;
mod store_engine;
mod store_scale;
mod store_support;
mod store_vault;
mod support;
mod symlink_race;
mod unusable;
mod worst_callers;
