//! Does a turn take too long? What a watcher makes of what it sees of a loop. Time is an argument.

/// What follows from a look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// All is well until then at least: look again.
    Until(u64),
    /// Nothing to tell before something changes.
    Quiet,
    /// The turn takes longer than allowed: so long until now, in nanoseconds. Said once for each turn.
    Blocked(u64),
    /// The turn that this was said of is over, and took so long.
    Ended(u64),
}

/// One loop that is watched.
#[derive(Clone, Copy, Debug)]
pub struct Watchdog {
    threshold_ns: u64,
    /// When the turn began that was reported.
    reported: Option<u64>,
}

impl Watchdog {
    /// For turns that take no longer than `threshold_ns`.
    #[must_use]
    pub fn new(threshold_ns: u64) -> Self {
        Self {
            threshold_ns,
            reported: None,
        }
    }

    /// What a look says: `began` is when the present turn began, None while the loop rests.
    pub fn look(&mut self, began: Option<u64>, now_ns: u64) -> Verdict {
        match (self.reported, began) {
            (Some(turn), began) if began != Some(turn) => {
                self.reported = None;
                // The turn that follows began when this one ended; of a rest nobody knows better than now.
                Verdict::Ended(began.unwrap_or(now_ns).saturating_sub(turn))
            }
            (Some(_), _) | (None, None) => Verdict::Quiet,
            (None, Some(turn)) => {
                let took = now_ns.saturating_sub(turn);
                if took < self.threshold_ns {
                    return Verdict::Until(turn.saturating_add(self.threshold_ns));
                }
                self.reported = Some(turn);
                Verdict::Blocked(took)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_turn_that_is_soon_over_is_nobodys_business() {
        let mut dog = Watchdog::new(100);
        assert_eq!(dog.look(None, 5), Verdict::Quiet);
        assert_eq!(dog.look(Some(10), 50), Verdict::Until(110));
        assert_eq!(dog.look(Some(60), 110), Verdict::Until(160));
        assert_eq!(dog.look(None, 200), Verdict::Quiet);
    }

    #[test]
    fn a_long_turn_is_told_once_and_again_at_its_end() {
        let mut dog = Watchdog::new(100);
        assert_eq!(dog.look(Some(10), 110), Verdict::Blocked(100));
        assert_eq!(dog.look(Some(10), 500), Verdict::Quiet);
        assert_eq!(dog.look(Some(900), 910), Verdict::Ended(890));
        assert_eq!(dog.look(Some(900), 910), Verdict::Until(1000));
    }

    #[test]
    fn a_long_turn_may_end_in_a_rest_or_in_another_long_one() {
        let mut dog = Watchdog::new(100);
        assert_eq!(dog.look(Some(10), 110), Verdict::Blocked(100));
        assert_eq!(dog.look(None, 300), Verdict::Ended(290));
        assert_eq!(dog.look(Some(400), 600), Verdict::Blocked(200));
        assert_eq!(dog.look(Some(700), 900), Verdict::Ended(300));
        assert_eq!(dog.look(Some(700), 900), Verdict::Blocked(200));
    }
}
