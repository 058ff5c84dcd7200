//! Which sockets were handed out for which ports: a port that a program has is
//! taken for the others of its sandbox, as it would be in a network of their own.

use std::{
    fs::File,
    io::{BufRead, BufReader},
};

/// A socket that was handed out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Claim {
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
            claim.port == wanted.port
                && (claim.v4 && wanted.v4 || claim.v6 && wanted.v6)
                && !(claim.shared && wanted.shared)
                && is_open(claim.inode)
        })
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// The sockets that listen in this thread's network, by inode.
pub(super) fn listening() -> Vec<u64> {
    let tables = ["tcp", "tcp6"].map(|table| format!("/proc/thread-self/net/{table}"));
    let files = tables.iter().filter_map(|path| File::open(path).ok());
    files
        .flat_map(|file| inodes(BufReader::new(file)))
        .collect()
}

/// Listeners come first in `/proc/net/tcp` (`listening_get_first`,
/// net/ipv4/tcp_ipv4.c): a host may have very many connections.
fn inodes(table: impl BufRead) -> Vec<u64> {
    const LISTEN: &str = "0A";
    let lines = table.lines().map_while(Result::ok).skip(1);
    lines
        .map_while(|line| {
            let mut fields = line.split_ascii_whitespace();
            (fields.nth(3)? == LISTEN).then_some(())?;
            fields.nth(5)?.parse().ok()
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    fn claim(v4: bool, v6: bool, shared: bool, inode: u64) -> Claim {
        Claim {
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
    }

    #[test]
    fn those_who_all_share_it_have_it_together() {
        let mut claims = Claims::default();
        claims.add(claim(true, true, true, 7));
        assert!(!claims.is_taken(&claim(true, false, true, 8), |_| true));
        assert!(claims.is_taken(&claim(true, false, false, 8), |_| true));
    }

    #[test]
    fn listeners_are_found_by_their_inodes() {
        use std::os::fd::AsFd;
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let inode = nix::sys::stat::fstat(listener.as_fd()).unwrap().st_ino;
        assert!(listening().contains(&inode));
        drop(listener);
        assert!(!listening().contains(&inode));
    }

    #[test]
    fn reading_ends_with_the_listeners() {
        let table = "  sl  local_address\n\
            0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000 0 42 1\n\
            1: 0100007F:1F90 0100007F:0001 01 00000000:00000000 00:00000000 00000000  1000 0 43 1\n\
            2: 0100007F:1F91 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000 0 44 1\n";
        assert_eq!(inodes(table.as_bytes()), [42]);
    }
}
