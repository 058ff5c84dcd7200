//! Direct ports of UDP: who reaches the socket, and who sees whose address.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::process::Command;
use std::time::{Duration, Instant};

use netdp::demo::world::{
    CLIENT_ADDRESS, CLIENT_ADDRESS6, HOST_ADDRESS, HOST_ADDRESS6, OUTSIDE_ADDRESS,
};
use netdp::netns::Namespace;
use netdp_tests::{Place, Reached, SILENCE, Topology, hears, udp};

/// A server that tells names, unmodified.
const SERVER: &str = env!("CARGO_BIN_EXE_tells_names");

/// What the server says of a client: its own name, and the client's.
#[track_caller]
fn names(from: &impl Place, to: (impl Into<IpAddr> + Copy, u16)) -> (SocketAddr, SocketAddr) {
    let to = SocketAddr::from((to.0.into(), to.1));
    let any: IpAddr = match to {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    // One that is connected hears nobody else.
    let connected = udp(from, any, 0);
    connected.connect(to).unwrap();
    connected.send(b"?").unwrap();
    ask(&connected);
    let client = udp(from, any, 0);
    client.send_to(b"?", to).unwrap();
    let (said, answered_from) = ask(&client);
    assert_eq!(answered_from, to, "the answer's sender");
    let (local, peer) = said.split_once(' ').expect("two names");
    let (local, peer): (SocketAddr, SocketAddr) = (local.parse().unwrap(), peer.parse().unwrap());
    assert_eq!(peer.port(), client.local_addr().unwrap().port());
    (canonical(local), canonical(peer))
}

#[track_caller]
fn ask(client: &UdpSocket) -> (String, SocketAddr) {
    client
        .set_read_timeout(Some(netdp_tests::PATIENCE))
        .unwrap();
    let mut answer = [0; 256];
    let (length, from) = client.recv_from(&mut answer).expect("an answer");
    (String::from_utf8(answer[..length].to_vec()).unwrap(), from)
}

/// Whether nobody answers.
fn is_silent(from: &impl Place, to: (impl Into<IpAddr>, u16)) -> bool {
    let client = udp(from, Ipv4Addr::UNSPECIFIED, 0);
    client.set_read_timeout(Some(SILENCE)).unwrap();
    client.send_to(b"?", (to.0.into(), to.1)).unwrap();
    client.recv(&mut [0; 256]).is_err()
}

/// Without the writing of IPv4 as IPv6.
fn canonical(addr: SocketAddr) -> SocketAddr {
    SocketAddr::new(addr.ip().to_canonical(), addr.port())
}

/// Starts the server and waits until it has said something of each address.
#[track_caller]
fn serve(topology: &Topology, name: &str, options: &str, addresses: &str) -> String {
    topology.netdp(&format!(
        "run -d --name {name} {options} -- {SERVER} --udp {addresses}"
    ));
    let many = addresses
        .split(' ')
        .filter(|it| !it.starts_with('-'))
        .count();
    topology.wait_until("bound", || {
        topology.netdp(&format!("logs {name}")).lines().count() >= many
    });
    topology.netdp(&format!("logs {name}"))
}

#[track_caller]
fn own_addresses(topology: &Topology, name: &str) -> (Ipv4Addr, Option<Ipv6Addr>) {
    let addresses = &topology.inspect(name).endpoints[0].addresses;
    let v4 = addresses.iter().find_map(|net| match net.addr() {
        IpAddr::V4(address) => Some(address),
        IpAddr::V6(_) => None,
    });
    let v6 = addresses.iter().find_map(|net| match net.addr() {
        IpAddr::V4(_) => None,
        IpAddr::V6(address) => Some(address),
    });
    (v4.expect("an address of IPv4"), v6)
}

/// How many sockets of UDP the host has at this port, with the one of each family
/// that holds it.
#[track_caller]
fn bound(topology: &Topology, port: u16) -> usize {
    let tables = ["/proc/net/udp", "/proc/net/udp6"];
    let output = topology.world.on_host("cat").args(tables).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let at = format!(":{port:04X}");
    let lines = text.lines().filter(|line| {
        let local = line.split_whitespace().nth(1);
        local.is_some_and(|local| local.ends_with(&at))
    });
    lines.count()
}

#[test]
fn a_server_has_the_hosts_socket_and_its_own_name() {
    let Some(topology) = Topology::start("diu-alone") else {
        return;
    };
    let said = serve(&topology, "dns", "-p 5353:53/udp,direct", "0.0.0.0:53");
    assert_eq!(said, "0.0.0.0:53 is 0.0.0.0:53\n");
    assert_eq!(bound(&topology, 5353), 2);
    let (local, peer) = names(&topology.world.client, (HOST_ADDRESS, 5353));
    assert_eq!(local, "0.0.0.0:53".parse().unwrap());
    assert_eq!(peer.ip(), CLIENT_ADDRESS);
    // Nothing of it is a flow of the datapath.
    assert!(topology.flows().iter().all(|flow| flow.kind == "direct"));
    // The same port of TCP is another one.
    topology.netdp("publish dns 5353:53");
}

#[test]
fn clients_of_every_place_hear_whom_they_asked() {
    let Some(topology) = Topology::start("diu-places") else {
        return;
    };
    serve(&topology, "dns", "-p 5353:53/udp,direct", "0.0.0.0:53");
    let (own, _) = own_addresses(&topology, "dns");
    let other = topology.container("other", "");
    for to in [(own, 53), (other.gateway, 5353), (HOST_ADDRESS, 5353)] {
        let (_, peer) = names(&other, to);
        assert_eq!(peer.ip(), IpAddr::from(other.address), "{to:?}");
    }
    let host = topology.host_program();
    for to in [(own, 53), (Ipv4Addr::LOCALHOST, 5353), (HOST_ADDRESS, 5353)] {
        names(&host, to);
    }
    let inside = Namespace::open(&topology.inspect("dns").netns).unwrap();
    let inside = Reached::new(&topology.world, &inside);
    let (_, peer) = names(&inside, (Ipv4Addr::LOCALHOST, 53));
    assert_eq!(peer.ip(), IpAddr::from(own));
    names(&topology.world.client, (HOST_ADDRESS, 5353));
}

#[test]
fn a_socket_of_both_families_hears_both() {
    let Some(topology) = Topology::with_ipv6("diu-both") else {
        return;
    };
    let options = "--network six -p 5353:53/udp,direct";
    let said = serve(&topology, "dns", options, "[::]:53");
    assert_eq!(said, "[::]:53 is [::]:53\n");
    assert_eq!(bound(&topology, 5353), 3);
    let (own, own6) = own_addresses(&topology, "dns");
    let own6 = own6.expect("an address of IPv6");
    let client = &topology.world.client;
    assert_eq!(names(client, (HOST_ADDRESS, 5353)).1.ip(), CLIENT_ADDRESS);
    assert_eq!(names(client, (HOST_ADDRESS6, 5353)).1.ip(), CLIENT_ADDRESS6);
    let other = topology.container("other", "--network six");
    names(&other, (own, 53));
    names(&other, (own6, 53));
    names(&other, (HOST_ADDRESS6, 5353));
    let host = topology.host_program();
    names(&host, (own6, 53));
    names(&host, (Ipv6Addr::LOCALHOST, 5353));
    let inside = Namespace::open(&topology.inspect("dns").netns).unwrap();
    let inside = Reached::new(&topology.world, &inside);
    names(&inside, (Ipv6Addr::LOCALHOST, 53));
    names(&inside, (Ipv4Addr::LOCALHOST, 53));
}

#[test]
fn answers_come_from_the_address_that_was_asked() {
    let Some(topology) = Topology::start("diu-second") else {
        return;
    };
    let second = Ipv4Addr::from(u32::from(HOST_ADDRESS) + 40);

    topology.ip(
        &topology.world.host,
        &format!("address add {second}/24 dev eth0\n"),
    );
    serve(&topology, "dns", "-p 5353:53/udp,direct", "0.0.0.0:53");
    let client = &topology.world.client;
    let one = udp(client, Ipv4Addr::UNSPECIFIED, 0);
    // One after the other, from the same port.
    for to in [HOST_ADDRESS, HOST_ADDRESS, second, HOST_ADDRESS, second] {
        one.send_to(b"?", (to, 5353)).unwrap();
        let (said, from) = ask(&one);
        assert_eq!(from, (to, 5353).into(), "{said}");
    }
    names(client, (second, 5353));
}

#[test]
fn what_binds_unseen_is_reached_as_before() {
    let Some(topology) = Topology::start("diu-unseen") else {
        return;
    };
    topology.netdp("run -d --name dns -p 5353:53/udp,direct -- sleep 60");
    let inside = Namespace::open(&topology.inspect("dns").netns).unwrap();
    let unseen = udp(&inside, Ipv4Addr::UNSPECIFIED, 53);
    let client = udp(&topology.world.client, Ipv4Addr::UNSPECIFIED, 0);
    client.connect((HOST_ADDRESS, 5353)).unwrap();
    client.send(b"there?").unwrap();
    let from = hears(&unseen, b"there?");
    unseen.send_to(b"here", from).unwrap();
    hears(&client, b"here");
    assert_eq!(bound(&topology, 5353), 1);
}

#[test]
fn so_many_share_a_port_and_no_more() {
    const MOST: usize = 1024;
    let Some(topology) = Topology::start("diu-many") else {
        return;
    };
    let script = topology.world.dir().join("many.sh");
    let all = ["0.0.0.0:53"; MOST + 1].join(" ");
    let text = format!("ulimit -n 4096\nexec {SERVER} --udp --shared {all}\n");
    std::fs::write(&script, text).unwrap();
    let run = "run -d --name dns -p 5353:53/udp,direct -- sh";
    topology.netdp(&format!("{run} {}", script.display()));
    let began = Instant::now();
    let said = loop {
        let said = topology.netdp("logs dns");
        if said.contains("in use") {
            break said;
        }
        assert!(began.elapsed() < Duration::from_secs(90), "{said}");
        std::thread::sleep(Duration::from_millis(100));
    };
    let many = said.matches("0.0.0.0:53 is 0.0.0.0:53").count();
    assert_eq!(many, MOST);
    assert!(
        said.contains("1024 sockets share 0.0.0.0:5353 already"),
        "{said}"
    );
    // With the one that holds the port.
    assert_eq!(bound(&topology, 5353), MOST + 1);
    names(&topology.world.client, (HOST_ADDRESS, 5353));
}

#[test]
fn a_port_is_taken_within_a_sandbox_unless_it_is_shared() {
    let Some(topology) = Topology::start("diu-taken") else {
        return;
    };
    let options = "-p 5353:53/udp,direct";
    let said = serve(&topology, "dns", options, "0.0.0.0:53 0.0.0.0:53");
    assert!(
        said.ends_with("0.0.0.0:53: Address already in use (os error 98)\n"),
        "{said}"
    );
    topology.netdp("rm -f dns");
    let shared = "--shared 0.0.0.0:53 0.0.0.0:53 0.0.0.0:53";
    let said = serve(&topology, "dns", options, shared);
    assert_eq!(said, "0.0.0.0:53 is 0.0.0.0:53\n".repeat(3));
    for _ in 0..9 {
        names(&topology.world.client, (HOST_ADDRESS, 5353));
    }
}

#[test]
fn sockets_outlive_the_daemon_and_hear_everything_beside_the_one_that_holds_the_port() {
    let Some(mut topology) = Topology::start("diu-daemon") else {
        return;
    };
    serve(&topology, "dns", "-p 5353:53/udp,direct", "0.0.0.0:53");
    topology.world.kill_daemon();
    names(&topology.world.client, (HOST_ADDRESS, 5353));
    topology.start_daemon();
    for _ in 0..20 {
        names(&topology.world.client, (HOST_ADDRESS, 5353));
    }
    assert!(topology.inspect("dns").endpoints[0].ports[0].held);
}

#[test]
fn only_sources_that_are_allowed_get_in() {
    let Some(topology) = Topology::start("diu-allow") else {
        return;
    };
    let options = format!("--allow {CLIENT_ADDRESS}/32 -p 5353:53/udp,direct");
    serve(&topology, "dns", &options, "0.0.0.0:53");
    let world = &topology.world;
    names(&world.client, (HOST_ADDRESS, 5353));
    assert!(is_silent(&world.outside, (HOST_ADDRESS, 5353)));
    serve(&topology, "all", "-p 5354:53/udp,direct", "0.0.0.0:53");
    names(&world.outside, (HOST_ADDRESS, 5354));
    topology.netdp(&format!("block {OUTSIDE_ADDRESS}"));
    assert!(is_silent(&world.outside, (HOST_ADDRESS, 5354)));
}

#[test]
fn an_unpublished_port_is_free_whoever_has_its_socket() {
    let Some(topology) = Topology::start("diu-gone") else {
        return;
    };
    let ports = "-p 5353:53/udp,direct -p 5354:54/udp,direct";
    // The program keeps the socket.
    serve(&topology, "dns", ports, "0.0.0.0:53 0.0.0.0:54");
    let client = &topology.world.client;
    names(client, (HOST_ADDRESS, 5353));
    topology.netdp("unpublish dns 5353:53/udp");
    assert!(is_silent(client, (HOST_ADDRESS, 5353)));
    names(client, (HOST_ADDRESS, 5354));
    serve(&topology, "next", "-p 5353:53/udp,direct", "0.0.0.0:53");
    for _ in 0..9 {
        names(client, (HOST_ADDRESS, 5353));
    }
    topology.netdp("rm -f next");
    topology.netdp("publish dns 5353:55/udp");
    assert_eq!(bound(&topology, 5353), 2, "the program keeps its socket");
    topology.netdp("rm -f dns");
    udp(&topology.host_program(), Ipv4Addr::UNSPECIFIED, 5353);
}

/// Whether Python is here.
fn has_python() -> bool {
    let found = Command::new("python3").arg("--version").output();
    let is_here = found.is_ok_and(|output| output.status.success());
    if !is_here {
        println!("skipped: there is no python3");
    }
    is_here
}

/// Starts a program of Python, and waits until it has said that it is ready.
#[track_caller]
fn run_python(topology: &Topology, options: &str, script: &str) {
    let run = ["run", "-d", "--name", "dns"];
    let options = options.split(' ');
    let program = ["--", "python3", "-u", "-c", script];
    let words: Vec<&str> = run.into_iter().chain(options).chain(program).collect();
    topology
        .world
        .netdp_ok(&words)
        .unwrap_or_else(|error| panic!("{error}"));
    topology.wait_until("ready", || topology.netdp("logs dns").contains("ready"));
}

/// As servers of names do that serve several addresses: they ask at which one a
/// datagram came in, and answer from there.
#[test]
fn who_answers_by_control_messages_is_heard() {
    let Some(topology) = Topology::with_ipv6("diu-pktinfo") else {
        return;
    };
    if !has_python() {
        return;
    }
    let script = "import socket, threading
def serve(family, level, ask, number):
    made = socket.socket(family, socket.SOCK_DGRAM)
    made.setsockopt(level, ask, 1)
    if family == socket.AF_INET6: made.setsockopt(level, socket.IPV6_V6ONLY, 1)
    made.bind(('', 53))
    def answer():
        while True:
            data, control, flags, peer = made.recvmsg(999, 999)
            told = [value for (lev, kind, value) in control if kind == number][0]
            if family == socket.AF_INET:
                named = socket.inet_ntoa(told[8:12])
                back = bytes(4) + told[4:8] + bytes(4)
            else:
                named = socket.inet_ntop(family, told[:16])
                back = told[:16] + bytes(4)
            made.sendmsg([named.encode()], [(level, number, back)], 0, peer)
    threading.Thread(target=answer).start()
serve(socket.AF_INET, socket.IPPROTO_IP, 8, 8)
serve(socket.AF_INET6, socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, socket.IPV6_PKTINFO)
print('ready')";
    run_python(&topology, "--network six -p 5353:53/udp,direct", script);
    assert_eq!(bound(&topology, 5353), 4);
    let (own, own6) = own_addresses(&topology, "dns");
    let other = topology.container("other", "--network six");
    let client = &topology.world.client;
    let told = |place: &dyn Fn() -> UdpSocket, to: SocketAddr| {
        let asks = place();
        asks.connect(to).unwrap();
        asks.send(b"?").unwrap();
        ask(&asks).0
    };
    let v4 = || udp(client, Ipv4Addr::UNSPECIFIED, 0);
    let v6 = || udp(client, Ipv6Addr::UNSPECIFIED, 0);
    // What the program is told is the host's address: the socket is the host's.
    assert_eq!(
        told(&v4, (HOST_ADDRESS, 5353).into()),
        HOST_ADDRESS.to_string()
    );
    assert_eq!(
        told(&v6, (HOST_ADDRESS6, 5353).into()),
        HOST_ADDRESS6.to_string()
    );
    let v4 = || udp(&other, Ipv4Addr::UNSPECIFIED, 0);
    let v6 = || udp(&other, Ipv6Addr::UNSPECIFIED, 0);
    for to in [(own, 53), (other.gateway, 5353), (HOST_ADDRESS, 5353)] {
        told(&v4, to.into());
    }
    for to in [(own6.unwrap(), 53), (HOST_ADDRESS6, 5353)] {
        told(&v6, to.into());
    }
}

#[test]
fn a_program_hears_that_its_client_has_gone() {
    let Some(topology) = Topology::start("diu-error") else {
        return;
    };
    if !has_python() {
        return;
    }
    let script = "import socket
made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
made.setsockopt(socket.IPPROTO_IP, 11, 1)
made.bind(('', 53))
print('ready')
data, peer = made.recvfrom(999)
made.settimeout(0.1)
# Until the client has gone.
for _ in range(90):
    try:
        made.sendto(b'answer', peer)
        made.recvfrom(999)
    except socket.timeout: continue
    except OSError as error:
        print('error', error.errno)
        break
data, control, flags, gone = made.recvmsg(999, 999, socket.MSG_ERRQUEUE)
print('gone', data, gone == peer)";
    run_python(&topology, "-p 5353:53/udp,direct", script);
    let client = udp(&topology.world.client, Ipv4Addr::UNSPECIFIED, 0);
    client.send_to(b"?", (HOST_ADDRESS, 5353)).unwrap();
    drop(client);
    topology.wait_until("told", || topology.netdp("logs dns").contains("gone"));
    let said = topology.netdp("logs dns");
    assert!(
        said.contains("error 111") && said.contains("gone b'answer' True"),
        "{said}"
    );
}
