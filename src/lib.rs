//! lan-backup: backs up computers and phones to each other over the local network.
//!
//! A module names only modules on lower floors; `tests/tidy.rs` holds that. In reading order, lowest floor first:
//!
//! | floor | modules | |
//! |---|---|---|
//! | 0 | [`model`] | words: pure, no I/O, no clock, no async |
//! | 1 | [`platform`] [`monitor`] [`chunker`] [`codec`] [`signer`] [`vault`] | seams and tools |
//! | 2 | [`manifest`] | reads and writes the entry list through a vault |
//! | 3 | [`identity`] [`protocol`] [`store`] [`backup`] [`restore`] | bricks that do not know each other |
//! | 4 | [`client`] [`server`] | speak HTTPS |
//! | 5 | [`discovery`] | speaks to the neighbourhood |

pub mod model;

pub mod chunker;
pub mod codec;
pub mod monitor;
pub mod platform;
pub mod signer;
pub mod vault;

pub mod manifest;

pub mod backup;
pub mod identity;
pub mod protocol;
pub mod restore;
pub mod store;

pub mod client;
pub mod server;

pub mod discovery;
