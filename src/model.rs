//! The words of the program: pure types that can only exist checked.
//!
//! Nothing here does I/O, reads a clock or is async. Whatever comes from a peer, from a person or from disk passes through
//! one of these constructors first; `Display` is the exact inverse of `FromStr` wherever both exist.
//!
//! | file | words |
//! |---|---|
//! | [`digest`] | [`ChunkId`], [`PackId`], [`SnapshotId`], [`StoredHash`], [`ContentHash`] |
//! | [`names`] | [`SetName`], [`RepositoryId`], [`SessionId`], [`IdempotencyKey`] |
//! | [`rel_path`] | [`Name`], [`RelPath`] |
//! | [`device`] | [`Fingerprint`], [`ShortCode`], [`Alias`], [`Device`] |
//! | [`rights`] | [`Right`], [`Rights`] |
//! | [`entry`], [`file_time`], [`content`] | [`Entry`], [`FileTime`], [`Content`], [`Extent`], [`Stream`] |
//! | [`snapshot`] | [`Record`], [`SignedRecord`], [`Receipt`], [`Forgotten`], [`SnapshotInfo`] |
//! | [`keep`] | [`Keep`], [`Within`]: what is to be kept |
//! | [`mark`] | [`Mark`]: what a snapshot has lost |
//! | [`block`] | [`Block`]: what lies in packs and travels in uploads |
//! | [`repository`] | [`RepositoryParameters`] |
//! | [`owner`] | [`OwnerEvent`]: whose a repository is |
//! | [`pin`] | [`Pin`] |
//! | [`inbox`], [`portable`] | what becomes of phones' files, and what they are called |
//! | `json_text` | strings of JSON, read where they stand |
//! | [`text`] | cleaning of strangers' text before it reaches a terminal or a log |
//! | [`limits`] | the numbers both ends must agree on |

pub mod block;
pub mod content;
pub mod device;
pub mod digest;
pub mod entry;
pub mod file_time;
pub mod inbox;
pub(crate) mod json_text;
pub mod keep;
pub mod limits;
pub mod mark;
pub mod names;
pub mod owner;
pub mod pin;
pub mod portable;
pub mod rel_path;
pub mod repository;
pub mod rights;
pub mod snapshot;
pub mod text;

pub use block::{Block, BlockHeader, ChunkRef, Codec};
pub use content::{Content, Extent, Stream};
pub use device::{Alias, Device, DeviceKind, Fingerprint, ShortCode};
pub use digest::{ChunkId, ContentHash, PackId, SnapshotId, StoredHash};
pub use entry::{Entry, EntryKind, Inside, Metadata, Owner};
pub use file_time::FileTime;
pub use inbox::InboxKeep;
pub use keep::{Keep, Within};
pub use mark::Mark;
pub use names::{IdempotencyKey, RepositoryId, SessionId, SetName};
pub use owner::OwnerEvent;
pub use pin::Pin;
pub use rel_path::{Name, RelPath};
pub use repository::{ChunkerParameters, RepositoryParameters};
pub use rights::{Right, Rights};
pub use snapshot::{Changes, Forgotten, Receipt, Record, SignedRecord, SnapshotInfo, Totals};

/// Text that did not have the form its type asks for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what} `{}` {problem}", text::clean(.found))]
pub struct ParseError {
    /// The kind of thing that was expected, as a person would say it ("fingerprint").
    pub what: &'static str,
    /// What was found instead; cut to 80 characters so that a hostile megabyte does not reach the log.
    pub found: String,
    /// What is wrong with it.
    pub problem: &'static str,
}

impl ParseError {
    pub(crate) fn new(what: &'static str, found: &str, problem: &'static str) -> Self {
        let found = found.chars().take(80).collect();
        Self { what, found, problem }
    }
}
