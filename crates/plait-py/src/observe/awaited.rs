//! What a suspended coroutine awaits, in words: the function that is awaited innermost, and the line of the program that it comes from.

use plait_probe::observer::Named;
use plait_trace::record::Text;
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::{PyFunction, PyString, PyType};

use super::ObservedCoroutine;
use super::journal::Journal;
use crate::intern;
use crate::once::Once;
use crate::sync::awaiting::Awaiting;

/// So many coroutines that await one another are followed.
const DEEPEST: usize = 200;

/// What is awaited, and where.
#[derive(Clone, Copy, Default)]
pub(crate) struct Awaited {
    pub(crate) what: Text,
    pub(crate) place: Text,
}

/// The classes of tasks: the one in C, the one in Python, and what the program has in their place.
static TASKS: Once<Vec<Py<PyType>>> = Once::new();

/// Where asyncio lies, whose own lines tell nobody anything.
static FOLDERS: Once<Vec<String>> = Once::new();

/// Asks asyncio for what is looked at later, when asking might get in the way.
pub(crate) fn prepare(py: Python<'_>) -> PyResult<()> {
    if TASKS.get(py).is_some() {
        return Ok(());
    }
    let tasks = py.import("asyncio.tasks")?;
    let classes = ["_CTask", "_PyTask", "Task"].map(|name| tasks.getattr(name).ok()?.cast_into::<PyType>().ok());
    let mut found: Vec<Py<PyType>> = Vec::new();
    for class in classes.into_iter().flatten() {
        if !found.iter().any(|each| each.is(&class)) {
            found.push(class.unbind());
        }
    }
    let mut folders = Vec::new();
    for module in ["asyncio", "plait"] {
        let file = py.import(module)?.getattr("__file__")?;
        if let Some((folder, _)) = text(&file).unwrap_or_default().rsplit_once('/') {
            folders.push(format!("{folder}/"));
        }
    }
    FOLDERS.set(py, folders);
    TASKS.set(py, found);
    Ok(())
}

/// Whether it is a task of asyncio.
#[inline]
pub(crate) fn is_task(object: &Bound<'_, PyAny>) -> bool {
    class_of(object).is_some()
}

/// The class of asyncio that a task is of.
#[inline]
fn class_of<'py>(object: &Bound<'py, PyAny>) -> Option<&'py Bound<'py, PyType>> {
    let py = object.py();
    let mut classes = TASKS.get(py)?.iter().map(|class| class.bind(py));
    classes.find(|class| object.is_exact_instance(class) || object.get_type().is_subclass(class).unwrap_or(false))
}

/// What a task is called, as the very object that it has.
pub(crate) fn task_name<'py>(task: &Bound<'py, PyAny>) -> Option<Bound<'py, PyAny>> {
    let py = task.py();
    own(task, intern!(py, "get_name"), intern!(py, "_name"))
}

/// The coroutine that a task runs.
fn task_coroutine<'py>(task: &Bound<'py, PyAny>) -> Option<Bound<'py, PyAny>> {
    let py = task.py();
    own(task, intern!(py, "get_coro"), intern!(py, "_coro"))
}

/// What the `method` of asyncio's own class says of a task, or its `field` where that class is in Python. The program may have a method of its own of
/// that name, which would run where the program has not called it.
fn own<'py>(
    task: &Bound<'py, PyAny>,
    method: &Bound<'py, PyString>,
    field: &Bound<'py, PyString>,
) -> Option<Bound<'py, PyAny>> {
    let py = task.py();
    let class = class_of(task)?;
    let asks = class.getattr(method).ok()?;
    if !asks.is_instance_of::<PyFunction>() {
        return asks.call1((task,)).ok();
    }
    // SAFETY: attached, both live; an owned reference comes back, or null with an exception set.
    let found =
        unsafe { Bound::from_owned_ptr_or_err(py, ffi::PyObject_GenericGetAttr(task.as_ptr(), field.as_ptr())) };
    found.ok()
}

/// An attribute of an object, unless the program has code of its own for that (`__getattr__`): it would run where the program has not called
/// it, signal handlers with it, and what those raise would be nobody's.
pub(crate) fn attribute<'py>(object: &Bound<'py, PyAny>, name: &Bound<'py, PyString>) -> Option<Bound<'py, PyAny>> {
    let kind = object.get_type();
    // SAFETY: a type that is alive; one that is ready has this slot, and it never changes where the type is not the program's.
    let (flags, get) = unsafe {
        (
            ffi::PyType_GetFlags(kind.as_type_ptr()),
            (*kind.as_type_ptr()).tp_getattro,
        )
    };
    let generic = get.is_some_and(|get| get as usize == ffi::PyObject_GenericGetAttr as *const () as usize);
    let of_c = flags & ffi::Py_TPFLAGS_HEAPTYPE == 0;
    if generic || of_c {
        object.getattr(name).ok()
    } else {
        None
    }
}

/// What a coroutine, or anything else that runs, calls itself.
pub(crate) fn name_of(object: &Bound<'_, PyAny>) -> String {
    let py = object.py();
    for name in [intern!(py, "__qualname__"), intern!(py, "__name__")] {
        if let Some(found) = attribute(object, name).and_then(|name| text(&name)) {
            return found;
        }
    }
    object
        .get_type()
        .name()
        .map(|name| name.to_string())
        .unwrap_or_default()
}

/// What the suspended `coroutine` awaits; it has yielded `yielded` to its task.
pub(crate) fn describe(journal: &Journal, coroutine: &Bound<'_, PyAny>, yielded: Option<&Bound<'_, PyAny>>) -> Awaited {
    let (what, place) = look(coroutine, yielded);
    Awaited {
        // A task, by its name, most of all.
        what: journal.name(Named::Task, &what),
        place: journal.text(&place),
    }
}

/// A frame of a coroutine.
struct Frame<'py> {
    code: Bound<'py, PyAny>,
    frame: Bound<'py, PyAny>,
    of_program: bool,
}

fn look(coroutine: &Bound<'_, PyAny>, yielded: Option<&Bound<'_, PyAny>>) -> (String, String) {
    let mut frames: Vec<Frame<'_>> = Vec::new();
    let mut at = coroutine.clone();
    for _ in 0..DEEPEST {
        let Some((frame, next)) = inside(&at) else { break };
        let Ok(code) = frame.getattr(intern!(at.py(), "f_code")) else {
            break;
        };
        let file = text_of(&code, intern!(at.py(), "co_filename"));
        let of_program = !FOLDERS
            .get(at.py())
            .is_some_and(|folders| folders.iter().any(|each| file.starts_with(each)));
        frames.push(Frame {
            code,
            frame,
            of_program,
        });
        at = next;
    }
    let Some(inner) = frames.last() else {
        return (name_of(coroutine), String::new());
    };
    let mine = frames.iter().rposition(|frame| frame.of_program);
    let py = coroutine.py();
    let what = match mine {
        // It awaits a function of asyncio: that is what people know it by, not what the function does in turn.
        Some(mine) if mine + 1 < frames.len() => {
            let called = text_of(&frames[mine + 1].code, intern!(py, "co_qualname"));
            match frames.get(mine + 2) {
                // `async with` of locks, which all of them inherit.
                Some(acquire) if called == "_ContextManagerMixin.__aenter__" => {
                    text_of(&acquire.code, intern!(py, "co_qualname"))
                }
                _ => called,
            }
        }
        _ => yielded.map_or_else(String::new, awaited),
    };
    let shown = mine.map_or(inner, |mine| &frames[mine]);
    let line: u32 = shown
        .frame
        .getattr(intern!(py, "f_lineno"))
        .and_then(|line| line.extract())
        .unwrap_or(0);
    let (file, function) = (
        text_of(&shown.code, intern!(py, "co_filename")),
        text_of(&shown.code, intern!(py, "co_qualname")),
    );
    (what, format!("{function} ({file}:{line})"))
}

/// The frame of a suspended coroutine or generator, and what it awaits.
fn inside<'py>(object: &Bound<'py, PyAny>) -> Option<(Bound<'py, PyAny>, Bound<'py, PyAny>)> {
    let py = object.py();
    for (frame, next) in [
        (intern!(py, "cr_frame"), intern!(py, "cr_await")),
        (intern!(py, "gi_frame"), intern!(py, "gi_yieldfrom")),
        (intern!(py, "ag_frame"), intern!(py, "ag_await")),
    ] {
        if let Ok(frame) = object.getattr(frame) {
            let next = object.getattr(next).ok()?;
            return (!frame.is_none()).then_some((frame, next));
        }
    }
    None
}

/// A future in words.
fn awaited(yielded: &Bound<'_, PyAny>) -> String {
    let py = yielded.py();
    if yielded.is_none() {
        return "sleep".to_owned();
    }
    if is_task(yielded)
        && let Some(coroutine) = task_coroutine(yielded)
    {
        return format!("task {}", name_of_task(yielded, &coroutine));
    }
    if let Ok(operation) = yielded.cast_exact::<Awaiting>() {
        return operation.get().name().to_owned();
    }
    let name = yielded
        .get_type()
        .qualname()
        .map(|name| name.to_string())
        .unwrap_or_default();
    if name == "_GatheringFuture"
        && let Some(children) = attribute(yielded, intern!(py, "_children")).and_then(|children| children.len().ok())
    {
        return format!("gather of {children}");
    }
    name
}

/// The name that the program gave a task, or what it runs where that has none but a number.
fn name_of_task(task: &Bound<'_, PyAny>, coroutine: &Bound<'_, PyAny>) -> String {
    let given = task_name(task).and_then(|name| text(&name));
    if let Some(given) = given
        && given
            .strip_prefix("Task-")
            .is_none_or(|number| number.parse::<u64>().is_err())
    {
        return given;
    }
    match coroutine.cast_exact::<ObservedCoroutine>() {
        Ok(observed) => name_of(observed.get().wrapped().bind(task.py())),
        Err(_) => name_of(coroutine),
    }
}

/// A text of the program; what cannot be written down, lone surrogates, is replaced. None where it is no text.
pub(crate) fn text(object: &Bound<'_, PyAny>) -> Option<String> {
    let text = object.cast::<PyString>().ok()?;
    Some(text.to_string_lossy().into_owned())
}

fn text_of(object: &Bound<'_, PyAny>, name: &Bound<'_, PyString>) -> String {
    let found = object.getattr(name).ok();
    found.and_then(|found| text(&found)).unwrap_or_default()
}
