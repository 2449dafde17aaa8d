//! What tests share.

pub(crate) mod bench;
pub(crate) mod edits;
pub(crate) mod nodes;
pub(crate) mod scratch;
pub(crate) mod tree;
