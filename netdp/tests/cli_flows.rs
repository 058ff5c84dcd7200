//! `netdp flows` with more flows than fit in one read. Needs root.

mod cli_world;

use std::{
    io::{BufRead, BufReader},
    net::{IpAddr, Ipv4Addr},
    os::fd::{AsFd, AsRawFd},
    process::Stdio,
    time::Instant,
};

use cli_world::World;
use netdp::{bpf::FlowTables, netns::Namespace};
use netdp_common::{
    addr::{Be16, V4Addr, proto},
    maps::{Delivery, Flow, FlowKey, flow_kind},
    tcp,
};
use nix::time::{ClockId, clock_gettime};
use serde_json::Value;

/// Of which every fourth is UDP, and every second of another container.
const FLOWS: u32 = 20_000;
const OTHER: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 9);

/// A sandbox, and flows as clients of it would have made them.
fn world() -> Option<(World, Namespace, Ipv4Addr)> {
    world_of(World::new()?, FLOWS)
}

fn world_of(world: World, flows: u32) -> Option<(World, Namespace, Ipv4Addr)> {
    let namespace = world.namespace("web");
    let path = namespace.path().to_str().unwrap().to_owned();
    world.ok(&["attach", "--name", "web", "--netns", &path]);
    let web = world.json(&["inspect", "web"]);
    let address = web[0]["endpoints"][0]["addresses"][0].as_str().unwrap();
    let address: Ipv4Addr = address.split('/').next().unwrap().parse().unwrap();
    fill(&world, address, flows);
    Some((world, namespace, address))
}

fn fill(world: &World, web: Ipv4Addr, number: u32) {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC).unwrap().tv_sec();
    let (mut keys, mut flows) = (Vec::new(), Vec::new());
    for number in 0..number {
        let proto = if number % 4 == 0 {
            proto::UDP
        } else {
            proto::TCP
        };
        let local = if number % 2 == 0 { web } else { OTHER };
        keys.push(FlowKey::full(
            V4Addr::from(Ipv4Addr::from(0xc612_0000 + number / 1000)),
            Be16::new(1024 + (number % 1000) as u16),
            V4Addr::from(local),
            Be16::new(80),
            proto,
        ));
        flows.push(Flow {
            addr: V4Addr::new([192, 0, 2, 2]),
            external: V4Addr::new([192, 0, 2, 2]),
            port: Be16::new(8080),
            kind: flow_kind::PUBLISHED,
            state: tcp::state::ESTABLISHED,
            timeout: 7440,
            to: Delivery::default(),
            last_seen: now as u32,
            ifindex: 0,
            tag: 0,
            generation: 0,
            pad: 0,
        });
    }
    let tables = FlowTables::<V4Addr>::pinned4(&world.path("bpf")).unwrap();
    tables.fill(&keys, &flows).unwrap();
}

fn array(listed: &Value) -> &Vec<Value> {
    listed.as_array().unwrap()
}

#[test]
fn all_flows_are_listed_and_filters_pick() {
    let Some((world, _namespace, web)) = world() else {
        return;
    };
    let json = |args: &[&str]| world.json(&[&["flows", "--format", "json"], args].concat());
    let all = json(&[]);
    assert_eq!(array(&all).len(), FLOWS as usize);
    // By protocol, then by peer.
    assert_eq!(array(&all)[0]["remote"], "198.18.0.0:1025");
    assert_eq!(array(&all)[FLOWS as usize - 1]["protocol"], "udp");

    let udp = json(&["--proto", "udp"]);
    assert_eq!(array(&udp).len(), FLOWS as usize / 4);
    assert!(array(&udp).iter().all(|flow| flow["protocol"] == "udp"));
    let peer = json(&["--peer", "198.18.0.3"]);
    assert_eq!(array(&peer).len(), 1000);
    let inside = json(&["--sandbox", "web"]);
    assert_eq!(array(&inside).len(), FLOWS as usize / 2);
    let container = format!("{}:80", IpAddr::from(web));
    assert!(
        array(&inside)
            .iter()
            .all(|flow| flow["container"] == *container)
    );
    let few = json(&["--sandbox", "web", "--proto", "tcp", "--limit", "7"]);
    assert_eq!(array(&few).len(), 7);

    let count = world.ok(&["flows", "--count", "--proto", "udp"]);
    assert_eq!(
        count,
        format!("{} flows, 0 of them unanswered\n", FLOWS / 4)
    );
    let count = json(&["--count"]);
    assert_eq!(
        (&count["flows"], &count["pending"]),
        (&FLOWS.into(), &0.into())
    );

    let table = world.ok(&["flows"]);
    assert_eq!(table.lines().count(), FLOWS as usize + 1);
    assert!(
        table.starts_with("PROTO   KIND        STATE"),
        "{}",
        &table[..200]
    );

    let refusal = world.refused(&["flows", "--sandbox", "nobody"]);
    assert!(refusal.contains("nobody"), "{refusal}");
    let refusal = world.refused(&["flows", "--count", "--proto", "ipx"]);
    assert!(refusal.contains("say tcp, udp, icmp"), "{refusal}");
    let (status, failure) = world.http("GET", "/v1/flows?colour=blue", "");
    assert_eq!(status, 400);
    assert_eq!(failure["error"]["kind"], "invalid");
}

#[test]
fn an_endpoints_flows_go_with_it() {
    let Some((world, _namespace, _)) = world() else {
        return;
    };
    world.ok(&["rm", "--force", "web"]);
    let left = world.json(&["flows", "--count", "--format", "json"]);
    assert_eq!(left["flows"], FLOWS / 2);
}

#[test]
fn a_reader_that_stops_is_no_error() {
    let Some((world, _namespace, _)) = world() else {
        return;
    };
    for format in ["json", "table"] {
        let mut command = world.command(&["flows", "--format", format]);
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut output = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        output.read_line(&mut line).unwrap();
        assert!(!line.is_empty());
        // The daemon has more to send than fits into the pipes between.
        world.ok(&["ps"]);
        drop(output);
        let ended = cli_world::done(child.wait_with_output().unwrap());
        assert_eq!((ended.status, ended.stderr.as_str()), (Some(0), ""));
    }
}

/// Bytes that the kernel has for a map, as it says of an open one.
fn memory(world: &World, map: &str) -> u64 {
    let path = world.path("bpf").join("netdp/maps").join(map);
    let map = aya::maps::MapData::from_pin(path).unwrap();
    let fd = map.fd().as_fd().as_raw_fd();
    let text = std::fs::read_to_string(format!("/proc/self/fdinfo/{fd}")).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix("memlock:"));
    line.unwrap().trim().parse().unwrap()
}

/// The most memory that a process, a folder in /proc, has had, bytes.
fn most_memory(process: &str) -> u64 {
    let status = std::fs::read_to_string(format!("{process}/status")).unwrap();
    let most = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kilobytes = most.unwrap().trim().trim_end_matches(" kB").parse::<u64>();
    kilobytes.unwrap() << 10
}

/// What `docs/flows.md` says of a million flows.
#[test]
#[ignore = "takes long"]
fn a_million_flows_are_listed() {
    const MILLION: u32 = 1_000_000;
    let Some(mut world) = World::without_daemon() else {
        return;
    };
    let config = world.path("netdp.toml");
    std::fs::write(&config, format!("max-flows = {}\n", 1 << 20)).unwrap();
    world.start_daemon(&["--config", config.to_str().unwrap()]);
    let (world, _namespace, _) = world_of(world, MILLION).unwrap();
    for map in [
        "flows4", "flows6", "order4", "order6", "pending4", "pending6",
    ] {
        let bytes = memory(&world, map);
        println!(
            "{map}: {bytes} bytes, {} for each of {}",
            bytes >> 20,
            1 << 20
        );
    }
    let daemon = format!("/proc/{}", world.daemon_pid());
    // The most that it has had begins anew (`proc_pid_clear_refs(5)`): loading the
    // programs takes more than what is asked for here.
    std::fs::write(format!("{daemon}/clear_refs"), "5").unwrap();
    let before = most_memory(&daemon);
    for (args, lines) in [
        (&["flows", "--count"][..], 1),
        (&["flows", "--format", "json"], MILLION + 2),
        (&["flows"], MILLION + 1),
        (
            &["flows", "--sandbox", "web", "--format", "json"],
            MILLION / 2 + 2,
        ),
        (&["flows", "--peer", "198.18.0.3", "--format", "json"], 1002),
        (&["flows", "--limit", "20"], 21),
    ] {
        let began = Instant::now();
        let listed = world.ok(args);
        println!("netdp {}: {:.2?}", args.join(" "), began.elapsed());
        assert_eq!(listed.lines().count(), lines as usize);
    }
    // The keys and values of a million flows are more than that.
    let most = most_memory(&daemon);
    println!("the daemon: {before} bytes before, {most} at most");
    assert!(most < before + (32 << 20), "{before}, {most}");
    let began = Instant::now();
    world.ok(&["rm", "--force", "web"]);
    println!(
        "netdp rm --force web, with half of them: {:.2?}",
        began.elapsed()
    );
}
