//! Stacks as records: a tree of frames that were defined once each.

use std::collections::HashMap;

use plait_trace::record::{Record, Tid};

use crate::desk::Desk;
use crate::held::NEAR;
use crate::stacks::{Holder, NoStack, Stacks};

/// So many frames get a number; beyond it, stacks end with the caller that has one.
const MOST: usize = 1 << 18;

/// What reads stacks, and which frames have been defined.
pub(super) struct Frames {
    stacks: Box<dyn Stacks>,
    /// The numbers of frames by caller, function and line.
    frames: HashMap<(u32, u32, u32), u32>,
    functions: u32,
    /// Threads with a state of the interpreter, and when they were asked for.
    threads: HashMap<Tid, usize>,
    asked: u64,
    list: Vec<(Tid, usize)>,
    stack: Vec<(u32, u32)>,
    refused: bool,
}

/// Files through which others wait.
const BETWEEN: [&str; 2] = ["/threading.py", "/queue.py"];

/// How long a list of threads is believed.
const BELIEVED: u64 = 50_000_000;

impl Frames {
    pub(super) fn new(stacks: Box<dyn Stacks>) -> Frames {
        Frames {
            stacks,
            frames: HashMap::new(),
            functions: 0,
            threads: HashMap::new(),
            asked: 0,
            list: Vec::new(),
            stack: Vec::new(),
            refused: false,
        }
    }

    /// Whether stacks can be read at all.
    pub(super) fn refused(&self) -> bool {
        self.refused
    }

    /// Which thread has that state of the interpreter.
    pub(super) fn thread_of(&mut self, state: usize, now: u64) -> Option<Tid> {
        let find =
            |threads: &HashMap<Tid, usize>| threads.iter().find(|&(_, &each)| each == state).map(|(&tid, _)| tid);
        find(&self.threads).or_else(|| {
            self.ask(now);
            find(&self.threads)
        })
    }

    /// Threads have come or gone.
    pub(super) fn forget_threads(&mut self) {
        self.asked = 0;
    }

    fn ask(&mut self, now: u64) {
        self.asked = now;
        self.list.clear();
        match self.stacks.threads(&mut self.list) {
            Ok(()) => self.threads = self.list.iter().copied().collect(),
            Err(NoStack::Refused) => self.refused = true,
            Err(NoStack::Torn | NoStack::Gone) => {}
        }
    }

    /// The interpreter's thread with that number, if its memory may be read.
    fn state(&mut self, tid: Tid, now: u64) -> Option<usize> {
        if self.refused {
            return None;
        }
        if now.saturating_sub(self.asked) > BELIEVED {
            self.ask(now);
        }
        self.threads.get(&tid).copied()
    }

    /// The number of the innermost frame of a thread now; what had to be defined for it goes to `out`. None without a stack.
    pub(super) fn look(&mut self, tid: Tid, now: u64, desk: &Desk, out: &mut Vec<Record>) -> Option<u32> {
        let state = self.state(tid, now)?;
        self.stack.clear();
        match self.stacks.stack(state, &mut self.stack) {
            Ok(()) => {}
            Err(NoStack::Refused) => {
                self.refused = true;
                return None;
            }
            Err(NoStack::Gone) => {
                self.asked = 0;
                return None;
            }
            Err(NoStack::Torn) => return None,
        }
        let mut caller = 0;
        for index in (0..self.stack.len()).rev() {
            let (function, line) = self.stack[index];
            let Some(frame) = self.number(caller, function, line, desk, out) else {
                break;
            };
            caller = frame;
        }
        (caller != 0).then_some(caller)
    }

    /// The number of a frame of the function with that code object, wherever it was called from; 0 if there is none. What had to be defined for it goes
    /// to `out`.
    pub(super) fn code(&mut self, code: usize, desk: &Desk, out: &mut Vec<Record>) -> u32 {
        let function = self.stacks.code(code);
        let frame =
            function.and_then(|function| self.number(0, function, self.stacks.function(function).line, desk, out));
        frame.unwrap_or(0)
    }

    /// By what the lock is known for which a thread sleeps on that word.
    pub(super) fn lock_of(&self, word: usize) -> usize {
        if self.refused { word } else { self.stacks.lock_of(word) }
    }

    /// Adds who has locks that are known by `words`, as far as the frames of a thread tell.
    pub(super) fn holders(&mut self, tid: Tid, words: &[usize], out: &mut Vec<Holder>) {
        if let Some(&state) = self.threads.get(&tid) {
            // Without a stack there is nothing to tell.
            let _ = self.stacks.holders(state, words, usize::MAX, out);
        }
    }

    /// Who has the lock that a thread sleeps for, and that is known by `word`, where the lock itself says so; and where that thread is.
    pub(super) fn owner(&mut self, tid: Tid, word: usize, now: u64) -> Option<(Tid, String)> {
        let (state, mut found) = (self.state(tid, now)?, Vec::new());
        self.stacks.holders(state, &[word], NEAR, &mut found).ok()?;
        let owner = found.iter().find(|holder| holder.recursive && holder.tid != tid)?.tid;
        Some((owner, self.place(owner)))
    }

    /// Whether a thread sleeps in a function of the program's own that takes the lock which is known by `word`: then whether it may be taken again.
    /// What waits in between waits to be told of something.
    pub(super) fn wanted(&mut self, tid: Tid, word: usize, now: u64) -> Option<bool> {
        let state = self.state(tid, now)?;
        self.stack.clear();
        self.stacks.stack(state, &mut self.stack).ok()?;
        let innermost = self.stacks.function(self.stack.first()?.0);
        let between = BETWEEN.iter().any(|file| innermost.file.ends_with(file));
        if between {
            None
        } else {
            self.stacks.wanted(state, word).ok()?
        }
    }

    /// In words, where a thread is that sleeps: its innermost function that is not in between.
    pub(super) fn place(&mut self, tid: Tid) -> String {
        self.stack.clear();
        if let Some(&state) = self.threads.get(&tid) {
            // Without a stack it is not known.
            let _ = self.stacks.stack(state, &mut self.stack);
        }
        let mut places = self
            .stack
            .iter()
            .map(|&(number, line)| (self.stacks.function(number), line));
        let own = places.find(|(function, _)| !BETWEEN.iter().any(|file| function.file.ends_with(file)));
        own.map_or_else(String::new, |(function, line)| {
            let file = function
                .file
                .rsplit_once('/')
                .map_or(function.file.as_str(), |(_, name)| name);
            format!("{} ({file}:{line})", function.name)
        })
    }

    /// Knows which threads there are now.
    pub(super) fn refresh(&mut self, now: u64) {
        if !self.refused {
            self.ask(now);
        }
    }

    fn number(&mut self, caller: u32, function: u32, line: u32, desk: &Desk, out: &mut Vec<Record>) -> Option<u32> {
        if let Some(&number) = self.frames.get(&(caller, function, line)) {
            return Some(number);
        }
        if self.frames.len() >= MOST {
            return None;
        }
        while self.functions <= function {
            let known = self.stacks.function(self.functions);
            let (name, file) = (desk.text(&known.name), desk.text(&known.file));
            out.push(Record::Function {
                name,
                file,
                line: known.line,
            });
            self.functions += 1;
        }
        let number = self.frames.len() as u32 + 1;
        self.frames.insert((caller, function, line), number);
        out.push(Record::Frame { caller, function, line });
        Some(number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stacks::Function;
    use plait_trace::record::Text;

    struct Fixed(Vec<(u32, u32)>);

    impl Stacks for Fixed {
        fn threads(&mut self, out: &mut Vec<(Tid, usize)>) -> Result<(), NoStack> {
            out.push((7, 0x70));
            Ok(())
        }

        fn stack(&mut self, thread: usize, out: &mut Vec<(u32, u32)>) -> Result<(), NoStack> {
            assert_eq!(thread, 0x70);
            out.extend_from_slice(&self.0);
            self.0[0].1 += 1;
            Ok(())
        }

        fn code(&mut self, code: usize) -> Option<u32> {
            (code == 0x80).then_some(1)
        }

        fn lock_of(&self, word: usize) -> usize {
            word
        }

        fn holders(&mut self, _: usize, _: &[usize], _: usize, _: &mut Vec<Holder>) -> Result<(), NoStack> {
            Ok(())
        }

        fn wanted(&mut self, _: usize, _: usize) -> Result<Option<bool>, NoStack> {
            Ok(None)
        }

        fn function(&self, number: u32) -> Function {
            Function {
                name: format!("f{number}"),
                file: "x.py".into(),
                line: number * 10,
            }
        }
    }

    #[test]
    fn functions_and_frames_are_defined_once_callers_first() {
        let desk = Desk::default();
        let mut frames = Frames::new(Box::new(Fixed(vec![(1, 11), (0, 5)])));
        let mut out = Vec::new();
        assert_eq!(frames.look(7, 1 << 40, &desk, &mut out), Some(2));
        let function = |name, line| Record::Function {
            name,
            file: Text(2),
            line,
        };
        assert_eq!(
            out,
            [
                function(Text(1), 0),
                Record::Frame {
                    caller: 0,
                    function: 0,
                    line: 5
                },
                function(Text(3), 10),
                Record::Frame {
                    caller: 1,
                    function: 1,
                    line: 11
                },
            ]
        );
        out.clear();
        assert_eq!(
            frames.look(7, 1 << 40, &desk, &mut out),
            Some(3),
            "another line of the same function"
        );
        assert_eq!(
            out,
            [Record::Frame {
                caller: 1,
                function: 1,
                line: 12
            }]
        );
        assert_eq!(
            frames.look(8, 1 << 40, &desk, &mut out),
            None,
            "no thread of the interpreter"
        );
        assert_eq!(frames.thread_of(0x70, 1 << 40), Some(7));
        out.clear();
        assert_eq!(
            (frames.code(0x80, &desk, &mut out), frames.code(0x88, &desk, &mut out)),
            (4, 0)
        );
        assert_eq!(
            out,
            [Record::Frame {
                caller: 0,
                function: 1,
                line: 10
            }]
        );
    }
}
