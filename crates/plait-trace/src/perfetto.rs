//! A profile as a trace for Perfetto's viewer: packets of its published schema, written by hand.
//!
//! Each thread is a track of its process, and each task; their states are slices. A flow leads from the slice that gave the GIL away to the
//! one that got it after a wait. Each process with a GIL has a track of who held it, and a counter of the holder's number.

use std::collections::HashMap;
use std::io::{self, Write};

use crate::lane::{Lane, NO_NOTE};
use crate::profile::{GilStrip, Owner, Profile};
use crate::state::State;

/// Numbers of fields, by the message that has them.
mod field {
    pub(super) const TRACE_PACKET: u32 = 1;
    pub(super) mod packet {
        pub(in super::super) const TIMESTAMP: u32 = 8;
        pub(in super::super) const SEQUENCE: u32 = 10;
        pub(in super::super) const EVENT: u32 = 11;
        pub(in super::super) const INTERNED: u32 = 12;
        pub(in super::super) const FLAGS: u32 = 13;
        pub(in super::super) const TRACK: u32 = 60;
    }
    pub(super) mod track {
        pub(in super::super) const UUID: u32 = 1;
        pub(in super::super) const NAME: u32 = 2;
        pub(in super::super) const PROCESS: u32 = 3;
        pub(in super::super) const THREAD: u32 = 4;
        pub(in super::super) const PARENT: u32 = 5;
        pub(in super::super) const COUNTER: u32 = 8;
    }
    pub(super) mod process {
        pub(in super::super) const PID: u32 = 1;
        pub(in super::super) const NAME: u32 = 6;
    }
    pub(super) mod thread {
        pub(in super::super) const PID: u32 = 1;
        pub(in super::super) const TID: u32 = 2;
        pub(in super::super) const NAME: u32 = 5;
    }
    pub(super) mod event {
        pub(in super::super) const TYPE: u32 = 9;
        pub(in super::super) const NAME: u32 = 10;
        pub(in super::super) const TRACK: u32 = 11;
        pub(in super::super) const COUNTER: u32 = 30;
        pub(in super::super) const FLOW: u32 = 47;
        pub(in super::super) const FLOW_ENDS: u32 = 48;
    }
    pub(super) mod interned {
        pub(in super::super) const EVENT_NAME: u32 = 2;
        pub(in super::super) const IID: u32 = 1;
        pub(in super::super) const NAME: u32 = 2;
    }
}

const SLICE_BEGIN: u64 = 1;
const SLICE_END: u64 = 2;
const COUNTER: u64 = 4;
/// Names by number begin here, and need what came before.
const CLEARED: u64 = 1;
const NEEDS: u64 = 2;
/// All packets come from one writer.
const SEQUENCE: u64 = 1;
/// The viewer draws no more, and this many say enough.
const MOST_FLOWS: usize = 100_000;

/// A message: fields one after the other.
#[derive(Default)]
struct Message(Vec<u8>);

impl Message {
    fn raw(&mut self, mut number: u64) {
        while number >= 0x80 {
            self.0.push(number as u8 | 0x80);
            number >>= 7;
        }
        self.0.push(number as u8);
    }

    fn number(mut self, field: u32, number: u64) -> Message {
        self.raw(u64::from(field) << 3);
        self.raw(number);
        self
    }

    fn fixed(mut self, field: u32, number: u64) -> Message {
        self.raw(u64::from(field) << 3 | 1);
        self.0.extend(number.to_le_bytes());
        self
    }

    fn bytes(mut self, field: u32, bytes: &[u8]) -> Message {
        self.raw(u64::from(field) << 3 | 2);
        self.raw(bytes.len() as u64);
        self.0.extend(bytes);
        self
    }

    fn message(self, field: u32, message: &Message) -> Message {
        self.bytes(field, &message.0)
    }

    fn text(self, field: u32, text: &str) -> Message {
        self.bytes(field, text.as_bytes())
    }
}

/// Writes a profile as a Perfetto trace.
///
/// # Errors
/// Those of `out`.
pub fn write(profile: &Profile, out: impl Write) -> io::Result<()> {
    let mut writer = Writer {
        profile,
        out: io::BufWriter::new(out),
        tracks: 0,
        names: HashMap::new(),
        begun: false,
    };
    writer.all()?;
    writer.out.flush()
}

/// What flows begin and end at a segment of a thread's lane.
#[derive(Default)]
struct Flows {
    begin: HashMap<(usize, usize), Vec<u64>>,
    end: HashMap<(usize, usize), u64>,
}

struct Writer<'a, W: Write> {
    profile: &'a Profile,
    out: W,
    tracks: u64,
    names: HashMap<String, u64>,
    begun: bool,
}

impl<W: Write> Writer<'_, W> {
    fn all(&mut self) -> io::Result<()> {
        let profile = self.profile;
        let mut processes = HashMap::new();
        for process in &profile.processes {
            let parts = Message::default()
                .number(field::process::PID, u64::from(process.pid))
                .text(field::process::NAME, &process.name);
            let track = self.track(|track| track.message(field::track::PROCESS, &parts))?;
            processes.insert(process.pid, track);
        }
        let flows = flows(profile);
        for lane in &profile.lanes {
            match lane.owner {
                Owner::Thread(index) => {
                    let Some(thread) = profile.threads.get(index) else {
                        continue;
                    };
                    let parts = Message::default()
                        .number(field::thread::PID, u64::from(thread.pid))
                        .number(field::thread::TID, u64::from(thread.tid))
                        .text(field::thread::NAME, &thread.name);
                    let track = self.track(|track| track.message(field::track::THREAD, &parts))?;
                    self.states(track, &lane.lane, |segment| {
                        let key = (index, segment);
                        (
                            flows.begin.get(&key).map_or(&[][..], Vec::as_slice),
                            flows.end.get(&key).copied(),
                        )
                    })?;
                }
                Owner::Task(index) => {
                    let Some(task) = profile.tasks.get(index) else { continue };
                    let parent = processes.get(&task.pid).copied().unwrap_or_default();
                    let name = format!("{} {}", task.name, task.function);
                    let named = |track: Message| {
                        track
                            .number(field::track::PARENT, parent)
                            .text(field::track::NAME, name.trim())
                    };
                    let track = self.track(named)?;
                    self.task_states(track, &lane.lane)?;
                }
            }
        }
        for strip in &profile.gil {
            self.strip(strip, processes.get(&strip.pid).copied().unwrap_or_default())?;
        }
        self.blocked(&processes)
    }

    fn packet(&mut self, packet: Message) -> io::Result<()> {
        let packet = packet.number(field::packet::SEQUENCE, SEQUENCE);
        let flags = if self.begun { NEEDS } else { CLEARED | NEEDS };
        self.begun = true;
        let packet = packet.number(field::packet::FLAGS, flags);
        self.out
            .write_all(&Message::default().message(field::TRACE_PACKET, &packet).0)
    }

    fn track(&mut self, describe: impl FnOnce(Message) -> Message) -> io::Result<u64> {
        self.tracks += 1;
        let track = describe(Message::default().number(field::track::UUID, self.tracks));
        self.packet(Message::default().message(field::packet::TRACK, &track))?;
        Ok(self.tracks)
    }

    /// The number of a name, which is told when it is first used.
    fn name(&mut self, name: &str) -> io::Result<u64> {
        if let Some(&known) = self.names.get(name) {
            return Ok(known);
        }
        let number = self.names.len() as u64 + 1;
        self.names.insert(name.to_owned(), number);
        let entry = Message::default()
            .number(field::interned::IID, number)
            .text(field::interned::NAME, name);
        let interned = Message::default().message(field::interned::EVENT_NAME, &entry);
        self.packet(Message::default().message(field::packet::INTERNED, &interned))?;
        Ok(number)
    }

    fn event(&mut self, at: u64, kind: u64, track: u64, more: impl FnOnce(Message) -> Message) -> io::Result<()> {
        let event = Message::default()
            .number(field::event::TYPE, kind)
            .number(field::event::TRACK, track);
        let at = self.profile.origin.saturating_add(at);
        let packet = Message::default().number(field::packet::TIMESTAMP, at);
        self.packet(packet.message(field::packet::EVENT, &more(event)))
    }

    fn slice(
        &mut self,
        track: u64,
        (start, length): (u64, u64),
        name: &str,
        flows: (&[u64], Option<u64>),
    ) -> io::Result<()> {
        let name = self.name(name)?;
        self.event(start, SLICE_BEGIN, track, |event| {
            let mut event = event.number(field::event::NAME, name);
            for &flow in flows.0 {
                event = event.fixed(field::event::FLOW, flow);
            }
            match flows.1 {
                Some(flow) => event.fixed(field::event::FLOW_ENDS, flow),
                None => event,
            }
        })?;
        self.event(start.saturating_add(length), SLICE_END, track, |event| event)
    }

    fn states<'f>(
        &mut self,
        track: u64,
        lane: &Lane,
        flows: impl Fn(usize) -> (&'f [u64], Option<u64>),
    ) -> io::Result<()> {
        for (index, (start, length, key, note)) in lane.segments().enumerate() {
            let state = State::ALL.get(key as usize).map_or("", |state| state.name());
            let name = match self.profile.notes.get(note as usize) {
                Some(words) if note != NO_NOTE => format!("{state}: {words}"),
                _ => state.to_owned(),
            };
            self.slice(track, (start, length), &name, flows(index))?;
        }
        Ok(())
    }

    fn task_states(&mut self, track: u64, lane: &Lane) -> io::Result<()> {
        for (start, length, key, _) in lane.segments() {
            let name = match State::ALL.get(key as usize) {
                Some(State::OnCpuGil) => "running",
                Some(State::Ready) => "ready",
                _ => "awaiting",
            };
            self.slice(track, (start, length), name, (&[], None))?;
        }
        Ok(())
    }

    fn strip(&mut self, strip: &GilStrip, parent: u64) -> io::Result<()> {
        let child = |name: &'static str| {
            move |track: Message| {
                track
                    .number(field::track::PARENT, parent)
                    .text(field::track::NAME, name)
            }
        };
        let track = self.track(child("GIL"))?;
        let counter =
            self.track(|track| child("GIL holder")(track).message(field::track::COUNTER, &Message::default()))?;
        let mut end = None;
        for (start, length, thread, _) in strip.lane.segments() {
            let Some(thread) = self.profile.threads.get(thread as usize) else {
                continue;
            };
            let (name, tid) = (format!("{} ({})", thread.name, thread.tid), u64::from(thread.tid));
            self.slice(track, (start, length), &name, (&[], None))?;
            if let Some(end) = end.filter(|end| *end < start) {
                self.event(end, COUNTER, counter, |event| event.number(field::event::COUNTER, 0))?;
            }
            self.event(start, COUNTER, counter, |event| {
                event.number(field::event::COUNTER, tid)
            })?;
            end = Some(start + length);
        }
        match end {
            Some(end) => self.event(end, COUNTER, counter, |event| event.number(field::event::COUNTER, 0)),
            None => Ok(()),
        }
    }

    /// One track for each loop that was held.
    fn blocked(&mut self, processes: &HashMap<u32, u64>) -> io::Result<()> {
        let mut tracks = HashMap::new();
        let mut blocked: Vec<_> = self.profile.blocked.iter().collect();
        blocked.sort_by_key(|blocked| blocked.start);
        for blocked in blocked {
            let track = match tracks.get(&(blocked.pid, blocked.tid)) {
                Some(&known) => known,
                None => {
                    let parent = processes.get(&blocked.pid).copied().unwrap_or_default();
                    let name = format!("loop of {} held", blocked.loop_name);
                    let track = self.track(|track| {
                        track
                            .number(field::track::PARENT, parent)
                            .text(field::track::NAME, &name)
                    })?;
                    tracks.insert((blocked.pid, blocked.tid), track);
                    track
                }
            };
            let name = match ["", &blocked.callback, &blocked.place.function].contains(&blocked.coroutine.as_str()) {
                true => format!("{} in {}", blocked.callback, blocked.place.function),
                false => format!(
                    "{} {} in {}",
                    blocked.callback, blocked.coroutine, blocked.place.function
                ),
            };
            self.slice(track, (blocked.start, blocked.time), &name, (&[], None))?;
        }
        Ok(())
    }
}

/// From who gave the GIL away to who got it after a wait.
fn flows(profile: &Profile) -> Flows {
    let mut flows = Flows::default();
    let lanes: HashMap<usize, &Lane> = profile
        .lanes
        .iter()
        .filter_map(|lane| match lane.owner {
            Owner::Thread(index) => Some((index, &lane.lane)),
            Owner::Task(_) => None,
        })
        .collect();
    let strips: HashMap<u32, &Lane> = profile.gil.iter().map(|strip| (strip.pid, &strip.lane)).collect();
    for lane in &profile.lanes {
        let Owner::Thread(thread) = lane.owner else { continue };
        let Some(strip) = profile.threads.get(thread).and_then(|thread| strips.get(&thread.pid)) else {
            continue;
        };
        let lane = &lane.lane;
        for index in 1..lane.len() {
            let (got, waited) = (lane.start[index], lane.key[index - 1] == State::GilWait as u32);
            if !waited || lane.key[index] != State::OnCpuGil as u32 || flows.end.len() >= MOST_FLOWS {
                continue;
            }
            let Some((holder, until)) = holder_before(strip, got, thread) else {
                continue;
            };
            // The wait goes back over the time without a core; who gave the GIL away before it was another's holder.
            let waits = [State::GilWait as u32, State::Ready as u32];
            let first = (0..index)
                .rev()
                .take_while(|&before| waits.contains(&lane.key[before]))
                .last();
            if first.is_none_or(|first| until < lane.start[first]) {
                continue;
            }
            let Some(other) = lanes.get(&holder) else { continue };
            let place = other.start.partition_point(|start| *start < until);
            if let Some(segment) = place.checked_sub(1) {
                let flow = flows.end.len() as u64 + 1;
                flows.begin.entry((holder, segment)).or_default().push(flow);
                flows.end.insert((thread, index), flow);
            }
        }
    }
    flows
}

/// The last other holder before a time, and when it gave the GIL away.
fn holder_before(strip: &Lane, at: u64, thread: usize) -> Option<(usize, u64)> {
    let place = strip.start.partition_point(|start| *start < at);
    let index = (0..place)
        .rev()
        .take(4)
        .find(|&index| strip.key[index] as usize != thread)?;
    Some((
        strip.key[index] as usize,
        (strip.start[index] + strip.length[index]).min(at),
    ))
}
