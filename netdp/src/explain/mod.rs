//! What would become of a packet, without sending one: the tables asked in the
//! order in which the programs ask them.
//!
//! Pure: the daemon gives a [`Snapshot`], and `program_explain` compares the
//! answers with those of the loaded programs.

mod container;
mod mapped;
mod outside;
mod snapshot;

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
};

use netdp_common::{addr::proto, drop::DropReason, icmp::Refusal};
use serde::{Deserialize, Serialize};

pub use snapshot::{KnownFlow, Mapping, Snapshot, Way, WayBack};

/// Protocols that have ports.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    Tcp,
    Udp,
}

impl Protocol {
    /// Its number in the Internet header.
    pub const fn number(self) -> u8 {
        match self {
            Self::Tcp => proto::TCP,
            Self::Udp => proto::UDP,
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        })
    }
}

/// The packet that is asked about: of TCP the one that opens a connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Question {
    pub protocol: Protocol,
    pub source: SocketAddr,
    pub destination: SocketAddr,
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
    Dropped(DropReason),
}

/// One thing that was asked, and what it said.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Step {
    /// `source`, `mapping`, `policy`, `flow`, `route`, `answer` or `translation`.
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
        told.say("source", "outside");
        outside::explain(snapshot, question, &mut told);
    }
    if told.outcome != Outcome::Stack
        && (told.source, told.destination) != (question.source, question.destination)
    {
        let translated = format!("{} -> {}", told.source, told.destination);
        told.say("translation", translated);
    }
    told
}

/// A program of the host that connects or sends, in the cgroup of the daemon.
fn host(snapshot: &Snapshot<'_>, question: &Question, told: &mut Explanation) {
    let to = question.destination;
    let here = to.ip().is_loopback() || to.ip().is_unspecified() || snapshot.is_local(to.ip());
    let exact = snapshot.mapping(to.ip(), to.port(), question.protocol);
    let any = snapshot
        .mapping(unspecified(to.ip()), to.port(), question.protocol)
        .filter(|_| here);
    if let Some(mapping) = exact.or(any) {
        told.say("mapping", mapping.to_string());
        told.destination = mapping.container;
        told.outcome = Outcome::Container(mapping.ifindex);
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
