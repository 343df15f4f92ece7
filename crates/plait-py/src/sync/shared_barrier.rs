//! `plait.Barrier(shared=True)`: what it can be asked for.

use std::cell::Cell;
use std::io;

use plait_shm::monitor::barrier::{Arrived, Barrier, MOST, Seen, WAIT};
use plait_shm::monitor::gate::Kind;
use plait_shm::monitor::waiter::Waiter;
use plait_sys::time;
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyBool, PyInt};
use pyo3::{PyTraverseError, PyVisit};

use super::awaiting::Awaiting;
use super::locks::deadline;
use super::operation::{Operation, Place};
use super::shared_wait::{self, SLICE_NS};
use crate::gil;
use crate::shared::{self, PySegment};

/// How waiting ended: a number, or -1 when the barrier is broken; and what an action is to be finished with, or 0.
type Outcome = (i64, u64);

const BROKEN: Outcome = (-1, 0);

/// What shared barriers are made of.
#[pyclass(subclass, frozen, weakref, module = "plait._core")]
pub(crate) struct SharedBarrierCore {
    barrier: Barrier,
}

fn has_passed(deadline: Option<u64>) -> bool {
    deadline.is_some_and(|deadline| time::monotonic_ns() >= deadline)
}

impl SharedBarrierCore {
    fn acts(&self, acts: u64) -> Outcome {
        (i64::from(self.barrier.parties()) - 1, acts)
    }

    /// Sleeps, in a thread, until it is told. None: it is to arrive again.
    fn sleep(&self, py: Python<'_>, waiter: &Waiter, deadline: Option<u64>) -> PyResult<Option<Outcome>> {
        let seen = Cell::new(Seen::Waits);
        let told = |over: bool| {
            seen.set(self.barrier.look(waiter, over));
            seen.get() != Seen::Waits
        };
        if !shared_wait::sleep(py, waiter, deadline, || told(false))? && !told(true) {
            // All are here but for the end of the action.
            shared_wait::sleep(py, waiter, None, || told(false))?;
        }
        Ok(outcome(seen.get()))
    }

    /// All places are taken: waits, in a thread, for one. False when the deadline has passed, which breaks the barrier.
    #[cold]
    fn await_place(&self, py: Python<'_>, deadline: Option<u64>) -> PyResult<bool> {
        py.check_signals()?;
        if has_passed(deadline) {
            self.barrier.give_up();
            return Ok(false);
        }
        let soon = time::monotonic_ns() + SLICE_NS;
        let until = deadline.map_or(soon, |deadline| deadline.min(soon));
        gil::detached(py, || self.barrier.object().await_slot(WAIT, until));
        Ok(true)
    }
}

/// What is seen, to the caller. None: it is to arrive again.
fn outcome(seen: Seen) -> Option<Outcome> {
    match seen {
        Seen::Passed(number) => Some((number.into(), 0)),
        Seen::Broken => Some(BROKEN),
        Seen::Again | Seen::Waits => None,
    }
}

/// Waiting in a task.
struct Pass {
    of: Py<SharedBarrierCore>,
    acts: bool,
    deadline: Option<u64>,
    waiter: Option<Waiter>,
    /// What has the task look when its time is over.
    timer: Option<Py<PyAny>>,
}

impl Pass {
    fn stop(&mut self, py: Python<'_>) {
        if let Some(waiter) = self.waiter.take() {
            shared_wait::ignore(self.of.get().barrier.object(), waiter.gate(), &waiter);
        }
        if let Some(timer) = self.timer.take()
            && let Err(error) = timer.call_method0(py, "cancel")
        {
            error.write_unraisable(py, None);
        }
    }

    /// One try; None when it waits.
    fn go(&mut self, py: Python<'_>, place: &Place) -> PyResult<Option<Outcome>> {
        let core = self.of.clone_ref(py);
        let core = core.get();
        loop {
            if let Some(waiter) = &self.waiter {
                let over = has_passed(self.deadline);
                match core.barrier.look(waiter, over) {
                    Seen::Waits => return self.wait(py, place, over).map(|()| None),
                    Seen::Again => self.stop(py),
                    seen => return Ok(outcome(seen)),
                }
            }
            match core.barrier.arrive(Kind::Task, self.acts) {
                Ok(Arrived::Waits(waiter)) => self.waiter = Some(waiter),
                Ok(Arrived::Passed(number)) => return Ok(Some((number.into(), 0))),
                Ok(Arrived::Acts(acts)) => return Ok(Some(core.acts(acts))),
                Ok(Arrived::Broken) => return Ok(Some(BROKEN)),
                Err(error) if error.kind() != io::ErrorKind::WouldBlock => return Err(shared_wait::refused(error)),
                Err(_) if has_passed(self.deadline) => {
                    core.barrier.give_up();
                    return Ok(Some(BROKEN));
                }
                Err(_) => return shared_wait::look_later(py, &place.waiter).map(|()| None),
            }
        }
    }

    /// Has the task told, and its time looked after unless that is over.
    fn wait(&mut self, py: Python<'_>, place: &Place, over: bool) -> PyResult<()> {
        let Some(waiter) = &self.waiter else { return Ok(()) };
        if let (Some(deadline), None, false) = (self.deadline, &self.timer, over) {
            let left = deadline.saturating_sub(time::monotonic_ns());
            self.timer = shared_wait::look_after(py, &place.waiter, left + EARLY_NS)?;
        }
        shared_wait::listen(py, self.of.get().barrier.object(), waiter.gate(), waiter, place)
    }
}

/// A loop may call what is due this much too early.
const EARLY_NS: u64 = 1_000_000;

impl Operation for Pass {
    fn attempt(&mut self, py: Python<'_>, place: Option<&mut Place>) -> PyResult<Option<Py<PyAny>>> {
        let Some(place) = place else { return Ok(None) };
        let went = self.go(py, place);
        if !matches!(went, Ok(None)) {
            self.stop(py);
        }
        match went? {
            Some(outcome) => Ok(Some(outcome.into_pyobject(py)?.into_any().unbind())),
            None => Ok(None),
        }
    }

    fn leave(&mut self, py: Python<'_>, _place: &mut Place) {
        self.stop(py);
    }

    fn spins(&self) -> bool {
        false
    }

    fn traverse(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.of)?;
        visit.call(&self.timer)
    }
}

#[pymethods]
impl SharedBarrierCore {
    /// A new one, or the one in `segment`.
    #[new]
    #[pyo3(signature = (parties, segment=None))]
    fn new(parties: &Bound<'_, PyAny>, segment: Option<&PySegment>) -> PyResult<Self> {
        if let Some(segment) = segment {
            let barrier = Barrier::find(segment.held());
            let barrier = barrier.ok_or_else(|| PyValueError::new_err("no barrier is in this memory"))?;
            return Ok(Self { barrier });
        }
        if !parties.is_instance_of::<PyInt>() || parties.is_instance_of::<PyBool>() {
            let text = format!("parties must be an integer, not {}", parties.repr()?);
            return Err(PyTypeError::new_err(text));
        }
        match parties.extract::<u32>() {
            Ok(parties) if (1..=MOST).contains(&parties) => Ok(Self {
                barrier: Barrier::create(parties).map_err(shared::refused)?,
            }),
            _ => Err(PyValueError::new_err(format!(
                "parties of a shared barrier must be from 1 to {MOST}, not {parties}"
            ))),
        }
    }

    /// Its memory, by which it travels.
    #[getter]
    fn _segment(&self) -> PySegment {
        PySegment::of(self.barrier.object().segment())
    }

    /// Wait for the others; a number, or -1 when the barrier is broken, and what to finish an action with, or 0.
    #[pyo3(signature = (acts, timeout))]
    fn _wait(&self, py: Python<'_>, acts: bool, timeout: Option<&Bound<'_, PyAny>>) -> PyResult<Outcome> {
        let deadline = deadline(timeout)?;
        loop {
            match self.barrier.arrive(Kind::Thread, acts) {
                Ok(Arrived::Passed(number)) => return Ok((number.into(), 0)),
                Ok(Arrived::Acts(acts)) => return Ok(self.acts(acts)),
                Ok(Arrived::Broken) => return Ok(BROKEN),
                Ok(Arrived::Waits(waiter)) => {
                    if let Some(outcome) = self.sleep(py, &waiter, deadline)? {
                        return Ok(outcome);
                    }
                }
                Err(error) if error.kind() != io::ErrorKind::WouldBlock => return Err(shared_wait::refused(error)),
                Err(_) if self.await_place(py, deadline)? => {}
                Err(_) => return Ok(BROKEN),
            }
        }
    }

    /// The same in a task.
    #[pyo3(signature = (acts, timeout))]
    fn _await(slf: &Bound<'_, Self>, acts: bool, timeout: Option<&Bound<'_, PyAny>>) -> PyResult<Awaiting> {
        let operation = Pass {
            of: slf.clone().unbind(),
            acts,
            deadline: deadline(timeout)?,
            waiter: None,
            timer: None,
        };
        Ok(Awaiting::new("Barrier.await_", Box::new(operation)))
    }

    /// Who acted has done so, well or not. Return False when the barrier was broken or reset meanwhile.
    fn _finish(&self, acts: u64, good: bool) -> bool {
        self.barrier.finish(acts, good)
    }

    /// Make it as new: whole, and nobody waits. Who did gets a BrokenBarrierError.
    fn reset(&self) -> PyResult<()> {
        self.barrier.object().seat().map_err(shared_wait::refused)?;
        self.barrier.reset();
        Ok(())
    }

    /// Break it: who waits or has not left yet, and who comes until `reset`, gets a BrokenBarrierError.
    fn abort(&self) -> PyResult<()> {
        self.barrier.object().seat().map_err(shared_wait::refused)?;
        self.barrier.abort();
        Ok(())
    }

    /// How many pass together.
    #[getter]
    fn parties(&self) -> u32 {
        self.barrier.parties()
    }

    /// How many wait now.
    #[getter]
    fn n_waiting(&self) -> u32 {
        self.barrier.bury_dead();
        self.barrier.waiting()
    }

    /// Whether it is broken.
    #[getter]
    fn broken(&self) -> bool {
        self.barrier.bury_dead();
        self.barrier.is_broken()
    }
}
