//! The event loop's machine, without Python: it says what is due and calls nobody.
//!
//! | module | what |
//! |---|---|
//! | [`turn`] | one turn of the loop: look, expire, run; and who has to be woken |
//! | [`timers`] | deadlines: never early, equal ones in the order of scheduling |
//! | [`ready`] | the run queue of a turn: what is added meanwhile waits for the next |
//! | [`watches`] | who waits for which descriptor; tokens that cannot reach a later owner |
//! | [`stream`] | a stream: what is read, what waits to be written, and how it ends |
//! | [`tls`] | TLS over a stream: what the library is asked, who is told what, and how it ends |
//! | [`reads`] | how much to read at once |
//! | [`claims`] | which descriptors have an owner of their own |
//! | [`poller`] | the watches in the kernel |
//! | [`figures`] | what the loop has done so far, and how late |
//! | [`haste`] | whether to ask for the interpreter early |
//! | [`watchdog`] | what a watcher makes of turns that take long |
//! | [`bed`] | what the loop sleeps on, and the wake-up from other threads |
//!
//! Everything carries a payload `H` that it never looks into, but for [`Payload`]. Nothing here locks: the owner of a
//! [`turn::Reactor`] lends it out for one call at a time. Payloads that leave are returned, never dropped here, since
//! their end may run code of the user.

#![forbid(unsafe_code)]

pub mod bed;
pub mod claims;
pub mod figures;
pub mod haste;
pub mod poller;
pub mod reads;
pub mod ready;
pub mod stream;
pub mod timers;
pub mod tls;
pub mod turn;
pub mod watchdog;
pub mod watches;

/// What the machine has to know of what it carries.
pub trait Payload {
    /// Another one of the same: a descriptor stays watched while its reader runs.
    #[must_use]
    fn share(&self) -> Self;

    /// Whether it still wants to be run: false once it was cancelled.
    fn is_live(&self) -> bool;
}
