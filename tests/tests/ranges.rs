//! Ranges of published ports, and ports that are published to some alone.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::{Duration, Instant};

use netdp::demo::world::{
    CLIENT_ADDRESS, CLIENT_ADDRESS6, HOST_ADDRESS, HOST_ADDRESS6, OUTSIDE_ADDRESS,
};
use netdp::netns::Namespace;
use netdp_tests::{
    SILENCE, Topology, bind_port, connect, connect_within, hears, listen, says_nothing, talk, udp,
};

const ANY: Ipv4Addr = Ipv4Addr::UNSPECIFIED;
const ANY6: Ipv6Addr = Ipv6Addr::UNSPECIFIED;

/// As many ports as a media server may ask for, in both families.
#[test]
fn ten_thousand_ports_are_published_as_one() {
    let Some(mut topology) = Topology::without_daemon("range-many") else {
        return;
    };
    topology.world.add_ipv6().unwrap();
    topology.start_daemon();
    topology.netdp("network create six --ipv6");
    let media = topology.container("media", "--network six");
    let range = "20000-29999:20000-29999";
    let began = Instant::now();
    topology.netdp(&format!("publish media {range}"));
    let took = began.elapsed();
    println!("10,000 ports of both families published in {took:?}");
    // A fraction of it, where nothing else runs.
    assert!(took < Duration::from_secs(20), "{took:?}");
    topology.netdp("publish media 20000-20999:20000-20999/udp");

    let lines = "20000-29999/tcp -> 0.0.0.0:20000-29999\n20000-29999/tcp -> [::]:20000-29999\n\
                 20000-20999/udp -> 0.0.0.0:20000-20999\n20000-20999/udp -> [::]:20000-20999\n";
    assert_eq!(topology.netdp("port media"), lines);
    assert_eq!(
        topology.netdp("port media 20007/udp"),
        "0.0.0.0:20007\n[::]:20007\n"
    );
    let told = topology.netdp("ps");
    assert!(
        told.contains("0.0.0.0:20000-29999->20000-29999/tcp"),
        "{told}"
    );
    let ports = &topology.inspect("media").endpoints[0].ports;
    assert_eq!(ports.len(), 4);
    assert!(ports.iter().all(|port| port.held));
    assert_eq!(ports[0].count.get(), 10_000);

    let works = |topology: &Topology| {
        let (host, host6) = (IpAddr::from(HOST_ADDRESS), IpAddr::from(HOST_ADDRESS6));
        for (to, any, from) in [
            (host, IpAddr::from(ANY), IpAddr::from(CLIENT_ADDRESS)),
            (host6, ANY6.into(), CLIENT_ADDRESS6.into()),
        ] {
            for (port, udp_port) in [(20_000, 20_000), (23_456, 20_456), (29_999, 20_999)] {
                let to = SocketAddr::new(to, port);
                let listener = listen(&media, any, port);
                let near = connect(&topology.world.client, to);
                let (far, seen) = listener.accept();
                assert_eq!((seen.ip(), near.peer_addr().unwrap()), (from, to));
                talk(&near, &far);
                let to = SocketAddr::new(to.ip(), udp_port);
                let server = udp(&media, any, udp_port);
                let client = udp(&topology.world.client, any, 0);
                client.send_to(b"question", to).unwrap();
                server
                    .send_to(b"answer", hears(&server, b"question"))
                    .unwrap();
                assert_eq!(hears(&client, b"answer"), to);
            }
        }
        // A program of the host, too; and none can have such a port itself.
        let listener = listen(&media, ANY, 25_000);
        let near = connect(&topology.host_program(), (Ipv4Addr::LOCALHOST, 25_000));
        talk(&near, &listener.accept().0);
        for any in [IpAddr::from(ANY), ANY6.into()] {
            bind_port(&topology.host_program(), any, 25_001).unwrap_err();
        }
    };
    works(&topology);
    topology.world.kill_daemon();
    topology.start_daemon();
    assert_eq!(topology.netdp("port media"), lines);
    works(&topology);

    let said = topology.refused("publish media 29999:80");
    assert!(
        said.contains("0.0.0.0:29999/tcp overlaps 0.0.0.0:20000-29999/tcp"),
        "{said}"
    );
    let said = topology.refused("unpublish media 20001:20001");
    assert!(said.contains("unpublish that"), "{said}");
    let explained = topology.netdp(&format!(
        "explain tcp {CLIENT_ADDRESS}:4000 {HOST_ADDRESS}:29999"
    ));
    assert!(explained.contains("as one of 20000-29999"), "{explained}");

    topology.netdp(&format!("unpublish media {range} 20000-20999/udp"));
    assert_eq!(topology.netdp("port media"), "");
    drop(bind_port(&topology.host_program(), ANY, 25_001).unwrap());
    topology.netdp("publish media 29999:80");
}

#[test]
fn a_program_of_the_host_within_a_range_is_named() {
    let Some(topology) = Topology::start("range-taken") else {
        return;
    };
    let _taken = listen(&topology.host_program(), ANY, 20_123);
    let _media = topology.container("media", "");
    let said = topology.refused("publish media 20000-20999:1-1000");
    assert!(said.contains("0.0.0.0:20123/tcp is used by"), "{said}");
    assert_eq!(topology.netdp("port media"), "");
    // Nothing of what was tried stays.
    drop(bind_port(&topology.host_program(), ANY, 20_000).unwrap());
}

#[track_caller]
fn unreachable(from: &Namespace, to: impl Into<SocketAddr>) {
    let to = to.into();
    if connect_within(from, None, to, SILENCE).is_ok() {
        panic!("{to:?} answers");
    }
}

#[test]
fn who_is_not_named_is_kept_out() {
    let Some(topology) = Topology::start("allow") else {
        return;
    };
    let world = &topology.world;
    let options =
        format!("-p 8080:80 -p 5353:53/udp --allow 203.0.113.0/24 --allow {CLIENT_ADDRESS}/32");
    let web = topology.container("web", &options);
    let (listener, dns) = (listen(&web, ANY, 80), udp(&web, ANY, 53));
    let told = topology.netdp("port web");
    let allowed = format!("80/tcp -> 0.0.0.0:8080 from {CLIENT_ADDRESS}/32, 203.0.113.0/24\n");
    assert!(told.contains(&allowed), "{told}");
    let near = connect(&world.client, (HOST_ADDRESS, 8080));
    let far = listener.accept().0;
    talk(&near, &far);
    let dropped = topology.dropped("not-allowed");
    unreachable(&world.outside, (HOST_ADDRESS, 8080));
    let client = udp(&world.outside, ANY, 0);
    client.send_to(b"question", (HOST_ADDRESS, 5353)).unwrap();
    says_nothing(&dns);
    assert!(topology.dropped("not-allowed") >= dropped + 2);
    // Containers are sources like others, the host is not.
    let other = topology.container("other", "");
    unreachable(&other.namespace, (HOST_ADDRESS, 8080));
    let local = connect(&topology.host_program(), (Ipv4Addr::LOCALHOST, 8080));
    talk(&local, &listener.accept().0);
    let explained = topology.netdp(&format!(
        "explain tcp {OUTSIDE_ADDRESS}:4000 {HOST_ADDRESS}:8080"
    ));
    assert!(explained.contains("not-allowed"), "{explained}");

    // For others, the open connection included, from the next packet on.
    topology.netdp("unpublish web 8080:80");
    topology.netdp(&format!("publish web 8080:80 --allow {OUTSIDE_ADDRESS}/32"));
    let dropped = topology.dropped("not-allowed");
    std::io::Write::write_all(&mut &near, b"too late").unwrap();
    topology.wait_until("dropped", || topology.dropped("not-allowed") > dropped);
    let near = connect(&world.outside, (HOST_ADDRESS, 8080));
    talk(&near, &listener.accept().0);
}
