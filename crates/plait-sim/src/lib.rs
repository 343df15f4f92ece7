//! A discrete-event simulator: what given work would take under another concurrency model, with more workers, or on more cores.
//!
//! | module | what |
//! |---|---|
//! | `engine` | the virtual clock, the agenda, chance from a seed |
//! | `cores` | the system's scheduler: slices, wake-ups, switches, weights, speeds, quotas |
//! | `gil` | the GIL: interval, request, forced switch, convoy |
//! | `io` | what threads wait for outside, and how many are served at once |
//! | `state` | the states of a thread, time in each, and who may watch |
//! | `world` | threads on cores under GILs: what happens to each, event by event |

#![forbid(unsafe_code)]

mod cores;
mod engine;
mod gil;
mod io;
mod state;
mod world;

pub use cores::{CoresConfig, Quota, WEIGHT};
pub use engine::Chance;
pub use io::Resource;
pub use state::{Change, Observer, State, Times};
pub use world::{
    Ctl, GilConfig, GilCounts, GilId, Hold, Op, Outcome, Program, ResourceId, Stuck, ThreadId, World, WorldConfig,
};
