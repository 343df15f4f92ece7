//! This process's memory through the kernel: a wrong address is an error.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

/// See the module.
pub(crate) struct Memory(File);

impl Memory {
    pub(crate) fn open() -> io::Result<Self> {
        File::open("/proc/self/mem").map(Self)
    }

    pub(crate) fn word(&self, address: usize) -> io::Result<u64> {
        let mut bytes = [0; 8];
        self.0.read_exact_at(&mut bytes, address as u64)?;
        Ok(u64::from_ne_bytes(bytes))
    }

    /// So many bytes from an address on.
    pub(crate) fn bytes(&self, address: usize, len: usize) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; len];
        self.0.read_exact_at(&mut bytes, address as u64)?;
        Ok(bytes)
    }
}
