//! Programs of a few instructions, which need no object: a filter, and those
//! that are only loaded to see whether the kernel takes them.

use std::{
    io,
    os::fd::{FromRawFd, OwnedFd},
};

use super::syscall::bpf;

const BPF_PROG_LOAD: libc::c_long = 5;

/// `enum bpf_prog_type` of linux/bpf.h.
#[derive(Clone, Copy, Debug)]
#[repr(u32)]
pub enum ProgramType {
    SocketFilter = 1,
    SchedCls = 3,
}

/// `union bpf_attr`, the first part of `BPF_PROG_LOAD`.
#[repr(C)]
struct Load {
    prog_type: u32,
    insn_cnt: u32,
    insns: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log_buf: u64,
}

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

    /// Calls a helper by its number.
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
    let mut load = Load {
        prog_type: kind as u32,
        insn_cnt: instructions.len() as u32,
        insns: instructions.as_ptr() as u64,
        license: c"GPL".as_ptr() as u64,
        log_level: 0,
        log_size: 0,
        log_buf: 0,
    };
    // SAFETY: the kernel reads the attributes, the instructions and the licence,
    // all of which live on.
    let fd = unsafe { bpf(BPF_PROG_LOAD, &mut load) }?;
    // SAFETY: the kernel has just opened it for this process.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}
