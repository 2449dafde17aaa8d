//! What tests share.

pub(crate) mod bench;
pub(crate) mod edits;
pub(crate) mod tree;
