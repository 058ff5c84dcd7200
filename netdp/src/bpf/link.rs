//! Pinned links, as far as aya doesn't reach.

use std::{
    ffi::CString,
    io,
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd},
        unix::ffi::OsStrExt,
    },
    path::Path,
};

use super::{BpfError, datapath::unpin, syscall::bpf};

/// Detaches what is pinned, and takes the pin away. Without its pin alone a
/// link lives until the kernel has come to let it go (`bpf_free_inode`).
pub(super) fn detach_and_unpin(pin: &Path) -> Result<(), BpfError> {
    if let Ok(link) = open_pin(pin) {
        // A program's pin is refused, and so is a link that is detached.
        let _ = detach(link.as_fd());
    }
    unpin(pin)
}

/// `BPF_LINK_DETACH` of `bpf(2)`: the program runs no more when this returns.
/// From Linux 5.9.
///
/// # Errors
/// `EINVAL` where it is no link.
pub(super) fn detach(link: BorrowedFd<'_>) -> io::Result<()> {
    /// `union bpf_attr`, `link_detach` (`include/uapi/linux/bpf.h`, 5.9).
    #[repr(C)]
    struct LinkDetach {
        link_fd: u32,
    }
    const BPF_LINK_DETACH: libc::c_long = 34;

    let mut attr = LinkDetach {
        link_fd: link.as_raw_fd() as u32,
    };
    // SAFETY: the descriptor is open.
    unsafe { bpf(BPF_LINK_DETACH, &mut attr) }.map(drop)
}

/// `union bpf_attr`, the part of `BPF_OBJ_*` (`include/uapi/linux/bpf.h`, 4.4).
#[repr(C)]
struct Object {
    pathname: u64,
    bpf_fd: u32,
    file_flags: u32,
}

/// `BPF_OBJ_GET` of `bpf(2)`: opens a pin.
pub(super) fn open_pin(path: &Path) -> io::Result<OwnedFd> {
    const BPF_OBJ_GET: libc::c_long = 7;

    let path = CString::new(path.as_os_str().as_bytes())?;
    let mut attr = Object {
        pathname: path.as_ptr() as u64,
        bpf_fd: 0,
        file_flags: 0,
    };
    // SAFETY: the path outlives the call.
    let fd = unsafe { bpf(BPF_OBJ_GET, &mut attr) }?;
    // SAFETY: the kernel has just opened it for this process.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as RawFd) })
}

/// `BPF_OBJ_PIN` of `bpf(2)`: keeps it while the pin is there.
pub(super) fn pin(object: BorrowedFd<'_>, path: &Path) -> io::Result<()> {
    const BPF_OBJ_PIN: libc::c_long = 6;

    let path = CString::new(path.as_os_str().as_bytes())?;
    let mut attr = Object {
        pathname: path.as_ptr() as u64,
        bpf_fd: object.as_raw_fd() as u32,
        file_flags: 0,
    };
    // SAFETY: the path outlives the call, and the descriptor is open.
    unsafe { bpf(BPF_OBJ_PIN, &mut attr) }.map(drop)
}

/// Attaches a program to a control group. aya keeps to itself what it makes of
/// programs for socket options.
pub(super) fn attach_to_group(
    program: BorrowedFd<'_>,
    group: BorrowedFd<'_>,
    attach_type: u32,
) -> io::Result<OwnedFd> {
    create(program, group.as_raw_fd() as u32, attach_type)
}

/// Attaches a program to an interface of the calling thread's namespace, by a
/// hook that aya doesn't know.
pub(super) fn attach_to_interface(
    program: BorrowedFd<'_>,
    ifindex: u32,
    attach_type: u32,
) -> io::Result<OwnedFd> {
    create(program, ifindex, attach_type)
}

/// `BPF_LINK_CREATE` of `bpf(2)`. The target is a descriptor or the index of an
/// interface.
fn create(program: BorrowedFd<'_>, target: u32, attach_type: u32) -> io::Result<OwnedFd> {
    /// `union bpf_attr`, `link_create` (`include/uapi/linux/bpf.h`, 5.7).
    #[repr(C)]
    struct LinkCreate {
        prog_fd: u32,
        target: u32,
        attach_type: u32,
        flags: u32,
    }
    const BPF_LINK_CREATE: libc::c_long = 28;

    let mut attr = LinkCreate {
        prog_fd: program.as_raw_fd() as u32,
        target,
        attach_type,
        flags: 0,
    };
    // SAFETY: the descriptors are open.
    let fd = unsafe { bpf(BPF_LINK_CREATE, &mut attr) }?;
    // SAFETY: the kernel has just made it for this process.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as RawFd) })
}

/// `BPF_LINK_UPDATE` of `bpf(2)`: no packet, and no call, goes without a program.
pub(super) fn update(link: BorrowedFd<'_>, program: BorrowedFd<'_>) -> io::Result<()> {
    /// `union bpf_attr`, `link_update` (`include/uapi/linux/bpf.h`, 5.7).
    #[repr(C)]
    struct LinkUpdate {
        link_fd: u32,
        new_prog_fd: u32,
        flags: u32,
        old_prog_fd: u32,
    }
    const BPF_LINK_UPDATE: libc::c_long = 29;

    let mut attr = LinkUpdate {
        link_fd: link.as_raw_fd() as u32,
        new_prog_fd: program.as_raw_fd() as u32,
        flags: 0,
        old_prog_fd: 0,
    };
    // SAFETY: both descriptors are open.
    unsafe { bpf(BPF_LINK_UPDATE, &mut attr) }.map(drop)
}
