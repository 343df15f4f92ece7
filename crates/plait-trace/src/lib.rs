//! The vocabulary of time: what a thread, a process or a task did, and how it is written down.
//!
//! | module | what |
//! |---|---|
//! | [`state`] | the states that a thread's time is divided into |
//! | [`record`] | what is observed, one record each |
//! | [`file`](mod@file) | the file that holds records |

#![forbid(unsafe_code)]

pub mod file;
pub mod record;
pub mod state;
mod wire;
