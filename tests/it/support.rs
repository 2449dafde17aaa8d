//! What tests share.

pub(crate) mod aging;
pub(crate) mod bad_line;
pub(crate) mod bench;
pub(crate) mod browser;
pub(crate) mod dice;
pub(crate) mod edits;
pub(crate) mod figures;
pub(crate) mod lan;
pub(crate) mod life;
pub(crate) mod mutate;
pub(crate) mod nodes;
pub(crate) mod program;
pub(crate) mod scratch;
pub(crate) mod simulated_disk;
pub(crate) mod stranger;
pub(crate) mod tree;
