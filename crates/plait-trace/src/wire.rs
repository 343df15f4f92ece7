//! Records as bytes: variable-length numbers, times as differences, threads by their place in a table of the chunk.
//!
//! All of it begins anew with each chunk, so that every chunk can be read by itself.

use std::collections::HashMap;

use crate::record::{GilSpan, Method, Record, Text, Tid, WaitKind, Why};

/// Of a longer text the beginning is written, in bytes.
const LONGEST_TEXT: usize = 1 << 16;

/// Writes the records of one chunk.
#[derive(Default)]
pub(crate) struct Encoder {
    pub(crate) bytes: Vec<u8>,
    last: u64,
    threads: HashMap<Tid, u32>,
    /// The thread of the last record, which most often is that of the next.
    recent: Option<(Tid, u32)>,
    /// Where the last span of the GIL of each thread ended, which is where its next one begins.
    ends: Vec<u64>,
}

impl Encoder {
    pub(crate) fn clear(&mut self) {
        self.bytes.clear();
        self.last = 0;
        self.threads.clear();
        self.recent = None;
        self.ends.clear();
    }

    fn byte(&mut self, byte: u8) {
        self.bytes.push(byte);
    }

    pub(crate) fn number(&mut self, mut number: u64) {
        while number >= 0x80 {
            self.bytes.push(number as u8 | 0x80);
            number >>= 7;
        }
        self.bytes.push(number as u8);
    }

    /// A number that may be less than `base`, but is most often close to it.
    fn near(&mut self, number: u64, base: u64) {
        let difference = number.wrapping_sub(base) as i64;
        self.number(((difference << 1) ^ (difference >> 63)) as u64);
    }

    fn time(&mut self, time: u64) {
        self.near(time, self.last);
        self.last = time;
    }

    fn thread(&mut self, tid: Tid) -> usize {
        if let Some((recent, index)) = self.recent
            && recent == tid
        {
            self.number(u64::from(index) + 1);
            return index as usize;
        }
        let next = self.ends.len() as u32;
        let index = *self.threads.entry(tid).or_insert(next);
        if index == next {
            self.ends.push(self.last);
            self.number(0);
            self.number(u64::from(tid));
        } else {
            self.number(u64::from(index) + 1);
        }
        self.recent = Some((tid, index));
        index as usize
    }

    fn gil(&mut self, tid: Tid, from: u64, to: u64, span: GilSpan) {
        self.byte(match span {
            GilSpan::Held => 4,
            GilSpan::Wanted => 5,
            GilSpan::Free => 6,
            GilSpan::Parked => 40,
            GilSpan::Stopped => 41,
            GilSpan::Asking => 42,
            GilSpan::Blurred { .. } => 7,
        });
        let index = self.thread(tid);
        self.near(from, self.ends[index]);
        self.near(to, from);
        self.ends[index] = to;
        self.last = to;
        if let GilSpan::Blurred {
            held,
            wanted,
            takes,
            longest,
        } = span
        {
            self.number(held);
            self.number(wanted);
            self.number(u64::from(takes));
            self.number(longest);
        }
    }
}

/// The byte that a chunk begins with which begins the records of a writer.
pub(crate) const BEGIN: u8 = 9;

/// Reads them back. `None` from any of its methods: this is no chunk of ours.
pub(crate) struct Decoder<'a> {
    pub(crate) bytes: &'a [u8],
    state: Memory,
}

/// What a decoder has to know from one record to the next.
#[derive(Default)]
pub(crate) struct Memory {
    last: u64,
    threads: Vec<(Tid, u64)>,
}

impl<'a> Decoder<'a> {
    pub(crate) fn new(bytes: &'a [u8], state: Memory) -> Decoder<'a> {
        Decoder { bytes, state }
    }

    pub(crate) fn memory(self) -> Memory {
        self.state
    }

    fn byte(&mut self) -> Option<u8> {
        let (&first, rest) = self.bytes.split_first()?;
        self.bytes = rest;
        Some(first)
    }

    pub(crate) fn number(&mut self) -> Option<u64> {
        let mut number = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            let bits = u64::from(byte & 0x7f);
            if shift == 63 && bits > 1 {
                return None;
            }
            number |= bits << shift;
            if byte < 0x80 {
                return Some(number);
            }
        }
        None
    }

    fn near(&mut self, base: u64) -> Option<u64> {
        let number = self.number()?;
        let difference = (number >> 1) as i64 ^ -((number & 1) as i64);
        Some(base.wrapping_add(difference as u64))
    }

    fn time(&mut self) -> Option<u64> {
        self.state.last = self.near(self.state.last)?;
        Some(self.state.last)
    }

    fn thread(&mut self) -> Option<usize> {
        let place = self.number()?;
        if place == 0 {
            let tid = u32::try_from(self.number()?).ok()?;
            self.state.threads.push((tid, self.state.last));
            return Some(self.state.threads.len() - 1);
        }
        let index = usize::try_from(place - 1).ok()?;
        (index < self.state.threads.len()).then_some(index)
    }

    fn gil(&mut self, tag: u8) -> Option<Record> {
        let index = self.thread()?;
        let (tid, end) = self.state.threads[index];
        let from = self.near(end)?;
        let to = self.near(from)?;
        self.state.threads[index].1 = to;
        self.state.last = to;
        let span = match tag {
            4 => GilSpan::Held,
            5 => GilSpan::Wanted,
            6 => GilSpan::Free,
            40 => GilSpan::Parked,
            41 => GilSpan::Stopped,
            42 => GilSpan::Asking,
            _ => GilSpan::Blurred {
                held: self.number()?,
                wanted: self.number()?,
                takes: u32::try_from(self.number()?).ok()?,
                longest: self.number()?,
            },
        };
        Some(Record::Gil { tid, from, to, span })
    }

    fn switch(&mut self, tag: u8) -> Option<Record> {
        let index = self.thread()?;
        let at = self.time()?;
        let cpu = u16::try_from(self.number()?).ok()?;
        let tid = self.state.threads[index].0;
        Some(Record::Switch {
            tid,
            at,
            cpu,
            on: tag & 2 != 0,
            forced: tag & 1 != 0,
        })
    }
}

/// How a field is written: `Plain` by its type, `Time` as a difference, `Thread` by the table.
trait Way<T> {
    fn put(to: &mut Encoder, value: &T);
    fn take(from: &mut Decoder<'_>) -> Option<T>;
}

struct Plain;
struct Time;
struct Thread;

impl Way<u64> for Time {
    fn put(to: &mut Encoder, value: &u64) {
        to.time(*value);
    }

    fn take(from: &mut Decoder<'_>) -> Option<u64> {
        from.time()
    }
}

impl Way<Tid> for Thread {
    fn put(to: &mut Encoder, value: &Tid) {
        to.thread(*value);
    }

    fn take(from: &mut Decoder<'_>) -> Option<Tid> {
        let index = from.thread()?;
        Some(from.state.threads[index].0)
    }
}

impl Way<u64> for Plain {
    fn put(to: &mut Encoder, value: &u64) {
        to.number(*value);
    }

    fn take(from: &mut Decoder<'_>) -> Option<u64> {
        from.number()
    }
}

impl Way<u32> for Plain {
    fn put(to: &mut Encoder, value: &u32) {
        to.number(u64::from(*value));
    }

    fn take(from: &mut Decoder<'_>) -> Option<u32> {
        u32::try_from(from.number()?).ok()
    }
}

impl Way<bool> for Plain {
    fn put(to: &mut Encoder, value: &bool) {
        to.byte(u8::from(*value));
    }

    fn take(from: &mut Decoder<'_>) -> Option<bool> {
        match from.byte()? {
            0 => Some(false),
            1 => Some(true),
            _ => None,
        }
    }
}

impl Way<Text> for Plain {
    fn put(to: &mut Encoder, value: &Text) {
        to.number(u64::from(value.0));
    }

    fn take(from: &mut Decoder<'_>) -> Option<Text> {
        Some(Text(<Plain as Way<u32>>::take(from)?))
    }
}

impl Way<String> for Plain {
    fn put(to: &mut Encoder, value: &String) {
        let mut end = value.len().min(LONGEST_TEXT);
        while !value.is_char_boundary(end) {
            end -= 1;
        }
        let text = &value[..end];
        to.number(text.len() as u64);
        to.bytes.extend_from_slice(text.as_bytes());
    }

    fn take(from: &mut Decoder<'_>) -> Option<String> {
        let length = usize::try_from(from.number()?).ok()?;
        let (text, rest) = from.bytes.split_at_checked(length)?;
        from.bytes = rest;
        Some(std::str::from_utf8(text).ok()?.to_owned())
    }
}

impl Way<Option<i32>> for Plain {
    fn put(to: &mut Encoder, value: &Option<i32>) {
        to.number(value.map_or(0, |code| u64::from(code as u32) + 1));
    }

    fn take(from: &mut Decoder<'_>) -> Option<Option<i32>> {
        match from.number()? {
            0 => Some(None),
            more => Some(Some(u32::try_from(more - 1).ok()? as i32)),
        }
    }
}

impl Way<WaitKind> for Plain {
    fn put(to: &mut Encoder, value: &WaitKind) {
        to.byte(*value as u8);
    }

    fn take(from: &mut Decoder<'_>) -> Option<WaitKind> {
        WaitKind::ALL.get(usize::from(from.byte()?)).copied()
    }
}

impl Way<Why> for Plain {
    fn put(to: &mut Encoder, value: &Why) {
        match value {
            Why::Tick => to.byte(0),
            Why::Lasting => to.byte(1),
            Why::Holder { waiter } => {
                to.byte(2);
                to.thread(*waiter);
            }
        }
    }

    fn take(from: &mut Decoder<'_>) -> Option<Why> {
        match from.byte()? {
            0 => Some(Why::Tick),
            1 => Some(Why::Lasting),
            2 => Some(Why::Holder {
                waiter: Thread::take(from)?,
            }),
            _ => None,
        }
    }
}

impl Way<Box<[u64; 8]>> for Plain {
    fn put(to: &mut Encoder, value: &Box<[u64; 8]>) {
        for number in value.iter() {
            to.number(*number);
        }
    }

    fn take(from: &mut Decoder<'_>) -> Option<Box<[u64; 8]>> {
        let mut numbers = [0; 8];
        for number in &mut numbers {
            *number = from.number()?;
        }
        Some(Box::new(numbers))
    }
}

/// The records that are their fields one after the other, behind a byte that says which.
macro_rules! records {
    ($($tag:literal $name:ident { $($field:ident: $way:ident),* })*) => {
        impl Encoder {
            pub(crate) fn put(&mut self, record: &Record) {
                match record {
                    Record::Switch { tid, at, cpu, on, forced } => {
                        self.byte(u8::from(*on) << 1 | u8::from(*forced));
                        self.thread(*tid);
                        self.time(*at);
                        self.number(u64::from(*cpu));
                    }
                    Record::Gil { tid, from, to, span } => self.gil(*tid, *from, *to, *span),
                    Record::Method(Method { what, how, exact, why }) => {
                        self.byte(8);
                        Plain::put(self, what);
                        Plain::put(self, how);
                        Plain::put(self, exact);
                        Plain::put(self, why);
                    }
                    $(Record::$name { $($field),* } => {
                        self.byte($tag);
                        $($way::put(self, $field);)*
                    })*
                }
            }
        }

        impl Decoder<'_> {
            pub(crate) fn take(&mut self) -> Option<Record> {
                Some(match self.byte()? {
                    tag @ 0..4 => self.switch(tag)?,
                    tag @ (4..8 | 40..43) => self.gil(tag)?,
                    8 => Record::Method(Method {
                        what: Plain::take(self)?,
                        how: Plain::take(self)?,
                        exact: Plain::take(self)?,
                        why: Plain::take(self)?,
                    }),
                    $($tag => Record::$name { $($field: $way::take(self)?),* },)*
                    _ => return None,
                })
            }
        }
    };
}

// A number that was given stays with its record: a file's version says which numbers there are.
records! {
    9 Begin { rolled: Plain }
    10 Define { text: Plain }
    11 Clock { at: Time, epoch: Plain }
    12 Process { at: Time, parent: Plain, name: Plain, python: Plain, switch_interval: Plain, cores: Plain }
    13 ProcessEnd { at: Time, code: Plain }
    14 Thread { tid: Thread, at: Time, name: Plain, born: Plain }
    15 ThreadEnd { tid: Thread, at: Time }
    16 Counted { tid: Thread, at: Time, on_cpu: Plain, ready: Plain, voluntary: Plain, forced: Plain }
    17 Function { name: Plain, file: Plain, line: Plain }
    18 Frame { caller: Plain, function: Plain, line: Plain }
    19 Stack { tid: Thread, at: Time, frame: Plain, weight: Plain, why: Plain }
    20 Wait { tid: Thread, at: Time, kind: Plain, call: Plain, target: Plain }
    21 LockWait { tid: Thread, from: Time, to: Time, lock: Plain, holder: Thread, where_held: Plain }
    22 Task { task: Plain, at: Time, tid: Thread, name: Plain, function: Plain }
    23 Step { task: Plain, tid: Thread, from: Time, to: Time }
    24 Await { task: Plain, at: Time, what: Plain, place: Plain }
    25 Woken { task: Plain, at: Time }
    26 TaskEnd { task: Plain, at: Time }
    27 Callback { tid: Thread, from: Time, to: Time, name: Plain }
    28 Pooled { pool: Plain, function: Plain, at: Time, begun: Time, ended: Time, pickling: Plain, transfer: Plain }
    29 Cost { at: Time, observer: Plain, hooks: Plain, lost: Plain }
    30 Sums {
        tid: Thread, from: Time, to: Time, states: Plain, voluntary: Plain, forced: Plain, takes: Plain, longest: Plain,
        hold_at: Time, frame: Plain
    }
    31 FrameSums { tid: Thread, frame: Plain, states: Plain, caused: Plain, longest: Plain, samples: Plain }
    32 WaitSums { tid: Thread, kind: Plain, call: Plain, target: Plain, count: Plain, time: Plain }
    33 LockSums { tid: Thread, lock: Plain, holder: Thread, where_held: Plain, count: Plain, time: Plain }
    34 BurstSums { tid: Thread, io: Plain, bucket: Plain, count: Plain }
    35 TaskSums { task: Plain, to: Time, running: Plain, ready: Plain, awaiting: Plain, steps: Plain, longest: Plain }
    36 AwaitSums { task: Plain, what: Plain, place: Plain, count: Plain, time: Plain }
    37 PoolSums { pool: Plain, function: Plain, count: Plain, queue: Plain, run: Plain, pickling: Plain, transfer: Plain }
    38 Deadlock { at: Time, number: Plain, tid: Thread, lock: Plain, place: Plain, holder: Thread }
    39 Faults { at: Time, minor: Plain, major: Plain }
    47 Halt { from: Time, to: Time }
    43 Pause { tid: Thread, at: Time, collects: Plain, frame: Plain }
    44 StopSums { tid: Thread, count: Plain, time: Plain, longest: Plain }
    45 PauseSums {
        tid: Thread, collects: Plain, frame: Plain, bucket: Plain, count: Plain, time: Plain, longest: Plain, stood: Plain
    }
    46 TasksLeft { count: Plain }
    52 Children { at: Time, cpu: Plain }
    48 Derived { number: Plain, text: Plain }
    49 Word { text: Plain }
    50 Others { tid: Thread, name: Plain, count: Plain }
    51 Unnamed { count: Plain }
    53 Lost { from: Time, to: Time, count: Plain }
}
