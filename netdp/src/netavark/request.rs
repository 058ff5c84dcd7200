//! What netavark says of a network and a container (its src/network/types.rs,
//! version 2.1), and what is asked of the daemon for it.

use std::{collections::BTreeMap, net::IpAddr, num::NonZeroU16, path::Path};

use anyhow::{Context, Result, bail};
use ipnet::IpNet;
use serde::Deserialize;
use serde_json::Value;

use super::ENGINE;
use crate::{
    callers,
    model::{AttachmentRequest, Container, EndpointRequest, NetworkRequest, PortRange, PortSpec},
};

/// Podman's word for the largest packet.
const MTU: &str = "mtu";

/// `setup` and `teardown`.
#[derive(Debug, Deserialize)]
pub struct Exec {
    pub container_id: String,
    #[serde(default)]
    pub container_name: String,
    #[serde(default)]
    pub port_mappings: Option<Vec<PortMapping>>,
    pub network: Network,
    pub network_options: NetworkOptions,
}

/// `teardown`: whatever else it says was right once, or never was.
#[derive(Debug, Deserialize)]
pub struct Gone {
    #[serde(default)]
    pub container_id: String,
    #[serde(default)]
    pub network: GoneNetwork,
    #[serde(default)]
    pub network_options: GoneOptions,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct GoneNetwork {
    pub name: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct GoneOptions {
    pub interface_name: String,
}

#[derive(Debug, Deserialize)]
pub struct Network {
    pub name: String,
    #[serde(default)]
    pub dns_enabled: bool,
    #[serde(default)]
    pub internal: bool,
    #[serde(default)]
    pub ipv6_enabled: bool,
    #[serde(default)]
    pub options: Option<BTreeMap<String, String>>,
    #[serde(default)]
    pub ipam_options: Option<BTreeMap<String, String>>,
    #[serde(default)]
    pub subnets: Option<Vec<Subnet>>,
    #[serde(default)]
    pub routes: Option<Vec<Value>>,
    #[serde(default)]
    pub network_dns_servers: Option<Vec<IpAddr>>,
}

#[derive(Debug, Deserialize)]
pub struct Subnet {
    pub subnet: IpNet,
    #[serde(default)]
    pub gateway: Option<IpAddr>,
}

#[derive(Debug, Deserialize)]
pub struct NetworkOptions {
    pub interface_name: String,
    #[serde(default)]
    pub aliases: Option<Vec<String>>,
    #[serde(default)]
    pub static_ips: Option<Vec<IpAddr>>,
    #[serde(default)]
    pub static_mac: Option<String>,
    #[serde(default)]
    pub options: Option<BTreeMap<String, String>>,
}

#[derive(Debug, Deserialize)]
pub struct PortMapping {
    pub container_port: u16,
    pub host_port: u16,
    /// Empty for every address.
    #[serde(default)]
    pub host_ip: String,
    /// One, or several with commas between them.
    pub protocol: String,
    /// How many ports there are; 0 means 1.
    #[serde(default)]
    pub range: u16,
}

impl Network {
    /// The network that is made, or has to be there.
    ///
    /// # Errors
    /// It asks for what netdp doesn't have.
    pub fn request(&self) -> Result<NetworkRequest> {
        let name = self.name.parse().context("network")?;
        let mut options = self.options.clone().unwrap_or_default();
        let mtu = match options.remove(MTU) {
            Some(text) => match text.parse() {
                Ok(mtu) => Some(mtu),
                Err(_) => bail!("option mtu={text}: a number is expected"),
            },
            None => None,
        };
        let ipam = self.ipam_options.as_ref().and_then(|it| it.get("driver"));
        if let Some(driver) = ipam.filter(|driver| !driver.is_empty() && *driver != "host-local") {
            bail!("ipam driver {driver} is not available with netdp: take host-local");
        }
        if self.routes.as_ref().is_some_and(|it| !it.is_empty()) {
            bail!("routes of a network are not available with netdp: leave --route out");
        }
        if self
            .network_dns_servers
            .as_ref()
            .is_some_and(|it| !it.is_empty())
        {
            bail!(
                "DNS servers of a network are not available with netdp: leave --dns out, and \
                 configure its daemon with \"dns\""
            );
        }
        let subnets = self.subnets.iter().flatten();
        let request = NetworkRequest {
            subnets: subnets.clone().map(|it| it.subnet).collect(),
            gateways: subnets.filter_map(|it| it.gateway).collect(),
            ipv6: self.ipv6_enabled,
            internal: self.internal,
            mtu,
            options,
            ..NetworkRequest::new(name)
        };
        request.check_options()?;
        Ok(request)
    }
}

impl Exec {
    pub fn attachment(&self, netns: &Path) -> Result<AttachmentRequest> {
        let given = &self.network_options;
        if let Some((key, value)) = given.options.iter().flatten().next() {
            bail!("netdp doesn't know the container's network option {key}={value}: leave it out");
        }
        let mut endpoint = EndpointRequest {
            interface: Some(given.interface_name.clone()),
            ..EndpointRequest::default()
        };
        for address in given.static_ips.iter().flatten() {
            let is_second = match *address {
                IpAddr::V4(address) => endpoint.ip.replace(address).is_some(),
                IpAddr::V6(address) => endpoint.ip6.replace(address).is_some(),
            };
            if is_second {
                bail!(
                    "{address} is the second address of its family: a network of netdp has one \
                     subnet of IPv4 and one of IPv6 at most"
                );
            }
        }
        if let Some(mac) = given.static_mac.as_ref().filter(|mac| !mac.is_empty()) {
            endpoint.mac = Some(mac.parse()?);
        }
        for alias in given.aliases.iter().flatten() {
            endpoint.aliases.push(alias.parse().context("alias")?);
        }
        let mut publish = Vec::new();
        for mapping in self.port_mappings.iter().flatten() {
            publish.extend(mapping.specs()?);
        }
        let network = self.network.request()?;
        Ok(AttachmentRequest {
            engine: ENGINE.to_owned(),
            // netavark, and Podman before it.
            callers: callers::numbers(2),
            container: Container {
                id: self.container_id.clone(),
                // conmon's sockets would be in the way of direct ones.
                holds_ports: !network.asks_for_direct(),
            },
            name: Some(self.container_name.clone()),
            netns: netns.to_owned(),
            process: None,
            network,
            list: None,
            endpoint,
            publish,
        })
    }
}

impl PortMapping {
    /// One for each protocol.
    fn specs(&self) -> Result<Vec<PortSpec>> {
        let count = NonZeroU16::new(self.range).unwrap_or(NonZeroU16::MIN);
        let range = |name: &str, first: u16| {
            let last = first.checked_add(count.get() - 1);
            last.and_then(|last| PortRange::new(first, last))
                .with_context(|| format!("{name} {first} with {count} ports can't be"))
        };
        let host_ip = match self.host_ip.as_str() {
            "" => None,
            text => match text.parse() {
                Ok(address) => Some(address),
                Err(_) => bail!("host_ip {text} is no address"),
            },
        };
        let (host, container) = (
            range("host_port", self.host_port)?,
            range("container_port", self.container_port)?,
        );
        self.protocol
            .split(',')
            .map(|protocol| {
                Ok(PortSpec {
                    host_ip,
                    host_ports: Some(host),
                    container_ports: container,
                    proto: protocol.trim().parse()?,
                    direct: false,
                })
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn exec(change: impl FnOnce(&mut Value)) -> Exec {
        let mut exec = json!({
            "container_id": "5c671ff12993", "container_name": "n1",
            "port_mappings": null,
            "network": {
                "name": "nvn", "driver": "netdp", "id": "8e07", "dns_enabled": true,
                "internal": false, "ipv6_enabled": false, "network_interface": "netdp0",
                "subnets": [{"subnet": "10.60.0.0/24", "gateway": "10.60.0.1"}],
                "options": null, "ipam_options": null, "routes": null,
                "network_dns_servers": null,
            },
            "network_options": {
                "interface_name": "eth0", "static_ips": null, "static_mac": null,
                "aliases": null, "options": null,
            },
        });
        change(&mut exec);
        serde_json::from_value(exec).unwrap()
    }

    #[test]
    fn ports_come_as_ranges_and_with_several_protocols() {
        let exec = exec(|it| {
            it["port_mappings"] = json!([
                {"container_port": 80, "host_ip": "127.0.0.1", "host_port": 8082,
                 "protocol": "tcp", "range": 1},
                {"container_port": 9000, "host_ip": "", "host_port": 9100,
                 "protocol": "tcp,udp", "range": 3},
                {"container_port": 53, "host_port": 53, "protocol": "udp"},
            ]);
        });
        let request = exec.attachment(Path::new("/run/netns/a")).unwrap();
        let ports: Vec<String> = request.publish.iter().map(ToString::to_string).collect();
        assert_eq!(
            ports,
            [
                "127.0.0.1:8082:80/tcp",
                "9100-9102:9000-9002/tcp",
                "9100-9102:9000-9002/udp",
                "53:53/udp",
            ]
        );
        assert!(request.container.holds_ports);
    }

    #[test]
    fn what_podman_gives_is_asked_for() {
        let exec = exec(|it| {
            it["network_options"]["static_ips"] = json!(["10.60.0.9", "fd60::9"]);
            it["network_options"]["static_mac"] = json!("02:aa:00:00:00:09");
            it["network_options"]["aliases"] = json!(["web", "5c671ff12993"]);
            it["network"]["options"] = json!({"mtu": "1400", "nat": "endpoint-independent"});
            it["network"]["internal"] = json!(true);
        });
        let request = exec.attachment(Path::new("/run/netns/a")).unwrap();
        assert_eq!(request.endpoint.ip, Some([10, 60, 0, 9].into()));
        assert_eq!(request.endpoint.ip6, Some("fd60::9".parse().unwrap()));
        assert_eq!(request.endpoint.aliases.len(), 2);
        assert_eq!(request.endpoint.interface.as_deref(), Some("eth0"));
        assert_eq!(request.name.as_deref(), Some("n1"));
        assert_eq!(request.network.mtu, Some(1400));
        assert_eq!(request.network.options.len(), 1);
        assert!(request.network.internal);
        assert_eq!(request.network.gateways.len(), 1);
    }

    #[test]
    fn what_netdp_does_not_have_is_refused_by_name() {
        let refused = |change: fn(&mut Value)| {
            let refusal = exec(change).attachment(Path::new("/n")).unwrap_err();
            format!("{refusal:#}")
        };
        for (change, why) in [
            (
                (|it| it["network"]["options"] = json!({"foo": "bar"})) as fn(&mut Value),
                "'foo'",
            ),
            (
                |it| it["network"]["options"] = json!({"mtu": "big"}),
                "mtu=big",
            ),
            (
                |it| it["network"]["ipam_options"] = json!({"driver": "dhcp"}),
                "dhcp",
            ),
            (
                |it| it["network"]["routes"] = json!([{"destination": "10.0.0.0/8"}]),
                "routes",
            ),
            (
                |it| it["network"]["network_dns_servers"] = json!(["10.0.0.1"]),
                "DNS",
            ),
            (|it| it["network"]["name"] = json!("x"), "network"),
            (
                |it| it["network_options"]["options"] = json!({"k": "v"}),
                "k=v",
            ),
            (
                |it| it["network_options"]["static_ips"] = json!(["10.60.0.9", "10.60.0.8"]),
                "10.60.0.8",
            ),
            (
                |it| {
                    it["port_mappings"] = json!([{"container_port": 80, "host_port": 65535,
                        "protocol": "tcp", "range": 2}]);
                },
                "65535",
            ),
        ] {
            let refusal = refused(change);
            assert!(refusal.contains(why), "{refusal}");
        }
    }

    /// What Podman 5.4 said to a plugin, with netavark 1.14.
    #[test]
    fn recorded_requests_are_understood() {
        let recorded = include_str!("../../tests/recorded/netavark-1.14-podman-5.4.jsonl");
        let mut seen = Vec::new();
        for line in recorded.lines() {
            let mut call: Value = serde_json::from_str(line).unwrap();
            let verb = call["argv"][1].as_str().unwrap().to_owned();
            let mut stdin = call["stdin"].take();
            if verb == "create" {
                // The recorder's own options.
                stdin["options"] = json!({});
                let network: Network = serde_json::from_value(stdin).unwrap();
                let request = network.request().unwrap();
                assert_eq!(request.subnets, ["10.60.0.0/24".parse().unwrap()]);
            } else {
                stdin["network"]["options"] = json!({});
                let exec: Exec = serde_json::from_value(stdin).unwrap();
                let request = exec.attachment(Path::new("/run/netns/a")).unwrap();
                assert_eq!(request.publish.len(), 4);
                assert_eq!(request.publish[3].to_string(), "9000-9001:9000-9001/udp");
                assert_eq!(request.endpoint.ip, Some([10, 60, 0, 9].into()));
            }
            seen.push(verb);
        }
        assert_eq!(seen, ["create", "setup", "teardown"]);
    }
}
