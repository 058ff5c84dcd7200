//! Networks that the outside has a route to: containers are known there by
//! their own addresses.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use netdp::demo::world::{
    CLIENT_ADDRESS, HOST_ADDRESS, HOST_ADDRESS6, OUTSIDE_ADDRESS, OUTSIDE_ADDRESS6, set_sysctls,
};
use netdp_tests::{
    Container, Listener, Place, SIDES, SILENCE, Side, Topology, connect, connect_from,
    connect_within, echo_socket6, hears, listen, ping_through, says_nothing, talk, transfer, udp,
};

const ANY: Ipv6Addr = Ipv6Addr::UNSPECIFIED;
/// What the site's router sends to this host.
const SUBNET: &str = "2001:2:0:77::/64";
const WEB: Ipv6Addr = Ipv6Addr::new(0x2001, 2, 0, 0x77, 0, 0, 0, 5);
const MODE: &str = "--opt com.docker.network.bridge.gateway_mode_ipv6=routed";

/// A host to which the client, as a router, sends what is for the network.
fn start(name: &str) -> Option<Topology> {
    let mut topology = Topology::without_daemon(name)?;
    topology.world.add_ipv6().unwrap();
    let route = format!("route add {SUBNET} via {HOST_ADDRESS6}\n");
    topology.ip(&topology.world.client, &route);
    topology.start_daemon();
    topology.netdp(&format!("network create seen --subnet {SUBNET} {MODE}"));
    Some(topology)
}

fn web(topology: &Topology, options: &str) -> Container {
    topology.container("web", &format!("--network seen --ip6 {WEB} {options}"))
}

#[track_caller]
fn reaches(from: &impl Place, to: SocketAddr, listener: &Listener, source: IpAddr) {
    let near = connect(from, to);
    let (far, seen) = listener.accept();
    assert_eq!((near.peer_addr().unwrap(), seen.ip()), (to, source));
    talk(&near, &far);
    transfer(&near, &far, 1 << 18);
}

#[track_caller]
fn unreachable(from: &impl Place, to: impl Into<SocketAddr>) {
    let to = to.into();
    assert!(
        connect_within(from, None, to, SILENCE).is_err(),
        "{to} answers"
    );
}

#[test]
fn a_published_port_is_reached_at_the_containers_own_address() {
    let Some(topology) = start("routed-published") else {
        return;
    };
    let world = &topology.world;
    let web = web(&topology, "-p 8080:80 -p [::]:5353:53/udp");
    assert_eq!(
        topology.netdp("port web"),
        format!("80/tcp -> 0.0.0.0:8080\n80/tcp -> [{WEB}]:80\n53/udp -> [{WEB}]:53\n")
    );
    let (http, hidden) = (listen(&web, ANY, 80), listen(&web, ANY, 81));
    reaches(
        &world.outside,
        (WEB, 80).into(),
        &http,
        OUTSIDE_ADDRESS6.into(),
    );
    unreachable(&world.outside, (WEB, 81));
    unreachable(&world.outside, (HOST_ADDRESS6, 8080));
    hidden.assert_nobody_came();
    let dns = udp(&web, ANY, 53);
    let client = udp(&world.outside, ANY, 0);
    client.send_to(b"question", (WEB, 53)).unwrap();
    let seen = hears(&dns, b"question");
    dns.send_to(b"answer", seen).unwrap();
    assert_eq!(hears(&client, b"answer"), (WEB, 53).into());
    // The other family has a port of the host's, as ever.
    let http4 = listen(&web, Ipv4Addr::UNSPECIFIED, 80);
    reaches(
        &world.client,
        (HOST_ADDRESS, 8080).into(),
        &http4,
        CLIENT_ADDRESS.into(),
    );

    // From another network, and from the host itself.
    topology.netdp("network create six --ipv6");
    let other = topology.container("other", "--network six");
    let near = connect(&other, (WEB, 80));
    let (far, _) = http.accept();
    talk(&near, &far);
    unreachable(&other, (WEB, 81));
    let near = connect(&topology.host_program(), (WEB, 80));
    talk(&near, &http.accept().0);

    topology.netdp("unpublish web 8080:80");
    assert_eq!(
        topology.netdp("port web"),
        format!("53/udp -> [{WEB}]:53\n")
    );
    unreachable(&world.outside, (WEB, 80));
    unreachable(&other, (WEB, 80));
}

#[test]
fn a_container_is_seen_outside_as_itself() {
    let Some(mut topology) = start("routed-own") else {
        return;
    };
    let web = web(&topology, "");
    let world = &topology.world;
    let server = listen(&world.outside, ANY, 80);
    let near = connect_from(&web, (ANY, 41_000), (OUTSIDE_ADDRESS6, 80));
    let (far, seen) = server.accept();
    assert_eq!(seen, (WEB, 41_000).into());
    talk(&near, &far);
    let flows = topology.flows();
    assert!(
        flows.iter().any(|flow| flow.kind == "routed"
            && flow.container == Some((WEB, 41_000).into())
            && flow.remote == (OUTSIDE_ADDRESS6, 80).into()),
        "{flows:?}"
    );
    set_sysctls(&web.namespace, &[("ipv4/ping_group_range", "0 0")]).unwrap();
    ping_through(&echo_socket6(&web, 77), OUTSIDE_ADDRESS6, 1, b"out");
    // IPv4 is masqueraded as ever.
    let server4 = listen(&world.outside, Ipv4Addr::UNSPECIFIED, 80);
    let near4 = connect(&web, (OUTSIDE_ADDRESS, 80));
    let (far4, seen) = server4.accept();
    assert_eq!(seen.ip(), IpAddr::from(HOST_ADDRESS));
    talk(&near4, &far4);
    // Nobody outside may begin.
    let hidden = listen(&web, ANY, 41_001);
    unreachable(&world.outside, (WEB, 41_001));
    hidden.assert_nobody_came();

    topology.world.kill_daemon();
    talk(&near, &far);
    topology.start_daemon();
    talk(&near, &far);
    transfer(&near, &far, 1 << 20);
    // A smaller link on the way is found out.
    topology.ip(&topology.world.client, "link set outside mtu 1400\n");
    let near = connect(&web, (OUTSIDE_ADDRESS6, 80));
    let (far, _) = server.accept();
    transfer(&near, &far, 1 << 20);

    // What comes next with its address inherits nothing.
    topology.netdp("rm web");
    assert!(topology.flows().iter().all(|flow| flow.kind != "routed"));
}

#[test]
fn ipv4_may_be_routed_too_and_without_masquerade_ports_stay_the_hosts() {
    let Some(topology) = Topology::start("routed-four") else {
        return;
    };
    let world = &topology.world;
    let any = Ipv4Addr::UNSPECIFIED;
    for (name, subnet, options) in [
        (
            "four",
            "10.77.0.0/24",
            "com.docker.network.bridge.gateway_mode_ipv4=routed",
        ),
        (
            "own",
            "10.78.0.0/24",
            "com.docker.network.bridge.enable_ip_masquerade=false",
        ),
    ] {
        topology.ip(
            &world.client,
            &format!("route add {subnet} via {HOST_ADDRESS}\n"),
        );
        topology.netdp(&format!(
            "network create {name} --subnet {subnet} --opt {options}"
        ));
    }
    let four = topology.container("four1", "--network four -p 8080:80");
    let own = topology.container("own1", "--network own -p 8081:80");
    let server = listen(&world.outside, any, 80);
    for container in [&four, &own] {
        let near = connect(container, (OUTSIDE_ADDRESS, 80));
        let (far, seen) = server.accept();
        assert_eq!(seen.ip(), IpAddr::from(container.address));
        transfer(&near, &far, 1 << 18);
    }
    let (http4, http) = (listen(&four, any, 80), listen(&own, any, 80));
    reaches(
        &world.client,
        (four.address, 80).into(),
        &http4,
        CLIENT_ADDRESS.into(),
    );
    reaches(
        &world.client,
        (HOST_ADDRESS, 8081).into(),
        &http,
        CLIENT_ADDRESS.into(),
    );
    unreachable(&world.client, (HOST_ADDRESS, 8080));
    unreachable(&world.client, (own.address, 80));
}

/// A network of both families, routed in both.
fn start_both(name: &str) -> Option<Topology> {
    let mut topology = Topology::without_daemon(name)?;
    topology.world.add_ipv6().unwrap();
    topology.ip(
        &topology.world.client,
        &format!(
            "route add 10.77.0.0/24 via {HOST_ADDRESS}\nroute add {SUBNET} via {HOST_ADDRESS6}\n"
        ),
    );
    topology.start_daemon();
    let mode = "--opt com.docker.network.bridge.gateway_mode";
    topology.netdp(&format!(
        "network create both --subnet 10.77.0.0/24 --subnet {SUBNET} {mode}_ipv4=routed \
         {mode}_ipv6=routed"
    ));
    topology.netdp("network create six --ipv6");
    Some(topology)
}

/// A question and its answer by UDP.
#[track_caller]
fn asks(from: &impl Place, side: Side, to: SocketAddr, server: &Container) {
    let server = udp(server, side.any, to.port());
    let client = udp(from, side.any, 0);
    client.send_to(b"question", to).unwrap();
    server
        .send_to(b"answer", hears(&server, b"question"))
        .unwrap();
    assert_eq!(hears(&client, b"answer"), to);
}

#[test]
fn a_range_of_ports_is_reached_at_the_containers_own_address() {
    let Some(mut topology) = start_both("routed-range") else {
        return;
    };
    let options = "--network both -p 20000-20099:30000-30099 -p 20000-20099:30000-30099/udp";
    let media = topology.container("media", options);
    let other = topology.container("other", "--network six");
    let listed = topology.netdp("port media");
    for proto in ["tcp", "udp"] {
        for side in SIDES {
            let first = SocketAddr::new(side.address(&media), 30_000);
            let line = format!("30000-30099/{proto} -> {first}-30099\n");
            assert!(listed.contains(&line), "{listed}");
        }
    }
    let works = |topology: &Topology| {
        let world = &topology.world;
        for side in SIDES {
            let own = side.address(&media);
            for port in [30_000, 30_042, 30_099] {
                let to = SocketAddr::new(own, port);
                let listener = listen(&media, side.any, port);
                reaches(&world.outside, to, &listener, side.outside);
                reaches(&other, to, &listener, side.address(&other));
                talk(&connect(&topology.host_program(), to), &listener.accept().0);
                asks(&world.outside, side, to, &media);
                asks(&other, side, to, &media);
            }
            let beyond = [29_999, 30_100].map(|port| listen(&media, side.any, port));
            for listener in &beyond {
                unreachable(&world.outside, (own, listener.port()));
                unreachable(&other, (own, listener.port()));
            }
            unreachable(&world.outside, (side.host, 20_000));
            unreachable(&world.outside, (side.host, 30_000));
        }
    };
    works(&topology);
    topology.world.kill_daemon();
    works(&topology);
    topology.start_daemon();
    works(&topology);

    let listeners = SIDES.map(|side| listen(&media, side.any, 30_042));
    topology.netdp("unpublish media 20000-20099:30000-30099");
    for (side, listener) in SIDES.into_iter().zip(listeners) {
        let to = SocketAddr::new(side.address(&media), 30_042);
        unreachable(&topology.world.outside, to);
        unreachable(&other, to);
        listener.assert_nobody_came();
        asks(&topology.world.outside, side, to, &media);
    }
}

#[test]
fn who_is_not_named_is_kept_out_of_a_routed_network_as_well() {
    let Some(topology) = start_both("routed-allow") else {
        return;
    };
    let world = &topology.world;
    let allow = SIDES.map(|side| format!("--allow {}/{}", side.client, side.of(32, 128)));
    let options = format!(
        "--network both -p 8080:80 -p 20000-20009:30000-30009 -p 5353:53/udp {}",
        allow.join(" ")
    );
    let web = topology.container("web", &options);
    let other = topology.container("other", "--network six");
    let beside = topology.container("beside", "--network both");
    for side in SIDES {
        println!("{:?}", side.family);
        let own = side.address(&web);
        for port in [80, 30_005] {
            let (to, listener) = (SocketAddr::new(own, port), listen(&web, side.any, port));
            reaches(&world.client, to, &listener, side.client);
            let dropped = topology.dropped("not-allowed");
            unreachable(&world.outside, to);
            unreachable(&other, to);
            assert!(topology.dropped("not-allowed") >= dropped + 2);
            // Whom the list doesn't concern.
            talk(&connect(&topology.host_program(), to), &listener.accept().0);
            reaches(&beside, to, &listener, side.address(&beside));
            listener.assert_nobody_came();
            let explained = topology.netdp(&format!(
                "explain tcp {} {to}",
                SocketAddr::new(side.outside, 4000)
            ));
            assert!(explained.contains("not-allowed"), "{explained}");
        }
        let to = SocketAddr::new(own, 53);
        asks(&world.client, side, to, &web);
        let dns = udp(&web, side.any, 53);
        for client in [udp(&world.outside, side.any, 0), udp(&other, side.any, 0)] {
            client.send_to(b"question", to).unwrap();
        }
        says_nothing(&dns);
    }

    // For others, the open connection included, from the next packet on.
    let mut open = Vec::new();
    for side in SIDES {
        let to = SocketAddr::new(side.address(&web), 80);
        let listener = listen(&web, side.any, 80);
        let near = connect(&world.client, to);
        let far = listener.accept().0;
        talk(&near, &far);
        open.push((side, to, listener, near, far));
    }
    topology.netdp("unpublish web 8080:80");
    let allow = SIDES.map(|side| format!("--allow {}/{}", side.outside, side.of(32, 128)));
    topology.netdp(&format!("publish web 8080:80 {}", allow.join(" ")));
    for (side, to, listener, near, _far) in &open {
        let dropped = topology.dropped("not-allowed");
        std::io::Write::write_all(&mut { near }, b"too late").unwrap();
        topology.wait_until("dropped", || topology.dropped("not-allowed") > dropped);
        reaches(&world.outside, *to, listener, side.outside);
    }
}
