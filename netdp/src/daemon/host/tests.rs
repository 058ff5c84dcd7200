use crate::{
    model::tests::NO_OPTIONS,
    netlink::{AddressState, RouteScope},
    plan::Facts,
};

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
        has_netkit: false,
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
fn a_bridge_that_leads_no_further_is_beside() {
    let mut host = host();
    host.links.push(Link {
        kind: Some("bridge".to_owned()),
        ..link(6, "docker0", None)
    });
    let asked = ["eth0".to_owned(), "docker0".to_owned()];
    let beside = |host: &Host| {
        let facts = host.facts(&asked, "netdp:1:");
        facts.uplinks.iter().map(|it| it.beside).collect::<Vec<_>>()
    };
    assert_eq!(beside(&host), [false, true]);
    // The host's own way out.
    host.routes.push(default_route(6, 200));
    assert_eq!(beside(&host), [false, false]);
}

#[test]
fn an_uplink_broadcasts_to_what_the_kernel_has_a_broadcast_route_to() {
    let mut host = host();
    let route = |kind, oif, dst: &str| netlink::Route {
        kind,
        table: 255,
        ..netlink::Route::on_link(dst.parse().unwrap(), oif)
    };
    host.routes.extend([
        route(RouteType::Broadcast, 2, "10.9.0.255/32"),
        route(RouteType::Broadcast, 2, "10.0.0.255/32"),
        route(RouteType::Broadcast, 2, "10.0.0.255/32"),
        route(RouteType::Broadcast, 3, "10.7.0.255/32"),
        route(RouteType::Anycast, 2, "2001:db8::/128"),
    ]);
    let facts = host.facts(&["eth0".to_owned()], "netdp:1:");
    let broadcasts: Vec<String> = facts.uplinks[0]
        .broadcasts
        .iter()
        .map(ToString::to_string)
        .collect();
    assert_eq!(broadcasts, ["10.0.0.255", "10.9.0.255"]);
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
        with("2001:0:5ef5:79fb::7/64", AddressState::Lasting),
        with("2002:c000:204::7/64", AddressState::Lasting),
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
            "2002:c000:204::7",
            "2001:0:5ef5:79fb::7",
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
    let view = view.view(&SocketProbe, &NO_OPTIONS, 0);
    assert!(!view.routes.contains(&"10.0.0.7/32".parse().unwrap()));
    assert!(view.routes.contains(&"172.17.0.2/32".parse().unwrap()));
}
