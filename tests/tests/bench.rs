//! `netdp bench` at its shortest: what it measures, and that nothing of it is
//! left. Figures are not looked at.

mod bench_world;

use std::fs;
use std::io::{self, BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::thread;

use bench_world::Bench;
use netdp::netns::Namespace;
use netdp_tests::netdp_binary;
use serde_json::Value;
use tempfile::TempDir;

#[track_caller]
fn json(output: &Output) -> Value {
    let said = String::from_utf8_lossy(&output.stderr);
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {said}"))
}

fn is_installed(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|folder| Path::new(&folder).join(program).exists())
}

#[test]
fn every_mode_that_can_be_had_carries_every_workload() {
    let Some(bench) = Bench::new() else { return };
    let output = bench.run("--quick --rounds 1 --milliseconds 60 --format json");
    let report = json(&output);
    assert_eq!(output.status.code(), Some(0), "{report:#}");
    let mut wanted = vec!["host", "netdp"];
    if is_installed("iptables-nft-restore") {
        wanted.push("docker-nft");
    }
    if is_installed("nft") {
        wanted.push("nft");
    }
    let scenarios = report["scenarios"].as_array().unwrap();
    let names: Vec<&str> = scenarios
        .iter()
        .filter_map(|scenario| scenario["scenario"].as_str())
        .collect();
    assert_eq!(names, ["published", "egress", "containers", "local"]);
    for scenario in scenarios {
        let workloads = scenario["workloads"].as_array().unwrap();
        let is_first = scenario["scenario"] == "published";
        assert_eq!(workloads.len(), if is_first { 7 } else { 2 });
        for workload in workloads {
            let modes = workload["modes"].as_array().unwrap();
            assert_eq!(modes[0]["mode"], "host");
            for name in &wanted {
                let mode = modes.iter().find(|mode| mode["mode"] == *name);
                let mode = mode.unwrap_or_else(|| panic!("no {name} in {workload:#}"));
                let round = &mode["rounds"][0];
                assert!(round["operations"].as_u64() > Some(0), "{mode:#}");
                assert!(mode["series"]["median"].as_f64() > Some(0.0), "{mode:#}");
                assert_eq!(mode["errors"], 0, "{mode:#}");
            }
        }
    }
    bench.nothing_is_left();
}

#[test]
fn growth_is_measured() {
    let Some(bench) = Bench::new() else { return };
    let output = bench.run(
        "--scenario ports,flows --sizes 40 --mode nft,netdp --rounds 1 --milliseconds 60 \
         --format json",
    );
    let report = json(&output);
    assert_eq!(output.status.code(), Some(0), "{report:#}");
    let growth = report["growth"].as_array().unwrap();
    let names: Vec<&str> = growth
        .iter()
        .filter_map(|it| it["growth"].as_str())
        .collect();
    assert_eq!(names, ["ports", "flows"]);
    for mode in growth.iter().flat_map(|it| it["modes"].as_array().unwrap()) {
        let points = mode["points"].as_array().unwrap();
        let sizes: Vec<u64> = points.iter().filter_map(|it| it["size"].as_u64()).collect();
        assert_eq!(sizes, [40]);
        if mode["mode"] == "nft" && !is_installed("nft") {
            continue;
        }
        for point in points {
            let rounds = &point["result"]["rounds"];
            assert!(rounds[0]["operations"].as_u64() > Some(0), "{point:#}");
        }
    }
    bench.nothing_is_left();
}

#[test]
fn pairs_on_several_cpus_are_measured_at_once() {
    let Some(bench) = Bench::new() else { return };
    let cpus = thread::available_parallelism().unwrap().get();
    for option in ["", "--rps"] {
        let output = bench.run(&format!(
            "--scenario cores --sizes 1,{cpus} --mode host,netdp,netdp-direct --workload rr,crr \
             --rounds 1 --milliseconds 60 --format json {option}"
        ));
        let report = json(&output);
        assert_eq!(output.status.code(), Some(0), "{report:#}");
        let growth = report["growth"].as_array().unwrap();
        let workloads: Vec<&str> = growth
            .iter()
            .filter_map(|it| it["workload"].as_str())
            .collect();
        assert_eq!(workloads, ["rr", "crr"]);
        let modes = growth.iter().flat_map(|it| it["modes"].as_array().unwrap());
        for point in modes.flat_map(|it| it["points"].as_array().unwrap()) {
            let size = point["size"].as_f64().unwrap();
            let round = &point["result"]["rounds"][0];
            let figure = |name: &str| round[name].as_f64().unwrap();
            // The rate is that of one pair.
            let pairs = figure("operations") / figure("rate") / figure("seconds");
            assert!((pairs / size - 1.0).abs() < 0.1, "{point:#}");
        }
        bench.nothing_is_left();
    }
}

#[test]
fn what_no_way_can_do_without_is_measured() {
    let Some(bench) = Bench::new() else { return };
    let output = bench.run(
        "--scenario published,egress,containers --mode floor,floor-uplink,floor-direct,host-seccomp --workload rr,udp-rr \
         --rounds 1 --milliseconds 60 --format json",
    );
    let report = json(&output);
    let left_out = report["left_out"].as_array();
    if let Some(left_out) = left_out.filter(|left_out| left_out.len() == 3) {
        for why in left_out.iter().map(|it| it["why"].to_string()) {
            assert!(why.contains("tcx"), "{why}");
        }
        return;
    }
    assert_eq!(output.status.code(), Some(0), "{report:#}");
    let all = &["floor", "floor-uplink", "floor-direct", "host-seccomp"][..];
    let scenarios = report["scenarios"].as_array().unwrap();
    // What a direct port has no part in says nothing of its floor.
    for (scenario, wanted) in scenarios.iter().zip([all, &all[..1], &all[..1]]) {
        for workload in scenario["workloads"].as_array().unwrap() {
            let modes = workload["modes"].as_array().unwrap();
            let names: Vec<&Value> = modes.iter().map(|mode| &mode["mode"]).collect();
            assert_eq!(names, wanted);
            for mode in modes {
                let round = &mode["rounds"][0];
                assert!(round["operations"].as_u64() > Some(0), "{scenario:#}");
            }
        }
    }
    bench.nothing_is_left();
}

#[test]
fn dockers_bridge_is_measured_with_netdp_in_front() {
    let Some(bench) = Bench::new() else { return };
    if !is_installed("iptables-nft-restore") {
        println!("skipped: no iptables-nft-restore, for Docker's rules");
        return;
    }
    let output = bench.run(
        "--scenario published,egress --mode docker-accelerated --workload rr,udp-rr \
         --rounds 1 --milliseconds 60 --format json",
    );
    let report = json(&output);
    if let Some(why) = report["left_out"][0]["why"].as_str() {
        assert!(why.contains("tcx"), "{why}");
        return;
    }
    assert_eq!(output.status.code(), Some(0), "{report:#}");
    let scenarios = report["scenarios"].as_array().unwrap();
    assert_eq!(scenarios.len(), 2);
    for scenario in scenarios {
        for workload in scenario["workloads"].as_array().unwrap() {
            let round = &workload["modes"][0]["rounds"][0];
            assert!(round["operations"].as_u64() > Some(0), "{scenario:#}");
        }
    }
    bench.nothing_is_left();
}

/// To the command, and whatever it starts, the kernel has no `sock_diag`.
fn without_sock_diag(command: &mut Command) {
    const NETLINK_SOCK_DIAG: u32 = 4;
    let load = |offset| (0x20, 0, 0, offset);
    let is = |value, otherwise| (0x15, 0, otherwise, value);
    let answer = |what| (0x06, 0, 0, what);
    // By `struct seccomp_data`: the call's number, its first and third argument.
    let filter = [
        load(0),
        is(libc::SYS_socket as u32, 5),
        load(16),
        is(libc::AF_NETLINK as u32, 3),
        load(32),
        is(NETLINK_SOCK_DIAG, 1),
        answer(libc::SECCOMP_RET_ERRNO | libc::EPROTONOSUPPORT as u32),
        answer(libc::SECCOMP_RET_ALLOW),
    ];
    let mut filter = filter.map(|(code, jt, jf, k)| libc::sock_filter { code, jt, jf, k });
    let begin = move || {
        let program = libc::sock_fprog {
            len: filter.len() as u16,
            filter: filter.as_mut_ptr(),
        };
        let mode = libc::SECCOMP_MODE_FILTER;
        // SAFETY: the kernel reads the program, which outlives the call.
        match unsafe { libc::prctl(libc::PR_SET_SECCOMP, mode, &raw const program) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    };
    // SAFETY: one system call between fork and exec.
    unsafe { command.pre_exec(begin) };
}

#[test]
fn direct_ports_are_measured_or_left_out() {
    let Some(bench) = Bench::new() else { return };
    let words = "--scenario published --mode host,netdp-direct --workload rr,udp-rr --rounds 1 \
                 --milliseconds 60 --format json";
    let modes = |report: &Value| -> Vec<Value> {
        let workloads = report["scenarios"][0]["workloads"].as_array().unwrap();
        let modes = workloads
            .iter()
            .flat_map(|it| it["modes"].as_array().unwrap());
        modes.map(|it| it["mode"].clone()).collect()
    };
    let output = bench.run(words);
    let report = json(&output);
    assert_eq!(output.status.code(), Some(0), "{report:#}");
    assert_eq!(
        modes(&report),
        ["host", "netdp-direct", "host", "netdp-direct"]
    );

    // What the datapath has then is not shown under their name.
    let mut command = bench.command(words);
    without_sock_diag(&mut command);
    let report = json(&command.output().unwrap());
    assert_eq!(modes(&report), ["host", "host"], "{report:#}");
    let left_out = &report["left_out"][0];
    assert_eq!(left_out["mode"], "netdp-direct");
    let why = left_out["why"].as_str().unwrap();
    assert!(why.contains("doesn't list its sockets"), "{why}");
    bench.nothing_is_left();
}

#[test]
fn what_is_not_installed_is_left_out() {
    let Some(bench) = Bench::new() else { return };
    let tools = TempDir::new().unwrap();
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut folders = std::env::split_paths(&path);
    let ip = folders.find_map(|folder| Some(folder.join("ip")).filter(|it| it.exists()));
    std::os::unix::fs::symlink(ip.expect("iproute2"), tools.path().join("ip")).unwrap();
    let mut command = bench.command(
        "--scenario published --mode host,dockerd --workload rr --rounds 1 --milliseconds 60 \
         --format json",
    );
    let output = command.env("PATH", tools.path()).output().unwrap();
    let report = json(&output);
    assert_eq!(output.status.code(), Some(0), "{report:#}");
    assert_eq!(report["left_out"][0]["mode"], "dockerd");
    assert_eq!(report["left_out"][0]["why"], "dockerd is not installed");
    bench.nothing_is_left();
}

#[test]
fn programs_are_counted() {
    let Some(bench) = Bench::new() else { return };
    // Each with a daemon of its own.
    let modes = "--mode netdp,netdp:big-tcp=auto";
    let words = format!("--scenario programs {modes} --milliseconds 60 --format json");
    let output = bench.run(&words);
    let report = json(&output);
    assert_eq!(output.status.code(), Some(0), "{report:#}");
    let other = &report["programs"][1];
    assert_eq!(other["mode"], "netdp:big-tcp=auto");
    assert!(other["traffic"][0]["operations"].as_u64() > Some(0));
    let programs = &report["programs"][0];
    let find = |list: &Value, key: &str, name: &str| -> Value {
        let mut found = list.as_array().unwrap().iter();
        let found = found.find(|entry| entry[key] == name);
        found
            .unwrap_or_else(|| panic!("no {name} in {list:#}"))
            .clone()
    };
    let container = find(&programs["programs"], "program", "from_container");
    assert!(
        container["instructions"].as_u64() > Some(1000),
        "{container:#}"
    );

    // A request and its answer: one run of each program that is on the way.
    let round_trip = &programs["traffic"][0];
    for program in ["from_netdev", "from_container", "to_netdev"] {
        let ran = find(&round_trip["programs"], "program", program);
        let runs = ran["runs_per_operation"].as_f64().unwrap();
        assert!((0.9..1.5).contains(&runs), "{round_trip:#}");
        assert!(ran["nanoseconds_per_run"].as_f64() > Some(0.0), "{ran:#}");
    }

    let shared = find(&programs["shared"], "title", "published, TCP");
    assert_eq!(shared["by_cpus"][0]["cpus"], 1, "{shared:#}");
    for at_once in shared["by_cpus"].as_array().unwrap() {
        assert!(at_once["nanoseconds"].as_f64() > Some(0.0), "{shared:#}");
    }

    let published = find(&programs["conversations"], "title", "published, TCP");
    let packet = |name: &str| find(&published["packets"], "packet", name);
    assert!(packet("data")["nanoseconds"].as_f64() > Some(0.0));
    if programs["not_asked"].is_null() {
        // Nothing is kept of a connection until the container has answered.
        assert_eq!(packet("SYN")["asked"]["inserts"], 0, "{published:#}");
        assert_eq!(
            packet("first data back")["asked"]["inserts"],
            1,
            "{published:#}"
        );
        assert_eq!(packet("data back")["asked"]["inserts"], 0, "{published:#}");
    }
    bench.nothing_is_left();
}

/// Where counters say that they were.
#[test]
fn packets_are_dropped() {
    let Some(bench) = Bench::new() else { return };
    let output = bench.run("--scenario drops --rounds 1 --milliseconds 60 --format json");
    let report = json(&output);
    assert_eq!(output.status.code(), Some(0), "{report:#}");
    let workload = &report["scenarios"][0]["workloads"][0];
    assert_eq!(workload["workload"], "udp-dropped");
    let modes = workload["modes"].as_array().unwrap();
    let left_out = report["left_out"].as_array().unwrap();
    let named = modes.iter().chain(left_out).map(|mode| &mode["mode"]);
    let mut named: Vec<&str> = named.map(|mode| mode.as_str().unwrap()).collect();
    named.sort_unstable();
    assert_eq!(named, ["netdp", "netdp-xdp", "nft", "nft-ingress"]);
    for mode in modes {
        assert!(mode["rounds"][0]["operations"].as_u64() > Some(100));
        assert_eq!(mode["errors"], 0, "{mode:#}");
    }
    bench.nothing_is_left();
}

#[test]
fn the_daemon_is_measured() {
    let Some(bench) = Bench::new() else { return };
    let output = bench.run("control --endpoints 6 --at-once 3 --ports 20 --cycles 5 --format json");
    let report = json(&output);
    assert_eq!(output.status.code(), Some(0), "{report:#}");
    let figures = report["figures"].as_array().unwrap();
    let find = |name: &str| {
        let found = figures.iter().find(|figure| figure["name"] == name);
        found.unwrap_or_else(|| panic!("no {name} in {report:#}"))
    };
    for name in [
        "start",
        "attach, one port published: median",
        "attach 3 at once",
        "attach beside 0 others: median",
        "attach beside 6 others: median",
        "publish a port beside 6 others: median",
        "publish 20 ports, each by itself",
        "start with 6 endpoints",
        "memory at rest (resident)",
    ] {
        assert!(find(name)["value"].as_f64() > Some(0.0), "{name}");
    }
    assert_eq!(find("interfaces that 5 left")["value"], 0.0);
    bench.nothing_is_left();
}

#[test]
fn servers_elsewhere_are_compared() {
    let Some(bench) = Bench::new() else { return };
    // As two machines: no port of this one is taken.
    let namespace = Namespace::create(&bench.folder.path().join("netns"), "machine").unwrap();
    let mut command = namespace.command(netdp_binary());
    command.args(["bench", "server", "--port", "7001"]);
    let mut server = command.stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    let mut said = BufReader::new(server.stdout.take().unwrap());
    said.read_line(&mut line).unwrap();
    assert!(line.contains("7001 to 7007"), "{line}");

    let mut client = namespace.command(netdp_binary());
    client.args(["bench", "client", "four=127.0.0.1:7001", "six=[::1]:7001"]);
    client.args(["--rounds", "1", "--milliseconds", "40", "--format", "json"]);
    let output = client.output().unwrap();
    server.kill().unwrap();
    server.wait().unwrap();
    let report = json(&output);
    assert_eq!(output.status.code(), Some(0), "{report:#}");
    let workloads = report["scenarios"][0]["workloads"].as_array().unwrap();
    assert_eq!(workloads.len(), 7);
    for mode in workloads
        .iter()
        .flat_map(|it| it["modes"].as_array().unwrap())
    {
        assert!(
            mode["rounds"][0]["operations"].as_u64() > Some(0),
            "{mode:#}"
        );
    }
    drop(namespace);
    fs::remove_dir(bench.folder.path().join("netns")).unwrap();
    bench.nothing_is_left();
}
