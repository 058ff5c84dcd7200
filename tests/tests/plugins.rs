//! Containers that engines' plugins attached, with real sockets.

use std::{
    io::Write,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    process::Stdio,
};

use netdp::{
    demo::world::{CLIENT_ADDRESS, HOST_ADDRESS, HOST_ADDRESS6, OUTSIDE_ADDRESS},
    netns::Namespace,
};
use netdp_tests::{Topology, connect, hears, listen, talk, udp};
use serde_json::{Value, json};

const ANY: Ipv4Addr = Ipv4Addr::UNSPECIFIED;

/// netdp with these words, variables and standard input; gives what it printed.
#[track_caller]
fn plugin(topology: &Topology, words: &[&str], env: &[(&str, &str)], stdin: &Value) -> Value {
    let world = &topology.world;
    let mut command = world.on_host(world.netdp_path());
    command
        .args(words)
        .envs(env.iter().copied())
        .env("NETDP_RUN_DIR", world.run_dir())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut input = child.stdin.take().unwrap();
    input.write_all(stdin.to_string().as_bytes()).unwrap();
    drop(input);
    let output = child.wait_with_output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{text}");
    serde_json::from_str(&text).unwrap_or_default()
}

fn cni(topology: &Topology, command: &str, inside: &Namespace, id: &str, config: &Value) -> Value {
    let env = [
        ("CNI_COMMAND", command),
        ("CNI_CONTAINERID", id),
        ("CNI_NETNS", inside.path().to_str().unwrap()),
        ("CNI_IFNAME", "eth0"),
        ("CNI_PATH", "/opt/cni/bin"),
    ];
    plugin(topology, &[], &env, config)
}

/// Connections and datagrams from everywhere reach a container with ports
/// 8080/tcp and 5353/udp, with their own address; and it reaches the outside.
#[track_caller]
fn carries_traffic(topology: &Topology, inside: &Namespace) {
    let world = &topology.world;
    let (web, dns) = (listen(inside, ANY, 80), udp(inside, ANY, 53));
    for (place, address) in [
        (&world.client, CLIENT_ADDRESS),
        (&world.outside, OUTSIDE_ADDRESS),
    ] {
        let near = connect(place, (HOST_ADDRESS, 8080));
        let (far, seen) = web.accept();
        assert_eq!(seen.ip(), address);
        talk(&near, &far);
        let client = udp(place, ANY, 0);
        client.send_to(b"question", (HOST_ADDRESS, 5353)).unwrap();
        assert_eq!(hears(&dns, b"question").ip(), address);
    }
    let near = connect(&topology.host_program(), (Ipv4Addr::LOCALHOST, 8080));
    talk(&near, &web.accept().0);
    let outside = listen(&world.outside, ANY, 80);
    let near = connect(inside, (OUTSIDE_ADDRESS, 80));
    let (far, seen) = outside.accept();
    assert_eq!(seen.ip(), HOST_ADDRESS);
    talk(&near, &far);
}

#[test]
fn a_container_of_cni_is_reached_and_reaches_out() {
    let Some(topology) = Topology::start("plug-cni") else {
        return;
    };
    let inside = topology.world.add_namespace("c1").unwrap();
    let config = json!({
        "cniVersion": "1.0.0", "name": "mine", "type": "netdp",
        "runtimeConfig": {"portMappings": [
            {"hostPort": 8080, "containerPort": 80, "protocol": "tcp"},
            {"hostPort": 5353, "containerPort": 53, "protocol": "udp"},
        ]},
    });
    cni(&topology, "ADD", &inside, "c1", &config);
    carries_traffic(&topology, &inside);
    // Its neighbour on the network reaches it by its address and by the host's.
    let other = topology.world.add_namespace("c2").unwrap();
    let plain = json!({"cniVersion": "1.0.0", "name": "mine", "type": "netdp"});
    cni(&topology, "ADD", &other, "c2", &plain);
    let web = listen(&inside, ANY, 81);
    let address = topology.inspect("c1").endpoints[0].addresses[0].addr();
    let near = connect(&other, SocketAddr::new(address, 81));
    talk(&near, &web.accept().0);
    let web = listen(&inside, ANY, 80);
    let near = connect(&other, (HOST_ADDRESS, 8080));
    talk(&near, &web.accept().0);

    cni(&topology, "DEL", &inside, "c1", &config);
    topology.container("next", "-p 8080:80 -p 5353:53/udp");
}

#[test]
fn a_container_of_cni_may_have_ipv6() {
    let Some(topology) = Topology::with_ipv6("plug-cni6") else {
        return;
    };
    let inside = topology.world.add_namespace("c1").unwrap();
    let config = json!({
        "cniVersion": "1.0.0", "name": "mine", "type": "netdp", "ipv6": true,
        "runtimeConfig": {"portMappings": [{"hostPort": 8080, "containerPort": 80}]},
    });
    let result = cni(&topology, "ADD", &inside, "c1", &config);
    assert_eq!(result["ips"].as_array().unwrap().len(), 2, "{result}");
    let web = listen(&inside, Ipv6Addr::UNSPECIFIED, 80);
    let near = connect(&topology.world.client, (HOST_ADDRESS6, 8080));
    talk(&near, &web.accept().0);
}

/// As Podman does once its plugins are done: conmon listens on the host ports.
/// Packets don't come to it.
#[test]
fn ports_that_the_engine_holds_lead_to_the_container() {
    let Some(topology) = Topology::start("plug-held") else {
        return;
    };
    let world = &topology.world;
    let inside = world.add_namespace("n1").unwrap();
    let exec = json!({
        "container_id": "c1", "container_name": "n1",
        "port_mappings": [
            {"container_port": 80, "host_ip": "", "host_port": 8080, "protocol": "tcp", "range": 1},
            {"container_port": 53, "host_ip": "", "host_port": 5353, "protocol": "udp", "range": 1},
        ],
        "network": {
            "name": "nvn", "dns_enabled": true,
            "subnets": [{"subnet": "10.60.0.0/24", "gateway": "10.60.0.1"}],
        },
        "network_options": {"interface_name": "eth0", "static_ips": ["10.60.0.9"]},
    });
    let netns = inside.path().to_str().unwrap().to_owned();
    plugin(&topology, &["setup", &netns], &[], &exec);
    let (held, held_udp) = (listen(&world.host, ANY, 8080), udp(&world.host, ANY, 5353));
    carries_traffic(&topology, &inside);
    held.assert_nobody_came();
    held_udp.set_nonblocking(true).unwrap();
    held_udp.recv_from(&mut [0; 64]).unwrap_err();
    plugin(&topology, &["teardown", &netns], &[], &exec);
    // Now they are the host's own.
    let near = connect(&world.client, (HOST_ADDRESS, 8080));
    talk(&near, &held.accept().0);
}
