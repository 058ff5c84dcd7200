//! How much there is on a host, and where its servers are reached.

use crate::load::{Kind, Service};
use crate::world::docker_bridge::PublishedPort;
use crate::world::load::Served;

/// Servers listen from here on, one port for each workload; those of the next CPU
/// follow.
pub(in crate::bench) const FIRST_PORT: u16 = 7001;
/// Ports that are published for their number alone.
const FILLER_PORTS: u16 = 20001;

/// How much there is on a host besides what is measured, and on which CPUs that is.
#[derive(Clone, Debug)]
pub(in crate::bench) struct Size {
    /// Published ports in all.
    pub(in crate::bench) ports: usize,
    /// Containers in all.
    pub(in crate::bench) endpoints: usize,
    /// Flows that the tables must have room for.
    pub(in crate::bench) flows: usize,
    /// Each that of a server, and of the client that asks it.
    pub(in crate::bench) cpus: Vec<usize>,
}

impl Size {
    /// Nothing more than what is measured there.
    pub(in crate::bench) fn on(cpus: &[usize]) -> Self {
        Self {
            ports: 0,
            endpoints: 0,
            flows: 0,
            cpus: cpus.into(),
        }
    }

    /// What the servers serve.
    pub(super) fn served(&self) -> Vec<Served> {
        let cpus = self.cpus.iter().enumerate();
        let served = cpus.map(|(pair, &cpu)| Served {
            cpu,
            listen: services(FIRST_PORT + pair as u16 * PORTS),
        });
        served.collect()
    }

    /// Ports of the first container: those that are measured are published last.
    pub(super) fn published(&self) -> Vec<PublishedPort> {
        let pairs = 0..self.cpus.len() as u16;
        let measured: Vec<PublishedPort> = pairs
            .flat_map(|pair| published(FIRST_PORT + pair * PORTS))
            .collect();
        let fillers = self.ports.saturating_sub(measured.len()) as u16;
        let fillers = (0..fillers).map(|offset| PublishedPort {
            protocol: "tcp",
            port: FILLER_PORTS + offset,
        });
        fillers.chain(measured).collect()
    }

    /// Containers besides the two that every host has.
    pub(super) fn crowd(&self) -> usize {
        self.endpoints.saturating_sub(2)
    }
}

/// Of a server.
const PORTS: u16 = Kind::ALL.len() as u16;

/// Where server number `pair` serves a workload.
pub(super) fn port_of(pair: usize, kind: Kind) -> u16 {
    port(FIRST_PORT + pair as u16 * PORTS, kind)
}

pub(in crate::bench) fn port(first: u16, kind: Kind) -> u16 {
    let offset = Kind::ALL.iter().position(|other| *other == kind);
    first + offset.unwrap_or_default() as u16
}

pub(in crate::bench) fn services(first: u16) -> Vec<(Service, u16)> {
    let services = Kind::ALL.map(|kind| (kind.service(), port(first, kind)));
    services.into()
}

pub(super) fn published(first: u16) -> Vec<PublishedPort> {
    let ports = Kind::ALL.map(|kind| PublishedPort {
        protocol: match kind {
            Kind::UdpRr | Kind::UdpPps => "udp",
            _ => "tcp",
        },
        port: port(first, kind),
    });
    ports.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_cpu_has_ports_of_its_own_which_are_published() {
        let size = Size {
            ports: 100,
            ..Size::on(&[3, 1])
        };
        let served = size.served();
        let cpus: Vec<usize> = served.iter().map(|it| it.cpu).collect();
        assert_eq!(cpus, [3, 1]);
        let listen = served.iter().flat_map(|it| &it.listen);
        let mut ports: Vec<u16> = listen.map(|(_, port)| *port).collect();
        assert!(ports.contains(&port_of(1, Kind::Crr)));
        ports.sort_unstable();
        ports.dedup();
        assert_eq!(ports.len(), 2 * Kind::ALL.len());

        let published = size.published();
        assert_eq!(published.len(), 100);
        let is_published = |port: &u16| published.iter().any(|it| it.port == *port);
        assert!(ports.iter().all(is_published));
    }
}
