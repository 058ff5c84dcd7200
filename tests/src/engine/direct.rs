//! Containers of Docker with direct ports, and who reaches them.

use netdp::demo::world::{CLIENT_ADDRESS, HOST_ADDRESS};

use super::{Docker, EngineHost, fetch};

/// The user that direct sockets are of.
const OWNER: &str = "1852142692";

/// Ports at which the host listens for containers.
pub fn direct(host: &EngineHost) -> Vec<u16> {
    let tables = host.sh("cat /proc/net/tcp /proc/net/tcp6");
    let of_line = |line: &str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let listens = fields.get(3) == Some(&"0A") && fields.get(7) == Some(&OWNER);
        let (_, port) = fields.get(1)?.split_once(':')?;
        listens.then(|| u16::from_str_radix(port, 16).unwrap())
    };
    let mut ports: Vec<u16> = tables.lines().filter_map(of_line).collect();
    ports.sort_unstable();
    ports
}

/// Waits until a port is one of those.
///
/// # Panics
/// When it never is.
#[track_caller]
pub fn is_direct(host: &EngineHost, port: u16) {
    host.wait_until(&format!("{port} is direct"), || {
        direct(host).contains(&port)
    });
}

/// Reached from outside, under the client's own address.
///
/// # Panics
/// When another container answers, or none.
#[track_caller]
pub fn serves(host: &EngineHost, port: u16, name: &str) {
    let seen = fetch(&host.topology.world.client, (HOST_ADDRESS, port));
    assert_eq!(
        (seen.hostname.as_str(), seen.source),
        (name, CLIENT_ADDRESS.into())
    );
}

/// With netdp's runtime.
pub fn docker(name: &str, packages: &str) -> Option<Docker> {
    Docker::start_with(
        name,
        packages,
        "--add-runtime netdp=/usr/local/bin/netdp-runc",
    )
}

/// Runs a container with direct ports by it.
pub fn run(docker: &Docker, name: &str, options: &str) {
    docker.host.sh(&run_words(name, options));
}

/// The command for that.
pub fn run_words(name: &str, options: &str) -> String {
    format!(
        "docker run -d --name {name} --hostname {name} --runtime netdp \
         --network name=fast,driver-opt=publish=direct {options} web:1"
    )
}
