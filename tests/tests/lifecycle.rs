//! What comes with a program goes with it, and nothing is left in the host's
//! packet filter.

use std::fs;
use std::net::Ipv4Addr;
use std::process::Command;

use netdp::demo::world::{CLIENT_ADDRESS, HOST_ADDRESS, OUTSIDE_ADDRESS};
use netdp_tests::{PATIENCE, Topology, bind_port, connect, hears, listen, talk, udp};

const ANY: Ipv4Addr = Ipv4Addr::UNSPECIFIED;

/// Names of the host's ends of veth pairs.
fn host_ends(topology: &Topology) -> Vec<String> {
    let links = said(topology.world.host.command("ip").args(["-j", "link"]));
    let links: serde_json::Value = serde_json::from_str(&links).unwrap();
    let names = links.as_array().unwrap().iter();
    names
        .filter_map(|link| link["ifname"].as_str())
        .filter(|name| name.starts_with("vn"))
        .map(str::to_owned)
        .collect()
}

fn said(command: &mut Command) -> String {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn what_belongs_to_a_program_goes_when_it_ends() {
    let Some(topology) = Topology::start("life-end") else {
        return;
    };
    let world = &topology.world;
    let server = world.netdp_path().display().to_string();
    let options = "-p 8080:80 -p 5353:53/udp";
    topology.netdp(&format!(
        "run -d --name web {options} -- {server} __load-server --listen http=0.0.0.0:80"
    ));
    let sandbox = topology.inspect("web");
    let endpoint = &sandbox.endpoints[0];
    let address = endpoint.addresses[0].addr();
    assert_eq!(host_ends(&topology), [endpoint.host_interface.as_str()]);
    topology.wait_until("served", || {
        world
            .client
            .run(|| netdp::load::fetch((HOST_ADDRESS, 8080).into(), "/", PATIENCE))
            .unwrap()
            .is_ok()
    });
    assert!(bind_port(&world.host, ANY, 8080).is_err());

    let pid = nix::unistd::Pid::from_raw(sandbox.pid.unwrap() as i32);
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).unwrap();
    topology.wait_until("gone", || topology.netdp("ps --format json").trim() == "[]");
    assert!(host_ends(&topology).is_empty());
    bind_port(&world.host, ANY, 8080).unwrap();
    udp(&world.host, ANY, 5353);
    let routes = said(world.host.command("ip").args(["route", "show"]));
    assert!(!routes.contains(&address.to_string()), "{routes}");
    // Ports and address are anybody's.
    let next = topology.container("next", &format!("--ip {address} {options}"));
    assert_eq!(next.address, address);
    let listener = listen(&next, ANY, 80);
    let near = connect(&world.client, (HOST_ADDRESS, 8080));
    talk(&near, &listener.accept().0);
}

#[test]
fn a_namespace_that_vanishes_stops_nobody_else() {
    let Some(topology) = Topology::start("life-vanish") else {
        return;
    };
    let gone = topology.container("gone", "-p 8080:80");
    drop(gone);
    // Without waiting until the daemon has seen it.
    let web = topology.container("web", "-p 8080:80");
    let listener = listen(&web, ANY, 80);
    let near = connect(&topology.world.client, (HOST_ADDRESS, 8080));
    talk(&near, &listener.accept().0);
    topology.wait_until("gone", || topology.refused("inspect gone").contains("gone"));
}

#[test]
fn the_hosts_packet_filter_has_no_part_in_it() {
    let Some(topology) = Topology::start("life-filter") else {
        return;
    };
    let world = &topology.world;
    let web = topology.container("web", "-p 8080:80 -p 5353:53/udp");
    let (listener, dns) = (listen(&web, ANY, 80), udp(&web, ANY, 53));
    let other = topology.container("other", "");
    let outside = listen(&world.outside, ANY, 80);
    let mut open = Vec::new();
    for near in [
        connect(&world.client, (HOST_ADDRESS, 8080)),
        connect(&topology.host_program(), (Ipv4Addr::LOCALHOST, 8080)),
        connect(&other, (HOST_ADDRESS, 8080)),
        connect(&other, (web.address, 80)),
    ] {
        let far = listener.accept().0;
        talk(&near, &far);
        open.push((near, far));
    }
    let near = connect(&other, (OUTSIDE_ADDRESS, 80));
    let far = outside.accept().0;
    talk(&near, &far);
    let client = udp(&world.client, ANY, 0);
    client.send_to(b"question", (HOST_ADDRESS, 5353)).unwrap();
    assert_eq!(hears(&dns, b"question").ip(), CLIENT_ADDRESS);

    let tracked = world
        .host
        .run(|| fs::read_to_string("/proc/thread-self/net/nf_conntrack").unwrap_or_default());
    assert_eq!(tracked.unwrap(), "");
    let mut asked = Vec::new();
    for (program, args) in [
        ("nft", &["list", "ruleset"][..]),
        ("iptables-save", &[]),
        ("iptables-legacy-save", &[]),
    ] {
        let Ok(output) = world.host.command(program).args(args).output() else {
            continue;
        };
        let rules = String::from_utf8_lossy(&output.stdout);
        let rule = rules.lines().find(|line| line.starts_with("-A"));
        assert!(rule.is_none(), "{program}: {rules}");
        assert!(program != "nft" || rules.trim().is_empty(), "{rules}");
        asked.push(program);
    }
    if asked.is_empty() {
        println!("skipped: neither nft nor iptables is here to ask for rules");
    }
}
