//! What the dynamic linker knows: which object an address lies in, and where a function is; and pages made writable.

use std::ffi::{CStr, c_void};
use std::io;
use std::mem::MaybeUninit;

/// Where the object (the program or a library) that has this address begins in memory; None for an address of no object.
#[must_use]
pub fn object_of(address: usize) -> Option<usize> {
    let mut found = MaybeUninit::<libc::Dl_info>::uninit();
    // SAFETY: any address may be asked about, and the answer is written to `found`.
    let known = unsafe { libc::dladdr(address as *const c_void, found.as_mut_ptr()) };
    // SAFETY: it was written, as the result says.
    (known != 0).then(|| unsafe { found.assume_init() }.dli_fbase as usize)
}

/// The address of a function as a program that calls it by its name would find it.
#[must_use]
pub fn function(name: &CStr) -> Option<usize> {
    // SAFETY: the name ends with a zero.
    let found = unsafe { libc::dlsym(libc::RTLD_DEFAULT, name.as_ptr()) };
    (!found.is_null()).then_some(found as usize)
}

/// Lets the pages from that of `address` on be read and written, and no more be executed.
///
/// # Safety
/// No code lies on the page, and nobody relies on its being read-only.
pub unsafe fn make_writable(address: usize, len: usize) -> io::Result<()> {
    let page = rustix::param::page_size();
    let start = address - address % page;
    let access = rustix::mm::MprotectFlags::READ | rustix::mm::MprotectFlags::WRITE;
    // SAFETY: the caller's promise.
    Ok(unsafe { rustix::mm::mprotect(start as *mut c_void, address + len - start, access) }?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn functions_lie_in_objects() {
        let malloc = function(c"malloc").expect("there is a C library");
        let library = object_of(malloc).expect("it lies somewhere");
        let here = function as *const () as usize;
        let own = object_of(here).expect("so does this");
        assert!(library < malloc && own < here && own != library);
        assert_eq!(function(c"no such function of anybody"), None);
        assert_eq!(object_of(8), None);
    }

    #[test]
    fn a_page_becomes_writable() {
        let page = rustix::param::page_size();
        // SAFETY: a new mapping at an address of the kernel's choice.
        let mapped = unsafe {
            rustix::mm::mmap_anonymous(
                std::ptr::null_mut(),
                page,
                rustix::mm::ProtFlags::READ,
                rustix::mm::MapFlags::PRIVATE,
            )
        };
        let mapped = mapped.expect("map").cast::<u8>();
        // SAFETY: the page is ours alone.
        unsafe {
            make_writable(mapped as usize + 8, 8).expect("protect");
            mapped.add(8).write(7);
            assert_eq!(mapped.add(8).read(), 7);
            rustix::mm::munmap(mapped.cast(), page).expect("unmap");
        }
        // SAFETY: there is no such page.
        assert!(unsafe { make_writable(mapped as usize, 8) }.is_err());
    }
}
