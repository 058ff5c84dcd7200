//! What IPv6 needs of the host beside what the daemon sets itself.

use std::net::IpAddr;

use super::{Check, sysctl};
use crate::{
    api::types::{Sandbox, UplinkStatus},
    daemon::host::is_6to4,
};

const NAME: &str = "ipv6 uplinks";

/// Whether containers with IPv6 have a way out: an uplink without an address
/// has none to masquerade with. An interface that forwards, which netdp never
/// asks for, hears no router unless it is told to (`accept_ra`, ip-sysctl.rst).
/// None where no container has IPv6.
pub(super) fn uplinks(sandboxes: &[Sandbox], uplinks: &[UplinkStatus]) -> Option<Check> {
    let mut addresses = sandboxes
        .iter()
        .flat_map(|sandbox| &sandbox.endpoints)
        .flat_map(|endpoint| &endpoint.addresses);
    if !addresses.any(|address| address.addr().is_ipv6()) {
        return None;
    }
    let without: Vec<&str> = uplinks
        .iter()
        .filter(|uplink| uplink.present)
        .filter(|uplink| !uplink.addresses.iter().any(|address| address.is_ipv6()))
        .map(|uplink| uplink.interface.as_str())
        .collect();
    if without.is_empty() {
        return Some(addressed(uplinks));
    }
    let setting = |interface: &str, key| sysctl(&format!("net/ipv6/conf/{interface}/{key}"));
    let deaf = without.iter().copied().filter(|interface| {
        setting(interface, "forwarding").as_deref() == Some("1")
            && setting(interface, "accept_ra").as_deref() == Some("1")
    });
    let advice: Vec<String> = deaf
        .map(|interface| {
            format!(
                "{interface} forwards, and so hears no router: \
                 sysctl -w net.ipv6.conf.{}.accept_ra=2",
                interface.replace('.', "/")
            )
        })
        .collect();
    let advice = if advice.is_empty() {
        "give it one, or see that a router on the link advertises a prefix".to_owned()
    } else {
        advice.join("; ")
    };
    Some(Check::warning(
        NAME,
        format!(
            "{} has no IPv6 address: containers reach nothing outside by it",
            without.join(", ")
        ),
        advice,
    ))
}

/// Where each has an address: one that is native, or 6to4 alone. That one has a
/// prefix made of an IPv4 address, and what is sent from it leaves by whatever
/// the default route is: native IPv6 throws it away (BCP 38), and most relays
/// are gone (RFC 7526).
fn addressed(uplinks: &[UplinkStatus]) -> Check {
    let native = |address: &&IpAddr| match address {
        IpAddr::V6(address) => !is_6to4(address),
        IpAddr::V4(_) => false,
    };
    let only: Vec<&str> = uplinks
        .iter()
        .filter(|uplink| uplink.present && !uplink.addresses.iter().any(|it| native(&it)))
        .map(|uplink| uplink.interface.as_str())
        .collect();
    if only.is_empty() {
        return Check::ok(NAME, "each has an address");
    }
    Check::warning(
        NAME,
        format!(
            "{} has no IPv6 address but of 6to4 (2002::/16), which is no native IPv6",
            only.join(", ")
        ),
        "give it one that the provider routes; without it, containers may reach nothing by IPv6, \
         and go on with IPv4",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn uplink(addresses: &[&str]) -> UplinkStatus {
        UplinkStatus {
            interface: "eth0".to_owned(),
            present: true,
            addresses: addresses.iter().map(|it| it.parse().unwrap()).collect(),
            drops_by: None,
            without_xdp: None,
        }
    }

    #[test]
    fn what_6to4_alone_gives_is_no_native_ipv6() {
        let only = addressed(&[uplink(&["192.0.2.4", "2002:c000:204::7"])]);
        assert!(only.found.contains("eth0") && only.found.contains("6to4"));
        assert!(!only.advice.is_empty());
        let both = addressed(&[uplink(&["2002:c000:204::7", "2001:db8::7"])]);
        assert!(both.advice.is_empty(), "{both:?}");
    }
}
