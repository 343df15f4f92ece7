//! Stacks of the own process: an interpreter is loaded into a process, and the thread that asks says what it should see.
#![expect(
    clippy::disallowed_methods,
    clippy::print_stderr,
    clippy::print_stdout,
    reason = "each interpreter wants a process of its own, and time is measured"
)]

#[allow(dead_code, reason = "each file of tests uses a part of it")]
mod interpreters;

use interpreters::interpreters;
use plait_probe::gil::Known;
use plait_probe::stack::{PyThread, Stack, Stacks, Unfit, Witness};
use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::Instant;

unsafe extern "C" {
    fn dlopen(file: *const c_char, flags: c_int) -> *mut c_void;
    fn dlsym(object: *mut c_void, name: *const c_char) -> *mut c_void;
}

/// What a process of its own is told.
const LIBRARY: &str = "PLAIT_TEST_LIBRARY";

#[test]
fn the_thread_that_asks_sees_itself() {
    for python in interpreters() {
        let Some(library) = library(&python) else {
            eprintln!("skipped: no library of {python:?}");
            continue;
        };
        let mut command = Command::new(std::env::current_exe().expect("this program"));
        command.args(["--exact", "in_a_process_of_its_own", "--nocapture", "--ignored"]);
        command
            .env(LIBRARY, &library)
            .env("PYTHONHOME", library.ancestors().nth(2).expect("a folder"));
        let ended = command.output().expect("it starts");
        let said = String::from_utf8_lossy(&ended.stdout);
        let (_, seen) = said
            .split_once("seen: ")
            .unwrap_or_else(|| panic!("{python:?}: {ended:?}"));
        eprintln!("{python:?}: {}", seen.lines().next().unwrap_or_default());
        assert!(ended.status.success(), "{python:?}: {said}");
    }
}

/// The library beside an interpreter.
fn library(python: &Path) -> Option<PathBuf> {
    let name = python.file_name()?.to_str()?;
    let library = python.parent()?.parent()?.join("lib").join(format!("lib{name}.so"));
    library.exists().then_some(library)
}

struct Python(*mut c_void);

// SAFETY: a handle of the loader, which any thread may use.
unsafe impl Send for Python {}
// SAFETY: as above.
unsafe impl Sync for Python {}

static PYTHON: OnceLock<Python> = OnceLock::new();

fn symbol(name: &CStr) -> *mut c_void {
    let python = PYTHON.get().expect("it is loaded");
    // SAFETY: the handle is of an object that stays loaded, the name ends with a zero.
    let found = unsafe { dlsym(python.0, name.as_ptr()) };
    assert!(!found.is_null(), "{name:?}");
    found
}

#[test]
#[ignore = "a part of the test above, in a process that it starts"]
fn in_a_process_of_its_own() {
    let Some(library) = std::env::var_os(LIBRARY) else {
        return;
    };
    let library = CString::new(library.into_encoded_bytes()).expect("a path");
    const NOW_AND_GLOBAL: c_int = 0x102;
    // SAFETY: an interpreter's library, whose constructors do nothing.
    let handle = unsafe { dlopen(library.as_ptr(), NOW_AND_GLOBAL) };
    assert!(!handle.is_null());
    assert!(PYTHON.set(Python(handle)).is_ok());
    let program = include_str!("programs/own.py").replace("ADDRESS", &(looked_at as *const () as usize).to_string());
    let program = CString::new(program).expect("a text");
    // SAFETY: the signatures are those of the C API; the interpreter is begun once, and used by this thread.
    unsafe {
        std::mem::transmute::<*mut c_void, extern "C" fn(c_int)>(symbol(c"Py_InitializeEx"))(0);
        let run =
            std::mem::transmute::<*mut c_void, extern "C" fn(*const c_char) -> c_int>(symbol(c"PyRun_SimpleString"));
        assert_eq!(run(program.as_ptr()), 0);
    }
}

/// Called by the program, which holds the GIL: `what` is the kernel's number of the thread, the switch interval in microseconds, then
/// code, first line and line of each frame.
extern "C" fn looked_at(what: *const c_char) {
    // SAFETY: the program passes bytes.
    let what = unsafe { CStr::from_ptr(what) }.to_str().expect("ASCII");
    let numbers: Vec<u64> = what
        .split_whitespace()
        .map(|number| number.parse().expect("a number"))
        .collect();
    let (tid, interval_us) = (numbers[0] as u32, numbers[1]);
    let frames = numbers[2..].chunks_exact(3).map(|frame| Witness {
        code: frame[0] as usize,
        first_line: frame[1] as u32,
        line: frame[2] as u32,
    });
    let frames: Vec<_> = frames.collect();
    // SAFETY: signatures of the C API, called with the GIL.
    let (thread, interpreter, version) = unsafe {
        let thread = std::mem::transmute::<*mut c_void, extern "C" fn() -> usize>(symbol(c"PyThreadState_Get"))();
        let of =
            std::mem::transmute::<*mut c_void, extern "C" fn(usize) -> usize>(symbol(c"PyThreadState_GetInterpreter"));
        (thread, of(thread), *symbol(c"Py_Version").cast::<u64>())
    };
    let known = Known {
        minor: (version >> 16) as u8,
        runtime: symbol(c"_PyRuntime") as usize,
        interpreter,
        thread,
        interval_us,
    };
    let mut stacks = Stacks::locate(&known, tid, &frames).expect("it sees itself");
    assert!(
        stacks
            .holder()
            .expect("own memory")
            .is_none_or(|holder| holder == thread)
    );

    let mut wrong = frames.clone();
    wrong[3].line += 1;
    assert!(matches!(Stacks::locate(&known, tid, &wrong), Err(Unfit::Differs(_))));
    assert!(matches!(
        Stacks::locate(&known, tid, &frames[1..]),
        Err(Unfit::Differs(_))
    ));
    assert!(matches!(
        Stacks::locate(&known, tid + 1, &frames),
        Err(Unfit::Differs(_))
    ));
    let other = Known { minor: 10, ..known };
    assert!(matches!(Stacks::locate(&other, tid, &frames), Err(Unfit::Version(10))));

    let mut threads: Vec<PyThread> = Vec::new();
    stacks.threads(&mut threads).expect("own memory");
    let thread = threads.iter().find(|each| each.state == thread).expect("this one");
    let mut stack = Stack::default();
    let mut times: Vec<_> = (0..2000)
        .map(|_| {
            let begun = Instant::now();
            stacks.stack(thread, &mut stack).expect("it stands still");
            begun.elapsed()
        })
        .collect();
    times.sort_unstable();
    assert_eq!(stack.frames.len(), frames.len());
    println!("seen: {} frames, {:?} each", frames.len(), times[times.len() / 2]);
}
