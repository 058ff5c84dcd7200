//! What IPv6 needs of the host beside what the daemon sets itself.

use super::{Check, sysctl};
use crate::api::types::{Sandbox, UplinkStatus};

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
        return Some(Check::ok(NAME, "each has an address"));
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
