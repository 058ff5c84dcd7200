//! What one network may of another, of the outside and of the host, over both
//! families.

use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;

use netdp::demo::world::set_sysctls;
use netdp::netns::Namespace;
use netdp_tests::{
    Listener, Place, SIDES, SILENCE, Side, Topology, connect, connect_within, echo_socket,
    echo_socket6, hears, listen, ping_through, talk, udp,
};
use nix::sys::socket::{AddressFamily, SockProtocol, SockType, setsockopt, sockopt};
use nix::sys::time::{TimeVal, TimeValLike};

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
    fn on(&self, topology: &Topology, network: &str, side: Side) -> (IpAddr, IpAddr) {
        let sandbox = topology.inspect(&self.name);
        let mut endpoints = sandbox.endpoints.iter();
        let endpoint = endpoints.find(|it| it.network == network).unwrap();
        let mut addresses = endpoint.addresses.iter().map(|net| net.addr());
        let address = addresses
            .find(|address| address.is_ipv4() == side.is_v4())
            .unwrap();
        let mut gateways = endpoint.gateways.iter();
        let gateway = gateways
            .find(|gateway| gateway.is_ipv4() == side.is_v4())
            .unwrap();
        (address, *gateway)
    }

    fn ping_socket(&self, side: Side) -> std::net::UdpSocket {
        if side.is_v4() {
            echo_socket(self, 77)
        } else {
            echo_socket6(self, 77)
        }
    }
}

/// A host with both families, and networks of both with these options.
fn start(name: &str, networks: &[(&str, &str)]) -> Option<Topology> {
    let topology = Topology::start_with_ipv6(name)?;
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
    side: Side,
    tcp: Listener,
    udp: std::net::UdpSocket,
}

impl Server {
    fn at(place: &impl Place, side: Side) -> Self {
        Self {
            side,
            tcp: listen(place, side.any, 80),
            udp: udp(place, side.any, 53),
        }
    }

    /// It is reached at these ports of `to`.
    #[track_caller]
    fn answers(&self, from: &impl Place, to: IpAddr, [tcp, datagrams]: [u16; 2]) {
        let near = connect(from, (to, tcp));
        talk(&near, &self.tcp.accept().0);
        let client = udp(from, self.side.any, 0);
        client.send_to(b"question", (to, datagrams)).unwrap();
        let seen = hears(&self.udp, b"question");
        self.udp.send_to(b"answer", seen).unwrap();
        assert_eq!(hears(&client, b"answer"), SocketAddr::from((to, datagrams)));
    }

    /// Nothing for these ports of `to` comes.
    #[track_caller]
    fn hears_nothing(&self, from: &impl Place, to: IpAddr, [tcp, datagrams]: [u16; 2]) {
        let client = udp(from, self.side.any, 0);
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
fn no_ping(from: &Member, to: IpAddr, side: Side) {
    let socket = from.ping_socket(side);
    let timeout = TimeVal::milliseconds(SILENCE.as_millis() as i64);
    setsockopt(&socket, sockopt::ReceiveTimeout, &timeout).unwrap();
    let request = [if side.is_v4() { 8 } else { 128 }, 0, 0, 0, 0, 0, 0, 1];
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
    for side in SIDES {
        let server = Server::at(&db, side);
        let (to, gateway) = db.on(&topology, "two", side);
        let before = topology.dropped("other-network");
        server.hears_nothing(&web, to, OWN);
        no_ping(&web, to, side);
        assert!(topology.dropped("other-network") >= before + 3);
        // What is published is published to all, at each address of the host.
        for address in [side.host, gateway] {
            server.answers(&web, address, PUBLISHED);
        }

        topology.netdp("connect two web");
        server.answers(&web, to, OWN);
        ping_through(&web.ping_socket(side), to, 1, b"ping");
        // Who is on both is no way for others.
        server.hears_nothing(&beside, to, OWN);
        let (near, _) = web.on(&topology, "one", side);
        let (far, _) = web.on(&topology, "two", side);
        let own = Server::at(&web, side);
        own.answers(&beside, near, OWN);
        own.answers(&db, far, OWN);
        own.hears_nothing(&beside, far, OWN);
        own.hears_nothing(&db, near, OWN);
        topology.netdp("disconnect two web");
        server.hears_nothing(&web, to, OWN);
        server.answers(&web, side.host, PUBLISHED);
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
    for side in SIDES {
        let (to, gateway) = one.on(&topology, "inner", side);
        let (open, _) = web.on(&topology, "open", side);
        let outside = Server::at(&topology.world.outside, side);
        let published = Server::at(&web, side);
        let host = Server::at(&topology.world.host, side);
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
            outside.hears_nothing(&one, side.outside, OWN);
            no_ping(&one, side.outside, side);
            published.hears_nothing(&one, open, OWN);
            for address in [side.host, gateway] {
                published.hears_nothing(&one, address, PUBLISHED);
            }
        }
        assert!(topology.dropped("internal") > 0);
        // The host is a neighbour of each of its networks.
        host.answers(&one, gateway, OWN);

        let server = Server::at(&one, side);
        server.answers(&two, to, OWN);
        ping_through(&two.ping_socket(side), to, 1, b"ping");
        server.answers(&topology.host_program(), to, OWN);
        server.hears_nothing(&web, to, OWN);
        // From outside neither, whoever sends it to the host.
        let prefix = if side.is_v4() { 32 } else { 128 };
        topology.ip(
            &topology.world.client,
            &format!("route add {to}/{prefix} via {}", side.host),
        );
        server.hears_nothing(&topology.world.client, to, OWN);

        // Who is on another network too gets out there, alone.
        topology.netdp("connect open one");
        let (from, _) = one.on(&topology, "open", side);
        topology.ip(&one.namespace, &format!("route del default via {gateway}"));
        let near = connect(&one, (side.outside, 80));
        let (far, seen) = outside.tcp.accept();
        assert_eq!(seen.ip(), side.host);
        talk(&near, &far);
        published.answers(&one, side.host, PUBLISHED);
        server.answers(&web, from, OWN);
        server.hears_nothing(&web, to, OWN);
        outside.hears_nothing(&two, side.outside, OWN);
        topology.netdp("publish one 8082:80 5382:53/udp");
        server.answers(&topology.world.client, side.host, [8082, 5382]);
        published.hears_nothing(&two, side.host, PUBLISHED);
        server.hears_nothing(&two, side.host, [8082, 5382]);
        topology.netdp("disconnect open one");
        server.hears_nothing(&topology.world.client, side.host, [8082, 5382]);
        outside.hears_nothing(&one, side.outside, OWN);
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
    for side in SIDES {
        let (to, _) = db.on(&topology, "strict", side);
        let (back, _) = web.on(&topology, "strict", side);
        let server = Server::at(&db, side);
        server.answers(&web, to, OWN);
        server.hears_nothing(&other, to, OWN);
        // Neither the protocols' ports exchanged, nor any other, nor a ping.
        server.hears_nothing(&web, to, [53, 80]);
        no_ping(&web, to, side);
        no_ping(&db, back, side);
        let client = Server::at(&web, side);
        client.hears_nothing(&db, back, OWN);
        client.hears_nothing(&other, back, OWN);
        // What is published is open to the link directly, and to all by the
        // host's address.
        let published = listen(&db, side.any, 81);
        for (from, at) in [
            (&web, (to, 81)),
            (&web, (side.host, 8081)),
            (&other, (side.host, 8081)),
        ] {
            let near = connect(from, at);
            talk(&near, &published.accept().0);
        }
        assert!(connect_within(&other, None, (to, 81), SILENCE).is_err());
        published.assert_nobody_came();
        let near = connect(&topology.world.client, (side.host, 8081));
        let (far, seen) = published.accept();
        assert_eq!(seen.ip(), side.client);
        talk(&near, &far);
    }
    assert!(topology.dropped("no-icc") > 0);
}
