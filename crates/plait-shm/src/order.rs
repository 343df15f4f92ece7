//! In which order locks are taken: whether two parties could ever wait for one another.
//!
//! That a lock is taken by somebody who has another is an *order*. Orders that form a circle are a deadlock that has not happened yet, unless
//! a lock that was held around each of them keeps their parties from meeting.

use std::collections::{HashMap, HashSet, VecDeque};

/// A lock, for ever.
pub type Lock = u64;

/// One lock taken by somebody who has another.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Order {
    /// The lock that was held.
    pub held: Lock,
    /// The one that was taken.
    pub taken: Lock,
}

/// What is known of orders.
#[derive(Default, Debug)]
pub struct Orders {
    /// By the lock that was held and the one that was taken: those that were held each time beside them.
    after: HashMap<Lock, HashMap<Lock, HashSet<Lock>>>,
    /// By the lock that was taken: those that were held.
    before: HashMap<Lock, HashSet<Lock>>,
    /// By each lock of an order that was told of: the other one.
    told: HashMap<Lock, HashSet<Lock>>,
}

/// What a new order came to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Noted {
    /// It was known.
    Known,
    /// It is new, and at odds with no other.
    New,
    /// It closes a circle, of these orders: itself first, then each held the lock that the one before has taken. `new` says whether
    /// it was not known.
    Inverts {
        /// The orders.
        circle: Vec<Order>,
        /// Whether the order itself was not known before.
        new: bool,
    },
}

impl Orders {
    /// Somebody who has `order.held`, and `beside` too, takes `order.taken`.
    pub fn note(&mut self, order: Order, beside: &[Lock]) -> Noted {
        let others: HashSet<Lock> = beside.iter().copied().filter(|&lock| lock != order.held).collect();
        let known = self.after.entry(order.held).or_default();
        let (new, fewer) = match known.get_mut(&order.taken) {
            None => {
                known.insert(order.taken, others);
                self.before.entry(order.taken).or_default().insert(order.held);
                (true, true)
            }
            Some(kept) => {
                let before = kept.len();
                kept.retain(|lock| others.contains(lock));
                (false, kept.len() < before)
            }
        };
        let told = self.told.get(&order.held);
        if !fewer || told.is_some_and(|others| others.contains(&order.taken)) {
            return if new { Noted::New } else { Noted::Known };
        }
        match self.way_back(order) {
            Some(circle) if self.free(&circle) => {
                for each in &circle {
                    self.told.entry(each.held).or_default().insert(each.taken);
                    self.told.entry(each.taken).or_default().insert(each.held);
                }
                Noted::Inverts { circle, new }
            }
            _ if new => Noted::New,
            _ => Noted::Known,
        }
    }

    /// A lock that is gone: the orders that it was in. It takes as long as there are those.
    pub fn forget(&mut self, lock: Lock) -> Vec<Order> {
        let mut gone = Vec::new();
        for taken in self.after.remove(&lock).into_iter().flat_map(HashMap::into_keys) {
            gone.push(Order { held: lock, taken });
            take_out(&mut self.before, taken, |held| held.remove(&lock), HashSet::is_empty);
        }
        for held in self.before.remove(&lock).into_iter().flatten() {
            gone.push(Order { held, taken: lock });
            take_out(
                &mut self.after,
                held,
                |taken| taken.remove(&lock).is_some(),
                HashMap::is_empty,
            );
        }
        for other in self.told.remove(&lock).into_iter().flatten() {
            take_out(&mut self.told, other, |others| others.remove(&lock), HashSet::is_empty);
        }
        gone
    }

    /// Whether no lock was held around all of them.
    fn free(&self, circle: &[Order]) -> bool {
        let mut around = self.around(circle[0]).clone();
        for &order in &circle[1..] {
            let other = self.around(order);
            around.retain(|lock| other.contains(lock));
        }
        around.is_empty()
    }

    fn around(&self, order: Order) -> &HashSet<Lock> {
        &self.after[&order.held][&order.taken]
    }

    /// The shortest way by which `order.held` was taken after `order.taken`.
    fn way_back(&self, order: Order) -> Option<Vec<Order>> {
        let mut from: HashMap<Lock, Lock> = HashMap::new();
        let mut edge = VecDeque::from([order.taken]);
        while let Some(held) = edge.pop_front() {
            for &taken in self.after.get(&held).into_iter().flat_map(HashMap::keys) {
                if taken == order.held {
                    let mut way = vec![Order { held, taken }];
                    let mut at = held;
                    while at != order.taken {
                        let before = from[&at];
                        way.push(Order {
                            held: before,
                            taken: at,
                        });
                        at = before;
                    }
                    way.push(order);
                    way.reverse();
                    return Some(way);
                }
                if taken != order.taken && !from.contains_key(&taken) {
                    from.insert(taken, held);
                    edge.push_back(taken);
                }
            }
        }
        None
    }
}

/// Takes something out of what is kept for `lock`, and that too once it is empty.
fn take_out<T>(map: &mut HashMap<Lock, T>, lock: Lock, remove: impl Fn(&mut T) -> bool, empty: impl Fn(&T) -> bool) {
    if let Some(kept) = map.get_mut(&lock)
        && remove(kept)
        && empty(kept)
    {
        map.remove(&lock);
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    const fn order(held: Lock, taken: Lock) -> Order {
        Order { held, taken }
    }

    #[test]
    fn the_same_order_is_fine_and_the_other_is_told_once() {
        let mut orders = Orders::default();
        assert_eq!(orders.note(order(1, 2), &[1]), Noted::New);
        assert_eq!(orders.note(order(1, 2), &[1]), Noted::Known);
        let inverted = Noted::Inverts {
            circle: vec![order(2, 1), order(1, 2)],
            new: true,
        };
        assert_eq!(orders.note(order(2, 1), &[2]), inverted);
        assert_eq!(orders.note(order(2, 1), &[2]), Noted::Known);
        assert_eq!(orders.note(order(1, 2), &[1]), Noted::Known);
    }

    #[test]
    fn a_circle_of_three_is_told_in_order() {
        let mut orders = Orders::default();
        assert_eq!(orders.note(order(1, 2), &[1]), Noted::New);
        assert_eq!(orders.note(order(2, 3), &[2]), Noted::New);
        let inverted = Noted::Inverts {
            circle: vec![order(3, 1), order(1, 2), order(2, 3)],
            new: true,
        };
        assert_eq!(orders.note(order(3, 1), &[3]), inverted);
    }

    #[test]
    fn a_lock_around_both_keeps_them_apart_until_one_is_seen_without_it() {
        let mut orders = Orders::default();
        assert_eq!(orders.note(order(1, 2), &[9, 1]), Noted::New);
        assert_eq!(orders.note(order(2, 1), &[9, 2]), Noted::New);
        let inverted = Noted::Inverts {
            circle: vec![order(1, 2), order(2, 1)],
            new: false,
        };
        assert_eq!(orders.note(order(1, 2), &[1]), inverted);
    }

    #[test]
    fn a_lock_that_is_gone_has_no_order() {
        let mut orders = Orders::default();
        assert_eq!(orders.note(order(1, 2), &[1]), Noted::New);
        assert_eq!(orders.forget(2), [order(1, 2)]);
        assert_eq!(orders.note(order(2, 1), &[2]), Noted::New);
        assert_eq!(orders.forget(1), [order(2, 1)]);
        assert_eq!(orders.note(order(1, 2), &[1]), Noted::New);
        assert!(matches!(orders.note(order(2, 1), &[2]), Noted::Inverts { .. }));
        assert_eq!(orders.forget(1), [order(1, 2), order(2, 1)]);
        assert_eq!(orders.forget(2), []);
        assert!(orders.after.is_empty() && orders.before.is_empty() && orders.told.is_empty());
    }
}
