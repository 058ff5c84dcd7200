//! A host with two uplinks, and a router behind each.
//!
//! ```text
//!   client 198.18.0.1 ───── eth0 198.18.0.2   host (prefers eth0)
//!     │ 198.18.201.2             eth1 198.18.200.2
//!     │ 198.18.201.1                │
//!   router ─────────────── 198.18.200.1
//!     └── 198.19.200.1 ─── far 198.19.200.2
//! ```
//!
//! Of IPv6 2001:2:0:18::/64, 2001:2:0:c8::/64, 2001:2:0:c9::/64 and
//! 2001:2:1:c8::/64, with the same last numbers.

use std::net::{IpAddr, SocketAddr, UdpSocket};

use netdp::demo::world::set_sysctls;
use netdp::netns::Namespace;
use netdp_tests::{
    Container, Listener, SIDES, Side, Topology, connect, hears, listen, talk, transfer, udp,
};

/// The address of this number on the host's second wire.
fn on_second(side: Side, number: u8) -> IpAddr {
    on_wire(side, 200, number)
}

fn on_wire(side: Side, wire: u8, number: u8) -> IpAddr {
    side.of(
        IpAddr::from([198, 18, wire, number]),
        IpAddr::from([0x2001, 2, 0, wire.into(), 0, 0, 0, number.into()]),
    )
}

/// The same on the wire between router and `far`.
fn on_far(side: Side, number: u8) -> IpAddr {
    side.of(
        IpAddr::from([198, 19, 200, number]),
        IpAddr::from([0x2001, 2, 1, 200, 0, 0, 0, number.into()]),
    )
}

/// The default route by the second uplink.
fn by_second(side: Side) -> String {
    format!("route add default via {} dev eth1", on_second(side, 1))
}

/// Has a worse metric than the one by the first, which is 100.
fn by_metric(side: Side) -> String {
    by_second(side) + " metric 200\n"
}

/// The default route by the first uplink is all.
fn no_more(_side: Side) -> String {
    String::new()
}

/// A wire between two namespaces, an interface, its address, and the number of
/// its link-local address of each.
fn wire(topology: &Topology, side: Side, ends: [(&Namespace, &str, IpAddr, u8); 2]) {
    let [(near, near_name, ..), (far, far_name, ..)] = ends;
    let path = far.path().display();
    topology.ip(
        near,
        &format!("link add {near_name} type veth peer name {far_name} netns {path}\n"),
    );
    for (namespace, interface, address, number) in ends {
        let up = format!("link set {interface} up\n");
        let own = side.add_address(address, interface);
        let link_local = side.add_link_local(number, interface);
        topology.ip(namespace, &(up + &own + &link_local));
    }
}

struct Set {
    side: Side,
    second: IpAddr,
    far_address: IpAddr,
    topology: Topology,
    far: Namespace,
    router: Namespace,
    web: Container,
    server: Listener,
    dns: UdpSocket,
}

/// The test for each family, in a world of its own. `routes` are those of the
/// host beside its default route by eth0.
fn on_each_side(name: &str, routes: impl Fn(Side) -> String, test: impl Fn(&Set)) {
    for side in SIDES {
        println!("{:?}", side.family);
        let Some(set) = Set::start(name, side, &routes(side)) else {
            return;
        };
        test(&set);
    }
}

impl Set {
    fn start(name: &str, side: Side, routes: &str) -> Option<Self> {
        let mut topology = Topology::without_daemon(name)?;
        let world = &topology.world;
        world.add_ipv6().unwrap();
        let router = world.add_namespace("router").unwrap();
        let far = world.add_namespace("far").unwrap();
        let (second, far_address) = (on_second(side, 2), on_far(side, 2));
        let to_host = (&router, "host", on_second(side, 1), 1);
        wire(&topology, side, [to_host, (&world.host, "eth1", second, 2)]);
        let to_far = (&router, "far", on_far(side, 1), 1);
        wire(&topology, side, [to_far, (&far, "eth0", far_address, 2)]);
        let gateway = on_far(side, 1);
        topology.ip(&far, &format!("route add default via {gateway}\n"));
        set_sysctls(
            &router,
            &[("ipv4/ip_forward", "1"), ("ipv6/conf/all/forwarding", "1")],
        )
        .unwrap();
        let client = side.client;
        topology.ip(
            &world.host,
            &format!(
                "route del default via {client}\n\
                 route add default via {client} metric 100\n{routes}"
            ),
        );
        topology
            .world
            .start_daemon(&["--uplink", "eth1"])
            .unwrap_or_else(|error| panic!("{error}"));
        topology.netdp("network create six --ipv6");
        let [http, dns] = [8081, 5454].map(|port| SocketAddr::new(second, port));
        let options =
            format!("--network six -p 8080:80 -p 5353:53/udp -p {http}:81 -p {dns}:54/udp");
        let web = topology.container("web", &options);
        let server = listen(&web, side.any, 80);
        let dns = udp(&web, side.any, 53);
        Some(Self {
            side,
            second,
            far_address,
            topology,
            far,
            router,
            web,
            server,
            dns,
        })
    }

    /// The way between the routers, so that what leaves by eth0 gets to `far`
    /// as well.
    fn join_routers(&self) {
        let side = self.side;
        let client = &self.topology.world.client;
        let [near, far] = [1, 2].map(|number| on_wire(side, 201, number));
        let to_client = (&self.router, "client", near, 3);
        wire(
            &self.topology,
            side,
            [to_client, (client, "router", far, 4)],
        );
        let length = side.length();
        let first = on_wire(side, side.of(0, 0x18), 0);
        self.topology.ip(
            &self.router,
            &format!("route add {first}/{length} via {far}\n"),
        );
        let beyond = on_far(side, 0);
        self.topology
            .ip(client, &format!("route add {beyond}/{length} via {near}\n"));
    }

    /// A TCP and a UDP conversation of `far` with a server.
    fn answers(&self, address: IpAddr, ports: (u16, u16), server: (&Listener, &UdpSocket)) {
        let near = connect(&self.far, (address, ports.0));
        let (far, seen) = server.0.accept();
        assert_eq!(seen.ip(), self.far_address);
        talk(&near, &far);
        transfer(&near, &far, 1 << 20);
        let client = udp(&self.far, self.side.any, 0);
        self.asks(&client, (address, ports.1), server.1);
    }

    fn asks(&self, client: &UdpSocket, to: (IpAddr, u16), server: &UdpSocket) {
        for words in [b"1", b"2", b"3"] {
            client.send_to(words, to).unwrap();
            let seen = hears(server, words);
            server.send_to(words, seen).unwrap();
            assert_eq!(hears(client, words), to.into());
        }
    }

    /// How many flows of this protocol are known.
    fn flows(&self, protocol: &str) -> usize {
        let flows = self.topology.flows();
        flows
            .iter()
            .filter(|flow| flow.protocol == protocol)
            .count()
    }
}

#[test]
fn answers_leave_by_the_uplink_that_was_asked() {
    on_each_side("two-replies", by_metric, |set| {
        let side = set.side;
        let first = (&set.server, &set.dns);
        set.answers(set.second, (8080, 5353), first);
        let (server, dns) = (listen(&set.web, side.any, 81), udp(&set.web, side.any, 54));
        set.answers(set.second, (8081, 5454), (&server, &dns));
        // Also for the first uplink's address, where the tables alone would tell
        // the source.
        set.topology.ip(
            &set.router,
            &format!("route add {} via {}\n", side.host, set.second),
        );
        set.answers(side.host, (8080, 5353), first);

        // By the route's own uplink there is no need of an entry.
        let before = set.flows("udp");
        let client = udp(&set.topology.world.client, side.any, 0);
        set.asks(&client, (side.host, 5353), &set.dns);
        assert_eq!(set.flows("udp"), before);
    });
}

#[test]
fn a_default_route_in_a_table_of_its_own_leads_back_as_well() {
    let routes = |side| by_second(side) + " table 200\n";
    on_each_side("two-table", routes, |set| {
        set.answers(set.second, (8080, 5353), (&set.server, &set.dns));
    });
}

#[test]
fn an_uplink_that_leads_nowhere_leaves_answers_to_the_route() {
    on_each_side("two-nowhere", by_metric, |set| {
        let side = set.side;
        set.join_routers();
        let near = connect(&set.far, (set.second, 8080));
        let far = set.server.accept().0;
        talk(&near, &far);
        let client = udp(&set.far, side.any, 0);
        set.asks(&client, (set.second, 5353), &set.dns);
        set.topology.ip(
            &set.topology.world.host,
            &format!("route del default via {}\n", on_second(side, 1)),
        );
        // Until the daemon has noticed, answers go where they went.
        talk(&near, &far);
        set.asks(&client, (set.second, 5353), &set.dns);
        set.answers(set.second, (8080, 5353), (&set.server, &set.dns));
    });
}

#[test]
fn a_masqueraded_conversation_stays_on_its_uplink_and_ends_with_it() {
    on_each_side("two-masquerade", no_more, |set| {
        let side = set.side;
        set.join_routers();
        let outside = listen(&set.far, side.any, 80);
        let ear = udp(&set.far, side.any, 42_000);
        let goes_out = || {
            let near = connect(&set.web, (set.far_address, 80));
            let (far, seen) = outside.accept();
            talk(&near, &far);
            (near, far, seen.ip())
        };
        let (near, far, seen) = goes_out();
        assert_eq!(seen, side.host);
        let speaker = udp(&set.web, side.any, 42_000);
        speaker
            .send_to(b"before", (set.far_address, 42_000))
            .unwrap();
        assert_eq!(hears(&ear, b"before"), (side.host, 42_000).into());

        // A better route: what is new takes it, what runs stays where its address
        // is.
        let host = &set.topology.world.host;
        set.topology.ip(host, &(by_second(side) + " metric 50\n"));
        set.topology
            .wait_until("by the new route", || goes_out().2 == set.second);
        talk(&near, &far);
        speaker
            .send_to(b"still", (set.far_address, 42_000))
            .unwrap();
        assert_eq!(hears(&ear, b"still"), (side.host, 42_000).into());

        // The old one is gone.
        set.topology.ip(
            host,
            &format!("route del default via {} metric 100\n", side.client),
        );
        set.topology.wait_until("ended", || {
            speaker
                .send_to(b"after", (set.far_address, 42_000))
                .unwrap();
            hears(&ear, b"after") == (set.second, 42_000).into()
        });
    });
}

#[test]
fn a_rule_by_source_decides_about_a_containers_own_conversations_alone() {
    on_each_side("two-rule", no_more, |set| {
        let side = set.side;
        set.join_routers();
        let host = &set.topology.world.host;
        set.topology.ip(host, &(by_second(side) + " table 200\n"));
        // In a batch a rule has no family but IPv4.
        let rule = host
            .command("ip")
            .arg(side.of("-4", "-6"))
            .args(["rule", "add", "lookup", "200", "from"])
            .arg(side.address(&set.web).to_string())
            .status();
        assert!(rule.unwrap().success());
        let outside = listen(&set.far, side.any, 80);
        set.topology.wait_until("by the rule's table", || {
            let near = connect(&set.web, (set.far_address, 80));
            let (far, seen) = outside.accept();
            talk(&near, &far);
            seen.ip() == set.second
        });
        // Answers leave by the uplink that was asked, whatever the rule.
        for _ in 0..2 {
            let client = &set.topology.world.client;
            let near = connect(client, (side.host, 8080));
            talk(&near, &set.server.accept().0);
        }
    });
}
