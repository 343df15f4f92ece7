//! What was seen of a thread, as it came.

use std::collections::HashMap;

use crate::burst::Histogram;
use crate::fold::stacks::FrameSums;
use crate::fold::waits::{Key, Sum};
use crate::profile::Times;
use crate::record::{GilSpan, Text, Tid, WaitKind, Why};

/// A span of the GIL, smaller than its record.
#[derive(Clone, Copy)]
pub(crate) struct Span {
    pub(crate) from: u64,
    pub(crate) to: u64,
    pub(crate) what: What,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum What {
    Held,
    Wanted,
    Free,
    /// Sleeps on a lock of the interpreter's.
    Parked,
    /// Stands still.
    Stopped,
    /// Waits until the others stand still.
    Asking,
    /// By its place among those of the thread.
    Blurred(u32),
}

#[derive(Clone, Copy)]
pub(crate) struct Blur {
    pub(crate) held: u64,
    pub(crate) wanted: u64,
    pub(crate) takes: u32,
    pub(crate) longest: u64,
}

/// A switch in a word: its time, whether on, whether forced. Of two at one time, the one off the core comes first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Switch(u64);

impl Switch {
    pub(crate) fn new(at: u64, on: bool, forced: bool) -> Switch {
        Switch(at << 2 | u64::from(on) << 1 | u64::from(forced))
    }

    pub(crate) fn at(self) -> u64 {
        self.0 >> 2
    }

    pub(crate) fn on(self) -> bool {
        self.0 & 2 != 0
    }

    pub(crate) fn forced(self) -> bool {
        self.0 & 1 != 0
    }
}

#[derive(Clone, Copy)]
pub(crate) struct Counted {
    pub(crate) at: u64,
    pub(crate) on_cpu: u64,
    pub(crate) ready: u64,
    pub(crate) voluntary: u64,
    pub(crate) forced: u64,
}

#[derive(Clone, Copy)]
pub(crate) struct Wait {
    pub(crate) at: u64,
    pub(crate) kind: WaitKind,
    pub(crate) call: Text,
    pub(crate) target: Text,
    /// It is for what another thread does. Then the target is of this wait alone.
    pub(crate) told: bool,
}

#[derive(Clone, Copy)]
pub(crate) struct LockWait {
    pub(crate) from: u64,
    pub(crate) to: u64,
    pub(crate) lock: Text,
    pub(crate) holder: Tid,
    pub(crate) place: Text,
    /// It is for a result, and no lock.
    pub(crate) result: bool,
}

#[derive(Clone, Copy)]
pub(crate) struct Stack {
    pub(crate) at: u64,
    pub(crate) frame: u32,
    pub(crate) why: Why,
}

/// Sums of a thread whose detail was dropped.
#[derive(Clone, Default)]
pub(crate) struct Base {
    pub(crate) span: Option<(u64, u64)>,
    pub(crate) times: Times,
    pub(crate) voluntary: u64,
    pub(crate) forced: u64,
    pub(crate) takes: u64,
    pub(crate) longest: u64,
    pub(crate) hold_at: u64,
    pub(crate) hold_frame: u32,
    pub(crate) stops: u64,
    pub(crate) longest_stop: u64,
    pub(crate) frames: HashMap<u32, FrameSums>,
    pub(crate) waits: HashMap<Key, Sum>,
    pub(crate) cpu: Histogram,
    pub(crate) io: Histogram,
}

/// All that was seen of a thread.
#[derive(Clone, Default)]
pub(crate) struct ThreadLog {
    pub(crate) tid: Tid,
    pub(crate) name: Text,
    pub(crate) born: Option<u64>,
    /// The first time that anything was said of it.
    pub(crate) seen: Option<u64>,
    /// Whether it was said that it is there, and so how long it was.
    pub(crate) told: bool,
    pub(crate) end: Option<u64>,
    pub(crate) gil: Vec<Span>,
    pub(crate) blurs: Vec<Blur>,
    pub(crate) switches: Vec<Switch>,
    /// Whether these are what looks found rather than every switch: that the thread could run from then on, or slept.
    pub(crate) looked: bool,
    /// Whether so many switches were lost that the kernel's counts say more.
    pub(crate) lossy: bool,
    pub(crate) counted: Vec<Counted>,
    pub(crate) waits: Vec<Wait>,
    pub(crate) lock_waits: Vec<LockWait>,
    pub(crate) stacks: Vec<Stack>,
    pub(crate) base: Option<Box<Base>>,
    /// How many threads these are the sums of; 0 for a thread.
    pub(crate) count: u64,
}

impl ThreadLog {
    pub(crate) fn base(&mut self) -> &mut Base {
        self.base.get_or_insert_default()
    }

    /// Lets go of what nobody asks for when the thread is cut: there may be very many.
    pub(crate) fn let_go(&mut self) {
        self.gil.shrink_to_fit();
        (self.switches, self.counted) = (Vec::new(), Vec::new());
        (self.waits, self.lock_waits, self.stacks) = (Vec::new(), Vec::new(), Vec::new());
    }

    pub(crate) fn see(&mut self, at: u64) {
        self.seen = Some(self.seen.map_or(at, |seen| seen.min(at)));
    }

    pub(crate) fn gil(&mut self, from: u64, to: u64, span: GilSpan) {
        if to <= from {
            return;
        }
        let what = match span {
            GilSpan::Held => What::Held,
            GilSpan::Wanted => What::Wanted,
            GilSpan::Free => What::Free,
            GilSpan::Parked => What::Parked,
            GilSpan::Stopped => What::Stopped,
            GilSpan::Asking => What::Asking,
            GilSpan::Blurred {
                held,
                wanted,
                takes,
                longest,
            } => {
                let held = held.min(to - from);
                let wanted = wanted.min(to - from - held);
                self.blurs.push(Blur {
                    held,
                    wanted,
                    takes,
                    longest: longest.min(held),
                });
                What::Blurred(self.blurs.len() as u32 - 1)
            }
        };
        match self.gil.last_mut() {
            Some(last) if last.to == from && last.what == what => last.to = to,
            _ => self.gil.push(Span { from, to, what }),
        }
    }

    /// Cuts off what lies behind a time; a wait for a lock that lasts then is in both. All must be in order.
    pub(crate) fn split_off(&mut self, at: u64) -> ThreadLog {
        let locks = self.lock_waits.iter().filter(|wait| wait.to > at).copied().collect();
        self.lock_waits.retain(|wait| wait.from < at);
        ThreadLog {
            switches: self
                .switches
                .split_off(self.switches.partition_point(|switch| switch.at() < at)),
            counted: self
                .counted
                .split_off(self.counted.partition_point(|counted| counted.at <= at)),
            waits: self.waits.split_off(self.waits.partition_point(|wait| wait.at < at)),
            stacks: self
                .stacks
                .split_off(self.stacks.partition_point(|stack| stack.at < at)),
            lock_waits: locks,
            ..ThreadLog::default()
        }
    }

    /// What it was seen to do with the GIL last goes on where no end of it was seen, up to a time: who held the GIL has it until it
    /// sleeps, and who wanted it has it from when it runs to the end. For a thread whose trace is cut off; all must be in order.
    pub(crate) fn go_on(&mut self, to: u64) {
        let Some(&Span { to: from, what, .. }) = self.gil.last() else {
            return;
        };
        let next = self.switches.partition_point(|switch| switch.at() <= from);
        let was_on = next.checked_sub(1).is_none_or(|last| self.switches[last].on());
        let after = &self.switches[next..];
        match what {
            What::Held => {
                let sleeps = after.iter().find(|switch| !switch.on() && !switch.forced());
                self.gil(from, sleeps.map_or(to, |switch| switch.at().min(to)), GilSpan::Held);
            }
            What::Wanted => {
                let runs = if was_on {
                    Some(from)
                } else {
                    after.first().map(|switch| switch.at())
                };
                let runs_on = after.iter().all(|switch| switch.on() || switch.forced());
                self.gil(from, runs.map_or(to, |at| at.min(to)), GilSpan::Wanted);
                if let Some(at) = runs.filter(|_| runs_on) {
                    self.gil(at, to, GilSpan::Held);
                }
            }
            What::Free | What::Parked | What::Stopped | What::Asking | What::Blurred(_) => {}
        }
    }

    /// Puts everything in order of time, and cuts spans that overlap.
    pub(crate) fn sort(&mut self) {
        sort(&mut self.gil, |span| span.from);
        let mut end = 0;
        self.gil.retain_mut(|span| {
            span.from = span.from.max(end);
            end = end.max(span.to);
            span.from < span.to
        });
        // Parts that came late stand beside their neighbours only now.
        self.gil.dedup_by(|next, span| {
            let one = span.to == next.from && span.what == next.what;
            if one {
                span.to = next.to;
            }
            one
        });
        sort(&mut self.switches, |switch| switch.0);
        sort(&mut self.counted, |counted| counted.at);
        sort(&mut self.waits, |wait| wait.at);
        sort(&mut self.lock_waits, |wait| wait.from);
        sort(&mut self.stacks, |stack| stack.at);
    }
}

fn sort<T>(items: &mut [T], key: impl Fn(&T) -> u64) {
    if !items.is_sorted_by_key(&key) {
        items.sort_by_key(&key);
    }
}
