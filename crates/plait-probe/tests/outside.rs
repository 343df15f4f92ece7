//! A process and its children, sampled from outside; and what is said where that cannot be.
#![expect(
    clippy::disallowed_methods,
    clippy::print_stderr,
    clippy::print_stdout,
    reason = "other processes are observed for a time"
)]

#[allow(dead_code, reason = "each file of tests uses a part of it")]
mod interpreters;

use interpreters::{Program, interpreters};
use plait_probe::outside::{Outside, Snapshot, ThreadRow};
use plait_probe::target::{Error, Interpreter};
use plait_sys::{peek, time};
use plait_trace::state::State;
use std::process::Command;
use std::time::Duration;

const PID: &str = "PLAIT_TEST_PID";

fn observe(pid: u32, looks: u32) -> Snapshot {
    let mut outside = Outside::attach(pid, time::monotonic_ns()).expect("it is there");
    for _ in 0..looks {
        outside.look(time::monotonic_ns()).expect("it stays");
        std::thread::sleep(Duration::from_millis(5));
    }
    outside.snapshot(time::monotonic_ns())
}

#[test]
fn threads_do_what_they_do() {
    for python in interpreters() {
        let (program, _) = Program::start(&python, "busy.py");
        let snapshot = observe(program.pid(), 60);
        let top = |thread: &ThreadRow| thread.top.as_ref().map(|place| place.function.name.clone());
        let with_top = |name: &str| -> Vec<&ThreadRow> {
            snapshot
                .threads
                .iter()
                .filter(|thread| top(thread).as_deref() == Some(name))
                .collect()
        };
        for thread in &snapshot.threads {
            assert!((thread.states.iter().sum::<f64>() - 1.0).abs() < 1e-6, "{thread:?}");
        }
        let spinners = with_top("spin");
        assert_eq!(spinners.len(), 2, "{snapshot:#?}");
        for spinner in spinners {
            let known =
                [State::OnCpuGil, State::OnCpuReleased, State::GilWait, State::Ready].map(|state| spinner.share(state));
            assert!(known.iter().sum::<f64>() > 0.9, "{python:?}: {spinner:?}");
            assert!(
                spinner.cpu > 0.0 && spinner.name.contains("spin"),
                "{python:?}: {spinner:?}"
            );
        }
        let [snoozer] = with_top("snooze")[..] else {
            panic!("{snapshot:#?}")
        };
        assert!(
            snoozer.share(State::IoWait) > 0.5 && snoozer.call.is_some(),
            "{python:?}: {snoozer:?}"
        );
        let [worker] = with_top("_worker")[..] else {
            panic!("{snapshot:#?}")
        };
        assert!(worker.share(State::Idle) > 0.5, "{python:?}: {worker:?}");
        assert_eq!(snapshot.processes.len(), 2, "{snapshot:#?}");
        for process in &snapshot.processes {
            assert!(process.python.is_some() && process.why.is_none(), "{process:?}");
            assert!(
                process.pid == program.pid() || process.parent == program.pid(),
                "{process:?}"
            );
        }
        let child = snapshot
            .threads
            .iter()
            .find(|thread| thread.pid != program.pid())
            .expect("a thread of the child");
        assert!(
            child.share(State::IoWait) > 0.5 && child.call == Some("read"),
            "{python:?}: {child:?}"
        );
    }
}

/// Threads whose attributes lie in each of the places that there are, and one that `threading` has not begun.
const NAMED: &str = "
import _thread, sys, threading
ready = threading.Semaphore(0)
over = threading.Event()
def wait():
    ready.release()
    over.wait()
class Mine(threading.Thread):
    def __init__(self, name):
        super().__init__(target=wait, name=name, daemon=True)
        self.number = 7
    def run(self):
        super().run()
threads = [threading.Thread(target=wait, name=name, daemon=True) for name in ('alpha', 'beta with a name that is long', '\\u540d\\u524d')]
threads.append(Mine('mine'))
threads.append(Mine('by dictionary'))
vars(threads[-1])['other'] = 1
threads.append(Mine('replaced'))
threads[-1].__dict__ = dict(vars(threads[-1]))
threads.append(Mine('deleted'))
del threads[-1].number
for thread in threads:
    thread.start()
_thread.start_new_thread(wait, ())
for _ in range(len(threads) + 1):
    ready.acquire()
threads[0].name = 'renamed'
print(flush=True)
sys.stdin.read()
";

#[test]
fn threads_have_the_names_that_the_program_gave_them() {
    for python in interpreters() {
        let (program, _) = Program::run(Command::new(&python).args(["-c", NAMED]));
        let snapshot = observe(program.pid(), 3);
        let mut names: Vec<&str> = snapshot.threads.iter().map(|thread| thread.name.as_str()).collect();
        names.sort_unstable();
        let given = [
            "MainThread",
            "beta with a name that is long",
            "by dictionary",
            "deleted",
            "mine",
            "renamed",
            "replaced",
            "\u{540d}\u{524d}",
        ];
        let version = Interpreter::find(program.pid()).expect("it runs").python();
        let read = ["3.11", "3.12", "3.13"].iter().any(|known| version.starts_with(known));
        if read && !python.ends_with("python3.13t") {
            // The one that has no `Thread` is named by the kernel.
            assert_eq!(names.len(), given.len() + 1, "{python:?}: {names:?}");
            assert!(given.iter().all(|name| names.contains(name)), "{python:?}: {names:?}");
        }
    }
}

#[test]
fn what_cannot_be_observed_says_why() {
    let mut other = Command::new("sleep").arg("1000").spawn().expect("it starts");
    let error = Interpreter::find(other.id()).expect_err("no Python");
    other.kill().expect("it is ours");
    assert!(
        matches!(error, Error::NotPython(..)) && error.to_string().contains("sleep"),
        "{error}"
    );
    let stat = format!("/proc/{}/stat", other.id());
    while !std::fs::read_to_string(&stat)
        .expect("nobody has waited")
        .contains(") Z ")
    {
        std::thread::yield_now();
    }
    // A zombie, and then nobody.
    for _ in 0..2 {
        let error = Interpreter::find(other.id()).expect_err("it has ended");
        assert!(matches!(error, Error::Process(peek::Error::NoProcess(_))), "{error}");
        other.wait().expect("it is ours");
    }
}

#[test]
fn a_program_that_ends_is_gone() {
    let Some(python) = interpreters().pop() else { return };
    let (program, _) = Program::start(&python, "busy.py");
    let mut outside = Outside::attach(program.pid(), time::monotonic_ns()).expect("it is there");
    outside.look(time::monotonic_ns()).expect("it is there");
    drop(program);
    let error = outside.look(time::monotonic_ns()).expect_err("it has ended");
    assert!(matches!(error, Error::Process(peek::Error::Gone(_))), "{error}");
}

#[test]
fn threads_of_a_container_are_told_apart() {
    let Some(python) = interpreters().pop() else { return };
    let file = format!("{}/tests/programs/busy.py", env!("CARGO_MANIFEST_DIR"));
    let mut command = Command::new("unshare");
    command.args(["--pid", "--fork", "--kill-child"]).arg(&python).arg(file);
    let (program, _) = Program::run(&mut command);
    let children = format!("/proc/{0}/task/{0}/children", program.pid());
    let children = std::fs::read_to_string(children).unwrap_or_default();
    let Some(pid) = children.split_whitespace().next().and_then(|pid| pid.parse().ok()) else {
        eprintln!("skipped: no name space of processes, or no list of children");
        return;
    };
    let snapshot = observe(pid, 20);
    let spins = |thread: &&ThreadRow| thread.top.as_ref().is_some_and(|place| place.function.name == "spin");
    assert_eq!(snapshot.threads.iter().filter(spins).count(), 2, "{snapshot:#?}");
}

#[test]
fn another_user_is_told_what_to_do() {
    let Some(python) = interpreters().pop() else { return };
    let (program, _) = Program::start(&python, "busy.py");
    let mut command = Command::new("setpriv");
    command
        .args(["--reuid=65534", "--clear-groups"])
        .arg(std::env::current_exe().expect("this program"));
    command.args(["--exact", "as_another_user", "--nocapture", "--ignored"]);
    let ended = command.env(PID, program.pid().to_string()).output();
    match ended {
        Ok(ended) if ended.status.success() => {
            let said = String::from_utf8_lossy(&ended.stdout).into_owned();
            for part in ["same user", "ptrace_scope", "plait profile"] {
                assert!(said.contains(part), "{said}");
            }
        }
        other => eprintln!("skipped: cannot become another user: {other:?}"),
    }
}

#[test]
#[ignore = "a part of the test above, which runs it as another user"]
fn as_another_user() {
    let Some(pid) = std::env::var(PID).ok().and_then(|pid| pid.parse().ok()) else {
        return;
    };
    let error = Outside::attach(pid, time::monotonic_ns()).expect_err("no right");
    println!("{error}");
}
