//! An application of three services by docker compose, on networks of netdp:
//! `cargo xtask test engines`.

use std::net::Ipv4Addr;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use netdp::demo::world::{CLIENT_ADDRESS, HOST_ADDRESS};
use netdp_tests::engine::{Docker, Engine, Left, application, get};
use netdp_tests::{PATIENCE, Place};

/// By docker-compose 1.29, which is Python, with Docker 20.10.
#[test]
#[ignore = "needs a real Docker: cargo xtask test engines"]
fn an_application_runs_by_compose_1() {
    an_application_runs("compose-1", "debian-12", "docker-compose");
}

/// By the plugin of Docker's command.
#[test]
#[ignore = "needs a real Docker: cargo xtask test engines"]
fn an_application_runs_by_compose_2() {
    an_application_runs("compose-2", "newest", "docker compose");
}

/// nginx, published, asks busybox's httpd, which counts in redis; they find each
/// other by name, on a network that is for them alone.
fn an_application_runs(name: &str, packages: &str, compose: &str) {
    let files = match application() {
        Ok(files) => files,
        Err(reason) => {
            println!("skipped: {reason}");
            return;
        }
    };
    let Some(docker) = Docker::start(name, packages) else {
        return;
    };
    let host = &docker.host;
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/compose");
    for (from, archive) in [(&files, "application.tar"), (&sources, "compose.tar")] {
        let archive = host.path(Path::new("/tmp").join(archive));
        let mut tar = Command::new("tar");
        let status = tar
            .arg("-C")
            .arg(from)
            .arg("-cf")
            .arg(archive)
            .arg(".")
            .status();
        assert!(status.unwrap().success());
    }
    host.sh("docker import /tmp/application.tar application:1 && rm /tmp/application.tar");
    host.sh("mkdir /tmp/compose && tar -C /tmp/compose -xf /tmp/compose.tar");
    let before = Left::on(host);
    let compose = |words: &str| {
        host.sh(&format!(
            "cd /tmp/compose && {compose} -p shop -f compose.yaml {words}"
        ))
    };
    compose("up -d");
    let world = &host.topology.world;
    let (client, program) = (&world.client, host.topology.host_program());
    assert_eq!(
        asks(client, (HOST_ADDRESS, 8500), "/me"),
        CLIENT_ADDRESS.to_string()
    );
    assert_eq!(count(client, (HOST_ADDRESS, 8500)), 1);
    assert_eq!(count(&world.outside, (HOST_ADDRESS, 8500)), 2);
    assert_eq!(count(&program, (Ipv4Addr::LOCALHOST, 8501)), 3);
    get(
        client,
        (HOST_ADDRESS, 8501),
        "/me",
        Duration::from_millis(300),
    )
    .unwrap_err();

    // A second one answers to the same name.
    compose("up -d --scale app=2 --no-recreate");
    assert_eq!(count(client, (HOST_ADDRESS, 8500)), 4);
    compose("restart db");
    assert_eq!(count(client, (HOST_ADDRESS, 8500)), 1);
    host.kill("netdp");
    assert_eq!(count(client, (HOST_ADDRESS, 8500)), 2);
    host.start_netdp();
    assert_eq!(count(client, (HOST_ADDRESS, 8500)), 3);
    compose("down");
    before.comes_back(host);
}

/// What the application says once it answers.
#[track_caller]
fn asks(place: &impl Place, to: (Ipv4Addr, u16), path: &str) -> String {
    let began = Instant::now();
    loop {
        match get(place, to, path, PATIENCE) {
            // It answers before the database does.
            Ok(said) if !said.trim().is_empty() => return said.trim().to_owned(),
            Ok(_) | Err(_) if began.elapsed() < PATIENCE => {
                std::thread::sleep(Duration::from_millis(20));
            }
            other => panic!("{to:?}: {other:?}"),
        }
    }
}

#[track_caller]
fn count(place: &impl Place, to: (Ipv4Addr, u16)) -> u64 {
    let said = asks(place, to, "/cgi-bin/count");
    said.parse().unwrap_or_else(|_| panic!("{said}"))
}
