//! Frames of the program's own, among those of libraries.

use crate::fold::log::Log;

/// The innermost frame of the program's own, from this one outwards; 0 for none.
pub(crate) fn own(log: &Log, frame: u32) -> u32 {
    let mut at = frame;
    while let Some(&(caller, function, _)) = (at as usize).checked_sub(1).and_then(|index| log.frames.get(index)) {
        let file = log.functions.get(function as usize).map(|&(_, file, _)| file);
        if !is_of_library(file.and_then(|file| log.texts.get(file)).unwrap_or_default()) {
            return at;
        }
        at = caller;
    }
    0
}

/// Whether a file is one of Python's own, or was installed.
fn is_of_library(file: &str) -> bool {
    let parts = ["/lib/python3.", "/lib64/python3.", "/site-packages/", "/dist-packages/"];
    file.starts_with("<frozen ") || parts.iter().any(|part| file.contains(part))
}
