//! What is written for Perfetto, read back by the rules of its encoding.

mod story;

use std::collections::HashMap;

use plait_trace::perfetto;
use plait_trace::profile::Profile;
use plait_trace::record::{GilSpan, Record};
use story::{MS, Story};

/// A field of a message.
#[derive(Clone, Debug)]
enum Value {
    Number(u64),
    Bytes(Vec<u8>),
}

#[derive(Clone, Default, Debug)]
struct Message(HashMap<u64, Vec<Value>>);

fn varint(bytes: &mut &[u8]) -> u64 {
    let mut number = 0;
    for shift in (0..).step_by(7) {
        let byte = bytes[0];
        *bytes = &bytes[1..];
        number |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            break;
        }
    }
    number
}

impl Message {
    fn parse(mut bytes: &[u8]) -> Message {
        let mut message = Message::default();
        while !bytes.is_empty() {
            let tag = varint(&mut bytes);
            let value = match tag & 7 {
                0 => Value::Number(varint(&mut bytes)),
                1 => {
                    let (number, rest) = bytes.split_at(8);
                    bytes = rest;
                    Value::Number(number.iter().rev().fold(0, |all, byte| all << 8 | u64::from(*byte)))
                }
                2 => {
                    let length = varint(&mut bytes) as usize;
                    let (part, rest) = bytes.split_at(length);
                    bytes = rest;
                    Value::Bytes(part.to_vec())
                }
                other => panic!("a field of kind {other}"),
            };
            message.0.entry(tag >> 3).or_default().push(value);
        }
        message
    }

    fn numbers(&self, field: u64) -> Vec<u64> {
        let values = self.0.get(&field).into_iter().flatten();
        values
            .map(|value| {
                if let Value::Number(number) = value {
                    *number
                } else {
                    panic!("no number")
                }
            })
            .collect()
    }

    fn number(&self, field: u64) -> Option<u64> {
        self.numbers(field).first().copied()
    }

    fn messages(&self, field: u64) -> Vec<Message> {
        self.bytes(field).iter().map(|bytes| Message::parse(bytes)).collect()
    }

    fn bytes(&self, field: u64) -> Vec<Vec<u8>> {
        let values = self.0.get(&field).into_iter().flatten();
        values
            .map(|value| {
                if let Value::Bytes(bytes) = value {
                    bytes.clone()
                } else {
                    panic!("no bytes")
                }
            })
            .collect()
    }

    fn text(&self, field: u64) -> String {
        String::from_utf8(self.bytes(field).concat()).expect("text")
    }
}

/// A slice: its track's name, its own, from when to when, and flows that begin and end there.
#[derive(Debug, PartialEq)]
struct Slice {
    track: String,
    name: String,
    from: u64,
    to: u64,
    flows: Vec<u64>,
    ends: Vec<u64>,
}

fn slices(profile: &Profile) -> Vec<Slice> {
    let mut bytes = Vec::new();
    perfetto::write(profile, &mut bytes).expect("memory takes it");
    let (mut tracks, mut names) = (HashMap::new(), HashMap::new());
    let mut found: Vec<Slice> = Vec::new();
    let mut open = HashMap::new();
    for packet in Message::parse(&bytes).messages(1) {
        assert_eq!(packet.number(10), Some(1));
        for track in packet.messages(60) {
            let process = track.messages(3).first().map(|process| process.text(6));
            let thread = track.messages(4).first().map(|thread| thread.text(5));
            tracks.insert(
                track.number(1).expect("it is always written"),
                process.or(thread).unwrap_or_else(|| track.text(2)),
            );
        }
        for entry in packet.messages(12).iter().flat_map(|interned| interned.messages(2)) {
            names.insert(entry.number(1).expect("it is always written"), entry.text(2));
        }
        for event in packet.messages(11) {
            let (at, track) = (
                packet.number(8).expect("it is always written") - profile.origin,
                event.number(11).expect("it is always written"),
            );
            match event.number(9) {
                Some(1) => {
                    let (track_name, name) = (
                        tracks[&track].clone(),
                        names[&event.number(10).expect("it is always written")].clone(),
                    );
                    let (flows, ends) = (event.numbers(47), event.numbers(48));
                    found.push(Slice {
                        track: track_name,
                        name,
                        from: at,
                        to: 0,
                        flows,
                        ends,
                    });
                    assert!(
                        open.insert(track, found.len() - 1).is_none(),
                        "slices do not lie in one another"
                    );
                }
                Some(2) => found[open.remove(&track).expect("it is always written")].to = at,
                Some(4) => assert!(tracks[&track] == "GIL holder" && event.number(30).is_some()),
                other => panic!("an event of type {other:?}"),
            }
        }
    }
    assert!(open.is_empty());
    found
}

#[test]
fn states_are_slices_and_the_gil_flows() {
    let mut story = Story::begin(7, 100 * MS);
    story.thread(7, "main");
    story.thread(8, "other");
    for tid in [7, 8] {
        story.switch(tid, 0, true, false);
    }
    story.gil(7, 0, 60 * MS, GilSpan::Held);
    story.gil(8, 20 * MS, 60 * MS, GilSpan::Wanted);
    story.gil(8, 60 * MS, 100 * MS, GilSpan::Held);
    let (name, function) = (story.text("Task-1"), story.text("fetch"));
    story.add(Record::Task {
        task: 1,
        at: story.at(0),
        tid: 7,
        name,
        function,
    });
    story.add(Record::Step {
        task: 1,
        tid: 7,
        from: story.at(0),
        to: story.at(60 * MS),
    });
    let found = slices(&story.profile());
    let told: Vec<_> = found
        .iter()
        .map(|slice| {
            (
                slice.track.as_str(),
                slice.name.as_str(),
                slice.from / MS,
                slice.to / MS,
            )
        })
        .collect();
    assert_eq!(
        told,
        [
            ("main", "on_cpu_gil", 0, 60),
            ("main", "on_cpu_released", 60, 100),
            ("other", "on_cpu_released", 0, 20),
            ("other", "gil_wait", 20, 60),
            ("other", "on_cpu_gil", 60, 100),
            ("Task-1 fetch", "running", 0, 60),
            ("Task-1 fetch", "ready", 60, 100),
            ("GIL", "main (7)", 0, 60),
            ("GIL", "other (8)", 60, 100),
            ("loop of main held", "Task-1 in fetch", 0, 60),
        ]
    );
    assert_eq!(found[0].flows, found[4].ends);
    assert_eq!(found[0].flows.len(), 1);
}

#[test]
fn an_empty_profile_is_an_empty_trace() {
    let mut bytes = Vec::new();
    perfetto::write(&Profile::default(), &mut bytes).unwrap();
    assert_eq!(bytes, []);
}
