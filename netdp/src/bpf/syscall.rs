//! `bpf(2)`, for the commands that aya lacks.

use std::io;

/// Calls it, and gives what it answers. Some commands write into `attr`.
///
/// # Safety
/// `attr` is what the kernel expects for `command`, and what it points to is
/// valid.
pub(super) unsafe fn bpf<T>(command: libc::c_long, attr: &mut T) -> io::Result<libc::c_long> {
    let attr: *mut T = attr;
    // SAFETY: the kernel reads and writes no more bytes than are named.
    let ret = unsafe { libc::syscall(libc::SYS_bpf, command, attr, size_of::<T>()) };
    if ret < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(ret)
    }
}
