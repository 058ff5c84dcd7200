//! What netfilter can do at its best: two maps, two containers on routed veths,
//! no chain that a packet has to walk.

use std::fmt::Write as _;
use std::net::Ipv4Addr;
use std::time::Duration;

use super::{Inside, Site, Size, crowd};
use crate::bench::Mode;
use crate::netns::Namespace;
use crate::world::docker_bridge::PublishedPort;
use crate::world::{World, WorldError, feed, ip, set_sysctls};

const GATEWAY: Ipv4Addr = Ipv4Addr::new(172, 18, 0, 1);
const FIRST: Ipv4Addr = Ipv4Addr::new(172, 18, 0, 2);
const SECOND: Ipv4Addr = Ipv4Addr::new(172, 18, 0, 3);

const RULES_TIMEOUT: Duration = Duration::from_secs(20);

pub(super) fn build(world: &mut World, size: &Size) -> anyhow::Result<Site> {
    let host = world.add_host()?;
    let namespace = &host.namespace;
    set_sysctls(
        namespace,
        &[
            ("ipv4/ip_forward", "1"),
            ("ipv4/conf/all/route_localnet", "1"),
        ],
    )?;
    let first = container(world, namespace, "first", FIRST)?;
    let second = container(world, namespace, "second", SECOND)?;
    let rules = rules(&size.published());
    feed(namespace, "nft", &["-f", "-"], &rules, RULES_TIMEOUT)?;
    let crowd = crowd(world, namespace, size, |interface, number| {
        let [high, low] = (number as u16).to_be_bytes();
        format!("link set {interface} up\nroute add 172.19.{high}.{low}/32 dev {interface}\n")
    })?;
    let inside = Inside {
        first,
        address: FIRST,
        second,
    };
    Ok(Site {
        _crowd: crowd,
        ..Site::with_containers(world, Mode::Nft, host, inside, size)?
    })
}

fn container(
    world: &World,
    host: &Namespace,
    name: &str,
    address: Ipv4Addr,
) -> Result<Namespace, WorldError> {
    let inside = world.add_namespace(&format!("nft-{name}"))?;
    let number = address.octets()[3];
    let (host_mac, own_mac) = (
        format!("02:6e:66:74:01:{number:02x}"),
        format!("02:6e:66:74:02:{number:02x}"),
    );
    ip(
        host,
        &format!(
            "link add {name} address {host_mac} type veth peer name eth0 address {own_mac} netns {}\n\
             link set {name} up\n\
             addr add {GATEWAY}/32 dev {name}\n\
             route add {address}/32 dev {name}\n\
             neigh replace {address} lladdr {own_mac} dev {name} nud permanent\n",
            inside.path().display()
        ),
    )?;
    ip(
        &inside,
        &format!(
            "addr add {address}/32 dev eth0\n\
             link set eth0 up\n\
             route add {GATEWAY}/32 dev eth0\n\
             route add default via {GATEWAY} dev eth0\n\
             neigh replace {GATEWAY} lladdr {host_mac} dev eth0 nud permanent\n"
        ),
    )?;
    Ok(inside)
}

fn rules(ports: &[PublishedPort]) -> String {
    let mut rules = String::from("table ip bench {\n");
    for protocol in ["tcp", "udp"] {
        let elements: Vec<String> = ports
            .iter()
            .filter(|port| port.protocol == protocol)
            .map(|PublishedPort { port, .. }| format!("{port} : {FIRST} . {port}"))
            .collect();
        // Writing to a String can't fail.
        let _ = writeln!(
            rules,
            "map {protocol}_ports {{ type inet_service : ipv4_addr . inet_service; \
             elements = {{ {} }} }}",
            elements.join(", ")
        );
    }
    let translate = "fib daddr type local dnat ip to tcp dport map @tcp_ports\n\
                     fib daddr type local dnat ip to udp dport map @udp_ports\n";
    let _ = write!(
        rules,
        "chain in {{ type nat hook prerouting priority -100;\n{translate}}}\n\
         chain own {{ type nat hook output priority -100;\n{translate}}}\n\
         chain out {{ type nat hook postrouting priority 100;\n\
         oifname \"eth0\" ip saddr {GATEWAY}/24 masquerade\n\
         ip saddr 127.0.0.0/8 oifname != \"lo\" masquerade\n}}\n}}\n"
    );
    rules
}
