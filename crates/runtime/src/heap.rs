//! What the allocator keeps of freed memory: it would keep as much as there ever was at once, for each of many threads.

use crate::sys;

/// Arenas of all threads together: the allocator's own choice is eight for each processor, and what is free in one is of no
/// use to the others.
const ARENAS: i32 = 2;

/// Has all threads share a few arenas. Meant for the beginning of a program, before it has threads.
pub fn share_arenas() {
    sys::share_arenas(ARENAS);
}

/// Gives freed memory back to the kernel; some milliseconds for some tens of MiB.
pub fn give_back() {
    sys::trim_heap();
}
