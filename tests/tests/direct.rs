//! Direct ports: what a program gets that listens there, and who reaches it.

use std::io::{BufRead, BufReader, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::AsRawFd;

use netdp::demo::world::{CLIENT_ADDRESS, CLIENT_ADDRESS6, HOST_ADDRESS, HOST_ADDRESS6};
use netdp::netns::Namespace;
use netdp_tests::{
    Place, Reached, SILENCE, Topology, bind_port, connect, connect_within, listen, talk,
};
use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::sys::socket::{SockType, SockaddrStorage, bind, setsockopt, sockopt};
use nix::unistd::Pid;

/// A server that tells names, unmodified.
const SERVER: &str = env!("CARGO_BIN_EXE_tells_names");

/// What the server says of a connection: its own name, and the client's.
#[track_caller]
fn names(from: &impl Place, to: (impl Into<IpAddr> + Copy, u16)) -> (SocketAddr, SocketAddr) {
    let stream = connect(from, (to.0.into(), to.1));
    let mut said = BufReader::new(&stream);
    let mut line = String::new();
    said.read_line(&mut line).unwrap();
    let (local, peer) = line.trim().split_once(' ').expect("two names");
    let (local, peer): (SocketAddr, SocketAddr) = (local.parse().unwrap(), peer.parse().unwrap());
    let own = stream.local_addr().unwrap();
    assert_eq!(canonical(peer), own, "the client's own name");
    assert_eq!(stream.peer_addr().unwrap(), (to.0.into(), to.1).into());
    (&stream).write_all(b"and back\n").unwrap();
    let mut back = String::new();
    said.read_line(&mut back).unwrap();
    assert_eq!(back, "and back\n");
    (local, peer)
}

/// Starts the server and waits until it has said something of each address.
#[track_caller]
fn serve(topology: &Topology, name: &str, options: &str, addresses: &str) -> String {
    let words = format!("run -d --name {name} {options} -- {SERVER} {addresses}");
    topology.netdp(&words);
    let many = addresses
        .split(' ')
        .filter(|it| !it.starts_with('-'))
        .count();
    topology.wait_until("listening", || {
        topology.netdp(&format!("logs {name}")).lines().count() >= many
    });
    topology.netdp(&format!("logs {name}"))
}

#[track_caller]
fn own_address(topology: &Topology, name: &str) -> Ipv4Addr {
    let addresses = &topology.inspect(name).endpoints[0].addresses;
    let v4 = addresses.iter().find_map(|net| match net.addr() {
        IpAddr::V4(address) => Some(address),
        IpAddr::V6(_) => None,
    });
    v4.expect("an address of IPv4")
}

#[track_caller]
fn own_address6(topology: &Topology, name: &str) -> Ipv6Addr {
    let addresses = &topology.inspect(name).endpoints[0].addresses;
    let v6 = addresses.iter().find_map(|net| match net.addr() {
        IpAddr::V4(_) => None,
        IpAddr::V6(address) => Some(address),
    });
    v6.expect("an address of IPv6")
}

/// Without the writing of IPv4 as IPv6.
fn canonical(addr: SocketAddr) -> SocketAddr {
    SocketAddr::new(addr.ip().to_canonical(), addr.port())
}

/// The server that a sandbox's shell has started; 0 where there is none.
fn pid_of_server(topology: &Topology, name: &str) -> i32 {
    let shell = topology.inspect(name).pid.expect("its program");
    let children = format!("/proc/{shell}/task/{shell}/children");
    let children = std::fs::read_to_string(children).unwrap_or_default();
    children.trim().parse().unwrap_or(0)
}

/// Whether the socket of the sandbox's program is one of the host.
#[track_caller]
fn listens_directly(topology: &Topology, port: u16) -> bool {
    let table = topology.world.on_host("cat").arg("/proc/net/tcp").output();
    let table6 = topology.world.on_host("cat").arg("/proc/net/tcp6").output();
    [table, table6].into_iter().any(|table| {
        let text = String::from_utf8(table.unwrap().stdout).unwrap();
        text.lines().any(|line| {
            let fields: Vec<&str> = line.split_whitespace().collect();
            fields
                .get(1)
                .is_some_and(|it| it.ends_with(&format!(":{port:04X}")))
                && fields[3] == "0A"
        })
    })
}

#[test]
fn a_server_has_the_hosts_socket_and_its_own_name() {
    let Some(topology) = Topology::start("dir-tcp") else {
        return;
    };
    let said = serve(&topology, "web", "-p 8080:80,direct", "0.0.0.0:80");
    assert_eq!(said, "0.0.0.0:80 is 0.0.0.0:80\n");
    assert!(listens_directly(&topology, 8080));
    let own = own_address(&topology, "web");
    let world = &topology.world;
    let (local, peer) = names(&world.client, (HOST_ADDRESS, 8080));
    assert_eq!(local, (own, 80).into());
    assert_eq!(peer.ip(), CLIENT_ADDRESS);
    // Nothing of it is a flow of the datapath.
    assert!(topology.flows().iter().all(|flow| flow.kind == "direct"));
}

#[test]
fn clients_of_every_place_reach_the_same_socket() {
    let Some(topology) = Topology::start("dir-places") else {
        return;
    };
    serve(&topology, "web", "-p 8080:80,direct", "0.0.0.0:80");
    let own = own_address(&topology, "web");
    let world = &topology.world;
    let other = topology.container("other", "");
    for to in [(own, 80), (other.gateway, 8080), (HOST_ADDRESS, 8080)] {
        let (local, peer) = names(&other, to);
        assert_eq!(
            (local, peer.ip()),
            ((own, 80).into(), other.address.into()),
            "{to:?}"
        );
    }
    let host = topology.host_program();
    for to in [(own, 80), (Ipv4Addr::LOCALHOST, 8080), (HOST_ADDRESS, 8080)] {
        let (local, _) = names(&host, to);
        assert_eq!(local, (own, 80).into(), "{to:?}");
    }
    // Both ways of one container at once.
    names(&other, (own, 80));
    names(&world.client, (HOST_ADDRESS, 8080));
}

#[test]
fn a_sandbox_reaches_itself() {
    let Some(topology) = Topology::with_ipv6("dir-self") else {
        return;
    };
    let options = "--network six -p 8080:80,direct -p 8081:81,direct";
    serve(&topology, "web", options, "[::]:80 127.0.0.1:81");
    let own = own_address(&topology, "web");
    let own6 = own_address6(&topology, "web");
    let inside = Namespace::open(&topology.inspect("web").netns).unwrap();
    let inside = Reached::new(&topology.world, &inside);
    for to in [Ipv4Addr::LOCALHOST, own] {
        let (local, peer) = names(&inside, (to, 80));
        assert_eq!(canonical(local), (own, 80).into(), "{to}");
        assert_eq!(canonical(peer).ip(), own, "{to}");
    }
    for to in [Ipv6Addr::LOCALHOST, own6] {
        let (local, _) = names(&inside, (to, 80));
        assert_eq!(local, (own6, 80).into(), "{to}");
    }
    // Who listens inside comes first.
    assert_eq!(
        names(&inside, (Ipv4Addr::LOCALHOST, 81)).0,
        (Ipv4Addr::LOCALHOST, 81).into()
    );
}

#[test]
fn a_socket_of_both_families_hears_both() {
    let Some(topology) = Topology::with_ipv6("dir-both") else {
        return;
    };
    let said = serve(
        &topology,
        "web",
        "--network six -p 8080:80,direct",
        "[::]:80",
    );
    assert_eq!(said, "[::]:80 is [::]:80\n");
    assert!(listens_directly(&topology, 8080));
    let own = own_address(&topology, "web");
    let own6 = own_address6(&topology, "web");
    let client = &topology.world.client;
    let (local, peer) = names(client, (HOST_ADDRESS, 8080));
    assert_eq!(canonical(local), (own, 80).into());
    assert_eq!(canonical(peer).ip(), CLIENT_ADDRESS);
    let (local, peer) = names(client, (HOST_ADDRESS6, 8080));
    assert_eq!(
        (local, peer.ip()),
        ((own6, 80).into(), CLIENT_ADDRESS6.into())
    );
    let other = topology.container("other", "--network six");
    assert_eq!(names(&other, (own6, 80)).0, (own6, 80).into());
    assert_eq!(canonical(names(&other, (own, 80)).0), (own, 80).into());
    let host = topology.host_program();
    assert_eq!(names(&host, (own6, 80)).0, (own6, 80).into());
}

#[test]
fn a_socket_of_ipv6_hears_ipv4_where_that_alone_is_published() {
    let Some(topology) = Topology::start("dir-mapped") else {
        return;
    };
    let said = serve(&topology, "web", "-p 8080:80,direct", "[::]:80");
    assert_eq!(said, "[::]:80 is [::]:80\n");
    assert!(listens_directly(&topology, 8080));
    let (local, peer) = names(&topology.world.client, (HOST_ADDRESS, 8080));
    assert_eq!(canonical(local), (own_address(&topology, "web"), 80).into());
    assert_eq!(canonical(peer).ip(), CLIENT_ADDRESS);
}

#[test]
fn two_sandboxes_have_the_same_port() {
    let Some(topology) = Topology::start("dir-two") else {
        return;
    };
    serve(&topology, "one", "-p 8080:80,direct", "0.0.0.0:80");
    serve(&topology, "two", "-p 9090:80,direct", "0.0.0.0:80");
    for (name, port) in [("one", 8080), ("two", 9090)] {
        let (local, _) = names(&topology.world.client, (HOST_ADDRESS, port));
        assert_eq!(local, (own_address(&topology, name), 80).into());
    }
    let refused = topology.refused(&format!("run -p 8080:80,direct -- {SERVER} 0.0.0.0:80"));
    assert!(refused.contains("8080"), "{refused}");
}

#[test]
fn what_listens_unseen_is_reached_as_before() {
    let Some(topology) = Topology::start("dir-unseen") else {
        return;
    };
    topology.netdp("run -d --name web -p 8080:80,direct -- sleep 60");
    let inside = Namespace::open(&topology.inspect("web").netns).unwrap();
    let listener = listen(&inside, Ipv4Addr::UNSPECIFIED, 80);
    let near = connect(&topology.world.client, (HOST_ADDRESS, 8080));
    let (far, from) = listener.accept();
    assert_eq!(from, near.local_addr().unwrap());
    talk(&near, &far);
    let near = connect(&topology.host_program(), (Ipv4Addr::LOCALHOST, 8080));
    talk(&near, &listener.accept().0);
}

#[test]
fn other_ports_and_addresses_stay_the_sandboxs_own() {
    let Some(topology) = Topology::start("dir-own") else {
        return;
    };
    let said = serve(
        &topology,
        "web",
        "-p 8080:80,direct",
        "127.0.0.1:80 0.0.0.0:81 127.0.0.1:0",
    );
    assert!(said.contains("127.0.0.1:80 is 127.0.0.1:80"), "{said}");
    assert!(!listens_directly(&topology, 8080) && !listens_directly(&topology, 81));
    let inside = Namespace::open(&topology.inspect("web").netns).unwrap();
    names(&inside, (Ipv4Addr::LOCALHOST, 80));
    names(&inside, (Ipv4Addr::LOCALHOST, 81));
}

#[test]
fn a_port_is_taken_within_a_sandbox_unless_it_is_shared() {
    let Some(topology) = Topology::start("dir-taken") else {
        return;
    };
    let said = serve(
        &topology,
        "web",
        "-p 8080:80,direct",
        "0.0.0.0:80 0.0.0.0:80",
    );
    assert!(
        said.ends_with("0.0.0.0:80: Address already in use (os error 98)\n"),
        "{said}"
    );
    topology.netdp("rm -f web");
    let said = serve(
        &topology,
        "web",
        "-p 8080:80,direct",
        "--shared 0.0.0.0:80 0.0.0.0:80 0.0.0.0:80",
    );
    assert_eq!(said, "0.0.0.0:80 is 0.0.0.0:80\n".repeat(3));
    for _ in 0..9 {
        names(&topology.world.client, (HOST_ADDRESS, 8080));
    }
}

#[test]
fn a_program_that_starts_again_listens_again_beside_open_connections() {
    let Some(topology) = Topology::start("dir-again") else {
        return;
    };
    let script = topology.world.dir().join("again.sh");
    std::fs::write(
        &script,
        format!("while true; do {SERVER} 0.0.0.0:80; done\n"),
    )
    .unwrap();
    let words = format!(
        "run -d --name web -p 8080:80,direct -- sh {}",
        script.display()
    );
    topology.netdp(&words);
    let client = &topology.world.client;
    let to = (HOST_ADDRESS, 8080);
    topology.wait_until("listening", || listens_directly(&topology, 8080));
    names(client, to);
    let open = connect(client, to);
    for _ in 0..3 {
        let before = pid_of_server(&topology, "web");
        kill(Pid::from_raw(before), Signal::SIGKILL).unwrap();
        topology.wait_until("started again", || {
            let now = pid_of_server(&topology, "web");
            now != 0 && now != before && listens_directly(&topology, 8080)
        });
        names(client, to);
    }
    drop(open);
}

#[test]
fn nobody_else_gets_the_port() {
    let Some(topology) = Topology::start("dir-held") else {
        return;
    };
    let host = topology.host_program();
    let is_taken = || {
        let error = bind_port(&host, Ipv4Addr::UNSPECIFIED, 8080).unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::AddrInUse);
        let socket = host.open(SockType::Stream, None);
        setsockopt(&socket, sockopt::ReusePort, &true).unwrap();
        setsockopt(&socket, sockopt::ReuseAddr, &true).unwrap();
        let addr = SocketAddr::from((HOST_ADDRESS, 8080));
        let bound = bind(socket.as_raw_fd(), &SockaddrStorage::from(addr));
        assert_eq!(bound, Err(Errno::EADDRINUSE));
    };
    topology.netdp("run -d --name idle -p 8080:80,direct -- sleep 60");
    is_taken();
    topology.netdp("rm -f idle");
    serve(&topology, "web", "-p 8080:80,direct", "0.0.0.0:80");
    is_taken();
    topology.netdp("rm -f web");
    bind_port(&host, Ipv4Addr::UNSPECIFIED, 8080).unwrap();
    let folder = topology.world.run_dir().join("direct");
    assert_eq!(std::fs::read_dir(folder).unwrap().count(), 0);
}

#[test]
fn supervisor_and_sockets_outlive_the_daemon() {
    let Some(mut topology) = Topology::start("dir-daemon") else {
        return;
    };
    let script = topology.world.dir().join("late.sh");
    let late = topology.world.dir().join("now");
    let text = format!(
        "{SERVER} 0.0.0.0:80 & while [ ! -e {} ]; do sleep 0.05; done; {SERVER} 0.0.0.0:81\n",
        late.display()
    );
    std::fs::write(&script, text).unwrap();
    let ports = "-p 8080:80,direct -p 8081:81,direct";
    topology.netdp(&format!(
        "run -d --name web {ports} -- sh {}",
        script.display()
    ));
    topology.wait_until("listening", || listens_directly(&topology, 8080));
    topology.world.kill_daemon();
    names(&topology.world.client, (HOST_ADDRESS, 8080));
    std::fs::write(&late, "").unwrap();
    topology.wait_until("listening", || listens_directly(&topology, 8081));
    names(&topology.world.client, (HOST_ADDRESS, 8081));
    topology.start_daemon();
    for port in [8080, 8081] {
        names(&topology.world.client, (HOST_ADDRESS, port));
    }
    let web = topology.inspect("web");
    assert!(web.endpoints[0].ports.iter().all(|port| port.held));
    // Of a sandbox that goes while there is no daemon, nothing is left.
    let folder = topology.world.run_dir().join("direct");
    assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 1);
    topology.world.kill_daemon();
    kill(
        Pid::from_raw(web.pid.unwrap().cast_signed()),
        Signal::SIGKILL,
    )
    .unwrap();
    topology.start_daemon();
    topology.wait_until("gone", || std::fs::read_dir(&folder).unwrap().count() == 0);
}

#[test]
fn a_namespace_that_was_attached_has_direct_ports_of_programs_that_netdp_starts_there() {
    let Some(topology) = Topology::start("dir-attach") else {
        return;
    };
    let inside = topology.world.add_namespace("attached").unwrap();
    let path = inside.path().display();
    topology.netdp(&format!(
        "attach --name net --netns {path} -p 8080:80,direct -p 5353:53/udp,direct"
    ));
    let own = own_address(&topology, "net");
    // Whoever is there already is reached as before.
    let listener = listen(&inside, Ipv4Addr::UNSPECIFIED, 80);
    let near = connect(&topology.world.client, (HOST_ADDRESS, 8080));
    talk(&near, &listener.accept().0);
    drop((near, listener));
    serve(&topology, "web", "--network container:net", "0.0.0.0:80");
    assert!(listens_directly(&topology, 8080));
    let (local, peer) = names(&topology.world.client, (HOST_ADDRESS, 8080));
    assert_eq!(
        (local, peer.ip()),
        ((own, 80).into(), CLIENT_ADDRESS.into())
    );
    names(&topology.host_program(), (own, 80));
    // Another one there has the port no more.
    topology.netdp(&format!(
        "run -d --name late --network container:net -- {SERVER} 0.0.0.0:80"
    ));
    topology.wait_until("told", || topology.netdp("logs late").contains("in use"));
}

#[test]
fn only_sources_that_are_allowed_get_in() {
    let Some(topology) = Topology::start("dir-allow") else {
        return;
    };
    let options = format!("--allow {CLIENT_ADDRESS}/32 -p 8080:80,direct");
    serve(&topology, "web", &options, "0.0.0.0:80");
    let world = &topology.world;
    names(&world.client, (HOST_ADDRESS, 8080));
    let to = SocketAddr::from((HOST_ADDRESS, 8080));
    assert!(connect_within(&world.outside, None, to, SILENCE).is_err());
}

#[test]
fn what_is_direct_is_shown() {
    let Some(topology) = Topology::start("dir-shown") else {
        return;
    };
    serve(
        &topology,
        "web",
        "-p 8080:80,direct -p 8443:443",
        "0.0.0.0:80",
    );
    let ps = topology.netdp("ps");
    assert!(ps.contains("0.0.0.0:8080->80/tcp,direct"), "{ps}");
    assert!(
        topology
            .netdp("port web")
            .contains("80/tcp,direct -> 0.0.0.0:8080")
    );
    let ports = &topology.inspect("web").endpoints[0].ports;
    let direct: Vec<_> = ports
        .iter()
        .map(|port| (port.container_port, port.direct))
        .collect();
    assert_eq!(direct, [(80, true), (443, false)]);
    topology.netdp("publish web 8082:82,direct");
    topology.netdp("unpublish web 8082:82");
    let refused = topology.refused("publish web 9090:80");
    assert!(
        refused.contains("a direct port is published once"),
        "{refused}"
    );
    let _plain = topology.container("plain", "");
    let refused = topology.refused("publish plain 9091:90,direct");
    assert!(refused.contains("netdp run"), "{refused}");
}

#[test]
fn an_unpublished_port_is_closed_whoever_has_its_socket() {
    let Some(topology) = Topology::start("dir-gone") else {
        return;
    };
    let ports = "-p 8080:80,direct -p 8081:81,direct";
    serve(&topology, "web", ports, "0.0.0.0:80 0.0.0.0:81");
    let client = &topology.world.client;
    let open = connect(client, (HOST_ADDRESS, 8080));
    names(client, (HOST_ADDRESS, 8080));
    topology.netdp("unpublish web 8080:80");
    assert!(!listens_directly(&topology, 8080));
    let mut said = BufReader::new(&open);
    let mut line = String::new();
    said.read_line(&mut line).unwrap();
    assert!(said.read_line(&mut line).is_err(), "{line}");
    let to = SocketAddr::from((HOST_ADDRESS, 8080));
    assert!(connect_within(client, None, to, SILENCE).is_err());
    bind_port(&topology.host_program(), HOST_ADDRESS, 8080).unwrap();
    names(client, (HOST_ADDRESS, 8081));
}

#[test]
fn a_network_may_ask_for_direct_ports() {
    let Some(topology) = Topology::start("dir-network") else {
        return;
    };
    topology.netdp("network create --opt publish=direct fast");
    let options = "--network fast -p 8080:80 -p 8081:81 -p 8082:81";
    serve(&topology, "web", options, "0.0.0.0:80 0.0.0.0:81");
    assert!(listens_directly(&topology, 8080));
    let own = own_address(&topology, "web");
    for (port, inside) in [(8080, 80), (8081, 81), (8082, 81)] {
        let (local, _) = names(&topology.world.client, (HOST_ADDRESS, port));
        assert_eq!(local, (own, inside).into());
    }
    let ports = topology.netdp("port web");
    assert!(ports.contains("80/tcp,direct -> 0.0.0.0:8080"), "{ports}");
    assert!(ports.contains("81/tcp -> 0.0.0.0:8081"), "{ports}");
    // What is published later, too; and what can't be is said.
    topology.netdp("publish web 8083:83");
    let ports = topology.netdp("port web");
    assert!(ports.contains("83/tcp,direct -> 0.0.0.0:8083"), "{ports}");
    let words = ["publish", "web", "8084:80"];
    let refused = topology.refused(&words.join(" "));
    assert!(
        refused.contains("a direct port is published once"),
        "{refused}"
    );
    let inside = topology.world.add_namespace("attached").unwrap();
    let path = inside.path().display().to_string();
    let words = [
        "attach",
        "--netns",
        &path,
        "--network",
        "fast",
        "-p",
        "8090:80",
    ];
    let attached = topology.world.netdp(&words).unwrap();
    assert!(attached.status.success());
    let said = String::from_utf8(attached.stderr).unwrap();
    assert!(said.contains("is not direct: nobody looks"), "{said}");
}
