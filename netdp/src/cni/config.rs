//! The network's configuration, and what a runtime adds to it.

use std::{
    collections::{BTreeMap, HashMap},
    net::IpAddr,
    path::PathBuf,
};

use ipnet::IpNet;
use rscni_plugin::{
    error::Error,
    types::{Args, Dns, NetConf, PortMapping, Protocol},
};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Map, Value};

use crate::model::{EndpointRequest, MacAddr, Name, NetworkRequest, PortRange, PortSpec, Proto};

/// Keys that are netdp's own.
const OWN: [&str; 12] = [
    "network",
    "runDir",
    "subnets",
    "gateways",
    "ipRanges",
    "ipv4",
    "ipv6",
    "internal",
    "icc",
    "mtu",
    "options",
    "holdPorts",
];

/// Keys of a list of plugins, which a runtime may leave in.
const OF_LISTS: [&str; 4] = [
    "cniVersions",
    "disableCheck",
    "disableGC",
    "loadOnlyInlinedPlugins",
];

/// How the specification's own keys begin.
const RESERVED: &str = "cni.dev/";

const MASQUERADE: &str = "com.docker.network.bridge.enable_ip_masquerade";

/// What is configured.
#[derive(Debug, Default, PartialEq)]
pub struct Config {
    /// Name of the list of plugins that this configuration is of.
    pub list: String,
    /// Name of the network.
    pub network: String,
    pub run_dir: Option<PathBuf>,
    /// Whether netdp holds host ports; none: unless Podman asks.
    pub hold_ports: Option<bool>,
    own: Own,
    ip_masq: Option<bool>,
    ports: Vec<PortSpec>,
    pub dns: Option<Dns>,
    wished: Wished,
}

/// What a runtime, or whoever wrote the configuration, wants for one container.
#[derive(Debug, Default, PartialEq)]
struct Wished {
    ips: Vec<String>,
    mac: Option<String>,
    aliases: Vec<String>,
}

#[derive(Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Own {
    network: Option<String>,
    run_dir: Option<PathBuf>,
    subnets: Vec<IpNet>,
    gateways: Vec<IpAddr>,
    ip_ranges: Vec<IpNet>,
    ipv4: Option<bool>,
    ipv6: bool,
    internal: bool,
    icc: Option<bool>,
    mtu: Option<u32>,
    options: BTreeMap<String, String>,
    hold_ports: Option<bool>,
}

/// `args.cni` (CONVENTIONS.md of the specification).
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct ArgsCni {
    ips: Vec<String>,
    mac: Option<String>,
}

/// Aliases are given to each network by its name.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Aliases {
    ByNetwork(HashMap<String, Vec<String>>),
    OfThis(Vec<String>),
}

/// The capability `dns`, whose words aren't those of the configuration.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct RuntimeDns {
    servers: Vec<String>,
    searches: Vec<String>,
    options: Vec<String>,
}

impl Config {
    /// Refuses what netdp doesn't know.
    ///
    /// # Errors
    /// By the code that the specification has for it.
    pub fn read(conf: &NetConf) -> Result<Self, Error> {
        let known =
            |key: &str| OWN.contains(&key) || OF_LISTS.contains(&key) || key.starts_with(RESERVED);
        if let Some((key, value)) = first_unknown(&conf.custom, known) {
            return Err(unsupported(key, value));
        }
        if let Some(ipam) = conf.ipam.as_ref().filter(|ipam| !ipam.r#type.is_empty()) {
            return Err(Error::InvalidNetworkConfig(format!(
                "ipam.type is {:?}, but netdp gives addresses itself: leave ipam out, and name \
                 subnets with \"subnets\"",
                ipam.r#type
            )));
        }
        let own: Own = decode(&conf.custom, "the configuration")?;
        let mut config = Self::named(conf, &own);
        config.own = own;
        config.ip_masq = conf.ip_masq;
        config.dns.clone_from(&conf.dns);
        if let Some(cni) = conf.args.as_ref().and_then(|args| args.get("cni")) {
            let ArgsCni { ips, mac } = ArgsCni::deserialize(cni)
                .map_err(|error| Error::InvalidNetworkConfig(format!("args.cni: {error}")))?;
            config.wished.ips = ips;
            config.wished.mac = mac;
        }
        if let Some(runtime) = &conf.runtime_config {
            config.ports = runtime
                .port_mappings
                .iter()
                .map(port)
                .collect::<Result<_, _>>()?;
            config.read_capabilities(&conf.name, &runtime.custom)?;
        }
        Ok(config)
    }

    /// What tells which network is meant, of a configuration that may have
    /// become a wrong one meanwhile.
    pub fn read_leniently(conf: &NetConf) -> Self {
        let text = |key: &str| conf.custom.get(key)?.as_str().map(str::to_owned);
        let own = Own {
            network: text("network"),
            run_dir: text("runDir").map(PathBuf::from),
            ..Own::default()
        };
        Self::named(conf, &own)
    }

    fn named(conf: &NetConf, own: &Own) -> Self {
        Self {
            list: conf.name.clone(),
            network: own.network.clone().unwrap_or_else(|| conf.name.clone()),
            run_dir: own.run_dir.clone(),
            hold_ports: own.hold_ports,
            ..Self::default()
        }
    }

    fn read_capabilities(
        &mut self,
        list: &str,
        given: &HashMap<String, Value>,
    ) -> Result<(), Error> {
        for (key, value) in given {
            let wrong = |error: serde_json::Error| {
                Error::InvalidNetworkConfig(format!("runtimeConfig.{key}: {error}"))
            };
            match key.as_str() {
                "ips" => self.wished.ips = Deserialize::deserialize(value).map_err(wrong)?,
                "mac" => self.wished.mac = Some(Deserialize::deserialize(value).map_err(wrong)?),
                "aliases" => {
                    self.wished.aliases = match Aliases::deserialize(value).map_err(wrong)? {
                        Aliases::ByNetwork(mut all) => all.remove(list).unwrap_or_default(),
                        Aliases::OfThis(aliases) => aliases,
                    };
                }
                "dns" => {
                    let given = RuntimeDns::deserialize(value).map_err(wrong)?;
                    let dns = self.dns.get_or_insert_default();
                    if !given.servers.is_empty() {
                        dns.nameservers = given.servers;
                    }
                    if !given.searches.is_empty() {
                        dns.search = Some(given.searches);
                    }
                    if !given.options.is_empty() {
                        dns.options = Some(given.options);
                    }
                }
                _ => return Err(unsupported(&format!("runtimeConfig.{key}"), value)),
            }
        }
        Ok(())
    }

    /// The network that is made, or has to be there.
    pub fn network_request(&self) -> Result<NetworkRequest, Error> {
        let own = &self.own;
        let name: Name = self.network.parse().map_err(|error| {
            Error::InvalidNetworkConfig(format!(
                "network {error}: give netdp's network another name with \"network\""
            ))
        })?;
        let mut request = NetworkRequest {
            subnets: own.subnets.clone(),
            gateways: own.gateways.clone(),
            ip_ranges: own.ip_ranges.clone(),
            ipv4: own.ipv4,
            ipv6: own.ipv6,
            internal: own.internal,
            icc: own.icc,
            mtu: own.mtu,
            options: own.options.clone(),
            ..NetworkRequest::new(name)
        };
        if self.ip_masq == Some(false) {
            request
                .options
                .insert(MASQUERADE.to_owned(), "false".to_owned());
        }
        Ok(request)
    }

    pub fn ports(&self) -> &[PortSpec] {
        &self.ports
    }
}

/// What one container shall have.
pub struct Wishes {
    /// What its sandbox is called.
    pub name: Option<String>,
    pub endpoint: EndpointRequest,
}

impl Wishes {
    /// A runtime's capabilities count before `args.cni`, and that before
    /// `CNI_ARGS`.
    pub fn of(args: &Args, config: &Config) -> Result<Self, Error> {
        let mut given = cni_args(args.args().unwrap_or_default())?;
        let wished = &config.wished;
        let mut endpoint = EndpointRequest {
            interface: args.ifname().map(ToString::to_string),
            ..EndpointRequest::default()
        };
        let ips = match given.remove("IP") {
            Some(ip) if wished.ips.is_empty() => vec![ip],
            _ => wished.ips.clone(),
        };
        for text in ips {
            let is_second = match address(&text)? {
                IpAddr::V4(address) => endpoint.ip.replace(address).is_some(),
                IpAddr::V6(address) => endpoint.ip6.replace(address).is_some(),
            };
            if is_second {
                return Err(Error::InvalidNetworkConfig(format!(
                    "{text} is the second address of its family: give one of IPv4 and one of \
                     IPv6 at most"
                )));
            }
        }
        let mac = wished.mac.clone().or_else(|| given.remove("MAC"));
        if let Some(text) = mac {
            let mac: MacAddr = text
                .parse()
                .map_err(|error| Error::InvalidNetworkConfig(format!("mac: {error}")))?;
            endpoint.mac = Some(mac);
        }
        for alias in &wished.aliases {
            let alias: Name = alias
                .parse()
                .map_err(|error| Error::InvalidNetworkConfig(format!("aliases: {error}")))?;
            if !endpoint.aliases.contains(&alias) {
                endpoint.aliases.push(alias);
            }
        }
        // Pods of several namespaces may have one name; Podman gives no
        // namespace, and its containers have names of their own.
        let pod = given.remove("K8S_POD_NAME");
        let namespace = given.remove("K8S_POD_NAMESPACE");
        let name = pod.map(|pod| match namespace {
            Some(namespace) => format!("{pod}.{namespace}"),
            None => pod,
        });
        Ok(Self { name, endpoint })
    }
}

/// `KEY=VALUE;KEY=VALUE`. Unknown keys are refused unless the runtime says
/// `IgnoreUnknown=1`; those of Kubernetes are known.
fn cni_args(text: &str) -> Result<BTreeMap<String, String>, Error> {
    let mut given = BTreeMap::new();
    for pair in text.split(';').filter(|pair| !pair.is_empty()) {
        let Some((key, value)) = pair.split_once('=') else {
            return Err(Error::InvalidEnvValue(format!(
                "CNI_ARGS has {pair:?}: KEY=VALUE is expected"
            )));
        };
        given.insert(key.to_owned(), value.to_owned());
    }
    let lenient = given
        .remove("IgnoreUnknown")
        .is_some_and(|value| value == "1" || value.eq_ignore_ascii_case("true"));
    let known = |key: &str| matches!(key, "IP" | "MAC") || key.starts_with("K8S_");
    if let Some(unknown) = given.keys().find(|key| !lenient && !known(key)) {
        return Err(Error::InvalidEnvValue(format!(
            "CNI_ARGS has {unknown}, which netdp doesn't know: leave it out, or add \
             IgnoreUnknown=1"
        )));
    }
    given.retain(|_, value| !value.is_empty());
    Ok(given)
}

/// With or without a prefix length: the network's counts.
fn address(text: &str) -> Result<IpAddr, Error> {
    let address = text.split_once('/').map_or(text, |(address, _)| address);
    address.parse().map_err(|_| {
        Error::InvalidNetworkConfig(format!(
            "ips: {text:?} is no address: give one like 10.1.2.3"
        ))
    })
}

fn port(mapping: &PortMapping) -> Result<PortSpec, Error> {
    let wrong = |what: &str| {
        Error::InvalidNetworkConfig(format!(
            "portMappings: {what} can't be: ports are numbers from 1 to 65535, hostIP is an \
             address of the host"
        ))
    };
    let single = |name: &str, port: u32| {
        u16::try_from(port)
            .ok()
            .and_then(PortRange::single)
            .ok_or_else(|| wrong(&format!("{name} {port}")))
    };
    let mut host_ip = None;
    for (key, value) in &mapping.custom {
        match (key.as_str(), value) {
            ("hostIP", Value::Null) => {}
            ("hostIP", Value::String(text)) if text.is_empty() => {}
            ("hostIP", Value::String(text)) => {
                host_ip = Some(text.parse().map_err(|_| wrong(&format!("hostIP {text}")))?);
            }
            _ => return Err(unsupported(&format!("portMappings.{key}"), value)),
        }
    }
    Ok(PortSpec {
        host_ip,
        host_ports: Some(single("hostPort", mapping.host_port)?),
        container_ports: single("containerPort", mapping.container_port)?,
        proto: match mapping.protocol {
            None | Some(Protocol::Tcp) => Proto::Tcp,
            Some(Protocol::Udp) => Proto::Udp,
            Some(Protocol::Sctp) => Proto::Sctp,
        },
        direct: false,
    })
}

fn first_unknown(
    given: &HashMap<String, Value>,
    known: impl Fn(&str) -> bool,
) -> Option<(&String, &Value)> {
    // By name, so that the same one is told each time.
    let unknown = given.iter().filter(|(key, _)| !known(key));
    unknown.min_by_key(|(key, _)| *key)
}

/// Has to name key and value, says the specification.
fn unsupported(key: &str, value: &Value) -> Error {
    Error::UnsupportedNetworkConfiguration(format!(
        "netdp doesn't know {key:?} (its value: {value}): leave it out"
    ))
}

fn decode<T: DeserializeOwned>(given: &HashMap<String, Value>, what: &str) -> Result<T, Error> {
    let object: Map<String, Value> = given.clone().into_iter().collect();
    serde_json::from_value(Value::Object(object))
        .map_err(|error| Error::InvalidNetworkConfig(format!("{what}: {error}")))
}

#[cfg(test)]
#[path = "config_tests.rs"]
mod tests;
