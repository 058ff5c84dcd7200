//! Memory that the daemon is done with.

/// Gives what is free back to the kernel. Loading takes some 50 MB for a moment,
/// most of it for the kernel's own types, and the C library keeps what lies below
/// anything that is still in use.
pub(super) fn give_back() {
    #[cfg(target_env = "gnu")]
    // SAFETY: any thread may call it at any time (malloc_trim(3)).
    unsafe {
        libc::malloc_trim(0);
    }
}
