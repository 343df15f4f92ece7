//! Who waits for whom: the search for a circle.
//!
//! A party that waits is a *wait*; another *blocks* it whose own wait has to end before that one can: the wait of whoever has the lock,
//! or of the thread in which that one would have to run. Each of those is needed, so a circle of waits is one that no party of it can leave.
//!
//! What blocks a wait changes while somebody looks. So a circle that was found is looked at [once more](stands): where each of its steps is
//! still there, all of them were there between the two looks, each at the same time as the others. A wait must be known by a name that
//! no later wait has, of the same party neither.

use std::collections::HashMap;
use std::hash::Hash;

/// Where to look.
pub trait Blocking {
    /// A wait, for ever.
    type Wait: Copy + Eq + Hash;

    /// Adds the waits that block this one.
    fn blocked_by(&mut self, wait: Self::Wait, found: &mut Vec<Self::Wait>);
}

/// The shortest circle in which `start` waits: each wait is blocked by the next, and the last by the first, which is `start`. None where
/// there is none.
pub fn circle<B: Blocking>(look: &mut B, start: B::Wait) -> Option<Vec<B::Wait>> {
    // From each wait that was reached, the one that it blocks.
    let mut reached = HashMap::new();
    let (mut edge, mut next, mut found) = (vec![start], Vec::new(), Vec::new());
    while !edge.is_empty() {
        for wait in edge.drain(..) {
            look.blocked_by(wait, &mut found);
            for blocker in found.drain(..) {
                if blocker == start {
                    return Some(back(&reached, start, wait));
                }
                reached.entry(blocker).or_insert_with(|| {
                    next.push(blocker);
                    wait
                });
            }
        }
        std::mem::swap(&mut edge, &mut next);
    }
    None
}

/// The way from `start` to `last`.
fn back<W: Copy + Eq + Hash>(reached: &HashMap<W, W>, start: W, last: W) -> Vec<W> {
    let mut way = vec![last];
    let mut at = last;
    while at != start {
        at = reached[&at];
        way.push(at);
    }
    way.reverse();
    way
}

/// Whether each wait of a circle is still blocked by the next.
pub fn stands<B: Blocking>(look: &mut B, circle: &[B::Wait]) -> bool {
    let mut found = Vec::new();
    circle.iter().enumerate().all(|(at, &wait)| {
        found.clear();
        look.blocked_by(wait, &mut found);
        found.contains(&circle[(at + 1) % circle.len()])
    })
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    /// Waits by number, and what blocks each.
    struct Drawn(Vec<Vec<usize>>);

    impl Blocking for Drawn {
        type Wait = usize;

        fn blocked_by(&mut self, wait: usize, found: &mut Vec<usize>) {
            found.extend(&self.0[wait]);
        }
    }

    /// Numbers that look random and are the same each time.
    struct Dice(u64);

    impl Dice {
        fn below(&mut self, limit: usize) -> usize {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            (self.0 % limit as u64) as usize
        }
    }

    fn drawn(dice: &mut Dice) -> Drawn {
        let size = 1 + dice.below(9);
        let mut waits = vec![Vec::new(); size];
        for _ in 0..dice.below(2 * size + 1) {
            let (from, to) = (dice.below(size), dice.below(size));
            waits[from].push(to);
        }
        Drawn(waits)
    }

    /// In how few steps each can be reached from each, one at least: Floyd and Warshall.
    fn distances(drawn: &Drawn) -> Vec<Vec<usize>> {
        const FAR: usize = usize::MAX / 2;
        let size = drawn.0.len();
        let mut steps = vec![vec![FAR; size]; size];
        for (from, blockers) in drawn.0.iter().enumerate() {
            blockers.iter().for_each(|&to| steps[from][to] = 1);
        }
        for via in 0..size {
            for from in 0..size {
                for to in 0..size {
                    steps[from][to] = steps[from][to].min(steps[from][via] + steps[via][to]);
                }
            }
        }
        steps
    }

    #[test]
    fn a_circle_is_found_where_there_is_one_and_is_the_shortest() {
        let mut dice = Dice(0x9e37_79b9_7f4a_7c15);
        for _ in 0..20_000 {
            let mut drawn = drawn(&mut dice);
            let steps = distances(&drawn);
            for (start, steps) in steps.iter().enumerate() {
                match circle(&mut drawn, start) {
                    None => assert!(steps[start] > drawn.0.len(), "one was missed"),
                    Some(found) => {
                        assert_eq!((found[0], found.len()), (start, steps[start]));
                        assert!(stands(&mut drawn, &found));
                    }
                }
            }
        }
    }

    #[test]
    fn a_circle_that_loses_a_step_does_not_stand() {
        let mut drawn = Drawn(vec![vec![1], vec![2], vec![0, 1]]);
        let found = circle(&mut drawn, 0).expect("one is there");
        assert_eq!(found, [0, 1, 2]);
        for gone in 0..3 {
            let mut less = Drawn(drawn.0.clone());
            less.0[gone].retain(|&blocker| blocker != found[(gone + 1) % 3]);
            assert!(!stands(&mut less, &found));
        }
    }
}
