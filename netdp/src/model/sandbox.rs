//! Sandboxes: network namespaces with a name.

use std::{collections::BTreeMap, path::PathBuf};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::{
    Container, Driver, EndpointRequest, Exposed, FIRST_NETWORK, HostView, Link, MacAddr, Name,
    NetworkId, PortRange, PortRequest, PortSpec, Refusal, SandboxId, State,
};

/// The program that a sandbox was made for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Process {
    pub pid: u32,
    /// Field 22 of `/proc/PID/stat`, in clock ticks since boot: tells this
    /// process from a later one with the same id.
    pub start_time: u64,
}

/// A PID namespace (pid_namespaces(7)), told from later ones of the same number by
/// when its first process started.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct PidNamespace {
    /// Of `/proc/PID/ns/pid`.
    pub inode: u64,
    /// As [`Process::start_time`], of its process 1.
    pub start_time: u64,
}

/// Whose network a sandbox has.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// Its own; its endpoints say which networks.
    Networks,
    /// The host's.
    Host,
    /// Its own, with loopback only.
    None,
    /// That of another sandbox.
    Container(SandboxId),
}

/// A network namespace with a name.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Sandbox {
    pub id: SandboxId,
    pub name: Name,
    /// Path of the namespace.
    pub netns: PathBuf,
    /// None for an attached namespace without a program of ours.
    pub process: Option<Process>,
    pub hostname: String,
    pub mode: Mode,
    pub expose: Vec<Exposed>,
    /// Variables that were given to its program by name; those that are linked
    /// to it learn them.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    pub labels: BTreeMap<String, String>,
    /// Who asked for it, if not a user: the name of an engine.
    pub owner: Option<String>,
    /// The container of that engine that it is.
    #[serde(default)]
    pub container: Option<Container>,
    /// Sources that may use its ports, as given with a network that it has
    /// left: they stay closed to others on the networks without a list.
    #[serde(default)]
    pub allow: Vec<IpNet>,
    /// Where its output is kept.
    pub log: Option<PathBuf>,
    /// Whether sockets of the host can be handed to its programs: somebody looks
    /// at the ports that they bind. Of an engine's container it is its runtime
    /// that sees to it, or not.
    #[serde(default)]
    pub direct: bool,
    pub command: Vec<String>,
    /// Seconds since the Unix epoch.
    pub created: u64,
}

/// What is asked of [`State::create_sandbox`].
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SandboxRequest {
    /// None: the beginning of its id.
    pub name: Option<Name>,
    pub netns: PathBuf,
    pub process: Option<Process>,
    /// None: its name.
    pub hostname: Option<String>,
    /// Names or ids of networks, or one of `host`, `none`, `container:NAME`.
    /// Empty: [`FIRST_NETWORK`](super::FIRST_NETWORK).
    pub networks: Vec<String>,
    pub publish: Vec<PortSpec>,
    /// Publish every exposed port at a host port of netdp's choice.
    pub publish_all: bool,
    pub expose: Vec<Exposed>,
    pub env: BTreeMap<String, String>,
    /// Further names on its network, which others may have too.
    pub aliases: Vec<Name>,
    pub links: Vec<Link>,
    pub ip: Option<std::net::Ipv4Addr>,
    pub ip6: Option<std::net::Ipv6Addr>,
    pub mac: Option<MacAddr>,
    /// Sources that may reach the published ports; empty: all.
    pub allow: Vec<IpNet>,
    pub labels: BTreeMap<String, String>,
    pub owner: Option<String>,
    pub log: Option<PathBuf>,
    pub command: Vec<String>,
}

/// What [`SandboxRequest::networks`] asks for.
pub(super) enum Choice {
    Networks(Vec<NetworkId>),
    Host,
    None,
    Container(SandboxId),
}

impl State {
    /// Makes a sandbox with its endpoints and published ports.
    ///
    /// # Errors
    /// The name is taken, a network or linked sandbox doesn't
    /// exist, the options contradict each other, or an address or port can't be
    /// had. Nothing is changed then.
    pub fn create_sandbox(
        &mut self,
        request: &SandboxRequest,
        host: &HostView<'_>,
    ) -> Result<Sandbox, Refusal> {
        self.whole(|state| {
            let choice = state.choice(&request.networks)?;
            if !matches!(choice, Choice::Networks(_)) {
                refuse_endpoint_options(request)?;
            }
            let sandbox = state.new_sandbox(request, &choice, host.now)?;
            let id = sandbox.id;
            state.sandboxes.insert(id, sandbox.clone());
            if let Choice::Networks(networks) = choice {
                state.attach(id, request, &networks)?;
                state.publish_requests(id, &request.ports()?, &request.allow, host)?;
            }
            Ok(sandbox)
        })
    }

    /// Removes a sandbox with its endpoints and published ports. Sandboxes that
    /// share its network keep a namespace with loopback only.
    ///
    /// # Errors
    /// It doesn't exist.
    pub fn remove_sandbox(&mut self, reference: &str) -> Result<Sandbox, Refusal> {
        let sandbox = self.sandbox(reference)?.clone();
        self.sandboxes.remove(&sandbox.id);
        let endpoints = self
            .endpoints
            .extract_if(.., |_, e| e.sandbox == sandbox.id);
        let networks: Vec<NetworkId> = endpoints.map(|(_, endpoint)| endpoint.network).collect();
        for network in networks {
            self.end_if_unused(network);
        }
        for other in self.sandboxes.values_mut() {
            if other.mode == Mode::Container(sandbox.id) {
                other.mode = Mode::None;
            }
        }
        Ok(sandbox)
    }

    fn choice(&self, networks: &[String]) -> Result<Choice, Refusal> {
        let mut ids = Vec::new();
        for reference in networks {
            let special = match reference.strip_prefix("container:") {
                Some(other) => {
                    let other = self.sandbox(other)?;
                    Some(Choice::Container(match other.mode {
                        Mode::Container(root) => root,
                        _ => other.id,
                    }))
                }
                None => {
                    let network = self.network(reference)?;
                    match network.driver {
                        Driver::Host => Some(Choice::Host),
                        Driver::Null => Some(Choice::None),
                        _ if ids.contains(&network.id) => {
                            return Err(Refusal::invalid(format!(
                                "network {} is given twice: give it once",
                                network.name
                            )));
                        }
                        _ => {
                            ids.push(network.id);
                            None
                        }
                    }
                }
            };
            match special {
                Some(choice) if networks.len() == 1 => return Ok(choice),
                Some(_) => {
                    return Err(Refusal::invalid(format!(
                        "network '{reference}' can't be combined with others: give it alone"
                    )));
                }
                None => {}
            }
        }
        if ids.is_empty() {
            ids.push(self.network(FIRST_NETWORK)?.id);
        }
        Ok(Choice::Networks(ids))
    }

    pub(super) fn new_sandbox(
        &self,
        request: &SandboxRequest,
        choice: &Choice,
        now: u64,
    ) -> Result<Sandbox, Refusal> {
        let id = SandboxId::random();
        let name = match &request.name {
            Some(name) => name.clone(),
            None => id.short().parse().map_err(Refusal::invalid)?,
        };
        if let Some(other) = self.sandboxes.values().find(|other| other.name == name) {
            return Err(Refusal::conflict(format!(
                "the name {name} is in use by sandbox {}: \
                 choose another one, or remove that one with `netdp rm {name}`",
                other.id.short()
            )));
        }
        let mode = match *choice {
            Choice::Networks(_) => Mode::Networks,
            Choice::Host => Mode::Host,
            Choice::None => Mode::None,
            Choice::Container(other) => Mode::Container(other),
        };
        if request.netns.as_os_str().is_empty() {
            return Err(Refusal::invalid(
                "no network namespace was given: give its path with --netns",
            ));
        }
        let hostname = match &request.hostname {
            Some(hostname) => checked_hostname(hostname)?,
            None => checked_hostname(name.as_str()).unwrap_or_else(|_| id.short()),
        };
        Ok(Sandbox {
            id,
            name,
            netns: request.netns.clone(),
            process: request.process,
            hostname,
            mode,
            expose: request.expose.clone(),
            env: request.env.clone(),
            labels: request.labels.clone(),
            owner: request.owner.clone(),
            container: None,
            allow: Vec::new(),
            log: request.log.clone(),
            direct: self.is_supervised(request, choice),
            command: request.command.clone(),
            created: now,
        })
    }

    /// Whether the ports that its programs bind are to be looked at: those of the
    /// program that is started now, where there is one; of others, where somebody
    /// hands over their filters.
    fn is_supervised(&self, request: &SandboxRequest, choice: &Choice) -> bool {
        let starts = request.process.is_some();
        match choice {
            Choice::Networks(networks) => {
                let mut networks = networks.iter().filter_map(|id| self.networks.get(id));
                request.publish.iter().any(|spec| spec.direct)
                    || starts && networks.any(|network| network.publish_direct)
            }
            Choice::Container(other) => {
                let other = self.sandboxes.get(other);
                starts && other.is_some_and(|other| other.direct)
            }
            Choice::Host | Choice::None => false,
        }
    }

    fn attach(
        &mut self,
        sandbox: SandboxId,
        request: &SandboxRequest,
        networks: &[NetworkId],
    ) -> Result<(), Refusal> {
        let fixed = request.ip.is_some() || request.ip6.is_some() || request.mac.is_some();
        if fixed && networks.len() > 1 {
            return Err(Refusal::invalid(
                "--ip, --ip6 and --mac need a single network: \
                 give one, and add the others with `netdp connect`",
            ));
        }
        for &network in networks {
            let endpoint = EndpointRequest {
                ip: request.ip,
                ip6: request.ip6,
                mac: request.mac,
                aliases: request.aliases.clone(),
                interface: None,
                links: request.links.clone(),
                allow: request.allow.clone(),
                direct: None,
            };
            self.add_endpoint(network, sandbox, &endpoint)?;
        }
        Ok(())
    }
}

impl SandboxRequest {
    fn ports(&self) -> Result<Vec<PortRequest>, Refusal> {
        let mut requests = super::publish::requests(&self.publish)?;
        if self.publish_all {
            let exposed: Vec<_> = self
                .expose
                .iter()
                .flat_map(|exposed| exposed.ports.ports().map(|port| (port, exposed.proto)))
                .collect();
            for (container_port, proto) in exposed {
                let Some(container_ports) = PortRange::single(container_port) else {
                    continue;
                };
                let known =
                    |r: &PortRequest| r.container_ports.covers(container_ports) && r.proto == proto;
                if !requests.iter().any(known) {
                    requests.push(PortRequest {
                        host_ip: None,
                        host_ports: None,
                        container_ports,
                        proto,
                        direct: false,
                    });
                }
            }
        }
        Ok(requests)
    }
}

fn refuse_endpoint_options(request: &SandboxRequest) -> Result<(), Refusal> {
    let given = [
        ("-p", !request.publish.is_empty()),
        ("-P", request.publish_all),
        ("--ip", request.ip.is_some()),
        ("--ip6", request.ip6.is_some()),
        ("--mac", request.mac.is_some()),
        ("--network-alias", !request.aliases.is_empty()),
        ("--link", !request.links.is_empty()),
        ("--allow", !request.allow.is_empty()),
    ];
    match given.iter().find(|(_, given)| *given) {
        Some((option, _)) => Err(Refusal::invalid(format!(
            "{option} makes no sense with network {}: leave it out, or take a bridge network",
            request.networks.join(" ")
        ))),
        None => Ok(()),
    }
}

/// RFC 1123 section 2.1, with the underscore that names may have; 63
/// characters, the most that Linux's 64 bytes hold.
fn checked_hostname(text: &str) -> Result<String, Refusal> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_');
    if text.is_empty() || text.len() > 63 || !text.chars().all(allowed) || text.starts_with('-') {
        return Err(Refusal::invalid(format!(
            "'{text}' is not a hostname: up to 63 letters, digits, '-', '.' and '_' are expected"
        )));
    }
    Ok(text.into())
}
