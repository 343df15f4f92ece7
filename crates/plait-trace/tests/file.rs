//! A file gives back what was written into it, and nothing else, whatever happens to it.

use plait_trace::file::{Error, Missing, Reader, Writer};
use plait_trace::record::{GilSpan, Method, Pid, Record, Text, WaitKind, Why};
use proptest::prelude::*;

fn text() -> impl Strategy<Value = Text> {
    any::<u32>().prop_map(Text)
}

fn kind() -> impl Strategy<Value = WaitKind> {
    prop::sample::select(WaitKind::ALL.to_vec())
}

fn span() -> impl Strategy<Value = GilSpan> {
    let blurred = any::<(u64, u64, u32, u64)>();
    prop_oneof![
        Just(GilSpan::Held),
        Just(GilSpan::Wanted),
        Just(GilSpan::Free),
        Just(GilSpan::Parked),
        Just(GilSpan::Stopped),
        Just(GilSpan::Asking),
        blurred.prop_map(|(held, wanted, takes, longest)| GilSpan::Blurred {
            held,
            wanted,
            takes,
            longest
        }),
    ]
}

fn why() -> impl Strategy<Value = Why> {
    prop_oneof![
        Just(Why::Tick),
        Just(Why::Lasting),
        any::<u32>().prop_map(|waiter| Why::Holder { waiter })
    ]
}

/// Threads of which there are few, and such that come once.
fn tid() -> impl Strategy<Value = u32> {
    prop_oneof![4 => 100_u32..104, 1 => any::<u32>()]
}

/// Times that lie close together, as in life, and such that do not.
fn time() -> impl Strategy<Value = u64> {
    prop_oneof![4 => 5_000_000_000_u64..5_001_000_000, 1 => any::<u64>()]
}

fn definitions() -> impl Strategy<Value = Record> {
    prop_oneof![
        ".{0,20}".prop_map(|text| Record::Define { text }),
        ".{0,20}".prop_map(|text| Record::Word { text }),
        (0_u32.., ".{0,20}").prop_map(|(number, text)| Record::Derived {
            number: Text(number),
            text
        }),
        (text(), text(), any::<u32>()).prop_map(|(name, file, line)| Record::Function { name, file, line }),
        any::<(u32, u32, u32)>().prop_map(|(caller, function, line)| Record::Frame { caller, function, line }),
    ]
}

fn threads() -> impl Strategy<Value = Record> {
    prop_oneof![
        (tid(), time(), text(), any::<bool>()).prop_map(|(tid, at, name, born)| Record::Thread { tid, at, name, born }),
        (tid(), time()).prop_map(|(tid, at)| Record::ThreadEnd { tid, at }),
        (tid(), time(), time(), span()).prop_map(|(tid, from, to, span)| Record::Gil { tid, from, to, span }),
        (tid(), time(), any::<(u16, bool, bool)>()).prop_map(|(tid, at, (cpu, on, forced))| Record::Switch {
            tid,
            at,
            cpu,
            on,
            forced
        }),
        (tid(), time(), any::<(u64, u64, u64, u64)>()).prop_map(|(tid, at, (on_cpu, ready, voluntary, forced))| {
            Record::Counted {
                tid,
                at,
                on_cpu,
                ready,
                voluntary,
                forced,
            }
        }),
        (tid(), time(), any::<(u32, u64)>(), why()).prop_map(|(tid, at, (frame, weight), why)| Record::Stack {
            tid,
            at,
            frame,
            weight,
            why
        }),
        (tid(), time(), kind(), text(), text()).prop_map(|(tid, at, kind, call, target)| Record::Wait {
            tid,
            at,
            kind,
            call,
            target
        }),
        (tid(), time(), time(), text(), tid(), text()).prop_map(|(tid, from, to, lock, holder, where_held)| {
            Record::LockWait {
                tid,
                from,
                to,
                lock,
                holder,
                where_held,
            }
        }),
        (tid(), time(), time(), text()).prop_map(|(tid, from, to, name)| Record::Callback { tid, from, to, name }),
        (tid(), time(), any::<(bool, u32)>()).prop_map(|(tid, at, (collects, frame))| Record::Pause {
            tid,
            at,
            collects,
            frame
        }),
        (tid(), any::<(u64, u64, u64)>()).prop_map(|(tid, (count, time, longest))| Record::StopSums {
            tid,
            count,
            time,
            longest
        }),
        (tid(), any::<(bool, u32, u32, u64)>(), any::<(u64, u64, u64)>()).prop_map(
            |(tid, (collects, frame, bucket, count), (time, longest, stood))| Record::PauseSums {
                tid,
                collects,
                frame,
                bucket,
                count,
                time,
                longest,
                stood
            }
        ),
    ]
}

fn tasks() -> impl Strategy<Value = Record> {
    let task = any::<u64>;
    prop_oneof![
        (task(), time(), tid(), text(), text()).prop_map(|(task, at, tid, name, function)| Record::Task {
            task,
            at,
            tid,
            name,
            function
        }),
        (task(), tid(), time(), time()).prop_map(|(task, tid, from, to)| Record::Step { task, tid, from, to }),
        (task(), time(), text(), text()).prop_map(|(task, at, what, place)| Record::Await { task, at, what, place }),
        (task(), time()).prop_map(|(task, at)| Record::Woken { task, at }),
        (task(), time()).prop_map(|(task, at)| Record::TaskEnd { task, at }),
        (text(), text(), time(), time(), time(), any::<(u64, u64)>()).prop_map(
            |(pool, function, at, begun, ended, (pickling, transfer))| Record::Pooled {
                pool,
                function,
                at,
                begun,
                ended,
                pickling,
                transfer
            }
        ),
    ]
}

fn processes() -> impl Strategy<Value = Record> {
    prop_oneof![
        any::<(u64, u64)>().prop_map(|(at, epoch)| Record::Clock { at, epoch }),
        (time(), any::<u32>(), text(), text(), any::<(u64, u32)>()).prop_map(
            |(at, parent, name, python, (switch_interval, cores))| Record::Process {
                at,
                parent,
                name,
                python,
                switch_interval,
                cores
            }
        ),
        (time(), any::<Option<i32>>()).prop_map(|(at, code)| Record::ProcessEnd { at, code }),
        (text(), text(), any::<bool>(), text()).prop_map(|(what, how, exact, why)| Record::Method(Method {
            what,
            how,
            exact,
            why
        })),
        any::<u64>().prop_map(|count| Record::Unnamed { count }),
        any::<(u64, u64, u64, u64)>().prop_map(|(at, observer, hooks, lost)| Record::Cost {
            at,
            observer,
            hooks,
            lost
        }),
    ]
}

fn sums() -> impl Strategy<Value = Record> {
    let states = any::<Box<[u64; 8]>>;
    prop_oneof![
        (tid(), time(), time(), states(), any::<[u64; 4]>(), time(), any::<u32>()).prop_map(
            |(tid, from, to, states, [voluntary, forced, takes, longest], hold_at, frame)| Record::Sums {
                tid,
                from,
                to,
                states,
                voluntary,
                forced,
                takes,
                longest,
                hold_at,
                frame
            }
        ),
        (tid(), any::<u32>(), states(), any::<[u64; 3]>()).prop_map(
            |(tid, frame, states, [caused, longest, samples])| Record::FrameSums {
                tid,
                frame,
                states,
                caused,
                longest,
                samples
            }
        ),
        (tid(), kind(), text(), text(), any::<[u64; 2]>()).prop_map(|(tid, kind, call, target, [count, time])| {
            Record::WaitSums {
                tid,
                kind,
                call,
                target,
                count,
                time,
            }
        }),
        (tid(), text(), tid(), text(), any::<[u64; 2]>()).prop_map(|(tid, lock, holder, where_held, [count, time])| {
            Record::LockSums {
                tid,
                lock,
                holder,
                where_held,
                count,
                time,
            }
        }),
        (tid(), any::<(u64, u32)>(), text(), text(), tid()).prop_map(|(tid, (at, number), lock, place, holder)| {
            Record::Deadlock {
                at,
                number,
                tid,
                lock,
                place,
                holder,
            }
        }),
        any::<[u64; 3]>().prop_map(|[at, minor, major]| Record::Faults { at, minor, major }),
        any::<[u64; 2]>().prop_map(|[at, cpu]| Record::Children { at, cpu }),
        any::<[u64; 2]>().prop_map(|[from, to]| Record::Halt { from, to }),
        any::<[u64; 3]>().prop_map(|[from, to, count]| Record::Lost { from, to, count }),
        (tid(), any::<(bool, u32, u64)>()).prop_map(|(tid, (io, bucket, count))| Record::BurstSums {
            tid,
            io,
            bucket,
            count
        }),
        (any::<u64>(), time(), any::<[u64; 5]>()).prop_map(|(task, to, [running, ready, awaiting, steps, longest])| {
            Record::TaskSums {
                task,
                to,
                running,
                ready,
                awaiting,
                steps,
                longest,
            }
        }),
        any::<u64>().prop_map(|count| Record::TasksLeft { count }),
        (any::<u64>(), text(), text(), any::<[u64; 2]>()).prop_map(|(task, what, place, [count, time])| {
            Record::AwaitSums {
                task,
                what,
                place,
                count,
                time,
            }
        }),
        (text(), text(), any::<[u64; 5]>()).prop_map(|(pool, function, [count, queue, run, pickling, transfer])| {
            Record::PoolSums {
                pool,
                function,
                count,
                queue,
                run,
                pickling,
                transfer,
            }
        }),
    ]
}

fn records() -> impl Strategy<Value = Vec<Record>> {
    let record = prop_oneof![2 => definitions(), 4 => threads(), 2 => tasks(), 1 => processes(), 2 => sums()];
    prop::collection::vec(record, 0..60)
}

/// Writes them for a process, with a flush after each `every`.
fn file(pid: Pid, records: &[Record], every: usize) -> Vec<u8> {
    let mut file = Vec::new();
    let mut writer = Writer::new(&mut file, pid);
    for records in records.chunks(every) {
        for record in records {
            writer.write(record).expect("memory takes it");
        }
        writer.flush().expect("memory takes it");
    }
    writer.flush().expect("memory takes it");
    file
}

fn read(bytes: &[u8]) -> (Result<Vec<(Pid, Record)>, Error>, Missing) {
    let mut reader = Reader::new(bytes);
    let records = reader.by_ref().collect();
    (records, reader.missing())
}

fn stands_in(record: &Record) -> bool {
    match record {
        Record::Define { text } => text == "(lost)",
        Record::Function { name, file, line } => (name.0, file.0, *line) == (0, 0, 0),
        Record::Frame { caller, function, line } => (*caller, *function, *line) == (0, u32::MAX, 0),
        _ => false,
    }
}

/// Whether `some` are among `all`, in their order, but for definitions that stand in for lost ones.
fn are_among(some: &[(Pid, Record)], all: &[(Pid, Record)]) -> bool {
    let mut rest = all.iter();
    some.iter()
        .all(|found| stands_in(&found.1) || rest.any(|written| written == found))
}

/// How many definitions of each kind come before each record that is none: what its numbers refer to.
fn numbering(records: &[(Pid, Record)]) -> Vec<(Record, [usize; 3])> {
    let mut counts = [0; 3];
    let mut found = Vec::new();
    for (_, record) in records {
        match record {
            Record::Define { .. } => counts[0] += 1,
            Record::Function { .. } => counts[1] += 1,
            Record::Frame { .. } => counts[2] += 1,
            other => found.push((other.clone(), counts)),
        }
    }
    found
}

fn begun(pid: Pid, records: &[Record]) -> Vec<(Pid, Record)> {
    [Record::Begin { rolled: false }]
        .iter()
        .chain(records)
        .map(|record| (pid, record.clone()))
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_record_comes_back(records in records(), every in 1_usize..50) {
        let (found, missing) = read(&file(7, &records, every));
        prop_assert_eq!(found.unwrap(), begun(7, &records));
        prop_assert_eq!(missing, Missing::default());
    }

    #[test]
    fn files_put_together_are_a_file(one in records(), other in records(), every in 1_usize..50) {
        let both = [file(7, &one, every), file(8, &other, every)].concat();
        let (found, missing) = read(&both);
        prop_assert_eq!(found.unwrap(), [begun(7, &one), begun(8, &other)].concat());
        prop_assert_eq!(missing, Missing::default());
    }

    #[test]
    fn a_cut_loses_the_end_alone(records in records(), every in 1_usize..20, at in any::<prop::sample::Index>()) {
        let whole = file(7, &records, every);
        let cut = at.index(whole.len() + 1);
        let (found, missing) = read(&whole[..cut]);
        let found = found.unwrap();
        let all = begun(7, &records);
        prop_assert_eq!(&found[..], &all[..found.len()]);
        prop_assert_eq!(missing.damaged, 0);
        prop_assert!(missing.tail as usize <= cut);
        // What is missing without a rest was cut off between two chunks.
        prop_assert!(missing.tail > 0 || found.len() == all.len() || Reader::new(&whole[cut..]).next().is_some_and(|first| first.is_ok()));
    }

    #[test]
    fn damage_invents_nothing_and_moves_no_number(
        records in records(),
        every in 1_usize..20,
        hits in prop::collection::vec((any::<prop::sample::Index>(), 1_u8..), 1..4),
    ) {
        let mut bytes = file(7, &records, every);
        for (at, by) in hits {
            let at = at.index(bytes.len());
            bytes[at] ^= by;
        }
        let (found, _) = read(&bytes);
        if let Ok(found) = found {
            let all = begun(7, &records);
            prop_assert!(are_among(&found, &all));
            // The last chunk may be lost whole, and the first ones with the beginning.
            let numbers = numbering(&all);
            let mut rest = numbers.iter();
            for entry in numbering(&found) {
                prop_assert!(rest.any(|other| *other == entry), "{:?}", entry);
            }
        }
    }

    #[test]
    fn bytes_by_chance_are_no_trace(bytes in prop::collection::vec(any::<u8>(), 4..2_000)) {
        prop_assume!(bytes[..4] != *b"PLTR");
        prop_assert!(matches!(read(&bytes).0, Err(Error::NotATrace)));
    }

    #[test]
    fn rubbish_between_files_is_passed_over(one in records(), other in records(), rubbish in prop::collection::vec(any::<u8>(), 0..200)) {
        let parts = [file(7, &one, 10), rubbish.clone(), file(8, &other, 10)];
        let (found, missing) = read(&parts.concat());
        prop_assert_eq!(found.unwrap(), [begun(7, &one), begun(8, &other)].concat());
        prop_assert_eq!(missing.damaged as usize, rubbish.len());
    }

    #[test]
    fn a_file_may_end_within_a_chunk_and_another_follow(one in records(), other in records(), cut in 1_usize..400) {
        let mut first = file(7, &one, 10);
        first.truncate(first.len().saturating_sub(cut));
        let (found, _) = read(&[first, file(8, &other, 10)].concat());
        let found = found.unwrap();
        let all = begun(8, &other);
        prop_assert_eq!(&found[found.len() - all.len()..], &all[..]);
        prop_assert!(are_among(&found, &[begun(7, &one), all].concat()));
    }
}

#[test]
fn a_switch_takes_six_bytes_at_most() {
    let mut file = Vec::new();
    let mut writer = Writer::new(&mut file, 7);
    for number in 0..1_000 {
        let (on, forced) = (number % 2 == 0, number % 3 == 0);
        let at = 77_000_000_000_000 + number * 100_000;
        writer
            .write(&Record::Switch {
                tid: 4_000_000 + (number % 4) as u32,
                at,
                cpu: 1,
                on,
                forced,
            })
            .unwrap();
    }
    writer.flush().unwrap();
    assert!(file.len() < 6 * 1_000 + 100, "{}", file.len());
}

#[test]
fn an_empty_file_holds_nothing() {
    let (found, missing) = read(&[]);
    assert_eq!(found.unwrap(), []);
    assert_eq!(missing, Missing::default());
}

fn crc(bytes: &[u8]) -> u32 {
    let mut crc = !0_u32;
    for byte in bytes {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = if crc & 1 == 0 { crc >> 1 } else { crc >> 1 ^ 0xedb8_8320 };
        }
    }
    !crc
}

/// The head of a first chunk, of a body of this length and sum.
fn head(pid: Pid, length: u32, sum: u32) -> Vec<u8> {
    let words = [1, pid, 0, length, sum];
    let mut head = [&b"PLTR"[..], &words.map(u32::to_le_bytes).concat()].concat();
    head.extend(crc(&head).to_le_bytes());
    head
}

/// A chunk that claims that so many definitions of a kind came before it.
fn claim(pid: Pid, count: u64) -> Vec<u8> {
    let mut number = Vec::new();
    let mut left = count;
    while left >= 0x80 {
        number.push(left as u8 | 0x80);
        left >>= 7;
    }
    number.push(left as u8);
    let body = [number, vec![0, 0], vec![15, 0, 1, 0]].concat();
    [head(pid, body.len() as u32, crc(&body)), body].concat()
}

#[test]
fn what_no_writer_can_have_defined_is_not_made_up_for() {
    assert!(matches!(read(&claim(1, (1 << 17) + 1)).0, Err(Error::NotATrace)));
    let (found, _) = read(&claim(1, 1 << 17));
    assert!(found.unwrap().len() > 1 << 17);
}

#[test]
fn a_small_file_of_claims_is_made_up_for_up_to_a_limit() {
    let file: Vec<u8> = (1..=100).flat_map(|pid| claim(pid, 1 << 17)).collect();
    let mut reader = Reader::new(&file[..]);
    let records = reader.by_ref().filter(Result::is_ok).count();
    assert!((1 << 20..(1 << 20) + 200).contains(&records), "{records}");
    assert!(reader.missing().damaged > 0);
}

#[test]
fn heads_alone_are_read_in_time_that_grows_with_the_file() {
    let heads = head(1, 1 << 19, 7).repeat((1 << 20) / 28);
    let (found, missing) = read(&heads);
    assert!(matches!(found, Err(Error::NotATrace)) || missing.damaged + missing.tail == heads.len() as u64);
}

#[test]
fn of_a_text_without_end_the_beginning_is_kept() {
    let text = "ä".repeat(2 << 20);
    let (found, missing) = read(&file(7, &[Record::Define { text: text.clone() }], 1));
    let found = found.unwrap();
    assert!(matches!(&found[1].1, Record::Define { text: kept } if text.starts_with(kept) && kept.len() == 1 << 16));
    assert_eq!(missing, Missing::default());
}

#[test]
fn another_version_is_refused_by_its_number() {
    let mut file = file(7, &[], 1);
    file[4] = 9;
    let crc = crc(&file[..24]);
    file[24..28].copy_from_slice(&crc.to_le_bytes());
    let (found, _) = read(&file);
    let error = found.unwrap_err();
    assert!(matches!(error, Error::Version(9)));
    assert!(error.to_string().contains("format 9"));
}

#[test]
fn a_writer_that_moves_to_another_file_goes_on_counting() {
    let define = |text: &str| Record::Define { text: text.into() };
    let mut writer = Writer::new(Vec::new(), 7);
    writer.write(&define("one")).unwrap();
    let first = writer.move_to(Vec::new()).unwrap();
    writer.write(&define("two")).unwrap();
    let second = writer.move_to(Vec::new()).unwrap();
    let (both, missing) = read(&[&first[..], &second[..]].concat());
    assert_eq!(both.unwrap(), begun(7, &[define("one"), define("two")]));
    assert_eq!(missing, Missing::default());
    let (alone, missing) = read(&second);
    assert_eq!(alone.unwrap(), [(7, define("(lost)")), (7, define("two"))]);
    assert_eq!(missing.chunks, 1);
}

/// Writes fail while this is full.
struct Disk<'a> {
    room: &'a std::cell::Cell<bool>,
    bytes: Vec<u8>,
}

impl std::io::Write for Disk<'_> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        if self.room.get() {
            return self.bytes.write(bytes);
        }
        Err(std::io::ErrorKind::StorageFull.into())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_full_disk_loses_a_chunk_and_says_so() {
    let room = std::cell::Cell::new(false);
    let mut writer = Writer::new(
        Disk {
            room: &room,
            bytes: Vec::new(),
        },
        7,
    );
    writer.write(&Record::Define { text: "one".into() }).unwrap();
    assert!(writer.flush().is_err());
    room.set(true);
    writer.write(&Record::Define { text: "two".into() }).unwrap();
    writer.flush().unwrap();
    let other = Disk {
        room: &room,
        bytes: Vec::new(),
    };
    let bytes = writer.move_to(other).unwrap().bytes;
    let (found, missing) = read(&bytes);
    assert_eq!(
        found.unwrap(),
        [
            (7, Record::Define { text: "(lost)".into() }),
            (7, Record::Define { text: "two".into() })
        ]
    );
    assert_eq!(missing.chunks, 1);
}
