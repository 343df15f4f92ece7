//! Stacks of real programs in real interpreters, read from outside, against what Python says of itself.
#![expect(clippy::disallowed_methods, reason = "interpreters are processes, and are looked for")]

mod interpreters;

use interpreters::{Program, interpreters};
use plait_probe::stack::{DEEPEST, Miss, PyThread, Stack, Stacks};
use plait_probe::target::Interpreter;

fn stacks(program: &Program) -> Stacks {
    let interpreter = Interpreter::find(program.pid()).expect("it runs Python");
    interpreter.stacks().expect("it is as its version says")
}

fn threads(stacks: &mut Stacks) -> Vec<PyThread> {
    let mut threads = Vec::new();
    stacks.threads(&mut threads).expect("it is there");
    threads
}

#[test]
fn known_stacks_are_read() {
    for python in interpreters() {
        let (program, said) = Program::start(&python, "known.py");
        let mut stacks = stacks(&program);
        let threads = threads(&mut stacks);
        assert_eq!(threads.len(), said.len() + 1, "{python:?}");
        let mut stack = Stack::default();
        // The second time most is remembered, and read in another way.
        for line in said.iter().chain(&said) {
            let mut parts = line.split('\x1f');
            let (name, tid) = (parts.next().expect("a name"), parts.next().expect("a number"));
            let thread = threads.iter().find(|thread| thread.tid.to_string() == tid);
            stacks.stack(thread.expect("it is listed"), &mut stack).expect("it waits");
            let functions = stacks.functions();
            let found = stack.frames.iter().map(|frame| {
                let function = &functions[frame.function as usize];
                format!("{}\t{}\t{}\t{}", function.name, function.file, function.line, frame.line)
            });
            let found: Vec<_> = found.collect();
            let known: Vec<_> = parts.collect();
            assert_eq!(found, known[..known.len().min(DEEPEST)], "{name} of {python:?}");
            assert_eq!(stack.deeper, known.len() > DEEPEST, "{name} of {python:?}");
        }
    }
}
