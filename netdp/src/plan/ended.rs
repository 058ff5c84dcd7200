//! Direct ports that are published no more, or to another container: sockets
//! that programs were handed for them are to end.
//!
//! It is the tables that tell, which outlive daemons: also what went while none
//! ran is ended, and what only the held ports' grouping has changed is not.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use netdp_common::{
    addr::{Address, proto},
    maps::{Published, PublishedRange},
};

use super::{Desired, Hold, Observed, Op, entries::entries};
use crate::{
    bpf::{Entry, Key, Tables},
    model::{PortRange, Proto},
};

/// Operations that end the sockets of ports which `desired` doesn't lead directly
/// to where they led.
pub(super) fn end(desired: &Desired, observed: &Observed) -> impl Iterator<Item = Op> {
    let had = places(&observed.tables);
    let want = if had.is_empty() {
        Vec::new()
    } else {
        places(&entries(desired, &numbers(desired, observed)))
    };
    let there: BTreeSet<u32> = observed.links.values().map(|it| it.ifindex).collect();
    let mut ended = Vec::new();
    for place in had {
        // A link that was lost is made again, with another number.
        let is_lost = !there.contains(&place.ifindex);
        let same = want
            .iter()
            .filter(|it| it.leads_like(&place) && (is_lost || it.ifindex == place.ifindex));
        ended.extend(place.without(same));
    }
    ended.into_iter().map(Op::EndSockets)
}

/// Entries of direct ports whose links were lost and are made again: they stay
/// until they are written anew. The host's sockets are heard without the link, and
/// what one accepted while there is no entry would be taken for a connection of no
/// direct port, which nobody hears.
pub(super) fn kept(desired: &Desired, observed: &Observed) -> BTreeSet<Key> {
    let there: BTreeSet<u32> = observed.links.values().map(|it| it.ifindex).collect();
    let places = observed.tables.iter();
    let places = places.filter_map(|(key, entry)| Some((*key, Place::of(key, entry)?)));
    let lost: Vec<(Key, Place)> = places
        .filter(|(_, place)| !there.contains(&place.ifindex))
        .collect();
    if lost.is_empty() {
        return BTreeSet::new();
    }
    let want = entries(desired, &numbers(desired, observed));
    let stays = |(key, place): &(Key, Place)| {
        let wanted = want.get(key).and_then(|entry| Place::of(key, entry));
        wanted.is_some_and(|it| it.ports == place.ports && it.leads_like(place))
    };
    lost.iter()
        .filter(|it| stays(it))
        .map(|(key, _)| *key)
        .collect()
}

fn places(tables: &Tables) -> Vec<Place> {
    let entries = tables.iter();
    entries.filter_map(|(key, it)| Place::of(key, it)).collect()
}

/// The links of all endpoints, index by name; 0 of those that are still to be made.
fn numbers<'a>(desired: &'a Desired, observed: &Observed) -> BTreeMap<&'a str, u32> {
    let number = |name: &'a String| {
        let link = observed.links.get(name);
        (name.as_str(), link.map_or(0, |link| link.ifindex))
    };
    desired.pairs.keys().map(number).collect()
}

/// Where direct ports of the host lead.
#[derive(Clone, Copy)]
struct Place {
    address: IpAddr,
    ports: PortRange,
    proto: Proto,
    container: IpAddr,
    /// The container's port of the first.
    port: u16,
    ifindex: u32,
}

impl Place {
    fn of(key: &Key, entry: &Entry) -> Option<Self> {
        match (key, entry) {
            (Key::Port4(key), Entry::Port4(it)) => Self::new(key.addr, key.proto, it, 0),
            (Key::Port6(key), Entry::Port6(it)) => Self::new(key.addr, key.proto, it, 0),
            (Key::Range4(key), Entry::Range4(it)) => {
                Self::range(key.place.addr, key.place.proto, it)
            }
            (Key::Range6(key), Entry::Range6(it)) => {
                Self::range(key.place.addr, key.place.proto, it)
            }
            _ => None,
        }
    }

    fn range<A: Address + Into<IpAddr>>(
        address: A,
        proto: u32,
        range: &PublishedRange<A>,
    ) -> Option<Self> {
        let proto = u8::try_from(proto).ok()?;
        Self::new(address, proto, &range.published, range.span)
    }

    fn new<A: Address + Into<IpAddr>>(
        address: A,
        proto: u8,
        published: &Published<A>,
        span: u16,
    ) -> Option<Self> {
        if !published.is_direct() {
            return None;
        }
        let first = published.host_port.get();
        Some(Self {
            address: address.into(),
            ports: PortRange::new(first, first.saturating_add(span))?,
            proto: match proto {
                proto::TCP => Proto::Tcp,
                proto::UDP => Proto::Udp,
                _ => return None,
            },
            container: published.addr.into(),
            port: published.port.get(),
            ifindex: published.to.ifindex,
        })
    }

    /// Whether ports that both have lead to the same ones of the same address.
    fn leads_like(&self, other: &Self) -> bool {
        let distance = |it: &Self| i32::from(it.port) - i32::from(it.ports.first());
        (self.address, self.proto, self.container) == (other.address, other.proto, other.container)
            && distance(self) == distance(other)
    }

    /// Its ports that none of the others has.
    fn without<'a>(&self, others: impl Iterator<Item = &'a Self>) -> Vec<Hold> {
        let mut left = vec![self.ports];
        for other in others {
            let (first, last) = (other.ports.first(), other.ports.last());
            let cut = |ports: PortRange| {
                let below = PortRange::new(ports.first(), ports.last().min(first - 1));
                let above = last.checked_add(1);
                let above =
                    above.and_then(|above| PortRange::new(ports.first().max(above), ports.last()));
                [below, above].into_iter().flatten()
            };
            left = left.into_iter().flat_map(cut).collect();
        }
        let hold = |ports| Hold {
            address: self.address,
            ports,
            proto: self.proto,
            both: false,
            direct: true,
        };
        left.into_iter().map(hold).collect()
    }
}
