//! A published port, or a range of them.

use std::{fmt, net::IpAddr, num::NonZeroU16};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::{PortRange, Proto};

/// A published port, or several that follow each other. The unspecified host
/// address stands for every address of the host.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct Publication {
    pub host_ip: IpAddr,
    /// The first.
    pub host_port: u16,
    /// The one that the first leads to.
    pub container_port: u16,
    pub proto: Proto,
    /// How many there are.
    #[serde(default = "one")]
    pub count: NonZeroU16,
    /// Sources that may use it; empty: all.
    #[serde(default)]
    pub allow: Vec<IpNet>,
    /// The program gets a listening socket of the host's own.
    #[serde(default)]
    pub direct: bool,
}

fn one() -> NonZeroU16 {
    NonZeroU16::MIN
}

impl Publication {
    pub fn host_ports(&self) -> PortRange {
        PortRange::following(self.host_port, self.count)
    }

    pub fn container_ports(&self) -> PortRange {
        PortRange::following(self.container_port, self.count)
    }

    pub fn is_range(&self) -> bool {
        self.count.get() > 1
    }

    /// `0.0.0.0:8080`, `[::]:20000-29999`
    pub fn host_side(&self) -> String {
        host_side(self.host_ip, self.host_ports())
    }
}

/// Ports of an address as they are written.
pub fn host_side(address: IpAddr, ports: PortRange) -> String {
    match address {
        IpAddr::V4(address) => format!("{address}:{ports}"),
        IpAddr::V6(address) => format!("[{address}]:{ports}"),
    }
}

impl fmt::Display for Publication {
    /// `0.0.0.0:8080->80/tcp`, `0.0.0.0:8080->80/tcp,direct`
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (host, container) = (self.host_side(), self.container_ports());
        write!(f, "{host}->{container}/{}", self.proto)?;
        if self.direct {
            f.write_str(",direct")?;
        }
        Ok(())
    }
}

/// Sources in order, each once, without those that others hold.
pub(super) fn normal(allow: &[IpNet]) -> Vec<IpNet> {
    let mut nets: Vec<IpNet> = allow.iter().map(IpNet::trunc).collect();
    nets.sort_unstable();
    nets.dedup();
    let all = nets.clone();
    nets.retain(|net| !all.iter().any(|wider| wider != net && wider.contains(net)));
    nets
}
