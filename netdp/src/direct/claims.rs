//! Which sockets were handed out for which ports: a port that a program has is
//! taken for the others of its sandbox, as it would be in a network of their own.

use std::{collections::HashSet, io};

use nix::libc;

use crate::{
    model::Proto,
    netlink::{Found, Sockets},
};

/// A socket that was handed out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Claim {
    pub proto: Proto,
    /// The container's.
    pub port: u16,
    pub v4: bool,
    pub v6: bool,
    /// The program lets others have the port too (`SO_REUSEPORT`).
    pub shared: bool,
    /// Of the socket.
    pub inode: u64,
}

/// The sockets that were handed out and may listen.
#[derive(Debug, Default)]
pub(super) struct Claims {
    all: Vec<Claim>,
    /// How many there were after those that don't listen were forgotten.
    kept: usize,
}

/// So many are remembered before those are forgotten that don't listen; then twice
/// as many as were kept, so that it is seldom looked which these are.
const MANY: usize = 1024;
/// So many sockets share a port at most: far more than the CPUs of a machine,
/// each with a worker, the one before it included. The kernel goes through all of
/// a port for each datagram, connection and `bind`, and what they take isn't
/// counted as the sandbox's memory.
pub(super) const MOST: usize = 1024;

impl Claims {
    /// `open` gives the inodes of all sockets by which somebody listens, whatever
    /// port they have.
    pub fn add(&mut self, claim: Claim, open: impl FnOnce() -> io::Result<HashSet<u64>>) {
        // Where it can't be told, all are kept until the next one.
        if self.all.len() >= MANY.max(2 * self.kept)
            && let Ok(open) = open()
        {
            self.all.retain(|claim| open.contains(&claim.inode));
            self.kept = self.all.len();
        }
        self.all.push(claim);
    }

    /// Whether a socket like this can't be had. `is_open` says of a socket
    /// whether somebody still listens by it; one that doesn't listen yet is in
    /// nobody's way.
    pub fn is_taken(&self, wanted: &Claim, is_open: impl Fn(u64) -> bool) -> bool {
        self.all.iter().any(|claim| {
            claim.proto == wanted.proto
                && claim.port == wanted.port
                && (claim.v4 && wanted.v4 || claim.v6 && wanted.v6)
                && !(claim.shared && wanted.shared)
                && is_open(claim.inode)
        })
    }

    pub fn has(&self, inode: u64) -> bool {
        self.all.iter().any(|claim| claim.inode == inode)
    }
}

/// The sockets that listen in this thread's network, at this port or any; of UDP,
/// those that are bound. Also those that the daemon, or their program, has put
/// where they hear nobody.
pub(super) fn listening(proto: Proto, port: Option<u16>) -> io::Result<Vec<Found>> {
    let number = match proto {
        Proto::Udp => libc::IPPROTO_UDP,
        _ => libc::IPPROTO_TCP,
    };
    Sockets::open()?.listening(number, port)
}

#[cfg(test)]
mod tests {
    use std::{
        net::{TcpListener, TcpStream, UdpSocket},
        os::fd::{AsRawFd, OwnedFd},
    };

    use nix::sys::{
        socket::{SockaddrStorage, getsockname},
        stat::fstat,
    };

    use super::*;
    use crate::direct::options::set_number;

    fn claim(v4: bool, v6: bool, shared: bool, inode: u64) -> Claim {
        Claim {
            proto: Proto::Tcp,
            port: 80,
            v4,
            v6,
            shared,
            inode,
        }
    }

    #[test]
    fn a_port_is_taken_while_somebody_listens() {
        let mut claims = Claims::default();
        let first = claim(true, false, false, 7);
        assert!(!claims.is_taken(&first, |_| true));
        claims.add(first, || Ok(HashSet::new()));
        assert!(claims.is_taken(&first, |inode| inode == 7));
        assert!(!claims.is_taken(&first, |_| false));
        assert!(!claims.is_taken(&claim(false, true, false, 8), |_| true));
        assert!(claims.is_taken(&claim(true, true, true, 8), |_| true));
        assert!(!claims.is_taken(&Claim { port: 81, ..first }, |_| true));
        let udp = Claim {
            proto: Proto::Udp,
            ..first
        };
        assert!(!claims.is_taken(&udp, |_| true));
    }

    #[test]
    fn those_who_all_share_it_have_it_together() {
        let mut claims = Claims::default();
        claims.add(claim(true, true, true, 7), || Ok(HashSet::new()));
        assert!(!claims.is_taken(&claim(true, false, true, 8), |_| true));
        assert!(claims.is_taken(&claim(true, false, false, 8), |_| true));
    }

    #[test]
    fn those_that_listen_are_remembered_however_many() {
        let (mut claims, mut asked) = (Claims::default(), 0);
        let many = 16 * MANY as u64;
        let even: HashSet<u64> = (0..many).step_by(2).collect();
        for inode in 0..many {
            claims.add(claim(true, false, true, inode), || {
                asked += 1;
                Ok(even.clone())
            });
        }
        assert!((0..many).step_by(2).all(|inode| claims.has(inode)));
        assert!(!claims.has(1));
        assert!(claims.all.len() <= MANY.max(2 * even.len()));
        assert!(asked < 8, "{asked}");
    }

    #[test]
    fn nothing_is_forgotten_where_nobody_tells() {
        let mut claims = Claims::default();
        for inode in 0..2 * MANY as u64 {
            let none = || Err(io::ErrorKind::OutOfMemory.into());
            claims.add(claim(true, false, true, inode), none);
        }
        assert!(claims.has(0));
    }

    #[test]
    fn a_port_is_asked_for_alone() {
        let (one, other) = (
            TcpListener::bind("127.0.0.1:0").unwrap(),
            TcpListener::bind("127.0.0.1:0").unwrap(),
        );
        let port = one.local_addr().unwrap().port();
        let found = listening(Proto::Tcp, Some(port)).unwrap();
        assert!(found.iter().all(|it| it.own().port() == port));
        let has = |listener: TcpListener| {
            let inode = fstat(OwnedFd::from(listener)).unwrap().st_ino;
            found.iter().any(|it| it.inode == inode)
        };
        assert!(has(one) && !has(other));
    }

    #[track_caller]
    fn is_there(proto: Proto, socket: &OwnedFd) -> bool {
        let inode = fstat(socket).unwrap().st_ino;
        let found = listening(proto, None).unwrap();
        let Some(found) = found.iter().find(|it| it.inode == inode) else {
            return false;
        };
        let name: SockaddrStorage = getsockname(socket.as_raw_fd()).unwrap();
        assert_eq!(found.own().to_string(), name.to_string());
        assert_eq!(found.owner, nix::unistd::geteuid().as_raw());
        true
    }

    #[test]
    fn listeners_are_found() {
        for addr in ["127.0.0.1:0", "[::1]:0"] {
            let listener = TcpListener::bind(addr).unwrap();
            let near = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            assert!(is_there(Proto::Tcp, &listener.into()));
            assert!(!is_there(Proto::Tcp, &near.into()));
            assert!(is_there(Proto::Udp, &UdpSocket::bind(addr).unwrap().into()));
        }
    }

    #[test]
    fn who_lost_its_port_is_told_from_others() {
        if !nix::unistd::geteuid().is_root() {
            return eprintln!("skipped: needs root");
        }
        let listener = OwnedFd::from(TcpListener::bind("127.0.0.1:0").unwrap());
        let nowhere = netdp_common::nowhere::FIRST;
        set_number(&listener, libc::SOL_SOCKET, libc::SO_BINDTOIFINDEX, nowhere).unwrap();
        assert!(is_there(Proto::Tcp, &listener));
        let inode = fstat(&listener).unwrap().st_ino;
        let found = listening(Proto::Tcp, None).unwrap();
        assert!(
            found
                .iter()
                .all(|it| it.is_nowhere() == (it.inode == inode))
        );
    }
}
