//! How often the observer looks, and how often it empties the kernel's rings between two looks.
//!
//! Looks become rarer where they are dear. What lies in the rings costs the same whenever it is taken out, and is lost where there is no room: so
//! looks become no rarer while there are losses, and the rings are emptied in time, by the rate at which they filled.

/// Shares of one core, in percent, above which looks become rarer, and below which they become more frequent again; and how rare at most, in ticks.
const DEAR: u64 = 2;
const CHEAP: u64 = 1;
const RAREST: u64 = 4;
/// Rings are emptied when they should be so full, in percent; fuller than this, they are nearly full.
const AIM: u64 = 30;
const NEARLY: u64 = 60;
/// They are emptied no more often than that, in nanoseconds.
const SHORTEST: u64 = 500_000;

/// See the module.
pub(super) struct Pace {
    /// How many ticks it is from one look to the next.
    pub(super) ticks: u64,
    /// When the rings should be emptied, from the last time on.
    pub(super) within: u64,
    /// Since looks were judged last, events were lost, or nearly.
    pressed: bool,
    spent: u64,
}

impl Pace {
    pub(super) fn new() -> Pace {
        Pace {
            ticks: 1,
            within: u64::MAX,
            pressed: false,
            spent: 0,
        }
    }

    /// From here on looks are judged, by what the thread has `spent`.
    pub(super) fn begin(&mut self, spent: u64) {
        self.spent = spent;
    }

    /// The fullest ring was so full, in percent, after so long; whether events were lost.
    pub(super) fn emptied(&mut self, full: u64, after: u64, lost: bool) {
        if let Some(aim) = after.saturating_mul(AIM).checked_div(full) {
            self.within = self.within.min(aim.max(SHORTEST));
        }
        if lost || full >= NEARLY {
            self.pressed = true;
            self.ticks = (self.ticks / 2).max(1);
        }
    }

    /// Judges the looks since the last time.
    pub(super) fn judge(&mut self, spent: u64, wall: u64) {
        let share = (spent - self.spent) * 100 / wall;
        self.spent = spent;
        // The rate may have been that of a moment.
        self.within = self.within.saturating_mul(2);
        let pressed = std::mem::take(&mut self.pressed);
        if share >= DEAR && !pressed {
            self.ticks = (self.ticks * 2).min(RAREST);
        } else if share < CHEAP {
            self.ticks = (self.ticks / 2).max(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    #[test]
    fn dear_looks_become_rarer_but_not_while_events_are_lost() {
        let mut pace = Pace::new();
        let mut spent = 0;
        let mut judged = |pace: &mut Pace, share: u64| {
            spent += 2 * MS * share;
            pace.judge(spent, 200 * MS);
            pace.ticks
        };
        assert_eq!([5, 5, 5].map(|share| judged(&mut pace, share)), [2, 4, 4]);
        for _ in 0..10 {
            pace.emptied(100, 5 * MS, true);
            assert!(judged(&mut pace, 50) <= 2);
        }
        assert_eq!(pace.ticks, 1);
        // Nearly full is as good as lost; half empty is not.
        pace.emptied(NEARLY, 5 * MS, false);
        assert_eq!(judged(&mut pace, 50), 1);
        pace.emptied(10, 5 * MS, false);
        assert_eq!(judged(&mut pace, 50), 2);
        assert_eq!(judged(&mut pace, 0), 1);
    }

    #[test]
    fn rings_are_emptied_before_they_are_full() {
        let mut pace = Pace::new();
        pace.emptied(0, 5 * MS, false);
        assert_eq!(pace.within, u64::MAX);
        pace.emptied(60, 10 * MS, false);
        assert_eq!(pace.within, 5 * MS);
        // How much more there was nobody knows: sooner each time.
        for expected in [3 * MS / 2, 9 * MS / 20, 0] {
            let after = pace.within;
            pace.emptied(100, after, true);
            assert_eq!(pace.within, expected.max(SHORTEST));
        }
        pace.judge(0, 200 * MS);
        assert_eq!(pace.within, 2 * SHORTEST);
    }
}
