//! What devices say to each other: shapes only, no behaviour. `protocol.md` is normative; each message there has a golden
//! example in `tests/data/wire/` that a test reads with these types.
//!
//! | file | what |
//! |---|---|
//! | [`announce`] | the multicast datagram and `register`: LocalSend's, with a `lanBackup` object |
//! | [`pairing`] | `pair/request`, `pair/start`, `pair/confirm` |
//! | [`session`] | `prepare-upload`, `prepare-download`, `sessions`, `missing`, `finish` |
//! | [`listing`] | `snapshots` |
//! | [`localsend`] | LocalSend's file transfer |
//! | [`error_code`] | the body of every answer that is not a success |
//! | [`paths`] [`percent`] | the routes, and bytes in them |

pub mod announce;
pub mod error_code;
pub mod listing;
pub mod localsend;
pub mod pairing;
pub mod paths;
pub mod percent;
pub mod rotation;
pub mod session;

pub use announce::{Announcement, LanBackup};
pub use error_code::{ErrorBody, ErrorCode};

/// The version of the native API. A peer that does not speak it is told so and left alone.
pub const API_VERSION: u32 = 1;

/// What this version can do beyond the basics; a session fixes what both sides name.
pub const FEATURES: [&str; 2] = ["zstd", "lz4"];
