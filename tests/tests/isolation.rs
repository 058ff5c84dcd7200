//! What one network may of another, of the outside and of the host, over both
//! families.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;

use netdp::demo::world::{
    CLIENT_ADDRESS, CLIENT_ADDRESS6, HOST_ADDRESS, HOST_ADDRESS6, OUTSIDE_ADDRESS,
    OUTSIDE_ADDRESS6, set_sysctls,
};
use netdp::netns::Namespace;
use netdp_tests::{
    Listener, Place, SILENCE, Topology, connect, connect_within, echo_socket, echo_socket6, hears,
    listen, ping_through, talk, udp,
};
use nix::sys::socket::{AddressFamily, SockProtocol, SockType, setsockopt, sockopt};
use nix::sys::time::{TimeVal, TimeValLike};

/// One of the two, with the addresses that the world has in it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Family {
    V4,
    V6,
}

const FAMILIES: [Family; 2] = [Family::V4, Family::V6];

impl Family {
    fn of(self, v4: Ipv4Addr, v6: Ipv6Addr) -> IpAddr {
        match self {
            Self::V4 => v4.into(),
            Self::V6 => v6.into(),
        }
    }

    fn any(self) -> IpAddr {
        self.of(Ipv4Addr::UNSPECIFIED, Ipv6Addr::UNSPECIFIED)
    }

    fn host(self) -> IpAddr {
        self.of(HOST_ADDRESS, HOST_ADDRESS6)
    }

    fn outside(self) -> IpAddr {
        self.of(OUTSIDE_ADDRESS, OUTSIDE_ADDRESS6)
    }

    fn client(self) -> IpAddr {
        self.of(CLIENT_ADDRESS, CLIENT_ADDRESS6)
    }

    fn has(self, address: &IpAddr) -> bool {
        address.is_ipv4() == (self == Self::V4)
    }
}

/// A namespace on a network of both families.
struct Member {
    name: String,
    namespace: Namespace,
}

impl Place for Member {
    fn open_family(
        &self,
        family: AddressFamily,
        kind: SockType,
        protocol: Option<SockProtocol>,
    ) -> OwnedFd {
        self.namespace.open_family(family, kind, protocol)
    }
}

impl Member {
    /// Its address and its gateway on a network.
    #[track_caller]
    fn on(&self, topology: &Topology, network: &str, family: Family) -> (IpAddr, IpAddr) {
        let sandbox = topology.inspect(&self.name);
        let mut endpoints = sandbox.endpoints.iter();
        let endpoint = endpoints.find(|it| it.network == network).unwrap();
        let mut addresses = endpoint.addresses.iter().map(|net| net.addr());
        let address = addresses.find(|address| family.has(address)).unwrap();
        let mut gateways = endpoint.gateways.iter();
        let gateway = gateways.find(|gateway| family.has(gateway)).unwrap();
        (address, *gateway)
    }

    fn ping_socket(&self, family: Family) -> std::net::UdpSocket {
        match family {
            Family::V4 => echo_socket(self, 77),
            Family::V6 => echo_socket6(self, 77),
        }
    }
}

/// A host with both families, and networks of both with these options.
fn start(name: &str, networks: &[(&str, &str)]) -> Option<Topology> {
    let mut topology = Topology::without_daemon(name)?;
    topology
        .world
        .add_ipv6()
        .unwrap_or_else(|error| panic!("{error}"));
    topology.start_daemon();
    for (name, options) in networks {
        topology.netdp(&format!("network create {name} --ipv6 {options}"));
    }
    Some(topology)
}

#[track_caller]
fn member(topology: &Topology, name: &str, options: &str) -> Member {
    let namespace = topology.world.add_namespace(name).unwrap();
    set_sysctls(&namespace, &[("ipv4/ping_group_range", "0 0")]).unwrap();
    let path = namespace.path().display();
    topology.netdp(&format!("attach --netns {path} --name {name} {options}"));
    Member {
        name: name.into(),
        namespace,
    }
}

/// A server at port 80 of TCP and 53 of UDP.
struct Server {
    family: Family,
    tcp: Listener,
    udp: std::net::UdpSocket,
}

impl Server {
    fn at(place: &impl Place, family: Family) -> Self {
        Self {
            family,
            tcp: listen(place, family.any(), 80),
            udp: udp(place, family.any(), 53),
        }
    }

    /// It is reached at these ports of `to`.
    #[track_caller]
    fn answers(&self, from: &impl Place, to: IpAddr, [tcp, datagrams]: [u16; 2]) {
        let near = connect(from, (to, tcp));
        talk(&near, &self.tcp.accept().0);
        let client = udp(from, self.family.any(), 0);
        client.send_to(b"question", (to, datagrams)).unwrap();
        let seen = hears(&self.udp, b"question");
        self.udp.send_to(b"answer", seen).unwrap();
        assert_eq!(hears(&client, b"answer"), SocketAddr::from((to, datagrams)));
    }

    /// Nothing for these ports of `to` comes.
    #[track_caller]
    fn hears_nothing(&self, from: &impl Place, to: IpAddr, [tcp, datagrams]: [u16; 2]) {
        let client = udp(from, self.family.any(), 0);
        // Some are told at once.
        let _ = client.send_to(b"let me in", (to, datagrams));
        assert!(
            connect_within(from, None, (to, tcp), SILENCE).is_err(),
            "{to} answers at {tcp}"
        );
        self.tcp.assert_nobody_came();
        // By now it would have come.
        self.udp.set_nonblocking(true).unwrap();
        let came = self.udp.recv_from(&mut [0; 64]);
        assert!(came.is_err(), "{came:?} for {to}");
        self.udp.set_nonblocking(false).unwrap();
    }
}

const OWN: [u16; 2] = [80, 53];
const PUBLISHED: [u16; 2] = [8080, 5353];
const PUBLISH: &str = "-p 8080:80 -p 5353:53/udp";

#[track_caller]
fn no_ping(from: &Member, to: IpAddr, family: Family) {
    let socket = from.ping_socket(family);
    let timeout = TimeVal::milliseconds(SILENCE.as_millis() as i64);
    setsockopt(&socket, sockopt::ReceiveTimeout, &timeout).unwrap();
    let request = [
        if family == Family::V4 { 8 } else { 128 },
        0,
        0,
        0,
        0,
        0,
        0,
        1,
    ];
    let _ = socket.send_to(&request, (to, 0));
    let mut answer = [0; 64];
    assert!(socket.recv(&mut answer).is_err(), "{to} answers a ping");
}

#[test]
fn networks_are_closed_to_each_other_until_they_are_joined() {
    let Some(topology) = start("iso-join", &[("one", ""), ("two", "")]) else {
        return;
    };
    let web = member(&topology, "web", "--network one");
    let beside = member(&topology, "beside", "--network one");
    let db = member(&topology, "db", &format!("--network two {PUBLISH}"));
    for family in FAMILIES {
        let server = Server::at(&db, family);
        let (to, gateway) = db.on(&topology, "two", family);
        let before = topology.dropped("other-network");
        server.hears_nothing(&web, to, OWN);
        no_ping(&web, to, family);
        assert!(topology.dropped("other-network") >= before + 3);
        // What is published is published to all, at each address of the host.
        for address in [family.host(), gateway] {
            server.answers(&web, address, PUBLISHED);
        }

        topology.netdp("connect two web");
        server.answers(&web, to, OWN);
        ping_through(&web.ping_socket(family), to, 1, b"ping");
        // Who is on both is no way for others.
        server.hears_nothing(&beside, to, OWN);
        let (near, _) = web.on(&topology, "one", family);
        let (far, _) = web.on(&topology, "two", family);
        let own = Server::at(&web, family);
        own.answers(&beside, near, OWN);
        own.answers(&db, far, OWN);
        own.hears_nothing(&beside, far, OWN);
        own.hears_nothing(&db, near, OWN);
        topology.netdp("disconnect two web");
        server.hears_nothing(&web, to, OWN);
        server.answers(&web, family.host(), PUBLISHED);
    }
}

#[test]
fn an_internal_network_has_its_members_and_the_host() {
    let networks = [("inner", "--internal"), ("open", "")];
    let Some(topology) = start("iso-inner", &networks) else {
        return;
    };
    let one = member(&topology, "one", "--network inner");
    let two = member(&topology, "two", "--network inner");
    let web = member(&topology, "web", &format!("--network open {PUBLISH}"));
    let path = one.namespace.path().display();
    let refused = topology.refused(&format!(
        "attach --netns {path} --name again --network inner -p 8081:80"
    ));
    assert!(
        refused.contains("no network that leads outside"),
        "{refused}"
    );
    for family in FAMILIES {
        let (to, gateway) = one.on(&topology, "inner", family);
        let (open, _) = web.on(&topology, "open", family);
        let outside = Server::at(&topology.world.outside, family);
        let published = Server::at(&web, family);
        let host = Server::at(&topology.world.host, family);
        // It has no route out; and if it makes one, that leads nowhere.
        for with_route in [false, true] {
            if with_route {
                for place in [&one, &two] {
                    topology.ip(
                        &place.namespace,
                        &format!("route add default via {gateway}"),
                    );
                }
            }
            outside.hears_nothing(&one, family.outside(), OWN);
            no_ping(&one, family.outside(), family);
            published.hears_nothing(&one, open, OWN);
            for address in [family.host(), gateway] {
                published.hears_nothing(&one, address, PUBLISHED);
            }
        }
        assert!(topology.dropped("internal") > 0);
        // The host is a neighbour of each of its networks.
        host.answers(&one, gateway, OWN);

        let server = Server::at(&one, family);
        server.answers(&two, to, OWN);
        ping_through(&two.ping_socket(family), to, 1, b"ping");
        server.answers(&topology.host_program(), to, OWN);
        server.hears_nothing(&web, to, OWN);
        // From outside neither, whoever sends it to the host.
        let prefix = if family == Family::V4 { 32 } else { 128 };
        topology.ip(
            &topology.world.client,
            &format!("route add {to}/{prefix} via {}", family.host()),
        );
        server.hears_nothing(&topology.world.client, to, OWN);

        // Who is on another network too gets out there, alone.
        topology.netdp("connect open one");
        let (from, _) = one.on(&topology, "open", family);
        topology.ip(&one.namespace, &format!("route del default via {gateway}"));
        let near = connect(&one, (family.outside(), 80));
        let (far, seen) = outside.tcp.accept();
        assert_eq!(seen.ip(), family.host());
        talk(&near, &far);
        published.answers(&one, family.host(), PUBLISHED);
        server.answers(&web, from, OWN);
        server.hears_nothing(&web, to, OWN);
        outside.hears_nothing(&two, family.outside(), OWN);
        topology.netdp("publish one 8082:80 5382:53/udp");
        server.answers(&topology.world.client, family.host(), [8082, 5382]);
        published.hears_nothing(&two, family.host(), PUBLISHED);
        server.hears_nothing(&two, family.host(), [8082, 5382]);
        topology.netdp("disconnect open one");
        server.hears_nothing(&topology.world.client, family.host(), [8082, 5382]);
        outside.hears_nothing(&one, family.outside(), OWN);
        server.answers(&two, to, OWN);
    }
}

#[test]
fn without_icc_a_link_opens_what_is_exposed_one_way() {
    let Some(topology) = start("iso-link", &[("strict", "--icc=false")]) else {
        return;
    };
    let db = member(
        &topology,
        "db",
        "--network strict --expose 80 --expose 53/udp -p 8081:81",
    );
    let web = member(&topology, "web", "--network strict --link db:store");
    let other = member(&topology, "other", "--network strict");
    for family in FAMILIES {
        let (to, _) = db.on(&topology, "strict", family);
        let (back, _) = web.on(&topology, "strict", family);
        let server = Server::at(&db, family);
        server.answers(&web, to, OWN);
        server.hears_nothing(&other, to, OWN);
        // Neither the protocols' ports exchanged, nor any other, nor a ping.
        server.hears_nothing(&web, to, [53, 80]);
        no_ping(&web, to, family);
        no_ping(&db, back, family);
        let client = Server::at(&web, family);
        client.hears_nothing(&db, back, OWN);
        client.hears_nothing(&other, back, OWN);
        // What is published is open to the link directly, and to all by the
        // host's address.
        let published = listen(&db, family.any(), 81);
        for (from, at) in [
            (&web, (to, 81)),
            (&web, (family.host(), 8081)),
            (&other, (family.host(), 8081)),
        ] {
            let near = connect(from, at);
            talk(&near, &published.accept().0);
        }
        assert!(connect_within(&other, None, (to, 81), SILENCE).is_err());
        published.assert_nobody_came();
        let near = connect(&topology.world.client, (family.host(), 8081));
        let (far, seen) = published.accept();
        assert_eq!(seen.ip(), family.client());
        talk(&near, &far);
    }
    assert!(topology.dropped("no-icc") > 0);
}
