//! The ways that traffic can be carried, and what they are called.

use std::fmt;
use std::str::FromStr;

use serde::{Serialize, Serializer};

/// One way to carry the same traffic.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Mode {
    /// Programs on the host's own network, on a host without rules: what the
    /// others are compared with.
    Host,
    /// The same on a host that carries Docker's rules, for containers that have
    /// nothing to do with it.
    HostRules,
    /// Docker's bridge and the rules that dockerd makes, in nf_tables.
    DockerNft,
    /// The same rules in x_tables.
    DockerLegacy,
    /// Docker itself.
    Dockerd,
    /// DNAT and masquerade by a handful of nftables rules and maps, routed
    /// without a bridge: as fast as netfilter gets.
    Nft,
    /// Docker's bridge and rules, with netdp carrying what it can of it.
    Accelerated,
    /// Podman's bridge, with the rules that netavark makes.
    Netavark,
    /// Two redirects between the wire and a container with the host's own
    /// address: what passing a second stack costs, whatever the programs do.
    Floor,
    /// Host mode with a program at each hook of the uplink that leaves all packets
    /// alone: what netdp's cost there, whatever they do.
    FloorUplink,
    /// The same with servers under a seccomp filter that allows what they do.
    FloorDirect,
    /// Host mode under such a filter, as engines start containers by default.
    HostSeccomp,
    /// netdp, on a network with these options (KEY=VALUE).
    Netdp(Vec<String>),
    /// The same, by direct ports.
    Direct,
}

impl Mode {
    /// Those that are measured unless told otherwise.
    pub fn usual() -> Vec<Self> {
        vec![
            Self::Host,
            Self::HostRules,
            Self::DockerNft,
            Self::DockerLegacy,
            Self::Dockerd,
            Self::Accelerated,
            Self::Nft,
            Self::Netavark,
            Self::Floor,
            Self::FloorUplink,
            Self::Netdp(Vec::new()),
            Self::Direct,
        ]
    }

    /// Those of `--quick`.
    pub fn few() -> Vec<Self> {
        vec![
            Self::Host,
            Self::DockerNft,
            Self::Nft,
            Self::Netdp(Vec::new()),
        ]
    }

    /// For people.
    pub fn title(&self) -> String {
        match self {
            Self::Host => "host mode".into(),
            Self::HostRules => "host mode beside Docker's rules".into(),
            Self::DockerNft => "Docker's bridge, iptables-nft".into(),
            Self::DockerLegacy => "Docker's bridge, iptables-legacy".into(),
            Self::Dockerd => "Docker itself".into(),
            Self::Accelerated => "Docker's bridge, accelerated by netdp".into(),
            Self::Nft => "nftables DNAT, no bridge".into(),
            Self::Netavark => "Podman's bridge, netavark".into(),
            Self::Floor => "a second stack, nothing else".into(),
            Self::FloorUplink => "host mode, empty programs on its uplink".into(),
            Self::FloorDirect => "host mode, empty programs on its uplink, seccomp".into(),
            Self::HostSeccomp => "host mode under a seccomp filter".into(),
            Self::Netdp(options) if options.is_empty() => "netdp".into(),
            Self::Netdp(options) => format!("netdp, {}", options.join(", ")),
            Self::Direct => "netdp, direct ports".into(),
        }
    }
}

/// The name that the command line knows it by.
impl fmt::Display for Mode {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Host => formatter.write_str("host"),
            Self::HostRules => formatter.write_str("host-rules"),
            Self::DockerNft => formatter.write_str("docker-nft"),
            Self::DockerLegacy => formatter.write_str("docker-legacy"),
            Self::Dockerd => formatter.write_str("dockerd"),
            Self::Accelerated => formatter.write_str("docker-accelerated"),
            Self::Nft => formatter.write_str("nft"),
            Self::Netavark => formatter.write_str("netavark"),
            Self::Floor => formatter.write_str("floor"),
            Self::FloorUplink => formatter.write_str("floor-uplink"),
            Self::FloorDirect => formatter.write_str("floor-direct"),
            Self::HostSeccomp => formatter.write_str("host-seccomp"),
            Self::Netdp(options) if options.is_empty() => formatter.write_str("netdp"),
            Self::Netdp(options) => write!(formatter, "netdp:{}", options.join("+")),
            Self::Direct => formatter.write_str("netdp-direct"),
        }
    }
}

impl FromStr for Mode {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Ok(match text {
            "host" => Self::Host,
            "host-rules" => Self::HostRules,
            "docker-nft" => Self::DockerNft,
            "docker-legacy" => Self::DockerLegacy,
            "dockerd" => Self::Dockerd,
            "docker-accelerated" => Self::Accelerated,
            "nft" => Self::Nft,
            "netavark" => Self::Netavark,
            "floor" => Self::Floor,
            "floor-uplink" => Self::FloorUplink,
            "floor-direct" => Self::FloorDirect,
            "host-seccomp" => Self::HostSeccomp,
            "netdp" => Self::Netdp(Vec::new()),
            "netdp-direct" => Self::Direct,
            _ => {
                let options = text.strip_prefix("netdp:").ok_or(
                    "expected host, host-rules, host-seccomp, docker-nft, docker-legacy, dockerd, docker-accelerated, nft, \
                     netavark, floor, floor-uplink, floor-direct, netdp, netdp-direct, or netdp with options of its network, such as \
                     netdp:KEY=VALUE+KEY=VALUE",
                )?;
                let options: Vec<String> = options.split('+').map(str::to_owned).collect();
                let is_option = |option: &String| {
                    option
                        .split_once('=')
                        .is_some_and(|(key, value)| !key.is_empty() && !value.is_empty())
                };
                if !options.iter().all(is_option) {
                    return Err("options are KEY=VALUE, with + between them".into());
                }
                Self::Netdp(options)
            }
        })
    }
}

impl Serialize for Mode {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_as_they_are_written() {
        let options = Mode::Netdp(vec!["a=1".into(), "b=c=d".into()]);
        for mode in Mode::usual().into_iter().chain([options]) {
            assert_eq!(mode.to_string().parse(), Ok(mode));
        }
    }

    #[test]
    fn what_is_no_mode_is_refused() {
        for wrong in ["", "docker", "netdp:", "netdp:fast", "netdp:=1", "netdp:a="] {
            assert!(wrong.parse::<Mode>().is_err(), "{wrong}");
        }
    }
}
