//! Which interfaces lead outside, and by which addresses and gateways.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

use crate::{
    bpf::Xdp,
    netlink::{self, AddressState, Link, RouteType, TABLE_MAIN},
    plan::{Driver, Facts, HostAddress, Reach, Uplink},
};

use super::{Host, is_link_local};

impl Host {
    /// Uplinks and addresses. `asked` names the uplinks; if it names none they
    /// are the interfaces of the default routes, the lowest metric first.
    ///
    /// `alias` is how the aliases of netdp's own links begin: they lead
    /// nowhere outside.
    pub fn facts(&self, asked: &[String], alias: &str) -> Facts {
        let foreign = |link: &&Link| {
            let own = link.alias.as_deref();
            !link.loopback && !own.is_some_and(|own| own.starts_with(alias))
        };
        let wanted: Vec<&Link> = if asked.is_empty() {
            self.default_route_links().filter(foreign).collect()
        } else {
            asked
                .iter()
                .filter_map(|name| self.links.iter().find(|link| link.name == *name))
                .filter(foreign)
                .collect()
        };
        let (uplinks, headerless): (Vec<&Link>, Vec<&Link>) =
            wanted.into_iter().partition(|link| link.ethernet);
        Facts {
            uplinks: uplinks.into_iter().map(|link| self.uplink(link)).collect(),
            headerless: headerless
                .into_iter()
                .map(|link| link.name.clone())
                .collect(),
            addresses: self
                .addresses
                .iter()
                .map(|address| HostAddress {
                    address: address.net.addr(),
                    ifindex: address.ifindex,
                })
                .collect(),
            no_ipv6: self.no_ipv6.is_some(),
            has_netkit: self.has_netkit,
            xdp: Xdp::default(),
        }
    }

    fn default_route_links(&self) -> impl Iterator<Item = &Link> {
        let mut defaults: Vec<_> = self
            .routes
            .iter()
            .filter(|route| route.is_default())
            .collect();
        defaults.sort_by_key(|route| route.priority);
        let mut indexes: Vec<u32> = Vec::new();
        for index in defaults.iter().filter_map(|route| route.oif) {
            if !indexes.contains(&index) {
                indexes.push(index);
            }
        }
        indexes
            .into_iter()
            .filter_map(|index| self.links.iter().find(|link| link.index == index))
    }

    fn uplink(&self, link: &Link) -> Uplink {
        let mut addresses: Vec<&netlink::Address> = self
            .addresses
            .iter()
            .filter(|address| address.ifindex == link.index)
            .filter(|address| address.state != AddressState::Tentative)
            .filter(|address| {
                let address = address.net.addr();
                !is_link_local(address) && !address.is_loopback()
            })
            .collect();
        let defaults = [
            self.default_route_by(link, IpAddr::is_ipv4),
            self.default_route_by(link, IpAddr::is_ipv6),
        ];
        // Stable, so that of IPv4 the kernel's order stays.
        addresses.sort_by_key(|address| {
            let preferred = Some(address.net.addr());
            let of_route =
                |route: &Option<&netlink::Route>| route.is_some_and(|route| route.src == preferred);
            (
                !defaults.iter().any(of_route),
                address.state,
                reluctance(address.net.addr()),
            )
        });
        let reach = |route: Option<&netlink::Route>, of: fn(&IpAddr) -> bool| {
            let main = addresses.iter().find(|address| of(&address.net.addr()));
            Reach {
                subnet: match route {
                    // Everything is on a link that leads on without a gateway.
                    Some(route) if route.gateway.is_none() => Some(route.dst),
                    _ => main.map(|address| address.net.trunc()),
                },
                gateway: route.and_then(|route| route.gateway),
                by_route: self.is_by_route(link, &addresses, of),
            }
        };
        Uplink {
            ifname: link.name.clone(),
            ifindex: link.index,
            mac: link.mac,
            reach4: reach(defaults[0], IpAddr::is_ipv4),
            reach6: reach(defaults[1], IpAddr::is_ipv6),
            addresses: addresses.iter().map(|address| address.net.addr()).collect(),
            broadcasts: self.broadcasts_by(link),
            packet_limit: link.packet_limit,
            takes_big: link.takes_big,
            driver: self.driver(link),
            beside: link.kind.as_deref() == Some("bridge") && defaults.iter().all(Option::is_none),
        }
    }

    fn driver(&self, link: &Link) -> Driver {
        let on_it = |other: &&Link| {
            other.kind.as_deref() == Some("vlan") && other.peer_index == Some(link.index)
        };
        let has_vlans = self.links.iter().any(|other| on_it(&other));
        match &link.kind {
            Some(kind) => Driver::new(kind, true, has_vlans),
            None => match netlink::driver(&link.name) {
                Some(driver) => Driver::new(&driver, false, has_vlans),
                // Nothing is known of it.
                None => Driver::new("its driver", true, has_vlans),
            },
        }
    }

    /// The addresses that the kernel broadcasts to by an interface: it has a
    /// route to each, whichever of the interface's addresses it is of.
    fn broadcasts_by(&self, link: &Link) -> Vec<Ipv4Addr> {
        let routes = self.routes.iter();
        let mut broadcasts: Vec<Ipv4Addr> = routes
            .filter(|route| route.kind == RouteType::Broadcast && route.oif == Some(link.index))
            .filter_map(|route| match route.dst {
                IpNet::V4(dst) if dst.prefix_len() == 32 => Some(dst.addr()),
                _ => None,
            })
            .collect();
        broadcasts.sort_unstable();
        broadcasts.dedup();
        broadcasts
    }

    /// Whether routes by an interface prefer different addresses of one family:
    /// it has several, or one of them names one.
    ///
    /// Not where an IPv6 address is temporary or deprecated: the kernel may
    /// prefer it, and flows would end with it.
    fn is_by_route(
        &self,
        link: &Link,
        addresses: &[&netlink::Address],
        of: fn(&IpAddr) -> bool,
    ) -> bool {
        let mut addresses = addresses.iter().filter(|address| of(&address.net.addr()));
        let Some(main) = addresses.next() else {
            return false;
        };
        let others: Vec<_> = addresses.collect();
        let lasting = |address: &&netlink::Address| address.state == AddressState::Lasting;
        if !lasting(main) || !others.iter().copied().all(lasting) {
            return false;
        }
        let mut routes = self
            .routes
            .iter()
            .filter(|route| route.oif == Some(link.index) && route.kind == RouteType::Unicast);
        let main = main.net.addr();
        !others.is_empty()
            || routes.any(|route| route.src.is_some_and(|src| of(&src) && src != main))
    }

    /// The default route of one family by an interface: of the main table if
    /// it is there, with the lowest metric. One in another table shows as well
    /// where the interface leads on to.
    fn default_route_by(&self, link: &Link, of: fn(&IpAddr) -> bool) -> Option<&netlink::Route> {
        self.routes
            .iter()
            .filter(|route| route.oif == Some(link.index) && of(&route.dst.addr()))
            .filter(|route| route.dst.prefix_len() == 0 && route.kind == RouteType::Unicast)
            .min_by_key(|route| (route.table != TABLE_MAIN, route.priority))
    }
}

/// How much the outside is better reached under another address, by what stands
/// for this one's block in the policy table of RFC 6724, section 2.1. Native
/// IPv6 comes first; 6to4 (2002::/16) and Teredo (2001::/32) lead over relays
/// of which most are gone (RFC 7526); unique local ones (RFC 4193) lead nowhere
/// beyond this site.
fn reluctance(address: IpAddr) -> u8 {
    let IpAddr::V6(address) = address else {
        return 0;
    };
    match address.segments() {
        _ if is_6to4(&address) => 1,
        [0x2001, 0, ..] => 2,
        _ if address.is_unique_local() => 3,
        _ => 0,
    }
}

/// 2002::/16 (RFC 3056), which says nothing of native IPv6.
pub fn is_6to4(address: &Ipv6Addr) -> bool {
    address.segments()[0] == 0x2002
}
