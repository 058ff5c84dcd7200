//! Uplinks that change while the daemon runs.

use std::io;
use std::net::Ipv4Addr;

use netdp::demo::world::{CLIENT_ADDRESS, HOST_ADDRESS, OUTSIDE_ADDRESS, set_sysctls};
use netdp::netns::Namespace;
use netdp_tests::{
    Container, Listener, SILENCE, Topology, connect, connect_within, hears, listen, talk, udp,
};

const ANY: Ipv4Addr = Ipv4Addr::UNSPECIFIED;
const OTHER_ADDRESS: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 7);

struct Set {
    topology: Topology,
    web: Container,
    server: Listener,
    outside: Listener,
}

impl Set {
    fn start(name: &str) -> Option<Self> {
        Self::start_with(name, &[])
    }

    /// With further arguments for the daemon.
    fn start_with(name: &str, args: &[&str]) -> Option<Self> {
        let mut topology = Topology::without_daemon(name)?;
        topology
            .world
            .start_daemon(args)
            .unwrap_or_else(|error| panic!("{error}"));
        // Otherwise an interface's first address takes the others with it.
        set_sysctls(
            &topology.world.host,
            &[("ipv4/conf/all/promote_secondaries", "1")],
        )
        .unwrap();
        let web = topology.container("web", "-p 8080:80");
        let server = listen(&web, ANY, 80);
        let outside = listen(&topology.world.outside, ANY, 80);
        let set = Self {
            topology,
            web,
            server,
            outside,
        };
        set.both_ways(HOST_ADDRESS);
        Some(set)
    }

    fn host(&self) -> &Namespace {
        &self.topology.world.host
    }

    /// Whether a connection from the client to `address` arrives.
    fn comes_in(&self, address: Ipv4Addr) -> io::Result<()> {
        let client = &self.topology.world.client;
        let near = connect_within(client, None, (address, 8080), SILENCE)?;
        let (far, seen) = self.server.accept();
        assert_eq!(seen.ip(), CLIENT_ADDRESS);
        talk(&near, &far);
        Ok(())
    }

    /// The address that the outside sees of the container, if it gets out.
    fn goes_out(&self) -> io::Result<Ipv4Addr> {
        let near = connect_within(&self.web, None, (OUTSIDE_ADDRESS, 80), SILENCE)?;
        let (far, seen) = self.outside.accept();
        talk(&near, &far);
        match seen.ip() {
            std::net::IpAddr::V4(seen) => Ok(seen),
            std::net::IpAddr::V6(_) => unreachable!(),
        }
    }

    /// Follows within moments: in at `address`, and out under it.
    #[track_caller]
    fn both_ways(&self, address: Ipv4Addr) {
        self.topology
            .wait_until("reachable", || self.comes_in(address).is_ok());
        self.topology.wait_until("masqueraded", || {
            self.goes_out().is_ok_and(|seen| seen == address)
        });
        let near = connect(&self.topology.host_program(), (address, 8080));
        talk(&near, &self.server.accept().0);
    }
}

#[test]
fn an_address_that_comes_and_goes_is_followed() {
    let Some(set) = Set::start("upl-address") else {
        return;
    };
    let running = connect(&set.topology.world.client, (HOST_ADDRESS, 8080));
    let running_far = set.server.accept().0;
    set.topology.ip(
        set.host(),
        &format!("addr add {OTHER_ADDRESS}/24 dev eth0\n"),
    );
    set.topology.wait_until("reachable at the new address", || {
        set.comes_in(OTHER_ADDRESS).is_ok()
    });
    // The main address is the one before.
    set.both_ways(HOST_ADDRESS);
    talk(&running, &running_far);

    set.topology.ip(
        set.host(),
        &format!("addr del {OTHER_ADDRESS}/24 dev eth0\n"),
    );
    set.topology.wait_until("gone with the address", || {
        set.comes_in(OTHER_ADDRESS).is_err()
    });
    set.both_ways(HOST_ADDRESS);
    talk(&running, &running_far);
}

#[test]
fn an_address_that_changes_is_followed() {
    let Some(set) = Set::start("upl-change") else {
        return;
    };
    // One that goes on sending, and would keep its flow alive for ever.
    let (speaker, ear) = (
        udp(&set.web, ANY, 42_000),
        udp(&set.topology.world.outside, ANY, 42_000),
    );
    speaker
        .send_to(b"before", (OUTSIDE_ADDRESS, 42_000))
        .unwrap();
    assert_eq!(hears(&ear, b"before"), (HOST_ADDRESS, 42_000).into());
    set.topology.ip(
        set.host(),
        &format!(
            "addr add {OTHER_ADDRESS}/24 dev eth0\n\
             addr del {HOST_ADDRESS}/24 dev eth0\n\
             route replace default via {CLIENT_ADDRESS}\n"
        ),
    );
    set.both_ways(OTHER_ADDRESS);
    assert!(set.comes_in(HOST_ADDRESS).is_err());
    speaker
        .send_to(b"after", (OUTSIDE_ADDRESS, 42_000))
        .unwrap();
    assert_eq!(hears(&ear, b"after"), (OTHER_ADDRESS, 42_000).into());
}

#[test]
fn an_uplink_that_is_made_again_is_taken_again() {
    let Some(set) = Set::start("upl-again") else {
        return;
    };
    let world = &set.topology.world;
    set.topology.ip(set.host(), "link del eth0\n");
    assert!(set.comes_in(HOST_ADDRESS).is_err());
    assert!(set.goes_out().is_err());
    set.topology.ip(
        &world.client,
        &format!(
            "link add wire0 type veth peer name eth0 netns {}\n\
             link set wire0 up\n\
             addr add {CLIENT_ADDRESS}/24 dev wire0\n",
            set.host().path().display()
        ),
    );
    set.topology.ip(
        set.host(),
        &format!(
            "link set eth0 up\n\
             addr add {HOST_ADDRESS}/24 dev eth0\n\
             route add default via {CLIENT_ADDRESS}\n"
        ),
    );
    set.both_ways(HOST_ADDRESS);
    // Also what came by after the daemon looked.
    set.topology.netdp("publish web 8081:80");
    let near = connect(&world.client, (HOST_ADDRESS, 8081));
    talk(&near, &set.server.accept().0);
}

#[test]
fn new_flows_get_the_address_that_the_route_prefers() {
    let Some(set) = Set::start("upl-source") else {
        return;
    };
    let (speaker, ear) = (
        udp(&set.web, ANY, 42_000),
        udp(&set.topology.world.outside, ANY, 42_000),
    );
    let speaks = |words: &[u8]| {
        speaker.send_to(words, (OUTSIDE_ADDRESS, 42_000)).unwrap();
        hears(&ear, words)
    };
    assert_eq!(speaks(b"before"), (HOST_ADDRESS, 42_000).into());
    set.topology.ip(
        set.host(),
        &format!(
            "addr add {OTHER_ADDRESS}/24 dev eth0\n\
             route replace {OUTSIDE_ADDRESS}/32 via {CLIENT_ADDRESS} src {OTHER_ADDRESS}\n"
        ),
    );
    set.topology.wait_until("under the preferred address", || {
        set.goes_out().is_ok_and(|seen| seen == OTHER_ADDRESS)
    });
    // What runs keeps the address that it has.
    assert_eq!(speaks(b"still"), (HOST_ADDRESS, 42_000).into());
    let told = set.topology.netdp(&format!(
        "explain tcp {}:1 {OUTSIDE_ADDRESS}:80",
        set.web.address
    ));
    assert!(told.contains(&OTHER_ADDRESS.to_string()), "{told}");
    set.topology.ip(
        set.host(),
        &format!("addr del {OTHER_ADDRESS}/24 dev eth0\n"),
    );
    set.both_ways(HOST_ADDRESS);
    assert_eq!(speaks(b"and still"), (HOST_ADDRESS, 42_000).into());
}

#[test]
fn a_network_may_have_an_address_of_its_own_outside() {
    let Some(set) = Set::start("upl-given") else {
        return;
    };
    set.topology.netdp(&format!(
        "network create given --opt com.docker.network.host_ipv4={OTHER_ADDRESS}"
    ));
    let other = set.topology.container("other", "--network given");
    let goes_out = || {
        let near = connect_within(&other, None, (OUTSIDE_ADDRESS, 80), SILENCE)?;
        let (far, seen) = set.outside.accept();
        talk(&near, &far);
        io::Result::Ok(seen.ip())
    };
    // The host doesn't have it yet.
    assert!(goes_out().is_err());
    assert_ne!(set.topology.dropped("no-uplink-address"), 0);
    set.topology.ip(
        set.host(),
        &format!("addr add {OTHER_ADDRESS}/24 dev eth0\n"),
    );
    set.topology.wait_until("out under its own", || {
        goes_out().is_ok_and(|seen| seen == OTHER_ADDRESS)
    });
    set.both_ways(HOST_ADDRESS);
}

#[test]
fn a_port_on_one_of_two_addresses_is_on_that_alone() {
    let Some(set) = Set::start("upl-chosen") else {
        return;
    };
    set.topology.ip(
        set.host(),
        &format!("addr add {OTHER_ADDRESS}/24 dev eth0\n"),
    );
    let one = set
        .topology
        .container("one", &format!("-p {OTHER_ADDRESS}:8081:80"));
    let server = listen(&one, ANY, 80);
    let client = &set.topology.world.client;
    let there = || connect_within(client, None, (OTHER_ADDRESS, 8081), SILENCE);
    set.topology
        .wait_until("on its address", || there().is_ok());
    server.accept();
    assert!(connect_within(client, None, (HOST_ADDRESS, 8081), SILENCE).is_err());
    // The other address has the port for others.
    let two = set
        .topology
        .container("two", &format!("-p {HOST_ADDRESS}:8081:80"));
    let second = listen(&two, ANY, 80);
    talk(&connect(client, (HOST_ADDRESS, 8081)), &second.accept().0);
    talk(&connect(client, (OTHER_ADDRESS, 8081)), &server.accept().0);
}

/// A second wire between client and host, whose ends have 198.18.99.1 and .2.
fn second_wire(set: &Set) {
    let client = &set.topology.world.client;
    set.topology.ip(
        client,
        &format!(
            "link add wire9 type veth peer name eth1 netns {}\n\
             link set wire9 up\naddr add 198.18.99.1/24 dev wire9\n",
            set.host().path().display()
        ),
    );
    set.topology.ip(
        set.host(),
        "link set eth1 up\naddr add 198.18.99.2/24 dev eth1\n",
    );
}

#[test]
fn an_uplink_that_appears_takes_what_is_new() {
    let Some(set) = Set::start_with("upl-appears", &["--uplink", "eth1"]) else {
        return;
    };
    let running = connect(&set.web, (OUTSIDE_ADDRESS, 80));
    let running_far = set.outside.accept().0;
    second_wire(&set);
    // The old way stays, as the worse one.
    set.topology.ip(
        set.host(),
        &format!(
            "route add default via {CLIENT_ADDRESS} metric 200\n\
             route replace default via 198.18.99.1 dev eth1\n"
        ),
    );
    let second = Ipv4Addr::new(198, 18, 99, 2);
    set.topology.wait_until("by the new uplink", || {
        set.goes_out().is_ok_and(|seen| seen == second)
    });
    talk(&running, &running_far);
    // Published ports are on it as well.
    let client = &set.topology.world.client;
    let near = connect(client, (second, 8080));
    talk(&near, &set.server.accept().0);

    set.topology.ip(set.host(), "link del eth1\n");
    set.both_ways(HOST_ADDRESS);
    talk(&running, &running_far);
}

#[test]
fn an_uplink_that_goes_down_or_gets_another_name_comes_back() {
    let Some(set) = Set::start_with("upl-renamed", &["--uplink", "wan0"]) else {
        return;
    };
    let speaker = udp(&set.web, ANY, 42_000);
    let ear = udp(&set.topology.world.outside, ANY, 42_000);
    let speaks = || {
        speaker
            .send_to(b"words", (OUTSIDE_ADDRESS, 42_000))
            .unwrap();
        assert_eq!(hears(&ear, b"words"), (HOST_ADDRESS, 42_000).into());
    };
    speaks();
    for name in ["eth0", "wan0"] {
        set.topology.ip(set.host(), "link set eth0 down\n");
        assert!(set.goes_out().is_err());
        set.topology.ip(
            set.host(),
            &format!(
                "link set eth0 name {name}\nlink set {name} up\n\
                 route add default via {CLIENT_ADDRESS}\n"
            ),
        );
        set.both_ways(HOST_ADDRESS);
        speaks();
    }
}
