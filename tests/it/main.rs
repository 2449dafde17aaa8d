//! Tests of the parts together, through the public API only.
#![expect(clippy::unwrap_used, reason = "a test that panics has failed, which is what it should do then")]

mod store_commit;
mod store_crash;
mod store_damage;
mod store_support;
mod store_vault;
