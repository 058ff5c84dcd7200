//! Picking flows out of a million, and sending them without holding them as
//! text.

use std::{collections::BTreeMap, net::IpAddr, ops::ControlFlow};

use netdp_common::{
    addr::{Address, V4Addr, V6Addr, proto},
    maps::FlowKey,
};

use super::{
    acceleration, flows,
    host_sockets::{HostFlow, HostSockets, HostSocketsError},
    types::{Flow, FlowCount, FlowQuery},
};
use crate::{
    accelerate::{Seen, Shown},
    bpf::{BpfError, FlowSeen, FlowTables},
    model::{Mode, Refusal, Sandbox, State},
};

/// Bytes of one piece of an answer.
const PIECE: usize = 64 << 10;
/// So many flows of a family, and of direct ports, are sorted; more are written as they are read, for
/// else all of them would have to be held at once.
const SORTED: usize = 1 << 16;

/// The tables of both families, to be read while others change the datapath.
pub struct Tables {
    pub v4: FlowTables<V4Addr>,
    pub v6: FlowTables<V6Addr>,
    pub accelerated: Option<Accelerated>,
    pub direct: HostSockets,
}

/// The tables of the programs for other engines' networks.
pub struct Accelerated {
    v4: FlowTables<V4Addr>,
    v6: FlowTables<V6Addr>,
    names: Names,
}

/// The network of a container, by its address.
type Names = BTreeMap<IpAddr, String>;

impl Accelerated {
    /// None before they are loaded.
    pub fn of(shown: Shown) -> Option<Self> {
        let names = shown.carried().flat_map(|(carried, member)| {
            let addresses = member.endpoint.addresses.iter();
            addresses.map(|address| (address.net.addr(), carried.network.name.clone()))
        });
        let names = names.collect();
        shown.seen.map(|Seen { v4, v6, .. }| Self { v4, v6, names })
    }
}

/// Which flows are wanted.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// Numbers of protocols; empty for all.
    protocols: Vec<u8>,
    peer: Option<IpAddr>,
    /// Addresses of the container.
    containers: Option<Vec<IpAddr>>,
    limit: Option<usize>,
}

impl Filter {
    pub fn of(query: &FlowQuery, state: &State, shown: Option<&Shown>) -> Result<Self, Refusal> {
        let containers = match &query.sandbox {
            None => None,
            Some(name) => Some(match state.sandbox(name) {
                Ok(sandbox) => addresses(state, sandbox),
                Err(refusal) => {
                    let found = acceleration::sandbox_called(shown.cloned(), name);
                    let endpoints = found.ok_or(refusal)?.endpoints.into_iter();
                    let nets = endpoints.flat_map(|endpoint| endpoint.addresses);
                    nets.map(|net| net.addr()).collect()
                }
            }),
        };
        Ok(Self {
            protocols: match &query.protocol {
                None => Vec::new(),
                Some(name) => protocols(name)?,
            },
            peer: query.peer,
            containers,
            limit: query.limit,
        })
    }

    fn admits<A: Address + Into<IpAddr>>(&self, seen: &FlowSeen<A>) -> bool {
        let container = || flows::container(seen).map(Into::into);
        self.admits_of(seen.key.proto, seen.key.remote.into(), container)
    }

    fn admits_direct(&self, flow: &HostFlow) -> bool {
        self.admits_of(flow.proto, flow.remote.ip(), || Some(flow.container.ip()))
    }

    fn admits_of(
        &self,
        proto: u8,
        remote: IpAddr,
        container: impl FnOnce() -> Option<IpAddr>,
    ) -> bool {
        (self.protocols.is_empty() || self.protocols.contains(&proto))
            && self.peer.is_none_or(|peer| peer == remote)
            && self
                .containers
                .as_ref()
                .is_none_or(|wanted| container().is_some_and(|addr| wanted.contains(&addr)))
    }
}

/// Of a sandbox; who shares a network has its flows.
fn addresses(state: &State, sandbox: &Sandbox) -> Vec<IpAddr> {
    let id = match sandbox.mode {
        Mode::Container(other) => other,
        _ => sandbox.id,
    };
    let endpoints = state.endpoints_of(id).into_iter();
    let addresses = endpoints.flat_map(|endpoint| &endpoint.addresses);
    addresses.map(|address| address.net.addr()).collect()
}

/// Protocol numbers by a name, or a number.
fn protocols(name: &str) -> Result<Vec<u8>, Refusal> {
    match name {
        "tcp" => Ok(vec![proto::TCP]),
        "udp" => Ok(vec![proto::UDP]),
        "icmp" => Ok(vec![proto::ICMP, proto::ICMPV6]),
        other => other.parse().map(|number| vec![number]).map_err(|_| {
            Refusal::invalid(format!(
                "no protocol is called {other:?}: say tcp, udp, icmp or a number up to 255"
            ))
        }),
    }
}

impl Tables {
    /// How many flows a filter lets through, whatever its limit. Blocks for as
    /// long as reading takes.
    pub fn count(&self, filter: &Filter) -> Result<FlowCount, HostSocketsError> {
        let mut count = FlowCount::default();
        self.direct.each_until(|flow| {
            count.direct += u64::from(filter.admits_direct(&flow));
            ControlFlow::Continue(())
        })?;
        let mut add = |pending: bool| {
            *if pending {
                &mut count.pending
            } else {
                &mut count.flows
            } += 1;
        };
        let mine = (&self.v4, &self.v6);
        let accelerated = self.accelerated.as_ref().map(|it| (&it.v4, &it.v6));
        for (v4, v6) in std::iter::once(mine).chain(accelerated) {
            v4.each(|seen| {
                if flows::is_shown(&seen) && filter.admits(&seen) {
                    add(seen.pending);
                }
            })?;
            v6.each(|seen| {
                if flows::is_shown(&seen) && filter.admits(&seen) {
                    add(seen.pending);
                }
            })?;
        }
        Ok(count)
    }

    /// Writes the flows that a filter lets through as an array in JSON with one
    /// flow to a line, those of IPv4 first and those of direct ports last, until
    /// `send` breaks. Few are sorted by protocol, peer and container. Blocks
    /// likewise.
    /// `now`: seconds of `CLOCK_MONOTONIC`.
    pub fn list(
        &self,
        filter: &Filter,
        now: u64,
        send: impl FnMut(Vec<u8>) -> ControlFlow<()>,
    ) -> Result<(), HostSocketsError> {
        let mut array = Array::new(filter.limit, now, send);
        if array.rest.is_continue() {
            let accelerated = self.accelerated.as_ref().map(|it| (&it.v4, &it.names));
            write(&self.v4, accelerated, filter, &mut array)?;
        }
        if array.rest.is_continue() {
            let accelerated = self.accelerated.as_ref().map(|it| (&it.v6, &it.names));
            write(&self.v6, accelerated, filter, &mut array)?;
        }
        if array.rest.is_continue() {
            let mut few = Few::new();
            self.direct.each_until(|flow| {
                if filter.admits_direct(&flow) {
                    few.add(flow, &mut array)
                } else {
                    array.rest
                }
            })?;
            few.end(&mut array);
        }
        array.end();
        Ok(())
    }
}

/// The flows of one family, those of other engines' networks among them.
fn write<A: Address + Into<IpAddr>>(
    own: &FlowTables<A>,
    accelerated: Option<(&FlowTables<A>, &Names)>,
    filter: &Filter,
    array: &mut Array<impl FnMut(Vec<u8>) -> ControlFlow<()>>,
) -> Result<(), BpfError> {
    let mut few = Few::new();
    let mut all = |tables: &FlowTables<A>, names: Option<&Names>| {
        tables.each_until(|seen| {
            if !flows::is_shown(&seen) || !filter.admits(&seen) {
                return array.rest;
            }
            let network = names.map(|names| network(&seen, names));
            few.add((seen, network), array)
        })
    };
    all(own, None)?;
    if let Some((tables, names)) = accelerated {
        all(tables, Some(names))?;
    }
    few.end(array);
    Ok(())
}

/// Protocol, peer and container.
type Place = (u8, IpAddr, u16, IpAddr, u16);

/// What a line is made of.
trait Line {
    fn place(&self) -> Place;
    /// None where it is no flow's first entry.
    fn flow(self, now: u64) -> Option<Flow>;
}

/// With the network of another engine that it is carried for.
impl<A: Address + Into<IpAddr>> Line for (FlowSeen<A>, Option<String>) {
    fn place(&self) -> Place {
        let FlowKey {
            remote,
            remote_port,
            local,
            local_port,
            proto,
            ..
        } = self.0.key;
        let (remote, local): (IpAddr, IpAddr) = (remote.into(), local.into());
        (proto, remote, remote_port.get(), local, local_port.get())
    }

    fn flow(self, now: u64) -> Option<Flow> {
        let (seen, accelerated) = self;
        let flow = flows::flow(&seen, now)?;
        Some(Flow {
            accelerated,
            ..flow
        })
    }
}

impl Line for HostFlow {
    fn place(&self) -> Place {
        let (remote, own) = (self.remote, self.container);
        (self.proto, remote.ip(), remote.port(), own.ip(), own.port())
    }

    fn flow(self, _: u64) -> Option<Flow> {
        Some(self.into())
    }
}

/// Lines that are held to be sorted, until they are too many.
struct Few<L>(Option<Vec<L>>);

impl<L: Line> Few<L> {
    fn new() -> Self {
        Self(Some(Vec::new()))
    }

    fn add<S: FnMut(Vec<u8>) -> ControlFlow<()>>(
        &mut self,
        line: L,
        array: &mut Array<S>,
    ) -> ControlFlow<()> {
        let Some(held) = &mut self.0 else {
            return array.add(line);
        };
        held.push(line);
        if held.len() <= SORTED {
            return ControlFlow::Continue(());
        }
        let held = self.0.take().unwrap_or_default();
        held.into_iter().try_for_each(|line| array.add(line))
    }

    fn end<S: FnMut(Vec<u8>) -> ControlFlow<()>>(self, array: &mut Array<S>) {
        let mut few = self.0.unwrap_or_default();
        few.sort_unstable_by_key(Line::place);
        let _ = few.into_iter().try_for_each(|line| array.add(line));
    }
}

/// The network that an accelerated flow is carried for; `-` where its container
/// has just gone.
fn network<A: Address + Into<IpAddr>>(seen: &FlowSeen<A>, names: &Names) -> String {
    let name = flows::container(seen).and_then(|address| names.get(&address.into()));
    name.map_or("-", String::as_str).to_owned()
}

/// An array in JSON that is sent in pieces while it is made.
struct Array<S> {
    text: Vec<u8>,
    empty: bool,
    /// Flows that may still be added.
    left: usize,
    now: u64,
    send: S,
    /// Whether more is wanted, and whether somebody still reads.
    rest: ControlFlow<()>,
    gone: bool,
}

impl<S: FnMut(Vec<u8>) -> ControlFlow<()>> Array<S> {
    fn new(limit: Option<usize>, now: u64, send: S) -> Self {
        let left = limit.unwrap_or(usize::MAX);
        Self {
            text: vec![b'['],
            empty: true,
            left,
            now,
            send,
            rest: if left == 0 {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            },
            gone: false,
        }
    }

    fn add(&mut self, line: impl Line) -> ControlFlow<()> {
        let Some(flow) = line.flow(self.now) else {
            return ControlFlow::Continue(());
        };
        self.text
            .extend(if self.empty { &b"\n"[..] } else { b",\n" });
        self.empty = false;
        serde_json::to_writer(&mut self.text, &flow)
            .expect("a flow has string keys, and memory grows");
        self.left -= 1;
        if self.text.len() >= PIECE {
            let room = Vec::with_capacity(PIECE + 512);
            self.gone = (self.send)(std::mem::replace(&mut self.text, room)).is_break();
        }
        if self.left == 0 || self.gone {
            self.rest = ControlFlow::Break(());
        }
        self.rest
    }

    fn end(mut self) {
        if !self.gone {
            self.text.extend(b"\n]\n");
            let _ = (self.send)(self.text);
        }
    }
}

#[cfg(test)]
mod tests {
    use netdp_common::{
        addr::Be16,
        maps::{self, Delivery, flow_kind},
    };

    use super::*;

    fn v4(last: u8) -> V4Addr {
        V4Addr::new([192, 0, 2, last])
    }

    /// A published flow of the container .2, or a masqueraded one.
    fn seen(kind: u8, proto: u8, remote: V4Addr, port: u16) -> FlowSeen<V4Addr> {
        let local = if kind == flow_kind::MASQUERADE {
            V4Addr::ANY
        } else {
            v4(2)
        };
        FlowSeen {
            key: FlowKey::full(remote, Be16::new(port), local, Be16::new(80), proto),
            flow: maps::Flow {
                addr: v4(2),
                external: v4(1),
                port: Be16::new(8080),
                kind,
                state: 0,
                timeout: 60,
                to: Delivery::default(),
                last_seen: 0,
                ifindex: 0,
                tag: 0,
                generation: 0,
                pad: 0,
            },
            pending: false,
        }
    }

    #[test]
    fn what_is_given_must_all_be_so() {
        let tcp = seen(flow_kind::PUBLISHED, proto::TCP, v4(7), 1);
        let out = seen(flow_kind::MASQUERADE, proto::UDP, v4(8), 1);
        let both = |filter: Filter| (filter.admits(&tcp), filter.admits(&out));
        let with = |protocol: Option<&str>, peer: Option<u8>, container: Option<u8>| Filter {
            protocols: protocol.map_or_else(Vec::new, |name| protocols(name).unwrap()),
            peer: peer.map(|last| v4(last).into()),
            containers: container.map(|last| vec![v4(last).into()]),
            limit: None,
        };
        assert_eq!(both(Filter::default()), (true, true));
        assert_eq!(both(with(Some("tcp"), None, None)), (true, false));
        assert_eq!(both(with(Some("17"), None, None)), (false, true));
        assert_eq!(both(with(Some("icmp"), None, None)), (false, false));
        assert_eq!(both(with(None, Some(8), None)), (false, true));
        // The masqueraded flow's container is not in its key.
        assert_eq!(both(with(None, None, Some(2))), (true, true));
        assert_eq!(both(with(None, None, Some(7))), (false, false));
        assert_eq!(both(with(Some("tcp"), Some(8), None)), (false, false));
    }

    #[test]
    fn protocols_have_names_or_numbers() {
        assert_eq!(protocols("icmp").unwrap(), [1, 58]);
        assert_eq!(protocols("132").unwrap(), [132]);
        for wrong in ["", "TCP ", "256", "-1"] {
            let refusal = protocols(wrong).unwrap_err().to_string();
            assert!(refusal.contains("say tcp, udp, icmp"), "{refusal}");
        }
    }

    /// The pieces of a listing of so many flows.
    fn pieces(flows: u16, limit: Option<usize>) -> Vec<Vec<u8>> {
        let mut pieces = Vec::new();
        let mut array = Array::new(limit, 10, |piece| {
            pieces.push(piece);
            ControlFlow::Continue(())
        });
        for port in 0..flows {
            let flow = seen(flow_kind::PUBLISHED, proto::TCP, v4(7), port);
            if array.rest.is_break() || array.add((flow, None)).is_break() {
                break;
            }
        }
        array.end();
        pieces
    }

    #[test]
    fn a_listing_is_one_array_with_a_flow_to_a_line() {
        for flows in [0, 1, 2, 300, 5000] {
            let pieces = pieces(flows, None);
            assert!(pieces.iter().all(|piece| piece.len() < PIECE + 512));
            let text = String::from_utf8(pieces.concat()).unwrap();
            let array: Vec<Flow> = serde_json::from_str(&text).unwrap();
            assert_eq!(array.len(), usize::from(flows));
            assert_eq!(text.lines().count(), usize::from(flows) + 2);
            for line in text.lines().skip(1).take(flows.into()) {
                assert!(line.starts_with('{'), "{line}");
            }
        }
    }

    #[test]
    fn a_limit_ends_the_array() {
        for limit in [0, 1, 10, 11] {
            let array: Vec<Flow> =
                serde_json::from_slice(&pieces(10, Some(limit)).concat()).unwrap();
            assert_eq!(array.len(), limit.min(10));
        }
    }

    #[test]
    fn nobody_who_reads_ends_it_too() {
        let mut sent = 0;
        let mut array = Array::new(None, 10, |_| {
            sent += 1;
            ControlFlow::Break(())
        });
        let flow = || seen(flow_kind::PUBLISHED, proto::TCP, v4(7), 1);
        assert!((0..10_000).any(|_| array.add((flow(), None)).is_break()));
        array.end();
        assert_eq!(sent, 1);
    }
}
