//! What tests share.

pub(crate) mod lan;
pub(crate) mod program;
pub(crate) mod tree;
