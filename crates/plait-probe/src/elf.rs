//! Where a loaded object keeps the addresses of the functions that it calls: the slots of its global offset table.
//!
//! Everything is read through the kernel, from the object as it lies in memory: the program's header says where the dynamic section is, and
//! that where relocations, symbols and names are. Both tables of relocations are looked through, since a compiler may call through
//! a slot of either (with `-fno-plt`, the one that data uses).

use std::io;

use crate::memory::Memory;

const PT_LOAD: u32 = 1;
const PT_DYNAMIC: u32 = 2;

const DT_PLTRELSZ: u64 = 2;
const DT_STRTAB: u64 = 5;
const DT_SYMTAB: u64 = 6;
const DT_RELA: u64 = 7;
const DT_RELASZ: u64 = 8;
const DT_STRSZ: u64 = 10;
const DT_PLTREL: u64 = 20;
const DT_JMPREL: u64 = 23;

/// Relocations whose slot holds a function's address: that of the PLT, and that of data.
#[cfg(target_arch = "x86_64")]
const KINDS: [u32; 2] = [7, 6];
#[cfg(target_arch = "aarch64")]
const KINDS: [u32; 2] = [1026, 1025];
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
const KINDS: [u32; 0] = [];

const RELA: usize = 24;
const SYMBOL: usize = 24;
/// Tables that are larger than this are none.
const MOST: u64 = 1 << 28;

/// The slots of the object which begins at `base`, for the function of each name, in their order.
pub(crate) fn slots<const N: usize>(memory: &Memory, base: usize, names: [&str; N]) -> io::Result<[Vec<usize>; N]> {
    let dynamic = Dynamic::read(memory, base)?;
    let tables = dynamic.relocations(memory)?;
    let calls: Vec<(usize, u64)> = tables
        .iter()
        .flat_map(|table| table.chunks_exact(RELA))
        .map(|entry| (word(entry, 0) as usize, word(entry, 8)))
        .filter(|&(_, info)| KINDS.contains(&(info as u32)))
        .map(|(offset, info)| (offset, info >> 32))
        .collect();
    // By one call of the kernel: there are thousands.
    let last = calls.iter().map(|&(_, symbol)| symbol).max().unwrap_or(0);
    let size = Some((last + 1) * SYMBOL as u64).filter(|&size| size < MOST);
    let size = size.ok_or_else(no_object)? as usize;
    let symbols = Symbols {
        symbols: memory.bytes(dynamic.address(DT_SYMTAB)?, size)?,
        strings: memory.bytes(dynamic.address(DT_STRTAB)?, dynamic.size(DT_STRSZ)?)?,
    };
    let mut found = std::array::from_fn(|_| Vec::new());
    for (offset, symbol) in calls {
        if let Some(index) = symbols.which(symbol as usize, &names)? {
            found[index].push(dynamic.bias.wrapping_add(offset));
        }
    }
    Ok(found)
}

fn no_object() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "not an object of the dynamic linker")
}

fn word(bytes: &[u8], at: usize) -> u64 {
    u64::from_ne_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

fn half(bytes: &[u8], at: usize) -> u32 {
    u32::from_ne_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

/// The entries of the dynamic section, and what is to be added to addresses of the file.
struct Dynamic {
    base: usize,
    bias: usize,
    entries: Vec<u8>,
}

impl Dynamic {
    fn read(memory: &Memory, base: usize) -> io::Result<Dynamic> {
        let header = memory.bytes(base, 64)?;
        // Of 64 bits, in the byte order of this machine.
        let order = if cfg!(target_endian = "little") { 1 } else { 2 };
        if !header.starts_with(b"\x7fELF") || header[4] != 2 || header[5] != order {
            return Err(no_object());
        }
        let (place, size) = (word(&header, 32), half(&header, 54) & 0xFFFF);
        let count = half(&header, 56) & 0xFFFF;
        let place = usize::try_from(place).map_err(|_| no_object())?;
        let programs = memory.bytes(base.wrapping_add(place), size as usize * count as usize)?;
        let programs = || programs.chunks_exact(56.max(size as usize));
        let first = programs()
            .filter(|each| half(each, 0) == PT_LOAD)
            .map(|each| word(each, 16))
            .min();
        // An object is mapped from the page of its first segment on.
        let bias = base.wrapping_sub(first.ok_or_else(no_object)? as usize & !0xFFF);
        let dynamic = programs()
            .find(|each| half(each, 0) == PT_DYNAMIC)
            .ok_or_else(no_object)?;
        let len = Some(word(dynamic, 40))
            .filter(|&len| len < MOST)
            .ok_or_else(no_object)?;
        let entries = memory.bytes(bias.wrapping_add(word(dynamic, 16) as usize), len as usize)?;
        Ok(Dynamic { base, bias, entries })
    }

    fn value(&self, tag: u64) -> Option<u64> {
        let entries = self
            .entries
            .chunks_exact(16)
            .map(|entry| (word(entry, 0), word(entry, 8)));
        entries
            .take_while(|&(each, _)| each != 0)
            .find(|&(each, _)| each == tag)
            .map(|(_, value)| value)
    }

    /// An entry that is an address: some linkers replace what the file says by where it lies, others do not.
    fn address(&self, tag: u64) -> io::Result<usize> {
        let value = self.value(tag).ok_or_else(no_object)? as usize;
        Ok(if value >= self.base {
            value
        } else {
            self.bias.wrapping_add(value)
        })
    }

    fn size(&self, tag: u64) -> io::Result<usize> {
        let size = self.value(tag).filter(|&size| size < MOST);
        size.map(|size| size as usize).ok_or_else(no_object)
    }

    /// The tables there are, as they lie in memory.
    fn relocations(&self, memory: &Memory) -> io::Result<Vec<Vec<u8>>> {
        let mut tables = Vec::new();
        // What relocates calls may have no addends: not on the machines whose kinds are known here.
        if self.value(DT_JMPREL).is_some() && self.value(DT_PLTREL) == Some(DT_RELA) {
            tables.push(memory.bytes(self.address(DT_JMPREL)?, self.size(DT_PLTRELSZ)?)?);
        }
        if self.value(DT_RELA).is_some() {
            tables.push(memory.bytes(self.address(DT_RELA)?, self.size(DT_RELASZ)?)?);
        }
        Ok(tables)
    }
}

struct Symbols {
    symbols: Vec<u8>,
    strings: Vec<u8>,
}

impl Symbols {
    /// Which of the names the symbol of that number, which was read, has.
    fn which(&self, number: usize, names: &[&str]) -> io::Result<Option<usize>> {
        let symbol = &self.symbols[number * SYMBOL..];
        let name = self.strings.get(half(symbol, 0) as usize..).ok_or_else(no_object)?;
        let len = name.iter().position(|&byte| byte == 0).ok_or_else(no_object)?;
        Ok(names.iter().position(|each| each.as_bytes() == &name[..len]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use plait_sys::loader;

    #[test]
    fn the_slots_of_this_program_hold_the_functions_that_it_calls() {
        let memory = Memory::open().expect("memory");
        let base = loader::object_of(slots::<1> as *const () as usize).expect("this program");
        let [write, nothing] = slots(&memory, base, ["write", "no such function"]).expect("an object");
        let [real, _] = [loader::function(c"write").expect("there is one"), 0];
        assert!(!write.is_empty() && nothing.is_empty());
        for slot in write {
            assert_eq!(memory.word(slot).expect("mapped") as usize, real);
        }
    }

    #[test]
    fn what_is_no_object_is_an_error() {
        let memory = Memory::open().expect("memory");
        let other = [0_u64; 16];
        assert!(slots(&memory, other.as_ptr() as usize, ["write"]).is_err());
        assert!(slots(&memory, 8, ["write"]).is_err());
    }
}
