//! Stacks of real programs in real interpreters, read from outside, against what Python says of itself.
#![expect(
    clippy::disallowed_methods,
    clippy::print_stderr,
    reason = "interpreters are processes, and are looked for"
)]

#[allow(dead_code, reason = "each file of tests uses a part of it")]
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
            stacks
                .stack(thread.expect("it is listed"), &mut stack)
                .expect("it waits");
            let functions = stacks.functions();
            let found = stack.frames.iter().map(|frame| {
                let function = &functions[frame.function as usize];
                format!(
                    "{}\t{}\t{}\t{}",
                    function.name, function.file, function.line, frame.line
                )
            });
            let found: Vec<_> = found.collect();
            let known: Vec<_> = parts.collect();
            assert_eq!(found, known[..known.len().min(DEEPEST)], "{name} of {python:?}");
            assert_eq!(stack.deeper, known.len() > DEEPEST, "{name} of {python:?}");
        }
    }
}

/// Who may call a function of `churn.py`, by its name; None for one that any may call.
fn caller_of(name: &str) -> Option<String> {
    Some(match name {
        "inner_leaf" => "leaf".into(),
        "leaf" => "spin".into(),
        "spin" => "g".into(),
        name => {
            let digits = name.trim_start_matches(|letter: char| !letter.is_ascii_digit());
            let number = digits.split('.').next().filter(|number| !number.is_empty())?;
            match name.split(number).next()? {
                "t" if number == "1" => "tree".into(),
                "t" => format!("t{}", number.parse::<u32>().ok()? / 2),
                "g" => format!("f{number}.<locals>.<genexpr>"),
                "f" if name.ends_with("<genexpr>") => format!("f{number}"),
                "f" => format!("thread_{number}"),
                "thread_" => "Thread.run".into(),
                _ => return None,
            }
        }
    })
}

#[test]
fn threads_that_come_and_go_show_no_function_that_is_not_theirs() {
    for python in interpreters() {
        let (program, _) = Program::start(&python, "churn.py");
        let mut stacks = stacks(&program);
        let (mut whole, mut torn, mut ended, mut pairs, mut wrong) = (0, 0, 0, 0, Vec::new());
        let mut stack = Stack::default();
        let until = std::time::Instant::now() + std::time::Duration::from_secs(2);
        while std::time::Instant::now() < until {
            for thread in threads(&mut stacks) {
                match stacks.stack(&thread, &mut stack) {
                    Ok(()) => whole += 1,
                    Err(Miss::Torn) => torn += 1,
                    Err(Miss::Ended) => ended += 1,
                    Err(Miss::Memory(error)) => panic!("{error}"),
                }
                let name = |at: usize| {
                    stack
                        .frames
                        .get(at)
                        .map(|frame| &*stacks.functions()[frame.function as usize].name)
                };
                for at in 0..stack.frames.len() {
                    let inner = name(at).expect("it is there");
                    let Some(known) = caller_of(inner) else { continue };
                    pairs += 1;
                    match name(at + 1) {
                        Some(outer) if outer == known || known == "g" && outer.starts_with('g') => {}
                        Some("remake") if known.starts_with("thread_") => {}
                        outer => wrong.push((inner.to_owned(), outer.map(str::to_owned))),
                    }
                }
            }
        }
        eprintln!(
            "{python:?}: {whole} whole, {torn} torn, {ended} ended, {pairs} pairs, {} wrong",
            wrong.len()
        );
        assert!(whole > 0 && pairs > 0, "{python:?}");
        // A caller that makes way for another with frames of the same size within a look cannot be told; here that is rare.
        assert!(wrong.len() * 1000 <= pairs, "{python:?}: {wrong:?} of {pairs}");
    }
}
