//! What an interface does for the stack: checksums, segmentation.

use std::os::fd::AsRawFd;

use netdp::netns::Namespace;
use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};

/// One kind of help, by the ethtool command that sets it
/// (`include/uapi/linux/ethtool.h`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub enum Offload {
    /// Checksums of what is sent. Without it, the stack computes them, and
    /// sends no packets to be segmented by the device.
    SendChecksums = 0x17,
    /// Segments of TCP.
    Segmentation = 0x1f,
    /// The kernel's own segments, as late as possible (GSO).
    LateSegmentation = 0x24,
    /// Segments that arrive put together (GRO).
    Merging = 0x2c,
}

/// Turns it on or off at an interface.
#[track_caller]
pub fn set_offload(namespace: &Namespace, interface: &str, offload: Offload, on: bool) {
    /// `struct ethtool_value`.
    #[repr(C)]
    struct Value {
        command: u32,
        data: u32,
    }
    let set = namespace.run(|| {
        let mut value = Value {
            command: offload as u32,
            data: on.into(),
        };
        // SAFETY: all bytes zero is a valid value of this struct of integers.
        let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
        for (to, byte) in request.ifr_name.iter_mut().zip(interface.bytes()) {
            *to = byte.cast_signed();
        }
        request.ifr_ifru.ifru_data = (&raw mut value).cast();
        let socket = socket(
            AddressFamily::Inet,
            SockType::Datagram,
            SockFlag::SOCK_CLOEXEC,
            None,
        )?;
        // SAFETY: the request and what it points to live until the call ends.
        let ret = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCETHTOOL, &raw mut request) };
        Errno::result(ret)
    });
    set.expect("enter the namespace")
        .unwrap_or_else(|error| panic!("{offload:?} of {interface}: {error}"));
}
