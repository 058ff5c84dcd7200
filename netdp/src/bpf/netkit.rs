//! The program at a container's end of a netkit pair.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd},
    path::Path,
    sync::OnceLock,
};

use aya::programs::SchedClassifier;

use super::{BpfError, link, syscall::bpf};

/// It forestalls `from_container`, which is attached to the host end as to that
/// of a veth pair.
pub(super) const PROGRAM: &str = "from_netkit";

/// `enum bpf_attach_type` (`include/uapi/linux/bpf.h`, 6.7). Named by the host
/// end, from whose namespace it is attached; so whoever has the other end can't
/// take it away.
const BPF_NETKIT_PEER: u32 = 55;

/// Attaches the program, or puts it in the place of the one attached there.
/// Nothing where the interface is no netkit device.
///
/// The kernel waits until all CPUs have left what they were at
/// (`netkit_entry_sync`, 6.7), unless it replaces one.
pub(super) fn attach(
    program: &SchedClassifier,
    ifname: &str,
    ifindex: u32,
    pin: &Path,
) -> Result<(), BpfError> {
    let program = program.fd().map_err(|source| BpfError::Attach {
        name: PROGRAM,
        target: ifname.to_owned(),
        source: Box::new(source),
    })?;
    let program = program.as_fd();
    if let Ok(pinned) = link::open_pin(pin) {
        match link::update(pinned.as_fd(), program) {
            // It has lost its interface.
            Err(error) if error.raw_os_error() == Some(libc::ENOLINK) => {
                link::detach_and_unpin(pin)?;
            }
            updated => return updated.map_err(BpfError::io("replace the program of", pin)),
        }
    }
    attach_anew(program, ifindex, pin).map_err(BpfError::io("attach from_netkit to", ifname))
}

fn attach_anew(program: BorrowedFd<'_>, ifindex: u32, pin: &Path) -> io::Result<()> {
    match link::attach_to_interface(program, ifindex, BPF_NETKIT_PEER) {
        Ok(made) => link::pin(made.as_fd(), pin),
        // `netkit_dev_fetch` of an interface of another driver.
        Err(error) if error.raw_os_error() == Some(libc::ENXIO) => Ok(()),
        Err(error) => Err(error),
    }
}

/// Whether this kernel makes netkit devices (`CONFIG_NETKIT`, Linux 6.7).
pub fn has_netkit() -> bool {
    static HAS: OnceLock<bool> = OnceLock::new();
    // Loopback is none. Kernels without netkit don't get as far as to see that.
    *HAS.get_or_init(|| query(LOOPBACK).is_err_and(|e| e.raw_os_error() == Some(libc::ENXIO)))
}

/// The index that loopback has in every namespace (`LOOPBACK_IFINDEX`).
const LOOPBACK: u32 = 1;

/// `BPF_PROG_QUERY` of `bpf(2)`: whether programs of an interface can be listed.
fn query(ifindex: u32) -> io::Result<()> {
    /// `union bpf_attr`, the beginning of `query` (`include/uapi/linux/bpf.h`,
    /// 6.6).
    #[repr(C)]
    struct Query {
        target_ifindex: u32,
        attach_type: u32,
        query_flags: u32,
        attach_flags: u32,
        prog_ids: u64,
        count: u32,
        pad: u32,
        prog_attach_flags: u64,
        link_ids: u64,
        link_attach_flags: u64,
        revision: u64,
    }
    const BPF_PROG_QUERY: libc::c_long = 16;

    let mut attr = Query {
        target_ifindex: ifindex,
        attach_type: BPF_NETKIT_PEER,
        query_flags: 0,
        attach_flags: 0,
        prog_ids: 0,
        count: 0,
        pad: 0,
        prog_attach_flags: 0,
        link_ids: 0,
        link_attach_flags: 0,
        revision: 0,
    };
    // SAFETY: no pointers are given; the kernel writes into `attr` alone.
    unsafe { bpf(BPF_PROG_QUERY, &mut attr) }.map(drop)
}
