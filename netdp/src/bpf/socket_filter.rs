//! A filter for sockets that are to receive nothing: one program for all of
//! them, where a classic filter would be one for each.

use std::{
    io,
    os::fd::{FromRawFd, OwnedFd},
};

use nix::libc;

use super::syscall::bpf;

const BPF_PROG_LOAD: libc::c_long = 5;
const BPF_PROG_TYPE_SOCKET_FILTER: u32 = 1;

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

/// `r0 = 0` and `exit`: of each packet, 0 bytes are kept.
const DROP: [u64; 2] = [u64::from_ne_bytes([0xb7, 0, 0, 0, 0, 0, 0, 0]), {
    u64::from_ne_bytes([0x95, 0, 0, 0, 0, 0, 0, 0])
}];

/// Loads a program that drops whatever comes for a socket (`SO_ATTACH_BPF`).
pub fn drop_everything() -> io::Result<OwnedFd> {
    let mut load = Load {
        prog_type: BPF_PROG_TYPE_SOCKET_FILTER,
        insn_cnt: DROP.len() as u32,
        insns: DROP.as_ptr() as u64,
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
