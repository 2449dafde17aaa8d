//! The program as its users meet it: real processes, each test with homes and a network of its own on loopback.
//!
//! Held here: exit codes, the last line of `--json`, the sentence and the hint of every failure, and that nothing is lost whatever
//! goes wrong. The rules behind them have tests of their own.

mod absent;
mod copying;
mod crash;
mod damage;
mod disaster;
mod failures;
mod flood;
mod injection;
mod looking;
mod pairing;
mod pruning;
mod restoring;
mod rotation;
mod secrets;
mod serving;
mod share;
mod together;
mod usage;
mod walk;
