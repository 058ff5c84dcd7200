//! The host as netlink shows it: what requests must know, and the facts that
//! the planner goes by.

use std::{collections::BTreeMap, net::IpAddr};

use ipnet::IpNet;

use crate::{
    bpf::Tables,
    model::{End, Endpoint, HostPorts, HostView, PortRange, PortTaken, Proto},
    netlink::{self, AddressState, Link, Netlink, NetlinkError, RouteType, TABLE_MAIN},
    plan::{
        Clock, Facts, HOST_END, Hold, HostAddress, Neighbour, Observed, ObservedLink, Reach, Role,
        Route, Uplink,
    },
};

use super::{environment, hold, port_owner};

/// All that netlink says of the host's namespace at one moment.
#[derive(Debug)]
pub struct Host {
    links: Vec<Link>,
    addresses: Vec<netlink::Address>,
    routes: Vec<netlink::Route>,
    neighbours: Vec<netlink::Neighbour>,
    /// Why there is no IPv6, where there is none.
    no_ipv6: Option<&'static str>,
}

impl Host {
    pub async fn read(netlink: &Netlink) -> Result<Self, NetlinkError> {
        Ok(Self {
            no_ipv6: environment::no_ipv6(),
            links: netlink.links().await?,
            addresses: netlink.addresses().await?,
            routes: netlink.routes().await?,
            neighbours: netlink.neighbours().await?,
        })
    }

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

    fn addresses_of(&self, link: &Link) -> impl Iterator<Item = IpNet> {
        self.addresses
            .iter()
            .filter(|address| address.ifindex == link.index)
            .map(|address| address.net)
            .filter(|net| !is_link_local(net.addr()))
    }

    /// What requests are checked against.
    ///
    /// `now`: seconds since the Unix epoch.
    pub fn view<'a>(&self, ports: &'a dyn HostPorts, now: u64) -> HostView<'a> {
        let leads_somewhere = |route: &&netlink::Route| {
            !matches!(
                route.kind,
                RouteType::Local | RouteType::Broadcast | RouteType::Multicast | RouteType::Anycast
            )
        };
        HostView {
            routes: self
                .routes
                .iter()
                .filter(leads_somewhere)
                .map(|route| route.dst)
                .collect(),
            addresses: self
                .addresses
                .iter()
                .map(|address| address.net.addr())
                .collect(),
            interfaces: self.links.iter().map(|link| link.name.clone()).collect(),
            ports,
            no_ipv6: self.no_ipv6,
            now,
        }
    }

    /// Where the other end of an endpoint's veth pair is.
    pub fn far_end(&self, endpoint: &Endpoint) -> End {
        let id = endpoint.id.to_string();
        let own = |link: &&Link| {
            let alias = link.alias.as_deref();
            link.name == endpoint.host_ifname
                && (alias.is_some_and(|alias| alias.ends_with(&id))
                    || link.mac == endpoint.host_mac.bytes())
        };
        match self.links.iter().find(own) {
            None => End::Gone,
            Some(link) if link.peer_netnsid.is_some() => End::Away,
            Some(_) => End::Here,
        }
    }

    /// What the planner compares with, `attached` and `tables` being what the
    /// datapath holds.
    pub fn observed<'a>(
        &self,
        attached: BTreeMap<u32, Role>,
        tables: Tables,
        holds: impl Iterator<Item = &'a Hold>,
    ) -> Observed {
        let names: BTreeMap<u32, &str> = self
            .links
            .iter()
            .map(|link| (link.index, link.name.as_str()))
            .collect();
        let host_end = |index: u32| {
            let name = names.get(&index)?;
            name.starts_with(HOST_END).then(|| (*name).to_owned())
        };
        let links = self.links.iter().map(|link| {
            let observed = ObservedLink {
                ifindex: link.index,
                alias: link.alias.clone(),
                mac: link.mac,
                mtu: link.mtu,
                up: link.up,
                forwarding: link.forwarding,
                forwarding6: link.forwarding6,
                addresses: self.addresses_of(link).collect(),
            };
            (link.name.clone(), observed)
        });
        let routes = self.routes.iter().filter_map(|route| {
            let single = route.dst.prefix_len() == route.dst.max_prefix_len();
            if !single || route.table != TABLE_MAIN || route.gateway.is_some() {
                return None;
            }
            Some(Route {
                to: route.dst.addr(),
                ifname: host_end(route.oif?)?,
                src: route.src,
            })
        });
        let neighbours = self.neighbours.iter().filter_map(|neighbour| {
            if !neighbour.permanent {
                return None;
            }
            Some(Neighbour {
                address: neighbour.address,
                ifname: host_end(neighbour.ifindex)?,
                mac: neighbour.mac,
            })
        });
        Observed {
            links: links.collect(),
            routes: routes.collect(),
            neighbours: neighbours.collect(),
            attached,
            holds: holds.copied().collect(),
            tables,
            clock: Clock::default(),
        }
    }
}

fn is_link_local(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => address.is_link_local(),
        IpAddr::V6(address) => address.is_unicast_link_local(),
    }
}

/// What only this site, at most, answers to (RFC 4193): of use where there is
/// nothing better.
fn is_unique_local(address: IpAddr) -> bool {
    matches!(address, IpAddr::V6(address) if address.is_unique_local())
}

/// Finds out by binding, and names who is in the way.
#[derive(Clone, Copy, Debug)]
pub struct SocketProbe;

impl HostPorts for SocketProbe {
    fn probe(&self, address: IpAddr, port: u16, proto: Proto) -> Result<(), PortTaken> {
        let Some(ports) = PortRange::single(port) else {
            return Ok(());
        };
        let port = Hold {
            address,
            ports,
            proto,
            both: false,
        };
        match hold::is_free(port) {
            Ok(true) => Ok(()),
            Ok(false) => Err(PortTaken {
                by: port_owner::find(&port).map(|owner| owner.to_string()),
            }),
            // Holding it will fail for the same reason, and say so.
            Err(_) => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::netlink::RouteScope;

    use super::*;

    fn link(index: u32, name: &str, alias: Option<&str>) -> Link {
        Link {
            index,
            name: name.to_owned(),
            ethernet: true,
            mac: [2, 0, 0, 0, 0, index as u8],
            alias: alias.map(str::to_owned),
            loopback: name == "lo",
            ..Link::default()
        }
    }

    fn address(ifindex: u32, net: &str) -> netlink::Address {
        netlink::Address {
            ifindex,
            net: net.parse().unwrap(),
            state: AddressState::Lasting,
        }
    }

    fn default_route(oif: u32, priority: u32) -> netlink::Route {
        netlink::Route {
            priority,
            ..netlink::Route::default_via("10.0.0.1".parse().unwrap(), oif)
        }
    }

    fn host() -> Host {
        let single = netlink::Route::on_link("172.17.0.2/32".parse().unwrap(), 5)
            .with_src("172.17.0.1".parse().unwrap());
        let local = netlink::Route {
            kind: RouteType::Local,
            scope: RouteScope::Host,
            table: 255,
            ..netlink::Route::on_link("10.0.0.7/32".parse().unwrap(), 2)
        };
        Host {
            links: vec![
                link(1, "lo", None),
                link(2, "eth0", None),
                link(3, "eth1", None),
                link(4, "netdp0", Some("netdp:1:a")),
                link(5, "vn0123456789", Some("netdp:1:b")),
            ],
            addresses: vec![
                address(1, "127.0.0.1/8"),
                address(2, "10.0.0.7/24"),
                address(2, "10.0.0.8/24"),
                address(2, "fe80::1/64"),
                address(4, "172.17.0.1/16"),
            ],
            routes: vec![
                default_route(2, 100),
                default_route(3, 50),
                default_route(4, 1),
                single,
                local,
            ],
            neighbours: vec![
                netlink::Neighbour {
                    ifindex: 5,
                    address: "172.17.0.2".parse().unwrap(),
                    mac: [2; 6],
                    permanent: true,
                },
                netlink::Neighbour {
                    ifindex: 2,
                    address: "10.0.0.1".parse().unwrap(),
                    mac: [2; 6],
                    permanent: true,
                },
            ],
            no_ipv6: None,
        }
    }

    fn names(facts: &Facts) -> Vec<&str> {
        facts
            .uplinks
            .iter()
            .map(|uplink| uplink.ifname.as_str())
            .collect()
    }

    #[test]
    fn default_routes_make_uplinks_but_not_through_our_own_links() {
        let facts = host().facts(&[], "netdp:1:");
        assert_eq!(names(&facts), ["eth1", "eth0"]);
        let eth0 = &facts.uplinks[1];
        assert_eq!(eth0.addresses.len(), 2, "no link-local ones: {eth0:?}");
        assert_eq!(eth0.addresses[0].to_string(), "10.0.0.7");
    }

    #[test]
    fn routes_decide_where_there_are_addresses_to_choose_from() {
        let mut host = host();
        let by_route = |host: &Host| {
            let facts = host.facts(&["eth0".to_owned(), "eth1".to_owned()], "netdp:1:");
            let uplinks = facts.uplinks.iter();
            uplinks
                .map(|uplink| [uplink.reach4.by_route, uplink.reach6.by_route])
                .collect::<Vec<_>>()
        };
        assert_eq!(by_route(&host), [[true, false], [false, false]]);
        host.addresses
            .extend([address(3, "10.1.0.7/24"), address(3, "2001:db8::7/64")]);
        assert_eq!(by_route(&host)[1], [false, false]);
        let elsewhere = netlink::Route::on_link("10.9.0.0/16".parse().unwrap(), 3);
        host.routes
            .push(elsewhere.with_src("10.0.0.7".parse().unwrap()));
        assert_eq!(by_route(&host)[1], [true, false]);
        host.addresses.push(address(3, "2001:db8::8/64"));
        assert_eq!(by_route(&host)[1], [true, true]);
        host.addresses.push(netlink::Address {
            state: AddressState::Passing,
            ..address(3, "2001:db8::9/64")
        });
        assert_eq!(by_route(&host)[1], [true, false]);
    }

    #[test]
    fn an_uplinks_best_address_of_ipv6_comes_first() {
        let with = |net, state| netlink::Address {
            state,
            ..address(2, net)
        };
        let mut host = host();
        host.addresses.extend([
            with("2001:db8::bad/64", AddressState::Tentative),
            with("2001:db8::7e3b/64", AddressState::Passing),
            with("fd00::7/64", AddressState::Lasting),
            with("2001:db8::7/64", AddressState::Lasting),
        ]);
        let facts = host.facts(&["eth0".to_owned()], "netdp:1:");
        let addresses: Vec<String> = facts.uplinks[0]
            .addresses
            .iter()
            .map(ToString::to_string)
            .collect();
        assert_eq!(
            addresses,
            [
                "10.0.0.7",
                "10.0.0.8",
                "2001:db8::7",
                "fd00::7",
                "2001:db8::7e3b"
            ]
        );
    }

    #[test]
    fn uplinks_that_were_asked_for_are_taken_when_they_are_there() {
        let asked = ["eth9".to_owned(), "eth0".to_owned()];
        assert_eq!(names(&host().facts(&asked, "netdp:1:")), ["eth0"]);
    }

    #[test]
    fn an_uplink_without_an_ethernet_header_is_told_apart() {
        let mut host = host();
        host.links[2].ethernet = false;
        for asked in [vec![], vec!["eth1".to_owned(), "eth0".to_owned()]] {
            let facts = host.facts(&asked, "netdp:1:");
            assert_eq!(names(&facts), ["eth0"]);
            assert_eq!(facts.headerless, ["eth1"]);
        }
    }

    #[test]
    fn only_host_ends_are_observed() {
        let observed = host().observed(BTreeMap::new(), Tables::new(), [].iter());
        assert_eq!(observed.routes.len(), 1);
        assert_eq!(observed.neighbours.len(), 1);
        assert_eq!(observed.links.len(), 5);
        let route = observed.routes.first().unwrap();
        assert_eq!(route.ifname, "vn0123456789");
        assert_eq!(route.src, Some("172.17.0.1".parse().unwrap()));
    }

    #[test]
    fn local_addresses_are_no_routes_to_somewhere() {
        let view = host();
        let view = view.view(&SocketProbe, 0);
        assert!(!view.routes.contains(&"10.0.0.7/32".parse().unwrap()));
        assert!(view.routes.contains(&"172.17.0.2/32".parse().unwrap()));
    }
}
