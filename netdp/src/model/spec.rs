//! Docker's notation for published ports:
//! `[HOSTIP:][HOSTPORT[-END]:]PORT[-END][/tcp|udp|sctp][,direct]`.

use std::{fmt, net::IpAddr, num::NonZeroU16, str::FromStr};

use serde::{Deserialize, Serialize};

use super::Publication;

/// Transport protocol of a port.
#[derive(
    Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize,
)]
#[serde(rename_all = "lowercase")]
pub enum Proto {
    #[default]
    Tcp,
    Udp,
    Sctp,
}

impl Proto {
    /// Protocol number of the Internet header.
    pub fn number(self) -> u8 {
        use netdp_common::addr::proto;
        match self {
            Self::Tcp => proto::TCP,
            Self::Udp => proto::UDP,
            Self::Sctp => proto::SCTP,
        }
    }
}

impl fmt::Display for Proto {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Sctp => "sctp",
        })
    }
}

impl FromStr for Proto {
    type Err = BadSpec;

    fn from_str(text: &str) -> Result<Self, BadSpec> {
        match text.to_ascii_lowercase().as_str() {
            "tcp" => Ok(Self::Tcp),
            "udp" => Ok(Self::Udp),
            "sctp" => Ok(Self::Sctp),
            _ => Err(BadSpec::Proto(text.into())),
        }
    }
}

/// Ports `first` to `last`, both included, neither 0.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct PortRange {
    first: u16,
    last: u16,
}

impl PortRange {
    /// From its ends; none if one is 0 or they are the wrong way round.
    pub const fn new(first: u16, last: u16) -> Option<Self> {
        if first == 0 || last < first {
            return None;
        }
        Some(Self { first, last })
    }

    /// `count` ports from `first` on, as far as there are any.
    pub fn following(first: u16, count: NonZeroU16) -> Self {
        Self {
            first,
            last: first.saturating_add(count.get() - 1),
        }
    }

    pub const fn first(self) -> u16 {
        self.first
    }

    pub const fn last(self) -> u16 {
        self.last
    }

    /// How many ports these are: at least one.
    pub const fn count(self) -> u32 {
        self.last as u32 - self.first as u32 + 1
    }

    pub fn ports(self) -> impl DoubleEndedIterator<Item = u16> {
        self.first..=self.last
    }

    pub const fn single(port: u16) -> Option<Self> {
        Self::new(port, port)
    }

    pub const fn holds(self, port: u16) -> bool {
        self.first <= port && port <= self.last
    }

    /// Whether each of the other's ports is one of these.
    pub const fn covers(self, other: Self) -> bool {
        self.first <= other.first && other.last <= self.last
    }

    /// Whether they have a port in common.
    pub const fn meets(self, other: Self) -> bool {
        self.first <= other.last && other.first <= self.last
    }
}

impl fmt::Display for PortRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.first == self.last {
            true => write!(f, "{}", self.first),
            false => write!(f, "{}-{}", self.first, self.last),
        }
    }
}

impl FromStr for PortRange {
    type Err = BadSpec;

    fn from_str(text: &str) -> Result<Self, BadSpec> {
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        let (first, last) = (port(first)?, port(last)?);
        if first == 0 || last == 0 {
            return Err(BadSpec::Zero);
        }
        Self::new(first, last).ok_or(BadSpec::Backwards(first, last))
    }
}

fn port(text: &str) -> Result<u16, BadSpec> {
    // u16's own parser would take "+80".
    if text.is_empty() || !text.bytes().all(|digit| digit.is_ascii_digit()) {
        return Err(BadSpec::Port(text.into()));
    }
    text.parse().map_err(|_| BadSpec::Port(text.into()))
}

/// Why a text is no published port.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum BadSpec {
    #[error("'{0}' is not a port: a number from 1 to 65535 is expected")]
    Port(String),
    #[error("port 0 can't be used: give a number from 1 to 65535")]
    Zero,
    #[error("ports {0}-{1} are the wrong way round: give the lower one first")]
    Backwards(u16, u16),
    #[error("'{0}' is not a protocol: give tcp, udp or sctp")]
    Proto(String),
    #[error("'{0}' is not an address of the host")]
    Address(String),
    #[error("'{0}' has too many colons: put an IPv6 address in brackets, like [::1]:8080:80")]
    Colons(String),
    #[error("'{0}' has a bracket without its other half")]
    Bracket(String),
    #[error("'{0}' is not an option of a published port: only 'direct' is")]
    Option(String),
    #[error(
        "host ports {host} and container ports {container} differ in number: give as many, \
         or one container port for a range of host ports to choose from"
    )]
    Lengths {
        host: PortRange,
        container: PortRange,
    },
}

/// A published port or range of ports as a user writes it.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PortSpec {
    /// Address of the host, or none for every address.
    pub host_ip: Option<IpAddr>,
    /// Ports of the host, or none for netdp to choose. More than one for a
    /// single container port: one of them is chosen.
    pub host_ports: Option<PortRange>,
    pub container_ports: PortRange,
    pub proto: Proto,
    /// The program shall get a listening socket of the host's own.
    pub direct: bool,
}

/// One port to publish, or a range as a whole.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct PortRequest {
    /// Address of the host, or none for the network's default.
    pub host_ip: Option<IpAddr>,
    /// As many ports of the host as of the container. For a single one of the
    /// container also several to choose one from, or none for any from
    /// [`EPHEMERAL`].
    pub host_ports: Option<PortRange>,
    pub container_ports: PortRange,
    pub proto: Proto,
    /// The program shall get a listening socket of the host's own.
    pub direct: bool,
}

/// Ports from which one is chosen if none is asked for.
pub const EPHEMERAL: PortRange = PortRange {
    first: 49153,
    last: 65535,
};

impl PortSpec {
    /// What is meant: a range of as many ports, or single container ports with
    /// host ports to choose from.
    pub fn requests(&self) -> Vec<PortRequest> {
        let request = |container_ports| PortRequest {
            host_ip: self.host_ip,
            host_ports: self.host_ports,
            container_ports,
            proto: self.proto,
            direct: self.direct,
        };
        if self.is_paired() {
            return vec![request(self.container_ports)];
        }
        let ports = self.container_ports.ports();
        ports.filter_map(PortRange::single).map(request).collect()
    }

    /// Whether each container port has a host port of its own.
    fn is_paired(&self) -> bool {
        self.host_ports
            .is_some_and(|host| host.count() == self.container_ports.count())
    }

    /// Whether a published port or range is one that is meant, as a whole. What
    /// is left out fits every value. One at the container's own address
    /// (`at_itself`) was asked for in the same words as one of the host.
    pub fn fits(&self, publication: &Publication, at_itself: bool) -> bool {
        if at_itself {
            return self.proto == publication.proto
                && self.container_ports.covers(publication.container_ports())
                && self.host_ip.is_none_or(|address| {
                    let ip = publication.host_ip;
                    address == ip || address.is_unspecified() && address.is_ipv4() == ip.is_ipv4()
                });
        }
        let (host, container) = (publication.host_ports(), publication.container_ports());
        let from_first = |range: PortRange, first: u16| first.wrapping_sub(range.first());
        self.proto == publication.proto
            && self.host_ip.is_none_or(|ip| ip == publication.host_ip)
            && self.container_ports.covers(container)
            && self.host_ports.is_none_or(|ports| {
                ports.covers(host)
                    && (!self.is_paired()
                        || from_first(ports, host.first())
                            == from_first(self.container_ports, container.first()))
            })
    }

    /// Whether some of the ports that are meant are published as part of this.
    pub fn meets(&self, publication: &Publication) -> bool {
        self.proto == publication.proto
            && self.host_ip.is_none_or(|ip| ip == publication.host_ip)
            && self.container_ports.meets(publication.container_ports())
            && self
                .host_ports
                .is_none_or(|ports| ports.meets(publication.host_ports()))
    }
}

impl FromStr for PortSpec {
    type Err = BadSpec;

    fn from_str(text: &str) -> Result<Self, BadSpec> {
        let (rest, direct) = match text.split_once(',') {
            None => (text, false),
            Some((rest, "direct")) => (rest, true),
            Some((_, option)) => return Err(BadSpec::Option(option.into())),
        };
        let (rest, proto) = match rest.split_once('/') {
            None => (rest, Proto::default()),
            Some((rest, proto)) => (rest, proto.parse()?),
        };
        let (host_ip, ports) = split_address(rest)?;
        let (host_ports, container_ports) = match ports.split_once(':') {
            None => (None, ports.parse::<PortRange>()?),
            Some((host, container)) => (host_range(host)?, container.parse()?),
        };
        if let Some(host) = host_ports
            && container_ports.count() != 1
            && container_ports.count() != host.count()
        {
            return Err(BadSpec::Lengths {
                host,
                container: container_ports,
            });
        }
        Ok(Self {
            host_ip,
            host_ports,
            container_ports,
            proto,
            direct,
        })
    }
}

/// Splits `HOSTIP:` off. What has dots is an address even without a second
/// colon, so that `127.0.0.1:80` means what `127.0.0.1::80` does.
fn split_address(text: &str) -> Result<(Option<IpAddr>, &str), BadSpec> {
    if let Some(rest) = text.strip_prefix('[') {
        let bracket = || BadSpec::Bracket(text.into());
        let (address, rest) = rest.split_once(']').ok_or_else(bracket)?;
        let ports = rest.strip_prefix(':').ok_or_else(bracket)?;
        if ports.matches(':').count() > 1 {
            return Err(BadSpec::Colons(text.into()));
        }
        let address = address
            .parse()
            .map(IpAddr::V6)
            .map_err(|_| BadSpec::Address(address.into()))?;
        return Ok((Some(address), ports));
    }
    let (address, ports) = match text.matches(':').count() {
        0 => return Ok((None, text)),
        1 => match text.split_once(':') {
            Some((address, ports)) if address.contains('.') => (address, ports),
            _ => return Ok((None, text)),
        },
        2 => text.split_once(':').unwrap_or(("", text)),
        _ => return Err(BadSpec::Colons(text.into())),
    };
    if address.is_empty() {
        return Ok((None, ports));
    }
    let address = address
        .parse()
        .map(IpAddr::V4)
        .map_err(|_| BadSpec::Address(address.into()))?;
    Ok((Some(address), ports))
}

/// As with Docker, no host port and host port 0 both ask for any.
fn host_range(text: &str) -> Result<Option<PortRange>, BadSpec> {
    if text.is_empty() || port(text) == Ok(0) {
        return Ok(None);
    }
    text.parse().map(Some)
}

impl fmt::Display for PortSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host_ip {
            Some(IpAddr::V4(address)) => write!(f, "{address}:")?,
            Some(IpAddr::V6(address)) => write!(f, "[{address}]:")?,
            None => {}
        }
        match self.host_ports {
            Some(ports) => write!(f, "{ports}:")?,
            None if self.host_ip.is_some() => f.write_str(":")?,
            None => {}
        }
        write!(f, "{}/{}", self.container_ports, self.proto)?;
        if self.direct {
            f.write_str(",direct")?;
        }
        Ok(())
    }
}

impl TryFrom<String> for PortSpec {
    type Error = BadSpec;
    fn try_from(text: String) -> Result<Self, BadSpec> {
        text.parse()
    }
}

impl From<PortSpec> for String {
    fn from(spec: PortSpec) -> Self {
        spec.to_string()
    }
}

/// A port of the container without one of the host: `PORT[-END][/PROTO]`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Exposed {
    pub ports: PortRange,
    pub proto: Proto,
}

impl FromStr for Exposed {
    type Err = BadSpec;

    fn from_str(text: &str) -> Result<Self, BadSpec> {
        let (ports, proto) = match text.split_once('/') {
            None => (text, Proto::default()),
            Some((ports, proto)) => (ports, proto.parse()?),
        };
        Ok(Self {
            ports: ports.parse()?,
            proto,
        })
    }
}

impl fmt::Display for Exposed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.ports, self.proto)
    }
}

impl TryFrom<String> for Exposed {
    type Error = BadSpec;
    fn try_from(text: String) -> Result<Self, BadSpec> {
        text.parse()
    }
}

impl From<Exposed> for String {
    fn from(exposed: Exposed) -> Self {
        exposed.to_string()
    }
}

#[cfg(test)]
#[path = "spec_tests.rs"]
mod tests;
