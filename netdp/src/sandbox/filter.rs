//! The seccomp filter of programs that have direct ports: `bind` is handed to a
//! supervisor. Everything else is allowed, but by calls of another architecture
//! (of 32 bits, and x32) to set a socket's options: the kernel doesn't show those
//! to the control group's programs (`__sys_setsockopt`, net/socket.c), which keep
//! direct sockets from the host. `bind` of theirs isn't seen.
//!
//! Of netdp's own architecture it looks at nothing but the number of the system
//! call, so the kernel knows which are always allowed and doesn't run it for them
//! (`seccomp_cache_allow`, Linux 5.11).

use std::{
    io,
    mem::offset_of,
    os::fd::{FromRawFd, OwnedFd},
};

use nix::errno::Errno;

/// `AUDIT_ARCH_X86_64` and `AUDIT_ARCH_AARCH64` (`include/uapi/linux/audit.h`).
#[cfg(target_arch = "x86_64")]
pub const ARCH: u32 = 0xc000_003e;
#[cfg(target_arch = "aarch64")]
pub const ARCH: u32 = 0xc000_00b7;

/// The numbers of calls that are refused to programs of 32 bits
/// (`arch/x86/entry/syscalls/syscall_32.tbl`, `arch/arm64/tools/syscall_32.tbl`).
#[cfg(target_arch = "x86_64")]
const SETSOCKOPT_32: u32 = 366;
#[cfg(target_arch = "aarch64")]
const SETSOCKOPT_32: u32 = 294;
const SOCKETCALL_32: u32 = 102;
/// `SYS_SETSOCKOPT` of `include/uapi/linux/net.h`.
const SOCKETCALL_SETSOCKOPT: u32 = 14;
/// Requests of a ring are of the architecture that it was made by.
const IO_URING_SETUP: u32 = 425;

/// `__X32_SYSCALL_BIT` (`arch/x86/include/uapi/asm/unistd.h`), and above it the
/// number that x32 has for `setsockopt` (`syscall_64.tbl`).
const X32: u32 = 0x4000_0000;
const SETSOCKOPT_X32: u32 = X32 | 541;

/// A filter's instructions.
type Program = [libc::sock_filter; 21];

const REFUSE: u32 = libc::SECCOMP_RET_ERRNO | libc::EPERM as u32;

const fn instruction(code: u32, jt: u8, jf: u8, k: u32) -> libc::sock_filter {
    libc::sock_filter {
        code: code as u16,
        jt,
        jf,
        k,
    }
}

const fn load(offset: usize) -> libc::sock_filter {
    instruction(
        libc::BPF_LD | libc::BPF_W | libc::BPF_ABS,
        0,
        0,
        offset as u32,
    )
}

const fn skip_unless(value: u32, skip: u8) -> libc::sock_filter {
    instruction(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 0, skip, value)
}

const fn skip_below(value: u32, skip: u8) -> libc::sock_filter {
    instruction(libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K, 0, skip, value)
}

const fn answer(action: u32) -> libc::sock_filter {
    instruction(libc::BPF_RET | libc::BPF_K, 0, 0, action)
}

/// With what becomes of `bind`.
const fn program(bind: u32) -> Program {
    const NUMBER: usize = offset_of!(libc::seccomp_data, nr);
    const FIRST_ARGUMENT: usize = offset_of!(libc::seccomp_data, args);
    [
        load(offset_of!(libc::seccomp_data, arch)),
        skip_unless(ARCH, 9),
        load(NUMBER),
        skip_unless(libc::SYS_bind as u32, 1),
        answer(bind),
        // arm64 has no such numbers.
        skip_below(X32, 4),
        skip_unless(SETSOCKOPT_X32, 1),
        answer(REFUSE),
        skip_unless(X32 | IO_URING_SETUP, 1),
        answer(REFUSE),
        answer(libc::SECCOMP_RET_ALLOW),
        // Of 32 bits.
        load(NUMBER),
        skip_unless(SETSOCKOPT_32, 1),
        answer(REFUSE),
        skip_unless(IO_URING_SETUP, 1),
        answer(REFUSE),
        skip_unless(SOCKETCALL_32, 3),
        load(FIRST_ARGUMENT),
        skip_unless(SOCKETCALL_SETSOCKOPT, 1),
        answer(REFUSE),
        answer(libc::SECCOMP_RET_ALLOW),
    ]
}

/// Puts the calling process, and all that it starts, under the filter. Gives
/// the descriptor by which the supervisor hears, which `exec` closes.
///
/// # Errors
/// When the kernel refuses: it needs CAP_SYS_ADMIN, and another filter of this
/// kind may be in force already (`EBUSY`).
pub(super) fn install() -> io::Result<OwnedFd> {
    // SPEC_ALLOW: kernels before 5.16 slow a filtered process down otherwise.
    // WAIT_KILLABLE_RECV (5.19): a signal doesn't make a program bind again
    // what it has just got.
    let flags = libc::SECCOMP_FILTER_FLAG_NEW_LISTENER | libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW;
    let notify = program(libc::SECCOMP_RET_USER_NOTIF);
    let fd = match seccomp(flags | libc::SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV, notify) {
        Err(Errno::EINVAL) => seccomp(flags, notify)?,
        installed => installed?,
    };
    // SAFETY: the kernel has just made it for this process.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Puts the calling process, and all that it starts, under what the filter refuses,
/// where somebody else hands `bind` over.
///
/// # Errors
/// As [`install`].
pub fn refuse_foreign_options() -> io::Result<()> {
    let flags = libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW;
    seccomp(flags, program(libc::SECCOMP_RET_ALLOW))?;
    Ok(())
}

/// Gives what the kernel answers.
fn seccomp(flags: libc::c_ulong, mut instructions: Program) -> Result<i32, Errno> {
    let filter = libc::sock_fprog {
        len: instructions.len() as u16,
        filter: instructions.as_mut_ptr(),
    };
    // SAFETY: the kernel copies the filter before the call returns.
    let answer = unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            flags,
            &raw const filter,
        )
    };
    Errno::result(answer).map(|answer| answer as i32)
}
