//! Direct ports as `netdp flows`, `netdp explain` and `netdp doctor` show them.

use std::io::{BufRead, BufReader, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};

use netdp::api::types::{DirectCounters, Flow};
use netdp::demo::world::{CLIENT_ADDRESS, CLIENT_ADDRESS6, HOST_ADDRESS, HOST_ADDRESS6};
use netdp_tests::{PATIENCE, Place, Topology, connect, udp};
use nix::sys::signal::{Signal, kill};

/// A server that tells names, unmodified.
const SERVER: &str = env!("CARGO_BIN_EXE_tells_names");

/// Starts the server and waits until it has bound its port. The sandbox's first
/// address.
#[track_caller]
fn serve(topology: &Topology, name: &str, options: &str, words: &str) -> IpAddr {
    topology.netdp(&format!(
        "run -d --name {name} {options} -- {SERVER} {words}"
    ));
    topology.wait_until("bound", || {
        !topology.netdp(&format!("logs {name}")).is_empty()
    });
    topology.inspect(name).endpoints[0].addresses[0].addr()
}

/// A connection that the server has accepted.
#[track_caller]
fn accepted(from: &impl Place, to: impl Into<SocketAddr>) -> TcpStream {
    let stream = connect(from, to.into());
    let mut line = String::new();
    BufReader::new(&stream).read_line(&mut line).unwrap();
    stream
}

/// The flows that `netdp flows` shows with these options.
#[track_caller]
fn flows(topology: &Topology, options: &str) -> Vec<Flow> {
    let text = topology.netdp(&format!("flows --format json {options}"));
    serde_json::from_str(&text).expect("flows in JSON")
}

/// Peer, host and container of each.
fn ends(flows: &[Flow]) -> Vec<(SocketAddr, SocketAddr, SocketAddr)> {
    let ends = |flow: &Flow| (flow.remote, flow.host, flow.container.expect("a container"));
    flows.iter().map(ends).collect()
}

#[test]
fn connections_of_direct_ports_are_flows_while_they_last() {
    let Some(topology) = Topology::start("dis-tcp") else {
        return;
    };
    let own = serve(&topology, "web", "-p 8080:80,direct", "0.0.0.0:80");
    let inside = SocketAddr::new(own, 80);
    let other = topology.container("other", "");
    assert!(topology.flows().is_empty());
    let far = accepted(&topology.world.client, (HOST_ADDRESS, 8080));
    let near = accepted(&other, inside);
    let here = accepted(&topology.host_program(), (Ipv4Addr::LOCALHOST, 8080));
    let shown = topology.flows();
    // A neighbour is led to the address of the host that the port answers from.
    let (outside, here_at) = ((HOST_ADDRESS, 8080), (Ipv4Addr::LOCALHOST, 8080));
    let connections = [(&here, here_at), (&near, outside), (&far, outside)];
    let mut expected = connections.map(|(stream, at)| {
        let peer = stream.local_addr().unwrap();
        (peer, SocketAddr::from(at), inside)
    });
    expected.sort();
    assert_eq!(ends(&shown), expected);
    for flow in &shown {
        assert_eq!(
            (
                flow.protocol.as_str(),
                flow.kind.as_str(),
                flow.state.as_str()
            ),
            ("tcp", "direct", "established")
        );
        assert!(flow.idle.unwrap() < 60 && flow.timeout.is_none() && !flow.pending);
    }
    let many = |options: &str| flows(&topology, options).len();
    assert_eq!((many("--sandbox web"), many("--sandbox other")), (3, 0));
    assert_eq!((many("--proto tcp"), many("--proto udp")), (3, 0));
    assert_eq!(many(&format!("--peer {CLIENT_ADDRESS}")), 1);
    assert_eq!(many("--limit 2"), 2);
    let count = topology.netdp("flows --count --sandbox web");
    let said = "0 flows, 0 of them unanswered, and 3 of direct ports\n";
    assert_eq!(count, said);
    let table = topology.netdp("flows");
    assert_eq!(table.matches(" direct ").count(), 3, "{table}");
    // Of what the server has said and heard, as far as these three have it.
    let counted = || {
        let endpoints = topology.statistics().endpoints;
        let mut of = endpoints.into_iter().filter(|it| it.name == "web");
        of.next().expect("its counters").direct
    };
    (&far).write_all(b"seven..").unwrap();
    topology.wait_until("counted", || counted().rx_bytes == 7);
    let open = counted();
    assert!(open.connections == 3 && open.tx_bytes >= 3 * 20, "{open:?}");
    let table = topology.netdp("stats");
    assert!(table.contains("OPEN DIRECT CONNECTIONS"), "{table}");
    drop((far, near, here));
    topology.wait_until("over", || topology.flows().is_empty());
    assert_eq!(counted(), DirectCounters::default());
    assert!(!topology.netdp("stats").contains("DIRECT"));
}

#[test]
fn both_families_of_one_socket_are_told_apart() {
    let Some(topology) = Topology::with_ipv6("dis-both") else {
        return;
    };
    serve(
        &topology,
        "web",
        "--network six -p 8080:80,direct",
        "[::]:80",
    );
    let client = &topology.world.client;
    let v4 = accepted(client, (HOST_ADDRESS, 8080));
    let v6 = accepted(client, (HOST_ADDRESS6, 8080));
    let addresses = &topology.inspect("web").endpoints[0].addresses;
    let inside = |is_v4| {
        let own = addresses.iter().find(|it| it.addr().is_ipv4() == is_v4);
        SocketAddr::new(own.unwrap().addr(), 80)
    };
    let expected = [
        (
            v4.local_addr().unwrap(),
            (HOST_ADDRESS, 8080).into(),
            inside(true),
        ),
        (
            v6.local_addr().unwrap(),
            (HOST_ADDRESS6, 8080).into(),
            inside(false),
        ),
    ];
    assert_eq!(ends(&topology.flows()), expected);
    assert_eq!(
        flows(&topology, &format!("--peer {CLIENT_ADDRESS6}")).len(),
        1
    );
}

#[test]
fn clients_of_udp_are_shown_until_their_port_goes() {
    let Some(topology) = Topology::start("dis-udp") else {
        return;
    };
    let own = serve(
        &topology,
        "dns",
        "-p 5353:53/udp,direct",
        "--udp 0.0.0.0:53",
    );
    let client = udp(&topology.world.client, Ipv4Addr::UNSPECIFIED, 0);
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    client.connect((HOST_ADDRESS, 5353)).unwrap();
    client.send(b"?").unwrap();
    client.recv(&mut [0; 256]).expect("an answer");
    let shown = flows(&topology, "--proto udp --sandbox dns");
    let expected = (
        client.local_addr().unwrap(),
        (Ipv4Addr::UNSPECIFIED, 5353).into(),
        (own, 53).into(),
    );
    assert_eq!(ends(&shown), [expected]);
    assert_eq!(
        (shown[0].kind.as_str(), shown[0].state.as_str()),
        ("direct", "heard")
    );
    topology.netdp("unpublish dns 5353:53/udp");
    assert!(topology.flows().is_empty());
}

#[test]
fn what_is_explained_is_whether_the_hosts_socket_takes_it() {
    let Some(topology) = Topology::start("dis-explain") else {
        return;
    };
    topology.netdp("run -d --name idle -p 9090:80,direct -- sleep 60");
    let own = serve(&topology, "web", "-p 8080:80,direct", "0.0.0.0:80");
    serve(
        &topology,
        "dns",
        "-p 5353:53/udp,direct",
        "--udp 0.0.0.0:53",
    );
    let other = topology.container("other", "");
    let from = format!("{CLIENT_ADDRESS}:40000");
    let near = format!("{}:40000", other.address);
    let explain = |words: String| topology.netdp(&format!("explain {words}"));
    let taken = "left to the host's own stack, for a socket of web's";
    for words in [
        format!("tcp {from} {HOST_ADDRESS}:8080"),
        format!("tcp {near} {HOST_ADDRESS}:8080"),
        format!("tcp {near} {own}:80"),
        "tcp 127.0.0.1:40000 127.0.0.1:8080".to_owned(),
        format!("tcp {HOST_ADDRESS}:40000 {own}:80"),
    ] {
        let said = explain(words.clone());
        assert!(said.contains(taken), "{words}: {said}");
        assert!(said.contains("the port is direct"), "{words}: {said}");
    }
    let said = explain(format!("udp {from} {HOST_ADDRESS}:5353"));
    assert!(said.contains("for a socket of dns's"), "{said}");
    // The sandbox's own, by which its programs reach themselves.
    let said = explain(format!("tcp {own}:40000 {own}:80"));
    assert!(said.contains(taken), "{said}");
    let said = explain(format!("tcp {own}:40000 {own}:81"));
    assert!(said.contains("delivered inside web"), "{said}");
    // Nobody listens there directly.
    let said = explain(format!("tcp {from} {HOST_ADDRESS}:9090"));
    assert!(said.contains("delivered to idle"), "{said}");
    // An open connection goes on without a listener.
    let open = accepted(&topology.world.client, (HOST_ADDRESS, 8080));
    let peer = open.local_addr().unwrap();
    assert!(explain(format!("tcp {peer} {HOST_ADDRESS}:8080")).contains(taken));
}

/// Nobody is left to answer its programs, and somebody should know.
#[test]
fn a_dead_supervisor_is_shown() {
    let Some(topology) = Topology::start("dsh-dead") else {
        return;
    };
    let [script, late] = ["late.sh", "now"].map(|name| topology.world.dir().join(name));
    let text = format!(
        "{SERVER} 0.0.0.0:80 & while [ ! -e {} ]; do sleep 0.05; done; {SERVER} 0.0.0.0:81\n",
        late.display()
    );
    std::fs::write(&script, text).unwrap();
    let script = script.display();
    topology.netdp(&format!(
        "run -d --name web -p 8080:80,direct -- sh {script}"
    ));
    let has_said = |what: &str| topology.netdp("logs web").contains(what);
    topology.wait_until("listening", || has_said("0.0.0.0:80 is"));
    let is_shown = || {
        topology
            .netdp("doctor --format json")
            .contains("direct ports of web has died")
    };
    assert!(!is_shown());
    let [supervisor] = topology.supervisors()[..] else {
        panic!("a sandbox has one");
    };
    kill(supervisor, Signal::SIGKILL).unwrap();
    topology.wait_until("shown", is_shown);
    // What the program has goes on, and it gets nothing more.
    connect(&topology.world.client, (HOST_ADDRESS, 8080));
    std::fs::write(&late, "").unwrap();
    topology.wait_until("told", || has_said("0.0.0.0:81: Function not implemented"));
    topology.netdp("rm -f web");
    assert!(!is_shown());
    let folder = topology.world.run_dir().join("supervisors");
    assert_eq!(std::fs::read_dir(folder).unwrap().count(), 0);
}
