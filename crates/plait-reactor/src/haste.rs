//! Whether a loop that has slept should ask for the interpreter before its turn comes. Time is an argument.
//!
//! To ask early costs a timer that goes off soon, which is dear on virtual machines, and is in vain where holders let go by themselves
//! after microseconds. So a loop begins when it had to wait for long, and leaves off when it need not wait any more.

/// A wait as long as this is one behind a thread that computes.
const LONG_NS: u64 = 200_000;
/// After a wait as short as this nobody was asked.
const SHORT_NS: u64 = 40_000;
/// After so many short waits in a row there is no such thread.
const CALM: u32 = 16;

/// What the waits of one loop have been like.
#[derive(Clone, Copy, Debug, Default)]
pub struct Haste {
    hurries: bool,
    short: u32,
}

impl Haste {
    /// Whether the next wait should be cut short.
    #[must_use]
    pub fn hurries(&self) -> bool {
        self.hurries
    }

    /// A wait took so long.
    pub fn waited(&mut self, ns: u64) {
        if ns >= LONG_NS {
            self.hurries = true;
        }
        if ns >= SHORT_NS {
            self.short = 0;
        } else if self.hurries {
            self.short += 1;
            self.hurries = self.short < CALM;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_long_wait_begins_it_and_a_row_of_short_ones_ends_it() {
        let mut haste = Haste::default();
        haste.waited(5_000);
        assert!(!haste.hurries());
        haste.waited(5_000_000);
        assert!(haste.hurries());
        for _ in 1..CALM {
            haste.waited(1_000);
            assert!(haste.hurries());
        }
        haste.waited(1_000);
        assert!(!haste.hurries());
    }

    #[test]
    fn waits_that_were_cut_short_keep_it_up() {
        let mut haste = Haste::default();
        haste.waited(5_000_000);
        for _ in 0..100 {
            haste.waited(120_000);
            haste.waited(1_000);
        }
        assert!(haste.hurries());
    }
}
