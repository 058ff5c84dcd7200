//! Ports that a process has bound without listening at them, as Podman does from
//! version 6 on: no table of `/proc/net` shows such a socket, and `sock_diag`
//! only from Linux 6.8 on (`TCP_BOUND_INACTIVE`). The socket itself tells.

use std::{fs, net::IpAddr, os::fd::AsRawFd};

use nix::sys::socket::{SockType, SockaddrStorage, getsockname, getsockopt, sockopt};
use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, RawPid, pidfd_getfd, pidfd_open};

use crate::{model::Proto, plan::Hold};

/// Whether a process has a socket that is bound to one of these ports. No where
/// it can't be asked: it is gone, or another's.
pub fn has(pid: u32, ports: &Hold) -> bool {
    let process = RawPid::try_from(pid).ok().and_then(Pid::from_raw);
    let Some(Ok(process)) = process.map(|pid| pidfd_open(pid, PidfdFlags::empty())) else {
        return false;
    };
    let Ok(descriptors) = fs::read_dir(format!("/proc/{pid}/fd")) else {
        return false;
    };
    let sockets = descriptors.flatten().filter_map(|entry| {
        let to = fs::read_link(entry.path()).ok()?;
        if !to.to_str()?.starts_with("socket:[") {
            return None;
        }
        entry.file_name().to_str()?.parse().ok()
    });
    sockets
        .filter_map(|number| pidfd_getfd(&process, number, PidfdGetfdFlags::empty()).ok())
        .any(|socket| is_bound(&socket, ports))
}

fn is_bound(socket: &(impl AsRawFd + std::os::fd::AsFd), ports: &Hold) -> bool {
    let kind = match ports.proto {
        Proto::Tcp => SockType::Stream,
        Proto::Udp => SockType::Datagram,
        Proto::Sctp => return false,
    };
    if getsockopt(socket, sockopt::SockType) != Ok(kind) {
        return false;
    }
    let Ok(name) = getsockname::<SockaddrStorage>(socket.as_raw_fd()) else {
        return false;
    };
    let (addr, port) = if let Some(name) = name.as_sockaddr_in() {
        (IpAddr::V4(name.ip()), name.port())
    } else if let Some(name) = name.as_sockaddr_in6() {
        (IpAddr::V6(name.ip()), name.port())
    } else {
        return false;
    };
    ports.collides(addr, port)
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use nix::sys::socket::{AddressFamily, SockFlag, SockaddrIn, bind, socket};

    use super::*;
    use crate::model::PortRange;

    #[test]
    fn a_socket_that_does_not_listen_is_found() {
        let socket = socket(
            AddressFamily::Inet,
            SockType::Stream,
            SockFlag::SOCK_CLOEXEC,
            None,
        )
        .unwrap();
        bind(socket.as_raw_fd(), &SockaddrIn::new(127, 0, 0, 1, 0)).unwrap();
        let name: SockaddrIn = getsockname(socket.as_raw_fd()).unwrap();
        let of = |address: Ipv4Addr, port, proto| Hold {
            address: address.into(),
            ports: PortRange::single(port).unwrap(),
            proto,
            both: false,
            direct: false,
        };
        let own = std::process::id();
        let any = Ipv4Addr::UNSPECIFIED;
        assert!(has(own, &of(any, name.port(), Proto::Tcp)));
        assert!(has(own, &of(Ipv4Addr::LOCALHOST, name.port(), Proto::Tcp)));
        assert!(!has(own, &of(any, name.port(), Proto::Udp)));
        assert!(!has(
            own,
            &of([127, 0, 0, 2].into(), name.port(), Proto::Tcp)
        ));
        drop(socket);
        assert!(!has(own, &of(any, name.port(), Proto::Tcp)));
        assert!(!has(u32::MAX, &of(any, name.port(), Proto::Tcp)));
    }
}
