//! What a device does as a whole: serving others, and its own backups and restores from finding the other device to
//! remembering the result. Nothing here prints or prompts; faces watch through a `Monitor`, a `PinSource` and events.
//!
//! | file | what |
//! |---|---|
//! | [`context`] | this device: home, identity, trust, name |
//! | [`service`] | server, discovery and control socket under one shutdown |
//! | [`control`] | the socket by which commands speak to a running `serve` |
//! | [`locate`] | the device that a person named, and a way to call it |
//! | [`neighbours`] | who is on the network, as a list |
//! | [`join`] | pairing with it, when that has not been done |
//! | [`keep_alive`] | keeps sessions open during long local work |
//! | [`send`] | a backup, from end to end |
//! | [`retrieve`] | a repository on another device or here, opened for reading |
//! | [`phone`] | files to a LocalSend app |
//! | [`share`] | what `share` shares |
//! | [`copy`] | what is kept at one place, at another, too |
//! | [`look`] | what is in snapshots, and what is different between them |
//! | [`pruning`] | which keep rules hold for what is kept here |
//! | [`rotation`] | new certificates: this device's own, and those of others |
//! | `hand_over` | what is kept of a device with a new certificate goes with it |
//! | [`scrub`] | reads what is kept again, slowly, beside `serve` |
//! | [`error`] | everything that can go wrong, with its code and what to do |

pub mod context;
pub mod control;
pub mod copy;
pub mod error;
mod hand_over;
pub mod join;
pub mod keep_alive;
pub mod locate;
pub mod look;
pub mod neighbours;
pub mod phone;
pub mod pruning;
pub mod retrieve;
pub mod rotation;
pub mod scrub;
pub mod send;
pub mod service;
pub mod share;

pub use context::Context;
pub use error::{Error, Result};
