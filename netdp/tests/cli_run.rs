//! Programs run through the command.

mod cli_world;

use std::{
    fs,
    io::{BufRead, BufReader, Read},
    net::{TcpListener, UdpSocket},
    process::Stdio,
    thread,
    time::Duration,
};

use cli_world::{Running, World, done};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

#[test]
fn a_program_has_its_own_network_and_leaves_nothing() {
    let Some(world) = World::new() else { return };
    let script = "hostname; cat /etc/hosts; ip -4 -o address show dev eth0; exit 7";
    let ran = world.netdp(&[
        "run", "--name", "web", "-p", "8080:80", "--", "sh", "-c", script,
    ]);
    assert_eq!(ran.status, Some(7), "{ran:?}");
    assert!(ran.stdout.starts_with("web\n"), "{ran:?}");
    assert!(ran.stdout.contains("127.0.0.1\tlocalhost\n"), "{ran:?}");
    assert!(ran.stdout.contains("172.17.0.2\tweb\n"), "{ran:?}");
    assert!(ran.stdout.contains("172.17.0.2/16"), "{ran:?}");

    // Gone by the time the command has returned.
    assert_eq!(world.host_ends(), Vec::<String>::new());
    assert!(
        world
            .json(&["ps", "--format", "json"])
            .as_array()
            .unwrap()
            .is_empty()
    );
    world
        .host
        .run(|| TcpListener::bind("0.0.0.0:8080").unwrap())
        .unwrap();
    // Addresses go on upwards.
    let second = world.ok(&[
        "run", "--", "ip", "-4", "-o", "address", "show", "dev", "eth0",
    ]);
    assert!(second.contains("172.17.0.3/16"), "{second}");
}

#[test]
fn a_program_that_can_not_start_is_undone() {
    let Some(world) = World::new() else { return };
    for detach in [&[][..], &["-d"]] {
        let command = ["--name", "web", "-p", "8080:80", "--", "/nonexistent"];
        let ran = world.netdp(&[&["run"], detach, &command].concat());
        assert_eq!(ran.status, Some(127), "{ran:?}");
        assert!(ran.stderr.contains("/nonexistent"), "{ran:?}");
        assert_eq!(world.host_ends(), Vec::<String>::new());
        let logs = fs::read_dir(world.path("state/logs")).unwrap();
        assert_eq!(logs.count(), 0);
    }
    let ran = world.netdp(&["run", "--network", "nowhere", "--", "true"]);
    assert_eq!(ran.status, Some(1), "{ran:?}");
    assert!(ran.stderr.contains("'nowhere'"), "{ran:?}");
}

#[test]
fn a_detached_program_is_seen_heard_and_ended() {
    let Some(world) = World::new() else { return };
    let script = "echo out; echo err >&2; exec sleep 300";
    let run = [
        "run",
        "-d",
        "--name",
        "web",
        "-p",
        "8080:80",
        "-p",
        "8081:81/udp",
        "--",
        "sh",
    ];
    let id = world.ok(&[&run[..], &["-c", script]].concat());
    let shown = &world.json(&["inspect", "web"])[0];
    assert_eq!(shown["id"], id.trim());
    assert_eq!(shown["command"][2], script);
    assert_eq!(shown["endpoints"][0]["ports"][0]["held"], true);
    let listed = world.ok(&["ps"]);
    assert!(
        listed.contains("0.0.0.0:8080->80/tcp, 0.0.0.0:8081->81/udp"),
        "{listed}"
    );
    assert_eq!(
        world.ok(&["port", "web"]),
        "80/tcp -> 0.0.0.0:8080\n81/udp -> 0.0.0.0:8081\n"
    );
    world.wait_until("the output is kept", || {
        world.ok(&["logs", "web"]) == "out\nerr\n"
    });

    let twice = world.refused(&["run", "-d", "--name", "web", "--", "true"]);
    assert!(twice.contains("web is in use"), "{twice}");
    let running = world.refused(&["rm", "web"]);
    assert!(running.contains("rm -f web"), "{running}");
    let pid = shown["pid"].as_i64().unwrap();
    assert_eq!(world.ok(&["rm", "-f", "web"]), "web\n");
    assert!(!cli_world::exists(format!("/proc/{pid}/fd/0")));
    assert_eq!(world.host_ends(), Vec::<String>::new());

    // What it said can be read until it is removed too.
    assert_eq!(world.ok(&["logs", "web"]), "out\nerr\n");
    world.ok(&["rm", "web"]);
    let gone = world.refused(&["logs", "web"]);
    assert!(gone.contains("'web'"), "{gone}");
}

#[test]
fn what_a_program_leaves_behind_ends_with_it() {
    let Some(world) = World::new() else { return };
    let start = "setsid sh -c 'sleep 300 & echo $! $$; wait' & sleep 0.2;";
    for (name, script) in [
        ("removed", format!("{start} exec sleep 300")),
        ("ended", format!("{start} exec true")),
    ] {
        world.ok(&["run", "-d", "--name", name, "--", "sh", "-c", &script]);
        world.wait_until("started", || !world.ok(&["logs", name]).is_empty());
        let said = world.ok(&["logs", name]);
        let left: Vec<&str> = said.split_whitespace().collect();
        assert_eq!(left.len(), 2, "{said}");
        if name == "removed" {
            for pid in &left {
                assert!(cli_world::exists(format!("/proc/{pid}/fd/0")));
            }
            world.ok(&["rm", "-f", name]);
        }
        for pid in &left {
            world.wait_until("ended", || !cli_world::exists(format!("/proc/{pid}/fd/0")));
        }
    }
}

#[test]
fn followed_logs_end_with_the_program() {
    let Some(world) = World::new() else { return };
    world.ok(&[
        "run",
        "-d",
        "--name",
        "web",
        "--",
        "sh",
        "-c",
        "echo a; sleep 0.4; echo b",
    ]);
    assert_eq!(world.ok(&["logs", "-f", "web"]), "a\nb\n");
}

#[test]
fn a_program_that_ends_by_itself_is_forgotten() {
    let Some(world) = World::new() else { return };
    world.ok(&[
        "run", "-d", "--name", "web", "-p", "8080:80", "--", "sleep", "0.2",
    ]);
    assert_eq!(world.host_ends().len(), 1);
    world.wait_until("it is forgotten", || world.host_ends().is_empty());
    world.refused(&["inspect", "web"]);
}

#[test]
fn signals_reach_the_program() {
    let Some(world) = World::new() else { return };
    let script = "trap 'echo caught; exit 3' TERM; echo ready; while :; do sleep 0.1; done";
    let mut child = Running(
        world
            .command(&["run", "--", "sh", "-c", script])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap(),
    );
    let mut output = BufReader::new(child.0.stdout.take().unwrap());
    let mut line = String::new();
    output.read_line(&mut line).unwrap();
    assert_eq!(line, "ready\n");
    let pid = Pid::from_raw(child.0.id().cast_signed());
    kill(pid, Signal::SIGTERM).unwrap();
    let mut rest = String::new();
    output.read_to_string(&mut rest).unwrap();
    assert_eq!(rest, "caught\n");
    assert_eq!(child.0.wait().unwrap().code(), Some(3));
    assert_eq!(world.host_ends(), Vec::<String>::new());
}

#[test]
fn a_program_keeps_its_exit_status_without_the_daemon() {
    let Some(mut world) = World::new() else {
        return;
    };
    let mut child = Running(
        world
            .command(&["run", "--", "sh", "-c", "echo ready; read end; exit 7"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap(),
    );
    let mut output = BufReader::new(child.0.stdout.take().unwrap());
    let mut line = String::new();
    output.read_line(&mut line).unwrap();
    assert_eq!(line, "ready\n");
    world.kill_daemon();
    drop(child.0.stdin.take());
    assert_eq!(child.0.wait().unwrap().code(), Some(7));
    let mut said = String::new();
    let mut stderr = child.0.stderr.take().unwrap();
    stderr.read_to_string(&mut said).unwrap();
    assert!(said.contains("netdp daemon"), "{said}");
}

#[test]
fn the_other_modes() {
    let Some(world) = World::new() else { return };
    let none = world.ok(&["run", "--network", "none", "--", "ip", "-o", "link"]);
    assert_eq!(none.lines().count(), 1, "{none}");
    let host = world.ok(&["run", "--network", "host", "--", "ip", "-o", "link"]);
    assert!(host.contains("up0"), "{host}");
    world.ok(&["run", "-d", "--name", "web", "--", "sleep", "300"]);
    let shared = world.ok(&[
        "run",
        "--network",
        "container:web",
        "--",
        "sh",
        "-c",
        "ip -4 -o address show dev eth0; cat /etc/hosts",
    ]);
    assert!(shared.contains("172.17.0.2/16"), "{shared}");
    assert!(shared.contains("172.17.0.2\tweb\n"), "{shared}");
    let nonsense = world.refused(&["run", "--network", "host", "-p", "80", "--", "true"]);
    assert!(nonsense.contains("-p"), "{nonsense}");
    let without = world.refused(&["run", "--ip6", "fd00::2", "--", "true"]);
    assert!(without.contains("netdp0 has no IPv6"), "{without}");
    world.ok(&["rm", "-f", "web"]);
}

#[test]
fn what_is_asked_for_is_given() {
    let Some(world) = World::new() else { return };
    world.ok(&[
        "run",
        "-d",
        "--name",
        "db",
        "--hostname",
        "data",
        "--",
        "sleep",
        "300",
    ]);
    let script = "cat /sys/class/net/eth0/address /etc/hosts; ip -4 -o address show dev eth0";
    let output = world.ok(&[
        "run",
        "--ip",
        "172.17.5.5",
        "--mac",
        "02:00:00:00:00:07",
        "--link",
        "db:store",
        "--expose",
        "80-81",
        "--expose",
        "53/udp",
        "-P",
        "--name",
        "web",
        "--",
        "sh",
        "-c",
        script,
    ]);
    assert!(output.contains("172.17.5.5/16"), "{output}");
    assert!(output.contains("172.17.0.2\tstore data db\n"), "{output}");
    let link = world.ok(&[
        "run",
        "--mac",
        "02:00:00:00:00:07",
        "--",
        "ip",
        "-o",
        "link",
    ]);
    assert!(link.contains("02:00:00:00:00:07"), "{link}");

    let expose = [
        "--expose", "80-81", "--expose", "53/udp", "-P", "--name", "all", "--",
    ];
    world.ok(&[&["run", "-d"], &expose[..], &["sleep", "300"]].concat());
    let ports = world.json(&["port", "all", "--format", "json"]);
    assert_eq!(ports.as_array().unwrap().len(), 3, "{ports}");
    world.ok(&["rm", "-f", "all", "db"]);
}

#[test]
fn a_taken_port_names_its_owner() {
    let Some(world) = World::new() else { return };
    let (_tcp, _udp) = world
        .host
        .run(|| {
            (
                TcpListener::bind("192.0.2.2:8080").unwrap(),
                UdpSocket::bind("0.0.0.0:8053").unwrap(),
            )
        })
        .unwrap();
    for spec in ["8080:80", "8053:53/udp", "192.0.2.2:8080:80"] {
        let refused = world.refused(&["run", "-p", spec, "--", "true"]);
        assert!(refused.contains("address already in use"), "{refused}");
        let owner = format!("(pid {})", std::process::id());
        assert!(refused.contains(&owner), "{refused}");
    }
    // Elsewhere it is free.
    world.ok(&["run", "-p", "127.0.0.1:8080:80", "--", "true"]);

    world.ok(&[
        "run", "-d", "--name", "web", "-p", "9000:80", "--", "sleep", "300",
    ]);
    let refused = world.refused(&["run", "-p", "9000:80", "--", "true"]);
    assert!(refused.contains("address already in use"), "{refused}");
    assert!(refused.contains("web"), "{refused}");
    // While published, no program of the host can take it.
    let taken = world
        .host
        .run(|| TcpListener::bind("0.0.0.0:9000").is_err());
    assert!(taken.unwrap());
    world.ok(&["unpublish", "web", "9000:80"]);
    let free = world.host.run(|| TcpListener::bind("0.0.0.0:9000").is_ok());
    assert!(free.unwrap());
    let published = world.ok(&["publish", "web", "9000-9001:80-81"]);
    assert_eq!(published, "80-81/tcp -> 0.0.0.0:9000-9001\n");
    assert_eq!(world.ok(&["port", "web"]), published);
    let chosen = world.json(&["publish", "--format", "json", "web", "127.0.0.1::90"]);
    assert_eq!(chosen[0]["host_ip"], "127.0.0.1");
    assert_eq!(chosen.as_array().unwrap().len(), 1);
    let asked = world.json(&["port", "--format", "json", "web", "90"]);
    assert_eq!(chosen, asked);
    world.ok(&["unpublish", "web", "90"]);
    // A whole range or none of it.
    let refused = world.refused(&["publish", "web", "9002-9003:80-81", "9001:82"]);
    assert!(refused.contains("9001"), "{refused}");
    assert_eq!(world.ok(&["port", "web"]), published);
    world.ok(&["rm", "-f", "web"]);
}

#[test]
fn a_command_that_is_killed_leaves_nothing() {
    let Some(world) = World::new() else { return };
    let mut child = Running(
        world
            .command(&[
                "run",
                "--name",
                "web",
                "--",
                "sh",
                "-c",
                "echo; exec sleep 300",
            ])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap(),
    );
    child
        .0
        .stdout
        .as_mut()
        .unwrap()
        .read_exact(&mut [0])
        .unwrap();
    child.0.kill().unwrap();
    child.0.wait().unwrap();
    // The program may live on, as a shell's would; its sandbox can be ended.
    thread::sleep(Duration::from_millis(100));
    let removed = done(world.command(&["rm", "-f", "web"]).output().unwrap());
    assert!(
        removed.status == Some(0) || removed.stderr.contains("there is no sandbox"),
        "{removed:?}"
    );
    world.wait_until("all is gone", || world.host_ends().is_empty());
}
