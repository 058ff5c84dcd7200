//! What would become of a packet, without sending one: the tables asked in the
//! order in which the programs ask them.
//!
//! Pure: the daemon gives a [`Snapshot`]. What entries say of a packet is
//! decided by [`netdp_common::rules`], and `program_explain` compares the
//! answers with those of the loaded programs.

mod container;
mod known;
mod mapped;
mod outside;
mod outward;
mod own;
mod snapshot;

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
};

use netdp_common::{
    addr::{Address, Be16, V4Addr, V6Addr, proto},
    drop::DropReason,
    icmp::Refusal,
    packet::{Transport, Tuple, tcp_flags},
};
use serde::{Deserialize, Serialize};

pub use known::KnownFlow;
pub use own::own;
pub use snapshot::{Mapping, Snapshot, Subnet, Way, WayBack};

/// Protocols of which a flow is known.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    Tcp,
    Udp,
    /// Echo of ICMP or, between addresses of IPv6, of ICMPv6.
    Icmp,
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Icmp => "icmp",
        })
    }
}

/// The packet that is asked about: of TCP the one that opens a connection, of
/// ICMP an echo request.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Question {
    pub protocol: Protocol,
    /// Of an echo request, the port is its identifier.
    pub source: SocketAddr,
    /// Of an echo request, the port is 0.
    pub destination: SocketAddr,
}

impl Question {
    /// Its protocol's number in the Internet header.
    pub fn proto(&self) -> u8 {
        match self.protocol {
            Protocol::Tcp => proto::TCP,
            Protocol::Udp => proto::UDP,
            Protocol::Icmp if self.source.is_ipv4() => proto::ICMP,
            Protocol::Icmp => proto::ICMPV6,
        }
    }

    /// What the programs make of its transport header.
    fn transport(&self) -> Transport {
        match self.protocol {
            Protocol::Tcp => Transport::Tcp(tcp_flags::SYN),
            Protocol::Udp => Transport::Udp,
            Protocol::Icmp => Transport::EchoRequest,
        }
    }

    fn tuple(&self) -> Tuple<IpAddr> {
        Tuple {
            saddr: self.source.ip(),
            daddr: self.destination.ip(),
            sport: Be16::new(self.source.port()),
            dport: Be16::new(self.destination.port()),
        }
    }

    fn is_udp(&self) -> bool {
        self.protocol == Protocol::Udp
    }

    fn not_published(&self) -> &'static str {
        match self.protocol {
            Protocol::Icmp => "none: echo is answered by whoever has the address",
            _ => "the port is not published",
        }
    }

    /// Source and destination as people write them.
    pub fn show(&self, source: SocketAddr, destination: SocketAddr) -> String {
        if self.protocol == Protocol::Icmp {
            let (from, to, identifier) = (source.ip(), destination.ip(), source.port());
            return format!("{from} -> {to}, identifier {identifier}");
        }
        format!("{source} -> {destination}")
    }
}

/// Where the packet ends up.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// In the container that has its host end at this ifindex.
    Container(u32),
    /// Out of the uplink with this ifindex.
    Uplink(u32),
    /// At the host's own stack.
    Stack,
    /// There, at the socket of a direct port of the container with this address.
    Socket(IpAddr),
    Dropped(DropReason),
}

/// One thing that was asked, and what it said.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Step {
    /// `source`, `mapping`, `policy`, `flow`, `socket`, `route`, `answer` or
    /// `translation`.
    pub asked: String,
    pub answer: String,
}

/// What becomes of the packet, and why.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Explanation {
    pub steps: Vec<Step>,
    /// Source and destination as they are in the end.
    pub source: SocketAddr,
    pub destination: SocketAddr,
    pub outcome: Outcome,
}

impl Explanation {
    fn new(question: &Question) -> Self {
        Self {
            steps: Vec::new(),
            source: question.source,
            destination: question.destination,
            outcome: Outcome::Stack,
        }
    }

    fn say(&mut self, asked: &str, answer: impl Into<String>) {
        self.steps.push(Step {
            asked: asked.to_owned(),
            answer: answer.into(),
        });
    }

    /// It is for a socket of the host that a program of a container has.
    fn take(&mut self, at: SocketAddr, container: IpAddr) {
        let answer = format!("the port is direct: its program has the host's socket at {at}");
        self.say("socket", answer);
        self.destination = at;
        self.outcome = Outcome::Socket(container);
    }

    fn drop(&mut self, asked: &str, reason: DropReason, answer: impl Into<String>) {
        self.say(asked, answer);
        self.outcome = Outcome::Dropped(reason);
    }
}

/// Follows the packet through the tables.
pub fn explain(snapshot: &Snapshot<'_>, question: &Question) -> Explanation {
    let mut told = Explanation::new(question);
    let source = question.source.ip();
    if let Some(owner) = snapshot.owner(source) {
        told.say("source", "a container of this host");
        container::explain(snapshot, question, &owner, &mut told);
        if let Outcome::Dropped(reason) = told.outcome {
            match Refusal::of(reason) {
                Refusal::Silent => {}
                Refusal::Prohibited => told.say("answer", "ICMP: administratively prohibited"),
                Refusal::NoRoute => told.say("answer", "ICMP: no route"),
                Refusal::TooBig => told.say("answer", "ICMP: too big"),
                Refusal::Expired => told.say("answer", "ICMP: time exceeded"),
            }
        }
    } else if source.is_loopback() || snapshot.is_local(source) {
        told.say("source", "the host itself");
        host(snapshot, question, &mut told);
    } else {
        match snapshot.network_of(source) {
            // Whoever is not given the address can't send from it.
            Some(network) => told.say(
                "source",
                format!(
                    "outside: no container of network {network} has this address, and one that \
                     sent from it would be dropped (spoofed-source)"
                ),
            ),
            None => told.say("source", "outside"),
        }
        outside::explain(snapshot, question, &mut told);
    }
    if told.outcome != Outcome::Stack
        && (told.source, told.destination) != (question.source, question.destination)
    {
        let translated = question.show(told.source, told.destination);
        told.say("translation", translated);
    }
    told
}

/// What [`Address::is_martian`] says.
fn is_martian(addr: IpAddr) -> bool {
    match addr {
        IpAddr::V4(addr) => V4Addr::from(addr).is_martian(),
        IpAddr::V6(addr) => V6Addr::from(addr).is_martian(),
    }
}

/// fe80::/10. That of IPv4 may be behind a router of its own.
fn is_link_local(addr: IpAddr) -> bool {
    match addr {
        IpAddr::V4(_) => false,
        IpAddr::V6(addr) => addr.is_unicast_link_local(),
    }
}

/// A program of the host that connects or sends, in the cgroup of the daemon.
fn host(snapshot: &Snapshot<'_>, question: &Question, told: &mut Explanation) {
    let to = question.destination;
    let here = to.ip().is_loopback() || to.ip().is_unspecified() || snapshot.is_local(to.ip());
    let exact = snapshot.exact(to, question.proto());
    let any = SocketAddr::new(unspecified(to.ip()), to.port());
    let any = snapshot.exact(any, question.proto()).filter(|_| here);
    if let Some(mapping) = exact.or(any) {
        told.say("mapping", mapping.to_string());
        if snapshot.is_hosts(&mapping, question) {
            return told.take(to, mapping.container().ip());
        }
        told.destination = mapping.container();
        told.outcome = Outcome::Container(mapping.published.to.ifindex);
    } else if let Some(place) = snapshot.instead(question) {
        told.take(place, to.ip());
    } else if let Some(owner) = snapshot.owner(to.ip()) {
        told.say("route", "a container, which the host may always reach");
        told.outcome = Outcome::Container(owner.to.ifindex);
    } else {
        told.say("mapping", "none: the host's own stack has it");
    }
}

/// The address that stands for all of the same family.
pub(crate) fn unspecified(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => std::net::Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => std::net::Ipv6Addr::UNSPECIFIED.into(),
    }
}
