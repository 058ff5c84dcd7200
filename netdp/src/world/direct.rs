//! Whether published ports are direct, told from outside: by the sockets of the
//! host. What is shown under that name must be nothing else.

use std::io;

use nix::libc;

use super::docker_bridge::PublishedPort;
use crate::direct::PORT_OWNER;
use crate::netlink::{Found, Sockets, is_not_diagnosed};
use crate::netns::{Namespace, NetnsError};

/// Why a port is not direct.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NotDirect {
    #[error(
        "this kernel doesn't list its sockets ({0}), which direct ports need: it has none of the \
         modules tcp_diag and udp_diag"
    )]
    Unlisted(io::Error),
    #[error("{}/{} is none of the host's own sockets, so the datapath has it", .0.port, .0.protocol)]
    Datapath(PublishedPort),
    #[error("can't list the sockets of the host: {0}")]
    Io(io::Error),
    #[error(transparent)]
    Namespace(#[from] NetnsError),
}

/// Of ports whose programs listen.
///
/// # Errors
/// When one isn't direct, or that can't be told.
pub(crate) fn expect_direct(host: &Namespace, ports: &[PublishedPort]) -> Result<(), NotDirect> {
    let listed = host.run(|| {
        let sockets = Sockets::open()?;
        Ok([
            sockets.listening(libc::IPPROTO_TCP, None)?,
            sockets.listening(libc::IPPROTO_UDP, None)?,
        ])
    })?;
    let [tcp, udp] = listed.map_err(|error: io::Error| match is_not_diagnosed(&error) {
        true => NotDirect::Unlisted(error),
        false => NotDirect::Io(error),
    })?;
    let is_direct = |it: &&PublishedPort| {
        let listening = if it.protocol == "udp" { &udp } else { &tcp };
        listening
            .iter()
            .any(|socket| is_handed_out(socket, it.port))
    };
    match ports.iter().find(|it| !is_direct(it)) {
        None => Ok(()),
        Some(port) => Err(NotDirect::Datapath(*port)),
    }
}

/// What the daemon holds a port by never listens, or is nowhere.
fn is_handed_out(socket: &Found, port: u16) -> bool {
    socket.owner == PORT_OWNER && socket.own().port() == port && !socket.is_nowhere()
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, UdpSocket};
    use std::os::fd::AsFd;

    use nix::unistd::{Uid, fchown};

    use super::*;
    use crate::direct::move_aside;

    const PORTS: [PublishedPort; 2] = [
        PublishedPort {
            protocol: "tcp",
            port: 80,
        },
        PublishedPort {
            protocol: "udp",
            port: 53,
        },
    ];

    fn hand_out(socket: &impl AsFd) {
        fchown(socket, Some(Uid::from_raw(PORT_OWNER)), None).unwrap();
    }

    #[test]
    fn the_hosts_sockets_that_were_handed_out_are_direct_and_nothing_else_is() {
        if !nix::unistd::geteuid().is_root() {
            return eprintln!("skipped: needs root");
        }
        let folder = tempfile::tempdir().unwrap();
        let host = Namespace::create(folder.path(), "host").unwrap();
        let missing = || match expect_direct(&host, &PORTS) {
            Err(NotDirect::Datapath(port)) => port.protocol,
            Ok(()) => "",
            Err(why) => panic!("{why}"),
        };
        assert_eq!(missing(), "tcp");
        let (tcp, udp) = host
            .run(|| {
                let tcp = TcpListener::bind("0.0.0.0:80").unwrap();
                (tcp, UdpSocket::bind("0.0.0.0:53").unwrap())
            })
            .unwrap();
        // Another program of the host.
        assert_eq!(missing(), "tcp");
        hand_out(&tcp);
        assert_eq!(missing(), "udp");
        hand_out(&udp);
        assert_eq!(missing(), "");
        move_aside(&udp.into()).unwrap();
        assert_eq!(missing(), "udp");
    }
}
