//! How much to read at once: from a connection's last reads.
//!
//! Small reads go through one buffer that all connections share, so that an idle one holds no memory. A read that fills it
//! says that there is more: the next ones get room of their own, which grows while it is filled and goes after some
//! reads that would have fitted the shared buffer.

/// The size of the shared buffer, in bytes.
pub const SHARED: usize = 64 * 1024;

/// The largest read.
const MOST: usize = 256 * 1024;

/// So many small reads in a row end the large ones.
const SMALL_READS: u8 = 16;

/// A connection's habit.
#[derive(Clone, Copy, Debug, Default)]
pub struct Reads {
    /// Doublings of `SHARED`; 0 is the shared buffer.
    doublings: u8,
    small: u8,
}

impl Reads {
    /// Of one that has not read yet.
    pub const NONE: Self = Self { doublings: 0, small: 0 };

    /// How much room the next read gets of its own; `None`: the shared buffer.
    #[must_use]
    pub fn room(&self) -> Option<usize> {
        (self.doublings > 0).then_some(SHARED << self.doublings)
    }

    /// A read gave so many bytes.
    pub fn got(&mut self, bytes: usize) {
        let room = SHARED << self.doublings;
        if bytes > SHARED {
            self.small = 0;
        } else if self.doublings > 0 && bytes < SHARED {
            self.small += 1;
        }
        if bytes >= room && room < MOST {
            self.doublings += 1;
        } else if self.small >= SMALL_READS {
            *self = Self::default();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(reads: &[usize]) -> Option<usize> {
        let mut habit = Reads::default();
        reads.iter().for_each(|&bytes| habit.got(bytes));
        habit.room()
    }

    #[test]
    fn small_reads_share_a_buffer() {
        assert_eq!(after(&[]), None);
        assert_eq!(after(&[1, SHARED - 1, 5]), None);
    }

    #[test]
    fn room_grows_while_it_is_filled_up_to_a_limit() {
        assert_eq!(after(&[SHARED]), Some(2 * SHARED));
        assert_eq!(after(&[SHARED, 2 * SHARED]), Some(MOST));
        assert_eq!(after(&[SHARED, 2 * SHARED, MOST, MOST]), Some(MOST));
        assert_eq!(after(&[SHARED, 100_000, 36_000, 100_000]), Some(2 * SHARED));
    }

    #[test]
    fn only_small_reads_in_a_row_end_large_ones() {
        let mut reads = vec![SHARED];
        reads.extend([9; SMALL_READS as usize - 1]);
        assert_eq!(after(&reads), Some(2 * SHARED));
        reads.push(100_000);
        reads.extend([9; SMALL_READS as usize - 1]);
        assert_eq!(after(&reads), Some(2 * SHARED));
        reads.push(9);
        assert_eq!(after(&reads), None);
    }
}
