//! The descriptor that a thread of this process polls, where it is but one: `settimeout` of a socket, `select` on one.

use plait_sys::peek::Memory;

use crate::calls::On;

/// Descriptors that a set of `select` is looked at for.
const MOST: usize = 1024;

/// The one descriptor that a call with these arguments polls; None where there are several, or it polls none, or memory is not there.
pub(super) fn descriptor(on: On, arguments: &[u64; 6]) -> Option<i32> {
    match on {
        On::Polled => polled(arguments),
        On::Selected => selected(arguments),
        _ => None,
    }
}

/// Of `poll`: an array of `struct pollfd`, and how many there are.
fn polled(arguments: &[u64; 6]) -> Option<i32> {
    if arguments[1] != 1 {
        return None;
    }
    let mut descriptor = [0; 4];
    let address = usize::try_from(arguments[0]).ok()?;
    Memory::own().read(address, &mut descriptor).ok()?;
    Some(i32::from_ne_bytes(descriptor))
}

/// Of `select`: how many bits the three sets have, and where they are.
fn selected(arguments: &[u64; 6]) -> Option<i32> {
    let count = usize::try_from(arguments[0] as u32).ok()?;
    if count > MOST {
        return None;
    }
    let mut found = None;
    for &address in &arguments[1..4] {
        if address == 0 {
            continue;
        }
        for (at, word) in words(address, count.div_ceil(64))?.into_iter().enumerate() {
            let mut left = word;
            while left != 0 {
                let descriptor = i32::try_from(64 * at).ok()? + left.trailing_zeros() as i32;
                if found.is_some_and(|found| found != descriptor) {
                    return None;
                }
                found = Some(descriptor);
                left &= left - 1;
            }
        }
    }
    found
}

fn words(address: u64, count: usize) -> Option<Vec<u64>> {
    let mut bytes = vec![0; 8 * count];
    Memory::own().read(usize::try_from(address).ok()?, &mut bytes).ok()?;
    let words = bytes.chunks_exact(8).map(|word| {
        let mut bytes = [0; 8];
        bytes.copy_from_slice(word);
        u64::from_ne_bytes(bytes)
    });
    Some(words.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address<T>(of: &T) -> u64 {
        std::ptr::from_ref(of) as u64
    }

    #[test]
    fn one_descriptor_of_a_poll() {
        let polled = [[7_i32, 1], [9, 1]];
        let of = |count, at| descriptor(On::Polled, &[at, count, 0, 0, 0, 0]);
        assert_eq!(of(1, address(&polled)), Some(7));
        assert_eq!(of(2, address(&polled)), None);
        assert_eq!(of(1, 8), None, "nothing is there");
        assert_eq!(descriptor(On::Nothing, &[address(&polled), 1, 0, 0, 0, 0]), None);
    }

    #[test]
    fn one_descriptor_of_a_select() {
        let set = |descriptors: &[usize]| {
            let mut set = [0_u64; 16];
            for &each in descriptors {
                set[each / 64] |= 1 << (each % 64);
            }
            set
        };
        let (one, same, other, none) = (set(&[70]), set(&[70]), set(&[3]), set(&[]));
        let of = |count, sets: [u64; 3]| descriptor(On::Selected, &[count, sets[0], sets[1], sets[2], 0, 0]);
        assert_eq!(of(71, [address(&one), 0, 0]), Some(70));
        assert_eq!(of(71, [0, address(&one), address(&same)]), Some(70));
        assert_eq!(of(71, [address(&one), address(&other), 0]), None);
        assert_eq!(of(71, [address(&none), 0, 0]), None);
        assert_eq!(of(0, [0, 0, 0]), None);
        assert_eq!(of(71, [8, 0, 0]), None, "nothing is there");
        assert_eq!(of(1 << 20, [address(&one), 0, 0]), None);
    }
}
