//! A filter for sockets that are to receive nothing: one program for all of
//! them, where a classic filter would be one for each.

use std::{io, os::fd::OwnedFd};

use super::instruction::{Instruction, ProgramType, load};

/// Loads a program that drops whatever comes for a socket (`SO_ATTACH_BPF`): of
/// each packet it keeps 0 bytes.
pub fn drop_everything() -> io::Result<OwnedFd> {
    let program = [Instruction::mov(0, 0), Instruction::EXIT];
    load(ProgramType::SocketFilter, &program)
}
