//! A long run stays small, and its sums stay what they were.

mod story;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io;
use std::rc::Rc;

use plait_trace::file::{Reader, Writer};
use plait_trace::fold::{Fold, Options};
use plait_trace::generations::{Directory, Folder, Generations};
use plait_trace::profile::{Profile, Thread};
use plait_trace::record::{GilSpan, Record, Text, Tid, WaitKind, Why};
use plait_trace::state::State;
use story::{MS, Story};

type Bytes = Rc<RefCell<Vec<u8>>>;

struct Out(Bytes);

impl io::Write for Out {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.borrow_mut().extend(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Files in memory.
#[derive(Default)]
struct Memory {
    files: BTreeMap<u32, Bytes>,
    draft: Bytes,
    /// What was there and was removed last: as if its remover had died.
    removed: Option<(u32, Vec<u8>)>,
}

impl Folder for Memory {
    type Out = Out;
    type In = io::Cursor<Vec<u8>>;

    fn draft(&mut self) -> io::Result<Out> {
        self.draft = Bytes::default();
        Ok(Out(self.draft.clone()))
    }

    fn create(&mut self, number: u32) -> io::Result<Out> {
        let file = self.files.entry(number).or_default();
        Ok(Out(file.clone()))
    }

    fn open(&self, number: u32) -> io::Result<io::Cursor<Vec<u8>>> {
        let file = self.files.get(&number).ok_or(io::ErrorKind::NotFound)?;
        Ok(io::Cursor::new(file.borrow().clone()))
    }

    fn publish(&mut self, number: u32) -> io::Result<()> {
        self.files.insert(number, self.draft.clone());
        Ok(())
    }

    fn remove(&mut self, number: u32) -> io::Result<()> {
        let file = self.files.remove(&number).ok_or(io::ErrorKind::NotFound)?;
        self.removed = Some((number, file.borrow().clone()));
        Ok(())
    }
}

/// Two threads that take turns with the GIL and wait, for long, and a task.
fn long_run(turns: u64) -> Vec<Record> {
    let mut story = Story::begin(7, turns * 10 * MS);
    let ended = story.records.pop().expect("its end");
    for tid in [7, 8] {
        story.thread(tid, &format!("thread {tid}"));
        story.counted(tid, 0, 0, 0);
        story.switch(tid, 0, false, false);
    }
    let (name, function) = (story.text("Task-1"), story.text("serve"));
    let (what, place) = (story.text("recv"), story.text("app.py:9"));
    story.add(Record::Task {
        task: 1,
        at: story.at(0),
        tid: 7,
        name,
        function,
    });
    let mut counted = [(0, 0); 2];
    for turn in 0..turns {
        let at = turn * 10 * MS;
        let frame = if turn % 50 == 0 {
            story.frame(&format!("function {}", turn / 50), "app.py", 3)
        } else {
            1
        };
        for (index, tid) in [7, 8].into_iter().enumerate() {
            let (begin, busy) = (at + index as u64 * 4 * MS, (3 + turn % 2) * MS);
            story.gil(tid, begin.saturating_sub(10 * MS - 4 * MS), begin, GilSpan::Free);
            story.switch(tid, begin, true, false);
            story.gil(tid, begin, begin + busy, GilSpan::Held);
            story.stack(tid, begin + MS, frame, Why::Tick);
            story.switch(tid, begin + busy, false, turn % 10 == 0);
            story.gil(tid, begin + busy, begin + 4 * MS, GilSpan::Wanted);
            story.wait(tid, begin + 5 * MS, WaitKind::Read, "recv", &format!("peer {tid}"));
            counted[index].0 += busy;
            if turn % 10 == 0 {
                story.counted(tid, begin + busy, counted[index].0, counted[index].1);
            }
        }
        story.add(Record::Step {
            task: 1,
            tid: 7,
            from: story.at(at),
            to: story.at(at + 3 * MS),
        });
        story.add(Record::Await {
            task: 1,
            at: story.at(at + 3 * MS),
            what,
            place,
        });
        story.add(Record::Woken {
            task: 1,
            at: story.at(at + 9 * MS),
        });
        story.add(Record::Pooled {
            pool: name,
            function,
            at: story.at(at),
            begun: story.at(at + MS),
            ended: story.at(at + 2 * MS),
            pickling: 10,
            transfer: 20,
        });
    }
    story.add(ended);
    story.records
}

fn fold(files: impl IntoIterator<Item = Vec<u8>>) -> Profile {
    let mut fold = Fold::new(Options::default());
    for file in files {
        let missing = fold.read(&file[..]).expect("a trace");
        assert_eq!((missing.chunks, missing.damaged, missing.tail), (0, 0, 0));
    }
    fold.finish()
}

fn whole(records: &[Record]) -> Profile {
    let mut file = Vec::new();
    let mut writer = Writer::new(&mut file, 7);
    records[1..]
        .iter()
        .for_each(|record| writer.write(record).expect("memory takes it"));
    writer.flush().expect("memory takes it");
    drop(writer);
    fold([file])
}

fn check_alike(one: &Profile, other: &Profile) {
    assert_eq!(
        (one.threads.len(), one.processes.len(), one.verdict),
        (2, 1, other.verdict)
    );
    assert_eq!((one.wall, one.origin), (other.wall, other.origin));
    for (one, other) in one.threads.iter().zip(&other.threads) {
        assert_eq!(
            (one.tid, &one.name, one.wall, one.start),
            (other.tid, &other.name, other.wall, other.start)
        );
        assert_eq!(one.times.sum(), one.wall);
        for state in State::ALL {
            let (one, other) = (one.times.of(state), other.times.of(state));
            assert!(
                one.abs_diff(other) <= other / 200 + MS,
                "{state:?}: {one} rather than {other}"
            );
        }
        assert_eq!(
            (one.switches_voluntary, one.switches_forced),
            (other.switches_voluntary, other.switches_forced)
        );
        assert!(one.cpu_bursts.count.abs_diff(other.cpu_bursts.count) <= other.cpu_bursts.count / 50);
        assert!(one.cpu_bursts.p50.abs_diff(other.cpu_bursts.p50) <= other.cpu_bursts.p50 / 20);
        assert_eq!(one.longest_gil_hold, other.longest_gil_hold);
        assert_eq!(
            (&one.waits[0].call, &one.waits[0].target),
            (&other.waits[0].call, &other.waits[0].target)
        );
        assert!(one.waits[0].time.abs_diff(other.waits[0].time) <= other.waits[0].time / 100);
    }
    let (task, of) = (&one.tasks[0], &other.tasks[0]);
    assert_eq!(
        (&task.name, &task.function, task.wall, task.steps),
        (&of.name, &of.function, of.wall, of.steps)
    );
    assert_eq!(
        (task.running, task.ready, task.awaiting),
        (of.running, of.ready, of.awaiting)
    );
    assert_eq!(one.pools, other.pools);
    let cpu = |profile: &Profile| profile.functions.iter().map(|function| function.self_cpu).sum::<u64>();
    assert!(cpu(one).abs_diff(cpu(other)) <= cpu(other) / 100);
    for function in &other.functions {
        let found = one
            .functions
            .iter()
            .find(|same| same.place == function.place)
            .expect("the function");
        assert!(
            found.self_cpu.abs_diff(function.self_cpu) <= function.self_cpu / 20 + 20 * MS,
            "{:?}",
            function.place
        );
    }
}

#[test]
fn what_is_dropped_stays_in_the_sums() {
    let records = long_run(8_000);
    let mut generations = Generations::new(Memory::default(), 7, 160_000).unwrap();
    for record in &records[1..] {
        generations.write(record).unwrap();
    }
    generations.flush().unwrap();
    assert!(
        *generations.numbers().start() > 20,
        "much was rolled up: {:?}",
        generations.numbers()
    );
    let memory = generations.folder();
    let files: Vec<Vec<u8>> = memory.files.values().map(|file| file.borrow().clone()).collect();
    let size = files.iter().map(Vec::len).sum::<usize>();
    assert!(size < 400_000, "{size}");
    let other = whole(&records);
    check_alike(&fold(files.clone()), &other);
    // Put together into one file they are the same, and so if what was rolled up is still there.
    check_alike(&fold([files.concat()]), &other);
    let (_, removed) = memory.removed.clone().unwrap();
    check_alike(&fold([removed, files.concat()]), &other);
}

#[test]
fn a_stop_is_told_once_however_often_it_is_rolled_and_takes_no_name_away() {
    let mut records = long_run(8_000);
    let begin = Story::begin(7, 0);
    let halt = Record::Halt {
        from: begin.at(2_000 * MS),
        to: begin.at(2_300 * MS),
    };
    let step = records.iter().position(|record| matches!(record, Record::Step { .. }));
    records.insert(step.expect("there are steps"), halt);
    let mut generations = Generations::new(Memory::default(), 7, 160_000).unwrap();
    for record in &records[1..] {
        generations.write(record).unwrap();
    }
    generations.flush().unwrap();
    assert!(*generations.numbers().start() > 20, "much was rolled up");
    let files = generations.folder().files.values().map(|file| file.borrow().clone());
    let (rolled, whole) = (fold(files), whole(&records));
    check_alike(&rolled, &whole);
    assert_eq!(rolled.limits, whole.limits);
    let told = rolled.limits.iter().filter(|limit| limit.contains("stood still"));
    assert_eq!(told.count(), 1, "{:?}", rolled.limits);
    for profile in [&rolled, &whole] {
        assert_eq!(profile.processes[0].stopped, 300 * MS);
        for thread in &profile.threads {
            let stops = thread.waits.iter().filter(|wait| wait.call == "stopped");
            assert_eq!(stops.count(), 1, "{:?}", thread.waits);
        }
        let stops = profile.tasks[0].awaits.iter().filter(|each| each.what == "stopped");
        assert_eq!(stops.map(|each| each.time).collect::<Vec<_>>(), [300 * MS]);
    }
    let places = |profile: &Profile| {
        let mut places: Vec<_> = profile
            .functions
            .iter()
            .map(|function| function.place.clone())
            .collect();
        places.sort();
        places
    };
    assert_eq!(places(&rolled), places(&whole));
}

#[test]
fn tasks_of_which_nothing_is_kept_are_counted() {
    let mut records = long_run(4_000);
    let ended = records.pop().expect("its end");
    let mut story = Story::begin(7, 40_000 * MS);
    let text = story.text("nothing");
    for task in 0..3_000_u64 {
        let at = story.at(10 * MS * (task + 1));
        for record in [
            Record::Task {
                task: 10 + task,
                at,
                tid: 7,
                name: text,
                function: text,
            },
            Record::Step {
                task: 10 + task,
                tid: 7,
                from: at,
                to: at + MS,
            },
            Record::TaskEnd {
                task: 10 + task,
                at: at + MS,
            },
        ] {
            // Between what happened before and after.
            records.push(record);
        }
    }
    for turn in long_run(4_000)
        .into_iter()
        .filter(|record| matches!(record, Record::Switch { .. }))
    {
        records.push(turn);
    }
    records.push(ended);
    let mut generations = Generations::new(Memory::default(), 7, 60_000).unwrap();
    for record in &records[1..] {
        generations.write(record).unwrap();
    }
    generations.flush().unwrap();
    let memory = generations.folder();
    let files: Vec<Vec<u8>> = memory.files.values().map(|file| file.borrow().clone()).collect();
    let rolled = fold(files);
    assert!(rolled.tasks.len() < 2_000, "most were dropped: {}", rolled.tasks.len());
    assert_eq!((rolled.tasks_seen, whole(&records).tasks_seen), (3_001, 3_001));
    let listed = rolled
        .limits
        .iter()
        .filter(|limit| limit.starts_with("3001 tasks were seen"));
    assert_eq!(listed.count(), 1, "{:?}", rolled.limits);
}

#[test]
fn a_thread_that_sleeps_all_the_time_is_known_by_its_one_look() {
    let mut records = long_run(8_000);
    let last = records
        .iter()
        .rposition(|record| matches!(record, Record::Thread { .. }));
    let Some(Record::Thread { at, name, .. }) = last.map(|last| records[last].clone()) else {
        panic!("there are threads");
    };
    let tid = 99;
    let sleeper = [
        Record::Thread {
            tid,
            at,
            name,
            born: false,
        },
        Record::Wait {
            tid,
            at: at + 5 * MS,
            kind: WaitKind::Lock,
            call: name,
            target: name,
        },
        Record::Counted {
            tid,
            at: at + 20 * MS,
            on_cpu: MS,
            ready: 0,
            voluntary: 1,
            forced: 0,
        },
    ];
    let behind = last.map_or(0, |last| last + 1);
    records.splice(behind..behind, sleeper);
    let mut generations = Generations::new(Memory::default(), 7, 160_000).unwrap();
    for record in &records[1..] {
        generations.write(record).unwrap();
    }
    generations.flush().unwrap();
    assert!(*generations.numbers().start() > 20, "much was rolled up");
    let files: Vec<Vec<u8>> = generations
        .folder()
        .files
        .values()
        .map(|file| file.borrow().clone())
        .collect();
    let profile = fold(files);
    let thread = profile.threads.iter().find(|thread| thread.tid == tid).unwrap();
    assert_eq!(thread.times.of(State::LockWait), thread.wall);
}

#[test]
fn a_short_run_is_one_file_with_all_its_detail() {
    let records = long_run(100);
    let mut generations = Generations::new(Memory::default(), 7, 64 << 20).unwrap();
    for record in &records[1..] {
        generations.write(record).unwrap();
    }
    generations.flush().unwrap();
    let files: Vec<Vec<u8>> = generations
        .folder()
        .files
        .values()
        .map(|file| file.borrow().clone())
        .collect();
    assert_eq!(files.len(), 1);
    let (one, other) = (fold(files), whole(&records));
    assert_eq!(one.threads[0].times, other.threads[0].times);
    assert_eq!(one.lanes[0].lane, other.lanes[0].lane);
}

/// So many threads one after the other, 30 ms apart: each runs for 10 ms, holds the GIL for 5 of them, and waits for a lock that the one before has, for 2 ms.
fn one_after_the_other(threads: u64) -> Vec<Record> {
    let mut story = Story::begin(7, threads * 40 * MS);
    let ended = story.records.pop().expect("its end");
    let name = story.text("thread");
    for number in 0..threads {
        let (tid, at) = (100 + number as Tid, number * 40 * MS);
        story.add(Record::Thread {
            tid,
            at: story.at(at),
            name,
            born: true,
        });
        story.switch(tid, at, true, false);
        story.gil(tid, at, at + 5 * MS, GilSpan::Held);
        story.switch(tid, at + 10 * MS, false, false);
        story.lock_wait(tid, at + 10 * MS, at + 12 * MS, "lock", tid - 1, "app.py:3");
        story.add(Record::ThreadEnd {
            tid,
            at: story.at(at + 12 * MS),
        });
    }
    story.add(ended);
    story.records
}

fn rolled(records: &[Record], limit: u64) -> Generations<Memory> {
    let mut generations = Generations::new(Memory::default(), 7, limit).expect("memory takes it");
    for record in &records[1..] {
        generations.write(record).expect("memory takes it");
    }
    generations.flush().expect("memory takes it");
    assert!(*generations.numbers().start() > 0);
    generations
}

/// How many threads there were, and sums over all of them: on cores, waits for locks by name, how often they took the GIL, and their wall.
fn figures(profile: &Profile) -> [u64; 5] {
    let sum = |of: fn(&Thread) -> u64| profile.threads.iter().map(of).sum::<u64>();
    [
        profile.threads_seen(),
        sum(|thread| thread.times.on_cpu()),
        sum(|thread| thread.locks.iter().map(|lock| lock.time).sum()),
        sum(|thread| thread.gil_takes),
        sum(|thread| thread.wall),
    ]
}

#[test]
fn threads_that_have_ended_stay_in_the_sums() {
    let threads = 4_000;
    let records = one_after_the_other(threads);
    let generations = rolled(&records, 60_000);
    let profile = fold(generations.folder().files.values().map(|file| file.borrow().clone()));
    let expected = [threads, threads * 10 * MS, threads * 2 * MS, threads, threads * 12 * MS];
    assert_eq!(figures(&profile), expected);
    assert_eq!(figures(&whole(&records)), expected);
    assert!(profile.threads.len() < 2_500, "{}", profile.threads.len());
    for thread in &profile.threads {
        assert_eq!(thread.times.sum(), thread.wall);
    }
    let summed = profile.threads.last().expect("there are some");
    assert_eq!(summed.name, format!("{} threads: thread", summed.count));
    assert!(summed.count > 1_500 && summed.locks.len() < 50, "{summed:?}");
    // One that runs when the file ends is in two.
    assert!(summed.cpu_bursts.count >= summed.count);
    assert!(
        profile
            .limits
            .iter()
            .any(|limit| limit.starts_with("4000 threads were seen; "))
    );
}

#[test]
fn a_process_of_very_many_threads_stays_small() {
    let sizes = [8_000, 16_000].map(|threads| {
        let generations = rolled(&one_after_the_other(threads), 200_000);
        let files = generations.folder().files.values();
        files.map(|file| file.borrow().len()).sum::<usize>()
    });
    assert!(sizes.iter().all(|size| *size < 300_000), "{sizes:?}");
    assert!(sizes[1] < sizes[0] + 20_000, "{sizes:?}");
}

#[test]
fn files_of_a_folder_are_read_in_the_order_of_their_names() {
    let folder = std::env::temp_dir().join(format!("plait-trace-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let records = long_run(2_500);
    let mut generations = Generations::new(Directory::new(&folder, "7"), 7, 50_000).unwrap();
    for record in &records[1..] {
        generations.write(record).expect("memory takes it");
    }
    generations.flush().expect("memory takes it");
    let mut paths: Vec<_> = std::fs::read_dir(&folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    paths.sort();
    let numbers: Vec<_> = generations
        .numbers()
        .map(|number| generations.folder().path(number))
        .collect();
    assert_eq!(paths, numbers);
    check_alike(
        &fold(paths.iter().map(|path| std::fs::read(path).unwrap())),
        &whole(&records),
    );
    std::fs::remove_dir_all(&folder).unwrap();
}

#[test]
fn a_lost_chunk_gives_no_lock_the_name_of_another() {
    let at = Story::begin(7, 0).at(0);
    let mut records = vec![Record::Define { text: "app.py".into() }];
    for place in 0..6_000 {
        let text = format!("threading.Lock(0x{place:x}), wanted by f{place} (app.py:{place})");
        let number = Text(u32::MAX - place);
        records.push(Record::Derived { number, text });
    }
    records.push(Record::Thread {
        tid: 8,
        at,
        name: Text(1),
        born: false,
    });
    for place in [4_000, 5_000] {
        records.push(Record::LockSums {
            tid: 8,
            lock: Text(u32::MAX - place),
            holder: 0,
            where_held: Text(0),
            count: 1,
            time: 10 * MS,
        });
    }
    let mut file = Vec::new();
    let mut writer = Writer::new(&mut file, 7);
    for record in &records {
        writer.write(record).expect("memory is there");
    }
    writer.flush().expect("memory is there");
    drop(writer);
    let magic = file[..4].to_vec();
    let chunks: Vec<usize> = (0..file.len()).filter(|&at| file[at..].starts_with(&magic)).collect();
    assert!(chunks.len() > 3);
    file.drain(chunks[1]..chunks[2]);
    let mut fold = Fold::default();
    for record in &mut Reader::new(&file[..]) {
        let (pid, record) = record.expect("what is there can be read");
        fold.add(pid, record);
    }
    let profile = fold.finish();
    let names: Vec<&str> = profile.threads[0].locks.iter().map(|lock| lock.lock.as_str()).collect();
    assert!(names.iter().any(|name| name.contains("f4000 (")), "{names:?}");
    for name in names {
        let right = [4_000, 5_000].iter().any(|place| name.contains(&format!("f{place} (")));
        assert!(right || !name.contains("threading.Lock"), "{name}");
    }
}
