//! Does a task keep a lock from all others for too long? What a watcher makes of what it sees. Time is an argument, in nanoseconds.
//!
//! A lock is held in one stretch from when it is taken until it is let go. Who lets go when asked harms nobody, however long nobody has
//! asked: so a stretch that becomes long is asked to end, halfway to the limit. One that goes on is too long at the limit.

/// What follows from a look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Look again then.
    Until(u64),
    /// Ask for the lock, then look again.
    Ask,
    /// The task has held the lock for so long, and did not let go when it was asked. Said once for each task.
    TooLong(u64),
    /// It was told so long ago of this stretch that nobody may ever get to hear of it. Said once for each task.
    ForEver(u64),
    /// Nothing to tell before another task begins.
    Quiet,
}

/// What is seen at a look.
#[derive(Clone, Copy, Debug)]
pub struct Sight {
    /// When the task began that the thread runs.
    pub task: u64,
    /// Since when the thread holds the lock; None if it does not.
    pub holds: Option<u64>,
    /// When a holder was first asked to let go by who waits now, if anybody has.
    pub asked: Option<u64>,
}

#[derive(Clone, Copy, Debug)]
enum Stage {
    /// So far, so good.
    Well,
    /// The stretch that began then was to be asked to end at the other time.
    Asked(u64, u64),
    /// Told of the stretch that began then.
    Told(u64),
    /// Done with this task.
    Done,
}

/// One thread whose tasks are watched.
#[derive(Clone, Copy, Debug)]
pub struct Holding {
    limit: u64,
    task: u64,
    stage: Stage,
}

/// A look that is earlier than this tells nothing, and costs more than it is worth.
const SOON: u64 = 1_000_000;
/// Who was asked to let go has this long to do so.
const GRACE: u64 = 5_000_000;
/// Two switch intervals and more.
const PASSED_OVER: u64 = 15_000_000;
/// Who was told of nothing for so many times the limit will hear it otherwise.
const FOR_EVER: u64 = 10;

impl Holding {
    /// For tasks that hold the lock for no longer than `limit`.
    #[must_use]
    pub fn new(limit: u64) -> Self {
        Self {
            limit,
            task: 0,
            stage: Stage::Well,
        }
    }

    /// What a look says.
    pub fn look(&mut self, sight: Sight, now: u64) -> Verdict {
        if sight.task != self.task {
            self.task = sight.task;
            self.stage = Stage::Well;
        }
        let half = (self.limit / 2).max(SOON);
        let stretch = sight.holds.map(|since| since.max(sight.task));
        match (self.stage, stretch) {
            (Stage::Done, _) => Verdict::Quiet,
            (Stage::Asked(began, at), Some(stretch)) if stretch == began => self.still(sight, stretch, at, now),
            (Stage::Told(began), Some(stretch)) if stretch == began => {
                let end = stretch.saturating_add(self.limit.saturating_mul(FOR_EVER));
                if now < end {
                    return Verdict::Until(end);
                }
                self.stage = Stage::Done;
                Verdict::ForEver(now - stretch)
            }
            (Stage::Told(_), _) => {
                self.stage = Stage::Done;
                Verdict::Quiet
            }
            (Stage::Well | Stage::Asked(..), None) => {
                self.stage = Stage::Well;
                Verdict::Until(now.saturating_add(half))
            }
            (Stage::Well | Stage::Asked(..), Some(stretch)) => {
                let when = stretch.saturating_add(half);
                if now < when {
                    self.stage = Stage::Well;
                    return Verdict::Until(when);
                }
                self.stage = Stage::Asked(stretch, now);
                Verdict::Ask
            }
        }
    }

    /// The stretch goes on that was to be asked to end.
    fn still(&mut self, sight: Sight, stretch: u64, at: u64, now: u64) -> Verdict {
        // Who is to ask may not have come to it yet.
        let Some(asked) = sight.asked else {
            return Verdict::Until(now.max(at).saturating_add(GRACE));
        };
        // Who asked somebody else, and was passed over, takes a moment to ask this one.
        let asked = if asked < stretch { stretch + PASSED_OVER } else { asked };
        let end = stretch.saturating_add(self.limit).max(asked.saturating_add(GRACE));
        if now < end {
            return Verdict::Until(end);
        }
        self.stage = Stage::Told(stretch);
        Verdict::TooLong(now - stretch)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    fn sight(task: u64, holds: Option<u64>, asked: Option<u64>) -> Sight {
        Sight { task, holds, asked }
    }

    #[test]
    fn who_does_not_let_go_when_asked_is_told_of_once_and_then_for_good() {
        let mut holding = Holding::new(100 * MS);
        let (task, holds) = (10 * MS, Some(2 * MS));
        assert_eq!(holding.look(sight(task, holds, None), 11 * MS), Verdict::Until(60 * MS));
        assert_eq!(holding.look(sight(task, holds, None), 60 * MS), Verdict::Ask);
        assert_eq!(holding.look(sight(task, holds, None), 60 * MS), Verdict::Until(65 * MS));
        let asked = Some(66 * MS);
        assert_eq!(
            holding.look(sight(task, holds, asked), 70 * MS),
            Verdict::Until(110 * MS)
        );
        assert_eq!(
            holding.look(sight(task, holds, asked), 111 * MS),
            Verdict::TooLong(101 * MS)
        );
        assert_eq!(
            holding.look(sight(task, holds, asked), 112 * MS),
            Verdict::Until(1010 * MS)
        );
        assert_eq!(
            holding.look(sight(task, holds, asked), 1010 * MS),
            Verdict::ForEver(1000 * MS)
        );
        assert_eq!(holding.look(sight(task, holds, asked), 9999 * MS), Verdict::Quiet);
    }

    #[test]
    fn who_lets_go_when_asked_is_not_told_of() {
        let mut holding = Holding::new(100 * MS);
        assert_eq!(holding.look(sight(MS, Some(MS), None), 51 * MS), Verdict::Ask);
        assert_eq!(holding.look(sight(MS, None, None), 57 * MS), Verdict::Until(107 * MS));
        assert_eq!(
            holding.look(sight(MS, Some(60 * MS), None), 107 * MS),
            Verdict::Until(110 * MS)
        );
        assert_eq!(holding.look(sight(MS, Some(60 * MS), None), 110 * MS), Verdict::Ask);
        assert_eq!(
            holding.look(sight(MS, Some(115 * MS), None), 160 * MS),
            Verdict::Until(165 * MS)
        );
    }

    #[test]
    fn nobody_is_told_of_who_was_not_asked() {
        let mut holding = Holding::new(100 * MS);
        assert_eq!(holding.look(sight(MS, Some(MS), None), 51 * MS), Verdict::Ask);
        assert_eq!(
            holding.look(sight(MS, Some(MS), None), 500 * MS),
            Verdict::Until(505 * MS)
        );
        assert_eq!(
            holding.look(sight(MS, Some(MS), Some(503 * MS)), 505 * MS),
            Verdict::Until(508 * MS)
        );
        assert_eq!(
            holding.look(sight(MS, Some(MS), Some(503 * MS)), 508 * MS),
            Verdict::TooLong(507 * MS)
        );
    }

    #[test]
    fn every_task_has_its_own_time_and_is_told_of_once() {
        let mut holding = Holding::new(100 * MS);
        // The thread never lets go, and goes from task to task.
        assert_eq!(holding.look(sight(MS, Some(MS), None), 90 * MS), Verdict::Ask);
        assert_eq!(
            holding.look(sight(95 * MS, Some(MS), Some(91 * MS)), 102 * MS),
            Verdict::Until(145 * MS)
        );
        assert_eq!(
            holding.look(sight(95 * MS, Some(MS), Some(91 * MS)), 145 * MS),
            Verdict::Ask
        );
        let told = holding.look(sight(95 * MS, Some(MS), Some(91 * MS)), 195 * MS);
        assert_eq!(told, Verdict::TooLong(100 * MS));
        // It lets go, and holds it again.
        assert_eq!(
            holding.look(sight(95 * MS, Some(200 * MS), None), 210 * MS),
            Verdict::Quiet
        );
        assert_eq!(
            holding.look(sight(95 * MS, Some(200 * MS), None), 900 * MS),
            Verdict::Quiet
        );
        assert_eq!(
            holding.look(sight(901 * MS, Some(200 * MS), None), 902 * MS),
            Verdict::Until(951 * MS)
        );
    }

    #[test]
    fn who_was_passed_over_has_to_ask_again() {
        let mut holding = Holding::new(10 * MS);
        let sight = sight(100 * MS, Some(99 * MS), Some(50 * MS));
        assert_eq!(holding.look(sight, 105 * MS), Verdict::Ask);
        assert_eq!(holding.look(sight, 111 * MS), Verdict::Until(120 * MS));
        assert_eq!(holding.look(sight, 120 * MS), Verdict::TooLong(20 * MS));
    }

    #[test]
    fn a_tiny_limit_does_not_look_without_a_break() {
        let mut holding = Holding::new(1);
        assert_eq!(holding.look(sight(1, None, None), 1), Verdict::Until(1 + SOON));
    }
}
