//! Symbols of an object that is loaded in a process, from its memory: so neither its file nor the process's view of files matters.

use plait_sys::peek::{Error, Memory};

const PT_LOAD: u32 = 1;
const PT_DYNAMIC: u32 = 2;
const DT_STRTAB: u64 = 5;
const DT_SYMTAB: u64 = 6;
const DT_GNU_HASH: u64 = 0x6fff_fef5;
const DT_HASH: u64 = 4;
/// Size of an entry of the table of symbols, and where in it the value is.
const SYMBOL: usize = 24;
const VALUE: usize = 8;
/// No table of the dynamic linker has more entries.
const MOST: usize = 1 << 20;

/// An object's table of dynamic symbols.
pub(crate) struct Symbols<'a> {
    memory: &'a Memory,
    base: usize,
    bias: usize,
    symbols: usize,
    strings: usize,
    gnu: Option<usize>,
    hash: Option<usize>,
}

impl<'a> Symbols<'a> {
    /// Those of the object that begins at `base`; None if there is none.
    pub(crate) fn of(memory: &'a Memory, base: usize) -> Result<Option<Symbols<'a>>, Error> {
        let mut header = [0; 64];
        memory.read(base, &mut header)?;
        // 64 bits, in the byte order of this machine.
        let order = if cfg!(target_endian = "little") { 1 } else { 2 };
        if &header[..4] != b"\x7fELF" || header[4] != 2 || header[5] != order {
            return Ok(None);
        }
        let (size, count) = (half(&header, 54) as usize, half(&header, 56) as usize);
        let mut programs = vec![0; size * count];
        memory.read(base.wrapping_add(word(&header, 32) as usize), &mut programs)?;
        let programs = || programs.chunks_exact(size.max(56)).map(|each| (int(each, 0), each));
        let first = programs()
            .filter(|&(kind, _)| kind == PT_LOAD)
            .map(|(_, each)| word(each, 16))
            .min();
        let dynamic = programs()
            .find(|&(kind, _)| kind == PT_DYNAMIC)
            .map(|(_, each)| (word(each, 16), word(each, 40)));
        let (Some(first), Some((dynamic, len))) = (first, dynamic) else {
            return Ok(None);
        };
        // It is mapped from the page of its first segment on.
        let bias = base.wrapping_sub(first as usize & !0xfff);
        let mut entries = vec![0; (len as usize).min(MOST)];
        memory.read(bias.wrapping_add(dynamic as usize), &mut entries)?;
        let entry = |tag| {
            let entries = entries
                .chunks_exact(16)
                .map(|entry| (word(entry, 0), word(entry, 8) as usize));
            let (_, value) = entries
                .take_while(|&(each, _)| each != 0)
                .find(|&(each, _)| each == tag)?;
            // The loader has put the address where the file says how far from the beginning; some loaders leave it.
            Some(if value >= base { value } else { bias.wrapping_add(value) })
        };
        let (Some(symbols), Some(strings)) = (entry(DT_SYMTAB), entry(DT_STRTAB)) else {
            return Ok(None);
        };
        Ok(Some(Symbols {
            memory,
            base,
            bias,
            symbols,
            strings,
            gnu: entry(DT_GNU_HASH),
            hash: entry(DT_HASH),
        }))
    }

    /// The address of what has this name.
    pub(crate) fn address(&self, name: &str) -> Result<Option<usize>, Error> {
        let index = match (self.gnu, self.hash) {
            (Some(table), _) => self.by_gnu_hash(table, name)?,
            (None, Some(table)) => self.one_by_one(table, name)?,
            (None, None) => None,
        };
        let Some(index) = index else { return Ok(None) };
        let value = self.memory.word(self.symbols.wrapping_add(index * SYMBOL + VALUE))? as usize;
        let address = self.bias.wrapping_add(value);
        // 0 is a symbol of another object that this one uses.
        Ok((value != 0 && address > self.base).then_some(address))
    }

    fn by_gnu_hash(&self, table: usize, name: &str) -> Result<Option<usize>, Error> {
        let mut head = [0; 16];
        self.memory.read(table, &mut head)?;
        let [buckets, first, filter] = [0, 4, 8].map(|at| int(&head, at) as usize);
        let buckets_at = table.wrapping_add(16 + 8 * filter);
        let hash = name.bytes().fold(5381u32, |hash, byte| {
            hash.wrapping_mul(33).wrapping_add(u32::from(byte))
        });
        let bucket = hash as usize % buckets.max(1);
        let mut index = self.int(buckets_at.wrapping_add(4 * bucket))? as usize;
        let chains = buckets_at.wrapping_add(4 * buckets);
        while index >= first && index < MOST {
            let chain = self.int(chains.wrapping_add(4 * (index - first)))?;
            if chain | 1 == hash | 1 && self.is_named(index, name)? {
                return Ok(Some(index));
            }
            if chain & 1 == 1 {
                break;
            }
            index += 1;
        }
        Ok(None)
    }

    fn one_by_one(&self, table: usize, name: &str) -> Result<Option<usize>, Error> {
        let count = self.int(table.wrapping_add(4))? as usize;
        for index in 1..count.min(MOST) {
            if self.is_named(index, name)? {
                return Ok(Some(index));
            }
        }
        Ok(None)
    }

    fn is_named(&self, index: usize, name: &str) -> Result<bool, Error> {
        let at = self.int(self.symbols.wrapping_add(index * SYMBOL))? as usize;
        let mut text = vec![0; name.len() + 1];
        match self.memory.read(self.strings.wrapping_add(at), &mut text) {
            Ok(()) => Ok(text.split_last() == Some((&0, name.as_bytes()))),
            // A shorter name at the end of its page.
            Err(Error::NotMapped(_)) => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn int(&self, address: usize) -> Result<u32, Error> {
        let mut bytes = [0; 4];
        self.memory.read(address, &mut bytes)?;
        Ok(u32::from_ne_bytes(bytes))
    }
}

fn part<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    bytes
        .get(at..at + N)
        .and_then(|bytes| bytes.try_into().ok())
        .unwrap_or([0; N])
}

fn word(bytes: &[u8], at: usize) -> u64 {
    u64::from_ne_bytes(part(bytes, at))
}

fn int(bytes: &[u8], at: usize) -> u32 {
    u32::from_ne_bytes(part(bytes, at))
}

fn half(bytes: &[u8], at: usize) -> u16 {
    u16::from_ne_bytes(part(bytes, at))
}
