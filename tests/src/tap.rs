//! What passes an interface, as its stack hands it over.

use std::ffi::CString;
use std::os::fd::{AsRawFd, OwnedFd};

use netdp::netns::Namespace;
use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, setsockopt, socket, sockopt,
};

/// Bytes of packets that wait to be looked at.
const ROOM: usize = 128 << 20;

/// A socket that is given each packet of an interface, in both directions
/// (packet(7)).
pub struct Tap(OwnedFd);

impl Tap {
    #[track_caller]
    pub fn open(namespace: &Namespace, interface: &str) -> Self {
        let interface = CString::new(interface).expect("a name");
        let opened = namespace.run(|| {
            let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
            let family = AddressFamily::Packet;
            let socket = socket(family, SockType::Raw, flags, SockProtocol::EthAll)?;
            setsockopt(&socket, sockopt::RcvBufForce, &ROOM)?;
            // SAFETY: all bytes zero is a valid value of this struct of integers.
            let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
            address.sll_family = libc::AF_PACKET as u16;
            address.sll_protocol = (libc::ETH_P_ALL as u16).to_be();
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
        Self(opened.unwrap().expect("a packet socket"))
    }

    /// Bytes of the largest frame since the last call.
    #[track_caller]
    pub fn largest(&self) -> usize {
        let mut largest = 0;
        loop {
            // The length is that of the frame, however little is taken of it.
            match recv(self.0.as_raw_fd(), &mut [0; 1], MsgFlags::MSG_TRUNC) {
                Ok(length) => largest = largest.max(length),
                Err(Errno::EAGAIN) => return largest,
                Err(error) => panic!("cannot look at packets: {error}"),
            }
        }
    }
}
