//! Whom to ask outside.

use std::{
    fs,
    net::{IpAddr, SocketAddr, SocketAddrV6},
    path::PathBuf,
};

use netdp_common::resolver::PORT;

/// As many as the C library asks (resolv.conf(5), `MAXNS`).
const MOST: usize = 3;

/// Where the addresses of resolvers come from.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Upstreams {
    /// Said once.
    Fixed(Vec<SocketAddr>),
    /// A file in the form of resolv.conf(5), read at each question.
    File(PathBuf),
}

impl Upstreams {
    /// Their addresses now. The resolvers on the host's loopback are among
    /// them: the daemon asks, not the sandbox.
    pub fn read(&self) -> Vec<SocketAddr> {
        match self {
            Self::Fixed(addresses) => addresses.clone(),
            Self::File(path) => parse(&fs::read_to_string(path).unwrap_or_default()),
        }
    }
}

fn parse(text: &str) -> Vec<SocketAddr> {
    text.lines().filter_map(server).take(MOST).collect()
}

fn server(line: &str) -> Option<SocketAddr> {
    let mut words = line.split_ascii_whitespace();
    if words.next()? != "nameserver" {
        return None;
    }
    let word = words.next()?;
    let Some((address, zone)) = word.split_once('%') else {
        return Some((word.parse::<IpAddr>().ok()?, PORT).into());
    };
    let zone = match zone.parse() {
        Ok(number) => number,
        Err(_) => nix::net::if_::if_nametoindex(zone).ok()?,
    };
    Some(SocketAddrV6::new(address.parse().ok()?, PORT, 0, zone).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_are_read_as_the_c_library_does() {
        let text = "# nameserver 192.0.2.1\nsearch example.net\nnameserver 127.0.0.53\n\
                    nameserver\t2001:db8::53 comment\n nameserver nonsense\n\
                    nameserver fe80::1%7\nnameserver 192.0.2.4\n";
        let link_local = SocketAddrV6::new("fe80::1".parse().unwrap(), 53, 0, 7);
        assert_eq!(
            parse(text),
            [
                "127.0.0.53:53".parse().unwrap(),
                "[2001:db8::53]:53".parse().unwrap(),
                SocketAddr::from(link_local),
            ]
        );
        assert!(parse("").is_empty());
    }

    #[test]
    fn a_file_that_is_missing_names_nobody() {
        assert!(Upstreams::File("/nonexistent".into()).read().is_empty());
    }
}
