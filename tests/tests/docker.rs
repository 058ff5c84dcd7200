//! Docker's driver: requests of dockerd one by one, right and wrong, and the
//! effect.

mod docker_world;

use std::net::{Ipv4Addr, SocketAddr};
use std::process::Child;
use std::thread;
use std::time::{Duration, Instant};

use docker_world::{DRIVER, interfaces, nothing_is_left, sandboxes};
use netdp::demo::world::{CLIENT_ADDRESS, HOST_ADDRESS, OUTSIDE_ADDRESS};
use netdp_tests::{
    Dockerd, Moves, PATIENCE, Topology, bind_port, connect, hears, listen, talk, udp,
};
use serde_json::{Value, json};

const ANY: Ipv4Addr = Ipv4Addr::UNSPECIFIED;
const NETWORK: &str = "e808a2f1e7a49f077b0539a9ae816be251587c9fa467f4dd750147a28f0ce956";
const OTHER_NETWORK: &str = "c0e524585396c1969aba38ee5febb482e6ff44b889e6587cecf5016b85b27523";
const IPAM: &str = "/IpamDriver.";

fn driver(method: &str) -> String {
    format!("{DRIVER}{method}")
}

/// Ids of endpoints for a person to read: the first digits count.
fn endpoint_id(number: u8) -> String {
    format!("{number:02x}").repeat(32)
}

fn create_network(dockerd: &Dockerd, id: &str, subnet: &str, generic: Value) -> Result<(), String> {
    let gateway = subnet.replace(".0/", ".1/");
    let body = json!({
        "NetworkID": id,
        "Options": {"com.docker.network.enable_ipv6": false, "com.docker.network.generic": generic},
        "IPv4Data": [{"AddressSpace": "LocalDefault", "Gateway": gateway, "Pool": subnet}],
        "IPv6Data": [],
    });
    dockerd.ask(&driver("CreateNetwork"), &body).map(drop)
}

fn ports(ports: &[(u8, &str, u16, u16)]) -> Value {
    let portmap: Vec<Value> = ports
        .iter()
        .map(|(proto, ip, host, container)| {
            json!({"Proto": proto, "IP": "", "Port": container, "HostIP": ip, "HostPort": host,
                   "HostPortEnd": host})
        })
        .collect();
    json!({"com.docker.network.endpoint.exposedports": [], "com.docker.network.portmap": portmap})
}

/// `docker run -p ...` up to where the container starts.
fn start(
    dockerd: &mut Dockerd,
    network: &str,
    number: u8,
    address: &str,
    ports: &Value,
) -> Result<(), String> {
    let id = endpoint_id(number);
    let interface = json!({"Address": address, "AddressIPv6": "", "MacAddress": ""});
    let created = json!({"NetworkID": network, "EndpointID": id, "Interface": interface,
                         "Options": ports});
    dockerd.play(&driver("CreateEndpoint"), &created)?;
    join(dockerd, network, number, ports)
}

/// The rest of it, once there is an endpoint.
fn join(dockerd: &mut Dockerd, network: &str, number: u8, ports: &Value) -> Result<(), String> {
    let id = endpoint_id(number);
    let sandbox = json!(sandbox_name(number));
    let joined = json!({"NetworkID": network, "EndpointID": id, "SandboxKey": sandbox,
                        "Options": ports});
    dockerd.play(&driver("Join"), &joined)?;
    let programmed = json!({"NetworkID": network, "EndpointID": id, "Options": ports});
    dockerd.play(&driver("ProgramExternalConnectivity"), &programmed)?;
    dockerd.play(
        &driver("EndpointOperInfo"),
        &json!({"NetworkID": network, "EndpointID": id}),
    )?;
    Ok(())
}

fn end(dockerd: &mut Dockerd, network: &str, number: u8) {
    let body = json!({"NetworkID": network, "EndpointID": endpoint_id(number)});
    for method in ["RevokeExternalConnectivity", "Leave", "DeleteEndpoint"] {
        dockerd.play(&driver(method), &body).unwrap();
    }
}

fn sandbox_name(number: u8) -> String {
    format!("b853af6282{number:02x}")
}

#[test]
fn a_container_of_docker_is_reached_and_reaches() {
    for moves in [Moves::AtOnce, Moves::Late] {
        let Some((topology, mut dockerd)) = Topology::with_dockerd("docker-run", moves) else {
            return;
        };
        let world = &topology.world;
        create_network(&dockerd, NETWORK, "10.50.0.0/24", json!({})).unwrap();
        let published = ports(&[
            (6, "", 8080, 80),
            (17, "", 5353, 53),
            (6, "127.0.0.1", 8082, 80),
        ]);
        start(&mut dockerd, NETWORK, 2, "10.50.0.2/24", &published).unwrap();
        start(&mut dockerd, NETWORK, 3, "10.50.0.3/24", &ports(&[])).unwrap();
        let (web, other) = (sandbox_name(2), sandbox_name(3));
        let (web, other) = (dockerd.sandbox(&web), dockerd.sandbox(&other));
        let (listener, dns) = (listen(web, ANY, 80), udp(web, ANY, 53));
        // Each by its own address.
        let near = connect(&world.client, (HOST_ADDRESS, 8080));
        let (far, seen) = listener.accept();
        assert_eq!(seen, near.local_addr().unwrap());
        talk(&near, &far);
        let client = udp(&world.client, ANY, 0);
        client.send_to(b"question", (HOST_ADDRESS, 5353)).unwrap();
        assert_eq!(hears(&dns, b"question").ip(), CLIENT_ADDRESS);
        for near in [
            connect(&topology.host_program(), (Ipv4Addr::LOCALHOST, 8082)),
            connect(other, (HOST_ADDRESS, 8080)),
            connect(other, (Ipv4Addr::new(10, 50, 0, 2), 80)),
        ] {
            talk(&near, &listener.accept().0);
        }
        let outside = listen(&world.outside, ANY, 80);
        let near = connect(web, (OUTSIDE_ADDRESS, 80));
        let (far, seen) = outside.accept();
        assert_eq!(seen.ip(), HOST_ADDRESS);
        talk(&near, &far);

        let shown = topology.netdp(&format!("port {}", sandbox_name(2)));
        assert!(shown.contains("80/tcp -> 127.0.0.1:8082"), "{shown}");
        end(&mut dockerd, NETWORK, 2);
        end(&mut dockerd, NETWORK, 3);
        dockerd
            .ask(&driver("DeleteNetwork"), &json!({"NetworkID": NETWORK}))
            .unwrap();
        nothing_is_left(&topology);
    }
}

#[test]
fn addresses_can_be_netdps_to_give() {
    let Some((topology, mut dockerd)) = Topology::with_dockerd("docker-ipam", Moves::AtOnce) else {
        return;
    };
    let ask = |dockerd: &Dockerd, method: &str, body: Value| {
        dockerd.ask(&format!("{IPAM}{method}"), &body)
    };
    let spaces = ask(&dockerd, "GetDefaultAddressSpaces", Value::Null).unwrap();
    let space = spaces["LocalDefaultAddressSpace"].clone();
    let replayed = ask(&dockerd, "GetCapabilities", Value::Null).unwrap();
    assert_eq!(replayed["RequiresRequestReplay"], false);
    let pool = |pool: &str, part: &str| json!({"AddressSpace": space, "Pool": pool, "SubPool": part, "Options": {}, "V6": false});
    let made = ask(
        &dockerd,
        "RequestPool",
        pool("10.60.0.0/24", "10.60.0.128/25"),
    )
    .unwrap();
    assert_eq!(made["Pool"], "10.60.0.0/24");
    let taken = ask(&dockerd, "RequestPool", pool("10.60.0.0/16", "")).unwrap_err();
    assert!(taken.contains("overlaps"), "{taken}");
    let address = |address: &str, kind: Value| json!({"PoolID": made["PoolID"], "Address": address, "Options": kind});
    let kind = json!({"RequestAddressType": "com.docker.network.gateway"});
    let gateway = ask(&dockerd, "RequestAddress", address("", kind)).unwrap();
    assert_eq!(gateway["Address"], "10.60.0.1/24");
    let body = json!({
        "NetworkID": NETWORK,
        "Options": {"com.docker.network.generic": {}},
        "IPv4Data": [{"AddressSpace": space, "Gateway": gateway["Address"], "Pool": made["Pool"]}],
        "IPv6Data": [],
    });
    dockerd.ask(&driver("CreateNetwork"), &body).unwrap();
    let given = ask(&dockerd, "RequestAddress", address("", json!({}))).unwrap();
    assert_eq!(given["Address"], "10.60.0.128/24");
    start(
        &mut dockerd,
        NETWORK,
        2,
        "10.60.0.128/24",
        &ports(&[(6, "", 8080, 80)]),
    )
    .unwrap();
    let web = sandbox_name(2);
    let listener = listen(dockerd.sandbox(&web), ANY, 80);
    let near = connect(&topology.world.client, (HOST_ADDRESS, 8080));
    talk(&near, &listener.accept().0);

    end(&mut dockerd, NETWORK, 2);
    let back = json!({"PoolID": made["PoolID"], "Address": "10.60.0.128"});
    ask(&dockerd, "ReleaseAddress", back).unwrap();
    dockerd
        .ask(&driver("DeleteNetwork"), &json!({"NetworkID": NETWORK}))
        .unwrap();
    ask(&dockerd, "ReleasePool", json!({"PoolID": made["PoolID"]})).unwrap();
    nothing_is_left(&topology);
    topology.netdp("network create free --subnet 10.60.0.0/24");
}

#[test]
fn nonsense_is_refused_and_leaves_nothing() {
    let Some((topology, mut dockerd)) = Topology::with_dockerd("docker-bad", Moves::AtOnce) else {
        return;
    };
    let create = driver("CreateEndpoint");
    for (head, body, status) in [
        ("POST /NetworkDriver.Nothing", &b"{}"[..], 404),
        ("POST /", b"", 404),
        ("GET /Plugin.Activate", b"", 405),
        ("POST /NetworkDriver.CreateNetwork", b"{\"NetworkID\":", 400),
        ("POST /NetworkDriver.CreateNetwork", b"{}", 400),
        ("POST /NetworkDriver.CreateNetwork", b"\xff", 400),
        (
            "POST /NetworkDriver.CreateNetwork",
            b"{\"NetworkID\":\"12\"}",
            400,
        ),
        ("POST /NetworkDriver.Join", b"[]", 400),
        ("POST /NetworkDriver.Join", b"", 400),
        (
            "POST /NetworkDriver.CreateNetwork",
            &vec![b' '; 17 << 20],
            413,
        ),
    ] {
        let (got, answer) = dockerd.raw(head, body);
        assert_eq!(got, status, "{head}: {answer}");
        assert!(
            answer["Err"].as_str().is_some_and(|text| !text.is_empty()),
            "{head}"
        );
    }
    for (subnet, generic, why) in [
        (
            "10.50.0.0/24",
            json!({"com.example.foo": "bar"}),
            "com.example.foo",
        ),
        ("10.50.0.0/24", json!({"isolation": "strict"}), "isolation"),
        ("10.50.0.0/24", json!({"icc": "perhaps"}), "icc=perhaps"),
        ("10.50.0.0/24", json!({"mtu": "12"}), "MTU of 12"),
        (
            "172.17.0.0/16",
            json!({}),
            "overlaps 172.17.0.0/16 of network netdp0",
        ),
        ("0.0.0.0/0", json!({}), "0.0.0.0/0"),
    ] {
        let refused = create_network(&dockerd, NETWORK, subnet, generic).unwrap_err();
        assert!(refused.contains(why), "{refused}");
    }
    let refused = start(&mut dockerd, NETWORK, 2, "10.50.0.2/24", &ports(&[])).unwrap_err();
    assert!(refused.contains("no network e808a2f1e7a4"), "{refused}");
    nothing_is_left(&topology);

    create_network(&dockerd, NETWORK, "10.50.0.0/24", json!({})).unwrap();
    create_network(&dockerd, NETWORK, "10.50.0.0/24", json!({})).unwrap();
    let refused = create_network(&dockerd, NETWORK, "10.51.0.0/24", json!({})).unwrap_err();
    assert!(refused.contains("exists already"), "{refused}");
    let refused = create_network(&dockerd, OTHER_NETWORK, "10.50.0.0/25", json!({})).unwrap_err();
    assert!(refused.contains("overlaps"), "{refused}");
    for (address, why) in [
        ("10.50.0.1/24", "gateway"),
        ("10.51.0.2/24", "10.50.0.0/24"),
    ] {
        let refused = start(&mut dockerd, NETWORK, 2, address, &ports(&[])).unwrap_err();
        assert!(refused.contains(why), "{refused}");
    }
    assert_eq!(sandboxes(&topology), []);

    // Twice the same endpoint, as a dockerd that heard no answer asks.
    let body = json!({"NetworkID": NETWORK, "EndpointID": endpoint_id(2),
                      "Interface": {"Address": "10.50.0.2/24"}, "Options": {}});
    let first = dockerd.ask(&create, &body).unwrap();
    assert_eq!(dockerd.ask(&create, &body), Ok(first));
    let mut other = body.clone();
    other["Interface"]["Address"] = json!("10.50.0.3/24");
    let refused = dockerd.ask(&create, &other).unwrap_err();
    assert!(refused.contains("exists already"), "{refused}");
    let id = json!({"NetworkID": NETWORK, "EndpointID": endpoint_id(2)});
    let programmed = json!({"NetworkID": NETWORK, "EndpointID": endpoint_id(2),
                            "Options": ports(&[(6, "", 8080, 80)])});
    let early = dockerd.ask(&driver("ProgramExternalConnectivity"), &programmed);
    assert!(early.unwrap_err().contains("no sandbox yet"));
    let host = format!("/proc/{}/ns/net", topology.world.daemon_pid().unwrap());
    let joined = json!({"NetworkID": NETWORK, "EndpointID": endpoint_id(2), "SandboxKey": host,
                        "Options": {}});
    let refused = dockerd.ask(&driver("Join"), &joined).unwrap_err();
    assert!(refused.contains("host's own"), "{refused}");
    for method in ["Leave", "DeleteEndpoint", "DeleteEndpoint", "Leave"] {
        dockerd.ask(&driver(method), &id).unwrap();
    }
    dockerd.ask(&driver("EndpointOperInfo"), &id).unwrap_err();
    let delete = json!({"NetworkID": NETWORK});
    dockerd.ask(&driver("DeleteNetwork"), &delete).unwrap();
    dockerd.ask(&driver("DeleteNetwork"), &delete).unwrap();
    nothing_is_left(&topology);
}

#[test]
fn a_taken_port_is_refused_in_dockers_words() {
    let Some((topology, mut dockerd)) = Topology::with_dockerd("docker-taken", Moves::AtOnce)
    else {
        return;
    };
    create_network(&dockerd, NETWORK, "10.50.0.0/24", json!({})).unwrap();
    start(
        &mut dockerd,
        NETWORK,
        2,
        "10.50.0.2/24",
        &ports(&[(6, "", 8080, 80)]),
    )
    .unwrap();
    let _socket = bind_port(&topology.world.host, ANY, 8090).unwrap();
    for (published, why) in [
        (
            ports(&[(6, "", 8080, 80)]),
            "Bind for 0.0.0.0:8080 failed: port is already allocated: 0.0.0.0:8080/tcp is \
             published by b853af628202",
        ),
        (
            ports(&[(6, "127.0.0.1", 8080, 80)]),
            "Bind for 127.0.0.1:8080 failed: port is already allocated",
        ),
        (
            ports(&[(6, "", 8081, 80), (6, "", 8090, 80)]),
            "Bind for 0.0.0.0:8090 failed: port is already allocated",
        ),
        (
            ports(&[(132, "", 84, 84)]),
            "port 84/sctp can't be published",
        ),
        (
            ports(&[(6, "192.0.2.9", 84, 84)]),
            "192.0.2.9 is not an address of the host",
        ),
    ] {
        let refused = start(&mut dockerd, NETWORK, 3, "10.50.0.3/24", &published).unwrap_err();
        assert!(refused.starts_with(why), "{refused}");
        assert_eq!(topology.netdp(&format!("port {}", sandbox_name(3))), "");
        // As dockerd does then.
        let body = json!({"NetworkID": NETWORK, "EndpointID": endpoint_id(3)});
        for method in ["Leave", "DeleteEndpoint"] {
            dockerd.play(&driver(method), &body).unwrap();
        }
        assert_eq!(sandboxes(&topology).len(), 1);
    }
    bind_port(&topology.world.host, ANY, 8081).unwrap();
}

#[test]
fn what_was_missed_is_made_up_for() {
    let Some((mut topology, mut dockerd)) = Topology::with_dockerd("docker-missed", Moves::AtOnce)
    else {
        return;
    };
    create_network(&dockerd, NETWORK, "10.50.0.0/24", json!({})).unwrap();
    for number in 2..=5 {
        let port = ports(&[(6, "", 8080 + u16::from(number), 80)]);
        start(
            &mut dockerd,
            NETWORK,
            number,
            &format!("10.50.0.{number}/24"),
            &port,
        )
        .unwrap();
    }
    let stays = sandbox_name(2);
    let listener = listen(dockerd.sandbox(&stays), ANY, 80);
    let near = connect(&topology.world.client, (HOST_ADDRESS, 8082));
    let (far, _) = listener.accept();
    talk(&near, &far);

    topology.world.kill_daemon();
    // Stopped while nobody answered, as dockerd does it...
    dockerd.move_out(&endpoint_id(3));
    // ... and with all of its namespace.
    dockerd.end_sandbox(&sandbox_name(4));
    talk(&near, &far);
    topology.start_driver();
    talk(&near, &far);
    topology.wait_until("two are left", || sandboxes(&topology).len() == 2);
    bind_port(&topology.world.host, ANY, 8083).unwrap();
    bind_port(&topology.world.host, ANY, 8084).unwrap();
    bind_port(&topology.world.host, ANY, 8082).unwrap_err();

    // dockerd itself is killed before a container has taken its end, or has
    // started its program.
    for number in [2, 5] {
        dockerd.start_program(&sandbox_name(number));
    }
    let killed = [6, 9].map(|number| {
        let address = json!({"Address": format!("10.50.0.{number}/24")});
        dockerd.create_as_another(&json!({
            "NetworkID": NETWORK, "EndpointID": endpoint_id(number), "Interface": address,
            "Options": {},
        }))
    });
    join(&mut dockerd, NETWORK, 6, &ports(&[(6, "", 8086, 80)])).unwrap();
    assert_eq!(sandboxes(&topology).len(), 4);
    for mut killed in killed {
        killed.kill().unwrap();
        killed.wait().unwrap();
    }
    let activated = dockerd.ask("/Plugin.Activate", &Value::Null).unwrap();
    assert_eq!(
        activated["Implements"],
        json!(["NetworkDriver", "IpamDriver"])
    );
    assert_eq!(sandboxes(&topology).len(), 2);
    talk(&near, &far);
    // A new container has the address and the port of one that lingers.
    start(
        &mut dockerd,
        NETWORK,
        10,
        "10.50.0.5/24",
        &ports(&[(6, "", 8085, 80)]),
    )
    .unwrap();
    assert_eq!(sandboxes(&topology).len(), 2);
    talk(&near, &far);
    end(&mut dockerd, NETWORK, 2);
    end(&mut dockerd, NETWORK, 10);
    assert_eq!(interfaces(&topology), [""; 0]);
}

/// A dockerd is killed in the middle of starts, and no other one comes.
#[test]
fn what_a_killed_dockerd_has_not_finished_ends_after_it() {
    let Some((mut topology, mut dockerd)) = Topology::with_dockerd("docker-killed", Moves::AtOnce)
    else {
        return;
    };
    create_network(&dockerd, NETWORK, "10.50.0.0/24", json!({})).unwrap();
    let mut killed = Vec::new();
    for number in 2..=4 {
        let id = endpoint_id(number);
        let address = json!({"Address": format!("10.50.0.{number}/24")});
        let port = ports(&[(6, "", 8080 + u16::from(number), 80)]);
        let asked = json!({"NetworkID": NETWORK, "EndpointID": id, "Interface": address,
                           "Options": port});
        killed.push(dockerd.create_as_another(&asked));
        let key = format!("/var/run/docker/netns/{}", sandbox_name(number));
        if number == 2 {
            // Joined, with its port, and never moved.
            let joined = json!({"NetworkID": NETWORK, "EndpointID": id, "SandboxKey": key,
                                "Options": port});
            dockerd.ask(&driver("Join"), &joined).unwrap();
            let program = json!({"NetworkID": NETWORK, "EndpointID": id, "Options": port});
            let path = driver("ProgramExternalConnectivity");
            dockerd.ask(&path, &program).unwrap();
        }
    }
    // One whose dockerd lives, and has as much time as it takes.
    let alive = json!({"NetworkID": NETWORK, "EndpointID": endpoint_id(9),
                       "Interface": {"Address": "10.50.0.9/24"}, "Options": {}});
    dockerd.ask(&driver("CreateEndpoint"), &alive).unwrap();
    bind_port(&topology.world.host, ANY, 8082).unwrap_err();
    assert_eq!(sandboxes(&topology).len(), 4);
    // Whoever else uses the driver ends nothing of those that live.
    for _ in 0..3 {
        dockerd.ask("/Plugin.Activate", &Value::Null).unwrap();
    }
    assert_eq!(sandboxes(&topology).len(), 4);
    // A daemon that starts meanwhile knows whose they are.
    topology.world.kill_daemon();
    topology.start_driver();
    let end = |mut dockerd: Child| {
        dockerd.kill().unwrap();
        dockerd.wait().unwrap();
    };
    let last = killed.pop().unwrap();
    killed.into_iter().for_each(end);
    let began = Instant::now();
    while sandboxes(&topology).len() > 2 {
        assert!(began.elapsed() < 4 * PATIENCE, "{:?}", sandboxes(&topology));
        thread::sleep(Duration::from_millis(50));
    }
    bind_port(&topology.world.host, ANY, 8082).unwrap();
    assert_eq!(sandboxes(&topology).len(), 2);
    end(last);
    // Address and port are free.
    start(
        &mut dockerd,
        NETWORK,
        10,
        "10.50.0.2/24",
        &ports(&[(6, "", 8082, 80)]),
    )
    .unwrap();
}

#[test]
fn users_see_dockers_containers_and_leave_them_to_docker() {
    let Some((topology, mut dockerd)) = Topology::with_dockerd("docker-users", Moves::AtOnce)
    else {
        return;
    };
    create_network(&dockerd, NETWORK, "10.50.0.0/24", json!({})).unwrap();
    start(
        &mut dockerd,
        NETWORK,
        2,
        "10.50.0.2/24",
        &ports(&[(6, "", 8080, 80)]),
    )
    .unwrap();
    let name = sandbox_name(2);
    let sandbox = topology.inspect(&name);
    assert_eq!(sandbox.owner.as_deref(), Some("docker"));
    assert_eq!(sandbox.endpoints[0].network, &NETWORK[..12]);
    for (words, why) in [
        (format!("rm -f {name}"), "container of docker"),
        (
            format!("disconnect {} {name}", &NETWORK[..12]),
            "put into network",
        ),
        (format!("network rm {}", &NETWORK[..12]), "endpoints"),
    ] {
        let refused = topology.refused(&words);
        assert!(refused.contains(why), "{refused}");
    }
    // Further ports are the user's to publish.
    topology.netdp(&format!("publish {name} 8081:80"));
    let listener = listen(dockerd.sandbox(&name), ANY, 80);
    let near = connect(
        &topology.world.client,
        SocketAddr::from((HOST_ADDRESS, 8081)),
    );
    talk(&near, &listener.accept().0);
    topology.netdp(&format!("unpublish {name} 8081:80"));
    // Names are Docker's.
    assert_eq!(sandbox.resolver, None);
    // A network of the user's goes with the container, at the latest.
    topology.netdp(&format!("connect netdp0 {name}"));
    let endpoints = topology.inspect(&name).endpoints;
    assert_eq!(endpoints[1].interface, "netdp1");
    end(&mut dockerd, NETWORK, 2);
    topology.wait_until("gone", || sandboxes(&topology).is_empty());
    assert_eq!(interfaces(&topology), [""; 0]);
}
