//! Whether workers can import the program's `__main__` again.

use std::path::Path;
use std::sync::{Mutex, PoisonError};

use pyo3::prelude::*;

use super::pickle::{loaded, modules};
use crate::intern;

/// The last answer, and the module it was for. Held only to compare and to replace, never while Python runs.
static LAST: Mutex<Option<(Py<PyAny>, bool)>> = Mutex::new(None);

/// Whether a worker can import `__main__` again: it is a module or a file, and nobody is typing it.
///
/// The answer is kept for as long as `__main__` is the same module.
#[inline]
pub(super) fn main_importable(py: Python<'_>) -> bool {
    let Some(main) = modules(py)
        .ok()
        .and_then(|modules| modules.get_item(intern!(py, "__main__")).ok().flatten())
    else {
        return false;
    };
    if let Some((module, answer)) = &*LAST.lock().unwrap_or_else(PoisonError::into_inner)
        && module.is(&main)
    {
        return *answer;
    }
    let answer = importable(&main);
    // The old module may die here, and its objects with it: after the lock is free.
    let old = LAST
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .replace((main.unbind(), answer));
    drop(old);
    answer
}

/// The answer, found anew.
#[cold]
fn importable(main: &Bound<'_, PyAny>) -> bool {
    if interactive(main.py()) {
        return false;
    }
    let name = main
        .getattr(intern!(main.py(), "__spec__"))
        .and_then(|spec| spec.getattr(intern!(main.py(), "name"))?.extract::<String>());
    if let Ok(name) = name {
        // The main of a package is run, never imported: `multiprocessing` does not do it either.
        return name != "__main__" && !name.ends_with(".__main__");
    }
    main.getattr(intern!(main.py(), "__file__"))
        .and_then(|file| file.extract::<String>())
        .is_ok_and(|file| Path::new(&file).is_file())
}

/// Whether somebody types the program: Python's prompt, `python -i`, IPython.
fn interactive(py: Python<'_>) -> bool {
    let prompt = py.import(intern!(py, "sys")).is_ok_and(|sys| {
        sys.hasattr(intern!(py, "ps1")).unwrap_or(false)
            || sys
                .getattr(intern!(py, "flags"))
                .and_then(|flags| flags.getattr(intern!(py, "interactive"))?.is_truthy())
                .unwrap_or(false)
    });
    prompt
        || loaded(py, "IPython")
            .and_then(|ipython| ipython.call_method0(intern!(py, "get_ipython")).ok())
            .is_some_and(|shell| !shell.is_none())
}
