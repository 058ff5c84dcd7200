//! Flows of the tables as they were when the question was asked.

use std::net::{IpAddr, SocketAddr};

use netdp_common::{
    addr::{Address, Be16, proto},
    maps::{Flow, FlowKey},
};

use super::{Snapshot, snapshot::socket};
use crate::bpf::FlowSeen;

/// An entry of the flow tables.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct KnownFlow {
    pub flow: Flow<IpAddr>,
    /// Not answered yet.
    pub pending: bool,
}

impl KnownFlow {
    /// `addr` and `port` of the entry: of a masqueraded flow, the container's.
    pub fn inner(&self) -> SocketAddr {
        socket(self.flow.addr, self.flow.port)
    }
}

impl Snapshot<'_> {
    /// A flow by the key of a container's packets, if both sides have spoken.
    pub fn conversation(
        &self,
        remote: SocketAddr,
        local: SocketAddr,
        proto: u8,
    ) -> Option<Flow<IpAddr>> {
        self.find(&full(remote, local, proto), false)
    }

    /// The same of what isn't answered yet.
    pub fn pending(
        &self,
        remote: SocketAddr,
        local: SocketAddr,
        proto: u8,
    ) -> Option<Flow<IpAddr>> {
        self.find(&full(remote, local, proto), true)
    }

    /// Either; conversations come first.
    pub fn full_flow(&self, remote: SocketAddr, local: SocketAddr, proto: u8) -> Option<KnownFlow> {
        self.either(&full(remote, local, proto))
    }

    fn either(&self, key: &FlowKey<IpAddr>) -> Option<KnownFlow> {
        let known = |pending| {
            let flow = self.find(key, pending)?;
            Some(KnownFlow { flow, pending })
        };
        known(false).or_else(|| known(true))
    }

    fn find(&self, key: &FlowKey<IpAddr>, pending: bool) -> Option<Flow<IpAddr>> {
        match (key.remote, key.local) {
            (IpAddr::V4(remote), IpAddr::V4(local)) => find(
                self.flows4,
                &with(key, remote.into(), local.into()),
                pending,
            ),
            (IpAddr::V6(remote), IpAddr::V6(local)) => find(
                self.flows6,
                &with(key, remote.into(), local.into()),
                pending,
            ),
            _ => None,
        }
    }

    /// The mapping that the outside sees as this address and port.
    pub fn mapping_at(&self, seen: SocketAddr) -> Option<KnownFlow> {
        self.mapping_with(seen)
            .filter(|mapping| mapping.flow.external == seen.ip())
    }

    /// The mapping that has the port of a socket of this family.
    pub fn mapping_with(&self, socket: SocketAddr) -> Option<KnownFlow> {
        let none = super::unspecified(socket.ip());
        self.either(&mapping_key(none, none, socket.port()))
    }

    /// The container's side of a mapping whose port was changed.
    pub fn mapping_side(&self, container: SocketAddr) -> Option<KnownFlow> {
        let none = super::unspecified(container.ip());
        self.either(&mapping_key(none, container.ip(), container.port()))
    }

    /// Whether this address may send to the mapping at this port.
    pub fn is_permitted(&self, peer: IpAddr, port: u16) -> bool {
        let none = super::unspecified(peer);
        self.either(&mapping_key(peer, none, port)).is_some()
    }

    /// A flow by what the outside sees.
    pub fn outside_flow(&self, remote: SocketAddr, port: u16, proto: u8) -> Option<KnownFlow> {
        let local = SocketAddr::new(super::unspecified(remote.ip()), port);
        self.either(&full(remote, local, proto))
    }
}

/// As [`FlowKey::full`].
fn full(remote: SocketAddr, local: SocketAddr, proto: u8) -> FlowKey<IpAddr> {
    FlowKey {
        remote: remote.ip(),
        local: local.ip(),
        remote_port: Be16::new(remote.port()),
        local_port: Be16::new(local.port()),
        proto,
        mapping: 0,
        pad: 0,
    }
}

/// As [`FlowKey::mapping`], [`FlowKey::mapped`] and [`FlowKey::permit`], by who
/// is named.
fn mapping_key(remote: IpAddr, local: IpAddr, port: u16) -> FlowKey<IpAddr> {
    FlowKey {
        remote,
        local,
        remote_port: Be16::default(),
        local_port: Be16::new(port),
        proto: proto::UDP,
        mapping: 1,
        pad: 0,
    }
}

/// A key with its addresses in one family.
fn with<A>(key: &FlowKey<IpAddr>, remote: A, local: A) -> FlowKey<A> {
    FlowKey {
        remote,
        local,
        remote_port: key.remote_port,
        local_port: key.local_port,
        proto: key.proto,
        mapping: key.mapping,
        pad: key.pad,
    }
}

fn find<A: Address + Into<IpAddr>>(
    flows: &[FlowSeen<A>],
    key: &FlowKey<A>,
    pending: bool,
) -> Option<Flow<IpAddr>> {
    let mut flows = flows.iter();
    let flow = &flows
        .find(|seen| seen.pending == pending && seen.key == *key)?
        .flow;
    Some(Flow {
        addr: flow.addr.into(),
        external: flow.external.into(),
        port: flow.port,
        kind: flow.kind,
        state: flow.state,
        timeout: flow.timeout,
        to: flow.to,
        last_seen: flow.last_seen,
        ifindex: flow.ifindex,
        tag: flow.tag,
        generation: flow.generation,
        pad: flow.pad,
    })
}
