//! A host with two uplinks, and a router behind each.
//!
//! ```text
//!   client 198.18.0.1 ───── eth0 198.18.0.2   host (prefers eth0)
//!     │ 198.18.201.2             eth1 198.18.200.2
//!     │ 198.18.201.1                │
//!   router ─────────────── 198.18.200.1
//!     └── 198.19.200.1 ─── far 198.19.200.2
//! ```

use std::net::{Ipv4Addr, UdpSocket};

use netdp::demo::world::{CLIENT_ADDRESS, HOST_ADDRESS, set_sysctls};
use netdp::netns::Namespace;
use netdp_tests::{Container, Listener, Topology, connect, hears, listen, talk, transfer, udp};

const ANY: Ipv4Addr = Ipv4Addr::UNSPECIFIED;
const SECOND_ADDRESS: Ipv4Addr = Ipv4Addr::new(198, 18, 200, 2);
const ROUTER_ADDRESS: Ipv4Addr = Ipv4Addr::new(198, 18, 200, 1);
const FAR_ADDRESS: Ipv4Addr = Ipv4Addr::new(198, 19, 200, 2);

struct Set {
    topology: Topology,
    far: Namespace,
    router: Namespace,
    web: Container,
    server: Listener,
    dns: UdpSocket,
}

impl Set {
    /// `routes` are those of the host beside its default route by eth0.
    fn start(name: &str, routes: &str) -> Option<Self> {
        let mut topology = Topology::without_daemon(name)?;
        let world = &topology.world;
        let router = world.add_namespace("router").unwrap();
        let far = world.add_namespace("far").unwrap();
        topology.ip(
            &router,
            &format!(
                "link add host type veth peer name eth1 netns {}\n\
                 link add far type veth peer name eth0 netns {}\n\
                 addr add {ROUTER_ADDRESS}/24 dev host\n\
                 addr add 198.19.200.1/24 dev far\n\
                 link set host up\nlink set far up\n",
                world.host.path().display(),
                far.path().display(),
            ),
        );
        topology.ip(
            &far,
            &format!(
                "link set eth0 up\naddr add {FAR_ADDRESS}/24 dev eth0\n\
                 route add default via 198.19.200.1\n"
            ),
        );
        set_sysctls(&router, &[("ipv4/ip_forward", "1")]).unwrap();
        topology.ip(
            &world.host,
            &format!(
                "link set eth1 up\naddr add {SECOND_ADDRESS}/24 dev eth1\n\
                 route del default\n\
                 route add default via {CLIENT_ADDRESS} metric 100\n{routes}"
            ),
        );
        topology
            .world
            .start_daemon(&["--uplink", "eth1"])
            .unwrap_or_else(|error| panic!("{error}"));
        let web = topology.container(
            "web",
            &format!(
                "-p 8080:80 -p 5353:53/udp \
                 -p {SECOND_ADDRESS}:8081:81 -p {SECOND_ADDRESS}:5454:54/udp"
            ),
        );
        let server = listen(&web, ANY, 80);
        let dns = udp(&web, ANY, 53);
        Some(Self {
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
        let client = &self.topology.world.client;
        self.topology.ip(
            &self.router,
            &format!(
                "link add client type veth peer name router netns {}\n\
                 addr add 198.18.201.1/24 dev client\nlink set client up\n\
                 route add 198.18.0.0/24 via 198.18.201.2\n",
                client.path().display()
            ),
        );
        self.topology.ip(
            client,
            "addr add 198.18.201.2/24 dev router\nlink set router up\n\
             route add 198.19.200.0/24 via 198.18.201.1\n",
        );
    }

    /// A TCP and a UDP conversation of `far` with a server.
    fn answers(&self, address: Ipv4Addr, ports: (u16, u16), server: (&Listener, &UdpSocket)) {
        let near = connect(&self.far, (address, ports.0));
        let (far, seen) = server.0.accept();
        assert_eq!(seen.ip(), FAR_ADDRESS);
        talk(&near, &far);
        transfer(&near, &far, 1 << 20);
        let client = udp(&self.far, ANY, 0);
        self.asks(&client, (address, ports.1), server.1);
    }

    fn asks(&self, client: &UdpSocket, to: (Ipv4Addr, u16), server: &UdpSocket) {
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

const BY_METRIC: &str = "route add default via 198.18.200.1 dev eth1 metric 200\n";

#[test]
fn answers_leave_by_the_uplink_that_was_asked() {
    let Some(set) = Set::start("two-replies", BY_METRIC) else {
        return;
    };
    let first = (&set.server, &set.dns);
    set.answers(SECOND_ADDRESS, (8080, 5353), first);
    let (server, dns) = (listen(&set.web, ANY, 81), udp(&set.web, ANY, 54));
    set.answers(SECOND_ADDRESS, (8081, 5454), (&server, &dns));
    // Also for the first uplink's address, where the tables alone would tell
    // the source.
    set.topology.ip(
        &set.router,
        &format!("route add {HOST_ADDRESS}/32 via {SECOND_ADDRESS}\n"),
    );
    set.answers(HOST_ADDRESS, (8080, 5353), first);

    // By the route's own uplink there is no need of an entry.
    let before = set.flows("udp");
    let client = udp(&set.topology.world.client, ANY, 0);
    set.asks(&client, (HOST_ADDRESS, 5353), &set.dns);
    assert_eq!(set.flows("udp"), before);
}

#[test]
fn a_default_route_in_a_table_of_its_own_leads_back_as_well() {
    let routes = "route add default via 198.18.200.1 dev eth1 table 200\n";
    let Some(set) = Set::start("two-table", routes) else {
        return;
    };
    set.answers(SECOND_ADDRESS, (8080, 5353), (&set.server, &set.dns));
}

#[test]
fn an_uplink_that_leads_nowhere_leaves_answers_to_the_route() {
    let Some(set) = Set::start("two-nowhere", BY_METRIC) else {
        return;
    };
    set.join_routers();
    let near = connect(&set.far, (SECOND_ADDRESS, 8080));
    let far = set.server.accept().0;
    talk(&near, &far);
    let client = udp(&set.far, ANY, 0);
    set.asks(&client, (SECOND_ADDRESS, 5353), &set.dns);
    set.topology
        .ip(&set.topology.world.host, "route del default dev eth1\n");
    // Until the daemon has noticed, answers go where they went.
    talk(&near, &far);
    set.asks(&client, (SECOND_ADDRESS, 5353), &set.dns);
    set.answers(SECOND_ADDRESS, (8080, 5353), (&set.server, &set.dns));
}

#[test]
fn a_masqueraded_conversation_stays_on_its_uplink_and_ends_with_it() {
    let Some(set) = Set::start("two-masquerade", "") else {
        return;
    };
    set.join_routers();
    let outside = listen(&set.far, ANY, 80);
    let ear = udp(&set.far, ANY, 42_000);
    let goes_out = || {
        let near = connect(&set.web, (FAR_ADDRESS, 80));
        let (far, seen) = outside.accept();
        talk(&near, &far);
        (near, far, seen.ip())
    };
    let (near, far, seen) = goes_out();
    assert_eq!(seen, HOST_ADDRESS);
    let speaker = udp(&set.web, ANY, 42_000);
    speaker.send_to(b"before", (FAR_ADDRESS, 42_000)).unwrap();
    assert_eq!(hears(&ear, b"before"), (HOST_ADDRESS, 42_000).into());

    // A better route: what is new takes it, what runs stays where its address
    // is.
    let host = &set.topology.world.host;
    set.topology
        .ip(host, "route add default via 198.18.200.1 dev eth1\n");
    set.topology
        .wait_until("by the new route", || goes_out().2 == SECOND_ADDRESS);
    talk(&near, &far);
    speaker.send_to(b"still", (FAR_ADDRESS, 42_000)).unwrap();
    assert_eq!(hears(&ear, b"still"), (HOST_ADDRESS, 42_000).into());

    // The old one is gone.
    let gone = set.topology.dropped("uplink-gone");
    set.topology.ip(host, "route del default metric 100\n");
    set.topology.wait_until("ended", || {
        speaker.send_to(b"after", (FAR_ADDRESS, 42_000)).unwrap();
        hears(&ear, b"after") == (SECOND_ADDRESS, 42_000).into()
    });
    assert_eq!(set.topology.dropped("uplink-gone"), gone + 1);
}

#[test]
fn a_rule_by_source_decides_about_a_containers_own_conversations_alone() {
    let Some(set) = Set::start("two-rule", "") else {
        return;
    };
    set.join_routers();
    set.topology.ip(
        &set.topology.world.host,
        &format!(
            "route add default via 198.18.200.1 dev eth1 table 200\n\
             rule add from {} lookup 200\n",
            set.web.address
        ),
    );
    let outside = listen(&set.far, ANY, 80);
    set.topology.wait_until("by the rule's table", || {
        let near = connect(&set.web, (FAR_ADDRESS, 80));
        let (far, seen) = outside.accept();
        talk(&near, &far);
        seen.ip() == SECOND_ADDRESS
    });
    // Answers leave by the uplink that was asked, whatever the rule.
    for _ in 0..2 {
        let client = &set.topology.world.client;
        let near = connect(client, (HOST_ADDRESS, 8080));
        talk(&near, &set.server.accept().0);
    }
}
