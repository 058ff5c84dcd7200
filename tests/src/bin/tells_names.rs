//! A server that tells each client how the two know each other: at the addresses
//! that are its arguments, or `--shared ADDRESS` with SO_REUSEPORT. It knows
//! nothing of netdp, as servers do.
//!
//! A client gets `LOCAL PEER` and a line break, and then back what it sends. What
//! can't be had is said on standard output.

use std::env;
use std::io::{self, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsRawFd, FromRawFd, IntoRawFd};
use std::thread;

use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, SockaddrStorage, bind, listen, setsockopt, socket,
    sockopt,
};

fn main() {
    let mut shared = false;
    for argument in env::args().skip(1) {
        if argument == "--shared" {
            shared = true;
            continue;
        }
        let addr: SocketAddr = argument.parse().expect("an address with a port");
        let listener = if shared {
            share(addr)
        } else {
            TcpListener::bind(addr)
        };
        match listener {
            Ok(listener) => {
                println!("{addr} is {}", listener.local_addr().expect("its name"));
                thread::spawn(move || serve(&listener));
            }
            Err(error) => println!("{addr}: {error}"),
        }
        io::stdout().flush().expect("say so");
    }
    loop {
        thread::park();
    }
}

fn share(addr: SocketAddr) -> io::Result<TcpListener> {
    let family = if addr.is_ipv4() {
        AddressFamily::Inet
    } else {
        AddressFamily::Inet6
    };
    let made = socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    setsockopt(&made, sockopt::ReusePort, &true)?;
    bind(made.as_raw_fd(), &SockaddrStorage::from(addr))?;
    listen(&made, Backlog::new(128)?)?;
    // SAFETY: it was made here, and nothing else knows of it.
    Ok(unsafe { TcpListener::from_raw_fd(made.into_raw_fd()) })
}

fn serve(listener: &TcpListener) {
    for stream in listener.incoming() {
        let Ok(stream) = stream else { return };
        thread::spawn(move || answer(stream));
    }
}

fn answer(mut stream: TcpStream) -> io::Result<u64> {
    let (local, peer) = (stream.local_addr()?, stream.peer_addr()?);
    stream.set_nodelay(true)?;
    writeln!(stream, "{local} {peer}")?;
    io::copy(&mut stream.try_clone()?, &mut stream)
}
