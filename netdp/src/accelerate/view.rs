//! What Docker says of its networks and containers, as far as it matters here.

use std::{
    collections::{BTreeMap, HashMap},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    num::NonZeroU16,
};

use bollard::models::{ContainerInspectResponse, EndpointSettings, Network, PortMap};
use ipnet::IpNet;

use crate::model::{Address, MacAddr, Proto, Publication};

/// All of it at one moment.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct View {
    pub networks: Vec<DockerNetwork>,
    /// Those that run.
    pub containers: Vec<DockerContainer>,
}

#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct DockerNetwork {
    pub id: String,
    pub name: String,
    pub driver: String,
    pub scope: String,
    pub internal: bool,
    pub options: BTreeMap<String, String>,
}

#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct DockerContainer {
    pub id: String,
    pub name: String,
    pub pid: u32,
    /// Path of its namespace, as dockerd sees it.
    pub sandbox_key: String,
    /// Seconds since the Unix epoch.
    pub started: u64,
    pub hostname: String,
    pub command: Vec<String>,
    pub endpoints: Vec<DockerEndpoint>,
    /// Published by whichever of its networks leads outside.
    pub published: Vec<Publication>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DockerEndpoint {
    pub id: String,
    /// Id of its network.
    pub network: String,
    pub mac: Option<MacAddr>,
    /// One a family at most.
    pub addresses: Vec<Address>,
}

impl DockerNetwork {
    /// None of one that Docker doesn't describe.
    pub fn of(network: Network) -> Option<Self> {
        Some(Self {
            id: network.id?,
            name: network.name?,
            driver: network.driver.unwrap_or_default(),
            scope: network.scope.unwrap_or_default(),
            internal: network.internal.unwrap_or(false),
            options: network.options.unwrap_or_default().into_iter().collect(),
        })
    }

    /// Whether a user means this one.
    pub fn is_called(&self, reference: &str) -> bool {
        self.name == reference
            || !reference.is_empty() && self.id.starts_with(reference) && reference.len() >= 4
    }

    /// Name of its bridge (`getBridgeIFName` and `networkConfiguration` of
    /// Docker's driver).
    pub fn bridge(&self) -> String {
        match self.options.get("com.docker.network.bridge.name") {
            Some(name) if !name.is_empty() => name.clone(),
            _ => format!("br-{}", self.id.get(..12).unwrap_or(&self.id)),
        }
    }

    /// An option that is said to be false.
    pub fn is_off(&self, option: &str) -> bool {
        let value = self.options.get(option).map(String::as_str);
        matches!(
            value.map(str::to_ascii_lowercase).as_deref(),
            Some("false" | "0" | "f")
        )
    }

    /// Whether what leaves gets an address of the host, and ports are
    /// published there, in the family whose number this is.
    pub fn is_translated(&self, family: u8) -> bool {
        let mode = format!("com.docker.network.bridge.gateway_mode_ipv{family}");
        let mode = self.options.get(&mode).map_or("", String::as_str);
        matches!(mode, "" | "nat" | "nat-unprotected")
    }

    /// Addresses of the host that it leaves under, whatever the uplink's.
    pub fn sources(&self) -> Vec<IpAddr> {
        [
            "com.docker.network.host_ipv4",
            "com.docker.network.host_ipv6",
        ]
        .into_iter()
        .filter_map(|option| self.options.get(option)?.parse().ok())
        .collect()
    }
}

impl DockerContainer {
    /// None where it doesn't run.
    pub fn of(container: ContainerInspectResponse) -> Option<Self> {
        let state = container.state?;
        let pid = u32::try_from(state.pid?).ok().filter(|pid| *pid != 0)?;
        let settings = container.network_settings.unwrap_or_default();
        let config = container.config.unwrap_or_default();
        let name = container.name.unwrap_or_default();
        let command = container
            .path
            .into_iter()
            .chain(container.args.unwrap_or_default());
        let mut endpoints: Vec<_> = settings
            .networks
            .unwrap_or_default()
            .into_values()
            .filter_map(endpoint)
            .collect();
        endpoints.sort_by(|one, other| one.id.cmp(&other.id));
        Some(Self {
            id: container.id?,
            name: name.trim_start_matches('/').to_owned(),
            pid,
            started: started(pid),
            sandbox_key: settings.sandbox_key.unwrap_or_default(),
            hostname: config.hostname.unwrap_or_default(),
            command: command.collect(),
            endpoints,
            published: published(settings.ports.unwrap_or_default()),
        })
    }
}

/// When a process of this host started, in seconds since the Unix epoch; 0 where
/// it has ended. As good as Docker's own word, and no text to be read.
fn started(pid: u32) -> u64 {
    use std::{fs, os::unix::fs::MetadataExt};
    let made = fs::metadata(format!("/proc/{pid}")).map(|proc| proc.ctime());
    made.map_or(0, |seconds| u64::try_from(seconds).unwrap_or(0))
}

fn endpoint(settings: EndpointSettings) -> Option<DockerEndpoint> {
    let address = |address: Option<String>, bits: Option<i64>, gateway: Option<String>| {
        let address: IpAddr = address?.parse().ok()?;
        let net = IpNet::new(address, u8::try_from(bits?).ok()?).ok()?;
        let unspecified: IpAddr = match address {
            IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
            IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
        };
        let gateway = gateway.and_then(|gateway| gateway.parse().ok());
        Some(Address {
            net,
            gateway: gateway.unwrap_or(unspecified),
        })
    };
    let v4 = address(
        settings.ip_address,
        settings.ip_prefix_len,
        settings.gateway,
    );
    let v6 = address(
        settings.global_ipv6_address,
        settings.global_ipv6_prefix_len,
        settings.ipv6_gateway,
    );
    Some(DockerEndpoint {
        id: settings.endpoint_id.filter(|id| !id.is_empty())?,
        network: settings.network_id?,
        mac: settings.mac_address.and_then(|mac| mac.parse().ok()),
        addresses: v4.into_iter().chain(v6).collect(),
    })
}

/// In order, each once.
fn published(ports: PortMap) -> Vec<Publication> {
    let ports: HashMap<_, _> = ports;
    let mut published: Vec<Publication> = ports
        .into_iter()
        .flat_map(|(port, bindings)| {
            let bindings = bindings.unwrap_or_default();
            bindings.into_iter().filter_map(move |binding| {
                let (number, proto) = port.split_once('/').unwrap_or((&port, "tcp"));
                let host_ip = binding.host_ip.unwrap_or_default();
                Some(Publication {
                    host_ip: match host_ip.as_str() {
                        "" => Ipv4Addr::UNSPECIFIED.into(),
                        address => address.parse().ok()?,
                    },
                    host_port: binding.host_port?.parse().ok()?,
                    container_port: number.parse().ok()?,
                    proto: match proto {
                        "tcp" => Proto::Tcp,
                        "udp" => Proto::Udp,
                        _ => return None,
                    },
                    count: NonZeroU16::MIN,
                    allow: Vec::new(),
                    direct: false,
                })
            })
        })
        .collect();
    published.sort_unstable();
    published.dedup();
    published
}
