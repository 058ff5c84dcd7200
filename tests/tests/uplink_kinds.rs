//! Uplinks of other kinds than an Ethernet card's.

use netdp::demo::world::ip;
use netdp_tests::{SIDES, Topology, connect, connect_bound, hears, listen, talk, transfer, udp};

/// How to put an interface on a wire: lines for the host, whose wire is called
/// `wire` and whose uplink `eth0`, and for the client, whose wire is `wire0` and
/// whose end of the uplink `near`. What only the host has is on `wire0` itself.
struct Kind {
    name: &'static str,
    host: &'static str,
    client: &'static str,
}

const KINDS: [Kind; 7] = [
    Kind {
        name: "bridge",
        host: "link add eth0 type bridge\nlink set wire master eth0\n",
        client: "",
    },
    Kind {
        name: "vxlan",
        host: "addr add 198.18.50.2/24 dev wire\n\
               link add eth0 type vxlan id 5 dstport 4789 remote 198.18.50.1 dev wire\n",
        client: "addr add 198.18.50.1/24 dev wire0\n\
                 link add near type vxlan id 5 dstport 4789 remote 198.18.50.2 dev wire0\n",
    },
    Kind {
        name: "vlan",
        host: "link add link wire name eth0 type vlan id 5\n",
        client: "link add link wire0 name near type vlan id 5\n",
    },
    Kind {
        name: "bond",
        host: "link add eth0 type bond mode active-backup miimon 100\n\
               link set wire down\nlink set wire master eth0\nlink set wire up\n",
        client: "",
    },
    Kind {
        name: "macvlan",
        host: "link add link wire name eth0 type macvlan mode bridge\n",
        client: "",
    },
    Kind {
        name: "ipvlan",
        host: "link add link wire name eth0 type ipvlan mode l2\n",
        client: "",
    },
    Kind {
        name: "team",
        host: "link add eth0 type team\nlink set wire down\nlink set wire master eth0\n\
               link set wire up\n",
        client: "",
    },
];

/// The world's wire, with this in its place as the host's uplink.
fn topology(kind: &Kind) -> Option<Topology> {
    let mut topology = Topology::without_daemon(&format!("kind-{}", kind.name))?;
    let world = &topology.world;
    world.add_ipv6().unwrap();
    topology.ip(
        &world.host,
        "link set eth0 down\naddr flush dev eth0\nlink set eth0 name wire\nlink set wire up\n",
    );
    // Its neighbour has another MAC now.
    topology.ip(
        &world.client,
        "addr flush dev wire0\nneigh flush dev wire0 nud permanent\n",
    );
    if let Err(error) = ip(&world.host, kind.host) {
        println!("skipped: no {}: {error}", kind.name);
        return None;
    }
    topology.ip(&world.client, kind.client);
    let near = if kind.client.is_empty() {
        "wire0"
    } else {
        "near"
    };
    for (namespace, interface, number) in [(&world.host, "eth0", 2), (&world.client, near, 1)] {
        topology.ip(namespace, &format!("link set {interface} up\n"));
        for side in SIDES {
            let own = [side.client, side.host][usize::from(number) - 1];
            topology.ip(namespace, &side.add_address(own, interface));
            topology.ip(namespace, &side.add_link_local(number, interface));
        }
    }
    for side in SIDES {
        let route = format!("route add default via {} dev eth0\n", side.client);
        topology.ip(&topology.world.host, &route);
    }
    topology.start_daemon();
    topology.netdp("network create six --ipv6");
    Some(topology)
}

#[test]
fn bridges_and_others_are_uplinks_like_any() {
    for kind in &KINDS {
        let Some(topology) = topology(kind) else {
            continue;
        };
        println!("{}", kind.name);
        let world = &topology.world;
        let web = topology.container("web", "--network six -p 8080:80 -p 5353:53/udp");
        for side in SIDES {
            println!("{:?}", side.family);
            let (http, dns) = (listen(&web, side.any, 80), udp(&web, side.any, 53));
            for (place, seen_as) in [(&world.client, side.client), (&world.outside, side.outside)] {
                topology.wait_until("reached", || {
                    connect_bound(place, None, (side.host, 8080), netdp_tests::SILENCE).is_ok()
                });
                http.accept();
                let near = connect(place, (side.host, 8080));
                let (far, seen) = http.accept();
                assert_eq!(seen.ip(), seen_as);
                transfer(&near, &far, 1 << 20);
                let client = udp(place, side.any, 0);
                client.send_to(b"question", (side.host, 5353)).unwrap();
                dns.send_to(b"answer", hears(&dns, b"question")).unwrap();
                assert_eq!(hears(&client, b"answer"), (side.host, 5353).into());

                let server = listen(place, side.any, 80);
                let near = connect(&web, (seen_as, 80));
                let (far, seen) = server.accept();
                assert_eq!(seen.ip(), side.host);
                transfer(&near, &far, 1 << 20);
                let (server, client) = (udp(place, side.any, 53), udp(&web, side.any, 0));
                client.send_to(b"question", (seen_as, 53)).unwrap();
                server
                    .send_to(b"answer", hears(&server, b"question"))
                    .unwrap();
                assert_eq!(hears(&client, b"answer"), (seen_as, 53).into());
            }
        }
    }
}

#[test]
fn an_uplink_without_an_ethernet_header_is_left_out_and_told() {
    let Some(mut topology) = Topology::without_daemon("kind-tun") else {
        return;
    };
    let world = &topology.world;
    world.add_ipv6().unwrap();
    if let Err(error) = ip(&world.host, "tuntap add mode tun name tun0\n") {
        println!("skipped: no tun: {error}");
        return;
    }
    // Of everything, for it to be the way of most packets.
    topology.ip(
        &world.host,
        "link set tun0 up\naddr add 10.99.0.1/24 dev tun0\n\
         route add 203.0.113.0/24 dev tun0\n",
    );
    topology.world.start_daemon(&["--uplink", "tun0"]).unwrap();
    let told = topology.netdp("doctor --format json");
    assert!(told.contains("cannot use tun0 as an uplink"), "{told}");
    assert!(told.contains("have no Ethernet header"), "{told}");
    assert!(told.contains("--uplink"), "{told}");

    // The others work, and nothing gets out by this one.
    topology.netdp("network create six --ipv6");
    let web = topology.container("web", "--network six -p 8080:80");
    for side in SIDES {
        let http = listen(&web, side.any, 80);
        let near = connect(&topology.world.client, (side.host, 8080));
        talk(&near, &http.accept().0);
        let server = listen(&topology.world.outside, side.any, 80);
        let near = connect(&web, (side.outside, 80));
        talk(&near, &server.accept().0);
    }
    let dropped = topology.dropped("no-route");
    let to = ([203, 0, 113, 9], 80);
    connect_bound(&web, None, to, netdp_tests::SILENCE).unwrap_err();
    assert!(topology.dropped("no-route") > dropped);
    // It goes, and so does what was said of it.
    topology.ip(&topology.world.host, "link del tun0\n");
    topology.wait_until("settled", || {
        !topology.netdp("doctor --format json").contains("tun0 as")
    });
}
