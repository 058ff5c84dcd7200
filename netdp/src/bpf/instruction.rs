//! Programs of a few instructions, which need no object: a filter, those of
//! measurements, and those that are only loaded to see whether the kernel takes
//! them.

use std::{
    io,
    os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd},
};

use super::syscall::bpf;

const BPF_PROG_LOAD: libc::c_long = 5;
const BPF_LINK_CREATE: libc::c_long = 28;

/// `enum bpf_prog_type` of linux/bpf.h.
#[derive(Clone, Copy, Debug)]
#[repr(u32)]
pub enum ProgramType {
    SocketFilter = 1,
    SchedCls = 3,
    Tracing = 26,
}

/// Where a program is attached by a link: `enum bpf_attach_type` of linux/bpf.h
/// (6.6).
#[derive(Clone, Copy, Debug)]
#[repr(u32)]
pub enum Hook {
    /// The beginning of a function of the kernel.
    Fentry = 24,
    TcxIngress = 46,
    TcxEgress = 47,
}

/// `union bpf_attr`, `BPF_PROG_LOAD` as far as `attach_btf_id`.
#[repr(C)]
#[derive(Default)]
struct Load {
    prog_type: u32,
    insn_cnt: u32,
    insns: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log_buf: u64,
    kern_version: u32,
    prog_flags: u32,
    prog_name: [u8; 16],
    prog_ifindex: u32,
    expected_attach_type: u32,
    prog_btf_fd: u32,
    func_info_rec_size: u32,
    func_info: u64,
    func_info_cnt: u32,
    line_info_rec_size: u32,
    line_info: u64,
    line_info_cnt: u32,
    attach_btf_id: u32,
}

/// `union bpf_attr`, `link_create`.
#[repr(C)]
struct LinkCreate {
    prog_fd: u32,
    /// An interface's index, where the hook is one's.
    target: u32,
    attach_type: u32,
    flags: u32,
}

/// A program that runs for as long as this lives.
#[derive(Debug)]
pub struct Attached(#[expect(dead_code, reason = "ends the link")] OwnedFd);

/// `struct bpf_insn`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Instruction {
    code: u8,
    /// Destination in the low, source in the high half.
    registers: u8,
    offset: i16,
    immediate: i32,
}

impl Instruction {
    pub const EXIT: Self = Self {
        code: 0x95,
        registers: 0,
        offset: 0,
        immediate: 0,
    };

    /// A number into a register.
    pub const fn mov(register: u8, immediate: i32) -> Self {
        Self {
            code: 0xb7,
            registers: register,
            offset: 0,
            immediate,
        }
    }

    /// Calls a helper by its number in linux/bpf.h.
    pub const fn call(helper: i32) -> Self {
        Self {
            code: 0x85,
            registers: 0,
            offset: 0,
            immediate: helper,
        }
    }
}

/// Loads a program.
///
/// # Errors
/// The kernel refuses it.
pub fn load(kind: ProgramType, instructions: &[Instruction]) -> io::Result<OwnedFd> {
    load_as(Load::default(), kind, instructions)
}

/// Loads a program for the beginning of a function of the kernel, by the number
/// that its type information (BTF) gives the function.
///
/// # Errors
/// The kernel refuses it, or has nothing of the kind.
pub(super) fn load_for_function(
    function: u32,
    instructions: &[Instruction],
) -> io::Result<OwnedFd> {
    let load = Load {
        expected_attach_type: Hook::Fentry as u32,
        attach_btf_id: function,
        ..Load::default()
    };
    load_as(load, ProgramType::Tracing, instructions)
}

fn load_as(mut load: Load, kind: ProgramType, instructions: &[Instruction]) -> io::Result<OwnedFd> {
    load.prog_type = kind as u32;
    load.insn_cnt = instructions.len() as u32;
    load.insns = instructions.as_ptr() as u64;
    load.license = c"GPL".as_ptr() as u64;
    // SAFETY: the kernel reads the attributes, the instructions and the licence,
    // all of which live on.
    let fd = unsafe { bpf(BPF_PROG_LOAD, &mut load) }?;
    // SAFETY: the kernel has just opened it for this process.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as RawFd) })
}

/// Attaches a program; `ifindex` is that of an interface in the calling thread's
/// network namespace, or 0 where the hook is none of an interface.
///
/// # Errors
/// The kernel refuses it; tcx before Linux 6.6 with `EINVAL`.
pub fn attach(program: BorrowedFd<'_>, hook: Hook, ifindex: u32) -> io::Result<Attached> {
    let mut attr = LinkCreate {
        prog_fd: program.as_raw_fd() as u32,
        target: ifindex,
        attach_type: hook as u32,
        flags: 0,
    };
    // SAFETY: the descriptor is open.
    let fd = unsafe { bpf(BPF_LINK_CREATE, &mut attr) }?;
    // SAFETY: the kernel has just opened it for this process.
    Ok(Attached(unsafe { OwnedFd::from_raw_fd(fd as RawFd) }))
}
