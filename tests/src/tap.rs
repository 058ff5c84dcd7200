//! What passes an interface, as its stack hands it over.

use std::os::fd::{AsRawFd, OwnedFd};

use netdp::netns::Namespace;
use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, recv, setsockopt, sockopt};

use crate::frame;

/// Bytes of packets that wait to be looked at.
const ROOM: usize = 128 << 20;

/// A socket that is given each packet of an interface, in both directions
/// (packet(7)).
pub struct Tap(OwnedFd);

impl Tap {
    #[track_caller]
    pub fn open(namespace: &Namespace, interface: &str) -> Self {
        let socket = frame::open(namespace, interface, libc::ETH_P_ALL as u16);
        setsockopt(&socket, sockopt::RcvBufForce, &ROOM).expect("room for packets");
        Self(socket)
    }

    /// Bytes of the largest frame since the last call.
    #[track_caller]
    pub fn largest(&self) -> usize {
        self.lengths().into_iter().max().unwrap_or_default()
    }

    /// Bytes of each frame since the last call.
    #[track_caller]
    pub fn lengths(&self) -> Vec<usize> {
        let flags = MsgFlags::MSG_TRUNC | MsgFlags::MSG_DONTWAIT;
        let mut lengths = Vec::new();
        loop {
            // The length is that of the frame, however little is taken of it.
            match recv(self.0.as_raw_fd(), &mut [0; 1], flags) {
                Ok(length) => lengths.push(length),
                Err(Errno::EAGAIN) => return lengths,
                Err(error) => panic!("cannot look at packets: {error}"),
            }
        }
    }
}
