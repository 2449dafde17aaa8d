//! lan-backup: backs up computers and phones to each other over the local network.
//!
//! A module names only modules on lower floors; `tests/tidy.rs` holds that. In reading order, lowest floor first:
//!
//! | floor | modules | |
//! |---|---|---|
//! | 0 | [`model`] | words: pure, no I/O, no clock, no async |
//! | 1 | [`platform`] [`monitor`] [`chunker`] [`codec`] [`signer`] | tools |
//! | 2 | [`vault`] | the seam: any place that keeps chunks and snapshots |
//! | 3 | [`manifest`] | reads and writes the entry list through a vault |
//! | 4 | [`config`] [`identity`] [`protocol`] [`store`] [`backup`] [`restore`] [`copy`] | bricks that do not know each other |
//! | 5 | [`client`] [`server`] | speak HTTPS |
//! | 6 | [`discovery`] | speaks to the neighbourhood |
//! | 7 | [`daemon`] | a device as a whole: serving, backing up, restoring |
//! | 8 | [`cli`] | speaks to people |

pub mod model;

pub mod chunker;
pub mod codec;
pub mod monitor;
pub mod platform;
pub mod signer;

pub mod vault;

pub mod manifest;

pub mod backup;
pub mod config;
pub mod copy;
pub mod identity;
pub mod protocol;
pub mod restore;
pub mod store;

pub mod client;
pub mod server;

pub mod discovery;

pub mod daemon;
#[doc(hidden)]
pub mod fuzzing;

pub mod cli;
