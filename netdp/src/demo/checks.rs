//! Who must reach whom, and what each side must see of the other.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::Context;
use serde::Serialize;

use crate::load::WhoAmI;
use crate::progress::Progress;
use crate::world::{CLIENT_ADDRESS, HOST_ADDRESS, OUTSIDE_ADDRESS, World, process};

/// The web servers: each on port 80 of its own container, published here.
const WEB: [(&str, u16); 2] = [("web1", 8080), ("web2", 8081)];
const WEB_START_TIMEOUT: Duration = Duration::from_secs(5);
const FETCH_TIMEOUT: Duration = Duration::from_secs(10);

/// One expectation, and what happened.
#[derive(Clone, Debug, Serialize)]
pub struct Check {
    pub name: String,
    pub passed: bool,
    /// What was seen, or what was wrong with it.
    pub detail: String,
}

impl Check {
    pub(super) fn new(name: impl Into<String>, result: Result<String, String>) -> Self {
        let (passed, detail) = match result {
            Ok(detail) => (true, detail),
            Err(detail) => (false, detail),
        };
        Self {
            name: name.into(),
            passed,
            detail,
        }
    }
}

/// Starts both web servers by `netdp run` and fetches from everywhere.
///
/// # Errors
/// When a server can't even be started; what a fetch shows is in the checks.
pub(super) fn run(world: &World, progress: &Progress) -> anyhow::Result<Vec<Check>> {
    for (name, port) in WEB {
        progress.step(&format!("starting {name} on port 80, published on {port}"));
        start_web_server(world, name, &format!("{port}:80"), "0.0.0.0", &[])?;
    }
    progress.step("waiting for the web servers");
    let published = |port| SocketAddr::from((HOST_ADDRESS, port));
    let mut inner = Vec::new();
    let mut checks = Vec::new();
    for (name, port) in WEB {
        let seen = eventually(|| fetch(world, &From::Client, published(port)))?;
        let check = seen.and_then(|who| {
            inner.push(who.server);
            named(&who, name).and(saw(&who, CLIENT_ADDRESS))
        });
        checks.push(Check::new(
            format!(
                "client to {}: {name} sees the client's own address",
                published(port)
            ),
            check,
        ));
    }
    let [Some(web1), Some(web2)] = [inner.first(), inner.get(1)] else {
        return Ok(checks);
    };
    checks.push(Check::new(
        "both web servers have port 80, at addresses of their own",
        (web1 != web2 && web1.port() == 80 && web2.port() == 80)
            .then(|| format!("{web1} and {web2}"))
            .ok_or_else(|| format!("{web1} and {web2}")),
    ));

    progress.step("fetching from the host, from the containers, from the outside");
    let host = From::Host;
    for (name, port) in WEB {
        for address in [Ipv4Addr::LOCALHOST, HOST_ADDRESS] {
            let target = SocketAddr::from((address, port));
            let seen = fetch(world, &host, target)?;
            let check = seen.and_then(|who| named(&who, name));
            checks.push(Check::new(format!("host to {target}: {name}"), check));
        }
    }
    let from = From::Container(WEB[0].0);
    for (what, target, name) in [
        ("to web2 directly", *web2, "web2"),
        ("to web2 by the host's port", published(WEB[1].1), "web2"),
        ("to itself by the host's port", published(WEB[0].1), "web1"),
    ] {
        let check = fetch(world, &from, target)?.and_then(|who| named(&who, name));
        checks.push(Check::new(format!("web1 {what} ({target})"), check));
    }
    checks.push(masqueraded(
        world,
        WEB[0].0,
        (OUTSIDE_ADDRESS, 80).into(),
        HOST_ADDRESS.into(),
    )?);
    checks.push(Check::new(
        "no netfilter rule and no conntrack entry on the host",
        no_netfilter(world),
    ));
    Ok(checks)
}

/// `publish`: its port 80; `listen`: an address inside; `options`: further ones of `netdp run`.
pub(super) fn start_web_server(
    world: &World,
    name: &str,
    publish: &str,
    listen: &str,
    options: &[&str],
) -> anyhow::Result<()> {
    let exe = world.netdp_path().display().to_string();
    let listen = format!("http={listen}:80");
    let before = ["run", "-d", "--name", name, "-p", publish];
    let program = [
        "--",
        &exe,
        "__load-server",
        "--listen",
        &listen,
        "--name",
        name,
    ];
    world
        .netdp_ok(&[&before, options, &program].concat())
        .with_context(|| format!("cannot start {name}"))?;
    Ok(())
}

/// A container fetches from the outside, at `target`, which must see the host's
/// address: it has no way back to a container's.
pub(super) fn masqueraded(
    world: &World,
    container: &'static str,
    target: SocketAddr,
    address: IpAddr,
) -> anyhow::Result<Check> {
    let mut command = world.on_outside(world.netdp_path());
    let listen = format!("http={target}");
    command.args(["__load-server", "--listen", &listen, "--name", "outside"]);
    // It says that it listens, which is no part of the demo's own output.
    command.stdout(Stdio::null());
    let _server = Running(process::spawn(command)?);
    let from = From::Container(container);
    let seen = eventually(|| fetch(world, &from, target))?;
    Ok(Check::new(
        format!("{container} to the outside ({target}): it sees the host's address"),
        seen.and_then(|who| named(&who, "outside").and(saw(&who, address))),
    ))
}

/// A process that ends with its owner.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        process::kill(&mut self.0);
    }
}

/// Where a fetch comes from.
pub(super) enum From {
    Client,
    Host,
    Container(&'static str),
}

/// What the server at `target` says it saw; the inner error is the demo's
/// finding, the outer one ends it.
pub(super) fn fetch(
    world: &World,
    from: &From,
    target: SocketAddr,
) -> anyhow::Result<Result<WhoAmI, String>> {
    let netdp = world.netdp_path();
    let mut command: Command = match from {
        From::Client => world.on_client(netdp),
        From::Host => world.on_host(netdp),
        From::Container(name) => {
            let mut command = world.on_host(netdp);
            command.args(["run", "--network", &format!("container:{name}"), "--"]);
            command.arg(netdp);
            command
        }
    };
    command.args(["__load-fetch", "--target", &target.to_string()]);
    let output = process::output(command, FETCH_TIMEOUT)?;
    if !output.status.success() {
        return Ok(Err(String::from_utf8_lossy(&output.stderr)
            .trim()
            .to_owned()));
    }
    Ok(serde_json::from_slice(&output.stdout).map_err(|error| format!("unexpected page: {error}")))
}

/// Repeats until it succeeds: a server that was started a moment ago may not
/// listen yet.
pub(super) fn eventually(
    mut attempt: impl FnMut() -> anyhow::Result<Result<WhoAmI, String>>,
) -> anyhow::Result<Result<WhoAmI, String>> {
    let deadline = Instant::now() + WEB_START_TIMEOUT;
    loop {
        let result = attempt()?;
        if result.is_ok() || Instant::now() > deadline {
            return Ok(result);
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

pub(super) fn named(who: &WhoAmI, name: &str) -> Result<String, String> {
    if who.name == name {
        Ok(format!("{} saw {}", who.name, who.client.ip()))
    } else {
        Err(format!("{} answered instead of {name}", who.name))
    }
}

pub(super) fn saw(who: &WhoAmI, address: impl Into<IpAddr>) -> Result<String, String> {
    let address = address.into();
    if who.client.ip().to_canonical() == address {
        Ok(format!("{} saw {}", who.name, address))
    } else {
        Err(format!(
            "{} saw {} instead of {address}",
            who.name,
            who.client.ip()
        ))
    }
}

fn no_netfilter(world: &World) -> Result<String, String> {
    let entries = world
        .host
        .run(|| fs::read_to_string("/proc/sys/net/netfilter/nf_conntrack_count"))
        .map_err(|error| error.to_string())?
        // Without the file the kernel has no conntrack loaded.
        .unwrap_or_else(|_| "0".into());
    if entries.trim() != "0" {
        return Err(format!("{} conntrack entries", entries.trim()));
    }
    let mut tools = Vec::new();
    for (tool, args) in [("nft", &["list", "ruleset"][..]), ("iptables-save", &[])] {
        let mut command = world.on_host(tool);
        command.args(args);
        let output = match process::output(command, FETCH_TIMEOUT) {
            Ok(output) if output.status.success() => output,
            Err(process::ProcessError::Interrupted) => return Err("interrupted".into()),
            // Not installed, or the kernel has no such tables.
            _ => continue,
        };
        let text = String::from_utf8_lossy(&output.stdout);
        if let Some(rule) = text
            .lines()
            .find(|line| !line.starts_with('#') && !line.is_empty())
        {
            return Err(format!("{tool} shows: {rule}"));
        }
        tools.push(tool);
    }
    Ok(match tools[..] {
        [] => "no conntrack entry; neither nft nor iptables is here to ask for rules".into(),
        _ => format!("as {} shows", tools.join(" and ")),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn who() -> WhoAmI {
        WhoAmI {
            name: "web1".into(),
            client: "198.18.0.1:40000".parse().unwrap(),
            server: "172.17.0.2:80".parse().unwrap(),
        }
    }

    #[test]
    fn the_wrong_server_and_the_wrong_address_are_told_apart() {
        assert!(named(&who(), "web1").is_ok());
        assert_eq!(
            named(&who(), "web2").unwrap_err(),
            "web1 answered instead of web2"
        );
        assert!(saw(&who(), CLIENT_ADDRESS).is_ok());
        let refusal = saw(&who(), HOST_ADDRESS).unwrap_err();
        assert_eq!(refusal, "web1 saw 198.18.0.1 instead of 198.18.0.2");
    }

    #[test]
    fn a_rule_or_a_tracked_connection_on_the_host_is_noticed() {
        if !nix::unistd::geteuid().is_root() {
            return;
        }
        let world = World::new("rules").unwrap();
        no_netfilter(&world).unwrap();
        let mut rule = world.on_host("iptables");
        rule.args(["-t", "nat", "-A", "POSTROUTING", "-j", "MASQUERADE"]);
        if matches!(process::output(rule, FETCH_TIMEOUT), Ok(output) if output.status.success()) {
            assert!(no_netfilter(&world).is_err());
        }
    }
}
