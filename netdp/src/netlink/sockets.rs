//! Ending the sockets that have a port: `sock_diag(7)`.

use std::{
    io,
    net::IpAddr,
    ops::RangeInclusive,
    os::fd::{AsRawFd, OwnedFd},
};

use nix::{
    errno::Errno,
    libc,
    sys::socket::{
        AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, recv, sendto,
        socket,
    },
};

/// `include/uapi/linux/sock_diag.h`; `SOCK_DESTROY` is of 4.9, where the kernel
/// is built with `CONFIG_INET_DIAG_DESTROY`.
const SOCK_DIAG_BY_FAMILY: u16 = 20;
const SOCK_DESTROY: u16 = 21;

/// `struct inet_diag_sockid`: ports and addresses in network order.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
struct SocketId {
    sport: [u8; 2],
    dport: [u8; 2],
    src: [u8; 16],
    dst: [u8; 16],
    interface: u32,
    cookie: [u32; 2],
}

impl SocketId {
    fn own(&self, family: i32) -> IpAddr {
        match family {
            libc::AF_INET => {
                let [a, b, c, d, ..] = self.src;
                IpAddr::from([a, b, c, d])
            }
            _ => IpAddr::from(self.src).to_canonical(),
        }
    }
}

/// `struct inet_diag_req_v2` behind its header.
#[repr(C)]
#[derive(Clone, Copy)]
struct Request {
    length: u32,
    kind: u16,
    flags: u16,
    sequence: u32,
    port: u32,
    family: u8,
    protocol: u8,
    extensions: u8,
    pad: u8,
    states: u32,
    id: SocketId,
}

const _: () = assert!(size_of::<SocketId>() == 48 && size_of::<Request>() == 72);

/// The longest header, and what an answer has before the id of the socket.
const HEADER: usize = 16;
const BEFORE_ID: usize = 4;
/// Size of `struct inet_diag_msg`, behind which attributes stand.
const ATTRIBUTES: usize = 72;
/// Where it has the user and the inode.
const OWNER: usize = 64;
const INODE: usize = 68;

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

    /// Whether it has one of these ports at this address; where that is
    /// unspecified, at any.
    pub fn is_at(&self, address: IpAddr, ports: &RangeInclusive<u16>) -> bool {
        ports.contains(&u16::from_be_bytes(self.id.sport))
            && is_at(address, self.family, self.id.own(self.family), self.v6only)
    }
}

/// The kernel, asked for sockets.
#[derive(Debug)]
pub struct Sockets(OwnedFd);

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
            sockets(&self.0, protocol, family, port.unwrap_or(0), &mut found)?;
        }
        Ok(found)
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
        destroy(&self.0, socket)
    }
}

/// Ends every TCP socket of this thread's network that has one of these ports, at
/// this address or, where it is unspecified, at any: listeners, and connections.
///
/// # Errors
/// What the kernel refused.
pub fn end_tcp(address: IpAddr, ports: RangeInclusive<u16>) -> io::Result<()> {
    let sockets = Sockets::open()?;
    let alone = (ports.start() == ports.end()).then_some(*ports.start());
    loop {
        let mut listed = sockets.list(libc::IPPROTO_TCP, alone)?;
        listed.retain(|it| it.is_at(address, &ports));
        let mut ended = 0;
        for socket in &listed {
            ended += usize::from(sockets.end(socket)?);
        }
        // Those that were not found may be, now that others have ended.
        if ended == listed.len() || ended == 0 {
            return Ok(());
        }
    }
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

/// `INET_DIAG_SKV6ONLY` and `INET_DIAG_CGROUP_ID` (include/uapi/linux/inet_diag.h):
/// an octet, and a number of 64 bits (5.8).
const V6ONLY: u16 = 11;
const CGROUP_ID: u16 = 21;

/// The value of an attribute of an answer, and what is behind it.
fn attribute(mut attributes: &[u8], wanted: u16) -> Option<&[u8]> {
    const HEADER: usize = 4;
    while let Some(header) = attributes.first_chunk::<HEADER>() {
        let length = usize::from(u16::from_ne_bytes([header[0], header[1]]));
        if u16::from_ne_bytes([header[2], header[3]]) == wanted {
            return attributes.get(HEADER..);
        }
        let next = length.max(HEADER).next_multiple_of(HEADER);
        attributes = attributes.get(next..).unwrap_or_default();
    }
    None
}

/// Whether a listener of IPv6 hears no IPv4; no where the answer doesn't say.
fn is_v6only(attributes: &[u8]) -> bool {
    attribute(attributes, V6ONLY).is_some_and(|it| it.first().is_some_and(|only| *only != 0))
}

fn sockets(
    netlink: &OwnedFd,
    protocol: i32,
    family: i32,
    port: u16,
    found: &mut Vec<Found>,
) -> io::Result<()> {
    let id = SocketId {
        sport: port.to_be_bytes(),
        ..SocketId::default()
    };
    let dump = (libc::NLM_F_REQUEST | libc::NLM_F_DUMP) as u16;
    let asked = request(SOCK_DIAG_BY_FAMILY, dump, (protocol, family), id);
    ask(netlink, &asked)?;
    let mut buffer = vec![0; 32 * 1024];
    loop {
        let length = recv(netlink.as_raw_fd(), &mut buffer, MsgFlags::empty())?;
        let mut rest = &buffer[..length];
        while let Some((kind, body, after)) = message(rest) {
            match i32::from(kind) {
                libc::NLMSG_DONE => return Ok(()),
                libc::NLMSG_ERROR => return refused(body),
                _ => found.extend(parse(protocol, family, body)),
            }
            rest = after;
        }
    }
}

/// `struct inet_diag_msg`, and the attributes behind it.
fn parse(protocol: i32, family: i32, body: &[u8]) -> Option<Found> {
    let id = body.get(BEFORE_ID..BEFORE_ID + size_of::<SocketId>())?;
    let number = |at: usize| Some(u32::from_ne_bytes(*body.get(at..)?.first_chunk()?));
    let attributes = body.get(ATTRIBUTES..)?;
    let group = attribute(attributes, CGROUP_ID).and_then(|it| it.first_chunk());
    Some(Found {
        protocol,
        family,
        // SAFETY: as many bytes as the structure has, which takes any.
        id: unsafe { id.as_ptr().cast::<SocketId>().read_unaligned() },
        v6only: is_v6only(attributes),
        owner: number(OWNER)?,
        inode: number(INODE)?.into(),
        group: group.map(|it| u64::from_ne_bytes(*it)),
    })
}

fn destroy(netlink: &OwnedFd, socket: &Found) -> io::Result<bool> {
    let flags = (libc::NLM_F_REQUEST | libc::NLM_F_ACK) as u16;
    let of = (socket.protocol, socket.family);
    ask(netlink, &request(SOCK_DESTROY, flags, of, socket.id))?;
    let mut buffer = [0; 1024];
    let length = recv(netlink.as_raw_fd(), &mut buffer, MsgFlags::empty())?;
    let Some((_, body, _)) = message(&buffer[..length]) else {
        return Err(io::ErrorKind::UnexpectedEof.into());
    };
    match refused(body) {
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(false),
        done => done.map(|()| true),
    }
}

fn request(kind: u16, flags: u16, (protocol, family): (i32, i32), id: SocketId) -> Request {
    Request {
        length: size_of::<Request>() as u32,
        kind,
        flags,
        sequence: 1,
        port: 0,
        family: family as u8,
        protocol: protocol as u8,
        extensions: 0,
        pad: 0,
        states: u32::MAX,
        id,
    }
}

fn ask(netlink: &OwnedFd, request: &Request) -> io::Result<()> {
    // SAFETY: a structure without padding, as bytes.
    let bytes = unsafe {
        std::slice::from_raw_parts((&raw const *request).cast::<u8>(), size_of::<Request>())
    };
    let kernel = NetlinkAddr::new(0, 0);
    sendto(netlink.as_raw_fd(), bytes, &kernel, MsgFlags::empty())?;
    Ok(())
}

/// Kind and body of the first message, and what follows.
fn message(bytes: &[u8]) -> Option<(u16, &[u8], &[u8])> {
    let length = u32::from_ne_bytes(*bytes.first_chunk()?) as usize;
    let kind = u16::from_ne_bytes(*bytes.get(4..)?.first_chunk()?);
    let body = bytes.get(HEADER..length)?;
    let after = bytes.get(length.next_multiple_of(4)..).unwrap_or(&[]);
    Some((kind, body, after))
}

/// `struct nlmsgerr`: 0 where it is an acknowledgement.
fn refused(body: &[u8]) -> io::Result<()> {
    let errno = body.first_chunk().map_or(0, |it| i32::from_ne_bytes(*it));
    match errno {
        0 => Ok(()),
        errno => Err(Errno::from_raw(-errno).into()),
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io::Read,
        net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
        time::Duration,
    };

    use nix::sys::socket::{Backlog, SockaddrStorage, bind, listen, setsockopt, sockopt};

    use super::*;

    fn free_port() -> u16 {
        let free = UdpSocket::bind("127.0.0.1:0").unwrap();
        free.local_addr().unwrap().port()
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
        let ended = end_tcp(Ipv4Addr::UNSPECIFIED.into(), addr.port()..=addr.port());
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
        let ended = end_tcp(Ipv6Addr::UNSPECIFIED.into(), addr.port()..=addr.port());
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
    fn a_port_of_one_family_is_not_that_of_the_other() {
        let (v4, v6): (IpAddr, IpAddr) = ("0.0.0.0".parse().unwrap(), "::".parse().unwrap());
        assert!(is_at(v4, libc::AF_INET, v4, false));
        assert!(!is_at(v6, libc::AF_INET, v4, false));
        assert!(is_at(v6, libc::AF_INET6, v6, true));
        assert!(!is_at(v4, libc::AF_INET6, v6, true));
        // One that hears both has the port in both.
        assert!(is_at(v4, libc::AF_INET6, v6, false));
    }

    #[test]
    fn a_listener_of_ipv6_alone_is_told_by_its_attribute() {
        let shutdown = [5, 0, 8, 0, 0, 0, 0, 0];
        let only = [5, 0, 11, 0, 1, 0, 0, 0];
        assert!(is_v6only(&[shutdown, only].concat()));
        assert!(!is_v6only(&[5, 0, 11, 0, 0, 0, 0, 0]));
        for broken in [&[][..], &shutdown, &[0, 0, 0, 0], &[9, 0, 11, 0]] {
            assert!(!is_v6only(broken));
        }
    }
}
