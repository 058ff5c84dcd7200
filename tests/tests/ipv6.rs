//! IPv6: published ports, masquerade, containers among themselves, and
//! programs of the host.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6, TcpStream, UdpSocket};
use std::os::fd::OwnedFd;

use netdp::demo::world::{
    CLIENT_ADDRESS, CLIENT_ADDRESS6, HOST_ADDRESS, HOST_ADDRESS6, OUTSIDE_ADDRESS6, set_sysctls,
};
use netdp::netns::Namespace;
use netdp_tests::{
    Listener, Place, SILENCE, Topology, bind_port, connect, connect_from, connect_within,
    echo_socket6, hears, listen, ping_through, says_nothing, talk, transfer, udp,
};
use nix::sys::socket::{AddressFamily, SockProtocol, SockType};

const ANY: Ipv6Addr = Ipv6Addr::UNSPECIFIED;
const ANY4: Ipv4Addr = Ipv4Addr::UNSPECIFIED;

/// A host with IPv6, and a network `six` made with these options.
fn start(name: &str, options: &str) -> Option<Topology> {
    let topology = Topology::start_with_ipv6(name)?;
    topology.netdp(&format!("network create six --ipv6 {options}"));
    Some(topology)
}

/// A namespace in a network that has IPv6.
struct Container {
    name: String,
    namespace: Namespace,
    v4: Option<Ipv4Addr>,
    address: Ipv6Addr,
    gateway: Ipv6Addr,
}

impl Place for Container {
    fn open_family(
        &self,
        family: AddressFamily,
        kind: SockType,
        protocol: Option<SockProtocol>,
    ) -> OwnedFd {
        self.namespace.open_family(family, kind, protocol)
    }
}

fn v6(address: IpAddr) -> Option<Ipv6Addr> {
    match address {
        IpAddr::V4(_) => None,
        IpAddr::V6(address) => Some(address),
    }
}

#[track_caller]
fn container(topology: &Topology, name: &str, options: &str) -> Container {
    let namespace = topology.world.add_namespace(name).unwrap();
    let path = namespace.path().display();
    topology.netdp(&format!("attach --netns {path} --name {name} {options}"));
    let sandbox = topology.inspect(name);
    let endpoint = &sandbox.endpoints[0];
    let addresses = endpoint.addresses.iter().map(|net| net.addr());
    Container {
        name: name.into(),
        v4: addresses.clone().find_map(|address| match address {
            IpAddr::V4(address) => Some(address),
            IpAddr::V6(_) => None,
        }),
        address: addresses.clone().find_map(v6).expect("an IPv6 address"),
        gateway: endpoint.gateways.iter().copied().find_map(v6).unwrap(),
        namespace,
    }
}

fn socket(address: Ipv6Addr, port: u16) -> SocketAddr {
    SocketAddrV6::new(address, port, 0, 0).into()
}

/// A connection arrives from `source`, and both ends see what they should.
#[track_caller]
fn reaches(
    from: &impl Place,
    to: (Ipv6Addr, u16),
    listener: &Listener,
    source: Ipv6Addr,
) -> (TcpStream, TcpStream) {
    let near = connect(from, to);
    let (far, seen) = listener.accept();
    assert_eq!(near.peer_addr().unwrap(), socket(to.0, to.1));
    assert_eq!(seen.ip(), source);
    talk(&near, &far);
    (near, far)
}

#[track_caller]
fn unreachable(from: &impl Place, to: (Ipv6Addr, u16)) {
    if connect_within(from, None, to, SILENCE).is_ok() {
        panic!("{to:?} answers");
    }
}

/// Datagrams arrive from `source`, and their answers from where they were sent.
#[track_caller]
fn asks(from: &impl Place, to: (Ipv6Addr, u16), server: &UdpSocket, source: Ipv6Addr) {
    let client = udp(from, ANY, 0);
    for words in [&b"first"[..], b"second", b""] {
        client.send_to(words, to).unwrap();
        let seen = hears(server, words);
        assert_eq!(seen.ip(), source);
        server.send_to(words, seen).unwrap();
        assert_eq!(hears(&client, words), socket(to.0, to.1));
    }
}

#[test]
fn published_ports_keep_the_clients_address() {
    let Some(topology) = start("six-published", "") else {
        return;
    };
    let world = &topology.world;
    let web = container(
        &topology,
        "web",
        "--network six -p 8080:80 -p 5353:53/udp -p [::]:9090:90",
    );
    let (http, dns) = (listen(&web, ANY, 80), udp(&web, ANY, 53));
    for (place, address) in [
        (&world.client, CLIENT_ADDRESS6),
        (&world.outside, OUTSIDE_ADDRESS6),
    ] {
        let (near, far) = reaches(place, (HOST_ADDRESS6, 8080), &http, address);
        let local = near.local_addr().unwrap();
        let flows = topology.flows();
        assert!(
            flows.iter().any(|flow| flow.kind == "published"
                && flow.remote == local
                && flow.container == Some(socket(web.address, 80))),
            "{flows:?}"
        );
        transfer(&near, &far, 1 << 20);
        asks(place, (HOST_ADDRESS6, 5353), &dns, address);
    }
    // One port in both families, and one in this one alone.
    let http4 = listen(&web, ANY4, 80);
    let near = connect(&world.client, (HOST_ADDRESS, 8080));
    let (far, seen) = http4.accept();
    assert_eq!(seen.ip(), CLIENT_ADDRESS);
    talk(&near, &far);
    let other = listen(&web, ANY, 90);
    reaches(
        &world.client,
        (HOST_ADDRESS6, 9090),
        &other,
        CLIENT_ADDRESS6,
    );
    let other4 = listen(&web, ANY4, 90);
    assert!(connect_within(&world.client, None, (HOST_ADDRESS, 9090), SILENCE).is_err());
    other4.assert_nobody_came();
    // What it listens on itself is not the host's, nor is its address reached.
    unreachable(&world.client, (HOST_ADDRESS6, 80));
    let route = format!("route add {}/128 via {HOST_ADDRESS6}\n", web.address);
    topology.ip(&world.client, &route);
    unreachable(&world.client, (web.address, 80));
    http.assert_nobody_came();
}

#[test]
fn a_port_on_one_address_is_not_on_another_and_goes_when_it_is_unpublished() {
    let Some(mut topology) = Topology::without_daemon("six-address") else {
        return;
    };
    topology.world.add_ipv6().unwrap();
    let second: Ipv6Addr = "2001:2:0:18::3".parse().unwrap();
    let line = format!("addr add {second}/64 dev eth0 nodad\n");
    topology.ip(&topology.world.host, &line);
    topology.start_daemon();
    topology.netdp("network create six --ipv6");
    let world = &topology.world;
    let one = container(
        &topology,
        "one",
        &format!("--network six -p [{HOST_ADDRESS6}]:8080:80 -p [::1]:8081:80"),
    );
    let other = container(
        &topology,
        "other",
        &format!("--network six -p [{second}]:8080:80 -p [::]:8082:80"),
    );
    let (first, other) = (listen(&one, ANY, 80), listen(&other, ANY, 80));
    reaches(
        &world.client,
        (HOST_ADDRESS6, 8080),
        &first,
        CLIENT_ADDRESS6,
    );
    reaches(&world.client, (second, 8080), &other, CLIENT_ADDRESS6);
    for address in [HOST_ADDRESS6, second] {
        reaches(&world.client, (address, 8082), &other, CLIENT_ADDRESS6);
    }
    unreachable(&world.client, (HOST_ADDRESS6, 8081));
    topology.netdp(&format!("unpublish other [{second}]:8080:80"));
    unreachable(&world.client, (second, 8080));
    reaches(
        &world.client,
        (HOST_ADDRESS6, 8080),
        &first,
        CLIENT_ADDRESS6,
    );
    topology.netdp("unpublish other 8082:80");
    unreachable(&world.client, (HOST_ADDRESS6, 8082));
    first.assert_nobody_came();
    other.assert_nobody_came();
}

#[test]
fn a_published_port_is_held_in_its_family_alone() {
    let Some(topology) = start("six-held", "") else {
        return;
    };
    let world = &topology.world;
    let _web = container(
        &topology,
        "web",
        "--network six -p [::]:8080:80 -p 0.0.0.0:8081:80 -p [::1]:8082:80",
    );
    assert!(bind_port(&world.host, ANY, 8080).is_err());
    assert!(bind_port(&world.host, HOST_ADDRESS6, 8080).is_err());
    bind_port(&world.host, ANY4, 8080).unwrap();
    bind_port(&world.host, ANY, 8081).unwrap();
    assert!(bind_port(&world.host, Ipv6Addr::LOCALHOST, 8082).is_err());
    bind_port(&world.host, HOST_ADDRESS6, 8082).unwrap();
    let _taken = listen(&world.host, ANY, 9000);
    let refused = topology.refused("publish web [::]:9000:80");
    assert!(refused.contains("[::]:9000/tcp is used by"), "{refused}");
    topology.netdp("publish web 0.0.0.0:9000:80");
}

#[test]
fn a_container_leaves_under_the_hosts_address_and_its_own_port() {
    let Some(topology) = start("six-masquerade", "") else {
        return;
    };
    let world = &topology.world;
    let one = container(&topology, "one", "--network six");
    let other = container(&topology, "other", "--network six");
    let server = listen(&world.outside, ANY, 80);
    let near = connect_from(&one, (ANY, 41_000), (OUTSIDE_ADDRESS6, 80));
    let (far, seen) = server.accept();
    assert_eq!(seen, socket(HOST_ADDRESS6, 41_000));
    transfer(&near, &far, 1 << 20);
    // The port is taken now.
    let near = connect_from(&other, (ANY, 41_000), (OUTSIDE_ADDRESS6, 80));
    let (far, seen) = server.accept();
    assert_eq!(seen.ip(), HOST_ADDRESS6);
    assert_ne!(seen.port(), 41_000);
    transfer(&near, &far, 1 << 20);

    let dns = udp(&world.outside, ANY, 53);
    asks(&one, (OUTSIDE_ADDRESS6, 53), &dns, HOST_ADDRESS6);
    let flows = topology.flows();
    assert!(
        flows.iter().any(|flow| flow.kind == "masquerade"
            && flow.container == Some(socket(one.address, 41_000))
            && flow.remote == socket(OUTSIDE_ADDRESS6, 80)),
        "{flows:?}"
    );
    let mut sockets = Vec::new();
    for (place, payload) in [(&one, &b"of one"[..]), (&other, b"of the other")] {
        set_sysctls(&place.namespace, &[("ipv4/ping_group_range", "0 0")]).unwrap();
        let socket = echo_socket6(place, 77);
        ping_through(&socket, OUTSIDE_ADDRESS6, 1, payload);
        sockets.push(socket);
    }
    // The gateway, the host, and a neighbour.
    for to in [one.gateway, HOST_ADDRESS6, other.address] {
        ping_through(&sockets[0], to, 9, b"near by");
    }
}

#[test]
fn containers_of_one_network_are_open_to_each_other() {
    let Some(topology) = start("six-neighbours", "") else {
        return;
    };
    let one = container(&topology, "one", "--network six");
    let other = container(&topology, "other", "--network six");
    let (http, dns) = (listen(&other, ANY, 80), udp(&other, ANY, 53));
    reaches(&one, (other.address, 80), &http, one.address);
    asks(&one, (other.address, 53), &dns, one.address);
    // The host, in both directions.
    reaches(
        &topology.world.host,
        (other.address, 80),
        &http,
        other.gateway,
    );
    let service = listen(&topology.world.host, ANY, 9000);
    for address in [one.gateway, HOST_ADDRESS6] {
        reaches(&one, (address, 9000), &service, one.address);
    }
}

#[test]
fn other_networks_are_closed_but_for_published_ports() {
    let Some(topology) = start("six-apart", "") else {
        return;
    };
    topology.netdp("network create apart --ipv6 --icc=false");
    topology.netdp("network create inner --ipv6 --internal");
    let one = container(&topology, "one", "--network six");
    let apart = container(&topology, "apart1", "--network apart -p 8080:80");
    let beside = container(&topology, "apart2", "--network apart");
    let inner = container(&topology, "inner1", "--network inner");
    let near = container(&topology, "inner2", "--network inner");
    let http = listen(&apart, ANY, 80);
    let (other_network, no_icc) = (
        topology.dropped("other-network"),
        topology.dropped("no-icc"),
    );
    unreachable(&one, (apart.address, 80));
    unreachable(&beside, (apart.address, 80));
    assert!(topology.dropped("other-network") > other_network);
    assert!(topology.dropped("no-icc") > no_icc);
    http.assert_nobody_came();
    for place in [&one, &beside] {
        reaches(place, (HOST_ADDRESS6, 8080), &http, place.address);
    }
    let outside = listen(&topology.world.outside, ANY, 80);
    unreachable(&inner, (OUTSIDE_ADDRESS6, 80));
    unreachable(&inner, (HOST_ADDRESS6, 8080));
    outside.assert_nobody_came();
    let server = listen(&near, ANY, 80);
    reaches(&inner, (near.address, 80), &server, inner.address);
}

#[test]
fn a_published_port_is_open_to_neighbours_and_to_oneself() {
    let Some(topology) = start("six-hairpin", "") else {
        return;
    };
    let one = container(&topology, "one", "--network six");
    let other = container(
        &topology,
        "other",
        "--network six -p 8080:80 -p 5353:53/udp",
    );
    let (http, dns) = (listen(&other, ANY, 80), udp(&other, ANY, 53));
    for address in [HOST_ADDRESS6, one.gateway] {
        reaches(&one, (address, 8080), &http, one.address);
        asks(&one, (address, 5353), &dns, one.address);
        reaches(&other, (address, 8080), &http, other.gateway);
        asks(&other, (address, 5353), &dns, other.gateway);
    }
    reaches(&one, (other.address, 80), &http, one.address);
}

#[test]
fn programs_of_the_host_reach_published_ports_at_each_address() {
    let Some(topology) = start("six-host", "") else {
        return;
    };
    let web = container(
        &topology,
        "web",
        "--network six -p 8080:80 -p 5353:53/udp -p [::1]:8081:80",
    );
    let (http, dns) = (listen(&web, ANY, 80), udp(&web, ANY, 53));
    let program = topology.host_program();
    let client = udp(&program, ANY, 0);
    for address in [Ipv6Addr::LOCALHOST, HOST_ADDRESS6, web.gateway] {
        let (near, far) = reaches(&program, (address, 8080), &http, web.gateway);
        transfer(&near, &far, 1 << 20);
        client.send_to(b"question", (address, 5353)).unwrap();
        let seen = hears(&dns, b"question");
        dns.send_to(b"answer", seen).unwrap();
        assert_eq!(hears(&client, b"answer"), socket(address, 5353));
    }
    reaches(&program, (Ipv6Addr::LOCALHOST, 8081), &http, web.gateway);
    assert!(connect_within(&program, None, (HOST_ADDRESS6, 8081), SILENCE).is_err());
    topology.netdp("unpublish web 8080:80");
    assert!(connect_within(&program, None, (Ipv6Addr::LOCALHOST, 8080), SILENCE).is_err());
}

#[test]
fn a_network_may_have_ipv6_alone() {
    let Some(topology) = start("six-alone", "--ipv4=false") else {
        return;
    };
    let world = &topology.world;
    let web = container(&topology, "web", "--network six -p 8080:80");
    assert_eq!((web.v4, web.name.as_str()), (None, "web"));
    let http = listen(&web, ANY, 80);
    reaches(&world.client, (HOST_ADDRESS6, 8080), &http, CLIENT_ADDRESS6);
    let outside = listen(&world.outside, ANY, 80);
    reaches(&web, (OUTSIDE_ADDRESS6, 80), &outside, HOST_ADDRESS6);
    assert!(connect_within(&world.client, None, (HOST_ADDRESS, 8080), SILENCE).is_err());
}

#[test]
fn connections_and_ports_outlive_the_daemon() {
    let Some(mut topology) = start("six-restart", "") else {
        return;
    };
    let web = container(&topology, "web", "--network six -p 8080:80 -p 5353:53/udp");
    let (http, dns) = (listen(&web, ANY, 80), udp(&web, ANY, 53));
    let outside = listen(&topology.world.outside, ANY, 80);
    let open = [
        reaches(
            &topology.world.client,
            (HOST_ADDRESS6, 8080),
            &http,
            CLIENT_ADDRESS6,
        ),
        reaches(&web, (OUTSIDE_ADDRESS6, 80), &outside, HOST_ADDRESS6),
    ];
    let works = |topology: &Topology| {
        for (near, far) in &open {
            talk(near, far);
        }
        let client = &topology.world.client;
        reaches(client, (HOST_ADDRESS6, 8080), &http, CLIENT_ADDRESS6);
        asks(client, (HOST_ADDRESS6, 5353), &dns, CLIENT_ADDRESS6);
        reaches(&web, (OUTSIDE_ADDRESS6, 80), &outside, HOST_ADDRESS6);
    };
    topology.world.kill_daemon();
    works(&topology);
    topology.start_daemon();
    works(&topology);
    let more = container(&topology, "more", "--network six");
    reaches(&more, (web.address, 80), &http, more.address);
    topology.netdp("rm web");
    unreachable(&topology.world.client, (HOST_ADDRESS6, 8080));
}

#[test]
fn an_address_that_comes_or_goes_is_followed() {
    let Some(topology) = start("six-moves", "") else {
        return;
    };
    let world = &topology.world;
    let web = container(&topology, "web", "--network six -p 8080:80");
    let (http, outside) = (listen(&web, ANY, 80), listen(&world.outside, ANY, 80));
    reaches(&web, (OUTSIDE_ADDRESS6, 80), &outside, HOST_ADDRESS6);
    let next: Ipv6Addr = "2001:2:0:18::99".parse().unwrap();
    topology.ip(
        &world.host,
        &format!(
            "addr add {next}/64 dev eth0 nodad\n\
             addr del {HOST_ADDRESS6}/64 dev eth0\n"
        ),
    );
    let mac = "02:6e:64:70:00:02";
    let line = format!("neigh replace {next} lladdr {mac} dev wire0 nud permanent\n");
    topology.ip(&world.client, &line);
    topology.wait_until("masqueraded under the new address", || {
        let Ok(near) = connect_within(&web, None, (OUTSIDE_ADDRESS6, 80), SILENCE) else {
            return false;
        };
        let (_far, seen) = outside.accept();
        drop(near);
        seen.ip() == next
    });
    reaches(&world.client, (next, 8080), &http, CLIENT_ADDRESS6);
}

#[test]
fn a_smaller_link_on_the_way_is_found_out() {
    let Some(topology) = start("six-mtu", "") else {
        return;
    };
    let world = &topology.world;
    let one = container(&topology, "one", "--network six -p 8080:80");
    let outside = listen(&world.outside, ANY, 80);
    let http = listen(&one, ANY, 80);
    let behind = format!("route add {OUTSIDE_ADDRESS6} dev outside mtu lock 1400\n");
    // Behind the client, and then right at the host.
    for (of_client, of_host) in [
        (&*behind, ""),
        ("link set wire0 mtu 1400\n", "link set eth0 mtu 1400\n"),
    ] {
        topology.ip(&world.client, of_client);
        topology.ip(&world.host, of_host);
        let (near, far) = reaches(&one, (OUTSIDE_ADDRESS6, 80), &outside, HOST_ADDRESS6);
        transfer(&near, &far, 1 << 20);
        let (near, far) = reaches(
            &world.outside,
            (HOST_ADDRESS6, 8080),
            &http,
            OUTSIDE_ADDRESS6,
        );
        transfer(&near, &far, 1 << 20);
    }
}

#[test]
fn nothing_is_sent_under_an_address_that_is_not_the_containers() {
    let Some(topology) = start("six-spoof", "") else {
        return;
    };
    let one = container(&topology, "one", "--network six");
    let other = container(&topology, "other", "--network six");
    let dns = udp(&other, ANY, 53);
    let stolen: Ipv6Addr = Ipv6Addr::from(u128::from(one.address) + 0x100);
    let line = format!("addr add {stolen}/64 dev eth0 nodad\n");
    topology.ip(&one.namespace, &line);
    let before = topology.dropped("spoofed-source");
    let client = udp(&one, stolen, 0);
    client.send_to(b"not me", (other.address, 53)).unwrap();
    client.send_to(b"not me", (OUTSIDE_ADDRESS6, 53)).unwrap();
    says_nothing(&dns);
    assert!(topology.dropped("spoofed-source") >= before + 2);
}
