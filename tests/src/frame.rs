//! Frames as no stack of its own accord would send them.

use std::ffi::CString;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};

use etherparse::{IpFragOffset, IpHeaders, Ipv4Header, PacketBuilder, PacketBuilderStep};
use netdp::netns::Namespace;
use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};

/// Length of an Ethernet header.
const ETHERNET: usize = 14;
const TTL: u8 = 64;

/// Source and destination.
pub type Macs = ([u8; 6], [u8; 6]);

/// A socket that sends whole frames by an interface (packet(7)).
pub struct Frames(OwnedFd);

impl Frames {
    #[track_caller]
    pub fn open(namespace: &Namespace, interface: &str) -> Self {
        Self(open(namespace, interface, 0))
    }

    /// The same, of a sender that says of all frames that they are of this
    /// protocol (`ETH_P_*`), whatever their headers say.
    #[track_caller]
    pub fn open_as(namespace: &Namespace, interface: &str, protocol: u16) -> Self {
        Self(open(namespace, interface, protocol))
    }

    #[track_caller]
    pub fn send(&self, frame: &[u8]) {
        assert_eq!(nix::unistd::write(&self.0, frame).unwrap(), frame.len());
    }

    /// Sends a frame that the interface may refuse at once (`ENOBUFS`), as that
    /// of a netkit pair does where its program drops it.
    #[track_caller]
    pub fn offer(&self, frame: &[u8]) {
        match nix::unistd::write(&self.0, frame) {
            Err(Errno::ENOBUFS) => {}
            sent => assert_eq!(sent.unwrap(), frame.len()),
        }
    }
}

/// A socket for whole frames of an interface; it is given those of `protocol`
/// (`ETH_P_*`), or none where that is 0.
#[track_caller]
pub(crate) fn open(namespace: &Namespace, interface: &str, protocol: u16) -> OwnedFd {
    let interface = CString::new(interface).expect("a name");
    let opened = namespace.run(|| {
        let family = AddressFamily::Packet;
        let socket = socket(family, SockType::Raw, SockFlag::SOCK_CLOEXEC, None)?;
        // SAFETY: all bytes zero is a valid value of this struct of integers.
        let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
        address.sll_family = libc::AF_PACKET as u16;
        address.sll_protocol = protocol.to_be();
        // SAFETY: the name is a C string.
        address.sll_ifindex = unsafe { libc::if_nametoindex(interface.as_ptr()) } as i32;
        // SAFETY: the address is of the length given.
        let bound = unsafe {
            libc::bind(
                socket.as_raw_fd(),
                (&raw const address).cast(),
                size_of_val(&address) as u32,
            )
        };
        Errno::result(bound)?;
        nix::Result::Ok(socket)
    });
    opened.unwrap().expect("a packet socket")
}

impl AsRawFd for Frames {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

/// Headers up to the transport's, of the family of both addresses.
fn headers((source, destination): Macs, from: IpAddr, to: IpAddr) -> PacketBuilderStep<IpHeaders> {
    let frame = PacketBuilder::ethernet2(source, destination);
    match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => frame.ipv4(from.octets(), to.octets(), TTL),
        (IpAddr::V6(from), IpAddr::V6(to)) => frame.ipv6(from.octets(), to.octets(), TTL),
        _ => panic!("{from} and {to} are of different families"),
    }
}

/// A UDP datagram.
pub fn datagram(
    macs: Macs,
    from: (impl Into<IpAddr>, u16),
    to: (impl Into<IpAddr>, u16),
    words: &[u8],
) -> Vec<u8> {
    let mut frame = Vec::new();
    headers(macs, from.0.into(), to.0.into())
        .udp(from.1, to.1)
        .write(&mut frame, words)
        .expect("a datagram");
    frame
}

/// The first segment of a connection.
pub fn syn(macs: Macs, from: (impl Into<IpAddr>, u16), to: (impl Into<IpAddr>, u16)) -> Vec<u8> {
    let mut frame = Vec::new();
    headers(macs, from.0.into(), to.0.into())
        .tcp(from.1, to.1, 1000, 4096)
        .syn()
        .write(&mut frame, &[])
        .expect("a segment");
    frame
}

/// An ICMP echo request.
pub fn echo_request((source, destination): Macs, from: Ipv4Addr, to: Ipv4Addr) -> Vec<u8> {
    let mut frame = Vec::new();
    PacketBuilder::ethernet2(source, destination)
        .ipv4(from.octets(), to.octets(), TTL)
        .icmpv4_echo_request(7, 1)
        .write(&mut frame, b"echo")
        .expect("an echo request");
    frame
}

/// The same IPv4 packet in two fragments, the first with `length` bytes behind
/// the header, a multiple of 8.
pub fn fragments(frame: &[u8], length: u16) -> [Vec<u8>; 2] {
    let (header, rest) = Ipv4Header::from_slice(&frame[ETHERNET..]).expect("an IPv4 header");
    let (first, later) = rest.split_at(length.into());
    let later_at = IpFragOffset::try_from(length / 8).expect("an offset");
    [(first, true, IpFragOffset::ZERO), (later, false, later_at)].map(
        |(part, more_fragments, fragment_offset)| {
            let mut header = Ipv4Header {
                more_fragments,
                fragment_offset,
                ..header.clone()
            };
            header.set_payload_len(part.len()).expect("a short part");
            header.header_checksum = header.calc_header_checksum();
            [&frame[..ETHERNET], &header.to_bytes(), part].concat()
        },
    )
}
