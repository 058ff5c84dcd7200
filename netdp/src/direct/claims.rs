//! Which sockets were handed out for which ports: a port that a program has is
//! taken for the others of its sandbox, as it would be in a network of their own.

use std::{
    fs::File,
    io::{BufRead, BufReader},
    net::{IpAddr, SocketAddr},
};

use crate::model::Proto;

/// A socket that was handed out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Claim {
    pub proto: Proto,
    /// The container's.
    pub port: u16,
    pub v4: bool,
    pub v6: bool,
    /// The program lets others have the port too (`SO_REUSEPORT`).
    pub shared: bool,
    /// Of the socket.
    pub inode: u64,
}

/// The sockets that were handed out and may listen.
#[derive(Debug, Default)]
pub(super) struct Claims(Vec<Claim>);

/// Those that never listened are forgotten beyond so many.
const MOST: usize = 1024;

impl Claims {
    pub fn add(&mut self, claim: Claim) {
        if self.0.len() >= MOST {
            self.0.remove(0);
        }
        self.0.push(claim);
    }

    /// Whether a socket like this can't be had. `is_open` says of a socket
    /// whether somebody still listens by it; one that doesn't listen yet is in
    /// nobody's way.
    pub fn is_taken(&self, wanted: &Claim, is_open: impl Fn(u64) -> bool) -> bool {
        self.0.iter().any(|claim| {
            claim.proto == wanted.proto
                && claim.port == wanted.port
                && (claim.v4 && wanted.v4 || claim.v6 && wanted.v6)
                && !(claim.shared && wanted.shared)
                && is_open(claim.inode)
        })
    }

    pub fn has(&self, inode: u64) -> bool {
        self.0.iter().any(|claim| claim.inode == inode)
    }
}

/// A socket that listens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Listening {
    pub addr: SocketAddr,
    /// The user it is of.
    pub owner: u32,
    pub inode: u64,
}

/// The sockets that listen in this thread's network; of UDP, those that are
/// bound.
pub(super) fn listening(proto: Proto) -> Vec<Listening> {
    let (tables, state) = match proto {
        Proto::Udp => (["udp", "udp6"], None),
        _ => (["tcp", "tcp6"], Some(LISTEN)),
    };
    let tables = tables.map(|table| format!("/proc/thread-self/net/{table}"));
    let files = tables.iter().filter_map(|path| File::open(path).ok());
    files
        .flat_map(|file| listeners(BufReader::new(file), state))
        .collect()
}

/// `TCP_LISTEN` (`include/net/tcp_states.h`), as it is printed.
const LISTEN: &str = "0A";

/// Listeners come first in `/proc/net/tcp` (`listening_get_first`,
/// net/ipv4/tcp_ipv4.c): a host may have very many connections.
fn listeners(table: impl BufRead, state: Option<&str>) -> Vec<Listening> {
    let lines = table.lines().map_while(Result::ok).skip(1);
    lines
        .map_while(|line| {
            let fields: Vec<&str> = line.split_ascii_whitespace().collect();
            let is = *fields.get(3)?;
            state.is_none_or(|wanted| wanted == is).then_some(())?;
            Some(Listening {
                addr: address(fields.get(1)?)?,
                owner: fields.get(7)?.parse().ok()?,
                inode: fields.get(9)?.parse().ok()?,
            })
        })
        .collect()
}

/// Words of 32 bits as the machine has them, in hexadecimal digits, and the port.
fn address(text: &str) -> Option<SocketAddr> {
    let (ip, port) = text.split_once(':')?;
    let mut bytes = Vec::new();
    for at in (0..ip.len()).step_by(8) {
        let word = u32::from_str_radix(ip.get(at..at + 8)?, 16).ok()?;
        bytes.extend(word.to_ne_bytes());
    }
    let ip = match <[u8; 4]>::try_from(bytes.as_slice()) {
        Ok(v4) => IpAddr::from(v4),
        Err(_) => IpAddr::from(<[u8; 16]>::try_from(bytes).ok()?),
    };
    Some(SocketAddr::new(ip, u16::from_str_radix(port, 16).ok()?))
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, UdpSocket};

    use super::*;

    fn claim(v4: bool, v6: bool, shared: bool, inode: u64) -> Claim {
        Claim {
            proto: Proto::Tcp,
            port: 80,
            v4,
            v6,
            shared,
            inode,
        }
    }

    #[test]
    fn a_port_is_taken_while_somebody_listens() {
        let mut claims = Claims::default();
        let first = claim(true, false, false, 7);
        assert!(!claims.is_taken(&first, |_| true));
        claims.add(first);
        assert!(claims.is_taken(&first, |inode| inode == 7));
        assert!(!claims.is_taken(&first, |_| false));
        assert!(!claims.is_taken(&claim(false, true, false, 8), |_| true));
        assert!(claims.is_taken(&claim(true, true, true, 8), |_| true));
        assert!(!claims.is_taken(&Claim { port: 81, ..first }, |_| true));
        let udp = Claim {
            proto: Proto::Udp,
            ..first
        };
        assert!(!claims.is_taken(&udp, |_| true));
    }

    #[test]
    fn those_who_all_share_it_have_it_together() {
        let mut claims = Claims::default();
        claims.add(claim(true, true, true, 7));
        assert!(!claims.is_taken(&claim(true, false, true, 8), |_| true));
        assert!(claims.is_taken(&claim(true, false, false, 8), |_| true));
    }

    /// A child of another test, between `fork` and `execve`, has a copy of each
    /// socket.
    #[track_caller]
    fn comes_true(condition: impl Fn() -> bool) {
        let began = std::time::Instant::now();
        while !condition() {
            assert!(began.elapsed().as_secs() < 10);
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
    }

    #[test]
    fn listeners_are_found() {
        use std::os::fd::AsFd;
        for addr in ["127.0.0.1:0", "[::1]:0"] {
            let listener = TcpListener::bind(addr).unwrap();
            let expected = Listening {
                addr: listener.local_addr().unwrap(),
                owner: nix::unistd::geteuid().as_raw(),
                inode: nix::sys::stat::fstat(listener.as_fd()).unwrap().st_ino,
            };
            assert!(listening(Proto::Tcp).contains(&expected), "{expected:?}");
            drop(listener);
            comes_true(|| !listening(Proto::Tcp).contains(&expected));
        }
        let bound = UdpSocket::bind("127.0.0.1:0").unwrap();
        let addr = bound.local_addr().unwrap();
        let is_there = || listening(Proto::Udp).iter().any(|it| it.addr == addr);
        assert!(is_there());
        drop(bound);
        comes_true(|| !is_there());
    }

    #[test]
    fn reading_ends_with_the_listeners() {
        let table = "  sl  local_address\n\
            0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000 0 42 1\n\
            1: 0100007F:1F90 0100007F:0001 01 00000000:00000000 00:00000000 00000000  1000 0 43 1\n\
            2: 0100007F:1F91 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000 0 44 1\n";
        let inodes = |state| -> Vec<u64> {
            let found = listeners(table.as_bytes(), state);
            found.iter().map(|it| it.inode).collect()
        };
        assert_eq!(inodes(Some(LISTEN)), [42]);
        assert_eq!(inodes(None), [42, 43, 44]);
    }
}
