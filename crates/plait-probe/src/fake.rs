//! A GIL for tests, made of the C library's parts as CPython makes it; tests that use it take turns, since hooks are the process's.

use std::ffi::{c_int, c_void};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, OnceLock};

use crate::gil::Gil;

unsafe extern "C-unwind" {
    fn pthread_cond_signal(cond: *mut c_void) -> c_int;
    fn pthread_cond_timedwait(cond: *mut c_void, mutex: *mut c_void, until: *const c_void) -> c_int;
    fn pthread_mutex_lock(mutex: *mut c_void) -> c_int;
    fn pthread_mutex_unlock(mutex: *mut c_void) -> c_int;
}

#[repr(C, align(16))]
struct Words([u64; 30]);

/// See the module. Never freed.
#[derive(Clone, Copy)]
pub(crate) struct FakeGil(usize);

static TURNS: Mutex<()> = Mutex::new(());

/// Waits until no other test uses hooks.
pub(crate) fn turn() -> MutexGuard<'static, ()> {
    TURNS.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

impl FakeGil {
    /// Zeros are the initial state of all its parts.
    pub(crate) fn new() -> FakeGil {
        FakeGil(Box::leak(Box::new(Words([0; 30]))).0.as_ptr() as usize)
    }

    /// The one of all tests with an observer, whose hooks stay.
    pub(crate) fn hooked() -> FakeGil {
        static HOOKED: OnceLock<FakeGil> = OnceLock::new();
        *HOOKED.get_or_init(FakeGil::new)
    }

    /// The address of a function of the object that is to be hooked: this program.
    pub(crate) fn function() -> usize {
        FakeGil::new as *const () as usize
    }

    pub(crate) fn gil(self) -> Gil {
        Gil::fake(NonNull::new(self.0 as *mut u8).expect("not null"))
    }

    fn word(self, offset: usize) -> &'static AtomicU64 {
        // SAFETY: leaked, aligned, and read and written as such.
        unsafe { AtomicU64::from_ptr((self.0 + offset) as *mut u64) }
    }

    /// What an interpreter writes when a thread takes it.
    pub(crate) fn taken_by(self, thread: usize) {
        self.word(16).store(1, Relaxed);
        if self.word(8).swap(thread as u64, Relaxed) != thread as u64 {
            self.word(24).fetch_add(1, Relaxed);
        }
    }

    /// What it writes when one lets go.
    pub(crate) fn let_go(self) {
        self.word(16).store(0, Relaxed);
    }

    pub(crate) fn take(self) {
        let gil = self.gil();
        let (cond, mutex) = (gil.cond() as *mut c_void, (gil.cond() + 48) as *mut c_void);
        let late = [u64::MAX >> 2, 0];
        // SAFETY: they are what they seem.
        unsafe {
            pthread_mutex_lock(mutex);
            while self.word(16).load(Relaxed) != 0 {
                pthread_cond_timedwait(cond, mutex, late.as_ptr().cast());
            }
            self.taken_by(plait_sys::thread::number() as usize);
            pthread_cond_signal(gil.switch_cond() as *mut c_void);
            pthread_mutex_unlock(mutex);
        }
    }

    pub(crate) fn drop(self) {
        let gil = self.gil();
        let mutex = (gil.cond() + 48) as *mut c_void;
        // SAFETY: they are what they seem.
        unsafe {
            pthread_mutex_lock(mutex);
            self.let_go();
            pthread_cond_signal(gil.cond() as *mut c_void);
            pthread_mutex_unlock(mutex);
        }
    }
}
