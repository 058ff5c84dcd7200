//! What `sock_diag(7)` is asked, and what it answers: `struct inet_diag_req_v2` and
//! `struct inet_diag_msg`.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    ops::ControlFlow,
    os::fd::{AsRawFd, OwnedFd},
};

use nix::{
    errno::Errno,
    libc,
    sys::socket::{MsgFlags, NetlinkAddr, recv, sendto},
};

/// `include/uapi/linux/sock_diag.h`; `SOCK_DESTROY` is of 4.9, where the kernel
/// is built with `CONFIG_INET_DIAG_DESTROY`.
pub(super) const SOCK_DIAG_BY_FAMILY: u16 = 20;
pub(super) const SOCK_DESTROY: u16 = 21;

/// `struct inet_diag_sockid`: ports and addresses in network order.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct SocketId {
    sport: [u8; 2],
    dport: [u8; 2],
    src: [u8; 16],
    dst: [u8; 16],
    /// That it is bound to; 0 for none.
    pub interface: u32,
    pub cookie: [u32; 2],
}

impl SocketId {
    /// One with this port, of whatever address and peer.
    pub fn with_port(port: u16) -> Self {
        Self {
            sport: port.to_be_bytes(),
            ..Self::default()
        }
    }

    /// Of a socket here and its peer, whichever it is (`INET_DIAG_NOCOOKIE`).
    pub fn between(own: SocketAddr, peer: SocketAddr) -> Self {
        Self {
            sport: own.port().to_be_bytes(),
            dport: peer.port().to_be_bytes(),
            src: bytes(own.ip()),
            dst: bytes(peer.ip()),
            interface: 0,
            cookie: [u32::MAX; 2],
        }
    }

    pub fn own(&self, family: i32) -> SocketAddr {
        SocketAddr::new(address(family, self.src), u16::from_be_bytes(self.sport))
    }

    pub fn peer(&self, family: i32) -> SocketAddr {
        SocketAddr::new(address(family, self.dst), u16::from_be_bytes(self.dport))
    }
}

/// IPv4 that a socket of IPv6 speaks is IPv4.
fn address(family: i32, bytes: [u8; 16]) -> IpAddr {
    match family {
        libc::AF_INET => {
            let [a, b, c, d, ..] = bytes;
            Ipv4Addr::from([a, b, c, d]).into()
        }
        _ => IpAddr::from(bytes).to_canonical(),
    }
}

fn bytes(address: IpAddr) -> [u8; 16] {
    let mut bytes = [0; 16];
    match address {
        IpAddr::V4(v4) => bytes[..4].copy_from_slice(&v4.octets()),
        IpAddr::V6(v6) => bytes = v6.octets(),
    }
    bytes
}

/// `struct inet_diag_req_v2` behind its header.
#[repr(C)]
#[derive(Clone, Copy)]
pub(super) struct Request {
    length: u32,
    kind: u16,
    flags: u16,
    sequence: u32,
    port: u32,
    family: u8,
    protocol: u8,
    /// A bit for each attribute that is wanted, from 1 on.
    pub extensions: u8,
    pad: u8,
    /// A bit for each state of TCP that is wanted.
    pub states: u32,
    id: SocketId,
}

const _: () = assert!(size_of::<SocketId>() == 48 && size_of::<Request>() == 72);

impl Request {
    pub fn new(kind: u16, flags: i32, (protocol, family): (i32, i32), id: SocketId) -> Self {
        Self {
            length: size_of::<Self>() as u32,
            kind,
            flags: (libc::NLM_F_REQUEST | flags) as u16,
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

    pub fn send(&self, netlink: &OwnedFd) -> io::Result<()> {
        // SAFETY: a structure without padding, as bytes.
        let bytes = unsafe {
            std::slice::from_raw_parts((&raw const *self).cast::<u8>(), size_of::<Self>())
        };
        let kernel = NetlinkAddr::new(0, 0);
        sendto(netlink.as_raw_fd(), bytes, &kernel, MsgFlags::empty())?;
        Ok(())
    }
}

/// The longest header, and what an answer has before the id of the socket.
const HEADER: usize = 16;
const BEFORE_ID: usize = 4;
const STATE: usize = 1;
/// Size of `struct inet_diag_msg`, behind which attributes stand.
const ATTRIBUTES: usize = 72;
/// Where it has the user and the inode.
const OWNER: usize = 64;
const INODE: usize = 68;

/// `INET_DIAG_INFO`, `INET_DIAG_SKV6ONLY` and `INET_DIAG_CGROUP_ID`
/// (include/uapi/linux/inet_diag.h): `struct tcp_info`, an octet, and a number of
/// 64 bits (5.8).
pub(super) const INFO: u16 = 2;
const V6ONLY: u16 = 11;
const CGROUP_ID: u16 = 21;

/// `struct inet_diag_msg`, and the attributes behind it.
#[derive(Clone, Copy)]
pub(super) struct Answer<'a> {
    pub id: SocketId,
    pub state: u8,
    /// The user that it is of.
    pub owner: u32,
    pub inode: u32,
    attributes: &'a [u8],
}

impl<'a> Answer<'a> {
    fn of(body: &'a [u8]) -> Option<Self> {
        let id = body.get(BEFORE_ID..BEFORE_ID + size_of::<SocketId>())?;
        let number = |at: usize| Some(u32::from_ne_bytes(*body.get(at..)?.first_chunk()?));
        Some(Self {
            // SAFETY: as many bytes as the structure has, which takes any.
            id: unsafe { id.as_ptr().cast::<SocketId>().read_unaligned() },
            state: *body.get(STATE)?,
            owner: number(OWNER)?,
            inode: number(INODE)?,
            attributes: body.get(ATTRIBUTES..)?,
        })
    }

    /// The value of an attribute, and what is behind it.
    pub fn attribute(&self, wanted: u16) -> Option<&'a [u8]> {
        attribute(self.attributes, wanted)
    }

    /// Whether a listener of IPv6 hears no IPv4; no where the answer doesn't say.
    pub fn is_v6only(&self) -> bool {
        is_v6only(self.attributes)
    }

    /// Inode of the control group that it was made in.
    pub fn group(&self) -> Option<u64> {
        let group = self.attribute(CGROUP_ID)?.first_chunk()?;
        Some(u64::from_ne_bytes(*group))
    }
}

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

fn is_v6only(attributes: &[u8]) -> bool {
    attribute(attributes, V6ONLY).is_some_and(|it| it.first().is_some_and(|only| *only != 0))
}

/// Calls `each` for every answer to a request for many, until it breaks: what
/// the kernel has still to say then is left unread.
pub(super) fn dump(
    netlink: &OwnedFd,
    request: &Request,
    mut each: impl FnMut(Answer<'_>) -> ControlFlow<()>,
) -> io::Result<ControlFlow<()>> {
    request.send(netlink)?;
    let mut buffer = vec![0; 32 * 1024];
    loop {
        let length = recv(netlink.as_raw_fd(), &mut buffer, MsgFlags::empty())?;
        let mut rest = &buffer[..length];
        while let Some((kind, body, after)) = message(rest) {
            match i32::from(kind) {
                libc::NLMSG_DONE => return Ok(ControlFlow::Continue(())),
                libc::NLMSG_ERROR => {
                    return refused(body).map(|()| ControlFlow::Continue(()));
                }
                _ => {
                    if Answer::of(body)
                        .map_or(ControlFlow::Continue(()), &mut each)
                        .is_break()
                    {
                        return Ok(ControlFlow::Break(()));
                    }
                }
            }
            rest = after;
        }
    }
}

/// Asks about one socket. False where there is none.
pub(super) fn ask(netlink: &OwnedFd, request: &Request) -> io::Result<bool> {
    request.send(netlink)?;
    let mut buffer = [0; 4096];
    let length = recv(netlink.as_raw_fd(), &mut buffer, MsgFlags::empty())?;
    let Some((kind, body, _)) = message(&buffer[..length]) else {
        return Err(io::ErrorKind::UnexpectedEof.into());
    };
    if i32::from(kind) != libc::NLMSG_ERROR {
        return Ok(true);
    }
    match refused(body) {
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(false),
        done => done.map(|()| true),
    }
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
    use super::*;

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
