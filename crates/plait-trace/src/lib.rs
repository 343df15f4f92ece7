//! The vocabulary of time: what a thread, a process or a task did, how it is written down, and what it comes to.
//!
//! | module | what |
//! |---|---|
//! | [`state`] | the states that a thread's time is divided into |
//! | [`record`] | what is observed, one record each |
//! | [`file`](mod@file) | the file that holds records |
//! | [`generations`] | files that stay small however long a process runs |
//! | [`fold`] | from records to a profile |
//! | [`profile`] | what a report can say of a run |
//! | [`lane`] | rows of segments that stay short |
//! | [`perfetto`] | a profile as a trace for another viewer |
//! | [`burst`] | lengths of time as a distribution |
//! | [`verdict`] | what holds a program back, and what to try |

#![forbid(unsafe_code)]

pub mod burst;
pub mod file;
pub mod fold;
pub mod generations;
pub mod lane;
pub mod perfetto;
pub mod profile;
pub mod record;
pub mod state;
pub mod verdict;
mod wire;
