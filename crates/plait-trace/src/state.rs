//! The states that a thread's time is divided into: each instant of its life is in exactly one.

/// What a thread does.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(u8)]
pub enum State {
    /// Runs, and holds the GIL.
    OnCpuGil = 0,
    /// Runs without the GIL: C code that has released it, or native threads.
    OnCpuReleased = 1,
    /// Could run, and no core is free: on the run queue.
    Ready = 2,
    /// Waits for the GIL, asleep or not.
    GilWait = 3,
    /// Holds the GIL and sleeps all the same: every other thread of Python waits with it.
    GilHeldOffCpu = 4,
    /// Waits for a file, a peer, a child, a timer.
    IoWait = 5,
    /// Waits for a lock that somebody holds.
    LockWait = 6,
    /// Waits for work: a thread of a pool whose queue is empty.
    Idle = 7,
}

impl State {
    /// All of them, in the order of their numbers.
    pub const ALL: [State; 8] = [
        State::OnCpuGil,
        State::OnCpuReleased,
        State::Ready,
        State::GilWait,
        State::GilHeldOffCpu,
        State::IoWait,
        State::LockWait,
        State::Idle,
    ];

    /// Its name in every output.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            State::OnCpuGil => "on_cpu_gil",
            State::OnCpuReleased => "on_cpu_released",
            State::Ready => "ready",
            State::GilWait => "gil_wait",
            State::GilHeldOffCpu => "gil_held_off_cpu",
            State::IoWait => "io_wait",
            State::LockWait => "lock_wait",
            State::Idle => "idle",
        }
    }
}
