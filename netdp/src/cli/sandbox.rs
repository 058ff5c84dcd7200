//! Commands about sandboxes that exist: everything but `run`.

use std::{
    fs,
    net::SocketAddr,
    path::Path,
    time::{SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, Result, bail};

use super::{
    args::{
        AttachArgs, ConnectArgs, DisconnectArgs, Format, InspectArgs, ListArgs, PortArgs,
        PublishArgs, RemoveArgs, SandboxArgs, UnpublishArgs,
    },
    logs,
    output::{self, short},
    runtime,
};
use crate::api::{
    client::Client,
    types::{Connect, Port, Ports, Removal, Sandbox},
};
use crate::model::{EndpointRequest, Exposed, Proto, Publication, SandboxRequest};

/// What `run` and `attach` ask of the daemon alike.
///
/// Refuses what isn't available yet.
pub fn request(args: SandboxArgs) -> Result<SandboxRequest> {
    Ok(SandboxRequest {
        name: args.name,
        networks: args.network.into_iter().collect(),
        ip: args.ip,
        ip6: args.ip6,
        mac: args.mac,
        publish: args.publish,
        expose: args.expose,
        publish_all: args.publish_all,
        aliases: args.aliases,
        allow: args.allow,
        links: args.links,
        ..SandboxRequest::default()
    })
}

pub fn attach(run_dir: &Path, args: AttachArgs) -> Result<()> {
    let netns = fs::canonicalize(&args.netns)
        .with_context(|| format!("no namespace at {}", args.netns.display()))?;
    let request = SandboxRequest {
        netns,
        ..request(args.sandbox)?
    };
    let client = Client::new(run_dir);
    let sandbox = runtime()?.block_on(async {
        let sandbox = client.create_sandbox(&request).await?;
        tell_what_is_not_direct(&client, &sandbox).await;
        anyhow::Ok(sandbox)
    })?;
    output::line(&sandbox.id)
}

/// Says on standard error which ports are published by the datapath, though
/// their network asks for direct ones.
pub(super) async fn tell_what_is_not_direct(client: &Client, sandbox: &Sandbox) {
    for endpoint in &sandbox.endpoints {
        let mut others = endpoint.ports.iter().filter(|port| !port.direct).peekable();
        if others.peek().is_none() {
            continue;
        }
        // What it asks for is not worth an error.
        let asks = match client.network(&endpoint.network).await {
            Ok(network) => network
                .options
                .get("publish")
                .is_some_and(|it| it == "direct"),
            Err(_) => false,
        };
        for port in others.filter(|_| asks) {
            let why = if sandbox.direct.is_none() && sandbox.owner.is_none() {
                "nobody looks at the ports that its programs bind, which `netdp run` did not start"
            } else if is_at_itself(sandbox, port) {
                "its network is routed"
            } else {
                "that port is published more than once"
            };
            eprintln!("netdp: {} is not direct: {why}", publication(port));
        }
    }
}

pub fn connect(run_dir: &Path, args: ConnectArgs) -> Result<()> {
    let request = Connect {
        network: args.network,
        endpoint: EndpointRequest {
            ip: args.ip,
            ip6: args.ip6,
            mac: args.mac,
            aliases: args.aliases,
            links: args.links,
            ..EndpointRequest::default()
        },
    };
    runtime()?.block_on(Client::new(run_dir).connect(&args.name, &request))?;
    Ok(())
}

pub fn disconnect(run_dir: &Path, args: DisconnectArgs) -> Result<()> {
    runtime()?.block_on(Client::new(run_dir).disconnect(&args.name, &args.network))?;
    Ok(())
}

pub fn publish(run_dir: &Path, args: PublishArgs) -> Result<()> {
    let request = Ports {
        ports: args.ports,
        allow: args.allow,
    };
    let client = Client::new(run_dir);
    let sandbox = runtime()?.block_on(async {
        let sandbox = client.publish(&args.name, &request).await?;
        tell_what_is_not_direct(&client, &sandbox).await;
        anyhow::Ok(sandbox)
    })?;
    let published: Vec<&Port> = ports(&sandbox)
        .filter(|port| {
            let published = publication(port);
            let own = is_at_itself(&sandbox, port);
            request
                .ports
                .iter()
                .any(|asked| asked.fits(&published, own))
        })
        .collect();
    if args.format == Format::Json {
        return output::json(&published);
    }
    published.into_iter().try_for_each(port_line)
}

/// As on a routed network.
fn is_at_itself(sandbox: &Sandbox, port: &Port) -> bool {
    let mut addresses = sandbox.endpoints.iter().flat_map(|e| &e.addresses);
    addresses.any(|address| address.addr() == port.host_ip)
}

pub fn unpublish(run_dir: &Path, args: UnpublishArgs) -> Result<()> {
    let ports = Ports {
        ports: args.ports,
        allow: Vec::new(),
    };
    runtime()?.block_on(Client::new(run_dir).unpublish(&args.name, &ports))?;
    Ok(())
}

pub fn list(run_dir: &Path, args: ListArgs) -> Result<()> {
    let sandboxes = runtime()?.block_on(Client::new(run_dir).sandboxes())?;
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs());
    let row = |sandbox: &Sandbox| {
        let addresses: Vec<String> = sandbox
            .endpoints
            .iter()
            .flat_map(|endpoint| &endpoint.addresses)
            .map(|address| address.addr().to_string())
            .collect();
        let ports: Vec<&Port> = ports(sandbox).collect();
        vec![
            short(id(sandbox)),
            sandbox.name.clone(),
            sandbox.pid.map_or("-".to_owned(), |pid| pid.to_string()),
            output::age(sandbox.created, now),
            networks(sandbox),
            addresses.join(", "),
            output::join(&ports, |port| {
                format!(
                    "{}->{}{}",
                    host_side(port),
                    container_side(port),
                    allowed(port)
                )
            }),
            shell_words(&sandbox.command),
        ]
    };
    output::print(
        args.format,
        &sandboxes,
        &[
            "SANDBOX ID",
            "NAME",
            "PID",
            "AGE",
            "NETWORK",
            "ADDRESS",
            "PORTS",
            "COMMAND",
        ],
        sandboxes.iter().map(row),
    )
}

/// Docker's own of a container that Docker has told of.
fn id(sandbox: &Sandbox) -> &str {
    match &sandbox.container {
        Some(id) if sandbox.owner.as_deref() == Some("docker") => id,
        _ => &sandbox.id,
    }
}

pub fn inspect(run_dir: &Path, args: InspectArgs) -> Result<()> {
    let client = Client::new(run_dir);
    let runtime = runtime()?;
    let sandboxes = args
        .names
        .iter()
        .map(|name| runtime.block_on(client.sandbox(name)))
        .collect::<Result<Vec<_>, _>>()?;
    if args.format == Format::Json {
        return output::json(&sandboxes);
    }
    for sandbox in &sandboxes {
        output::print(
            Format::Table,
            &(),
            &["SANDBOX", &sandbox.name],
            rows(sandbox),
        )?;
    }
    Ok(())
}

fn rows(sandbox: &Sandbox) -> Vec<Vec<String>> {
    let row = |name: &str, value: String| vec![name.to_owned(), value];
    let mut rows = vec![
        row("id", sandbox.id.clone()),
        row("namespace", sandbox.netns.display().to_string()),
        row("mode", sandbox.mode.clone()),
    ];
    if let Some(pid) = sandbox.pid {
        rows.push(row("pid", pid.to_string()));
    }
    if !sandbox.command.is_empty() {
        rows.push(row("command", shell_words(&sandbox.command)));
    }
    for endpoint in &sandbox.endpoints {
        rows.push(row(
            "endpoint",
            format!(
                "{} {} {} {} (host: {})",
                endpoint.network,
                endpoint.interface,
                output::join(&endpoint.addresses, ToString::to_string),
                endpoint.mac,
                endpoint.host_interface
            ),
        ));
    }
    for port in ports(sandbox) {
        let lost = if port.held {
            ""
        } else {
            " (taken by another program of the host)"
        };
        rows.push(row(
            "port",
            format!(
                "{} -> {}{}{lost}",
                container_side(port),
                host_side(port),
                allowed(port)
            ),
        ));
    }
    rows
}

pub fn port(run_dir: &Path, args: PortArgs) -> Result<()> {
    let wanted = args.port.as_deref().map(wanted_port).transpose()?;
    let sandbox = runtime()?.block_on(Client::new(run_dir).sandbox(&args.name))?;
    let found: Vec<&Port> = ports(&sandbox)
        .filter(|port| {
            wanted.as_ref().is_none_or(|(number, protocol)| {
                publication(port).container_ports().holds(*number) && port.protocol == *protocol
            })
        })
        .collect();
    if let (Some((number, protocol)), true) = (&wanted, found.is_empty()) {
        bail!(
            "port {number}/{protocol} of {} is not published: `netdp publish {} {number}/{protocol}` \
             does that",
            sandbox.name,
            sandbox.name
        );
    }
    if args.format == Format::Json {
        return output::json(&found);
    }
    for port in found {
        if let Some((number, _)) = &wanted {
            let host_port = port.host_port + (number - port.container_port);
            output::line(&SocketAddr::new(port.host_ip, host_port).to_string())?;
        } else {
            port_line(port)?;
        }
    }
    Ok(())
}

fn wanted_port(text: &str) -> Result<(u16, Proto)> {
    let wanted: Exposed = text.parse()?;
    if wanted.ports.count() != 1 {
        bail!("{text} are several ports: ask for one, or leave it out to see all");
    }
    Ok((wanted.ports.first(), wanted.proto))
}

pub fn remove(run_dir: &Path, args: RemoveArgs) -> Result<()> {
    let client = Client::new(run_dir);
    let runtime = runtime()?;
    let removal = Removal { force: args.force };
    output::each(&args.names, |name| {
        let removed = match runtime.block_on(client.remove_sandbox(name, removal)) {
            // A program that has ended leaves its output, and nothing else.
            Err(error) if error.is_not_found() => {
                let status = runtime.block_on(client.status())?;
                match name.parse() {
                    Ok(name) if logs::remove(&status.log_dir, &name)? => Ok(()),
                    _ => Err(error),
                }
            }
            removed => removed,
        };
        removed?;
        output::line(name)
    })
}

fn ports(sandbox: &Sandbox) -> impl Iterator<Item = &Port> {
    sandbox
        .endpoints
        .iter()
        .flat_map(|endpoint| &endpoint.ports)
}

fn port_line(port: &Port) -> Result<()> {
    output::line(&format!(
        "{} -> {}{}",
        container_side(port),
        host_side(port),
        allowed(port)
    ))
}

fn publication(port: &Port) -> Publication {
    Publication {
        host_ip: port.host_ip,
        host_port: port.host_port,
        container_port: port.container_port,
        proto: port.protocol,
        count: port.count,
        allow: port.allow.clone(),
        direct: port.direct,
    }
}

fn networks(sandbox: &Sandbox) -> String {
    match &sandbox.endpoints[..] {
        // Its last network was disconnected.
        [] if sandbox.mode == "networks" => "-".to_owned(),
        [] => sandbox.mode.clone(),
        endpoints => output::join(endpoints, |endpoint| endpoint.network.clone()),
    }
}

fn host_side(port: &Port) -> String {
    publication(port).host_side()
}

/// To whom it is published, where not to all.
fn allowed(port: &Port) -> String {
    if port.allow.is_empty() {
        return String::new();
    }
    format!(" from {}", output::join(&port.allow, ToString::to_string))
}

fn container_side(port: &Port) -> String {
    let direct = if port.direct { ",direct" } else { "" };
    format!(
        "{}/{}{direct}",
        publication(port).container_ports(),
        port.protocol
    )
}

/// The command as one would type it, shortened.
fn shell_words(command: &[String]) -> String {
    const LONGEST: usize = 40;
    let line = command.join(" ").replace(['\n', '\t'], " ");
    if line.chars().count() <= LONGEST {
        return line;
    }
    let start: String = line.chars().take(LONGEST - 3).collect();
    format!("{start}...")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_read_as_docker_reads_them() {
        assert_eq!(wanted_port("80").unwrap(), (80, Proto::Tcp));
        assert_eq!(wanted_port("53/UDP").unwrap(), (53, Proto::Udp));
        for wrong in ["", "0", "65536", "80/icmp", "http", "80/", "80-81"] {
            assert!(wanted_port(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn long_commands_are_shortened() {
        let short = ["echo".to_owned(), "a\nb".to_owned()];
        assert_eq!(shell_words(&short), "echo a b");
        let long = vec!["x".repeat(100)];
        assert_eq!(shell_words(&long).len(), 40);
    }
}
