//! Becomes a program whose `bind` is handed to somebody else, as a container
//! runtime starts one by a profile with `listenerPath`:
//! `under_a_filter SOCKET PROGRAM [ARGUMENT...]`.

use std::env;
use std::io::IoSlice;
use std::mem::offset_of;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::{Command, id};

use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};

fn main() {
    let mut arguments = env::args().skip(1);
    let socket = arguments.next().expect("a socket");
    let program = arguments.next().expect("a program");
    // Nobody answers calls once the filter is in force, so the way is open first.
    let stream = UnixStream::connect(&socket).unwrap_or_else(|error| panic!("{socket}: {error}"));
    let filter = install();
    let state = format!(
        r#"{{"ociVersion":"1.0.2","fds":["seccompFd"],"pid":{},"state":{{"status":"creating"}}}}"#,
        id()
    );
    let rights = [ControlMessage::ScmRights(&[filter])];
    let bytes = [IoSlice::new(state.as_bytes())];
    sendmsg::<()>(stream.as_raw_fd(), &bytes, &rights, MsgFlags::empty(), None).expect("send");
    drop(stream);
    // SAFETY: the descriptor is this process's own, and nobody else knows it.
    unsafe { libc::close(filter) };
    panic!(
        "{program}: {}",
        Command::new(&program).args(arguments).exec()
    );
}

fn install() -> i32 {
    let instruction = |code: u32, jf: u8, k: u32| libc::sock_filter {
        code: code as u16,
        jt: 0,
        jf,
        k,
    };
    let number = offset_of!(libc::seccomp_data, nr) as u32;
    let mut program = [
        instruction(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, number),
        instruction(
            libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K,
            1,
            libc::SYS_bind as u32,
        ),
        instruction(libc::BPF_RET | libc::BPF_K, 0, libc::SECCOMP_RET_USER_NOTIF),
        instruction(libc::BPF_RET | libc::BPF_K, 0, libc::SECCOMP_RET_ALLOW),
    ];
    let filter = libc::sock_fprog {
        len: program.len() as u16,
        filter: program.as_mut_ptr(),
    };
    // SAFETY: the kernel copies the filter before the call returns.
    let made = unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            libc::SECCOMP_FILTER_FLAG_NEW_LISTENER,
            &raw const filter,
        )
    };
    i32::try_from(made)
        .ok()
        .filter(|fd| *fd >= 0)
        .expect("a filter")
}
