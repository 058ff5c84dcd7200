//! What goes: the other way round than it came, ports first.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use netdp_common::{
    addr::Address,
    flow::is_past,
    maps::{Back, BackRange, Published, PublishedRange},
};

use super::{
    ALIAS, Clock, Desired, Observed, Op, Role,
    diff::{Change, diff},
    ended,
    entries::entries,
};
use crate::bpf::{Entry, Key, Tables};

/// Operations that take away what `desired` doesn't ask for. `live` are the
/// links of it that stay (index by name).
///
/// Direct sockets end right after the entry of their port goes, without which
/// they are no longer told that they are bound to the container's. An endpoint's
/// entry goes before its link, and its programs after the link:
/// until then the programs drop all that the container sends, and nothing gets
/// past them unchecked. With an uplink it is the programs that go first.
///
/// Links of another state go too: a namespace has one daemon, so theirs was
/// lost, or left for this one, and without programs they would be ways between
/// networks and out.
pub(super) fn retract(
    desired: &Desired,
    observed: &Observed,
    live: &BTreeMap<&str, u32>,
) -> Vec<Op> {
    let wanted = entries(desired, live);
    let Surplus {
        gone,
        before: mut ops,
        quiet,
    } = surplus(&wanted, observed);
    let of = |wanted: fn(&Key) -> bool| {
        gone.iter()
            .filter(move |key| wanted(key))
            .map(|key| Op::Remove(*key))
    };
    let drivers = observed.xdp.iter();
    let drivers = drivers.filter(|ifindex| !desired.xdp.contains_key(ifindex));
    ops.extend(drivers.map(|&ifindex| Op::DetachXdp { ifindex }));
    ops.extend(of(keeps_out));
    ops.extend(of(|key| matches!(key, Key::Link4(_) | Key::Link6(_))));
    let kept = ended::kept(desired, observed);
    let goes = |op: &Op| !matches!(op, Op::Remove(key) if kept.contains(key));
    ops.extend(of(is_port).filter(goes));
    ops.extend(ended::end(desired, observed));
    ops.extend(quiet);
    ops.extend(of(is_back));
    ops.extend(
        observed
            .holds
            .difference(&desired.holds)
            .map(|hold| Op::ReleasePort(*hold)),
    );
    ops.extend(of(is_address));
    ops.extend(endpoints(&gone));
    ops.extend(of(|key| matches!(key, Key::Times(_))));
    paths(desired, observed, live, &mut ops);
    links(observed, live, &mut ops);
    programs(desired, observed, live, &mut ops);
    ops.extend(of(|key| matches!(key, Key::Uplink(_))));
    ops
}

/// Sets of sources go last of all, when no port names them any more.
pub(super) fn retract_sets(desired: &Desired, observed: &Observed) -> Vec<Op> {
    let is_set = |key: &&Key| matches!(key, Key::Allow4(_) | Key::Allow6(_));
    let mut have = observed.tables.keys().filter(is_set).peekable();
    if have.peek().is_none() {
        return Vec::new();
    }
    let wanted = entries(desired, &BTreeMap::new());
    have.filter(|key| !wanted.contains_key(key))
        .map(|key| Op::Remove(*key))
        .collect()
}

/// What keeps sources out: one that is blocked, and the limit on all others.
pub(super) fn keeps_out(key: &Key) -> bool {
    matches!(key, Key::Blocked4(_) | Key::Blocked6(_) | Key::Limit)
}

/// The way in: a published port, or a range of them.
pub(super) fn is_port(key: &Key) -> bool {
    matches!(
        key,
        Key::Port4(_) | Key::Port6(_) | Key::Range4(_) | Key::Range6(_)
    )
}

/// The way back.
pub(super) fn is_back(key: &Key) -> bool {
    matches!(
        key,
        Key::Back4(_) | Key::Back6(_) | Key::BackRange4(_) | Key::BackRange6(_)
    )
}

/// What is there and not wanted.
#[derive(Default)]
struct Surplus {
    /// Entries to remove.
    gone: Vec<Key>,
    /// What to do before.
    before: Vec<Op>,
    /// What to do after the ports among them have gone.
    quiet: Vec<Op>,
}

/// Entries that are not wanted, and what to do before they go.
///
/// A port that moves to another container is among them, so that it never
/// leads to one that is about to go. A port that stops being the way back, or
/// is it by another address, says so before `back4` changes: until then its
/// clients get a flow entry each. A container port that is no longer published
/// keeps its way back for a while, as one that leads nowhere.
fn surplus(wanted: &Tables, observed: &Observed) -> Surplus {
    let mut surplus = Surplus::default();
    let Surplus {
        gone,
        before,
        quiet,
    } = &mut surplus;
    let have = observed.tables.iter().map(|(key, entry)| (*key, *entry));
    // A port that is asked for in a range must not be silent by an older entry.
    let again: Vec<Answering> = wanted
        .iter()
        .filter(|(key, _)| matches!(key, Key::BackRange4(_) | Key::BackRange6(_)))
        .filter_map(|(key, entry)| Answering::of(key, entry))
        .collect();
    for change in diff(have, wanted.clone()) {
        match change {
            Change::Remove { key, have } => {
                let owner = match key {
                    Key::Back4(port) => Key::Owner4(port.addr),
                    Key::Back6(port) => Key::Owner6(port.addr),
                    Key::BackRange4(range) => Key::Owner4(range.place.addr),
                    Key::BackRange6(range) => Key::Owner6(range.place.addr),
                    key => key,
                };
                let stays = |_: &Entry| {
                    wanted.contains_key(&owner)
                        && !again.iter().any(|range| range.meets(&key, &have))
                };
                match silence(have, observed.clock).filter(stays) {
                    None => gone.push(key),
                    Some(silent) if silent != have => quiet.push(Op::Put(key, silent)),
                    Some(_) => {}
                }
            }
            Change::Update { key, have, want } => match (have, want) {
                (Entry::Port4(have), Entry::Port4(want)) => match moved(&have, want) {
                    Moved::Away => gone.push(key),
                    Moved::Back(want) => before.push(Op::Put(key, Entry::Port4(want))),
                    Moved::Not => {}
                },
                (Entry::Port6(have), Entry::Port6(want)) => match moved(&have, want) {
                    Moved::Away => gone.push(key),
                    Moved::Back(want) => before.push(Op::Put(key, Entry::Port6(want))),
                    Moved::Not => {}
                },
                (Entry::Range4(have), Entry::Range4(want)) => {
                    match moved(&have.published, want.published) {
                        Moved::Away => gone.push(key),
                        Moved::Back(published) => {
                            let range = PublishedRange { published, ..want };
                            before.push(Op::Put(key, Entry::Range4(range)));
                        }
                        Moved::Not => {}
                    }
                }
                (Entry::Range6(have), Entry::Range6(want)) => {
                    match moved(&have.published, want.published) {
                        Moved::Away => gone.push(key),
                        Moved::Back(published) => {
                            let range = PublishedRange { published, ..want };
                            before.push(Op::Put(key, Entry::Range6(range)));
                        }
                        Moved::Not => {}
                    }
                }
                _ => {}
            },
            Change::Insert { .. } => {}
        }
    }
    surplus
}

/// A way back as one that leads nowhere; nothing once that has been long enough.
fn silence(entry: Entry, clock: Clock) -> Option<Entry> {
    match entry {
        Entry::Back4(back) => silent(back, clock).map(Entry::Back4),
        Entry::Back6(back) => silent(back, clock).map(Entry::Back6),
        Entry::BackRange4(range) => {
            let back = silent(range.back, clock)?;
            Some(Entry::BackRange4(BackRange { back, ..range }))
        }
        Entry::BackRange6(range) => {
            let back = silent(range.back, clock)?;
            Some(Entry::BackRange6(BackRange { back, ..range }))
        }
        _ => None,
    }
}

/// Container ports that have a way back.
struct Answering {
    addr: IpAddr,
    proto: u32,
    first: u16,
    last: u16,
}

impl Answering {
    fn of(key: &Key, entry: &Entry) -> Option<Self> {
        match (key, entry) {
            (Key::Back4(key), Entry::Back4(back)) => Some(Self::new(key.addr, key.proto, back, 0)),
            (Key::Back6(key), Entry::Back6(back)) => Some(Self::new(key.addr, key.proto, back, 0)),
            (Key::BackRange4(key), Entry::BackRange4(range)) => {
                let proto = key.place.proto as u8;
                Some(Self::new(key.place.addr, proto, &range.back, range.span))
            }
            (Key::BackRange6(key), Entry::BackRange6(range)) => {
                let proto = key.place.proto as u8;
                Some(Self::new(key.place.addr, proto, &range.back, range.span))
            }
            _ => None,
        }
    }

    fn new<A: Address + Into<IpAddr>>(addr: A, proto: u8, back: &Back<A>, span: u16) -> Self {
        let first = back.own_port.get();
        Self {
            addr: addr.into(),
            proto: proto.into(),
            first,
            last: first.saturating_add(span),
        }
    }

    fn meets(&self, key: &Key, entry: &Entry) -> bool {
        Self::of(key, entry).is_some_and(|other| {
            (self.addr, self.proto) == (other.addr, other.proto)
                && self.first <= other.last
                && other.first <= self.last
        })
    }
}

fn silent<A: Address>(back: Back<A>, clock: Clock) -> Option<Back<A>> {
    match back.until {
        0 => Some(Back {
            until: clock.now.wrapping_add(clock.quiet).max(1),
            ..back
        }),
        until if is_past(until, clock.now) => None,
        _ => Some(back),
    }
}

/// What has become of a published port.
enum Moved<A> {
    Not,
    /// To another container, or it is direct no longer.
    Away,
    /// It is the way back no longer, or by another address: the entry to have
    /// in between.
    Back(Published<A>),
}

fn moved<A: Address>(have: &Published<A>, want: Published<A>) -> Moved<A> {
    let place = |it: &Published<A>| (it.addr, it.port, it.to.ifindex);
    if place(have) != place(&want) || have.is_direct() && !want.is_direct() {
        Moved::Away
    } else if have.back_addr != A::ANY && have.back_addr != want.back_addr {
        let back_addr = A::ANY;
        Moved::Back(Published { back_addr, ..want })
    } else {
        Moved::Not
    }
}

/// Whether an entry is of an address, a container's or the host's.
fn is_address(key: &Key) -> bool {
    matches!(
        key,
        Key::Owner4(_) | Key::Owner6(_) | Key::Local4(_) | Key::Local6(_)
    )
}

/// Routes and neighbours of links that stay; those of others go with them.
fn paths(desired: &Desired, observed: &Observed, live: &BTreeMap<&str, u32>, ops: &mut Vec<Op>) {
    let stays = |ifname: &String| live.contains_key(ifname.as_str());
    ops.extend(
        observed
            .neighbours
            .difference(&desired.neighbours)
            .filter(|neighbour| stays(&neighbour.ifname))
            .map(|neighbour| Op::RemoveNeighbour(neighbour.clone())),
    );
    ops.extend(
        observed
            .routes
            .difference(&desired.routes)
            .filter(|route| stays(&route.ifname))
            .map(|route| Op::RemoveRoute(route.clone())),
    );
}

fn endpoints(gone: &[Key]) -> Option<Op> {
    let indexes = gone.iter().filter_map(|key| match key {
        Key::Endpoint(ifindex) => Some(*ifindex),
        _ => None,
    });
    let indexes: Vec<u32> = indexes.collect();
    (!indexes.is_empty()).then_some(Op::RemoveEndpoints(indexes))
}

fn links(observed: &Observed, live: &BTreeMap<&str, u32>, ops: &mut Vec<Op>) {
    let unwanted = observed.links.iter().filter(|(ifname, link)| {
        let alias = link.alias.as_ref();
        let ours = alias.is_some_and(|alias| alias.starts_with(ALIAS));
        ours && !live.contains_key(ifname.as_str())
    });
    let ifnames: Vec<String> = unwanted.map(|(ifname, _)| ifname.clone()).collect();
    if !ifnames.is_empty() {
        ops.push(Op::DeleteLinks { ifnames });
    }
}

fn programs(desired: &Desired, observed: &Observed, live: &BTreeMap<&str, u32>, ops: &mut Vec<Op>) {
    let uplinks: BTreeSet<u32> = desired.uplinks.iter().map(|u| u.ifindex).collect();
    let endpoints: BTreeSet<u32> = live
        .iter()
        .filter(|(ifname, _)| desired.pairs.contains_key(**ifname))
        .map(|(_, &ifindex)| ifindex)
        .collect();
    for (&ifindex, &role) in &observed.attached {
        let wanted = match role {
            Role::Uplink => &uplinks,
            Role::Endpoint => &endpoints,
        };
        if !wanted.contains(&ifindex) {
            ops.push(Op::Detach { ifindex, role });
        }
    }
}
