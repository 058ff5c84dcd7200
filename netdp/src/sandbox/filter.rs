//! The seccomp filter of programs that have direct ports: `bind` is handed to a
//! supervisor, everything else is allowed.
//!
//! It looks at nothing but the number of the system call, so the kernel knows
//! which are always allowed and doesn't run it for them (`seccomp_cache_allow`,
//! Linux 5.11).

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

/// Programs of another architecture than netdp's (of 32 bits, or x32, whose
/// numbers have a bit more) bind unseen.
fn program() -> [libc::sock_filter; 6] {
    let load = |offset: usize| libc::sock_filter {
        code: (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16,
        jt: 0,
        jf: 0,
        k: offset as u32,
    };
    let skip_unless = |value: u32, skip: u8| libc::sock_filter {
        code: (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16,
        jt: 0,
        jf: skip,
        k: value,
    };
    let answer = |action: u32| libc::sock_filter {
        code: (libc::BPF_RET | libc::BPF_K) as u16,
        jt: 0,
        jf: 0,
        k: action,
    };
    [
        load(offset_of!(libc::seccomp_data, arch)),
        skip_unless(ARCH, 3),
        load(offset_of!(libc::seccomp_data, nr)),
        skip_unless(libc::SYS_bind as u32, 1),
        answer(libc::SECCOMP_RET_USER_NOTIF),
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
    match seccomp(flags | libc::SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV) {
        Err(Errno::EINVAL) => Ok(seccomp(flags)?),
        installed => Ok(installed?),
    }
}

fn seccomp(flags: libc::c_ulong) -> Result<OwnedFd, Errno> {
    let mut instructions = program();
    let filter = libc::sock_fprog {
        len: instructions.len() as u16,
        filter: instructions.as_mut_ptr(),
    };
    // SAFETY: the kernel copies the filter before the call returns.
    let fd = unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            flags,
            &raw const filter,
        )
    };
    let fd = Errno::result(fd)?;
    // SAFETY: the kernel has just made it for this process.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}
