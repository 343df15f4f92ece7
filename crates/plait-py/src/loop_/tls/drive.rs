//! The steps of a TLS connection, and what follows from each.

use plait_reactor::stream::Chunk;
use plait_reactor::tls::{Look, Offer, Step, Tls};
use pyo3::exceptions::PyConnectionResetError;
use pyo3::prelude::*;

use super::library::Library;
use super::{Action, StreamCore, TlsCore, stop, stream, wake};
use crate::intern;
use crate::loop_::stream::{Given, Queued};

/// What is reported of errors that have no words of their own.
pub(super) const FATAL: &str = "Fatal error on SSL protocol";

/// Short writes that wait are encrypted together, up to a record.
const RECORD: usize = 16 * 1024;

impl TlsCore {
    /// Does what there is to be done.
    pub(super) fn drive(slf: &Bound<'_, Self>) -> PyResult<()> {
        while let Some(action) = slf.get().tls(slf.py(), |tls| tls.next_action()) {
            Self::act(slf, action)?;
        }
        Ok(())
    }

    /// The same from what the program calls: without calling its protocol with bytes.
    pub(super) fn drive_output(slf: &Bound<'_, Self>) -> PyResult<()> {
        while let Some(action) = slf.get().tls(slf.py(), |tls| tls.next_output()) {
            Self::act(slf, action)?;
        }
        Ok(())
    }

    fn act(slf: &Bound<'_, Self>, action: Action) -> PyResult<()> {
        let (py, core) = (slf.py(), slf.get());
        match action {
            Action::Handshake => Self::handshake(slf),
            Action::Established => Self::established(slf),
            Action::Read => Self::read(slf),
            Action::Discard => Self::discard(slf),
            Action::Encrypt => Self::encrypt_queue(slf),
            Action::EndOfInput => Self::end_of_input(slf),
            Action::Unwrap => Self::unwrap(slf),
            Action::GoOnLater => core.call_soon(&slf.getattr(intern!(py, "_go_on"))?, None),
            Action::Send => Self::send(slf),
            Action::StartClock => {
                let clock = Self::call_later(slf, core.shutdown_timeout, "_shutdown_late")?;
                let before = core.with(py, |state| std::mem::replace(&mut state.shutdown_clock, clock));
                stop(py, before)
            }
            Action::PauseWriting => Self::tell_flow(slf, "pause_writing"),
            Action::ResumeWriting => Self::tell_flow(slf, "resume_writing"),
            Action::PauseReading => Self::tell_stream(slf, "pause_reading"),
            Action::ResumeReading => Self::tell_stream(slf, "resume_reading"),
            Action::Close => match core.held(py, |state| state.stream.as_ref()) {
                Some(stream) => core.call_soon(&stream.getattr(intern!(py, "close"))?, None),
                None => Ok(()),
            },
        }
    }

    fn handshake(slf: &Bound<'_, Self>) -> PyResult<()> {
        let (py, core) = (slf.py(), slf.get());
        let Some(library) = core.library(py) else { return Ok(()) };
        match library.handshake(py) {
            Ok(step) => {
                let left = library.left(py)?;
                core.tls(py, |tls| tls.handshaken(step, left));
                match step {
                    Step::Again => Ok(()),
                    Step::Done => stop(py, core.with(py, |state| state.handshake_clock.take())),
                }
            }
            Err(error) if stream::ends_program(py, &error) => {
                core.tls(py, |tls| tls.handshaken(Step::Again, Look::Dry));
                // As with `broken`: nothing is known of what the library has done.
                Self::force_close(slf, None)?;
                Err(error)
            }
            Err(error) => Self::handshake_failed(slf, error),
        }
    }

    /// The peer hears why, if there is something to tell, before the connection is ended.
    pub(super) fn handshake_failed(slf: &Bound<'_, Self>, error: PyErr) -> PyResult<()> {
        let (py, core) = (slf.py(), slf.get());
        stop(py, core.with(py, |state| state.handshake_clock.take()))?;
        Self::send(slf)?;
        core.flush_below(py)?;
        drop(core.tls(py, |tls| tls.abort()));
        let waiter = core.with(py, |state| state.waiter.take());
        slf.call_method1("_handshake_failed", (error.value(py),))?;
        wake(py, waiter, Some(error))
    }

    fn established(slf: &Bound<'_, Self>) -> PyResult<()> {
        let (py, core) = (slf.py(), slf.get());
        if core.is_debug(py) {
            slf.call_method0("_log_done")?;
        }
        let protocol = core
            .tls(py, |tls| tls.tell_connection())
            .then(|| core.held(py, |state| state.protocol.as_ref()))
            .flatten();
        let made = match protocol {
            Some(protocol) => protocol.call_method1(intern!(py, "connection_made"), (slf,)).map(drop),
            None => Ok(()),
        };
        core.tls(py, |tls| tls.told());
        match made {
            Ok(()) => wake(py, core.with(py, |state| state.waiter.take()), None),
            Err(error) => Self::fatal(slf, error, FATAL),
        }
    }

    fn end_of_input(slf: &Bound<'_, Self>) -> PyResult<()> {
        let (py, core) = (slf.py(), slf.get());
        let kept = match core.held(py, |state| state.protocol.as_ref()) {
            Some(protocol) => protocol
                .call_method0(intern!(py, "eof_received"))
                .and_then(|kept| kept.is_truthy()),
            None => Ok(false),
        };
        core.tls(py, |tls| tls.told());
        match kept {
            Ok(false) => Ok(()),
            Ok(true) => slf.call_method0("_warn_kept").map(drop),
            Err(error) => Self::fatal(slf, error, "Error calling eof_received()"),
        }
    }

    fn unwrap(slf: &Bound<'_, Self>) -> PyResult<()> {
        let (py, core) = (slf.py(), slf.get());
        let Some(library) = core.library(py) else { return Ok(()) };
        match library.unwrap(py) {
            Ok(step) => {
                core.tls(py, |tls| tls.unwrapped(step));
                Ok(())
            }
            Err(error) => {
                core.tls(py, |tls| tls.unwrapped(Step::Again));
                Self::broken(slf, error, "Fatal error on transport")
            }
        }
    }

    /// Writes what the library has put out.
    fn send(slf: &Bound<'_, Self>) -> PyResult<()> {
        let (py, core) = (slf.py(), slf.get());
        let plan = core.with(py, |state| {
            let library = state.library.as_ref()?.share(py);
            Some((library, state.stream.as_ref()?.bind(py).clone()))
        });
        let Some((library, below)) = plan else { return Ok(()) };
        let sent = library.take_output(py).and_then(|output| {
            if output.as_bytes().is_empty() {
                return Ok(());
            }
            match below.cast::<StreamCore>() {
                Ok(stream) => StreamCore::write(stream, output.as_any()),
                Err(_) => below.call_method1(intern!(py, "write"), (output,)).map(drop),
            }
        });
        match sent {
            Ok(()) => Ok(()),
            Err(error) => Self::fatal(slf, error, FATAL),
        }
    }

    /// What gathers below for the end of the turn is written now: the connection is to be ended before.
    fn flush_below(&self, py: Python<'_>) -> PyResult<()> {
        let Some(below) = self.held(py, |state| state.stream.as_ref()) else {
            return Ok(());
        };
        if let Ok(tls) = below.cast::<Self>() {
            return tls.get().flush_below(py);
        }
        match below.cast::<StreamCore>() {
            Ok(stream) => StreamCore::flush_gathered(stream),
            Err(_) => Ok(()),
        }
    }

    /// Encrypts bytes of the program, or queues them.
    pub(super) fn put(slf: &Bound<'_, Self>, given: &Given<'_, '_>) -> PyResult<()> {
        let (py, core) = (slf.py(), slf.get());
        let bytes = given.bytes();
        match core.tls(py, |tls| tls.offer(bytes.len())) {
            Offer::Nothing => return Ok(()),
            Offer::Lost { tell: false } => return Ok(()),
            Offer::Lost { tell: true } => return slf.call_method0("_warn_lost").map(drop),
            Offer::Queue => core.tls(py, |tls| tls.queue(given.queued())),
            Offer::Encrypt => {
                let taken = match core.library(py) {
                    Some(library) => encrypt_all(py, &library, bytes, 0),
                    None => (bytes.len(), None),
                };
                let rest = (taken.0 < bytes.len() && taken.1.is_none()).then(|| (given.queued(), taken.0));
                core.tls(py, |tls| tls.encrypted_now(rest));
                if let Some(error) = taken.1 {
                    return Self::broken(slf, error, FATAL);
                }
            }
        }
        Self::drive_output(slf)
    }

    fn encrypt_queue(slf: &Bound<'_, Self>) -> PyResult<()> {
        let (py, core) = (slf.py(), slf.get());
        let Some(library) = core.library(py) else { return Ok(()) };
        let (rest, failure) = loop {
            let Some((chunk, head)) = core.tls(py, take_together) else {
                break (None, None);
            };
            let len = chunk.bytes().len();
            match encrypt_all(py, &library, chunk.bytes(), head) {
                (taken, None) if taken < len => break (Some((chunk, taken)), None),
                (_, None) => drop(chunk),
                (_, failure) => break (None, failure),
            }
        };
        core.tls(py, |tls| tls.encrypted(rest));
        match failure {
            Some(error) => Self::broken(slf, error, FATAL),
            None => Ok(()),
        }
    }

    fn tell_stream(slf: &Bound<'_, Self>, method: &str) -> PyResult<()> {
        match slf.get().held(slf.py(), |state| state.stream.as_ref()) {
            Some(stream) => stream.call_method0(method).map(drop),
            None => Ok(()),
        }
    }

    fn tell_flow(slf: &Bound<'_, Self>, method: &str) -> PyResult<()> {
        let py = slf.py();
        let Some(protocol) = slf.get().held(py, |state| state.protocol.as_ref()) else {
            return Ok(());
        };
        match protocol.call_method0(method) {
            Ok(_) => Ok(()),
            Err(error) if stream::ends_program(py, &error) => Err(error),
            Err(error) => {
                let message = format!("protocol.{method}() failed");
                slf.call_method1("_report", (message, error.into_value(py))).map(drop)
            }
        }
    }

    /// The stream has no more bytes: whether it is to stay open.
    pub(super) fn end_of_stream(slf: &Bound<'_, Self>) -> PyResult<bool> {
        let (py, core) = (slf.py(), slf.get());
        if core.is_debug(py) {
            slf.call_method0("_log_end")?;
        }
        if core.tls(py, |tls| tls.is_shaking_hands()) {
            Self::handshake_failed(slf, PyConnectionResetError::new_err(()))?;
            return Ok(false);
        }
        let stays = core.tls(py, |tls| tls.end_of_stream());
        Self::drive(slf)?;
        Ok(stays)
    }
}

/// Encrypts from `done` on, as far as the library goes: how far, and what went wrong.
fn encrypt_all(py: Python<'_>, library: &Library, bytes: &[u8], mut done: usize) -> (usize, Option<PyErr>) {
    while done < bytes.len() {
        match library.encrypt(py, &bytes[done..]) {
            Ok(Some(taken)) => done += taken,
            Ok(None) => break,
            Err(error) => return (done, Some(error)),
        }
    }
    (done, None)
}

/// The first chunk that waits, joined with those after it while they fit into one record.
fn take_together(tls: &mut Tls<Queued>) -> Option<(Queued, usize)> {
    let (first, head) = tls.take_first()?;
    if head > 0 || first.bytes().len() + tls.first_len() > RECORD || tls.queued() == 0 {
        return Some((first, head));
    }
    let mut together = first.bytes().to_vec();
    while tls.queued() > 0 && together.len() + tls.first_len() <= RECORD {
        if let Some((next, _)) = tls.take_first() {
            together.extend_from_slice(next.bytes());
        }
    }
    Some((Queued::Copy(together), 0))
}
