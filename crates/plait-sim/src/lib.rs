//! A discrete-event simulator: what given work would take under another concurrency model, with more workers, or on more cores.
//!
//! | module | what |
//! |---|---|
//! | `engine` | the virtual clock, the agenda, chance from a seed |
//! | `cores` | the system's scheduler: slices, wake-ups, switches, weights, speeds, quotas |
//! | `gil` | the GIL: interval, request, forced switch, convoy |
//! | `io` | what threads wait for outside, and how many are served at once |
//! | `state` | the states of a thread, time in each, and who may watch |
//! | `program` | what a world is told, and what it tells |
//! | `world` | threads on cores under GILs: what happens to each, event by event |
//! | `workload` | what is to be done, as plain data |
//! | `calibrate` | what the machine and the interpreter cost |
//! | `tape`, `pools`, `eventloop` | the models as programs of a world |
//! | `scale` | long work in short |
//! | `whatif` | predictions and their intervals |

#![forbid(unsafe_code)]

mod calibrate;
mod cores;
mod engine;
mod eventloop;
mod gil;
mod io;
mod pools;
mod program;
mod scale;
mod state;
mod tape;
mod whatif;
mod workload;
mod world;

pub use calibrate::{Cost, Costs, LoopCosts, Machine, Off, TaskCosts};
pub use cores::{CoresConfig, Quota, WEIGHT, weight_of};
pub use engine::Chance;
pub use io::Resource;
pub use program::{
    Ctl, GilConfig, GilCounts, GilId, Hold, Op, Outcome, Program, ResourceId, Stuck, ThreadId, WorldConfig,
};
pub use state::{Change, Observer, State, Times};
pub use whatif::{Effort, Error, Model, Prediction, Question, predict};
pub use workload::{Burst, Invalid, Item, Kind, Parcel, Workload};
pub use world::World;
