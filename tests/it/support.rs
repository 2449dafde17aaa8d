//! What tests share.

pub(crate) mod tree;
