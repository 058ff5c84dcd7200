//! A server that tells each client how the two know each other: at the addresses
//! that are its arguments, or `--shared ADDRESS` with SO_REUSEPORT; those that
//! follow `--udp` are of UDP. It knows nothing of netdp, as servers do.
//!
//! A client gets `LOCAL PEER` and a line break, and then back what it sends; for a
//! datagram it gets these two alone. What can't be had is said on standard output.

use std::env;
use std::io::{self, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsRawFd, OwnedFd};
use std::thread;

use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, SockaddrStorage, bind, listen, setsockopt, socket,
    sockopt,
};

fn main() {
    let (mut shared, mut udp) = (false, false);
    for argument in env::args().skip(1) {
        match argument.as_str() {
            "--shared" => shared = true,
            "--udp" => udp = true,
            _ => {
                let addr = argument.parse().expect("an address with a port");
                match begin(addr, udp, shared) {
                    Ok(name) => println!("{addr} is {name}"),
                    Err(error) => println!("{addr}: {error}"),
                }
            }
        }
        io::stdout().flush().expect("say so");
    }
    loop {
        thread::park();
    }
}

/// Serves at an address, and gives the socket's own name.
fn begin(addr: SocketAddr, udp: bool, shared: bool) -> io::Result<SocketAddr> {
    if udp {
        let bound = if shared {
            UdpSocket::from(share(addr, SockType::Datagram)?)
        } else {
            UdpSocket::bind(addr)?
        };
        let name = bound.local_addr()?;
        thread::spawn(move || serve_datagrams(&bound));
        return Ok(name);
    }
    let listener = if shared {
        let made = share(addr, SockType::Stream)?;
        listen(&made, Backlog::new(128)?)?;
        TcpListener::from(made)
    } else {
        TcpListener::bind(addr)?
    };
    let name = listener.local_addr()?;
    thread::spawn(move || serve(&listener));
    Ok(name)
}

fn share(addr: SocketAddr, kind: SockType) -> io::Result<OwnedFd> {
    let family = if addr.is_ipv4() {
        AddressFamily::Inet
    } else {
        AddressFamily::Inet6
    };
    let made = socket(family, kind, SockFlag::SOCK_CLOEXEC, None)?;
    setsockopt(&made, sockopt::ReusePort, &true)?;
    bind(made.as_raw_fd(), &SockaddrStorage::from(addr))?;
    Ok(made)
}

/// Whatever becomes of the socket.
fn serve_datagrams(bound: &UdpSocket) {
    let mut datagram = [0; 2048];
    loop {
        let (peer, local) = match bound.recv_from(&mut datagram) {
            Ok((_, peer)) => (peer, bound.local_addr().expect("its name")),
            Err(error) => {
                println!("no datagram: {error}");
                continue;
            }
        };
        if let Err(error) = bound.send_to(format!("{local} {peer}").as_bytes(), peer) {
            println!("no answer to {peer}: {error}");
        }
    }
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
