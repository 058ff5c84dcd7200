//! Which interfaces lead outside, and by which addresses and gateways.

use std::net::IpAddr;

use crate::{
    netlink::{self, AddressState, Link, RouteType, TABLE_MAIN},
    plan::{Facts, HostAddress, Reach, Uplink},
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
                is_unique_local(address.net.addr()),
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
        }
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

/// What only this site, at most, answers to (RFC 4193): of use where there is
/// nothing better.
fn is_unique_local(address: IpAddr) -> bool {
    matches!(address, IpAddr::V6(address) if address.is_unique_local())
}
