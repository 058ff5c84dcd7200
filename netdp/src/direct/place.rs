//! Where a socket of the host has to be for a port that a program binds, and
//! making it.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6},
    os::fd::{AsRawFd, OwnedFd},
    path::Path,
};

use anyhow::Context as _;
use netdp_common::{maps::MadeFor, nowhere};
use nix::{
    libc,
    sys::{
        socket::{AddressFamily, SockFlag, SockType, SockaddrStorage, bind, socket},
        stat::fstat,
    },
    unistd::{Uid, fchown},
};

use super::{
    End, Ports, Published,
    options::{carry, set_number},
};
use crate::{
    bpf::{Purposes, Unsealed, expect_datagrams, expect_limits, socket_filter},
    model::Proto,
    netlink::Found,
};

/// The user that a direct port's sockets are of, those that hold it included:
/// sockets share a port where all of them ask for it and are of one user
/// (`inet_bind_conflict`, net/ipv4/inet_connection_sock.c). No program has this
/// one.
pub const PORT_OWNER: u32 = 0x6e65_7464;

/// `SO_ATTACH_BPF` (`include/uapi/asm-generic/socket.h`, 3.19).
const SO_ATTACH_BPF: i32 = 50;

/// An IPv4 or IPv6 socket that a program binds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Asked {
    /// TCP or UDP.
    pub proto: Proto,
    pub addr: SocketAddr,
    /// Of IPv6, that it hears IPv6 alone.
    pub v6only: bool,
}

/// Where the socket that takes its place is bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub proto: Proto,
    pub addr: SocketAddr,
    pub v6only: bool,
    /// The sandbox's ends of it, by the families that it is of.
    pub v4: Option<End>,
    pub v6: Option<End>,
    /// Not everybody may send to it.
    pub is_limited: bool,
}

impl Place {
    /// None where the program gets what it asked for, in its own network.
    pub fn of(asked: &Asked, ports: &Ports) -> Option<Self> {
        let of = |addr| Direct::of(addr, asked.proto, ports);
        let IpAddr::V6(addr) = asked.addr.ip() else {
            let direct = of(asked.addr)?;
            return Some(Self {
                proto: direct.proto,
                addr: direct.addr,
                v6only: false,
                v4: Some(direct.end),
                v6: None,
                is_limited: direct.is_limited,
            });
        };
        let port = asked.addr.port();
        if let Some(v4) = addr.to_ipv4_mapped() {
            let direct = of(SocketAddr::new(v4.into(), port))?;
            return (!asked.v6only).then(|| direct.mapped());
        }
        let v6 = of(asked.addr);
        if asked.v6only || !addr.is_unspecified() {
            return v6.map(|direct| direct.alone());
        }
        let v4 = of(SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), port));
        match (v4, v6) {
            (Some(v4), Some(v6)) => v6.joined(v4),
            (Some(v4), None) => Some(v4.mapped()),
            (None, Some(v6)) => Some(v6.alone()),
            (None, None) => None,
        }
    }

    /// Whether a socket is bound there.
    pub fn is_of(&self, socket: &Found) -> bool {
        let at = SocketAddr::new(self.addr.ip().to_canonical(), self.addr.port());
        socket.own() == at
    }

    /// Makes the socket, with the options of the program's own.
    ///
    /// # Errors
    /// What the kernel refused.
    pub fn make(&self, instead_of: &OwnedFd, maps: &Path) -> anyhow::Result<OwnedFd> {
        let mut unsealed = Unsealed::open(maps).context("can't seal a socket")?;
        let family = match self.addr {
            SocketAddr::V4(_) => AddressFamily::Inet,
            SocketAddr::V6(_) => AddressFamily::Inet6,
        };
        let is_tcp = self.proto == Proto::Tcp;
        let kind = if is_tcp {
            SockType::Stream
        } else {
            SockType::Datagram
        };
        let made = socket(family, kind, SockFlag::SOCK_CLOEXEC, None)?;
        unsealed.unseal(&made)?;
        fchown(&made, Some(Uid::from_raw(PORT_OWNER)), None)?;
        set_number(&made, libc::SOL_SOCKET, libc::SO_REUSEPORT, 1)?;
        if is_tcp {
            // Beside connections that an earlier socket accepted.
            set_number(&made, libc::SOL_SOCKET, libc::SO_REUSEADDR, 1)?;
        }
        if self.addr.is_ipv6() {
            let only = i32::from(self.v6only);
            set_number(&made, libc::IPPROTO_IPV6, libc::IPV6_V6ONLY, only)?;
        }
        carry(instead_of, &made).context("can't set an option that was set before")?;
        if is_tcp {
            Purposes::open(maps)
                .and_then(|mut it| it.note(&made, self.made_for()))
                .context("can't note what a socket is made for")?;
        } else {
            expect_datagrams(maps)?;
        }
        if self.is_limited {
            expect_limits(maps)?;
        }
        if !is_tcp || self.is_limited {
            let filter = socket_filter(maps).context("can't have the filter of sockets")?;
            set_number(&made, libc::SOL_SOCKET, SO_ATTACH_BPF, filter.as_raw_fd())?;
            set_number(&made, libc::SOL_SOCKET, libc::SO_LOCK_FILTER, 1)?;
        }
        bind(made.as_raw_fd(), &SockaddrStorage::from(self.addr))?;
        unsealed.seal(&made)?;
        Ok(made)
    }

    fn made_for(&self) -> MadeFor {
        let own = |end: Option<End>| end.map(|it| it.own);
        let mut made_for = MadeFor {
            port: self.addr.port().into(),
            ..MadeFor::default()
        };
        if let Some(IpAddr::V4(own)) = own(self.v4) {
            made_for.own4 = own.into();
        }
        if let Some(IpAddr::V6(own)) = own(self.v6) {
            made_for.own6 = own.into();
        }
        made_for
    }
}

/// Binds a direct socket to an interface that there isn't (`SO_BINDTOIFINDEX`,
/// Linux 5.0, doesn't look), one of its own, so that it shares nothing with others
/// and `sock_diag` tells it from them: it keeps its port and hears nothing. Who
/// holds the port may share it with the socket, whatever user the program has made
/// it of.
///
/// # Errors
/// The kernel's.
pub fn move_aside(socket: &OwnedFd) -> io::Result<()> {
    const MANY: u64 = (libc::c_int::MAX - nowhere::FIRST) as u64;
    let own = (fstat(socket)?.st_ino % MANY) as libc::c_int;
    fchown(socket, Some(Uid::from_raw(PORT_OWNER)), None)?;
    let interface = nowhere::FIRST + own;
    set_number(socket, libc::SOL_SOCKET, libc::SO_BINDTOIFINDEX, interface)?;
    Ok(())
}

/// A place of one family.
#[derive(Clone, Copy)]
struct Direct {
    proto: Proto,
    addr: SocketAddr,
    end: End,
    is_limited: bool,
}

impl Direct {
    /// Of a port that is direct, at the address that it leads to, or all.
    fn of(asked: SocketAddr, proto: Proto, ports: &Ports) -> Option<Self> {
        let ip = asked.ip();
        let is_meant = |published: &&Published| {
            let Published { publication, end } = published;
            publication.direct
                && publication.proto == proto
                && publication.host_ip.is_ipv4() == ip.is_ipv4()
                && publication.container_ports().holds(asked.port())
                && (ip.is_unspecified() || ip == end.own)
        };
        let Published { publication, end } = ports.published.iter().find(is_meant)?;
        let host_port = publication.host_port + (asked.port() - publication.container_port);
        let addr = SocketAddr::new(publication.host_ip, host_port);
        Some(Self {
            proto,
            addr,
            end: *end,
            is_limited: !publication.allow.is_empty(),
        })
    }

    /// Of IPv6, for a socket that doesn't hear IPv4.
    fn alone(self) -> Place {
        Place {
            proto: self.proto,
            addr: self.addr,
            v6only: true,
            v4: None,
            v6: Some(self.end),
            is_limited: self.is_limited,
        }
    }

    /// Of IPv4, for a socket of IPv6.
    fn mapped(self) -> Place {
        let addr = match self.addr {
            SocketAddr::V4(v4) => mapped(v4),
            SocketAddr::V6(v6) => v6,
        };
        Place {
            proto: self.proto,
            addr: addr.into(),
            v6only: false,
            v4: Some(self.end),
            v6: None,
            is_limited: self.is_limited,
        }
    }

    /// Of both families, where one socket can be.
    fn joined(self, v4: Self) -> Option<Place> {
        let is_one = self.addr.port() == v4.addr.port()
            && self.addr.ip().is_unspecified()
            && v4.addr.ip().is_unspecified();
        is_one.then_some(Place {
            proto: self.proto,
            addr: SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), self.addr.port()),
            v6only: false,
            v4: Some(v4.end),
            v6: Some(self.end),
            is_limited: self.is_limited || v4.is_limited,
        })
    }
}

fn mapped(addr: SocketAddrV4) -> SocketAddrV6 {
    SocketAddrV6::new(addr.ip().to_ipv6_mapped(), addr.port(), 0, 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Publication;

    fn published(host_ip: IpAddr, host_port: u16, container_port: u16) -> Published {
        let ends = if host_ip.is_ipv4() {
            ["172.17.0.2", "172.17.0.1"]
        } else {
            ["fd00::2", "fd00::1"]
        };
        let [own, gateway] = ends.map(|it| it.parse().unwrap());
        Published {
            publication: Publication {
                host_ip,
                host_port,
                container_port,
                proto: Proto::Tcp,
                count: 2.try_into().unwrap(),
                allow: Vec::new(),
                direct: true,
            },
            end: End { own, gateway },
        }
    }

    fn ports(specs: &[(&str, u16, u16)]) -> Ports {
        let published = specs.iter().map(|&(ip, host_port, container_port)| {
            published(ip.parse().unwrap(), host_port, container_port)
        });
        Ports {
            netns: std::path::PathBuf::new(),
            published: published.collect(),
        }
    }

    fn place(addr: &str, v6only: bool, ports: &Ports) -> Option<(String, bool)> {
        let asked = Asked {
            proto: Proto::Tcp,
            addr: addr.parse().unwrap(),
            v6only,
        };
        Place::of(&asked, ports).map(|place| (place.addr.to_string(), place.v6only))
    }

    #[test]
    fn all_addresses_and_the_sandboxs_own_are_the_ports() {
        let ports = ports(&[("192.0.2.1", 8080, 80)]);
        let there = Some(("192.0.2.1:8080".to_owned(), false));
        assert_eq!(place("0.0.0.0:80", false, &ports), there);
        assert_eq!(place("172.17.0.2:80", false, &ports), there);
        let second = Some(("192.0.2.1:8081".to_owned(), false));
        assert_eq!(place("0.0.0.0:81", false, &ports), second);
        for other in ["127.0.0.1:80", "172.17.0.3:80", "0.0.0.0:82", "0.0.0.0:0"] {
            assert_eq!(place(other, false, &ports), None, "{other}");
        }
    }

    #[test]
    fn a_socket_of_both_families_needs_one_place() {
        let both = ports(&[("0.0.0.0", 8080, 80), ("::", 8080, 80)]);
        let joined = Some(("[::]:8080".to_owned(), false));
        assert_eq!(place("[::]:80", false, &both), joined);
        assert_eq!(
            place("[::]:80", true, &both),
            Some(("[::]:8080".to_owned(), true))
        );
        let apart = ports(&[("0.0.0.0", 8080, 80), ("::", 9090, 80)]);
        assert_eq!(place("[::]:80", false, &apart), None);
        let only = ports(&[("0.0.0.0", 8080, 80)]);
        let mapped = Some(("[::ffff:0.0.0.0]:8080".to_owned(), false));
        assert_eq!(place("[::]:80", false, &only), mapped);
        assert_eq!(place("[::ffff:172.17.0.2]:80", false, &only), mapped);
        assert_eq!(place("[::]:80", true, &only), None);
        assert_eq!(place("[::1]:80", true, &both), None);
    }

    #[test]
    fn a_port_is_one_of_its_protocol() {
        let mut ports = ports(&[("0.0.0.0", 8080, 80)]);
        ports.published[0].publication.proto = Proto::Udp;
        let asked = |proto| Asked {
            proto,
            addr: "0.0.0.0:80".parse().unwrap(),
            v6only: false,
        };
        let place = Place::of(&asked(Proto::Udp), &ports).unwrap();
        assert_eq!(place.proto, Proto::Udp);
        assert_eq!(Place::of(&asked(Proto::Tcp), &ports), None);
    }

    #[test]
    fn what_is_not_direct_stays_where_it_is() {
        let mut ports = ports(&[("0.0.0.0", 8080, 80)]);
        ports.published[0].publication.direct = false;
        assert_eq!(place("0.0.0.0:80", false, &ports), None);
    }
}
