//! Which descriptors have an owner of their own, so that nobody else watches them meanwhile.

use std::os::fd::RawFd;

/// A set of descriptors.
#[derive(Debug, Default)]
pub struct Claims {
    words: Vec<u64>,
}

fn place(fd: RawFd) -> Option<(usize, u64)> {
    let fd = usize::try_from(fd).ok()?;
    Some((fd / 64, 1 << (fd % 64)))
}

impl Claims {
    /// Whether it has an owner.
    #[must_use]
    pub fn has(&self, fd: RawFd) -> bool {
        place(fd).is_some_and(|(word, bit)| self.words.get(word).is_some_and(|word| word & bit != 0))
    }

    /// It has one, or none any more.
    pub fn set(&mut self, fd: RawFd, has: bool) {
        let Some((word, bit)) = place(fd) else { return };
        if has && word >= self.words.len() {
            self.words.resize(word + 1, 0);
        }
        if let Some(word) = self.words.get_mut(word) {
            *word = if has { *word | bit } else { *word & !bit };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_descriptor_is_in_it_from_its_claim_to_its_release() {
        let mut claims = Claims::default();
        claims.set(9999, false);
        for fd in [0, 63, 64, 700] {
            assert!(!claims.has(fd));
            claims.set(fd, true);
            assert!(claims.has(fd) && !claims.has(fd + 1));
        }
        claims.set(64, false);
        claims.set(-1, true);
        assert_eq!(
            [0, 63, 64, 700, -1].map(|fd| claims.has(fd)),
            [true, true, false, true, false]
        );
    }
}
