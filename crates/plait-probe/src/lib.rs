//! Looks at an interpreter without its help.
//!
//! | module | what |
//! |---|---|
//! | [`gil`] | where the GIL's structure lies: per-version offsets as data |

pub mod gil;
