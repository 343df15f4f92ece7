//! Lines of instructions: the location table of a code object (`co_linetable`, 3.11 and later).

/// Lines by instruction, as runs.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Lines {
    /// The first instruction after a run, and the line of the run, 0 for none.
    runs: Box<[(u32, u32)]>,
}

/// Where an entry has no line.
const NO_LOCATION: u8 = 15;
const LONG: u8 = 14;
const NO_COLUMNS: u8 = 13;
const ONE_LINE: std::ops::RangeInclusive<u8> = 10..=12;

impl Lines {
    /// Reads a table; one that is cut off or makes no sense gives what came before.
    pub(crate) fn decode(table: &[u8], first_line: u32) -> Lines {
        let mut bytes = table.iter().copied();
        let mut runs: Vec<(u32, u32)> = Vec::new();
        let mut line = i64::from(first_line);
        let mut end = 0u32;
        while let Some((units, delta)) = entry(&mut bytes) {
            end = end.saturating_add(units);
            line += delta.unwrap_or(0);
            let shown = delta.and_then(|_| u32::try_from(line).ok()).unwrap_or(0);
            match runs.last_mut() {
                Some(last) if last.1 == shown => last.0 = end,
                _ => runs.push((end, shown)),
            }
        }
        Lines { runs: runs.into() }
    }

    /// The line of an instruction, by its number.
    pub(crate) fn of(&self, instruction: u32) -> Option<u32> {
        let run = self.runs.partition_point(|&(end, _)| end <= instruction);
        self.runs.get(run).map(|&(_, line)| line).filter(|&line| line > 0)
    }
}

/// How many instructions an entry is for, and by how many lines it is further; None for one without a line.
fn entry(bytes: &mut impl Iterator<Item = u8>) -> Option<(u32, Option<i64>)> {
    let first = bytes.next()?;
    if first & 0x80 == 0 {
        return None;
    }
    let units = u32::from(first & 7) + 1;
    let kind = first >> 3 & 15;
    let (delta, columns) = match kind {
        NO_LOCATION => (None, 0),
        LONG => {
            let delta = signed(bytes)?;
            // The last line, and two columns: each as long as it likes.
            for _ in 0..3 {
                varint(bytes)?;
            }
            (Some(delta), 0)
        }
        NO_COLUMNS => (Some(signed(bytes)?), 0),
        kind if ONE_LINE.contains(&kind) => (Some(i64::from(kind - ONE_LINE.start())), 2),
        _ => (Some(0), 1),
    };
    for _ in 0..columns {
        bytes.next()?;
    }
    Some((units, delta))
}

fn varint(bytes: &mut impl Iterator<Item = u8>) -> Option<u64> {
    let mut value = 0u64;
    for shift in (0..60).step_by(6) {
        let byte = bytes.next()?;
        value |= u64::from(byte & 63) << shift;
        if byte & 64 == 0 {
            return Some(value);
        }
    }
    None
}

fn signed(bytes: &mut impl Iterator<Item = u8>) -> Option<i64> {
    let value = varint(bytes)?;
    let size = i64::try_from(value >> 1).ok()?;
    Some(if value & 1 == 1 { -size } else { size })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_of_entry() {
        let table = [
            0x80 | 15 << 3, // one instruction without a line
            0x80 | 11 << 3 | 1,
            0,
            0, // two, a line further
            0x80 | 3 << 3,
            0, // one, the same line
            0x80 | 13 << 3,
            0b101, // one, two lines back
            0x80 | 14 << 3 | 7,
            0x40 | 8,
            1,
            0,
            0,
            0, // eight, by a number of two bytes: (8 | 1 << 6) / 2 = 36 further
        ];
        let lines = Lines::decode(&table, 10);
        assert_eq!(lines.of(0), None);
        assert_eq!([1, 2, 3].map(|at| lines.of(at)), [Some(11); 3]);
        assert_eq!(lines.of(4), Some(9));
        assert_eq!([5, 12].map(|at| lines.of(at)), [Some(45); 2]);
        assert_eq!(lines.of(13), None);
    }

    #[test]
    fn nonsense_ends() {
        assert_eq!(Lines::decode(&[0x80 | 14 << 3, 0x7f, 0x7f], 1), Lines::default());
        assert_eq!(Lines::decode(&[0x01, 0x80], 1), Lines::default());
        assert_eq!(Lines::decode(&[0xff; 5], u32::MAX).of(0), None);
    }
}
