//! Looking after space: forgetting what the keep rules do not want.
//!
//! | file | what |
//! |---|---|
//! | [`choice`] | which snapshots of each set stay, and why |

pub mod choice;
