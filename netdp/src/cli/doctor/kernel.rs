//! What this kernel can do, found out by trying: nothing of it stays.

use std::{
    io,
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
};

use nix::{
    errno::Errno,
    libc,
    sched::{CloneFlags, unshare},
};

use crate::{
    bpf::instruction::{self, Instruction, ProgramType},
    netlink::Netlink,
};

// Numbers of linux/bpf.h.
const BPF_LINK_CREATE: libc::c_long = 28;
const BPF_TCX_INGRESS: u32 = 46;

/// A helper function by its number.
#[derive(Clone, Copy)]
#[repr(i32)]
pub enum Helper {
    RedirectNeigh = 152,
    RedirectPeer = 155,
}

/// Start of `union bpf_attr` for BPF_LINK_CREATE.
#[repr(C)]
#[derive(Default)]
struct LinkCreate {
    prog_fd: u32,
    target_ifindex: u32,
    attach_type: u32,
    flags: u32,
}

/// Whether a program can be loaded at all.
pub fn loads() -> io::Result<()> {
    load(&[Instruction::mov(0, 0), Instruction::EXIT]).map(drop)
}

/// Whether programs at TC may call this helper: the verifier refuses a helper
/// that it doesn't know.
pub fn has_helper(helper: Helper) -> bool {
    // Unused arguments do no harm: both helpers take integers and a pointer
    // that may be null.
    load(&[
        Instruction::mov(1, 0),
        Instruction::mov(2, 0),
        Instruction::mov(3, 0),
        Instruction::mov(4, 0),
        Instruction::call(helper as i32),
        Instruction::EXIT,
    ])
    .is_ok()
}

/// Whether programs can be attached by tcx. Tried on an interface that can't
/// exist: a kernel with tcx looks for it, one without refuses the kind of link.
pub fn has_tcx() -> io::Result<bool> {
    let program = load(&[Instruction::mov(0, 0), Instruction::EXIT])?;
    let attr = LinkCreate {
        prog_fd: program.as_raw_fd() as u32,
        target_ifindex: i32::MAX as u32,
        attach_type: BPF_TCX_INGRESS,
        flags: 0,
    };
    match bpf(BPF_LINK_CREATE, &attr) {
        Ok(link) => {
            drop(link);
            Ok(true)
        }
        Err(error) => Ok(error.raw_os_error() == Some(libc::ENODEV)),
    }
}

/// What of clsact and cls_bpf, by which programs are filters, the kernel has not.
/// Tried in a network namespace that goes with this function's thread.
pub fn missing_of_filters() -> anyhow::Result<Option<&'static str>> {
    let try_them = || -> anyhow::Result<Option<&'static str>> {
        unshare(CloneFlags::CLONE_NEWNET)?;
        super::runtime()?.block_on(async {
            let netlink = Netlink::open()?;
            if !netlink.has_qdisc("clsact").await? {
                return Ok(Some("clsact"));
            }
            let has_bpf = netlink.has_classifier("bpf").await?;
            Ok((!has_bpf).then_some("cls_bpf"))
        })
    };
    std::thread::scope(|scope| {
        let tried = scope.spawn(try_them).join();
        tried.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

fn load(instructions: &[Instruction]) -> io::Result<OwnedFd> {
    instruction::load(ProgramType::SchedCls, instructions)
}

/// Calls bpf(2) for a command that answers with a descriptor.
fn bpf<T>(command: libc::c_long, attr: &T) -> io::Result<OwnedFd> {
    // SAFETY: attr is the start of the attributes for this command, the size
    // given with it, and what it points to outlives the call.
    let fd = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command,
            std::ptr::from_ref(attr),
            size_of::<T>(),
        )
    };
    let fd = Errno::result(fd)?;
    // SAFETY: the kernel has just given this descriptor to us alone.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}
