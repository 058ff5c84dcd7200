//! Two containers whose sockets may be joined.

use std::net::{Ipv4Addr, TcpStream};

use netdp::api::types::JoinedCounters;
use netdp_tests::{Container, Reached, Topology, connect, listen};

pub const ANY: Ipv4Addr = Ipv4Addr::UNSPECIFIED;

/// Two containers on a network with this option, of both families.
pub struct Pair {
    pub topology: Topology,
    pub one: Container,
    pub other: Container,
}

impl Pair {
    pub fn start(name: &str, options: &str) -> Option<Self> {
        let topology = Topology::start_with_ipv6(name)?;
        topology.netdp(&format!("network create short --ipv6 {options}"));
        let one = topology.container("one", "--network short");
        let other = topology.container("other", "--network short -p 8080:80");
        Some(Self {
            topology,
            one,
            other,
        })
    }

    pub fn one(&self) -> Reached<'_> {
        Reached::new(&self.topology.world, &self.one.namespace)
    }

    pub fn other(&self) -> Reached<'_> {
        Reached::new(&self.topology.world, &self.other.namespace)
    }

    pub fn host(&self) -> Reached<'_> {
        Reached::new(&self.topology.world, &self.topology.world.host)
    }

    /// A connection from one to the other.
    #[track_caller]
    pub fn connected(&self) -> (TcpStream, TcpStream) {
        let listener = listen(&self.other(), ANY, 80);
        let near = connect(&self.one(), (self.other.address, 80));
        (near, listener.accept().0)
    }

    /// What all endpoints together have sent the short way.
    #[track_caller]
    pub fn joined(&self) -> JoinedCounters {
        let endpoints = self.topology.statistics().endpoints;
        endpoints
            .iter()
            .fold(JoinedCounters::default(), |sum, it| JoinedCounters {
                connections: sum.connections + it.joined.connections,
                messages: sum.messages + it.joined.messages,
                bytes: sum.bytes + it.joined.bytes,
            })
    }
}
