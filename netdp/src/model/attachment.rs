//! Attachments: what the plugins of engines ask for. An engine makes a
//! container's namespace and asks a plugin for each network that the container
//! shall be on; so a container's sandbox is there from its first attachment to
//! its last.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::{
    EndpointId, EndpointRequest, HostView, Network, NetworkId, NetworkRequest, PortRequest,
    PortSpec, Process, Refusal, Sandbox, SandboxId, SandboxRequest, State, publish,
    sandbox::Choice,
};

/// A container of an engine, as a sandbox knows it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Container {
    /// As the engine calls it.
    pub id: String,
    /// The engine holds the host ports of its published ports, by sockets of
    /// its own.
    #[serde(default)]
    pub holds_ports: bool,
}

impl Sandbox {
    /// Whether its engine holds the host ports of its published ports, so that
    /// netdp must not.
    pub fn holds_ports(&self) -> bool {
        self.container.as_ref().is_some_and(|it| it.holds_ports)
    }
}

/// What is asked of [`State::attach_container`].
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AttachmentRequest {
    /// Whose plugin asks, such as `cni`.
    pub engine: String,
    /// Numbers of the processes by which the engine asks. Where it holds host
    /// ports, it may have them already, by sockets of these.
    #[serde(default)]
    pub callers: Vec<u32>,
    pub container: Container,
    /// What the container is called: the sandbox gets that name where it is
    /// free, and else the container's id.
    #[serde(default)]
    pub name: Option<String>,
    pub netns: PathBuf,
    /// The process whose namespace it is, where the path goes with that.
    #[serde(default)]
    pub process: Option<Process>,
    /// Made if it isn't there; what it says has to fit one that is.
    pub network: NetworkRequest,
    /// Name of the engine's configuration by which it asks, where several may
    /// lead to one network.
    #[serde(default)]
    pub list: Option<String>,
    pub endpoint: EndpointRequest,
    /// Not on an internal network, where nothing can be published: on the
    /// container's other ones. What it publishes already stays as it is.
    #[serde(default)]
    pub publish: Vec<PortSpec>,
}

/// A container's attachment to a network.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Attachment {
    pub engine: String,
    /// As the engine calls it.
    pub container: String,
    /// Name of the network.
    pub network: String,
    /// In the container.
    pub interface: String,
    /// As the engine's configuration is called by which it asked. It tells
    /// nothing apart: a container is on a network once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub list: Option<String>,
}

impl Attachment {
    /// Whether both are of one container to one network.
    pub fn is_same(&self, other: &Self) -> bool {
        let names = |it: &Self| {
            let Self {
                engine,
                container,
                network,
                interface,
                list: _,
            } = it.clone();
            [engine, container, network, interface]
        };
        names(self) == names(other)
    }
}

impl State {
    /// Puts a container on a network.
    ///
    /// # Errors
    /// There is such a network and it is another one, or it can't be made; the
    /// container is in another namespace, or on the network already; or an
    /// interface, address or port can't be had. Nothing is changed then.
    pub fn attach_container(
        &mut self,
        request: &AttachmentRequest,
        host: &HostView<'_>,
    ) -> Result<(SandboxId, EndpointId), Refusal> {
        self.whole(|state| {
            let network = state.network_on_demand(&request.network, host)?;
            let sandbox = state.sandbox_for(request, host.now)?;
            let endpoint = state.add_endpoint(network, sandbox, &request.endpoint)?;
            if let Some(made) = state.endpoints.get_mut(&endpoint.id) {
                made.list.clone_from(&request.list);
            }
            if !state.networks[&network].internal {
                let mut ports = publish::requests(&request.publish)?;
                ports.retain(|port| !state.publishes(sandbox, port));
                state.publish_requests(sandbox, &ports, &[], host)?;
            }
            Ok((sandbox, endpoint.id))
        })
    }

    /// Takes a container off a network. Its published ports move to the next
    /// one; with the last attachment the sandbox goes. What isn't there is no
    /// error, and gives none.
    pub fn detach_container(&mut self, attachment: &Attachment) -> Option<SandboxId> {
        let (sandbox, endpoint) = self
            .attachments()
            .find(|(found, ..)| found.is_same(attachment))
            .map(|(_, sandbox, endpoint)| (sandbox, endpoint))?;
        let network = self.endpoints.get(&endpoint)?.network;
        self.disconnect(&network.to_string(), &sandbox.to_string())
            .ok()?;
        if self.endpoints_of(sandbox).is_empty() {
            self.remove_sandbox(&sandbox.to_string()).ok()?;
        }
        Some(sandbox)
    }

    /// What engines' plugins asked for and is there.
    pub fn attachments(&self) -> impl Iterator<Item = (Attachment, SandboxId, EndpointId)> {
        self.endpoints.values().filter_map(|endpoint| {
            let sandbox = self.sandboxes.get(&endpoint.sandbox)?;
            let attachment = Attachment {
                engine: sandbox.owner.clone()?,
                container: sandbox.container.as_ref()?.id.clone(),
                network: self.networks.get(&endpoint.network)?.name.to_string(),
                interface: endpoint.ifname.clone(),
                list: endpoint.list.clone(),
            };
            Some((attachment, sandbox.id, endpoint.id))
        })
    }

    /// Removes a network that was made for an attachment, if it was the last.
    pub(super) fn end_if_unused(&mut self, network: NetworkId) {
        let on_demand = self.networks.get(&network).is_some_and(|it| it.on_demand);
        if on_demand && self.endpoints_in(network).next().is_none() {
            self.networks.remove(&network);
        }
    }

    fn network_on_demand(
        &mut self,
        request: &NetworkRequest,
        host: &HostView<'_>,
    ) -> Result<NetworkId, Refusal> {
        if let Some(known) = self.networks.values().find(|it| it.name == request.name) {
            check_fits(known, request)?;
            return Ok(known.id);
        }
        let id = self.create_network(request, host)?.id;
        if let Some(network) = self.networks.get_mut(&id) {
            network.on_demand = true;
        }
        Ok(id)
    }

    fn sandbox_for(&mut self, request: &AttachmentRequest, now: u64) -> Result<SandboxId, Refusal> {
        let AttachmentRequest {
            engine, container, ..
        } = request;
        let mut sandboxes = self.sandboxes.values();
        let known = sandboxes.find(|it| {
            it.owner.as_ref() == Some(engine)
                && it
                    .container
                    .as_ref()
                    .is_some_and(|it| it.id == container.id)
        });
        if let Some(known) = known {
            if known.netns == request.netns {
                return Ok(known.id);
            }
            return Err(Refusal::conflict(format!(
                "container {} has the namespace {}, not {}: take it off its networks first",
                container.id,
                known.netns.display(),
                request.netns.display()
            )));
        }
        let names = [request.name.as_deref(), Some(&container.id)];
        let mut names = names.into_iter().flatten();
        let name = names.find_map(|name| self.free_name(name));
        let made = SandboxRequest {
            name,
            netns: request.netns.clone(),
            process: request.process,
            owner: Some(engine.clone()),
            ..SandboxRequest::default()
        };
        let mut sandbox = self.new_sandbox(&made, &Choice::Networks(Vec::new()), now)?;
        sandbox.container = Some(container.clone());
        let id = sandbox.id;
        self.sandboxes.insert(id, sandbox);
        Ok(id)
    }

    /// Whether a sandbox publishes a port already, by another network.
    fn publishes(&self, sandbox: SandboxId, port: &PortRequest) -> bool {
        self.endpoints_of(sandbox)
            .into_iter()
            .flat_map(|endpoint| &endpoint.published)
            .any(|there| {
                there.proto == port.proto
                    && there.container_ports() == port.container_ports
                    && port.host_ip.is_none_or(|address| address == there.host_ip)
                    && port
                        .host_ports
                        .is_none_or(|ports| ports.covers(there.host_ports()))
            })
    }
}

/// Refuses a network that is another one than what was asked for: what the
/// request leaves open fits everything.
fn check_fits(known: &Network, request: &NetworkRequest) -> Result<(), Refusal> {
    let mut pools = known.pools.iter();
    let differs = |what: &str, is: String, asked: String| {
        Err(Refusal::conflict(format!(
            "network {} is there with {what} {is}, not {asked}: remove it when nothing uses it, \
             or give the network another name",
            known.name
        )))
    };
    let join = |mut texts: Vec<String>| {
        texts.sort();
        texts.join(" and ")
    };
    let has_subnets = request
        .subnets
        .iter()
        .all(|subnet| pools.clone().any(|pool| pool.subnet == subnet.trunc()));
    if !has_subnets {
        let is = pools.map(|pool| pool.subnet.to_string()).collect();
        let asked = request.subnets.iter().map(ToString::to_string).collect();
        return differs("subnet", join(is), join(asked));
    }
    let mut gateways = request.gateways.iter();
    if !gateways.all(|gateway| pools.clone().any(|pool| pool.gateway == *gateway)) {
        let is = pools.map(|pool| pool.gateway.to_string()).collect();
        let asked = request.gateways.iter().map(ToString::to_string).collect();
        return differs("gateway", join(is), join(asked));
    }
    let has_ipv6 = pools.any(|pool| pool.subnet.addr().is_ipv6());
    for (what, is, asked) in [
        ("internal", known.internal, request.internal.then_some(true)),
        ("ipv6", has_ipv6, request.ipv6.then_some(true)),
        ("icc", known.icc, request.icc),
    ] {
        if let Some(asked) = asked.filter(|asked| *asked != is) {
            return differs(what, is.to_string(), asked.to_string());
        }
    }
    if let Some(mtu) = request.mtu.filter(|mtu| *mtu != known.mtu) {
        return differs("mtu", known.mtu.to_string(), mtu.to_string());
    }
    for (option, asked) in &request.options {
        let is = known
            .options
            .get(option)
            .or_else(|| known.defaults.get(option));
        if is != Some(asked) {
            let is = is.map_or("none", String::as_str).to_owned();
            return differs(&format!("option {option}"), is, asked.clone());
        }
    }
    Ok(())
}
