//! Values of arguments, and what is said of those that can't be read.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

/// A subnet or a prefix.
pub fn net(text: &str) -> Result<IpNet, String> {
    let Some((address, length)) = text.split_once('/') else {
        return Err(match text.parse::<IpAddr>() {
            Ok(address) => format!(
                "its prefix length is missing: write {text}/{} for this address alone, or a \
                 subnet such as {}",
                most(address),
                example(address)
            ),
            Err(_) => format!("this is no IP address: {EXAMPLE}"),
        });
    };
    let Ok(address) = address.parse::<IpAddr>() else {
        return Err(format!("{address} is no IP address: {EXAMPLE}"));
    };
    let length = length
        .parse()
        .ok()
        .filter(|length| *length <= most(address));
    let net = length.and_then(|length| IpNet::new(address, length).ok());
    net.ok_or_else(|| {
        format!(
            "a prefix length is a number from 0 to {}: write it like {}",
            most(address),
            example(address)
        )
    })
}

const EXAMPLE: &str = "write it like 10.9.0.0/24 or fd00:9::/64";

fn most(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

fn example(address: IpAddr) -> &'static str {
    if address.is_ipv4() {
        "10.9.0.0/24"
    } else {
        "fd00:9::/64"
    }
}

/// An address of either family.
pub fn address(text: &str) -> Result<IpAddr, String> {
    let error = || "this is no IP address: write it like 10.9.0.1 or fd00:9::1".to_owned();
    text.parse().map_err(|_| error())
}

/// An address of IPv4.
pub fn ipv4(text: &str) -> Result<Ipv4Addr, String> {
    text.parse().map_err(|_| {
        let why = if text.parse::<Ipv6Addr>().is_ok() {
            "this is an address of IPv6, for --ip6"
        } else {
            "this is no IPv4 address"
        };
        format!("{why}: write it like 10.9.0.7")
    })
}

/// An address of IPv6.
pub fn ipv6(text: &str) -> Result<Ipv6Addr, String> {
    text.parse().map_err(|_| {
        let why = if text.parse::<Ipv4Addr>().is_ok() {
            "this is an address of IPv4, for --ip"
        } else {
            "this is no IPv6 address"
        };
        format!("{why}: write it like fd00:9::7")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wrong_with_a_subnet_is_said_with_an_example() {
        assert_eq!(net("10.9.0.0/24").unwrap().to_string(), "10.9.0.0/24");
        assert_eq!(net("fd00:9::/64").unwrap().to_string(), "fd00:9::/64");
        for (text, said) in [
            ("10.9.0.0/33", "from 0 to 32: write it like 10.9.0.0/24"),
            ("fd00::/129", "from 0 to 128: write it like fd00:9::/64"),
            ("10.9.0.0/x", "from 0 to 32"),
            ("10.9.0.0/-1", "from 0 to 32"),
            (
                "10.9.0/24",
                "10.9.0 is no IP address: write it like 10.9.0.0/24",
            ),
            ("10.9.0.7", "write 10.9.0.7/32 for this address alone"),
            ("blue", "this is no IP address: write it like"),
        ] {
            let error = net(text).unwrap_err();
            assert!(error.contains(said), "{text}: {error}");
        }
    }

    #[test]
    fn an_address_of_the_other_family_is_named() {
        assert!(ipv4("fd00::1").unwrap_err().contains("--ip6"));
        assert!(ipv6("10.0.0.1").unwrap_err().contains("for --ip:"));
        assert!(address("10.0.0").unwrap_err().contains("10.9.0.1"));
        assert!(ipv6("fd00::7").is_ok() && ipv4("10.0.0.1").is_ok());
    }
}
