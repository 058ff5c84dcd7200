//! The sockets that have a port, and ending them: `sock_diag(7)`.

use std::{
    collections::HashSet,
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    ops::{ControlFlow, RangeInclusive},
    os::fd::OwnedFd,
};

use netdp_common::nowhere;
use nix::{
    libc,
    sys::socket::{AddressFamily, SockFlag, SockProtocol, SockType, socket},
};

use super::inet_diag::{Request, SOCK_DESTROY, SOCK_DIAG_BY_FAMILY, SocketId, ask, dump};

/// `TCP_LISTEN` (`include/net/tcp_states.h`).
const LISTEN: u32 = 10;

/// A socket of this thread's network, as `sock_diag` tells of it.
#[derive(Clone, Copy, Debug)]
pub struct Found {
    protocol: i32,
    family: i32,
    id: SocketId,
    v6only: bool,
    /// The user that it is of.
    pub owner: u32,
    pub inode: u64,
    /// Inode of the control group that it was made in.
    pub group: Option<u64>,
}

impl Found {
    /// As `SO_COOKIE` and `bpf_get_socket_cookie` have it.
    pub fn cookie(&self) -> u64 {
        let [low, high] = self.id.cookie;
        u64::from(high) << 32 | u64::from(low)
    }

    /// Where it is bound: IPv4 also where it is one of IPv6 that speaks IPv4.
    pub fn own(&self) -> SocketAddr {
        self.id.own(self.family)
    }

    /// Whether it is bound to an interface that there isn't.
    pub fn is_nowhere(&self) -> bool {
        nowhere::is(self.id.interface.cast_signed())
    }

    /// Whether it has one of these ports at this address; where that is
    /// unspecified, at any.
    pub fn is_at(&self, address: IpAddr, ports: &RangeInclusive<u16>) -> bool {
        let own = self.own();
        ports.contains(&own.port()) && is_at(address, self.family, own.ip(), self.v6only)
    }
}

/// The kernel, asked for sockets.
#[derive(Debug)]
pub struct Sockets(pub(super) OwnedFd);

impl Sockets {
    /// # Errors
    /// When the kernel has no `sock_diag`.
    pub fn open() -> io::Result<Self> {
        let netlink = socket(
            AddressFamily::Netlink,
            SockType::Raw,
            SockFlag::SOCK_CLOEXEC,
            SockProtocol::NetlinkSockDiag,
        )?;
        Ok(Self(netlink))
    }

    /// All of TCP (`IPPROTO_TCP`) or UDP that have this port, or any where none
    /// is given.
    ///
    /// # Errors
    /// What the kernel refused.
    pub fn list(&self, protocol: i32, port: Option<u16>) -> io::Result<Vec<Found>> {
        let mut found = Vec::new();
        for family in [libc::AF_INET, libc::AF_INET6] {
            let id = SocketId::with_port(port.unwrap_or(0));
            sockets(&self.0, (protocol, family), id, u32::MAX, &mut found)?;
        }
        Ok(found)
    }

    /// All of TCP that listen, or all of UDP that are bound: of this port, or any
    /// where none is given.
    ///
    /// # Errors
    /// What the kernel refused.
    pub fn listening(&self, protocol: i32, port: Option<u16>) -> io::Result<Vec<Found>> {
        let states = match protocol {
            libc::IPPROTO_TCP => 1 << LISTEN,
            _ => u32::MAX,
        };
        let mut found = Vec::new();
        for family in [libc::AF_INET, libc::AF_INET6] {
            let id = SocketId::with_port(port.unwrap_or(0));
            sockets(&self.0, (protocol, family), id, states, &mut found)?;
        }
        Ok(found)
    }

    /// Whether sockets of TCP or UDP can be ended at all.
    ///
    /// # Errors
    /// What the kernel refused.
    pub fn can_end(&self, protocol: i32) -> io::Result<bool> {
        // Nobody has this port, since nobody can be bound to it.
        let nobody = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), 0);
        let of = (protocol, libc::AF_INET);
        let id = SocketId::between(nobody, nobody);
        match ask(
            &self.0,
            &Request::new(SOCK_DESTROY, libc::NLM_F_ACK, of, id),
        ) {
            Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => Ok(false),
            asked => asked.map(|_| true),
        }
    }

    /// Ends one: both sides of a connection are told, and who waits for a
    /// datagram. A socket of UDP that was bound keeps its port.
    ///
    /// False where it has gone meanwhile, or isn't found: of several that share a
    /// port the kernel finds one by their addresses, always the same, and looks
    /// whether it is the one that is meant (`inet_diag_find_one_icsk`,
    /// net/ipv4/inet_diag.c, 6.12).
    ///
    /// # Errors
    /// What the kernel refused.
    pub fn end(&self, socket: &Found) -> io::Result<bool> {
        let of = (socket.protocol, socket.family);
        ask(
            &self.0,
            &Request::new(SOCK_DESTROY, libc::NLM_F_ACK, of, socket.id),
        )
    }
}

/// Whether the kernel has nothing that tells of sockets (`EPROTONOSUPPORT`), or of
/// those of one protocol (`ENOENT`).
pub fn is_not_diagnosed(error: &io::Error) -> bool {
    let absent = [libc::EPROTONOSUPPORT, libc::ENOENT];
    error.raw_os_error().is_some_and(|it| absent.contains(&it))
}

/// How often all sockets of a port are gone through: more appear only where
/// somebody makes them on purpose.
const PASSES: usize = 64;

/// Ends the TCP sockets of this thread's network that have one of these ports, at
/// this address or, where it is unspecified, at any: listeners and connections, of
/// those that are meant.
///
/// # Errors
/// What the kernel refused, or that there is no end of them.
pub fn end_tcp(
    address: IpAddr,
    ports: RangeInclusive<u16>,
    is_meant: impl Fn(&Found) -> bool,
) -> io::Result<()> {
    let sockets = Sockets::open()?;
    let alone = (ports.start() == ports.end()).then_some(*ports.start());
    let list = || {
        let mut listed = sockets.list(libc::IPPROTO_TCP, alone)?;
        listed.retain(|it| it.is_at(address, &ports) && is_meant(it));
        Ok(listed)
    };
    end_listed(list, |socket| sockets.end(socket))
}

fn end_listed(
    list: impl Fn() -> io::Result<Vec<Found>>,
    mut end: impl FnMut(&Found) -> io::Result<bool>,
) -> io::Result<()> {
    let mut ended = HashSet::new();
    for _ in 0..PASSES {
        let listed = list()?;
        let before = ended.len();
        for socket in &listed {
            if end(socket)? {
                ended.insert(socket.cookie());
            }
        }
        // Those that were not found may be, now that others have ended. One that
        // has may listen again, as often as its program likes.
        if ended.len() == before || listed.iter().all(|it| ended.contains(&it.cookie())) {
            return Ok(());
        }
    }
    Err(io::Error::other("there are ever more connections"))
}

/// Whether a socket that is bound to `own` has its port at `address`. One of IPv6
/// may have it in IPv4, unless it hears IPv6 alone.
pub fn is_at(address: IpAddr, family: i32, own: IpAddr, v6only: bool) -> bool {
    let same_family = own.is_ipv4() == address.is_ipv4();
    let hears_both = family == libc::AF_INET6 && own.is_unspecified() && !v6only;
    own == address
        || same_family && (own.is_unspecified() || address.is_unspecified())
        || hears_both
}

fn sockets(
    netlink: &OwnedFd,
    (protocol, family): (i32, i32),
    id: SocketId,
    states: u32,
    found: &mut Vec<Found>,
) -> io::Result<()> {
    let of = (protocol, family);
    let mut request = Request::new(SOCK_DIAG_BY_FAMILY, libc::NLM_F_DUMP, of, id);
    request.states = states;
    let _ = dump(netlink, &request, |answer| {
        found.push(Found {
            protocol,
            family,
            id: answer.id,
            v6only: answer.is_v6only(),
            owner: answer.owner,
            inode: answer.inode.into(),
            group: answer.group(),
        });
        ControlFlow::Continue(())
    })?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::{
        cell::{Cell, RefCell},
        io::Read,
        net::{Ipv6Addr, TcpListener, TcpStream, UdpSocket},
        os::fd::AsRawFd,
        time::Duration,
    };

    use nix::sys::socket::{Backlog, SockaddrStorage, bind, listen, setsockopt, sockopt};

    use super::*;

    fn free_port() -> u16 {
        let free = UdpSocket::bind("127.0.0.1:0").unwrap();
        free.local_addr().unwrap().port()
    }

    fn end_all(address: impl Into<IpAddr>, port: u16) -> io::Result<()> {
        end_tcp(address.into(), port..=port, |_| true)
    }

    #[test]
    fn listeners_and_connections_of_a_port_end_and_no_others() {
        if !nix::unistd::geteuid().is_root() {
            return eprintln!("skipped: needs root");
        }
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let other = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
        let mut near = TcpStream::connect(addr).unwrap();
        let (mut far, _) = listener.accept().unwrap();
        let ended = end_all(Ipv4Addr::UNSPECIFIED, addr.port());
        if let Err(error) = &ended
            && error.raw_os_error() == Some(libc::EOPNOTSUPP)
        {
            return eprintln!("skipped: the kernel ends no sockets (CONFIG_INET_DIAG_DESTROY)");
        }
        ended.unwrap();
        assert!(near.read(&mut [0]).is_err() && far.read(&mut [0]).is_err());
        assert!(listener.accept().is_err());
        assert!(TcpStream::connect(addr).is_err());
        TcpStream::connect(other.local_addr().unwrap()).unwrap();
    }

    #[test]
    fn all_that_share_a_port_end() {
        if !nix::unistd::geteuid().is_root() {
            return eprintln!("skipped: needs root");
        }
        let share = |addr: SocketAddr| {
            let (family, kind) = (AddressFamily::Inet6, SockType::Stream);
            let made = socket(family, kind, SockFlag::SOCK_CLOEXEC, None).unwrap();
            setsockopt(&made, sockopt::ReusePort, &true).unwrap();
            bind(made.as_raw_fd(), &SockaddrStorage::from(addr)).unwrap();
            listen(&made, Backlog::new(1).unwrap()).unwrap();
            let listener = TcpListener::from(made);
            // No test waits for one that hasn't ended.
            listener.set_nonblocking(true).unwrap();
            listener
        };
        let first = share("[::1]:0".parse().unwrap());
        let addr = first.local_addr().unwrap();
        let others: Vec<TcpListener> = (0..7).map(|_| share(addr)).collect();
        let ended = end_all(Ipv6Addr::UNSPECIFIED, addr.port());
        if let Err(error) = &ended
            && error.raw_os_error() == Some(libc::EOPNOTSUPP)
        {
            return eprintln!("skipped: the kernel ends no sockets (CONFIG_INET_DIAG_DESTROY)");
        }
        ended.unwrap();
        for listener in others.iter().chain([&first]) {
            let error = listener.accept().unwrap_err();
            assert_eq!(error.raw_os_error(), Some(libc::EINVAL));
        }
        assert!(TcpStream::connect(addr).is_err());
    }

    fn found(cookie: u32) -> Found {
        let mut id = SocketId::with_port(80);
        id.cookie = [cookie, 0];
        Found {
            protocol: libc::IPPROTO_TCP,
            family: libc::AF_INET,
            id,
            v6only: false,
            owner: 0,
            inode: 1,
            group: None,
        }
    }

    #[test]
    fn who_listens_again_and_again_keeps_nobody_waiting() {
        // One that is only bound, which there is nothing to be ended of.
        let list = || Ok(vec![found(1), found(2)]);
        let mut times = 0;
        let end = |socket: &Found| {
            times += 1;
            assert!(times < 9, "it goes on");
            Ok(socket.cookie() == 2)
        };
        end_listed(list, end).unwrap();
    }

    #[test]
    fn those_that_are_found_late_end_and_an_endless_number_does_not() {
        // Of those that share a port, the last.
        let left = RefCell::new(vec![found(1), found(2), found(3)]);
        let end = |socket: &Found| {
            let mut left = left.borrow_mut();
            let is_last = left.last().map(Found::cookie) == Some(socket.cookie());
            if is_last {
                left.pop();
            }
            Ok(is_last)
        };
        end_listed(|| Ok(left.borrow().clone()), end).unwrap();
        assert!(left.borrow().is_empty());
        let next = Cell::new(0);
        let ever_more = || {
            next.set(next.get() + 2);
            Ok(vec![found(next.get()), found(1)])
        };
        end_listed(ever_more, |it| Ok(it.cookie() != 1)).unwrap_err();
    }

    #[test]
    fn a_socket_of_udp_is_told_that_it_ends_and_keeps_its_port() {
        if !nix::unistd::geteuid().is_root() {
            return eprintln!("skipped: needs root");
        }
        // One that was bound to a port of its choice, not of the kernel's.
        let port = free_port();
        let bound = UdpSocket::bind(("127.0.0.1", port)).unwrap();
        bound
            .set_read_timeout(Some(Duration::from_secs(9)))
            .unwrap();
        let sockets = Sockets::open().unwrap();
        let found = sockets.list(libc::IPPROTO_UDP, Some(port)).unwrap();
        let localhost = Ipv4Addr::LOCALHOST.into();
        let found = found.iter().find(|it| it.is_at(localhost, &(port..=port)));
        let found = found.expect("the socket");
        let stat = nix::sys::stat::fstat(&bound).unwrap();
        assert_eq!((found.owner, found.inode), (stat.st_uid, stat.st_ino));
        match sockets.end(found).map(drop) {
            Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => {
                return eprintln!("skipped: the kernel ends no sockets (CONFIG_INET_DIAG_DESTROY)");
            }
            ended => ended.unwrap(),
        }
        let error = bound.recv(&mut [0]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionAborted);
        bound.send_to(b"!", ("127.0.0.1", port)).unwrap();
        bound.recv(&mut [0]).unwrap();
    }

    #[test]
    fn what_a_kernel_does_not_have_is_told_from_what_it_refuses() {
        let of = |errno| is_not_diagnosed(&io::Error::from_raw_os_error(errno));
        assert!(of(libc::ENOENT) && of(libc::EPROTONOSUPPORT));
        assert!(!of(libc::EPERM) && !is_not_diagnosed(&io::Error::other("?")));
    }

    #[test]
    fn a_port_of_one_family_is_not_that_of_the_other() {
        let (v4, v6): (IpAddr, IpAddr) = ("0.0.0.0".parse().unwrap(), "::".parse().unwrap());
        assert!(is_at(v4, libc::AF_INET, v4, false));
        assert!(!is_at(v6, libc::AF_INET, v4, false));
        assert!(is_at(v6, libc::AF_INET6, v6, true));
        assert!(!is_at(v4, libc::AF_INET6, v6, true));
        // One that hears both has the port in both.
        assert!(is_at(v4, libc::AF_INET6, v6, false));
    }
}
