//! The list of a snapshot's entries: one JSON object a line, sorted by path, cut into chunks like a file.
//!
//! Because it is cut by content, an hourly snapshot of a million unchanged files shares nearly all of its manifest with the
//! one before, and the lists that name its chunks, too. Nothing here holds a whole manifest in memory.
//!
//! | file | what |
//! |---|---|
//! | [`stream_writer`] | bytes in, chunks and a [`Stream`](crate::model::Stream) out |
//! | [`stream_reader`] | a [`Stream`](crate::model::Stream) in, bytes out, read ahead through a vault |
//! | [`entry_reader`] | entries out of a stream, checked and in order, from any place on |
//! | `leaves` | the chunks of a manifest by number, and where in them a path lies |
//! | [`merge`] | many manifests side by side, what they share read once or not at all |
//! | [`extent_reader`] | extents out of the list of a large file |

pub mod entry_reader;
pub mod extent_reader;
mod leaves;
pub mod merge;
pub mod stream_reader;
pub mod stream_writer;

pub use entry_reader::EntryReader;
pub use extent_reader::ExtentReader;
pub use merge::{Merge, Shared};
pub use stream_reader::StreamReader;
pub use stream_writer::StreamWriter;

use crate::model::{Entry, RelPath};

/// What is wrong with a manifest or another stream.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The vault failed.
    #[error(transparent)]
    Vault(#[from] crate::vault::Error),
    /// A chunk is not what its id says.
    #[error("a chunk of the snapshot's lists is damaged")]
    Damaged(#[from] crate::codec::Error),
    /// A stream has another length than its head says, is nested too deep, or names too many ids.
    #[error("a list of the snapshot does not have the form its head says")]
    Form,
    /// A line is not an entry.
    #[error("line {number} of the manifest is not an entry: {problem}")]
    Line {
        /// Counted from 1.
        number: u64,
        /// What the parser said.
        problem: String,
    },
    /// A line that was found by jumping into the middle is not an entry.
    #[error("a line in the middle of the manifest is not an entry: {0}")]
    Middle(String),
    /// The entries are not sorted, or one comes twice.
    #[error("the manifest is not sorted at `{0}`")]
    Order(RelPath),
    /// An entry lies in something that is no folder of the manifest.
    #[error("`{0}` in the manifest does not lie in one of its folders")]
    Parent(RelPath),
    /// The lists of chunks of many manifests do not fit into memory together.
    #[error("the lists of these snapshots are too long to be read side by side")]
    TooLong,
    /// More entries than a snapshot may have.
    #[error("the manifest has more than 5,000,000 entries")]
    TooMany,
}

/// What reading a manifest gives.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// The line of an entry, without the newline.
pub fn encode(entry: &Entry) -> Vec<u8> {
    serde_json::to_vec(entry).expect("an entry has only string keys")
}

/// The entry of a line. The message is the parser's.
pub fn decode(line: &[u8]) -> std::result::Result<Entry, String> {
    serde_json::from_slice(line).map_err(|error| error.to_string())
}
