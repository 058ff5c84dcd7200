//! Uplinks that change while the daemon runs.

use std::io;
use std::net::{IpAddr, SocketAddr};

use netdp::demo::world::set_sysctls;
use netdp::netns::Namespace;
use netdp_tests::{
    Container, Listener, SIDES, SILENCE, Side, Topology, connect, connect_within, hears, listen,
    talk, udp,
};

struct Set {
    side: Side,
    /// A further address in the subnet of the host's uplink.
    other: IpAddr,
    topology: Topology,
    web: Container,
    server: Listener,
    outside: Listener,
}

/// The test for each family, in a world of its own, with further arguments for
/// the daemon.
fn on_each_side(name: &str, args: &[&str], test: impl Fn(&Set)) {
    for side in SIDES {
        println!("{:?}", side.family);
        let Some(set) = Set::start(name, args, side) else {
            return;
        };
        test(&set);
    }
}

impl Set {
    fn start(name: &str, args: &[&str], side: Side) -> Option<Self> {
        let mut topology = Topology::without_daemon(name)?;
        let world = &mut topology.world;
        world
            .add_ipv6()
            .and_then(|()| world.start_daemon(args))
            .unwrap_or_else(|error| panic!("{error}"));
        // Otherwise an interface's first address takes the others with it.
        set_sysctls(&world.host, &[("ipv4/conf/all/promote_secondaries", "1")]).unwrap();
        topology.ip(&topology.world.client, &side.add_link_local(1, "wire0"));
        topology.netdp("network create six --ipv6");
        let web = topology.container("web", "--network six -p 8080:80");
        let server = listen(&web, side.any, 80);
        let outside = listen(&topology.world.outside, side.any, 80);
        let set = Self {
            side,
            other: side.of(
                IpAddr::from([198, 18, 0, 7]),
                IpAddr::from([0x2001, 2, 0, 0x18, 0, 0, 0, 7]),
            ),
            topology,
            web,
            server,
            outside,
        };
        set.both_ways(side.host);
        Some(set)
    }

    fn host(&self) -> &Namespace {
        &self.topology.world.host
    }

    /// Gives the host's uplink an address, or takes it away.
    fn add(&self, address: IpAddr) {
        let line = self.side.add_address(address, "eth0");
        self.topology.ip(self.host(), &line);
    }

    fn del(&self, address: IpAddr) {
        let line = self.side.del_address(address, "eth0");
        self.topology.ip(self.host(), &line);
    }

    /// Lets the host's default route lead to the client.
    fn lead_out(&self) {
        let line = format!("route replace default via {}\n", self.side.client);
        self.topology.ip(self.host(), &line);
    }

    /// Whether a connection from the client to `address` arrives.
    fn comes_in(&self, address: IpAddr) -> io::Result<()> {
        let client = &self.topology.world.client;
        let near = connect_within(client, None, (address, 8080), SILENCE)?;
        let (far, seen) = self.server.accept();
        assert_eq!(seen.ip(), self.side.client);
        talk(&near, &far);
        Ok(())
    }

    /// The address that the outside sees of the container, if it gets out.
    fn goes_out(&self) -> io::Result<IpAddr> {
        let near = connect_within(&self.web, None, (self.side.outside, 80), SILENCE)?;
        let (far, seen) = self.outside.accept();
        talk(&near, &far);
        Ok(seen.ip())
    }

    /// Follows within moments: in at `address`, and out under it.
    #[track_caller]
    fn both_ways(&self, address: IpAddr) {
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
    on_each_side("upl-address", &[], |set| {
        let (side, other) = (set.side, set.other);
        let running = connect(&set.topology.world.client, (side.host, 8080));
        let running_far = set.server.accept().0;
        talk(&running, &running_far);
        set.add(other);
        set.topology.wait_until("reachable at the new address", || {
            set.comes_in(other).is_ok()
        });
        // The main address is the one before; of IPv6 the kernel takes the newest.
        set.both_ways(side.of(side.host, other));
        talk(&running, &running_far);

        set.del(other);
        set.topology
            .wait_until("gone with the address", || set.comes_in(other).is_err());
        set.both_ways(side.host);
        talk(&running, &running_far);
    });
}

#[test]
fn an_address_that_changes_is_followed() {
    on_each_side("upl-change", &[], |set| {
        let (side, other) = (set.side, set.other);
        // One that goes on sending, and would keep its flow alive for ever.
        let (speaker, ear) = (
            udp(&set.web, side.any, 42_000),
            udp(&set.topology.world.outside, side.any, 42_000),
        );
        speaker.send_to(b"before", (side.outside, 42_000)).unwrap();
        assert_eq!(hears(&ear, b"before"), (side.host, 42_000).into());
        set.add(other);
        set.del(side.host);
        set.lead_out();
        set.both_ways(other);
        set.topology.wait_until("gone with the old address", || {
            set.comes_in(side.host).is_err()
        });
        // Flows of the old address end after new ones have the new.
        set.topology.wait_until("under the new address", || {
            speaker.send_to(b"after", (side.outside, 42_000)).unwrap();
            hears(&ear, b"after") == (other, 42_000).into()
        });
    });
}

#[test]
fn an_uplink_that_is_made_again_is_taken_again() {
    on_each_side("upl-again", &[], |set| {
        let side = set.side;
        let world = &set.topology.world;
        set.topology.ip(set.host(), "link del eth0\n");
        assert!(set.comes_in(side.host).is_err());
        assert!(set.goes_out().is_err());
        set.topology.ip(
            &world.client,
            &format!(
                "link add wire0 type veth peer name eth0 netns {}\n\
             link set wire0 up\n{}{}",
                set.host().path().display(),
                side.add_address(side.client, "wire0"),
                side.add_link_local(1, "wire0"),
            ),
        );
        set.topology.ip(set.host(), "link set eth0 up\n");
        set.add(side.host);
        set.lead_out();
        set.both_ways(side.host);
        // Also what came by after the daemon looked.
        set.topology.netdp("publish web 8081:80");
        let near = connect(&world.client, (side.host, 8081));
        talk(&near, &set.server.accept().0);
    });
}

#[test]
fn new_flows_get_the_address_that_the_route_prefers() {
    on_each_side("upl-source", &[], |set| {
        let (side, other) = (set.side, set.other);
        let (speaker, ear) = (
            udp(&set.web, side.any, 42_000),
            udp(&set.topology.world.outside, side.any, 42_000),
        );
        let speaks = |words: &[u8]| {
            speaker.send_to(words, (side.outside, 42_000)).unwrap();
            hears(&ear, words)
        };
        assert_eq!(speaks(b"before"), (side.host, 42_000).into());
        set.add(other);
        let Side {
            outside, client, ..
        } = side;
        let route = format!("route replace {outside} via {client} src {other}\n");
        set.topology.ip(set.host(), &route);
        set.topology.wait_until("under the preferred address", || {
            set.goes_out().is_ok_and(|seen| seen == other)
        });
        // What runs keeps the address that it has.
        assert_eq!(speaks(b"still"), (side.host, 42_000).into());
        let told = set.topology.netdp(&format!(
            "explain tcp {} {}",
            SocketAddr::new(side.address(&set.web), 1),
            SocketAddr::new(outside, 80),
        ));
        assert!(told.contains(&other.to_string()), "{told}");
        set.del(other);
        set.both_ways(side.host);
        assert_eq!(speaks(b"and still"), (side.host, 42_000).into());
    });
}

#[test]
fn a_network_may_have_an_address_of_its_own_outside() {
    on_each_side("upl-given", &[], |set| {
        let (side, other) = (set.side, set.other);
        let option = side.of("host_ipv4", "host_ipv6");
        set.topology.netdp(&format!(
            "network create given --ipv6 --opt com.docker.network.{option}={other}"
        ));
        let member = set.topology.container("member", "--network given");
        let goes_out = || {
            let near = connect_within(&member, None, (side.outside, 80), SILENCE)?;
            let (far, seen) = set.outside.accept();
            talk(&near, &far);
            io::Result::Ok(seen.ip())
        };
        // The host doesn't have it yet.
        assert!(goes_out().is_err());
        assert_ne!(set.topology.dropped("no-uplink-address"), 0);
        set.add(other);
        set.topology.wait_until("out under its own", || {
            goes_out().is_ok_and(|seen| seen == other)
        });
        set.both_ways(side.of(side.host, other));
    });
}

#[test]
fn a_port_on_one_of_two_addresses_is_on_that_alone() {
    on_each_side("upl-chosen", &[], |set| {
        let (side, other) = (set.side, set.other);
        set.add(other);
        let published = |name: &str, address| {
            let options = format!("--network six -p {}:80", SocketAddr::new(address, 8081));
            set.topology.container(name, &options)
        };
        let one = published("one", other);
        let server = listen(&one, side.any, 80);
        let client = &set.topology.world.client;
        let there = || connect_within(client, None, (other, 8081), SILENCE);
        set.topology
            .wait_until("on its address", || there().is_ok());
        server.accept();
        assert!(connect_within(client, None, (side.host, 8081), SILENCE).is_err());
        // The other address has the port for others.
        let two = published("two", side.host);
        let second = listen(&two, side.any, 80);
        talk(&connect(client, (side.host, 8081)), &second.accept().0);
        talk(&connect(client, (other, 8081)), &server.accept().0);
    });
}

/// A second wire between client and host. Gives the addresses of its ends.
fn second_wire(set: &Set) -> (IpAddr, IpAddr) {
    let (side, client) = (set.side, &set.topology.world.client);
    let [near, far] = [1u8, 2].map(|number| {
        side.of(
            IpAddr::from([198, 18, 99, number]),
            IpAddr::from([0x2001, 2, 0, 0x99, 0, 0, 0, number.into()]),
        )
    });
    let lines = format!(
        "link add wire9 type veth peer name eth1 netns {}\nlink set wire9 up\n",
        set.host().path().display()
    );
    let own = side.add_address(near, "wire9") + &side.add_link_local(1, "wire9");
    set.topology.ip(client, &(lines + &own));
    let own = side.add_address(far, "eth1") + &side.add_link_local(2, "eth1");
    set.topology
        .ip(set.host(), &("link set eth1 up\n".to_owned() + &own));
    (near, far)
}

#[test]
fn an_uplink_that_appears_takes_what_is_new() {
    on_each_side("upl-appears", &["--uplink", "eth1"], |set| {
        let side = set.side;
        let running = connect(&set.web, (side.outside, 80));
        let running_far = set.outside.accept().0;
        set.topology.netdp("publish web 9000-9009:80-89");
        let (gateway, second) = second_wire(set);
        // The old way stays, as the worse one: 1024 is the metric that IPv6 has by
        // itself.
        set.topology.ip(
            set.host(),
            &format!(
                "route add default via {} metric 2000\n\
             route replace default via {gateway} dev eth1\n",
                side.client
            ),
        );
        set.topology.wait_until("by the new uplink", || {
            set.goes_out().is_ok_and(|seen| seen == second)
        });
        talk(&running, &running_far);
        // Published ports are on it as well, those of ranges too.
        let client = &set.topology.world.client;
        for to in [(second, 8080), (second, 9000), (side.host, 9000)] {
            talk(&connect(client, to), &set.server.accept().0);
        }

        set.topology.ip(set.host(), "link del eth1\n");
        set.both_ways(side.host);
        talk(&running, &running_far);
    });
}

#[test]
fn an_uplink_that_goes_down_or_gets_another_name_comes_back() {
    on_each_side("upl-renamed", &["--uplink", "wan0"], |set| {
        let side = set.side;
        let speaker = udp(&set.web, side.any, 42_000);
        let ear = udp(&set.topology.world.outside, side.any, 42_000);
        let speaks = || {
            speaker.send_to(b"words", (side.outside, 42_000)).unwrap();
            assert_eq!(hears(&ear, b"words"), (side.host, 42_000).into());
        };
        speaks();
        for name in ["eth0", "wan0"] {
            set.topology.ip(set.host(), "link set eth0 down\n");
            assert!(set.goes_out().is_err());
            let up = format!("link set eth0 name {name}\nlink set {name} up\n");
            // Of IPv6 the addresses have gone as well.
            let own = side.of(String::new(), side.add_address(side.host, name));
            set.topology.ip(set.host(), &(up + &own));
            set.lead_out();
            set.both_ways(side.host);
            speaks();
        }
    });
}
