//! Published ports are held by bound sockets, so that no program of the host
//! can take them.

use std::{
    collections::BTreeMap,
    io,
    net::SocketAddr,
    os::fd::{AsRawFd, OwnedFd},
};

use nix::{
    errno::Errno,
    libc,
    sys::socket::{
        AddressFamily, Backlog, Shutdown, SockFlag, SockType, SockaddrStorage, bind, listen,
        setsockopt, shutdown, socket, sockopt,
    },
};

use crate::{model::Proto, plan::Hold};

/// The sockets that hold the published ports.
#[derive(Debug, Default)]
pub struct Holds {
    held: BTreeMap<Hold, OwnedFd>,
}

impl Holds {
    /// Binds the port. Idempotent.
    pub fn hold(&mut self, port: Hold) -> io::Result<()> {
        if self.held.contains_key(&port) {
            return Ok(());
        }
        let socket = hold(port)?;
        self.held.insert(port, socket);
        Ok(())
    }

    /// Lets go of the port. Idempotent.
    pub fn release(&mut self, port: Hold) {
        self.held.remove(&port);
    }

    pub fn is_held(&self, port: &Hold) -> bool {
        self.held.contains_key(port)
    }

    pub fn held(&self) -> impl Iterator<Item = &Hold> {
        self.held.keys()
    }
}

/// Tries whether the port could be held.
pub fn is_free(port: Hold) -> io::Result<bool> {
    match hold(port) {
        Ok(_) => Ok(true),
        Err(error) if error.raw_os_error() == Some(libc::EADDRINUSE) => Ok(false),
        Err(error) => Err(error),
    }
}

fn hold(port: Hold) -> io::Result<OwnedFd> {
    let family = if port.address.is_ipv4() {
        AddressFamily::Inet
    } else {
        AddressFamily::Inet6
    };
    let kind = match port.proto {
        Proto::Tcp => SockType::Stream,
        Proto::Udp => SockType::Datagram,
        Proto::Sctp => return Err(io::Error::from(Errno::EPROTONOSUPPORT)),
    };
    let fd = socket(family, kind, SockFlag::SOCK_CLOEXEC, None)?;
    if port.address.is_ipv6() {
        setsockopt(&fd, sockopt::Ipv6V6Only, &true)?;
    }
    drop_everything(&fd)?;
    let addr = SockaddrStorage::from(SocketAddr::new(port.address, port.port));
    if port.proto != Proto::Tcp {
        bind(fd.as_raw_fd(), &addr)?;
        return Ok(fd);
    }

    // Connections in TIME_WAIT keep a port from being bound unless
    // SO_REUSEADDR is set; but a socket with it that doesn't listen lets others
    // with it bind the same port. Listening makes the port exclusive
    // (inet_csk_get_port clears the bucket's fastreuse); with SO_REUSEADDR off
    // again it stays so after shutdown, which ends the listening without giving
    // the port back.
    setsockopt(&fd, sockopt::ReuseAddr, &true)?;
    bind(fd.as_raw_fd(), &addr)?;
    listen(&fd, Backlog::new(0)?)?;
    setsockopt(&fd, sockopt::ReuseAddr, &false)?;
    shutdown(fd.as_raw_fd(), Shutdown::Both)?;
    Ok(fd)
}

/// Makes the kernel drop whatever comes for the socket.
fn drop_everything(fd: &OwnedFd) -> io::Result<()> {
    let mut program = [libc::sock_filter {
        code: (libc::BPF_RET | libc::BPF_K) as u16,
        jt: 0,
        jf: 0,
        k: 0,
    }];
    let filter = libc::sock_fprog {
        len: program.len() as u16,
        filter: program.as_mut_ptr(),
    };
    // SAFETY: the kernel copies the filter, of the length given with it,
    // before the call returns; fd is open.
    let done = unsafe {
        libc::setsockopt(
            fd.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_ATTACH_FILTER,
            (&raw const filter).cast(),
            size_of::<libc::sock_fprog>() as libc::socklen_t,
        )
    };
    Errno::result(done)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::{
        io::{Read, Write},
        net::{Ipv4Addr, TcpListener, TcpStream, UdpSocket},
    };

    use super::*;

    fn port(port: u16, proto: Proto) -> Hold {
        Hold {
            address: Ipv4Addr::LOCALHOST.into(),
            port,
            proto,
        }
    }

    fn free_tcp_port() -> u16 {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.local_addr().unwrap().port()
    }

    #[test]
    fn a_held_tcp_port_can_be_bound_by_nobody() {
        let held = port(free_tcp_port(), Proto::Tcp);
        let mut holds = Holds::default();
        holds.hold(held).unwrap();
        // std sets SO_REUSEADDR, as most servers do.
        for addr in ["127.0.0.1", "0.0.0.0"] {
            let taken = TcpListener::bind((addr, held.port)).unwrap_err();
            assert_eq!(taken.kind(), io::ErrorKind::AddrInUse, "{addr}");
        }
        assert!(!is_free(held).unwrap());
        holds.release(held);
        TcpListener::bind(("127.0.0.1", held.port)).unwrap();
    }

    #[test]
    fn nothing_answers_at_a_held_port() {
        let held = port(free_tcp_port(), Proto::Tcp);
        let mut holds = Holds::default();
        holds.hold(held).unwrap();
        let refused = TcpStream::connect(("127.0.0.1", held.port)).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
    }

    #[test]
    fn connections_in_time_wait_are_no_obstacle() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let number = listener.local_addr().unwrap().port();
        let mut client = TcpStream::connect(("127.0.0.1", number)).unwrap();
        let (mut server, _) = listener.accept().unwrap();
        // The side that closes first keeps the port in TIME_WAIT.
        server.write_all(b"x").unwrap();
        drop(server);
        client.read_to_end(&mut Vec::new()).unwrap();
        drop(client);
        drop(listener);
        Holds::default().hold(port(number, Proto::Tcp)).unwrap();
    }

    #[test]
    fn a_port_of_another_program_is_not_free() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let number = listener.local_addr().unwrap().port();
        assert!(!is_free(port(number, Proto::Tcp)).unwrap());

        let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
        let number = udp.local_addr().unwrap().port();
        assert!(!is_free(port(number, Proto::Udp)).unwrap());
    }

    #[test]
    fn an_address_of_another_host_is_an_error() {
        let elsewhere = Hold {
            address: "192.0.2.1".parse().unwrap(),
            port: 8080,
            proto: Proto::Tcp,
        };
        assert!(is_free(elsewhere).is_err());
    }
}
