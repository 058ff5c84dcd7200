//! Which program of the host has a port: /proc/net names the socket's inode,
//! /proc/PID/fd who holds it.

use std::{
    fmt, fs,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    path::Path,
};

use crate::{model::Proto, plan::Hold};

/// A program that has a port.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PortOwner {
    pub command: String,
    pub pid: u32,
}

impl fmt::Display for PortOwner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "process {} (pid {})", self.command, self.pid)
    }
}

/// The program whose socket keeps `port` from being bound, if one is found:
/// sockets of the kernel itself and of other process namespaces have none.
pub fn find(port: &Hold) -> Option<PortOwner> {
    let tables: &[&str] = match port.proto {
        Proto::Tcp => &["tcp", "tcp6"],
        Proto::Udp => &["udp", "udp6"],
        Proto::Sctp => return None,
    };
    let inodes: Vec<u64> = tables
        .iter()
        .filter_map(|table| fs::read_to_string(format!("/proc/thread-self/net/{table}")).ok())
        .flat_map(|table| {
            table
                .lines()
                .skip(1)
                .filter_map(Socket::parse)
                .filter(|socket| port.collides(socket.addr, socket.port))
                .map(|socket| socket.inode)
                .collect::<Vec<_>>()
        })
        .collect();
    inodes.into_iter().find_map(holder)
}

/// A line of /proc/net/{tcp,udp}{,6} (proc_net_tcp.rst in the kernel's
/// documentation).
#[derive(Debug, PartialEq, Eq)]
struct Socket {
    addr: IpAddr,
    port: u16,
    inode: u64,
}

impl Socket {
    fn parse(line: &str) -> Option<Self> {
        let mut fields = line.split_ascii_whitespace();
        let (addr, port) = fields.nth(1)?.split_once(':')?;
        let inode = fields.nth(7)?.parse().ok()?;
        // Sockets in TIME_WAIT belong to nobody any more.
        (inode != 0).then_some(Self {
            addr: parse_addr(addr)?,
            port: u16::from_str_radix(port, 16).ok()?,
            inode,
        })
    }
}

/// Addresses are printed as native words of 32 bits.
fn parse_addr(hex: &str) -> Option<IpAddr> {
    let mut bytes = Vec::with_capacity(16);
    for start in (0..hex.len()).step_by(8) {
        let word = u32::from_str_radix(hex.get(start..start + 8)?, 16).ok()?;
        bytes.extend(word.to_ne_bytes());
    }
    if let Ok(four) = <[u8; 4]>::try_from(bytes.as_slice()) {
        return Some(Ipv4Addr::from(four).into());
    }
    let address = Ipv6Addr::from(<[u8; 16]>::try_from(bytes.as_slice()).ok()?);
    Some(address.to_canonical())
}

fn holder(inode: u64) -> Option<PortOwner> {
    let wanted = format!("socket:[{inode}]");
    let holds = |process: &Path| {
        fs::read_dir(process.join("fd"))
            .into_iter()
            .flatten()
            .flatten()
            .any(|fd| fs::read_link(fd.path()).is_ok_and(|to| to.as_os_str() == wanted.as_str()))
    };
    processes().find(|process| holds(Path::new(&format!("/proc/{}", process.pid))))
}

/// All programs of this process namespace.
pub fn processes() -> impl Iterator<Item = PortOwner> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| {
        let pid = entry.file_name().to_str()?.parse().ok()?;
        let command = fs::read_to_string(entry.path().join("comm")).ok()?;
        let command = command.trim_end().to_owned();
        Some(PortOwner { command, pid })
    })
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, UdpSocket};

    use super::*;
    use crate::{at_last, model::PortRange};

    #[test]
    fn lines_of_both_families_are_read() {
        let line = "   1: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000  \
                    1000        0 4242 1 0000000000000000 100 0 0 10 0";
        assert_eq!(
            Socket::parse(line),
            Some(Socket {
                addr: Ipv4Addr::LOCALHOST.into(),
                port: 8080,
                inode: 4242,
            })
        );
        assert_eq!(
            parse_addr("00000000000000000000000001000000"),
            Some(Ipv6Addr::LOCALHOST.into())
        );
        assert_eq!(parse_addr("0100"), None);
        assert_eq!(Socket::parse("nonsense"), None);
    }

    #[track_caller]
    fn comes_to_be(port: u16, proto: Proto, owner: Option<u32>) {
        let hold = Hold {
            address: Ipv4Addr::LOCALHOST.into(),
            ports: PortRange::single(port).unwrap(),
            proto,
            both: false,
            direct: false,
        };
        at_last::holds(|| find(&hold).map(|it| it.pid) == owner);
    }

    #[test]
    fn the_owner_of_a_port_is_found() {
        let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
        let udp = UdpSocket::bind("0.0.0.0:0").unwrap();
        let port = tcp.local_addr().unwrap().port();
        let this = Some(std::process::id());
        comes_to_be(port, Proto::Tcp, this);
        comes_to_be(udp.local_addr().unwrap().port(), Proto::Udp, this);
        drop(tcp);
        comes_to_be(port, Proto::Tcp, None);
    }
}
