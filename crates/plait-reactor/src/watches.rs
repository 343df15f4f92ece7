//! Who waits for which descriptor. A token names a descriptor and its owner, so that what the kernel still has to say to
//! an owner who left never reaches the next one of that number.

use plait_sys::epoll::Interest;

/// Who waits for one descriptor.
#[derive(Debug)]
struct Watch<H> {
    /// Counts the owners; part of the token.
    generation: u32,
    reader: Option<H>,
    writer: Option<H>,
}

impl<H> Watch<H> {
    fn interest(&self) -> Interest {
        Interest {
            read: self.reader.is_some(),
            write: self.writer.is_some(),
        }
    }
}

/// One side of a descriptor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// Readable, hung up or in error.
    Read,
    /// Writable, hung up or in error.
    Write,
}

/// Who waits for which descriptor, by its number.
#[derive(Debug)]
pub struct Watches<H> {
    by_fd: Vec<Watch<H>>,
    count: usize,
}

impl<H> Default for Watches<H> {
    fn default() -> Self {
        Self {
            by_fd: Vec::new(),
            count: 0,
        }
    }
}

impl<H> Watches<H> {
    /// What the owner of the descriptor waits for.
    #[must_use]
    pub fn interest(&self, fd: u32) -> Interest {
        self.by_fd.get(fd as usize).map_or(Interest::NONE, Watch::interest)
    }

    /// The token of the descriptor's present owner.
    #[must_use]
    pub fn token(&self, fd: u32) -> u64 {
        let generation = self.by_fd.get(fd as usize).map_or(0, |watch| watch.generation);
        u64::from(generation) << 32 | u64::from(fd)
    }

    /// A token that was never told: the number is another file's, and nothing that is still told of the former one counts.
    pub fn next_token(&mut self, fd: u32) -> u64 {
        if let Some(watch) = self.by_fd.get_mut(fd as usize) {
            watch.generation = watch.generation.wrapping_add(1);
        }
        self.token(fd)
    }

    /// The descriptors that are waited for, with their tokens and what for.
    pub fn registrations(&self) -> impl Iterator<Item = (u32, u64, Interest)> {
        (0_u32..)
            .zip(&self.by_fd)
            .map(|(fd, watch)| (fd, self.token(fd), watch.interest()))
            .filter(|(.., interest)| !interest.is_none())
    }

    /// Who waits on that side.
    #[must_use]
    pub fn get(&self, fd: u32, side: Side) -> Option<&H> {
        let watch = self.by_fd.get(fd as usize)?;
        match side {
            Side::Read => watch.reader.as_ref(),
            Side::Write => watch.writer.as_ref(),
        }
    }

    /// How many descriptors are waited for.
    #[must_use]
    pub fn count(&self) -> usize {
        self.count
    }

    /// Puts `who` on that side, or nobody; returns who was there. Who leaves a descriptor alone is its last owner of this
    /// generation.
    pub fn set(&mut self, fd: u32, side: Side, who: Option<H>) -> Option<H> {
        let index = fd as usize;
        if index >= self.by_fd.len() {
            who.as_ref()?;
            self.by_fd.resize_with(index + 1, || Watch {
                generation: 0,
                reader: None,
                writer: None,
            });
        }
        let watch = &mut self.by_fd[index];
        let before = watch.interest();
        let old = match side {
            Side::Read => std::mem::replace(&mut watch.reader, who),
            Side::Write => std::mem::replace(&mut watch.writer, who),
        };
        match (before.is_none(), watch.interest().is_none()) {
            (true, false) => self.count += 1,
            (false, true) => {
                self.count -= 1;
                watch.generation = watch.generation.wrapping_add(1);
            }
            _ => {}
        }
        old
    }

    /// The descriptor that a token names, if its owner is still the same.
    #[inline]
    #[must_use]
    pub fn owner(&self, token: u64) -> Option<u32> {
        let fd = token as u32;
        let watch = self.by_fd.get(fd as usize)?;
        (watch.generation == (token >> 32) as u32).then_some(fd)
    }

    /// All who wait.
    pub fn iter(&self) -> impl Iterator<Item = &H> {
        self.by_fd
            .iter()
            .flat_map(|watch| watch.reader.iter().chain(&watch.writer))
    }

    /// Takes out all who wait.
    #[must_use]
    pub fn take(&mut self) -> Vec<H> {
        self.count = 0;
        let all = std::mem::take(&mut self.by_fd);
        all.into_iter()
            .flat_map(|watch| watch.reader.into_iter().chain(watch.writer))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_sides_of_a_descriptor_are_one_owner() {
        let mut watches = Watches::default();
        assert_eq!(watches.set(7, Side::Read, Some("r")), None);
        let token = watches.token(7);
        assert_eq!(watches.set(7, Side::Write, Some("w")), None);
        assert_eq!(watches.set(7, Side::Read, None), Some("r"));
        assert_eq!((watches.token(7), watches.count()), (token, 1));
        assert_eq!(
            watches.interest(7),
            Interest {
                read: false,
                write: true
            }
        );
        assert_eq!(watches.owner(token), Some(7));
    }

    #[test]
    fn a_token_of_an_owner_who_left_reaches_nobody() {
        let mut watches = Watches::default();
        watches.set(3, Side::Read, Some(1));
        let token = watches.token(3);
        assert_eq!(watches.set(3, Side::Read, None), Some(1));
        assert_eq!(watches.owner(token), None);
        watches.set(3, Side::Read, Some(2));
        assert_eq!(watches.owner(token), None, "the next owner of the number is not asked");
        assert_eq!(watches.owner(watches.token(3)), Some(3));
    }

    #[test]
    fn a_token_that_is_renewed_keeps_who_waits() {
        let mut watches = Watches::default();
        watches.set(3, Side::Read, Some(1));
        let token = watches.token(3);
        let next = watches.next_token(3);
        assert_eq!((watches.owner(token), watches.owner(next)), (None, Some(3)));
        assert_eq!(watches.get(3, Side::Read), Some(&1));
        let read = Interest::NONE.with(true, false);
        assert_eq!(watches.registrations().collect::<Vec<_>>(), [(3, next, read)]);
    }

    #[test]
    fn removing_nobody_changes_nothing() {
        let mut watches = Watches::<u8>::default();
        assert_eq!(watches.set(1_000_000, Side::Write, None), None);
        assert!(watches.by_fd.is_empty());
        watches.set(2, Side::Write, Some(1));
        let token = watches.token(2);
        assert_eq!(watches.set(2, Side::Read, None), None);
        assert_eq!(watches.owner(token), Some(2));
        assert_eq!(watches.take(), [1]);
        assert_eq!((watches.count(), watches.owner(token)), (0, None));
    }
}
