//! What the sockets of direct ports are connected with: connections of the host's
//! stack, and clients of UDP, which programs remember.

use std::{
    collections::BTreeMap,
    fs, io,
    net::{IpAddr, SocketAddr},
    ops::ControlFlow,
    os::unix::fs::MetadataExt as _,
    path::PathBuf,
};

use netdp_common::{
    addr::{Address, proto},
    maps::{Client, ClientKey},
};

use super::types::{DirectCounters, EndpointCounters, Flow};
use crate::{
    bpf::{BpfError, Clients},
    daemon::{change::Core, owner::OwnerError},
    model::{Proto, Publication},
    netlink::{Connection, Sockets},
};

/// The direct ports of this host, and where to ask about them.
pub struct HostSockets {
    ports: Vec<Port>,
    /// Inode of the control group of their sockets, if it is there.
    group: Option<u64>,
    maps: PathBuf,
}

struct Port {
    published: Publication,
    /// The container's address.
    own: IpAddr,
    /// Id of its sandbox, and name of its interface there.
    of: (String, String),
}

/// Why they can't be told.
#[derive(Debug, thiserror::Error)]
pub enum HostSocketsError {
    #[error(transparent)]
    Sockets(#[from] io::Error),
    #[error(transparent)]
    Bpf(#[from] BpfError),
}

/// A connection of a direct port, or a client.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct HostFlow {
    pub proto: u8,
    pub remote: SocketAddr,
    pub container: SocketAddr,
    host: SocketAddr,
    state: &'static str,
    /// In seconds.
    idle: Option<u64>,
    /// The program has not received anything of it.
    pub pending: bool,
}

impl From<HostFlow> for Flow {
    fn from(flow: HostFlow) -> Self {
        Self {
            protocol: match flow.proto {
                proto::TCP => "tcp".to_owned(),
                _ => "udp".to_owned(),
            },
            kind: "direct".to_owned(),
            state: flow.state.to_owned(),
            remote: flow.remote,
            container: Some(flow.container),
            host: flow.host,
            idle: flow.idle,
            timeout: None,
            pending: flow.pending,
            accelerated: None,
        }
    }
}

impl From<HostSocketsError> for OwnerError {
    fn from(error: HostSocketsError) -> Self {
        match error {
            HostSocketsError::Sockets(error) => Self::Sockets(error),
            HostSocketsError::Bpf(error) => Self::Bpf(error),
        }
    }
}

impl HostSockets {
    pub fn of(core: &Core) -> Self {
        let site = core.direct().site();
        let endpoints = core.state().endpoints.values();
        let ports = endpoints.flat_map(|endpoint| {
            let direct = endpoint.published.iter().filter(|port| port.direct);
            direct.filter_map(|published| {
                let mut addresses = endpoint.addresses.iter().map(|it| it.net.addr());
                let own = addresses.find(|own| own.is_ipv4() == published.host_ip.is_ipv4())?;
                Some(Port {
                    published: published.clone(),
                    own,
                    of: (endpoint.sandbox.to_string(), endpoint.ifname.clone()),
                })
            })
        });
        Self {
            ports: ports.collect(),
            group: fs::metadata(&site.cgroup).ok().map(|it| it.ino()),
            maps: site.maps.clone(),
        }
    }

    /// Calls `each` for every flow until it breaks. Blocks for as long as that
    /// takes.
    ///
    /// # Errors
    /// What the kernel refused.
    pub fn each_until(
        &self,
        mut each: impl FnMut(HostFlow) -> ControlFlow<()>,
    ) -> Result<(), HostSocketsError> {
        let has = |proto| self.ports.iter().any(|port| port.published.proto == proto);
        let mut rest = ControlFlow::Continue(());
        let mut tell = |flow: Option<HostFlow>| {
            rest = flow.map_or(ControlFlow::Continue(()), &mut each);
            rest
        };
        if has(Proto::Tcp) {
            Sockets::open()?.connections(|it| tell(self.connection(&it)))?;
        }
        if has(Proto::Udp) {
            Clients::open4(&self.maps)?.each_until(|key, of| tell(self.client(key, of)))?;
            Clients::open6(&self.maps)?.each_until(|key, of| tell(self.client(key, of)))?;
        }
        Ok(())
    }

    /// Counts what is open of each endpoint. Blocks for as long as that takes.
    ///
    /// # Errors
    /// What the kernel refused.
    pub fn count(&self, endpoints: &mut [EndpointCounters]) -> io::Result<()> {
        if self.ports.is_empty() {
            return Ok(());
        }
        let mut open: BTreeMap<&(String, String), DirectCounters> = BTreeMap::new();
        Sockets::open()?.connections(|connection| {
            if let Some(port) = self.port_of(&connection) {
                let counters = open.entry(&port.of).or_default();
                counters.connections += 1;
                counters.rx_bytes += connection.received;
                counters.tx_bytes += connection.acknowledged;
            }
            ControlFlow::Continue(())
        })?;
        for endpoint in endpoints {
            let of = (endpoint.sandbox.clone(), endpoint.interface.clone());
            endpoint.direct = open.get(&of).copied().unwrap_or_default();
        }
        Ok(())
    }

    fn port_of(&self, connection: &Connection) -> Option<&Port> {
        // The group says it where the kernel tells of it; who else has the port
        // has it by netdp.
        if let (Some(group), Some(of)) = (self.group, connection.group)
            && group != of
        {
            return None;
        }
        let own = connection.own;
        self.ports.iter().find(|port| {
            let at = port.published.host_ip;
            let is_there = at == own.ip() || at.is_unspecified() && at.is_ipv4() == own.is_ipv4();
            is_there && port.has(Proto::Tcp, own.port())
        })
    }

    fn connection(&self, connection: &Connection) -> Option<HostFlow> {
        let own = connection.own;
        let port = self.port_of(connection)?;
        Some(HostFlow {
            proto: proto::TCP,
            remote: connection.peer,
            container: port.inside(own.port()),
            host: own,
            state: if connection.is_established {
                "established"
            } else {
                "closing"
            },
            idle: connection.idle.map(|idle| idle.as_secs()),
            pending: false,
        })
    }

    /// None of ports that are gone.
    fn client<A: Address + Into<IpAddr>>(
        &self,
        key: &ClientKey<A>,
        client: &Client<A>,
    ) -> Option<HostFlow> {
        let (own, asked): (IpAddr, IpAddr) = (key.own.into(), client.asked.into());
        let number = key.port.get();
        let mut ports = self.ports.iter();
        let port = ports.find(|port| port.own == own && port.has(Proto::Udp, number))?;
        let host = if asked.is_unspecified() {
            port.published.host_ip
        } else {
            asked
        };
        let heard = client.heard != 0;
        Some(HostFlow {
            proto: proto::UDP,
            remote: SocketAddr::new(key.client.into(), key.client_port.get()),
            container: port.inside(number),
            host: SocketAddr::new(host, number),
            state: if heard { "heard" } else { "unheard" },
            idle: None,
            pending: !heard,
        })
    }
}

impl Port {
    fn has(&self, proto: Proto, host_port: u16) -> bool {
        self.published.proto == proto && self.published.host_ports().holds(host_port)
    }

    fn inside(&self, host_port: u16) -> SocketAddr {
        let published = &self.published;
        let port = published.container_port + (host_port - published.host_port);
        SocketAddr::new(self.own, port)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use netdp_common::addr::{Be16, V4Addr};

    use super::*;

    fn sockets() -> HostSockets {
        let port = |host_ip: &str, text: Proto, own: &str| Port {
            published: Publication {
                host_ip: host_ip.parse().unwrap(),
                host_port: 8000,
                container_port: 80,
                proto: text,
                count: 10.try_into().unwrap(),
                allow: Vec::new(),
                direct: true,
            },
            own: own.parse().unwrap(),
            of: Default::default(),
        };
        HostSockets {
            ports: vec![
                port("192.0.2.1", Proto::Tcp, "172.17.0.2"),
                port("192.0.2.2", Proto::Tcp, "172.17.0.3"),
                port("::", Proto::Tcp, "fd00::2"),
                port("0.0.0.0", Proto::Udp, "172.17.0.2"),
            ],
            group: Some(7),
            maps: PathBuf::new(),
        }
    }

    #[test]
    fn connections_are_of_the_port_at_their_address() {
        let sockets = sockets();
        let of = |own: &str, group| {
            let flow = sockets.connection(&Connection {
                own: own.parse().unwrap(),
                peer: "198.51.100.7:1".parse().unwrap(),
                is_established: true,
                idle: Some(Duration::from_millis(2900)),
                received: 0,
                acknowledged: 0,
                group,
            });
            flow.map(|it| (it.container.to_string(), it.idle))
        };
        let (first, second) = ("172.17.0.2:83".to_owned(), "172.17.0.3:80".to_owned());
        assert_eq!(of("192.0.2.1:8003", Some(7)), Some((first, Some(2))));
        assert_eq!(of("192.0.2.2:8000", None).unwrap().0, second);
        assert_eq!(of("[fd00::1]:8009", Some(7)).unwrap().0, "[fd00::2]:89");
        for (other, group) in [
            ("192.0.2.1:8003", Some(8)),
            ("192.0.2.1:8010", Some(7)),
            ("192.0.2.3:8000", Some(7)),
        ] {
            assert_eq!(of(other, group), None);
        }
    }

    #[test]
    fn clients_are_of_the_port_of_their_sandbox() {
        let sockets = sockets();
        let v4 = |last| V4Addr::new([172, 17, 0, last]);
        let of = |own, asked, heard| {
            let key = ClientKey {
                client: V4Addr::new([198, 51, 100, 7]),
                own: v4(own),
                client_port: Be16::new(5000),
                port: Be16::new(8001),
                pad: 0,
            };
            let fill = Default::default();
            let client = Client { asked, heard, fill };
            sockets.client(&key, &client).map(Flow::from)
        };
        let usual = of(2, V4Addr::ANY, 1).unwrap();
        assert_eq!(usual.remote.to_string(), "198.51.100.7:5000");
        assert_eq!(usual.host.to_string(), "0.0.0.0:8001");
        assert_eq!(usual.container.unwrap().to_string(), "172.17.0.2:81");
        assert_eq!((usual.state.as_str(), usual.pending), ("heard", false));
        let asked = of(2, v4(9), 0).unwrap();
        assert_eq!(asked.host.to_string(), "172.17.0.9:8001");
        assert!(asked.pending);
        assert_eq!(of(3, V4Addr::ANY, 1), None);
    }
}
