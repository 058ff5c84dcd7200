//! Beside Docker's own bridge networks: a bridge whose container publishes
//! ports by netfilter, on the same host.

use std::{
    fs,
    io::Write,
    net::{Ipv4Addr, SocketAddr},
    process::Stdio,
};

use netdp::{demo::world::HOST_ADDRESS, netns::Namespace};
use netdp_tests::{
    SILENCE, Topology, connect, connect_within, hears, listen, says_nothing, talk, udp,
};

const ANY: Ipv4Addr = Ipv4Addr::UNSPECIFIED;
const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 88, 0, 1);
const ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 88, 0, 2);

/// What dockerd makes for a bridge network with one container that publishes
/// 9090/tcp and 9053/udp (`iptables-save` with Docker 20.10 to 27).
const RULES: &str = "\
*nat
:PREROUTING ACCEPT
:INPUT ACCEPT
:OUTPUT ACCEPT
:POSTROUTING ACCEPT
:DOCKER -
-A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER
-A OUTPUT ! -d 127.0.0.0/8 -m addrtype --dst-type LOCAL -j DOCKER
-A POSTROUTING -s 10.88.0.0/16 ! -o docker0 -j MASQUERADE
-A DOCKER -i docker0 -j RETURN
-A DOCKER ! -i docker0 -p tcp -m tcp --dport 9090 -j DNAT --to-destination 10.88.0.2:80
-A DOCKER ! -i docker0 -p udp -m udp --dport 9053 -j DNAT --to-destination 10.88.0.2:53
COMMIT
*filter
:INPUT ACCEPT
:FORWARD DROP
:OUTPUT ACCEPT
:DOCKER -
-A FORWARD -o docker0 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A FORWARD -o docker0 -j DOCKER
-A FORWARD -i docker0 ! -o docker0 -j ACCEPT
-A DOCKER -d 10.88.0.2/32 ! -i docker0 -o docker0 -p tcp -m tcp --dport 80 -j ACCEPT
-A DOCKER -d 10.88.0.2/32 ! -i docker0 -o docker0 -p udp -m udp --dport 53 -j ACCEPT
COMMIT
";

/// The host with that bridge, and its container; netdp's daemon has these
/// flags. None, with the reason printed, where there is no iptables.
fn topology(name: &str, flags: &[&str]) -> Option<(Topology, Namespace)> {
    let mut topology = Topology::without_daemon(name)?;
    let world = &topology.world;
    let docker = world.add_namespace("docker").unwrap();
    topology.ip(
        &world.host,
        &format!(
            "link add docker0 type bridge\n\
             addr add {GATEWAY}/16 dev docker0\n\
             link set docker0 up\n\
             link add veth0 type veth peer name eth0 netns {}\n\
             link set veth0 master docker0 up\n",
            docker.path().display()
        ),
    );
    topology.ip(
        &docker,
        &format!(
            "addr add {ADDRESS}/16 dev eth0\n\
             link set eth0 up\n\
             route add default via {GATEWAY}\n"
        ),
    );
    let forward = || fs::write("/proc/sys/net/ipv4/ip_forward", "1");
    world.host.run(forward).unwrap().unwrap();
    let mut command = world.host.command("iptables-restore");
    let mut child = match command.stdin(Stdio::piped()).spawn() {
        Ok(child) => child,
        Err(error) => {
            println!("skipped: iptables-restore: {error}");
            return None;
        }
    };
    let mut input = child.stdin.take().unwrap();
    input.write_all(RULES.as_bytes()).unwrap();
    drop(input);
    assert!(child.wait().unwrap().success(), "iptables-restore");
    topology.world.start_daemon(flags).unwrap();
    Some((topology, docker))
}

#[test]
fn a_port_that_dockers_bridge_publishes_is_reached() {
    let Some((topology, docker)) = topology("bes-out", &[]) else {
        return;
    };
    topology.netdp("network create shut --internal");
    let web = topology.container("web", "-p 8080:80");
    let shut = topology.container("shut1", "--network shut");
    let (http, dns) = (listen(&docker, ANY, 80), udp(&docker, ANY, 53));
    for host in [HOST_ADDRESS, web.gateway] {
        let near = connect(&web, (host, 9090));
        let (far, from) = http.accept();
        // netfilter keeps the client's address, too.
        assert_eq!(from.ip(), web.address);
        talk(&near, &far);
        // One datagram, and one of several fragments.
        let socket = udp(&web, ANY, 0);
        for length in [10, 4_000] {
            let asked = vec![b'?'; length];
            socket.send_to(&asked, (host, 9053)).unwrap();
            let from = hears(&dns, &asked);
            let answer = vec![b'!'; length];
            dns.send_to(&answer, from).unwrap();
            assert_eq!(hears(&socket, &answer), SocketAddr::from((host, 9053)));
        }
    }
    // From outside and from the host it is reached as before.
    for place in [&topology.world.client, &topology.world.outside] {
        let near = connect(place, (HOST_ADDRESS, 9090));
        talk(&near, &http.accept().0);
    }
    // An internal network reaches nothing behind the host.
    assert!(connect_within(&shut, None, (shut.gateway, 9090), SILENCE).is_err());
}

#[test]
fn dockers_containers_get_into_no_container_of_netdp_by_its_address() {
    let Some((topology, docker)) = topology("bes-in", &[]) else {
        return;
    };
    let web = topology.container("web", "-p 8080:80 -p 5353:53/udp");
    let (http, dns) = (listen(&web, ANY, 80), udp(&web, ANY, 53));
    let dropped = topology.dropped("not-published");
    assert!(connect_within(&docker, None, (web.address, 80), SILENCE).is_err());
    let socket = udp(&docker, ANY, 0);
    socket.send_to(b"let me in", (web.address, 53)).unwrap();
    says_nothing(&dns);
    http.assert_nobody_came();
    assert!(topology.dropped("not-published") >= dropped + 2);
}

#[test]
fn dockers_containers_reach_published_ports_by_a_bridge_that_is_named() {
    let flags = ["--uplink", "eth0", "--uplink", "docker0"];
    let Some((topology, docker)) = topology("bes-named", &flags) else {
        return;
    };
    let web = topology.container("web", "-p 8080:80 -p 5353:53/udp");
    let (http, dns) = (listen(&web, ANY, 80), udp(&web, ANY, 53));
    for host in [HOST_ADDRESS, GATEWAY] {
        let near = connect(&docker, (host, 8080));
        let (far, from) = http.accept();
        assert_eq!(from.ip(), ADDRESS);
        talk(&near, &far);
        let socket = udp(&docker, ANY, 0);
        socket.send_to(b"who", (host, 5353)).unwrap();
        let from = hears(&dns, b"who");
        dns.send_to(b"me", from).unwrap();
        assert_eq!(hears(&socket, b"me"), SocketAddr::from((host, 5353)));
    } // And the other way as without the name, but for the address.
    let other = listen(&docker, ANY, 80);
    for to in [(HOST_ADDRESS, 9090), (ADDRESS, 80)] {
        let near = connect(&web, to);
        talk(&near, &other.accept().0);
    }
    let dns = udp(&docker, ANY, 53);
    let socket = udp(&web, ANY, 0);
    let asked = vec![b'?'; 4_000];
    socket.send_to(&asked, (HOST_ADDRESS, 9053)).unwrap();
    let from = hears(&dns, &asked);
    dns.send_to(&asked, from).unwrap();
    hears(&socket, &asked);
    // Containers have no more of each other than without it.
    assert!(connect_within(&docker, None, (web.address, 80), SILENCE).is_err());
    http.assert_nobody_came();
}
