//! The daemon's life: restarts, repairs, and what it refuses to start with.

mod cli_world;

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::DirEntryExt;
use std::path::PathBuf;

use cli_world::{World, done};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

#[test]
fn killed_and_restarted_it_finds_everything_again() {
    let Some(mut world) = World::new() else {
        return;
    };
    world.ok(&["network", "create", "blue"]);
    world.ok(&[
        "run", "-d", "--name", "web", "-p", "8080:80", "--", "sleep", "300",
    ]);
    world.ok(&[
        "run", "-d", "--name", "brief", "-p", "8081:80", "--", "sleep", "300",
    ]);
    let links = world.ip("-o link show type veth");
    let before = world.json(&["inspect", "web"]);
    let brief = world.json(&["inspect", "brief"])[0]["pid"]
        .as_i64()
        .unwrap();

    world.kill_daemon();
    assert_eq!(world.ip("-o link show type veth"), links);
    let pid = Pid::from_raw(brief.try_into().unwrap());
    kill(pid, Signal::SIGKILL).unwrap();
    // Its port is free while nobody holds it, and taken by another program.
    let _taken = world
        .host
        .run(|| TcpListener::bind("0.0.0.0:8080").unwrap())
        .unwrap();
    world.start_daemon(&[]);

    world.refused(&["inspect", "brief"]);
    assert_eq!(world.host_ends().len(), 1);
    let after = world.json(&["inspect", "web"]);
    assert_eq!(after[0]["id"], before[0]["id"]);
    assert_eq!(
        after[0]["endpoints"][0]["host_interface"],
        before[0]["endpoints"][0]["host_interface"]
    );
    assert_eq!(after[0]["endpoints"][0]["ports"][0]["held"], false);
    let checks = world.json(&["doctor", "--format", "json"]);
    let complaint = checks
        .as_array()
        .unwrap()
        .iter()
        .find(|check| check["found"].as_str().unwrap().contains("8080"))
        .unwrap_or_else(|| panic!("{checks}"));
    assert_eq!(complaint["state"], "warning");
    drop(_taken);
    world.wait_until("the port is held again", || {
        world.json(&["inspect", "web"])[0]["endpoints"][0]["ports"][0]["held"] == true
    });
    world.ok(&["rm", "-f", "web"]);
    world.ok(&["network", "rm", "blue"]);
}

#[test]
fn one_that_was_stopped_is_not_waited_for() {
    let Some(world) = World::new() else {
        return;
    };
    world.ok(&["run", "-d", "--name", "web", "--", "sleep", "300"]);
    let pid = Pid::from_raw(world.daemon_pid());
    kill(pid, Signal::SIGSTOP).unwrap();
    let how = format!("`kill -CONT {pid}`");
    for words in [
        &["ps"][..],
        &["flows"],
        &["network", "create", "late"],
        &["run", "--", "true"],
        &["disconnect", "netdp0", "web"],
    ] {
        let said = world.refused(words);
        assert!(said.contains(&how), "{words:?}: {said}");
    }
    let doctor = world.netdp(&["doctor"]);
    assert!(doctor.stdout.contains(&how), "{}", doctor.stdout);
    kill(pid, Signal::SIGCONT).unwrap();
    assert!(world.ok(&["ps"]).contains("web"));
    world.ok(&["rm", "-f", "web"]);
}

#[test]
fn told_to_end_it_leaves_the_networks() {
    let Some(mut world) = World::new() else {
        return;
    };
    world.ok(&["run", "-d", "--name", "web", "--", "sleep", "300"]);
    assert_eq!(world.stop_daemon(), Some(0));
    assert!(!cli_world::exists(world.path("run/netdp.sock")));
    assert_eq!(world.host_ends().len(), 1);
    let absent = world.refused(&["ps"]);
    assert!(absent.contains("start one with `netdp daemon`"), "{absent}");
    world.start_daemon(&[]);
    world.ok(&["rm", "-f", "web"]);
}

#[test]
fn cleaning_up_takes_all_away() {
    let Some(mut world) = World::new() else {
        return;
    };
    let inside = world.namespace("inside");
    world.ok(&["attach", "--netns", inside.path().to_str().unwrap()]);
    let refused = done(world.daemon_command(&["--cleanup"]).output().unwrap());
    assert_eq!(refused.status, Some(1), "a daemon runs: {refused:?}");
    world.stop_daemon();
    let cleaned = done(world.daemon_command(&["--cleanup"]).output().unwrap());
    assert_eq!(cleaned.status, Some(0), "{cleaned:?}");
    assert!(!world.ip("-o link").contains("netdp0"));
    assert_eq!(world.host_ends(), Vec::<String>::new());
    assert!(!cli_world::exists(world.path("bpf/netdp")));
}

#[test]
fn what_somebody_removes_is_made_again() {
    let Some(world) = World::new() else { return };
    let inside = world.namespace("inside");
    world.ok(&["attach", "--netns", inside.path().to_str().unwrap()]);
    let host_end = world.host_ends().pop().unwrap();
    world.ip(&format!("link delete {host_end}"));
    world.wait_until("the endpoint is back", || {
        world.host_ends().contains(&host_end)
            && world
                .ip("route")
                .contains(&format!("172.17.0.2 dev {host_end}"))
    });
    let address = world.ip_in(&inside, "-4 -o address show dev eth0");
    assert!(address.contains("172.17.0.2/16"), "{address}");

    world.ip("link delete netdp0");
    world.wait_until("the bridge is back", || {
        world.ip("-4 -o address").contains("172.17.0.1/16")
    });
    world.ip("route delete 172.17.0.2");
    world.wait_until("the route is back", || {
        world.ip("route").contains("172.17.0.2 dev")
    });
}

#[test]
fn host_ends_forward_whatever_is_done_to_the_host() {
    let Some(mut world) = World::new() else {
        return;
    };
    let inside = world.namespace("inside");
    world.ok(&["attach", "--netns", inside.path().to_str().unwrap()]);
    let host_end = world.host_ends().pop().unwrap();
    let own = format!("/proc/sys/net/ipv4/conf/{host_end}/forwarding");
    let read = |path: &str| {
        world
            .host
            .run(|| fs::read_to_string(path).unwrap())
            .unwrap()
    };
    let write = |world: &World, path: &str, value: &str| {
        world.host.run(|| fs::write(path, value).unwrap()).unwrap();
    };
    let all = "/proc/sys/net/ipv4/ip_forward";
    assert_eq!(read(&own), "1\n");
    write(&world, all, "1");
    write(&world, all, "0");
    world.wait_until("the host end forwards again", || read(&own) == "1\n");
    assert_eq!(read(all), "0\n", "that is left alone");
    write(&world, &own, "0");
    world.wait_until("the host end forwards again", || read(&own) == "1\n");

    world.kill_daemon();
    write(&world, all, "1");
    write(&world, all, "0");
    world.start_daemon(&[]);
    let read = |path: &str| {
        world
            .host
            .run(|| fs::read_to_string(path).unwrap())
            .unwrap()
    };
    world.wait_until("the host end forwards again", || read(&own) == "1\n");
    let checks = world.ok(&["doctor"]);
    assert!(checks.contains("on for 1 container interface"), "{checks}");
}

#[test]
fn uplinks_come_and_go() {
    let Some(world) = World::new() else { return };
    let uplinks = || -> Vec<serde_json::Value> {
        let (_, status) = world.http("GET", "/v1/status", "");
        status["uplinks"].as_array().unwrap().clone()
    };
    assert_eq!(uplinks().len(), 1);
    assert_eq!(uplinks()[0]["interface"], "up0");
    world.ip("address add 192.0.2.9/24 dev up0");
    world.wait_until("the address is known", || {
        uplinks()[0]["addresses"].to_string().contains("192.0.2.9")
    });
    world.ip("link add up1 type veth peer name wire1");
    world.ip("address add 198.51.100.2/24 dev up1");
    world.ip("link set wire1 up");
    world.ip("link set up1 up");
    world.ip("route add default via 198.51.100.1 metric 50");
    world.wait_until("there are two", || uplinks().len() == 2);
    world.ip("link delete up1");
    world.wait_until("there is one again", || uplinks().len() == 1);
}

#[test]
fn one_daemon_at_a_time() {
    let Some(world) = World::new() else { return };
    let second = done(world.daemon_command(&[]).output().unwrap());
    assert_eq!(second.status, Some(1), "{second:?}");
    assert!(
        second.stderr.contains("another daemon answers"),
        "{second:?}"
    );
    for (run, state) in [("other-run", "state"), ("run", "other-state")] {
        let second = done(world.daemon_in(run, state, &[]).output().unwrap());
        assert_eq!(second.status, Some(1), "{second:?}");
        assert!(second.stderr.contains("another"), "{second:?}");
    }
    world.ok(&["ps"]);
}

#[test]
fn a_second_daemon_leaves_the_datapath_of_the_first_alone() {
    let Some(world) = World::new() else { return };
    let inside = world.namespace("inside");
    world.ok(&["attach", "--netns", inside.path().to_str().unwrap()]);
    let before = pins(&world);
    assert!(!before.is_empty());
    for args in [&[][..], &["--cleanup"]] {
        let mut command = world.daemon_in("other-run", "other-state", args);
        let second = done(command.output().unwrap());
        assert_eq!(second.status, Some(1), "{second:?}");
        assert!(second.stderr.contains("another --bpffs"), "{second:?}");
        assert_eq!(pins(&world), before, "{args:?}");
    }
    world.ip_in(&inside, "neighbour flush all");
    let ping = inside
        .command("ping")
        .args(["-c1", "-W2", "172.17.0.1"])
        .output()
        .unwrap();
    assert!(ping.status.success(), "{ping:?}");
}

#[test]
fn a_second_daemon_with_folders_of_its_own_is_refused_in_one_namespace() {
    let Some(mut world) = World::new() else {
        return;
    };
    let filters = |world: &World| world.ip("-details link show up0");
    let before = filters(&world);
    let pid = format!("pid {}", world.daemon_pid());
    for args in [&[][..], &["--cleanup"]] {
        let mut command = world.daemon_with("other-run", "other-state", "other-bpf", args);
        let second = done(command.output().unwrap());
        assert_eq!(second.status, Some(1), "{second:?}");
        assert!(second.stderr.contains(&pid), "{second:?}");
        assert!(second.stderr.contains("another namespace"), "{second:?}");
        assert_eq!(filters(&world), before);
    }
    let mounted = world.path("other-bpf");
    nix::mount::umount2(&mounted, nix::mount::MntFlags::MNT_DETACH).unwrap();
    // The claim ends with the process, however that ends.
    world.kill_daemon();
    world.start_daemon(&[]);
    world.ok(&["ps"]);
}

#[test]
fn doctor_names_the_bpf_file_system_in_use() {
    let Some(mut world) = World::new() else {
        return;
    };
    let found = |world: &World, args: &[&str]| {
        let words = [&["doctor", "--format", "json"], args].concat();
        let checks = world.json(&words);
        let bpffs = checks.as_array().unwrap().iter();
        let mut bpffs = bpffs.filter(|check| check["name"] == "bpffs");
        bpffs.next().unwrap()["found"].as_str().unwrap().to_owned()
    };
    let own = world.path("bpf").display().to_string();
    assert_eq!(
        found(&world, &[]),
        format!("mounted at {own}, in use by the daemon")
    );
    let asked = found(&world, &["--bpffs", "/nonexistent"]);
    assert_eq!(asked, "not mounted: the daemon mounts it at /nonexistent");
    world.stop_daemon();
    assert!(!found(&world, &[]).contains(&own));
    assert_eq!(
        found(&world, &["--bpffs", &own]),
        format!("mounted at {own}")
    );
}

/// What is pinned, with inode numbers: what is made anew gets another one.
fn pins(world: &World) -> Vec<(PathBuf, u64)> {
    let mut folders = vec![world.path("bpf")];
    let mut found = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap().flatten() {
            found.push((entry.path(), entry.ino()));
            if entry.file_type().unwrap().is_dir() {
                folders.push(entry.path());
            }
        }
    }
    found.sort();
    found
}

#[test]
fn a_damaged_store_is_kept_and_reported() {
    let Some(mut world) = World::new() else {
        return;
    };
    world.ok(&["network", "create", "blue"]);
    world.stop_daemon();
    let store = world.path("state/state.redb");
    fs::write(&store, "this is no store").unwrap();
    world.start_daemon(&[]);
    world.ok(&["network", "inspect", "blue"]);
    let kept = fs::read_dir(world.path("state"))
        .unwrap()
        .flatten()
        .find(|entry| entry.file_name().to_string_lossy().contains("damaged"))
        .expect("it is kept aside");
    assert_eq!(fs::read_to_string(kept.path()).unwrap(), "this is no store");
    let checks = world.ok(&["doctor"]);
    assert!(checks.contains("the store was damaged"), "{checks}");
}

#[test]
fn networks_have_the_options_that_the_daemon_was_given() {
    let args = ["--default-network-opt", "sockmap=auto,big-tcp=auto"];
    let Some(mut world) = World::with_daemon(&args) else {
        return;
    };
    const ICC: &str = "com.docker.network.bridge.enable_icc=false";
    world.ok(&["network", "create", "own", "-o", "sockmap=off", "-o", ICC]);
    let networks = world.json(&["network", "inspect", "netdp0", "own"]);
    assert_eq!(networks[0]["options"]["sockmap"], "auto");
    assert_eq!(networks[0]["options"]["big-tcp"], "auto");
    assert_eq!(networks[1]["options"]["sockmap"], "off");
    assert_eq!(networks[1]["options"]["big-tcp"], "auto");
    assert_eq!(networks[1]["icc"], false);
    // They are the networks' own from then on.
    world.kill_daemon();
    world.start_daemon(&[]);
    assert_eq!(
        world.json(&["network", "inspect", "netdp0", "own"]),
        networks
    );
}

#[test]
fn a_log_filter_that_cannot_be_read_is_named() {
    let Some(world) = World::without_daemon() else {
        return;
    };
    let mut command = world.daemon_command(&["--config", "/nonexistent"]);
    let ended = done(command.env("RUST_LOG", "netdp=loud").output().unwrap());
    assert!(
        ended.stderr.contains("RUST_LOG=netdp=loud is left out"),
        "{ended:?}"
    );
    let mut command = world.daemon_command(&["--config", "/nonexistent"]);
    let ended = done(command.env("RUST_LOG", "warn").output().unwrap());
    assert!(!ended.stderr.contains("RUST_LOG"), "{ended:?}");
}

#[test]
fn wrong_settings_are_refused() {
    let Some(world) = World::without_daemon() else {
        return;
    };
    let file = world.path("netdp.toml");
    fs::write(&file, "max-flow = 3").unwrap();
    for (args, status, why) in [
        (&["--xdp", "fast"][..], 2, "fast"),
        (&["--uplink", "a/b"], 1, "a/b"),
        (&["--config", "/nonexistent"], 1, "/nonexistent"),
        (&["--config", file.to_str().unwrap()], 1, "max-flow"),
        (&["--cgroup", "/proc"], 1, "--cgroup"),
        (&["--default-network-opt", "sockmap"], 2, "KEY=VALUE"),
        (
            &["--default-network-opt", "sockmap=fast"],
            1,
            "sockmap=fast",
        ),
    ] {
        let refused = done(world.daemon_command(args).output().unwrap());
        assert_eq!(refused.status, Some(status), "{args:?}: {refused:?}");
        assert!(refused.stderr.contains(why), "{args:?}: {refused:?}");
        for made in ["run", "state", "bpf"] {
            assert!(!cli_world::exists(world.path(made)), "{args:?}: {made}");
        }
    }
    assert!(!world.ip("-o link").contains("netdp0"));
}
