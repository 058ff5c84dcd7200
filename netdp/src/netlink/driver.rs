//! The drivers of interfaces, which netlink doesn't tell.

use std::{
    mem,
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
};

use nix::libc;

/// `struct ethtool_drvinfo` (`include/uapi/linux/ethtool.h`).
#[repr(C)]
struct DriverInfo {
    cmd: u32,
    driver: [u8; 32],
    rest: [u8; 160],
}

const ETHTOOL_GDRVINFO: u32 = 3;

/// What an interface of the calling thread's namespace is driven by; none where
/// it is gone, or doesn't say.
pub fn driver(ifname: &str) -> Option<String> {
    // SAFETY: makes a descriptor of our own.
    let socket = unsafe { libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) };
    if socket < 0 {
        return None;
    }
    // SAFETY: just opened, and nobody else's.
    let socket = unsafe { OwnedFd::from_raw_fd(socket) };
    let mut info = DriverInfo {
        cmd: ETHTOOL_GDRVINFO,
        driver: [0; 32],
        rest: [0; 160],
    };
    // SAFETY: all zero is a valid value.
    let mut request: libc::ifreq = unsafe { mem::zeroed() };
    if ifname.len() >= request.ifr_name.len() {
        return None;
    }
    for (to, from) in request.ifr_name.iter_mut().zip(ifname.bytes()) {
        *to = from as libc::c_char;
    }
    request.ifr_ifru.ifru_data = (&raw mut info).cast();
    // SAFETY: the kernel writes no more than the structure, which outlives the
    // call.
    let answer = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCETHTOOL, &raw mut request) };
    if answer != 0 {
        return None;
    }
    let end = info.driver.iter().position(|byte| *byte == 0)?;
    let name = String::from_utf8_lossy(&info.driver[..end]).into_owned();
    (!name.is_empty()).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_there_has_no_driver() {
        assert_eq!(driver("nothing-here"), None);
        assert_eq!(driver("a-name-that-no-interface-can-have"), None);
    }
}
