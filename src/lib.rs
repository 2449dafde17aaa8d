//! lan-backup: backs up computers and phones to each other over the local network.
//!
//! A module names only modules on lower floors; `tests/tidy.rs` holds that. In reading order, lowest floor first:
//!
//! | floor | modules |
//! |---|---|
//! | 0 | [`model`] |
//! | 1 | [`platform`] [`monitor`] [`chunker`] [`codec`] [`signer`] [`vault`] |
//! | 3 | [`identity`] [`protocol`] |
//! | 4 | [`client`] |
//! | 5 | [`discovery`] |

pub mod model;

pub mod chunker;
pub mod codec;
pub mod monitor;
pub mod platform;
pub mod signer;
pub mod vault;

pub mod identity;
pub mod protocol;

pub mod client;

pub mod discovery;
