//! Ending the sockets that have a port: `sock_diag(7)`.

use std::{
    io,
    net::IpAddr,
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
#[derive(Clone, Copy, Default)]
struct SocketId {
    sport: [u8; 2],
    dport: [u8; 2],
    src: [u8; 16],
    dst: [u8; 16],
    interface: u32,
    cookie: [u32; 2],
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

/// Ends every TCP socket of this thread's network that has this port, at this
/// address or, where it is unspecified, at any: listeners, and connections with
/// both of their sides told.
///
/// # Errors
/// What the kernel refused, but for sockets that have gone meanwhile.
pub fn end_tcp(address: IpAddr, port: u16) -> io::Result<()> {
    let netlink = socket(
        AddressFamily::Netlink,
        SockType::Raw,
        SockFlag::SOCK_CLOEXEC,
        SockProtocol::NetlinkSockDiag,
    )?;
    for family in [libc::AF_INET, libc::AF_INET6] {
        for (id, v6only) in sockets(&netlink, family as u8, port)? {
            if is_at(address, family, &id, v6only) {
                destroy(&netlink, family as u8, id)?;
            }
        }
    }
    Ok(())
}

/// A socket of IPv6 may have the port in IPv4, unless it hears IPv6 alone.
fn is_at(address: IpAddr, family: i32, id: &SocketId, v6only: bool) -> bool {
    let own = match family {
        libc::AF_INET => {
            let [a, b, c, d, ..] = id.src;
            IpAddr::from([a, b, c, d])
        }
        _ => IpAddr::from(id.src).to_canonical(),
    };
    let same_family = own.is_ipv4() == address.is_ipv4();
    let hears_both = family == libc::AF_INET6 && own.is_unspecified() && !v6only;
    own == address
        || same_family && (own.is_unspecified() || address.is_unspecified())
        || hears_both
}

/// Whether a listener of IPv6 hears no IPv4, by the attributes of an answer; no
/// where it doesn't say.
fn is_v6only(mut attributes: &[u8]) -> bool {
    /// `INET_DIAG_SKV6ONLY` (include/uapi/linux/inet_diag.h): one octet.
    const V6ONLY: u16 = 11;
    const HEADER: usize = 4;
    while let Some(header) = attributes.first_chunk::<HEADER>() {
        let length = usize::from(u16::from_ne_bytes([header[0], header[1]]));
        if u16::from_ne_bytes([header[2], header[3]]) == V6ONLY {
            return attributes.get(HEADER).is_some_and(|only| *only != 0);
        }
        let next = length.max(HEADER).next_multiple_of(HEADER);
        attributes = attributes.get(next..).unwrap_or_default();
    }
    false
}

fn sockets(netlink: &OwnedFd, family: u8, port: u16) -> io::Result<Vec<(SocketId, bool)>> {
    let id = SocketId {
        sport: port.to_be_bytes(),
        ..SocketId::default()
    };
    let dump = (libc::NLM_F_REQUEST | libc::NLM_F_DUMP) as u16;
    ask(netlink, &request(SOCK_DIAG_BY_FAMILY, dump, family, id))?;
    let mut found = Vec::new();
    let mut buffer = vec![0; 32 * 1024];
    loop {
        let length = recv(netlink.as_raw_fd(), &mut buffer, MsgFlags::empty())?;
        let mut rest = &buffer[..length];
        while let Some((kind, body, after)) = message(rest) {
            match i32::from(kind) {
                libc::NLMSG_DONE => return Ok(found),
                libc::NLMSG_ERROR => return refused(body).map(|()| found),
                _ => {}
            }
            if let Some(id) = body.get(BEFORE_ID..BEFORE_ID + size_of::<SocketId>()) {
                // SAFETY: as many bytes as the structure has, which takes any.
                let id = unsafe { id.as_ptr().cast::<SocketId>().read_unaligned() };
                found.push((id, body.get(ATTRIBUTES..).is_some_and(is_v6only)));
            }
            rest = after;
        }
    }
}

fn destroy(netlink: &OwnedFd, family: u8, id: SocketId) -> io::Result<()> {
    let flags = (libc::NLM_F_REQUEST | libc::NLM_F_ACK) as u16;
    ask(netlink, &request(SOCK_DESTROY, flags, family, id))?;
    let mut buffer = [0; 1024];
    let length = recv(netlink.as_raw_fd(), &mut buffer, MsgFlags::empty())?;
    let Some((_, body, _)) = message(&buffer[..length]) else {
        return Err(io::ErrorKind::UnexpectedEof.into());
    };
    match refused(body) {
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(()),
        done => done,
    }
}

fn request(kind: u16, flags: u16, family: u8, id: SocketId) -> Request {
    Request {
        length: size_of::<Request>() as u32,
        kind,
        flags,
        sequence: 1,
        port: 0,
        family,
        protocol: libc::IPPROTO_TCP as u8,
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
        net::{Ipv4Addr, TcpListener, TcpStream},
    };

    use super::*;

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
        let ended = end_tcp(Ipv4Addr::UNSPECIFIED.into(), addr.port());
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
    fn a_port_of_one_family_is_not_that_of_the_other() {
        let any = SocketId::default();
        let (v4, v6): (IpAddr, IpAddr) = ("0.0.0.0".parse().unwrap(), "::".parse().unwrap());
        assert!(is_at(v4, libc::AF_INET, &any, false));
        assert!(!is_at(v6, libc::AF_INET, &any, false));
        assert!(is_at(v6, libc::AF_INET6, &any, true));
        assert!(!is_at(v4, libc::AF_INET6, &any, true));
        // One that hears both has the port in both.
        assert!(is_at(v4, libc::AF_INET6, &any, false));
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
